//! CREATE VIEW, and the statements about views.

use super::{Parser, Result};
use crate::sql::ast::{CreateView, VIEW_OPTIONS, ViewOption, ViewStatement};
use crate::sql::error::SyntaxErrorKind;
use crate::sql::token::Token;
use crate::text::suggest::did_you_mean;
use crate::value::Text;

impl Parser<'_> {
    /// Whether VIEW follows the current token, a verb.
    pub(super) fn is_about_view(&self) -> bool {
        matches!(self.peek(), Token::Name(word) if word.eq_ignore_ascii_case("VIEW"))
    }

    /// Parses from CREATE, DESCRIBE, DROP or EXPLAIN, each followed by VIEW, to the end.
    pub(super) fn view_statement(&mut self, verb: &str) -> Result<ViewStatement> {
        self.advance();
        self.advance();
        if verb == "CREATE" {
            return Ok(ViewStatement::Create(Box::new(self.create_view()?)));
        }
        let name = self.stream_name()?;
        Ok(match verb {
            "DESCRIBE" => ViewStatement::Describe(name),
            "DROP" => ViewStatement::Drop(name),
            _ => ViewStatement::Explain(name),
        })
    }

    /// `name [WITH (…)] AS SELECT …`
    pub(super) fn create_view(&mut self) -> Result<CreateView> {
        let name = self.stream_name()?;
        self.check_stream_name(&name)?;
        let mut options: Vec<ViewOption> = Vec::new();
        if self.take_word("WITH") {
            self.symbol("(", "lparen after with")?;
            while !self.take(")") {
                let option = self.view_option()?;
                if options.iter().any(|known| known.name == option.name) {
                    let kind = SyntaxErrorKind::OptionValue {
                        found: option.name.to_owned(),
                        expected: format!("{} once", option.name),
                    };
                    return Err(self.error_at(kind, option.span, None));
                }
                options.push(option);
                self.take(",");
            }
        }
        if !self.take_keyword("AS") {
            let hint = "a view is CREATE VIEW name [WITH (…)] AS SELECT …";
            return Err(self.unexpected_with_hint("AS and the view's SELECT", hint));
        }
        self.in_view = true;
        let query = self.select()?;
        Ok(CreateView { name, options, query })
    }

    /// Parses `NAME = "text"`; a number, TRUE or FALSE may have no quotes.
    fn view_option(&mut self) -> Result<ViewOption> {
        let Some(name) = VIEW_OPTIONS.into_iter().find(|name| self.at_word(name)) else {
            let mut error = self.error(SyntaxErrorKind::ViewOption { found: self.shown() });
            error.hint = did_you_mean(&self.shown(), VIEW_OPTIONS);
            return Err(error);
        };
        self.advance();
        if !self.take("=") {
            return Err(self.unexpected("= after the name of an option", &[]));
        }
        let value = match &self.token {
            Token::Text { value, .. } => value.clone(),
            Token::Keyword(word @ ("TRUE" | "FALSE")) => Text::const_new(word),
            Token::Int => Text::from(self.slice(self.span)),
            _ => {
                let expected = "a text in double quotes, a number or TRUE or FALSE".to_owned();
                return Err(self.error(SyntaxErrorKind::OptionValue { found: self.shown(), expected }));
            }
        };
        self.advance();
        Ok(ViewOption { name, value, span: self.last })
    }
}

#[cfg(test)]
mod tests {
    use crate::sql::parse_statement;

    #[test]
    fn printing_is_the_inverse_of_parsing() {
        for sql in [
            "CREATE VIEW fleet AS SELECT a, count(*) AS n FROM s GROUP BY a",
            "CREATE VIEW fleet WITH (KEY = \"a\", PARAMS = \"a,b\", RETAIN = \"5m\") AS SELECT * FROM s WHERE b > 1",
            "CREATE VIEW top WITH (KEY = \"a\", EVENT_TIME = \"TRUE\", MAX_ROWS = \"10\") AS SELECT a, b FROM s \
             WHERE row_number() OVER (PARTITION BY b ORDER BY a DESC) <= 3 ORDER BY a DESC LIMIT 5",
            "SHOW VIEWS",
            "DESCRIBE VIEW fleet",
            "DROP VIEW fleet",
            "EXPLAIN VIEW fleet",
        ] {
            let statement = parse_statement(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
            assert_eq!(statement.to_string(), sql);
        }
        let numbers =
            parse_statement("create view v with (max_rows = 5, event_time = true) as select a from s").unwrap();
        assert_eq!(parse_statement(&numbers.to_string()).unwrap(), numbers);
    }

    #[test]
    fn errors_point_and_suggest() {
        for (sql, expected) in [
            ("CREATE VIEW v SELECT a FROM s", "AS"),
            ("CREATE VIEW v WITH (KEYS = \"a\") AS SELECT a FROM s", "KEYS"),
            ("CREATE VIEW v WITH (KEY = \"a\", KEY = \"b\") AS SELECT a FROM s", "KEY"),
            ("CREATE VIEW v WITH (KEY = ) AS SELECT a FROM s", ")"),
            ("CREATE VIEW a.b AS SELECT a FROM s", "a.b"),
        ] {
            let error = parse_statement(sql).unwrap_err();
            assert!(error.to_string().contains(expected), "{sql}: {error}");
        }
        let error = parse_statement("CREATE VIEW v WITH (PARAM = \"a\") AS SELECT a FROM s").unwrap_err();
        assert_eq!(error.hint().as_deref(), Some("did you mean PARAMS?"));
        let error = parse_statement("CREATE VIEW v WITH (DATASOURCE = \"a\") AS SELECT a FROM s").unwrap_err();
        let text = error.to_string();
        assert!(text.contains("KEY, PARAMS, CLAIMS") && !text.contains("TIMESTAMP_FORMAT"), "{text}");
    }
}
