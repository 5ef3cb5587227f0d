//! Checks of calls when a rule is planned: the number of arguments, and their kinds if these are certain.
//!
//! A field can hold anything, so only literals and expressions that are certainly boolean (comparisons) are refused
//! here. A field of the wrong kind is an error of the message.

use std::fmt;

use super::{Function, Param};
use crate::value::Value;

/// Why a call is refused. The texts are eKuiper's; the planner adds the function's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    #[error("Expect {expected} arguments but found {found}.")]
    Count {
        /// the allowed numbers
        expected: Expected,
        /// the number in the call
        found: usize,
    },
    /// Too few arguments for a function with a varying number.
    #[error("At least has {least} argument but found {found}.")]
    TooFew {
        /// the least number
        least: usize,
        /// the number in the call
        found: usize,
    },
    /// The function never takes arguments of this kind.
    #[error("Expect {} type for parameter {position}", kind_name(.expected))]
    Kind {
        /// the expected kind
        expected: Param,
        /// which argument, from 1
        position: usize,
    },
    #[error("{0}")]
    Own(String),
}

/// The allowed numbers of arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    Exactly(usize),
    /// both inclusive
    Between(usize, usize),
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expected::Exactly(count) => write!(f, "{count}"),
            Expected::Between(least, most) => write!(f, "{least} to {most}"),
        }
    }
}

/// Checks a call. `literals` has one entry per argument: its value if it is a literal (a sign is allowed: `-1`).
/// `kinds` has the kind of each other argument if it is certain, such as `Bool` for a comparison.
pub fn check_call(function: &Function, literals: &[Option<&Value>], kinds: &[Option<Param>]) -> Result<(), CallError> {
    if let Some(check) = function.check {
        check(literals).map_err(CallError::Own)?;
    }
    check_count(function, literals.len())?;
    for (index, literal) in literals.iter().enumerate() {
        let Some(expected) = function.signature.param(index) else { continue };
        let fits = match literal {
            _ if expected == Param::MetaKey => takes_kind(expected, kinds.get(index).copied().flatten()),
            Some(value) => takes_literal(expected, value),
            None => takes_kind(expected, kinds.get(index).copied().flatten()),
        };
        if !fits {
            return Err(CallError::Kind { expected, position: index + 1 });
        }
    }
    Ok(())
}

fn check_count(function: &Function, found: usize) -> Result<(), CallError> {
    let signature = &function.signature;
    let (least, most) = (signature.required, signature.params.len());
    if found < least && (signature.variadic || least < most) {
        Err(CallError::TooFew { least, found })
    } else if found < least || (found > most && !signature.variadic) {
        let expected = if least == most { Expected::Exactly(least) } else { Expected::Between(least, most) };
        Err(CallError::Count { expected, found })
    } else {
        Ok(())
    }
}

fn takes_literal(param: Param, literal: &Value) -> bool {
    // No literal is an array or object. Here eKuiper reports an error for each message instead of refusing the rule.
    if matches!(param, Param::Array | Param::Object) {
        return true;
    }
    match literal {
        Value::Absent | Value::Null => true,
        Value::Int(_) => {
            matches!(
                param,
                Param::Any | Param::Number | Param::Ordered | Param::Int | Param::IntLiteral | Param::IntOrText
            )
        }
        Value::Float(_) | Value::Unsigned(_) => matches!(param, Param::Any | Param::Number | Param::Ordered),
        Value::Text(_) => {
            matches!(param, Param::Any | Param::Text | Param::TextLiteral | Param::IntOrText | Param::DateTimeOrText)
        }
        Value::Bool(_) => matches!(param, Param::Any | Param::Bool),
        Value::Array(_) => matches!(param, Param::Any | Param::Array),
        Value::Object(_) => matches!(param, Param::Any | Param::Object),
        Value::DateTime(_) => matches!(param, Param::Any | Param::DateTime | Param::DateTimeOrText),
        Value::Bytes(_) | Value::Json(_) => matches!(param, Param::Any),
    }
}

fn takes_kind(param: Param, kind: Option<Param>) -> bool {
    match (param, kind) {
        (Param::IntLiteral | Param::TextLiteral, _) => false,
        (Param::MetaKey, kind) => kind == Some(Param::MetaKey),
        (Param::Any | Param::Array | Param::Object, _) | (_, None | Some(Param::Any)) => true,
        (Param::Number | Param::Int | Param::Ordered, Some(Param::Number | Param::Int)) => true,
        (Param::Ordered, Some(Param::Text | Param::DateTime)) => true,
        (Param::IntOrText, Some(Param::Number | Param::Int | Param::Text)) => true,
        // A number or text can be read as a time.
        (Param::DateTime | Param::DateTimeOrText, Some(Param::Number | Param::Int | Param::Text)) => true,
        // Every value except a boolean is converted to text.
        (Param::Text, Some(kind)) => kind != Param::Bool,
        (param, Some(kind)) => param == kind,
    }
}

/// The kind's name in error texts.
fn kind_name(param: &Param) -> &'static str {
    match param {
        Param::Any => "any",
        Param::Number | Param::Ordered => "number - float or int",
        Param::Int | Param::IntOrText => "int",
        Param::IntLiteral => "integer",
        Param::Text | Param::TextLiteral => "string",
        Param::Bool => "bool",
        Param::DateTime | Param::DateTimeOrText => "datetime",
        Param::MetaKey => "meta reference",
        Param::Array => "array",
        Param::Object => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::function::lookup;

    /// The error for a call with these arguments; `None` is a field.
    fn refusal(name: &str, args: &[Option<Value>]) -> Option<String> {
        let literals: Vec<_> = args.iter().map(Option::as_ref).collect();
        check_call(lookup(name)?, &literals, &vec![None; args.len()]).err().map(|error| error.to_string())
    }

    #[test]
    fn refusals_of_numbers() {
        let (field, one, half) = (None, Some(Value::Int(1)), Some(Value::Float(1.5)));
        let (text, truth) = (Some(Value::from("1.5")), Some(Value::Bool(true)));
        for (name, args, expected) in [
            ("abs", vec![], Some("Expect 1 arguments but found 0.")),
            ("abs", vec![field.clone(), field.clone()], Some("Expect 1 arguments but found 2.")),
            ("abs", vec![truth.clone()], Some("Expect number - float or int type for parameter 1")),
            ("abs", vec![field.clone()], None),
            ("power", vec![one.clone(), text.clone()], Some("Expect number - float or int type for parameter 2")),
            ("bitand", vec![field.clone(), half.clone()], Some("Expect int type for parameter 2")),
            ("log", vec![one.clone(), one.clone(), one.clone()], Some("Expect 1 or 2 arguments only")),
            ("round", vec![text.clone()], Some("Expect number - float or int type for parameter 1")),
            ("pi", vec![one.clone()], Some("Expect 0 arguments but found 1.")),
            ("conv", vec![field.clone(), field.clone(), one.clone()], Some("Expect integer type for parameter 2")),
            ("conv", vec![field.clone(), text.clone(), one.clone()], Some("Expect integer type for parameter 2")),
            ("conv", vec![one.clone(), one.clone(), one.clone()], None),
        ] {
            assert_eq!(refusal(name, &args).as_deref(), expected, "{name} {args:?}");
        }
    }

    #[test]
    fn a_comparison_is_no_number() {
        let abs = lookup("ABS").map(|abs| check_call(abs, &[None], &[Some(Param::Bool)]));
        assert_eq!(abs, Some(Err(CallError::Kind { expected: Param::Number, position: 1 })));
    }
}
