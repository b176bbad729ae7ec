//! The node as an object, and the lease that says that its agent lives.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant, SystemTime},
};

use jiff::Timestamp;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Node};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use objects::{
    AGENT_CONDITION, BRIDGE_LABEL, DISKS_ANNOTATION, GROUP, HOSTNAME_LABEL, LEASE_LABEL,
    MIGRATION_ADDRESS_ANNOTATION, MIGRATION_NETWORK_ANNOTATION,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::{runtime::Handle, time::timeout};

use crate::{
    Config, Registration,
    arrivals::Arrival,
    certificates,
    places::Places,
    process,
    processor::{self, Processor},
    tap,
};

/// How often the lease is renewed.
const RENEW: Duration = Duration::from_secs(10);
/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// When it is tried again to label the Node, after it failed: as with a lease at first, then later each time, up to this.
const LABEL_AGAIN: Duration = Duration::from_secs(60);
/// When is looked again while the VMM is asked for its processor.
const SOON: Duration = Duration::from_millis(200);
/// How long the lease holds, in seconds, as others are told.
const LEASE_SECONDS: u32 = 40;

/// What an object is labelled with.
type Labels = BTreeMap<String, String>;

/// Renews a node's lease, and its object with it.
pub(crate) struct Heartbeat {
    config: Config,
    /// Where the agent listens.
    port: Option<u16>,
    client: Client,
    handle: Handle,
    next: Instant,
    processor: Processor,
    /// When it is next looked at whether the Node is labelled with what the host has.
    labelling: Instant,
    /// How long is waited after the next failure of that.
    rest: Duration,
    /// What was last said of paths of disks.
    places: String,
    /// What was last said of where machines come to.
    arrival: Arrival,
}

impl Heartbeat {
    pub(crate) fn new(config: &Config, port: Option<u16>, client: &Client, handle: &Handle) -> Self {
        let now = Instant::now();
        let arrival = Arrival::without_network(config);
        let (config, client, handle) = (config.clone(), client.clone(), handle.clone());
        Self {
            config,
            port,
            client,
            handle,
            next: now,
            processor: Processor::default(),
            labelling: now,
            rest: RENEW,
            places: String::new(),
            arrival,
        }
    }

    /// Renews, if it is time or there is news of disks or of the address. What fails is tried again soon.
    pub(crate) fn beat(&mut self, places: &Places, arrival: &Arrival) {
        let places = places.word();
        if Instant::now() < self.next && places == self.places && *arrival == self.arrival {
            return;
        }
        self.places = places;
        self.arrival.clone_from(arrival);
        let outcome = self.handle.block_on(async { timeout(PATIENCE, self.renew()).await });
        self.next = Instant::now() + if matches!(outcome, Ok(Ok(_))) { RENEW } else { RENEW / 10 };
        match outcome {
            Ok(Ok(labels)) => self.label(&labels),
            Ok(Err(kube::Error::Api(refusal))) if refusal.code == 401 => {
                tracing::error!(
                    node = self.config.name,
                    "The API does not know this node any more: it was removed. Its machines go on; it joins again by the ticket, in a fresh directory"
                );
            }
            Ok(Err(error)) => tracing::warn!(node = self.config.name, %error, "Cannot renew the lease"),
            Err(_) => {}
        }
    }

    /// Labels the Node with what its processor can show and which bridges there are, where it is not labelled so. A node without such labels
    /// runs machines all the same that need none.
    fn label(&mut self, there: &Labels) {
        let now = Instant::now();
        if now < self.labelling {
            return;
        }
        let mut wanted: Labels = tap::bridges().iter().map(|name| bridge_label(name)).collect();
        let name = &self.config.name;
        let is_known = match self.processor.labels(&self.config.vmm) {
            Ok(Some(labels)) => {
                wanted.extend(labels.clone());
                true
            }
            Ok(None) => {
                self.next = now + SOON;
                false
            }
            Err(error) => {
                tracing::warn!(node = name, %error, "The VMM does not say what the processor can show");
                self.labelling = now + self.rest;
                self.rest = (self.rest * 2).min(LABEL_AGAIN);
                false
            }
        };
        if !is_known {
            // What was said of it before stays.
            let known = there.iter().filter(|(label, _)| processor::is_of_processor(label));
            wanted.extend(known.map(|(label, value)| (label.clone(), value.clone())));
        }
        let change = processor::change(there, &wanted);
        if change.is_empty() {
            self.rest = if is_known { RENEW } else { self.rest };
            return;
        }
        // The clock of a timeout is the runtime's.
        let labelled = async { timeout(PATIENCE, label(&self.client, &self.config, change)).await };
        match self.handle.block_on(labelled) {
            Ok(Ok(there)) if processor::change(&there, &wanted).is_empty() => return,
            Ok(Ok(_)) => tracing::warn!(node = name, "The node does not keep the labels of what it has"),
            Ok(Err(error)) => tracing::warn!(node = name, %error, "Cannot label the node with what it has"),
            Err(_) => {}
        }
        self.labelling = now + self.rest;
        self.rest = (self.rest * 2).min(LABEL_AGAIN);
    }

    /// Returns the Node's labels.
    async fn renew(&self) -> kube::Result<Labels> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.config.leases);
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {
                "name": self.config.name, "namespace": self.config.leases, "labels": { LEASE_LABEL: self.config.name },
            },
            "spec": {
                "holderIdentity": self.config.name, "leaseDurationSeconds": LEASE_SECONDS,
                "renewTime": format!("{:.6}", Timestamp::now()),
            },
        });
        self.create_or_merge(&leases, &lease).await?;
        let nodes: Api<Node> = Api::all(self.client.clone());
        let patch = match self.config.registration {
            Registration::Agent => {
                let node = json!({
                    "apiVersion": "v1", "kind": "Node",
                    "metadata": {
                        "name": self.config.name, "labels": { HOSTNAME_LABEL: self.config.name },
                        "annotations": self.annotations(),
                    },
                });
                self.create_or_merge(&nodes, &node).await?;
                Patch::Merge(json!({ "status": self.status() }))
            }
            // Conditions are put beside those of the kubelet, by their names.
            Registration::Kubelet => Patch::Strategic(json!({
                "metadata": { "annotations": self.annotations() }, "status": self.share_of_status(),
            })),
        };
        let node = nodes.patch_status(&self.config.name, &PatchParams::default(), &patch).await?;
        Ok(node.metadata.labels.unwrap_or_default())
    }

    fn annotations(&self) -> Value {
        let address = self.arrival.address.as_ref().ok().map(ToString::to_string);
        // What there is none of is taken away.
        json!({
            DISKS_ANNOTATION: self.places, MIGRATION_ADDRESS_ANNOTATION: address,
            MIGRATION_NETWORK_ANNOTATION: self.arrival.network,
        })
    }

    /// What there is to say of a node that is the agent's.
    fn status(&self) -> Value {
        let resources = self.resources("");
        json!({
            "conditions": [ready("Ready"), self.certificates(), self.arrival.condition()], "allocatable": resources, "capacity": resources,
            "daemonEndpoints": self.port.map(|port| json!({ "kubeletEndpoint": { "Port": port } })),
            "addresses": [{ "type": "InternalIP", "address": self.config.address.to_string() }],
            "nodeInfo": {
                "kubeletVersion": format!("whimbrel-{}", release::VERSION), "kernelVersion": kernel(),
                "architecture": "amd64", "operatingSystem": "linux", "bootID": "", "containerRuntimeVersion": "",
                "kubeProxyVersion": "", "machineID": "", "osImage": "", "systemUUID": "",
            },
        })
    }

    /// What there is to say beside a kubelet.
    fn share_of_status(&self) -> Value {
        let resources = self.resources(&format!("{GROUP}/"));
        json!({ "conditions": [ready(AGENT_CONDITION), self.certificates(), self.arrival.condition()], "allocatable": resources, "capacity": resources })
    }

    /// Until when its certificates are valid.
    fn certificates(&self) -> Value {
        let loss = "no migration from or to this node succeeds";
        certificates::condition(&self.config.tls, loss, SystemTime::now())
    }

    async fn create_or_merge<K>(&self, api: &Api<K>, object: &Value) -> kube::Result<()>
    where
        K: Clone + DeserializeOwned + std::fmt::Debug + serde::Serialize,
    {
        let patch = Patch::Merge(object);
        match api.patch(&self.config.name, &PatchParams::default(), &patch).await {
            Err(kube::Error::Api(refusal)) if refusal.code == 404 => {
                let object =
                    serde_json::from_value(without_nulls(object)).map_err(kube::Error::SerdeError)?;
                api.create(&PostParams::default(), &object).await.map(drop)
            }
            outcome => outcome.map(drop),
        }
    }

    /// What machines may have here, by names that begin so.
    fn resources(&self, prefix: &str) -> Value {
        let share = |bytes: u64| (bytes as f64 * self.config.share.clamp(0.0, 1.0)) as u64;
        let memory = share(meminfo("MemTotal:") << 10);
        let huge = share(meminfo("HugePages_Total:").saturating_mul(2 << 20));
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let all =
            [("cpu", cpus.to_string()), ("memory", memory.to_string()), ("hugepages-2Mi", huge.to_string())];
        all.map(|(name, amount)| (format!("{prefix}{name}"), Value::from(amount))).into_iter().collect()
    }
}

/// What a merge would make of nothing: what it takes away is not there.
fn without_nulls(object: &Value) -> Value {
    let mut made = object.clone();
    if let Some(annotations) = made.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.retain(|_, value| !value.is_null());
    }
    made
}

/// Changes labels of the Node, and returns all that it has then.
async fn label(client: &Client, config: &Config, change: Map<String, Value>) -> kube::Result<Labels> {
    let nodes: Api<Node> = Api::all(client.clone());
    let (parameters, metadata) =
        (PatchParams::default(), Patch::Merge(json!({ "metadata": { "labels": change } })));
    let node = match config.registration {
        Registration::Agent => nodes.patch(&config.name, &parameters, &metadata).await?,
        // Of a kubelet's node an agent may write no more than the status, whose requests take metadata as well.
        Registration::Kubelet => nodes.patch_status(&config.name, &parameters, &metadata).await?,
    };
    Ok(node.metadata.labels.unwrap_or_default())
}

fn bridge_label(name: &str) -> (String, String) {
    (format!("{BRIDGE_LABEL}{name}"), "true".to_owned())
}

/// The condition that the agent lives.
fn ready(name: &str) -> Value {
    json!({
        "type": name, "status": "True", "reason": "Ready", "message": "The agent renews its lease",
        "lastHeartbeatTime": seconds(Timestamp::now()),
    })
}

fn seconds(time: Timestamp) -> String {
    format!("{time:.0}")
}

fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// The number after a name in `/proc/meminfo`; 0 where there is none.
fn meminfo(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    process::field(&text, name).unwrap_or(0)
}
