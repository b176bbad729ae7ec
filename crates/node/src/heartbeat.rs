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

use crate::{
    Config, Registration, certificates, process,
    processor::{self, Processor},
};

/// How often the lease is renewed.
const RENEW: Duration = Duration::from_secs(10);
/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// When it is tried again to tell of the processor, after it failed.
const LABEL_AGAIN: Duration = Duration::from_secs(60);
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
    /// When it is next looked at whether the Node says what the processor can show.
    labelling: Instant,
}

impl Heartbeat {
    pub(crate) fn new(config: &Config, port: Option<u16>, client: &Client, handle: &Handle) -> Self {
        let now = Instant::now();
        let (config, client, handle) = (config.clone(), client.clone(), handle.clone());
        Self { config, port, client, handle, next: now, processor: Processor::default(), labelling: now }
    }

    /// Renews, if it is time. What fails is tried again soon.
    pub(crate) fn beat(&mut self) {
        if Instant::now() < self.next {
            return;
        }
        let outcome = self.handle.block_on(async { timeout(PATIENCE, self.renew()).await });
        self.next = Instant::now() + if matches!(outcome, Ok(Ok(_))) { RENEW } else { RENEW / 10 };
        match outcome {
            Ok(Ok(labels)) => self.tell_of_processor(&labels),
            Ok(Err(error)) => tracing::warn!(node = self.config.name, %error, "Cannot renew the lease"),
            Err(_) => {}
        }
    }

    /// Labels the Node with what its processor can show, where it is not labelled so. A node without such labels runs machines all the same.
    fn tell_of_processor(&mut self, there: &Labels) {
        if Instant::now() < self.labelling {
            return;
        }
        self.labelling = Instant::now() + LABEL_AGAIN;
        let name = &self.config.name;
        let wanted = match self.processor.labels(&self.config.vmm) {
            Ok(labels) => labels,
            Err(error) => {
                tracing::warn!(node = name, %error, "The VMM does not say what the processor can show");
                return;
            }
        };
        let change = processor::change(there, wanted);
        if change.is_empty() {
            // Whoever takes them away finds them there again with the next renewal.
            self.labelling = Instant::now();
            return;
        }
        // The clock of a timeout is the runtime's.
        let labelled = async { timeout(PATIENCE, label(&self.client, &self.config, change)).await };
        match self.handle.block_on(labelled) {
            Ok(Ok(there)) if processor::change(&there, wanted).is_empty() => self.labelling = Instant::now(),
            Ok(Ok(_)) => {
                tracing::warn!(node = name, "The node does not keep the labels of its processor");
            }
            Ok(Err(error)) => tracing::warn!(node = name, %error, "Cannot label the node with its processor"),
            Err(_) => {}
        }
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
                    "metadata": { "name": self.config.name, "labels": { HOSTNAME_LABEL: self.config.name } },
                });
                self.create_or_merge(&nodes, &node).await?;
                Patch::Merge(json!({ "status": self.status() }))
            }
            // Conditions are put beside those of the kubelet, by their names.
            Registration::Kubelet => Patch::Strategic(json!({ "status": self.share_of_status() })),
        };
        let node = nodes.patch_status(&self.config.name, &PatchParams::default(), &patch).await?;
        Ok(node.metadata.labels.unwrap_or_default())
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
