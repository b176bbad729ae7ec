//! Moves over links of given rates, in clear and encrypted in turns: where the wire is the limit, encryption is to cost no time.

use std::{fs, io, path::Path};

use comparison::spread;
use serde::Serialize;

use super::{
    Bench, BenchError,
    case::{Case, Encryption},
    summary::{Unit, shown, verdict},
    trial::Sample,
};
use crate::rig::{BitRate, Contender, Host};

/// The most that the total time with encryption may be of that in clear.
const OF_CLEAR: f64 = 1.05;
/// A host that fills less of the link in clear than that is the limit itself.
const FILLED: f64 = 0.9;

/// All that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Links {
    host: Host,
    memory_bytes: u64,
    dirty_rate: u64,
    links: Vec<Moves>,
}

/// What was measured of one link.
#[derive(Debug, Serialize)]
struct Moves {
    bits_per_second: BitRate,
    in_clear: Vec<Sample>,
    encrypted: Vec<Sample>,
}

impl Bench {
    pub(super) fn links(&self) -> Result<Links, BenchError> {
        let arguments = &self.arguments;
        let links = arguments.link.iter().map(|rate| self.over(*rate)).collect::<Result<_, _>>()?;
        Ok(Links {
            host: self.host.clone(),
            memory_bytes: arguments.memory.bytes(),
            dirty_rate: arguments.rate.0,
            links,
        })
    }

    fn over(&self, rate: BitRate) -> Result<Moves, BenchError> {
        if let Some(link) = &self.link {
            link.carries(rate)?;
        }
        output::say!("\n{rate}");
        let mut moves = Moves { bits_per_second: rate, in_clear: Vec::new(), encrypted: Vec::new() };
        for repetition in 0..self.arguments.repetitions {
            let mut turns = [Encryption::Off, Encryption::On];
            turns.rotate_left(repetition as usize % 2);
            for encryption in turns {
                let case = Case { encryption, ..self.arguments.first_case() };
                let sample = self.try_once(Contender::Whimbrel, case, None)?;
                let (name, samples) = match encryption {
                    Encryption::Off => ("in clear", &mut moves.in_clear),
                    Encryption::On => ("encrypted", &mut moves.encrypted),
                };
                output::say!("{:>3}  {name:<9} {sample}", repetition + 1);
                samples.push(sample);
            }
        }
        Ok(moves)
    }
}

impl Links {
    /// Whether no guest found a fault.
    pub(super) fn is_intact(&self) -> bool {
        let samples = self.links.iter().flat_map(|moves| moves.in_clear.iter().chain(&moves.encrypted));
        samples.into_iter().all(|sample| sample.complaints.is_empty())
    }

    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        fs::write(path, serde_json::to_string_pretty(self)? + "\n")
    }

    pub(super) fn print(&self) {
        self.links.iter().for_each(Moves::print);
    }
}

impl Moves {
    fn print(&self) {
        let total = |samples: &[Sample]| spread(samples, |sample| Some(sample.total_ms));
        let Some((clear, encrypted)) = total(&self.in_clear).zip(total(&self.encrypted)) else { return };
        let bytes = spread(&self.in_clear, |sample| Some(sample.transferred as f64));
        let least_ms = bytes.map_or(0.0, |bytes| bytes.median / self.bits_per_second.bytes() * 1e3);
        let (ratio, filled) = (encrypted.median / clear.median, least_ms / clear.median);
        output::say!(
            "\n{}: {} encrypted, {} in clear, which is {:.0} % of what the link carries; encrypted takes {ratio:.3} of it, the goal is \
             {OF_CLEAR} at most: {}",
            self.bits_per_second,
            shown(Some(encrypted), Unit::Milliseconds),
            shown(Some(clear), Unit::Milliseconds),
            filled * 100.0,
            if filled >= FILLED {
                verdict(ratio <= OF_CLEAR)
            } else {
                "NOT SHOWN, since this host does not fill the link in clear"
            }
        );
    }
}
