//! Who a client is, and what it may do.

use std::collections::BTreeMap;

use objects::Kind;
use serde_json::Value;

use crate::{ApiError, jsonpath, route::Target};

/// What somebody may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// See everything but Secrets.
    View,
    /// See everything; make, change and delete machines and migrations, and the Secrets and ConfigMaps of machines.
    Operate,
    /// Everything.
    Admin,
    /// Become a node, and nothing else.
    Join,
    /// What the agent of this node needs: see everything but the Secrets of others, and write what is its own.
    Node(String),
}

/// Who a client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name, in the log of writes.
    pub name: String,
    /// What it may do.
    pub role: Role,
}

/// Secrets that clients send, and whose they are.
#[derive(Clone, Default)]
pub struct Tokens {
    identities: BTreeMap<String, Identity>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the secrets.
        f.debug_set().entries(self.identities.values()).finish()
    }
}

/// The subresource that is a conversation with a guest.
pub(crate) const CONSOLE: &str = "console";
/// The shortest token, in bytes. What is shorter could be guessed.
const SHORTEST_TOKEN: usize = 32;

impl Tokens {
    /// Takes a token as that identity's. One that could be guessed is not taken, and `false` returned.
    pub fn add(&mut self, token: &str, identity: Identity) -> bool {
        let is_long = token.len() >= SHORTEST_TOKEN;
        if is_long {
            self.identities.insert(token.to_owned(), identity);
        }
        is_long
    }

    /// Forgets the tokens of that role.
    pub(crate) fn remove(&mut self, role: &Role) {
        self.identities.retain(|_, identity| identity.role != *role);
    }

    /// Whose a token is.
    pub(crate) fn identify(&self, token: &str) -> Option<Identity> {
        // Tokens are random and long: that one is compared faster than another tells nothing that helps to guess it.
        self.identities.get(token).cloned()
    }
}

/// What is to be done with objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        let all = [
            Self::Get,
            Self::List,
            Self::Watch,
            Self::Create,
            Self::Update,
            Self::Patch,
            Self::Delete,
            Self::DeleteCollection,
        ];
        all.into_iter().find(|verb| verb.name() == name)
    }

    fn reads(self) -> bool {
        matches!(self, Self::Get | Self::List | Self::Watch)
    }
}

impl Role {
    /// Whether somebody with this role may type into a guest. No node may: it has its own machines' without asking.
    pub(crate) fn may_converse(&self) -> bool {
        matches!(self, Self::Operate | Self::Admin)
    }

    /// Whether somebody with this role may have agents asked. No node may: what others keep is no matter of it.
    pub(crate) fn may_ask_agents(&self) -> bool {
        matches!(self, Self::View | Self::Operate | Self::Admin)
    }

    /// Whether somebody with this role may do that to objects of that kind; for a node, to those that are its own.
    pub(crate) fn may(&self, verb: Verb, kind: &Kind, is_status: bool) -> bool {
        match self {
            Self::Admin => true,
            Self::Join => false,
            // An agent reads one at a time, that its machines need: which these are is looked at there.
            _ if kind.is_secret() && verb.reads() => match self {
                Self::Node(_) => verb == Verb::Get,
                Self::Operate => true,
                _ => false,
            },
            _ if verb.reads() => true,
            // Some have agents look at machines.
            _ if kind.is_review && verb == Verb::Create => self.may_ask_agents(),
            Self::View => false,
            Self::Operate => kind.is_operated && !is_status,
            Self::Node(_) => match verb {
                Verb::Delete | Verb::DeleteCollection => false,
                Verb::Create => {
                    kind.is_built_in && !kind.node_paths.is_empty() && kind.names.plural != "namespaces"
                }
                _ => !kind.node_paths.is_empty() || kind.names.plural == "events",
            },
        }
    }
}

impl Identity {
    /// An error unless this identity may do that.
    pub(crate) fn check(&self, verb: Verb, target: &Target) -> Result<(), ApiError> {
        if self.role.may(verb, &target.kind, target.is_status) {
            return Ok(());
        }
        let kind = crate::status::qualified(&target.kind);
        let status = if target.is_status { "/status" } else { "" };
        Err(ApiError::forbidden(&self.name, &format!("cannot {} {kind}{status}", verb.name())))
    }

    /// An error unless this identity may have what an agent keeps of an object: look at it, or type into a guest.
    pub(crate) fn check_kept(&self, target: &Target, subresource: &str) -> Result<(), ApiError> {
        let is_allowed =
            if subresource == CONSOLE { self.role.may_converse() } else { self.role.may_ask_agents() };
        if is_allowed {
            return Ok(());
        }
        let kind = crate::status::qualified(&target.kind);
        Err(ApiError::forbidden(&self.name, &format!("cannot get {kind}/{subresource}")))
    }

    /// An error if this is a node and the object is not its own. An agent that lies can lie about its own machines only.
    pub(crate) fn check_object(&self, kind: &Kind, object: &Value) -> Result<(), ApiError> {
        let Role::Node(node) = &self.role else { return Ok(()) };
        let is_own = |path: &&str| jsonpath::find(object, path).is_some_and(|value| value == node.as_str());
        if kind.names.plural == "events" || kind.node_paths.iter().any(is_own) {
            return Ok(());
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        Err(ApiError::forbidden(
            &self.name,
            &format!("cannot write {} {name:?}: it is not of this node", kind.names.plural),
        ))
    }

    /// An error if this is a node and a change is not its to make: of what is its own it writes the status, says that a VMM is gone, and
    /// passes nothing on to another node.
    pub(crate) fn check_change(&self, target: &Target, old: &Value, new: &Value) -> Result<(), ApiError> {
        let (Role::Node(_), kind) = (&self.role, &target.kind) else { return Ok(()) };
        let is_same = |path: &&str| jsonpath::find(old, path) == jsonpath::find(new, path);
        let is_allowed = if target.is_status {
            kind.node_paths.iter().all(is_same)
        } else if kind.names.plural == "nodes" {
            old["spec"] == new["spec"]
        } else if kind.is_built_in {
            true
        } else {
            let mut released = old.clone();
            released["metadata"]["finalizers"] = new["metadata"]["finalizers"].clone();
            released == *new
        };
        if is_allowed {
            return Ok(());
        }
        let name = target.name.as_deref().unwrap_or_default();
        let message = format!("cannot change this of {} {name:?}: it is not for nodes", kind.names.plural);
        Err(ApiError::forbidden(&self.name, &message))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn kind(plural: &str) -> Arc<Kind> {
        Arc::new(objects::kinds().into_iter().find(|kind| kind.names.plural == plural).unwrap())
    }

    #[test]
    fn each_role_may_what_it_is_for() {
        let may = |role: &Role, verb, plural, is_status| role.may(verb, &kind(plural), is_status);
        let node = Role::Node("a".to_owned());
        assert!(!may(&Role::Join, Verb::List, "nodes", false));
        for role in [&Role::View, &Role::Operate, &Role::Admin, &node] {
            assert!(may(role, Verb::Watch, "virtualmachines", false));
        }
        assert!(!may(&Role::View, Verb::Create, "virtualmachines", false));
        assert!(may(&Role::Operate, Verb::Delete, "virtualmachines", false));
        assert!(!may(&Role::Operate, Verb::Patch, "virtualmachines", true));
        assert!(!may(&Role::Operate, Verb::Create, "migrationpolicies", false));
        assert!(!may(&Role::Operate, Verb::Patch, "nodes", false));
        assert!(may(&node, Verb::Update, "virtualmachineinstances", true));
        assert!(!may(&node, Verb::Create, "virtualmachineinstances", false));
        assert!(!may(&node, Verb::Delete, "nodes", false));
        for verb in [Verb::Get, Verb::List, Verb::Watch] {
            assert!(!may(&Role::View, verb, "secrets", false) && may(&Role::Operate, verb, "secrets", false));
            assert_eq!(may(&node, verb, "secrets", false), verb == Verb::Get);
        }
        for verb in [Verb::Create, Verb::Update, Verb::Patch, Verb::Delete] {
            for plural in ["secrets", "configmaps"] {
                assert!(may(&Role::Operate, verb, plural, false));
                assert!(!may(&Role::View, verb, plural, false) && !may(&node, verb, plural, false));
            }
        }
        assert!(may(&Role::View, Verb::Create, "migrationplans", false));
        assert!(!may(&node, Verb::Create, "migrationplans", false));
        assert!(![Role::Join, node.clone()].iter().any(Role::may_ask_agents));
        assert!(Role::Operate.may_converse() && Role::Admin.may_converse());
        assert!(![Role::View, Role::Join, node].iter().any(Role::may_converse));
    }

    #[test]
    fn a_node_writes_only_what_is_its_own() {
        let node = Identity { name: "node:a".to_owned(), role: Role::Node("a".to_owned()) };
        let check = |plural, object: &Value| node.check_object(&kind(plural), object).is_ok();
        assert!(check("nodes", &json!({ "metadata": { "name": "a" } })));
        assert!(!check("nodes", &json!({ "metadata": { "name": "b" } })));
        assert!(check("virtualmachineinstances", &json!({ "status": { "nodeName": "a" } })));
        assert!(!check("virtualmachineinstances", &json!({ "status": { "nodeName": "b" } })));
        assert!(!check("virtualmachineinstances", &json!({})));
        let migration = json!({ "status": { "migrationState": { "sourceNode": "b", "targetNode": "a" } } });
        assert!(check("virtualmachineinstancemigrations", &migration));
    }

    #[test]
    fn a_node_passes_nothing_on_and_wants_nothing_else() {
        let node = Identity { name: "node:a".to_owned(), role: Role::Node("a".to_owned()) };
        let old = json!({
            "metadata": { "finalizers": ["x"] }, "spec": { "cancel": false },
            "status": { "nodeName": "a", "migrationState": { "targetNode": "a" } },
        });
        let may = |plural: &str, is_status, path: &str, value: Value| {
            let target = Target { kind: kind(plural), namespace: None, name: None, is_status };
            let mut new = old.clone();
            *new.pointer_mut(path).unwrap() = value;
            node.check_change(&target, &old, &new).is_ok()
        };
        assert!(!may("virtualmachineinstances", true, "/status/nodeName", "b".into()));
        assert!(!may(
            "virtualmachineinstancemigrations",
            true,
            "/status/migrationState/targetNode",
            "b".into()
        ));
        assert!(may("virtualmachineinstances", false, "/metadata/finalizers", json!([])));
        assert!(!may("virtualmachineinstancemigrations", false, "/spec/cancel", true.into()));
        assert!(!may("nodes", false, "/spec/cancel", true.into()));
    }

    #[test]
    fn a_token_that_could_be_guessed_is_not_taken() {
        let mut tokens = Tokens::default();
        let admin = Identity { name: "admin".to_owned(), role: Role::Admin };
        assert!(!tokens.add("secret", admin.clone()));
        assert!(tokens.add(&"x".repeat(32), admin));
        assert!(tokens.identify(&"x".repeat(32)).is_some());
        for wrong in ["", "secret", "xxx"] {
            assert_eq!(tokens.identify(wrong), None);
        }
        assert!(!format!("{tokens:?}").contains("xxx"));
    }
}
