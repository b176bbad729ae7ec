//! What the state machine of the destination wants done for pages that follow the machine.

use std::{mem, sync::Arc};

use migration::{
    Status,
    destination::{Action, Event},
    handover::DestinationSide,
};
use wire::{Features, Message, PageBits};

use super::{channels::Channels, follow::Postcopy, server::Server};
use crate::MachineError;

impl Server {
    /// Notes pages that will follow the machine.
    pub(super) fn note(&mut self, bits: &PageBits) -> Result<(), String> {
        let lacking = self.arriving.as_mut().and_then(|arriving| arriving.lacking.as_mut());
        lacking.ok_or("No pages may follow this machine")?.note(bits)
    }

    /// Has accesses to the pages that will follow wait for them, if there are any.
    pub(super) fn arm(&mut self, to_come: u64) -> Result<(), MachineError> {
        if to_come == 0 {
            return Ok(());
        }
        self.machine.has_room(to_come)?;
        let (ram, userfault) = (self.machine.ram(), self.machine.userfault()?);
        let vcpus = self.machine.vcpu_threads();
        let lacking = self.arriving.as_mut().and_then(|arriving| arriving.lacking.as_mut());
        let lacking = lacking.ok_or("No pages may follow this machine")?;
        lacking.arm(&self.threads, &ram, userfault, to_come, &vcpus)?;
        let mut view = self.shared.view.lock();
        view.faults = Some(lacking.postcopy.faults.clone());
        view.memory = lacking.memory().cloned();
        Ok(())
    }

    /// From here on the memory of the machine is not given up any more.
    ///
    /// # Errors
    /// It was, while the machine was loaded: the link is lost.
    pub(super) fn may_run(&self) -> Result<(), MachineError> {
        let lacking = self.arriving.as_ref().and_then(|arriving| arriving.lacking.as_ref());
        match lacking.filter(|lacking| lacking.memory().is_some()) {
            Some(lacking) if !lacking.postcopy.faults.runs() => {
                Err("The source went away before the pages came that loading needs".into())
            }
            _ => Ok(()),
        }
    }

    /// Lets the machine run. From the first instruction on its memory is not given up.
    pub(super) fn run_machine(&mut self, run: bool) -> Result<(), MachineError> {
        self.ran(true);
        if run && self.features().has(Features::FORWARD.and(Features::FORWARD_ENDS)) {
            self.machine.packets_follow();
        }
        let result = self.machine.run(run);
        if result.is_err() {
            self.ran(false);
        }
        result
    }

    fn ran(&mut self, ran: bool) {
        if let Some(lacking) = self.arriving.as_mut().and_then(|arriving| arriving.lacking.as_mut()) {
            lacking.ran = ran;
        }
    }

    /// Whether pages of the machine that runs here are missing.
    pub(super) fn lacks_pages(&self) -> bool {
        let lacking = self.arriving.as_ref().and_then(|arriving| arriving.lacking.as_ref());
        lacking.and_then(|lacking| lacking.memory()).is_some_and(|memory| memory.remaining() > 0)
    }

    /// The last page has come.
    pub(super) fn whole(&mut self) -> Vec<Action> {
        let lacking = self.arriving.as_mut().and_then(|arriving| arriving.lacking.as_mut());
        let Some(lacking) = lacking else { return Vec::new() };
        if lacking.memory().is_none_or(|memory| memory.remaining() > 0) {
            return Vec::new();
        }
        lacking.complete();
        self.shared.view.lock().memory = None;
        let actions = self.destination.handle(self.now(), Event::Whole);
        if self.destination.side() == DestinationSide::Owner {
            // Whether the source hears of it changes nothing here.
            self.tell(Status::Completed);
        }
        actions
    }

    /// The machine is stopped, and starts anew or ends: pages that are missing are not needed. Nothing writes its memory afterwards.
    pub(super) fn forget(&mut self) {
        if !self.lacks_pages() || self.destination.side() != DestinationSide::Owner {
            return;
        }
        // The source hears first that all is well: it takes the end of its channels for a lost link, and asks.
        for action in self.destination.handle(self.now(), Event::Whole) {
            self.carry_out(action);
        }
        self.close_channels();
        let lacking = self.arriving.as_mut().and_then(|arriving| arriving.lacking.as_mut());
        if let Some(lacking) = lacking {
            tracing::info!("The machine needs none of the pages any more that were still to come");
            lacking.forget();
        }
        self.shared.view.lock().memory = None;
        self.tell(Status::Completed);
    }

    /// Closes the connections to the source; what has come stays. Nothing that comes of them later is heard.
    pub(super) fn part(&mut self) {
        self.number += 1;
        self.close_channels();
        self.close_link();
    }

    fn close_channels(&mut self) {
        let features = self.features();
        if let Some(arriving) = &mut self.arriving {
            let arrived = self.shared.view.lock().arrived.clone();
            let none =
                Channels::new(0, features, wire::Digest::Off, (self.machine.ram(), None), arrived, None);
            mem::replace(&mut arriving.channels, none).close();
        }
    }

    /// Tells the source which pages are missing.
    pub(super) fn list(&mut self) -> Event {
        let memory = self
            .arriving
            .as_ref()
            .and_then(|arriving| arriving.lacking.as_ref())
            .and_then(|lacking| lacking.memory().cloned());
        let Some(memory) = memory else { return Event::Listed { missing: 0 } };
        let mut words = Vec::new();
        for (index, block) in self.machine.ram().blocks().iter().enumerate() {
            memory.missing(index).copy_words(0, block.pages(), &mut words);
            for bits in PageBits::cut(index as u16, &words) {
                let Some(link) = &mut self.link else { return Event::LinkLost("There is no link".into()) };
                if let Err(error) = link.send(&Message::Missing(bits)) {
                    return Event::LinkLost(crate::chain(&error));
                }
            }
        }
        Event::Listed { missing: memory.remaining() }
    }

    /// Lets channels of the source in that was found again.
    pub(super) fn open_again(&mut self, channels: u16) {
        let arrived = Arc::clone(&self.shared.view.lock().arrived);
        let (ram, features) = (self.machine.ram(), self.features());
        let Some(arriving) = &mut self.arriving else { return };
        let Some(lacking) = &arriving.lacking else { return };
        let postcopy = Postcopy { closed: Arc::default(), ..lacking.postcopy.clone() };
        arriving.channels = Channels::again(channels, features, ram, arrived, postcopy);
    }
}
