//! `whimbrel ca`: certificates for encrypted migrations, without another program.

use std::{
    error::Error,
    path::{Path, PathBuf},
    process::ExitCode,
    time::SystemTime,
};

use authority::{Authority, DAYS, Request};
use clap::Subcommand;
use transport::{Certificate, Credentials, FileError, Purpose, Side};

/// Make and show the certificates that migrations are encrypted with.
///
/// An authority is a directory whose ca-key.pem nobody else may have. What it issues is a directory for each host, ready to be
/// copied there and given to the VMM with --tls.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make an authority
    Init {
        /// Its name, which certificates show as their issuer
        #[arg(long, default_value = "Whimbrel migration CA")]
        name: String,
        #[command(flatten)]
        place: Place,
    },
    /// Issue certificates to hosts, or renew them where their directory is there already
    Issue {
        /// The host: its names and addresses, separated by commas, the first also names its directory. URIs such as SPIFFE IDs too
        #[arg(value_name = "HOST", required = true)]
        hosts: Vec<String>,
        /// For how many days
        #[arg(long, value_name = "N", default_value_t = DAYS, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
        /// Where the hosts' directories go
        #[arg(long, value_name = "DIR", default_value = ".")]
        out: PathBuf,
        #[command(flatten)]
        place: Place,
    },
    /// Take back what was issued to a host
    Revoke {
        /// The host's directory
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        #[command(flatten)]
        place: Place,
    },
    /// Show whose certificates are in a directory, until when they are valid and what they allow
    Show {
        /// A host's directory
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct Place {
    /// The authority's directory
    #[arg(long, value_name = "DIR", default_value = "whimbrel-ca")]
    ca: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    match &arguments.command {
        Command::Init { name, place } => {
            Authority::init(&place.ca, name)?;
            output::say!(
                "{} is an authority now. Keep its ca-key.pem where nobody else can read it.",
                place.ca.display()
            );
            output::say!("Next: whimbrel ca issue HOST…");
        }
        Command::Issue { hosts, days, out, place } => issue(hosts, *days, out, &place.ca)?,
        Command::Revoke { directory, place } => {
            Authority::open(&place.ca)?.revoke(directory)?;
            let list = place.ca.join("ca-crl.pem");
            output::say!(
                "Taken back. Copy {} into the directory of every host: without it they go on",
                list.display()
            );
            output::say!("to accept these certificates.");
        }
        Command::Show { directory } => return Ok(show(directory)),
    }
    Ok(ExitCode::SUCCESS)
}

fn issue(hosts: &[String], days: u32, out: &Path, ca: &Path) -> Result<(), Box<dyn Error>> {
    let authority = Authority::open(ca)?;
    for host in hosts {
        let names: Vec<_> = host.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        let directory = out.join(names.first().map_or("", |name| name).replace('/', "_"));
        let mut request = Request::new(names.iter().copied());
        request.days = days.into();
        authority.issue(&directory, &request)?;
        output::say!("{}: for {}, {days} days", directory.display(), names.join(", "));
    }
    let names: Vec<_> = hosts.iter().filter_map(|host| host.split(',').next()).collect();
    output::say!("Copy each to its host (keys stay 0600), and start VMMs there with");
    output::say!("  --tls DIR --tls-authz '{}'", names.join(";"));
    Ok(())
}

/// Whether all is well with both sides' files.
fn show(directory: &Path) -> ExitCode {
    let mut is_usable = false;
    for side in [Side::Destination, Side::Source] {
        match Credentials::load(directory, side) {
            Ok(credentials) => {
                is_usable = true;
                output::say!("As a {}:", side.name());
                credentials.certificates().iter().for_each(show_certificate);
                for warning in credentials.warnings() {
                    output::say!("  Warning: {warning}");
                }
            }
            Err(FileError::Missing { wanted, .. }) => {
                output::say!("As a {}: no, there is no {wanted}", side.name());
            }
            Err(error) => {
                output::say!("As a {}: no. {}", side.name(), crate::with_sources(&error));
            }
        }
    }
    if is_usable { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn show_certificate(certificate: &Certificate) {
    let days = certificate.remaining(SystemTime::now()).map_or(0, |left| left.as_secs() / (24 * 3600));
    output::say!("  whose    {}", certificate.subject);
    output::say!("  names    {}", certificate.names.join(", "));
    output::say!("  issuer   {}", certificate.issuer);
    output::say!("  valid    {} to {} ({days} days left)", certificate.begins(), certificate.ends());
    let allows: Vec<_> = [(Purpose::Server, "to receive"), (Purpose::Client, "to send")]
        .iter()
        .filter_map(|(purpose, text)| certificate.allows(*purpose).then_some(*text))
        .collect();
    output::say!("  allows   {}", allows.join(", "));
}
