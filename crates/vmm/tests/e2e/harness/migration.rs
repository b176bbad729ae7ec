use monitor::types::{MigrationInfo, MigrationStatus, RunState, SocketAddress};
use serde_json::{Value, json};

use super::{Vmm, until};

/// The capability with which a monitor tells of migrations by itself.
pub(crate) const MIGRATION_EVENTS: &str = "events";

/// The capability with which a migration waits for `migrate-continue`.
pub(crate) const PAUSE_BEFORE_SWITCHOVER: &str = "pause-before-switchover";

/// The arguments that switch a capability on or off.
pub(crate) fn capability(name: &str, state: bool) -> Value {
    json!({ "capabilities": [{ "capability": name, "state": state }] })
}

impl Vmm {
    /// Switches a capability on.
    pub(crate) fn enable(&self, name: &str) {
        self.command("migrate-set-capabilities", capability(name, true));
    }

    /// Sets parameters of migration.
    pub(crate) fn set(&self, parameters: Value) {
        self.command("migrate-set-parameters", parameters);
    }

    /// What `query-migrate` says.
    pub(crate) fn query_migrate(&self) -> MigrationInfo {
        self.client().query_migrate().unwrap()
    }

    /// Listens on a TCP port that the kernel chooses, and returns the address to migrate to.
    pub(crate) fn listen(&self) -> String {
        self.listen_at("tcp:127.0.0.1:0")
    }

    /// Listens there, and returns the address to migrate to.
    pub(crate) fn listen_at(&self, uri: &str) -> String {
        self.command("migrate-incoming", json!({ "uri": uri }));
        let addresses = self.query_migrate().socket_address.expect("a destination says where it listens");
        match &addresses[0] {
            SocketAddress::Inet { host, port } if host.contains(':') => format!("tcp:[{host}]:{port}"),
            SocketAddress::Inet { host, port } => format!("tcp:{host}:{port}"),
            SocketAddress::Unix { path } => format!("unix:{path}"),
            other => panic!("{other:?}"),
        }
    }

    /// Begins to migrate.
    pub(crate) fn migrate(&self, uri: &str) {
        self.command("migrate", json!({ "uri": uri }));
    }

    /// Waits until the migration stands there. It is an error if it ends otherwise.
    pub(crate) fn migration_is(&self, wanted: MigrationStatus) -> MigrationInfo {
        until(&format!("the migration from {} is {wanted}", self.name()), || {
            let info = self.query_migrate();
            let status = info.status.expect("a migration was asked for");
            assert!(
                status == wanted || !status.is_final(),
                "it ended as {status}: {:?}",
                info.error_desc.as_ref().or(info.whimbrel.as_ref().and_then(|more| more.reason.as_ref()))
            );
            (status == wanted).then_some(info)
        })
    }

    /// Waits until round `round` (from 1) is under way.
    pub(crate) fn round_is(&self, round: u64) -> MigrationInfo {
        until(&format!("{} is in round {round}", self.name()), || {
            let info = self.query_migrate();
            let status = info.status.expect("a migration was asked for");
            assert!(!status.is_final(), "it ended as {status}: {:?}", info.error_desc);
            let reached = info.ram.as_ref().is_some_and(|ram| ram.dirty_sync_count >= round);
            (status == MigrationStatus::Active && reached).then_some(info)
        })
    }

    /// Migrates to a destination that listens at `uri`, and checks what both sides say in the end.
    pub(crate) fn moves_to(&self, destination: &Self, uri: &str) -> MigrationInfo {
        let before = self.run_state();
        self.migrate(uri);
        let info = self.migration_is(MigrationStatus::Completed);
        assert_eq!(self.run_state(), RunState::Postmigrate);
        let expected = if before == RunState::Running { RunState::Running } else { RunState::Paused };
        assert_eq!(destination.run_state(), expected);
        info
    }

    /// Waits until the migration has failed; answers why.
    pub(crate) fn migration_fails(&self) -> String {
        let info = self.migration_is(MigrationStatus::Failed);
        info.error_desc.expect("a failure has a reason")
    }
}
