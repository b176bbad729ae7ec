//! How migrations are protected: from the monitor's parameters to the engine, and from there to who asks.

use std::path::Path;

use config::{Config, Incoming};
use monitor::{
    CommandError,
    types::{CertificateInfo, MigrationParameters, SecurityInfo},
};
use transport::{Address, Authz, Certificate, Credentials, Security, Side, Tls, Trust};

use super::{Control, one_line};
use crate::{launcher::Launcher, seccomp::Role};

/// Whom connections are made with, by the parameters, and by whether the user has accepted the risk of others.
///
/// # Errors
/// The list of sources that may come cannot be read.
pub(super) fn trust(parameters: &MigrationParameters, insecure: bool) -> Result<Trust, CommandError> {
    let MigrationParameters { tls_creds, tls_hostname, tls_authz, .. } = parameters;
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let Some(directory) = given(tls_creds) else {
        return Ok(if insecure { Trust::Anyone } else { Trust::ThisHost });
    };
    let mut tls = Tls::new(directory);
    tls.hostname = given(tls_hostname);
    tls.authz = given(tls_authz).map(|list| authz(&list)).transpose()?;
    Ok(Trust::Certified(tls))
}

/// The list of sources that may come.
pub(super) fn authz(list: &str) -> Result<Authz, CommandError> {
    list.parse::<Authz>().map_err(|error| CommandError::generic(one_line(&error)))
}

impl Control {
    /// Whether a migration can leave with what `trust` says, as far as this side can tell.
    ///
    /// # Errors
    /// A file is missing, damaged, out of date or for something else, or its storage does not answer.
    pub(super) fn check_to_leave(&self, trust: &Trust) -> Result<(), CommandError> {
        let Trust::Certified(tls) = trust else { return Ok(()) };
        let directory = tls.directory.clone();
        let load = {
            let directory = directory.clone();
            move || Credentials::load(&directory, Side::Source).map(|_| ())
        };
        let loaded = self.certificates.ask(Role::Look, &self.launcher, "certificates", load);
        let late = |why| format!("The certificates in {} cannot be read: {why}", directory.display());
        loaded
            .map_err(|why| CommandError::generic(late(why)))?
            .map_err(|error| CommandError::generic(one_line(&error)))
    }
}

/// Says in the log what is wrong with the certificates that the process was started with, or soon will be, as far as that is not an
/// error at once: until a migration needs them there is time to mend it. Nobody waits for this: they may be in storage that does
/// not answer.
pub(super) fn look_at_certificates(config: &Config, launcher: &Launcher) {
    let Some(directory) = config.tls() else { return };
    let directory = directory.as_path().to_owned();
    // Where it listens from the start its own certificates are read for that, and have to be right.
    let listens_later = matches!(config.incoming(), Some(Incoming::Defer));
    let look = move || {
        for warning in warnings(&directory, listens_later) {
            tracing::warn!("{warning}");
        }
    };
    if let Err(error) = launcher.spawn(Role::Look, "certificates", look) {
        tracing::warn!("The certificates are not looked at before a migration needs them: {error}");
    }
}

fn warnings(directory: &Path, listens_later: bool) -> Vec<String> {
    let is_for = |side| Credentials::are_in(directory, side);
    let wanted = |side| match side {
        Side::Source => is_for(side) || !is_for(Side::Destination),
        Side::Destination => listens_later && is_for(side),
    };
    let sides = [Side::Source, Side::Destination].into_iter().filter(|side| wanted(*side));
    sides
        .flat_map(|side| match Credentials::load(directory, side) {
            Ok(credentials) => credentials.warnings().to_vec(),
            Err(error) => {
                let what = if side == Side::Source { "leave" } else { "come" };
                vec![format!("No machine can {what} until this is mended: {}", one_line(&error))]
            }
        })
        .collect()
}

/// Whether a migration may go to, or come at, an address, as far as it can be seen from how it is written. Names are looked up when
/// it is dialled.
///
/// # Errors
/// It is open to other hosts, and nothing protects what is sent there.
pub(super) fn check_address(trust: &Trust, address: &Address) -> Result<(), CommandError> {
    let is_of_others = match address {
        Address::Tcp { host, .. } => host.parse::<std::net::IpAddr>().is_ok() && !address.is_loopback(),
        Address::Unix(_) => false,
    };
    if *trust == Trust::ThisHost && is_of_others {
        return Err(CommandError::generic(format!(
            "'{address}' is not on this host, and migrations are not encrypted: set tls-creds to a directory of certificates \
             (`whimbrel ca` makes one; --tls at start), use a loopback address or a unix socket, or start with --insecure"
        )));
    }
    Ok(())
}

/// What is known of a connection between this side and one at, or to, `address`.
pub(super) fn info(security: Option<&Security>, address: &str) -> SecurityInfo {
    let Some(security) = security else {
        return SecurityInfo { note: Some(in_clear(address).into()), ..SecurityInfo::default() };
    };
    SecurityInfo {
        encrypted: true,
        note: None,
        protocol: Some(security.protocol.into()),
        cipher: Some(security.cipher.into()),
        own: Some(certificate(&security.ours)),
        peer: Some(certificate(&security.peer)),
        resumed: Some(security.resumed),
        rekeys: Some(security.rekeys),
    }
}

/// The same, for a report.
pub(super) fn of_report(security: Option<&Security>, address: &str) -> report::Security {
    let SecurityInfo { encrypted, note, protocol, cipher, own, peer, resumed, rekeys } =
        info(security, address);
    let certificate =
        |CertificateInfo { subject, names, not_after }| report::Certificate { subject, names, not_after };
    report::Security {
        encrypted,
        note,
        protocol,
        cipher,
        own: own.map(certificate),
        peer: peer.map(certificate),
        resumed: resumed.unwrap_or(false),
        rekeys: rekeys.unwrap_or(0),
    }
}

/// Who can read what is not encrypted.
pub(super) fn in_clear(address: &str) -> &'static str {
    if address.parse::<Address>().is_ok_and(|address| address.is_loopback()) {
        "Both sides are on this host, where nobody but its administrators can read or change what is sent"
    } else {
        "Whoever can read the network reads the guest's memory, and whoever can change what it carries owns the guest"
    }
}

fn certificate(certificate: &Certificate) -> CertificateInfo {
    CertificateInfo {
        subject: certificate.subject.clone(),
        names: certificate.names.clone(),
        not_after: certificate.ends(),
    }
}
