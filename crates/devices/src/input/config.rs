use virtio_bindings::virtio_input::{
    virtio_input_config_select_VIRTIO_INPUT_CFG_EV_BITS as EV_BITS,
    virtio_input_config_select_VIRTIO_INPUT_CFG_ID_DEVIDS as ID_DEVIDS,
    virtio_input_config_select_VIRTIO_INPUT_CFG_ID_NAME as ID_NAME,
    virtio_input_config_select_VIRTIO_INPUT_CFG_ID_SERIAL as ID_SERIAL,
};

/// Event types (linux/input-event-codes.h).
pub(super) const EV_SYN: u16 = 0;
pub(super) const EV_KEY: u16 = 1;
const EV_REP: u16 = 0x14;

/// First key code (linux/input-event-codes.h, KEY_ESC).
pub const MIN_KEY: u16 = 1;
/// Last key code of a keyboard before those of buttons (linux/input-event-codes.h, KEY_MICMUTE).
pub const MAX_KEY: u16 = 248;

const NAME: &[u8] = b"Whimbrel Keyboard";
const SERIAL: &[u8] = b"keyboard0";

/// struct virtio_input_devids: BUS_VIRTUAL, no vendor, product 1, version 1.
const DEVICE_IDS: [u8; 8] = [6, 0, 0, 0, 1, 0, 1, 0];

/// Bytes of the configuration space: select, subsel, size, five reserved, and up to 128 of an answer (spec, 5.8.4).
const BYTES: usize = 8 + 128;
const ANSWER: usize = 8;

/// The configuration space with this selection in it.
pub(super) fn space(select: u8, subselect: u8) -> [u8; BYTES] {
    let mut space = [0; BYTES];
    let answer = answer(select, subselect);
    space[..3].copy_from_slice(&[select, subselect, answer.len() as u8]);
    space[ANSWER..ANSWER + answer.len()].copy_from_slice(&answer);
    space
}

/// What the driver reads; nothing for what a keyboard does not have.
fn answer(select: u8, subselect: u8) -> Vec<u8> {
    match (u32::from(select), u16::from(subselect)) {
        (ID_NAME, 0) => NAME.into(),
        (ID_SERIAL, 0) => SERIAL.into(),
        (ID_DEVIDS, 0) => DEVICE_IDS.into(),
        (EV_BITS, EV_KEY) => key_bits(),
        // Any bit says that the guest should repeat keys that stay down.
        (EV_BITS, EV_REP) => vec![1],
        _ => Vec::new(),
    }
}

/// One bit per key code.
fn key_bits() -> Vec<u8> {
    let mut bits = vec![0; usize::from(MAX_KEY) / 8 + 1];
    for code in MIN_KEY..=MAX_KEY {
        bits[usize::from(code) / 8] |= 1 << (code % 8);
    }
    bits
}
