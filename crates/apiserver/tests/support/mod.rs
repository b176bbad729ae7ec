//! A server on loopback, and kubectl as its client.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
    thread,
};

use apiserver::{Api, Identity, Role, Server, Tokens, tls_config};
use authority::{Authority, Request};
use store::{Limits, Store};

/// A server in a thread. It ends with the process.
#[derive(Debug)]
pub(crate) struct Fixture {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) address: SocketAddr,
}

pub(crate) const ADMIN: &str = "admin-token-that-is-long-enough-for-a-test";
pub(crate) const VIEWER: &str = "viewer-token-that-is-long-enough-for-a-test";

impl Fixture {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::init(&folder.path().join("ca"), "test").unwrap();
        let tls = folder.path().join("tls");
        authority.issue(&tls, &Request::new(["127.0.0.1"])).unwrap();
        let store = Arc::new(Store::open(&folder.path().join("store.redb"), Limits::default()).unwrap());
        let mut tokens = Tokens::default();
        tokens.add(ADMIN, Identity { name: "admin".to_owned(), role: Role::Admin });
        tokens.add(VIEWER, Identity { name: "viewer".to_owned(), role: Role::View });
        let api = Arc::new(Api::new(store, objects::kinds(), tokens).unwrap());
        let config = tls_config(&tls).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { Server::new(listener, config, api).unwrap().run().await });
        });
        let fixture = Self { folder, address };
        fixture.write_kubeconfig("admin", ADMIN);
        fixture.write_kubeconfig("viewer", VIEWER);
        fixture
    }

    fn write_kubeconfig(&self, user: &str, token: &str) {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: t\n\
             clusters: [{{name: t, cluster: {{server: 'https://{}', certificate-authority: '{}'}}}}]\n\
             users: [{{name: t, user: {{token: {token}}}}}]\n\
             contexts: [{{name: t, context: {{cluster: t, user: t, namespace: default}}}}]\n",
            self.address,
            self.folder.path().join("tls/ca-cert.pem").display()
        );
        fs::write(self.kubeconfig(user), text).unwrap();
    }

    pub(crate) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.folder.path().join(format!("{user}.yaml"))
    }

    /// kubectl as that user, with the words of a line.
    pub(crate) fn command(&self, user: &str, line: &str) -> Command {
        let mut command = Command::new("kubectl");
        command.env("KUBECONFIG", self.kubeconfig(user)).env("HOME", self.folder.path());
        command.args(line.split_whitespace()).stdin(Stdio::null());
        command
    }

    fn output(&self, user: &str, line: &str) -> Output {
        self.command(user, line).output().unwrap()
    }

    /// What it prints, having succeeded.
    pub(crate) fn kubectl(&self, line: &str) -> String {
        let output = self.output("admin", line);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "kubectl {line}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout) + &text(&output.stderr)
    }

    /// What it complains about, having failed.
    pub(crate) fn refused(&self, user: &str, line: &str) -> String {
        let output = self.output(user, line);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "kubectl {line} was done: {text}");
        text
    }

    /// A file with that text, by its path.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

/// Whether there is a kubectl; if there is none the test says so.
pub(crate) fn has_kubectl() -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let is_there = std::env::split_paths(&paths).any(|folder| Path::new(&folder).join("kubectl").is_file());
    if !is_there {
        eprintln!("SKIPPED: THERE IS NO kubectl");
    }
    is_there
}
