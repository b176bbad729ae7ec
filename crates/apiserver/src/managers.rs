//! Who manages which fields of an object: `metadata.managedFields`, as server-side apply keeps it.
//!
//! A set of fields is a tree as in Kubernetes: `{"f:spec": {"f:paused": {}}}`. Lists are one field each, whole: so it is with all kinds of the
//! fleet. What the server gives (names, times, versions) and the status are nobody's.

use serde_json::{Map, Value, json};

use crate::metadata;

/// How many entries an object may have. The oldest that only updated goes first.
const ENTRIES: usize = 20;
/// Names of managers are cut after so many letters, as in Kubernetes.
const NAME: usize = 128;
const SERVERS: &[&str] = &[
    "name",
    "namespace",
    "generateName",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "selfLink",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
];

/// Whether a manager applies what it wants, or changes what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// A field that another manager has set to another value: the manager, and the field as `.spec.paused`.
pub(crate) type Conflict = (String, String);

/// The name of a manager as it is kept.
pub(crate) fn manager_name(name: &str) -> String {
    name.chars().take(NAME).collect()
}

/// The object that a manager applies over the one that there is, and in its `managedFields` that it did; conflicts, unless forced.
pub(crate) fn apply(
    old: &Value,
    applied: &Value,
    manager: &str,
    is_forced: bool,
) -> Result<Value, Vec<Conflict>> {
    let wanted = fields_of(applied);
    let mut entries = entries(old);
    let own = |entry: &Value| entry["manager"] == manager && entry["operation"] == "Apply";
    let before =
        entries.iter().find(|entry| own(entry)).map_or_else(|| json!({}), |entry| entry["fieldsV1"].clone());
    let mut conflicts = Vec::new();
    for path in leaves(&wanted) {
        if at(old, &path) == at(applied, &path) {
            continue;
        }
        for entry in entries.iter_mut().filter(|entry| !own(entry)) {
            if !touches(&entry["fieldsV1"], &path) {
                continue;
            }
            if is_forced {
                remove(&mut entry["fieldsV1"], &path);
            } else {
                let manager = entry["manager"].as_str().unwrap_or_default().to_owned();
                conflicts.push((manager, format!(".{}", path.join("."))));
            }
        }
    }
    if !conflicts.is_empty() {
        return Err(conflicts);
    }
    let mut new = old.clone();
    // What it applied before and does not any more goes, unless somebody else wants it.
    for path in leaves(&before) {
        let is_others = entries.iter().any(|entry| !own(entry) && touches(&entry["fieldsV1"], &path));
        if !touches(&wanted, &path) && !is_others {
            take_out(&mut new, &path);
        }
    }
    for path in leaves(&wanted) {
        if let Some(value) = at(applied, &path) {
            put_in(&mut new, &path, value.clone());
        }
    }
    keep(&mut entries, &applied["apiVersion"], manager, Operation::Apply, &wanted);
    set_entries(&mut new, entries);
    Ok(new)
}

/// Notes in `new` that a manager changed what differs from `old`: that is its own from now on, and nobody else's.
pub(crate) fn note_update(old: &Value, new: &mut Value, manager: &str) {
    let mut entries = entries(new);
    let (before, now) = (fields_of(old), fields_of(new));
    let mut changed: Vec<_> =
        leaves(&now).into_iter().filter(|path| at(old, path) != at(new, path)).collect();
    let gone: Vec<_> = leaves(&before).into_iter().filter(|path| at(new, path).is_none()).collect();
    for entry in &mut entries {
        gone.iter().chain(&changed).for_each(|path| remove(&mut entry["fieldsV1"], path));
    }
    let is_own = |entry: &&Value| entry["manager"] == manager && entry["operation"] == "Update";
    if let Some(own) = entries.iter().find(is_own) {
        changed.extend(leaves(&own["fieldsV1"]));
    }
    if !changed.is_empty() {
        let mut tree = json!({});
        changed.iter().for_each(|path| add(&mut tree, path));
        keep(&mut entries, &new["apiVersion"], manager, Operation::Update, &tree);
    }
    set_entries(new, entries);
}

fn entries(object: &Value) -> Vec<Value> {
    let list = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    list.into_iter().filter(|entry| entry["fieldsV1"].is_object()).collect()
}

fn set_entries(object: &mut Value, mut entries: Vec<Value>) {
    entries.retain(|entry| entry["fieldsV1"].as_object().is_some_and(|fields| !fields.is_empty()));
    while entries.len() > ENTRIES
        && let Some(oldest) = entries.iter().position(|entry| entry["operation"] == "Update")
    {
        entries.remove(oldest);
    }
    let list = if entries.is_empty() { Value::Null } else { entries.into() };
    metadata::set(&mut object["metadata"], "managedFields", list);
}

/// Puts an entry in the place of the manager's. What has not changed keeps its time.
fn keep(entries: &mut Vec<Value>, api_version: &Value, manager: &str, operation: Operation, fields: &Value) {
    let name = operation.name();
    let place = entries.iter().position(|entry| entry["manager"] == manager && entry["operation"] == name);
    if place.is_some_and(|place| entries[place]["fieldsV1"] == *fields) {
        return;
    }
    let entry = json!({
        "manager": manager, "operation": name, "apiVersion": api_version, "time": metadata::now(),
        "fieldsType": "FieldsV1", "fieldsV1": fields,
    });
    match place {
        Some(place) => entries[place] = entry,
        None => entries.push(entry),
    }
}

type Path = Vec<String>;

/// The fields of an object that can be somebody's.
fn fields_of(object: &Value) -> Value {
    let mut tree = Map::new();
    for (name, value) in object.as_object().into_iter().flatten() {
        let fields = match name.as_str() {
            "apiVersion" | "kind" | "status" => continue,
            "metadata" => {
                let own = value.as_object().into_iter().flatten();
                let own: Map<_, _> = own
                    .filter(|(name, _)| !SERVERS.contains(&name.as_str()))
                    .map(|(name, value)| (format!("f:{name}"), tree_of(value)))
                    .collect();
                if own.is_empty() {
                    continue;
                }
                Value::Object(own)
            }
            _ => tree_of(value),
        };
        tree.insert(format!("f:{name}"), fields);
    }
    Value::Object(tree)
}

fn tree_of(value: &Value) -> Value {
    let fields = value.as_object().into_iter().flatten();
    Value::Object(fields.map(|(name, value)| (format!("f:{name}"), tree_of(value))).collect())
}

/// The paths of all fields in a set that have none below them.
fn leaves(tree: &Value) -> Vec<Path> {
    let mut paths = Vec::new();
    collect(tree, &mut Vec::new(), &mut paths);
    paths
}

fn collect(tree: &Value, above: &mut Path, paths: &mut Vec<Path>) {
    let below = tree.as_object().into_iter().flatten().filter_map(|(name, tree)| {
        // "." says that a field itself is meant beside those below it.
        name.strip_prefix("f:").map(|name| (name, tree))
    });
    let mut is_leaf = true;
    for (name, tree) in below {
        is_leaf = false;
        above.push(name.to_owned());
        collect(tree, above, paths);
        above.pop();
    }
    if is_leaf && !above.is_empty() {
        paths.push(above.clone());
    }
}

/// Whether a set has a field, something below it, or as a whole something above it.
fn touches(tree: &Value, path: &[String]) -> bool {
    let mut tree = tree;
    for (depth, name) in path.iter().enumerate() {
        match tree.get(format!("f:{name}")) {
            Some(below) => tree = below,
            None => return depth > 0 && tree.as_object().is_some_and(Map::is_empty),
        }
    }
    true
}

fn add(tree: &mut Value, path: &[String]) {
    let mut tree = tree;
    for name in path {
        tree = &mut tree[format!("f:{name}")];
        if !tree.is_object() {
            *tree = json!({});
        }
    }
}

/// Takes a field out of a set, and what has nothing below it then.
fn remove(tree: &mut Value, path: &[String]) {
    let (Some((first, rest)), Some(fields)) = (path.split_first(), tree.as_object_mut()) else { return };
    let name = format!("f:{first}");
    let Some(below) = fields.get_mut(&name) else { return };
    if !rest.is_empty() {
        if below.as_object().is_some_and(Map::is_empty) {
            return;
        }
        remove(below, rest);
    }
    if rest.is_empty() || below.as_object().is_none_or(Map::is_empty) {
        fields.remove(&name);
    }
}

fn at<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, name| value.get(name))
}

fn put_in(object: &mut Value, path: &[String], value: Value) {
    let mut place = object;
    for name in path {
        if !place.is_object() {
            *place = json!({});
        }
        place = &mut place[name];
    }
    *place = value;
}

/// Takes a value out of an object, and what is empty then above it.
fn take_out(object: &mut Value, path: &[String]) {
    let (Some((first, rest)), Some(fields)) = (path.split_first(), object.as_object_mut()) else { return };
    let Some(below) = fields.get_mut(first) else { return };
    if !rest.is_empty() {
        take_out(below, rest);
    }
    if rest.is_empty() || below.as_object().is_some_and(Map::is_empty) {
        fields.remove(first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(spec: &Value) -> Value {
        json!({ "apiVersion": "x/v1", "kind": "K", "metadata": { "name": "a" }, "spec": spec })
    }

    fn managers(object: &Value) -> Vec<(String, Value)> {
        let entries = entries(object).into_iter();
        entries
            .map(|entry| (entry["manager"].as_str().unwrap().to_owned(), entry["fieldsV1"]["f:spec"].clone()))
            .collect()
    }

    #[test]
    fn what_is_not_applied_any_more_goes_unless_another_wants_it() {
        let start = object(&json!({}));
        let one = apply(&start, &object(&json!({ "a": 1, "b": { "c": 2 } })), "one", false).unwrap();
        let both = apply(&one, &object(&json!({ "a": 1, "d": 4 })), "two", false).unwrap();
        assert_eq!(both["spec"], json!({ "a": 1, "b": { "c": 2 }, "d": 4 }));
        let less = apply(&both, &object(&json!({ "e": [1] })), "one", false).unwrap();
        assert_eq!(less["spec"], json!({ "a": 1, "d": 4, "e": [1] }), "a is the other's too");
        assert_eq!(
            managers(&less),
            [("one".to_owned(), json!({ "f:e": {} })), ("two".to_owned(), json!({ "f:a": {}, "f:d": {} }))]
        );
        let again = apply(&less, &object(&json!({ "e": [1] })), "one", false).unwrap();
        assert_eq!(again, less, "nothing has changed, not even a time");
    }

    #[test]
    fn a_field_of_another_is_a_conflict_unless_it_is_forced() {
        let mut edited = object(&json!({ "a": 2 }));
        note_update(&object(&json!({ "a": 1 })), &mut edited, "edit");
        let wish = object(&json!({ "a": 3 }));
        let conflict = ("edit".to_owned(), ".spec.a".to_owned());
        assert_eq!(apply(&edited, &wish, "one", false), Err(vec![conflict]));
        assert!(apply(&edited, &object(&json!({ "a": 2 })), "one", false).is_ok(), "they agree");
        let forced = apply(&edited, &wish, "one", true).unwrap();
        assert_eq!(forced["spec"]["a"], 3);
        assert_eq!(managers(&forced), [("one".to_owned(), json!({ "f:a": {} }))]);
    }

    #[test]
    fn whoever_changes_a_field_takes_it_over() {
        let applied = apply(&object(&json!({})), &object(&json!({ "a": 1, "b": 1 })), "one", false).unwrap();
        let mut changed = applied.clone();
        changed["spec"] = json!({ "a": 2 });
        note_update(&applied, &mut changed, "edit");
        assert_eq!(managers(&changed), [("edit".to_owned(), json!({ "f:a": {} }))]);
        let mut status = changed.clone();
        status["status"] = json!({ "x": 1 });
        let before = status.clone();
        note_update(&changed, &mut status, "agent");
        assert_eq!(status, before, "a status is nobody's");
    }

    #[test]
    fn sets_that_make_no_sense_do_no_harm() {
        let mut object = object(&json!({ "a": 1 }));
        object["metadata"]["managedFields"] =
            json!([7, { "fieldsV1": 3 }, { "fieldsV1": { "f:spec": 9 } }, {}]);
        let wish = json!({ "apiVersion": "x/v1", "metadata": 3, "spec": { "a": 2 } });
        assert!(apply(&object, &wish, "one", true).is_ok());
        note_update(&json!({}), &mut object, "x");
    }
}
