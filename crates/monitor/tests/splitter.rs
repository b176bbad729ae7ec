//! Cutting a stream into values: the same values whatever the pieces it comes in, and no panic on anything.

use proptest::prelude::*;
use serde_json::Value;
use whimbrel_monitor::protocol::{FrameError, MAX_VALUE_BYTES, Splitter};

/// All that a splitter makes of a stream that comes in these pieces.
fn split(pieces: &[&[u8]]) -> Vec<Result<Vec<u8>, FrameError>> {
    let mut splitter = Splitter::new();
    let mut values = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        while let Some(value) = splitter.next(&mut rest) {
            values.push(value);
        }
    }
    values.extend(splitter.finish().map(Ok));
    values
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        r#"[{}\[\]"\\,: \n]{0,8}"#.prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,6}", inner, 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn json_comes_out_as_it_went_in(values in prop::collection::vec((json(), any::<bool>()), 0..6), piece in 1usize..20) {
        let mut stream = Vec::new();
        for (value, pretty) in &values {
            let text = if *pretty { serde_json::to_vec_pretty(value) } else { serde_json::to_vec(value) };
            stream.extend(text.unwrap());
            stream.push(b'\n');
        }
        let pieces: Vec<&[u8]> = stream.chunks(piece).collect();
        let parsed: Vec<Value> =
            split(&pieces).into_iter().map(|value| serde_json::from_slice(&value.unwrap()).unwrap()).collect();
        let expected: Vec<Value> = values.into_iter().map(|(value, _)| value).collect();
        prop_assert_eq!(parsed, expected);
    }

    #[test]
    fn rubbish_is_cut_the_same_way_whatever_its_pieces(
        stream in r#"[{}\[\]"\\,: \na1]{0,200}"#, piece in 1usize..20
    ) {
        let stream = stream.as_bytes();
        let pieces: Vec<&[u8]> = stream.chunks(piece).collect();
        prop_assert_eq!(split(&pieces), split(&[stream]));
    }

    #[test]
    fn a_request_on_a_line_of_its_own_is_found_after_any_rubbish(stream in prop::collection::vec(any::<u8>(), 0..200)) {
        // Rubbish may open brackets that only the second of two lines proves to be left open.
        let request = b"\n{\"execute\":\"stop\"}\n";
        let values = split(&[&stream, request, request, request]);
        let found = values.iter().flatten().filter(|value| value.as_slice() == &request[1..request.len() - 1]).count();
        prop_assert!(found >= 1, "{:?}", values);
    }
}

#[test]
fn the_longest_value_fits_and_one_byte_more_does_not() {
    let text = |length: usize| format!("\"{}\"", "x".repeat(length - 2));
    let longest = text(MAX_VALUE_BYTES);
    assert_eq!(split(&[longest.as_bytes()]), [Ok(longest.clone().into_bytes())]);
    let outcome = split(&[text(MAX_VALUE_BYTES + 1).as_bytes(), b"\n1\n"]);
    assert_eq!(outcome, [Err(FrameError::TooLong), Ok(b"1".to_vec())]);
}

#[test]
fn what_is_too_deep_is_skipped_to_its_end_and_the_next_value_is_found() {
    let deep = format!("{}{}7 8 ", "[".repeat(1000), "]".repeat(1000));
    assert_eq!(split(&[deep.as_bytes()]), [Err(FrameError::TooDeep), Ok(b"7".to_vec()), Ok(b"8".to_vec())]);
}
