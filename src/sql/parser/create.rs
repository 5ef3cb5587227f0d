//! CREATE STREAM and CREATE TABLE.

use std::collections::HashSet;

use super::{Parser, Result};
use crate::sql::ast::{ColumnDef, CreateStream, DataType, Ident, Literal, OPTION_NAMES, StreamOption};
use crate::sql::error::{SyntaxErrorKind, TYPE_NAMES};
use crate::sql::token::Token;
use crate::text::suggest::did_you_mean;
use crate::value::Text;

impl Parser<'_> {
    /// From CREATE to the end of the options.
    pub(super) fn create(&mut self) -> Result<CreateStream> {
        self.advance();
        let relation = self.relation()?;
        let name = self.stream_name()?;
        self.check_stream_name(&name)?;
        let columns = self.columns(0)?;
        if !self.take_word("WITH") {
            if !columns.is_empty() && (self.at(")") || self.at(",")) {
                return Err(self.expect("stream options"));
            }
            let found = if columns.is_empty() { self.shown() } else { self.shown_in_capitals() };
            let mut error = self.error(SyntaxErrorKind::Unexpected { found: found.clone(), expected: "is with" });
            error.hint = error.hint.or_else(|| did_you_mean(&found, ["WITH"]));
            return Err(error);
        }
        if !self.take("(") {
            return Err(self.expect("stream options"));
        }
        let mut options = Vec::new();
        // Commas between options are optional.
        while !self.take(")") {
            if !self.take(",") {
                options.extend(self.option()?);
            }
        }
        if !matches!(self.token, Token::End | Token::Symbol(";")) {
            return Err(self.unexpected("semicolon or EOF", &[]));
        }
        Ok(CreateStream { relation, name, columns, options })
    }

    pub(super) fn check_stream_name(&self, name: &Ident) -> Result<()> {
        let kind = if name.name.is_empty() {
            SyntaxErrorKind::EmptyStreamName
        } else if name.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
            return Ok(());
        } else {
            SyntaxErrorKind::BadStreamName { name: name.name.to_string() }
        };
        Err(self.error_at(kind, name.span, None))
    }

    /// `(column type [DEFAULT literal], …)`. A trailing comma is allowed; an empty list only if `least` is 0.
    fn columns(&mut self, least: usize) -> Result<Vec<ColumnDef>> {
        self.symbol("(", "lparen after stream name")?;
        if least > 0 && self.at(")") {
            return Err(self.expect("stream field name"));
        }
        let (mut columns, mut known): (Vec<ColumnDef>, HashSet<Text>) = (Vec::new(), HashSet::new());
        while !self.take(")") {
            let Some(name) = self.name() else { return Err(self.expect("stream field name")) };
            if !known.insert(name.name.clone()) {
                let kind = SyntaxErrorKind::DuplicateColumn { found: name.name.to_string() };
                self.pass(self.error_at(kind, name.span, None))?;
            }
            let ty = self.data_type()?;
            let default = if self.take_keyword("DEFAULT") { Some(self.default_value()?) } else { None };
            columns.push(ColumnDef { name, ty, default });
            if !self.at(")") && !self.take(",") {
                return Err(self.expect("comma or rparen"));
            }
        }
        Ok(columns)
    }

    fn data_type(&mut self) -> Result<DataType> {
        let Some(name) = TYPE_NAMES.into_iter().find(|name| self.at_word(name)) else {
            let mut error = self.error(SyntaxErrorKind::ColumnType { found: self.shown() });
            error.hint = error.hint.or_else(|| type_hint(&self.shown(), &TYPE_NAMES));
            if !matches!(self.token, Token::Name(_)) {
                return Err(error);
            }
            self.pass(error)?;
            self.advance();
            self.skip_arguments();
            return Ok(DataType::String);
        };
        self.advance();
        Ok(match name {
            "BIGINT" => DataType::BigInt,
            "FLOAT" => DataType::Float,
            "STRING" => DataType::String,
            "DATETIME" => DataType::DateTime,
            "BOOLEAN" => DataType::Boolean,
            "BYTEA" => DataType::Bytea,
            "ARRAY" => {
                self.symbol("(", "lparen after ARRAY, then the type of its elements")?;
                if !TYPE_NAMES.into_iter().any(|name| self.at_word(name)) {
                    let mut error = self.expect("stream data types");
                    error.hint = error.hint.or_else(|| type_hint(&self.shown(), &TYPE_NAMES));
                    return Err(error);
                }
                let element = self.nested(|p| p.data_type())?;
                if !self.take(")") {
                    return Err(self.expect(match element {
                        DataType::Struct(_) => "rparen in struct of array type definition",
                        DataType::Array(_) => "rparen in array of array type definition",
                        _ => "rparen in array type definition",
                    }));
                }
                DataType::Array(Box::new(element))
            }
            _ => DataType::Struct(self.nested(|p| p.columns(1))?),
        })
    }

    /// Skips parentheses and their content, as after `VARCHAR`.
    fn skip_arguments(&mut self) {
        let mut open = 0usize;
        loop {
            if self.at("(") {
                open += 1;
            } else if open == 0 || self.token == Token::End {
                return;
            } else if self.at(")") {
                open -= 1;
            }
            self.advance();
        }
    }

    fn default_value(&mut self) -> Result<Literal> {
        let span = self.span;
        match self.literal()? {
            Some(literal) => Ok(literal),
            None => {
                let kind = SyntaxErrorKind::Expect { found: self.shown(), expected: "default constraint value" };
                Err(self.error_at(kind, span, Some("DEFAULT takes a number, a text, TRUE or FALSE".to_owned())))
            }
        }
    }

    /// Parses an option; `None` if it has an error after which parsing could continue.
    fn option(&mut self) -> Result<Option<StreamOption>> {
        let Some(name) = OPTION_NAMES.into_iter().find(|name| self.at_word(name)) else {
            let mut error = self.error(SyntaxErrorKind::Option { found: self.shown().to_uppercase() });
            error.hint = error.hint.or_else(|| did_you_mean(&self.shown(), OPTION_NAMES));
            if !matches!(self.token, Token::Name(_)) || self.peek() != Token::Symbol("=") {
                return Err(error);
            }
            self.pass(error)?;
            self.advance();
            self.advance();
            if matches!(self.token, Token::Text { .. } | Token::Keyword("TRUE" | "FALSE") | Token::Name(_) | Token::Int)
            {
                self.advance();
            }
            return Ok(None);
        };
        self.advance();
        if !self.take("=") {
            return Err(self.expect("equals(=) in options"));
        }
        let value = match &self.token {
            Token::Text { value, double: true } => value.clone(),
            Token::Keyword(word @ ("TRUE" | "FALSE")) => Text::const_new(word),
            Token::Text { .. } => {
                let mut error = self.option_value("string or boolean value in option".to_owned());
                error.hint = Some("the value of an option must be in double quotes".to_owned());
                self.pass(error)?;
                self.advance();
                return Ok(None);
            }
            _ => return Err(self.option_value("string or boolean value in option".to_owned())),
        };
        let is_boolean = value.eq_ignore_ascii_case("TRUE") || value.eq_ignore_ascii_case("FALSE");
        let wrong = match name {
            "SHARED" | "STRICT_VALIDATION" | "TEMP" if !is_boolean => {
                Some(format!("TRUE/FALSE value in {name} option"))
            }
            "RETAIN_SIZE" if value.parse::<u32>().is_err() => Some(format!("number value in {name} option")),
            _ => None,
        };
        if let Some(expected) = wrong {
            self.pass(self.option_value(expected))?;
        }
        self.advance();
        Ok(Some(StreamOption { name, value, span: self.last }))
    }

    fn expect(&self, expected: &'static str) -> super::SyntaxError {
        self.error(SyntaxErrorKind::Expect { found: self.shown(), expected })
    }

    fn option_value(&self, expected: String) -> super::SyntaxError {
        self.error(SyntaxErrorKind::OptionValue { found: self.shown(), expected })
    }
}

/// Suggests a type for the name of one in other systems, or for a misspelt one.
pub(super) fn type_hint(written: &str, types: &[&str]) -> Option<String> {
    let meant = match written.to_ascii_uppercase().as_str() {
        "INT" | "INTEGER" | "LONG" | "SMALLINT" | "INT64" | "INT32" => "BIGINT",
        "DOUBLE" | "REAL" | "DECIMAL" | "NUMERIC" | "NUMBER" => "FLOAT",
        "TEXT" | "VARCHAR" | "CHAR" => "STRING",
        "TIMESTAMP" | "DATE" | "TIME" => "DATETIME",
        "BOOL" => "BOOLEAN",
        "BLOB" | "BYTES" | "BINARY" => "BYTEA",
        "OBJECT" | "MAP" | "JSON" => "STRUCT",
        other => return did_you_mean(other, types.iter().copied()),
    };
    types.contains(&meant).then(|| format!("did you mean {meant}?"))
}
