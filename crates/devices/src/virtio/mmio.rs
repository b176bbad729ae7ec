use std::{
    io,
    os::fd::AsRawFd,
    sync::{Arc, OnceLock},
};

use parking_lot::Mutex;
use state::{DeviceState, StateError};
use virtio_bindings::virtio_mmio::*;
use vmm_sys_util::eventfd::EventFd;

use super::{
    Driver, GuestError, Presence, TransportV1, VirtQueue, VirtioDevice, VirtioV1,
    presence::Ahead,
    registers::{Line, RING_FEATURES, Registers, StatusChange},
};
use crate::{BusDevice, GuestMemory, Interest, Interrupt, Invalid, IoDevice, Lifecycle, Watch};

/// "virt", little-endian (spec, 4.2.2).
const MAGIC: u32 = 0x7472_6976;
/// Version of the register layout: not the legacy one.
const VERSION: u32 = 2;
/// "WHIM", little-endian.
const VENDOR: u32 = 0x4d49_4857;

/// Tokens below this one are queue notifications, those from it on are the device's own.
const DEVICE_TOKENS: u32 = 1 << 16;

/// Requests of a queue that are worth having first where memory is still to come: they lie near each other as a rule, and what surrounds
/// them comes with them.
const NEXT_REQUESTS: u16 = 8;

/// How many broken rules are logged per device: a guest must not fill the host's log.
const MAX_WARNINGS: u32 = 10;

/// A virtio device behind virtio-mmio registers (spec, 4.2; version 2 only).
///
/// This is a handle: its clones are the same device. The machine puts one clone on the bus and gives another to an I/O
/// thread; then a vCPU that notifies a queue or acknowledges an interrupt never waits for what the I/O thread is doing.
///
/// Queue notifications are taken by [`Self::queue_events`]; the machine may attach each of them to the QueueNotify
/// register, with the index of the queue as the value to match. Notifications that arrive as a register write work too.
#[derive(Debug)]
pub struct VirtioMmio<D> {
    shared: Arc<Shared<D>>,
}

/// Why a virtio device could not be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The state is not one of this device.
    #[error(transparent)]
    State(#[from] StateError),
    /// The host has no more file descriptors.
    #[error(
        "Cannot make the queue notifications of device '{id}': raise the limit of open files (ulimit -n)"
    )]
    Events {
        /// Device id.
        id: String,
        /// What the kernel said.
        source: io::Error,
    },
}

#[derive(Debug)]
struct Shared<D> {
    memory: GuestMemory,
    line: Line,
    events: Vec<EventFd>,
    /// Of a machine that runs before all of its memory has come.
    presence: OnceLock<Arc<dyn Presence>>,
    inner: Mutex<Inner<D>>,
}

#[derive(Debug)]
struct Inner<D> {
    device: D,
    registers: Registers,
    queues: Vec<VirtQueue>,
    warnings: u32,
    /// Memory is awaited without which the device does not go on.
    waits: bool,
}

impl<D: VirtioDevice> VirtioMmio<D> {
    /// A device that no driver has touched yet.
    ///
    /// # Errors
    /// The host has no more file descriptors.
    pub fn new(device: D, memory: GuestMemory, interrupt: Arc<dyn Interrupt>) -> io::Result<Self> {
        let queues = D::QUEUE_SIZES.iter().map(|size| VirtQueue::new(*size)).collect();
        let inner = Inner { device, registers: Registers::default(), queues, warnings: 0, waits: false };
        Self::assemble(inner, memory, Line::new(interrupt))
    }

    /// The device as it was when `state` was saved. `device` restores the device's own part.
    ///
    /// # Errors
    /// The state is of another device or cannot be true, or the host has no more file descriptors.
    pub fn restore(
        state: &DeviceState,
        memory: GuestMemory,
        interrupt: Arc<dyn Interrupt>,
        device: impl FnOnce(&D::State) -> Result<D, Invalid>,
    ) -> Result<Self, RestoreError> {
        let VirtioV1 { transport, device: part } = state.decode::<VirtioV1<D::State>>()?;
        let invalid = |invalid: Invalid| invalid.of::<D::State>(&state.id);
        let device = device(&part).map_err(invalid)?;
        let registers = Registers::restore(&transport, device.features() | RING_FEATURES).map_err(invalid)?;
        let queues = restore_queues::<D>(&transport, &registers, &memory).map_err(invalid)?;
        let line = Line::restore(interrupt, transport.interrupt_status).map_err(invalid)?;
        Self::assemble(Inner { device, registers, queues, warnings: 0, waits: false }, memory, line)
            .map_err(|source| RestoreError::Events { id: state.id.clone(), source })
    }

    /// One descriptor per queue; writing to it notifies the queue.
    #[must_use]
    pub fn queue_events(&self) -> &[EventFd] {
        &self.shared.events
    }

    /// A driver uses the device, and has not broken its rules.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.shared.inner.lock().registers.is_live()
    }

    /// Looks at the device. Waits while the device works.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&mut D) -> R) -> R {
        look(&mut self.shared.inner.lock().device)
    }

    /// Changes the configuration space on the device's own account, and tells the driver. `change` gets the features that
    /// the driver uses (none before it is ready) and says whether it changed anything.
    pub(crate) fn change_config(&self, change: impl FnOnce(&mut D, u64) -> bool) {
        let mut inner = self.shared.inner.lock();
        // No notification before DRIVER_OK (spec, 2.1.2).
        let ready = inner.registers.driver_ok();
        let features = if ready { inner.registers.driver_features } else { 0 };
        if !change(&mut inner.device, features) {
            return;
        }
        inner.registers.config_generation = inner.registers.config_generation.wrapping_add(1);
        if ready {
            self.shared.line.config();
        }
    }

    /// Memory of the machine is still to come: the device touches none that is not here. Called before the device works.
    pub fn lacks_memory(&self, presence: Arc<dyn Presence>) {
        // It arrives once.
        let _ = self.shared.presence.set(presence);
    }

    /// Guest-physical addresses that the device touches first when its stopped machine goes on: its rings, and the next buffers.
    #[must_use]
    pub fn touched_next(&self) -> Vec<u64> {
        let mut inner = self.shared.inner.lock();
        if !inner.registers.is_live() {
            return Vec::new();
        }
        let mut of_queue = |queue: &mut VirtQueue| queue.touched_next(&self.shared.memory, NEXT_REQUESTS);
        inner.queues.iter_mut().flat_map(&mut of_queue).map(|address| address.0).collect()
    }

    /// Has the I/O thread process queue `queue` soon.
    pub(crate) fn again(&self, queue: usize) {
        self.shared.again(queue);
    }

    fn assemble(inner: Inner<D>, memory: GuestMemory, line: Line) -> io::Result<Self> {
        let event = |_: &u16| EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        let events = D::QUEUE_SIZES.iter().map(event).collect::<io::Result<_>>()?;
        let (presence, inner) = (OnceLock::new(), Mutex::new(inner));
        Ok(Self { shared: Arc::new(Shared { memory, line, events, presence, inner }) })
    }
}

fn restore_queues<D: VirtioDevice>(
    transport: &TransportV1,
    registers: &Registers,
    memory: &GuestMemory,
) -> Result<Vec<VirtQueue>, Invalid> {
    Invalid::unless(transport.queues.len() == D::QUEUE_SIZES.len(), || {
        format!("it has {} queues, the device has {}", transport.queues.len(), D::QUEUE_SIZES.len())
    })?;
    let queues = D::QUEUE_SIZES.iter().zip(&transport.queues);
    queues
        .map(|(max_size, queue)| VirtQueue::restore(*max_size, queue, memory, registers.event_idx()))
        .collect()
}

impl<D: VirtioDevice> Shared<D> {
    fn again(&self, queue: usize) {
        if let Some(event) = self.events.get(queue) {
            // Fails only when the counter is at its maximum, and then the event is pending anyway.
            let _ = event.write(1);
        }
    }

    /// Lets the device work for its driver, if there is one. A driver that breaks the rules has to reset the device. A device that
    /// needs memory that is still to come does nothing until it is here, and looks at everything then.
    fn drive(
        self: &Arc<Self>,
        inner: &mut Inner<D>,
        work: impl FnOnce(&mut D, &mut Driver<'_>) -> Result<(), GuestError>,
    ) {
        if !inner.registers.is_live() || inner.waits {
            return;
        }
        let presence = self.presence.get().filter(|presence| !presence.is_whole());
        let mut ahead = presence.map(|presence| Ahead::new(&**presence));
        let rings =
            ahead.as_mut().is_none_or(|ahead| ahead.are_here(inner.queues.iter().flat_map(VirtQueue::rings)));
        let mut driver = Driver {
            memory: &self.memory,
            queues: &mut inner.queues,
            features: inner.registers.driver_features,
            line: &self.line,
            events: &self.events,
            ahead,
        };
        let worked = if rings { work(&mut inner.device, &mut driver) } else { Ok(()) };
        let absent = driver.ahead.map(Ahead::absent).unwrap_or_default();
        if let Err(error) = worked {
            self.fail(inner, &error);
        } else if let (Some(presence), false) = (presence, absent.is_empty()) {
            inner.waits = true;
            let shared = Arc::downgrade(self);
            let go_on = move || {
                // A machine that is gone needs nothing.
                if let Some(shared) = shared.upgrade() {
                    shared.go_on();
                }
            };
            presence.bring(absent, Box::new(go_on));
        }
    }

    /// The memory is here that the device waits for.
    fn go_on(&self) {
        self.inner.lock().waits = false;
        (0..self.events.len()).for_each(|queue| self.again(queue));
    }

    fn fail(&self, inner: &mut Inner<D>, error: &GuestError) {
        inner.registers.set_needs_reset();
        if inner.warnings < MAX_WARNINGS {
            inner.warnings += 1;
            tracing::warn!(device = <D::State as state::Schema>::KIND, %error, "device stopped until the guest resets it");
        }
        if inner.registers.driver_ok() {
            self.line.config();
        }
    }

    fn reset(&self, inner: &mut Inner<D>) {
        inner.registers = Registers::default();
        for queue in &mut inner.queues {
            *queue = VirtQueue::new(queue.max_size());
        }
        inner.device.reset();
        self.line.reset();
        for event in &self.events {
            // A notification of the driver before the reset; fails if there is none.
            let _ = event.read();
        }
    }

    fn read_register(&self, offset: u32) -> u32 {
        match offset {
            VIRTIO_MMIO_MAGIC_VALUE => return MAGIC,
            VIRTIO_MMIO_VERSION => return VERSION,
            VIRTIO_MMIO_DEVICE_ID => return D::DEVICE_ID,
            VIRTIO_MMIO_VENDOR_ID => return VENDOR,
            VIRTIO_MMIO_INTERRUPT_STATUS => return self.line.status(),
            // No shared memory regions: length and base are -1 (spec, 4.2.2).
            VIRTIO_MMIO_SHM_LEN_LOW
            | VIRTIO_MMIO_SHM_LEN_HIGH
            | VIRTIO_MMIO_SHM_BASE_LOW
            | VIRTIO_MMIO_SHM_BASE_HIGH => return u32::MAX,
            _ => {}
        }
        let inner = self.inner.lock();
        let selected = inner.queues.get(inner.registers.queue_select as usize);
        match offset {
            VIRTIO_MMIO_DEVICE_FEATURES => {
                let offered = inner.device.features() | RING_FEATURES;
                match inner.registers.device_features_select {
                    0 => offered as u32,
                    1 => (offered >> 32) as u32,
                    _ => 0,
                }
            }
            VIRTIO_MMIO_QUEUE_NUM_MAX => selected.map_or(0, |queue| u32::from(queue.max_size())),
            VIRTIO_MMIO_QUEUE_READY => selected.map_or(0, |queue| u32::from(queue.is_ready())),
            VIRTIO_MMIO_STATUS => inner.registers.status,
            VIRTIO_MMIO_CONFIG_GENERATION => inner.registers.config_generation,
            _ => 0,
        }
    }

    fn write_register(&self, offset: u32, value: u32) {
        match offset {
            // Never served on the vCPU that wrote it.
            VIRTIO_MMIO_QUEUE_NOTIFY => return self.again(value as usize),
            VIRTIO_MMIO_INTERRUPT_ACK => return self.line.acknowledge(value),
            _ => {}
        }
        let mut inner = self.inner.lock();
        match offset {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => inner.registers.device_features_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => inner.registers.driver_features_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES => inner.registers.write_driver_features(value),
            VIRTIO_MMIO_QUEUE_SEL => inner.registers.queue_select = value,
            VIRTIO_MMIO_STATUS => self.write_status(&mut inner, value),
            VIRTIO_MMIO_QUEUE_READY => self.write_queue_ready(&mut inner, value),
            _ => write_queue_address(&mut inner, offset, value),
        }
    }

    fn write_status(&self, inner: &mut Inner<D>, value: u32) {
        let offered = inner.device.features() | RING_FEATURES;
        match inner.registers.write_status(value, offered) {
            StatusChange::Reset => self.reset(inner),
            // What is in the queues already was announced when nobody listened.
            StatusChange::DriverOk => (0..self.events.len()).for_each(|queue| self.again(queue)),
            StatusChange::Nothing => {}
        }
    }

    fn write_queue_ready(&self, inner: &mut Inner<D>, value: u32) {
        let event_idx = inner.registers.event_idx();
        let Some(queue) = inner.queues.get_mut(inner.registers.queue_select as usize) else { return };
        if value != 1 {
            queue.stop();
        } else if !queue.is_ready()
            && let Err(error) = queue.start(&self.memory, event_idx)
        {
            self.fail(inner, &error);
        }
    }
}

fn write_queue_address<D>(inner: &mut Inner<D>, offset: u32, value: u32) {
    let Some(queue) = inner.queues.get_mut(inner.registers.queue_select as usize) else { return };
    // The registers of a queue that is ready stand (spec, 4.2.2.2).
    if queue.is_ready() {
        return;
    }
    let low = |address: &mut u64| *address = (*address & !0xffff_ffff) | u64::from(value);
    let high = |address: &mut u64| *address = (*address & 0xffff_ffff) | u64::from(value) << 32;
    match offset {
        // Too large a value is kept as one that is refused when the queue is set ready.
        VIRTIO_MMIO_QUEUE_NUM => queue.size = u16::try_from(value).unwrap_or(0),
        VIRTIO_MMIO_QUEUE_DESC_LOW => low(&mut queue.descriptors),
        VIRTIO_MMIO_QUEUE_DESC_HIGH => high(&mut queue.descriptors),
        VIRTIO_MMIO_QUEUE_AVAIL_LOW => low(&mut queue.driver_ring),
        VIRTIO_MMIO_QUEUE_AVAIL_HIGH => high(&mut queue.driver_ring),
        VIRTIO_MMIO_QUEUE_USED_LOW => low(&mut queue.device_ring),
        VIRTIO_MMIO_QUEUE_USED_HIGH => high(&mut queue.device_ring),
        _ => {}
    }
}

impl<D: VirtioDevice> BusDevice for VirtioMmio<D> {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(u64::from(VIRTIO_MMIO_CONFIG)) {
            self.shared.inner.lock().device.read_config(offset, data);
        } else if data.len() == 4 {
            data.copy_from_slice(&self.shared.read_register(offset as u32).to_le_bytes());
        } else {
            // Drivers must use 32-bit accesses (spec, 4.2.2.2).
            data.fill(0);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(u64::from(VIRTIO_MMIO_CONFIG)) {
            let mut inner = self.shared.inner.lock();
            let features = inner.registers.driver_features;
            inner.device.write_config(offset, data, features);
        } else if let Ok(value) = <[u8; 4]>::try_from(data) {
            self.shared.write_register(offset as u32, u32::from_le_bytes(value));
        }
    }
}

impl<D: VirtioDevice> IoDevice for VirtioMmio<D> {
    fn watches(&self) -> Vec<Watch> {
        let queues = self.shared.events.iter().zip(0..).map(|(event, token)| Watch {
            fd: event.as_raw_fd(),
            interest: Interest::Read,
            token,
        });
        let own = self.shared.inner.lock().device.watches();
        let own = own.into_iter().map(|watch| Watch { token: DEVICE_TOKENS + watch.token, ..watch });
        queues.chain(own).collect()
    }

    fn ready(&mut self, token: u32) {
        let shared = &self.shared;
        let mut inner = shared.inner.lock();
        if let Some(token) = token.checked_sub(DEVICE_TOKENS) {
            shared.drive(&mut inner, |device, driver| device.ready(token, driver));
        } else if let Some(event) = shared.events.get(token as usize) {
            // Fails if the queue was looked at since for another reason; looking again costs little.
            let _ = event.read();
            shared.drive(&mut inner, |device, driver| device.process(token as usize, driver));
        }
    }

    fn kick(&mut self) {
        let shared = &self.shared;
        shared.line.repeat();
        let mut inner = shared.inner.lock();
        inner.device.runs_on();
        for queue in 0..shared.events.len() {
            shared.drive(&mut inner, |device, driver| device.process(queue, driver));
        }
    }
}

impl<D: VirtioDevice> Lifecycle for VirtioMmio<D> {
    fn save(&self, id: &str) -> Result<DeviceState, StateError> {
        let inner = self.shared.inner.lock();
        let registers = &inner.registers;
        let transport = TransportV1 {
            status: registers.status,
            device_features_select: registers.device_features_select,
            driver_features_select: registers.driver_features_select,
            driver_features: registers.driver_features,
            queue_select: registers.queue_select,
            interrupt_status: self.shared.line.status(),
            config_generation: registers.config_generation,
            queues: inner.queues.iter().map(VirtQueue::save).collect(),
        };
        DeviceState::encode(id, &VirtioV1 { transport, device: inner.device.save() })
    }

    fn reset(&mut self) {
        self.shared.reset(&mut self.shared.inner.lock());
    }
}

impl<D> Clone for VirtioMmio<D> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}
