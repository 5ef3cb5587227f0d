//! The functions of the rule language: one row each.
//!
//! A row of [`Function`] carries everything that is to say about a function: its names, what it takes and gives, how
//! it treats null, its documentation, examples that are run as tests, and its code. The planner checks calls against
//! the row, `docs/functions.md` is generated from the rows, and nothing else in the program lists functions.
//!
//! A function sees values only: no rows, no streams, no sockets. Adding one is adding a row to the table of its family.

mod aggregate;
mod analytic;
mod array;
mod check;
mod conversion;
mod datetime;
#[cfg(test)]
mod examples;
mod hash;
mod json;
mod json_path;
mod locale;
mod math;
mod object;
mod other;
mod reference;
mod text;

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use smallvec::SmallVec;

pub use check::{CallError, check_call};
pub use reference::{reference, usage};

use crate::value::cast::ConversionError;
use crate::value::{Kind, Value};

/// The arguments of one call, evaluated. Arrays and objects are expanded: no argument is [`Value::Json`].
pub struct Args<'a>(pub SmallVec<[Cow<'a, Value>; 4]>);

impl Args<'_> {
    /// How many arguments the call has.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the call has no arguments.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All arguments in order.
    pub fn iter(&self) -> impl Iterator<Item = &Value> {
        self.0.iter().map(|value| value.as_ref())
    }
}

impl std::ops::Index<usize> for Args<'_> {
    type Output = Value;

    /// The argument at `index` from 0. An argument that the call does not have is absent.
    fn index(&self, index: usize) -> &Value {
        const ABSENT: &Value = &Value::Absent;
        self.0.get(index).map_or(ABSENT, |value| value.as_ref())
    }
}

/// What a call may know of the rule and the row it runs for.
#[derive(Clone, Debug)]
pub struct CallContext<'a> {
    /// Id of the rule.
    pub rule: &'a str,
    /// When the rule started, ms since the epoch.
    pub rule_started: i64,
    /// Now, ms since the epoch, by the worker's clock.
    pub now: i64,
    /// The row's time, ms since the epoch: its timestamp in event time, else its arrival.
    pub event_time: i64,
    /// Start and end (exclusive) of the window, ms since the epoch, where there is one.
    pub window: Option<(i64, i64)>,
    /// The configured time zone.
    pub zone: &'a jiff::tz::TimeZone,
    /// What the rule has sent before.
    pub hits: Hits,
    /// How long the rule is to pause behind this row, ms: calls add to it. The rule's operator waits, and not the thread.
    pub pause: Option<&'a Cell<u64>>,
}

/// Which rows and windows of a rule have given results before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Hits {
    /// how many rows
    pub rows: u64,
    /// the time of the last of them, ms since the epoch; 0 before any
    pub row_time: i64,
    /// how many windows
    pub windows: u64,
    /// the time of the last of them, ms since the epoch; 0 before any
    pub window_time: i64,
}

/// Why a call failed for one row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FunctionError {
    /// An argument has a type that the function does not take. `position` counts from 1.
    #[error("expect {expected} for parameter {position} but found {found}")]
    Argument {
        /// which argument, from 1
        position: usize,
        /// what it should be
        expected: &'static str,
        /// what it is
        found: Kind,
    },
    /// A value cannot be converted, as in `cast("abc", "bigint")`.
    #[error(transparent)]
    Conversion(#[from] ConversionError),
    /// A value outside of what the function is defined for; the text says what is wrong.
    #[error("{0}")]
    Domain(Cow<'static, str>),
}

/// An error of a value outside of what a function is defined for.
pub(crate) fn domain(text: impl Into<Cow<'static, str>>) -> FunctionError {
    FunctionError::Domain(text.into())
}

/// What a call answers where any of its arguments is null or absent. An empty array or object counts as null too,
/// unless its parameter takes arrays or objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nulls {
    /// No value, without running the function.
    Null,
    /// false, without running the function.
    False,
    /// 0, without running the function.
    Zero,
    /// The function sees the nulls and decides.
    Own,
}

/// The kind of one parameter. It is checked when a rule is made against literals and against expressions whose kind
/// is certain, never against fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Param {
    /// anything
    Any,
    /// any number
    Number,
    /// a number, or another value that has an order
    Ordered,
    /// a whole number
    Int,
    /// a whole number that is written in the rule
    IntLiteral,
    /// a whole number or text
    IntOrText,
    Text,
    /// text that is written in the rule
    TextLiteral,
    /// true or false
    Bool,
    /// a point in time: datetime, text in a known format, or ms since the epoch
    DateTime,
    /// a point in time, also where it is text that is written in the rule
    DateTimeOrText,
    Array,
    Object,
    /// a key of a message's metadata: `topic`, `stream.topic`, `key->part`, `*`. It is a name and no column; the
    /// function sees it as text
    MetaKey,
}

/// How many arguments a function takes, and of what kinds.
#[derive(Clone, Copy, Debug)]
pub struct Signature {
    /// Names and kinds of the parameters, in order.
    pub params: &'static [(&'static str, Param)],
    /// How many of `params` must be given.
    pub required: usize,
    /// Whether the last parameter may be repeated.
    pub variadic: bool,
}

/// The kind of a function's answer as far as the planner can know it. It matters for `/`: whole numbers divide as
/// whole numbers only where both sides are certain to be whole numbers of the language (see `plan::resolve`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returns {
    /// a whole number
    Int,
    /// a double
    Float,
    Text,
    /// true or false
    Bool,
    Bytes,
    /// a point in time
    DateTime,
    Array,
    Object,
    /// the kind of the argument at this index
    SameAs(usize),
    /// known at run time only
    Any,
}

/// The result of a scalar function.
pub type FunctionResult = Result<Value, FunctionError>;

/// The code of a scalar function.
pub type ScalarFn = fn(&Args<'_>, &CallContext<'_>) -> FunctionResult;

/// A scalar function specialised for one call in one rule.
pub type PreparedFn = Box<dyn Fn(&Args<'_>, &CallContext<'_>) -> FunctionResult + Send + Sync>;

/// A function's own check of a call's literals (`None` for arguments that are none), with the text of the refusal.
pub type CheckFn = fn(&[Option<&Value>]) -> Result<(), String>;

/// What runs when the function is called.
#[derive(Clone, Copy)]
pub enum Code {
    /// One call, one answer.
    Scalar(ScalarFn),
    /// Made once for each call in a rule's text, from those of its arguments that are literals (`None` for the
    /// others): for functions that compile something, like a pattern. An error refuses the rule.
    Prepared(fn(&[Option<&Value>]) -> Result<PreparedFn, FunctionError>),
    /// One answer for the rows of a window or group.
    Aggregate(super::aggregate::Aggregate),
    /// One answer for each row, from that row and those before.
    Analytic(super::analytic::Analytic),
    /// Several rows for one.
    SetReturning(super::set_returning::SetReturning),
    /// The number of the row in its window, which only the window knows.
    RowNumber,
}

/// The families, which are the chapters of `docs/functions.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// numbers
    Math,
    Text,
    /// conversion between types
    Conversion,
    /// digests and checksums
    Hash,
    /// dates and times
    DateTime,
    Array,
    Object,
    /// JSON text and paths into it
    Json,
    /// over the rows of a window or group
    Aggregate,
    /// over the rows before
    Analytic,
    /// that make rows
    MultiRow,
    /// about the rule, the row, the window
    Other,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Math => "Mathematical functions",
            Family::Text => "String functions",
            Family::Conversion => "Conversion functions",
            Family::Hash => "Hash functions",
            Family::DateTime => "Date and time functions",
            Family::Array => "Array functions",
            Family::Object => "Object functions",
            Family::Json => "JSON functions",
            Family::Aggregate => "Aggregate functions",
            Family::Analytic => "Analytic functions",
            Family::MultiRow => "Multi-row functions",
            Family::Other => "Other functions",
        })
    }
}

/// One function of the language.
pub struct Function {
    /// Its name, in lower case; names are looked up without regard to case.
    pub name: &'static str,
    /// Further names for the same function.
    pub aliases: &'static [&'static str],
    /// The chapter it stands in.
    pub family: Family,
    /// What it takes.
    pub signature: Signature,
    /// A check beyond the signature, of those arguments that are literals (`None` for the others), when a rule is
    /// made. The text of an error becomes part of the refusal. It runs before the signature is checked and so may see
    /// any number of arguments of any kind.
    pub check: Option<CheckFn>,
    /// What it gives.
    pub returns: Returns,
    /// What it answers for null.
    pub nulls: Nulls,
    /// Whether equal arguments give equal answers, so that calls with literals alone may be folded.
    pub deterministic: bool,
    /// One or a few sentences for the reader of `docs/functions.md`.
    pub doc: &'static str,
    /// SQL expressions without fields, and the JSON of their answers (`""` where there is no value). All are tests.
    pub examples: &'static [(&'static str, &'static str)],
    /// What runs.
    pub code: Code,
}

impl Function {
    /// A function with one answer a call: deterministic, all its parameters required, null for null. The methods
    /// below change what is different.
    const fn new(
        name: &'static str,
        family: Family,
        params: &'static [(&'static str, Param)],
        returns: Returns,
        code: Code,
    ) -> Function {
        Function {
            name,
            aliases: &[],
            family,
            signature: Signature { params, required: params.len(), variadic: false },
            check: None,
            returns,
            nulls: Nulls::Null,
            deterministic: true,
            doc: "",
            examples: &[],
            code,
        }
    }

    const fn aliases(mut self, aliases: &'static [&'static str]) -> Function {
        self.aliases = aliases;
        self
    }

    /// Only the first `required` parameters must be given.
    const fn required(mut self, required: usize) -> Function {
        self.signature.required = required;
        self
    }

    const fn variadic(mut self) -> Function {
        self.signature.variadic = true;
        self
    }

    const fn check(mut self, check: CheckFn) -> Function {
        self.check = Some(check);
        self
    }

    const fn nulls(mut self, nulls: Nulls) -> Function {
        self.nulls = nulls;
        self
    }

    const fn not_deterministic(mut self) -> Function {
        self.deterministic = false;
        self
    }

    const fn doc(mut self, doc: &'static str, examples: &'static [(&'static str, &'static str)]) -> Function {
        self.doc = doc;
        self.examples = examples;
        self
    }

    /// The answer that the null rule of this function gives without running it, or `None` where it must run.
    pub fn answer_for_null(&self, args: &Args<'_>) -> Option<Value> {
        let answer = match self.nulls {
            Nulls::Null => Value::Null,
            Nulls::False => Value::Bool(false),
            Nulls::Zero => Value::Int(0),
            Nulls::Own => return None,
        };
        let counts_as_null = |(index, value): (usize, &Value)| match value {
            Value::Absent | Value::Null => true,
            Value::Array(members) => members.is_empty() && self.signature.param(index) != Some(Param::Array),
            Value::Object(members) => members.is_empty() && self.signature.param(index) != Some(Param::Object),
            _ => false,
        };
        args.iter().enumerate().any(counts_as_null).then_some(answer)
    }
}

impl Signature {
    /// The kind of the parameter at `index` from 0, with a repeated last one counted, or `None` beyond the last.
    pub fn param(&self, index: usize) -> Option<Param> {
        let last = if self.variadic { self.params.last() } else { None };
        self.params.get(index).or(last).map(|(_, param)| *param)
    }
}

/// The function of this name, in any case, or `None`.
pub fn lookup(name: &str) -> Option<&'static Function> {
    static BY_NAME: LazyLock<HashMap<&'static str, &'static Function>> = LazyLock::new(|| {
        all()
            .flat_map(|function| {
                std::iter::once(function.name).chain(function.aliases.iter().copied()).map(move |name| (name, function))
            })
            .collect()
    });
    BY_NAME.get(name.to_ascii_lowercase().as_str()).copied()
}

/// All functions, family by family.
pub fn all() -> impl Iterator<Item = &'static Function> {
    FAMILIES.iter().copied().flatten()
}

/// The tables of the families.
static FAMILIES: &[&[Function]] = &[
    math::FUNCTIONS,
    text::FUNCTIONS,
    conversion::FUNCTIONS,
    hash::FUNCTIONS,
    datetime::FUNCTIONS,
    array::FUNCTIONS,
    object::FUNCTIONS,
    json::FUNCTIONS,
    aggregate::FUNCTIONS,
    analytic::FUNCTIONS,
    other::FUNCTIONS,
];
