//! The fleet on a cluster: two controllers, of which one leads, and the agents of two nodes.

use std::{
    collections::BTreeMap,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::{
    cluster::{Cluster, PATIENCE, Running, programs},
    vmm,
};

/// The nodes of the cluster, as a kubelet registers them.
const NODES: [&str; 2] = ["node-a", "node-b"];

pub(crate) struct Site {
    pub(crate) cluster: Cluster,
    controllers: BTreeMap<String, Running>,
    agents: Vec<Running>,
}

impl Site {
    /// A fleet that is up; `None`, loudly, where there can be none.
    pub(crate) fn start() -> Option<Self> {
        let programs = programs()?;
        vmm()?;
        let mut site =
            Self { cluster: Cluster::start(programs), controllers: BTreeMap::new(), agents: Vec::new() };
        site.install();
        site.register();
        for name in ["one", "two"] {
            site.start_controllers(name);
        }
        for node in NODES {
            site.start_agent(node);
        }
        for node in NODES {
            site.cluster.wait(&format!("node/{node}"), |seen| {
                let all = seen["status"]["conditions"].as_array().cloned().unwrap_or_default();
                all.iter().any(|one| one["type"] == "WhimbrelReady" && one["status"] == "True")
            });
        }
        Some(site)
    }

    /// Definitions, accounts and rights. What is to run in pods is stored too, and nobody runs it: there are no kubelets.
    fn install(&self) {
        let crds = whimbrel(&["crds", "--without-rules"]).output().unwrap();
        self.cluster.create(&String::from_utf8(crds.stdout).unwrap());
        self.cluster.kubectl("wait --for=condition=Established crd --all --timeout=60s");
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/kubernetes/base");
        self.cluster.kubectl(&format!("apply -k {}", base.display()));
    }

    /// Nodes as a kubelet makes them, and certificates for their agents.
    fn register(&self) {
        for node in NODES {
            self.cluster.create(&format!(
                "apiVersion: v1\nkind: Node\nmetadata: {{name: {node}, labels: {{kubernetes.io/hostname: {node}}}}}\n"
            ));
            let status = r#"{"status":{"conditions":[{"type":"Ready","status":"True","reason":"KubeletReady"}],"allocatable":{"memory":"1Gi","cpu":"1"},"nodeInfo":{"kubeletVersion":"v1.20.2","machineID":"","systemUUID":"","bootID":"","kernelVersion":"","osImage":"","containerRuntimeVersion":"","kubeProxyVersion":"","operatingSystem":"linux","architecture":"amd64"}}}"#;
            self.cluster.kubectl(&format!("patch node {node} --subresource=status --type=merge -p {status}"));
        }
        let dir = self.cluster.dir().display().to_string();
        let ca = format!("{dir}/ca");
        let hosts = NODES.map(|node| format!("{node},127.0.0.1"));
        for line in [
            vec!["ca", "init", "--ca", &ca],
            vec!["ca", "issue", "--ca", &ca, "--out", &dir, &hosts[0], &hosts[1]],
        ] {
            let made = whimbrel(&line).output().unwrap();
            assert!(made.status.success(), "{made:?}");
        }
    }

    pub(crate) fn start_controllers(&mut self, name: &str) {
        let kubeconfig = self.cluster.kubeconfig_of("whimbrel-controllers");
        let mut command = whimbrel(&["controllers", "--name", name]);
        command.arg("--kubeconfig").arg(kubeconfig);
        let log = self.cluster.dir().join(format!("controllers-{name}.log"));
        self.controllers.insert(name.to_owned(), Running::start(&mut command, &log));
    }

    fn start_agent(&mut self, node: &str) {
        let dir = self.cluster.dir();
        // `ca issue` names a host's directory after it.
        let (tls, home) = (dir.join(node), dir.join(format!("{node}.d")));
        let mut command = whimbrel(&["node", "--kubernetes", "--name", node, "--address", "127.0.0.1"]);
        command.arg("--kubeconfig").arg(self.cluster.kubeconfig_of("whimbrel-node"));
        command.arg("--tls").arg(tls).arg("--dir").arg(home);
        let log = dir.join(format!("{node}.log"));
        let agent = Running::start(&mut command, &log);
        self.agents.push(agent);
    }

    /// Ends the agents, and starts others in their place.
    pub(crate) fn replace_agents(&mut self) {
        self.agents.drain(..).for_each(Running::end);
        for node in NODES {
            self.start_agent(node);
        }
    }

    /// Who leads, as the lease says it.
    pub(crate) fn leader(&self) -> String {
        let lease = self.cluster.wait("lease/whimbrel-controllers --namespace whimbrel", |seen| {
            seen["spec"]["holderIdentity"].as_str().is_some_and(|holder| !holder.is_empty())
        });
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap();
        holder.split('_').next().unwrap().to_owned()
    }

    /// Kills whoever leads, without a chance to do anything.
    pub(crate) fn kill_leader(&mut self) -> String {
        let leader = self.leader();
        assert!(self.controllers.remove(&leader).is_some(), "{leader} leads");
        leader
    }

    /// Asks the leader to end.
    pub(crate) fn end_leader(&mut self) -> String {
        let leader = self.leader();
        self.controllers.remove(&leader).expect("who leads is one of ours").end();
        leader
    }

    /// What `whimbrel` says to a line, and whether it succeeds.
    pub(crate) fn whimbrel(&self, line: &str) -> (String, bool) {
        let mut command = whimbrel(&line.split_whitespace().collect::<Vec<_>>());
        let output = command.env("KUBECONFIG", self.cluster.kubeconfig()).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (String::from_utf8(said).unwrap(), output.status.success())
    }

    /// VMMs that run, and folders of VMMs.
    pub(crate) fn vmms(&self) -> (usize, usize) {
        let dir = self.cluster.dir();
        let running = node::running().keys().filter(|path| path.starts_with(dir)).count();
        let folders = NODES.map(|node| node::vmm_folders(&dir.join(format!("{node}.d"))).unwrap().len());
        (running, folders.iter().sum())
    }

    pub(crate) fn wait_vmms(&self, wanted: (usize, usize)) {
        let deadline = Instant::now() + PATIENCE;
        while self.vmms() != wanted {
            assert!(Instant::now() < deadline, "{:?}, not {wanted:?}\n{}", self.vmms(), self.cluster.logs());
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.cluster.logs());
        }
        self.agents.clear();
        for (_, process) in
            node::running().into_iter().filter(|(path, _)| path.starts_with(self.cluster.dir()))
        {
            let process = i32::try_from(process).ok().and_then(rustix::process::Pid::from_raw).unwrap();
            // It may have ended by itself.
            let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        }
    }
}

fn whimbrel(arguments: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("whimbrel"));
    for name in ["KUBECONFIG", "POD_NAMESPACE", "POD_NAME", "NODE_NAME", "NODE_ADDRESS"] {
        command.env_remove(name);
    }
    command.args(arguments);
    command
}
