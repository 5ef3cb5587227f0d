//! Paths of the data server: the endpoint for the path of a client, and the metadata of its connection.
//!
//! A path can be a pattern, `/ocpp/{id}`: one endpoint for all paths of this form. Rules read the values for the names,
//! and the headers of the handshake, as `meta(path_id)` and `meta(header_user_agent)`.

use std::collections::HashMap;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use tokio_tungstenite::tungstenite::http::HeaderMap;

use super::endpoint::Endpoint;
use crate::io::queue::Origin;
use crate::value::{Text, Value};

/// The values for the names of a pattern.
pub(super) type Segments = Vec<(String, String)>;

/// Headers that rules cannot read, since they would end up in results.
const SECRET: &[&str] = &["authorization", "cookie", "proxy-authorization", "sec-websocket-key"];

/// The most headers for rules, and the most bytes of each.
const HEADERS: usize = 32;
const HEADER_BYTES: usize = 256;

/// The endpoint for a path. A path without names is preferred over a pattern, and of several patterns the
/// alphabetically first one is used.
pub(super) fn find(routes: &HashMap<String, Arc<Endpoint>>, path: &str) -> Option<(Arc<Endpoint>, Segments)> {
    if let Some(endpoint) = routes.get(path) {
        // A client may request the pattern itself, as it is written.
        return Some((endpoint.clone(), matched(path, path).unwrap_or_default()));
    }
    let patterns = routes.iter().filter(|(route, _)| route.contains('{'));
    let matching = patterns.filter_map(|(route, endpoint)| Some((route, endpoint, matched(route, path)?)));
    let first = matching.min_by_key(|(route, ..)| *route);
    first.map(|(_, endpoint, segments)| (endpoint.clone(), segments))
}

/// The values for the names of a pattern, if the path matches.
fn matched(pattern: &str, path: &str) -> Option<Segments> {
    let mut segments = Segments::new();
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    loop {
        let (part, segment) = match (wanted.next(), given.next()) {
            (None, None) => return Some(segments),
            (Some(part), Some(segment)) => (part, segment),
            _ => return None,
        };
        match name(part) {
            Some(_) if segment.is_empty() => return None,
            Some(name) => {
                let text = percent_decode_str(segment).decode_utf8().ok()?;
                segments.push((name.to_owned(), text.into_owned()));
            }
            None if part == segment => {}
            None => return None,
        }
    }
}

/// The name in a segment of a pattern: `id` for `{id}`.
fn name(part: &str) -> Option<&str> {
    let name = part.strip_prefix('{')?.strip_suffix('}')?;
    let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    plain.then_some(name)
}

/// The metadata of a connection for rules: `client`, its id; `remote`, its address; `path_…` and `header_…`.
pub(super) fn origin(client: &Text, remote: &str, segments: &Segments, headers: Option<&HeaderMap>) -> Arc<Origin> {
    let text = |name: &'static str, value: &str| (Text::const_new(name), Value::from(value));
    let own = [text("client", client), text("remote", remote)];
    let path = segments.iter().map(|(name, value)| (Text::from(format!("path_{name}")), Value::from(value.as_str())));
    let from_client = headers.map(client_headers).unwrap_or_default();
    Arc::new(Origin { meta: Value::object(own.into_iter().chain(path).chain(from_client)) })
}

/// The headers for rules, with their names in `meta(…)`.
fn client_headers(headers: &HeaderMap) -> Vec<(Text, Value)> {
    let open = headers.iter().filter(|(name, _)| !SECRET.contains(&name.as_str()));
    open.take(HEADERS)
        .map(|(name, value)| {
            let value = value.as_bytes();
            let value = String::from_utf8_lossy(&value[..value.len().min(HEADER_BYTES)]);
            (Text::from(format!("header_{}", name.as_str().replace('-', "_"))), Value::from(&*value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_parts_of_paths() {
        for (pattern, path, expected) in [
            ("/ocpp/{id}", "/ocpp/CP%201", Some(vec![("id", "CP 1")])),
            ("/{a}/x/{b_2}", "/1/x/2", Some(vec![("a", "1"), ("b_2", "2")])),
            ("/ocpp/{id}", "/ocpp/", None),
            ("/ocpp/{id}", "/ocpp/1/2", None),
            ("/ocpp/{id}", "/other/1", None),
            ("/sym/{{.s}}", "/sym/x", None),
            ("/a", "/a", Some(vec![])),
            ("/ocpp/{id}", "/ocpp/{id}", Some(vec![("id", "{id}")])),
        ] {
            let expected: Option<Segments> = expected.map(|segments| {
                segments.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
            });
            assert_eq!(matched(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn secrets_are_not_told() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-api", "1"), ("authorization", "Bearer t"), ("user-agent", "charger")] {
            headers.insert(name, value.parse().expect("a value"));
        }
        let origin = origin(&"c1".into(), "127.0.0.1:9", &vec![("id".to_owned(), "7".to_owned())], Some(&headers));
        let Value::Object(meta) = &origin.meta else { panic!("an object") };
        let keys: Vec<&str> = meta.keys().map(Text::as_str).collect();
        assert_eq!(keys, ["client", "remote", "path_id", "header_x_api", "header_user_agent"]);
    }
}
