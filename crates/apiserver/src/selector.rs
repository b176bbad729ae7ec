//! Which objects of a list are meant: label selectors and field selectors.

use serde_json::Value;

use crate::{ApiError, jsonpath};

/// What must hold of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    labels: Vec<(String, Test)>,
    /// Paths as in a column of a table.
    fields: Vec<(String, Test)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
}

impl Selector {
    pub(crate) fn parse(labels: Option<&str>, fields: Option<&str>) -> Result<Self, ApiError> {
        let wrong = |which: &str, text: &str| {
            ApiError::bad_request(format!("unable to parse the {which} selector {text:?}"))
        };
        let labels = labels.map_or(Ok(Vec::new()), |text| {
            requirements(text)
                .into_iter()
                .map(test)
                .collect::<Option<_>>()
                .ok_or_else(|| wrong("label", text))
        })?;
        let fields = fields.map_or(Ok(Vec::new()), |text| {
            let tests = requirements(text).into_iter().map(|part| {
                let (path, test) = test(part)?;
                matches!(test, Test::In(_) | Test::NotIn(_)).then(|| (format!(".{path}"), test))
            });
            tests.collect::<Option<_>>().ok_or_else(|| wrong("field", text))
        })?;
        Ok(Self { labels, fields })
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        let by_label = self.labels.iter().all(|(name, test)| test.holds(labels[name.as_str()].as_str()));
        by_label
            && self.fields.iter().all(|(path, test)| {
                let found = jsonpath::find(object, path).map(|value| match value {
                    Value::String(text) => text.clone(),
                    value => value.to_string(),
                });
                // A field that is not there is an empty one.
                test.holds(Some(found.unwrap_or_default().as_str()))
            })
    }
}

impl Test {
    fn holds(&self, value: Option<&str>) -> bool {
        match self {
            Self::Exists => value.is_some(),
            Self::Absent => value.is_none(),
            Self::In(values) => value.is_some_and(|value| values.iter().any(|one| one == value)),
            Self::NotIn(values) => value.is_none_or(|value| values.iter().all(|one| one != value)),
        }
    }
}

/// The parts between commas that are not in brackets.
fn requirements(text: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    let parts = text.split(move |letter| {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        letter == ',' && depth == 0
    });
    parts.map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn test(part: &str) -> Option<(String, Test)> {
    let one = |value: &str| vec![value.trim().to_owned()];
    let (name, test) = if let Some((name, value)) = part.split_once("!=") {
        (name, Test::NotIn(one(value)))
    } else if let Some((name, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        (name, Test::In(one(value)))
    } else if let Some((name, list)) = part.strip_suffix(')').and_then(|part| part.split_once('(')) {
        let values = list.split(',').map(|value| value.trim().to_owned()).collect();
        match name.trim().rsplit_once(' ')? {
            (name, "in") => (name, Test::In(values)),
            (name, "notin") => (name, Test::NotIn(values)),
            _ => return None,
        }
    } else if let Some(name) = part.strip_prefix('!') {
        (name, Test::Absent)
    } else {
        (part, Test::Exists)
    };
    let name = name.trim();
    let is_name =
        !name.is_empty() && name.chars().all(|letter| letter.is_alphanumeric() || "-_./".contains(letter));
    is_name.then(|| (name.to_owned(), test))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn by_label(selector: &str) -> bool {
        let object = json!({ "metadata": { "name": "x", "labels": { "app": "db", "tier": "1" } } });
        Selector::parse(Some(selector), None).unwrap().matches(&object)
    }

    #[test]
    fn labels_are_tested_as_in_kubernetes() {
        for yes in [
            "app=db",
            "app==db",
            "app",
            "!zone",
            "app in (a, db)",
            "app!=x,tier=1",
            "zone notin (a)",
            "zone!=a",
            "",
        ] {
            assert!(by_label(yes), "{yes}");
        }
        for no in ["app=x", "zone", "!app", "app notin (db,x)", "app in (a),tier"] {
            assert!(!by_label(no), "{no}");
        }
        for wrong in ["=a", "a of (b)", "a b", "!"] {
            assert_eq!(Selector::parse(Some(wrong), None).unwrap_err().code, 400, "{wrong}");
        }
    }

    #[test]
    fn fields_are_tested_by_their_path() {
        let object = json!({ "metadata": { "name": "x" }, "involvedObject": { "uid": "7" } });
        let holds = |text| Selector::parse(None, Some(text)).unwrap().matches(&object);
        assert!(
            holds("metadata.name=x")
                && holds("involvedObject.uid=7,metadata.name!=y")
                && holds("spec.nodeName=")
        );
        assert!(!holds("metadata.name=y"));
        assert!(Selector::parse(None, Some("metadata.name")).is_err());
    }
}
