use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which nodes a machine may have, and which it would rather have: as in Kubernetes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Affinity {
    /// By the labels of nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_affinity: Option<NodeAffinity>,
}

/// Which nodes, by their labels. They count when a node is chosen; a machine that runs stays where it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeAffinity {
    /// What a node must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required_during_scheduling_ignored_during_execution: Option<NodeSelector>,
    /// What a node should have: of several that fit, the one whose weights come to most is chosen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub preferred_during_scheduling_ignored_during_execution: Vec<PreferredSchedulingTerm>,
}

/// Terms of which one must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeSelector {
    /// The terms.
    #[schemars(length(min = 1, max = 32))]
    pub node_selector_terms: Vec<NodeSelectorTerm>,
}

/// What would be good to have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreferredSchedulingTerm {
    /// How good, 1 to 100.
    #[schemars(range(min = 1, max = 100))]
    pub weight: u32,
    /// What.
    pub preference: NodeSelectorTerm,
}

/// Requirements that must all hold. Without any it never holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeSelectorTerm {
    /// The requirements.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub match_expressions: Vec<NodeSelectorRequirement>,
}

/// What a label of a node must be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeSelectorRequirement {
    /// The label.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// How it is compared.
    pub operator: NodeSelectorOperator,
    /// With what: one or more for `In` and `NotIn`, one whole number for `Gt` and `Lt`, none for the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NodeSelectorOperator {
    /// It is one of the values.
    #[default]
    In,
    /// It is none of the values, or is not there.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
    /// It is a larger number.
    Gt,
    /// It is a smaller number.
    Lt,
}

impl NodeSelectorRequirement {
    /// What is wrong with its values, if anything.
    pub fn wrong_values(&self) -> Option<&'static str> {
        let is_number = |values: &[String]| matches!(values, [one] if one.parse::<i64>().is_ok());
        match self.operator {
            NodeSelectorOperator::In | NodeSelectorOperator::NotIn => {
                self.values.is_empty().then_some("In and NotIn need one or more values")
            }
            NodeSelectorOperator::Exists | NodeSelectorOperator::DoesNotExist => {
                (!self.values.is_empty()).then_some("Exists and DoesNotExist have no values")
            }
            NodeSelectorOperator::Gt | NodeSelectorOperator::Lt => {
                (!is_number(&self.values)).then_some("Gt and Lt need one whole number")
            }
        }
    }
}
