//! The fleet on a cluster: two controllers, of which one leads, and the agents of two nodes.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::{
    cluster::{Cluster, PATIENCE, Running, free_port, programs},
    conflicts::Conflicts,
    vmm,
};

/// The nodes of the cluster, as a kubelet registers them.
const NODES: [&str; 2] = ["node-a", "node-b"];

/// The accounts of what runs.
const ACCOUNTS: [&str; 2] = ["whimbrel-controllers", "whimbrel-node"];

pub(crate) struct Site {
    pub(crate) cluster: Cluster,
    /// With the port of their figures.
    controllers: BTreeMap<String, (Running, u16)>,
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

    /// Definitions, accounts and rights. What is to run in pods is stored too, and nobody runs it: there are no kubelets. With figures and the console,
    /// which are components.
    fn install(&self) {
        let crds = whimbrel(&["crds", "--without-rules"]).output().unwrap();
        self.cluster.create(&String::from_utf8(crds.stdout).unwrap());
        self.cluster.kubectl("wait --for=condition=Established crd --all --timeout=60s");
        let deploy =
            fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/kubernetes")).unwrap();
        let own = fs::canonicalize(self.cluster.dir()).unwrap().join("kustomization");
        fs::create_dir(&own).unwrap();
        // Folders of others are known by the way there.
        let up = "../".repeat(own.components().count() - 1);
        let deploy = format!("{up}{}", deploy.strip_prefix("/").unwrap().display());
        let text = format!("resources: [{deploy}/base]\ncomponents: [{deploy}/metrics, {deploy}/console]\n");
        fs::write(own.join("kustomization.yaml"), text).unwrap();
        self.cluster.kubectl(&format!("apply -k {}", own.display()));
        for port in ["deployment/whimbrel-controllers", "daemonset/whimbrel-node"].map(|what| {
            let path = "{.spec.template.spec.containers[0].ports[0].name}";
            self.cluster.kubectl(&format!("get {what} --namespace whimbrel -o jsonpath={path}"))
        }) {
            assert_eq!(port, "metrics", "the services for figures lead to a port of that name");
        }
        // A service finds pods of its own namespace alone.
        let services = self.cluster.kubectl("get service --namespace whimbrel -o name");
        for name in ["controllers-metrics", "node-metrics", "console"] {
            assert!(services.contains(&format!("service/whimbrel-{name}")), "{services}");
        }
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
        let port = free_port();
        let mut command = whimbrel(&["controllers", "--log-format=json", "--name", name]);
        command.arg("--kubeconfig").arg(kubeconfig).arg(format!("--metrics-port={port}"));
        let log = self.cluster.dir().join(format!("controllers-{name}.log"));
        self.controllers.insert(name.to_owned(), (Running::start(&mut command, &log), port));
    }

    /// The figures of each of the controllers, by their names.
    pub(crate) fn figures(&self) -> BTreeMap<String, String> {
        let scrape = |port: u16| -> std::io::Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", port))?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")?;
            let mut reply = String::new();
            stream.read_to_string(&mut reply)?;
            Ok(reply)
        };
        let all = self.controllers.iter();
        all.map(|(name, (_, port))| (name.clone(), scrape(*port).unwrap_or_default())).collect()
    }

    /// Waits until the one that leads has that line among its figures.
    pub(crate) fn wait_figure(&self, line: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let all = self.figures();
            if all.values().any(|text| text.lines().any(|found| found == line)) {
                return;
            }
            assert!(Instant::now() < deadline, "{line} is not in {all:#?}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// What all programs have logged, by the names of their files; VMMs too.
    pub(crate) fn logs(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.cluster.dir().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|name| name == "log") {
                    let text = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
                    found.insert(path.display().to_string(), text);
                }
            }
        }
        found
    }

    /// Waits until one of them logs it.
    pub(crate) fn wait_logged(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.logs().values().any(|log| log.contains(text)) {
            assert!(Instant::now() < deadline, "nobody says '{text}':\n{}", self.cluster.logs());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Has controllers and agents, other ones, reach the server by ways on which every write conflicts.
    pub(crate) fn conflict(&mut self) -> [(Conflicts, Running); 2] {
        let ways = ACCOUNTS.map(|account| {
            let (kubeconfig, port) = (self.cluster.kubeconfig_of(account), free_port());
            let mut command = Command::new("kubectl");
            command.env("KUBECONFIG", kubeconfig).args(["proxy", &format!("--port={port}")]);
            let log = self.cluster.dir().join(format!("proxy-{account}.log"));
            let proxy = Running::start(&mut command, &log);
            let way = Conflicts::before(port);
            self.cluster.bend(account, Some(way.port));
            (way, proxy)
        });
        self.replace_all();
        ways
    }

    /// Has them reach it as before.
    pub(crate) fn straighten(&mut self) {
        ACCOUNTS.iter().for_each(|account| self.cluster.bend(account, None));
        self.replace_all();
    }

    fn replace_all(&mut self) {
        let names: Vec<_> = self.controllers.keys().cloned().collect();
        for name in names {
            drop(self.controllers.remove(&name));
            self.start_controllers(&name);
        }
        self.replace_agents();
    }

    fn start_agent(&mut self, node: &str) {
        let dir = self.cluster.dir();
        // `ca issue` names a host's directory after it.
        let (tls, home) = (dir.join(node), dir.join(format!("{node}.d")));
        let mut command = whimbrel(&["node", "--kubernetes", "--log-format=json", "--name", node]);
        command.args(["--address", "127.0.0.1"]);
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
        self.controllers.remove(&leader).expect("who leads is one of ours").0.end();
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

/// The program, with nothing of the environment of whoever runs the test.
pub(crate) fn whimbrel(arguments: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("whimbrel"));
    for name in ["KUBECONFIG", "POD_NAMESPACE", "POD_NAME", "NODE_NAME", "NODE_ADDRESS"] {
        command.env_remove(name);
    }
    command.args(arguments);
    command
}
