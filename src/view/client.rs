//! Messages of clients, parsed strictly, and the errors that clients get.

use serde::Deserialize;
use serde_json::{Map, Value as Json};

use crate::value::Text;

/// The largest message from a client, bytes.
pub const MESSAGE_BYTES: usize = 64 * 1024;

/// Why a request is refused. The names are part of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    BadMessage,
    UnknownView,
    UnknownParam,
    BadParam,
    TooManyValues,
    TooManySubscriptions,
    Duplicate,
    NotSubscribed,
    Forbidden,
    TooLarge,
    TooManyClients,
}

impl ErrorCode {
    /// The name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            ErrorCode::BadMessage => "bad_message",
            ErrorCode::UnknownView => "unknown_view",
            ErrorCode::UnknownParam => "unknown_param",
            ErrorCode::BadParam => "bad_param",
            ErrorCode::TooManyValues => "too_many_values",
            ErrorCode::TooManySubscriptions => "too_many_subscriptions",
            ErrorCode::Duplicate => "duplicate",
            ErrorCode::NotSubscribed => "not_subscribed",
            ErrorCode::Forbidden => "forbidden",
            ErrorCode::TooLarge => "too_large",
            ErrorCode::TooManyClients => "too_many_clients",
        }
    }

    /// Whether the socket is closed after this error.
    pub fn closes(self) -> bool {
        matches!(self, ErrorCode::TooLarge | ErrorCode::TooManyClients)
    }
}

/// A refused request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ClientError {
    pub code: ErrorCode,
    pub message: String,
    /// whether the same request may succeed later
    pub retry: bool,
}

impl ClientError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> ClientError {
        ClientError { code, message: message.into(), retry: false }
    }

    /// An error of a request that may succeed later.
    pub fn for_now(code: ErrorCode, message: impl Into<String>) -> ClientError {
        ClientError { retry: true, ..ClientError::new(code, message) }
    }
}

/// A message of a client.
#[derive(Debug)]
pub enum Request {
    Subscribe(Subscribe),
    Unsubscribe {
        /// repeated in an error
        id: Option<Json>,
        s: u64,
    },
}

/// `{"t":"subscribe",…}`
#[derive(Debug, Default)]
pub struct Subscribe {
    /// repeated in the reply
    pub id: Option<Json>,
    pub view: Text,
    /// the values of each parameter
    pub params: Vec<(Text, Vec<Json>)>,
    pub cursor: Option<String>,
    /// ms between deltas; 0: without delay
    pub every: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSubscribe {
    #[serde(rename = "t")]
    _t: String,
    #[serde(default, rename = "id")]
    _id: Option<Json>,
    view: Text,
    #[serde(default)]
    params: Option<Map<String, Json>>,
    #[serde(default)]
    cursor: Option<String>,
    #[serde(default)]
    every: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawUnsubscribe {
    #[serde(rename = "t")]
    _t: String,
    #[serde(default, rename = "id")]
    _id: Option<Json>,
    s: u64,
}

/// A member of a message: its name, whether it must be there, which values fit, and what these are in words.
type Member = (&'static str, bool, fn(&Json) -> bool, &'static str);

const SUBSCRIBE: &[Member] = &[
    ("view", true, Json::is_string, "the name of a view"),
    ("params", false, Json::is_object, "an object of values by column"),
    ("cursor", false, Json::is_string, "a text, as an earlier frame had it"),
    ("every", false, Json::is_u64, "a whole number of milliseconds"),
];

const UNSUBSCRIBE: &[Member] = &[("s", true, Json::is_u64, "the number of a subscription")];

/// The first member that is missing or does not fit, in words.
fn wrong_member(message: &Json, members: &[Member]) -> Option<String> {
    members.iter().find_map(|(name, needed, fits, expected)| match message.get(name) {
        None | Some(Json::Null) if !needed => None,
        None => Some(format!("\"{name}\" is missing: expected {expected}")),
        Some(value) => (!fits(value)).then(|| format!("\"{name}\" must be {expected}")),
    })
}

/// Parses a message. An error has the message's `id`, if there is one.
pub fn read(text: &str) -> Result<Request, (Option<Json>, ClientError)> {
    let bad = |id: Option<Json>, message: String| (id, ClientError::new(ErrorCode::BadMessage, message));
    let message: Json =
        serde_json::from_str(text).map_err(|error| bad(None, format!("the message is not JSON: {error}")))?;
    let id = message.get("id").filter(|id| is_id(id)).cloned();
    if message.get("id").is_some_and(|id| !is_id(id) && !id.is_null()) {
        return Err(bad(None, "\"id\" must be a text of up to 256 bytes or a number".into()));
    }
    let kind = match message.get("t") {
        Some(Json::String(kind)) => kind.clone(),
        _ => return Err(bad(id, "a message is an object with \"t\":\"subscribe\" or \"t\":\"unsubscribe\"".into())),
    };
    let members = match kind.as_str() {
        "subscribe" => SUBSCRIBE,
        "unsubscribe" => UNSUBSCRIBE,
        _ => &[],
    };
    if let Some(wrong) = wrong_member(&message, members) {
        return Err(bad(id, format!("{kind}: {wrong}")));
    }
    match kind.as_str() {
        "subscribe" => match serde_json::from_value::<RawSubscribe>(message) {
            Ok(raw) => {
                let values = |value: Json| match value {
                    Json::Array(values) => values,
                    value => vec![value],
                };
                let params = raw.params.unwrap_or_default();
                Ok(Request::Subscribe(Subscribe {
                    id,
                    view: raw.view,
                    params: params.into_iter().map(|(name, value)| (name.into(), values(value))).collect(),
                    cursor: raw.cursor,
                    every: raw.every.unwrap_or(0),
                }))
            }
            Err(error) => Err(bad(id, format!("subscribe: {error}"))),
        },
        "unsubscribe" => match serde_json::from_value::<RawUnsubscribe>(message) {
            Ok(raw) => Ok(Request::Unsubscribe { id, s: raw.s }),
            Err(error) => Err(bad(id, format!("unsubscribe: {error}"))),
        },
        other => Err(bad(
            id,
            format!("unknown message {other:?}: clients send \"subscribe\" and \"unsubscribe\"", other = short(other)),
        )),
    }
}

fn is_id(id: &Json) -> bool {
    match id {
        Json::String(text) => text.len() <= 256,
        Json::Number(_) => true,
        _ => false,
    }
}

fn short(text: &str) -> String {
    text.chars().take(40).collect()
}

/// The subscription in the query of a URL.
///
/// # Errors
/// [`ClientError`] for an unknown name that starts with `_`, and for invalid values.
pub fn read_query(view: Text, query: &str) -> Result<Subscribe, ClientError> {
    let mut subscribe = Subscribe { view, ..Subscribe::default() };
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "_cursor" => subscribe.cursor = Some(value.into_owned()),
            "_every" => {
                subscribe.every = value.parse().map_err(|_| {
                    ClientError::new(ErrorCode::BadParam, "_every must be a whole number of milliseconds")
                })?;
            }
            // Already checked when the client connected.
            "_token" | "access_token" => {}
            "_limit" => {
                let message = "_limit is for GET /views/{name}/rows; a view's own LIMIT limits its rows";
                return Err(ClientError::new(ErrorCode::BadParam, message));
            }
            name if name.starts_with('_') => {
                let message = format!("unknown parameter {name}: there are _cursor, _every and _token");
                return Err(ClientError::new(ErrorCode::UnknownParam, message));
            }
            name => {
                let value = Json::String(value.into_owned());
                match subscribe.params.iter_mut().find(|(known, _)| known == name) {
                    Some((_, values)) => values.push(value),
                    None => subscribe.params.push((name.into(), vec![value])),
                }
            }
        }
    }
    Ok(subscribe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_members_and_no_types_of_this_program() {
        for (text, expected) in [
            (r#"{"t":"subscribe"}"#, "subscribe: \"view\" is missing: expected the name of a view"),
            (r#"{"t":"subscribe","view":7}"#, "subscribe: \"view\" must be the name of a view"),
            (
                r#"{"t":"subscribe","view":"v","every":"x"}"#,
                "subscribe: \"every\" must be a whole number of milliseconds",
            ),
            (
                r#"{"t":"subscribe","view":"v","params":[]}"#,
                "subscribe: \"params\" must be an object of values by column",
            ),
            (r#"{"t":"unsubscribe","s":-1}"#, "unsubscribe: \"s\" must be the number of a subscription"),
        ] {
            let Err((_, error)) = read(text) else { panic!("{text} is accepted") };
            assert_eq!(error.message, expected);
        }
        assert!(read(r#"{"t":"subscribe","view":"v","every":null,"params":null,"cursor":null}"#).is_ok());
    }
}
