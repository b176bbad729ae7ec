//! How people come into the console, and questions that are answered and not stored; without a network.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use apiserver::{Agents, Api, Body, Calls, Errand, Identity, Request, Reviewer, Role, Tokens};
use authority::Authority;
use serde_json::{Value, json};
use store::{Limits, Store};

const VIEWER: &str = "viewer-token-that-is-long-enough-for-a-test";
const ADMIN: &str = "admin-token-that-is-long-enough-for-a-test";
const NODE: &str = "a-nodes-token-that-is-long-enough-for-a-test";
const JOINER: &str = "joiner-token-that-is-long-enough-for-a-test";

/// Says how many objects there are.
#[derive(Debug)]
struct Counter;

impl Reviewer for Counter {
    fn review(
        &self,
        kind: &str,
        question: &Value,
        all: &dyn Fn(&str) -> Vec<Value>,
    ) -> Result<Value, String> {
        if question["spec"]["vmiName"] == "gone" {
            return Err("gone does not run".to_owned());
        }
        Ok(json!({ "whyNot": format!("{kind}: {} namespaces", all("namespaces").len()) }))
    }
}

/// Knows an agent of each machine but one.
#[derive(Debug)]
struct Hosts(PathBuf, Calls);

impl Agents for Hosts {
    fn errand(&self, kind: &str, subresource: &str, object: &Value) -> Result<Errand, String> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        if name == "silent" {
            return Err("it has no VMM now".to_owned());
        }
        Ok(Errand { node: format!("of-{name}"), path: format!("/{kind}/{subresource}") })
    }

    fn tls(&self) -> &Path {
        &self.0
    }

    fn calls(&self) -> &Calls {
        &self.1
    }
}

fn api() -> (Api, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&folder.path().join("store.redb"), Limits::default()).unwrap());
    let mut tokens = Tokens::default();
    tokens.add(VIEWER, Identity { name: "eva".to_owned(), role: Role::View });
    tokens.add(ADMIN, Identity { name: "ada".to_owned(), role: Role::Admin });
    tokens.add(JOINER, Identity { name: "join".to_owned(), role: Role::Join });
    let node = Role::Node("of-loud".to_owned());
    tokens.add(NODE, Identity { name: "node:of-loud".to_owned(), role: node });
    let api = Api::new(store, objects::kinds(), tokens).unwrap();
    let api = api
        .with_reviewer(Arc::new(Counter))
        .with_agents(Arc::new(Hosts(folder.path().join("tls"), Calls::default())))
        .with_logins(b"secret")
        .with_absent(&[("pods", "there are none")])
        .with_pages(&[("index.html", b"<!doctype html>")]);
    (api, folder)
}

fn send(api: &Api, method: &str, path: &str, token: &str, body: &Value) -> (u16, Value) {
    let reply = api.handle(&Request {
        method: method.to_owned(),
        path: path.to_owned(),
        authorization: Some(format!("Bearer {token}")),
        body: body.to_string().into_bytes(),
        ..Request::default()
    });
    match reply.body {
        Body::Value(value) => (reply.code, value),
        Body::Call(call) => (reply.code, format!("{call:?}").into()),
        Body::Json(text) => (reply.code, serde_json::from_slice(&text).unwrap()),
        _ => (reply.code, Value::Null),
    }
}

/// The code that an address has.
fn code_of(path: &Value) -> String {
    path.as_str().unwrap().split_once("#login=").unwrap().1.to_owned()
}

#[test]
fn a_code_becomes_a_token_of_the_same_role_once() {
    let (api, _folder) = api();
    let (code, reply) = send(&api, "POST", "/console/code", VIEWER, &json!({}));
    assert_eq!(code, 201, "{reply}");
    let asked = json!({ "code": code_of(&reply["path"]) });
    let (code, session) = send(&api, "POST", "/console/session", "", &asked);
    assert_eq!(code, 201, "{session}");
    let token = session["token"].as_str().unwrap();
    let (_, review) =
        send(&api, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", token, &json!({}));
    assert_eq!(review["status"]["userInfo"], json!({ "username": "eva", "groups": ["whimbrel:view"] }));
    assert_eq!(send(&api, "GET", "/apis/whimbrel.dev/v1/virtualmachines", token, &json!({})).0, 200);
    let policies = "/apis/whimbrel.dev/v1/migrationpolicies";
    let policy = json!({ "metadata": { "name": "a" }, "spec": { "selectors": {} } });
    assert_eq!(
        send(&api, "POST", policies, token, &policy).0,
        403,
        "a login may no more than whoever asked for it"
    );
    assert_eq!(send(&api, "POST", "/console/session", "", &asked).0, 401, "a code is good once");
}

#[test]
fn strangers_and_hosts_get_no_code_and_a_guess_is_no_login() {
    let (api, _folder) = api();
    assert_eq!(send(&api, "POST", "/console/code", "nobody", &json!({})).0, 401);
    assert_eq!(send(&api, "POST", "/console/code", JOINER, &json!({})).0, 403);
    for body in
        [json!({}), json!({ "code": "" }), json!({ "code": "guess" }), json!({ "code": 7 }), json!([])]
    {
        assert_eq!(send(&api, "POST", "/console/session", "", &body).0, 401, "{body}");
    }
    assert_eq!(send(&api, "GET", "/console/session", "", &json!({})).0, 405);
}

#[test]
fn pages_are_for_everybody_and_the_root_leads_to_them() {
    let (api, _folder) = api();
    assert_eq!(send(&api, "GET", "/console/machines/default/a.b", "", &json!({})).0, 200);
    assert_eq!(send(&api, "GET", "/console/assets/gone.js", "", &json!({})).0, 404);
    assert_eq!(send(&api, "POST", "/console/", "", &json!({})).0, 405);
    assert_eq!(send(&api, "GET", "/", "", &json!({})).0, 302);
}

#[test]
fn a_question_is_answered_for_those_who_may_see_and_not_stored() {
    let (api, _folder) = api();
    let path = "/apis/whimbrel.dev/v1/namespaces/default/migrationplans";
    let asked = json!({ "spec": { "vmiName": "busy" } });
    let (code, answer) = send(&api, "POST", path, VIEWER, &asked);
    assert_eq!((code, &answer["status"]["whyNot"]), (201, &json!("MigrationPlan: 1 namespaces")), "{answer}");
    for (method, path) in
        [("GET", path.to_owned()), ("GET", format!("{path}/a")), ("DELETE", path.to_owned())]
    {
        let code = send(&api, method, &path, VIEWER, &json!({})).0;
        assert!(code == 405 || code == 403, "{method} {path}: {code}");
    }
    for token in [JOINER, NODE] {
        assert_eq!(send(&api, "POST", path, token, &asked).0, 403);
    }
    let (code, refusal) = send(&api, "POST", path, VIEWER, &json!({ "spec": { "vmiName": "gone" } }));
    assert_eq!((code, &refusal["message"]), (400, &json!("gone does not run")));
    assert_eq!(send(&api, "POST", path, VIEWER, &json!({ "spec": {} })).0, 422, "what is missing is said");
}

#[test]
fn what_a_node_has_of_an_object_is_asked_for_by_those_who_may_see_it() {
    let (api, folder) = api();
    let instances = "/apis/whimbrel.dev/v1/namespaces/default/virtualmachineinstances";
    let boot = json!({ "kernelBoot": { "container": { "image": "whimbrel.dev/workload" } } });
    for name in ["loud", "silent"] {
        let spec = json!({ "domain": { "memory": { "guest": "64Mi" }, "firmware": boot } });
        let (code, reply) =
            send(&api, "POST", instances, ADMIN, &json!({ "metadata": { "name": name }, "spec": spec }));
        assert_eq!(code, 201, "{reply}");
    }
    let log = |name: &str, token| send(&api, "GET", &format!("{instances}/{name}/log"), token, &json!({}));
    let (code, refusal) = log("loud", VIEWER);
    assert!(code == 503 && refusal["message"].as_str().unwrap().contains("no node of-loud"), "{refusal}");
    let node = json!({ "metadata": { "name": "of-loud" } });
    assert_eq!(send(&api, "POST", "/api/v1/nodes", ADMIN, &node).0, 201);
    let (code, refusal) = log("loud", VIEWER);
    assert!(code == 503 && refusal["message"].as_str().unwrap().contains("where it listens"), "{refusal}");
    let status = json!({ "status": {
        "addresses": [{ "type": "InternalIP", "address": "127.0.0.1" }],
        "daemonEndpoints": { "kubeletEndpoint": { "Port": 1 } },
    } });
    let place = "/api/v1/nodes/of-loud";
    let (_, mut whole) = send(&api, "GET", place, ADMIN, &json!({}));
    whole["status"] = status["status"].clone();
    assert_eq!(send(&api, "PUT", &format!("{place}/status"), ADMIN, &whole).0, 200);
    let (code, refusal) = log("loud", VIEWER);
    assert!(code == 503 && refusal["message"].as_str().unwrap().contains("ca-cert.pem"), "{refusal}");
    let authority = Authority::init(&folder.path().join("ca"), "test").unwrap();
    authority.issue(&folder.path().join("tls"), &authority::Request::new(["plane"])).unwrap();
    let (code, call) = log("loud", VIEWER);
    let call = call.as_str().unwrap();
    assert!(
        code == 200 && call.contains("127.0.0.1:1") && call.contains("/VirtualMachineInstance/log"),
        "{call}"
    );
    let (code, refusal) = log("silent", VIEWER);
    assert_eq!((code, &refusal["message"]), (404, &json!("it has no VMM now")));
    let console = |token| send(&api, "GET", &format!("{instances}/loud/console"), token, &json!({}));
    assert_eq!((console(VIEWER).0, console(JOINER).0), (403, 403), "who looks does not type");
    let (code, refusal) = console(ADMIN);
    assert!(code == 400 && refusal["message"].as_str().unwrap().contains("WebSocket"), "{refusal}");
    let metrics = |token| send(&api, "GET", "/api/v1/nodes/of-loud/proxy/metrics", token, &json!({})).0;
    assert_eq!((metrics(VIEWER), metrics(JOINER)), (200, 403));
    assert_eq!((log("loud", NODE).0, metrics(NODE)), (403, 403), "what others keep is no matter of a node");
    assert_eq!((log("loud", JOINER).0, log("gone", VIEWER).0, log("loud", "nobody").0), (403, 404, 401));
    assert_eq!(send(&api, "DELETE", &format!("{instances}/loud/log"), ADMIN, &json!({})).0, 405);
    assert_eq!(
        send(&api, "GET", &format!("{instances}/loud/report"), VIEWER, &json!({})).0,
        404,
        "migrations have reports"
    );
}

#[test]
fn who_asks_what_it_may_is_told_the_truth_about_subresources() {
    let (api, _folder) = api();
    let may = |token, verb: &str, resource: &str, subresource: &str| {
        let group = if resource == "nodes" { "" } else { "whimbrel.dev" };
        let asked = json!({ "spec": { "resourceAttributes": {
            "verb": verb, "group": group, "resource": resource, "subresource": subresource,
        } } });
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        send(&api, "POST", path, token, &asked).1["status"]["allowed"] == true
    };
    let instances = "virtualmachineinstances";
    assert!(may(ADMIN, "get", instances, "console") && !may(ADMIN, "delete", instances, "console"));
    assert!(may(VIEWER, "get", instances, "log") && !may(ADMIN, "update", instances, "log"));
    assert!(!may(VIEWER, "get", instances, "console") && !may(NODE, "get", instances, "log"));
    assert!(may(VIEWER, "get", "nodes", "proxy") && !may(NODE, "get", "nodes", "proxy"));
    assert!(may(ADMIN, "update", instances, "status") && !may(ADMIN, "update", instances, "scale"));
}

#[test]
fn a_node_without_pods_is_described_and_nobody_else_takes_it_for_empty() {
    let (api, _folder) = api();
    let list = |query: &str| {
        let reply = api.handle(&Request {
            method: "GET".to_owned(),
            path: "/api/v1/pods".to_owned(),
            query: query.to_owned(),
            authorization: Some(format!("Bearer {VIEWER}")),
            ..Request::default()
        });
        reply.code
    };
    let describe = "fieldSelector=spec.nodeName%3Da%2Cstatus.phase%21%3DFailed%2Cstatus.phase%21%3DSucceeded";
    assert_eq!(list(describe), 200);
    for other in [
        String::new(),
        "fieldSelector=spec.nodeName%3Da".to_owned(),
        "fieldSelector=status.phase%21%3DFailed%2Cstatus.phase%21%3DSucceeded".to_owned(),
        format!("{describe}%2Cmetadata.name%3Dx"),
        format!("{describe}&watch=true"),
    ] {
        assert_eq!(list(&other), 404, "{other}");
    }
}
