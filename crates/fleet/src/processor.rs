//! Whether a node's processor will do for a machine, by what the node's agent says of it in labels.

use std::{fmt, ops::Bound};

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
}

impl fmt::Display for Unsuitable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vendor { there, here } => {
                write!(f, "its processor is of {there}, and the machine runs on one of {here}")
            }
            Self::Model(model) => write!(f, "its processor cannot be shown as CPU model {model}"),
            Self::Lacks(features) => write!(f, "its processor lacks {}", features.join(", ")),
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
    let named = |policy, is_there| -> Vec<_> {
        let names = features(cpu, policy);
        names.filter(|name| has(there, CPU_FEATURE_LABEL, name) == is_there).collect()
    };
    let (lacks, has) = (named(CpuFeaturePolicy::Require, false), named(CpuFeaturePolicy::Forbid, true));
    reasons.extend((!lacks.is_empty()).then_some(Unsuitable::Lacks(lacks)));
    reasons.extend((!has.is_empty()).then_some(Unsuitable::Has(has)));
    reasons
}

/// In which '_' is as good as '-'.
fn features(cpu: &Cpu, policy: CpuFeaturePolicy) -> impl Iterator<Item = String> {
    cpu.features_to(policy).map(|name| name.replace('_', "-"))
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
