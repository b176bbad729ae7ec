//! What goes into the state machine of the source, and what comes out.

use wire::{Greeted, Message, PageBits, PageCounts, Role};

use crate::{DirtyLimit, Outcome};

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The control connection is up, for the first time or again, and greetings were exchanged.
    Connected(Greeted),
    /// The destination said this.
    Message(Message),
    /// Channels are open on this side and dirty logging is on.
    Prepared,
    /// All channels have sent the round, its end marks included.
    RoundSent {
        /// Bytes, headers included.
        bytes: u64,
        /// Pages.
        pages: PageCounts,
        /// Of the last round: sums of all pages as they were sent, where asked for.
        digest: Option<Vec<u64>>,
    },
    /// The dirty log was read; this many pages are dirty.
    DirtyFetched {
        /// Pages of [`crate::PAGE_BYTES`].
        pages: u64,
        /// Whether the machine runs, as of a moment after that.
        running: bool,
    },
    /// The round under way was looked at. Nobody asks for it: the more often it comes, the sooner something is noticed.
    Look {
        /// Bytes that were sent in it.
        sent_bytes: u64,
        /// Pages that were dealt with in it.
        done_pages: u64,
        /// Pages of it that are not dirty any more.
        clean_pages: u64,
        /// Pages that are dirty, those of the round included that are not sent.
        dirty_pages: u64,
    },
    /// The machine is stopped, its disks are flushed.
    Stopped {
        /// Whether it ran until then.
        was_running: bool,
    },
    /// The dirty pages were divided: so many of them will follow when the machine runs, and the destination was told which.
    Divided {
        /// Pages.
        to_come: u64,
    },
    /// Device states were saved and sent, disk locks released.
    Saved {
        /// How many states.
        devices: u32,
    },
    /// The machine is here again as it was before the switchover, or why it cannot be yet.
    Resumed(Result<(), String>),
    /// The control connection or a channel broke.
    LinkLost(String),
    /// The machine could not do what an action asked for.
    MachineFailed(String),
    /// The user cancels.
    Cancel,
    /// The user lets the switchover go on.
    Continue,
    /// The user wants the machine to run at the destination now, its memory to follow.
    StartPostcopy,
    /// The user breaks the link to a destination whose machine lacks pages, and will say when to go on.
    Pause,
    /// The user wants the link to such a destination made again, now.
    Recover,
    /// The user says who has the machine, which the destination cannot.
    Decided(Verdict),
    /// Something that people are to be told, as a sentence.
    Noted(String),
    /// Time has passed; see [`Source::deadline`].
    Tick,
}

/// What people say who have looked at the destination. Whatever happens then is on them: nothing can check it but the disk locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It never ran at the destination, and never will.
    TakeBack,
    /// It ran at the destination. Where pages of it are here, the source goes on as if it had just lost the link to it; said once more,
    /// then, it means that no machine needs them.
    LetGo,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Open a connection of this role, and exchange greetings; answer with `Connected` or `LinkLost`.
    Connect(Role),
    /// Send on the control connection.
    Send(Message),
    /// Open this many channels and start dirty logging; answer with `Prepared`.
    Prepare {
        /// Page channels.
        channels: u16,
    },
    /// Send all of RAM (round 0) or what was last fetched; answer with `RoundSent`.
    SendRound {
        /// Number of the round.
        round: u32,
        /// Whether it is the last: the machine is stopped, nothing is re-armed, no bandwidth limit holds.
        last: bool,
    },
    /// End the round that is being sent: what is not sent of it stays dirty. `RoundSent` follows.
    CutRound,
    /// The machine is stopped: say which dirty pages will follow when it runs, and send what must be there before as the last
    /// round; answer with `Divided`, then `RoundSent`.
    Divide {
        /// Number of the last round.
        round: u32,
    },
    /// The destination lacks these pages; said anew in every recovery, before `Reopen`.
    Needed(PageBits),
    /// Open channels again to a destination that lacks pages; answer with `Prepared`.
    Reopen {
        /// Page channels.
        channels: u16,
    },
    /// The machine runs at the destination: send what has come for it here since it was stopped, and no more than that.
    Forward,
    /// Send all pages that the destination lacks, those first that its machine waits for.
    Push,
    /// Read the dirty log; answer with `DirtyFetched`.
    FetchDirty,
    /// Take this share of its time from each vCPU that writes, from now on; 0 gives all of it back.
    Throttle {
        /// 0 to [`crate::throttle::MOST`].
        share: f64,
    },
    /// Let no vCPU dirty more than this from now on; `None` lets each do as it likes.
    Limit(Option<DirtyLimit>),
    /// Stop the machine; answer with `Stopped`.
    Stop,
    /// Save and send device states while the last pages fly, release disk locks; answer with `Saved`.
    SaveDevices,
    /// Take the disk locks back, and let the machine run if it is to; answer with `Resumed`.
    Resume {
        /// Whether it ran before.
        run: bool,
    },
    /// Close the connections: the attempt goes on without them.
    Disconnect,
    /// The attempt is over: stop dirty logging, close everything.
    End(Outcome),
}
