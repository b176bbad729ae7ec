//! How commands reach the fleet.

use std::{collections::BTreeMap, error::Error, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use fleet::World;
use kube::{Api, Client, Resource, api::ListParams};
use serde::de::DeserializeOwned;
use tokio::{runtime::Builder, time::timeout};

use crate::up::Site;

/// Which fleet, and what of it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Reach {
    /// The namespace
    #[arg(long, short, value_name = "NAME", default_value = "default")]
    pub(crate) namespace: String,
    /// How to reach the fleet [default: what KUBECONFIG says, or else the fleet of `whimbrel up`]
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
}

/// How long a request may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

impl Reach {
    /// Does something with a client of the fleet.
    pub(crate) fn run<F>(&self, work: impl FnOnce(Client) -> F) -> Result<ExitCode, Box<dyn Error>>
    where
        F: Future<Output = Result<ExitCode, Box<dyn Error>>>,
    {
        let kubeconfig = self.path()?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { work(mirror::connect(&kubeconfig).await?).await })
    }

    /// The address of the server.
    pub(crate) fn server(&self) -> Result<String, Box<dyn Error>> {
        let path = self.path()?;
        let config = kube::config::Kubeconfig::read_from(&path)?;
        let cluster = config.clusters.first().and_then(|named| named.cluster.as_ref());
        let server = cluster.and_then(|cluster| cluster.server.clone());
        server.ok_or_else(|| format!("{} does not say where the server is", path.display()).into())
    }

    fn path(&self) -> Result<PathBuf, Box<dyn Error>> {
        match self.kubeconfig.as_ref().filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => Ok(path.clone()),
            None => Ok(Site::at(None)?.kubeconfig()),
        }
    }

    /// Objects of a kind in the namespace.
    pub(crate) fn api<K>(&self, client: &Client) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(client.clone(), &self.namespace)
    }
}

/// What came of a request, or that it took too long. A refusal is told in the words of the server.
pub(crate) async fn done<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Box<dyn Error>> {
    match timeout(PATIENCE, request).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(kube::Error::Api(refusal))) => Err(refusal.message.clone().into()),
        Ok(Err(error)) => Err(Box::new(error)),
        Err(_) => Err(format!("The fleet did not reply within {} s: is it up?", PATIENCE.as_secs()).into()),
    }
}

/// All that there is in the fleet.
pub(crate) async fn world(client: &Client) -> Result<World, Box<dyn Error>> {
    Ok(World {
        machines: all(client).await?,
        instances: all(client).await?,
        migrations: all(client).await?,
        policies: all(client).await?,
        fleets: all(client).await?,
        nodes: all(client).await?,
        // When these were renewed the controllers have seen: it is in the conditions of nodes. What they say is by other clocks.
        leases: Vec::new(),
        heard: BTreeMap::new(),
        drains: all(client).await?,
        namespaces: all(client).await?,
    })
}

async fn all<K>(client: &Client) -> Result<Vec<Arc<K>>, Box<dyn Error>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let api: Api<K> = Api::all(client.clone());
    Ok(done(api.list(&ListParams::default())).await?.items.into_iter().map(Arc::new).collect())
}
