//! The console on a cluster, started as its manifest says, and people who use it.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

use crate::{
    cluster::Cluster,
    site::{Site, whimbrel},
};

/// What it is called in the cluster.
const NAME: &str = "whimbrel-console.whimbrel.svc";

/// Who has one of the roles sees and does through it what that role allows, and nobody gains anything by coming this way.
pub(crate) fn shows_what_whoever_asks_may_see(site: &Site) {
    let console = Console::start(&site.cluster);
    let [view, operate, admin] =
        ["view", "operate", "admin"].map(|role| Person::with_role(&site.cluster, role));
    for person in [&view, &operate, &admin] {
        for seen in [
            "vm",
            "vmi",
            "vmim",
            "migrationpolicies",
            "fleets",
            "nodedrains",
            "nodes",
            "namespaces",
            "events",
        ] {
            console.does(person, &format!("get {seen} --all-namespaces"));
        }
        assert!(console.does(person, "get vm busy -o name").contains("/busy"));
        console.refuses(person, "get secrets --all-namespaces", "cannot list resource");
    }
    // As the console itself finds out what it offers.
    for (person, machines, policies) in [(&view, "no", "no"), (&operate, "yes", "no"), (&admin, "yes", "yes")]
    {
        let may = |what: &str| console.asks(person, &format!("auth can-i {what} --all-namespaces")).0;
        assert_eq!(may("patch virtualmachines.whimbrel.dev").trim(), machines, "{}", person.0);
        assert_eq!(may("create migrationpolicies.whimbrel.dev").trim(), policies, "{}", person.0);
    }
    console.refuses(&view, "annotate vm busy example.org/seen=yes", "cannot patch resource");
    console.refuses(&view, "delete vm busy --wait=false", "cannot delete resource");
    console.does(&operate, "annotate vm busy example.org/seen=yes");
    assert_eq!(site.cluster.get("vm/busy")["metadata"]["annotations"]["example.org/seen"], "yes");
    // kubectl cordon says what went wrong, and nothing of it in its status.
    let cordon = r#"patch node node-a --type=merge -p {"spec":{"unschedulable":true}}"#;
    console.refuses(&operate, cordon, "cannot patch resource");
    console.does(&admin, cordon);
    console.does(&admin, "uncordon node-a");
    console.refuses(&Person("0".repeat(40)), "get vm", "Unauthorized");
    // What is not of the objects is not passed on, whoever asks.
    console.refuses(&admin, "get --raw /metrics", "");
    // Its own account has no rights: it passes on those of others.
    let own = "--as=system:serviceaccount:whimbrel:whimbrel-console";
    let said = site.cluster.run(&format!("auth can-i get vm {own}"));
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "no");
}

/// Somebody, with a token of theirs.
struct Person(String);

impl Person {
    fn with_role(cluster: &Cluster, role: &str) -> Self {
        cluster.kubectl(&format!("create serviceaccount {role} --namespace whimbrel"));
        cluster.kubectl(&format!(
            "create clusterrolebinding {role} --clusterrole=whimbrel-console-{role} --serviceaccount=whimbrel:{role}"
        ));
        Self(cluster.kubectl(&format!("create token {role} --namespace whimbrel")).trim().to_owned())
    }
}

/// The program of the manifest, with its arguments and the files of its volumes. Ends when it is dropped.
struct Console<'a> {
    cluster: &'a Cluster,
    program: Child,
    address: String,
    authority: PathBuf,
}

impl<'a> Console<'a> {
    fn start(cluster: &'a Cluster) -> Self {
        let authority = prepare(cluster);
        let deployment = cluster.get("deployment/whimbrel-console --namespace whimbrel");
        let pod = &deployment["spec"]["template"]["spec"];
        assert_eq!(pod["automountServiceAccountToken"], false, "{pod:#}");
        let container = &pod["containers"][0];
        let mut arguments: Vec<String> = serde_json::from_value(container["args"].clone()).unwrap();
        for mount in container["volumeMounts"].as_array().unwrap() {
            let path = mount["mountPath"].as_str().unwrap();
            let volumes = pod["volumes"].as_array().unwrap();
            let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).unwrap();
            let folder = cluster.dir().join("mounts").join(path.trim_start_matches('/'));
            fill(cluster, volume, &folder);
            arguments.iter_mut().for_each(|one| *one = one.replace(path, &folder.display().to_string()));
        }
        let mut command = whimbrel(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        command.args(["--listen", "127.0.0.1:0", "--server", &cluster.address()]);
        let mut program = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(program.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let address = said.split_whitespace().find_map(|word| word.strip_suffix("/console/,"));
        let address = address.unwrap_or_else(|| panic!("it says '{said}'")).to_owned();
        let console = Self { cluster, program, address, authority };
        for probe in ["readinessProbe", "livenessProbe"] {
            let path = container[probe]["httpGet"]["path"].as_str().unwrap();
            assert_eq!(console.does(&Person("nobody's".to_owned()), &format!("get --raw {path}")), "ok");
        }
        console
    }

    /// What comes of a line of kubectl that takes the way of the console, and whether it succeeds.
    fn asks(&self, person: &Person, line: &str) -> (String, bool) {
        let (server, authority) = (&self.address, self.authority.display());
        let mut command = self.cluster.command(&format!(
            "{line} --kubeconfig /dev/null --server {server} --certificate-authority {authority} --tls-server-name {NAME}"
        ));
        let output = command.args(["--token", &person.0]).output().unwrap();
        (String::from_utf8([output.stdout, output.stderr].concat()).unwrap(), output.status.success())
    }

    fn does(&self, person: &Person, line: &str) -> String {
        let (said, is_done) = self.asks(person, line);
        assert!(is_done, "{line}: {said}");
        said
    }

    fn refuses(&self, person: &Person, line: &str, why: &str) {
        let (said, is_done) = self.asks(person, line);
        assert!(!is_done && said.contains(why), "{line}: {said}");
    }
}

impl Drop for Console<'_> {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// What an administrator prepares, as docs/kubernetes.md says it, and what a controller that is not here has in every namespace. Returns who has issued
/// the certificate.
fn prepare(cluster: &Cluster) -> PathBuf {
    let dir = cluster.dir();
    let made = dir.join("made");
    let [ca, out] = [dir.join("ca"), made.clone()].map(|path| path.display().to_string());
    let issued = whimbrel(&["ca", "issue", "--ca", &ca, "--out", &out, NAME]).output().unwrap();
    assert!(issued.status.success(), "{issued:?}");
    let files = made.join(NAME);
    let file = |name: &str| files.join(name).display().to_string();
    cluster.kubectl(&format!(
        "create secret tls whimbrel-console-tls --namespace whimbrel --cert={} --key={}",
        file("server-cert.pem"),
        file("server-key.pem")
    ));
    let authority = dir.join("server/apiserver.crt");
    cluster.kubectl(&format!(
        "create configmap kube-root-ca.crt --namespace whimbrel --from-file=ca.crt={}",
        authority.display()
    ));
    dir.join("ca/ca-cert.pem")
}

/// Writes the files of a volume, as a kubelet does.
fn fill(cluster: &Cluster, volume: &Value, folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let secret = volume["secret"]["secretName"].as_str();
    let what = secret.map_or_else(
        || format!("configmap/{}", volume["configMap"]["name"].as_str().unwrap()),
        |name| format!("secret/{name}"),
    );
    let source = cluster.get(&format!("{what} --namespace whimbrel"));
    let bytes = |key: &str| {
        let value = source["data"][key].as_str().unwrap_or_else(|| panic!("{what} has no {key}"));
        if secret.is_some() { STANDARD.decode(value).unwrap() } else { value.as_bytes().to_vec() }
    };
    let items = volume["secret"]["items"].as_array().cloned().unwrap_or_default();
    if items.is_empty() {
        for key in source["data"].as_object().unwrap().keys() {
            fs::write(folder.join(key), bytes(key)).unwrap();
        }
    }
    for item in items {
        let [key, path] = ["key", "path"].map(|name| item[name].as_str().unwrap());
        fs::write(folder.join(path), bytes(key)).unwrap();
    }
}
