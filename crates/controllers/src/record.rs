use fleet::Note;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, Client, Error,
    api::{Patch, PatchParams, PostParams},
};
use objects::{GROUP, VERSION};
use serde_json::json;

/// Tells people by an event. The same thing said again counts up the event that is there: however often, there is one.
pub(crate) async fn record(client: &Client, note: &Note) -> kube::Result<()> {
    let api: Api<Event> = Api::namespaced(client.clone(), &note.namespace);
    let now = Time(Timestamp::now());
    let name = name(note);
    let api_version = if note.kind == "Node" { "v1".to_owned() } else { format!("{GROUP}/{VERSION}") };
    let event = Event {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(note.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(api_version),
            kind: Some(note.kind.to_owned()),
            namespace: (!is_in_no_namespace(note.kind)).then(|| note.namespace.clone()),
            name: Some(note.name.clone()),
            uid: Some(note.uid.clone()),
            ..ObjectReference::default()
        },
        reason: Some(note.reason.to_owned()),
        message: Some(note.message.clone()),
        type_: Some(if note.is_warning { "Warning" } else { "Normal" }.to_owned()),
        count: Some(1),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now.clone()),
        source: Some(EventSource { component: Some("whimbrel".to_owned()), host: None }),
        ..Event::default()
    };
    match api.create(&PostParams::default(), &event).await {
        Err(Error::Api(refusal)) if refusal.reason == "AlreadyExists" => {
            let count = api.get(&name).await?.count.unwrap_or(1).saturating_add(1);
            let patch = json!({ "count": count, "lastTimestamp": now });
            api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
        }
        outcome => outcome.map(drop),
    }
}

/// Whether objects of a kind are in no namespace. Events about them are in `default`.
fn is_in_no_namespace(kind: &str) -> bool {
    matches!(kind, "Node" | "NodeDrain")
}

/// The name of the event, which is the same for the same thing (FNV-1a).
fn name(note: &Note) -> String {
    let texts = [note.kind, &note.uid, note.reason, &note.message];
    let hash = texts.iter().flat_map(|text| text.bytes()).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let name: String = note.name.chars().take(200).collect();
    format!("{}.{hash:016x}", name.trim_end_matches(['.', '-']))
}
