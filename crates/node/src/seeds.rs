//! First settings of a machine's guest, put together from its object and from Secrets.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt};
use objects::{SeedPart, VirtualMachineInstance};
use tokio::{runtime::Handle, time::timeout};

use crate::seed::{Seed, meta};

/// How long a Secret may take to come.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why settings are not to be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SeedError {
    #[error("There is no Secret {name} in namespace {namespace}")]
    Missing { namespace: String, name: String },
    #[error("Secret {name} has neither {} nor {}", keys[0], keys[1])]
    Key { name: String, keys: [&'static str; 2] },
    #[error("Secret {name} cannot be read: {source}")]
    Api { name: String, source: Box<kube::Error> },
    #[error("Secret {name} cannot be read: the API does not reply")]
    Slow { name: String },
}

/// The settings behind each volume that is some, by its position.
pub(crate) fn of(
    client: &Client,
    handle: &Handle,
    instance: &VirtualMachineInstance,
) -> Result<BTreeMap<usize, Seed>, SeedError> {
    let namespace = instance.namespace().unwrap_or_default();
    let read = |part: SeedPart<'_>| match part {
        SeedPart::None => Ok(None),
        SeedPart::Here(bytes) => Ok(Some(bytes)),
        SeedPart::Secret { name, keys } => secret(client, handle, &namespace, name, keys).map(Some),
    };
    let mut seeds = BTreeMap::new();
    for (index, volume) in instance.spec.volumes.iter().enumerate() {
        let Some(settings) = &volume.cloud_init_no_cloud else { continue };
        let seed = Seed {
            meta: meta(&namespace, &instance.name_any()),
            user: read(settings.user_part())?.unwrap_or_default(),
            network: read(settings.network_part())?,
        };
        seeds.insert(index, seed);
    }
    Ok(seeds)
}

fn secret(
    client: &Client,
    handle: &Handle,
    namespace: &str,
    name: &str,
    keys: [&'static str; 2],
) -> Result<Vec<u8>, SeedError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    // The clock of a timeout is the runtime's.
    let secret = handle.block_on(async { timeout(PATIENCE, api.get_opt(name)).await });
    let name = name.to_owned();
    let secret = match secret {
        Err(_) => return Err(SeedError::Slow { name }),
        Ok(Err(source)) => return Err(SeedError::Api { name, source: Box::new(source) }),
        Ok(Ok(None)) => return Err(SeedError::Missing { namespace: namespace.to_owned(), name }),
        Ok(Ok(Some(secret))) => secret,
    };
    let mut data = secret.data.unwrap_or_default();
    let found = keys.iter().find_map(|key| data.remove(*key));
    found.map(|value| value.0).ok_or(SeedError::Key { name, keys })
}
