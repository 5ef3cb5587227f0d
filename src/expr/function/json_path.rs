//! Paths into JSON values, `$.orders[?(@.price > 10)].id`: what they are, how they are read, what they find.
//!
//! The language is the one that eKuiper's users write, which is not RFC 9535: conditions calculate (`@.a + 1 > @.b`),
//! match patterns (`@.name =~ "^x"`) and look into lists (`@.k in ["a", "b"]`), a path of names and indexes alone gives
//! the value itself and not a list, and what it does not find is an error. The crates for the RFC know none of this,
//! and want the data in their own or serde's type, so that every message would be copied.
//!
//! Reading and running are apart: a path is read once for each call in a rule.

use std::borrow::Cow;

use regex::Regex;

use crate::expr::ops::{arithmetic, compare};
use crate::text::pattern::compile;
use crate::value::key::KeyPart;
use crate::value::operator::{BinaryOp, Comparison};
use crate::value::{Text, Value};

/// A path, read.
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
    /// `[?(condition)]`: the elements or members that meet it
    Filter(Term),
    /// `..`: the value and all below it
    Descend,
}

/// A part of a condition.
#[derive(Clone, Debug)]
enum Term {
    Constant(Value),
    /// `[a, b]`
    List(Vec<Term>),
    /// `@…`, of the element that is looked at
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

/// Why a text is no path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid JSON path: {problem} at byte {at}")]
pub struct PathError {
    /// where, in bytes
    pub at: usize,
    /// what is wrong
    pub problem: &'static str,
}

/// What a path has found.
#[derive(Clone, Debug)]
pub enum Found<'v> {
    /// The value that a path of names and indexes leads to.
    One(&'v Value),
    /// Those that a path with a choice in it leads to, in order.
    Many(Vec<&'v Value>),
}

/// A path of names and indexes leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// There is no such member.
    #[error("unknown key {0}")]
    Key(Text),
    /// There is no such element.
    #[error("index {0} out of range")]
    Index(i64),
}

impl Path {
    /// Reads a path.
    pub fn parse(text: &str) -> Result<Path, PathError> {
        let mut reader = Reader { text, at: 0, depth: 0, inside: 0 };
        // A name at the front is one of the root's, as if `$.` stood before it.
        let first = if reader.take("$") { None } else { Some(reader.dotted()?) };
        let mut path = reader.path()?;
        path.0.splice(0..0, first);
        reader.blanks();
        if reader.at < text.len() { Err(reader.error("expect . or [")) } else { Ok(path) }
    }

    /// What the path finds in a value, which holds no `Value::Json`.
    pub fn find<'v>(&self, root: &'v Value) -> Result<Found<'v>, Missing> {
        if self.is_single() { self.single(root).map(Found::One) } else { Ok(Found::Many(self.many(root, root))) }
    }

    /// Whether there is no choice in the path.
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

    fn many<'v>(&self, from: &'v Value, root: &'v Value) -> Vec<&'v Value> {
        let mut found = vec![from];
        for step in &self.0 {
            let mut next = Vec::new();
            for value in found {
                step.each(value, root, &mut next);
            }
            found = next;
        }
        found
    }

    /// The value for a condition: a list where there is a choice, none where nothing is found.
    fn value<'v>(&self, from: &'v Value, root: &'v Value) -> Option<Cow<'v, Value>> {
        if self.is_single() {
            return self.single(from).ok().map(Cow::Borrowed);
        }
        let found = self.many(from, root);
        (!found.is_empty()).then(|| Cow::Owned(Value::array(found.into_iter().cloned())))
    }
}

impl Step {
    /// The one value that a name or index leads to.
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

    /// All values that the step leads to from one.
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
                while let Some(value) = open.pop() {
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

/// The elements of a slice as RFC 9535 counts them: negative bounds count from the end, a negative step goes back.
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

/// Whether a condition is met: by true, and by anything that is there and is not null. Text, 0 and lists count, for a
/// path alone asks whether there is something.
fn truth(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Absent | Value::Null) => false,
        Some(Value::Bool(truth)) => *truth,
        Some(_) => true,
    }
}

impl Term {
    /// The value for an element; none where a part of it is missing or of the wrong kind.
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

/// How deep conditions and parentheses may stand in each other: a path must not exhaust the stack.
const DEEPEST: usize = 32;

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    /// how many conditions are open
    inside: usize,
}

impl<'a> Reader<'a> {
    fn error(&self, problem: &'static str) -> PathError {
        PathError { at: self.at, problem }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn blanks(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// Skips blanks, then this sign, if it comes next.
    fn take(&mut self, sign: &str) -> bool {
        self.blanks();
        let found = self.rest().starts_with(sign);
        self.at += if found { sign.len() } else { 0 };
        found
    }

    fn expect(&mut self, sign: &str, problem: &'static str) -> Result<(), PathError> {
        if self.take(sign) { Ok(()) } else { Err(self.error(problem)) }
    }

    /// The steps behind `$` or `@`.
    fn path(&mut self) -> Result<Path, PathError> {
        let mut steps = Vec::new();
        loop {
            if self.take("..") {
                steps.push(Step::Descend);
                let step = if self.take("[") { self.bracket()? } else { self.dotted()? };
                steps.push(step);
            } else if self.take(".") {
                steps.push(self.dotted()?);
            } else if self.take("[") {
                steps.push(self.bracket()?);
            } else {
                return Ok(Path(steps));
            }
        }
    }

    /// What stands behind a point.
    fn dotted(&mut self) -> Result<Step, PathError> {
        if self.take("*") {
            return Ok(Step::All);
        }
        // In a condition `-` is an operator.
        let hyphens = self.inside == 0;
        let in_name = |c: char| c.is_alphanumeric() || c == '_' || (hyphens && c == '-') || !c.is_ascii();
        let rest = self.rest();
        let end = rest.find(|c| !in_name(c)).unwrap_or(rest.len());
        if end == 0 {
            return Err(self.error("expect a name or *"));
        }
        self.at += end;
        Ok(Step::Member(rest[..end].into()))
    }

    /// What stands in brackets, and the closing one.
    fn bracket(&mut self) -> Result<Step, PathError> {
        let step = if self.take("*") {
            Step::All
        } else if self.take("?") {
            self.inside += 1;
            let condition = self.or()?;
            self.inside -= 1;
            Step::Filter(condition)
        } else {
            self.selection()?
        };
        self.expect("]", "expect ]")?;
        Ok(step)
    }

    /// A name, an index, several of them, or a slice.
    fn selection(&mut self) -> Result<Step, PathError> {
        let from = if self.take(":") {
            None
        } else {
            let first = self.pick()?;
            match first {
                Step::Index(from) if self.take(":") => Some(from),
                first => {
                    let mut picks = vec![first];
                    while self.take(",") {
                        picks.push(self.pick()?);
                    }
                    // One alone is no choice.
                    return Ok(if picks.len() > 1 { Step::List(picks) } else { picks.remove(0) });
                }
            }
        };
        let to = self.integer()?;
        let step = if self.take(":") { self.integer()?.unwrap_or(1) } else { 1 };
        Ok(Step::Slice(from, to, step))
    }

    fn pick(&mut self) -> Result<Step, PathError> {
        if let Some(name) = self.quoted()? {
            return Ok(Step::Member(name));
        }
        self.integer()?.map(Step::Index).ok_or_else(|| self.error("expect a name in quotes, an index, * or ?"))
    }

    fn integer(&mut self) -> Result<Option<i64>, PathError> {
        self.blanks();
        let rest = self.rest();
        let sign = usize::from(rest.starts_with('-'));
        let end = rest[sign..].find(|c: char| !c.is_ascii_digit()).map_or(rest.len(), |end| end + sign);
        if end == 0 {
            return Ok(None);
        }
        let number = rest[..end].parse().map_err(|_| self.error("expect a whole number of 64 bits"))?;
        self.at += end;
        Ok(Some(number))
    }

    /// Text in single or double quotes, with the escapes of JSON.
    fn quoted(&mut self) -> Result<Option<Text>, PathError> {
        self.blanks();
        let mut characters = self.rest().char_indices();
        let quote = match characters.next() {
            Some((_, quote @ ('"' | '\''))) => quote,
            _ => return Ok(None),
        };
        let mut text = Text::default();
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' => match characters.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, 'r')) => text.push('\r'),
                    Some((_, 'b')) => text.push('\u{8}'),
                    Some((_, 'f')) => text.push('\u{c}'),
                    Some((_, 'u')) => {
                        let digits: String = characters.by_ref().take(4).map(|(_, digit)| digit).collect();
                        let code = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
                        text.push(code.ok_or_else(|| self.error("expect four hexadecimal digits behind \\u"))?);
                    }
                    // What needs no escape may have one: patterns are full of them, and mean them.
                    Some((_, escaped)) => {
                        if !matches!(escaped, '"' | '\'' | '\\' | '/') {
                            text.push('\\');
                        }
                        text.push(escaped);
                    }
                    None => break,
                },
                end if end == quote => {
                    self.at += at + quote.len_utf8();
                    return Ok(Some(text));
                }
                other => text.push(other),
            }
        }
        Err(self.error("expect the closing quote"))
    }

    fn or(&mut self) -> Result<Term, PathError> {
        if self.depth >= DEEPEST {
            return Err(self.error("conditions stand too deep in each other"));
        }
        self.depth += 1;
        let mut left = self.and()?;
        while self.take("||") {
            left = Term::Or(Box::new(left), Box::new(self.and()?));
        }
        self.depth -= 1;
        Ok(left)
    }

    fn and(&mut self) -> Result<Term, PathError> {
        let mut left = self.comparison()?;
        while self.take("&&") {
            left = Term::And(Box::new(left), Box::new(self.comparison()?));
        }
        Ok(left)
    }

    fn comparison(&mut self) -> Result<Term, PathError> {
        let left = self.sum()?;
        if self.take("=~") {
            let at = self.at;
            let pattern = self.quoted()?.ok_or_else(|| self.error("expect a pattern in quotes"))?;
            let pattern = compile(&pattern).map_err(|_| PathError { at, problem: "expect a regular expression" })?;
            return Ok(Term::Match(Box::new(left), pattern));
        }
        if self.rest().trim_start().strip_prefix("in").is_some_and(|rest| rest.starts_with([' ', '[', '$', '@', '('])) {
            self.take("in");
            return Ok(Term::In(Box::new(left), Box::new(self.sum()?)));
        }
        // The longer signs first: `<` begins `<=`.
        const SIGNS: [(&str, Comparison); 6] = [
            ("==", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<=", Comparison::LessEqual),
            (">=", Comparison::GreaterEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        match SIGNS.iter().find(|(sign, _)| self.take(sign)) {
            Some((_, comparison)) => Ok(Term::Compare(*comparison, Box::new(left), Box::new(self.sum()?))),
            None => Ok(left),
        }
    }

    fn sum(&mut self) -> Result<Term, PathError> {
        let mut left = self.product()?;
        loop {
            let op = match () {
                () if self.take("+") => BinaryOp::Add,
                () if self.take("-") => BinaryOp::Subtract,
                () => return Ok(left),
            };
            left = Term::Calculate(op, Box::new(left), Box::new(self.product()?));
        }
    }

    fn product(&mut self) -> Result<Term, PathError> {
        let mut left = self.unary()?;
        loop {
            let op = match () {
                () if self.take("*") => BinaryOp::Multiply,
                () if self.take("/") => BinaryOp::Divide,
                () if self.take("%") => BinaryOp::Modulo,
                () => return Ok(left),
            };
            left = Term::Calculate(op, Box::new(left), Box::new(self.unary()?));
        }
    }

    fn unary(&mut self) -> Result<Term, PathError> {
        let mut signs = Vec::new();
        loop {
            if self.take("!") {
                signs.push('!');
            } else if self.take("-") {
                signs.push('-');
            } else {
                break;
            }
            if signs.len() > DEEPEST {
                return Err(self.error("too many signs"));
            }
        }
        let wrap = |term, sign| if sign == '!' { Term::Not(Box::new(term)) } else { Term::Negate(Box::new(term)) };
        let operand = self.operand()?;
        Ok(signs.into_iter().rev().fold(operand, wrap))
    }

    fn operand(&mut self) -> Result<Term, PathError> {
        if self.take("(") {
            let inner = self.or()?;
            self.expect(")", "expect )")?;
            return Ok(inner);
        }
        if self.take("@") {
            return self.path().map(Term::Here);
        }
        if self.take("$") {
            return self.path().map(Term::Root);
        }
        if self.take("[") {
            let mut members = Vec::new();
            while !self.take("]") {
                members.push(self.or()?);
                if !self.take(",") {
                    self.expect("]", "expect , or ]")?;
                    break;
                }
            }
            return Ok(Term::List(members));
        }
        if let Some(text) = self.quoted()? {
            return Ok(Term::Constant(Value::Text(text)));
        }
        let rest = self.rest();
        let mut end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '.')).unwrap_or(rest.len());
        if rest.starts_with(|c: char| c.is_ascii_digit())
            && rest[..end].ends_with(['e', 'E'])
            && rest[end..].starts_with(['+', '-'])
        {
            let digits = &rest[end + 1..];
            end += 1 + digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        }
        let value = match &rest[..end] {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            "null" | "nil" => Value::Null,
            number if number.starts_with(|c: char| c.is_ascii_digit() || c == '.') => match number.parse() {
                Ok(int) => Value::Int(int),
                Err(_) => Value::Float(number.parse().map_err(|_| self.error("expect a number"))?),
            },
            _ => return Err(self.error("expect @, $, a number, a text in quotes, true, false or null")),
        };
        self.at += end;
        Ok(Term::Constant(value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::value::cast::text;
    use crate::value::json::parse;

    const DATA: &str = r#"{"n":"x","list":[1,2,3,4],"objs":[{"k":"p","v":1},{"k":"q","v":5,"f":true},
        {"k":"rr","v":9,"f":false}],"deep":{"v":42},"odd key":1,"nul":null,"max":5,"a-b":7,"é":8}"#;

    fn found(path: &str) -> String {
        let data = parse(DATA).expect("JSON");
        match Path::parse(path) {
            Ok(path) => match path.find(&data) {
                Ok(Found::One(value)) => text(value).into_owned(),
                Ok(Found::Many(values)) => text(&Value::array(values.into_iter().cloned())).into_owned(),
                Err(missing) => missing.to_string(),
            },
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn paths() {
        for (path, expected) in [
            ("$.n", "x"),
            ("$.deep.v", "42"),
            (" $ . deep [ 'v' ] ", "42"),
            ("$[\"odd key\"]", "1"),
            ("$['deep']['v']", "42"),
            ("n", "x"),
            ("deep.v", "42"),
            ("objs[1].k", "q"),
            ("$.a-b", "7"),
            ("$.é", "8"),
            ("$.list", "[1,2,3,4]"),
            ("$.list[0]", "1"),
            ("$.list[-1]", "4"),
            ("$.list[4]", "index 4 out of range"),
            ("$.list[-5]", "index -5 out of range"),
            ("$.none", "unknown key none"),
            ("$.list.k", "unknown key k"),
            ("$.list[1:3]", "[2,3]"),
            ("$.list[:2]", "[1,2]"),
            ("$.list[2:]", "[3,4]"),
            ("$.list[-2:]", "[3,4]"),
            ("$.list[::2]", "[1,3]"),
            ("$.list[::-1]", "[4,3,2,1]"),
            ("$.list[::0]", "[]"),
            ("$.list[0:9223372036854775807:9223372036854775807]", "[1]"),
            ("$.list[0,2]", "[1,3]"),
            ("$.list[9,0]", "[1]"),
            ("$['n','max']", "[\"x\",5]"),
            ("$.list[*]", "[1,2,3,4]"),
            ("$.deep.*", "[42]"),
            ("$.none[*]", "[]"),
            ("$.objs[2,0].k", "[\"rr\",\"p\"]"),
            ("$.objs[0:2].k", "[\"p\",\"q\"]"),
            ("$..v", "[1,5,9,42]"),
            ("$..[0]", "[1,{\"k\":\"p\",\"v\":1}]"),
            ("$..zz", "[]"),
        ] {
            assert_eq!(found(path), expected, "{path}");
        }
    }

    #[test]
    fn conditions() {
        for (condition, expected) in [
            ("(@.v > 2)", r#"["q","rr"]"#),
            (" @.v < 9", r#"["p","q"]"#),
            ("(@.v >= 5 && @.v <= 5)", r#"["q"]"#),
            ("(@.v == 1 || @.k == 'rr')", r#"["p","rr"]"#),
            ("(@.k != \"q\")", r#"["p","rr"]"#),
            ("(!(@.v > 2))", r#"["p"]"#),
            ("(@.f)", r#"["q"]"#),
            ("(!@.f)", r#"["p","rr"]"#),
            ("(@.v * 2 + 1 == 11)", r#"["q"]"#),
            ("(@.v % 4 == 1)", r#"["p","q","rr"]"#),
            ("(@.v / 2 == 2.5)", r#"["q"]"#),
            ("(@.v - 10 < -1)", r#"["p","q"]"#),
            ("(@.v == $.max)", r#"["q"]"#),
            ("(@.v in $.list)", r#"["p"]"#),
            ("(@.k in ['p', \"rr\"])", r#"["p","rr"]"#),
            ("(@.k =~ '^[pq]$')", r#"["p","q"]"#),
            ("(@.k =~ \"r\\w\")", r#"["rr"]"#),
            ("(@.k > 2)", "[]"),
            ("(@.none != 1)", "[]"),
            ("(@.f == null)", "[]"),
            ("(@.v == 5e+0)", r#"["q"]"#),
            ("(@.k + 'x' == \"px\")", r#"["p"]"#),
            ("(true)", r#"["p","q","rr"]"#),
        ] {
            assert_eq!(found(&format!("$.objs[?{condition}].k")), expected, "{condition}");
        }
        assert_eq!(found("$.list[?(@ > 2)]"), "[3,4]");
        assert_eq!(found("$.deep[?(@ == 42)]"), "[42]");
        assert_eq!(found("$..[?(@.v == 42)]"), "[{\"v\":42}]");
    }

    #[test]
    fn what_is_no_path() {
        for (path, expected) in [
            ("", "expect a name or * at byte 0"),
            ("@.n", "expect a name or * at byte 0"),
            ("$.", "expect a name or * at byte 2"),
            ("$.[", "expect a name or * at byte 2"),
            ("$[", "expect a name in quotes, an index, * or ? at byte 2"),
            ("$[0", "expect ] at byte 3"),
            ("$['a]", "expect the closing quote at byte 2"),
            ("$ x", "expect . or [ at byte 2"),
            ("$[?(@.a >)]", "expect @, $, a number, a text in quotes, true, false or null at byte 9"),
            ("$[?(@.a]", "expect ) at byte 7"),
            ("$[?(@.a =~ '(')]", "expect a regular expression at byte 10"),
            ("$[99999999999999999999]", "expect a whole number of 64 bits at byte 2"),
        ] {
            assert_eq!(found(path), format!("invalid JSON path: {expected}"), "{path}");
        }
        assert!(found(&format!("$[?{}", "(".repeat(100_000))).contains("too deep"));
        assert!(found(&format!("$[?{}", "[".repeat(100_000))).contains("too deep"));
        assert!(found(&"$[?(@".repeat(100_000)).contains("invalid"));
        assert!(found(&format!("$[?(@{}", "[?(@".repeat(100_000))).contains("too deep"));
    }

    proptest! {
        #[test]
        fn no_text_upsets_the_reader(path in "\\$[.\\[\\]?()@$*:,'\"a-c0-9 =~!<>&|+%/éin-]{0,40}") {
            found(&path);
        }
    }
}
