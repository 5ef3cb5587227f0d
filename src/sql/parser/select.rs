//! SELECT and its clauses.

use super::{Parser, Result};
use crate::sql::ast::{Field, Ident, Join, JoinKind, OrderKey, Select, Source, Star};
use crate::sql::error::SyntaxErrorKind;
use crate::sql::token::Token;

impl Parser<'_> {
    /// From SELECT to the last clause.
    pub(super) fn select(&mut self) -> Result<Select> {
        self.keyword("SELECT")?;
        if self.at_word("DISTINCT") && !matches!(self.peek(), Token::Symbol(_) | Token::Keyword("AS" | "FROM")) {
            let hint = "SELECT DISTINCT does not exist: GROUP BY the columns in a window, or keep the first rows of each \
                        value with deduplicate(x, true)";
            self.advance();
            return Err(self.unexpected_with_hint("FROM", hint));
        }
        let mut fields = vec![self.field()?];
        while self.take(",") {
            fields.push(self.field()?);
        }
        if !self.take_keyword("FROM") {
            return Err(self.unexpected(
                "FROM",
                &["FROM", "AS", "AND", "OR", "LIKE", "BETWEEN", "IN", "NOT", "OVER", "INVISIBLE", "EXCEPT", "REPLACE"],
            ));
        }
        let from = self.source()?;
        let mut joins = Vec::new();
        while let Some(join) = self.join()? {
            joins.push(join);
        }
        let mut select = Select {
            fields,
            from,
            joins,
            filter: None,
            group_by: Vec::new(),
            window: None,
            having: None,
            order_by: Vec::new(),
            limit: None,
        };
        if self.take_keyword("WHERE") {
            select.filter = Some(self.expr()?);
        }
        if self.take_keyword("GROUP") {
            if !self.take_keyword("BY") {
                return Err(self.unexpected("BY statement", &["BY"]));
            }
            self.group_by(&mut select)?;
        }
        if self.take_keyword("HAVING") {
            select.having = Some(self.expr()?);
        }
        if self.take_keyword("ORDER") {
            select.order_by = self.order_keys()?;
        }
        if self.take_keyword("LIMIT") {
            select.limit = Some(self.limit()?);
        }
        if !matches!(self.token, Token::End | Token::Symbol(";")) {
            let words =
                ["WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", "JOIN", "INNER", "LEFT", "RIGHT", "FULL", "CROSS"];
            let order = "the order of the clauses is FROM, JOIN, WHERE, GROUP BY, HAVING, ORDER BY, LIMIT";
            return Err(match self.token {
                Token::Keyword(_) => self.unexpected_with_hint("EOF", order),
                _ => self.unexpected("EOF", &words),
            });
        }
        Ok(select)
    }

    fn group_by(&mut self, select: &mut Select) -> Result<()> {
        loop {
            if let Some(name) = self.window_name() {
                let span = self.span;
                let window = self.window(name)?;
                if select.window.is_some() {
                    return Err(self.error_at(SyntaxErrorKind::TwoWindows, span, None));
                }
                select.window = Some(window);
            } else {
                select.group_by.push(self.expr()?);
            }
            if !self.take(",") {
                return Ok(());
            }
        }
    }

    /// `BY e [ASC | DESC], …`
    pub(super) fn order_keys(&mut self) -> Result<Vec<OrderKey>> {
        if !self.take_keyword("BY") {
            return Err(self.unexpected("BY keyword", &["BY"]));
        }
        let mut keys = Vec::new();
        loop {
            let expr = self.expr()?;
            let descending = self.take_keyword("DESC");
            if !descending {
                self.take_keyword("ASC");
            }
            keys.push(OrderKey { expr, descending });
            if !self.take(",") {
                return Ok(keys);
            }
        }
    }

    fn limit(&mut self) -> Result<u64> {
        if self.at("-") && self.peek() == Token::Int {
            return Err(self.error(SyntaxErrorKind::NegativeLimit));
        }
        let rows = match self.token {
            Token::Int => self.slice(self.span).parse::<u64>().ok(),
            _ => None,
        };
        let Some(rows) = rows.filter(|rows| i64::try_from(*rows).is_ok()) else {
            return Err(self.error(SyntaxErrorKind::Limit));
        };
        self.advance();
        Ok(rows)
    }

    fn source(&mut self) -> Result<Source> {
        let name = match self.token {
            Token::Name(_) | Token::Quoted(_) => self.stream_name()?,
            Token::End | Token::Symbol(";") => return Err(self.error(SyntaxErrorKind::NoStream)),
            _ => return Err(self.unexpected_with_hint("EOF", "the name of a stream belongs here")),
        };
        let alias = if self.take_keyword("AS") { Some(self.name_or("as alias")?) } else { None };
        Ok(Source { name, alias })
    }

    fn join(&mut self) -> Result<Option<Join>> {
        let kind = match self.token {
            Token::Keyword("INNER" | "JOIN") => JoinKind::Inner,
            Token::Keyword("LEFT") => JoinKind::Left,
            Token::Keyword("RIGHT") => JoinKind::Right,
            Token::Keyword("FULL") => JoinKind::Full,
            Token::Keyword("CROSS") => JoinKind::Cross,
            _ => return Ok(None),
        };
        if !self.take_keyword("JOIN") {
            self.advance();
            if matches!(kind, JoinKind::Left | JoinKind::Right | JoinKind::Full) {
                self.take_word("OUTER");
            }
            if !self.take_keyword("JOIN") {
                return Err(self.unexpected("JOIN key word", &["JOIN"]));
            }
        }
        let source = self.source()?;
        if kind == JoinKind::Cross && self.token == Token::Keyword("ON") {
            return Err(self.error(SyntaxErrorKind::CrossOn));
        }
        let on = if self.take_keyword("ON") { Some(self.expr()?) } else { None };
        Ok(Some(Join { kind, source, on }))
    }

    fn field(&mut self) -> Result<Field> {
        if self.at("*") {
            return Ok(Field::Star(self.star(None)?));
        }
        if let Some(stream) = self.stream_of_star() {
            return Ok(Field::Star(self.star(Some(stream))?));
        }
        let expr = self.expr()?;
        let alias = if self.take_keyword("AS") { Some(self.name_or("as alias")?) } else { None };
        let invisible = self.take_keyword("INVISIBLE");
        Ok(Field::Expr { expr, alias, invisible })
    }

    /// Consumes the `stream.` of `stream.*`, if it comes next; then the star is the current token.
    pub(super) fn stream_of_star(&mut self) -> Option<Ident> {
        if !matches!(self.token, Token::Name(_) | Token::Quoted(_)) || self.peek() != Token::Symbol(".") {
            return None;
        }
        let (token, span, last) = (self.token.clone(), self.span, self.last);
        let stream = self.name()?;
        if self.take(".") && self.at("*") {
            return Some(stream);
        }
        (self.token, self.span, self.last) = (token, span, last);
        None
    }

    /// Parses `* [EXCEPT (…)] [REPLACE (…)]` from the star.
    pub(super) fn star(&mut self, stream: Option<Ident>) -> Result<Star> {
        let start = stream.as_ref().map_or(self.span, |s| s.span);
        self.advance();
        let mut star = Star { stream, except: Vec::new(), replace: Vec::new(), span: start.to(self.last) };
        loop {
            if star.except.is_empty() && self.take_keyword("EXCEPT") {
                self.left_parenthesis_after("EXCEPT")?;
                loop {
                    let Some(name) = self.name() else {
                        return Err(self.unexpected_in("EXCEPT"));
                    };
                    star.except.push(name);
                    if !self.take(",") {
                        break;
                    }
                }
                if !self.take(")") {
                    return Err(self.unexpected_in("EXCEPT"));
                }
            } else if star.replace.is_empty() && self.take_keyword("REPLACE") {
                self.left_parenthesis_after("REPLACE")?;
                loop {
                    let expr = self.expr()?;
                    self.keyword("AS")?;
                    star.replace.push((expr, self.name_or("as alias")?));
                    if !self.take(",") {
                        break;
                    }
                }
                if !self.take(")") {
                    return Err(self.unexpected_in("REPLACE"));
                }
            } else if self.token == Token::Keyword("AS") {
                return Err(self.error(SyntaxErrorKind::StarAlias));
            } else {
                return Ok(star);
            }
        }
    }

    fn unexpected_in(&self, clause: &'static str) -> super::SyntaxError {
        self.error(SyntaxErrorKind::In { found: self.shown(), clause })
    }

    fn left_parenthesis_after(&mut self, after: &'static str) -> Result<()> {
        if self.take("(") {
            return Ok(());
        }
        Err(self.expected_after(after, "left parentheses"))
    }
}
