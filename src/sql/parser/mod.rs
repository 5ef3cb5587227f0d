//! Tokens to tree, by recursive descent.
//!
//! Every error has a place. Two limits bound the depth: [`MAX_NESTING`] that of the parser's recursion, [`MAX_HEIGHT`]
//! that of the tree, since printing, planning and dropping a tree recurse to its height. Long chains such as `a + b + c
//! …` give high trees, although the parser reads them in a loop.

mod create;
mod expr;
mod select;
mod view;
mod window;

use super::ast::{CreateStream, CreateView, Expr, Ident, Relation, Select, Statement, ViewStatement};
use super::error::{SyntaxError, SyntaxErrorKind};
use super::token::{self, Fault, Token};
use crate::text::span::Span;
use crate::text::suggest::did_you_mean;
use crate::value::Text;

pub use self::window::WINDOWS;

/// The longest statement, in bytes.
pub const MAX_LENGTH: usize = 256 * 1024;
/// How deep parentheses, calls, CASE and prefix operators can be nested.
pub const MAX_NESTING: usize = 100;
/// How high the tree of an expression can be: a chain has at most this many operators.
pub const MAX_HEIGHT: usize = 500;

type Result<T, E = SyntaxError> = std::result::Result<T, E>;

/// Parses one statement of any kind. It may end with `;`, followed by blanks and comments only.
pub fn parse_statement(text: &str) -> Result<Statement> {
    whole(text, |p| {
        let words = ["SELECT", "CREATE", "SHOW", "DESCRIBE", "DROP", "EXPLAIN"];
        if p.token == Token::Keyword("SELECT") {
            return Ok(Statement::Select(Box::new(p.select()?)));
        }
        match words.into_iter().find(|word| p.at_word(word)) {
            Some(verb) if verb != "SHOW" && p.is_about_view() => Ok(Statement::View(p.view_statement(verb)?)),
            Some("CREATE") => Ok(Statement::Create(p.create()?)),
            Some("SHOW") => {
                p.advance();
                if p.take_word("VIEWS") {
                    return Ok(Statement::View(ViewStatement::Show));
                }
                let relation = if p.at_word("TABLES") { Relation::Table } else { Relation::Stream };
                if !p.take_word("STREAMS") && !p.take_word("TABLES") {
                    return Err(p.unexpected("keyword streams or tables", &["STREAMS", "TABLES"]));
                }
                Ok(Statement::Show(relation))
            }
            Some(verb) => {
                p.advance();
                let (relation, name) = (p.relation()?, p.stream_name()?);
                Ok(match verb {
                    "DESCRIBE" => Statement::Describe(relation, name),
                    "DROP" => Statement::Drop(relation, name),
                    _ => Statement::Explain(relation, name),
                })
            }
            None => Err(p.wrong_statement(&words)),
        }
    })
}

/// Parses a SELECT. If the text begins otherwise, the kind of the error is [`SyntaxErrorKind::NotSelect`].
pub fn parse_select(text: &str) -> Result<Select> {
    whole(text, |p| {
        if p.token != Token::Keyword("SELECT") {
            let mut error = p.error(SyntaxErrorKind::NotSelect);
            error.hint = did_you_mean(&p.shown(), ["SELECT"]);
            return Err(error);
        }
        p.select()
    })
}

/// Parses a CREATE STREAM or CREATE TABLE. If the text begins otherwise, the kind of the error is
/// [`SyntaxErrorKind::NotStream`].
pub fn parse_create(text: &str) -> Result<CreateStream> {
    whole(text, |p| if p.at_word("CREATE") { p.create() } else { Err(p.wrong_statement(&["CREATE"])) })
}

/// Parses a CREATE VIEW.
pub fn parse_view(text: &str) -> Result<CreateView> {
    whole(text, |p| {
        if !p.at_word("CREATE") || !p.is_about_view() {
            return Err(p.unexpected_with_hint("CREATE VIEW", "a view is CREATE VIEW name [WITH (…)] AS SELECT …"));
        }
        p.advance();
        p.advance();
        p.create_view()
    })
}

/// Whether a text begins like a CREATE VIEW.
pub fn is_create_view(text: &str) -> bool {
    let mut words = text.split_whitespace();
    words.next().is_some_and(|word| word.eq_ignore_ascii_case("CREATE"))
        && words.next().is_some_and(|word| word.eq_ignore_ascii_case("VIEW"))
}

/// Parses one expression, as in a select list.
pub fn parse_expr(text: &str) -> Result<Expr> {
    whole(text, |p| p.expr())
}

fn whole<T>(text: &str, parse: impl FnOnce(&mut Parser) -> Result<T>) -> Result<T> {
    if text.len() > MAX_LENGTH {
        let kind = SyntaxErrorKind::TooLong { length: text.len() };
        return Err(SyntaxError { kind, span: Span::default(), hint: None, others: Vec::new() });
    }
    let mut p = Parser {
        text,
        token: Token::End,
        span: Span::default(),
        last: Span::default(),
        nesting: 0,
        tallest: 0,
        passed: Vec::new(),
        in_view: false,
    };
    p.advance();
    let read = parse(&mut p);
    let mut errors = std::mem::take(&mut p.passed).into_iter();
    let tree = match (errors.next(), read) {
        (None, read) => read?,
        (Some(first), read) => return Err(SyntaxError { others: errors.chain(read.err()).collect(), ..first }),
    };
    if p.take(";") && p.token != Token::End {
        return Err(p.unexpected_with_hint("EOF", "only one statement is allowed, nothing may follow the semicolon"));
    }
    match p.token {
        Token::End => Ok(tree),
        _ => Err(p.unexpected("EOF", &[])),
    }
}

/// The parser's position in the text: it holds the current token, not those before it.
struct Parser<'a> {
    text: &'a str,
    token: Token,
    span: Span,
    /// span of the previous token
    last: Span,
    nesting: usize,
    /// the greatest height of an expression since this was set to 0
    tallest: usize,
    /// Errors after which parsing continued.
    passed: Vec<SyntaxError>,
    /// Set in the query of a view, where aggregates may have FILTER.
    in_view: bool,
}

impl Parser<'_> {
    /// Moves to the next token and returns the current one.
    fn advance(&mut self) -> Token {
        let (token, span) = token::next(self.text, self.span.end as usize);
        self.last = std::mem::replace(&mut self.span, span);
        std::mem::replace(&mut self.token, token)
    }

    /// Returns the token after the current one.
    fn peek(&self) -> Token {
        token::next(self.text, self.span.end as usize).0
    }

    fn at(&self, symbol: &str) -> bool {
        matches!(self.token, Token::Symbol(s) if s == symbol)
    }

    fn take(&mut self, symbol: &str) -> bool {
        let there = self.at(symbol);
        if there {
            self.advance();
        }
        there
    }

    fn take_keyword(&mut self, word: &str) -> bool {
        let there = matches!(self.token, Token::Keyword(k) if k == word);
        if there {
            self.advance();
        }
        there
    }

    fn keyword(&mut self, word: &'static str) -> Result<()> {
        if self.take_keyword(word) { Ok(()) } else { Err(self.unexpected(word, &[word])) }
    }

    /// Whether the current token is this word, which is not reserved.
    fn at_word(&self, word: &str) -> bool {
        matches!(&self.token, Token::Name(name) if name.eq_ignore_ascii_case(word))
    }

    fn take_word(&mut self, word: &str) -> bool {
        let there = self.at_word(word);
        if there {
            self.advance();
        }
        there
    }

    /// Consumes a name, plain or in backticks.
    fn name(&mut self) -> Option<Ident> {
        match &self.token {
            Token::Name(name) | Token::Quoted(name) => {
                let name = name.clone();
                self.advance();
                Some(Ident { name, span: self.last })
            }
            _ => None,
        }
    }

    fn name_or(&mut self, expected: &'static str) -> Result<Ident> {
        self.name().ok_or_else(|| self.unexpected(expected, &[]))
    }

    fn symbol(&mut self, symbol: &str, expected: &'static str) -> Result<()> {
        if self.take(symbol) { Ok(()) } else { Err(self.unexpected(expected, &[])) }
    }

    fn relation(&mut self) -> Result<Relation> {
        if self.take_word("STREAM") {
            Ok(Relation::Stream)
        } else if self.take_word("TABLE") {
            Ok(Relation::Table)
        } else {
            let mut error = self.unexpected("keyword stream or table", &["STREAM", "TABLE"]);
            if let SyntaxErrorKind::Unexpected { found, .. } = &mut error.kind {
                *found = self.shown_in_capitals();
            }
            Err(error)
        }
    }

    /// Consumes the name of a stream or table. Hyphens and other marks without a blank before them belong to it.
    fn stream_name(&mut self) -> Result<Ident> {
        let Some(mut ident) = self.name() else { return Err(self.unexpected("stream name", &[])) };
        if self.text.as_bytes().get(ident.span.start as usize) == Some(&b'`') {
            return Ok(ident);
        }
        while self.span.start == self.last.end
            && matches!(
                self.token,
                Token::Name(_) | Token::Keyword(_) | Token::Int | Token::Symbol("-" | "/" | "." | "+" | ":")
            )
        {
            self.advance();
            ident.span = ident.span.to(self.last);
        }
        ident.name = Text::from(self.slice(ident.span));
        Ok(ident)
    }

    fn slice(&self, span: Span) -> &str {
        &self.text[span.start as usize..span.end as usize]
    }

    /// Parses a part of the grammar one level deeper.
    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.nesting == MAX_NESTING {
            return Err(self.error(SyntaxErrorKind::TooDeep { limit: MAX_NESTING }));
        }
        self.nesting += 1;
        let result = parse(self);
        self.nesting -= 1;
        result
    }

    /// The token as messages show it.
    fn shown(&self) -> String {
        self.token_text(&self.token, self.span)
    }

    /// The token as messages show it, words in capitals: eKuiper compares some words in capitals and shows them so.
    fn shown_in_capitals(&self) -> String {
        match self.token {
            Token::Name(_) => self.shown().to_ascii_uppercase(),
            _ => self.shown(),
        }
    }

    fn token_text(&self, token: &Token, span: Span) -> String {
        const LONGEST: usize = 80;
        let whole = match token {
            Token::Keyword(word) => word,
            Token::Text { value, .. } => value.as_str(),
            Token::Quoted(name) => name.as_str(),
            Token::End => "EOF",
            Token::Bad(Fault::Comment) => "",
            _ => self.slice(span),
        };
        match whole.char_indices().nth(LONGEST) {
            Some((cut, _)) => format!("{}…", &whole[..cut]),
            None => whole.to_owned(),
        }
    }

    /// Makes an error at the current token.
    fn error(&self, kind: SyntaxErrorKind) -> SyntaxError {
        let hint = match self.token {
            Token::Bad(fault) => Some(
                match fault {
                    Fault::Character => {
                        "this character is not allowed here; a name with other characters than ASCII letters, \
                         digits and _ needs backticks"
                    }
                    Fault::Comment => "the comment has no end: */ is missing",
                    Fault::UnclosedText => "the text has no end: a quote is missing",
                    Fault::LineBreak => "a line break in a text is written \\n",
                    Fault::Escape => "the text has an escape that does not exist; a backslash is written \\\\",
                    Fault::UnclosedName => "the name has no end: a backtick is missing",
                    Fault::Number => "a number has one point at most",
                }
                .to_owned(),
            ),
            _ => None,
        };
        self.error_at(kind, self.span, hint)
    }

    fn error_at(&self, kind: SyntaxErrorKind, span: Span, hint: Option<String>) -> SyntaxError {
        SyntaxError { kind, span, hint, others: Vec::new() }
    }

    /// Records an error after which parsing can continue, up to a limit.
    fn pass(&mut self, error: SyntaxError) -> Result<()> {
        const MOST: usize = 20;
        if self.passed.len() == MOST {
            return Err(error);
        }
        self.passed.push(error);
        Ok(())
    }

    /// The error that this token is not what must follow.
    fn expected_after(&self, after: &'static str, expected: &'static str) -> SyntaxError {
        self.error(SyntaxErrorKind::After { found: self.shown(), after, expected })
    }

    /// An error that something else is expected here. The hint names one of the words if the token looks like it.
    fn unexpected(&self, expected: &'static str, words: &[&str]) -> SyntaxError {
        if self.token == Token::Bad(Fault::Number) {
            return self.error(SyntaxErrorKind::Number { found: self.shown() });
        }
        let mut error = self.error(SyntaxErrorKind::Unexpected { found: self.shown(), expected });
        error.hint = match self.token {
            Token::Name(_) => did_you_mean(&self.shown(), words.iter().copied()),
            Token::Keyword("AS" | "FROM" | "WHERE" | "AND" | "OR" | "THEN" | "ELSE") => None,
            Token::Keyword(word) if expected == "expression" || expected == "as alias" => {
                Some(format!("{word} is a reserved word: as a name it is written `{}`", self.slice(self.span)))
            }
            Token::Symbol(symbol) if self.slice(self.last) == symbol => match symbol {
                "=" => Some("equality is written ="),
                "&" => Some("a logical and is written AND"),
                "|" => Some("a logical or is written OR"),
                _ => None,
            }
            .map(str::to_owned),
            _ => error.hint,
        };
        error
    }

    fn unexpected_with_hint(&self, expected: &'static str, hint: &str) -> SyntaxError {
        let mut error = self.unexpected(expected, &[]);
        error.hint = error.hint.or_else(|| Some(hint.to_owned()));
        error
    }

    fn wrong_statement(&self, words: &[&str]) -> SyntaxError {
        let mut error = self.error(SyntaxErrorKind::NotStream { text: self.text.trim().to_owned() });
        error.hint = did_you_mean(&self.shown(), words.iter().copied());
        error
    }
}

#[cfg(test)]
mod random;
#[cfg(test)]
mod tests;
