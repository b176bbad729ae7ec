//! How pages may be encoded to take less on the wire, as the user chose and as both sides can.

use wire::{Features, Packing};

/// Encodings of pages. By default there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encodings {
    /// How the data of every batch is packed.
    pub packing: Option<Packing>,
    /// zstd's level, 0 to 20.
    pub zstd_level: u8,
    /// Pages that were sent before go as their difference.
    pub deltas: bool,
    /// Where [`Self::packing`] says nothing, each channel decides for itself.
    pub auto_packing: bool,
    /// Where [`Self::deltas`] says nothing, each channel decides for itself.
    pub auto_deltas: bool,
    /// How many processors there are, for channels that decide for themselves.
    pub processors: u16,
    /// Most bytes of the copies of pages that differences need, at the source.
    pub cache_bytes: u64,
}

impl Encodings {
    /// Whether there may be any.
    #[must_use]
    pub fn are_any(self) -> bool {
        self.packing.is_some() || self.deltas || self.auto_packing || self.auto_deltas
    }

    /// What is left of them with a destination that has these features, and what it lacks, in words.
    #[must_use]
    pub fn agreed(self, features: Features) -> (Self, Vec<&'static str>) {
        let (mut agreed, mut lacking) = (self, Vec::new());
        agreed.auto_packing &= features.has(Features::PACKING);
        agreed.auto_deltas &= features.has(Features::DELTAS);
        if self.packing.is_some() && !features.has(Features::PACKING) {
            agreed.packing = None;
            lacking.push("unpack pages");
        }
        if self.deltas && !features.has(Features::DELTAS) {
            agreed.deltas = false;
            lacking.push("take pages as differences");
        }
        (agreed, lacking)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_destination_lacks_is_not_used_and_said() {
        let wanted = Encodings { packing: Some(Packing::Zstd), deltas: true, ..Encodings::default() };
        let both = Features::PACKING.and(Features::DELTAS);
        assert_eq!(wanted.agreed(both), (wanted, Vec::new()));
        let (agreed, lacking) = wanted.agreed(Features::DELTAS);
        assert_eq!((agreed, lacking), (Encodings { packing: None, ..wanted }, vec!["unpack pages"]));
        let (agreed, lacking) = wanted.agreed(Features::default());
        assert_eq!((agreed.are_any(), lacking.len()), (false, 2));
        let auto = Encodings { auto_packing: true, auto_deltas: true, ..Encodings::default() };
        assert_eq!(auto.agreed(both), (auto, Vec::new()));
        let without = Encodings { auto_packing: false, ..auto };
        assert_eq!(auto.agreed(Features::DELTAS), (without, Vec::new()), "it was not asked for");
        assert_eq!(Encodings::default().agreed(Features::default()).1, Vec::<&str>::new());
    }
}
