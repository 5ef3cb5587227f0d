//! The functions of the rule language, one row of a table each.
//!
//! A [`Function`] contains everything about one function: names, parameters and result, treatment of null,
//! documentation, examples that run as tests, and code. The planner checks calls by it, `docs/functions.md` is
//! generated from it, and no other place lists functions.
//!
//! A function sees only values: no rows, streams or sockets. To add one, add a row to the table of its family.

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

use crate::text::limited::TooLarge;
use crate::value::cast::ConversionError;
use crate::value::{Kind, Value};

/// The evaluated arguments of one call. Arrays and objects are decoded: no argument is [`Value::Json`].
pub struct Args<'a>(pub SmallVec<[Cow<'a, Value>; 4]>);

impl Args<'_> {
    /// The number of arguments.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Value> {
        self.0.iter().map(|value| value.as_ref())
    }
}

impl std::ops::Index<usize> for Args<'_> {
    type Output = Value;

    /// The argument at `index`, counted from 0; absent if the call has fewer.
    fn index(&self, index: usize) -> &Value {
        const ABSENT: &Value = &Value::Absent;
        self.0.get(index).map_or(ABSENT, |value| value.as_ref())
    }
}

/// What a call can read besides its arguments.
#[derive(Clone, Debug)]
pub struct CallContext<'a> {
    /// Id of the rule.
    pub rule: &'a str,
    /// The start of the rule, ms since the epoch.
    pub rule_started: i64,
    /// The worker's clock, ms since the epoch.
    pub now: i64,
    /// The row's time, ms since the epoch: its timestamp in event time, otherwise its arrival.
    pub event_time: i64,
    /// Start and end (exclusive) of the window, ms since the epoch, if there is one.
    pub window: Option<(i64, i64)>,
    /// The configured time zone.
    pub zone: &'a jiff::tz::TimeZone,
    /// Earlier results of the rule.
    pub hits: Hits,
    /// How long the rule pauses after this row, ms; calls add to it. The rule's operator waits, not the thread.
    pub pause: Option<&'a Cell<u64>>,
}

/// Numbers and times of the rows and windows that gave results so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Hits {
    pub rows: u64,
    /// time of the last one, ms since the epoch; 0 if none
    pub row_time: i64,
    pub windows: u64,
    /// time of the last one, ms since the epoch; 0 if none
    pub window_time: i64,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FunctionError {
    /// The function does not accept this argument's type.
    #[error("expect {expected} for parameter {position} but found {found}")]
    Argument {
        /// counted from 1
        position: usize,
        expected: &'static str,
        found: Kind,
    },
    /// A value cannot be converted, as in `cast("abc", "bigint")`.
    #[error(transparent)]
    Conversion(#[from] ConversionError),
    /// The function is not defined for this value; the text is the reason.
    #[error("{0}")]
    Domain(Cow<'static, str>),
}

/// An error of a value for which the function is not defined.
pub(crate) fn domain(text: impl Into<Cow<'static, str>>) -> FunctionError {
    FunctionError::Domain(text.into())
}

/// The size of the largest text that a function makes, in bytes.
const LARGEST_TEXT: usize = 64 << 20;

fn too_large(_: TooLarge) -> FunctionError {
    domain(format!("the answer is larger than {LARGEST_TEXT} bytes"))
}

/// The result if an argument is null or absent. Empty arrays and objects count as null too, unless the parameter
/// accepts arrays or objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nulls {
    /// No value; the function does not run.
    Null,
    /// false; the function does not run.
    False,
    /// 0; the function does not run.
    Zero,
    /// The function handles null itself.
    Own,
}

/// The kind of a parameter. When a rule is planned, it is checked for literals and for expressions of certain kind,
/// never for fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Param {
    /// anything
    Any,
    /// any number
    Number,
    /// a number or another ordered value
    Ordered,
    /// a whole number
    Int,
    /// a literal whole number
    IntLiteral,
    /// a whole number or text
    IntOrText,
    Text,
    /// literal text
    TextLiteral,
    /// true or false
    Bool,
    /// a time: datetime, text in a known format, or ms since the epoch
    DateTime,
    /// a time, or literal text
    DateTimeOrText,
    Array,
    Object,
    /// a key of the metadata: `topic`, `stream.topic`, `key->part`, `*`. It is not a column; the function gets it as
    /// text
    MetaKey,
}

/// The parameters of a function.
#[derive(Clone, Copy, Debug)]
pub struct Signature {
    /// Names and kinds, in order.
    pub params: &'static [(&'static str, Param)],
    /// The number of required parameters.
    pub required: usize,
    /// Whether the last parameter may be repeated.
    pub variadic: bool,
}

/// The kind of the result, as far as the planner can know it. It matters for `/`: this is integer division only if both
/// sides are certainly integers of the language (see `plan::resolve`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returns {
    /// a whole number
    Int,
    /// a float
    Float,
    Text,
    /// true or false
    Bool,
    Bytes,
    /// a time
    DateTime,
    Array,
    Object,
    /// the kind of the argument at this index
    SameAs(usize),
    /// known only at run time
    Any,
}

pub type FunctionResult = Result<Value, FunctionError>;

pub type ScalarFn = fn(&Args<'_>, &CallContext<'_>) -> FunctionResult;

/// A scalar function prepared for one call in one rule.
pub type PreparedFn = Box<dyn Fn(&Args<'_>, &CallContext<'_>) -> FunctionResult + Send + Sync>;

/// A function's own check of a call's literals (`None` for other arguments); the error is the text of the refusal.
pub type CheckFn = fn(&[Option<&Value>]) -> Result<(), String>;

/// The code of a function.
#[derive(Clone, Copy)]
pub enum Code {
    /// One result per call.
    Scalar(ScalarFn),
    /// Prepared once for each call in a rule from its literals (`None` for other arguments), for functions that compile
    /// something, such as a pattern. An error refuses the rule.
    Prepared(fn(&[Option<&Value>]) -> Result<PreparedFn, FunctionError>),
    /// One result for the rows of a window or group.
    Aggregate(super::aggregate::Aggregate),
    /// One result for each row, from that row and earlier ones.
    Analytic(super::analytic::Analytic),
    /// Several rows for one row.
    SetReturning(super::set_returning::SetReturning),
    /// The row's number in its window; only the window knows it.
    RowNumber,
}

/// The families of functions: the chapters of `docs/functions.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// numbers
    Math,
    Text,
    Conversion,
    /// digests and checksums
    Hash,
    /// dates and times
    DateTime,
    Array,
    Object,
    /// JSON text and paths into it
    Json,
    /// functions of the rows of a window or group
    Aggregate,
    /// functions of earlier rows
    Analytic,
    /// functions that make rows
    MultiRow,
    /// functions of the rule, the row or the window
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
    /// In lower case; names in rules are matched regardless of case.
    pub name: &'static str,
    /// Other names of the function.
    pub aliases: &'static [&'static str],
    pub family: Family,
    pub signature: Signature,
    /// A further check of the literals (`None` for other arguments) when a rule is planned. An error becomes part of
    /// the refusal. It runs before the check of the signature, so it must accept any number and kind of arguments.
    pub check: Option<CheckFn>,
    pub returns: Returns,
    pub nulls: Nulls,
    /// Whether equal arguments give equal results, so that a call with only literals can be computed when the rule is
    /// planned.
    pub deterministic: bool,
    /// The text in `docs/functions.md`.
    pub doc: &'static str,
    /// SQL expressions without fields, and the JSON of their results (`""` for null and absent). All run as tests.
    pub examples: &'static [(&'static str, &'static str)],
    pub code: Code,
}

impl Function {
    /// A function with one result per call, by default deterministic, with all parameters required, and null for null.
    /// The methods below change these defaults.
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

    /// Makes only the first `required` parameters required.
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

    /// The result if the function's rule for null decides it, otherwise `None`.
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
    /// The kind of the parameter at `index`, from 0, including repetitions of the last one; `None` past the end.
    pub fn param(&self, index: usize) -> Option<Param> {
        let last = if self.variadic { self.params.last() } else { None };
        self.params.get(index).or(last).map(|(_, param)| *param)
    }
}

/// The function with this name, regardless of case.
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
