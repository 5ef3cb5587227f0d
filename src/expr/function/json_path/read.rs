//! The parser of paths.

use super::{Path, PathError, Step, Term};
use crate::text::pattern::compile;
use crate::value::operator::{BinaryOp, Comparison};
use crate::value::{Text, Value};

impl Path {
    /// Parses a path.
    pub fn parse(text: &str) -> Result<Path, PathError> {
        let mut reader = Reader { text, at: 0, depth: 0, inside: 0 };
        // A name at the start is a member of the root, as after `$.`.
        let first = if reader.take("$") { None } else { Some(reader.dotted()?) };
        let mut path = reader.path()?;
        path.0.splice(0..0, first);
        reader.blanks();
        if reader.at < text.len() { Err(reader.error("expect . or [")) } else { Ok(path) }
    }
}

/// The deepest nesting of conditions and parentheses, so that a path cannot overflow the stack.
const DEEPEST: usize = 32;

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    /// number of open conditions
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

    /// Skips blanks, then this sign if it comes next.
    fn take(&mut self, sign: &str) -> bool {
        self.blanks();
        let found = self.rest().starts_with(sign);
        self.at += if found { sign.len() } else { 0 };
        found
    }

    fn expect(&mut self, sign: &str, problem: &'static str) -> Result<(), PathError> {
        if self.take(sign) { Ok(()) } else { Err(self.error(problem)) }
    }

    /// The steps after `$` or `@`.
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

    /// The step after a dot.
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

    /// The content of brackets, and the closing one.
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
                    // A single selection is not a list.
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

    /// Text in single or double quotes, with JSON escapes.
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
                    // Other escapes keep their backslash, since they belong to a pattern.
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
            return Err(self.error("conditions are nested too deeply"));
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
        // Longer signs first: `<` is a prefix of `<=`.
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
