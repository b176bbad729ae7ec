//! What a mirror does when watches go wrong.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use mirror::Mirror;
use serde_json::json;
use tokio::sync::Notify;

/// What is waited for comes in a few seconds.
const PATIENCE: Duration = Duration::from_secs(60);
const LIST: &str = r#"{"apiVersion":"v1","kind":"NodeList","metadata":{"resourceVersion":"1"},"items":[]}"#;

/// Three nodes, of which the second is none that this release knows.
const ODD: &str = r#"{"apiVersion":"v1","kind":"NodeList","metadata":{"resourceVersion":"1"},"items":[
{"metadata":{"name":"a"}},{"metadata":{"name":"odd"},"spec":{"unschedulable":"perhaps"}},{"metadata":{"name":"c"}}]}"#;

/// Serves lists, and watches that have `watch` as body and end. It tells when each request came, and whether that was a watch.
fn serve(listener: &TcpListener, list: &str, watch: &str, requests: &mpsc::Sender<(Instant, bool)>) {
    for stream in listener.incoming().flatten() {
        let Some(head) = head(&stream) else { continue };
        let is_watch = head.contains("watch=");
        let body = if is_watch { watch } else { list };
        if requests.send((Instant::now(), is_watch)).is_err() {
            return;
        }
        let length = body.len();
        let _ = write!(
            &stream,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
    }
}

/// A request up to the empty line.
fn head(mut stream: &TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    while !bytes.ends_with(b"\r\n\r\n") {
        let length = stream.read(&mut part).ok().filter(|length| *length > 0)?;
        bytes.extend_from_slice(part.get(..length)?);
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// A client of whatever serves there.
async fn client(listener: &TcpListener) -> (tempfile::TempDir, kube::Client) {
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "t",
        "clusters": [{ "name": "t", "cluster": { "server": format!("http://{}", listener.local_addr().unwrap()) } }],
        "users": [{ "name": "t", "user": {} }],
        "contexts": [{ "name": "t", "context": { "cluster": "t", "user": "t" } }],
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    fs::write(&path, kubeconfig.to_string()).unwrap();
    let client = mirror::connect(&path).await.unwrap();
    (folder, client)
}

async fn lists_after_five_watches_with_growing_pauses(watch: &'static str) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (_folder, client) = client(&listener).await;
    let (sender, requests) = mpsc::channel();
    thread::spawn(move || serve(&listener, LIST, watch, &sender));
    let nodes = Mirror::<Node>::start(Api::all(client), Arc::new(Notify::new()));
    let seen: Vec<_> = tokio::task::spawn_blocking(move || {
        (0..7).map(|_| requests.recv_timeout(PATIENCE).unwrap()).collect()
    })
    .await
    .unwrap();
    assert!(nodes.is_there());
    let kinds: Vec<_> = seen.iter().map(|(_, is_watch)| *is_watch).collect();
    assert_eq!(kinds, [false, true, true, true, true, true, false], "a list, five watches, and a list");
    let took = seen[6].0 - seen[1].0;
    // 100, 200, 300, 400 and 500 ms.
    assert!(took >= Duration::from_millis(1500), "five watches in {took:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_watch_that_ends_at_once_is_not_begun_again_at_once() {
    lists_after_five_watches_with_growing_pauses("").await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_watch_that_sends_what_is_no_event_is_not_begun_again_at_once() {
    lists_after_five_watches_with_growing_pauses("this is no event\n").await;
}

#[tokio::test(flavor = "current_thread")]
async fn an_object_that_is_not_understood_hides_no_other() {
    // The odd one is mended, and another becomes odd: that stays as it was.
    const CHANGES: &str = concat!(
        r#"{"type":"MODIFIED","object":{"metadata":{"name":"c","resourceVersion":"2"},"spec":{"podCIDR":[]}}}"#,
        "\n",
        r#"{"type":"MODIFIED","object":{"metadata":{"name":"odd","resourceVersion":"3"},"spec":{"unschedulable":true}}}"#,
        "\n",
        r#"{"type":"DELETED","object":{"metadata":{"name":"a","resourceVersion":"4"},"spec":{"unschedulable":"never"}}}"#,
        "\n",
    );
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (_folder, client) = client(&listener).await;
    let (sender, _requests) = mpsc::channel();
    thread::spawn(move || serve(&listener, ODD, CHANGES, &sender));
    let changed = Arc::new(Notify::new());
    let nodes = Mirror::<Node>::start(Api::all(client), changed.clone());
    let mut seen = std::collections::BTreeSet::new();
    let wanted = [vec!["a", "c"], vec!["c", "odd"]];
    let all = async {
        while !wanted.iter().all(|names| seen.contains(names)) {
            changed.notified().await;
            let names =
                nodes.all().iter().map(|node| node.metadata.name.clone().unwrap()).collect::<Vec<_>>();
            let known = ["a", "c", "odd"].into_iter().filter(|name| names.iter().any(|one| one == name));
            seen.insert(known.collect::<Vec<_>>());
        }
    };
    tokio::time::timeout(PATIENCE, all).await.unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn what_was_seen_is_current_until_the_api_has_something_else() {
    const NOW: &str = r#"{"apiVersion":"v1","kind":"NodeList","metadata":{"resourceVersion":"9"},"items":[
{"metadata":{"name":"a","resourceVersion":"3"}},
{"metadata":{"name":"odd","resourceVersion":"4"},"spec":{"unschedulable":"perhaps"}}]}"#;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (_folder, client) = client(&listener).await;
    let (sender, _requests) = mpsc::channel();
    thread::spawn(move || serve(&listener, NOW, "", &sender));
    let api = Api::<Node>::all(client);
    let seen = |names: &[(&str, &str)]| -> Vec<Arc<Node>> {
        let node = |&(name, version): &(&str, &str)| json!({ "metadata": { "name": name, "resourceVersion": version } });
        names.iter().map(|name| Arc::new(serde_json::from_value(node(name)).unwrap())).collect()
    };
    for (names, is_current) in [
        (&[("a", "3")][..], true),
        // As it was last understood.
        (&[("a", "3"), ("odd", "1")], true),
        (&[], false),
        (&[("a", "2")], false),
        (&[("a", "3"), ("gone", "2")], false),
    ] {
        let found = mirror::are_current(&api, &seen(names)).await.unwrap();
        assert_eq!(found, is_current, "{names:?}");
    }
}
