//! States from a peer that is broken or lies: released states with one bit changed or with their end cut off. A device
//! refuses them, or works with them; nothing panics.

use std::{fs, path::PathBuf, sync::Arc};

use state::DeviceState;
use tempfile::NamedTempFile;
use vmm_sys_util::eventfd::EventFd;

use crate::{
    BusDevice, GuestMemory, Interrupt, IoDevice, Lifecycle,
    balloon::{Balloon, Discard},
    blk::{Blk, Disk, DiskOptions},
    i8042::I8042,
    input::Keyboard,
    machine_testing::{Requests, touch_everything},
    power::Power,
    rng::Rng,
    rtc::Rtc,
    serial::{OutputFile, Serial},
    virtio::{VirtioDevice, VirtioMmio, testing::memory},
};

fn fixture(name: &str) -> DeviceState {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(format!("{name}.cbor"));
    ciborium::from_reader(fs::read(path).unwrap().as_slice()).unwrap()
}

fn line() -> Arc<dyn Interrupt> {
    Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap())
}

/// Hands `restore` the state `name` damaged in every way; it returns the device if it believes the state. Some must be
/// believed (a changed scratch register) and most must not (a changed field name).
fn damage<D: Lifecycle>(name: &str, restore: impl Fn(&DeviceState) -> Option<D>, work: impl Fn(&mut D)) {
    let good = fixture(name);
    let damaged_bits = (0..good.body.len() * 8).map(|bit| {
        let mut state = good.clone();
        state.body[bit / 8] ^= 1 << (bit % 8);
        state
    });
    let cut = (0..good.body.len()).map(|bytes| {
        let mut state = good.clone();
        state.body.truncate(bytes);
        state
    });
    let mut refused = 0;
    for state in damaged_bits.chain(cut) {
        match restore(&state) {
            None => refused += 1,
            Some(mut device) => {
                work(&mut device);
                device.save("again").unwrap();
                device.reset();
            }
        }
    }
    assert!(refused > good.body.len(), "{name}: only {refused} refusals");
    assert!(restore(&good).is_some(), "{name}");
}

fn damage_virtio<D: VirtioDevice>(name: &str, device: impl Fn(&D::State) -> Option<D>) {
    let memory = memory(ram::Backing::Anonymous);
    let restore = |state: &DeviceState| restore_virtio(state, &memory, &device);
    damage(name, restore, |device| {
        device.kick();
        touch_everything(device);
    });
}

fn restore_virtio<D: VirtioDevice>(
    state: &DeviceState,
    memory: &GuestMemory,
    device: &impl Fn(&D::State) -> Option<D>,
) -> Option<VirtioMmio<D>> {
    let refused = || crate::Invalid("refused".into());
    VirtioMmio::restore(state, memory.clone(), line(), |part| device(part).ok_or_else(refused)).ok()
}

#[test]
fn no_damaged_state_breaks_the_entropy_source() {
    damage_virtio("virtio-rng-v1", |state| Some(Rng::restore(state)));
}

#[test]
fn no_damaged_state_breaks_a_disk() {
    let image = NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    damage_virtio("virtio-blk-v1", |state| {
        let disk = Disk::open(image.path(), DiskOptions::default()).unwrap();
        Blk::restore(disk, "serial-1", state).ok()
    });
}

#[test]
fn no_damaged_state_breaks_the_balloon() {
    let memory = memory(ram::Backing::Anonymous);
    damage_virtio("virtio-balloon-v1", |state| {
        Some(Balloon::restore(Discard::new(memory.clone()).unwrap(), state))
    });
}

#[test]
fn no_damaged_state_breaks_the_keyboard() {
    damage_virtio("virtio-input-keyboard-v1", |state| Keyboard::restore(state).ok());
}

#[test]
fn no_damaged_state_breaks_the_serial_port() {
    let output = NamedTempFile::new().unwrap();
    let restore = |state: &DeviceState| {
        let backend = OutputFile::open(output.path(), || Ok(())).unwrap();
        Serial::restore(Box::new(backend), line(), state).ok()
    };
    damage("serial-16550-v1", restore, |serial| {
        serial.kick();
        touch_everything(serial);
    });
}

#[test]
fn no_damaged_state_breaks_the_clock() {
    damage(
        "rtc-cmos-v1",
        |state| Rtc::restore(state).ok(),
        |rtc| {
            for register in 0..128 {
                rtc.write(0, &[register]);
                rtc.read(1, &mut [0]);
            }
        },
    );
}

#[test]
fn no_damaged_state_breaks_power_and_reset() {
    let power = |state: &DeviceState| Power::restore(Requests::new(), line(), state).ok();
    damage("acpi-power-v1", power, |power| touch_everything(power));
    let cut = DeviceState { body: Vec::new(), ..fixture("i8042-v1") };
    assert!(I8042::restore(Requests::new(), &cut).is_err());
}
