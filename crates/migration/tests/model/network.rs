//! Connections: in order within one, any order between two, lost at any time.

use std::collections::VecDeque;

use crate::words::Packet;

/// The two processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    Source,
    Destination,
}

/// One end of a connection, and what is on its way to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct End {
    open: bool,
    arriving: VecDeque<Packet>,
}

/// A connection that the source has opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Link {
    source: End,
    destination: End,
    /// Whether the destination has looked at its first packet.
    pub(crate) introduced: bool,
}

/// All connections that are not closed at both ends. Few at once: who finds no room waits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Network {
    links: [Option<Link>; ROOM],
}

/// A control connection, a page channel, and two questions that came to nothing.
const ROOM: usize = 4;

impl Link {
    fn end(&self, of: Side) -> &End {
        if of == Side::Source { &self.source } else { &self.destination }
    }

    fn end_mut(&mut self, of: Side) -> &mut End {
        if of == Side::Source { &mut self.source } else { &mut self.destination }
    }
}

impl Network {
    pub(crate) fn has_room(&self) -> bool {
        self.links.iter().any(Option::is_none)
    }

    /// Opens a connection where there is room.
    pub(crate) fn open(&mut self) -> Option<usize> {
        let free = self.links.iter().position(Option::is_none)?;
        let end = || End { open: true, arriving: VecDeque::new() };
        self.links[free] = Some(Link { source: end(), destination: end(), introduced: false });
        Some(free)
    }

    pub(crate) fn numbers(&self) -> impl Iterator<Item = usize> + '_ {
        (0..ROOM).filter(|&link| self.links[link].is_some())
    }

    pub(crate) fn is_open(&self, link: usize, at: Side) -> bool {
        self.links[link].as_ref().is_some_and(|link| link.end(at).open)
    }

    pub(crate) fn is_introduced(&self, link: usize) -> bool {
        self.links[link].as_ref().is_some_and(|link| link.introduced)
    }

    pub(crate) fn introduce(&mut self, link: usize) {
        if let Some(link) = &mut self.links[link] {
            link.introduced = true;
        }
    }

    /// Whether nothing will ever come to this end any more.
    pub(crate) fn is_drained(&self, link: usize, at: Side) -> bool {
        self.links[link]
            .as_ref()
            .is_none_or(|link| link.end(at).arriving.is_empty() && !link.end(other(at)).open)
    }

    pub(crate) fn next(&self, link: usize, at: Side) -> Option<Packet> {
        self.links[link].as_ref()?.end(at).arriving.front().copied()
    }

    pub(crate) fn is_on_its_way(&self, link: usize, to: Side, packet: Packet) -> bool {
        self.links[link].as_ref().is_some_and(|link| link.end(to).arriving.contains(&packet))
    }

    pub(crate) fn receive(&mut self, link: usize, at: Side) -> Option<Packet> {
        self.links[link].as_mut()?.end_mut(at).arriving.pop_front()
    }

    /// Sends, if somebody is there to receive it one day.
    pub(crate) fn send(&mut self, link: usize, from: Side, packet: Packet) {
        if let Some(link) = &mut self.links[link]
            && link.end(from).open
            && link.end(other(from)).open
        {
            link.end_mut(other(from)).arriving.push_back(packet);
        }
    }

    /// Closes one end: what was on its way to it is lost, what it has sent is not.
    pub(crate) fn close(&mut self, number: usize, at: Side) {
        let Some(link) = &mut self.links[number] else { return };
        *link.end_mut(at) = End::default();
        if !link.end(other(at)).open {
            self.links[number] = None;
        }
    }

    /// A process is gone.
    pub(crate) fn close_all(&mut self, at: Side) {
        (0..ROOM).for_each(|link| self.close(link, at));
    }
}

pub(crate) fn other(side: Side) -> Side {
    if side == Side::Source { Side::Destination } else { Side::Source }
}
