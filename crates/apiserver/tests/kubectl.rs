//! The real kubectl against the real server.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

mod support;

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use serde_json::Value;
use support::{Fixture, has_kubectl};

const MACHINE: &str = "
apiVersion: whimbrel.dev/v1
kind: VirtualMachine
metadata: {name: busy, labels: {app: busy}}
spec:
  runStrategy: Always
  template:
    metadata: {labels: {tier: gold}}
    spec:
      domain:
        cpu: {cores: 2}
        memory: {guest: 256Mi}
        firmware: {kernelBoot: {container: {image: whimbrel.dev/workload}, kernelArgs: rate=50M}}
";

const INSTANCE: &str = "
apiVersion: whimbrel.dev/v1
kind: VirtualMachineInstance
metadata: {name: one}
spec:
  domain:
    memory: {guest: 256Mi}
    firmware: {kernelBoot: {container: {image: whimbrel.dev/workload}}}
";

#[test]
fn what_is_applied_is_there_and_applied_again_unchanged() {
    if !has_kubectl() {
        return;
    }
    let fixture = Fixture::start();
    let file = fixture.file("busy.yaml", MACHINE);
    assert!(
        fixture.kubectl(&format!("apply -f {file}")).contains("virtualmachine.whimbrel.dev/busy created")
    );
    assert!(fixture.kubectl(&format!("apply -f {file}")).contains("busy unchanged"));
    let more = fixture
        .file("busy.yaml", &MACHINE.replace("cores: 2", "cores: 3").replace(", kernelArgs: rate=50M", ""));
    assert!(fixture.kubectl(&format!("apply -f {more}")).contains("busy configured"));
    let cores = fixture.kubectl("get vm busy -o jsonpath={.spec.template.spec.domain.cpu.cores}");
    let args = fixture
        .kubectl("get vm busy -o jsonpath={.spec.template.spec.domain.firmware.kernelBoot.kernelArgs}");
    assert_eq!((cores.as_str(), args.as_str()), ("3", ""), "what was taken out of the manifest is gone");
    let yaml = fixture.kubectl("get vm busy -o yaml");
    assert!(yaml.contains("generation: 2") && yaml.contains("uid: "), "{yaml}");
}

#[test]
fn tables_have_the_columns_of_the_kind() {
    if !has_kubectl() {
        return;
    }
    let fixture = Fixture::start();
    fixture.kubectl(&format!("apply -f {}", fixture.file("vm.yaml", MACHINE)));
    fixture.kubectl(&format!("apply -f {}", fixture.file("vmi.yaml", INSTANCE)));
    let table = fixture.kubectl("get vm,vmi");
    assert!(table.contains("AGE") && table.contains("STATUS") && table.contains("PHASE"), "{table}");
    assert!(table.contains("virtualmachine.whimbrel.dev/busy"), "{table}");
    assert!(fixture.kubectl("get vmi -o wide").contains("LIVE-MIGRATABLE"));
    assert!(fixture.kubectl("get all -A").contains("virtualmachineinstance.whimbrel.dev/one"));
    assert!(fixture.kubectl("get vm -l app=busy -o name").contains("busy"));
    assert!(fixture.kubectl("get vm -l app!=busy").contains("No resources found"));
    assert!(
        fixture
            .kubectl("get vm --field-selector metadata.name=busy --sort-by=.metadata.name")
            .contains("busy")
    );
    assert!(fixture.kubectl("get ns").contains("Active"));
}

#[test]
fn wrong_objects_are_refused_with_the_paths_of_their_fields() {
    if !has_kubectl() {
        return;
    }
    let fixture = Fixture::start();
    let create =
        |name: &str, text: &str| fixture.refused("admin", &format!("create -f {}", fixture.file(name, text)));
    let text = create("a", &MACHINE.replace("cores: 2", "cores: 0").replace("256Mi", "1"));
    assert!(
        text.contains("spec.template.spec.domain.cpu.cores: Invalid value: 0: must be 1 or more"),
        "{text}"
    );
    let text = create("b", &MACHINE.replace("256Mi", "3Mi").replace("workload", "other"));
    assert!(text.contains("spec.template.spec.domain.memory.guest: Invalid value"), "{text}");
    assert!(text.contains("kernelBoot.container.image: Invalid value"), "{text}");
    let text = create("c", &MACHINE.replace("cores:", "coers:"));
    assert!(text.contains("unknown field \"spec.template.spec.domain.cpu.coers\""), "{text}");
    let text = create("d", &MACHINE.replace("Always", "Sometimes"));
    assert!(text.contains("spec.runStrategy") && text.contains("\"Halted\""), "{text}");
    let text = create("e", &MACHINE.replace("name: busy", "name: Busy_1"));
    assert!(text.contains("metadata.name: Invalid value: \"Busy_1\""), "{text}");
    let text = create("f", &MACHINE.replace("{name: busy", "{namespace: nowhere, name: busy"));
    assert!(text.contains("namespaces \"nowhere\" not found"), "{text}");
    let warned = fixture.file("g", &MACHINE.replace("cores:", "coers:"));
    let text = fixture.kubectl(&format!("create --validate=warn -f {warned}"));
    assert!(text.contains("Warning: unknown field"), "{text}");
}

#[test]
fn patches_edits_and_labels_change_what_they_say() {
    if !has_kubectl() {
        return;
    }
    let fixture = Fixture::start();
    fixture.kubectl(&format!("create -f {}", fixture.file("vm.yaml", MACHINE)));
    fixture.kubectl(r#"patch vm busy --type=merge -p {"spec":{"runStrategy":"Halted"}}"#);
    fixture.kubectl(r#"patch vm busy --type=json -p [{"op":"remove","path":"/metadata/labels/app"}]"#);
    fixture.kubectl("label vm busy zone=a");
    fixture.kubectl("annotate vm busy note=x");
    let object: Value = serde_json::from_str(&fixture.kubectl("get vm busy -o json")).unwrap();
    assert_eq!(object["spec"]["runStrategy"], "Halted");
    assert_eq!(object["metadata"]["labels"], serde_json::json!({ "zone": "a" }));
    assert_eq!(object["metadata"]["generation"], 2, "labels are not what is wanted of it");
    let text =
        fixture.refused("admin", r#"patch vm busy --type=merge -p {"metadata":{"resourceVersion":"1"}}"#);
    assert!(text.contains("the object has been modified"), "{text}");
}

#[test]
fn server_side_apply_knows_whose_a_field_is() {
    if !has_kubectl() {
        return;
    }
    let fixture = Fixture::start();
    let file = fixture.file("vm.yaml", MACHINE);
    let apply = format!("apply --server-side -f {file}");
    assert!(fixture.kubectl(&apply).contains("busy serverside-applied"));
    let version = || fixture.kubectl("get vm busy -o jsonpath={.metadata.resourceVersion}");
    let first = version();
    fixture.kubectl(&apply);
    assert_eq!(version(), first, "applied again, nothing changes");
    let managers =
        fixture.kubectl("get vm busy --show-managed-fields -o jsonpath={.metadata.managedFields[*].manager}");
    assert_eq!(managers, "kubectl");
    fixture.kubectl(r#"patch vm busy --type=merge -p {"spec":{"runStrategy":"Halted"}}"#);
    let text = fixture.refused("admin", &apply);
    assert!(text.contains("conflict with \"kubectl-patch\"") && text.contains(".spec.runStrategy"), "{text}");
    fixture.kubectl(&format!("{apply} --force-conflicts"));
    assert_eq!(fixture.kubectl("get vm busy -o jsonpath={.spec.runStrategy}"), "Always");
    let less = fixture.file("vm.yaml", &MACHINE.replace(", kernelArgs: rate=50M", ""));
    fixture.kubectl(&format!("apply --server-side -f {less}"));
    let boot = "get vm busy -o jsonpath={.spec.template.spec.domain.firmware.kernelBoot}";
    assert!(!fixture.kubectl(boot).contains("rate"), "what was taken out of the manifest is gone");
    assert!(!fixture.kubectl("get vm busy -o yaml").contains("managedFields"));
    let text = fixture.refused("viewer", &apply);
    assert!(text.contains("forbidden"), "{text}");
}

#[test]
fn what_was_applied_by_the_client_can_be_applied_by_the_server() {
    if !has_kubectl() {
        return;
    }
    let fixture = Fixture::start();
    fixture.kubectl(&format!("apply -f {}", fixture.file("vm.yaml", MACHINE)));
    fixture.kubectl(&format!("apply --server-side -f {}", fixture.file("vm.yaml", MACHINE)));
    let more = fixture.file("more.yaml", &MACHINE.replace("cores: 2", "cores: 3"));
    fixture.kubectl(&format!("apply --server-side -f {more}"));
    assert_eq!(fixture.kubectl("get vm busy -o jsonpath={.spec.template.spec.domain.cpu.cores}"), "3");
    assert!(fixture.kubectl(&format!("diff -f {more}")).is_empty());
}

#[test]
fn many_are_deleted_at_once_and_a_namespace_takes_nothing_new_while_it_goes() {
    if !has_kubectl() {
        return;
    }
    let fixture = Fixture::start();
    for name in ["busy", "lazy"] {
        fixture.kubectl(&format!(
            "create -f {}",
            fixture.file(name, &MACHINE.replace("name: busy", &format!("name: {name}")))
        ));
    }
    let path = "/apis/whimbrel.dev/v1/namespaces/default/virtualmachines?labelSelector=app%3Dbusy&fieldSelector=metadata.name%3Dlazy";
    fixture.kubectl(&format!("delete --raw {path}"));
    assert_eq!(fixture.kubectl("get vm -o name").trim(), "virtualmachine.whimbrel.dev/busy");
    fixture.kubectl("delete vm --all");
    fixture.kubectl("create ns lab");
    fixture.kubectl("delete ns lab --wait=false");
    assert!(fixture.kubectl("get ns lab").contains("Terminating"));
    let file = fixture.file("vm.yaml", MACHINE);
    let text = fixture.refused("admin", &format!("create -n lab -f {file}"));
    assert!(text.contains("because it is being terminated"), "{text}");
    let text = fixture.refused("admin", "delete ns default");
    assert!(text.contains("may not be deleted"), "{text}");
    fixture.kubectl(r#"patch ns lab --type=merge -p {"metadata":{"finalizers":null}}"#);
    assert!(fixture.refused("admin", "get ns lab").contains("not found"));
}

#[test]
fn an_instance_stays_until_its_finalizer_is_off() {
    if !has_kubectl() {
        return;
    }
    let fixture = Fixture::start();
    fixture.kubectl(&format!("create -f {}", fixture.file("vmi.yaml", INSTANCE)));
    fixture.kubectl("delete vmi one --wait=false");
    let stamp = fixture.kubectl("get vmi one -o jsonpath={.metadata.deletionTimestamp}");
    assert!(stamp.ends_with('Z'), "{stamp}");
    fixture.kubectl(r#"patch vmi one --type=merge -p {"metadata":{"finalizers":null}}"#);
    assert!(fixture.refused("admin", "get vmi one").contains("\"one\" not found"));
    fixture.kubectl(&format!("create -f {}", fixture.file("vm.yaml", MACHINE)));
    assert!(fixture.kubectl("delete vm busy").contains("deleted"));
}

#[test]
fn a_watch_shows_changes_and_wait_ends_when_they_come() {
    if !has_kubectl() {
        return;
    }
    let fixture = Fixture::start();
    fixture.kubectl(&format!("create -f {}", fixture.file("vm.yaml", MACHINE)));
    let mut watch = fixture.command("admin", "get vm -w -o name").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("busy"));
    fixture.kubectl("label vm busy zone=a");
    assert!(lines.next().unwrap().unwrap().contains("busy"));
    watch.kill().unwrap();
    watch.wait().unwrap();
    let waiting = fixture
        .command("admin", "wait vm/busy --for=jsonpath={.spec.runStrategy}=Halted --timeout=300s")
        .spawn();
    fixture.kubectl(r#"patch vm busy --type=merge -p {"spec":{"runStrategy":"Halted"}}"#);
    assert!(waiting.unwrap().wait().unwrap().success());
}

#[test]
fn two_migrations_of_one_machine_and_a_migration_to_nowhere_are_refused() {
    if !has_kubectl() {
        return;
    }
    let fixture = Fixture::start();
    fixture.kubectl(&format!("create -f {}", fixture.file("vmi.yaml", INSTANCE)));
    let migration = |name: &str, of: &str| {
        let text = format!(
            "apiVersion: whimbrel.dev/v1\nkind: VirtualMachineInstanceMigration\nmetadata: {{name: {name}}}\nspec: {{vmiName: {of}}}\n"
        );
        format!("create -f {}", fixture.file(name, &text))
    };
    fixture.kubectl(&migration("m1", "one"));
    let text = fixture.refused("admin", &migration("m2", "one"));
    assert!(
        text.contains("spec.vmiName: Invalid value: \"one\": this instance is migrated already, by m1"),
        "{text}"
    );
    let text = fixture.refused("admin", &migration("m3", "two"));
    assert!(text.contains("there is no such instance in namespace default"), "{text}");
    let text = fixture.refused("admin", r#"patch vmim m1 --type=merge -p {"spec":{"vmiName":"x"}}"#);
    assert!(text.contains("spec.vmiName: Forbidden"), "{text}");
}

#[test]
fn a_policy_for_everything_is_warned_about() {
    if !has_kubectl() {
        return;
    }
    let fixture = Fixture::start();
    let text = "apiVersion: whimbrel.dev/v1\nkind: MigrationPolicy\nmetadata: {name: p}\nspec: {selectors: {}, bandwidthPerMigration: 0}\n";
    let text = fixture.kubectl(&format!("apply -f {}", fixture.file("p.yaml", text)));
    assert!(text.contains("Warning: spec.selectors is empty"), "{text}");
    assert!(text.contains("Warning: spec.bandwidthPerMigration is 0"), "{text}");
}

#[test]
fn kinds_explain_themselves() {
    if !has_kubectl() {
        return;
    }
    let fixture = Fixture::start();
    let resources = fixture.kubectl("api-resources");
    assert!(resources.contains("vm,vms") && resources.contains("whimbrel.dev/v1"), "{resources}");
    let text = fixture.kubectl("explain vm.spec.template.spec.domain.memory.guest");
    assert!(text.contains("How much the guest has: 2Mi to 8Ti"), "{text}");
    assert!(fixture.kubectl("explain node.spec").contains("unschedulable"));
    assert!(fixture.kubectl("version").contains("Server Version: v1.33"));
    assert!(fixture.kubectl("api-versions").contains("whimbrel.dev/v1"));
}

#[test]
fn a_viewer_sees_and_does_not_touch() {
    if !has_kubectl() {
        return;
    }
    let fixture = Fixture::start();
    let file = fixture.file("vm.yaml", MACHINE);
    let text = fixture.refused("viewer", &format!("create -f {file}"));
    assert!(
        text.contains("forbidden") && text.contains("cannot create virtualmachines.whimbrel.dev"),
        "{text}"
    );
    // kubectl adds that nodes are in no namespace.
    assert!(fixture.kubectl("auth can-i create nodes").starts_with("yes\n"));
    fixture.refused("viewer", "auth can-i create vm");
    assert_eq!(fixture.kubectl("auth can-i create vm").trim(), "yes");
    assert!(fixture.refused("viewer", "logs busy").contains("error"), "there are no pods");
}

#[test]
fn nodes_are_cordoned_and_events_described() {
    if !has_kubectl() {
        return;
    }
    let fixture = Fixture::start();
    fixture.kubectl(&format!(
        "create -f {}",
        fixture.file("n", "apiVersion: v1\nkind: Node\nmetadata: {name: a}\n")
    ));
    fixture.kubectl("cordon a");
    assert!(fixture.kubectl("get node a").contains("true"));
    fixture.kubectl("uncordon a");
    assert_eq!(fixture.kubectl("get node a -o jsonpath={.spec.unschedulable}"), "");
    fixture.kubectl(&format!("create -f {}", fixture.file("vm.yaml", MACHINE)));
    let uid = fixture.kubectl("get vm busy -o jsonpath={.metadata.uid}");
    let event = format!(
        "apiVersion: v1\nkind: Event\nmetadata: {{name: e1}}\nreason: Started\nmessage: It began\ntype: Normal\ncount: 1\n\
         involvedObject: {{kind: VirtualMachine, apiVersion: whimbrel.dev/v1, namespace: default, name: busy, uid: {uid}}}\n\
         firstTimestamp: '2026-01-01T00:00:00Z'\nlastTimestamp: '2026-01-01T00:00:00Z'\n"
    );
    fixture.kubectl(&format!("create -f {}", fixture.file("e", &event)));
    let text = fixture.kubectl("describe vm busy");
    assert!(text.contains("It began") && text.contains("Run Strategy"), "{text}");
    assert!(fixture.kubectl("events").contains("It began"));
}
