use std::time::Instant;

use config::Identity;
use engine::Heard;
use serde::{Deserialize, Serialize};
use state::{Schema, Value, not_read};
use wire::DeviceInfo;

use crate::{
    Ahead, DeviceDescription, Events, Incoming, MachineDescription, arch::realtime_ns, events::RequestsV2,
    launcher::Launcher, machine::ImageClues,
};

/// What a source says of its machine in the handshake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Offer {
    pub(super) machine: MachineDescription,
    pub(super) images: ImageClues,
    /// The wall clock of the source when it had this made, in nanoseconds since 1970; none from a release that did not say.
    #[serde(default)]
    pub(super) realtime_ns: Option<u64>,
    /// The same when the destination had greeted it, and this was about to be sent.
    #[serde(default)]
    pub(super) greeted_ns: Option<u64>,
}

impl Offer {
    /// The same as of now, for a destination that has greeted this side.
    pub(super) fn now(self) -> Self {
        Self { greeted_ns: Some(realtime_ns()), ..self }
    }

    /// By how much the wall clock here is ahead of the source's, which said this when it was `heard`.
    pub(super) fn ahead(&self, heard: Heard) -> Ahead {
        let (now, shows) = (Instant::now(), i128::from(realtime_ns()));
        let showed = |then: Instant| {
            shows - i128::try_from(now.saturating_duration_since(then).as_nanos()).unwrap_or_default()
        };
        match (self.greeted_ns.map(i128::from), self.realtime_ns.map(i128::from)) {
            (Some(said), _) => {
                Ahead::Between { least: showed(heard.after) - said, most: showed(heard.by) - said }
            }
            (None, Some(said)) => Ahead::AtMost(showed(heard.by) - said),
            (None, None) => Ahead::Unknown,
        }
    }
}

impl Schema for Offer {
    const KIND: &'static str = "machine";
    const VERSION: u32 = 1;

    fn older(version: u32, _: Value) -> Result<Self, String> {
        not_read(version)
    }
}

/// The devices of a machine, as the handshake names them.
pub(super) fn devices(description: &MachineDescription) -> Vec<DeviceInfo> {
    let info = |device: &DeviceDescription| {
        DeviceInfo::new(device.id.as_str(), device.kind.as_str(), device.oldest..=device.version)
    };
    description.devices.iter().map(info).collect()
}

/// The same of a machine that leaves. What is saved is of the newest version, but for the requests of a machine: a release before reads
/// those too, unless the machine waits for its storage. One that does so now is refused there by name.
pub(super) fn leaving(description: &MachineDescription, events: &Events) -> Vec<DeviceInfo> {
    let mut devices = devices(description);
    for device in &mut devices {
        if device.kind != RequestsV2::KIND || events.waits_for_storage() {
            device.oldest = device.version;
        }
    }
    devices
}

/// Every reason why the machine is not taken in here. None: it is, and what is `permitted` to differ is told in the log.
pub(super) fn refusals(
    incoming: &Incoming,
    offer: &Offer,
    permitted: &[Identity],
    launcher: &Launcher,
) -> Vec<String> {
    let differences = incoming.differences(&offer.machine);
    let (changed, images) = incoming.look(&offer.machine, &offer.images, launcher);
    let images = images.into_iter().map(|difference| (Identity::Image, difference));
    let identity = differences.identity.into_iter().chain(images);
    let (permitted, refused): (Vec<_>, Vec<_>) =
        identity.partition(|(identity, _)| permitted.contains(identity));
    let refused = refused.into_iter().map(|(identity, difference)| {
        let (flag, alike) = (flag(identity), alike(identity));
        format!("{difference}: {alike}, or permit it with --may-differ {flag}")
    });
    let reasons: Vec<_> = differences.unfit.into_iter().chain(changed).chain(refused).collect();
    if reasons.is_empty() {
        for (identity, difference) in permitted {
            let (flag, risk) = (flag(identity), risk(identity));
            tracing::warn!("{difference}; that is permitted with --may-differ {flag}. {risk}");
        }
    }
    reasons
}

fn flag(identity: Identity) -> &'static str {
    match identity {
        Identity::Name => "name",
        Identity::Uuid => "uuid",
        Identity::Mac => "mac",
        Identity::Image => "image",
    }
}

/// What makes both sides alike.
fn alike(identity: Identity) -> &'static str {
    match identity {
        Identity::Name => "start it with the machine's name",
        Identity::Uuid => "start it with the machine's UUID",
        Identity::Mac => "start it with the machine's address",
        Identity::Image => "give both sides the same image",
    }
}

/// What follows if the difference is an accident.
fn risk(identity: Identity) -> &'static str {
    match identity {
        Identity::Name => {
            "If it was not renamed, it is now in the place of another machine. It is called here as this side was started"
        }
        Identity::Uuid => {
            "If this is not known, it is now in the place of another machine. It keeps its own UUID, by which management \
             tools know it"
        }
        Identity::Mac => {
            "It keeps its own address: filters and address assignment here that expect the other one do not know it"
        }
        Identity::Image => {
            "If it is not the machine's image, the guest does not find its data, and destroys what is there"
        }
    }
}
