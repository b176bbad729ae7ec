//! What has become worse since an earlier run: ratios to QEMU in the same run are compared, never times, so that two
//! hosts, or a busy and a quiet one, do not differ by themselves.

use crate::{
    Comparison, Contender, Mode, Scenario, Spread,
    figures::{self, Figure, Unit},
    tables::{Table, completed},
};

/// A figure whose ratio to QEMU's has changed by more than the noise.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Where.
    pub scenario: Scenario,
    /// In which of our modes.
    pub mode: Mode,
    /// Name of the figure.
    pub figure: &'static str,
    /// The ratio then; `None` where the mode was not suitable, not a number where QEMU had none.
    pub then: Option<f64>,
    /// The ratio now; `None` where the mode is not suitable, not a number where QEMU has none.
    pub now: Option<f64>,
}

/// All that can be said of two runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Against {
    /// For the worse and for the better.
    pub changes: Vec<Change>,
    /// How many figures were compared.
    pub compared: usize,
    /// What one of the two runs has no ratio of, though it measured that mode: scenario, mode, and names of figures.
    pub left_out: Vec<String>,
}

/// What is compared.
const FIGURES: [Figure; 8] = [
    figures::TOTAL,
    figures::DOWNTIME,
    figures::GAP,
    figures::FREEZE,
    figures::PINGS_LOST,
    figures::PING_GAP,
    figures::STALL,
    figures::WORK_LOST,
];
/// QEMU's is taken for no less, so that there is a ratio to nothing as well.
const LEAST: f64 = 0.1;
/// A median has to change by more than this part.
const MARGIN: f64 = 0.1;
/// The same where one of the two has been measured only once, and nobody knows how much it varies.
const MARGIN_OF_ONE: f64 = 0.5;

/// What has changed since an earlier run.
#[must_use]
pub fn against(now: &Comparison, then: &Comparison) -> Against {
    let mut against = Against::default();
    for scenario in Scenario::ALL {
        for mode in Mode::ALL {
            // Of what is in one of them only nothing can be said.
            if [now, then].iter().any(|of| of.cell(scenario, mode, Contender::Whimbrel).is_empty()) {
                continue;
            }
            let mut missing = Vec::new();
            for figure in &FIGURES {
                match compare(now, then, scenario, mode, figure) {
                    Some(change) => {
                        against.compared += 1;
                        against.changes.extend(change);
                    }
                    None => missing.push(figure.name),
                }
            }
            if !missing.is_empty() {
                against.left_out.push(format!("{scenario}, {mode}: {}", missing.join(", ")));
            }
        }
    }
    against
}

impl Against {
    /// Whether something was compared, and nothing has become worse.
    #[must_use]
    pub fn is_as_good(&self) -> bool {
        self.compared > 0 && !self.changes.iter().any(Change::is_worse)
    }

    /// What there is to say of it, as sentences.
    #[must_use]
    pub fn sentences(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        if self.compared == 0 {
            sentences.push(
                "Nothing could be compared: ratios to QEMU are, in modes that both runs measured. Measure both beside QEMU, with the same scenarios."
                    .to_owned(),
            );
        } else if self.changes.is_empty() {
            sentences.push(format!(
                "Nothing has changed by more than the noise, of {} figures that were compared.",
                self.compared
            ));
        }
        if self.compared > 0 && !self.left_out.is_empty() {
            sentences.push(format!(
                "Not compared, since one of the two runs has no such ratio: {}.",
                self.left_out.join("; ")
            ));
        }
        sentences
    }
}

impl Change {
    /// Whether it is for the worse.
    #[must_use]
    pub fn is_worse(&self) -> bool {
        match (self.then, self.now) {
            (Some(then), Some(now)) => now > then,
            (then, _) => then.is_some(),
        }
    }
}

/// As a table.
#[must_use]
pub fn table(changes: &[Change]) -> Table {
    let header = ["changed by more than the noise", "scenario", "figure", "then", "now", ""]
        .map(str::to_owned)
        .to_vec();
    let shown = |ratio: Option<f64>| {
        ratio.map_or_else(|| "not suitable".to_owned(), |ratio| format!("{ratio:.2} of QEMU's"))
    };
    let rows = changes.iter().map(|change| {
        let verdict = if change.is_worse() { "WORSE" } else { "better" };
        let Change { scenario, mode, figure, then, now } = change;
        vec![
            mode.to_string(),
            scenario.to_string(),
            (*figure).to_owned(),
            shown(*then),
            shown(*now),
            verdict.to_owned(),
        ]
    });
    Table { title: "against an earlier run".to_owned(), header, rows: rows.collect() }
}

/// Why ratios of the two may differ by themselves.
#[must_use]
pub fn remarks(now: &Comparison, then: &Comparison) -> Vec<String> {
    let mut remarks = Vec::new();
    let mut differ = |what: &str, now: String, then: String| {
        if now != then {
            remarks.push(format!("{what} differs: {now} now, {then} then. Ratios may differ by that alone."));
        }
    };
    let none = || "none".to_owned();
    differ("The scale", now.plan.scale.to_string(), then.plan.scale.to_string());
    differ("QEMU", now.qemu.clone().unwrap_or_else(none), then.qemu.clone().unwrap_or_else(none));
    differ("Guest memory", now.plan.backing.clone(), then.plan.backing.clone());
    differ("The link", now.link.clone(), then.link.clone());
    remarks
}

/// What a difference has to be, whatever the ratio: what is less, nobody feels, and it is in the noise of any host.
fn felt(unit: Unit) -> f64 {
    match unit {
        Unit::Seconds => 0.05,
        Unit::Milliseconds => 10.0,
        Unit::Number => 2.0,
        Unit::Percent => 1.0,
        Unit::MegabytesPerSecond => 0.0,
    }
}

/// A change, or that there is none; `None` where they cannot be compared.
fn compare(
    now: &Comparison,
    then: &Comparison,
    scenario: Scenario,
    mode: Mode,
    figure: &Figure,
) -> Option<Option<Change>> {
    let runs = |of: &Comparison| of.cell(scenario, mode, Contender::Whimbrel).len();
    let change =
        |then: Option<f64>, now: Option<f64>| Some(Change { scenario, mode, figure: figure.name, then, now });
    let is_suitable =
        |of: &Comparison| of.cell(scenario, mode, Contender::Whimbrel).iter().all(|run| run.is_completed());
    match (is_suitable(then), is_suitable(now)) {
        (true, true) => {
            let (old, _) = ratio(then, scenario, mode, figure)?;
            let (new, theirs) = ratio(now, scenario, mode, figure)?;
            if (new.median - old.median).abs() * theirs < felt(figure.unit) {
                return Some(None);
            }
            let margin = if runs(now).min(runs(then)) < 2 { MARGIN_OF_ONE } else { MARGIN };
            let worse = new.median > old.median * (1.0 + margin) && new.least > old.most;
            let better = new.median * (1.0 + margin) < old.median && new.most < old.least;
            Some(if worse || better { change(Some(old.median), Some(new.median)) } else { None })
        }
        // Once, by the figure that every move has; a ratio there is only where QEMU has one.
        (was, is) if was != is && figure.name == figures::TOTAL.name => {
            let of = |suitable: bool, comparison| {
                suitable.then(|| {
                    ratio(comparison, scenario, mode, figure).map_or(f64::NAN, |(ratio, _)| ratio.median)
                })
            };
            Some(change(of(was, then), of(is, now)))
        }
        _ => None,
    }
}

/// Ours by QEMU's in the same mode, and QEMU's; of our default by QEMU's generic, which is its default.
fn ratio(of: &Comparison, scenario: Scenario, mode: Mode, figure: &Figure) -> Option<(Spread, f64)> {
    let theirs = if mode == Mode::Default { Mode::Generic } else { mode };
    let ours = completed(of, figure, &of.cell(scenario, mode, Contender::Whimbrel))?;
    let theirs = completed(of, figure, &of.cell(scenario, theirs, Contender::Qemu))?;
    let by = |ours: f64, theirs: f64| ours.max(0.0) / theirs.max(LEAST);
    let ratio = Spread {
        least: by(ours.least, theirs.most),
        median: by(ours.median, theirs.median),
        most: by(ours.most, theirs.least),
    };
    Some((ratio, theirs.median.max(LEAST)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Outcome, Run, scale::Plan};

    /// Total times of ours and of QEMU's, in milliseconds; `None` is not suitable.
    fn measured(ours: &[Option<f64>], theirs: &[f64]) -> Comparison {
        let run = |contender, repetition, end_ms: Option<f64>| Run {
            outcome: end_ms.map_or_else(|| Outcome::NotSuitable("slow".into()), |_| Outcome::Completed),
            end_ms: end_ms.unwrap_or(0.0),
            ..Run::new(Scenario::S1, Mode::Multifd, contender, repetition)
        };
        let ours = (1..).zip(ours).map(|(n, ms)| run(Contender::Whimbrel, n, *ms));
        let theirs = (1..).zip(theirs).map(|(n, ms)| run(Contender::Qemu, n, Some(*ms)));
        Comparison {
            version: Comparison::VERSION,
            host: String::new(),
            qemu: Some("QEMU 7".into()),
            link: String::new(),
            plan: Plan {
                scale: "1/16".parse().unwrap(),
                memory: 1 << 30,
                work: 1 << 27,
                cpus: 1,
                backing: String::new(),
                downtime_limit_ms: 300,
                repetitions: 3,
                gives: Vec::new(),
            },
            notes: Vec::new(),
            took_s: None,
            runs: ours.chain(theirs).collect(),
        }
    }

    fn some(times: &[f64]) -> Vec<Option<f64>> {
        times.iter().copied().map(Some).collect()
    }

    #[test]
    fn a_slower_host_is_no_change_and_a_worse_ratio_is() {
        let then = measured(&some(&[500.0, 510.0, 520.0]), &[1000.0, 1010.0, 1020.0]);
        let slower_host = measured(&some(&[1000.0, 1020.0, 1040.0]), &[2000.0, 2020.0, 2040.0]);
        assert_eq!(against(&slower_host, &then).changes, []);
        let worse = measured(&some(&[800.0, 810.0, 820.0]), &[1000.0, 1010.0, 1020.0]);
        let found = against(&worse, &then);
        assert!(!found.is_as_good() && found.compared == 1, "{found:?}");
        let found = found.changes;
        assert_eq!(found.len(), 1);
        assert!(found[0].is_worse() && found[0].figure == "total-time", "{found:?}");
        assert!(!against(&then, &worse).changes[0].is_worse());
    }

    #[test]
    fn what_varies_as_much_is_noise() {
        let then = measured(&some(&[500.0, 600.0, 900.0]), &[1000.0, 1010.0, 1020.0]);
        let now = measured(&some(&[800.0, 810.0, 820.0]), &[1000.0, 1010.0, 1020.0]);
        assert_eq!(against(&now, &then).changes, []);
        let (then, now) = (measured(&some(&[500.0]), &[1000.0]), measured(&some(&[700.0]), &[1000.0]));
        assert_eq!(against(&now, &then).changes, [], "nobody knows how much it varies");
    }

    #[test]
    fn where_there_is_no_peer_nothing_can_be_compared_and_that_is_not_as_good() {
        let then = measured(&some(&[500.0, 510.0]), &[1000.0, 1010.0]);
        let found = against(&measured(&some(&[5000.0, 5100.0]), &[]), &then);
        assert_eq!((found.changes.len(), found.compared, found.is_as_good()), (0, 0, false));
        assert!(found.left_out[0].starts_with("S1, multifd: total-time"), "{found:?}");
        assert!(found.sentences()[0].starts_with("Nothing could be compared"));
    }

    #[test]
    fn what_nobody_feels_has_not_changed() {
        // Downtimes of 2 ms and 8 ms of QEMU's 300, and of 20 and 80.
        let with = |ours: f64| {
            let mut comparison = measured(&some(&[500.0, 510.0]), &[1000.0, 1010.0]);
            for run in &mut comparison.runs {
                let downtime = if run.contender == Contender::Qemu { 300.0 } else { ours };
                (run.stop_ms, run.resume_ms) = (Some(0.0), Some(downtime));
            }
            comparison
        };
        assert_eq!(against(&with(8.0), &with(2.0)).changes, []);
        let found = against(&with(80.0), &with(20.0)).changes;
        assert!(found.len() == 1 && found[0].figure == "downtime" && found[0].is_worse(), "{found:?}");
    }

    #[test]
    fn a_mode_that_is_not_suitable_any_more_is_worse() {
        let then = measured(&some(&[500.0, 510.0]), &[1000.0, 1010.0]);
        let now = measured(&[Some(500.0), None], &[1000.0, 1010.0]);
        let found = against(&now, &then).changes;
        assert!(found.len() == 1 && found[0].is_worse() && found[0].now.is_none(), "{found:?}");
        assert!(!against(&then, &now).changes[0].is_worse());
        assert_eq!(table(&found).rows[0][4], "not suitable");
    }
}
