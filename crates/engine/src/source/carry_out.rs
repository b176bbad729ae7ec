//! What the state machine of the source wants done.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use migration::{
    Postcopy,
    source::{Action, Event, State},
    throttle::Throttling,
};
use ram::{DirtySet, PageSums};
use wire::{Digest, MAX_FORWARD_BYTES, Message, Role};

use super::{
    DIAL_TIMEOUT, Input,
    attempt::Attempt,
    channels::{self, Channels},
    encoder::Ways,
    outlet::ZeroCopy,
    sender::Pages,
    work::{Chunks, RoundWork},
};
use crate::{MachineError, ThreadRole, catch_panic, chain, greet, threads};

/// How long it is waited between two rounds for storage to take what the machine has written since the last one.
const FLUSH_WAIT: Duration = Duration::from_millis(20);

impl Attempt {
    /// Carries an action out. A machine that panics has failed, and the state machine knows what to do then.
    pub(super) fn carry_out_safely(&mut self, action: Action) -> Option<Event> {
        let is_resume = matches!(action, Action::Resume { .. });
        catch_panic(|| self.carry_out(action)).unwrap_or_else(|panic| {
            let reason = format!("The migration thread panicked: {panic}");
            Some(if is_resume { Event::Resumed(Err(reason)) } else { Event::MachineFailed(reason) })
        })
    }

    fn carry_out(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Connect(role) => self.dial(role),
            Action::Send(Message::Hello(mut hello)) => {
                hello.machine = self.machine.description_now(hello.machine);
                self.send(&Message::Hello(hello))
            }
            Action::Send(message) => self.send(&message),
            Action::Prepare { channels } => Some(self.prepare(channels).unwrap_or_else(Event::LinkLost)),
            Action::SendRound { round, last } => self.send_round(round, last),
            Action::CutRound => {
                if let Some(round) = &self.round {
                    round.cut();
                }
                None
            }
            Action::Divide { round } => Some(self.divide(round)),
            Action::Needed(bits) => self.list(&bits).err().map(Event::LinkLost),
            Action::Reopen { channels } => Some(self.reopen(channels).unwrap_or_else(Event::LinkLost)),
            Action::Forward => self.forward(),
            Action::Push => self.push().err().map(Event::LinkLost),
            Action::Throttle { share } => {
                // Steps are taken from all alike, as QEMU does.
                let most = match self.shared.source.lock().params().throttling {
                    Throttling::Steps(_) => None,
                    way => Some(way.max().max(share)),
                };
                self.slowing.take(share, most);
                None
            }
            Action::Limit(limit) => {
                self.slowing.limit(limit);
                None
            }
            Action::FetchDirty => Some(self.fetch_dirty()),
            Action::Stop => Some(match self.machine.stop() {
                Ok(was_running) => Event::Stopped { was_running },
                Err(error) => Event::MachineFailed(format!(
                    "The machine could not be stopped: {}",
                    chain(error.as_ref())
                )),
            }),
            Action::SaveDevices => Some(self.save_devices()),
            Action::Resume { run } => {
                // The source's word is final: pages that are still on their way are of no use any more.
                self.disconnect();
                let resumed = self.machine.resume(run);
                Some(Event::Resumed(resumed.map_err(|error| chain(error.as_ref()))))
            }
            Action::Disconnect => {
                self.disconnect();
                None
            }
            Action::End(_) => None,
        }
    }

    /// Dials in a thread of its own, so that a cancel does not have to wait for a host that does not answer.
    fn dial(&mut self, role: Role) -> Option<Event> {
        self.dial += 1;
        let (number, queue, target) = (self.dial, self.queue.clone(), self.target.clone());
        let secret = self.secret.clone();
        let dial = move || {
            let dialled = target.dial.dial(DIAL_TIMEOUT);
            let greeted = dialled.map_err(|error| chain(&error)).and_then(|connection| {
                let greeted = greet::exchange(
                    &connection,
                    &target.offer,
                    role,
                    target.session,
                    secret.as_ref(),
                    greet::GREETING_TIMEOUT,
                );
                let greeted = greeted.map_err(|error| chain(&error))?;
                Ok((Arc::new(connection), greeted))
            });
            // Nobody listens when the attempt is over.
            let _ = queue.send(Input::Dialled(number, greeted));
        };
        let queue = self.queue.clone();
        let failed = move |reason| {
            let _ = queue.send(Input::Dialled(number, Err(reason)));
        };
        let spawned = threads::spawn(&self.threads, ThreadRole::Dial, "mig-dial", dial, failed);
        spawned.err().map(|error| Event::LinkLost(format!("No thread to dial with: {error}")))
    }

    pub(super) fn send(&mut self, message: &Message) -> Option<Event> {
        // Without a connection there is nobody to tell, as for the abort of an attempt that never connected.
        let sent = self.link.as_mut()?.send(message);
        if *message == Message::Go {
            // Should the destination have gone, what it said last may be the answer. Whoever reads it will see the end too.
            return None;
        }
        sent.err()
            .map(|error| Event::LinkLost(format!("{} could not be sent: {}", message.name(), chain(&error))))
    }

    /// Sends what has come for the machine here since it was stopped.
    fn forward(&mut self) -> Option<Event> {
        for forward in self.machine.undelivered(MAX_FORWARD_BYTES) {
            let (packets, bytes) = (forward.packets.len(), forward.bytes());
            if packets > 0 {
                tracing::info!(device = forward.device, packets, bytes, "Packets follow the machine");
            }
            for message in forward.cut() {
                if let Some(lost) = self.send(&Message::Forward(message)) {
                    return Some(lost);
                }
            }
        }
        None
    }

    fn prepare(&mut self, count: u16) -> Result<Event, String> {
        let ram = self.machine.ram();
        self.chunks = Chunks::new(&ram, count);
        self.dirty_pages = ram.bytes() / ram::PAGE_SIZE as u64;
        if self.machine.is_running() {
            // The bulk of it, beside the first round.
            self.flush_ahead(Duration::ZERO)?;
        }
        let log = self.machine.dirty_log();
        log.start().map_err(|error| format!("Dirty logging cannot be started: {error}"))?;
        self.shared.stalls.lock().begin(self.machine.vcpu_times());
        self.observer.pass(1);
        self.set = Some(Arc::new(DirtySet::all(&ram)));
        if self.shared.source.lock().params().postcopy == Postcopy::Immediate {
            self.look_ahead().map_err(|error| format!("The dirty log cannot be cleared: {error}"))?;
        }
        let digest = self.shared.source.lock().params().digest;
        let sums = digest.is_on().then(|| Arc::new(PageSums::new(ram.clone())));
        self.open(count, sums, digest == Digest::Full)?;
        Ok(Event::Prepared)
    }

    /// Opens channels, and a connection for pages that the machine waits for where it may come to that.
    pub(super) fn open(
        &mut self,
        count: u16,
        sums: Option<Arc<PageSums>>,
        verifies: bool,
    ) -> Result<(), String> {
        let queue = self.queue.clone();
        let report = move |event| {
            // Nobody listens when the attempt is over.
            let _ = queue.send(Input::Event(event));
        };
        let shared = &self.shared;
        let (Some(link), Some(agreed)) = (&self.link, self.agreed) else {
            return Err("There is no control connection".into());
        };
        let params = shared.source.lock().params().clone();
        let ram = self.machine.ram();
        // Pages that follow the machine are sent once, and not compared with anything that was sent before.
        let rounds = shared.needed.lock().is_none();
        let queue = self.queue.clone();
        let note = move |text| {
            let _ = queue.send(Input::Event(Event::Noted(text)));
        };
        let zero_copy = (params.zero_copy > 0).then(|| ZeroCopy {
            most: (params.zero_copy / u64::from(count.max(1))) as usize,
            counters: shared.zero_copy.clone(),
            note: Arc::new(note),
        });
        let pages = Pages {
            zero_copy,
            ways: Arc::new(Ways::new(params.encodings, count, &ram, rounds, shared.encoded.clone())),
            ram,
            log: self.machine.dirty_log(),
            touched: self.touched.clone(),
            pacer: shared.pacer.clone(),
            progress: shared.progress.clone(),
            sums,
            verifies,
            sums_what_follows: params.digest.is_on(),
        };
        let resources = channels::Resources {
            threads: self.threads.clone(),
            dial: self.target.dial.clone(),
            control: link.connection().clone(),
            agreed,
            release: self.target.offer.release.clone(),
            session: self.target.session,
            secret: self.secret.clone(),
            cpu: shared.cpu.clone(),
            pages,
            urgent: params.postcopy.is_possible().then(|| shared.needed.clone()),
            max_postcopy_bandwidth: params.max_postcopy_bandwidth,
        };
        let channels = self.channels.insert(Channels::new(count, &resources, Arc::new(report)));
        *shared.push_pacer.lock() = channels.push_pacer().clone();
        channels.open(&resources)?;
        shared.channels.store(count, Ordering::Relaxed);
        Ok(())
    }

    fn send_round(&mut self, round: u32, last: bool) -> Option<Event> {
        let (Some(channels), Some(set)) = (&self.channels, &self.set) else {
            return Some(Event::LinkLost("There are no channels".into()));
        };
        self.sent = true;
        let chunks = self.chunks.for_round(self.dirty_pages);
        let work = Arc::new(RoundWork::new(round, last, set.clone(), chunks));
        channels.send_round(&work);
        self.round = Some(work);
        None
    }

    fn fetch_dirty(&mut self) -> Event {
        self.slowing.renew();
        // Not when the machine is stopped: every microsecond counts then.
        let over = match self.shared.source.lock().state() {
            State::Fetching(rounds) => Some(rounds.round),
            _ => None,
        };
        if let Some(round) = over {
            self.shared.stalls.lock().end_round(round, self.machine.vcpu_times());
        }
        let (ram, log) = (self.machine.ram(), self.machine.dirty_log());
        // What was left of a round that was cut is in the log as before, but for what the VMM wrote.
        let cut = self.round.take().is_some_and(|round| round.is_cut());
        // The channel threads have let go of the set: they did so before they reported the end of their round.
        let Some(set) = self.set.as_mut().and_then(Arc::get_mut) else {
            return Event::MachineFailed("The dirty set is in use between two rounds".into());
        };
        // The set that the decision to stop was based on was not sent.
        let fetched = if self.sent && !cut {
            set.fetch(&ram, log.as_ref())
        } else {
            set.fetch_more(&ram, log.as_ref())
        };
        self.sent = false;
        let running = self.machine.is_running();
        if running
            && over.is_some()
            && let Err(error) = self.flush_ahead(FLUSH_WAIT)
        {
            return Event::MachineFailed(error);
        }
        match fetched {
            Ok(pages) => {
                self.dirty_pages = pages;
                self.observer.pass(self.shared.source.lock().statistics().dirty_syncs + 1);
                Event::DirtyFetched { pages, running }
            }
            Err(error) => Event::MachineFailed(format!("The dirty log cannot be read: {error}")),
        }
    }

    /// What is flushed while the machine runs is not flushed when it is stopped.
    fn flush_ahead(&mut self, wait: Duration) -> Result<(), String> {
        match self.machine.flush_ahead(wait) {
            Ok(takes) => {
                self.shared.source.lock().flush_takes(takes.unwrap_or_default());
                Ok(())
            }
            Err(error) => Err(chain(error.as_ref())),
        }
    }

    fn save_devices(&mut self) -> Event {
        self.try_save_devices().unwrap_or_else(|error| {
            Event::MachineFailed(format!("The device states cannot be saved: {}", chain(error.as_ref())))
        })
    }

    fn try_save_devices(&mut self) -> Result<Event, MachineError> {
        let states = self.machine.save()?;
        let devices = u32::try_from(states.len())?;
        for state in states {
            if let Some(lost) = self.send(&Message::Device(state)) {
                return Ok(lost);
            }
        }
        self.machine.release_disks()?;
        Ok(Event::Saved { devices })
    }

    /// Closes all connections and waits for the threads that used them.
    pub(super) fn disconnect(&mut self) {
        self.dial += 1;
        self.listed = None;
        if let Some(channels) = self.channels.take() {
            channels.close();
        }
        if let Some(link) = self.link.take() {
            link.close();
        }
    }
}
