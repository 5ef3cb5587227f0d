//! Paths into JSON values, `$.orders[?(@.price > 10)].id`: their types and their evaluation.
//!
//! The language is eKuiper's and not RFC 9535: conditions compute (`@.a + 1 > @.b`), match patterns (`@.name =~ "^x"`)
//! and search lists (`@.k in ["a", "b"]`), a path of only names and indexes returns the value instead of a list, and a
//! path that finds nothing is an error. The crates for the RFC support none of this, and need the data in their own
//! types or serde's, so every message would be copied.
//!
//! Parsing (`read`) and evaluation (here) are separate: a path is parsed once for each call in a rule.

mod read;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use regex::Regex;

use crate::expr::ops::{arithmetic, compare};
use crate::value::key::KeyPart;
use crate::value::operator::{BinaryOp, Comparison};
use crate::value::{Text, Value};

/// A parsed path.
#[derive(Clone, Debug)]
pub struct Path(Vec<Step>);

#[derive(Clone, Debug)]
enum Step {
    /// `.name`, `["name"]`
    Member(Text),
    /// `[n]`, negative from the end
    Index(i64),
    /// `[*]`, `.*`
    All,
    /// `[from:to:step]`
    Slice(Option<i64>, Option<i64>, i64),
    /// `[a, b]`: names and indexes
    List(Vec<Step>),
    /// `[?(condition)]`: the matching elements or members
    Filter(Term),
    /// `..`: the value and all values below it
    Descend,
}

/// A part of a condition.
#[derive(Clone, Debug)]
enum Term {
    Constant(Value),
    /// `[a, b]`
    List(Vec<Term>),
    /// `@…`, from the current element
    Here(Path),
    /// `$…`
    Root(Path),
    Not(Box<Term>),
    Negate(Box<Term>),
    And(Box<Term>, Box<Term>),
    Or(Box<Term>, Box<Term>),
    Compare(Comparison, Box<Term>, Box<Term>),
    Calculate(BinaryOp, Box<Term>, Box<Term>),
    Match(Box<Term>, Regex),
    In(Box<Term>, Box<Term>),
}

/// Why a path is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid JSON path: {problem} at byte {at}")]
pub struct PathError {
    /// position in bytes
    pub at: usize,
    pub problem: &'static str,
}

/// The result of a path.
#[derive(Clone, Debug)]
pub enum Found<'v> {
    /// The value of a path of only names and indexes.
    One(&'v Value),
    /// The values of a path with a choice, in order.
    Many(Vec<&'v Value>),
}

/// Why a path has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    #[error("unknown key {0}")]
    Key(Text),
    #[error("index {0} out of range")]
    Index(i64),
    /// The path finds more values than one call may return.
    #[error("the path finds more than {MOST_FOUND} values")]
    TooMany,
}

/// The most values that a step may find. Each `..` multiplies them, so a short path over a small message could fill the
/// memory.
const MOST_FOUND: usize = 100_000;

impl Path {
    /// Evaluates the path over a value, which must not contain `Value::Json`.
    pub fn find<'v>(&self, root: &'v Value) -> Result<Found<'v>, Missing> {
        if self.is_single() { self.single(root).map(Found::One) } else { self.many(root, root).map(Found::Many) }
    }

    /// Whether the path consists of names and indexes only.
    fn is_single(&self) -> bool {
        self.0.iter().all(|step| matches!(step, Step::Member(_) | Step::Index(_)))
    }

    fn single<'v>(&self, from: &'v Value) -> Result<&'v Value, Missing> {
        self.0.iter().try_fold(from, |value, step| {
            step.one(value).ok_or_else(|| match step {
                Step::Index(index) => Missing::Index(*index),
                Step::Member(name) => Missing::Key(name.clone()),
                _ => Missing::Key(Text::default()),
            })
        })
    }

    fn many<'v>(&self, from: &'v Value, root: &'v Value) -> Result<Vec<&'v Value>, Missing> {
        let mut found = vec![from];
        for step in &self.0 {
            let mut next = Vec::new();
            for value in found {
                step.each(value, root, &mut next);
                if next.len() > MOST_FOUND {
                    return Err(Missing::TooMany);
                }
            }
            found = next;
        }
        Ok(found)
    }

    /// The value in a condition: a list if the path has a choice, `None` if nothing is found.
    fn value<'v>(&self, from: &'v Value, root: &'v Value) -> Option<Cow<'v, Value>> {
        if self.is_single() {
            return self.single(from).ok().map(Cow::Borrowed);
        }
        let found = self.many(from, root).ok()?;
        (!found.is_empty()).then(|| Cow::Owned(Value::array(found.into_iter().cloned())))
    }
}

impl Step {
    /// The value at a name or index.
    fn one<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        match (self, value) {
            (Step::Member(name), Value::Object(members)) => members.get(name),
            (Step::Index(index), Value::Array(members)) => {
                let place = if *index < 0 {
                    members.len().checked_add_signed(isize::try_from(*index).ok()?)?
                } else {
                    usize::try_from(*index).ok()?
                };
                members.get(place)
            }
            _ => None,
        }
    }

    /// Adds all values that the step finds from one value.
    fn each<'v>(&self, value: &'v Value, root: &'v Value, found: &mut Vec<&'v Value>) {
        match self {
            Step::Member(_) | Step::Index(_) => found.extend(self.one(value)),
            Step::All => found.extend(children(value)),
            Step::Filter(condition) => {
                found.extend(children(value).filter(|child| truth(condition.eval(child, root).as_deref())));
            }
            Step::List(steps) => found.extend(steps.iter().filter_map(|step| step.one(value))),
            Step::Slice(from, to, step) => {
                if let Value::Array(members) = value {
                    slice(members, (*from, *to, *step), found);
                }
            }
            Step::Descend => {
                let mut open = vec![value];
                while let Some(value) = open.pop()
                    && found.len() <= MOST_FOUND
                {
                    found.push(value);
                    let below = open.len();
                    open.extend(children(value));
                    open[below..].reverse();
                }
            }
        }
    }
}

/// The elements of an array or the values of an object.
fn children(value: &Value) -> impl Iterator<Item = &Value> {
    let (elements, members) = match value {
        Value::Array(elements) => (Some(elements.iter()), None),
        Value::Object(members) => (None, Some(members.values())),
        _ => (None, None),
    };
    elements.into_iter().flatten().chain(members.into_iter().flatten())
}

/// The elements of a slice as in RFC 9535: negative bounds count from the end, a negative step goes backward.
fn slice<'v>(members: &'v [Value], (from, to, step): (Option<i64>, Option<i64>, i64), found: &mut Vec<&'v Value>) {
    let length = members.len() as i64;
    let place = |bound: i64| if bound < 0 { bound.saturating_add(length) } else { bound };
    let taken = |at: &i64| usize::try_from(*at).ok().and_then(|at| members.get(at));
    if step > 0 {
        let (mut at, end) = (from.map_or(0, place).max(0), to.map_or(length, place).min(length));
        while at < end {
            found.extend(taken(&at));
            at = at.saturating_add(step);
        }
    } else if step < 0 {
        let (mut at, end) = (from.map_or(length - 1, place).min(length - 1), to.map_or(-1, place).max(-1));
        while at > end {
            found.extend(taken(&at));
            at = at.saturating_add(step);
        }
    }
}

/// Whether a condition holds: for `true`, and for every value except null and false, including empty text, 0 and lists.
/// So a path by itself tests whether the value exists.
fn truth(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Absent | Value::Null) => false,
        Some(Value::Bool(truth)) => *truth,
        Some(_) => true,
    }
}

impl Term {
    /// The value for an element; `None` if a part of it is missing or of the wrong kind.
    fn eval<'v>(&'v self, here: &'v Value, root: &'v Value) -> Option<Cow<'v, Value>> {
        let answer = match self {
            Term::Constant(value) => return Some(Cow::Borrowed(value)),
            Term::Here(path) => return path.value(here, root),
            Term::Root(path) => return path.value(root, root),
            Term::List(terms) => {
                let members: Option<Vec<Value>> =
                    terms.iter().map(|term| term.eval(here, root).map(Cow::into_owned)).collect();
                return members.map(|members| Cow::Owned(Value::array(members)));
            }
            Term::Negate(term) => {
                let zero = Value::Int(0);
                return arithmetic(BinaryOp::Subtract, &zero, &*term.eval(here, root)?, false).ok().map(Cow::Owned);
            }
            Term::Calculate(op, left, right) => {
                return calculated(*op, &*left.eval(here, root)?, &*right.eval(here, root)?).map(Cow::Owned);
            }
            Term::Not(term) => !truth(term.eval(here, root).as_deref()),
            Term::And(left, right) => {
                truth(left.eval(here, root).as_deref()) && truth(right.eval(here, root).as_deref())
            }
            Term::Or(left, right) => {
                truth(left.eval(here, root).as_deref()) || truth(right.eval(here, root).as_deref())
            }
            Term::Compare(comparison, left, right) => {
                let (left, right) = (left.eval(here, root)?, right.eval(here, root)?);
                match comparison {
                    Comparison::Equal => KeyPart::of(&left) == KeyPart::of(&right),
                    Comparison::NotEqual => KeyPart::of(&left) != KeyPart::of(&right),
                    order => compare(&left, *order, &right).ok()?,
                }
            }
            Term::Match(term, pattern) => pattern.is_match(term.eval(here, root)?.as_text()?),
            Term::In(term, list) => {
                let wanted = KeyPart::of(&*term.eval(here, root)?);
                match &*list.eval(here, root)? {
                    Value::Array(members) => members.iter().any(|member| KeyPart::of(member) == wanted),
                    _ => return None,
                }
            }
        };
        Some(Cow::Owned(Value::Bool(answer)))
    }
}

fn calculated(op: BinaryOp, left: &Value, right: &Value) -> Option<Value> {
    match (op, left, right) {
        (BinaryOp::Add, Value::Text(left), Value::Text(right)) => Some(Value::from(format!("{left}{right}"))),
        _ => arithmetic(op, left, right, false).ok(),
    }
}
