//! `whimbrel console`: of a machine its serial port, or else an address of the fleet's console to log in with.

use std::{error::Error, process::ExitCode};

use crate::{
    reach::{Reach, done},
    serial_console,
};

/// Type into a machine at its serial port; or, without one, print an address of the fleet's console in a browser.
///
/// Of a machine: every key goes to the guest, but Ctrl-] leaves. What the guest says from now on is printed; a machine that moves is
/// followed. One may be there at a time.
///
/// The address is good for one login, within 10 minutes. Who logs in may do what the kubeconfig may.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The machine
    #[arg(value_name = "VM")]
    machine: Option<String>,
    #[command(flatten)]
    reach: Reach,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    if let Some(machine) = &arguments.machine {
        let reach = &arguments.reach;
        return reach.run(async |client| serial_console::run(machine, reach, &client).await);
    }
    let server = arguments.reach.server()?;
    arguments.reach.run(async |client| {
        let request = http::Request::post("/console/code").body(Vec::new())?;
        let reply: serde_json::Value = done(client.request(request)).await?;
        let path = reply["path"].as_str().ok_or("The server has no console")?;
        output::say!("{}{path}", server.trim_end_matches('/'));
        Ok(ExitCode::SUCCESS)
    })
}
