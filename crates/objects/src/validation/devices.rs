//! What is wrong with disks and network cards, and with what is behind them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Admitted, FieldErrorKind, absolute};
use crate::{
    CloudInitNoCloud, Interface, Network, VirtualMachineInstanceSpec, Volume,
    cloud_init::{Ways, decoded},
    is_interface_name,
};

pub(super) fn check(spec: &VirtualMachineInstanceSpec, at: &str, admitted: &mut Admitted) {
    let names = spec.volumes.iter().map(|volume| volume.name.as_str());
    let volumes = named(names, &format!("{at}.volumes"), "another volume has this name", admitted);
    for (index, behind) in spec.volumes.iter().enumerate() {
        volume(behind, &format!("{at}.volumes[{index}]"), admitted);
    }
    let names = spec.domain.devices.disks.iter().map(|disk| disk.name.as_str());
    let list = format!("{at}.domain.devices.disks");
    let disks = named(names, &list, "another disk has this name", admitted);
    for (index, disk) in spec.domain.devices.disks.iter().enumerate() {
        let path = format!("{list}[{index}]");
        if !volumes.contains_key(disk.name.as_str()) {
            admitted.invalid(format!("{path}.name"), disk.name.as_str(), "there is no volume of this name");
        }
        if let Some(bus) = disk.disk.bus.as_deref().filter(|bus| *bus != "virtio") {
            admitted.invalid(format!("{path}.disk.bus"), bus, "must be virtio");
        }
    }
    for (name, index) in volumes.iter().filter(|(name, _)| !disks.contains_key(*name)) {
        admitted.invalid(format!("{at}.volumes[{index}].name"), *name, "no disk uses this volume");
    }
    cards(spec, at, admitted);
}

/// The first position of each name. What is there twice is wrong.
fn named<'a>(
    names: impl Iterator<Item = &'a str>,
    list: &str,
    otherwise: &str,
    admitted: &mut Admitted,
) -> BTreeMap<&'a str, usize> {
    let mut first = BTreeMap::new();
    for (index, name) in names.enumerate() {
        if first.contains_key(name) {
            let kind = FieldErrorKind::Duplicate(name.into());
            admitted.error(format!("{list}[{index}].name"), kind, otherwise);
        } else {
            first.insert(name, index);
        }
    }
    first
}

fn volume(volume: &Volume, at: &str, admitted: &mut Admitted) {
    match (&volume.host_disk, &volume.cloud_init_no_cloud) {
        (Some(disk), None) => absolute(&disk.path, format!("{at}.hostDisk.path"), admitted),
        (None, Some(seed)) => cloud_init(seed, &format!("{at}.cloudInitNoCloud"), admitted),
        (Some(_), Some(_)) => {
            admitted.error(
                format!("{at}.cloudInitNoCloud"),
                FieldErrorKind::Forbidden,
                "there is a hostDisk too",
            );
        }
        (None, None) => admitted.error(
            at,
            FieldErrorKind::Required,
            "say what is behind it: hostDisk, or cloudInitNoCloud",
        ),
    }
}

fn cloud_init(seed: &CloudInitNoCloud, at: &str, admitted: &mut Admitted) {
    let parts = [
        (seed.user(), "userData", "secretRef, userDataBase64 and userData"),
        (seed.network(), "networkData", "networkDataSecretRef, networkDataBase64 and networkData"),
    ];
    for (ways, field, all) in &parts {
        if ways.count() > 1 {
            admitted.error(
                format!("{at}.{field}"),
                FieldErrorKind::Forbidden,
                format!("of {all} only one can be said"),
            );
        }
        base64(ways, &format!("{at}.{field}Base64"), admitted);
    }
    if parts.iter().all(|(ways, ..)| ways.count() == 0) {
        admitted.error(at, FieldErrorKind::Required, "say userData, or another of its fields");
    }
}

fn base64(ways: &Ways<'_>, at: &str, admitted: &mut Admitted) {
    if let Some(text) = ways.base64.filter(|text| decoded(text).is_none()) {
        let shown: String = text.chars().take(20).collect();
        admitted.invalid(at, shown, "must be base64");
    }
}

fn cards(spec: &VirtualMachineInstanceSpec, at: &str, admitted: &mut Admitted) {
    let names = spec.networks.iter().map(|network| network.name.as_str());
    let networks = named(names, &format!("{at}.networks"), "another network has this name", admitted);
    for (index, behind) in spec.networks.iter().enumerate() {
        network(behind, &format!("{at}.networks[{index}]"), admitted);
    }
    let list = format!("{at}.domain.devices.interfaces");
    let interfaces = &spec.domain.devices.interfaces;
    let names = interfaces.iter().map(|interface| interface.name.as_str());
    let used = named(names, &list, "another interface has this name", admitted);
    let mut addresses = BTreeSet::new();
    for (index, card) in interfaces.iter().enumerate() {
        let path = format!("{list}[{index}]");
        if !networks.contains_key(card.name.as_str()) {
            admitted.invalid(format!("{path}.name"), card.name.as_str(), "there is no network of this name");
        }
        interface(card, &path, &mut addresses, admitted);
    }
    for (name, index) in networks.iter().filter(|(name, _)| !used.contains_key(*name)) {
        admitted.invalid(format!("{at}.networks[{index}].name"), *name, "no interface uses this network");
    }
}

fn network(network: &Network, at: &str, admitted: &mut Admitted) {
    let Some(bridge) = &network.host_bridge else {
        admitted.error(at, FieldErrorKind::Required, "say what is behind it: hostBridge");
        return;
    };
    if !is_interface_name(&bridge.bridge_name) {
        admitted.invalid(
            format!("{at}.hostBridge.bridgeName"),
            bridge.bridge_name.as_str(),
            "must be 1 to 15 letters, digits, '-', '_' or '.', and begin and end with one of the first two",
        );
    }
}

fn interface(card: &Interface, at: &str, addresses: &mut BTreeSet<[u8; 6]>, admitted: &mut Admitted) {
    if let Some(model) = card.model.as_deref().filter(|model| *model != "virtio") {
        admitted.invalid(format!("{at}.model"), model, "must be virtio");
    }
    let Some(text) = &card.mac_address else { return };
    let path = format!("{at}.macAddress");
    match card.mac("", "") {
        None => admitted.invalid(
            path,
            text.as_str(),
            "must be six bytes such as 02:00:00:00:00:01, and no multicast address",
        ),
        Some(address) if !addresses.insert(address) => {
            let kind = FieldErrorKind::Duplicate(text.as_str().into());
            admitted.error(path, kind, "another interface has this address");
        }
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What is said of a machine with these devices, by the paths.
    fn paths(spec: Value) -> Vec<String> {
        let base = json!({ "domain": { "memory": { "guest": "64Mi" }, "firmware": { "kernelBoot": {} } } });
        let mut spec: Value = spec;
        for (name, value) in base.as_object().unwrap() {
            let own = spec[name].clone();
            spec[name] = value.clone();
            if let Some(devices) = own.get("devices") {
                spec[name]["devices"] = devices.clone();
            }
        }
        let mut admitted = Admitted::default();
        check(&serde_json::from_value(spec).unwrap(), "spec", &mut admitted);
        admitted.errors.into_iter().map(|error| error.path).collect()
    }

    fn volume(volume: Value) -> Vec<String> {
        let mut volume = volume;
        volume["name"] = "a".into();
        paths(json!({ "volumes": [volume], "domain": { "devices": { "disks": [{ "name": "a" }] } } }))
    }

    #[test]
    fn a_volume_is_one_thing() {
        let (disk, seed) = (json!({ "path": "/a" }), json!({ "userData": "x" }));
        assert_eq!(volume(json!({ "hostDisk": disk })), Vec::<String>::new());
        assert_eq!(volume(json!({ "cloudInitNoCloud": seed })), Vec::<String>::new());
        assert_eq!(
            volume(json!({ "hostDisk": disk, "cloudInitNoCloud": seed })),
            ["spec.volumes[0].cloudInitNoCloud"]
        );
        assert_eq!(volume(json!({})), ["spec.volumes[0]"]);
    }

    #[test]
    fn settings_are_said_once_each() {
        let seed = |seed: Value| volume(json!({ "cloudInitNoCloud": seed }));
        let at = |field: &str| vec![format!("spec.volumes[0].cloudInitNoCloud{field}")];
        assert_eq!(seed(json!({})), at(""));
        assert_eq!(seed(json!({ "userData": "x", "secretRef": { "name": "s" } })), at(".userData"));
        assert_eq!(seed(json!({ "userDataBase64": "?" })), at(".userDataBase64"));
        assert_eq!(seed(json!({ "networkDataBase64": "YQ" })), at(".networkDataBase64"));
        assert_eq!(seed(json!({ "networkData": "x", "userDataBase64": "YQ==" })), Vec::<String>::new());
    }

    #[test]
    fn each_card_has_a_network_and_an_address_of_its_own() {
        let cards = |networks: Value, interfaces: Value| {
            paths(json!({ "networks": networks, "domain": { "devices": { "interfaces": interfaces } } }))
        };
        let network = |name: &str| json!({ "name": name, "hostBridge": { "bridgeName": "br0" } });
        assert_eq!(
            cards(json!([network("a")]), json!([{ "name": "a", "bridge": {} }])),
            Vec::<String>::new()
        );
        assert_eq!(cards(json!([network("a")]), json!([])), ["spec.networks[0].name"]);
        assert_eq!(cards(json!([]), json!([{ "name": "a" }])), ["spec.domain.devices.interfaces[0].name"]);
        assert_eq!(cards(json!([{ "name": "a" }]), json!([{ "name": "a" }])), ["spec.networks[0]"]);
        let wrong = json!([{ "name": "a", "hostBridge": { "bridgeName": "br/0" } }]);
        assert_eq!(cards(wrong, json!([{ "name": "a" }])), ["spec.networks[0].hostBridge.bridgeName"]);
        let mac = "02:00:00:00:00:01";
        let both =
            json!([{ "name": "a", "macAddress": mac }, { "name": "b", "macAddress": "02-00-00-00-00-01" }]);
        assert_eq!(
            cards(json!([network("a"), network("b")]), both),
            ["spec.domain.devices.interfaces[1].macAddress"]
        );
        let wrong = json!([{ "name": "a", "macAddress": "01:00:00:00:00:01", "model": "e1000" }]);
        assert_eq!(
            cards(json!([network("a")]), wrong),
            ["spec.domain.devices.interfaces[0].model", "spec.domain.devices.interfaces[0].macAddress"]
        );
        assert_eq!(
            cards(json!([network("a"), network("a")]), json!([{ "name": "a" }])),
            ["spec.networks[1].name"]
        );
    }
}
