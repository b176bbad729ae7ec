//! What a user makes of what came and what did not. All times in milliseconds since the move was asked for.

use std::ops::Range;

use serde::Serialize;

use crate::spread;

/// What became of pings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Pings {
    /// How many were sent.
    pub sent: u64,
    /// How many were answered.
    pub received: u64,
    /// The longest time between two answers.
    pub longest_gap_ms: f64,
}

/// What became of a film.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Film {
    /// Times of a frame at which no new one was there, but for those that were lost.
    pub late: u64,
    /// Frames that never came.
    pub lost: u64,
    /// The longest time that a picture stood still beyond its own.
    pub longest_freeze_ms: f64,
}

/// What became of work that is to go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Work {
    /// Bytes each second before.
    pub before: f64,
    /// Percent of what would have been done in the same time, that was not done; below 0 where more was.
    pub lost_percent: f64,
    /// From the resume until [`BACK`] of the speed before was reached in a step; `None` if that was not seen.
    pub back_ms: Option<f64>,
}

/// What of its speed a guest has that is back.
pub const BACK: f64 = 0.9;
/// Work is looked at in steps of that many milliseconds.
pub const STEP_MS: f64 = 100.0;
/// A guest that is measured at so much of the speed that it was asked for has it.
const REACHED: f64 = 0.95;
/// Steps begin so many milliseconds apart where one is looked for.
const LOOK_MS: f64 = 5.0;
/// Steps that are looked at: an hour.
const MOST_STEPS: u32 = 1_000_000;

/// Pings that were sent in that time. What was never answered ends no gap.
#[must_use]
pub fn pings(pings: &[(f64, Option<f64>)], time: &Range<f64>) -> Option<Pings> {
    let within: Vec<_> = pings.iter().filter(|ping| time.contains(&ping.0)).collect();
    let first = within.first()?.0;
    let mut answers: Vec<_> = within.iter().filter_map(|ping| Some(ping.0 + ping.1?)).collect();
    answers.sort_by(f64::total_cmp);
    let ends = answers.iter().copied().chain([time.end.max(first)]);
    let begins = [first].into_iter().chain(answers.iter().copied());
    Some(Pings {
        sent: within.len() as u64,
        received: answers.len() as u64,
        longest_gap_ms: begins.zip(ends).map(|(begin, end)| end - begin).fold(0.0, f64::max),
    })
}

/// Frames of a film of `rate` a second, in that time.
#[must_use]
pub fn film(frames: &[[f64; 2]], rate: f64, time: &Range<f64>) -> Option<Film> {
    let period = 1000.0 / rate;
    // The one before tells how long the first was waited for.
    let first = frames.partition_point(|frame| frame[0] < time.start).saturating_sub(1);
    let within: Vec<_> = frames.get(first..)?.iter().take_while(|frame| frame[0] < time.end).collect();
    let (last, mut film) = (*within.last()?, Film::default());
    for pair in within.windows(2) {
        film.add(pair[1][0] - pair[0][0], (pair[1][1] - pair[0][1] - 1.0).max(0.0) as u64, period);
    }
    // Nothing came until the end.
    film.add(time.end - last[0], 0, period);
    Some(film)
}

impl Film {
    /// A frame that came `gap` after the one before, when `lost` between them did not come.
    fn add(&mut self, gap: f64, lost: u64, period: f64) {
        self.longest_freeze_ms = self.longest_freeze_ms.max(gap - period);
        self.lost = self.lost.saturating_add(lost);
        // Half a period is what a player waits anyway.
        if gap > 1.5 * period {
            let late = ((gap / period).round() as u64).saturating_sub(lost.saturating_add(1));
            self.late = self.late.saturating_add(late);
        }
    }
}

/// The longest time in which nothing was added to what is counted.
#[must_use]
pub fn longest_stall(counted: &[[f64; 2]], time: &Range<f64>) -> Option<f64> {
    let mut since = None;
    let mut longest = 0.0_f64;
    for &[at, count] in counted.iter().filter(|point| time.contains(&point[0])) {
        match since {
            Some((begun, before)) if count <= before => longest = longest.max(at - begun),
            Some((begun, _)) => {
                longest = longest.max(at - begun);
                since = Some((at, count));
            }
            None => since = Some((at, count)),
        }
    }
    since.map(|_| longest)
}

/// What of its work a guest did from the beginning (0) to `end`, against its usual speed: the one that was `asked` of it, in
/// bytes each second, or where it did not reach that what it did before. `resume` is when it ran again.
#[must_use]
pub fn work(counted: &[[f64; 2]], asked: f64, end: f64, resume: Option<f64>) -> Option<Work> {
    let (begin, done) = (at(counted, 0.0)?, at(counted, end)?);
    // The median of steps: a host that was busy for a moment does not make the guest's usual speed less.
    let early = counted.partition_point(|point| point[0] < 0.0);
    let steps = rates(&counted[..early], STEP_MS);
    let measured = spread(&steps, |step| Some(step[1])).map(|spread| spread.median)?;
    if !measured.is_finite() || measured <= 0.0 {
        return None;
    }
    // Steps between reports that come a little late are a percent or two slow; what it was asked for it does to the byte.
    let before = if measured >= REACHED * asked { asked } else { measured };
    let wanted = before * end / 1e3;
    Some(Work {
        before,
        lost_percent: (1.0 - (done - begin) / wanted) * 100.0,
        back_ms: resume.and_then(|resume| back(counted, before, resume)),
    })
}

/// Milliseconds from `resume` until the first [`STEP_MS`] begin in which a guest did [`BACK`] of what it did `before` each second.
/// `None` if that was not seen.
#[must_use]
pub fn back(counted: &[[f64; 2]], before: f64, resume: f64) -> Option<f64> {
    // A file may say that it went on a long time ago.
    let steps = (0..MOST_STEPS).map(|step| resume + f64::from(step) * LOOK_MS);
    let last = counted.last()?[0];
    let mut steps = steps.take_while(|begin| begin + STEP_MS <= last);
    let is_back = |begin: &f64| {
        at(counted, begin + STEP_MS)
            .zip(at(counted, *begin))
            .is_some_and(|(after, before_it)| after - before_it >= BACK * before * STEP_MS / 1e3)
    };
    steps.find(is_back).map(|begin| begin - resume)
}

/// Bytes each second in steps, each with its middle.
#[must_use]
pub fn rates(counted: &[[f64; 2]], step_ms: f64) -> Vec<[f64; 2]> {
    let (Some(first), Some(last)) = (counted.first(), counted.last()) else { return Vec::new() };
    // Bounded: a file may say anything.
    let steps = ((last[0] - first[0]) / step_ms).clamp(0.0, 1e5) as u32;
    let points = (0..=steps).map(|step| first[0] + f64::from(step) * step_ms);
    let points: Vec<_> = points.filter_map(|time| Some([time, at(counted, time)?])).collect();
    let rate =
        |pair: &[[f64; 2]]| [(pair[0][0] + pair[1][0]) / 2.0, (pair[1][1] - pair[0][1]) / step_ms * 1e3];
    points.windows(2).map(rate).collect()
}

/// What was counted until `time`, in between by the straight line. `None` before the first and after the last.
#[must_use]
pub fn at(counted: &[[f64; 2]], time: f64) -> Option<f64> {
    let next = counted.partition_point(|point| point[0] < time);
    let after = counted.get(next)?;
    if after[0] == time {
        return Some(after[1]);
    }
    let before = counted.get(next.checked_sub(1)?)?;
    let share = (time - before[0]) / (after[0] - before[0]);
    Some(before[1] + (after[1] - before[1]) * share)
}

/// Bytes each second of a first pass: from the first bytes until as many have been sent as there is memory.
#[must_use]
pub fn first_pass(wire: &[[f64; 2]], memory: f64) -> Option<f64> {
    let zero = at(wire, 0.0)?;
    // What is greeted with is no page, and the first pages may wait for a destination that is still preparing itself.
    let [from, to] = [0.02, 0.98].map(|part| zero + memory * part);
    let time = |bytes: f64| {
        let next = wire.iter().position(|point| point[1] >= bytes)?;
        let (before, after) = (wire.get(next.checked_sub(1)?)?, wire[next]);
        let share = (bytes - before[1]) / (after[1] - before[1]).max(1.0);
        Some(before[0] + (after[0] - before[0]) * share)
    };
    let took = time(to)? - time(from)?;
    (took > 0.0).then(|| (to - from) / took * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_that_are_lost_make_a_gap() {
        let every = |n: u32| f64::from(n) * 10.0;
        let all: Vec<_> = (0..100).map(|n| (every(n), (!(40..45).contains(&n)).then_some(1.0))).collect();
        let felt = pings(&all, &(0.0..1000.0)).unwrap();
        assert_eq!((felt.sent, felt.received, felt.longest_gap_ms), (100, 95, 60.0));
        assert_eq!(pings(&[], &(0.0..1.0)), None);
        let none: Vec<_> = (0..10).map(|n| (every(n), None)).collect();
        assert_eq!(pings(&none, &(0.0..500.0)).unwrap().longest_gap_ms, 500.0, "a gap that does not end");
    }

    #[test]
    fn a_film_that_stands_still_is_late_and_one_that_is_cut_lacks_frames() {
        let at = |n: u32, late: f64| [f64::from(n) * 40.0 + late, f64::from(n)];
        let even: Vec<_> = (0..50).map(|n| at(n, 0.0)).collect();
        let time = 0.0..2000.0;
        assert_eq!(film(&even, 25.0, &time).unwrap(), Film::default());
        let stood: Vec<_> = (0..50).map(|n| at(n, if n < 20 { 0.0 } else { 200.0 })).collect();
        let felt = film(&stood, 25.0, &time).unwrap();
        assert_eq!((felt.late, felt.lost, felt.longest_freeze_ms), (5, 0, 200.0));
        let cut: Vec<_> = even.iter().copied().filter(|frame| !(20.0..25.0).contains(&frame[1])).collect();
        let felt = film(&cut, 25.0, &time).unwrap();
        assert_eq!((felt.late, felt.lost, felt.longest_freeze_ms), (0, 5, 200.0));
        assert_eq!(
            film(&even[..25], 25.0, &time).unwrap().longest_freeze_ms,
            1000.0,
            "nothing came any more"
        );
    }

    #[test]
    fn work_that_was_not_done_is_a_part_of_what_would_have_been() {
        // 100 bytes a millisecond; nothing from 500 to 600, half until 800.
        let rate = |ms: i32| match ms {
            500..600 => 0.0,
            600..800 => 50.0,
            _ => 100.0,
        };
        let mut counted = vec![[-1000.0, 0.0]];
        for ms in (-1000..2000).step_by(100) {
            let last = counted.last().unwrap()[1];
            counted.push([f64::from(ms) + 100.0, last + rate(ms) * 100.0]);
        }
        let felt = work(&counted, 200_000.0, 1000.0, Some(600.0)).unwrap();
        assert_eq!((felt.before, felt.lost_percent.round(), felt.back_ms), (100_000.0, 20.0, Some(180.0)));
        assert_eq!(longest_stall(&counted, &(0.0..2000.0)), Some(200.0));
        assert_eq!(work(&counted[20..], 200_000.0, 1000.0, None), None, "nothing is known of before");
    }

    #[test]
    fn a_guest_that_nothing_disturbs_loses_nothing_whenever_its_reports_come() {
        // 100 bytes a millisecond, told every 100 to 110 ms, and looked at up to 10 ms later.
        let told = (-15_i32..20).map(|n| f64::from(n) * 105.0 + f64::from(n.rem_euclid(3)) * 2.5);
        let counted: Vec<_> =
            told.map(|at| [at + (at * 7.0).rem_euclid(10.0), at * 100.0 + 200_000.0]).collect();
        for end in [700.0, 1000.0, 1500.0] {
            let felt = work(&counted, 100_000.0, end, Some(end)).unwrap();
            assert!(felt.lost_percent.abs() < 1.5, "{end}: {felt:?}");
            assert_eq!(felt.before, 100_000.0);
        }
    }

    #[test]
    fn a_first_pass_is_as_fast_as_its_bytes() {
        let wire: Vec<_> = (-5..100).map(|n| [f64::from(n) * 100.0, f64::from(n.max(0)) * 1e6]).collect();
        let rate = first_pass(&wire, 50e6).unwrap();
        assert!((rate - 1e7).abs() < 1.0, "{rate}");
        assert_eq!(first_pass(&wire, 1e12), None);
        assert_eq!(rates(&wire, 100.0).last().unwrap()[1], 1e7);
    }
}
