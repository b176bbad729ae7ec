//! Rules that the model can break, one at a time, to show that the claims need them and that the checker sees it.

/// A rule that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The destination says that it does not run the session, and waits on for *go*.
    WaitsOnWhenAsked,
    /// The source takes silence after *go* for a no.
    TakesSilenceForNo,
    /// The source takes a broken link after *go* for a no.
    TakesABrokenLinkForNo,
    /// A cancel after *go* takes the machine back.
    CancelsAfterGo,
    /// The source says *go* again when no answer comes.
    SaysGoAgain,
    /// The destination runs the machine as soon as it is loaded.
    DoesNotWaitForGo,
    /// The destination hears what comes late from an attempt that is over.
    HearsThePast,
    /// A destination that never heard of a session says that it does not run it.
    DeniesWhatItDoesNotKnow,
    /// The destination forgets which sessions it gave up.
    ForgetsWhatItGaveUp,
    /// The destination waits on for *go* when its link is lost and its time is over.
    WaitsOnWithoutALink,
    /// The destination says that the machine could not be started, after it ran.
    RanBeforeItFailedToStart,
    /// The source does not ask what became of its *go*.
    DoesNotAsk,
    /// The source does not listen when the destination gives up after *go* was said.
    DoesNotHearAFarewell,
    /// The operator takes the machine back without looking at the destination.
    DecidesWithoutLooking,
    /// The source runs the machine without its disk.
    ResumesWithoutTheLock,
    /// The source counts as paused before it has its disk again.
    IsPausedBeforeItHasTheLock,
    /// The operator's word lets a machine run without its disk.
    RunsByCommandWithoutTheLock,
    /// The destination takes the machine without its disk.
    LoadsWithoutTheLock,
    /// The destination keeps the disk of an attempt that came to nothing.
    KeepsTheLock,
    /// The operator says that no machine needs pages without looking at the destination.
    LetsGoOfPagesWithoutLooking,
    /// The source is done when the machine runs, though pages are missing.
    EndsWithPagesMissing,
    /// A cancel ends the source while it has pages that are missing.
    CancelsWithPagesMissing,
    /// The destination says that it has every page when the first has come.
    SaysWholeTooEarly,
    /// The destination does not say that it has every page if the last one came before the machine ran.
    SaysNothingOfAnEarlyWhole,
    /// The destination says that all pages are missing that ever were.
    ForgetsWhatArrived,
    /// The destination takes a page that it has, which the machine may have written since.
    TakesWhatItHas,
    /// The source counts pages as arrived that it has sent.
    CountsOnWhatItSent,
    /// The source gives vCPUs their time back only where the migration goes on to its end.
    SlowsAMachineThatStays,
    /// The source does not look for a destination that it has lost.
    DoesNotLookForIt,
}
