//! What ties the connections of a migration to each other.
//!
//! Both ends of an encrypted control connection derive a secret from it, which is never sent. Every other connection of the session
//! begins with a proof that its other end knows the secret, made for this very connection, its role and its index: a connection of
//! another session, or one that is passed on by someone between two others, has another exported value, and the proof does not fit.

use ring::hmac;

use crate::{Connection, TransportError};

/// Bytes of a proof.
pub const PROOF_BYTES: usize = 32;

/// Label of the value that the secret is (RFC 8446, 7.5). A label of our own: values for other uses stay apart.
const SECRET_LABEL: &str = "EXPORTER-Whimbrel-Session";
/// The label of channel bindings (RFC 9266, 2), whose context is empty.
const BINDING_LABEL: &str = "EXPORTER-Channel-Binding";

/// What only the two sides of a session know.
#[derive(Clone)]
pub struct SessionSecret(hmac::Key);

impl Connection {
    /// The secret of the session that this is the control connection of, by whatever `session` names it; `None` where it is not
    /// encrypted: no such connection proves anything.
    ///
    /// # Errors
    /// The other side is not authenticated yet.
    pub fn session_secret(&self, session: &[u8]) -> Result<Option<SessionSecret>, TransportError> {
        let stream = self.stream()?;
        let secret = stream.map(|stream| stream.export(SECRET_LABEL, session));
        Ok(secret.map(|secret| SessionSecret(hmac::Key::new(hmac::HMAC_SHA256, &secret))))
    }
}

impl SessionSecret {
    /// The proof for `connection`, which is used as `usage` says: role, index and whatever else must not be changed.
    ///
    /// # Errors
    /// The connection is not encrypted, or its other side not authenticated.
    pub fn proof(&self, connection: &Connection, usage: &[u8]) -> Result<[u8; PROOF_BYTES], TransportError> {
        let tag = hmac::sign(&self.0, &proven(connection, usage)?);
        let mut proof = [0; PROOF_BYTES];
        proof.copy_from_slice(tag.as_ref());
        Ok(proof)
    }

    /// Whether `proof` is the one for `connection` and `usage`. Takes the same time wherever they differ.
    #[must_use]
    pub fn is_proven(&self, connection: &Connection, usage: &[u8], proof: &[u8; PROOF_BYTES]) -> bool {
        proven(connection, usage).is_ok_and(|proven| hmac::verify(&self.0, &proven, proof).is_ok())
    }
}

fn proven(connection: &Connection, usage: &[u8]) -> Result<Vec<u8>, TransportError> {
    let stream = connection.stream()?.ok_or(TransportError::NotEncrypted)?;
    // The exported value has a fixed length: no two pairs give the same bytes.
    Ok([stream.export(BINDING_LABEL, &[]).as_slice(), usage].concat())
}

impl std::fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SessionSecret").finish_non_exhaustive()
    }
}
