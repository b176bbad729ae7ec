//! Hostile guests: anything that a guest can do to a device, at random.

use proptest::prelude::*;
use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_QUEUE_NOTIFY, VIRTIO_MMIO_STATUS};

use super::{
    VirtioDevice, VirtioV1,
    testing::{DATA, Desc, Guest},
};
use crate::{BusDevice, IoDevice};

/// What a hostile guest does.
#[derive(Clone, Debug)]
pub(crate) enum Hostility {
    Read { offset: u64, bytes: usize },
    Write { offset: u64, value: Vec<u8> },
    Scribble { queue: usize, offset: u16, bytes: Vec<u8> },
    Available { queue: usize, head: u16 },
    Descriptor { queue: usize, place: u16, desc: Desc },
    Notify { queue: usize },
    Start { features: u64 },
    Move,
}

pub(crate) fn hostilities() -> impl Strategy<Value = Vec<Hostility>> {
    prop::collection::vec(hostility(), 1..60)
}

fn hostility() -> impl Strategy<Value = Hostility> {
    let queue = 0..3_usize;
    let offset = prop_oneof![(0..0x48_u64).prop_map(|it| it * 4), 0..0x200_u64];
    let address = prop_oneof![Just(DATA), 0..(17_u64 << 20), any::<u64>()];
    let bytes = prop_oneof![0..64_u32, 0..0x2_0000_u32, any::<u32>()];
    let desc = (address, bytes, 0..8_u16, 0..70_u16).prop_map(|(address, bytes, flags, next)| Desc {
        address,
        bytes,
        flags,
        next,
    });
    let value = prop_oneof![
        (0..20_u32).prop_map(|it| it.to_le_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 1..9)
    ];
    prop_oneof![
        1 => (offset.clone(), 1..9_usize).prop_map(|(offset, bytes)| Hostility::Read { offset, bytes }),
        3 => (offset, value).prop_map(|(offset, value)| Hostility::Write { offset, value }),
        1 => (queue.clone(), any::<u16>(), prop::collection::vec(any::<u8>(), 1..40))
            .prop_map(|(queue, offset, bytes)| Hostility::Scribble { queue, offset, bytes }),
        3 => (queue.clone(), 0..66_u16).prop_map(|(queue, head)| Hostility::Available { queue, head }),
        5 => (queue.clone(), 0..64_u16, desc)
            .prop_map(|(queue, place, desc)| Hostility::Descriptor { queue, place, desc }),
        3 => queue.prop_map(|queue| Hostility::Notify { queue }),
        2 => any::<u64>().prop_map(|features| Hostility::Start { features }),
        1 => Just(Hostility::Move),
    ]
}

/// Whatever the guest does, the device neither panics nor spins, and its state can be restored.
pub(crate) fn endure<D: VirtioDevice>(
    device: D,
    hostilities: Vec<Hostility>,
    restore: impl Fn(D::State) -> Option<D>,
) {
    let mut guest = Guest::new(device);
    let queues = D::QUEUE_SIZES.len();
    let offered = guest.offered();
    guest.start(offered);
    for hostility in hostilities {
        match hostility {
            Hostility::Read { offset, bytes } => guest.device.read(offset, &mut vec![0; bytes]),
            Hostility::Write { offset, value } => guest.device.write(offset, &value),
            Hostility::Scribble { queue, offset, bytes } => guest.scribble(queue % queues, offset, &bytes),
            Hostility::Available { queue, head } => guest.make_available(queue % queues, head),
            Hostility::Descriptor { queue, place, desc } => guest.set_descriptor(queue % queues, place, desc),
            Hostility::Notify { queue } => {
                guest.write(VIRTIO_MMIO_QUEUE_NOTIFY, queue as u32);
                for queue in 0..queues {
                    guest.device.ready(queue as u32);
                }
            }
            Hostility::Start { features } => {
                guest.write(VIRTIO_MMIO_STATUS, 0);
                guest.start(features & offered);
            }
            Hostility::Move => {
                let state = guest.save();
                if let Some(device) = restore(state.decode::<VirtioV1<D::State>>().unwrap().device) {
                    guest = guest.restored(&state, |_| Ok(device)).unwrap();
                    guest.device.kick();
                }
            }
        }
    }
    assert_eq!(guest.save(), guest.save());
}
