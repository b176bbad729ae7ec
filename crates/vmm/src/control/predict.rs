//! What a migration would be like that began now (`whimbrel-predict`).
//!
//! The machine is looked at by a sample of its pages, which takes nothing from it and goes on beside a migration. What follows from
//! what is seen, the crate `migration` says, which decides a migration as well.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use engine::{
    Threads,
    source::{self, ProbeError},
};
use migration::{
    FixedCosts, PAGE_BYTES, Params,
    predict::{self, Forecast, Link, Pattern, Seen},
};
use monitor::{
    CommandError,
    types::{
        BandwidthFrom, PredictedMachine, PredictedMode, PredictionInfo, PredictionRequest, PredictionStatus,
    },
};
use parking_lot::{Condvar, Mutex};
use ram::{Sample, Touched};
use transport::{Address, Dialler};
use uuid::Uuid;
use wire::SessionId;

use super::{Control, moves::Departure, one_line, security};
use crate::{Machine, seccomp::Role};

/// The prediction under way, or the last one.
#[derive(Debug, Default)]
pub(super) struct Prediction {
    info: Mutex<PredictionInfo>,
    /// Never signalled: a wait on it is a sleep that the lock's rules allow.
    changed: Condvar,
}

/// Pages that are looked at, of all memory together: what is seen of a working set of 1 % is right to a tenth then.
const SAMPLE: u64 = 8192;
/// Fewest and most pages of a GiB.
const PER_GIB: (u64, u64) = (16, 1 << 18);
/// Looks at the sample, at these parts of the time.
const LOOKS: [f64; 4] = [0.1, 0.25, 0.5, 1.0];
/// Pages that are packed to see what comes of it.
const PACKED: usize = 512;

/// What is said where there is nothing to look at any more.
const GONE: &str = "The machine went away while it was looked at";
const DEFECT: &str =
    "This is a defect of whimbrel-vmm, see its log: the thread panicked that looked at the machine";

/// What is known of the way to the destination.
enum Way {
    Known(Speed),
    /// But not where it leads to.
    Unknown(source::Target),
}

#[derive(Clone, Copy)]
struct Speed {
    bytes_per_second: u64,
    is_encrypted: bool,
    from: BandwidthFrom,
}

impl Control {
    /// Starts to look at the machine.
    pub(super) fn predict(self: &Arc<Self>, request: PredictionRequest) -> Result<(), CommandError> {
        self.refuse_while_pages_come()?;
        let machine = self.machine()?;
        let (params, fixed) = {
            let settings = self.settings.lock();
            (settings.params(), settings.fixed_costs)
        };
        let fixed = fixed.unwrap_or_else(|| FixedCosts::guess(self.config.cpus().get()));
        let way = self.way(&request, &params)?;
        self.prediction.begin(request.id)?;
        let (control, machine) = (self.clone(), Arc::downgrade(&machine));
        let predict = move || {
            // A defect must not leave a prediction that never ends.
            let predicted =
                crate::panics::catch(|| control.look_and_predict(&request, &machine, &way, &params, &fixed));
            control.prediction.end(predicted.unwrap_or_else(|_| Err(DEFECT.into())));
        };
        self.launcher.spawn(Role::Measure, "predict", predict).map(|_| ()).map_err(|error| {
            let why = format!("There is no thread to look at the machine with: {error}");
            self.prediction.end(Err(why.clone()));
            CommandError::generic(why)
        })
    }

    /// What is known of the way to the destination, or where that is, so that it can be measured.
    fn way(&self, request: &PredictionRequest, params: &Params) -> Result<Way, CommandError> {
        if let Some(to) = &request.to {
            return self.way_to(to);
        }
        let known = |bandwidth: Option<u64>, from| Some((bandwidth.filter(|known| *known > 0)?, from));
        let measured = || {
            let departure = self.departure.lock().clone()?;
            let rate = departure.handle.snapshot().statistics.wire_rate()?;
            Some(rate.bytes_per_second as u64)
        };
        let known = known(request.bandwidth, BandwidthFrom::Given)
            .or_else(|| known(measured(), BandwidthFrom::LastMigration))
            .or_else(|| known(Some(params.max_bandwidth), BandwidthFrom::MaxBandwidth));
        let (bytes_per_second, from) = known.ok_or_else(|| {
            CommandError::generic(
                "Nothing is known of the way to the destination: say how many bytes it takes in a second (bandwidth=125000000 for 1 Gb/s), \
                 or where it is (uri=tcp:host:port), to have that measured",
            )
        })?;
        let is_encrypted = !self.settings.lock().parameters.tls_creds.is_empty();
        Ok(Way::Known(Speed { bytes_per_second, is_encrypted, from }))
    }

    /// The way to a destination, which is looked at as if a migration went there.
    fn way_to(&self, to: &Address) -> Result<Way, CommandError> {
        let under_way = |departure: &Departure| departure.handle.snapshot().status.is_under_way();
        if self.departure.lock().as_ref().is_some_and(under_way) {
            return Err(CommandError::generic(
                "A migration is under way, which a probe would take from: say how many bytes the way takes in a second (bandwidth)",
            ));
        }
        let trust = self.trust()?;
        security::check_address(&trust, to)?;
        self.check_to_leave(&trust)?;
        let session = SessionId(*Uuid::new_v4().as_bytes());
        let offer = wire::Offer::of(release::VERSION);
        Ok(Way::Unknown(source::Target::new(Dialler::new(to.clone(), trust), session, offer)))
    }

    fn look_and_predict(
        &self,
        request: &PredictionRequest,
        machine: &Weak<Machine>,
        way: &Way,
        params: &Params,
        fixed: &FixedCosts,
    ) -> Result<PredictionInfo, String> {
        let speed = way.speed(&self.threads()).map_err(|error| one_line(&error))?;
        let seen = self.prediction.look(request.time, machine, params).ok_or(GONE)?;
        let machine = predict::Machine { vcpus: self.config.cpus().get(), ..seen };
        let Speed { bytes_per_second, is_encrypted, from } = speed;
        let link = Link { bytes_per_second: bytes_per_second as f64, is_encrypted };
        let predicted = predict::predict(&machine, &link, params, fixed);
        let bytes = |pages: f64| (pages * PAGE_BYTES as f64) as u64;
        let pattern = machine.dirtying.unwrap_or(Pattern { working_set: 0.0, hazard: 0.0 });
        Ok(PredictionInfo {
            status: PredictionStatus::Predicted,
            id: request.id,
            machine: Some(PredictedMachine {
                memory: machine.pages * PAGE_BYTES,
                empty: machine.empty * PAGE_BYTES,
                working_set: bytes(pattern.working_set),
                dirty_rate: bytes(pattern.rate()),
                packed: machine.packed,
            }),
            bandwidth: Some(bytes_per_second),
            bandwidth_from: Some(from),
            modes: predicted.forecasts.iter().map(told).collect(),
            choice: Some(predicted.choice.name().into()),
            reason: Some(predicted.reason),
            error_desc: None,
        })
    }
}

impl Way {
    /// Measures it if need be, which takes a second or so.
    fn speed(&self, threads: &Arc<dyn Threads>) -> Result<Speed, ProbeError> {
        match self {
            Self::Known(speed) => Ok(*speed),
            Self::Unknown(target) => {
                let measured = source::probe_on(threads, target)?;
                tracing::info!(
                    "The way to a destination of release {} takes {} bytes in a second",
                    measured.release,
                    measured.bytes_per_second
                );
                let source::Measured { bytes_per_second, is_encrypted, .. } = measured;
                Ok(Speed { bytes_per_second, is_encrypted, from: BandwidthFrom::Probe })
            }
        }
    }
}

impl Prediction {
    /// The prediction under way, or the last one.
    pub(super) fn info(&self) -> PredictionInfo {
        self.info.lock().clone()
    }

    fn begin(&self, id: Option<u64>) -> Result<(), CommandError> {
        let mut info = self.info.lock();
        if info.status == PredictionStatus::Measuring {
            return Err(CommandError::generic(
                "The machine is being looked at already: query-whimbrel-prediction says when that is over",
            ));
        }
        *info = PredictionInfo { status: PredictionStatus::Measuring, id, ..PredictionInfo::default() };
        Ok(())
    }

    fn end(&self, predicted: Result<PredictionInfo, String>) {
        let failed = |why| PredictionInfo {
            status: PredictionStatus::Failed,
            error_desc: Some(why),
            ..PredictionInfo::default()
        };
        let mut info = self.info.lock();
        *info = PredictionInfo { id: info.id, ..predicted.unwrap_or_else(failed) };
    }

    /// What is seen of the machine in this time; `None` if it goes away meanwhile, which this does not keep it from.
    fn look(&self, time: Duration, machine: &Weak<Machine>, params: &Params) -> Option<predict::Machine> {
        let touched = || machine.upgrade().map(|machine| Touched::new(machine.ram().clone()));
        let mut before = touched()?;
        let pages = before.ram().bytes() / PAGE_BYTES;
        let per_gib = (SAMPLE << 18).checked_div(pages).unwrap_or(SAMPLE).clamp(PER_GIB.0, PER_GIB.1);
        let sample = Sample::draw(&mut before, per_gib, Uuid::new_v4().as_u64_pair().0);
        let began = Instant::now();
        let packed = engine::source::packed_share(&params.encodings, &sample.copies(&mut before, PACKED));
        drop(before);
        let share = |count: usize| count as f64 / sample.len().max(1) as f64;
        let mut seen = Vec::new();
        for part in LOOKS {
            self.sleep_until(began + time.mul_f64(part));
            let mut after = touched()?;
            let changed = share(sample.changed(&mut after));
            seen.push(Seen { seconds: began.elapsed().as_secs_f64(), changed });
        }
        let empty = (share(sample.empty()) * pages as f64) as u64;
        let dirtying = Pattern::of(&seen, pages);
        Some(predict::Machine { pages, empty, dirtying, packed, vcpus: 1 })
    }

    fn sleep_until(&self, deadline: Instant) {
        let mut info = self.info.lock();
        while !self.changed.wait_until(&mut info, deadline).timed_out() {}
    }
}

/// In the monitor's words.
fn told(forecast: &Forecast) -> PredictedMode {
    PredictedMode {
        mode: forecast.mode.name().into(),
        ends: forecast.ends,
        total_time: u64::try_from(forecast.total.as_millis()).unwrap_or(u64::MAX),
        downtime: forecast.downtime.as_secs_f64() * 1e3,
        transferred: forecast.bytes as u64,
        cpu_seconds: forecast.cpu.as_secs_f64(),
        loss: forecast.loss * 100.0,
        forbidden: (!forecast.forbidden.is_empty()).then(|| forecast.forbidden.into()),
    }
}
