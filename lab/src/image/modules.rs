//! Modules of the kernel with everything they need, in the order in which they load.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::LabError;

/// Where the modules of a kernel are, by name.
#[derive(Debug)]
pub(crate) struct Modules(BTreeMap<String, PathBuf>);

impl Modules {
    /// Those of an unpacked package.
    pub(crate) fn of(package: &Path) -> Self {
        let mut found = BTreeMap::new();
        let mut folders = vec![package.join("lib/modules"), package.join("usr/lib/modules")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "ko") {
                    let name = path.file_stem().unwrap_or_default().to_string_lossy();
                    found.insert(canonical(&name), path);
                }
            }
        }
        Self(found)
    }

    /// The wanted modules after those they depend on, each with its contents.
    pub(crate) fn with_dependencies(&self, wanted: &[&str]) -> Result<Vec<(String, Vec<u8>)>, LabError> {
        let mut ordered = Vec::new();
        for name in wanted {
            self.add(&canonical(name), &mut ordered)?;
        }
        Ok(ordered)
    }

    fn add(&self, name: &str, ordered: &mut Vec<(String, Vec<u8>)>) -> Result<(), LabError> {
        if ordered.iter().any(|(there, _)| there == name) {
            return Ok(());
        }
        let path = self.0.get(name).ok_or_else(|| LabError::PackageContents {
            package: "linux-image-amd64".into(),
            what: format!("module {name}.ko"),
        })?;
        let contents = fs::read(path).map_err(LabError::file("read", path))?;
        for dependency in dependencies(&contents) {
            self.add(&canonical(&dependency), ordered)?;
        }
        ordered.push((name.to_owned(), contents));
        Ok(())
    }
}

/// The section `.modinfo` of a module is strings that end in zeros; one says what the module depends on.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let list: Vec<u8> = module[at + KEY.len()..].iter().copied().take_while(|byte| *byte != 0).collect();
    let list = String::from_utf8_lossy(&list).into_owned();
    list.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Files are named with hyphens or underscores, which mean the same.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_load_first_and_once() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("lib/modules/6/kernel");
        fs::create_dir_all(&folder).unwrap();
        for (name, depends) in
            [("virtio-net", "virtio,failover"), ("virtio_blk", "virtio"), ("failover", ""), ("virtio", "")]
        {
            fs::write(folder.join(format!("{name}.ko")), format!("ELF\0license=GPL\0depends={depends}\0"))
                .unwrap();
        }
        let modules = Modules::of(place.path());
        let order = modules.with_dependencies(&["virtio_net", "virtio_blk"]).unwrap();
        let names: Vec<_> = order.into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["virtio", "failover", "virtio_net", "virtio_blk"]);
        let error = modules.with_dependencies(&["nowhere"]).unwrap_err();
        assert!(error.to_string().contains("nowhere.ko"), "{error}");
    }
}
