//! `whimbrel console`: an address to log in with.

use std::{error::Error, process::ExitCode};

use crate::reach::{Reach, done};

/// Print an address of the console that is good for one login, within 10 minutes.
///
/// Who logs in may do what the kubeconfig may.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    reach: Reach,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let server = arguments.reach.server()?;
    arguments.reach.run(async |client| {
        let request = http::Request::post("/console/code").body(Vec::new())?;
        let reply: serde_json::Value = done(client.request(request)).await?;
        let path = reply["path"].as_str().ok_or("The server has no console")?;
        output::say!("{}{path}", server.trim_end_matches('/'));
        Ok(ExitCode::SUCCESS)
    })
}
