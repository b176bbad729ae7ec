//! What agents serve: consoles, logs, forecasts and figures, through the control plane.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use super::{Fleet, site::PATIENCE};

/// Somebody at the console of `busy`. Leaves when it is dropped.
struct Somebody {
    program: Child,
    keys: ChildStdin,
    lines: Receiver<String>,
}

impl Somebody {
    fn at(fleet: &Fleet) -> Self {
        let mut program = Command::new(assert_cmd::cargo::cargo_bin("whimbrel"))
            .env("KUBECONFIG", fleet.dir().join("kubeconfig.operate"))
            .args(["console", "busy"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let keys = program.stdin.take().unwrap();
        let (sender, lines) = channel();
        let out = BufReader::new(program.stdout.take().unwrap());
        // It ends with the program.
        thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { program, keys, lines }
    }

    /// Types a line until the guest echoes it: what it says before somebody is there is not heard.
    fn talks(&mut self, word: &str) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            self.keys.write_all(format!("{word}\r").as_bytes()).unwrap();
            let heard = self.lines.recv_timeout(Duration::from_secs(1));
            if heard.is_ok_and(|line| line.contains(&format!("whimbrel echo {word}"))) {
                return;
            }
        }
        panic!("the guest does not echo {word}");
    }
}

impl Drop for Somebody {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

const INSTANCE: &str = "/apis/whimbrel.dev/v1/namespaces/default/virtualmachineinstances/busy";

#[test]
fn a_guest_is_typed_to_by_one_at_a_time_who_may_and_who_is_followed_where_it_goes() {
    let Some(fleet) = Fleet::start() else { return };
    fleet.machine("1M");
    let mut first = Somebody::at(&fleet);
    first.talks("hello");
    let (said, is_done) = fleet.whimbrel("console busy");
    assert!(!is_done && said.contains("somebody is at this console already"), "{said}");
    let view = fleet.dir().join("kubeconfig.view").display().to_string();
    let (said, is_done) = fleet.whimbrel(&format!("console busy --kubeconfig {view}"));
    assert!(!is_done && said.contains("cannot get virtualmachineinstances"), "{said}");
    let (said, is_done) = fleet.whimbrel("console nobody");
    assert!(!is_done && said.contains("not found"), "{said}");
    let (said, is_done) = fleet.whimbrel("migrate busy");
    assert!(is_done, "{said}\n{}", fleet.log());
    first.talks("there");
    drop(first);
    let mut second = Somebody::at(&fleet);
    second.talks("again");
    let log = fleet.kubectl(&format!("get --raw {INSTANCE}/log"));
    assert!(log.contains("whimbrel echo again") && !log.contains("whimbrel echo hello"), "{log}");
}

#[test]
fn a_plan_has_what_the_engine_foretells_and_changes_nothing_of_a_migration_under_way() {
    let Some(fleet) = Fleet::start() else { return };
    fleet.policy("allowPostCopy: true\nbandwidthPerMigration: 16Mi\nmaxDowntimeMs: 1");
    fleet.machine("50M");
    let (said, is_done) = fleet.whimbrel("plan busy");
    assert!(is_done && said.contains("as the policy allows:") && said.contains("<- taken"), "{said}");
    assert!(said.lines().any(|line| line.contains("precopy") && line.contains("no end")), "{said}");
    assert!(fleet.whimbrel("migrate busy --detach").1);
    fleet.wait("vmim", |seen| seen["items"][0]["status"]["phase"] == "Running");
    let (said, _) = fleet.whimbrel("plan busy");
    assert!(said.contains("There is no forecast"), "{said}");
    fleet.wait("vmim", |seen| seen["items"][0]["status"]["phase"] == "Succeeded");
    let figures = fleet.kubectl("get --raw /api/v1/nodes/node-a/proxy/metrics");
    assert!(figures.contains("whimbrel_agent_vmms{node=\"node-a\",state=\"up\"}"), "{figures}");
    let (said, is_done) = fleet.whimbrel("top --once");
    assert!(is_done && said.contains("node-b") && said.contains("default/busy"), "{said}");
}

#[test]
fn the_control_plane_says_how_its_certificates_stand_and_shows_none_that_is_broken() {
    let Some(fleet) = Fleet::start() else { return };
    let file = fleet.file(
        "review.yaml",
        "apiVersion: whimbrel.dev/v1\nkind: ControlPlaneReview\nmetadata: {}\nspec: {}\n",
    );
    let asked = || {
        let said = fleet.kubectl(&format!("create -o json -f {file}"));
        let review: serde_json::Value = serde_json::from_str(&said).unwrap();
        review["status"]["conditions"][0].clone()
    };
    let condition = asked();
    assert_eq!((&condition["type"], &condition["status"]), (&"CertificatesExpiring".into(), &"False".into()));
    std::fs::write(fleet.dir().join("api/server-cert.pem"), "nothing").unwrap();
    let condition = asked();
    assert_eq!((&condition["status"], &condition["reason"]), (&"True".into(), &"Unreadable".into()));
    assert!(condition["message"].to_string().contains("server-cert.pem"), "{condition}");
}

#[test]
fn the_console_of_another_servers_objects_passes_on_what_is_asked_as_whoever_asks() {
    let Some(fleet) = Fleet::start() else { return };
    let config = std::fs::read_to_string(fleet.dir().join("kubeconfig")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let server = config["clusters"][0]["cluster"]["server"].as_str().unwrap();
    let authority = fleet.dir().join("ca/ca-cert.pem");
    let mut program = Command::new(assert_cmd::cargo::cargo_bin("whimbrel"));
    program.args(["console-server", "--listen", "127.0.0.1:0", "--server", server, "--server-ca"]);
    program.arg(&authority).arg("--tls").arg(fleet.dir().join("api"));
    let mut program = Ended(program.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut said = String::new();
    BufReader::new(program.0.stdout.take().unwrap()).read_line(&mut said).unwrap();
    let address =
        said.split_whitespace().find_map(|word| word.strip_suffix("/console/,")).unwrap().to_owned();
    let through = |arguments: &str| fleet.kubectl(&format!("--server {address} {arguments}"));
    // What comes is what is there, and who asks is who is asked for there.
    through("create namespace apart");
    assert!(fleet.kubectl("get namespace").contains("apart"));
    assert!(through("get namespace apart -o name").contains("namespace/apart"));
    assert!(through("get --raw /console/machines/default/a.b").contains("<html"));
    assert_eq!(through("get --raw /healthz"), "ok");
    // What is not of the objects is not passed on, and nobody gains anything by coming this way.
    for refused in ["get --raw /metrics", "get --raw /join", "delete namespace apart --token wrong"] {
        assert!(!fleet.run(&format!("--server {address} {refused}")).status.success(), "{refused}");
    }
    assert!(fleet.kubectl("get namespace").contains("apart"));
}

/// A program that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
