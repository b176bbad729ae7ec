//! The small part of Kubernetes' JSONPath that columns of tables use: fields, and list items by a field's value.

use serde_json::Value;

/// The first value at a path such as `.status.conditions[?(@.type=='Ready')].status`; a dot in a name is `\.`.
pub(crate) fn find<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    let mut found = value;
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("[?(@.") {
            let (condition, after) = after.split_once(")]")?;
            let (name, wanted) = condition.split_once("==")?;
            let wanted = wanted.trim().trim_matches(['\'', '"']);
            found = found.as_array()?.iter().find(|item| item[name.trim()] == wanted)?;
            rest = after;
        } else {
            let name = rest.strip_prefix('.')?;
            let (name, after) = field(name);
            found = found.get(&name)?;
            rest = after;
        }
    }
    Some(found)
}

/// A field's name up to the next step, and what follows.
fn field(path: &str) -> (String, &str) {
    let mut name = String::new();
    let mut letters = path.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => name.extend(letters.next().map(|(_, letter)| letter)),
            '.' | '[' => return (name, &path[at..]),
            letter => name.push(letter),
        }
    }
    (name, "")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_and_items_are_found() {
        let value = json!({ "a": { "b.c": [{ "type": "X", "v": 1 }, { "type": "Y", "v": 2 }] } });
        assert_eq!(find(&value, r".a.b\.c[?(@.type=='Y')].v"), Some(&json!(2)));
        assert_eq!(find(&value, ".a.x.y"), None);
        assert_eq!(find(&value, ".a.b[0]"), None);
        assert_eq!(find(&value, "a"), None);
        assert_eq!(find(&value, ""), Some(&value));
    }
}
