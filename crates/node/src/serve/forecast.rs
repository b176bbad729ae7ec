//! What migrations would be like, by the word of the engine: its VMM looks at the machine for a moment, which takes nothing from it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread::sleep,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use hyper::StatusCode;
use monitor::{
    Client, ClientError,
    types::{PredictionInfo, PredictionStatus},
};
use serde_json::{Value, json};

use super::{Desk, Refusal, parameter};
use crate::settings::Allowed;

/// Ways of different speed that one request may ask about.
const MAX_WAYS: usize = 4;
/// How long a machine is looked at for each, in milliseconds.
const LOOK_MS: u64 = 500;
/// How long a forecast may take in all, also where others ask too.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long a monitor may take to reply.
const REPLY: Duration = Duration::from_secs(2);
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// Forecasts for each speed that a query names, in its order, with what the policy allows: an array of what the engine says.
pub(super) fn forecast(desk: &Desk, vmm: &str, query: &str) -> Result<Vec<u8>, Refusal> {
    let wanted = Wanted::read(query).ok_or_else(|| {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            format!("say up to {MAX_WAYS} speeds in bytes each second: bandwidth=125000000,250000000"),
        )
    })?;
    let gone = || Refusal::not_found("its VMM has gone");
    let monitor = desk.folder(vmm).ok_or_else(gone)?.monitor();
    let deadline = Instant::now() + PATIENCE;
    let mut client = Client::connect(&monitor, REPLY).map_err(|_| gone())?;
    let all =
        wanted.bandwidths.iter().map(|bandwidth| predict(desk, &mut client, &wanted, *bandwidth, deadline));
    let all = all.collect::<Result<Vec<_>, _>>()?;
    serde_json::to_vec(&all)
        .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

fn predict(
    desk: &Desk,
    client: &mut Client,
    wanted: &Wanted,
    bandwidth: u64,
    deadline: Instant,
) -> Result<PredictionInfo, Refusal> {
    let id = fresh_id();
    while !begin(desk, client, wanted, bandwidth, id)? {
        if Instant::now() > deadline {
            return Err(busy());
        }
        sleep(ASK_AGAIN);
    }
    loop {
        let said: PredictionInfo = client.query("query-whimbrel-prediction", Value::Null).map_err(told)?;
        match said.status {
            // That of an administrator at the monitor, which began after ours was over.
            _ if said.id != Some(id) => return Err(busy()),
            PredictionStatus::Predicted => return Ok(said),
            PredictionStatus::Failed | PredictionStatus::None => {
                return Err(Refusal::new(
                    StatusCode::CONFLICT,
                    "the machine went away while it was looked at",
                ));
            }
            PredictionStatus::Measuring if Instant::now() > deadline => return Err(busy()),
            PredictionStatus::Measuring => sleep(ASK_AGAIN),
        }
    }
}

fn busy() -> Refusal {
    Refusal::new(StatusCode::CONFLICT, "the machine is being looked at by others: ask again")
}

/// Has the machine looked at, unless it is already: `false`.
fn begin(
    desk: &Desk,
    client: &mut Client,
    wanted: &Wanted,
    bandwidth: u64,
    id: u64,
) -> Result<bool, Refusal> {
    let _settings = desk.settings();
    let said: PredictionInfo = client.query("query-whimbrel-prediction", Value::Null).map_err(told)?;
    if said.status == PredictionStatus::Measuring {
        return Ok(false);
    }
    let migration = client.query_migrate().map_err(told)?;
    if migration.status.is_some_and(|status| !status.is_final()) {
        let why = "it is being migrated: its migration says how far that is";
        return Err(Refusal::new(StatusCode::CONFLICT, why));
    }
    let allowed = Allowed {
        auto_converge: wanted.auto_converge,
        post_copy: wanted.post_copy,
        max_downtime_ms: wanted.downtime_limit,
    };
    client.execute("migrate-set-capabilities", allowed.capabilities()).map_err(told)?;
    client.execute("migrate-set-parameters", allowed.parameters()).map_err(told)?;
    let arguments = json!({ "bandwidth": bandwidth, "time": LOOK_MS, "id": id });
    client.execute("whimbrel-predict", arguments).map(|_| true).map_err(told)
}

/// One that nobody else has: an id is kept by JSON, whose numbers are good for 53 bits.
fn fresh_id() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (u64::try_from(since.as_micros()).unwrap_or(0) ^ COUNT.fetch_add(1, Ordering::Relaxed)) & ((1 << 53) - 1)
}

fn told(error: ClientError) -> Refusal {
    let why = match error {
        ClientError::Command { source, .. } => source.to_string(),
        error => error.to_string(),
    };
    Refusal::new(StatusCode::CONFLICT, why)
}

/// What a query asks for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    bandwidths: Vec<u64>,
    auto_converge: bool,
    post_copy: bool,
    downtime_limit: Option<u32>,
}

impl Wanted {
    /// `None` if it is wrong.
    fn read(query: &str) -> Option<Self> {
        let bandwidths = parameter(query, "bandwidth")?.split(',').map(|number| number.parse().ok());
        let bandwidths = bandwidths.collect::<Option<Vec<u64>>>()?;
        let is_allowed = (1..=MAX_WAYS).contains(&bandwidths.len()) && !bandwidths.contains(&0);
        let downtime_limit = parameter(query, "downtime-limit").map(str::parse).transpose().ok()?;
        is_allowed.then(|| Self {
            bandwidths,
            auto_converge: parameter(query, "auto-converge") == Some("true"),
            post_copy: parameter(query, "postcopy-ram") == Some("true"),
            downtime_limit,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_that_is_wrong_asks_for_nothing() {
        let wanted = Wanted::read("bandwidth=1,2&auto-converge=true&downtime-limit=300").unwrap();
        let expected = Wanted {
            bandwidths: vec![1, 2],
            auto_converge: true,
            post_copy: false,
            downtime_limit: Some(300),
        };
        assert_eq!(wanted, expected);
        for wrong in [
            "",
            "bandwidth=",
            "bandwidth=0",
            "bandwidth=1,2,3,4,5",
            "bandwidth=-1",
            "bandwidth=1&downtime-limit=x",
        ] {
            assert_eq!(Wanted::read(wrong), None, "{wrong}");
        }
    }
}
