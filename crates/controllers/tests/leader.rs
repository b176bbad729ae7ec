//! Of several candidates one leads, whatever clocks say.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

use std::{
    fs,
    future::pending,
    net::TcpListener,
    sync::{
        Arc, LazyLock, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use apiserver::{Api as Server, Identity, Role, Server as Listening, Tokens, tls_config};
use authority::{Authority, Request};
use controllers::{Candidate, LeaderError, lead};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use store::{Limits, Store};
use tokio::{runtime::Handle, sync::oneshot, time::timeout};

const TOKEN: &str = "a-token-that-is-long-enough-for-a-test";
/// What is waited for comes in a few seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server in a thread, which ends with the process, and a client.
async fn server() -> (tempfile::TempDir, Client) {
    let (folder, client, _) = server_with_runtime().await;
    (folder, client)
}

/// The same, with the one thread that it runs on.
async fn server_with_runtime() -> (tempfile::TempDir, Client, Handle) {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::init(&folder.path().join("ca"), "test").unwrap();
    let tls = folder.path().join("tls");
    authority.issue(&tls, &Request::new(["127.0.0.1"])).unwrap();
    let store = Arc::new(Store::open(&folder.path().join("store.redb"), Limits::default()).unwrap());
    let mut tokens = Tokens::default();
    tokens.add(TOKEN, Identity { name: "admin".to_owned(), role: Role::Admin });
    let api = Arc::new(Server::new(store, objects::kinds(), tokens).unwrap());
    let config = tls_config(&tls).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    thread::spawn(move || {
        runtime.block_on(async { Listening::new(listener, config, api).unwrap().run().await });
    });
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "t",
        "clusters": [{ "name": "t", "cluster": {
            "server": format!("https://{address}"), "certificate-authority": tls.join("ca-cert.pem"),
        }}],
        "users": [{ "name": "t", "user": { "token": TOKEN } }],
        "contexts": [{ "name": "t", "context": { "cluster": "t", "user": "t" } }],
    });
    let path = folder.path().join("kubeconfig");
    fs::write(&path, kubeconfig.to_string()).unwrap();
    let client = mirror::connect(&path).await.unwrap();
    (folder, client, handle)
}

fn candidate(identity: &str, clock: fn() -> Duration) -> Candidate {
    Candidate {
        namespace: "default".to_owned(),
        name: "leader".to_owned(),
        identity: identity.to_owned(),
        clock,
    }
}

fn leases(client: &Client) -> Api<Lease> {
    Api::namespaced(client.clone(), "default")
}

async fn holder(client: &Client) -> String {
    leases(client).get("leader").await.unwrap().spec.unwrap().holder_identity.unwrap_or_default()
}

/// Somebody who led and is gone. By its clock it renewed the lease in the year 2100.
async fn ghost(client: &Client) {
    let lease = json!({
        "metadata": { "name": "leader" },
        "spec": {
            "holderIdentity": "ghost", "leaseDurationSeconds": 15,
            "acquireTime": "2100-01-01T00:00:00.000000Z", "renewTime": "2100-01-01T00:00:00.000000Z",
        },
    });
    leases(client).create(&PostParams::default(), &serde_json::from_value(lease).unwrap()).await.unwrap();
}

/// A clock that stands still.
fn still() -> Duration {
    Duration::from_secs(1000)
}

#[tokio::test(flavor = "current_thread")]
async fn a_lease_is_taken_over_when_it_has_not_changed_for_long_by_ones_own_clock() {
    /// Each look is 6 seconds later than the one before.
    static NOW: AtomicU64 = AtomicU64::new(0);
    let (_folder, client) = server().await;
    ghost(&client).await;
    let waits = candidate("waits", still);
    let outcome = timeout(Duration::from_secs(5), lead(&client, &waits, async {})).await;
    assert!(outcome.is_err(), "it leads although no time has passed: {outcome:?}");
    assert_eq!(holder(&client).await, "ghost");
    let takes = candidate("takes", || Duration::from_secs(NOW.fetch_add(6, Ordering::Relaxed)));
    let (began, begun) = oneshot::channel();
    let work = async {
        began.send(()).unwrap();
    };
    timeout(PATIENCE, lead(&client, &takes, work)).await.unwrap().unwrap();
    begun.await.unwrap();
    assert!(NOW.load(Ordering::Relaxed) >= 15, "it was too early");
    assert_eq!(holder(&client).await, "", "who is done gives it back");
}

#[tokio::test(flavor = "current_thread")]
async fn a_leader_whose_host_slept_leads_no_more() {
    static NOW: AtomicU64 = AtomicU64::new(0);
    let (_folder, client) = server().await;
    let sleeper = candidate("sleeper", || Duration::from_secs(NOW.load(Ordering::Relaxed)));
    let work = async {
        NOW.store(11, Ordering::Relaxed);
        pending::<()>().await;
    };
    let outcome = timeout(PATIENCE, lead(&client, &sleeper, work)).await.unwrap();
    assert!(matches!(outcome, Err(LeaderError::NotRenewed { .. })), "{outcome:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_leader_whose_server_does_not_reply_ends_before_others_may_lead() {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    static JUMP: AtomicU64 = AtomicU64::new(0);
    fn clock() -> Duration {
        BEGAN.elapsed() + Duration::from_millis(JUMP.load(Ordering::Relaxed))
    }
    let (_folder, client, server) = server_with_runtime().await;
    let leader = candidate("leader", clock);
    let led = OnceLock::new();
    let work = async {
        led.set(clock()).unwrap();
        // So that a renewal would be begun just before it is to give up.
        JUMP.store(1500, Ordering::Relaxed);
        server.spawn(async {
            loop {
                thread::park();
            }
        });
        pending::<()>().await;
    };
    let outcome = timeout(PATIENCE, lead(&client, &leader, work)).await.unwrap();
    assert!(matches!(outcome, Err(LeaderError::NotRenewed { .. })), "{outcome:?}");
    let took = clock() - *led.get().unwrap();
    assert!(took < Duration::from_secs(15), "it led for {took:?}, and others may after 15 s");
}

#[tokio::test(flavor = "current_thread")]
async fn of_two_leaders_by_a_clock_that_jumps_one_stops() {
    let (_folder, client) = server().await;
    let first = candidate("first", still);
    let usurp = async {
        let patch = Patch::Merge(json!({ "spec": { "holderIdentity": "second" } }));
        leases(&client).patch("leader", &PatchParams::default(), &patch).await.unwrap();
        pending::<()>().await;
    };
    let outcome = timeout(PATIENCE, lead(&client, &first, usurp)).await.unwrap();
    let Err(LeaderError::Lost { holder: other, .. }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(other, "second");
    assert_eq!(holder(&client).await, "second", "it was not taken back");
}

#[tokio::test(flavor = "current_thread")]
async fn a_leader_renews_so_that_nobody_else_leads() {
    /// By the other's clock its looks are 7 seconds apart: three of them without a change, and it takes the lease.
    static NOW: AtomicU64 = AtomicU64::new(0);
    let (_folder, client) = server().await;
    let leads = candidate("leads", still);
    let other = candidate("other", || Duration::from_secs(NOW.fetch_add(7, Ordering::Relaxed)));
    let work = async {
        let outcome = timeout(Duration::from_secs(9), lead(&client, &other, async {})).await;
        assert!(outcome.is_err(), "two lead");
    };
    timeout(PATIENCE, lead(&client, &leads, work)).await.unwrap().unwrap();
    assert_eq!(holder(&client).await, "");
}
