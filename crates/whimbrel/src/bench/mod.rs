//! `whimbrel bench`: the same guest, moved by Whimbrel and by QEMU in turns, and what a bare copy takes beside them.
//!
//! One move is measured in `trial`, by the same means for both; what is moved is in `guest`; the limit that the host sets in
//! `bare_copy`; what comes out of it in `summary`.

mod arguments;
mod bare_copy;
mod case;
mod compression;
mod cpu;
mod dirty_log;
mod downtime;
mod fleet;
mod guest;
mod huge_memory;
mod linked;
mod postcopy;
mod profile;
mod side_by_side;
mod summary;
mod trial;
mod waits;

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

pub(crate) use arguments::Arguments;
use authority::{Authority, Request};
use bare_copy::BareCopy;
use case::Case;
use summary::{Summary, write};
use tempfile::TempDir;
use trial::{Sample, TrialError, trial};

use crate::rig::{
    Backing, Contender, ContenderError, Contenders, Host, HugePages, Interrupt, Interrupted, KvmError, Link,
    LinkError, Memory, ProgramError, bare_cipher_per_gib, check_kvm, find_vmm,
};

/// Why there is nothing to compare.
#[derive(Debug, thiserror::Error)]
enum BenchError {
    /// No virtual machine can run here.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The VMM is not there.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// QEMU is not there.
    #[error(transparent)]
    Contender(#[from] ContenderError),
    /// The user wants to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// Small pages would be measured instead of migration.
    #[error(
        "Two machines with {memory} need {pages} free huge pages of 2 MiB, which cannot be had: run this as root on a host with \
         more memory, or try a smaller --memory"
    )]
    HugePages { memory: Memory, pages: u64 },
    /// A file or folder of the benchmark's own.
    #[error("Cannot prepare {what}")]
    Prepare { what: String, source: io::Error },
    /// A move failed, which says nothing about speed.
    #[error("A move by {contender} failed")]
    Trial { contender: Contender, source: Box<TrialError> },
    /// There is no link of that rate.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The copy that is the limit failed.
    #[error("The bare copy over loopback failed")]
    BareCopy(#[source] io::Error),
    /// The figures cannot be written.
    #[error("Cannot write the figures to {}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// 0 when everything was measured and no guest found a fault in its memory.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    if arguments.fleet {
        let outcome = arguments.leave.as_deref().map_or_else(fleet::run, fleet::fill_only);
        return outcome.unwrap_or_else(|error| {
            output::complain!("whimbrel bench: {}", crate::with_sources(&*error));
            ExitCode::FAILURE
        });
    }
    match compare(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error @ BenchError::Interrupted(_)) => {
            output::complain!("{error}: everything that was started has ended");
            ExitCode::from(130)
        }
        Err(error) => {
            output::complain!("whimbrel bench: {}", crate::with_sources(&error));
            match error {
                BenchError::Trial { .. } | BenchError::BareCopy(_) | BenchError::Write { .. } => {
                    ExitCode::FAILURE
                }
                _ => ExitCode::from(2),
            }
        }
    }
}

fn compare(arguments: &Arguments) -> Result<bool, BenchError> {
    check_kvm()?;
    let prepare = |what: &str| {
        let what = what.to_owned();
        move |source| BenchError::Prepare { what, source }
    };
    let interrupt = Interrupt::install().map_err(prepare("for Ctrl-C"))?;
    let contenders = Contenders::new(find_vmm(arguments.vmm.as_deref())?, &arguments.qemu)?;
    let both = arguments.memory.bytes().saturating_mul(2);
    // Held until the end: the machines of all trials use the same pages, which have been touched before.
    let pages = HugePages::reserve(both).map_err(prepare("huge pages"))?;
    let _pages = pages.ok_or(BenchError::HugePages {
        memory: Memory(arguments.memory.bytes()),
        pages: both / crate::rig::HUGE_PAGE,
    })?;
    let folder = tempfile::Builder::new()
        .prefix("whimbrel-bench-")
        .tempdir()
        .map_err(prepare("a temporary folder"))?;
    let kernel = guests::write_workload(folder.path()).map_err(prepare("the guest's image"))?;
    let certificates = folder.path().join("tls");
    Authority::init(&folder.path().join("ca"), "Whimbrel bench")
        .and_then(|authority| authority.issue(&certificates, &Request::new([HOST, Link::DESTINATION])))
        .map_err(|error| prepare("certificates")(io::Error::other(error)))?;
    let arguments_of_all = arguments.clone();
    let host = Host::now();
    let link = if arguments.link.is_empty() { None } else { Some(Link::make()?) };
    let mut bench = Bench {
        arguments: arguments_of_all,
        contenders,
        host,
        folder,
        kernel,
        certificates,
        interrupt,
        backing: if arguments.small_pages { Backing::Memfd } else { Backing::Hugetlb },
        follows: None,
        dirty_log: None,
        compression: None,
        link,
    };
    bench.introduce();
    if bench.link.is_some() {
        let links = bench.links()?;
        links.print();
        keep(arguments, |path| links.write(path))?;
        return Ok(links.is_intact());
    }
    if let Some(folder) = &arguments.profile {
        return bench.profile(folder).map(|()| true);
    }
    if arguments.downtime {
        let downtimes = bench.downtimes()?;
        downtimes.print();
        keep(arguments, |path| downtimes.write(path))?;
        return Ok(downtimes.is_intact());
    }
    if arguments.dirty_log {
        let logs = bench.dirty_logs()?;
        logs.print();
        keep(arguments, |path| logs.write(path))?;
        return Ok(logs.is_intact());
    }
    if arguments.compression {
        let compressions = bench.compressions()?;
        compressions.print();
        keep(arguments, |path| compressions.write(path))?;
        return Ok(compressions.is_intact());
    }
    if arguments.postcopy {
        let follows = bench.postcopies()?;
        follows.print();
        keep(arguments, |path| follows.write(path))?;
        return Ok(follows.is_intact());
    }
    let summaries = arguments.cases().into_iter().map(|case| {
        let summary = bench.repeat(case)?;
        summary.print();
        Ok(summary)
    });
    let summaries = summaries.collect::<Result<Vec<_>, BenchError>>()?;
    let bare_cipher = bare_cipher_per_gib();
    summaries.iter().for_each(|summary| summary.print_encryption(&summaries, bare_cipher));
    keep(arguments, |path| write(&summaries, path))?;
    Ok(summaries.iter().all(Summary::is_intact))
}

fn keep(arguments: &Arguments, write: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), BenchError> {
    if let Some(path) = &arguments.json {
        write(path).map_err(|source| BenchError::Write { path: path.clone(), source })?;
        output::say!("All figures are in {}", path.display());
    }
    Ok(())
}

/// Who goes first changes each time: what one leaves behind in the host must not always meet the other.
fn order(repetition: u32) -> [Contender; 2] {
    let mut order = [Contender::Whimbrel, Contender::Qemu];
    if repetition % 2 == 1 {
        order.reverse();
    }
    order
}

/// All that trials have in common.
#[derive(Debug)]
struct Bench {
    arguments: Arguments,
    contenders: Contenders,
    host: Host,
    folder: TempDir,
    kernel: PathBuf,
    /// Certificates for this host.
    certificates: PathBuf,
    interrupt: Interrupt,
    /// What guest memory is made of.
    backing: Backing,
    /// How fast the guest writes, all over its memory, where postcopy is measured.
    follows: Option<&'static str>,
    /// How it is found out which pages the guest writes, where that is measured.
    dirty_log: Option<&'static str>,
    /// Whether channels choose encodings for themselves, where that is measured.
    compression: Option<&'static str>,
    /// What is between the two ends, if it is not the loopback of this host.
    link: Option<Link>,
}

/// Where machines move, if there is no link, and who the certificates are for.
const HOST: &str = "127.0.0.1";

impl Bench {
    /// Where destinations listen.
    fn address(&self) -> &'static str {
        if self.link.is_some() { Link::DESTINATION } else { HOST }
    }

    fn introduce(&self) {
        let arguments = &self.arguments;
        let contenders = match &self.link {
            Some(_) => "In clear and encrypted".to_owned(),
            None if arguments.compression => "Whimbrel with whimbrel-compression off and auto".to_owned(),
            None if arguments.dirty_log => "Whimbrel with a bitmap and with rings".to_owned(),
            None => format!("Whimbrel and {}", self.contenders.qemu_version()),
        };
        if arguments.postcopy {
            output::say!(
                "{contenders}, in turns, {} times each, by postcopy: a guest with {} that writes all over it as fast as it can, filled \
                 with {}; no bandwidth limit",
                arguments.repetitions,
                Memory(arguments.memory.bytes()),
                arguments.fill,
            );
            output::say!("{}", self.host);
            return;
        }
        output::say!(
            "{contenders}, in turns, {} times each: a guest with {} ({} vCPU), {} of work, {}, filled with {}; \
             {}, no bandwidth limit, downtime limit {} ms",
            arguments.repetitions,
            Memory(arguments.memory.bytes()),
            arguments.cpus,
            Memory(arguments.work.bytes()),
            arguments.rate,
            arguments.fill,
            self.backing,
            arguments.downtime_limit_ms()
        );
        output::say!("{}", self.host);
    }

    fn repeat(&self, case: Case) -> Result<Summary, BenchError> {
        output::say!("\n{case}");
        let version = self.contenders.qemu_version();
        let mut summary = Summary::new(&self.arguments, case, self.host.clone(), version);
        for repetition in 0..self.arguments.repetitions {
            for contender in order(repetition) {
                let sample = self.try_once(contender, case, None)?;
                output::say!("{:>3}  {contender:<9} {sample}", repetition + 1);
                summary.samples_mut(contender).push(sample);
            }
            let bytes = self.arguments.memory.bytes();
            let copy = BareCopy::measure(bytes, case.channels).map_err(BenchError::BareCopy)?;
            output::say!("{:>3}  bare copy {copy}", repetition + 1);
            summary.copies.push(copy);
        }
        Ok(summary)
    }

    fn try_once(
        &self,
        contender: Contender,
        case: Case,
        profile: Option<&profile::Recorder>,
    ) -> Result<Sample, BenchError> {
        trial(self, contender, case, profile).map_err(|error| match error {
            TrialError::Interrupted(interrupted) => BenchError::Interrupted(interrupted),
            error => BenchError::Trial { contender, source: Box::new(error) },
        })
    }

    fn profile(&self, folder: &Path) -> Result<(), BenchError> {
        let failed = |source| BenchError::Prepare { what: "a profile with perf".to_owned(), source };
        for contender in [Contender::Whimbrel, Contender::Qemu] {
            let recorder = profile::Recorder::new(folder, contender).map_err(failed)?;
            let sample = self.try_once(contender, self.arguments.first_case(), Some(&recorder))?;
            output::say!("\n{contender} {sample}");
            recorder.print().map_err(failed)?;
        }
        Ok(())
    }
}
