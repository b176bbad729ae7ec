//! The ACPI tables of a machine (ACPI 6.5, hardware-reduced): how a stock kernel finds its processors, its virtio-mmio
//! devices, the serial port and the power button.

use acpi_tables::{
    Aml, AmlSink, aml,
    fadt::{FADTBuilder, Flags},
    gas::{AccessSize, AddressSpace, GAS},
    madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic},
    rsdp::Rsdp,
    sdt::Sdt,
    xsdt::XSDT,
};
use devices::{GuestMemory, power, rtc, serial};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryError};

use super::layout;

const OEM: [u8; 6] = *b"WHIMBR";
const OEM_TABLE: [u8; 8] = *b"WHIMBREL";
const OEM_REVISION: u32 = 1;

/// Bytes of the header that all tables but the RSDP begin with (5.2.6).
const HEADER_BYTES: u32 = 36;
/// Revision of a DSDT whose integers have 64 bits (5.2.11.1).
const DSDT_REVISION: u8 = 2;
/// `IAPC_BOOT_ARCH`: there are devices on the ISA bus, there is no VGA (table 5.11).
const BOOT_ARCHITECTURE: u16 = 1 | 1 << 2;
/// What a control method power button is notified of when it is pressed (4.8.3.2).
const BUTTON_PRESSED: u8 = 0x80;

/// Writes all tables, the RSDP first, at [`layout::ACPI_TABLES`]. There is a virtio-mmio device in each of the first
/// `virtio_slots` slots.
pub(crate) fn write(memory: &GuestMemory, cpus: u8, virtio_slots: usize) -> Result<(), GuestMemoryError> {
    let mut tables = Tables { bytes: vec![0; Rsdp::len()] };
    let dsdt = tables.add(&dsdt(cpus, virtio_slots));
    let fadt = tables.add(&bytes(&fadt(dsdt)));
    let madt = tables.add(&bytes(&madt(cpus)));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = tables.add(&bytes(&xsdt));
    let rsdp = bytes(&Rsdp::new(OEM, xsdt));
    tables.bytes[..rsdp.len()].copy_from_slice(&rsdp);
    // What is beyond is the reset vector's.
    const ROOM: usize = (layout::ACPI_TABLES_END - layout::ACPI_TABLES) as usize;
    if tables.bytes.len() > ROOM {
        return Err(GuestMemoryError::PartialBuffer { expected: tables.bytes.len(), completed: ROOM });
    }
    memory.write_slice(&tables.bytes, GuestAddress(layout::ACPI_TABLES))
}

/// The tables one after the other.
struct Tables {
    bytes: Vec<u8>,
}

impl Tables {
    /// Appends a table, and returns the address it will have.
    fn add(&mut self, table: &[u8]) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(16), 0);
        let offset = self.bytes.len() as u64;
        self.bytes.extend(table);
        layout::ACPI_TABLES + offset
    }
}

fn fadt(dsdt: u64) -> impl Aml {
    let register = |offset: u64| {
        let port = u64::from(layout::POWER_PORTS) + offset;
        GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port)
    };
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::Wbinvd)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup)
        .flag(Flags::HwReducedAcpi);
    fadt.iapc_boot_arch = BOOT_ARCHITECTURE.into();
    fadt.reset_reg = register(power::RESET);
    fadt.reset_value = power::RESET_VALUE;
    fadt.sleep_control_reg = register(power::SLEEP_CONTROL);
    fadt.sleep_status_reg = register(power::SLEEP_STATUS);
    fadt.finalize()
}

fn madt(cpus: u8) -> MADT {
    let local = LocalInterruptController::Address(layout::LOCAL_APIC);
    let mut madt = MADT::new(OEM, OEM_TABLE, OEM_REVISION, local);
    for cpu in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, layout::IOAPIC, 0));
    madt
}

fn dsdt(cpus: u8, virtio_slots: usize) -> Vec<u8> {
    let mut dsdt = Sdt::new(*b"DSDT", HEADER_BYTES, DSDT_REVISION, OEM, OEM_TABLE, OEM_REVISION);
    let s5 = aml::Package::new(vec![&power::SLEEP_TYPE_S5, &0u8, &0u8, &0u8]);
    dsdt.append_slice(&bytes(&aml::Name::new("_S5_".into(), &s5)));
    let mut system_bus = [serial_port(), clock(), power_button(), event_device()].concat();
    for slot in 0..virtio_slots {
        system_bus.extend(layout::virtio_slot(slot).map(|place| virtio(slot, place)).unwrap_or_default());
    }
    (0..cpus).for_each(|cpu| system_bus.extend(processor(cpu)));
    dsdt.append_slice(&aml::Scope::raw("_SB_".into(), system_bus));
    dsdt.as_slice().to_vec()
}

fn serial_port() -> Vec<u8> {
    let ports = aml::IO::new(layout::SERIAL_PORTS, layout::SERIAL_PORTS, 0, ports(serial::PORTS));
    let resources = resources(vec![&ports, &interrupt(layout::GSI_SERIAL)]);
    device("COM1", &aml::EISAName::new("PNP0501"), 0u8, vec![&resources])
}

/// The clock without an interrupt: there are no alarms.
fn clock() -> Vec<u8> {
    let ports = aml::IO::new(rtc::PORT, rtc::PORT, 0, ports(rtc::PORTS));
    device("RTC_", &aml::EISAName::new("PNP0B00"), 0u8, vec![&resources(vec![&ports])])
}

fn power_button() -> Vec<u8> {
    device("PWRB", &aml::EISAName::new("PNP0C0C"), 0u8, vec![])
}

/// The generic event device (5.6.9): it reads which events there are, and passes on that the power button was pressed.
fn event_device() -> Vec<u8> {
    let resources = resources(vec![&interrupt(layout::GSI_ACPI)]);
    let port = u64::from(layout::POWER_PORTS) + power::EVENTS;
    let registers = aml::OpRegion::new("EREG".into(), aml::OpRegionSpace::SystemIO, &port, &4u8);
    let field = aml::Field::new(
        "EREG".into(),
        aml::FieldAccessType::DWord,
        aml::FieldLockRule::NoLock,
        aml::FieldUpdateRule::Preserve,
        vec![aml::FieldEntry::Named(*b"EVNT", 32)],
    );
    let events = aml::Local(0);
    let (source, pressed) = (aml::Path::new("EVNT"), aml::Local(1));
    let (read, mask) =
        (aml::Store::new(&events, &source), aml::And::new(&pressed, &events, &power::EVENT_POWER_BUTTON));
    let button = aml::Path::new("\\_SB_.PWRB");
    let notify = aml::Notify::new(&button, &BUTTON_PRESSED);
    let notify_if_pressed = aml::If::new(&pressed, vec![&notify]);
    let handler = aml::Method::new("_EVT".into(), 1, true, vec![&read, &mask, &notify_if_pressed]);
    device("GED_", &"ACPI0013", 0u8, vec![&resources, &registers, &field, &handler])
}

fn virtio(slot: usize, (address, gsi): (u64, u32)) -> Vec<u8> {
    let (address, bytes) = (address as u32, layout::VIRTIO_BYTES as u32);
    let resources = resources(vec![&aml::Memory32Fixed::new(true, address, bytes), &interrupt(gsi)]);
    let coherent = aml::Name::new("_CCA".into(), &aml::ONE);
    device(&format!("VR{slot:02}"), &"LNRO0005", slot as u8, vec![&coherent, &resources])
}

fn processor(cpu: u8) -> Vec<u8> {
    device(&format!("C{cpu:03}"), &"ACPI0007", cpu, vec![])
}

fn device(name: &str, hardware_id: &dyn Aml, unique_id: u8, parts: Vec<&dyn Aml>) -> Vec<u8> {
    let hardware_id = aml::Name::new("_HID".into(), hardware_id);
    let unique_id = aml::Name::new("_UID".into(), &unique_id);
    let ids: Vec<&dyn Aml> = vec![&hardware_id, &unique_id];
    bytes(&aml::Device::new(name.into(), [ids, parts].concat()))
}

/// What a device uses (`_CRS`).
fn resources(parts: Vec<&dyn Aml>) -> Encoded {
    Encoded(bytes(&aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(parts))))
}

/// A part that is encoded already.
struct Encoded(Vec<u8>);

impl Aml for Encoded {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

/// An interrupt line of one device: edge-triggered, active high.
fn interrupt(gsi: u32) -> aml::Interrupt {
    aml::Interrupt::new(true, true, false, false, gsi)
}

/// Number of I/O ports as a resource says it.
fn ports(count: u16) -> u8 {
    u8::try_from(count).unwrap_or(u8::MAX)
}

fn bytes(aml: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    aml.to_aml_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use ram::{Backing, Ram};
    use vm_memory::ByteValued;

    use super::*;

    fn memory() -> Ram {
        Ram::allocate(&layout::blocks(4 << 20), Backing::Anonymous).unwrap()
    }

    fn read<T: ByteValued>(ram: &Ram, address: u64) -> T {
        ram.memory().read_obj(GuestAddress(address)).unwrap()
    }

    fn table(ram: &Ram, address: u64) -> ([u8; 4], Vec<u8>) {
        let mut table = vec![0; read::<u32>(ram, address + 4) as usize];
        ram.memory().read_slice(&mut table, GuestAddress(address)).unwrap();
        (table[..4].try_into().unwrap(), table)
    }

    #[test]
    fn every_table_is_reached_from_the_rsdp_with_a_right_checksum() {
        let ram = memory();
        write(ram.memory(), 64, layout::GSI_VIRTIO.len()).unwrap();
        let mut rsdp = [0; 36];
        ram.memory().read_slice(&mut rsdp, GuestAddress(layout::ACPI_TABLES)).unwrap();
        assert_eq!(&rsdp[..8], b"RSD PTR ");
        let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        assert_eq!((sum(&rsdp[..20]), sum(&rsdp)), (0, 0));

        let (signature, xsdt) = table(&ram, read(&ram, layout::ACPI_TABLES + 24));
        assert_eq!((&signature, sum(&xsdt)), (b"XSDT", 0));
        let entry = |index: usize| u64::from_le_bytes(xsdt[36 + 8 * index..][..8].try_into().unwrap());
        let (signature, fadt) = table(&ram, entry(0));
        assert_eq!((&signature, sum(&fadt)), (b"FACP", 0));
        let (signature, madt) = table(&ram, entry(1));
        assert_eq!((&signature, sum(&madt), madt.len()), (b"APIC", 0, 44 + 64 * 8 + 12));
        let (signature, dsdt) = table(&ram, u64::from_le_bytes(fadt[140..148].try_into().unwrap()));
        assert_eq!((&signature, sum(&dsdt)), (b"DSDT", 0));
    }

    #[test]
    fn the_tables_of_the_largest_machine_leave_the_reset_vector_alone() {
        let ram = memory();
        let before = [0xa5u8; (layout::HIGH_MEMORY - layout::RESET_VECTOR) as usize];
        ram.memory().write_slice(&before, GuestAddress(layout::RESET_VECTOR)).unwrap();
        write(ram.memory(), u8::MAX, layout::GSI_VIRTIO.len()).unwrap();
        assert_eq!(read::<[u8; 16]>(&ram, layout::RESET_VECTOR), before);
    }
}
