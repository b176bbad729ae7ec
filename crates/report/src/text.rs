//! A report for a terminal.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};

use crate::{
    Arrived, Downtime, Encoded, Following, Integrity, Outcome, Report, Round, Security, Side, Stalls, Waits,
    quantity::{Bytes, Count, Millis, Rate},
};

/// Cells of a bar that stands for the largest value beside it.
const BAR_CELLS: f64 = 24.0;

/// The whole report, in lines that end in `\n`.
///
/// What the report says is shown without anything that a terminal would obey.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut text = String::new();
    head(&mut text, report);
    if let Some(downtime) = &report.downtime {
        downtime_bars(&mut text, downtime, report);
    }
    rounds(&mut text, report);
    decisions(&mut text, report);
    if let Some(following) = &report.following {
        following_lines(&mut text, following);
    }
    if let Some(stalls) = &report.stalls {
        stall_lines(&mut text, stalls);
    }
    if let Some(integrity) = &report.integrity {
        integrity_lines(&mut text, integrity);
    }
    if let Some(arrived) = &report.arrived {
        arrived_table(&mut text, arrived);
    }
    text
}

/// Without control characters, and without those that turn the direction of a line round.
pub(crate) fn clean(text: &str) -> String {
    let turns = |c| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
    text.chars().map(|c| if c.is_control() || turns(c) { '\u{fffd}' } else { c }).collect()
}

/// Writes a line. Writing into a string cannot fail.
macro_rules! line {
    ($text:expr, $($arguments:tt)*) => {{ let _ = writeln!($text, $($arguments)*); }};
}

fn head(text: &mut String, report: &Report) {
    let machine = &report.machine;
    line!(
        text,
        "Migration of {} ({}, {} vCPUs), as the {} saw it: {}",
        clean(&machine.name),
        Bytes(machine.memory_bytes as f64),
        machine.vcpus,
        report.side.name(),
        report.outcome.name()
    );
    let mut fact = |name: &str, value: String| line!(text, "  {name:<11} {value}");
    if let Some(reason) = &report.reason {
        fact("reason", clean(reason));
    }
    if let Some(session) = &report.session {
        fact("session", clean(session));
    }
    fact("began", clean(&report.began));
    fact("took", Millis(report.duration_ms).to_string());
    fact("source", party(&report.source));
    fact("destination", party(&report.destination));
    let totals = &report.totals;
    let seconds = (report.duration_ms - totals.setup_ms) / 1e3;
    let pages = format!("{} pages with contents, {} zero", Count(totals.raw_pages), Count(totals.zero_pages));
    let rate = if seconds > 0.0 {
        format!(", {} on average", Rate(totals.bytes as f64 / seconds))
    } else {
        String::new()
    };
    fact("sent", format!("{} ({pages}){rate}", Bytes(totals.bytes as f64)));
    if let Some(encodings) = &report.encodings {
        encoded(encodings).for_each(|what| fact("encoded", what));
    }
    fact("CPU", format!("{:.2} s on this side", report.cpu_seconds));
    if let Some(security) = &report.security {
        fact("protection", protection(security));
    }
    if let Some(parameters) = &report.parameters {
        let bandwidth = match parameters.max_bandwidth {
            0 => "no bandwidth limit".to_owned(),
            limit => format!("at most {}", Rate(limit as f64)),
        };
        fact(
            "asked for",
            format!(
                "downtime ≤ {} ms, {} channels, {bandwidth}, digest {}",
                parameters.downtime_limit_ms,
                parameters.channels,
                clean(&parameters.digest)
            ),
        );
    }
}

/// What became of pages so that they took less, a line each.
pub(crate) fn encoded(encodings: &Encoded) -> impl Iterator<Item = String> {
    let bytes = |bytes: u64| Bytes(bytes as f64);
    let packed = encodings.packing.as_ref().map(|packing| {
        let (pages, plain) = (Count(encodings.packed_pages), bytes(encodings.plain_bytes));
        format!("{pages} pages by {}: {plain} became {}", clean(packing), bytes(encodings.packed_bytes))
    });
    let deltas = encodings.cache_bytes.map(|cache| {
        format!(
            "{} pages as differences of {}; whole: {} that were not kept in {}, {} that had changed too much",
            Count(encodings.delta_pages),
            bytes(encodings.delta_bytes),
            Count(encodings.missing_pages),
            bytes(cache),
            Count(encodings.overflow_pages)
        )
    });
    packed.into_iter().chain(deltas)
}

/// How connections were protected, and who the other side was, in a line.
pub(crate) fn protection(security: &Security) -> String {
    let said = |text: &Option<String>| clean(text.as_deref().unwrap_or_default());
    if !security.encrypted {
        return format!("none: not encrypted. {}", said(&security.note));
    }
    let peer = security.peer.as_ref().map_or_else(String::new, |peer| {
        let names =
            if peer.names.is_empty() { String::new() } else { format!(" ({})", peer.names.join(", ")) };
        let (subject, until) = (clean(&format!("{}{names}", peer.subject)), clean(&peer.not_after));
        format!("; the other side was {subject}, valid until {until}")
    });
    let rekeys = match security.rekeys {
        0 => String::new(),
        rekeys => format!("; keys renewed {rekeys} times"),
    };
    format!("{}, {}{peer}{rekeys}", said(&security.protocol), said(&security.cipher))
}

/// Who a side is, in a line.
pub(crate) fn party(party: &crate::Party) -> String {
    let mut parts = Vec::new();
    parts.extend(party.host.as_deref().map(clean));
    parts.extend(party.address.as_deref().map(clean));
    parts.extend(party.process.map(|id| format!("process {id}")));
    parts.extend(party.release.as_deref().map(|release| format!("Whimbrel {}", clean(release))));
    if parts.is_empty() { "not known".into() } else { parts.join(", ") }
}

fn downtime_bars(text: &mut String, downtime: &Downtime, report: &Report) {
    let total =
        downtime.total_ms.map_or_else(|| unknown_total(report).to_owned(), |ms| Millis(ms).to_string());
    let limit =
        report.parameters.as_ref().map(|parameters| format!("limit {} ms", parameters.downtime_limit_ms));
    let foretold = downtime.predicted_ms.map(|ms| format!("foretold {}", Millis(ms)));
    let beside: Vec<_> = limit.into_iter().chain(foretold).collect();
    line!(
        text,
        "\nDowntime: {total}{}",
        if beside.is_empty() { String::new() } else { format!(" ({})", beside.join(", ")) }
    );
    let longest = downtime.phases.iter().map(|phase| phase.ms).fold(0.0, f64::max);
    for phase in &downtime.phases {
        let name = clean(&phase.name);
        let beside = if phase.beside { " (beside the one before)" } else { "" };
        line!(text, "  {name:<12} {:>10} {}{beside}", Millis(phase.ms), bar(phase.ms, longest));
    }
}

/// Why it is not said how long the machine stood still.
pub(crate) fn unknown_total(report: &Report) -> &'static str {
    match (report.side, report.outcome) {
        (Side::Destination, _) => "only the source knows it, and its report says it",
        (Side::Source, Outcome::Completed) => "not known: the destination could not be asked",
        (Side::Source, _) => "did not come to its end",
    }
}

/// Eighths of a cell are shown; what is not nothing has at least one.
fn bar(value: f64, longest: f64) -> String {
    const EIGHTHS: [char; 7] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let share = if longest > 0.0 { (value / longest).clamp(0.0, 1.0) } else { 0.0 };
    let eighths = (share * BAR_CELLS * 8.0).ceil() as usize;
    let mut bar = "█".repeat(eighths / 8);
    bar.extend(eighths.checked_rem(8).filter(|rest| *rest > 0).map(|rest| EIGHTHS[rest - 1]));
    bar
}

fn rounds(text: &mut String, report: &Report) {
    if report.rounds.is_empty() {
        return;
    }
    let left_out = match report.rounds_left_out {
        0 => String::new(),
        count => format!(" ({} before them are only in the sums)", Count(count)),
    };
    line!(text, "\nRounds{left_out}");
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "round",
        "took",
        "sent",
        "pages",
        "zero",
        "left",
        "",
        "dirty rate",
        "wire rate",
        "foretold",
        "vCPUs in kernel",
    ]);
    let most = report.rounds.iter().map(|round| round.remaining_bytes).max().unwrap_or(0) as f64;
    for round in &report.rounds {
        table.add_row(row(round, most));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        let is_bar = index == 6;
        column.set_cell_alignment(if is_bar { CellAlignment::Left } else { CellAlignment::Right });
    }
    line!(text, "{table}");
}

fn row(round: &Round, most: f64) -> [String; 11] {
    let number = if round.last { format!("{} (last)", round.round) } else { round.round.to_string() };
    let while_it_ran = |value: String| if round.last { "-".to_owned() } else { value };
    let left = round.remaining_bytes as f64;
    let mut small_bar = bar(left, most);
    // Half as long as elsewhere: there are ten more columns.
    small_bar = small_bar.chars().step_by(2).collect();
    [
        number,
        Millis(round.duration_ms).to_string(),
        Bytes(round.bytes as f64).to_string(),
        Count(round.raw_pages).to_string(),
        Count(round.zero_pages).to_string(),
        while_it_ran(Bytes(left).to_string()),
        while_it_ran(small_bar),
        while_it_ran(Rate(round.dirty_rate).to_string()),
        Rate(round.wire_rate).to_string(),
        round.predicted_downtime_ms.map_or_else(|| "-".to_owned(), |ms| Millis(ms).to_string()),
        round.stalls.as_ref().map_or_else(|| "-".to_owned(), |stalls| Millis(stalls.kernel_ms).to_string()),
    ]
}

fn decisions(text: &mut String, report: &Report) {
    if report.decisions.is_empty() {
        return;
    }
    line!(text, "\nDecisions");
    for decision in &report.decisions {
        line!(text, "  {:>10}  {}", Millis(decision.at_ms), clean(&decision.text));
    }
}

fn following_lines(text: &mut String, following: &Following) {
    line!(text, "\nPages that followed the running machine");
    if let (Some(bytes), Some(requests)) = (following.bytes, following.requests) {
        line!(text, "  {:<26} {}", "sent", Bytes(bytes as f64));
        line!(text, "  {:<26} {}", "asked for", Count(requests));
    }
    if following.missing_pages > 0 {
        line!(text, "  {:<26} {}", "still missing", Count(following.missing_pages));
    }
    let Some(waits) = &following.waits else { return };
    line!(text, "  {}", distribution(waits));
    where_it_went(waits).into_iter().for_each(|sentence| line!(text, "  {sentence}"));
    for (index, ms) in waits.vcpu_block_ms.iter().enumerate() {
        line!(text, "  {:<26} {}", format!("vCPU {index} stood still"), Millis(*ms));
    }
    if waits.vcpu_block_ms.len() > 1 {
        line!(text, "  {:<26} {}", "all of them at once", Millis(waits.block_ms));
    }
}

/// How long accesses waited, in a sentence.
pub(crate) fn distribution(waits: &Waits) -> String {
    let time = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), |ms| Millis(ms).to_string());
    if waits.count == 0 {
        return "No access waited for a page.".into();
    }
    format!(
        "{} accesses waited for a page: {} on average, half of them at most {}, 99 % {}, 99.9 % {}, the longest {}.",
        Count(waits.count),
        time(waits.mean_ms),
        time(waits.p50_ms),
        time(waits.p99_ms),
        time(waits.p999_ms),
        time(waits.worst_ms)
    )
}

/// Where the time went that accesses waited, in a sentence; none where that was not measured.
pub(crate) fn where_it_went(waits: &Waits) -> Option<String> {
    let parts = [waits.under_way_ms, waits.receiving_ms, waits.placing_ms];
    let all: f64 = parts.iter().sum();
    let [under_way, receiving, placing] = parts.map(|part| format!("{:.0} %", 100.0 * part / all));
    (all > 0.0).then(|| {
        format!(
            "Of that time {under_way} passed until pages began to arrive, {receiving} while they were received, {placing} until the \
             machine had them; {} were on their way already when they were asked for.",
            Count(waits.pushed)
        )
    })
}

fn stall_lines(text: &mut String, stalls: &Stalls) {
    line!(text, "\nThe guest while pages were copied");
    let total = &stalls.total;
    if let Some(faults) = total.faults {
        line!(text, "  {:<26} {}", "page faults", Count(faults));
    }
    line!(text, "  {:<26} {}", "vCPUs in the kernel", Millis(total.kernel_ms));
    line!(text, "  {:<26} {}", "vCPUs waiting for a CPU", Millis(total.waiting_for_cpu_ms));
    line!(text, "  {}", clean(&stalls.measure));
}

fn integrity_lines(text: &mut String, integrity: &Integrity) {
    let found = match integrity.equal {
        Some(true) => "equal on both sides",
        Some(false) => "NOT equal",
        None => "not compared",
    };
    line!(text, "\nIntegrity: digest {}, {found}", clean(&integrity.level));
    for difference in &integrity.differences {
        line!(text, "  {}", clean(difference));
    }
}

fn arrived_table(text: &mut String, arrived: &Arrived) {
    let last = arrived
        .last_message
        .as_ref()
        .map_or_else(String::new, |last| format!(", the last was {}", clean(last)));
    line!(
        text,
        "\nWhat arrived: {} messages{last}; {} device states",
        Count(arrived.messages),
        arrived.device_states
    );
    if let Some(error) = &arrived.error {
        line!(text, "  control connection: {}", clean(error));
    }
    if arrived.channels.is_empty() {
        return;
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["channel", "frames", "bytes", "pages", "zero", "rounds", "last frame"]);
    for channel in &arrived.channels {
        table.add_row([
            channel.index.to_string(),
            Count(channel.frames).to_string(),
            Count(channel.bytes).to_string(),
            Count(channel.raw_pages).to_string(),
            Count(channel.zero_pages).to_string(),
            channel.rounds.to_string(),
            channel.last_frame.as_deref().map_or_else(|| "-".to_owned(), clean),
        ]);
    }
    for column in table.column_iter_mut().take(6) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    line!(text, "{table}");
    for channel in &arrived.channels {
        if let Some(error) = &channel.error {
            line!(text, "  channel {} at byte {}: {}", channel.index, Count(channel.bytes), clean(error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_share() {
        assert_eq!(bar(0.0, 10.0), "");
        assert_eq!(bar(10.0, 10.0).chars().count(), 24);
        assert_eq!(bar(5.0, 10.0), "█".repeat(12));
        assert_eq!(bar(1e-9, 10.0), "▏");
        for absurd in [f64::MAX, -1.0, f64::INFINITY, f64::NAN] {
            assert!(bar(absurd, 10.0).chars().count() <= 24);
            assert!(bar(1.0, absurd).chars().count() <= 24);
        }
    }

    fn minimal(side: &str, outcome: &str) -> Report {
        let json = format!(
            r#"{{"schema": 1, "side": "{side}", "outcome": "{outcome}", "began": "", "duration-ms": 1.0, "source": {{}},
               "destination": {{}}, "machine": {{"name": "", "memory-bytes": 1, "vcpus": 1}},
               "totals": {{"bytes": 1, "raw-pages": 1, "zero-pages": 0}}, "rounds": [], "decisions": [],
               "downtime": {{"phases": [{{"name": "load", "ms": 1.0}}]}}, "cpu-seconds": 0.0}}"#
        );
        Report::read(json.as_bytes()).unwrap()
    }

    #[test]
    fn a_downtime_that_a_side_cannot_know_is_not_said_to_have_no_end() {
        assert!(render(&minimal("destination", "completed")).contains("Downtime: only the source knows"));
        assert!(render(&minimal("source", "completed")).contains("Downtime: not known"));
        assert!(render(&minimal("source", "failed")).contains("Downtime: did not come to its end"));
    }

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        assert_eq!(clean("a\u{1b}[2Jb\r\u{202e}c"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}c");
    }
}
