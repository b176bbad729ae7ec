//! Commands of a migration that both contenders need, each in its own words.

use std::path::Path;

use monitor::{protocol::Event, types::SocketAddress};
use serde_json::json;

use super::{Contender, End, Machine, MachineError};

/// Has the destination listen at `host`, at a port of its choice, and returns that. `None` if it does not say.
pub(crate) fn listen(host: &str, destination: &mut Machine) -> Result<Option<String>, MachineError> {
    destination.execute("migrate-incoming", json!({ "uri": format!("tcp:{host}:0") }))?;
    let addresses = destination.query_migrate()?.socket_address.unwrap_or_default();
    Ok(addresses.into_iter().find_map(|address| match address {
        SocketAddress::Inet { port, .. } => Some(port),
        _ => None,
    }))
}

/// Gives a machine its certificates, which are in `directory` and made out to `host`: both contenders the same, and
/// both check the other side's.
pub(crate) fn encrypt(
    contender: Contender,
    end: End,
    directory: &Path,
    host: &str,
    machine: &mut Machine,
) -> Result<(), MachineError> {
    let parameters = match contender {
        Contender::Whimbrel => json!({ "tls-creds": directory, "tls-authz": format!("ip:{host}") }),
        Contender::Qemu => {
            let endpoint = if end == End::Source { "client" } else { "server" };
            let object = json!({
                "qom-type": "tls-creds-x509",
                "id": "tls",
                "dir": directory,
                "endpoint": endpoint,
                "verify-peer": true,
            });
            machine.execute("object-add", object)?;
            json!({ "tls-creds": "tls", "tls-hostname": host })
        }
    };
    machine.execute("migrate-set-parameters", parameters)?;
    Ok(())
}

/// When the event was, in microseconds since 1970 by the host's clock.
pub(crate) fn micros(event: &Event) -> i64 {
    event.timestamp.seconds.saturating_mul(1_000_000).saturating_add(event.timestamp.microseconds)
}
