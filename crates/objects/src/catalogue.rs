use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{ConfigMap, Event, Namespace, Node, Secret},
};
use kube::CustomResourceExt;

use crate::{
    ControlPlaneReview, Fleet, Kind, MigrationPlan, MigrationPolicy, MigrationPolicyPreview, NodeDrain,
    NodeDrainPlan, VirtualMachine, VirtualMachineInstance, VirtualMachineInstanceMigration,
    kubernetes::built_in, validation,
};

/// All kinds of the fleet, ours first.
pub fn kinds() -> Vec<Kind> {
    let mut kinds = vec![
        Kind::custom(&VirtualMachine::crd(), validation::machine).operated(&[]),
        Kind::custom(&VirtualMachineInstance::crd(), validation::instance)
            .operated(&[".status.nodeName"])
            .with_files(&["log", "console", "metrics"]),
        Kind::custom(&VirtualMachineInstanceMigration::crd(), validation::migration)
            .operated(&[".status.migrationState.sourceNode", ".status.migrationState.targetNode"])
            .with_files(&["report"]),
        Kind::custom(&MigrationPolicy::crd(), validation::policy),
        Kind::custom(&Fleet::crd(), validation::settings),
        Kind::custom(&NodeDrain::crd(), validation::drain),
        Kind::custom(&MigrationPlan::crd(), validation::anything).review(),
        Kind::custom(&MigrationPolicyPreview::crd(), validation::anything).review(),
        Kind::custom(&NodeDrainPlan::crd(), validation::anything).review(),
        Kind::custom(&ControlPlaneReview::crd(), validation::anything).review(),
    ];
    kinds.extend([built_in::<Node>(), built_in::<Namespace>(), built_in::<Event>(), built_in::<Lease>()]);
    kinds.extend([built_in::<ConfigMap>().of_machines(), built_in::<Secret>().of_machines()]);
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_schema_and_a_name_of_its_own() {
        let kinds = kinds();
        for kind in &kinds {
            assert_eq!(kind.schema["type"], "object", "{}", kind.names.kind);
            assert!(kind.schema["properties"].is_object(), "{}", kind.names.kind);
            let same = kinds.iter().filter(|other| other.names.plural == kind.names.plural);
            assert_eq!(same.count(), 1, "{}", kind.names.plural);
        }
    }

    #[test]
    fn schemas_stand_alone() {
        for kind in kinds() {
            let text = kind.schema.to_string();
            assert!(!text.contains("$ref"), "{} refers to what is not served: {text}", kind.names.kind);
        }
    }

    #[test]
    fn fields_have_kubevirts_names() {
        let kinds = kinds();
        let policy = kinds.iter().find(|kind| kind.names.kind == "MigrationPolicy").unwrap();
        let spec = &policy.schema["properties"]["spec"]["properties"];
        for name in ["allowAutoConverge", "allowPostCopy", "bandwidthPerMigration", "completionTimeoutPerGiB"]
        {
            assert!(spec[name].is_object(), "{name} is missing in {spec}");
        }
        let selectors = &spec["selectors"]["properties"];
        assert!(
            selectors["namespaceSelector"].is_object()
                && selectors["virtualMachineInstanceSelector"].is_object()
        );
    }
}
