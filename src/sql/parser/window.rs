//! Windows of GROUP BY and what follows them.
//!
//! The tree holds the lengths of windows as typed values, so this is the only place that checks their arguments.

use super::{Parser, Result};
use crate::sql::ast::{Expr, ExprKind, Literal, Over, Window, WindowKind};
use crate::sql::error::SyntaxErrorKind;
use crate::sql::token::Token;
use crate::text::suggest::did_you_mean;
use crate::time::Unit;

/// Names of the windows in lower case.
pub const WINDOWS: [&str; 6] =
    ["tumblingwindow", "hoppingwindow", "slidingwindow", "sessionwindow", "countwindow", "statewindow"];

/// The window with this name, in any case.
pub(super) fn window_called(name: &str) -> Option<&'static str> {
    WINDOWS.into_iter().find(|w| w.eq_ignore_ascii_case(name))
}

impl Parser<'_> {
    /// The name of the window that begins at the current token.
    pub(super) fn window_name(&self) -> Option<&'static str> {
        match &self.token {
            Token::Name(name) | Token::Quoted(name) if self.peek() == Token::Symbol("(") => window_called(name),
            _ => None,
        }
    }

    /// Parses `name(args) [FILTER(WHERE e)] [OVER (…)]`; the name is already checked.
    pub(super) fn window(&mut self, name: &'static str) -> Result<Window> {
        let start = self.span;
        self.advance();
        let args = self.nested(|p| p.call_args(name))?;
        let kind = self.window_kind(name, args, start)?;
        let mut filter = None;
        if self.take_keyword("FILTER") {
            if !self.take("(") {
                return Err(self.expected_after("FILTER", "parentheses"));
            }
            if !self.take_keyword("WHERE") {
                return Err(self.expected_after("FILTER(", "WHERE"));
            }
            filter = Some(self.expr()?);
            self.right_parenthesis_after("FILTER")?;
        }
        let over = if self.token == Token::Keyword("OVER") { Some(self.over()?) } else { None };
        Ok(Window { kind, filter, over, span: start.to(self.last) })
    }

    /// Parses `OVER ([PARTITION BY e, …] [ORDER BY e, …] [WHEN e])`, in any order; OVER is already consumed.
    pub(super) fn over(&mut self) -> Result<Over> {
        self.advance();
        if !self.take("(") {
            return Err(self.expected_after("OVER", "parentheses"));
        }
        let mut over = Over { partition_by: Vec::new(), order_by: Vec::new(), when: None };
        self.nested(|p| {
            loop {
                if over.partition_by.is_empty() && p.take_keyword("PARTITION") {
                    if !p.take_keyword("BY") {
                        return Err(p.unexpected("by after partition", &["BY"]));
                    }
                    over.partition_by.push(p.expr()?);
                    while p.take(",") {
                        over.partition_by.push(p.expr()?);
                    }
                } else if over.order_by.is_empty() && p.take_keyword("ORDER") {
                    over.order_by = p.order_keys()?;
                } else if over.when.is_none() && p.take_keyword("WHEN") {
                    over.when = Some(Box::new(p.expr()?));
                } else {
                    return Ok(());
                }
            }
        })?;
        if over.partition_by.is_empty() && over.order_by.is_empty() && over.when.is_none() {
            return Err(self.expected_after("OVER (", "partition by or when"));
        }
        self.right_parenthesis_after("OVER")?;
        Ok(over)
    }

    fn right_parenthesis_after(&mut self, after: &'static str) -> Result<()> {
        if self.take(")") {
            return Ok(());
        }
        Err(self.expected_after(after, "right parentheses"))
    }

    fn window_kind(&self, window: &'static str, args: Vec<Expr>, start: crate::text::span::Span) -> Result<WindowKind> {
        let span = start.to(self.last);
        let count = |expected| self.error_at(SyntaxErrorKind::WindowArguments { window, expected }, span, None);
        let length = |unit, number: usize, arg, least| self.length(window, unit, number, arg, least);
        match (window, args.as_slice()) {
            ("tumblingwindow", [unit, long]) => {
                let unit = self.unit(window, unit)?;
                Ok(WindowKind::Tumbling { unit, length: length(unit, 1, long, 1)? })
            }
            ("tumblingwindow", _) => Err(count("2")),
            ("hoppingwindow", [unit, long, hop]) => {
                let unit = self.unit(window, unit)?;
                Ok(WindowKind::Hopping { unit, length: length(unit, 1, long, 1)?, hop: length(unit, 2, hop, 1)? })
            }
            ("sessionwindow", [unit, max, timeout]) => {
                let unit = self.unit(window, unit)?;
                Ok(WindowKind::Session { unit, max: length(unit, 1, max, 1)?, timeout: length(unit, 2, timeout, 1)? })
            }
            ("hoppingwindow" | "sessionwindow", _) => Err(count("3")),
            // A sliding window of length 0 holds the rows with the same time, and with a delay those that follow.
            ("slidingwindow", [unit, long, delay @ ..]) if delay.len() <= 1 => {
                let unit = self.unit(window, unit)?;
                let long = length(unit, 1, long, 0)?;
                let delay = delay.first().map_or(Ok(0), |delay| length(unit, 2, delay, 0))?;
                Ok(WindowKind::Sliding { unit, length: long, delay })
            }
            ("slidingwindow", _) => Err(count("2 or 3")),
            ("statewindow", [begin, end @ ..]) if end.len() <= 1 => {
                Ok(WindowKind::State { begin: Box::new(begin.clone()), end: end.first().cloned().map(Box::new) })
            }
            ("statewindow", _) => Err(count("1 or 2")),
            ("countwindow", [_] | [_, _]) => self.count_window(&args),
            ("countwindow", _) => Err(self.error_at(SyntaxErrorKind::CountArguments, span, None)),
            (_, _) => Err(count("0")),
        }
    }

    fn unit(&self, window: &'static str, arg: &Expr) -> Result<Unit> {
        const UNITS: [(&str, Unit); 5] = [
            ("dd", Unit::Day),
            ("hh", Unit::Hour),
            ("mi", Unit::Minute),
            ("ss", Unit::Second),
            ("ms", Unit::Millisecond),
        ];
        let written = match &arg.kind {
            ExprKind::Column(name) => name.as_str(),
            _ => "",
        };
        if let Some((_, unit)) = UNITS.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(written)) {
            return Ok(unit);
        }
        let hint = match written.to_ascii_lowercase().as_str() {
            "d" | "day" | "days" => Some("dd"),
            "h" | "hour" | "hours" => Some("hh"),
            "m" | "min" | "mins" | "minute" | "minutes" | "mm" => Some("mi"),
            "s" | "sec" | "secs" | "second" | "seconds" => Some("ss"),
            "milli" | "millis" | "millisecond" | "milliseconds" => Some("ms"),
            _ => None,
        };
        let hint = hint.map(|unit| format!("did you mean {unit}?"));
        let hint = hint.or_else(|| did_you_mean(written, ["dd", "hh", "mi", "ss", "ms"]));
        Err(self.error_at(SyntaxErrorKind::WindowUnit { window }, arg.span, hint))
    }

    /// Parses a length in units: at least `least`, and at most 63 bits in milliseconds.
    fn length(&self, window: &'static str, unit: Unit, index: usize, arg: &Expr, least: u64) -> Result<u64> {
        let ExprKind::Literal(Literal::Int(length)) = arg.kind else {
            return Err(self.error_at(SyntaxErrorKind::WindowLength { window, index }, arg.span, None));
        };
        u64::try_from(length)
            .ok()
            .filter(|l| *l >= least && l.checked_mul(unit.millis()).is_some_and(|ms| i64::try_from(ms).is_ok()))
            .ok_or_else(|| self.error_at(SyntaxErrorKind::WindowRange { window, index }, arg.span, None))
    }

    fn count_window(&self, args: &[Expr]) -> Result<WindowKind> {
        let rows = |arg: &Expr| match arg.kind {
            ExprKind::Literal(Literal::Int(n)) if n > 0 => Ok(n as u64),
            _ => {
                let value = self.slice(arg.span).to_owned();
                Err(self.error_at(SyntaxErrorKind::CountValue { value }, arg.span, None))
            }
        };
        let length = rows(&args[0])?;
        let interval = args.get(1).map_or(Ok(length), rows)?;
        if interval > length {
            return Err(self.error_at(SyntaxErrorKind::CountInterval { interval, length }, args[1].span, None));
        }
        Ok(WindowKind::Count { length, interval })
    }
}
