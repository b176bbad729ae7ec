//! Figures of controllers on Kubernetes. What is counted is in a ConfigMap, which the next leader goes on with.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, TcpListener},
    sync::Arc,
    time::Duration,
};

use fleet::World;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, api::PostParams};
use metrics::{Format, Tally};
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

/// The ConfigMap, and what it has.
const COUNTS: &str = "whimbrel-counts";
const KEY: &str = "counts.json";
/// Where counts go that nobody understands.
const DAMAGED: &str = "counts.json.damaged";
/// How often what was counted is kept. Whoever leads next counts anew what was not: records outlive this by far.
const KEEP: Duration = Duration::from_secs(10);
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is at `/metrics` of this process.
#[derive(Debug, Default)]
pub(super) struct Figures {
    /// As the leader last saw it; nobody else has it.
    world: Mutex<Option<World>>,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// There once what was kept has been read.
    tally: Option<Tally>,
    /// How often it has changed, and how often it had when it was last kept.
    changes: u64,
    kept: u64,
}

impl Figures {
    /// Takes over the world as it is.
    pub(super) fn look(&self, world: &World) {
        *self.world.lock() = Some(world.clone());
        self.counts.lock().count(world);
    }

    /// The page in the format that is asked for.
    pub(super) fn page(&self, accept: &str) -> (&'static str, String) {
        let format = Format::of(accept);
        let world = self.world.lock().clone();
        let counts = self.counts.lock();
        let text = match (&world, &counts.tally) {
            (Some(world), Some(tally)) => metrics::text(world, tally, format),
            _ => metrics::text_while_waiting(format),
        };
        (format.media_type(), text)
    }

    /// Reads what was counted before, and keeps what is counted, for as long as this process leads.
    pub(super) async fn keep(&self, client: &Client, namespace: &str) {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let mut seen = None;
        loop {
            match timeout(PATIENCE, self.try_to_keep(&maps, &mut seen)).await {
                Ok(Ok(())) => {}
                // Somebody else has led meanwhile, or has removed it: from the beginning.
                Ok(Err(kube::Error::Api(refusal))) if matches!(refusal.code, 404 | 409) => seen = None,
                Ok(Err(error)) => tracing::warn!(%error, "What was counted is not kept; it is tried again"),
                Err(_) => tracing::warn!("Keeping what was counted takes too long; it is tried again"),
            }
            sleep(KEEP).await;
        }
    }

    async fn try_to_keep(&self, maps: &Api<ConfigMap>, seen: &mut Option<ConfigMap>) -> kube::Result<()> {
        let map = match seen.take() {
            Some(map) => map,
            None => self.read(maps).await?,
        };
        // Whatever comes of the write, a conflict alone has it read anew.
        *seen = Some(map.clone());
        let (text, changes) = {
            let counts = self.counts.lock();
            let Some(tally) = counts.tally.as_ref().filter(|_| counts.kept != counts.changes) else {
                return Ok(());
            };
            (tally.to_text(), counts.changes)
        };
        let mut next = map;
        next.data.get_or_insert_default().insert(KEY.to_owned(), text);
        let written = match next.metadata.resource_version {
            Some(_) => maps.replace(COUNTS, &PostParams::default(), &next).await,
            None => maps.create(&PostParams::default(), &next).await,
        };
        *seen = Some(written?);
        self.counts.lock().kept = changes;
        Ok(())
    }

    /// Goes on with what was kept.
    async fn read(&self, maps: &Api<ConfigMap>) -> kube::Result<ConfigMap> {
        let mut map = maps.get_opt(COUNTS).await?.unwrap_or_default();
        map.metadata.name = Some(COUNTS.to_owned());
        let data = map.data.get_or_insert_default();
        let tally = match data.get(KEY).map(|text| Tally::from_text(text)) {
            None => Tally::new(),
            Some(Ok(tally)) => tally,
            Some(Err(error)) => {
                tracing::warn!(%error, "The counts in ConfigMap {COUNTS} are damaged, and begin anew: what was found is at {DAMAGED}");
                if let Some(text) = data.remove(KEY) {
                    data.insert(DAMAGED.to_owned(), text);
                }
                Tally::new()
            }
        };
        let world = self.world.lock().clone();
        let mut counts = self.counts.lock();
        *counts = Counts { tally: Some(tally), ..Counts::default() };
        if let Some(world) = &world {
            counts.count(world);
        }
        Ok(map)
    }
}

impl Counts {
    fn count(&mut self, world: &World) {
        if self.tally.as_mut().is_some_and(|tally| tally.count(world)) {
            self.changes += 1;
        }
    }
}

/// Serves the page at a port of all addresses. A port that is taken is no reason not to decide.
pub(super) async fn serve(figures: Arc<Figures>, port: u16) {
    let error = match listen(port) {
        Ok(listener) => scrape::serve(listener, move |accept| figures.page(accept)).await,
        Err(error) => error,
    };
    tracing::error!(%error, "Cannot listen at port {port}: figures are not to be had. Say another port with --metrics-port");
}

/// IPv4 too, where there is IPv6.
fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
}
