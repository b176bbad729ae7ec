//! Whether a node's processor will do for a machine, by what the node's agent says of it in labels.

use std::{borrow::Cow, fmt, ops::Bound};

use k8s_openapi::api::core::v1::Node;
use objects::{
    CPU_FEATURE_LABEL, CPU_MODEL_LABEL, CPU_VENDOR_LABEL, Cpu, CpuFeaturePolicy, VirtualMachineInstance,
};

/// Why a node's processor will not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsuitable {
    /// It is of another maker than the one that the machine runs on.
    Vendor {
        /// Who made it.
        there: String,
        /// Who made the one that the machine runs on.
        here: String,
    },
    /// The node does not say that it can show this model.
    Model(String),
    /// It lacks features, or the node does not say that it has them.
    Lacks(Vec<String>),
    /// It has features that it must not have.
    Has(Vec<String>),
    /// The node says nothing of its features, some of which it must not have.
    Silent(Vec<String>),
}

impl fmt::Display for Unsuitable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vendor { there, here } => {
                write!(f, "its processor is of {there}, and the machine runs on one of {here}")
            }
            Self::Model(model) => write!(f, "its processor cannot be shown as CPU model {model}"),
            Self::Lacks(features) => write!(f, "its processor lacks {}", features.join(", ")),
            Self::Silent(features) => {
                write!(
                    f,
                    "its agent does not say whether its processor has {}, which is forbidden",
                    features.join(", ")
                )
            }
            Self::Has(features) => write!(f, "its processor has {}, which is forbidden", features.join(", ")),
        }
    }
}

/// All reasons why the processor of `there` will not do for a machine, which may run on the node `here`.
pub(crate) fn unsuitable(
    instance: &VirtualMachineInstance,
    here: Option<&Node>,
    there: &Node,
) -> Vec<Unsuitable> {
    let cpu = &instance.spec.domain.cpu;
    let mut reasons = Vec::new();
    if let (Some(here), Some(there)) = (here.and_then(vendor), vendor(there))
        && here != there
    {
        reasons.push(Unsuitable::Vendor { there: there.to_owned(), here: here.to_owned() });
    }
    if let Some(model) = cpu.named_model().filter(|model| !has(there, CPU_MODEL_LABEL, model)) {
        reasons.push(Unsuitable::Model(model.to_owned()));
    }
    let lacks: Vec<_> = names(cpu, CpuFeaturePolicy::Require, |name| !has(there, CPU_FEATURE_LABEL, name));
    reasons.extend((!lacks.is_empty()).then_some(Unsuitable::Lacks(lacks)));
    // A node that says nothing of its features may have all of them.
    let is_silent = features(there).next().is_none();
    let forbidden = |name: &str| is_silent || has(there, CPU_FEATURE_LABEL, name);
    let found: Vec<_> = names(cpu, CpuFeaturePolicy::Forbid, forbidden);
    let reason = if is_silent { Unsuitable::Silent } else { Unsuitable::Has };
    reasons.extend((!found.is_empty()).then(|| reason(found)));
    reasons
}

/// Whether `there` lacks features of the node `here`, on which the machine runs without a model that says what its guest sees: the two VMMs
/// may refuse to migrate it.
pub(crate) fn is_lesser(instance: &VirtualMachineInstance, here: Option<&Node>, there: &Node) -> bool {
    let cpu = &instance.spec.domain.cpu;
    let Some(here) = here.filter(|_| cpu.named_model().is_none()) else { return false };
    let hidden: Vec<_> = names(cpu, CpuFeaturePolicy::Disable, |_| true);
    let mut seen = features(here).filter(|name| !hidden.iter().any(|hidden| hidden == name));
    // Both are in the order of names, and the first that is missing ends it.
    let mut theirs = features(there);
    !seen.all(|name| theirs.any(|their| their == name))
}

/// The features with that policy that are like that.
fn names(cpu: &Cpu, policy: CpuFeaturePolicy, is_meant: impl Fn(&str) -> bool) -> Vec<String> {
    cpu.features_to(policy).filter(|name| is_meant(name)).map(Cow::into_owned).collect()
}

/// What a node's agent says that its processor has.
fn features(node: &Node) -> impl Iterator<Item = &str> {
    let from_there = (Bound::Included(CPU_FEATURE_LABEL), Bound::Unbounded);
    let labels = node.metadata.labels.iter().flat_map(move |labels| labels.range::<str, _>(from_there));
    let named = labels.map_while(|(label, value)| Some((label.strip_prefix(CPU_FEATURE_LABEL)?, value)));
    named.filter(|(_, value)| *value == "true").map(|(name, _)| name)
}

fn has(node: &Node, kind: &str, name: &str) -> bool {
    let label = format!("{kind}{name}");
    node.metadata.labels.as_ref().and_then(|labels| labels.get(&label)).is_some_and(|value| value == "true")
}

/// Who made a node's processor, if its agent says so.
fn vendor(node: &Node) -> Option<&str> {
    let from_there = (Bound::Included(CPU_VENDOR_LABEL), Bound::Unbounded);
    let (label, _) = node.metadata.labels.as_ref()?.range::<str, _>(from_there).next()?;
    label.strip_prefix(CPU_VENDOR_LABEL)
}
