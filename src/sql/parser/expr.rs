//! Expressions, by precedence.
//!
//! Ranks from loose to tight: OR, AND, NOT, comparisons (with IN, BETWEEN, LIKE, IS NULL), `+ - | ^`, `* / % &`, prefix
//! `-` and `+`, access (`.`, `->`, `[ ]`, `::`). Operators of equal rank group from left to right. Bounds of BETWEEN,
//! patterns, and arrays of IN may contain operators of rank `+` and above.

use super::create::type_hint;
use super::{MAX_HEIGHT, Parser, Result, window};
use crate::sql::ast::{BinaryOp, Call, Expr, ExprKind, Ident, InSet, Literal, UnaryOp};
use crate::sql::error::SyntaxErrorKind;
use crate::sql::print::{ADDITIVE, COMPARISON, NOT, PREFIX, rank};
use crate::sql::token::{Fault, Token, is_null};
use crate::text::span::Span;

/// An expression with the height of its tree.
struct Grown {
    expr: Expr,
    height: usize,
}

impl Parser<'_> {
    pub(super) fn expr(&mut self) -> Result<Expr> {
        let grown = self.grown(0)?;
        self.tallest = self.tallest.max(grown.height);
        Ok(grown.expr)
    }

    /// Parses an expression whose operators have at least the rank `least`.
    fn grown(&mut self, least: u8) -> Result<Grown> {
        self.nested(|p| {
            let start = p.span;
            let mut left = p.prefix(least)?;
            while let Some(next) = p.infix(least)? {
                left = p.continued(start, left, next)?;
            }
            Ok(left)
        })
    }

    /// Consumes the next operator if it has at least the rank `least`.
    fn infix(&mut self, least: u8) -> Result<Option<Infix>> {
        let op = match &self.token {
            Token::Symbol(symbol) => match *symbol {
                "*" => BinaryOp::Multiply,
                "/" => BinaryOp::Divide,
                "%" => BinaryOp::Modulo,
                "&" => BinaryOp::BitAnd,
                "+" => BinaryOp::Add,
                "-" => BinaryOp::Subtract,
                "|" => BinaryOp::BitOr,
                "^" => BinaryOp::BitXor,
                "=" => BinaryOp::Equal,
                "!=" => BinaryOp::NotEqual,
                "<" => BinaryOp::Less,
                "<=" => BinaryOp::LessEqual,
                ">" => BinaryOp::Greater,
                ">=" => BinaryOp::GreaterEqual,
                _ => return Ok(None),
            },
            Token::Keyword("AND") => BinaryOp::And,
            Token::Keyword("OR") => BinaryOp::Or,
            Token::Keyword("IN" | "BETWEEN" | "LIKE" | "NOT") if least <= COMPARISON => {
                let negated = self.take_keyword("NOT");
                let infix = match self.token {
                    Token::Keyword("IN") => Infix::In(negated),
                    Token::Keyword("BETWEEN") => Infix::Between(negated),
                    Token::Keyword("LIKE") => Infix::Like(negated),
                    _ => return Err(self.unexpected("IN, BETWEEN or LIKE after NOT", &["BETWEEN", "LIKE"])),
                };
                self.advance();
                return Ok(Some(infix));
            }
            Token::Name(name) if least <= COMPARISON && name.eq_ignore_ascii_case("IS") => {
                self.advance();
                let negated = self.take_keyword("NOT");
                if !self.take_word("NULL") {
                    return Err(self.unexpected("NULL or NOT NULL after IS", &["NULL"]));
                }
                return Ok(Some(Infix::IsNull(negated)));
            }
            _ => return Ok(None),
        };
        if rank(op) < least {
            return Ok(None);
        }
        self.advance();
        Ok(Some(Infix::Binary(op)))
    }

    /// Parses what follows the operator and joins both sides.
    fn continued(&mut self, start: Span, left: Grown, infix: Infix) -> Result<Grown> {
        let mut height = left.height;
        let expr = Box::new(left.expr);
        let kind = match infix {
            Infix::Binary(op) => {
                let right = self.child(rank(op) + 1, &mut height)?;
                ExprKind::Binary(op, expr, right)
            }
            Infix::IsNull(negated) => ExprKind::IsNull { expr, negated },
            Infix::Like(negated) => ExprKind::Like { expr, negated, pattern: self.child(ADDITIVE, &mut height)? },
            Infix::Between(negated) => {
                let low = self.child(ADDITIVE, &mut height)?;
                if !self.take_keyword("AND") {
                    return Err(self.error(SyntaxErrorKind::BetweenWithoutAnd { found: self.shown() }));
                }
                ExprKind::Between { expr, negated, low, high: self.child(ADDITIVE, &mut height)? }
            }
            Infix::In(negated) => {
                let set = if self.take("(") {
                    if self.at(")") || self.token == Token::End {
                        return Err(self.error(SyntaxErrorKind::EmptyIn { found: self.shown() }));
                    }
                    let list = self.list(false, &mut height)?;
                    if !self.take(")") {
                        return Err(self.error(SyntaxErrorKind::UnclosedIn { found: self.shown() }));
                    }
                    InSet::List(list)
                } else {
                    InSet::Array(self.child(ADDITIVE, &mut height)?)
                };
                ExprKind::In { expr, negated, set }
            }
        };
        self.grow(kind, start, height)
    }

    fn prefix(&mut self, least: u8) -> Result<Grown> {
        let start = self.span;
        let (op, operand_rank) = match self.token {
            Token::Keyword("NOT") if least <= NOT => (UnaryOp::Not, NOT),
            Token::Symbol("-") if !matches!(self.peek(), Token::Int | Token::Float) => (UnaryOp::Minus, PREFIX),
            Token::Symbol("+") => (UnaryOp::Plus, PREFIX),
            _ => return self.access(),
        };
        self.advance();
        let mut height = 0;
        let operand = self.child(operand_rank, &mut height)?;
        self.grow(ExprKind::Unary(op, operand), start, height)
    }

    /// Parses a primary expression and the accesses that follow it.
    fn access(&mut self) -> Result<Grown> {
        let start = self.span;
        let mut left = self.primary()?;
        loop {
            let mut height = left.height;
            let kind = if self.take(".") {
                ExprKind::Dot(Box::new(left.expr), self.name_or("expression")?)
            } else if self.take("->") {
                ExprKind::Member(Box::new(left.expr), self.name_or("expression")?)
            } else if self.take("[") {
                self.brackets(left.expr, &mut height)?
            } else if self.take("::") {
                let name = Ident { name: "cast".into(), span: self.last };
                let ty = self.cast_type()?;
                height = height.max(1);
                ExprKind::Call(Call { name, args: vec![left.expr, ty], distinct: false, filter: None, over: None })
            } else {
                return Ok(left);
            };
            left = self.grow(kind, start, height)?;
        }
    }

    /// Parses `index]`, `from:to]` or `]`, after `[`.
    fn brackets(&mut self, array: Expr, height: &mut usize) -> Result<ExprKind> {
        let array = Box::new(array);
        let from = if self.at("]") || self.at(":") { None } else { Some(self.child(0, height)?) };
        let kind = if self.take(":") {
            let to = if self.at("]") { None } else { Some(self.child(0, height)?) };
            ExprKind::Slice(array, from, to)
        } else {
            match from {
                Some(index) => ExprKind::Index(array, index),
                // Empty brackets mean the whole array, as in eKuiper.
                None => ExprKind::Slice(array, None, None),
            }
        };
        if !self.take("]") {
            let found = self.slice(self.last).to_owned();
            return Err(self.error(SyntaxErrorKind::Bracket { found }));
        }
        Ok(kind)
    }

    fn primary(&mut self) -> Result<Grown> {
        let start = self.span;
        if let Some(literal) = self.literal()? {
            return self.grow(ExprKind::Literal(literal), start, 0);
        }
        match self.token {
            Token::Symbol("(") => {
                self.advance();
                let inner = self.grown(0)?;
                self.symbol(")", "right paren")?;
                Ok(inner)
            }
            Token::Keyword("CASE") => self.case(),
            Token::Name(ref name) if is_null(name) && self.peek() != Token::Symbol("(") => {
                self.advance();
                self.grow(ExprKind::Null, start, 0)
            }
            // REPLACE is a reserved word in the select list, and the name of a function elsewhere.
            Token::Keyword("REPLACE") if self.peek() == Token::Symbol("(") => {
                let hint = "replace texts with regexp_replace(text, pattern, with)".to_owned();
                Err(self.error_at(self.unexpected("expression", &[]).kind, self.span, Some(hint)))
            }
            Token::Name(_) | Token::Quoted(_) => {
                let name = self.name_or("expression")?;
                if self.at("(") { self.call(name) } else { self.grow(ExprKind::Column(name.name), start, 0) }
            }
            Token::Bad(Fault::Number) => Err(self.error(SyntaxErrorKind::Number { found: self.shown() })),
            _ => Err(self.unexpected("expression", &[])),
        }
    }

    /// Parses a literal, if one comes next; a minus directly before a number belongs to it.
    pub(super) fn literal(&mut self) -> Result<Option<Literal>> {
        let literal = match &self.token {
            Token::Text { value, .. } => Literal::Text(value.clone()),
            Token::Keyword("TRUE") => Literal::Bool(true),
            Token::Keyword("FALSE") => Literal::Bool(false),
            Token::Symbol("-") if matches!(self.peek(), Token::Int | Token::Float) => {
                self.advance();
                self.number("-")?
            }
            Token::Int | Token::Float => self.number("")?,
            _ => return Ok(None),
        };
        self.advance();
        Ok(Some(literal))
    }

    fn number(&self, sign: &str) -> Result<Literal> {
        let digits = self.slice(self.span);
        let signed = format!("{sign}{digits}");
        let value = if self.token == Token::Int {
            signed.parse().map(Literal::Int).or_else(|_| signed.parse().map(Literal::Unsigned)).ok()
        } else {
            signed.parse().ok().filter(|x: &f64| x.is_finite()).map(Literal::Float)
        };
        value.ok_or_else(|| {
            let hint = match self.token {
                Token::Int => "a whole number has 64 bits; with a point at its end it is a double".to_owned(),
                _ => "the number is beyond the range of doubles".to_owned(),
            };
            self.error_at(SyntaxErrorKind::Number { found: self.shown() }, self.span, Some(hint))
        })
    }

    /// Parses `(args) [FILTER (WHERE e)] [OVER (…)]` after a name. FILTER is for views.
    fn call(&mut self, name: Ident) -> Result<Grown> {
        if let Some(window) = window::window_called(&name.name) {
            return Err(self.error_at(SyntaxErrorKind::WindowOutsideGroupBy { name: window }, name.span, None));
        }
        let start = name.span;
        let mut height = 0;
        let (distinct, args) = self.call_args_of(&name.name, &mut height)?;
        let mut filter = None;
        if self.in_view && self.take_keyword("FILTER") {
            let before = std::mem::take(&mut self.tallest);
            filter = Some(Box::new(self.call_filter()?));
            height = height.max(self.tallest);
            self.tallest = self.tallest.max(before);
        }
        let mut over = None;
        if self.token == Token::Keyword("OVER") {
            let before = std::mem::take(&mut self.tallest);
            over = Some(self.over()?);
            height = height.max(self.tallest);
            self.tallest = self.tallest.max(before);
        }
        self.grow(ExprKind::Call(Call { name, args, distinct, filter, over }), start, height)
    }

    /// Parses `(WHERE e)`.
    fn call_filter(&mut self) -> Result<Expr> {
        self.symbol("(", "lparen after FILTER")?;
        self.keyword("WHERE")?;
        let condition = self.nested(|p| p.expr())?;
        self.symbol(")", "rparen after the condition of FILTER")?;
        Ok(condition)
    }

    /// Parses `(args)`.
    pub(super) fn call_args(&mut self, name: &str) -> Result<Vec<Expr>> {
        self.call_args_of(name, &mut 0).map(|(_, args)| args)
    }

    /// Parses the arguments, and returns whether DISTINCT comes before them.
    fn call_args_of(&mut self, name: &str, height: &mut usize) -> Result<(bool, Vec<Expr>)> {
        self.advance();
        if self.take(")") {
            return Ok((false, Vec::new()));
        }
        // `distinct` alone is a name.
        let ends = [Token::Symbol(","), Token::Symbol(")")];
        let starts = !ends.contains(&self.peek()) && !matches!(self.peek(), Token::Symbol(s) if s != "(" && s != "*");
        let distinct = self.at_word("DISTINCT") && starts;
        if distinct {
            self.advance();
        }
        let mut args = self.list(true, height)?;
        if args.len() == 1 && is_cast(name) && self.take_keyword("AS") {
            args.push(self.cast_type()?);
        }
        if !self.take(")") {
            let kind = SyntaxErrorKind::UnclosedCall { name: name.to_owned(), found: self.shown() };
            return Err(self.error(kind));
        }
        Ok((distinct, args))
    }

    /// The type of `CAST(x AS type)` and `x::type`, as the text argument of the function `cast`.
    fn cast_type(&mut self) -> Result<Expr> {
        const TYPES: [&str; 6] = ["BIGINT", "FLOAT", "STRING", "BOOLEAN", "DATETIME", "BYTEA"];
        let Some(name) = TYPES.into_iter().find(|name| self.at_word(name)) else {
            let mut error = self.unexpected("one of bigint, float, string, boolean, datetime, bytea", &[]);
            error.hint = error.hint.or_else(|| type_hint(&self.shown(), &TYPES));
            return Err(error);
        };
        self.advance();
        let ty = Literal::Text(name.to_ascii_lowercase().into());
        Ok(Expr { kind: ExprKind::Literal(ty), span: self.last })
    }

    /// Parses expressions separated by commas; arguments of calls may be `*` or `stream.*`.
    fn list(&mut self, star: bool, height: &mut usize) -> Result<Vec<Expr>> {
        let mut list = Vec::new();
        loop {
            let stream = if star { self.stream_of_star() } else { None };
            if star && self.at("*") {
                let before = std::mem::take(&mut self.tallest);
                let star = self.star(stream)?;
                *height = (*height).max(self.tallest + 1);
                self.tallest = self.tallest.max(before);
                let span = star.span.to(self.last);
                list.push(Expr { kind: ExprKind::Star(Box::new(star)), span });
            } else {
                let item = self.grown(0)?;
                *height = (*height).max(item.height);
                list.push(item.expr);
            }
            // eKuiper allows a comma after the last argument of a call.
            if !self.take(",") || star && self.at(")") {
                return Ok(list);
            }
        }
    }

    fn case(&mut self) -> Result<Grown> {
        let start = self.span;
        self.advance();
        let mut height = 0;
        let without = |word: &Token| match word {
            Token::Keyword("ELSE") => Some("WHEN expected before ELSE"),
            Token::Keyword("END") => Some("WHEN expected before END"),
            _ => None,
        };
        if let Some(expected) = without(&self.token) {
            return Err(self.error(SyntaxErrorKind::Case { expected }));
        }
        let value = if self.token == Token::Keyword("WHEN") { None } else { Some(self.child(0, &mut height)?) };
        let mut branches = Vec::new();
        while self.take_keyword("WHEN") {
            let condition = *self.child(0, &mut height)?;
            self.case_word("THEN", "THEN expected after WHEN")?;
            branches.push((condition, *self.child(0, &mut height)?));
        }
        if branches.is_empty() {
            let expected = without(&self.token).unwrap_or("END expected");
            return Err(self.error(SyntaxErrorKind::Case { expected }));
        }
        let otherwise = if self.take_keyword("ELSE") { Some(self.child(0, &mut height)?) } else { None };
        self.case_word("END", "END expected")?;
        self.grow(ExprKind::Case { value, branches, otherwise }, start, height)
    }

    fn case_word(&mut self, word: &str, expected: &'static str) -> Result<()> {
        if self.take_keyword(word) { Ok(()) } else { Err(self.error(SyntaxErrorKind::Case { expected })) }
    }

    fn child(&mut self, least: u8, height: &mut usize) -> Result<Box<Expr>> {
        let grown = self.grown(least)?;
        *height = (*height).max(grown.height);
        Ok(Box::new(grown.expr))
    }

    /// Makes a node over children of the given height, unless the tree gets too high.
    fn grow(&self, kind: ExprKind, start: Span, children: usize) -> Result<Grown> {
        let span = start.to(self.last);
        let height = children + 1;
        if height > MAX_HEIGHT {
            let hint = "a long chain of OR can be an IN, other long chains can be cut by parentheses".to_owned();
            return Err(self.error_at(SyntaxErrorKind::TooDeep { limit: MAX_HEIGHT }, self.last, Some(hint)));
        }
        Ok(Grown { expr: Expr { kind, span }, height })
    }
}

fn is_cast(function: &str) -> bool {
    ["cast", "try_cast"].iter().any(|name| name.eq_ignore_ascii_case(function))
}

/// What can follow a left operand.
enum Infix {
    Binary(BinaryOp),
    In(bool),
    Between(bool),
    Like(bool),
    IsNull(bool),
}
