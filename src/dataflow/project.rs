//! Makes result rows from slots: one walk over the items of the select list writes JSON text or makes a row.
//!
//! Columns that are passed through unchanged are copied as text from the message. Sinks inside the process, templates
//! and other formats get the row as values.

use std::borrow::Cow;

use smallvec::SmallVec;

use crate::expr::{EvalError, Expr, Scope};
use crate::metrics::Place;
use crate::plan::physical::{Item, Projection, WholeMessage};
use crate::value::json;
use crate::value::{Object, Row, Text, Value};

/// Why a result row cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    #[error("run Select error: {0}")]
    Eval(#[from] EvalError),
    #[error("run Select error: {0}")]
    Encode(#[from] json::EncodeError),
}

impl RowError {
    /// The operator for which the error is counted.
    pub fn place(&self) -> Place {
        match self {
            RowError::Eval(_) => Place::Project,
            RowError::Encode(_) => Place::Encode,
        }
    }
}

/// The JSON text of each slot's column in the message, if it may be copied instead of encoded.
pub type RawText<'a> = &'a dyn Fn(usize) -> Option<&'a str>;

/// Writes a result row as a JSON object and returns the number of its members; a `*` that is copied whole counts as
/// one.
///
/// # Errors
/// [`RowError`]; `out` then holds a part of the row.
pub fn encode_row<'a>(
    out: &mut Vec<u8>,
    projection: &Projection,
    scope: &'a Scope<'a>,
    raw: RawText<'a>,
    send_nil: bool,
) -> Result<usize, RowError> {
    if let [Item::Star { messages }] = projection.items.as_slice()
        && let [WholeMessage { slot, except }] = messages.as_slice()
        && except.is_empty()
        && let Some(text) = whole(*slot, scope, raw)
    {
        out.extend_from_slice(text.as_bytes());
        return Ok(usize::from(text.len() > 2));
    }
    let spread = spread_keys(projection, scope)?;
    // Text is written directly; if members may replace others, the row is made first.
    let decoded = |item: &Item| match item {
        Item::Star { messages } => messages
            .iter()
            .any(|message| raw(message.slot).is_none() && matches!(scope.slots[message.slot], Value::Object(_))),
        _ => false,
    };
    if repeats(&spread) || projection.items.iter().any(decoded) {
        let row = decode_row(projection, scope, raw, send_nil)?;
        encode_members(out, &row)?;
        return Ok(row.len());
    }
    let mut text = JsonText { out, members: 0 };
    text.out.push(b'{');
    project(projection, scope, raw, send_nil, &spread, &mut text)?;
    text.out.push(b'}');
    Ok(text.members)
}

/// Makes a result row of values.
///
/// # Errors
/// [`RowError`]
pub fn decode_row<'a>(
    projection: &Projection,
    scope: &'a Scope<'a>,
    raw: RawText<'a>,
    send_nil: bool,
) -> Result<Row, RowError> {
    let spread = spread_keys(projection, scope)?;
    let mut row = Row::with_capacity(projection.items.len());
    project(projection, scope, raw, send_nil, &spread, &mut row)?;
    Ok(row)
}

/// Writes a row as a JSON object.
///
/// # Errors
/// [`json::EncodeError`]
pub fn encode_members(out: &mut Vec<u8>, row: &Row) -> Result<(), json::EncodeError> {
    out.push(b'{');
    let mut text = JsonText { out, members: 0 };
    for (name, value) in row {
        text.value(name, Cow::Borrowed(value))?;
    }
    out.push(b'}');
    Ok(())
}

/// A row as JSON for people; it ends before a value that has no JSON form.
pub fn shown(row: &Row) -> String {
    let mut text = Vec::new();
    if encode_members(&mut text, row).is_err() {
        text.extend_from_slice("…}".as_bytes());
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Receives the members of a result row, in order.
trait Members {
    /// A member as JSON text from the message.
    fn text(&mut self, name: &Text, json: &str);

    /// A member as a value.
    fn value(&mut self, name: &Text, value: Cow<'_, Value>) -> Result<(), json::EncodeError>;

    /// All members that the messages show and whose keys are not in `spread`. If keys are equal, the first message
    /// counts.
    fn messages<'a>(&mut self, messages: &[WholeMessage], scope: &'a Scope<'a>, raw: RawText<'a>, spread: &[Text]);
}

/// Passes the items of a projection to `to`.
fn project<'a>(
    projection: &Projection,
    scope: &'a Scope<'a>,
    raw: RawText<'a>,
    send_nil: bool,
    spread: &[Text],
    to: &mut impl Members,
) -> Result<(), RowError> {
    for item in &projection.items {
        match item {
            Item::Star { messages } => to.messages(messages, scope, raw, spread),
            Item::Field { name, .. } if spread.contains(name) => {}
            Item::Field { name, expr, plain } => {
                if let Expr::Slot(slot) = expr
                    && let Some(text) = raw(*slot)
                {
                    if text != "null" || *plain || send_nil {
                        to.text(name, text);
                    }
                    continue;
                }
                let value = expr.eval(scope)?;
                match value.as_ref() {
                    Value::Absent if !send_nil => {}
                    Value::Null if !*plain && !send_nil => {}
                    Value::Absent => to.value(name, Cow::Owned(Value::Null))?,
                    _ => to.value(name, value)?,
                }
            }
            Item::Spread { expr, name } => match &*json::expand(&*expr.eval(scope)?) {
                Value::Object(object) => {
                    for (key, value) in object.iter().filter(|(_, value)| !matches!(value, Value::Absent)) {
                        to.value(key, Cow::Borrowed(value))?;
                    }
                }
                Value::Absent if !send_nil => {}
                // A null element is an element too.
                value if !name.is_empty() => to.value(name, Cow::Borrowed(value))?,
                _ => {}
            },
            Item::Hidden { expr } => {
                expr.eval(scope)?;
            }
        }
    }
    Ok(())
}

/// Writes a row as JSON text. Each key must occur only once.
struct JsonText<'o> {
    out: &'o mut Vec<u8>,
    members: usize,
}

impl JsonText<'_> {
    fn separate(&mut self) {
        if self.members > 0 {
            self.out.push(b',');
        }
        self.members += 1;
    }

    fn key(&mut self, name: &str) {
        self.separate();
        json::write_key(self.out, name);
        self.out.push(b':');
    }
}

impl Members for JsonText<'_> {
    fn text(&mut self, name: &Text, json: &str) {
        self.key(name);
        self.out.extend_from_slice(json.as_bytes());
    }

    fn value(&mut self, name: &Text, value: Cow<'_, Value>) -> Result<(), json::EncodeError> {
        self.key(name);
        json::write_value(self.out, &value)
    }

    fn messages<'a>(&mut self, messages: &[WholeMessage], scope: &'a Scope<'a>, raw: RawText<'a>, spread: &[Text]) {
        let texts: SmallVec<[(&str, &[Text]); 4]> = messages
            .iter()
            .filter_map(|message| Some((whole(message.slot, scope, raw)?, message.except.as_slice())))
            .collect();
        let is_in = |key: &str, names: &[Text]| names.iter().any(|name| is_key(key, name));
        for (index, (text, except)) in texts.iter().enumerate() {
            for (key, value) in json::members(text) {
                if is_in(key, except) || is_in(key, spread) {
                    continue;
                }
                let shows = |(text, except): &(&str, &[Text])| {
                    !is_in(key, except) && json::members(text).any(|(other, _)| same_key(other, key))
                };
                if texts[..index].iter().any(shows) {
                    continue;
                }
                self.separate();
                self.out.extend_from_slice(key.as_bytes());
                self.out.push(b':');
                self.out.extend_from_slice(value.as_bytes());
            }
        }
    }
}

impl Members for Row {
    fn text(&mut self, name: &Text, json: &str) {
        put(self, name, json::value(json));
    }

    fn value(&mut self, name: &Text, value: Cow<'_, Value>) -> Result<(), json::EncodeError> {
        put(self, name, value.into_owned());
        Ok(())
    }

    fn messages<'a>(&mut self, messages: &[WholeMessage], scope: &'a Scope<'a>, raw: RawText<'a>, spread: &[Text]) {
        for WholeMessage { slot, except } in messages {
            let shown = |key: &Text| !except.contains(key) && !spread.contains(key);
            match (whole(*slot, scope, raw), &scope.slots[*slot]) {
                (Some(text), _) => {
                    // Through an object, because the last of duplicate keys in one message counts.
                    let object: Object =
                        json::members(text).map(|(key, value)| (json::key(key), json::value(value))).collect();
                    add_new(self, object.into_iter().filter(|(key, _)| shown(key)));
                }
                (None, Value::Object(object)) => {
                    let members = object.iter().filter(|(key, _)| shown(key));
                    add_new(self, members.map(|(key, value)| (key.clone(), value.clone())));
                }
                _ => {}
            }
        }
    }
}

/// Adds the members of one message that no earlier message has.
fn add_new(row: &mut Row, members: impl Iterator<Item = (Text, Value)>) {
    let before = row.len();
    for (name, value) in members {
        if !row[..before].iter().any(|(other, _)| *other == name) {
            row.push((name, value));
        }
    }
}

fn put(row: &mut Row, name: &Text, value: Value) {
    match row.iter_mut().find(|(other, _)| other == name) {
        Some((_, old)) => *old = value,
        None => row.push((name.clone(), value)),
    }
}

/// Keys that objects add at run time; they replace other items with the same name.
fn spread_keys<'a>(projection: &Projection, scope: &'a Scope<'a>) -> Result<Vec<Text>, RowError> {
    let mut spread = Vec::new();
    for item in &projection.items {
        if let Item::Spread { expr, .. } = item
            && let Value::Object(members) = &*json::expand(&*expr.eval(scope)?)
        {
            spread.extend(members.keys().cloned());
        }
    }
    Ok(spread)
}

/// Whether two objects add the same key.
fn repeats(keys: &[Text]) -> bool {
    keys.iter().enumerate().any(|(index, key)| keys[..index].contains(key))
}

/// The text of a whole message: from the message, or as kept in the slot.
fn whole<'a>(slot: usize, scope: &'a Scope<'a>, raw: RawText<'a>) -> Option<&'a str> {
    raw(slot).or_else(|| match &scope.slots[slot] {
        Value::Json(text) => Some(text),
        _ => None,
    })
}

/// Whether two keys are the same, as written in JSON.
fn same_key(left: &str, right: &str) -> bool {
    left == right || ((left.contains('\\') || right.contains('\\')) && json::key(left) == json::key(right))
}

/// Whether a key, as written in JSON with its quotes, is `name`.
fn is_key(raw: &str, name: &str) -> bool {
    let inner = &raw[1..raw.len() - 1];
    if inner.contains('\\') { json::key(raw) == name } else { inner == name }
}
