//! One way of a connection: carries its bytes, and is where faults strike.

use std::{collections::VecDeque, io, net::Shutdown, sync::Arc, time::Instant};

use crate::{
    Fault, FrameName, Passed, Phase, Struck, Way, What, Which, encrypted,
    frames::{self, Chunk},
    link::{Gate, Link},
    proxy::{Passing, Shared},
};

/// Carries bytes one way until an end closes or the connection is cut.
pub(crate) struct Carrier {
    shared: Arc<Shared>,
    link: Arc<Link>,
    way: Way,
    /// Bytes that passed.
    position: u64,
    /// Frames that passed.
    number: u64,
    /// The phase of the migration, and bytes that had passed when it began.
    phase: Option<(Phase, u64)>,
    /// What passes is TLS.
    encrypted: bool,
    /// What is to be turned over in the next byte.
    flip: Option<u8>,
}

/// Faults that strike at the frame under way, each with its place in the frame, in their order.
type Due = VecDeque<(u64, Fault)>;

/// Nothing more is to be carried.
struct Over;

const BUFFER_BYTES: usize = 256 << 10;

impl Carrier {
    pub(crate) fn new(shared: Arc<Shared>, link: Arc<Link>, way: Way) -> Self {
        Self { shared, link, way, position: 0, number: 0, phase: None, encrypted: false, flip: None }
    }

    pub(crate) fn run(mut self) {
        let ended = self.carry();
        // What was done to the connection is the end of it; the last word is not to be a polite one.
        if ended.is_err() || self.link.is_closed() {
            return;
        }
        self.link.to(self.way).shutdown(Shutdown::Write);
    }

    /// Carries everything up to the end of the stream.
    fn carry(&mut self) -> Result<(), Over> {
        let (mut head, mut buffer) = (Vec::new(), vec![0; BUFFER_BYTES]);
        let link = self.link.clone();
        loop {
            match frames::read(&mut link.from(self.way), &mut head) {
                Ok(Chunk::End) => return Ok(()),
                Ok(Chunk::Frame { name, which, data }) => {
                    if let Some(which) = which {
                        link.introduce(which);
                    }
                    let name = name.map(|name| self.shared.progress.passes(name));
                    self.pass_frame(name, &mut head, data, &mut buffer)?;
                }
                Ok(Chunk::Record { length }) => self.pass_record(&mut head, length)?,
                Ok(Chunk::Other) => {
                    self.pass_other(&mut head)?;
                    return self.carry_other(&mut buffer);
                }
                Err(_) => {
                    self.pass_other(&mut head)?;
                    link.reset();
                    return Err(Over);
                }
            }
        }
    }

    /// Carries a record of TLS. What is in it shows by its length and turn, or not at all.
    fn pass_record(&mut self, record: &mut [u8], length: usize) -> Result<(), Over> {
        let (shared, link) = (self.shared.clone(), self.link.clone());
        self.encrypted = true;
        if let Some(which) = link.introduce_encrypted() {
            shared.progress.begins(which);
        }
        let which = link.which();
        let name = which.and_then(|which| shared.progress.record_passes(which, self.way, length));
        self.pass_frame(name, record, 0, &mut [])
    }

    /// Carries what is no frame.
    fn carry_other(&mut self, buffer: &mut [u8]) -> Result<(), Over> {
        loop {
            let count = self.read(buffer)?;
            if count == 0 {
                return Ok(());
            }
            self.pass_other(&mut buffer[..count])?;
        }
    }

    fn pass_other(&mut self, bytes: &mut [u8]) -> Result<(), Over> {
        if !self.link.delay(self.way) {
            return Err(Over);
        }
        let mut due = self.due(None, bytes.len() as u64);
        self.send(None, bytes, 0, &mut due)
    }

    fn pass_frame(
        &mut self,
        name: Option<FrameName>,
        head: &mut [u8],
        data: u64,
        buffer: &mut [u8],
    ) -> Result<(), Over> {
        let at = self.shared.elapsed();
        let mut due = self.due(name, head.len() as u64 + data);
        self.number += 1;
        // A full record has more of the same frame behind it, and only the last holds the frame up.
        let holds_up = !self.encrypted || head.len() < encrypted::FULL;
        let outcome = if !holds_up || self.link.delay(self.way) {
            self.pass_parts(name, head, data, buffer, &mut due)
        } else {
            Err(Over)
        };
        if name.is_some() || self.encrypted {
            let (which, way, whole) = (self.link.which(), self.way, outcome.is_ok());
            let phase = self.phase.map(|(phase, _)| phase);
            self.shared.trace.pass(Passed { at, which, way, name, phase, count: 1, whole });
        }
        outcome?;
        // What comes after a frame must find it noted.
        self.strike_due(name, u64::MAX, &mut due)
    }

    fn pass_parts(
        &mut self,
        name: Option<FrameName>,
        head: &mut [u8],
        data: u64,
        buffer: &mut [u8],
        due: &mut Due,
    ) -> Result<(), Over> {
        self.send(name, head, 0, due)?;
        let (mut at, end) = (head.len() as u64, head.len() as u64 + data);
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            let count = self.read(&mut buffer[..most])?;
            if count == 0 {
                self.link.to(self.way).shutdown(Shutdown::Write);
                return Err(Over);
            }
            self.send(name, &mut buffer[..count], at, due)?;
            at += count as u64;
        }
        Ok(())
    }

    /// Sends a part of a frame, which begins at `at` of it, and has the faults strike that are due within.
    fn send(
        &mut self,
        name: Option<FrameName>,
        mut bytes: &mut [u8],
        mut at: u64,
        due: &mut Due,
    ) -> Result<(), Over> {
        while !bytes.is_empty() {
            self.strike_due(name, at, due)?;
            let next = due.front().map_or(u64::MAX, |(next, _)| *next);
            let count = usize::try_from(next - at).unwrap_or(usize::MAX).min(bytes.len());
            let (now, later) = bytes.split_at_mut(count);
            self.write(now)?;
            at += count as u64;
            self.position += count as u64;
            bytes = later;
        }
        Ok(())
    }

    fn strike_due(&mut self, name: Option<FrameName>, at: u64, due: &mut Due) -> Result<(), Over> {
        while let Some((_, fault)) = due.pop_front_if(|(place, _)| *place <= at) {
            let (at, which) = (self.shared.elapsed(), self.link.which());
            let phase = match which {
                Some(Which::Ask) => Some(Phase::Asking),
                _ if self.encrypted => self.phase.map(|(phase, _)| phase),
                _ => name.map(FrameName::phase),
            };
            self.shared.trace.strike(Struck { at, fault, which, name, phase });
            self.strike(fault.what)?;
        }
        Ok(())
    }

    fn strike(&mut self, what: What) -> Result<(), Over> {
        let (shared, link) = (&self.shared, &self.link);
        match what {
            What::Cut => link.close(),
            What::Reset => link.reset(),
            What::HalfCut => {
                link.to(self.way).shutdown(Shutdown::Write);
                link.from(self.way).shutdown(Shutdown::Read);
            }
            What::CutAll => shared.for_all(Link::close),
            What::ResetAll => shared.for_all(Link::reset),
            What::Outage(time) => shared.refuse_for(time),
            What::Stall(time) => link.set_gate(Gate::ShutUntil(Instant::now() + time)),
            What::StallAll(time) => {
                let until = Instant::now() + time;
                shared.for_all(|link| link.set_gate(Gate::ShutUntil(until)));
            }
            What::BlackHole => link.set_gate(Gate::Shut),
            What::BlackHoleAll => shared.for_all(|link| link.set_gate(Gate::Shut)),
            What::Delay(time) => link.set_delay(self.way, time),
            What::Kill(side) => shared.processes.kill(side),
            What::Freeze(side, time) => shared.processes.freeze(side, time),
            What::Flip(bit) => self.flip = Some(bit),
        }
        let ends = [What::Cut, What::Reset, What::HalfCut, What::CutAll, What::ResetAll];
        if ends.contains(&what) || matches!(what, What::Outage(_)) { Err(Over) } else { Ok(()) }
    }

    fn due(&mut self, name: Option<FrameName>, length: u64) -> Due {
        let (which, way, number, position) = (self.link.which(), self.way, self.number, self.position);
        let phase = self.shared.progress.phase(which);
        if phase != self.phase.map(|(phase, _)| phase) {
            self.phase = phase.map(|phase| (phase, position));
        }
        let phase = self.phase.map(|(phase, began)| (phase, position - began));
        self.shared.due(&Passing { which, way, name, number, position, length, phase })
    }

    fn read(&self, bytes: &mut [u8]) -> Result<usize, Over> {
        loop {
            match self.link.from(self.way).read(bytes) {
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.link.reset();
                    return Err(Over);
                }
            }
        }
    }

    fn write(&mut self, mut bytes: &mut [u8]) -> Result<(), Over> {
        if let (Some(bit), Some(first)) = (self.flip.take(), bytes.first_mut()) {
            *first ^= 1 << bit;
        }
        while !bytes.is_empty() {
            if !self.link.wait() {
                return Err(Over);
            }
            match self.link.to(self.way).write(bytes) {
                Ok(count) => bytes = &mut bytes[count..],
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(_) => {
                    // Who writes here learns that nobody listens.
                    self.link.from(self.way).shutdown(Shutdown::Read);
                    return Err(Over);
                }
            }
        }
        Ok(())
    }
}
