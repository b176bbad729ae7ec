//! The directory of a fleet on one host: what is in it, made where it is missing.

use std::{
    env,
    fs::{self, OpenOptions, Permissions},
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use apiserver::{Identity, Registrar, Role, Tokens};
use authority::{Authority, AuthorityError, Request};
use base64::{Engine, engine::general_purpose::STANDARD};
use objects::CONTROL_PLANE_NAME;
use serde_json::Value;

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

    /// What was counted for `/metrics`.
    pub(crate) fn counts(&self) -> PathBuf {
        self.directory.join("counts.json")
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

    /// Makes what is missing for the control plane and for nodes on this host. Certificates are renewed each time, secrets stay as they are. The
    /// tokens are those of all who were ever given one.
    pub(crate) fn make(&self, endpoint: &Endpoint, nodes: &[String]) -> Result<Tokens, SiteError> {
        let authority = self.authority()?;
        let names = endpoint.names.iter().cloned();
        // The last is what agents know it by.
        let own = [&endpoint.local().ip().to_string(), "127.0.0.1", "localhost", CONTROL_PLANE_NAME];
        let own = own.map(str::to_owned);
        let request = Request::new(names.chain(own));
        let issued = authority.issue(&self.server_tls(), &request);
        issued.map_err(|source| SiteError::Certificates { path: self.server_tls(), source })?;
        let local = endpoint.local().to_string();
        self.write_kubeconfig(&self.kubeconfig(), &local, "admin", &self.token("admin")?)?;
        for role in ["view", "operate"] {
            let path = self.directory.join(format!("kubeconfig.{role}"));
            let server = endpoint.public().unwrap_or_else(|| local.clone());
            self.write_kubeconfig(&path, &server, role, &self.token(role)?)?;
        }
        if let Some(public) = endpoint.public() {
            self.write_kubeconfig(&self.ticket(), &public, "join", &self.token("join")?)?;
        }
        for node in nodes {
            make_private(&self.node(node))?;
            let request = Request::new([node.clone(), endpoint.local().ip().to_string()]);
            let issued = authority.issue(&self.node_tls(node), &request);
            issued.map_err(|source| SiteError::Certificates { path: self.node_tls(node), source })?;
            let token = self.token(&format!("node-{node}"))?;
            self.write_kubeconfig(&self.node_kubeconfig(node), &local, node, &token)?;
        }
        self.tokens()
    }

    fn authority(&self) -> Result<Authority, SiteError> {
        make_private(&self.directory)?;
        let ca = self.directory.join("ca");
        let authority = if ca.join("ca-key.pem").exists() {
            Authority::open(&ca)
        } else {
            Authority::init(&ca, "Whimbrel fleet")
        };
        authority.map_err(|source| SiteError::Certificates { path: ca, source })
    }

    /// All tokens that were given out.
    fn tokens(&self) -> Result<Tokens, SiteError> {
        let folder = self.directory.join("tokens");
        let mut tokens = Tokens::default();
        for entry in fs::read_dir(&folder).map_err(|source| failed(&folder, source))? {
            let entry = entry.map_err(|source| failed(&folder, source))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let (name, role) = match name.strip_prefix("node-") {
                _ if name == "admin" => (name, Role::Admin),
                _ if name == "join" => (name, Role::Join),
                _ if name == "view" => (name, Role::View),
                _ if name == "operate" => (name, Role::Operate),
                Some(node) => (format!("node:{node}"), Role::Node(node.to_owned())),
                // Unfinished, a person's, or what logins are signed with, which is no client's.
                None => continue,
            };
            let token = fs::read_to_string(entry.path()).map_err(|source| failed(&entry.path(), source))?;
            tokens.add(token.trim(), Identity { name, role });
        }
        Ok(tokens)
    }

    /// What a host needs to join.
    pub(crate) fn ticket(&self) -> PathBuf {
        self.directory.join("ticket")
    }

    /// What logins of the console are signed with.
    pub(crate) fn login_secret(&self) -> Result<String, SiteError> {
        self.token("console")
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

    fn write_kubeconfig(&self, path: &Path, server: &str, user: &str, token: &str) -> Result<(), SiteError> {
        let authority = self.server_tls().join("ca-cert.pem");
        let authority = fs::read(&authority).map_err(|source| failed(&authority, source))?;
        write_private(path, &kubeconfig(server, &authority, user, token))
    }
}

/// A kubeconfig that stands alone. JSON is YAML, and what is in it cannot break out of it.
pub(crate) fn kubeconfig(server: &str, authority: &[u8], user: &str, token: &str) -> String {
    let text = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "whimbrel",
        "clusters": [{ "name": "whimbrel", "cluster": {
            "server": format!("https://{server}"), "certificate-authority-data": STANDARD.encode(authority),
        }}],
        "users": [{ "name": user, "user": { "token": token } }],
        "contexts": [{ "name": "whimbrel", "context": {
            "cluster": "whimbrel", "user": user, "namespace": "default",
        }}],
    });
    format!("{text:#}\n")
}

impl Registrar for Site {
    fn register(&self, node: &str, addresses: &[String], is_new: bool) -> Result<(Value, String), String> {
        let told = |error: SiteError| {
            tracing::warn!(%error, node, "A node could not be registered");
            format!("{error}: the log of the control plane says more")
        };
        let token = format!("node-{node}");
        let is_known = self.directory.join("tokens").join(&token).exists();
        if is_new && is_known {
            return Err(format!(
                "there is a node {node} already: take another name, or remove that one (kubectl delete node {node})"
            ));
        }
        let authority = self.authority().map_err(told)?;
        let folder = self.directory.join("nodes");
        make_private(&folder).map_err(told)?;
        let folder = folder.join(node);
        let names = std::iter::once(node.to_owned()).chain(addresses.iter().cloned());
        authority
            .issue(&folder, &Request::new(names))
            .map_err(|error| format!("there can be no certificate for {node}: {error}"))?;
        let mut files = serde_json::Map::new();
        for name in NODE_FILES {
            let text =
                fs::read_to_string(folder.join(name)).map_err(|source| told(failed(&folder, source)))?;
            files.insert((*name).to_owned(), text.into());
        }
        if let Some(revoked) = self.revoked()? {
            files.insert(REVOKED_FILE.to_owned(), revoked.into());
        }
        Ok((files.into(), self.token(&token).map_err(told)?))
    }

    fn forget(&self, node: &str) -> Result<(), String> {
        let told = |error: SiteError| {
            tracing::warn!(%error, node, "What a node was given could not be taken back");
            format!(
                "what node {node} was given cannot be taken back: {error}; the log of the control plane says more"
            )
        };
        let authority = self.authority().map_err(told)?;
        for folder in [self.directory.join("nodes").join(node), self.node_tls(node)] {
            match authority.revoke(&folder) {
                // It is of the other kind, on this host or on one of its own, or was never here.
                Ok(()) | Err(AuthorityError::Nothing { .. }) => {}
                Err(source) => return Err(told(SiteError::Certificates { path: folder, source })),
            }
        }
        self.tell_of_revoked().map_err(told)?;
        let token = self.directory.join("tokens").join(format!("node-{node}"));
        match fs::remove_file(&token) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(told(failed(&token, error))),
            _ => Ok(()),
        }
    }

    fn revoked(&self) -> Result<Option<String>, String> {
        let path = self.directory.join("ca").join(REVOKED_FILE);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
        }
    }
}

impl Site {
    /// Gives the nodes on this host, and the API, the list of what was taken back. Other hosts ask for it.
    fn tell_of_revoked(&self) -> Result<(), SiteError> {
        let list = self.directory.join("ca").join(REVOKED_FILE);
        let Ok(text) = fs::read_to_string(&list) else { return Ok(()) };
        let entries = fs::read_dir(&self.directory).map_err(|source| failed(&self.directory, source))?;
        let folders = entries.flatten().map(|entry| entry.path().join("tls")).chain([self.server_tls()]);
        for folder in folders.filter(|folder| folder.join("ca-cert.pem").exists()) {
            write_private(&folder.join(REVOKED_FILE), &text)?;
        }
        Ok(())
    }
}

/// The list of certificates that were taken back, which hosts need once there is one.
pub(crate) const REVOKED_FILE: &str = "ca-crl.pem";

/// The certificates and keys of a node.
pub(crate) const NODE_FILES: &[&str] =
    &["ca-cert.pem", "server-cert.pem", "server-key.pem", "client-cert.pem", "client-key.pem"];

/// Where the API is.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// Where it listens.
    pub(crate) listens: SocketAddr,
    /// How other hosts call this one.
    pub(crate) names: Vec<String>,
}

impl Endpoint {
    /// Where it is reached from this host.
    pub(crate) fn local(&self) -> SocketAddr {
        let ip = self.listens.ip();
        let loopback =
            if ip.is_ipv6() { IpAddr::from(Ipv6Addr::LOCALHOST) } else { Ipv4Addr::LOCALHOST.into() };
        SocketAddr::new(if ip.is_unspecified() { loopback } else { ip }, self.listens.port())
    }

    /// Where it is reached from other hosts; `None` where nobody has said how they call this one.
    fn public(&self) -> Option<String> {
        match self.names.first() {
            Some(name) => Some(format!("{name}:{}", self.listens.port())),
            None => (!self.listens.ip().is_unspecified()).then(|| self.listens.to_string()),
        }
    }
}

/// Makes a folder that nobody else can look into, or has one that is there be so.
pub(crate) fn make_private(path: &Path) -> Result<(), SiteError> {
    let make = || {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        // One that was there has kept its mode: a volume of a pod is made by others, for everybody to read.
        // Not one that is meant for all users, as /tmp is.
        let mode = fs::metadata(path)?.permissions().mode();
        if mode & 0o077 != 0 && mode & 0o1000 == 0 {
            fs::set_permissions(path, Permissions::from_mode(0o700))?;
        }
        Ok(())
    };
    make().map_err(|source| failed(path, source))
}

/// Writes a file that nobody else can read, at once.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), SiteError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_was_there_becomes_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("open");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        make_private(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
