//! Reads a JSON object by the rows of a table. One pass finds every fault and every warning.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::sync::{LazyLock, Mutex, PoisonError};

use serde_json::{Map, Value as Json};

use super::{About, Effect, Noun, Property, Set, Type, Wrong, any_of, duration, literal, size};
use crate::text::secret::{HIDDEN, is_secret};
use crate::text::suggest;

/// A value that is wrong.
#[derive(Debug)]
pub struct Fault {
    /// What the table's rows are called.
    pub noun: Noun,
    /// The property as the user wrote it; a member follows a dot: `reconnect.jitter`.
    pub property: String,
    /// Why it is wrong.
    pub cause: Cause,
    /// What to do about it.
    pub hint: Option<String>,
}

/// Why a value is wrong.
#[derive(Debug)]
pub enum Cause {
    /// It has the wrong type, or is out of range.
    Value {
        /// the value, shortened
        value: String,
        /// what it should be
        expected: String,
    },
    /// eKuiper has the property, Plutino does not support it.
    Unsupported,
    /// Another reason, such as a file that cannot be read; the text names the property.
    Because(Box<dyn Error + Send + Sync>),
}

/// A notice to the user; everything works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// No such property exists.
    Unknown {
        /// what the table's rows are called
        noun: Noun,
        /// as the user wrote it
        name: String,
        /// the closest known name
        near: Option<String>,
    },
    /// A wrong spelling that is accepted.
    Misspelt {
        /// what the table's rows are called
        noun: Noun,
        /// as the user wrote it
        name: String,
        /// the right name
        right: &'static str,
    },
    /// Another notice about a property, or about none.
    Other {
        /// the property; empty if the notice is about none
        property: &'static str,
        message: String,
    },
}

/// The result of reading.
#[derive(Debug, Default)]
pub struct Findings {
    /// in the order in which the user wrote them
    pub faults: Vec<Fault>,
    pub warnings: Vec<Warning>,
}

/// Properties that cannot be used, and the warnings about the others.
#[derive(Debug)]
pub struct Invalid {
    /// at least one
    pub faults: Vec<Fault>,
    pub warnings: Vec<Warning>,
}

/// Reads `values` into `target` by `rows`. Members without a row are ignored: see [`Findings::unknown`]. A null counts
/// as absent. If several spellings of one property are set, the first in the row counts.
pub fn read<T>(rows: &'static [Property<T>], noun: Noun, values: &Map<String, Json>, target: &mut T) -> Findings {
    let mut found = Findings::default();
    read_members(rows, noun, "", values, target, &mut found);
    found
}

/// A target with the default of each row. It is made once for each table and copied then, since every start of a rule
/// reads several tables.
pub fn default<T: Clone + Default + Send + Sync + 'static>(rows: &'static [Property<T>]) -> T {
    type Made = HashMap<(TypeId, usize, usize), Box<dyn Any + Send + Sync>>;
    static MADE: LazyLock<Mutex<Made>> = LazyLock::new(Mutex::default);
    let table = (TypeId::of::<T>(), rows.as_ptr().addr(), rows.len());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let target = made.entry(table).or_insert_with(|| {
        let mut target = T::default();
        set_defaults(rows, &mut target);
        Box::new(target)
    });
    target.downcast_ref().cloned().unwrap_or_default()
}

/// Whether a row has this name.
pub fn knows<T>(rows: &[Property<T>], name: &str) -> bool {
    rows.iter().any(|row| row.is_named(name))
}

/// Sets the default of each row that has one.
pub fn set_defaults<T>(rows: &'static [Property<T>], target: &mut T) {
    for row in rows {
        match &row.set {
            Set::Object(members) => set_defaults(members, target),
            _ if row.about.default.is_empty() => {}
            _ => {
                let applied = row.apply(&literal(row.about.default), target);
                debug_assert!(applied.is_ok(), "the default of {} is not valid", row.about.name);
            }
        }
    }
}

fn read_members<T>(
    rows: &'static [Property<T>],
    noun: Noun,
    prefix: &str,
    values: &Map<String, Json>,
    target: &mut T,
    found: &mut Findings,
) {
    for (name, value) in values {
        let Some(row) = rows.iter().find(|row| row.is_named(name)) else { continue };
        if value.is_null() || row.spelling(values) != Some(name) {
            continue;
        }
        let about = &row.about;
        if about.misspelt.iter().any(|wrong| wrong.eq_ignore_ascii_case(name)) {
            found.warnings.push(Warning::Misspelt { noun, name: format!("{prefix}{name}"), right: about.name });
        }
        let fault = |cause, hint| Fault { noun, property: format!("{prefix}{name}"), cause, hint };
        match (&row.set, value, about.ty) {
            (Set::Object(members), Json::Object(inner), _) => {
                let prefix = format!("{prefix}{name}.");
                read_members(members, noun, &prefix, inner, target, found);
                found.warnings.extend(unknown(noun, &prefix, inner, &names(members)));
                continue;
            }
            (Set::Object(members), value, Type::Object(Some(short))) if !value.is_array() => {
                let inner = Map::from_iter([(short.to_owned(), value.clone())]);
                let mut plain = Findings::default();
                read_members(members, noun, "", &inner, target, &mut plain);
                // The user wrote no member, so the fault belongs to the property itself.
                found.faults.extend(plain.faults.into_iter().map(|wrong| fault(wrong.cause, wrong.hint)));
                continue;
            }
            _ => {}
        }
        match row.apply(value, target) {
            Ok(()) => {}
            Err(Wrong::Because(error)) => found.faults.push(fault(Cause::Because(error), None)),
            Err(Wrong::Value) if about.effect == Effect::Unsupported => {
                found.faults.push(fault(Cause::Unsupported, None));
            }
            Err(Wrong::Value) => {
                if let Some(message) = about.otherwise.and_then(|otherwise| otherwise(value)) {
                    found.faults.push(fault(Cause::Because(message.into()), near_choice(about.ty, value)));
                    continue;
                }
                let expected = match about.ty {
                    _ if !about.expected.is_empty() => about.expected.to_owned(),
                    Type::Text(_) if !value.is_string() => "a text".to_owned(),
                    ty => ty.expected(),
                };
                // People other than the value's author may see the error.
                let hidden = is_secret(name) || is_secret(prefix.split('.').next().unwrap_or_default());
                let value = if hidden { HIDDEN.to_owned() } else { shortened(value) };
                let cause = Cause::Value { value, expected };
                found.faults.push(fault(cause, None));
            }
        }
    }
}

impl<T> Property<T> {
    fn is_named(&self, name: &str) -> bool {
        self.about.names().any(|known| known.eq_ignore_ascii_case(name))
    }

    /// The spelling whose value counts.
    fn spelling<'a>(&self, values: &'a Map<String, Json>) -> Option<&'a String> {
        let set = |(_, value): &(&String, &Json)| !value.is_null();
        self.about.names().find_map(|name| {
            let exact = values.get_key_value(name).filter(set);
            let loose = || values.iter().filter(set).find(|(key, _)| key.eq_ignore_ascii_case(name));
            exact.or_else(loose).map(|(key, _)| key)
        })
    }

    /// Passes a value to the setter.
    fn apply(&self, value: &Json, target: &mut T) -> Result<(), Wrong> {
        let set = match &self.set {
            Set::Nothing => return self.without_setter(value),
            Set::Flag(set) => flag(value).map(|value| set(target, value)),
            Set::Text(set) => value.as_str().map(|value| set(target, value)),
            Set::Parsed(set) => return value.as_str().map_or(Err(Wrong::Value), |value| set(target, value)),
            Set::Choice(set) => return self.choose(value).map(|word| word.map_or((), |word| set(target, word))),
            Set::Duration(_) if value.as_str() == Some("") => Some(()),
            Set::Duration(set) => {
                duration::parse(value).filter(|value| in_range(self.about.ty, *value)).map(|value| set(target, value))
            }
            Set::Whole(set) => whole(self.about.ty, value).map(|value| set(target, value)),
            Set::Number(set) => number(self.about.ty, value).map(|value| set(target, value)),
            Set::Size(set) => size::parse(value).map(|value| set(target, value)),
            Set::Texts(set) => texts(self.about.ty, value).map(|value| set(target, value)),
            Set::CheckedTexts(set) => {
                return texts(self.about.ty, value).map_or(Err(Wrong::Value), |value| set(target, value));
            }
            Set::Any(set) => return set(target, value),
            Set::Object(_) => None,
        };
        set.ok_or(Wrong::Value)
    }

    /// The chosen word; `None` for an empty text.
    fn choose(&self, value: &Json) -> Result<Option<&'static str>, Wrong> {
        let Type::Choice(words) = self.about.ty else { return Err(Wrong::Value) };
        let written = value.as_str().ok_or(Wrong::Value)?;
        if written.is_empty() {
            return Ok(None);
        }
        words.iter().find(|word| word.eq_ignore_ascii_case(written)).map(|word| Some(*word)).ok_or(Wrong::Value)
    }

    /// Checks a value that has no setter.
    fn without_setter(&self, value: &Json) -> Result<(), Wrong> {
        let About { ty, effect, .. } = self.about;
        if effect == Effect::Unsupported {
            let unset = match value {
                Json::Null | Json::Bool(false) => true,
                Json::Number(number) => number.as_f64() == Some(0.0),
                Json::String(text) => text.is_empty(),
                Json::Array(items) => items.is_empty(),
                Json::Object(members) => members.is_empty(),
                Json::Bool(true) => false,
            };
            return if unset { Ok(()) } else { Err(Wrong::Value) };
        }
        let fits = match ty {
            Type::Flag => flag(value).is_some(),
            Type::Text(_) => value.is_string(),
            Type::Choice(_) => return self.choose(value).map(|_| ()),
            Type::Duration { .. } => duration::parse(value).is_some_and(|value| in_range(ty, value)),
            Type::Whole { .. } => whole(ty, value).is_some(),
            Type::Number { .. } => number(ty, value).is_some(),
            Type::Size => size::parse(value).is_some(),
            Type::Texts | Type::Names => texts(ty, value).is_some(),
            Type::Object(_) => value.is_object(),
            Type::Any { .. } => true,
        };
        if fits { Ok(()) } else { Err(Wrong::Value) }
    }
}

fn flag(value: &Json) -> Option<bool> {
    match value {
        Json::Bool(value) => Some(*value),
        Json::String(text) if text.eq_ignore_ascii_case("true") => Some(true),
        Json::String(text) if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

fn in_range(ty: Type, value: std::time::Duration) -> bool {
    matches!(ty, Type::Duration { least, most } if (least..=most).contains(&value))
}

fn whole(ty: Type, value: &Json) -> Option<u64> {
    let Type::Whole { least, most } = ty else { return None };
    value.as_u64().filter(|value| (least..=most).contains(value))
}

fn number(ty: Type, value: &Json) -> Option<f64> {
    let Type::Number { least, most } = ty else { return None };
    value.as_f64().filter(|value| (least..=most).contains(value))
}

fn texts(ty: Type, value: &Json) -> Option<Vec<String>> {
    match value {
        Json::String(text) if ty == Type::Texts => Some(vec![text.clone()]),
        Json::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

/// A hint if the value resembles one of the choices.
fn near_choice(ty: Type, value: &Json) -> Option<String> {
    let Type::Choice(words) = ty else { return None };
    let written = value.as_str().unwrap_or_default();
    suggest::did_you_mean(written, words.iter().copied()).or_else(|| Some(format!("expected {}", any_of(words))))
}

/// The value for an error message, at most 80 characters.
fn shortened(value: &Json) -> String {
    let mut shown = value.to_string();
    if let Some((cut, _)) = shown.char_indices().nth(80) {
        shown.truncate(cut);
        shown.push('…');
    }
    shown
}

fn names<T>(rows: &[Property<T>]) -> Vec<&'static str> {
    rows.iter().flat_map(|row| row.about.names()).collect()
}

/// The most unknown names of an object that have a warning each. Looking for what was meant takes time, and somebody may
/// send many.
pub const UNKNOWN: usize = 32;

/// A warning for each member with an unknown name.
fn unknown(noun: Noun, prefix: &str, values: &Map<String, Json>, known: &[&'static str]) -> Vec<Warning> {
    let mut strange = values.keys().filter(|key| !known.iter().any(|name| name.eq_ignore_ascii_case(key)));
    let warning = |key: &String| Warning::Unknown {
        noun,
        name: format!("{prefix}{key}"),
        near: suggest::nearest(key, known.iter().copied()).map(|near| format!("{prefix}{near}")),
    };
    let mut warnings: Vec<Warning> = strange.by_ref().take(UNKNOWN).map(warning).collect();
    let more = strange.count();
    if more > 0 {
        warnings.push(Warning::other("", format!("{more} more unknown names are ignored")));
    }
    warnings
}

impl Findings {
    /// Warns of each member of `values` that has neither a row in `rows` nor a name in `others`.
    pub fn unknown<T>(
        &mut self,
        noun: Noun,
        values: &Map<String, Json>,
        rows: &[Property<T>],
        others: impl IntoIterator<Item = &'static str>,
    ) {
        let mut known = names(rows);
        known.extend(others);
        self.warnings.extend(unknown(noun, "", values, &known));
    }

    /// Reports the result of a check that a single row cannot make. The error's text names the property.
    pub fn refuse(&mut self, property: &str, error: impl Into<Box<dyn Error + Send + Sync>>) {
        let (property, cause) = (property.to_owned(), Cause::Because(error.into()));
        self.faults.push(Fault { noun: Noun::Property, property, cause, hint: None });
    }

    /// Whether this property, or a member of it, has a fault.
    pub fn has_fault(&self, property: &str) -> bool {
        self.faults.iter().any(|fault| fault.top().eq_ignore_ascii_case(property))
    }

    /// Returns the result and the warnings, unless there is a fault.
    ///
    /// # Errors
    /// [`Invalid`]
    pub fn finish<T>(self, read: T) -> Result<(T, Vec<Warning>), Invalid> {
        match self.faults.is_empty() {
            true => Ok((read, self.warnings)),
            false => Err(Invalid { faults: self.faults, warnings: self.warnings }),
        }
    }
}

impl Fault {
    /// Whether the value itself is wrong, regardless of other properties and of where it is used.
    pub fn is_of_value(&self) -> bool {
        matches!(self.cause, Cause::Value { .. })
    }

    /// The property without its member: `reconnect` of `reconnect.jitter`.
    pub fn top(&self) -> &str {
        self.property.split('.').next().unwrap_or_default()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = self.noun.before_fault();
        match &self.cause {
            Cause::Value { value, expected } => {
                write!(f, "{noun}{} is {value}, expected {expected}", self.property)
            }
            Cause::Unsupported => write!(f, "{} {} is not supported yet", self.noun, self.property),
            Cause::Because(error) => error.fmt(f),
        }
    }
}

impl Error for Fault {}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<String> = self.faults.iter().map(Fault::to_string).collect();
        f.write_str(&faults.join("; "))
    }
}

impl Error for Invalid {}

impl Warning {
    /// A warning about one property, or about none if `property` is empty.
    pub fn other(property: &'static str, message: impl Into<String>) -> Warning {
        Warning::Other { property, message: message.into() }
    }

    /// The property that it is about.
    pub fn property(&self) -> Option<&str> {
        match self {
            Warning::Unknown { name, .. } | Warning::Misspelt { name, .. } => Some(name),
            Warning::Other { property, .. } => Some(*property).filter(|property| !property.is_empty()),
        }
    }

    /// The message without the hint.
    pub fn message(&self) -> String {
        match self {
            Warning::Unknown { noun, name, .. } => format!("unknown {noun} {name} is ignored"),
            Warning::Misspelt { noun, name, right } => format!("{noun} {name} is read as {right}"),
            Warning::Other { message, .. } => message.clone(),
        }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            Warning::Unknown { near, .. } => near.as_ref().map(|near| format!("did you mean {near}?")),
            Warning::Misspelt { right, .. } => Some(format!("write {right}")),
            Warning::Other { .. } => None,
        }
    }
}

/// Message and hint in one line, for logs.
impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())?;
        self.hint().map_or(Ok(()), |hint| write!(f, ": {hint}"))
    }
}
