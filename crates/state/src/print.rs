use ciborium::Value;

/// Longest byte string printed in full; longer ones show their length only.
const MAX_HEX_BYTES: usize = 64;

/// `value` in a notation close to JSON, with byte strings in hexadecimal.
pub(crate) fn value(value: &Value) -> String {
    match value {
        Value::Integer(integer) => i128::from(*integer).to_string(),
        Value::Bytes(bytes) if bytes.len() > MAX_HEX_BYTES => format!("<{} bytes>", bytes.len()),
        Value::Bytes(bytes) => {
            format!("h'{}'", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        }
        Value::Float(float) => float.to_string(),
        Value::Text(text) => format!("{text:?}"),
        Value::Bool(bool) => bool.to_string(),
        Value::Null => "null".into(),
        Value::Array(items) => format!("[{}]", joined(items.iter().map(self::value))),
        Value::Map(entries) => {
            format!(
                "{{{}}}",
                joined(entries.iter().map(|(name, item)| format!("{}: {}", key(name), self::value(item))))
            )
        }
        other => format!("{other:?}"),
    }
}

/// Field names go without quotes.
fn key(name: &Value) -> String {
    name.as_text().map_or_else(|| value(name), Into::into)
}

fn joined(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}
