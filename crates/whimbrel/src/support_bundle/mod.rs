//! `whimbrel support-bundle`: what somebody needs who is to find out what went wrong, in one file.

mod files;
mod host;
mod secrets;

use std::{
    error::Error,
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, ListParams},
};
use objects::Kind;

use crate::reach::{Reach, done};

use secrets::Secrets;

/// Collect what a bug report needs in one file: releases, kernel and processor, objects, logs and reports.
///
/// Keys, tokens, passwords and what guests print are left out. Look through it before you give it away: names, addresses and
/// command lines of kernels are in it.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The file, a tar archive that must not be there yet
    #[arg(long, short, value_name = "FILE", default_value = "whimbrel-support.tar")]
    output: PathBuf,
    /// Directories of control planes and agents; may be repeated [default: those of `whimbrel up` and of services, where they are]
    #[arg(long = "dir", value_name = "DIR")]
    directories: Vec<PathBuf>,
    #[command(flatten)]
    reach: Reach,
}

/// Where services have their files, as the packages say it.
const SERVICES: &[&str] = &["/var/lib/whimbrel", "/var/lib/whimbrel-controlplane"];

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let directories = directories(arguments);
    let mut secrets = Secrets::default();
    directories.iter().for_each(|directory| secrets.learn(directory));
    let path = arguments.output.display();
    // Nobody else may read it: what is private without being secret is in it.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&arguments.output);
    let file = file.map_err(|error| format!("Cannot make {path}: {error}"))?;
    let mut bundle = Bundle { archive: tar::Builder::new(file), secrets, files: 0 };
    bundle.add("host.txt", &host::facts())?;
    for (index, directory) in directories.iter().enumerate() {
        bundle.add(&format!("dir-{index}/where.txt"), &format!("{}\n", directory.display()))?;
        // One at a time: together they may be more than there is memory.
        for path in files::find(directory) {
            let name = path.strip_prefix(directory).unwrap_or(&path);
            bundle.add(&format!("dir-{index}/{}", name.display()), &files::read(&path))?;
        }
    }
    let reached = arguments.reach.run(async |client| {
        add_objects(&mut bundle, &client).await?;
        Ok(ExitCode::SUCCESS)
    });
    if let Err(error) = reached {
        bundle.add("objects/none.txt", &format!("{error}\n"))?;
        output::complain!("Objects are missing in it: {error}");
    }
    let files = bundle.files;
    bundle.archive.into_inner()?.flush()?;
    output::say!("{path} has {files} files. Look through it before you give it away (tar -xf).");
    Ok(ExitCode::SUCCESS)
}

fn directories(arguments: &Arguments) -> Vec<PathBuf> {
    if !arguments.directories.is_empty() {
        return arguments.directories.clone();
    }
    let own = crate::up::Site::at(None).ok().map(|site| site.directory().to_owned());
    let all = own.into_iter().chain(SERVICES.iter().map(PathBuf::from));
    all.filter(|directory| directory.is_dir()).collect()
}

/// An archive of texts in which nothing is secret.
struct Bundle {
    archive: tar::Builder<fs::File>,
    secrets: Secrets,
    files: usize,
}

impl Bundle {
    fn add(&mut self, name: &str, text: &str) -> Result<(), Box<dyn Error>> {
        let text = self.secrets.clean(text);
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        let name = Path::new("whimbrel-support").join(name);
        self.archive.append_data(&mut header, name, text.as_bytes())?;
        self.files += 1;
        Ok(())
    }
}

/// All objects of kinds that the fleet uses, as the API has them.
async fn add_objects(bundle: &mut Bundle, client: &Client) -> Result<(), Box<dyn Error>> {
    for kind in objects::kinds().iter().filter(|kind| !kind.is_review) {
        let name = &kind.names.plural;
        // One kind that cannot be had is no reason to go without the others.
        match list(client, kind).await {
            Ok(text) => bundle.add(&format!("objects/{name}.json"), &text)?,
            Err(error) => bundle.add(&format!("objects/{name}.txt"), &format!("{error}\n"))?,
        }
    }
    Ok(())
}

async fn list(client: &Client, kind: &Kind) -> Result<String, Box<dyn Error>> {
    let resource = ApiResource {
        group: kind.group.clone(),
        version: kind.version.clone(),
        api_version: kind.api_version(),
        kind: kind.names.kind.clone(),
        plural: kind.names.plural.clone(),
    };
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let mut objects = done(api.list(&ListParams::default())).await?.items;
    for object in &mut objects {
        object.metadata.managed_fields = None;
        // It repeats the object as it was applied.
        if let Some(all) = &mut object.metadata.annotations {
            all.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
    }
    Ok(serde_json::to_string_pretty(&objects)?)
}
