use std::fmt::Write as _;

use super::{
    escape,
    following::following_section,
    parts::{bytes, millis, pages, rate, section, table},
    plot::{self, Bar, Line, Piece},
    style::STYLE,
};
use crate::{
    Arrived, Downtime, Integrity, Outcome, Report, Stalls,
    quantity::{Count, Millis},
    text::{encoded, party, protection},
};

/// The whole page.
#[must_use]
pub fn render(report: &Report) -> String {
    let title = format!("Migration of {}: {}", report.machine.name, report.outcome.name());
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{}</title><style>{STYLE}</style></head><body>\n",
        escape(&title)
    );
    head(&mut page, report);
    if let Some(downtime) = &report.downtime {
        downtime_section(&mut page, downtime, report);
    }
    round_plots(&mut page, report);
    if let Some(following) = &report.following {
        following_section(&mut page, following);
    }
    if let Some(stalls) = &report.stalls {
        stall_section(&mut page, stalls, report);
    }
    decisions(&mut page, report);
    round_table(&mut page, report);
    if let Some(integrity) = &report.integrity {
        integrity_section(&mut page, integrity);
    }
    if let Some(arrived) = &report.arrived {
        arrived_section(&mut page, arrived);
    }
    facts(&mut page, report);
    page.push_str("</body></html>\n");
    page
}

fn head(page: &mut String, report: &Report) {
    let class = match report.outcome {
        Outcome::Completed => "good",
        Outcome::Cancelled | Outcome::UnderWay => "faint",
        Outcome::Failed | Outcome::Unresolved => "bad",
    };
    let _ = write!(
        page,
        "<h1>Migration of {}: <span class=\"{class}\">{}</span></h1><p class=\"faint\">as the {} saw it; began {}</p>",
        escape(&report.machine.name),
        report.outcome.name(),
        report.side.name(),
        escape(&report.began)
    );
    if let Some(reason) = &report.reason {
        let _ = write!(page, "<p>{}</p>", escape(reason));
    }
    let tile = |name: &str, value: String| {
        format!("<div><b>{}</b><span class=\"faint\">{name}</span></div>", escape(&value))
    };
    let mut tiles = tile("total time", millis(report.duration_ms));
    if let Some(total) = report.downtime.as_ref().and_then(|downtime| downtime.total_ms) {
        tiles += &tile("downtime", millis(total));
    }
    tiles += &tile("on the wire", bytes(report.totals.bytes as f64));
    if !report.rounds.is_empty() {
        tiles += &tile(
            "rounds",
            pages((report.rounds.len() as u64).saturating_add(report.rounds_left_out) as f64),
        );
    }
    tiles += &tile("CPU on this side", format!("{:.2} s", report.cpu_seconds));
    let _ = writeln!(page, "<section class=\"tiles\">{tiles}</section>");
}

fn downtime_section(page: &mut String, downtime: &Downtime, report: &Report) {
    // What goes on beside another phase is not part of the sum.
    let pieces: Vec<_> = downtime
        .phases
        .iter()
        .filter(|phase| !phase.beside)
        .map(|phase| Piece { name: phase.name.clone(), value: phase.ms })
        .collect();
    let limit = report.parameters.as_ref().map(|parameters| parameters.downtime_limit_ms as f64);
    let mut body = plot::strip("Downtime by phase", &pieces, limit, millis);
    let beside = downtime.phases.iter().filter(|phase| phase.beside);
    let beside: Vec<_> = beside.map(|phase| format!("{} {}", phase.name, millis(phase.ms))).collect();
    if !beside.is_empty() {
        let _ = write!(body, "<p class=\"faint\">Beside the last pages: {}</p>", escape(&beside.join(", ")));
    }
    if let Some(predicted) = downtime.predicted_ms {
        let _ = write!(
            body,
            "<p class=\"faint\">Foretold when the switchover was decided: {}</p>",
            escape(&millis(predicted))
        );
    }
    section(page, "Downtime by phase", &body);
}

fn round_plots(page: &mut String, report: &Report) {
    let Some(first) = report.rounds.first() else { return };
    let end = |round: &crate::Round| round.began_ms + round.duration_ms;
    let mut left = Vec::new();
    if report.rounds_left_out == 0 {
        left.push((first.began_ms, report.machine.memory_bytes as f64));
    }
    left.extend(report.rounds.iter().map(|round| (end(round), round.remaining_bytes as f64)));
    let line = |name: &str, points| Line { name: name.into(), points };
    section(
        page,
        "Bytes left to send, at the end of each round",
        &plot::lines("Bytes left to send", &[line("left to send", left)], bytes, millis),
    );
    // A rate holds for the whole round: a step, not a slope.
    let steps = |value: fn(&crate::Round) -> f64, with_last: bool| -> Vec<(f64, f64)> {
        let rounds = report.rounds.iter().filter(|round| with_last || !round.last);
        rounds.flat_map(|round| [(round.began_ms, value(round)), (end(round), value(round))]).collect()
    };
    let rates = [
        line("dirtied by the guest", steps(|round| round.dirty_rate, false)),
        line("on the wire", steps(|round| round.wire_rate, true)),
    ];
    section(page, "Dirty rate and wire rate", &plot::lines("Rates by round", &rates, rate, millis));
    let kinds = report.rounds.iter().map(|round| Bar {
        name: round.round.to_string(),
        parts: vec![round.raw_pages as f64, round.zero_pages as f64],
    });
    let kinds: Vec<_> = kinds.collect();
    section(
        page,
        "Pages by kind, each round",
        &plot::bars("Pages by kind", &["with contents", "zero"], &kinds, pages),
    );
}

fn stall_section(page: &mut String, stalls: &Stalls, report: &Report) {
    let rounds = report.rounds.iter().filter_map(|round| Some((round.round, round.stalls.as_ref()?)));
    let bars = rounds.map(|(number, stalls)| Bar {
        name: number.to_string(),
        parts: vec![stalls.kernel_ms, stalls.waiting_for_cpu_ms],
    });
    let bars: Vec<_> = bars.collect();
    let names = ["in the kernel", "waiting for a CPU"];
    let mut body = plot::bars("What vCPUs lost by round", &names, &bars, millis);
    let total = &stalls.total;
    let faults = total.faults.map_or_else(String::new, |faults| format!("{} page faults; ", Count(faults)));
    let sums = format!(
        "{faults}{} in the kernel, {} waiting for a CPU.",
        Millis(total.kernel_ms),
        Millis(total.waiting_for_cpu_ms)
    );
    let _ = write!(body, "<p>{}</p><p class=\"faint\">{}</p>", escape(&sums), escape(&stalls.measure));
    section(page, "What the guest felt while pages were copied", &body);
}

fn decisions(page: &mut String, report: &Report) {
    if report.decisions.is_empty() {
        return;
    }
    let item = |decision: &crate::Decision| {
        format!(
            "<li><time>{}</time><span>{}</span></li>",
            escape(&millis(decision.at_ms)),
            escape(&decision.text)
        )
    };
    let items: String = report.decisions.iter().map(item).collect();
    section(page, "Decisions", &format!("<ol>{items}</ol>"));
}

fn round_table(page: &mut String, report: &Report) {
    if report.rounds.is_empty() {
        return;
    }
    let rows = report.rounds.iter().map(|round| {
        vec![
            if round.last { format!("{} (last)", round.round) } else { round.round.to_string() },
            millis(round.duration_ms),
            bytes(round.bytes as f64),
            Count(round.raw_pages).to_string(),
            Count(round.zero_pages).to_string(),
            bytes(round.remaining_bytes as f64),
            rate(round.dirty_rate),
            rate(round.wire_rate),
            round.predicted_downtime_ms.map_or_else(|| "–".to_owned(), millis),
        ]
    });
    let header =
        ["round", "took", "sent", "pages", "zero", "left", "dirty rate", "wire rate", "foretold downtime"];
    let mut body = table(&header, rows);
    if report.rounds_left_out > 0 {
        let _ = write!(
            body,
            "<p class=\"faint\">{} rounds before these are only in the sums.</p>",
            Count(report.rounds_left_out)
        );
    }
    section(page, "Rounds", &body);
}

fn integrity_section(page: &mut String, integrity: &Integrity) {
    let (class, found) = match integrity.equal {
        Some(true) => ("good", "equal on both sides"),
        Some(false) => ("bad", "not equal"),
        None => ("faint", "not compared"),
    };
    let mut body =
        format!("<p>Digest {}: <span class=\"{class}\">{found}</span></p>", escape(&integrity.level));
    for difference in &integrity.differences {
        let _ = write!(body, "<p>{}</p>", escape(difference));
    }
    section(page, "Integrity", &body);
}

fn arrived_section(page: &mut String, arrived: &Arrived) {
    let last =
        arrived.last_message.as_ref().map_or_else(String::new, |last| format!(", the last was {last}"));
    let mut body = format!(
        "<p>{} messages{}; {} device states</p>",
        Count(arrived.messages),
        escape(&last),
        arrived.device_states
    );
    if let Some(error) = &arrived.error {
        let _ = write!(body, "<p class=\"bad\">Control connection: {}</p>", escape(error));
    }
    let rows = arrived.channels.iter().map(|channel| {
        vec![
            channel.index.to_string(),
            Count(channel.frames).to_string(),
            Count(channel.bytes).to_string(),
            Count(channel.raw_pages).to_string(),
            Count(channel.zero_pages).to_string(),
            channel.rounds.to_string(),
            channel.last_frame.clone().unwrap_or_else(|| "–".into()),
        ]
    });
    if !arrived.channels.is_empty() {
        body += &table(&["channel", "frames", "bytes", "pages", "zero", "rounds", "last frame"], rows);
    }
    for channel in &arrived.channels {
        if let Some(error) = &channel.error {
            let _ = write!(
                body,
                "<p class=\"bad\">Channel {} at byte {}: {}</p>",
                channel.index,
                Count(channel.bytes),
                escape(error)
            );
        }
    }
    section(page, "What arrived", &body);
}

fn facts(page: &mut String, report: &Report) {
    let machine = &report.machine;
    let mut facts = vec![
        ("machine", format!("{}, {} vCPUs", bytes(machine.memory_bytes as f64), machine.vcpus)),
        ("source", party(&report.source)),
        ("destination", party(&report.destination)),
        ("setup", millis(report.totals.setup_ms)),
        (
            "pages",
            format!(
                "{} with contents, {} zero",
                Count(report.totals.raw_pages),
                Count(report.totals.zero_pages)
            ),
        ),
    ];
    facts.extend(report.session.clone().map(|session| ("session", session)));
    facts.extend(machine.uuid.clone().map(|uuid| ("UUID", uuid)));
    facts.extend(report.security.as_ref().map(|security| ("protection", protection(security))));
    facts.extend(report.encodings.iter().flat_map(encoded).map(|what| ("encoded", what)));
    if let Some(parameters) = &report.parameters {
        facts.extend([
            ("channels", parameters.channels.to_string()),
            ("downtime limit", format!("{} ms", parameters.downtime_limit_ms)),
            ("bandwidth limit", limit(parameters.max_bandwidth)),
            ("bandwidth in the last pass", limit(parameters.switchover_bandwidth)),
            ("digest", parameters.digest.clone()),
        ]);
    }
    let item = |(name, value): (&str, String)| format!("<dt>{name}</dt><dd>{}</dd>", escape(&value));
    let list: String = facts.into_iter().map(item).collect();
    section(page, "Machine and parameters", &format!("<dl>{list}</dl>"));
}

fn limit(bytes_each_second: u64) -> String {
    if bytes_each_second == 0 { "none given".into() } else { rate(bytes_each_second as f64) }
}
