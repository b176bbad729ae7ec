//! What a client of the monitor sends.

use monitor::protocol::{FrameError, MAX_VALUE_BYTES, Request, Splitter, parse_json};

pub(crate) fn stream(bytes: &[u8]) {
    let values = split([bytes].into_iter());
    let again = split(bytes.chunks(1));
    assert_eq!(values, again, "the same bytes in other pieces are other values");
    for value in values.into_iter().flatten() {
        assert!(value.len() <= MAX_VALUE_BYTES, "a value of {} bytes got through", value.len());
        let Ok(json) = parse_json(&value) else { continue };
        assert_eq!(json, serde_json::from_slice::<serde_json::Value>(&value).expect("what is JSON is JSON"));
        let line = match Request::parse(json) {
            Ok(request) => request.to_line(),
            Err(reply) => reply.to_line(),
        };
        let newlines = line.iter().filter(|byte| **byte == b'\n').count();
        assert!(newlines == 1 && line.ends_with(b"\n"), "not one line: {}", String::from_utf8_lossy(&line));
        serde_json::from_slice::<serde_json::Value>(&line).expect("what is sent is JSON");
    }
}

fn split<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Result<Vec<u8>, FrameError>> {
    let mut splitter = Splitter::new();
    let mut values = Vec::new();
    for mut piece in pieces {
        while let Some(value) = splitter.next(&mut piece) {
            values.push(value);
        }
        assert!(piece.is_empty(), "{} bytes were left", piece.len());
    }
    values.extend(splitter.finish().map(Ok));
    values
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    [
        "{\"execute\":\"qmp_capabilities\"}\r\n{\"execute\":\"query-status\",\"id\":[1,{\"a\":null}]}\n",
        "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"tcp:127.0.0.1:4444\",\"\\u0041\\ud83d\\ude00\":1e308}}",
        "{\"execute\":\"stop\"}{\"execute\":\"cont\",\"control\":{}}[1,2]\"text\" 12 nul\n",
        "{\"execute\":\"cont\",\"arguments\":{\"a\":1,\"\\u0061\":2}}",
        "{\"execute\":\"broken\n{\"execute\":\"query-version\"}\n",
        "\u{feff}{\"id\":-0.0,\"execute\":7}\n",
        "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    ]
    .map(Into::into)
    .to_vec()
}
