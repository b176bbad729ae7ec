//! What is printed and written.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use comparison::{
    Comparison, MAX_BYTES, Mode, ReadError, Run, against, bars,
    figures::{self, Figure},
    html, published,
    scale::Plan,
    tables, timeline,
};

use super::Arguments;
use crate::rig::Memory;

/// A file that was asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShowError {
    /// It cannot be read.
    #[error("Cannot read {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    /// It is something else.
    #[error("{} is no comparison", path.display())]
    Read { path: PathBuf, source: ReadError },
    /// It cannot be written.
    #[error("Cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Reads what an earlier run has written.
pub(super) fn read(path: &Path) -> Result<Comparison, ShowError> {
    let failed = |source| ShowError::Open { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(failed(io::Error::other(format!(
            "it has more than {MAX_BYTES} bytes, the most that is read"
        ))));
    }
    Comparison::read(&bytes).map_err(|source| ShowError::Read { path: path.to_owned(), source })
}

/// Says what is about to be measured, and where.
pub(super) fn introduce(comparison: &Comparison) {
    introduction(comparison).iter().for_each(|sentence| output::say!("{sentence}"));
}

/// What was measured, and where, as sentences.
fn introduction(comparison: &Comparison) -> Vec<String> {
    let plan = &comparison.plan;
    let qemu = comparison.qemu.as_deref().map_or_else(String::new, |qemu| format!(" and {qemu}, in turns"));
    let what = format!(
        "Whimbrel{qemu}, {} times each, at a scale of {}: a guest with {} in {} ({} vCPU) that writes {} of it; downtime limit {} ms",
        plan.repetitions,
        plan.scale,
        Memory(plan.memory),
        plan.backing,
        plan.cpus,
        Memory(plan.work),
        plan.downtime_limit_ms
    );
    let link = format!("The link is {}", comparison.link);
    [what, link, comparison.host.clone()].into_iter().chain(comparison.notes.iter().cloned()).collect()
}

/// One move, on one line.
pub(super) fn line(run: &Run, plan: &Plan) -> String {
    let shown = |figure: &Figure| {
        (figure.of)(run, plan).map_or_else(|| "?".to_owned(), |value| tables::with_unit(figure.unit, value))
    };
    let name = format!("{:>3}  {:<9} {:<17}", run.repetition, run.contender, run.mode);
    if let Some(reason) = run.outcome.reason() {
        return format!("{name} {reason}");
    }
    format!(
        "{name} {}, {}, downtime {}, freeze {}, pings lost {}, work lost {}, {}",
        shown(&figures::TOTAL),
        shown(&figures::BANDWIDTH),
        shown(&figures::DOWNTIME),
        shown(&figures::FREEZE),
        shown(&figures::PINGS_LOST),
        shown(&figures::WORK_LOST),
        if run.complaints.is_empty() { "intact" } else { "NOT INTACT" }
    )
}

/// Prints all tables and verdicts. False if something has become worse than it was `earlier`, or nothing of it could be compared.
pub(super) fn print(arguments: &Arguments, comparison: &Comparison, earlier: Option<&Comparison>) -> bool {
    let mut all = tables::all(comparison);
    if !arguments.quick {
        all.push(bars::table(comparison));
    }
    all.iter().for_each(|table| output::say!("\n{}", table.text()));
    tables::remarks(comparison).iter().for_each(|remark| output::say!("{remark}"));
    if let Some(seconds) = comparison.took_s {
        output::say!("All of it took {:.0} minutes {:.0} s.", (seconds / 60.0).floor(), seconds % 60.0);
    }
    if comparison.is_intact() {
        output::say!(
            "Guests checked their pages all the time: no faults, no line lost, clocks never backwards."
        );
    }
    output::say!("\n{}", published::WHAT);
    published::tables().iter().for_each(|table| output::say!("\n{}", table.text()));
    let Some(earlier) = earlier else { return true };
    against::remarks(comparison, earlier).iter().for_each(|remark| output::say!("\n{remark}"));
    let found = against::against(comparison, earlier);
    if !found.changes.is_empty() {
        output::say!("\n{}", against::table(&found.changes).text());
    }
    found.sentences().iter().for_each(|sentence| output::say!("\n{sentence}"));
    found.is_as_good()
}

/// Writes the files that were asked for.
pub(super) fn write(
    arguments: &Arguments,
    comparison: &Comparison,
    earlier: Option<&Comparison>,
) -> Result<(), ShowError> {
    let keep = |path: &Option<PathBuf>, text: &dyn Fn() -> io::Result<String>| {
        let Some(path) = path else { return Ok(()) };
        let written = text().and_then(|text| fs::write(path, text));
        written.map_err(|source| ShowError::Write { path: path.clone(), source })?;
        output::say!("Written: {}", path.display());
        Ok(())
    };
    keep(&arguments.json, &|| Ok(serde_json::to_string(comparison)? + "\n"))?;
    keep(&arguments.html, &|| Ok(html::render(comparison, earlier)))?;
    keep(&arguments.markdown, &|| Ok(markdown(comparison)))?;
    keep(&arguments.picture, &|| {
        let run = pictured(comparison).ok_or_else(|| io::Error::other("nothing was moved"))?;
        Ok(timeline::alone(run, &comparison.plan))
    })
}

fn markdown(comparison: &Comparison) -> String {
    let scenarios = comparison.plan.gives.iter().map(|(scenario, _)| *scenario);
    let mut parts = introduction(comparison);
    parts.extend(scenarios.map(|scenario| figures::scenario_sentence(&comparison.plan, scenario)));
    parts.extend(
        tables::all(comparison).iter().chain([&bars::table(comparison)]).map(tables::Table::markdown),
    );
    let remarks = tables::remarks(comparison);
    parts.push(remarks.iter().map(|remark| format!("- {remark}")).collect::<Vec<_>>().join("\n"));
    parts.push(published::WHAT.to_owned());
    parts.extend(published::tables().iter().map(tables::Table::markdown));
    parts.retain(|part| !part.is_empty());
    parts.join("\n\n") + "\n"
}

/// Our default mode in the last scenario; where it was not measured, or is not suitable, the last that was moved.
fn pictured(comparison: &Comparison) -> Option<&Run> {
    let is_ours = |run: &&Run| run.mode == Mode::Default && run.is_completed();
    let newest_first = || comparison.runs.iter().rev();
    newest_first().find(is_ours).or_else(|| newest_first().next())
}
