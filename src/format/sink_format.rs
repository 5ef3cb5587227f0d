//! How a sink wants its results: the common properties of sinks, as data and as code.
//!
//! In the order of their work: rows are gathered (`batchSize`, `lingerInterval`), made into text by a template, one
//! member is taken (`dataField`), members are chosen (`fields`, `excludeFields`), the value is encoded (`format`) and
//! compressed. A plain shape, JSON without any of these, is written by `dataflow::output` itself, without this detour.

use std::sync::Arc;

use crate::format::compress::{CompressError, Method};
use crate::format::template::{RunError, Template};
use crate::format::{delimited, json, urlencoded};
use crate::value::cast;
use crate::value::{Row, Text, Value};

/// How a sink wants its results.
#[derive(Clone, Debug, Default)]
pub struct SinkFormat {
    /// sendSingle: each row is a message, an object; otherwise the rows of one result are, as an array
    pub send_single: bool,
    /// omitIfEmpty: a list without rows, and with `send_single` a row without members, is not sent
    pub omit_if_empty: bool,
    /// dataTemplate, as written and parsed
    pub template: Option<(Text, Arc<Template>)>,
    /// dataField
    pub data_field: Option<Text>,
    /// fields: these, in this order
    pub fields: Vec<Text>,
    /// excludeFields: all but these
    pub excluded: Vec<Text>,
    /// format
    pub format: OutputFormat,
    /// batchSize: rows of a message; 0: no batches by number
    pub batch_size: usize,
    /// lingerInterval, ms: rows wait no longer for others; 0: no batches by time
    pub linger: i64,
    /// compression
    pub compression: Option<Method>,
    /// to: the id of the client that a row is for, as written and parsed; each row is then a message
    pub to: Option<(Text, Arc<Template>)>,
}

/// How a message is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OutputFormat {
    /// JSON
    #[default]
    Json,
    /// values between delimiters, a line a row
    Delimited {
        /// what stands between two values
        delimiter: Text,
        /// a line of names before the rows
        header: bool,
    },
    /// a form
    UrlEncoded,
    /// the bytes of one value
    Binary,
    /// not written at all: rows, for sinks that take them as they are
    Rows,
}

/// Two shapes are the same where their results are.
impl PartialEq for SinkFormat {
    fn eq(&self, other: &SinkFormat) -> bool {
        let text = |template: &Option<(Text, Arc<Template>)>| template.as_ref().map(|(text, _)| text.clone());
        (self.send_single, self.omit_if_empty, self.batch_size, self.linger)
            == (other.send_single, other.omit_if_empty, other.batch_size, other.linger)
            && (&self.data_field, &self.fields, &self.excluded) == (&other.data_field, &other.fields, &other.excluded)
            && (&self.format, self.compression) == (&other.format, other.compression)
            && text(&self.template) == text(&other.template)
            && text(&self.to) == text(&other.to)
    }
}

impl SinkFormat {
    /// JSON of lists of rows.
    pub fn lists() -> SinkFormat {
        SinkFormat::default()
    }

    /// The same for a sink that takes rows as they are: nothing is written.
    pub fn of_rows(&self) -> SinkFormat {
        SinkFormat { format: OutputFormat::Rows, compression: None, ..self.clone() }
    }

    /// Whether results are JSON, or rows, as they are.
    pub fn is_plain(&self) -> bool {
        let SinkFormat { template, data_field, fields, excluded, format, batch_size, linger, compression, to, .. } =
            self;
        template.is_none()
            && to.is_none()
            && data_field.is_none()
            && fields.is_empty()
            && excluded.is_empty()
            && matches!(format, OutputFormat::Json | OutputFormat::Rows)
            && (*batch_size, *linger) == (0, 0)
            && compression.is_none()
    }

    /// Whether messages are text.
    pub fn is_text(&self) -> bool {
        self.compression.is_none() && self.format != OutputFormat::Binary
    }

    /// Whether rows wait for others.
    pub fn gathers(&self) -> bool {
        self.batch_size > 0 || self.linger > 0
    }
}

/// Why a message could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ShapeError {
    /// the template failed
    #[error(transparent)]
    Template(#[from] RunError),
    /// the template of `to` failed, or gives nothing
    #[error("to: {0}")]
    To(String),
    /// what the template gave is no JSON where JSON is needed
    #[error("dataTemplate gives no JSON, which dataField, fields, excludeFields and memory need: {0}")]
    NoJson(json::JsonError),
    /// the value has no such member
    #[error("dataField {0} is not in the result")]
    DataField(Text),
    /// a value that is no result
    #[error("dataField {0} is neither an object nor a list of objects")]
    NoRows(Text),
    /// a value that the format cannot write
    #[error("the result cannot be written as {0}")]
    Format(&'static str),
    /// a value that JSON cannot say
    #[error(transparent)]
    Encode(#[from] json::EncodeError),
    /// compression
    #[error(transparent)]
    Compress(#[from] CompressError),
}

/// Makes messages of rows.
#[derive(Debug)]
pub struct Batcher {
    shape: Arc<SinkFormat>,
    /// rows that wait for others
    gathered: Vec<Row>,
    /// when they go at the latest, ms since the epoch
    due: Option<i64>,
}

/// What a result has become.
#[derive(Debug)]
pub enum Made {
    /// the bytes of a message
    Message(Vec<u8>),
    /// the id of a client, and the bytes of a message for it
    For(Text, Vec<u8>),
    /// rows, where the format is [`OutputFormat::Rows`]
    Rows(Vec<Row>),
}

/// What a result has become before it is written.
enum Formed {
    /// text of a template, to be sent as it is
    Text(String),
    /// a value, to be encoded
    Value(Value),
}

/// Rows that wait for time alone, at most.
const MAX_GATHERED: usize = 100_000;

/// Takes what has been made, or why there is nothing.
pub type Give<'a> = &'a mut dyn FnMut(Result<Made, ShapeError>);

impl Batcher {
    /// Nothing gathered yet.
    pub fn new(shape: Arc<SinkFormat>) -> Self {
        Batcher { shape, gathered: Vec::new(), due: None }
    }

    /// Takes the rows of one result, at `now`, and says when it must be asked again, where it waits for others.
    pub fn rows(&mut self, rows: Vec<Row>, now: i64, give: Give<'_>) -> Option<i64> {
        if !self.shape.gathers() {
            self.send(rows, give);
            return None;
        }
        let waited = self.due.is_some();
        for row in rows {
            if !(row.is_empty() && self.shape.omit_if_empty) {
                self.gathered.push(row);
            }
            // What only time ends must have a bound, too.
            let most = if self.shape.batch_size > 0 { self.shape.batch_size } else { MAX_GATHERED };
            if self.gathered.len() >= most {
                self.flush(give);
            }
        }
        if self.shape.linger == 0 || self.gathered.is_empty() || (waited && self.due.is_some()) {
            return None;
        }
        self.due = Some(now.saturating_add(self.shape.linger));
        self.due
    }

    /// Sends what waits, if its time has come.
    pub fn tick(&mut self, now: i64, give: Give<'_>) {
        if self.due.is_some_and(|due| due <= now) {
            self.flush(give);
        }
    }

    /// Sends what waits.
    pub fn flush(&mut self, give: Give<'_>) {
        self.due = None;
        let rows = std::mem::take(&mut self.gathered);
        if !rows.is_empty() {
            self.shape.batch(rows, give);
        }
    }

    /// Sends an error as if it were a row, where a template can say it.
    pub fn error(&mut self, text: &str, give: Give<'_>) {
        let row = vec![(Text::const_new("error"), Value::from(text))];
        if self.shape.format == OutputFormat::Rows {
            return give(Ok(Made::Rows(vec![row])));
        }
        if self.shape.template.is_none() {
            return give(self.shape.packed(text.as_bytes().to_vec()));
        }
        if self.shape.send_single { give(self.shape.one(row)) } else { give(self.shape.many(vec![row])) }
    }

    fn send(&self, rows: Vec<Row>, give: Give<'_>) {
        let shape = &self.shape;
        if let Some((_, to)) = &shape.to {
            for row in rows {
                if !(row.is_empty() && shape.omit_if_empty) {
                    give(shape.addressed(row, to));
                }
            }
        } else if shape.send_single {
            for row in rows {
                if !(row.is_empty() && shape.omit_if_empty) {
                    give(shape.one(row));
                }
            }
        } else if !(rows.is_empty() || shape.omit_if_empty && rows.iter().all(Vec::is_empty)) {
            give(shape.many(rows));
        }
    }
}

impl SinkFormat {
    /// The message of a row for one client; sinks that take rows as they are know no clients.
    fn addressed(&self, row: Row, to: &Template) -> Result<Made, ShapeError> {
        let row = Value::object(row);
        let client = to.run(&row).map_err(|error| ShapeError::To(error.to_string()))?;
        let client = client.trim();
        if client.is_empty() || client == "<no value>" {
            return Err(ShapeError::To("it gives no client's id".to_owned()));
        }
        let message = if self.send_single { row } else { Value::array([row]) };
        Ok(match self.message(message)? {
            Made::Message(message) => Made::For(client.into(), message),
            made => made,
        })
    }

    /// The message of a single row.
    fn one(&self, row: Row) -> Result<Made, ShapeError> {
        self.message(Value::object(row))
    }

    /// The message of a list of rows.
    fn many(&self, rows: Vec<Row>) -> Result<Made, ShapeError> {
        self.message(Value::array(rows.into_iter().map(Value::object)))
    }

    /// The message of gathered rows. With sendSingle each is brought into its form by itself, so that an error loses
    /// one alone. Texts of a template are a list, or lines where they are no JSON or the format is none.
    fn batch(&self, rows: Vec<Row>, give: Give<'_>) {
        if !self.send_single {
            return give(self.many(rows));
        }
        if self.format == OutputFormat::Rows {
            return rows.into_iter().for_each(|row| give(self.one(row)));
        }
        let (mut texts, mut values) = (Vec::new(), Vec::new());
        for row in rows {
            match self.formed(Value::object(row)) {
                Ok(Formed::Text(text)) => texts.push(text),
                Ok(Formed::Value(value)) => values.push(value),
                Err(error) => give(Err(error)),
            }
        }
        if !values.is_empty() {
            give(self.encoded(Value::array(values)).and_then(|message| self.packed(message)));
        }
        if !texts.is_empty() {
            let list = self.format == OutputFormat::Json && texts.iter().all(|text| json::parse(text).is_ok());
            let message = if list { format!("[{}]", texts.join(",")) } else { texts.join("\n") };
            give(self.packed(message.into_bytes()));
        }
    }

    fn message(&self, value: Value) -> Result<Made, ShapeError> {
        match self.formed(value)? {
            Formed::Text(text) if self.format == OutputFormat::Rows => {
                self.as_rows(&json::parse(&text).map_err(ShapeError::NoJson)?)
            }
            Formed::Value(value) if self.format == OutputFormat::Rows => self.as_rows(&value),
            Formed::Text(text) => self.packed(text.into_bytes()),
            Formed::Value(value) => self.packed(self.encoded(value)?),
        }
    }

    fn as_rows(&self, value: &Value) -> Result<Made, ShapeError> {
        let row = |row: Value| match row {
            Value::Object(members) => members.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
            _ => Row::new(),
        };
        let rows = rows(value).ok_or(ShapeError::Format("rows"))?;
        Ok(Made::Rows(rows.into_iter().map(row).collect()))
    }

    /// A result after template, dataField, fields and excludeFields.
    fn formed(&self, value: Value) -> Result<Formed, ShapeError> {
        let value = match &self.template {
            None => value,
            Some((_, template)) => {
                let text = template.run(&value)?;
                if !self.chooses() {
                    return Ok(Formed::Text(text));
                }
                json::parse(&text).map_err(ShapeError::NoJson)?
            }
        };
        Ok(Formed::Value(self.chosen(value)?))
    }

    /// Whether members are chosen.
    fn chooses(&self) -> bool {
        self.data_field.is_some() || !self.fields.is_empty() || !self.excluded.is_empty()
    }

    fn chosen(&self, value: Value) -> Result<Value, ShapeError> {
        let mut value = json::expand(&value).into_owned();
        if let Some(field) = &self.data_field {
            let first = match &value {
                Value::Array(rows) => rows.first().cloned().unwrap_or_default(),
                other => other.clone(),
            };
            let member = match &*json::expand(&first) {
                Value::Object(members) => members.get(field).cloned(),
                _ => None,
            };
            value = member.ok_or_else(|| ShapeError::DataField(field.clone()))?;
            value = json::expand(&value).into_owned();
            if rows(&value).is_none() {
                return Err(ShapeError::NoRows(field.clone()));
            }
        }
        if self.fields.is_empty() && self.excluded.is_empty() {
            return Ok(value);
        }
        Ok(match &value {
            Value::Array(rows) => Value::array(rows.iter().map(|row| self.members(row))),
            other => self.members(other),
        })
    }

    /// The wanted members of an object; what is none stays.
    fn members(&self, value: &Value) -> Value {
        let value = json::expand(value);
        let Value::Object(members) = &*value else { return value.into_owned() };
        if self.fields.is_empty() {
            let wanted = members.iter().filter(|(key, _)| !self.excluded.contains(key));
            return Value::object(wanted.map(|(key, value)| (key.clone(), value.clone())));
        }
        let member = |key: &Text| {
            let value = members.get(key).filter(|value| !value.is_null()).cloned();
            (key.clone(), value.unwrap_or(Value::Null))
        };
        Value::object(self.fields.iter().map(member))
    }

    fn encoded(&self, value: Value) -> Result<Vec<u8>, ShapeError> {
        let mut out = Vec::new();
        match &self.format {
            OutputFormat::Json | OutputFormat::Rows => json::write_value(&mut out, &value)?,
            OutputFormat::Delimited { delimiter, header } => self.lines(&mut out, &value, delimiter, *header)?,
            OutputFormat::UrlEncoded => {
                let rows = rows(&value).ok_or(ShapeError::Format("urlencoded"))?;
                for (index, row) in rows.iter().enumerate() {
                    if index > 0 {
                        out.push(b'\n');
                    }
                    out.extend_from_slice(form(row)?.as_bytes());
                }
            }
            OutputFormat::Binary => out = bytes(&value).ok_or(ShapeError::Format("binary"))?,
        }
        Ok(out)
    }

    fn lines(&self, out: &mut Vec<u8>, value: &Value, delimiter: &str, header: bool) -> Result<(), ShapeError> {
        let rows = rows(value).ok_or(ShapeError::Format("delimited"))?;
        // The columns of all rows, so that each stands in its place.
        let mut names: Vec<Text> = self.fields.clone();
        if names.is_empty() {
            let mut all: std::collections::BTreeSet<Text> = std::collections::BTreeSet::new();
            for row in &rows {
                if let Value::Object(members) = row {
                    all.extend(members.keys().cloned());
                }
            }
            names.extend(all);
        }
        if header {
            delimited::encode(out, names.iter().map(Text::as_str), delimiter);
            if !rows.is_empty() {
                out.push(b'\n');
            }
        }
        for (index, row) in rows.iter().enumerate() {
            if index > 0 {
                out.push(b'\n');
            }
            let Value::Object(members) = row else { return Err(ShapeError::Format("delimited")) };
            let texts: Vec<String> =
                names.iter().map(|name| members.get(name).map_or_else(String::new, plain)).collect();
            delimited::encode(out, texts.iter().map(String::as_str), delimiter);
        }
        Ok(())
    }

    fn packed(&self, message: Vec<u8>) -> Result<Made, ShapeError> {
        Ok(Made::Message(match self.compression {
            None => message,
            Some(method) => method.pack(&message)?,
        }))
    }
}

/// The bytes of a row, or of a list of one: what stands under `self`, or under its only key. Text is base64, or else
/// its own bytes.
fn bytes(value: &Value) -> Option<Vec<u8>> {
    match &*json::expand(value) {
        Value::Array(rows) => match rows.as_slice() {
            [row] => bytes(row),
            _ => None,
        },
        Value::Object(members) => match members.get("self") {
            Some(value) => bytes(value),
            None if members.len() == 1 => bytes(&members[0]),
            None => None,
        },
        Value::Bytes(bytes) => Some(bytes.as_ref().clone()),
        Value::Text(text) => Some(cast::base64_bytes(text).unwrap_or_else(|_| text.as_bytes().to_vec())),
        Value::Absent | Value::Null | Value::Json(_) => None,
        other => Some(cast::text(other).as_bytes().to_vec()),
    }
}

/// The rows that a value is, if it is any.
fn rows(value: &Value) -> Option<Vec<Value>> {
    let value = json::expand(value);
    match &*value {
        Value::Object(_) => Some(vec![value.into_owned()]),
        Value::Array(rows) => {
            let rows: Vec<Value> = rows.iter().map(|row| json::expand(row).into_owned()).collect();
            rows.iter().all(|row| matches!(row, Value::Object(_))).then_some(rows)
        }
        _ => None,
    }
}

/// A value as text in a line or a form: nothing is empty, lists and objects as Go writes them.
fn plain(value: &Value) -> String {
    match value {
        Value::Absent | Value::Null => String::new(),
        Value::Array(_) | Value::Object(_) | Value::Json(_) => crate::format::template::printed(value),
        other => cast::text(other).into_owned(),
    }
}

/// The form of a row: keys in order, lists as repeated keys.
fn form(row: &Value) -> Result<String, ShapeError> {
    let Value::Object(members) = row else { return Err(ShapeError::Format("urlencoded")) };
    let mut keys: Vec<&Text> = members.keys().collect();
    keys.sort();
    let mut pairs: Vec<(&str, String)> = Vec::new();
    for key in keys {
        match &*json::expand(&members[key]) {
            Value::Array(values) => pairs.extend(values.iter().map(|value| (key.as_str(), plain(value)))),
            other => pairs.push((key, plain(other))),
        }
    }
    Ok(urlencoded::encode(pairs.iter().map(|(key, value)| (*key, value.as_str()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> Row {
        let Value::Object(members) = json::expand(&json::parse(text).unwrap()).into_owned() else { panic!("{text}") };
        members.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    fn shaped(shape: SinkFormat, rows: &[&str]) -> Vec<String> {
        let mut shaper = Batcher::new(Arc::new(shape));
        let mut messages = Vec::new();
        let mut give = |made: Result<Made, ShapeError>| {
            messages.push(match made {
                Ok(Made::Message(message)) => String::from_utf8(message).unwrap(),
                Ok(Made::Rows(rows)) => {
                    let rows = rows.into_iter().map(|row| cast::text(&Value::object(row)).into_owned());
                    format!("rows {}", rows.collect::<Vec<_>>().join(" "))
                }
                Ok(Made::For(client, message)) => format!("{client} <- {}", String::from_utf8(message).unwrap()),
                Err(error) => format!("error: {error}"),
            });
        };
        for text in rows {
            shaper.rows(vec![row(text)], 0, &mut give);
        }
        messages
    }

    fn template(text: &str) -> Option<(Text, Arc<Template>)> {
        Some((text.into(), Arc::new(Template::new(text).unwrap())))
    }

    #[test]
    fn messages() {
        let single = || SinkFormat { send_single: true, ..SinkFormat::default() };
        let delimited = |header| OutputFormat::Delimited { delimiter: ",".into(), header };
        for (shape, rows, expected) in [
            (
                SinkFormat { fields: vec!["b".into(), "z".into()], ..single() },
                &[r#"{"a":1,"b":2}"#][..],
                &[r#"{"b":2,"z":null}"#][..],
            ),
            (
                SinkFormat { excluded: vec!["a".into()], ..SinkFormat::lists() },
                &[r#"{"a":1,"b":2}"#],
                &[r#"[{"b":2}]"#],
            ),
            (
                SinkFormat { data_field: Some("o".into()), ..SinkFormat::lists() },
                &[r#"{"o":{"x":1}}"#],
                &[r#"{"x":1}"#],
            ),
            (
                SinkFormat { data_field: Some("q".into()), ..single() },
                &[r#"{"o":1}"#],
                &["error: dataField q is not in the result"],
            ),
            (SinkFormat { template: template("<{{.a}}>"), ..single() }, &[r#"{"a":1}"#], &["<1>"]),
            (SinkFormat { template: template("{{len .}}"), ..SinkFormat::lists() }, &[r#"{"a":1}"#], &["1"]),
            (
                SinkFormat { batch_size: 2, ..single() },
                &[r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":3}"#],
                &[r#"[{"a":1},{"a":2}]"#],
            ),
            (
                SinkFormat { batch_size: 2, template: template("{\"n\":{{.a}}}"), ..single() },
                &[r#"{"a":1}"#, r#"{"a":2}"#],
                &[r#"[{"n":1},{"n":2}]"#],
            ),
            (
                SinkFormat { batch_size: 2, template: template("n{{.a}}"), ..single() },
                &[r#"{"a":1}"#, r#"{"a":2}"#],
                &["n1\nn2"],
            ),
            (SinkFormat { format: delimited(true), ..single() }, &[r#"{"b":"x","a":1,"n":null}"#], &["a,b,n\n1,x,"]),
            // An error loses its row alone; with sendSingle each row has its own dataField.
            (
                SinkFormat { batch_size: 2, template: template("{{.a.b}}"), ..single() },
                &[r#"{"a":1}"#, r#"{"a":{"b":2}}"#],
                &["error: template: sink:1: can't evaluate field b in int64", "[2]"],
            ),
            (
                SinkFormat { batch_size: 2, data_field: Some("o".into()), ..single() },
                &[r#"{"o":{"x":1}}"#, r#"{"o":{"x":2}}"#],
                &[r#"[{"x":1},{"x":2}]"#],
            ),
            (
                SinkFormat { batch_size: 2, template: template("1"), format: delimited(false), ..single() },
                &["{}", "{}"],
                &["1\n1"],
            ),
            (
                SinkFormat { data_field: Some("o".into()), ..single() },
                &[r#"{"o":1}"#],
                &["error: dataField o is neither an object nor a list of objects"],
            ),
            (
                SinkFormat { format: OutputFormat::Rows, fields: vec!["b".into()], ..single() },
                &[r#"{"a":1,"b":2}"#],
                &[r#"rows {"b":2}"#],
            ),
            (
                SinkFormat {
                    format: OutputFormat::Rows,
                    template: template(r#"[{"x":{{(index . 0).a}}},{}]"#),
                    ..SinkFormat::lists()
                },
                &[r#"{"a":1}"#],
                &[r#"rows {"x":1} {}"#],
            ),
            (
                SinkFormat { format: OutputFormat::Rows, template: template("{{.a}}"), ..single() },
                &[r#"{"a":1}"#],
                &["error: the result cannot be written as rows"],
            ),
            (
                SinkFormat { format: OutputFormat::Rows, batch_size: 2, data_field: Some("o".into()), ..single() },
                &[r#"{"o":{"x":1}}"#, r#"{"o":{"x":2}}"#],
                &[r#"rows {"x":1}"#, r#"rows {"x":2}"#],
            ),
            (SinkFormat { format: OutputFormat::Binary, ..single() }, &[r#"{"self":"aGk="}"#], &["hi"]),
            (
                SinkFormat { format: OutputFormat::Binary, ..SinkFormat::lists() },
                &[r#"{"x":"no base64"}"#],
                &["no base64"],
            ),
            (
                SinkFormat { format: OutputFormat::Binary, ..single() },
                &[r#"{"a":1,"b":2}"#],
                &["error: the result cannot be written as binary"],
            ),
            (
                SinkFormat { format: delimited(false), fields: vec!["b".into(), "a".into()], ..SinkFormat::lists() },
                &[r#"{"a":1,"b":[1,"x"]}"#],
                &["[1 x],1"],
            ),
            (
                SinkFormat { format: OutputFormat::UrlEncoded, ..single() },
                &[r#"{"b":"x y&z","a":[1,2],"c":2.5}"#],
                &["a=1&a=2&b=x+y%26z&c=2.5"],
            ),
        ] {
            assert_eq!(shaped(shape, rows), expected, "{rows:?}");
        }
    }

    #[test]
    fn packed_messages_unpack() {
        for name in ["gzip", "zlib", "flate", "zstd"] {
            let compression = Method::of(name);
            let shape = SinkFormat { compression, ..SinkFormat::lists() };
            assert!(!shape.is_text() && !shape.is_plain());
            let mut messages = Vec::new();
            Batcher::new(Arc::new(shape)).rows(vec![row(r#"{"a":1}"#)], 0, &mut |made| messages.extend(made));
            let [Made::Message(message)] = messages.as_slice() else { panic!("{messages:?}") };
            let unpacked = compression.unwrap().unpack(message).unwrap();
            assert_eq!(unpacked, br#"[{"a":1}]"#, "{name}");
        }
    }

    #[test]
    fn what_only_time_ends_has_a_bound() {
        let mut shaper = Batcher::new(Arc::new(SinkFormat { linger: 100, ..SinkFormat::default() }));
        let mut messages = 0;
        shaper.rows(vec![Row::new(); MAX_GATHERED + 1], 0, &mut |_| messages += 1);
        assert_eq!(messages, 1);
    }

    #[test]
    fn what_waits_goes_when_its_time_has_come() {
        let mut shaper = Batcher::new(Arc::new(SinkFormat { linger: 100, ..SinkFormat::default() }));
        let mut messages = 0;
        let mut give = |_| messages += 1;
        assert_eq!(shaper.rows(vec![row("{}")], 1000, &mut give), Some(1100));
        assert_eq!(shaper.rows(vec![row("{}")], 1050, &mut give), None);
        shaper.tick(1099, &mut give);
        shaper.tick(1100, &mut give);
        shaper.tick(1200, &mut give);
        assert_eq!(messages, 1);
    }
}
