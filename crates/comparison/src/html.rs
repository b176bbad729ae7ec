//! All of it as one page that needs nothing else: no scripts, no fonts, no pictures from elsewhere.

use std::fmt::Write as _;

use report::html::{STYLE, escape, section, table};

use crate::{
    Comparison, Run, Scenario, against, bars,
    figures::{self, scenario_sentence},
    published,
    tables::{self, PUBLISHED, Table},
    timeline,
};

/// The whole page. `earlier` is what it is compared with, if there is something.
#[must_use]
pub fn render(comparison: &Comparison, earlier: Option<&Comparison>) -> String {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>Live migration compared</title><style>{STYLE}{MORE}</style></head><body>\n"
    );
    head(&mut page, comparison);
    let all = tables::all(comparison);
    let (five, felt) = all.split_at(PUBLISHED.min(all.len()));
    section(&mut page, "Total time, bandwidth, downtime, video and pings", &several(five));
    section(&mut page, "Goals", &one(&bars::table(comparison)));
    if let Some(earlier) = earlier {
        let found = against::against(comparison, earlier);
        let mut body = one(&against::table(&found.changes));
        for sentence in found.sentences() {
            let _ = write!(body, "<p>{}</p>", escape(&sentence));
        }
        for remark in against::remarks(comparison, earlier) {
            let _ = write!(body, "<p class=\"faint\">{}</p>", escape(&remark));
        }
        section(&mut page, "Against an earlier run", &body);
    }
    for scenario in Scenario::ALL {
        time_lines(&mut page, comparison, scenario);
    }
    section(&mut page, "What else was felt", &several(felt));
    let remarks: String =
        tables::remarks(comparison).iter().map(|remark| format!("<p>{}</p>", escape(remark))).collect();
    section(&mut page, "Remarks", &remarks);
    let body = format!("<p class=\"faint\">{}</p>{}", escape(published::WHAT), several(&published::tables()));
    section(&mut page, "Published figures, for orientation", &body);
    page.push_str("</body></html>\n");
    page
}

/// Beyond the style of reports.
const MORE: &str = "
td:first-child, th:first-child { text-align: left; }
.several { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1rem 2rem; }
summary { cursor: pointer; padding: .2rem 0; }
";

fn head(page: &mut String, comparison: &Comparison) {
    let qemu = comparison.qemu.as_deref().map_or_else(String::new, |qemu| format!(" and {qemu}"));
    let plan = &comparison.plan;
    let _ = write!(
        page,
        "<h1>Live migration: Whimbrel{}</h1><p class=\"faint\">{}</p>",
        escape(&qemu),
        escape(&comparison.host)
    );
    let mut body = format!(
        "<p>Each moved {} times, in turns; medians, with the least and the most. At a scale of {} (bandwidth, time): a guest with {} MiB in {} ({} vCPU) that \
         writes {} MiB of it; downtime limit {} ms. The link is {}.</p>",
        plan.repetitions,
        plan.scale,
        plan.memory >> 20,
        escape(&plan.backing),
        plan.cpus,
        plan.work >> 20,
        plan.downtime_limit_ms,
        escape(&comparison.link)
    );
    for scenario in Scenario::ALL {
        let _ = write!(body, "<p>{}</p>", escape(&scenario_sentence(plan, scenario)));
    }
    for note in &comparison.notes {
        let _ = write!(body, "<p class=\"bad\">{}</p>", escape(note));
    }
    section(page, "What was measured", &body);
}

fn time_lines(page: &mut String, comparison: &Comparison, scenario: Scenario) {
    let runs: Vec<_> = comparison.runs.iter().filter(|run| run.scenario == scenario).collect();
    if runs.is_empty() {
        return;
    }
    let body: String = runs.into_iter().map(|run| time_line(run, comparison)).collect();
    section(page, &format!("{scenario}: every move over time"), &body);
}

/// Open where it is the first of its kind by ours: people look at pictures before they read.
fn time_line(run: &Run, comparison: &Comparison) -> String {
    let is_first = run.repetition == 1 && run.mode == crate::Mode::Default;
    let shown = |figure: &figures::Figure| {
        (figure.of)(run, &comparison.plan)
            .map_or_else(|| "?".to_owned(), |value| tables::with_unit(figure.unit, value))
    };
    let outcome = run.outcome.reason().unwrap_or_else(|| {
        format!(
            "{}, downtime {}, freeze {}",
            shown(&figures::TOTAL),
            shown(&figures::DOWNTIME),
            shown(&figures::FREEZE)
        )
    });
    format!(
        "<details{}><summary>{}, {}, {}: {}</summary>{}</details>",
        if is_first { " open" } else { "" },
        run.mode,
        run.contender,
        run.repetition,
        escape(&outcome),
        timeline::part(run, &comparison.plan)
    )
}

fn several(tables: &[Table]) -> String {
    let tables: String = tables.iter().map(|table| format!("<div>{}</div>", one(table))).collect();
    format!("<div class=\"several\">{tables}</div>")
}

fn one(given: &Table) -> String {
    let header: Vec<_> = given.header.iter().map(String::as_str).collect();
    table(&header, given.rows.iter().cloned())
}
