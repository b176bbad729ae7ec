//! Objects one by one, so that one which cannot be understood hides no other.

use futures_util::Stream;
use kube::{
    Api, Resource,
    api::{ListParams, WatchEvent, WatchParams},
    core::{ListMeta, Request},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

use crate::Key;

/// A list, with its objects as they came.
#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    metadata: ListMeta,
    items: Option<Vec<Box<RawValue>>>,
}

/// What is needed of an object to say which it is.
#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    metadata: Value,
}

/// All objects, with the version of the list. One that is not understood is there by its name alone.
pub(crate) async fn list<K>(api: &Api<K>) -> kube::Result<(String, Vec<(Key, Option<K>)>)>
where
    K: Resource + Clone + DeserializeOwned,
{
    let request =
        Request::new(api.resource_url()).list(&ListParams::default()).map_err(kube::Error::BuildRequest)?;
    let raw: Raw = api.clone().into_client().request(request).await?;
    let objects = raw.items.unwrap_or_default().into_iter().map(|raw| {
        let named = serde_json::from_str::<Named>(raw.get()).map(|named| named.metadata).unwrap_or_default();
        let (key, _) = of(&named);
        let object = understand(&key, || serde_json::from_str(raw.get()));
        (key, object)
    });
    Ok((raw.metadata.resource_version.unwrap_or_default(), objects.collect()))
}

/// Changes as they come.
pub(crate) async fn watch<K: Resource + Clone>(
    api: &Api<K>,
    parameters: &WatchParams,
    version: &str,
) -> kube::Result<impl Stream<Item = kube::Result<WatchEvent<Value>>> + use<K>> {
    let request =
        Request::new(api.resource_url()).watch(parameters, version).map_err(kube::Error::BuildRequest)?;
    api.clone().into_client().request_events(request).await
}

/// Which object it is, its version, and what it is, if that is understood.
pub(crate) fn object<K: DeserializeOwned>(value: Value) -> (Key, Option<String>, Option<K>) {
    let (key, version) = identity(&value);
    let object = understand(&key, || serde_json::from_value(value));
    (key, version, object)
}

/// Which object it is, and its version.
pub(crate) fn identity(value: &Value) -> (Key, Option<String>) {
    of(&value["metadata"])
}

fn of(metadata: &Value) -> (Key, Option<String>) {
    let text = |name: &str| metadata[name].as_str().map(str::to_owned);
    ((text("namespace").unwrap_or_default(), text("name").unwrap_or_default()), text("resourceVersion"))
}

fn understand<K>(key: &Key, read: impl FnOnce() -> serde_json::Result<K>) -> Option<K> {
    let told = read().inspect_err(|error| {
        let (namespace, name) = key;
        let kind = std::any::type_name::<K>();
        tracing::error!(
            kind,
            namespace,
            name,
            %error,
            "An object is not understood, and nothing is done about it: are the definitions of this release installed?"
        );
    });
    told.ok()
}
