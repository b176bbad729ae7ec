//! `whimbrel-lab`: runs scenarios in emulated hosts.

use std::{
    error::Error,
    io::BufRead as _,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant, SystemTime},
};

use agent::Ending;
use clap::{Parser, Subcommand};
use whimbrel_lab::{
    Host, Lab, LabError,
    scenarios::{self, Scenario},
};

/// Between two looks at the demo.
const GLANCE: Duration = Duration::from_millis(200);

/// Emulated hosts with stock kernels and real KVM, in which machines move.
#[derive(Parser, Debug)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Say what scenarios there are
    List,
    /// Run scenarios; without a name, all of them
    Run {
        /// Names, as `list` says them
        scenarios: Vec<String>,
        /// Boot the hosts anew and try once more where a host, its network card or a monitor did not answer; what was wrong stays wrong
        #[arg(long)]
        retry: bool,
    },
    /// Watch the demo inside of one emulated host, for machines without KVM
    Demo,
    /// Boot two hosts and run the commands that come in: a line is the name of a host, a space, and a shell command
    Shell,
}

fn main() -> ExitCode {
    let result = match CommandLine::parse().command {
        Command::List => {
            scenarios::ALL
                .iter()
                .for_each(|scenario| output::say!("{:18} {}", scenario.name, scenario.about));
            Ok(())
        }
        Command::Run { scenarios, retry } => run(&scenarios, retry),
        Command::Demo => demo(),
        Command::Shell => shell(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain!("whimbrel-lab: {}", explain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(names: &[String], retry: bool) -> Result<(), LabError> {
    let chosen: Vec<&Scenario> = if names.is_empty() {
        scenarios::ALL.iter().collect()
    } else {
        let find = |name: &String| {
            let found = scenarios::ALL.iter().find(|scenario| scenario.name == name);
            found.ok_or_else(|| {
                LabError::Wrong(format!("There is no scenario '{name}': see 'whimbrel-lab list'"))
            })
        };
        names.iter().map(find).collect::<Result<_, _>>()?
    };
    let start = Instant::now();
    let lab = Lab::two_hosts("scenarios")?;
    output::say!(
        "two hosts are up after {:.1} s; logs are in {}",
        start.elapsed().as_secs_f32(),
        lab.logs().display()
    );
    let mut failed = Vec::new();
    for scenario in &chosen {
        output::say!("{}: {}", scenario.name, scenario.about);
        let start = Instant::now();
        let mut result = attempt(&lab, scenario);
        if let Some(failure) = result.as_ref().err().filter(|failure| retry && failure.by_host) {
            output::say!("  FLAKY, on hosts that are booted anew: {}", explain(&failure.error));
            lab.hosts().iter().for_each(Host::kill);
            result = attempt(&lab, scenario);
        }
        let took = start.elapsed().as_secs_f32();
        match result {
            Ok(()) => output::say!("  ok, {took:.1} s"),
            Err(Failure { error, .. }) => {
                let name = scenario.name;
                let why = format!(
                    "FAILED after {took:.1} s: {}\n  again, alone: cargo run -p whimbrel-lab -- run {name}",
                    explain(&error)
                );
                output::say!("  {why}");
                // Whatever it was, the next one does not begin with it.
                lab.hosts().iter().for_each(Host::kill);
                failed.push(format!("{name}: {why}"));
            }
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    // Said again, where a long log ends.
    let (count, of) = (failed.len(), chosen.len());
    Err(LabError::Wrong(format!("{count} of {of} scenarios failed\n{}", failed.join("\n"))))
}

/// Why a scenario failed.
struct Failure {
    error: LabError,
    /// A host, or the emulated hardware in it, failed rather than what was tried.
    by_host: bool,
}

/// Runs a scenario once; where it fails, keeps what there is to know of it.
fn attempt(lab: &Lab, scenario: &Scenario) -> Result<(), Failure> {
    let begun = SystemTime::now();
    let consoles: Vec<_> = lab.hosts().iter().map(|host| host.console().len()).collect();
    run_on_idle_hosts(lab, scenario).map_err(|error| {
        let lost_card = lab.hosts().iter().zip(consoles).any(|(host, said)| host.has_lost_its_network(said));
        keep_evidence(lab, scenario.name);
        warnings(lab, begun).iter().for_each(|line| output::say!("  {line}"));
        Failure { by_host: lost_card || !matches!(error, LabError::Wrong(_)), error }
    })
}

fn run_on_idle_hosts(lab: &Lab, scenario: &Scenario) -> Result<(), LabError> {
    lab.reset()?;
    (scenario.run)(lab)?;
    lab.kernels_are_well()
}

/// The logs of the hosts' kernels; what machines did that were given up is in files of their own.
fn keep_evidence(lab: &Lab, scenario: &str) {
    for host in lab.hosts().iter().filter(|host| host.is_on()) {
        // A host that does not say is a host that hangs, and the failure says so already.
        if let Ok(said) = host.remote().run("dmesg | tail -n 50") {
            let _ = std::fs::write(lab.logs().join(format!("{}.{scenario}.dmesg", host.name())), said);
        }
    }
}

/// What machines that were started since `begun` have warned of, guests that crashed above all.
fn warnings(lab: &Lab, begun: SystemTime) -> Vec<String> {
    let logs = std::fs::read_dir(lab.logs()).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_new =
        |path: &PathBuf| path.metadata().and_then(|data| data.modified()).is_ok_and(|time| time >= begun);
    let mut warnings = Vec::new();
    for path in logs.filter(|path| path.extension().is_some_and(|ending| ending == "err")).filter(is_new) {
        let machine = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let bad = text.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR "));
        warnings.extend(bad.map(|line| format!("{machine}: {line}")));
    }
    warnings.sort();
    warnings
}

/// The demo with little memory, and a downtime that is no failure on a processor of software.
const DEMO: &str = "whimbrel demo --plain --memory 128M --work 16M --rate 4M --downtime-limit 5000";

/// The demo for machines that cannot run it: slow, but with a real kernel's KVM.
fn demo() -> Result<(), LabError> {
    output::say!(
        "Booting an emulated host. Its processor is software: times are no measure of Whimbrel, what is checked is"
    );
    let lab = Lab::new("demo", &["a"])?;
    let host = lab.host("a").remote();
    host.put(&lab.images().programs().tool, "/bin/whimbrel", 0o755)?;
    let demo = host.spawn(&DEMO.split(' ').collect::<Vec<_>>())?;
    let mut shown = 0;
    loop {
        let output = demo.output();
        if let Some(new) = output.out.get(shown..).filter(|new| !new.is_empty()) {
            // Who has stopped to look misses what follows; what is checked stays checked.
            let _ = output::show(new);
            shown = output.out.len();
        } else if let Some(ending) = output.ending {
            return match ending {
                Ending::Status(0) => Ok(()),
                ending => Err(LabError::Wrong(format!("The demo ended with {ending:?}: {}", output.err))),
            };
        }
        demo.wait_for_news(GLANCE);
    }
}

fn shell() -> Result<(), LabError> {
    let lab = Lab::two_hosts("shell")?;
    lab.fresh_root()?;
    output::say!("up");
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let Some((name, command)) = line.split_once(' ') else { continue };
        let Some(host) = lab.hosts().iter().find(|host| host.name() == name) else {
            output::say!("there is no host '{name}'");
            continue;
        };
        match host
            .remote()
            .spawn(&["sh", "-c", command])
            .and_then(|program| program.wait(Duration::from_secs(300)))
        {
            Ok(output) => output::say!("{}{}[{:?}]", output.out, output.err, output.ending),
            Err(error) => output::say!("{}", explain(&error)),
        }
    }
    Ok(())
}

/// An error with everything that caused it.
fn explain(error: &LabError) -> String {
    let first: &(dyn Error + 'static) = error;
    let causes = std::iter::successors(Some(first), |error| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
