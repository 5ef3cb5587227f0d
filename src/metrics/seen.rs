//! The fields of a stream's messages with their types, seen in a sample.
//!
//! A stream declares few columns or none, and a misspelt column in a rule is not an error but absent. To make that
//! visible, each stream examines some of its messages. [`Sampler`] limits their rate: in a slow stream every message is
//! examined, and for a fast stream the cost is negligible.

use indexmap::IndexMap;

use crate::value::{Row, Text, Value, json};

/// Messages in one generation. There are two: when the newer one is full, the older one is dropped.
const GENERATION: u64 = 500;

/// The most fields that are counted; further ones are left out.
const FIELDS: usize = 256;

/// The longest message that is examined, bytes.
const LONGEST: usize = 64 * 1024;

/// The most characters of an example.
const EXAMPLE: usize = 80;

/// How many messages of a stream may be examined at once, and how many more each second.
const BURST: i64 = 500;
const PER_SECOND: i64 = 100;

/// Decides which messages are examined.
#[derive(Clone, Copy, Debug)]
pub struct Sampler {
    /// messages that may still be examined, in thousandths
    left: i64,
    /// the time of the last refill, ms since the epoch
    at: i64,
}

impl Default for Sampler {
    fn default() -> Sampler {
        Sampler { left: BURST * 1000, at: i64::MAX }
    }
}

impl Sampler {
    /// Sets the time to `now`, ms since the epoch; called once a batch.
    pub fn refill(&mut self, now: i64) {
        let passed = now.saturating_sub(self.at).clamp(0, 60_000);
        self.left = (self.left + passed * PER_SECOND).min(BURST * 1000);
        self.at = now;
    }

    #[inline]
    pub fn wants(&self) -> bool {
        self.left > 0
    }

    /// Records that a message of this length was examined: long ones cost more.
    pub fn took(&mut self, bytes: usize) {
        self.left -= 1000 + bytes as i64;
    }
}

#[derive(Clone, Debug, Default)]
pub struct Seen {
    now: Generation,
    before: Generation,
}

#[derive(Clone, Debug, Default)]
struct Generation {
    messages: u64,
    fields: IndexMap<Text, Field>,
    /// whether fields were left out
    partial: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Field {
    present: u64,
    /// a bit for each of [`TYPES`]
    types: u8,
    example: String,
}

/// The types of fields, as the language calls them.
const TYPES: [&str; 7] = ["null", "boolean", "bigint", "float", "string", "array", "struct"];

/// The fields of a stream's last messages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SeenFields {
    /// the number of messages that were examined
    pub messages: u64,
    /// the fields, in the order in which they were first seen
    pub fields: Vec<SeenField>,
    /// whether the messages have further fields, which are not counted
    pub partial: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SeenField {
    pub name: Text,
    /// the number of messages that have it
    pub present: u64,
    /// the types of its values
    pub types: Vec<&'static str>,
    /// one of its values, as JSON
    pub example: String,
}

impl SeenFields {
    pub fn field(&self, name: &str) -> Option<&SeenField> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// Adds the fields that were seen elsewhere in the same stream.
    pub fn add(&mut self, more: SeenFields) {
        self.messages += more.messages;
        self.partial |= more.partial;
        for field in more.fields {
            match self.fields.iter_mut().find(|known| known.name == field.name) {
                Some(known) => {
                    known.present += field.present;
                    let new = field.types.into_iter().filter(|name| !known.types.contains(name));
                    known.types.extend(new.collect::<Vec<_>>());
                    known.types.sort_by_key(|name| TYPES.iter().position(|known| known == name));
                }
                None => self.fields.push(field),
            }
        }
    }
}

/// Adds what was seen in a stream to what was seen in all streams.
pub fn add_seen(all: &mut Vec<(Text, SeenFields)>, stream: &str, seen: SeenFields) {
    match all.iter_mut().find(|(known, _)| known == stream) {
        Some((_, known)) => known.add(seen),
        None => all.push((stream.into(), seen)),
    }
}

/// The type of this name, as [`SeenField::types`] has it.
pub fn known_type(name: &str) -> Option<&'static str> {
    TYPES.into_iter().find(|known| *known == name)
}

impl Seen {
    /// Examines a JSON message. Anything but an object has no fields.
    pub fn look_at_text(&mut self, text: &str) {
        if text.len() > LONGEST {
            return;
        }
        let Ok(members) = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text) else { return };
        self.begin();
        for (name, value) in &members {
            let kind = match value {
                serde_json::Value::Null => 0,
                serde_json::Value::Bool(_) => 1,
                serde_json::Value::Number(number) if number.is_f64() => 3,
                serde_json::Value::Number(_) => 2,
                serde_json::Value::String(_) => 4,
                serde_json::Value::Array(_) => 5,
                serde_json::Value::Object(_) => 6,
            };
            self.field(name, kind, || value.to_string());
        }
    }

    /// Examines a decoded message.
    pub fn look_at_row(&mut self, row: &Row) {
        self.begin();
        for (name, value) in row {
            let kind = match value {
                Value::Absent => continue,
                Value::Null => 0,
                Value::Bool(_) => 1,
                Value::Int(_) | Value::Unsigned(_) => 2,
                Value::Float(_) => 3,
                Value::Text(_) | Value::Bytes(_) | Value::DateTime(_) => 4,
                Value::Array(_) => 5,
                Value::Json(text) if text.starts_with('[') => 5,
                Value::Json(_) | Value::Object(_) => 6,
            };
            self.field(name, kind, || shown(value));
        }
    }

    fn begin(&mut self) {
        if self.now.messages >= GENERATION {
            self.before = std::mem::take(&mut self.now);
        }
        self.now.messages += 1;
    }

    fn field(&mut self, name: &str, kind: u8, example: impl FnOnce() -> String) {
        let Generation { fields, partial, .. } = &mut self.now;
        if !fields.contains_key(name) {
            if fields.len() >= FIELDS || name.len() > 256 {
                *partial = true;
                return;
            }
            let mut example = example();
            if example.chars().count() > EXAMPLE {
                example = example.chars().take(EXAMPLE).chain(['…']).collect();
            }
            fields.insert(name.into(), Field { example, ..Field::default() });
        }
        if let Some(field) = fields.get_mut(name) {
            field.present += 1;
            field.types |= 1 << kind;
        }
    }

    /// The fields of up to 1,000 of the most recently examined messages.
    pub fn fields(&self) -> SeenFields {
        let mut all = self.before.fields.clone();
        for (name, field) in &self.now.fields {
            let known = all.entry(name.clone()).or_default();
            known.present += field.present;
            known.types |= field.types;
            known.example.clone_from(&field.example);
        }
        let types = |bits: u8| TYPES.iter().enumerate().filter(move |(bit, _)| bits & (1 << bit) != 0);
        let fields = all.into_iter().map(|(name, field)| SeenField {
            name,
            present: field.present,
            types: types(field.types).map(|(_, name)| *name).collect(),
            example: field.example,
        });
        SeenFields {
            messages: self.before.messages + self.now.messages,
            fields: fields.collect(),
            partial: self.before.partial || self.now.partial,
        }
    }
}

/// A value as JSON; empty if it has no JSON form.
fn shown(value: &Value) -> String {
    let mut text = Vec::new();
    let _ = json::write_value(&mut text, value);
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_in_two_places_is_added() {
        let of = |texts: &[&str]| {
            let mut seen = Seen::default();
            texts.iter().for_each(|text| seen.look_at_text(text));
            seen.fields()
        };
        let mut all = of(&["{\"a\": \"x\"}"]);
        all.add(of(&["{\"a\": 1, \"b\": null}", "{\"a\": 2}"]));
        assert_eq!(all.messages, 3);
        let fields: Vec<_> =
            all.fields.iter().map(|field| (field.name.as_str(), field.present, &*field.types)).collect();
        assert_eq!(fields, [("a", 3, &["bigint", "string"][..]), ("b", 1, &["null"])]);
        assert!(all.fields.iter().flat_map(|field| &field.types).all(|name| known_type(name) == Some(*name)));
    }

    #[test]
    fn fields_are_counted_with_their_types_and_old_messages_are_forgotten() {
        let mut seen = Seen::default();
        seen.look_at_text("{\"old\": 1}");
        for number in 0..2 * GENERATION {
            seen.look_at_text(&format!(
                "{{\"a\": {number}, \"b\": {}}}",
                if number % 2 == 0 { "null" } else { "\"x\"" }
            ));
        }
        seen.look_at_text("not JSON");
        let fields = seen.fields();
        assert!(fields.field("old").is_none() && !fields.partial && fields.messages > GENERATION, "{fields:?}");
        let a = fields.field("a").expect("it is there");
        assert_eq!((a.present, a.types.as_slice()), (fields.messages, &["bigint"][..]));
        assert_eq!(fields.field("b").map(|b| b.types.clone()), Some(vec!["null", "string"]));
    }

    #[test]
    fn names_and_values_of_strangers_are_bounded() {
        let mut seen = Seen::default();
        for number in 0..10_000 {
            seen.look_at_text(&format!("{{\"field{number}\": \"{}\"}}", "x".repeat(1000)));
        }
        let fields = seen.fields();
        assert!(fields.fields.len() <= 2 * FIELDS && fields.partial);
        assert!(fields.fields.iter().all(|field| field.example.chars().count() <= EXAMPLE + 1));
    }

    #[test]
    fn a_fast_stream_is_looked_at_now_and_then() {
        let mut sampler = Sampler::default();
        let take = |sampler: &mut Sampler| {
            let mut taken = 0;
            while sampler.wants() {
                sampler.took(100);
                taken += 1;
            }
            taken
        };
        sampler.refill(1_000);
        assert!((400..=500).contains(&take(&mut sampler)));
        sampler.refill(1_500);
        assert!((40..=51).contains(&take(&mut sampler)));
        // A clock that steps back must give no budget, and must do no harm.
        sampler.refill(0);
        assert!(!sampler.wants());
    }
}
