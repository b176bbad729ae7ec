//! `whimbrel plan`: what would become of a migration, before it is asked for.

use std::{error::Error, process::ExitCode, time::Duration};

use fleet::{fit::Fit, preview::listed};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use objects::{
    HOSTNAME_LABEL, MigrationConfiguration, MigrationPlan, MigrationPlanSpec, MigrationPlanStatus, WayBasis,
};

use crate::{
    reach::{Reach, done, world},
    rig::{Bytes, Span},
    seconds::Seconds,
};

/// Show where a machine of the fleet could run, and how a migration would go.
///
/// The exit status is 0 if it would begin now, else 1.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The machine
    #[arg(value_name = "VM")]
    machine: String,
    /// The node that it shall go to
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
    /// Seconds that it would have, instead of what its policy says: 60s, 10m
    #[arg(long, value_name = "TIME")]
    deadline: Option<Seconds>,
    #[command(flatten)]
    reach: Reach,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    arguments.reach.run(async |client| {
        let world = world(&client).await?;
        let (name, namespace) = (arguments.machine.as_str(), arguments.reach.namespace.as_str());
        let instance = world.instance(namespace, name).ok_or_else(|| {
            format!("{name} does not run: there is no such instance in namespace {namespace}")
        })?;
        let asked = MigrationPlanSpec {
            vmi_name: name.to_owned(),
            added_node_selector: arguments
                .to
                .iter()
                .map(|node| (HOSTNAME_LABEL.to_owned(), node.clone()))
                .collect(),
            deadline_seconds: arguments.deadline.map(|seconds| seconds.0),
            forecast: true,
        };
        let plan = fleet::plan::plan(&world, instance, &asked);
        let status = instance.status.clone().unwrap_or_default();
        let here = status.node_name.as_deref().unwrap_or("no node yet");
        output::say!("{name} is on {here} ({:?})", status.phase());
        output::say!("");
        show_fits(&plan.fits);
        output::say!("");
        let policy = plan.choice.policy.and_then(|policy| policy.metadata.name.as_deref()).unwrap_or("none");
        output::say!("Policy: {policy} ({})", plan.choice.reason);
        show_values(&plan.values);
        output::say!("");
        show_forecasts(&ask(&client, &arguments.reach, asked).await);
        output::say!("");
        let why_not = plan.why_not();
        match (&why_not, plan.target) {
            (None, Some(target)) => output::say!("A migration would go to {target} now."),
            _ => output::say!("A migration would not begin now: {}.", why_not.as_deref().unwrap_or_default()),
        }
        if plan.ahead > 0 {
            output::say!("{} migrations wait already, and come first.", plan.ahead);
        }
        Ok(if why_not.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

/// What the server says of the same, which may call the machine's agent. One of Kubernetes does not know the question.
async fn ask(
    client: &Client,
    reach: &Reach,
    asked: MigrationPlanSpec,
) -> Result<MigrationPlanStatus, String> {
    let api: Api<MigrationPlan> = reach.api(client);
    let name = Some(asked.vmi_name.clone());
    let metadata = ObjectMeta { name, ..ObjectMeta::default() };
    let question = MigrationPlan { metadata, spec: asked, status: None };
    let answer = done(api.create(&PostParams::default(), &question)).await;
    let answer = answer.map_err(|error| error.to_string().trim_end_matches('.').to_owned())?;
    answer.status.ok_or_else(|| "this server does not ask agents".to_owned())
}

fn show_forecasts(answer: &Result<MigrationPlanStatus, String>) {
    let answer = match answer {
        Ok(answer) => answer,
        Err(why) => return output::say!("There is no forecast: {why}."),
    };
    if let Some(why) = &answer.no_forecast {
        output::say!("There is no forecast: {why}.");
        return;
    }
    for node in answer.nodes.iter().filter(|node| !node.forecasts.is_empty()) {
        let bandwidth = Bytes(node.bandwidth.unwrap_or(0));
        let basis = match node.bandwidth_basis {
            Some(WayBasis::Way) => "as the last migration there found",
            Some(WayBasis::Fleet) => "as the last migration elsewhere found",
            Some(WayBasis::Policy) => "as the policy allows",
            Some(WayBasis::Assumed) => "which is a guess",
            None => "the next slower speed that was asked about",
        };
        output::say!("To {} at {bandwidth}/s, {basis}:", node.name);
        output::say!("  {:10} {:>9} {:>9} {:>10} {:>6}", "MODE", "TIME", "DOWNTIME", "SENT", "LOSS");
        for forecast in &node.forecasts {
            let span = |millis: f64| Span(Duration::from_secs_f64(millis.clamp(0.0, 1e12) / 1e3)).to_string();
            let time = if forecast.ends { span(forecast.total_ms as f64) } else { "no end".to_owned() };
            let mark = if forecast.chosen { " <- taken" } else { "" };
            let why = forecast.forbidden.as_deref().map(|why| format!("  ({why})")).unwrap_or_default();
            output::say!(
                "  {:10} {time:>9} {:>9} {:>10} {:>5.1}%{mark}{why}",
                forecast.mode,
                span(forecast.downtime_ms),
                Bytes(forecast.transferred_bytes).to_string(),
                forecast.loss_percent
            );
        }
        if let Some(reason) = &node.forecast_reason {
            output::say!("  {reason}");
        }
    }
}

fn show_fits(fits: &[Fit]) {
    let width = fits.iter().map(|fit| fit.node.len()).max().unwrap_or(0).max(4);
    output::say!("{:width$}  FITS  FREE        WHY NOT", "NODE");
    for fit in fits {
        let why: Vec<_> = fit.misfits.iter().map(ToString::to_string).collect();
        let fits = if why.is_empty() { "yes" } else { "no" };
        output::say!("{:width$}  {fits:4}  {:10}  {}", fit.node, Bytes(fit.free).to_string(), why.join("; "));
    }
}

/// Values of a migration, one on a line.
pub(crate) fn show_values(values: &MigrationConfiguration) {
    for (name, value) in listed(values) {
        output::say!("  {name:24} {value}");
    }
}
