//! What one side does in rare situations while pages follow a machine, one by one.

use std::time::Duration;

use state::DeviceState;
use whimbrel_migration::{
    Destination, FixedCosts, Params, Postcopy, Source, Status,
    custody::{DestinationPages, SourcePages},
    destination::{self, Action as Done},
    source::{Action, Event, Verdict},
};
use wire::{
    Accept, Ack, Agreed, BlockInfo, Complete, DeviceInfo, Features, Greeted, Hello, Message, PageBits,
    PageCounts, SessionId, StateVersions,
};

const SECOND: Duration = Duration::from_secs(1);
const SESSION: SessionId = SessionId([7; 16]);
const ACK: Ack = Ack { nanoseconds: 1 };

fn device() -> DeviceState {
    DeviceState { id: "thing".into(), kind: "thing".into(), version: 1, body: Vec::new() }
}

fn hello() -> Hello {
    Hello {
        session: SESSION,
        channels: 1,
        page_bytes: 4096,
        digest: wire::Digest::Off,
        blocks: vec![BlockInfo { name: "ram".into(), guest_address: 0, bytes: 1 << 30 }],
        devices: vec![DeviceInfo::new("thing", "thing", 1..=1)],
        machine: device(),
        postcopy: true,
    }
}

fn reads() -> Vec<StateVersions> {
    vec![StateVersions { kind: "thing".into(), oldest: 1, newest: 1 }]
}

fn greeted() -> Event {
    let agreed = Agreed { version: 1, features: Features::OURS };
    Event::Connected(Greeted { agreed, release: "test".into() })
}

fn hear(source: &mut Source, message: Message) -> Vec<Action> {
    source.handle(SECOND, Event::Message(message))
}

/// A source that was accepted, but whose channels are not open.
fn source_that_prepares(postcopy: Postcopy) -> Source {
    let (mut source, _) = Source::start(Params::default().postcopy(postcopy), hello(), FixedCosts::default());
    source.handle(SECOND, greeted());
    hear(&mut source, Message::Accept(Accept { channels: 1, reads: reads() }));
    source.handle(SECOND, Event::Prepared);
    source
}

/// A source that has said *go*, with two pages to come.
fn source_that_said_go() -> Source {
    let mut source = source_that_prepares(Postcopy::Immediate);
    hear(&mut source, Message::ChannelsOpen);
    for event in [
        Event::Stopped { was_running: true },
        Event::Divided { to_come: 2 },
        Event::RoundSent { bytes: 0, pages: PageCounts::default(), digest: None },
        Event::Saved { devices: 1 },
    ] {
        source.handle(SECOND, event);
    }
    assert_eq!(hear(&mut source, Message::Ready(ACK)), [Action::Send(Message::Go)]);
    source
}

/// A destination that was told to start a machine, with two pages to come.
fn destination_that_starts() -> Destination {
    let mut destination = Destination::default();
    let complete = Complete {
        rounds: 1,
        pages: PageCounts::default(),
        devices: 1,
        run: true,
        digest: None,
        to_come: Some(2),
    };
    for event in [
        destination::Event::Message(Message::Hello(hello())),
        destination::Event::Checked(Ok(reads())),
        destination::Event::ChannelsOpen,
        destination::Event::Message(Message::Missing(PageBits { block: 0, first_page: 0, bits: vec![3] })),
        destination::Event::Message(Message::Device(device())),
        destination::Event::Message(Message::Complete(complete)),
        destination::Event::AllReceived(PageCounts::default()),
        destination::Event::Loaded,
    ] {
        destination.handle(SECOND, event);
    }
    let actions = destination.handle(SECOND, destination::Event::Message(Message::Go));
    assert_eq!(actions, [Done::Run { run: true }]);
    destination
}

#[test]
fn that_every_page_is_here_is_said_though_the_last_one_came_before_the_machine_ran() {
    let mut destination = destination_that_starts();
    assert_eq!(destination.handle(SECOND, destination::Event::Whole), [], "the source waits for running");
    let actions = destination.handle(SECOND, destination::Event::Started);
    assert!(
        matches!(actions[..], [Done::Send(Message::Running(_)), Done::Send(Message::Whole)]),
        "{actions:?}"
    );
    let end = destination.handle(SECOND, destination::Event::Message(Message::Bye));
    assert_eq!(end, [Done::End]);
}

#[test]
fn a_link_that_is_lost_while_the_machine_is_being_started_is_found_to_be_lost() {
    let mut destination = destination_that_starts();
    assert_eq!(destination.handle(SECOND, destination::Event::LinkLost("cut".into())), [Done::Part]);
    destination.handle(SECOND, destination::Event::Started);
    assert_eq!(destination.pages(), DestinationPages::Lacking);
    assert_eq!(destination.deadline(), None, "the source comes back by itself");
    assert!(
        matches!(destination.asked(SECOND, SESSION), (Message::Running(_), actions) if actions.is_empty())
    );
    let actions = destination.handle(SECOND, destination::Event::Message(Message::Recover));
    assert_eq!(actions, [Done::List]);
}

#[test]
fn who_asks_which_pages_are_missing_when_none_is_hears_so_and_can_say_goodbye() {
    let mut destination = destination_that_starts();
    destination.handle(SECOND, destination::Event::Started);
    destination.handle(SECOND, destination::Event::LinkLost("cut".into()));
    destination.handle(SECOND, destination::Event::Message(Message::Recover));
    let actions = destination.handle(SECOND, destination::Event::Listed { missing: 0 });
    assert_eq!(actions, [Done::Send(Message::Recovering { pages: 0 })]);
    let end = destination.handle(SECOND, destination::Event::Message(Message::Bye));
    assert_eq!(end, [Done::End]);
}

#[test]
fn a_source_that_leaves_while_pages_are_missing_does_not_end_the_destination() {
    let mut destination = destination_that_starts();
    destination.handle(SECOND, destination::Event::Started);
    assert_eq!(destination.handle(SECOND, destination::Event::Message(Message::Bye)), []);
    assert_eq!(destination.handle(SECOND, destination::Event::LinkLost("cut".into())), [Done::Part]);
}

#[test]
fn a_source_that_comes_back_after_long_is_not_taken_for_silent() {
    let mut destination = destination_that_starts();
    destination.handle(SECOND, destination::Event::Started);
    let late = destination.deadline().unwrap() - Duration::from_millis(1);
    destination.asked(late, SESSION);
    assert!(destination.deadline().unwrap() > late + SECOND);
}

#[test]
fn who_lets_go_of_a_machine_that_may_need_pages_does_not_lose_them() {
    let mut source = source_that_said_go();
    source.handle(SECOND, Event::LinkLost("cut".into()));
    assert_eq!(source.status(), Status::Unknown);
    let actions = source.handle(SECOND, Event::Decided(Verdict::LetGo));
    assert_eq!(actions, [Action::Disconnect]);
    assert_eq!((source.status(), source.pages()), (Status::PostcopyPaused, SourcePages::Needed));
    source.handle(SECOND, Event::Decided(Verdict::TakeBack));
    assert_eq!(source.status(), Status::PostcopyPaused, "it runs there");
    source.handle(2 * SECOND, Event::Decided(Verdict::LetGo));
    assert_eq!((source.status(), source.pages()), (Status::Completed, SourcePages::Released));
}

#[test]
fn nothing_but_the_word_that_every_page_is_there_ends_a_source_that_has_some() {
    let mut source = source_that_said_go();
    let actions = hear(&mut source, Message::Running(ACK));
    assert_eq!(actions, [Action::Push, Action::Forward]);
    for event in [
        Event::Cancel,
        Event::MachineFailed("broken".into()),
        Event::Message(Message::NotRunning { reason: "a lie".into() }),
        Event::Message(Message::Abort { reason: "a lie".into() }),
        Event::Continue,
        Event::StartPostcopy,
    ] {
        source.handle(SECOND, event);
        assert!(source.status().is_postcopy() && source.pages() == SourcePages::Needed);
    }
}

#[test]
fn a_user_who_wants_postcopy_before_the_first_round_does_not_wait_for_it() {
    let mut source = source_that_prepares(Postcopy::OnRequest);
    assert_eq!(source.handle(SECOND, Event::StartPostcopy), []);
    let actions = hear(&mut source, Message::ChannelsOpen);
    assert!(actions.contains(&Action::Stop), "{actions:?}");
}
