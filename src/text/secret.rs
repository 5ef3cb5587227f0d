//! Masks secrets in properties: their values are shown as `***`.
//!
//! A masked object can be sent back: [`restore`] replaces `***` with the existing values, so that a client can read a
//! rule, change one member and write it again. This module knows names and JSON, but neither the client nor the store.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// The replacement for a secret.
pub const HIDDEN: &str = "***";

/// Properties whose members are all secret.
const SECRET_MEMBERS: &[&str] = &["headers", "requestheader", "formdata"];

const SECRETS: &[&str] = &["onopen", "privatekeyraw", "oauth", "authorization", "credentials", "encprops"];

/// A property or URL query parameter whose name contains one of these is a secret.
const SECRET_WORDS: &[&str] =
    &["password", "passwd", "passphrase", "pwd", "secret", "token", "apikey", "accesskey", "signature", "listenkey"];

/// Further secret parameters of URL queries.
const SECRET_FIELDS: &[&str] = &["key", "sig", "auth", "pass", "jwt"];

/// Properties with addresses, whose query may contain secrets.
const ADDRESSES: &[&str] = &["path", "datasource", "addr", "address", "url", "proxy"];

/// Properties that say where secrets are sent.
const DESTINATIONS: &[&str] = &["addr", "address", "url", "proxy"];

/// Properties whose text may contain `***` and `://` as ordinary text.
const PLAIN: &[&str] = &["sql", "datatemplate", "id", "name", "description"];

/// A value is masked, but there is no old value to restore.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NothingHidden {
    #[error("property {0} is {HIDDEN}, which keeps the old value, but there is none: write the value")]
    Unknown(String),
    /// A secret does not follow to another host.
    #[error("property {0} is {HIDDEN}, which keeps the old value, but the address is another one: write the value")]
    Moved(String),
}

fn plain(name: &str) -> String {
    name.chars().filter(|c| *c != '_' && *c != '-').collect::<String>().to_ascii_lowercase()
}

fn is_among(names: &[&str], name: &str) -> bool {
    names.contains(&plain(name).as_str())
}

fn has_secret_word(name: &str) -> bool {
    let name = plain(name);
    SECRET_WORDS.iter().any(|word| name.contains(word))
}

/// Whether a property with this name is a secret, or contains only secrets.
pub fn is_secret(name: &str) -> bool {
    is_among(SECRETS, name) || is_among(SECRET_MEMBERS, name) || has_secret_word(name)
}

/// Masks the secrets in an object of properties, or in anything that contains such objects. Returns whether there were
/// any.
pub fn mask(value: &mut Value) -> bool {
    match value {
        Value::Object(members) => members.iter_mut().fold(false, |any, (name, value)| mask_member(name, value) | any),
        Value::Array(items) => items.iter_mut().fold(false, |any, item| mask(item) | any),
        _ => false,
    }
}

fn mask_member(name: &str, value: &mut Value) -> bool {
    if is_among(SECRET_MEMBERS, name)
        && let Value::Object(members) = value
    {
        return members.values_mut().fold(false, |any, value| hide(value) | any);
    }
    if is_secret(name) {
        return hide(value);
    }
    match value {
        Value::String(text) if !is_among(PLAIN, name) => match masked_address(text, is_among(ADDRESSES, name)) {
            Cow::Borrowed(_) => false,
            Cow::Owned(masked) => {
                *text = masked;
                true
            }
        },
        Value::Array(items) => items.iter_mut().fold(false, |any, item| mask_member(name, item) | any),
        other => mask(other),
    }
}

fn hide(value: &mut Value) -> bool {
    let nothing = match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    };
    if !nothing {
        *value = Value::String(HIDDEN.to_owned());
    }
    !nothing
}

/// Masks the secrets in property sets. Users choose the sets' names, so a set named `token` is not a secret.
pub fn mask_sets(sets: &mut Map<String, Value>) -> bool {
    sets.values_mut().fold(false, |any, set| mask(set) | any)
}

/// A JSON text with its secrets masked. Text without secrets, and text that is not JSON, is unchanged.
pub fn masked_json(text: &str) -> Cow<'_, str> {
    let Ok(mut value) = serde_json::from_str::<Value>(text) else { return Cow::Borrowed(text) };
    if mask(&mut value) { Cow::Owned(value.to_string()) } else { Cow::Borrowed(text) }
}

/// The same for property sets by name.
pub fn masked_sets_json(text: &str) -> Cow<'_, str> {
    let Ok(mut sets) = serde_json::from_str::<Map<String, Value>>(text) else { return Cow::Borrowed(text) };
    if mask_sets(&mut sets) { Cow::Owned(Value::Object(sets).to_string()) } else { Cow::Borrowed(text) }
}

/// An address with its user and the secrets in its query masked, for logs and statuses too.
pub fn masked_url(text: &str) -> Cow<'_, str> {
    masked_address(text, true)
}

fn masked_address(text: &str, with_query: bool) -> Cow<'_, str> {
    let mut masked = Cow::Borrowed(text);
    if let Some(start) = text.find("://").map(|at| at + 3) {
        let end = text[start..].find(['/', '?', '#', ' ', '"', '\'']).map_or(text.len(), |at| start + at);
        if let Some(at) = text[start..end].rfind('@').filter(|at| text[start..start + at] != *HIDDEN) {
            masked = Cow::Owned(format!("{}{HIDDEN}{}", &text[..start], &text[start + at..]));
        }
    }
    let Some((head, query)) = masked.split_once('?').filter(|_| with_query) else { return masked };
    let mut any = false;
    let fields: Vec<String> = query
        .split('&')
        .map(|field| match field.split_once('=') {
            Some((name, value)) if !value.is_empty() && is_secret_field(name) => {
                any |= value != HIDDEN;
                format!("{name}={HIDDEN}")
            }
            _ => field.to_owned(),
        })
        .collect();
    if any { Cow::Owned(format!("{head}?{}", fields.join("&"))) } else { masked }
}

fn is_secret_field(name: &str) -> bool {
    is_among(SECRET_FIELDS, name) || has_secret_word(name)
}

/// Replaces masked values in `new` by those of `old`.
///
/// # Errors
/// [`NothingHidden`] names a property that `old` does not have, or has for another address.
pub fn restore(new: &mut Value, old: Option<&Value>) -> Result<(), NothingHidden> {
    if let (Value::Object(members), Some(Value::Object(old))) = (&*new, old)
        && leads_elsewhere(members, old)
        && let Some((name, _)) = members.iter().find(|(name, value)| is_hidden(name, value))
    {
        return Err(NothingHidden::Moved(name.clone()));
    }
    match new {
        Value::Object(members) => members.iter_mut().try_for_each(|(name, value)| {
            let before = old.and_then(Value::as_object).and_then(|old| member(old, name));
            restore_member(name, value, before)
        }),
        Value::Array(items) => {
            items.iter_mut().enumerate().try_for_each(|(index, item)| restore(item, old.and_then(|old| old.get(index))))
        }
        _ => Ok(()),
    }
}

/// Whether an address of these properties names another host or port than before.
fn leads_elsewhere(new: &Map<String, Value>, old: &Map<String, Value>) -> bool {
    let host = |text: &str| -> String {
        let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        authority.rsplit('@').next().unwrap_or_default().to_ascii_lowercase()
    };
    let of = |members: &Map<String, Value>, name: &str| member(members, name).and_then(Value::as_str).map(host);
    DESTINATIONS.iter().any(|name| of(new, name).is_some_and(|new| of(old, name) != Some(new)))
}

/// Whether a property is a secret, or contains one, that is masked.
fn is_hidden(name: &str, value: &Value) -> bool {
    let hides = |value: &Value| value.as_str() == Some(HIDDEN);
    let members = value.as_object().filter(|_| is_among(SECRET_MEMBERS, name));
    (is_secret(name) && hides(value)) || members.is_some_and(|members| members.values().any(hides))
}

fn member<'a>(members: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let loose = || members.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    members.get(name).or_else(loose)
}

fn restore_member(name: &str, new: &mut Value, old: Option<&Value>) -> Result<(), NothingHidden> {
    let missing = || NothingHidden::Unknown(name.to_owned());
    if is_among(SECRET_MEMBERS, name)
        && let Value::Object(members) = new
    {
        return members.iter_mut().try_for_each(|(field, value)| {
            let before = old.and_then(Value::as_object).and_then(|old| member(old, field));
            put_back(value, before).map_err(|()| NothingHidden::Unknown(format!("{name}.{field}")))
        });
    }
    if is_secret(name) {
        return put_back(new, old).map_err(|()| missing());
    }
    match new {
        Value::String(text) if text.contains(HIDDEN) && !is_among(PLAIN, name) => {
            let is_address = is_among(ADDRESSES, name);
            let before = old.and_then(Value::as_str);
            match before.filter(|before| masked_address(before, is_address) == **text) {
                Some(before) => *text = before.to_owned(),
                // In other texts `***` is ordinary text.
                None if is_address => return Err(missing()),
                None => {}
            }
            Ok(())
        }
        Value::Array(items) => items
            .iter_mut()
            .enumerate()
            .try_for_each(|(index, item)| restore_member(name, item, old.and_then(|old| old.get(index)))),
        other => restore(other, old),
    }
}

fn put_back(new: &mut Value, old: Option<&Value>) -> Result<(), ()> {
    if new.as_str() == Some(HIDDEN) {
        *new = old.filter(|old| !old.is_null()).ok_or(())?.clone();
    }
    Ok(())
}

/// [`restore`] for a JSON text. Text that is not JSON is unchanged: the caller reports it.
///
/// # Errors
/// As [`restore`].
pub fn restored_json<'a>(new: &'a str, old: Option<&str>) -> Result<Cow<'a, str>, NothingHidden> {
    if !new.contains(HIDDEN) {
        return Ok(Cow::Borrowed(new));
    }
    let Ok(mut value) = serde_json::from_str::<Value>(new) else { return Ok(Cow::Borrowed(new)) };
    let old = old.and_then(|old| serde_json::from_str::<Value>(old).ok());
    let before = value.clone();
    restore(&mut value, old.as_ref())?;
    Ok(if value == before { Cow::Borrowed(new) } else { Cow::Owned(value.to_string()) })
}

/// The same for property sets by name.
///
/// # Errors
/// As [`restore`].
pub fn restored_sets_json<'a>(new: &'a str, old: Option<&str>) -> Result<Cow<'a, str>, NothingHidden> {
    if !new.contains(HIDDEN) {
        return Ok(Cow::Borrowed(new));
    }
    let Ok(mut sets) = serde_json::from_str::<Map<String, Value>>(new) else { return Ok(Cow::Borrowed(new)) };
    let old = old.and_then(|old| serde_json::from_str::<Map<String, Value>>(old).ok()).unwrap_or_default();
    sets.iter_mut().try_for_each(|(name, set)| restore(set, old.get(name)))?;
    Ok(Cow::Owned(Value::Object(sets).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rule() -> Value {
        json!({"id": "r", "sql": "SELECT '***' FROM s", "actions": [
            {"websocket": {"addr": "h:1", "path": "/x?access_token=abc&a=b", "headers": {"Authorization": "Bearer x"},
                "onOpen": [{"op": "login", "key": "k"}], "sendSingle": true, "proxy": "http://u:p@proxy:3128",
                "apiKey": "k", "token": "", "keyField": "id", "dataTemplate": "***"}},
            {"log": {}}]})
    }

    #[test]
    fn secrets_are_hidden_and_nothing_else() {
        let mut shown = rule();
        assert!(mask(&mut shown));
        let expected = json!({"id": "r", "sql": "SELECT '***' FROM s", "actions": [
            {"websocket": {"addr": "h:1", "path": "/x?access_token=***&a=b", "headers": {"Authorization": "***"},
                "onOpen": "***", "sendSingle": true, "proxy": "http://***@proxy:3128",
                "apiKey": "***", "token": "", "keyField": "id", "dataTemplate": "***"}},
            {"log": {}}]});
        assert_eq!(shown, expected);
        let mut open = json!({"id": "r", "actions": [{"websocket": {"path": "/x?a=b", "key": "id"}}]});
        assert!(!mask(&mut open));
        assert_eq!(masked_json("no JSON"), "no JSON");
        let sets = "{\"token\":{\"token\":\"x\",\"path\":\"/a\"}}";
        let shown = masked_sets_json(sets);
        assert_eq!(shown, "{\"token\":{\"token\":\"***\",\"path\":\"/a\"}}");
        assert_eq!(restored_sets_json(&shown, Some(sets)).as_deref(), Ok(sets));
        assert!(restored_sets_json(&shown, None).is_err());
        assert_eq!(masked_json("{ \"a\" : 1 }"), "{ \"a\" : 1 }");
    }

    #[test]
    fn what_was_hidden_comes_back() {
        let mut shown = rule();
        mask(&mut shown);
        restore(&mut shown, Some(&rule())).expect("all of it was there");
        assert_eq!(shown, rule());
        for (new, property) in [
            (json!({"headers": {"B": "***"}}), "headers.B"),
            (json!({"onOpen": "***"}), "onOpen"),
            (json!({"path": "/y?token=***"}), "path"),
        ] {
            let old = json!({"headers": {"A": "x"}, "path": "/x?token=z"});
            assert_eq!(
                restore(&mut new.clone(), Some(&old)),
                Err(NothingHidden::Unknown(property.to_owned())),
                "{new}"
            );
            assert!(restore(&mut new.clone(), None).is_err(), "{new}");
        }
        let text = "{\"dataTemplate\": \"***\"}";
        assert_eq!(restored_json(text, None), Ok(Cow::Borrowed(text)));
    }

    #[test]
    fn what_was_hidden_does_not_follow_to_another_host() {
        let old = json!({"a": [{"addr": "h:1", "url": "https://u:p@H/x", "headers": {"A": "x"}, "token": "t"}]});
        let with = |name: &str, value: &str| {
            let mut new =
                json!({"a": [{"addr": "h:1", "url": "https://h/y", "headers": {"A": "***"}, "token": "***"}]});
            new["a"][0][name] = json!(value);
            restore(&mut new, Some(&old)).map(|()| new["a"][0]["token"].clone())
        };
        for (name, value) in [("path", "/z"), ("url", "https://h/z?a=b"), ("addr", "h:1")] {
            assert_eq!(with(name, value), Ok(json!("t")), "{name}");
        }
        let moved = |name: &str| Err(NothingHidden::Moved(name.to_owned()));
        for (name, value) in [("addr", "h:2"), ("url", "https://h.evil/y"), ("proxy", "http://evil:1")] {
            assert_eq!(with(name, value), moved("headers"), "{name}");
        }
        let mut new = json!({"addr": "g:1", "headers": {"A": "new"}});
        assert_eq!(restore(&mut new, Some(&old["a"][0])), Ok(()), "nothing is masked");
    }

    #[test]
    fn addresses_hide_users_and_tokens() {
        for (address, shown) in [
            ("wss://u:p@host:1/x?y=1", "wss://***@host:1/x?y=1"),
            ("wss://host/x?TOKEN=1&b=2#f", "wss://host/x?TOKEN=***&b=2#f"),
            ("/x?key=a&sig=b&monkey=c", "/x?key=***&sig=***&monkey=c"),
            ("/x?pwd=a&pass=b&jwt=c&bypass=d", "/x?pwd=***&pass=***&jwt=***&bypass=d"),
            ("/a@b", "/a@b"),
            ("wss://***@host", "wss://***@host"),
        ] {
            assert_eq!(masked_url(address), shown);
        }
    }
}
