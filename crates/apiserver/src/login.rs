//! How a person comes into the console: a code that can be used once becomes a token for some hours.
//!
//! The code is in an address that is clicked, so it may end in a history or a log: it is good for one login, and for a few minutes. The token
//! is signed and not stored, so that a control plane that starts again still knows it. The browser sends it as every client does, in
//! `Authorization`; there is no cookie, which other servers of the same host would be sent, and other pages could use.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use ring::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use serde_json::{Value, json};

use crate::{Identity, Role};

/// How long a code can be used.
const CODE_LASTS: SignedDuration = SignedDuration::from_mins(10);
/// How long a token can be used: a working day.
const TOKEN_LASTS: SignedDuration = SignedDuration::from_hours(12);
/// Codes that wait to be used, at most; the oldest goes.
const MAX_CODES: usize = 64;
/// What a token of a login begins with.
const PREFIX: &str = "login.";

/// Codes that wait to be used, and the key that tokens are signed with.
pub(crate) struct Logins {
    key: hmac::Key,
    codes: Mutex<BTreeMap<String, (Identity, Timestamp)>>,
}

impl std::fmt::Debug for Logins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the secrets.
        f.write_str("Logins")
    }
}

impl Logins {
    pub(crate) fn new(secret: &[u8]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret), codes: Mutex::default() }
    }

    /// A code with which somebody can log in as that identity, once.
    pub(crate) fn code(&self, identity: &Identity, now: Timestamp) -> Option<String> {
        let mut bytes = [0; 24];
        SystemRandom::new().fill(&mut bytes).ok()?;
        let code = URL_SAFE_NO_PAD.encode(bytes);
        let mut codes = self.codes.lock();
        codes.retain(|_, (_, until)| *until > now);
        if codes.len() >= MAX_CODES
            && let Some(oldest) =
                codes.iter().min_by_key(|(_, (_, until))| *until).map(|(code, _)| code.clone())
        {
            codes.remove(&oldest);
        }
        codes.insert(code.clone(), (identity.clone(), now.saturating_add(CODE_LASTS).ok()?));
        Some(code)
    }

    /// Whose a code is. From then on nobody's.
    pub(crate) fn redeem(&self, code: &str, now: Timestamp) -> Option<Identity> {
        let (identity, until) = self.codes.lock().remove(code)?;
        (until > now).then_some(identity)
    }

    /// A token for an identity, and until when it is one.
    pub(crate) fn token(&self, identity: &Identity, now: Timestamp) -> Option<(String, Timestamp)> {
        let until = now.saturating_add(TOKEN_LASTS).ok()?;
        let claims =
            json!({ "name": identity.name, "role": name_of(&identity.role)?, "until": until.as_second() });
        let claims = URL_SAFE_NO_PAD.encode(claims.to_string());
        let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&self.key, claims.as_bytes()));
        Some((format!("{PREFIX}{claims}.{signature}"), until))
    }

    /// Whose a token is, if it was given out here and its time is not up.
    pub(crate) fn identify(&self, token: &str, now: Timestamp) -> Option<Identity> {
        self.read(token, now).map(|(identity, _)| identity)
    }

    /// Until when a token of a login is one.
    pub(crate) fn until(&self, token: &str, now: Timestamp) -> Option<Timestamp> {
        self.read(token, now).map(|(_, until)| until)
    }

    fn read(&self, token: &str, now: Timestamp) -> Option<(Identity, Timestamp)> {
        let (claims, signature) = token.strip_prefix(PREFIX)?.split_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        hmac::verify(&self.key, claims.as_bytes(), &signature).ok()?;
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        let role = match claims["role"].as_str()? {
            "view" => Role::View,
            "operate" => Role::Operate,
            "admin" => Role::Admin,
            _ => return None,
        };
        let name = claims["name"].as_str()?.to_owned();
        let until = Timestamp::from_second(claims["until"].as_i64()?).ok()?;
        (until.as_second() > now.as_second()).then_some((Identity { name, role }, until))
    }
}

/// The name of a role that a person can have.
pub(crate) fn name_of(role: &Role) -> Option<&'static str> {
    match role {
        Role::View => Some("view"),
        Role::Operate => Some("operate"),
        Role::Admin => Some("admin"),
        Role::Join | Role::Node(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn viewer() -> Identity {
        Identity { name: "eva".to_owned(), role: Role::View }
    }

    #[test]
    fn a_code_is_good_once_and_for_ten_minutes() {
        let logins = Logins::new(b"secret");
        let code = logins.code(&viewer(), at(0)).unwrap();
        assert_eq!(logins.redeem("another", at(1)), None);
        assert_eq!(logins.redeem(&code, at(1)), Some(viewer()));
        assert_eq!(logins.redeem(&code, at(1)), None);
        let late = logins.code(&viewer(), at(0)).unwrap();
        assert_eq!(logins.redeem(&late, at(600)), None);
    }

    #[test]
    fn codes_that_nobody_uses_do_not_pile_up() {
        let logins = Logins::new(b"secret");
        let first = logins.code(&viewer(), at(0)).unwrap();
        for second in 1..=100 {
            logins.code(&viewer(), at(second)).unwrap();
        }
        assert_eq!(logins.codes.lock().len(), MAX_CODES);
        assert_eq!(logins.redeem(&first, at(100)), None);
    }

    #[test]
    fn a_token_survives_a_restart_and_ends_in_time() {
        let (token, until) = Logins::new(b"secret").token(&viewer(), at(0)).unwrap();
        let again = Logins::new(b"secret");
        assert_eq!(again.identify(&token, at(1)), Some(viewer()));
        assert_eq!(again.identify(&token, until), None);
        assert_eq!((again.until(&token, at(1)), again.until(&token, until)), (Some(until), None));
        assert_eq!(Logins::new(b"another secret").identify(&token, at(1)), None);
    }

    #[test]
    fn a_token_that_was_changed_is_nobodys() {
        let logins = Logins::new(b"secret");
        let (token, _) = logins.token(&viewer(), at(0)).unwrap();
        let (_, signature) = token.rsplit_once('.').unwrap();
        let claims = URL_SAFE_NO_PAD.encode(r#"{"name":"eva","role":"admin","until":99999999999}"#);
        for wrong in
            [format!("login.{claims}.{signature}"), token[..token.len() - 4].to_owned(), "login.".to_owned()]
        {
            assert_eq!(logins.identify(&wrong, at(1)), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_no_person_does_not_log_in() {
        let node = Identity { name: "node:a".to_owned(), role: Role::Node("a".to_owned()) };
        assert_eq!(Logins::new(b"secret").token(&node, at(0)), None);
    }
}
