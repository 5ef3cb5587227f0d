//! Parses templates.

use std::collections::HashMap;

use super::{Node, Operand, Pipe, Template, TemplateError, functions};
use crate::value::{Text, Value};

/// How deep blocks and parentheses may nest.
const MAX_DEPTH: usize = 100;

/// Parses a template.
pub fn parse(text: &str) -> Result<Template, TemplateError> {
    let pieces = pieces(text)?;
    let mut parser =
        Parser { pieces, at: 0, variables: vec![Text::default()], defined: HashMap::new(), depth: 0, ranges: 0 };
    let (body, end) = parser.block(&[])?;
    if let Some((keyword, line)) = end {
        return Err(TemplateError { line, what: format!("unexpected {{{{{keyword}}}}}") });
    }
    Ok(Template { body, defined: parser.defined })
}

enum Piece {
    Text(String),
    Action(Vec<Token>, usize),
}

#[derive(Clone, Debug)]
enum Token {
    /// `.a`: a field
    Field(Text),
    Dot,
    Variable(Text),
    Word(Text),
    Literal(Value),
    Open,
    Close,
    Pipe,
    Comma,
    Declare,
    Assign,
    /// white space between operands; it distinguishes `.a .b` from `.a.b`
    Space,
}

impl Token {
    fn is_space(&self) -> bool {
        matches!(self, Token::Space)
    }
}

/// Text and actions, alternating; white space is trimmed where `-` asks for it.
fn pieces(text: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let (mut rest, mut line, mut trim) = (text, 1, false);
    loop {
        let Some(open) = rest.find("{{") else {
            push_text(&mut pieces, if trim { rest.trim_start() } else { rest });
            return Ok(pieces);
        };
        let (mut before, after) = (&rest[..open], &rest[open + 2..]);
        line += before.matches('\n').count();
        if trim {
            before = before.trim_start();
        }
        let mut action = after;
        if let Some(trimmed) = action.strip_prefix('-').filter(|rest| rest.starts_with(char::is_whitespace)) {
            before = before.trim_end();
            action = trimmed;
        }
        push_text(&mut pieces, before);
        let (tokens, length, right) = lex(action, line)?;
        line += action[..length].matches('\n').count();
        rest = &action[length..];
        trim = right;
        if !tokens.is_empty() {
            pieces.push(Piece::Action(tokens, line));
        }
    }
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text.to_owned()));
    }
}

/// The tokens of an action up to its `}}`, its length in bytes, and whether it trims what follows.
fn lex(action: &str, line: usize) -> Result<(Vec<Token>, usize, bool), TemplateError> {
    let fail = |what: String| Err(TemplateError { line, what });
    let mut tokens = Vec::new();
    let mut at = 0;
    loop {
        let rest = &action[at..];
        if rest.starts_with("}}") {
            if tokens.is_empty() {
                return fail("missing value for command".to_owned());
            }
            return Ok((tokens, at + 2, false));
        }
        let blank = rest.len() - rest.trim_start().len();
        if blank > 0 {
            if rest[blank..].starts_with("-}}") {
                return Ok((tokens, at + blank + 3, true));
            }
            at += blank;
            tokens.push(Token::Space);
            continue;
        }
        if rest.starts_with("/*") && tokens.iter().all(Token::is_space) {
            let Some(end) = rest.find("*/") else { return fail("unclosed comment".to_owned()) };
            let after = &rest[end + 2..];
            let inner = after.len() - after.trim_start().len();
            return match after.trim_start() {
                close if close.starts_with("}}") => Ok((Vec::new(), at + end + 2 + inner + 2, false)),
                close if inner > 0 && close.starts_with("-}}") => Ok((Vec::new(), at + end + 2 + inner + 3, true)),
                _ => fail("comment ends before closing delimiter".to_owned()),
            };
        }
        let Some(first) = rest.chars().next() else { return fail("unclosed action".to_owned()) };
        let word = |text: &str| text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
        let (token, length) = match first {
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            '|' => (Token::Pipe, 1),
            ',' => (Token::Comma, 1),
            ':' if rest.starts_with(":=") => (Token::Declare, 2),
            '=' => (Token::Assign, 1),
            '$' => {
                let length = word(&rest[1..]);
                (Token::Variable(Text::from(&rest[1..1 + length])), 1 + length)
            }
            '"' | '\'' | '`' => match quoted(rest) {
                Some((value, length)) => (Token::Literal(value), length),
                None => return fail("unterminated quoted string".to_owned()),
            },
            '.' if !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => match word(&rest[1..]) {
                0 => (Token::Dot, 1),
                length => (Token::Field(Text::from(&rest[1..1 + length])), 1 + length),
            },
            '0'..='9' | '+' | '-' | '.' => {
                let length = rest[1..]
                    .find(|c: char| !(c.is_ascii_alphanumeric() || "._+-".contains(c)))
                    .map_or(rest.len(), |end| end + 1);
                // Inside a number, a sign is only allowed after its exponent.
                let length = sign(&rest[..length]).unwrap_or(length);
                let Some(value) = number(&rest[..length]) else {
                    return fail(format!("bad number syntax: {:?}", &rest[..length]));
                };
                (Token::Literal(value), length)
            }
            c if c.is_alphabetic() || c == '_' => {
                let length = word(rest);
                (Token::Word(Text::from(&rest[..length])), length)
            }
            c => return fail(format!("unexpected {c:?} in command")),
        };
        tokens.push(token);
        at += length;
    }
}

/// The position of a second sign that is not part of an exponent.
fn sign(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    (1..bytes.len()).find(|at| matches!(bytes[*at], b'+' | b'-') && !matches!(bytes[at - 1], b'e' | b'E' | b'p' | b'P'))
}

fn number(text: &str) -> Option<Value> {
    let clean = text.replace('_', "");
    let (negative, digits) = match clean.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, clean.strip_prefix('+').unwrap_or(&clean)),
    };
    let lower = digits.to_ascii_lowercase();
    let radix = [("0x", 16), ("0o", 8), ("0b", 2)].into_iter().find(|(prefix, _)| lower.starts_with(prefix));
    if let Some((_, radix)) = radix {
        let value = i64::from_str_radix(&lower[2..], radix).ok()?;
        return Some(Value::Int(if negative { -value } else { value }));
    }
    if digits.bytes().all(|b| b.is_ascii_digit())
        && let Ok(value) = clean.strip_prefix('+').unwrap_or(&clean).parse::<i64>()
    {
        return Some(Value::Int(value));
    }
    let float = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    clean.parse::<f64>().ok().filter(|value| float && value.is_finite()).map(Value::Float)
}

/// Parses a literal in quotes; returns its length too.
fn quoted(text: &str) -> Option<(Value, usize)> {
    let quote = text.chars().next()?;
    if quote == '`' {
        let end = text[1..].find('`')?;
        return Some((Value::from(&text[1..1 + end]), end + 2));
    }
    let mut out = Vec::new();
    let mut chars = text[1..].char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => {
                let text = String::from_utf8_lossy(&out).into_owned();
                let value = match (quote, text.chars().next()) {
                    ('\'', Some(c)) if text.chars().count() == 1 => Value::Int(i64::from(u32::from(c))),
                    ('\'', _) => return None,
                    _ => Value::from(text),
                };
                return Some((value, at + 2));
            }
            '\n' => return None,
            '\\' => {
                let (_, escape) = chars.next()?;
                let digits = |chars: &mut std::str::CharIndices<'_>, count: usize, radix| {
                    let mut value = 0u32;
                    for _ in 0..count {
                        value = value.checked_mul(radix)?.checked_add(chars.next()?.1.to_digit(radix)?)?;
                    }
                    Some(value)
                };
                match escape {
                    'x' => out.push(u8::try_from(digits(&mut chars, 2, 16)?).ok()?),
                    'u' | 'U' => {
                        let code = digits(&mut chars, if escape == 'u' { 4 } else { 8 }, 16)?;
                        out.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut [0; 4]).as_bytes());
                    }
                    '0'..='7' => {
                        let code = escape.to_digit(8)? * 64 + digits(&mut chars, 2, 8)?;
                        out.push(u8::try_from(code).ok()?);
                    }
                    _ => {
                        let plain = match escape {
                            'n' => b'\n',
                            't' => b'\t',
                            'r' => b'\r',
                            'a' => 7,
                            'b' => 8,
                            'f' => 12,
                            'v' => 11,
                            '\\' => b'\\',
                            '"' | '\'' if escape == quote => quote as u8,
                            _ => return None,
                        };
                        out.push(plain);
                    }
                }
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    None
}

struct Parser {
    pieces: Vec<Piece>,
    at: usize,
    /// names in scope; `$` comes first
    variables: Vec<Text>,
    defined: HashMap<Text, Vec<Node>>,
    depth: usize,
    /// the number of enclosing ranges
    ranges: usize,
}

/// The keyword that ended a block, with the tokens after it and its line.
type End = Option<(Text, usize)>;

impl Parser {
    /// Parses up to one of `ends`, which stays the current piece; `None` at the end of the text.
    fn block(&mut self, ends: &[&str]) -> Result<(Vec<Node>, End), TemplateError> {
        let mut nodes = Vec::new();
        self.depth += 1;
        let scope = self.variables.len();
        let mut line = 1;
        while self.at < self.pieces.len() {
            let (tokens, of) = match &self.pieces[self.at] {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text.clone()));
                    self.at += 1;
                    continue;
                }
                Piece::Action(tokens, line) => (trimmed(tokens), *line),
            };
            line = of;
            if self.depth > MAX_DEPTH {
                return Err(TemplateError { line, what: "blocks are nested too deeply".to_owned() });
            }
            let keyword = match tokens.first() {
                Some(Token::Word(word)) => word.clone(),
                _ => Text::default(),
            };
            if ends.contains(&keyword.as_str()) || matches!(keyword.as_str(), "end" | "else") {
                self.depth -= 1;
                self.variables.truncate(scope);
                return Ok((nodes, Some((keyword, line))));
            }
            self.at += 1;
            let rest = &tokens[usize::from(!keyword.is_empty())..];
            let node = match keyword.as_str() {
                "if" | "with" | "range" => self.control(&keyword, rest, line)?,
                "define" | "block" => match self.define(&keyword, rest, line)? {
                    Some(node) => node,
                    None => continue,
                },
                "template" => {
                    let (name, pipe) = self.named(rest, line)?;
                    Node::Call(name, pipe, line)
                }
                "break" | "continue" if rest.is_empty() => {
                    if self.ranges == 0 {
                        return Err(TemplateError { line, what: format!("{{{{{keyword}}}}} outside {{{{range}}}}") });
                    }
                    if keyword == "break" { Node::Break } else { Node::Continue }
                }
                _ => Node::Print(self.pipe(&tokens, line, false)?),
            };
            nodes.push(node);
        }
        self.depth -= 1;
        self.variables.truncate(scope);
        if ends.is_empty() {
            return Ok((nodes, None));
        }
        Err(TemplateError { line, what: "unexpected EOF".to_owned() })
    }

    /// Parses `if`, `with` or `range`, from after the keyword to after its `end`.
    fn control(&mut self, keyword: &str, rest: &[Token], line: usize) -> Result<Node, TemplateError> {
        let scope = self.variables.len();
        let range = keyword == "range";
        let pipe = self.pipe(rest, line, range)?;
        self.ranges += usize::from(range);
        let (body, end) = self.block(&["end", "else"])?;
        self.ranges -= usize::from(range);
        let mut otherwise = Vec::new();
        if let Some(("else", line)) = end.as_ref().map(|(word, line)| (word.as_str(), *line)) {
            let tokens = match &self.pieces[self.at] {
                Piece::Action(tokens, _) => trimmed(tokens),
                Piece::Text(_) => Vec::new(),
            };
            let next = tokens.iter().skip(1).position(|token| !token.is_space()).map_or(tokens.len(), |at| at + 1);
            match tokens.get(next) {
                Some(Token::Word(next_word)) if next_word == keyword && !range => {
                    // `else if` is an if inside the else; its end also ends the outer if.
                    self.at += 1;
                    self.depth += 1;
                    otherwise.push(self.control(keyword, &tokens[next + 1..], line)?);
                    self.depth -= 1;
                    self.variables.truncate(scope);
                    return Ok(made(keyword, pipe, body, otherwise));
                }
                Some(token) => {
                    return Err(TemplateError { line, what: format!("unexpected {token:?} in else") });
                }
                None => {}
            }
            self.at += 1;
            let (nodes, end) = self.block(&["end"])?;
            if end.as_ref().is_some_and(|(word, _)| word != "end") {
                return Err(TemplateError { line, what: "expected end; found {{else}}".to_owned() });
            }
            otherwise = nodes;
        }
        self.at += 1;
        self.variables.truncate(scope);
        Ok(made(keyword, pipe, body, otherwise))
    }

    /// Parses `define "name"` and `block "name" pipeline`.
    fn define(&mut self, keyword: &str, rest: &[Token], line: usize) -> Result<Option<Node>, TemplateError> {
        let (name, pipe) = self.named(rest, line)?;
        let variables = std::mem::replace(&mut self.variables, vec![Text::default()]);
        let ranges = std::mem::take(&mut self.ranges);
        let (body, end) = self.block(&["end"])?;
        if end.as_ref().is_some_and(|(word, _)| word != "end") {
            return Err(TemplateError { line, what: format!("unexpected {{{{else}}}} in {keyword} clause") });
        }
        self.at += 1;
        self.variables = variables;
        self.ranges = ranges;
        self.defined.insert(name.clone(), body);
        Ok((keyword == "block").then_some(Node::Call(name, pipe, line)))
    }

    /// Parses a name in quotes and the pipeline after it.
    fn named(&mut self, tokens: &[Token], line: usize) -> Result<(Text, Option<Pipe>), TemplateError> {
        let tokens = trimmed(tokens);
        match tokens.split_first() {
            Some((Token::Literal(Value::Text(name)), rest)) => {
                let rest = trimmed(rest);
                let pipe = if rest.is_empty() { None } else { Some(self.pipe(&rest, line, false)?) };
                Ok((name.clone(), pipe))
            }
            _ => Err(TemplateError { line, what: "a template's name in quotes is missing".to_owned() }),
        }
    }

    fn pipe(&mut self, tokens: &[Token], line: usize, range: bool) -> Result<Pipe, TemplateError> {
        let tokens = trimmed(tokens);
        let mut sets = Vec::new();
        let mut declares = false;
        let mut body = tokens.as_slice();
        let without_space: Vec<(usize, &Token)> =
            tokens.iter().enumerate().filter(|(_, token)| !token.is_space()).collect();
        match without_space.as_slice() {
            [(_, Token::Variable(name)), (at, sign @ (Token::Declare | Token::Assign)), ..] => {
                sets.push(name.clone());
                declares = matches!(sign, Token::Declare);
                body = &tokens[at + 1..];
            }
            [
                (_, Token::Variable(index)),
                (_, Token::Comma),
                (_, Token::Variable(name)),
                (at, sign @ (Token::Declare | Token::Assign)),
                ..,
            ] if range => {
                sets.extend([index.clone(), name.clone()]);
                declares = matches!(sign, Token::Declare);
                body = &tokens[at + 1..];
            }
            _ => {}
        }
        let mut at = 0;
        let body = trimmed(body);
        let commands = self.commands(&body, &mut at, line)?;
        if at < body.len() {
            return Err(TemplateError { line, what: "unexpected right paren".to_owned() });
        }
        if !declares && let Some(name) = sets.iter().find(|name| !self.variables.contains(name)) {
            return Err(TemplateError { line, what: format!("undefined variable \"${name}\"") });
        }
        if declares {
            self.variables.extend(sets.iter().cloned());
        }
        Ok(Pipe { sets, declares, commands, line })
    }

    /// Parses commands up to a closing parenthesis or the end.
    fn commands(&mut self, tokens: &[Token], at: &mut usize, line: usize) -> Result<Vec<Vec<Operand>>, TemplateError> {
        let mut commands = vec![Vec::new()];
        let missing = || TemplateError { line, what: "missing value for command".to_owned() };
        while let Some(token) = tokens.get(*at) {
            match token {
                Token::Close => break,
                Token::Space => *at += 1,
                Token::Pipe => {
                    if commands.last().is_none_or(Vec::is_empty) {
                        return Err(missing());
                    }
                    commands.push(Vec::new());
                    *at += 1;
                }
                _ => {
                    let operand = self.operand(tokens, at, line)?;
                    if let Some(command) = commands.last_mut() {
                        command.push(operand);
                    }
                }
            }
        }
        if commands.last().is_none_or(Vec::is_empty) {
            return Err(missing());
        }
        // Only functions can have arguments.
        for (index, command) in commands.iter().enumerate() {
            let callable = matches!(command[0], Operand::Function(_));
            if !callable && (command.len() > 1 || index > 0) {
                let what = if index > 0 {
                    format!("non executable command in pipeline stage {}", index + 1)
                } else {
                    "can't give argument to non-function".to_owned()
                };
                return Err(TemplateError { line, what });
            }
        }
        Ok(commands)
    }

    fn operand(&mut self, tokens: &[Token], at: &mut usize, line: usize) -> Result<Operand, TemplateError> {
        let fail = |what: String| Err(TemplateError { line, what });
        let token = &tokens[*at];
        *at += 1;
        let mut operand = match token {
            Token::Dot => Operand::Dot,
            Token::Field(name) => Operand::Field(Box::new(Operand::Dot), vec![name.clone()]),
            Token::Variable(name) if self.variables.contains(name) => Operand::Variable(name.clone()),
            Token::Variable(name) => return fail(format!("undefined variable \"${name}\"")),
            Token::Literal(value) => Operand::Value(value.clone()),
            Token::Word(word) => match word.as_str() {
                "true" => Operand::Value(Value::Bool(true)),
                "false" => Operand::Value(Value::Bool(false)),
                "nil" => Operand::Value(Value::Null),
                name => match functions::lookup(name) {
                    Some(function) => Operand::Function(function),
                    None => return fail(format!("function {name:?} not defined")),
                },
            },
            Token::Open => {
                self.depth += 1;
                if self.depth > MAX_DEPTH {
                    return fail("parentheses are nested too deeply".to_owned());
                }
                let commands = self.commands(tokens, at, line)?;
                self.depth -= 1;
                if !matches!(tokens.get(*at), Some(Token::Close)) {
                    return fail("unclosed left paren".to_owned());
                }
                *at += 1;
                Operand::Pipe(Box::new(Pipe { sets: Vec::new(), declares: false, commands, line }))
            }
            other => return fail(format!("unexpected {other:?} in operand")),
        };
        let mut fields = Vec::new();
        while let Some(Token::Field(name)) = tokens.get(*at) {
            fields.push(name.clone());
            *at += 1;
        }
        if !fields.is_empty() {
            operand = match operand {
                Operand::Field(of, mut first) => {
                    first.extend(fields);
                    Operand::Field(of, first)
                }
                Operand::Value(_) => return fail("unexpected field after a literal".to_owned()),
                other => Operand::Field(Box::new(other), fields),
            };
        }
        Ok(operand)
    }
}

fn made(keyword: &str, pipe: Pipe, body: Vec<Node>, otherwise: Vec<Node>) -> Node {
    match keyword {
        "if" => Node::If(pipe, body, otherwise),
        "with" => Node::With(pipe, body, otherwise),
        _ => Node::Range(pipe, body, otherwise),
    }
}

/// Without surrounding white space.
fn trimmed(tokens: &[Token]) -> Vec<Token> {
    let start = tokens.iter().position(|token| !token.is_space()).unwrap_or(tokens.len());
    let end = tokens.iter().rposition(|token| !token.is_space()).map_or(start, |end| end + 1);
    tokens[start..end].to_vec()
}
