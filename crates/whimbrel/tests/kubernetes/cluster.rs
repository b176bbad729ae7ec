//! A Kubernetes cluster without kubelets: etcd, and the API server of Kubernetes as it is.

use std::{
    collections::BTreeMap,
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::line::Line;

/// Whatever is waited for takes seconds; on a host that is busy with other tests it takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// Longer than the shortest that our own server takes, and known to this process alone.
const ADMIN_TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// The programs, from `scripts/kubernetes get`; `None`, loudly, where nobody has made them.
pub(crate) fn programs() -> Option<PathBuf> {
    let found = env::var_os("WHIMBREL_KUBERNETES").map(PathBuf::from).filter(|path| path.is_dir());
    if found.is_none() {
        eprintln!(
            "SKIPPED: NO KUBERNETES API SERVER WAS RUN. `make test-kubernetes` makes one and sets WHIMBREL_KUBERNETES"
        );
    }
    found
}

/// A program that runs until it is dropped.
pub(crate) struct Running(Child);

impl Running {
    /// Starts a program, with what it says in a file.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Self {
        let file = fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let again = file.try_clone().unwrap();
        Self(command.stdin(Stdio::null()).stdout(file).stderr(again).spawn().unwrap())
    }

    pub(crate) fn is_up(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Asks it to end, and waits.
    pub(crate) fn end(mut self) {
        let process = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
        rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The API server and what it keeps. Whoever has a kubeconfig of it may do what its token may.
pub(crate) struct Cluster {
    folder: TempDir,
    programs: PathBuf,
    port: u16,
    etcd: (u16, Running),
    server: Option<Running>,
    /// The way that services take to the server.
    pub(crate) line: Line,
    /// Another, which they take instead where it is there: a port for each account.
    bent: BTreeMap<String, u16>,
}

impl Cluster {
    pub(crate) fn start(programs: PathBuf) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (client, peer) = (free_port(), free_port());
        let (here, there) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let mut command = Command::new(programs.join("etcd"));
        command.args(["--unsafe-no-fsync", "--log-level", "warn", "--logger", "zap", "--name", "test"]);
        command.args(["--data-dir".as_ref(), folder.path().join("etcd").as_os_str()]);
        command.args(["--listen-client-urls", &here, "--advertise-client-urls", &here]);
        command.args(["--listen-peer-urls", &there, "--initial-advertise-peer-urls", &there]);
        command.args(["--initial-cluster", &format!("test={there}")]);
        let etcd = Running::start(&mut command, &folder.path().join("etcd.log"));
        let tokens = format!("{ADMIN_TOKEN},admin,admin,system:masters\n");
        fs::write(folder.path().join("tokens.csv"), tokens).unwrap();
        // What tokens of service accounts are signed with.
        let key = folder.path().join("accounts.key");
        let made = Command::new("openssl").args(["genrsa", "-out"]).arg(key).arg("2048").output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let port = free_port();
        let line = Line::to(port);
        let mut cluster =
            Self { folder, programs, port, etcd: (client, etcd), server: None, line, bent: BTreeMap::new() };
        cluster.start_server();
        cluster
    }

    pub(crate) fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// Starts the API server, and waits until it is ready.
    pub(crate) fn start_server(&mut self) {
        let dir = self.dir().to_owned();
        let file = |flag: &str, name: &str| format!("--{flag}={}", dir.join(name).display());
        let mut command = Command::new(self.programs.join("kube-apiserver"));
        command
            .arg(format!("--etcd-servers=http://127.0.0.1:{}", self.etcd.0))
            .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"])
            .arg(format!("--secure-port={}", self.port))
            // It makes a certificate of its own there.
            .arg(file("cert-dir", "server"))
            .arg(file("token-auth-file", "tokens.csv"))
            .arg(file("service-account-signing-key-file", "accounts.key"))
            .arg(file("service-account-key-file", "accounts.key"))
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .args(["--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24"])
            // Nobody makes the accounts that it wants to see, and nobody but this server serves.
            .args(["--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none"])
            // Agents are privileged.
            .args(["--shutdown-delay-duration=0", "--allow-privileged=true"]);
        self.server = Some(Running::start(&mut command, &self.dir().join("kube-apiserver.log")));
        let deadline = Instant::now() + PATIENCE;
        let admin = self.kubeconfig();
        loop {
            if self.dir().join("server/apiserver.crt").is_file() {
                self.write_kubeconfig(&admin, ADMIN_TOKEN, self.port);
                let ready = self.run("get --raw /readyz");
                // Made by the server itself, a moment after it says that it is ready.
                if ready.stdout == b"ok" && self.run("get namespace default").status.success() {
                    return;
                }
            }
            let is_up = self.server.as_mut().is_some_and(Running::is_up);
            assert!(is_up && Instant::now() < deadline, "{}", self.log("kube-apiserver.log"));
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Kills the API server, without a chance to do anything.
    pub(crate) fn kill_server(&mut self) {
        self.server = None;
    }

    /// The administrator's.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.dir().join("kubeconfig")
    }

    /// Has what is started from now on with an account take a way of its own, without encryption.
    pub(crate) fn bend(&mut self, account: &str, port: Option<u16>) {
        match port {
            Some(port) => self.bent.insert(account.to_owned(), port),
            None => self.bent.remove(account),
        };
    }

    /// One for a service account of the fleet's namespace, which takes the line.
    pub(crate) fn kubeconfig_of(&self, account: &str) -> PathBuf {
        if let Some(port) = self.bent.get(account) {
            let path = self.dir().join(format!("kubeconfig.{account}.bent"));
            let config = serde_json::json!({
                "apiVersion": "v1", "kind": "Config", "current-context": "test",
                "clusters": [{ "name": "test", "cluster": { "server": format!("http://127.0.0.1:{port}") } }],
                "users": [{ "name": "test", "user": {} }],
                "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test", "namespace": "default" } }],
            });
            fs::write(&path, config.to_string()).unwrap();
            return path;
        }
        let token = self.kubectl(&format!("create token {account} --namespace whimbrel"));
        let path = self.dir().join(format!("kubeconfig.{account}"));
        self.write_kubeconfig(&path, token.trim(), self.line.port);
        path
    }

    fn write_kubeconfig(&self, path: &Path, token: &str, port: u16) {
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": {
                "server": format!("https://127.0.0.1:{port}"),
                "certificate-authority": self.dir().join("server/apiserver.crt"),
            }}],
            "users": [{ "name": "test", "user": { "token": token } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test", "namespace": "default" } }],
        });
        fs::write(path, config.to_string()).unwrap();
    }

    /// Where the server is.
    pub(crate) fn address(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// A line of kubectl, as the administrator.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new("kubectl");
        command.env("KUBECONFIG", self.kubeconfig()).arg("--request-timeout=20s");
        command.args(line.split_whitespace());
        command
    }

    pub(crate) fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    pub(crate) fn kubectl(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "kubectl {line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Applies a manifest. What the server says, and whether it took it.
    pub(crate) fn apply(&self, text: &str) -> (String, bool) {
        let file = self.dir().join("manifest.yaml");
        fs::write(&file, text).unwrap();
        let output = self.run(&format!("apply -f {}", file.display()));
        (String::from_utf8([output.stdout, output.stderr].concat()).unwrap(), output.status.success())
    }

    pub(crate) fn create(&self, text: &str) {
        let (said, is_done) = self.apply(text);
        assert!(is_done, "{said}\n{text}");
    }

    /// Applies a manifest until the server takes it.
    pub(crate) fn insist(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (said, is_done) = self.apply(text);
            if is_done {
                return;
            }
            assert!(Instant::now() < deadline, "{said}\n{text}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    pub(crate) fn get(&self, what: &str) -> Value {
        let output = self.run(&format!("get {what} -o json"));
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// Waits until it holds, and returns what was last seen.
    pub(crate) fn wait(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.get(what);
            if holds(&seen) {
                return seen;
            }
            assert!(Instant::now() < deadline, "{what} is {seen:#}\n{}", self.logs());
            thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn wait_phase(&self, what: &str, phase: &str) -> Value {
        self.wait(what, |seen| seen["status"]["phase"] == phase)
    }

    fn log(&self, name: &str) -> String {
        let text = fs::read_to_string(self.dir().join(name)).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        format!("{name}:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"))
    }

    /// The last lines of everything that runs.
    pub(crate) fn logs(&self) -> String {
        let names = fs::read_dir(self.dir()).unwrap().map(|entry| entry.unwrap().file_name());
        let logs = names.filter_map(|name| name.into_string().ok()).filter(|name| name.ends_with(".log"));
        logs.map(|name| self.log(&name)).collect::<Vec<_>>().join("\n\n")
    }
}

/// A port that nobody listens at now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
