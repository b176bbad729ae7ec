//! Plots as SVG. A plot is as wide as the page; its numbers may be anything, and are drawn within its frame.

use std::fmt::Write as _;

use super::{escape, style::COLOURS};

/// Width of every plot, in its own units.
const WIDTH: f64 = 900.0;
/// What the labels take at the left and at the right.
const LEFT: f64 = 78.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 26.0;
/// Height of a plot with axes.
const HEIGHT: f64 = 230.0;
/// Lines across, the axis not counted.
const GRID: u32 = 4;

/// How a number is written at an axis or beside a bar.
pub(super) type Label = fn(f64) -> String;

/// One line of a [`lines`] plot.
pub(super) struct Line {
    pub(super) name: String,
    /// Points as (time in milliseconds, value).
    pub(super) points: Vec<(f64, f64)>,
}

/// One bar: its name below it, and its parts from the bottom up.
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) parts: Vec<f64>,
}

/// A piece of a [`strip`].
pub(super) struct Piece {
    pub(super) name: String,
    pub(super) value: f64,
}

/// Values over time, with dots at the points.
pub(super) fn lines(title: &str, lines: &[Line], value: Label, time: Label) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let (most, longest) = (top(points().map(|point| point.1)), top(points().map(|point| point.0)));
    let (x, y) = (Scale::across(longest), Scale::up(most));
    let mut svg = frame(title, HEIGHT);
    grid(&mut svg, &y, most, value);
    for step in 0..=GRID {
        let at = longest * f64::from(step) / f64::from(GRID);
        let anchor = if step == 0 { "start" } else { "end" };
        text(&mut svg, (x.place(at), HEIGHT - 8.0), anchor, &time(at));
    }
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let place = |&(at, height): &(f64, f64)| format!("{:.1},{:.1}", x.place(at), y.place(height));
        let path: Vec<_> = line.points.iter().map(place).collect();
        let _ = write!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" style=\"stroke:var({colour})\" stroke-width=\"2\"/>",
            path.join(" ")
        );
        for &(at, height) in &line.points {
            let _ = write!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" style=\"fill:var({colour})\"><title>{}: {} at {}</title></circle>",
                x.place(at),
                y.place(height),
                escape(&line.name),
                escape(&value(height)),
                escape(&time(at))
            );
        }
    }
    svg.push_str("</svg>");
    svg.push_str(&key(lines.iter().map(|line| line.name.as_str())));
    svg
}

/// Bars side by side, each of parts that are called `names`.
pub(super) fn bars(title: &str, names: &[&str], bars: &[Bar], value: Label) -> String {
    let most = top(bars.iter().map(|bar| bar.parts.iter().copied().map(plain).sum()));
    let y = Scale::up(most);
    let mut svg = frame(title, HEIGHT);
    grid(&mut svg, &y, most, value);
    let slot = (WIDTH - LEFT - RIGHT) / bars.len().max(1) as f64;
    // Names are left out where they would run into each other.
    let every = (40.0 / slot).ceil().max(1.0) as usize;
    for (index, bar) in bars.iter().enumerate() {
        let left = LEFT + slot * index as f64;
        let mut below = 0.0;
        for ((part, name), colour) in bar.parts.iter().zip(names).zip(COLOURS) {
            let above = below + plain(*part);
            let (bottom, head) = (y.place(below), y.place(above));
            let _ = write!(
                svg,
                "<rect x=\"{:.1}\" y=\"{head:.1}\" width=\"{:.1}\" height=\"{:.1}\" style=\"fill:var({colour})\"><title>{}: {} {}</title></rect>",
                left + slot * 0.15,
                slot * 0.7,
                (bottom - head).max(0.0),
                escape(&bar.name),
                escape(name),
                escape(&value(*part))
            );
            below = above;
        }
        if index.is_multiple_of(every) {
            text(&mut svg, (left + slot / 2.0, HEIGHT - 8.0), "middle", &bar.name);
        }
    }
    svg.push_str("</svg>");
    if names.len() > 1 {
        svg.push_str(&key(names.iter().copied()));
    }
    svg
}

/// One bar along the page, cut into pieces, with a mark at `limit` if there is one.
pub(super) fn strip(title: &str, pieces: &[Piece], limit: Option<f64>, value: Label) -> String {
    const STRIP: f64 = 74.0;
    let whole: f64 = pieces.iter().map(|piece| plain(piece.value)).sum();
    let most = top([whole, limit.map_or(0.0, plain)].into_iter());
    let x = Scale { from: RIGHT, to: WIDTH - RIGHT, most };
    let mut svg = frame(title, STRIP);
    let mut done = 0.0;
    for (piece, colour) in pieces.iter().zip(COLOURS.iter().cycle()) {
        let (left, right) = (x.place(done), x.place(done + plain(piece.value)));
        let _ = write!(
            svg,
            "<rect x=\"{left:.1}\" y=\"14\" width=\"{:.1}\" height=\"32\" style=\"fill:var({colour})\"><title>{} {}</title></rect>",
            (right - left).max(0.5),
            escape(&piece.name),
            escape(&value(piece.value))
        );
        done += plain(piece.value);
    }
    text(&mut svg, (x.place(whole).max(60.0), STRIP - 8.0), "end", &value(whole));
    if let Some(limit) = limit {
        let at = x.place(limit);
        let _ = write!(
            svg,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"6\" y2=\"54\" style=\"stroke:var(--bad)\" stroke-width=\"2\"/>"
        );
        let side = if at > WIDTH / 2.0 { "end" } else { "start" };
        text(&mut svg, (at, 10.0), side, &format!(" limit {} ", value(limit)));
    }
    svg.push_str("</svg>");
    let names: Vec<_> = pieces.iter().map(|piece| format!("{} {}", piece.name, value(piece.value))).collect();
    svg.push_str(&key(names.iter().map(String::as_str)));
    svg
}

/// From a value to a place. What is not on the scale is drawn at its end.
struct Scale {
    from: f64,
    to: f64,
    most: f64,
}

impl Scale {
    fn across(most: f64) -> Self {
        Self { from: LEFT, to: WIDTH - RIGHT, most }
    }

    fn up(most: f64) -> Self {
        Self { from: HEIGHT - BOTTOM, to: TOP, most }
    }

    fn place(&self, value: f64) -> f64 {
        let share = (plain(value) / self.most).clamp(0.0, 1.0);
        self.from + (self.to - self.from) * share
    }
}

/// A number that can be drawn.
fn plain(value: f64) -> f64 {
    if value.is_finite() { value.clamp(0.0, 1e300) } else { 0.0 }
}

/// The largest of them, and something to divide by in any case.
fn top(values: impl Iterator<Item = f64>) -> f64 {
    let most = values.map(plain).fold(0.0, f64::max);
    if most > 0.0 { most } else { 1.0 }
}

fn frame(title: &str, height: f64) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\"><title>{}</title>", escape(title))
}

fn grid(svg: &mut String, y: &Scale, most: f64, value: Label) {
    for step in 0..=GRID {
        let at = most * f64::from(step) / f64::from(GRID);
        let height = y.place(at);
        let _ = write!(
            svg,
            "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{height:.1}\" y2=\"{height:.1}\"/>",
            WIDTH - RIGHT
        );
        text(svg, (LEFT - 8.0, height + 4.0), "end", &value(at));
    }
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    let _ = write!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escape(words));
}

fn key<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let item = |(name, colour): (&str, &&str)| {
        format!("<span><i style=\"background:var({colour})\"></i>{}</span>", escape(name))
    };
    let items: String = names.zip(COLOURS.iter().cycle()).map(item).collect();
    format!("<div class=\"key\">{items}</div>")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(value: f64) -> String {
        format!("{value:.0}")
    }

    #[test]
    fn points_are_where_their_values_are() {
        let line = Line { name: "left".into(), points: vec![(0.0, 100.0), (10.0, 0.0)] };
        let svg = lines("t", &[line], number, number);
        assert!(svg.contains("points=\"78.0,12.0 884.0,204.0\""), "{svg}");
    }

    #[test]
    fn absurd_numbers_are_drawn_within_the_frame() {
        for absurd in [f64::MAX, f64::MIN, f64::NAN, f64::INFINITY, -1.0] {
            let line = Line { name: "x".into(), points: vec![(absurd, 1.0), (1.0, absurd)] };
            let svg = lines("t", &[line], number, number)
                + &bars("t", &["a"], &[Bar { name: "1".into(), parts: vec![absurd] }], number)
                + &strip("t", &[Piece { name: "a".into(), value: absurd }], Some(absurd), number);
            let coordinates = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
            for number in coordinates.split([',', ' ']) {
                assert!((0.0..=WIDTH).contains(&number.parse::<f64>().unwrap()), "{svg}");
            }
        }
    }
}
