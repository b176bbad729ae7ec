use std::collections::BTreeSet;

use crate::VirtualMachineInstance;

/// Where devices are. Every host has this directory, and it says nothing.
const DEVICES: &str = "/dev/";

/// The paths that a node must have to run an instance: the directories of its images and kernels, or the devices themselves. Of one that has no
/// node yet the images too: there are few of these, and what is missing is better said before it starts than after.
#[must_use]
pub fn disk_places(instance: &VirtualMachineInstance) -> BTreeSet<&str> {
    let spec = &instance.spec;
    let kernel = spec.domain.firmware.kernel_boot.host.iter();
    let kernel =
        kernel.flat_map(|host| [Some(&host.kernel_path), host.initrd_path.as_ref()].into_iter().flatten());
    let disks = spec.volumes.iter().filter_map(|volume| Some(&volume.host_disk.as_ref()?.path));
    let is_placed = instance.status.as_ref().is_some_and(|status| status.node_name.is_some());
    let mut places = BTreeSet::new();
    for path in disks.chain(kernel).map(String::as_str).filter(|path| path.starts_with('/')) {
        if path.starts_with(DEVICES) || !is_placed {
            places.insert(path);
        }
        if !path.starts_with(DEVICES) {
            places.insert(directory(path));
        }
    }
    places
}

fn directory(path: &str) -> &str {
    match path.trim_end_matches('/').rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((directory, _)) => directory,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_placed_needs_directories_and_devices_and_what_is_not_its_images_too() {
        let instance = |node: Option<&str>| -> VirtualMachineInstance {
            serde_json::from_value(json!({
                "apiVersion": "whimbrel.dev/v1", "kind": "VirtualMachineInstance", "metadata": {},
                "spec": {
                    "domain": {
                        "memory": { "guest": "64Mi" },
                        "firmware": { "kernelBoot": { "host": { "kernelPath": "/vmlinuz" } } },
                    },
                    "volumes": [
                        { "name": "a", "hostDisk": { "path": "/srv/a.raw" } },
                        { "name": "b", "hostDisk": { "path": "/dev/vg/b" } },
                        { "name": "c", "cloudInitNoCloud": { "userData": "x" } },
                    ],
                },
                "status": { "nodeName": node },
            }))
            .unwrap()
        };
        let places = |node| disk_places(&instance(node)).into_iter().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(places(None), ["/", "/dev/vg/b", "/srv", "/srv/a.raw", "/vmlinuz"]);
        assert_eq!(places(Some("n")), ["/", "/dev/vg/b", "/srv"]);
        assert_eq!(directory("/srv/vms/"), "/srv");
    }
}
