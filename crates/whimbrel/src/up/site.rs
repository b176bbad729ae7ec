//! The directory of a fleet on one host: what is in it, made where it is missing.

use std::{
    env,
    fs::{self, OpenOptions},
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use apiserver::{Identity, Role, Tokens};
use authority::{Authority, AuthorityError, Request};

/// Longest path of the directory, in bytes: sockets of monitors are below it, whose paths may have 107.
const MAX_PATH: usize = 40;

/// Why there is no directory to work in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SiteError {
    #[error("There is no home directory: say with --dir where the fleet's files go")]
    NoHome,
    #[error("{} is too long, since sockets are below it: use --dir with at most {MAX_PATH} bytes", path.display())]
    TooLong { path: PathBuf },
    #[error("Cannot write {}", path.display())]
    Files { path: PathBuf, source: io::Error },
    #[error("Cannot make certificates in {}", path.display())]
    Certificates { path: PathBuf, source: AuthorityError },
}

/// The directory of a fleet.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    directory: PathBuf,
}

impl Site {
    /// The directory that was named, or else `.whimbrel` in the home directory.
    pub(crate) fn at(named: Option<&Path>) -> Result<Self, SiteError> {
        let directory = match named {
            Some(path) => std::path::absolute(path).map_err(|source| failed(path, source))?,
            None => {
                PathBuf::from(env::var_os("HOME").filter(|home| !home.is_empty()).ok_or(SiteError::NoHome)?)
                    .join(".whimbrel")
            }
        };
        if directory.as_os_str().len() > MAX_PATH {
            return Err(SiteError::TooLong { path: directory });
        }
        Ok(Self { directory })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.directory.join("store.redb")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.directory.join("whimbrel.log")
    }

    /// What `kubectl` is given.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig")
    }

    /// The certificate of the API server.
    pub(crate) fn server_tls(&self) -> PathBuf {
        self.directory.join("api")
    }

    /// The directory of a node's agent.
    pub(crate) fn node(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The certificates of a node.
    pub(crate) fn node_tls(&self, name: &str) -> PathBuf {
        self.node(name).join("tls")
    }

    pub(crate) fn node_kubeconfig(&self, name: &str) -> PathBuf {
        self.node(name).join("kubeconfig")
    }

    /// Makes what is missing: authority, certificates, secrets, and a kubeconfig for the administrator and for each node. Certificates are
    /// renewed each time, secrets stay as they are.
    pub(crate) fn make(&self, address: SocketAddr, nodes: &[String]) -> Result<Tokens, SiteError> {
        make_private(&self.directory)?;
        let ca = self.directory.join("ca");
        let wrong = |path: &Path| {
            let path = path.to_owned();
            move |source| SiteError::Certificates { path, source }
        };
        let authority = if ca.join("ca-key.pem").exists() {
            Authority::open(&ca)
        } else {
            Authority::init(&ca, "Whimbrel fleet")
        };
        let authority = authority.map_err(wrong(&ca))?;
        let names = [address.ip().to_string(), "localhost".to_owned()];
        authority.issue(&self.server_tls(), &Request::new(names)).map_err(wrong(&self.server_tls()))?;
        let mut tokens = Tokens::default();
        let token = self.token("admin")?;
        tokens.add(&token, Identity { name: "admin".to_owned(), role: Role::Admin });
        self.write_kubeconfig(&self.kubeconfig(), address, "admin", &token)?;
        for node in nodes {
            make_private(&self.node(node))?;
            let request = Request::new([node.clone(), address.ip().to_string()]);
            authority.issue(&self.node_tls(node), &request).map_err(wrong(&self.node_tls(node)))?;
            let token = self.token(&format!("node-{node}"))?;
            tokens.add(&token, Identity { name: format!("node:{node}"), role: Role::Node(node.clone()) });
            self.write_kubeconfig(&self.node_kubeconfig(node), address, node, &token)?;
        }
        Ok(tokens)
    }

    /// The secret of a client, made if there is none.
    fn token(&self, whose: &str) -> Result<String, SiteError> {
        let folder = self.directory.join("tokens");
        make_private(&folder)?;
        let path = folder.join(whose);
        if let Ok(token) = fs::read_to_string(&path) {
            return Ok(token.trim().to_owned());
        }
        let mut bytes = [0; 32];
        let filled = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes);
        filled.map_err(|_| failed(&path, io::Error::other("the system has no random numbers")))?;
        let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        write_private(&path, &token)?;
        Ok(token)
    }

    fn write_kubeconfig(
        &self,
        path: &Path,
        address: SocketAddr,
        user: &str,
        token: &str,
    ) -> Result<(), SiteError> {
        let authority = self.server_tls().join("ca-cert.pem");
        // JSON is YAML, and what is in it cannot break out of it.
        let text = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "whimbrel",
            "clusters": [{ "name": "whimbrel", "cluster": {
                "server": format!("https://{address}"), "certificate-authority": authority.display().to_string(),
            }}],
            "users": [{ "name": user, "user": { "token": token } }],
            "contexts": [{ "name": "whimbrel", "context": {
                "cluster": "whimbrel", "user": user, "namespace": "default",
            }}],
        });
        write_private(path, &format!("{text:#}\n"))
    }
}

fn make_private(path: &Path) -> Result<(), SiteError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| failed(path, source))
}

/// Writes a file that nobody else can read, at once.
fn write_private(path: &Path, text: &str) -> Result<(), SiteError> {
    let unfinished = path.with_extension("new");
    // Whatever was left of an earlier try may be readable.
    let _ = fs::remove_file(&unfinished);
    let outcome = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&unfinished, path));
    outcome.map_err(|source| failed(path, source))
}

fn failed(path: &Path, source: io::Error) -> SiteError {
    SiteError::Files { path: path.to_owned(), source }
}
