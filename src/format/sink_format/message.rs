//! Makes the message of a row, or of a list of rows: template, chosen members, encoding, compression.

use crate::format::address::{Address, AddressError, Addressing};
use crate::format::compress::CompressError;
use crate::format::template::RunError;
use crate::format::{delimited, json, urlencoded};
use crate::value::cast;
use crate::value::{Row, Text, Value};

use super::{OutputFormat, SinkFormat};

/// A message that is ready to be sent.
#[derive(Debug)]
pub enum Made {
    /// Bytes for all clients.
    Message(Vec<u8>),
    /// An address, and bytes for this address only.
    For(Address, Vec<u8>),
    /// Rows, if the format is [`OutputFormat::Rows`].
    Rows(Vec<Row>),
}

/// Takes each message, or the reason why it could not be made.
pub type Give<'a> = &'a mut dyn FnMut(Result<Made, FormatError>);

/// Why a message could not be made.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    #[error(transparent)]
    Template(#[from] RunError),
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error("dataTemplate must give JSON for dataField, fields, excludeFields and memory sinks: {0}")]
    NoJson(json::JsonError),
    #[error("dataField {0} is not in the result")]
    DataField(Text),
    #[error("dataField {0} is neither an object nor a list of objects")]
    NoRows(Text),
    #[error("the result cannot be written as {0}")]
    Format(&'static str),
    /// The value has no JSON form.
    #[error(transparent)]
    Encode(#[from] json::EncodeError),
    #[error(transparent)]
    Compress(#[from] CompressError),
}

/// A result before it is encoded.
enum Formed {
    /// The output of a template, which is sent as it is.
    Text(String),
    /// A value, which `format` encodes.
    Value(Value),
}

impl SinkFormat {
    /// Makes the message of a result with its address. A sink that takes rows gets rows, which have no addresses.
    pub(super) fn addressed(&self, result: Value, to: &Addressing) -> Result<Made, FormatError> {
        let address = to.of(&result)?;
        // A row with its own address is sent as a list of one if messages are lists.
        let listed = to.each_row && !self.send_single;
        let message = if listed { Value::array([result]) } else { result };
        Ok(match self.message(message)? {
            Made::Message(message) => Made::For(address, message),
            made => made,
        })
    }

    /// Makes the message of a single row.
    pub(super) fn one(&self, row: Row) -> Result<Made, FormatError> {
        self.message(Value::object(row))
    }

    /// Makes the message of a list of rows.
    pub(super) fn many(&self, rows: Vec<Row>) -> Result<Made, FormatError> {
        self.message(Value::array(rows.into_iter().map(Value::object)))
    }

    /// Makes the message of a batch. With `sendSingle`, each row is formed by itself, so that an error loses only one
    /// row. The texts of a template become a JSON list; if one of them is not JSON, or the format is not JSON, they
    /// become lines.
    pub(super) fn batch(&self, rows: Vec<Row>, give: Give<'_>) {
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

    fn message(&self, value: Value) -> Result<Made, FormatError> {
        match self.formed(value)? {
            Formed::Text(text) if self.format == OutputFormat::Rows => {
                self.as_rows(&json::parse(&text).map_err(FormatError::NoJson)?)
            }
            Formed::Value(value) if self.format == OutputFormat::Rows => self.as_rows(&value),
            Formed::Text(text) => self.packed(text.into_bytes()),
            Formed::Value(value) => self.packed(self.encoded(value)?),
        }
    }

    fn as_rows(&self, value: &Value) -> Result<Made, FormatError> {
        let row = |row: Value| match row {
            Value::Object(members) => members.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
            _ => Row::new(),
        };
        let rows = rows(value).ok_or(FormatError::Format("rows"))?;
        Ok(Made::Rows(rows.into_iter().map(row).collect()))
    }

    /// Applies the template, dataField, fields and excludeFields to a result.
    fn formed(&self, value: Value) -> Result<Formed, FormatError> {
        let value = match &self.template {
            None => value,
            Some((_, template)) => {
                let text = template.run(&value)?;
                if !self.chooses() {
                    return Ok(Formed::Text(text));
                }
                json::parse(&text).map_err(FormatError::NoJson)?
            }
        };
        Ok(Formed::Value(self.chosen(value)?))
    }

    fn chooses(&self) -> bool {
        self.data_field.is_some() || !self.fields.is_empty() || !self.excluded.is_empty()
    }

    fn chosen(&self, value: Value) -> Result<Value, FormatError> {
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
            value = member.ok_or_else(|| FormatError::DataField(field.clone()))?;
            value = json::expand(&value).into_owned();
            if rows(&value).is_none() {
                return Err(FormatError::NoRows(field.clone()));
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

    /// Chooses the members of an object; other values are unchanged.
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

    fn encoded(&self, value: Value) -> Result<Vec<u8>, FormatError> {
        let mut out = Vec::new();
        match &self.format {
            OutputFormat::Json | OutputFormat::Rows => json::write_value(&mut out, &value)?,
            OutputFormat::Delimited { delimiter, header } => self.lines(&mut out, &value, delimiter, *header)?,
            OutputFormat::UrlEncoded => {
                let rows = rows(&value).ok_or(FormatError::Format("urlencoded"))?;
                for (index, row) in rows.iter().enumerate() {
                    if index > 0 {
                        out.push(b'\n');
                    }
                    out.extend_from_slice(form(row)?.as_bytes());
                }
            }
            OutputFormat::Binary => out = bytes(&value).ok_or(FormatError::Format("binary"))?,
        }
        Ok(out)
    }

    fn lines(&self, out: &mut Vec<u8>, value: &Value, delimiter: &str, header: bool) -> Result<(), FormatError> {
        let rows = rows(value).ok_or(FormatError::Format("delimited"))?;
        // The columns of all rows, so that each value is written in its column.
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
            let Value::Object(members) = row else { return Err(FormatError::Format("delimited")) };
            let texts: Vec<String> =
                names.iter().map(|name| members.get(name).map_or_else(String::new, plain)).collect();
            delimited::encode(out, texts.iter().map(String::as_str), delimiter);
        }
        Ok(())
    }

    pub(super) fn packed(&self, message: Vec<u8>) -> Result<Made, FormatError> {
        Ok(Made::Message(match self.compression {
            None => message,
            Some(method) => method.pack(&message)?,
        }))
    }
}

/// The bytes of a row, or of a list of one: the value of `self`, or of the only key. Text is decoded from base64, or
/// taken as it is.
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

/// The rows that a value consists of; `None` if it is neither a row nor a list of rows.
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

/// A value as text in a line or form: null is empty, lists and objects are written as in Go.
fn plain(value: &Value) -> String {
    match value {
        Value::Absent | Value::Null => String::new(),
        Value::Array(_) | Value::Object(_) | Value::Json(_) => crate::format::template::printed(value),
        other => cast::text(other).into_owned(),
    }
}

/// A row as a form: keys in order, lists as repeated keys.
fn form(row: &Value) -> Result<String, FormatError> {
    let Value::Object(members) = row else { return Err(FormatError::Format("urlencoded")) };
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
