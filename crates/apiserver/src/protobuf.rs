//! The messages that kubectl sends as protobuf: the question of `kubectl auth can-i`, and what `kubectl create` makes of Kubernetes' own kinds:
//! namespaces, ConfigMaps and Secrets.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

/// What such bodies begin with.
const MAGIC: &[u8] = b"k8s\0";

/// The attributes that a SelfSubjectAccessReview asks about, as its JSON would have them. `None` if the body is something else.
pub(crate) fn access_review(body: &[u8]) -> Option<Value> {
    // runtime.Unknown.raw, then spec, then resourceAttributes.
    let review = field(body.strip_prefix(MAGIC)?, 2)?;
    let asked = field(field(review, 2)?, 1)?;
    let text =
        |number| field(asked, number).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default();
    let attributes = json!({
        "namespace": text(1), "verb": text(2), "group": text(3), "version": text(4), "resource": text(5),
        "subresource": text(6), "name": text(7),
    });
    Some(json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": { "resourceAttributes": attributes },
    }))
}

/// An object that is to be made, as its JSON would have it. `None` if the body is something else, or has more than is read here.
pub(crate) fn object(body: &[u8]) -> Option<Value> {
    let unknown = body.strip_prefix(MAGIC)?;
    let (kind, message) = (field(field(unknown, 1)?, 2)?, field(unknown, 2)?);
    let metadata = field(message, 1)?;
    let mut read = json!({ "name": text(metadata, 1)?, "generateName": text(metadata, 2)? });
    for (number, name) in [(11, "labels"), (12, "annotations")] {
        read[name] = texts(metadata, number)?.into();
    }
    let namespace = text(metadata, 3)?;
    if !namespace.is_empty() {
        read["namespace"] = namespace.into();
    }
    let mut object = json!({ "apiVersion": "v1", "metadata": read });
    match kind {
        b"Namespace" => object["kind"] = "Namespace".into(),
        b"ConfigMap" => {
            object["kind"] = "ConfigMap".into();
            object["data"] = texts(message, 2)?.into();
            object["binaryData"] = bytes_of(message, 3)?.into();
            immutable(message, 4, &mut object)?;
        }
        b"Secret" => {
            object["kind"] = "Secret".into();
            object["data"] = bytes_of(message, 2)?.into();
            object["type"] = text(message, 3)?.into();
            object["stringData"] = texts(message, 4)?.into();
            immutable(message, 5, &mut object)?;
        }
        _ => return None,
    }
    Some(object)
}

fn immutable(mut message: &[u8], wanted: u64, object: &mut Value) -> Option<()> {
    while !message.is_empty() {
        let (key, rest) = varint(message)?;
        if key == wanted << 3 {
            object["immutable"] = (varint(rest)?.0 != 0).into();
        }
        message = next(message)?.2;
    }
    Some(())
}

/// A field of this number as text; empty where it is missing.
fn text(message: &[u8], wanted: u64) -> Option<&str> {
    std::str::from_utf8(field(message, wanted).unwrap_or_default()).ok()
}

/// A map of texts.
fn texts(message: &[u8], wanted: u64) -> Option<Map<String, Value>> {
    pairs(message, wanted, |pair| Some(text(pair, 2)?.into()))
}

/// A map of bytes, as JSON has them.
fn bytes_of(message: &[u8], wanted: u64) -> Option<Map<String, Value>> {
    pairs(message, wanted, |pair| Some(STANDARD.encode(field(pair, 2).unwrap_or_default()).into()))
}

/// A map: a field of this number for each pair.
fn pairs(
    mut message: &[u8],
    wanted: u64,
    value: impl Fn(&[u8]) -> Option<Value>,
) -> Option<Map<String, Value>> {
    let mut pairs = Map::new();
    while !message.is_empty() {
        let (number, pair, rest) = next(message)?;
        if number == wanted {
            pairs.insert(text(pair?, 1)?.to_owned(), value(pair?)?);
        }
        message = rest;
    }
    Some(pairs)
}

/// The bytes of the first field of this number, if it has bytes.
fn field(mut message: &[u8], wanted: u64) -> Option<&[u8]> {
    while !message.is_empty() {
        let (number, value, rest) = next(message)?;
        if number == wanted {
            return value;
        }
        message = rest;
    }
    None
}

/// The number of a field, its bytes if it has some, and what follows.
type Field<'a> = (u64, Option<&'a [u8]>, &'a [u8]);

/// The first field of a message.
fn next(message: &[u8]) -> Option<Field<'_>> {
    let (key, rest) = varint(message)?;
    let (value, rest) = match key & 7 {
        0 => (None, varint(rest)?.1),
        1 => (None, rest.get(8..)?),
        2 => {
            let (length, rest) = varint(rest)?;
            let length = usize::try_from(length).ok()?;
            (Some(rest.get(..length)?), rest.get(length..)?)
        }
        5 => (None, rest.get(4..)?),
        _ => return None,
    };
    Some((key >> 3, value, rest))
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f).checked_shl(7 * u32::try_from(index).ok()?)?;
        if byte & 0x80 == 0 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(number: u8, value: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(value.len()).unwrap()], value].concat()
    }

    #[test]
    fn the_question_is_read_and_nothing_else() {
        let asked = [bytes(2, b"create"), bytes(5, b"nodes")].concat();
        let review = [bytes(1, b""), bytes(2, &bytes(1, &asked))].concat();
        let body = [MAGIC, &bytes(1, b"\x0a\x00"), &bytes(2, &review)].concat();
        let read = access_review(&body).unwrap();
        assert_eq!(read["spec"]["resourceAttributes"]["resource"], "nodes");
        for length in 0..body.len() - 1 {
            assert_eq!(access_review(&body[..length]), None, "{length}");
        }
        assert_eq!(object(&body), None);
        assert_eq!(access_review(b"k8s\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), None);
        assert_eq!(access_review(b"k8s\0\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), None);
    }

    #[test]
    fn a_namespace_is_read_with_its_labels() {
        let label = [bytes(1, b"team"), bytes(2, b"a")].concat();
        let metadata = [bytes(1, b"lab"), bytes(11, &label)].concat();
        let body = [MAGIC, &bytes(1, &bytes(2, b"Namespace")), &bytes(2, &bytes(1, &metadata))].concat();
        let read = object(&body).unwrap();
        assert_eq!(read["metadata"]["name"], "lab");
        assert_eq!(read["metadata"]["labels"], json!({ "team": "a" }));
        for length in 0..body.len() {
            assert_ne!(object(&body[..length]).as_ref(), Some(&read), "{length}");
        }
    }
    #[test]
    fn secrets_and_config_maps_are_read_with_what_is_in_them() {
        let pair = [bytes(1, b"userdata"), bytes(2, b"\x00\xff")].concat();
        let metadata = [bytes(1, b"s"), bytes(3, b"default")].concat();
        let message = [bytes(1, &metadata), bytes(2, &pair), bytes(3, b"Opaque"), vec![5 << 3, 1]].concat();
        let body = |kind: &[u8]| [MAGIC, &bytes(1, &bytes(2, kind)), &bytes(2, &message)].concat();
        let secret = object(&body(b"Secret")).unwrap();
        assert_eq!((&secret["data"]["userdata"], &secret["type"]), (&"AP8=".into(), &"Opaque".into()));
        assert_eq!(
            (&secret["immutable"], &secret["metadata"]["namespace"]),
            (&true.into(), &"default".into())
        );
        // What is no text is no ConfigMap's.
        assert_eq!(object(&body(b"ConfigMap")), None);
        assert_eq!(object(&body(b"Pod")), None);
        for length in 0..body(b"Secret").len() {
            assert_ne!(object(&body(b"Secret")[..length]).as_ref(), Some(&secret), "{length}");
        }
    }
}
