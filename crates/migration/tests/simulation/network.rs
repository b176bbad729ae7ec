//! Connections between the two sides: in order, late, and sometimes broken.

use std::time::Duration;

use wire::{Message, SessionId};

use crate::{
    plan::{Cut, Side},
    world::{What, World},
};

#[derive(Clone, Debug)]
pub(crate) enum Packet {
    Message(Message),
    Frame(Frame),
    Closed,
}

/// What travels on a page channel. A page is its number and its generation; generation 0 is a zero page.
#[derive(Clone, Debug)]
pub(crate) enum Frame {
    Hello { session: SessionId, index: u16 },
    Pages { round: u32, pages: Vec<(usize, u64)> },
    End { round: u32, last: bool, raw: u64, zero: u64 },
}

/// One connection. Index 0 is the source's end, 1 the destination's.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) is_control: bool,
    /// Ends that can still be used.
    open: [bool; 2],
    /// When the last packet to this end arrives: none overtakes it.
    last: [Duration; 2],
    /// Nothing that is on its way to this end arrives any more.
    lost: [bool; 2],
    /// Nothing arrives before this.
    pub(crate) stalled_until: Duration,
}

impl World {
    pub(crate) fn open_link(&mut self, is_control: bool) -> usize {
        self.links.push(Link {
            is_control,
            open: [true; 2],
            last: [Duration::ZERO; 2],
            lost: [false; 2],
            stalled_until: Duration::ZERO,
        });
        self.links.len() - 1
    }

    /// Sends; an error is what a broken socket answers. Success does not mean that it will arrive.
    pub(crate) fn transmit(&mut self, link: usize, from: Side, packet: Packet) -> Result<(), String> {
        let delay = if self.rng.one_in(20) { self.rng.millis(2, 40) } else { self.rng.micros(50, 1500) };
        let (near, far) = ends(from);
        let state = &mut self.links[link];
        if !state.open[near] {
            return Err("The connection broke".into());
        }
        let arrives = (self.now + delay).max(state.last[far]);
        state.last[far] = arrives;
        self.at(arrives, What::Arrive { link, to: other(from), packet: Box::new(packet) });
        Ok(())
    }

    /// A process closes its end, or dies. What it has sent may still arrive, or be thrown away by a reset.
    pub(crate) fn close(&mut self, link: usize, from: Side) {
        let (near, far) = ends(from);
        if !self.links[link].open[near] {
            return;
        }
        if self.rng.one_in(4) {
            self.links[link].lost[far] = true;
            let notices = self.rng.micros(50, 1500);
            self.at(self.now + notices, What::Break { link, to: other(from) });
        } else {
            let _ = self.transmit(link, from, Packet::Closed);
        }
        self.links[link].open[near] = false;
    }

    /// Breaks a connection from outside: what is on its way is lost, both ends notice some time later.
    pub(crate) fn cut(&mut self, link: usize, how: Cut) {
        if self.links[link].open == [false; 2] {
            return;
        }
        self.links[link].lost = [true; 2];
        for to in [Side::Source, Side::Destination] {
            let notices = match how {
                Cut::Fast => self.rng.micros(100, 80_000),
                Cut::Slow => self.rng.millis(4_000, 25_000),
                Cut::Never => continue,
            };
            self.at(self.now + notices, What::Break { link, to });
        }
    }

    pub(crate) fn arrive(&mut self, link: usize, to: Side, packet: Packet) {
        let (near, _) = ends(to);
        if !self.links[link].open[near] || self.links[link].lost[near] {
            return;
        }
        if matches!(packet, Packet::Closed) {
            return self.notice(link, to);
        }
        match to {
            Side::Source => self.source_receives(link, packet),
            Side::Destination => self.destination_receives(link, packet),
        }
    }

    /// An end learns that its connection is over.
    pub(crate) fn notice(&mut self, link: usize, to: Side) {
        let (near, _) = ends(to);
        if !std::mem::take(&mut self.links[link].open[near]) {
            return;
        }
        match to {
            Side::Source => self.source_receives(link, Packet::Closed),
            Side::Destination => self.destination_receives(link, Packet::Closed),
        }
    }
}

fn ends(of: Side) -> (usize, usize) {
    if of == Side::Source { (0, 1) } else { (1, 0) }
}

fn other(side: Side) -> Side {
    if side == Side::Source { Side::Destination } else { Side::Source }
}
