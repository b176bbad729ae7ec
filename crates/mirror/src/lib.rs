//! Copies of objects, kept up to date by a list and a watch, and how to reach the API that has them.
//!
//! Who decides reads a [`Mirror`] and never asks the network. A mirror that has lost its connection keeps what it had and tries again; one that
//! has fallen behind lists anew. An object that cannot be understood (it was stored by an older or a later release, or under other definitions) is
//! said in the log and left alone: it hides no other.

mod understood;

use std::{collections::BTreeMap, fmt::Debug, path::Path, sync::Arc, time::Duration};

use futures_util::{StreamExt, pin_mut};
use kube::{
    Api, Client, Config, Resource,
    api::{WatchEvent, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

/// How long is waited between two attempts, first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long a watch lasts until another goes on where it ended, in seconds.
const WATCH_SECONDS: u32 = 290;
/// How long nothing may come over a connection. A server that is cut off is noticed so; Kubernetes sends bookmarks about once a minute.
const SILENCE: Duration = Duration::from_secs(90);
/// How long a request of ours may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The kubeconfig cannot be read, or says what cannot be.
    #[error("Cannot use the kubeconfig {path}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// Why.
        source: kube::config::KubeconfigError,
    },
    /// This is no pod, or one without a service account.
    #[error("Cannot find the API: this is no pod with a service account, and no kubeconfig was said")]
    NotInCluster(#[source] kube::config::InClusterError),
    /// What it says makes no client.
    #[error("Cannot make a client of {path}")]
    Client {
        /// The kubeconfig, or what stands for it.
        path: String,
        /// Why.
        source: kube::Error,
    },
}

/// A client of the API that a kubeconfig names. It connects when it is used.
///
/// # Errors
/// The file cannot be read, or its certificates cannot be used.
pub async fn connect(kubeconfig: &Path) -> Result<Client, ConnectError> {
    let path = kubeconfig.display().to_string();
    let wrong = |source| ConnectError::Kubeconfig { path: path.clone(), source };
    let file = Kubeconfig::read_from(kubeconfig).map_err(wrong)?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(wrong)?;
    client(config, path)
}

/// A client of the API of the cluster whose pod this is, with the pod's service account.
///
/// # Errors
/// This is no pod, or its service account cannot be used.
pub fn connect_in_cluster() -> Result<Client, ConnectError> {
    let config = Config::incluster().map_err(ConnectError::NotInCluster)?;
    client(config, "the service account of this pod".to_owned())
}

fn client(mut config: Config, path: String) -> Result<Client, ConnectError> {
    config.read_timeout = Some(SILENCE);
    Client::try_from(config).map_err(|source| ConnectError::Client { path, source })
}

/// Posts JSON to a path of the API that is none of Kubernetes'.
///
/// # Errors
/// The API cannot be reached, does not reply in time, or refuses.
pub async fn post(client: &Client, path: &str, body: &Value) -> Result<Value, PostError> {
    let request = http::Request::post(path).header("Content-Type", "application/json");
    let request = request.body(body.to_string().into_bytes())?;
    Ok(timeout(PATIENCE, client.request(request)).await.map_err(|_| PostError::Slow)??)
}

/// Why something could not be posted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostError {
    /// The path is none.
    #[error("Cannot make the request")]
    Request(#[from] http::Error),
    /// There was no reply.
    #[error("The control plane did not reply within {} s", PATIENCE.as_secs())]
    Slow,
    /// It was refused, or the API cannot be reached.
    #[error("The control plane refused, or cannot be reached")]
    Refused(#[from] kube::Error),
}

/// Returns whether objects, as a copy had them, are what the API has at this moment. One that is not understood now counts as current.
///
/// # Errors
/// The API cannot be reached, or refuses.
pub async fn are_current<K>(api: &Api<K>, seen: &[Arc<K>]) -> kube::Result<bool>
where
    K: Resource + Clone + DeserializeOwned,
{
    let identity = |object: &K| {
        let metadata = object.meta();
        let key = (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default());
        (key, metadata.resource_version.clone())
    };
    let mut seen: BTreeMap<Key, Option<String>> = seen.iter().map(|object| identity(object)).collect();
    let (_, found) = understood::list(api).await?;
    let is_news = |(key, object): &(Key, Option<K>)| {
        let had = seen.remove(key);
        object.as_ref().is_some_and(|object| had != Some(object.meta().resource_version.clone()))
    };
    Ok(!found.iter().any(is_news) && seen.is_empty())
}

/// The objects of a kind.
#[derive(Clone, Debug)]
pub struct Mirror<K> {
    /// By namespace and name; `None` until they were listed once.
    objects: Arc<RwLock<Option<Objects<K>>>>,
}

type Key = (String, String);
type Objects<K> = BTreeMap<Key, Arc<K>>;

impl<K> Mirror<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    /// Begins to copy, and tells `changed` of everything that changes. Goes on until the runtime ends.
    pub fn start(api: Api<K>, changed: Arc<Notify>) -> Self {
        let mirror = Self { objects: Arc::new(RwLock::new(None)) };
        tokio::spawn(mirror.clone().keep(api, changed));
        mirror
    }

    /// Whether they were listed once.
    pub fn is_there(&self) -> bool {
        self.objects.read().is_some()
    }

    /// All objects as they were last heard of, by namespace and name. They are shared, so that this costs little however many there are.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.objects.read().iter().flatten().map(|(_, object)| object.clone()).collect()
    }

    async fn keep(self, api: Api<K>, changed: Arc<Notify>) {
        let mut pause = PAUSE.0;
        loop {
            match self.list(&api, &changed).await {
                Ok(version) => {
                    pause = PAUSE.0;
                    self.follow(&api, version, &changed).await;
                }
                Err(error) => {
                    tracing::debug!(kind = std::any::type_name::<K>(), %error, "Cannot list");
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
            sleep(pause).await;
        }
    }

    async fn list(&self, api: &Api<K>, changed: &Notify) -> kube::Result<String> {
        let (version, found) = understood::list(api).await?;
        let mut objects = self.objects.write();
        // What is not understood now stays as it was last understood.
        let before = objects.take().unwrap_or_default();
        let found = found.into_iter().filter_map(|(key, object)| {
            let object = object.map(Arc::new).or_else(|| before.get(&key).cloned())?;
            Some((key, object))
        });
        *objects = Some(found.collect());
        changed.notify_one();
        Ok(version)
    }

    /// Takes over changes until they cannot be had any more without a new list.
    async fn follow(&self, api: &Api<K>, mut version: String, changed: &Notify) {
        let mut failures = 0;
        while failures < 5 {
            let watch = WatchParams::default().timeout(WATCH_SECONDS);
            let stream = match understood::watch(api, &watch, &version).await {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::debug!(kind = std::any::type_name::<K>(), %error, "Cannot watch");
                    failures += 1;
                    sleep(PAUSE.0 * failures).await;
                    continue;
                }
            };
            pin_mut!(stream);
            let mut is_empty = true;
            while let Some(event) = stream.next().await {
                match event {
                    Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                        let (key, its_version, object) = understood::object::<K>(object);
                        version = its_version.unwrap_or(version);
                        if let Some(object) = object {
                            self.change(key, Some(object));
                        }
                    }
                    Ok(WatchEvent::Deleted(object)) => {
                        let (key, its_version) = understood::identity(&object);
                        version = its_version.unwrap_or(version);
                        self.change(key, None);
                    }
                    Ok(WatchEvent::Bookmark(bookmark)) => version = bookmark.metadata.resource_version,
                    // It has fallen behind, most likely.
                    Ok(WatchEvent::Error(_)) => return,
                    Err(_) => break,
                }
                is_empty = false;
                failures = 0;
                changed.notify_one();
            }
            // One that ends at once most likely ends at once the next time too.
            if is_empty {
                failures += 1;
            }
            sleep(PAUSE.0 * failures.max(1)).await;
        }
    }

    fn change(&self, key: Key, object: Option<K>) {
        let mut objects = self.objects.write();
        let objects = objects.get_or_insert_default();
        match object {
            Some(object) => objects.insert(key, Arc::new(object)),
            None => objects.remove(&key),
        };
    }
}
