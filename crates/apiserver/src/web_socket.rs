//! How clients ask for a WebSocket: browsers cannot send a header with their token, and send it as a subprotocol, as Kubernetes has it.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hyper::{
    HeaderMap,
    header::{self, HeaderName, HeaderValue},
};

/// What a subprotocol begins with that is a token.
const BEARER: &str = "base64url.bearer.authorization.k8s.io.";
/// The subprotocol in which binary messages are bytes, as KubeVirt calls it.
pub(crate) const PLAIN: &str = "plain.kubevirt.io";

/// Headers to pass on, if this is a request for a WebSocket, and the header `Authorization` that its subprotocols stand for. No token is
/// passed on.
pub(crate) fn read(headers: &HeaderMap) -> (Option<HeaderMap>, Option<String>) {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let has = |name, word: &str| text(name).split(',').any(|part| part.trim().eq_ignore_ascii_case(word));
    if !has(header::CONNECTION, "upgrade")
        || !has(header::UPGRADE, "websocket")
        || text(header::SEC_WEBSOCKET_VERSION) != "13"
    {
        return (None, None);
    }
    let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| key.len() == 24) else {
        return (None, None);
    };
    let mut passed = HeaderMap::new();
    passed.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    passed.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    passed.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    passed.insert(header::SEC_WEBSOCKET_KEY, key.clone());
    let lists = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let protocols: Vec<_> =
        lists.filter_map(|list| list.to_str().ok()).flat_map(|list| list.split(',')).map(str::trim).collect();
    if protocols.contains(&PLAIN) {
        passed.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PLAIN));
    }
    let token = protocols.iter().find_map(|protocol| protocol.strip_prefix(BEARER));
    let token = token.and_then(|token| URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).ok());
    let bearer = token.and_then(|token| String::from_utf8(token).ok()).map(|token| format!("Bearer {token}"));
    (Some(passed), bearer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    const ASKED: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    #[test]
    fn a_token_that_is_a_subprotocol_is_taken_and_not_passed_on() {
        let protocols = format!("{PLAIN}, {BEARER}{}", URL_SAFE_NO_PAD.encode("secret"));
        let mut asked = ASKED.to_vec();
        asked.push(("sec-websocket-protocol", &protocols));
        let (passed, bearer) = read(&headers(&asked));
        assert_eq!(bearer.as_deref(), Some("Bearer secret"));
        let passed = passed.unwrap();
        assert_eq!(passed[header::SEC_WEBSOCKET_PROTOCOL], PLAIN);
        assert_eq!(passed.len(), 5, "{passed:?}");
    }

    #[test]
    fn what_is_no_websocket_is_none_and_its_token_counts_nothing() {
        let protocols = format!("{BEARER}{}", URL_SAFE_NO_PAD.encode("secret"));
        for missing in 0..ASKED.len() {
            let mut asked = ASKED.to_vec();
            asked.remove(missing);
            asked.push(("sec-websocket-protocol", &protocols));
            assert_eq!(read(&headers(&asked)), (None, None), "{missing}");
        }
        let mut asked = ASKED.to_vec();
        asked.push(("sec-websocket-protocol", "base64url.bearer.authorization.k8s.io.%%"));
        assert_eq!(read(&headers(&asked)).1, None);
    }
}
