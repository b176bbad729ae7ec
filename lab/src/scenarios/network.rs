//! What the network sees of a move.

use std::time::Duration;

use serde_json::json;

use super::{PATIENCE, check, end, goes_on, say};
use crate::{Journey, Lab, LabError, Spec, Weather};

/// The longest limit that the monitor takes.
const MOST_DOWNTIME_MS: u64 = 2_000_000;
/// A TCP connection of Linux gives up after 13 minutes at the earliest, and people after some seconds. The emulated processor
/// is slow: this is about streams that stall, not about downtime.
const LONGEST_GAP: Duration = Duration::from_secs(10);

fn longest_gap_ms(lab: &Lab) -> i64 {
    lab.pace().stretch(LONGEST_GAP).as_millis() as i64
}

pub(super) fn stream(lab: &Lab) -> Result<(), LabError> {
    let mut journey = Journey::begin(lab, Spec::linux(2))?;
    let _echo = journey.in_guest(&["stream", "echo", "0.0.0.0:9"])?;
    let address = format!("{}:9", Spec::address());
    journey.guest().run("until netstat -lnt | grep -q ':9 '; do sleep 0.1; done")?;
    let check_stream =
        lab.host("a").remote().spawn(&["whimbrel-lab-agent", "stream", "check", &address, "1024"])?;
    for _ in 0..2 {
        goes_on(&check_stream, "bytes", 512 << 10)?;
        journey.hop()?;
        goes_on(&check_stream, "bytes", 512 << 10)?;
    }
    let (bytes, gap) =
        (check_stream.last("bytes").unwrap_or(0), check_stream.last("longest_gap_ms").unwrap_or(i64::MAX));
    say(&format!("{} KiB came back byte for byte, longest gap {gap} ms", bytes >> 10));
    check(gap <= longest_gap_ms(lab), || format!("The stream stood still for {gap} ms"))?;
    drop(check_stream);
    end(journey)
}

pub(super) fn ping(lab: &Lab) -> Result<(), LabError> {
    let mut journey = Journey::begin(lab, Spec::linux(1))?;
    let ping =
        lab.host("a").remote().spawn(&["whimbrel-lab-agent", "ping", &Spec::address().to_string(), "10"])?;
    for _ in 0..2 {
        goes_on(&ping, "received", 50)?;
        journey.hop()?;
        goes_on(&ping, "received", 50)?;
    }
    let number = |name| ping.last(name).unwrap_or(i64::MAX);
    let (sent, missing, gap) = (number("sent"), number("missing"), number("longest_gap_ms"));
    say(&format!("{missing} of {sent} pings were not answered, longest gap {gap} ms"));
    check(gap <= longest_gap_ms(lab), || format!("No ping was answered for {gap} ms"))?;
    // All that are lost are lost in the gaps: a frame that was never sent again would be missing for good.
    check(missing * 10 <= 2 * gap + 1000, || {
        format!("{missing} pings are lost, more than fit into two gaps of {gap} ms")
    })?;
    drop(ping);
    end(journey)
}

/// Frames of the film each second: the emulated processor can just make them.
const FRAMES: &str = "25";

/// A guest plays a film over HTTP, and somebody outside watches.
pub(super) fn film(lab: &Lab) -> Result<(), LabError> {
    let mut journey = Journey::begin(lab, Spec::linux(1))?;
    let _player = journey.in_guest(&["film", "serve", "0.0.0.0:80", FRAMES])?;
    let address = format!("{}:80", Spec::address());
    journey.guest().run("until netstat -lnt | grep -q ':80 '; do sleep 0.1; done")?;
    let watcher = lab.host("a").remote().spawn(&["whimbrel-lab-agent", "film", "watch", &address, FRAMES])?;
    let number = |name| watcher.last(name).unwrap_or(i64::MAX);
    for _ in 0..2 {
        goes_on(&watcher, "frames", 50)?;
        let (late, lost) = (number("late"), number("lost"));
        journey.hop()?;
        goes_on(&watcher, "frames", 50)?;
        let (late, lost) = (number("late") - late, number("lost") - lost);
        say(&format!("around the move {late} frames were late and {lost} lost"));
    }
    let (frames, freeze) = (number("frames"), number("longest_freeze_ms"));
    let stuck = if freeze < 200 { "no".to_owned() } else { format!("{:.1} s", freeze as f64 / 1e3) };
    say(&format!("{frames} frames were seen; video stuck: {stuck} (longest freeze {freeze} ms)"));
    check(freeze <= longest_gap_ms(lab), || format!("The picture stood still for {freeze} ms"))?;
    drop(watcher);
    end(journey)
}

pub(super) fn weather(lab: &Lab) -> Result<(), LabError> {
    // What the guest has freed is zeros, which cost nothing to move.
    let spec = Spec { memory_mib: 128, cmdline: "init_on_free=1".into(), ..Spec::linux(1) };
    let mut journey = Journey::begin(lab, spec)?;
    let load = journey.in_guest(&["memory", "1", "0.25"])?;
    load.number("filled", PATIENCE, |filled| filled == 1)?;
    for _ in 0..2 {
        let there = journey.vacancy()?;
        // One stream gets about MSS / round trip / sqrt(loss) at such losses, which is 350 KB/s; what helps is more of them, and
        // to be content with a longer downtime, since the last pages are too few for many streams.
        let limit_ms = lab.pace().stretch(Duration::from_secs(5)).as_millis() as u64;
        let parameters = json!({ "multifd-channels": 32, "downtime-limit": limit_ms.min(MOST_DOWNTIME_MS) });
        journey.here().command("migrate-set-parameters", parameters)?;
        lab.network().weather(Weather {
            delay: Duration::from_millis(25),
            lost_per_mille: 10,
            ..Weather::default()
        });
        journey.hop_to(there)?;
        lab.network().heal();
        goes_on(&load, "pages", 256)?;
    }
    drop(load);
    end(journey)
}
