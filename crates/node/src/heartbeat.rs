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
use objects::{AGENT_CONDITION, GROUP, HOSTNAME_LABEL, LEASE_LABEL};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::{runtime::Handle, time::timeout};

use crate::{Config, Registration, certificates, processor};

/// How often the lease is renewed.
const RENEW: Duration = Duration::from_secs(10);
/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// When it is tried again to tell of the processor.
const LABEL_AGAIN: Duration = Duration::from_secs(60);
/// How long the lease holds, in seconds, as others are told.
const LEASE_SECONDS: u32 = 40;

/// Renews a node's lease, and its object with it.
pub(crate) struct Heartbeat {
    config: Config,
    /// Where the agent listens.
    port: Option<u16>,
    client: Client,
    handle: Handle,
    next: Instant,
    /// When the Node is told of the processor, which is done once: it is what it is until the host boots anew.
    labelling: Option<Instant>,
}

impl Heartbeat {
    pub(crate) fn new(config: &Config, port: Option<u16>, client: &Client, handle: &Handle) -> Self {
        let now = Instant::now();
        let (config, client, handle) = (config.clone(), client.clone(), handle.clone());
        Self { config, port, client, handle, next: now, labelling: Some(now) }
    }

    /// Renews, if it is time. What fails is tried again soon.
    pub(crate) fn beat(&mut self) {
        if Instant::now() < self.next {
            return;
        }
        let outcome = self.handle.block_on(async { timeout(PATIENCE, self.renew()).await });
        self.next = Instant::now() + if matches!(outcome, Ok(Ok(()))) { RENEW } else { RENEW / 10 };
        match outcome {
            Ok(Ok(())) => self.tell_of_processor(),
            Ok(Err(error)) => tracing::warn!(node = self.config.name, %error, "Cannot renew the lease"),
            Err(_) => {}
        }
    }

    /// Labels the Node with what its processor can show, once it is there. A node without such labels runs machines all the same.
    fn tell_of_processor(&mut self) {
        if self.labelling.is_none_or(|due| Instant::now() < due) {
            return;
        }
        self.labelling = Some(Instant::now() + LABEL_AGAIN);
        let labels = match processor::labels(&self.config.vmm) {
            Ok(labels) => labels,
            Err(error) => {
                tracing::warn!(node = self.config.name, %error, "The VMM does not say what the processor can show");
                return;
            }
        };
        match self.handle.block_on(async { timeout(PATIENCE, self.label(labels)).await }) {
            Ok(Ok(())) => self.labelling = None,
            Ok(Err(error)) => {
                tracing::warn!(node = self.config.name, %error, "Cannot label the node with its processor");
            }
            Err(_) => {}
        }
    }

    async fn label(&self, labels: BTreeMap<String, String>) -> kube::Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = nodes.get_metadata(&self.config.name).await?;
        // The host may have had another processor, or kernel, before.
        let before = node.metadata.labels.unwrap_or_default().into_keys();
        let gone = before.filter(|label| processor::is_ours(label)).map(|label| (label, Value::Null));
        let mut all: Map<_, _> = gone.collect();
        all.extend(labels.into_iter().map(|(label, value)| (label, value.into())));
        let (parameters, metadata) = (PatchParams::default(), json!({ "metadata": { "labels": all } }));
        match self.config.registration {
            Registration::Agent => nodes.patch(&self.config.name, &parameters, &Patch::Merge(metadata)).await,
            // Of a kubelet's node an agent may write no more than the status, whose requests take metadata as well.
            Registration::Kubelet => {
                nodes.patch_status(&self.config.name, &parameters, &Patch::Merge(metadata)).await
            }
        }
        .map(drop)
    }

    async fn renew(&self) -> kube::Result<()> {
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
                    "metadata": { "name": self.config.name, "labels": { HOSTNAME_LABEL: self.config.name } },
                });
                self.create_or_merge(&nodes, &node).await?;
                Patch::Merge(json!({ "status": self.status() }))
            }
            // Conditions are put beside those of the kubelet, by their names.
            Registration::Kubelet => Patch::Strategic(json!({ "status": self.share_of_status() })),
        };
        nodes.patch_status(&self.config.name, &PatchParams::default(), &patch).await.map(drop)
    }

    /// What there is to say of a node that is the agent's.
    fn status(&self) -> Value {
        let resources = self.resources("");
        json!({
            "conditions": [ready("Ready"), self.certificates()], "allocatable": resources, "capacity": resources,
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
        json!({ "conditions": [ready(AGENT_CONDITION), self.certificates()], "allocatable": resources, "capacity": resources })
    }

    /// Until when its certificates are valid.
    fn certificates(&self) -> Value {
        certificates::condition(&self.config.tls, SystemTime::now())
    }

    async fn create_or_merge<K>(&self, api: &Api<K>, object: &Value) -> kube::Result<()>
    where
        K: Clone + DeserializeOwned + std::fmt::Debug + serde::Serialize,
    {
        let patch = Patch::Merge(object);
        match api.patch(&self.config.name, &PatchParams::default(), &patch).await {
            Err(kube::Error::Api(refusal)) if refusal.code == 404 => {
                let object = serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
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
    let rest = text.lines().find_map(|line| line.strip_prefix(name));
    rest.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
}
