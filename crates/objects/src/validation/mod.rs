//! What makes an object wrong beyond its schema, with the path of the field; and what deserves a warning.

mod devices;
mod processor;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    DRAIN_FINALIZER, Fleet, MIGRATION_FINALIZER, MigrationNetwork, MigrationPolicy, NAMESPACE_FINALIZER,
    NodeDrain, Quantity, SETTINGS_NAME, VMM_FINALIZER, VirtualMachine, VirtualMachineInstance,
    VirtualMachineInstanceMigration, VirtualMachineInstanceSpec, WORKLOAD_IMAGE,
};

/// An object that wants to be stored.
pub struct Review<'a> {
    /// The object as it would be stored; a check may fill in what is missing.
    pub object: &'a mut Value,
    /// The object as it is stored; `None` where it is new.
    pub old: Option<&'a Value>,
    /// The objects of a kind, by its plural, in a namespace.
    pub others: &'a dyn Fn(&str, &str) -> Vec<Value>,
}

impl fmt::Debug for Review<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Review").field("object", &self.object).field("old", &self.old).finish_non_exhaustive()
    }
}

/// What a check says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Admitted {
    /// What is wrong; the object is refused unless this is empty.
    pub errors: Vec<FieldError>,
    /// What is probably not meant.
    pub warnings: Vec<String>,
}

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{path}: {kind}{message}")]
pub struct FieldError {
    /// Where: `spec.template.spec.domain.memory.guest`.
    pub path: String,
    /// What kind of wrong.
    pub kind: FieldErrorKind,
    /// In words, without a name of the field.
    pub message: String,
}

/// What kind of wrong a field is, as Kubernetes tells them apart.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldErrorKind {
    /// It is missing.
    Required,
    /// Its value cannot be.
    Invalid(Value),
    /// It may not be there, or not be changed.
    Forbidden,
    /// It is there twice.
    Duplicate(Value),
}

impl FieldErrorKind {
    /// The word that clients look for.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid(_) => "FieldValueInvalid",
            Self::Forbidden => "FieldValueForbidden",
            Self::Duplicate(_) => "FieldValueDuplicate",
        }
    }
}

impl fmt::Display for FieldErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Required => f.write_str("Required value: "),
            Self::Invalid(value) => write!(f, "Invalid value: {value}: "),
            Self::Forbidden => f.write_str("Forbidden: "),
            Self::Duplicate(value) => write!(f, "Duplicate value: {value}: "),
        }
    }
}

pub(crate) type Admit = fn(&mut Review<'_>) -> Admitted;

impl Admitted {
    pub(crate) fn error(
        &mut self,
        path: impl Into<String>,
        kind: FieldErrorKind,
        message: impl Into<String>,
    ) {
        self.errors.push(FieldError { path: path.into(), kind, message: message.into() });
    }

    pub(crate) fn invalid(
        &mut self,
        path: impl Into<String>,
        value: impl Into<Value>,
        message: impl Into<String>,
    ) {
        self.error(path, FieldErrorKind::Invalid(value.into()), message);
    }

    fn quantity(&mut self, path: &str, quantity: Option<&Quantity>) -> Option<u64> {
        match quantity?.bytes() {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.invalid(path, quantity?.to_string(), error.to_string());
                None
            }
        }
    }
}

/// The object as its type. What does not fit is an error of the whole object.
pub(crate) fn typed<T: DeserializeOwned>(review: &Review<'_>, admitted: &mut Admitted) -> Option<T> {
    serde_json::from_value(review.object.clone())
        .map_err(|error| admitted.invalid("", Value::Null, error.to_string()))
        .ok()
}

pub(crate) fn anything(_: &mut Review<'_>) -> Admitted {
    Admitted::default()
}

pub(crate) fn namespace(review: &mut Review<'_>) -> Admitted {
    if review.old.is_none() {
        hold(review.object, NAMESPACE_FINALIZER);
        review.object["status"] = serde_json::json!({ "phase": "Active" });
    }
    Admitted::default()
}

pub(crate) fn machine(review: &mut Review<'_>) -> Admitted {
    let mut admitted = Admitted::default();
    let Some(machine) = typed::<VirtualMachine>(review, &mut admitted) else { return admitted };
    let at = "spec.template.spec";
    instance_spec(&machine.spec.template.spec, at, &mut admitted);
    // What an earlier release let in stays as it is, and does not keep the rest from being changed.
    let old = review.old.and_then(|old| serde_json::from_value::<VirtualMachine>(old.clone()).ok());
    if let Some(old) = old {
        let mut before = Admitted::default();
        instance_spec(&old.spec.template.spec, at, &mut before);
        let (known, new): (Vec<_>, _) =
            admitted.errors.into_iter().partition(|error| before.errors.contains(error));
        admitted.errors = new;
        let known = known.iter().map(|error| format!("{error} (it was so before; its next run is refused)"));
        admitted.warnings.extend(known);
    }
    admitted
}

pub(crate) fn instance(review: &mut Review<'_>) -> Admitted {
    let mut admitted = Admitted::default();
    let Some(instance) = typed::<VirtualMachineInstance>(review, &mut admitted) else { return admitted };
    match review.old {
        None => {
            instance_spec(&instance.spec, "spec", &mut admitted);
            hold(review.object, VMM_FINALIZER);
        }
        Some(old) if is_another(&old["spec"], &review.object["spec"]) => {
            admitted.error(
                "spec",
                FieldErrorKind::Forbidden,
                "of an instance only paused can be changed: change its VirtualMachine and restart it",
            );
        }
        Some(_) => {}
    }
    admitted
}

/// Whether two specs of an instance differ in what cannot change while it runs.
fn is_another(old: &Value, new: &Value) -> bool {
    let fixed = |spec: &Value| {
        let mut spec = spec.clone();
        spec.as_object_mut().map(|fields| fields.remove("paused"));
        spec
    };
    fixed(old) != fixed(new)
}

/// Puts a finalizer on, which holds an object that is deleted until what belongs to it is gone.
fn hold(object: &mut Value, finalizer: &str) {
    let finalizers = &mut object["metadata"]["finalizers"];
    match finalizers.as_array_mut() {
        Some(list) if list.iter().any(|name| name == finalizer) => {}
        Some(list) => list.push(finalizer.into()),
        None => *finalizers = serde_json::json!([finalizer]),
    }
}

const MEBIBYTES_2: u64 = 2 << 20;
const MEMORY_MAX: u64 = 8 << 40;

/// What is wrong with an instance beyond its schema, for who finds one that no server of ours has checked.
pub fn spec_errors(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let mut admitted = Admitted::default();
    instance_spec(spec, "spec", &mut admitted);
    admitted.errors
}

fn instance_spec(spec: &VirtualMachineInstanceSpec, at: &str, admitted: &mut Admitted) {
    let path = format!("{at}.domain.memory.guest");
    let guest = &spec.domain.memory.guest;
    if let Some(bytes) = admitted.quantity(&path, Some(guest))
        && (!(MEBIBYTES_2..=MEMORY_MAX).contains(&bytes) || !bytes.is_multiple_of(MEBIBYTES_2))
    {
        admitted.invalid(path, guest.to_string(), "must be 2Mi to 8Ti, in multiples of 2Mi");
    }
    if let Some(hugepages) = &spec.domain.memory.hugepages
        && hugepages.page_size.bytes() != Ok(MEBIBYTES_2)
    {
        let path = format!("{at}.domain.memory.hugepages.pageSize");
        admitted.invalid(path, hugepages.page_size.to_string(), "must be 2Mi");
    }
    processor::check(&spec.domain.cpu, &format!("{at}.domain.cpu"), admitted);
    affinity(spec, &format!("{at}.affinity.nodeAffinity"), admitted);
    boot(spec, &format!("{at}.domain.firmware.kernelBoot"), admitted);
    devices::check(spec, at, admitted);
}

fn affinity(spec: &VirtualMachineInstanceSpec, at: &str, admitted: &mut Admitted) {
    let Some(affinity) = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref()) else {
        return;
    };
    let mut terms = Vec::new();
    if let Some(required) = &affinity.required_during_scheduling_ignored_during_execution {
        let path = format!("{at}.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms");
        let list = required.node_selector_terms.iter().enumerate();
        terms.extend(list.map(|(index, term)| (format!("{path}[{index}]"), term)));
    }
    let path = format!("{at}.preferredDuringSchedulingIgnoredDuringExecution");
    let list = affinity.preferred_during_scheduling_ignored_during_execution.iter().enumerate();
    terms.extend(list.map(|(index, one)| (format!("{path}[{index}].preference"), &one.preference)));
    for (path, term) in terms {
        for (index, requirement) in term.match_expressions.iter().enumerate() {
            if let Some(wrong) = requirement.wrong_values() {
                let path = format!("{path}.matchExpressions[{index}].values");
                admitted.invalid(path, requirement.values.clone(), wrong);
            }
        }
    }
}

fn boot(spec: &VirtualMachineInstanceSpec, at: &str, admitted: &mut Admitted) {
    let boot = &spec.domain.firmware.kernel_boot;
    if let Some(args) = &boot.kernel_args
        && args.contains(|letter: char| letter.is_control())
    {
        admitted.invalid(format!("{at}.kernelArgs"), args.as_str(), "must be one line");
    }
    match (&boot.container, &boot.host) {
        (None, None) => admitted.error(
            at,
            FieldErrorKind::Required,
            format!("say what to boot: container.image {WORKLOAD_IMAGE}, or host.kernelPath"),
        ),
        (Some(_), Some(_)) => {
            admitted.error(format!("{at}.host"), FieldErrorKind::Forbidden, "there is a container too");
        }
        (Some(container), None) if container.image != WORKLOAD_IMAGE => admitted.invalid(
            format!("{at}.container.image"),
            container.image.as_str(),
            format!("images cannot be fetched yet; {WORKLOAD_IMAGE} is built in"),
        ),
        (Some(_), None) => {}
        (None, Some(host)) => {
            absolute(&host.kernel_path, format!("{at}.host.kernelPath"), admitted);
            if let Some(initrd) = &host.initrd_path {
                absolute(initrd, format!("{at}.host.initrdPath"), admitted);
            }
        }
    }
}

fn absolute(path: &str, at: String, admitted: &mut Admitted) {
    if !path.starts_with('/') || path.contains('\0') || path.split('/').any(|part| part == "..") {
        admitted.invalid(at, path, "must be an absolute path without '..'");
    }
}

pub(crate) fn migration(review: &mut Review<'_>) -> Admitted {
    let mut admitted = Admitted::default();
    let Some(migration) = typed::<VirtualMachineInstanceMigration>(review, &mut admitted) else {
        return admitted;
    };
    let namespace = migration.metadata.namespace.clone().unwrap_or_default();
    match review.old {
        None => {
            new_migration(review, &migration, &namespace, &mut admitted);
            hold(review.object, MIGRATION_FINALIZER);
        }
        Some(old) => {
            for field in ["vmiName", "addedNodeSelector", "deadlineSeconds", "retryLimit", "priority"] {
                if old["spec"][field] != review.object["spec"][field] {
                    admitted.error(
                        format!("spec.{field}"),
                        FieldErrorKind::Forbidden,
                        "cannot be changed: cancel this migration and make another",
                    );
                }
            }
            if old["spec"]["cancel"] == true && !migration.spec.cancel {
                admitted.error(
                    "spec.cancel",
                    FieldErrorKind::Forbidden,
                    "a cancelled migration cannot be taken up again",
                );
            }
        }
    }
    admitted
}

fn new_migration(
    review: &Review<'_>,
    migration: &VirtualMachineInstanceMigration,
    namespace: &str,
    admitted: &mut Admitted,
) {
    let name = migration.spec.vmi_name.as_str();
    let instances = (review.others)("virtualmachineinstances", namespace);
    let instance = instances.iter().find(|instance| instance["metadata"]["name"] == name);
    let Some(instance) = instance else {
        admitted.invalid("spec.vmiName", name, format!("there is no such instance in namespace {namespace}"));
        return;
    };
    if matches!(instance["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        admitted.invalid("spec.vmiName", name, "this instance has ended");
    }
    let others = (review.others)("virtualmachineinstancemigrations", namespace);
    let is_active = |other: &&Value| {
        other["spec"]["vmiName"] == name
            && !matches!(other["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
    };
    if let Some(other) = others.iter().find(is_active) {
        let other = other["metadata"]["name"].as_str().unwrap_or_default();
        admitted.invalid("spec.vmiName", name, format!("this instance is migrated already, by {other}"));
    }
    let target = migration.spec.added_node_selector.get(crate::HOSTNAME_LABEL);
    if let Some(target) = target
        && instance["status"]["nodeName"] == target.as_str()
    {
        let path = "spec.addedNodeSelector[kubernetes.io/hostname]";
        admitted.invalid(path, target.as_str(), "the instance is on this node already");
    }
}

/// The longest name of a drain, in bytes: it is the value of a label of its migrations.
const DRAIN_NAME_MAX: usize = 63;

pub(crate) fn drain(review: &mut Review<'_>) -> Admitted {
    let mut admitted = Admitted::default();
    let Some(drain) = typed::<NodeDrain>(review, &mut admitted) else { return admitted };
    match review.old {
        None => {
            new_drain(review, &drain, &mut admitted);
            hold(review.object, DRAIN_FINALIZER);
        }
        Some(old) => {
            if old["spec"]["nodes"] != review.object["spec"]["nodes"] {
                let message = "cannot be changed: cancel this drain and make another";
                admitted.error("spec.nodes", FieldErrorKind::Forbidden, message);
            }
            if old["spec"]["cancel"] == true && !drain.spec.cancel {
                let message = "a cancelled drain cannot be taken up again: make another";
                admitted.error("spec.cancel", FieldErrorKind::Forbidden, message);
            }
        }
    }
    admitted
}

fn new_drain(review: &Review<'_>, drain: &NodeDrain, admitted: &mut Admitted) {
    let nodes = (review.others)("nodes", "");
    let known = nodes.iter().filter_map(name_of).collect();
    let drains = (review.others)("nodedrains", "");
    let is_over = |other: &Value| {
        matches!(other["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Cancelled"))
    };
    let mut taken = BTreeMap::new();
    for other in drains.iter().filter(|other| !is_over(other)) {
        for node in other["spec"]["nodes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            taken.insert(node, name_of(other).unwrap_or_default());
        }
    }
    admitted.errors.extend(drain_errors(drain, &known, &taken));
}

/// What is wrong with a drain that is not begun: with the nodes that are `known`, of which those in `taken` are drained already, by the drain
/// of that name.
pub fn drain_errors(
    drain: &NodeDrain,
    known: &BTreeSet<&str>,
    taken: &BTreeMap<&str, &str>,
) -> Vec<FieldError> {
    let mut admitted = Admitted::default();
    let name = drain.metadata.name.as_deref().unwrap_or_default();
    if name.len() > DRAIN_NAME_MAX {
        admitted.invalid("metadata.name", name, format!("must be at most {DRAIN_NAME_MAX} bytes"));
    }
    let mut named = BTreeSet::new();
    for (index, node) in drain.spec.nodes.iter().enumerate() {
        let path = format!("spec.nodes[{index}]");
        if !named.insert(node) {
            admitted.error(path, FieldErrorKind::Duplicate(node.as_str().into()), "it is named before");
        } else if !known.contains(node.as_str()) {
            admitted.invalid(path, node.as_str(), "there is no such node");
        } else if let Some(other) = taken.get(node.as_str()) {
            admitted.invalid(path, node.as_str(), format!("this node is drained already, by {other}"));
        }
    }
    admitted.errors
}

fn name_of(object: &Value) -> Option<&str> {
    object["metadata"]["name"].as_str()
}

pub(crate) fn policy(review: &mut Review<'_>) -> Admitted {
    let mut admitted = Admitted::default();
    let Some(policy) = typed::<MigrationPolicy>(review, &mut admitted) else { return admitted };
    let bandwidth =
        admitted.quantity("spec.bandwidthPerMigration", policy.spec.bandwidth_per_migration.as_ref());
    if bandwidth == Some(0) {
        admitted.warnings.push(
            "spec.bandwidthPerMigration is 0: these migrations take all the bandwidth that there is"
                .to_owned(),
        );
    }
    let selectors = &policy.spec.selectors;
    if selectors.namespace_selector.is_empty() && selectors.virtual_machine_instance_selector.is_empty() {
        admitted.warnings.push(
            "spec.selectors is empty: this policy applies to every instance that no other policy applies to"
                .to_owned(),
        );
    }
    if policy.spec.completion_timeout_per_gi_b == Some(0) {
        admitted
            .warnings
            .push("spec.completionTimeoutPerGiB is 0: these migrations are never given up".to_owned());
    }
    admitted
}

pub(crate) fn settings(review: &mut Review<'_>) -> Admitted {
    let mut admitted = Admitted::default();
    let Some(fleet) = typed::<Fleet>(review, &mut admitted) else { return admitted };
    let name = fleet.metadata.name.unwrap_or_default();
    if name != SETTINGS_NAME {
        admitted.invalid("metadata.name", name, format!("the settings are called {SETTINGS_NAME}"));
    }
    let migrations = &fleet.spec.configuration.migrations;
    let path = "spec.configuration.migrations.bandwidthPerMigration";
    admitted.quantity(path, migrations.bandwidth_per_migration.as_ref());
    if let Some(network) = &migrations.network
        && let Err(wrong) = network.parse::<MigrationNetwork>()
    {
        let path = "spec.configuration.migrations.network";
        admitted.invalid(path, network.as_str(), wrong.to_string());
    }
    admitted
}
