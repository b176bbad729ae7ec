//! One move as a picture: what was on the wire, what the guest did, and what came to its users, with the switchover
//! marked.

use std::fmt::Write as _;

use report::html::{STYLE, escape};

use crate::{Run, felt, figures, scale::Plan};

const WIDTH: f64 = 900.0;
/// What names take at the left, and scales at the right.
const LEFT: f64 = 150.0;
const RIGHT: f64 = 74.0;
const TOP: f64 = 26.0;
/// Height of one track, and the room between two.
const TRACK: f64 = 44.0;
const BETWEEN: f64 = 10.0;
const BOTTOM: f64 = 26.0;
/// What is shown of the time before, in milliseconds.
const BEFORE_MS: f64 = 1000.0;
/// Steps of rates, in milliseconds: of the wire, and of what the guest and the stream do.
const WIRE_STEP_MS: f64 = 50.0;
/// Marks that are drawn: more cannot be told apart, and a file may have any number.
const MOST_MARKS: usize = 20_000;

/// Tracks from the top down.
const TRACKS: [&str; 6] = [
    "on the wire",
    "written by the guest",
    "TCP stream taken",
    "frames, 25/s",
    "frames, 60/s",
    "ping, 10 ms",
];

/// A picture that is part of a page with [`STYLE`].
#[must_use]
pub fn part(run: &Run, plan: &Plan) -> String {
    Picture::new(run, plan).drawn("")
}

/// A picture by itself, with its style.
#[must_use]
pub fn alone(run: &Run, plan: &Plan) -> String {
    Picture::new(run, plan).drawn(&format!("<style>{STYLE}</style>"))
}

struct Picture<'a> {
    run: &'a Run,
    plan: &'a Plan,
    from: f64,
    to: f64,
}

impl<'a> Picture<'a> {
    fn new(run: &'a Run, plan: &'a Plan) -> Self {
        // A day at most: a file may say anything.
        let to = figures::window(run).end.clamp(100.0, 86_400_000.0);
        Self { run, plan, from: -BEFORE_MS, to }
    }

    fn drawn(&self, style: &str) -> String {
        let height = TOP + TRACKS.len() as f64 * (TRACK + BETWEEN) + BOTTOM;
        let run = self.run;
        let title =
            format!("{}, {} of {}, repetition {}", run.scenario, run.mode, run.contender, run.repetition);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">{style}<title>{}</title>\
             <rect width=\"{WIDTH}\" height=\"{height}\" style=\"fill:var(--card)\"/>",
            escape(&title)
        );
        self.switchover(&mut svg, height - BOTTOM);
        for (index, name) in TRACKS.iter().enumerate() {
            let base = TOP + (index as f64 + 1.0) * (TRACK + BETWEEN) - BETWEEN;
            let _ = write!(
                svg,
                "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{base:.1}\" y2=\"{base:.1}\"/>",
                WIDTH - RIGHT
            );
            text(&mut svg, (LEFT - 8.0, base - TRACK / 2.0 + 4.0), "end", name);
        }
        self.rates(&mut svg);
        self.frames(&mut svg, 3, &run.trace.frames_25);
        self.frames(&mut svg, 4, &run.trace.frames_60);
        self.pings(&mut svg);
        self.time(&mut svg, height - 8.0);
        svg.push_str("</svg>");
        svg
    }

    fn switchover(&self, svg: &mut String, bottom: f64) {
        if let (Some(stop), Some(resume)) = (self.run.stop_ms, self.run.resume_ms) {
            let (left, right) = (self.x(stop), self.x(resume));
            let _ = write!(
                svg,
                "<rect x=\"{left:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" style=\"fill:var(--bad);opacity:.25\"><title>switchover</title></rect>",
                TOP - 6.0,
                (right - left).max(1.0),
                bottom - TOP + 6.0
            );
            let side = if left > WIDTH / 2.0 { "end" } else { "start" };
            text(svg, (left, TOP - 10.0), side, &format!("switchover, {:.0} ms", resume - stop));
        }
        for (at, name) in [(0.0, "asked for"), (self.run.over_ms(), "over")] {
            let x = self.x(at);
            let _ = write!(
                svg,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{bottom:.1}\" style=\"stroke:var(--faint)\" stroke-dasharray=\"3 3\"><title>{name}</title></line>",
                TOP - 6.0
            );
        }
    }

    fn rates(&self, svg: &mut String) {
        let trace = &self.run.trace;
        let wire = felt::rates(&trace.wire, WIRE_STEP_MS);
        self.line(svg, 0, "--a", &wire, self.plan.bandwidth(self.run.scenario) as f64);
        let work = felt::rates(&trace.work, felt::STEP_MS);
        self.line(svg, 1, "--b", &work, self.plan.dirty_rate(self.run.scenario) as f64);
        let stream = felt::rates(&trace.stream, felt::STEP_MS);
        self.line(svg, 2, "--c", &stream, 0.0);
    }

    /// A rate over time, with a line at what it is to be.
    fn line(&self, svg: &mut String, track: usize, colour: &str, rates: &[[f64; 2]], wanted: f64) {
        let shown =
            || rates.iter().filter(|point| (self.from..=self.to).contains(&point[0])).take(MOST_MARKS);
        let most = shown().map(|point| point[1]).filter(|rate| rate.is_finite()).fold(wanted, f64::max);
        if most <= 0.0 {
            return;
        }
        let base = base(track);
        let y = |rate: f64| base - TRACK * (rate / most).clamp(0.0, 1.0);
        if wanted > 0.0 {
            let _ = write!(
                svg,
                "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>",
                WIDTH - RIGHT,
                at = y(wanted)
            );
        }
        let points: Vec<_> =
            shown().map(|point| format!("{:.1},{:.1}", self.x(point[0]), y(point[1]))).collect();
        let _ = write!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" style=\"stroke:var({colour})\" stroke-width=\"1.5\"/>",
            points.join(" ")
        );
        text(svg, (WIDTH - RIGHT + 6.0, base - TRACK + 9.0), "start", &megabytes(most));
    }

    /// A stroke for each frame: where there is none, the picture stands still.
    fn frames(&self, svg: &mut String, track: usize, frames: &[[f64; 2]]) {
        let shown = frames.iter().filter(|frame| (self.from..=self.to).contains(&frame[0])).take(MOST_MARKS);
        let base = base(track);
        let mut path = String::new();
        for frame in shown {
            let _ = write!(path, "M{:.1} {base:.0}v-{:.0}", self.x(frame[0]), TRACK * 0.8);
        }
        let _ = write!(svg, "<path d=\"{path}\" style=\"stroke:var(--d)\" stroke-width=\".6\"/>");
    }

    /// The longest answer in each place, and a stroke for each that is lost.
    fn pings(&self, svg: &mut String) {
        let base = base(TRACKS.len() - 1);
        let shown: Vec<_> = self
            .run
            .trace
            .pings_10ms
            .iter()
            .filter(|ping| (self.from..=self.to).contains(&ping.0))
            .take(MOST_MARKS)
            .collect();
        let longest = shown.iter().filter_map(|ping| ping.1).filter(|ms| ms.is_finite()).fold(1.0, f64::max);
        let (mut answers, mut lost) = (String::new(), String::new());
        for (at, answer) in shown {
            let x = self.x(*at);
            match answer {
                Some(ms) => {
                    let _ =
                        write!(answers, "M{x:.1} {base:.0}v-{:.1}", TRACK * (ms / longest).clamp(0.02, 1.0));
                }
                None => {
                    let _ = write!(lost, "M{x:.1} {base:.0}v-{TRACK}");
                }
            }
        }
        let _ = write!(
            svg,
            "<path d=\"{answers}\" style=\"stroke:var(--f)\" stroke-width=\"1\"/><path d=\"{lost}\" style=\"stroke:var(--bad)\" stroke-width=\"1\"><title>lost</title></path>"
        );
        text(svg, (WIDTH - RIGHT + 6.0, base - TRACK + 9.0), "start", &format!("{longest:.0} ms"));
    }

    /// At whole steps, about eight of them.
    fn time(&self, svg: &mut String, y: f64) {
        let rough = (self.to - self.from) / 8.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        // Bounded by the choice of the step.
        let mut at = (self.from / step).ceil() * step;
        while at <= self.to {
            text(svg, (self.x(at), y), "middle", &format!("{} s", (at / 10.0).round() / 100.0));
            at += step;
        }
    }

    fn x(&self, at: f64) -> f64 {
        let share = ((at - self.from) / (self.to - self.from)).clamp(0.0, 1.0);
        LEFT + (WIDTH - LEFT - RIGHT) * if share.is_finite() { share } else { 0.0 }
    }
}

/// Where a track ends.
fn base(track: usize) -> f64 {
    TOP + (track as f64 + 1.0) * (TRACK + BETWEEN) - BETWEEN
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    let _ = write!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escape(words));
}

fn megabytes(rate: f64) -> String {
    if rate < 10e6 { format!("{:.1} MB/s", rate / 1e6) } else { format!("{:.0} MB/s", rate / 1e6) }
}
