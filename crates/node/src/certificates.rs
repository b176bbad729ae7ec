//! Until when certificates are valid, as a condition: of a Node, to which migrations are refused from then on, and of the control plane.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jiff::Timestamp;
use serde_json::{Value, json};
use x509_cert::{Certificate, der::DecodePem};

/// The condition's name. It is true where somebody should do something.
const CONDITION: &str = "CertificatesExpiring";
/// Those that migrations are encrypted with, and whose authority all nodes have.
const FILES: [&str; 3] = ["server-cert.pem", "client-cert.pem", "ca-cert.pem"];
/// So long before the end it is said. Certificates of a fleet are renewed daily, and valid for a year.
const SOON: Duration = Duration::from_secs(30 * 24 * 3600);

/// How the certificates of a folder are. `loss` is what becomes of it where one is valid no more: *no migration to this node succeeds*, say.
#[must_use]
pub fn condition(folder: &Path, loss: &str, now: SystemTime) -> Value {
    let (status, reason, message) = match ends(folder) {
        Err(why) => ("True", "Unreadable", format!("Connections are encrypted, and {why}")),
        Ok((name, end)) => {
            let until = Timestamp::try_from(end).map_or_else(|_| "?".to_owned(), |end| format!("{end:.0}"));
            if end <= now {
                ("True", "Expired", format!("{name} was valid until {until}: {loss}. Renew it"))
            } else if end.duration_since(now).is_ok_and(|left| left < SOON) {
                (
                    "True",
                    "ExpiresSoon",
                    format!("{name} is valid until {until}, and afterwards {loss}. Renew it"),
                )
            } else {
                ("False", "Valid", format!("Valid until {until} at least ({name})"))
            }
        }
    };
    json!({ "type": CONDITION, "status": status, "reason": reason, "message": message })
}

/// The certificate that ends first, and when.
fn ends(folder: &Path) -> Result<(&'static str, SystemTime), String> {
    let mut first: Option<(&'static str, SystemTime)> = None;
    for name in FILES {
        let path = folder.join(name);
        let text = fs::read(&path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        // The first of a file is the host's own; those behind it are what it was signed by.
        let certificate = Certificate::from_pem(first_block(&text))
            .map_err(|error| format!("{} is no certificate: {error}", path.display()))?;
        let end = UNIX_EPOCH + certificate.tbs_certificate.validity.not_after.to_unix_duration();
        if first.is_none_or(|(_, earlier)| end < earlier) {
            first = Some((name, end));
        }
    }
    first.ok_or_else(|| "there are no certificates".to_owned())
}

fn first_block(text: &[u8]) -> &[u8] {
    const END: &[u8] = b"-----END CERTIFICATE-----";
    let end = text.windows(END.len()).position(|window| window == END);
    end.map_or(text, |at| &text[..at + END.len()])
}

#[cfg(test)]
mod tests {
    use authority::{Authority, Request};

    use super::*;

    const LOSS: &str = "no migration from or to this node succeeds";

    /// A node's folder whose certificates are valid for so many days.
    fn folder(days: i64) -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        let authority = Authority::init(&place.path().join("ca"), "test").unwrap();
        let mut request = Request::new(["node-a"]);
        request.days = days;
        authority.issue(&place.path().join("tls"), &request).unwrap();
        place
    }

    #[test]
    fn the_end_is_said_a_month_before_it_comes() {
        let of = |days| condition(&folder(days).path().join("tls"), LOSS, SystemTime::now());
        for (days, status, reason) in
            [(365, "False", "Valid"), (10, "True", "ExpiresSoon"), (-1, "True", "Expired")]
        {
            let condition = of(days);
            assert_eq!(
                (&condition["status"], &condition["reason"]),
                (&status.into(), &reason.into()),
                "{condition}"
            );
            assert_eq!(condition["message"].to_string().contains(LOSS), status == "True", "{condition}");
        }
    }

    #[test]
    fn what_is_no_certificate_is_said_by_name() {
        let place = folder(365);
        let tls = place.path().join("tls");
        fs::write(tls.join("client-cert.pem"), "nothing").unwrap();
        let message = condition(&tls, LOSS, SystemTime::now())["message"].to_string();
        assert!(message.contains("client-cert.pem is no certificate"), "{message}");
        fs::remove_file(tls.join("client-cert.pem")).unwrap();
        assert_eq!(condition(&tls, LOSS, SystemTime::now())["reason"], "Unreadable");
    }
}
