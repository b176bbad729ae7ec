//! `whimbrel crds`: the fleet's kinds, for a Kubernetes cluster.

use std::{error::Error, process::ExitCode};

/// Print the fleet's kinds as custom resource definitions, for `kubectl apply -f -`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Leave out what may not change, as servers before Kubernetes 1.25 refuse such rules
    #[arg(long)]
    without_rules: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    for definition in objects::definitions(!arguments.without_rules) {
        output::show(&format!("---\n{}", serde_saphyr::to_string(&definition)?))?;
    }
    Ok(ExitCode::SUCCESS)
}
