//! One way to declare what users can set: properties of connectors and sinks, options of streams and rules, settings.
//!
//! Each is one row, a [`Property`]: its name and other spellings, type, range, default, documentation, and a setter for
//! the value. [`read`] checks a JSON object against a table of rows and fills a typed target. The reference pages
//! ([`mod@reference`]) and the REST metadata are made from the same rows ([`entries`]).
//!
//! ```text
//! type Row = Property<Draft>;
//!
//! Row::duration("pingInterval", |draft, every| draft.ping = every)
//!     .default("30s")
//!     .doc("Send a ping this often; `0` sends none"),
//! ```
//!
//! Why tables rather than serde types with a derive: serde stops at the first error, knows neither other spellings nor
//! case nor "did you mean", and a derive that did all of this would be longer than this module. A table is read from
//! top to bottom, and a row compiles only if its setter fits its type.
//!
//! This module does not know any particular property. Reading does not know files: a [`Fault`] names its property, and
//! its place in a document is looked up afterwards.

pub mod duration;
mod place;
mod read;
pub mod reference;
pub mod schema;
pub mod size;

use std::error::Error;
use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value as Json};

pub use self::read::{Cause, Fault, Findings, Invalid, UNKNOWN, Warning, default, knows, read, set_defaults};

/// Something that users can set in a `T`.
pub struct Property<T: 'static> {
    about: About,
    set: Set<T>,
}

/// The description of a property, without its setter.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// The name in the documentation. Names are matched regardless of case.
    pub name: &'static str,
    /// Other accepted spellings.
    pub aliases: &'static [&'static str],
    /// Spellings that are accepted with a warning.
    pub misspelt: &'static [&'static str],
    pub ty: Type,
    /// The default, as a user would write it; empty: there is none.
    pub default: &'static str,
    /// The end of a connector that it belongs to.
    pub place: Place,
    /// One sentence or two, in Markdown.
    pub doc: &'static str,
    pub effect: Effect,
    /// What error messages say is expected; empty: what the type says.
    expected: &'static str,
    /// A custom error for a value that does not fit; `None` from the function: the usual error.
    otherwise: Option<fn(&Json) -> Option<String>>,
}

/// What messages call the rows of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noun {
    /// Property of a connector.
    Property,
    /// Property of all sinks. Errors name it without a noun, since `sink KIND: ` precedes it.
    SinkProperty,
    /// Option of a rule.
    Option,
    /// Setting of the configuration. Errors name it without a noun, since its name begins with its section.
    Setting,
}

/// The type of a property's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Type {
    /// `true` or `false`.
    Flag,
    /// Text in this form, described with an article: `a text`, `host:port`.
    Text(&'static str),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Milliseconds, or text such as `10s`.
    Duration {
        /// the shortest
        least: Duration,
        /// the longest
        most: Duration,
    },
    /// A whole number.
    Whole {
        /// the smallest
        least: u64,
        /// the largest
        most: u64,
    },
    /// A number, with a fraction or without.
    Number {
        /// the smallest
        least: f64,
        /// the largest
        most: f64,
    },
    /// Bytes, or text such as `64MiB`.
    Size,
    /// A list of texts; a single text is a list of one.
    Texts,
    /// A list of names; a single name is refused.
    Names,
    /// An object whose members have rows. A plain value sets the member that is named here.
    Object(Option<&'static str>),
    /// Any value that fits the description.
    Any {
        /// the type in tables of properties: `object`
        takes: &'static str,
        /// the type in errors: `an object of texts`
        expected: &'static str,
    },
}

/// The end of a connector that a property belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Source and sink.
    Both,
    /// Only the source.
    Source,
    /// Only the sink.
    Sink,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It does what its documentation says.
    Works,
    /// It is accepted for compatibility with eKuiper and does nothing.
    Nothing,
    /// It is refused if it is set, since ignoring it would silently change results.
    Unsupported,
}

/// The setter of a property, by type.
enum Set<T: 'static> {
    Flag(fn(&mut T, bool)),
    Text(fn(&mut T, &str)),
    Parsed(fn(&mut T, &str) -> Result<(), Wrong>),
    Choice(fn(&mut T, &'static str)),
    Duration(fn(&mut T, Duration)),
    Whole(fn(&mut T, u64)),
    Number(fn(&mut T, f64)),
    Size(fn(&mut T, u64)),
    Texts(fn(&mut T, Vec<String>)),
    CheckedTexts(fn(&mut T, Vec<String>) -> Result<(), Wrong>),
    Object(&'static [Property<T>]),
    Any(fn(&mut T, &Json) -> Result<(), Wrong>),
    Nothing,
}

/// Why a setter refuses a value.
#[derive(Debug)]
pub enum Wrong {
    /// The value is not what the row's type describes.
    Value,
    /// The value has the right type, but is wrong for this reason.
    Because(Box<dyn Error + Send + Sync>),
}

impl<E: Error + Send + Sync + 'static> From<E> for Wrong {
    fn from(error: E) -> Wrong {
        Wrong::Because(Box::new(error))
    }
}

impl Wrong {
    /// Refuses a value with this message.
    pub fn because(message: impl Into<String>) -> Wrong {
        Wrong::Because(message.into().into())
    }
}

/// The longest duration that a property accepts by default: it can be added to any clock time.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

impl<T> Property<T> {
    const fn new(name: &'static str, ty: Type, set: Set<T>) -> Property<T> {
        let about = About {
            name,
            aliases: &[],
            misspelt: &[],
            ty,
            default: "",
            place: Place::Both,
            doc: "",
            effect: Effect::Works,
            expected: "",
            otherwise: None,
        };
        Property { about, set }
    }

    /// `true` or `false`.
    pub const fn flag(name: &'static str, set: fn(&mut T, bool)) -> Property<T> {
        Property::new(name, Type::Flag, Set::Flag(set))
    }

    /// Any text.
    pub const fn text(name: &'static str, set: fn(&mut T, &str)) -> Property<T> {
        Property::new(name, Type::Text("a text"), Set::Text(set))
    }

    /// Text that the setter checks; `expected` describes its form.
    pub const fn parsed(
        name: &'static str,
        expected: &'static str,
        set: fn(&mut T, &str) -> Result<(), Wrong>,
    ) -> Property<T> {
        Property::new(name, Type::Text(expected), Set::Parsed(set))
    }

    /// One of several words, matched regardless of case. An empty text leaves the property unset.
    pub const fn choice(
        name: &'static str,
        words: &'static [&'static str],
        set: fn(&mut T, &'static str),
    ) -> Property<T> {
        Property::new(name, Type::Choice(words), Set::Choice(set))
    }

    /// A duration of up to a year. An empty text leaves the property unset.
    pub const fn duration(name: &'static str, set: fn(&mut T, Duration)) -> Property<T> {
        Property::new(name, Type::Duration { least: Duration::ZERO, most: LONGEST }, Set::Duration(set))
    }

    /// A whole number from `least` to `most`.
    pub const fn whole(name: &'static str, least: u64, most: u64, set: fn(&mut T, u64)) -> Property<T> {
        Property::new(name, Type::Whole { least, most }, Set::Whole(set))
    }

    /// A number from `least` to `most`.
    pub const fn number(name: &'static str, least: f64, most: f64, set: fn(&mut T, f64)) -> Property<T> {
        Property::new(name, Type::Number { least, most }, Set::Number(set))
    }

    /// A number of bytes.
    pub const fn size(name: &'static str, set: fn(&mut T, u64)) -> Property<T> {
        Property::new(name, Type::Size, Set::Size(set))
    }

    /// A list of texts that the setter checks; `expected` describes the list.
    pub const fn checked_texts(
        name: &'static str,
        expected: &'static str,
        set: fn(&mut T, Vec<String>) -> Result<(), Wrong>,
    ) -> Property<T> {
        Property::new(name, Type::Texts, Set::CheckedTexts(set)).expecting(expected)
    }

    /// A list of names.
    pub const fn names(name: &'static str, set: fn(&mut T, Vec<String>)) -> Property<T> {
        Property::new(name, Type::Names, Set::Texts(set))
    }

    /// A list of texts.
    pub const fn texts(name: &'static str, set: fn(&mut T, Vec<String>)) -> Property<T> {
        Property::new(name, Type::Texts, Set::Texts(set))
    }

    /// An object whose members have rows.
    pub const fn object(name: &'static str, members: &'static [Property<T>]) -> Property<T> {
        Property::new(name, Type::Object(None), Set::Object(members))
    }

    /// A value that only the setter can check. `takes` is its type in tables of properties, `expected` in errors.
    pub const fn any(
        name: &'static str,
        takes: &'static str,
        expected: &'static str,
        set: fn(&mut T, &Json) -> Result<(), Wrong>,
    ) -> Property<T> {
        Property::new(name, Type::Any { takes, expected }, Set::Any(set))
    }

    /// A property of eKuiper that must have this type and does nothing.
    pub const fn without_effect(name: &'static str, ty: Type) -> Property<T> {
        let mut row = Property::new(name, ty, Set::Nothing);
        row.about.effect = Effect::Nothing;
        row
    }

    /// A property of eKuiper that is refused if it is set.
    pub const fn unsupported(name: &'static str) -> Property<T> {
        let mut row = Property::new(name, Type::ANY, Set::Nothing);
        row.about.effect = Effect::Unsupported;
        row
    }

    /// Adds other spellings.
    pub const fn alias(mut self, aliases: &'static [&'static str]) -> Property<T> {
        self.about.aliases = aliases;
        self
    }

    /// Adds spellings that are accepted with a warning.
    pub const fn misspelt(mut self, names: &'static [&'static str]) -> Property<T> {
        self.about.misspelt = names;
        self
    }

    /// Sets the default. The setter gets it as it gets a user's value.
    pub const fn default(mut self, default: &'static str) -> Property<T> {
        self.about.default = default;
        self
    }

    /// Sets the documentation.
    pub const fn doc(mut self, doc: &'static str) -> Property<T> {
        self.about.doc = doc;
        self
    }

    /// Only sources have it.
    pub const fn of_source(mut self) -> Property<T> {
        self.about.place = Place::Source;
        self
    }

    /// Only sinks have it.
    pub const fn of_sink(mut self) -> Property<T> {
        self.about.place = Place::Sink;
        self
    }

    /// Sets the range of a duration.
    pub const fn within(mut self, least: Duration, most: Duration) -> Property<T> {
        self.about.ty = Type::Duration { least, most };
        self
    }

    /// Lets a plain value stand for an object with this member.
    pub const fn shorthand(mut self, member: &'static str) -> Property<T> {
        self.about.ty = Type::Object(Some(member));
        self
    }

    /// Replaces what errors say is expected.
    pub const fn expecting(mut self, expected: &'static str) -> Property<T> {
        self.about.expected = expected;
        self
    }

    /// Sets a custom error for values that do not fit; `None` from the function: the usual error.
    pub const fn otherwise(mut self, message: fn(&Json) -> Option<String>) -> Property<T> {
        self.about.otherwise = Some(message);
        self
    }
}

impl<T> Property<T> {
    /// The name and all other spellings.
    pub fn spellings(&self) -> impl Iterator<Item = &'static str> + use<T> {
        self.about.names()
    }
}

/// A row without its setter, for documentation.
#[derive(Clone, Debug)]
pub struct Entry {
    pub about: About,
    /// The rows of an object's members.
    pub members: Vec<Entry>,
}

/// Describes the rows of a table.
pub fn entries<T>(rows: &'static [Property<T>]) -> Vec<Entry> {
    let entry = |row: &'static Property<T>| Entry {
        about: row.about,
        members: match &row.set {
            Set::Object(members) => entries(members),
            _ => Vec::new(),
        },
    };
    rows.iter().map(entry).collect()
}

impl Noun {
    /// The text before the name in an error.
    fn before_fault(self) -> &'static str {
        match self {
            Noun::Property => "property ",
            Noun::Option => "option ",
            Noun::SinkProperty | Noun::Setting => "",
        }
    }
}

impl fmt::Display for Noun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Noun::Property | Noun::SinkProperty => "property",
            Noun::Option => "option",
            Noun::Setting => "setting",
        })
    }
}

impl About {
    /// The name and all other spellings.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        std::iter::once(self.name).chain(self.aliases.iter().copied()).chain(self.misspelt.iter().copied())
    }
}

impl Entry {
    /// The default as JSON; null if there is none.
    pub fn default_json(&self) -> Json {
        let members = || self.members.iter().map(|member| (member.about.name.to_owned(), member.default_json()));
        match self.members.is_empty() {
            true => literal(self.about.default),
            false => Json::Object(members().filter(|(_, default)| !default.is_null()).collect::<Map<_, _>>()),
        }
    }
}

/// A default as JSON: `16`, `false`, `[]`, or text.
fn literal(default: &str) -> Json {
    match default {
        "" => Json::Null,
        default => serde_json::from_str(default).unwrap_or_else(|_| default.into()),
    }
}

impl Type {
    /// Any value.
    pub const ANY: Type = Type::Any { takes: "any value", expected: "any value" };

    /// What a value should be, for error messages.
    pub fn expected(&self) -> String {
        match *self {
            Type::Flag => "true or false".to_owned(),
            Type::Text(form) => form.to_owned(),
            Type::Choice(words) => any_of(words),
            Type::Duration { least, .. } => {
                let more = if least.is_zero() { "" } else { ", longer than 0" };
                format!("milliseconds, or a duration such as \"10s\"{more}")
            }
            Type::Whole { least, most } if most - least <= 2 => {
                any_of(&(least..=most).map(|number| number.to_string()).collect::<Vec<_>>())
            }
            Type::Whole { least, most: u64::MAX } => format!("a whole number from {least}"),
            Type::Whole { least, most } => format!("a whole number from {least} to {most}"),
            Type::Number { least, most } => match (least.is_finite(), most.is_finite()) {
                (true, true) => format!("a number from {least} to {most}"),
                (true, false) => format!("a number from {least}"),
                _ => "a number".to_owned(),
            },
            Type::Size => "bytes, or a size such as \"64MiB\"".to_owned(),
            Type::Texts => "a list of texts".to_owned(),
            Type::Names => "a list of names, such as [\"id\"]".to_owned(),
            Type::Object(_) => "an object".to_owned(),
            Type::Any { expected, .. } => expected.to_owned(),
        }
    }
}

/// `a, b or c`.
pub fn any_of(words: &[impl AsRef<str>]) -> String {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    match words.as_slice() {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [many @ .., last] => format!("{} or {last}", many.join(", ")),
    }
}

#[cfg(test)]
mod tests;
