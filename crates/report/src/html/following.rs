use std::fmt::Write as _;

use super::{
    escape,
    parts::{millis, pages, section},
    plot::{self, Bar, Line},
};
use crate::{
    Following, Waits,
    quantity::{Bytes, Count},
    text::{distribution, where_it_went},
};

/// How pages followed the machine.
pub(super) fn following_section(page: &mut String, following: &Following) {
    let mut body = String::new();
    if let (Some(bytes), Some(requests)) = (following.bytes, following.requests) {
        let _ = write!(
            body,
            "<p>{} followed the machine; {} pages were asked for.</p>",
            Bytes(bytes as f64),
            Count(requests)
        );
    }
    if following.missing_pages > 0 {
        let _ = write!(body, "<p class=\"bad\">{} pages have not come.</p>", Count(following.missing_pages));
    }
    if let Some(waits) = &following.waits {
        wait_plots(&mut body, waits);
    }
    section(page, "Pages that followed the running machine", &body);
}

fn wait_plots(body: &mut String, waits: &Waits) {
    let _ = write!(body, "<p>{}</p>", escape(&distribution(waits)));
    let vcpus: Vec<_> = waits.vcpu_block_ms.iter().map(|ms| millis(*ms)).collect();
    if !vcpus.is_empty() {
        let all = millis(waits.block_ms);
        let sentence = format!("vCPUs stood still for {}; all of them at once for {all}.", vcpus.join(", "));
        let _ = write!(body, "<p>{}</p>", escape(&sentence));
    }
    if let Some(sentence) = where_it_went(waits) {
        let _ = write!(body, "<p>{}</p>", escape(&sentence));
    }
    let line = |name: &str, value: fn(&crate::WaitStep) -> u64| Line {
        name: name.into(),
        points: (1..)
            .zip(&waits.steps)
            .map(|(n, step)| (f64::from(n) * waits.step_ms, value(step) as f64))
            .collect(),
    };
    if !waits.steps.is_empty() {
        let missing = [line("missing at the end of the step", |step| step.missing_pages)];
        *body += &plot::lines("Pages that were missing", &missing, pages, millis);
        let faults = [line("accesses that waited, each step", |step| step.faults)];
        *body += &plot::lines("Accesses that waited", &faults, pages, millis);
    }
    let bars = (1..)
        .zip(&waits.histogram)
        .map(|(power, count)| Bar { name: format!("< {}", micros(power)), parts: vec![*count as f64] });
    let bars: Vec<_> = bars.skip_while(|bar| bar.parts == [0.0]).collect();
    if !bars.is_empty() {
        *body += &plot::bars("How long accesses waited", &["accesses"], &bars, pages);
    }
}

/// A power of two of microseconds, in few characters.
fn micros(power: i32) -> String {
    match 2_f64.powi(power) {
        us if us < 1e3 => format!("{us:.0} µs"),
        us if us < 1e6 => format!("{:.0} ms", us / 1e3),
        us => format!("{:.0} s", us / 1e6),
    }
}
