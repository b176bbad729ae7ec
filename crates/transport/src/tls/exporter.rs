//! Values that only the two ends of one TLS connection can compute (RFC 8446, 7.5).
//!
//! rustls computes them for connections that it buffers itself, and not for those whose buffers are ours. To those it gives the
//! secret that they are derived from, through the hook that is meant for key logs; what is derived here is compared with what
//! rustls itself derives in a test.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;
use ring::{digest, hkdf};
use rustls::KeyLog;

/// Bytes of an exported value.
pub(crate) const EXPORTED_BYTES: usize = 32;

/// A value that only the ends of a connection know.
pub(crate) type Exported = [u8; EXPORTED_BYTES];

/// The name of the secret in a key log (RFC 9850, 2.1).
const EXPORTER_SECRET: &str = "EXPORTER_SECRET";

/// Derives values from the secret of one connection.
pub(crate) struct Exporter {
    hash: Hash,
    secret: Vec<u8>,
}

/// Receives the secret of one connection during its handshake.
#[derive(Default)]
pub(crate) struct SecretSink(Mutex<Option<Vec<u8>>>);

/// The hash of a cipher suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha256,
    Sha384,
}

impl Exporter {
    /// `None` where the handshake did not come to the point at which the secret is known, or the cipher suite has no hash that is
    /// known here.
    pub(crate) fn new(sink: &SecretSink, suite: rustls::CipherSuite) -> Option<Self> {
        use rustls::CipherSuite;
        let hash = match suite {
            CipherSuite::TLS13_AES_256_GCM_SHA384 => Hash::Sha384,
            CipherSuite::TLS13_AES_128_GCM_SHA256 | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => {
                Hash::Sha256
            }
            _ => return None,
        };
        let secret = sink.0.lock().take()?;
        Some(Self { hash, secret })
    }

    /// The value for `label` and `context`, the latter at most 2^16 bytes.
    pub(crate) fn export(&self, label: &str, context: &[u8]) -> Exported {
        let (algorithm, digest) = match self.hash {
            Hash::Sha256 => (hkdf::HKDF_SHA256, &digest::SHA256),
            Hash::Sha384 => (hkdf::HKDF_SHA384, &digest::SHA384),
        };
        let master = hkdf::Prk::new_less_safe(algorithm, &self.secret);
        let mut derived = vec![0; digest.output_len()];
        expand_label(&master, label, digest::digest(digest, b"").as_ref(), &mut derived);
        let derived = hkdf::Prk::new_less_safe(algorithm, &derived);
        let mut exported = [0; EXPORTED_BYTES];
        expand_label(&derived, "exporter", digest::digest(digest, context).as_ref(), &mut exported);
        exported
    }
}

/// `HKDF-Expand-Label` (RFC 8446, 7.1).
fn expand_label(secret: &hkdf::Prk, label: &str, context: &[u8], out: &mut [u8]) {
    struct Bytes(usize);
    impl hkdf::KeyType for Bytes {
        fn len(&self) -> usize {
            self.0
        }
    }
    let label = ["tls13 ".as_bytes(), label.as_bytes()].concat();
    let length = (out.len() as u16).to_be_bytes();
    let info: [&[u8]; 5] = [&length, &[label.len() as u8], &label, &[context.len() as u8], context];
    secret
        .expand(&info, Bytes(out.len()))
        .and_then(|expanded| expanded.fill(out))
        .expect("an output of a few dozen bytes is within the limit of HKDF, 255 times its hash");
}

impl SecretSink {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }
}

impl KeyLog for SecretSink {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        if label == EXPORTER_SECRET {
            *self.0.lock() = Some(secret.to_vec());
        }
    }

    fn will_log(&self, label: &str) -> bool {
        label == EXPORTER_SECRET
    }
}

/// Secrets are not for logs.
impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter").field("hash", &self.hash).finish_non_exhaustive()
    }
}

impl fmt::Debug for SecretSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretSink").finish_non_exhaustive()
    }
}
