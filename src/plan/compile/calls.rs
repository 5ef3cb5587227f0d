//! Compiles calls: finds the function, and checks its arguments and whether it may be used there.

use std::sync::Arc;

use super::operators::is_logical;
use super::types::Class;
use super::{Clause, Compiled, Compiler, Elements, Finished, Parts, Result, Scope, Type};
use crate::expr::analytic::Analytic;
use crate::expr::function::{self, Code, Family, Function, Param, Returns, check_call};
use crate::expr::set_returning::SetReturning;
use crate::plan::error::{MAX_ERRORS, PlanError, PlanErrorKind};
use crate::plan::logical::{Expr, SlotRef};
use crate::plan::physical::RowsOf;
use crate::sql::WINDOWS;
use crate::sql::ast::{self, Call, DataType, ExprKind};
use crate::text::span::Span;
use crate::value::Value;

/// Functions of the window's bounds: they have no value before the window ends.
const LATE: [&str; 4] = ["window_start", "window_end", "window_trigger", "event_time"];

/// The functions about rows sent so far, for rules whose results are rows.
const OF_ROWS: [&str; 2] = ["last_hit_count", "last_hit_time"];

/// The functions about windows sent so far.
const OF_WINDOWS: [&str; 2] = ["last_agg_hit_count", "last_agg_hit_time"];

/// Why unnest() and similar functions cannot be used inside expressions; eKuiper's text.
const NESTED: &str = "select clause shouldn't has nested set-returning-functions";
const ELSEWHERE: &str = "select statement shouldn't has srf except fields";
const MULTIPLE: &str = "select clause shouldn't has multi set-returning-functions";

impl Compiler {
    pub(super) fn call(&mut self, call: &Call, span: Span, (clause, own): Scope) -> Result<Compiled> {
        let name = call.name.name.as_str();
        let Some(function) = function::lookup(name) else {
            let error = PlanError::at(PlanErrorKind::UnknownFunction(name.to_owned()), call.name.span);
            if self.errors.len() >= MAX_ERRORS {
                return Err(error);
            }
            let windows = WINDOWS.map(str::to_ascii_uppercase);
            let windows = windows.iter().map(String::as_str).filter(|_| clause == Clause::Rows("GROUP BY"));
            if let Some(hint) = foreign(name) {
                return Err(error.with_hint(hint.to_owned()));
            }
            return Err(error.suggest(name, function::all().map(|function| function.name).chain(windows)));
        };
        if call.distinct && !matches!(function.code, Code::Aggregate(aggregate) if aggregate.distinct().is_some()) {
            return Err(PlanError::at(PlanErrorKind::Distinct(name.to_owned()), span));
        }
        if call.over.is_some() && !matches!(function.code, Code::Analytic(_) | Code::RowNumber) {
            return Err(PlanError::at(PlanErrorKind::Over(name.to_owned()), span));
        }
        if call.filter.is_some() && !matches!(function.code, Code::Aggregate(_)) {
            return Err(PlanError::at(PlanErrorKind::Filter(name.to_owned()), span));
        }
        match function.code {
            Code::Aggregate(aggregate) => return self.aggregate(aggregate, function, call, span, (clause, own)),
            Code::Analytic(Analytic::ChangedCols) => {
                return Err(PlanError::at(PlanErrorKind::SelectOnly(name.to_owned()), span));
            }
            Code::Analytic(analytic) => return self.analytic(analytic, function, call, span, (clause, own)),
            Code::RowNumber => return self.row_number(function, call, span, clause),
            Code::SetReturning(_) => {
                let nested = matches!(clause, Clause::Result | Clause::Aggregate);
                return Err(PlanError::at(PlanErrorKind::SetReturning(if nested { NESTED } else { ELSEWHERE }), span));
            }
            Code::Scalar(_) | Code::Prepared(_) => {}
        }
        let mut args = Vec::with_capacity(call.args.len());
        for (index, arg) in call.args.iter().enumerate() {
            args.push(match meta_key(function, index, arg) {
                Some(key) => Compiled::leaf(Expr::Constant(Value::from(key)), Type::Known(DataType::String)),
                None => self.expr(arg, clause, own)?,
            });
        }
        check(function, call, &args, self.open_cases > 0)?;
        if function.name == "meta"
            && let [key] = call.args.as_slice()
        {
            return self.meta(key);
        }
        if function.name == "mqtt"
            && let Some(ExprKind::Dot(stream, _)) = call.args.first().map(|arg| &arg.kind)
            && let ExprKind::Column(name) = &stream.kind
        {
            self.stream_named(name, stream.span)?;
        }
        if self.gathers && OF_ROWS.contains(&function.name) {
            return Err(PlanError::at(PlanErrorKind::OfRows(function.name), span));
        }
        let ty = returned(function, &args);
        let prepared = match function.code {
            Code::Prepared(prepare) => {
                let literals: Vec<_> = args.iter().map(Compiled::literal).collect();
                let prepared = prepare(&literals).map_err(|error| {
                    PlanError::at(PlanErrorKind::Literals { function: name.to_owned(), error }, span)
                })?;
                Some(Arc::new(prepared))
            }
            _ => None,
        };
        let mut parts = Parts::new();
        parts.late = LATE.contains(&function.name);
        parts.hits = OF_ROWS.contains(&function.name) || OF_WINDOWS.contains(&function.name);
        let args = args.into_iter().map(|arg| parts.take(arg)).collect();
        parts.declared = false;
        let call = Expr::Call { function, prepared, args };
        if answers_anywhere(function) { parts.node(call, ty) } else { parts.kept(call, ty) }
    }

    /// `meta(key)`, with `key`, `stream.key`, `key->part`, `*` or `stream.*` as its argument. A key without a stream is
    /// that of the first message that has it.
    fn meta(&mut self, key: &ast::Expr) -> Result<Compiled> {
        let mut parts = Parts::new();
        match &key.kind {
            ExprKind::Dot(stream, member) | ExprKind::Member(stream, member) => {
                let stream_of = match &stream.kind {
                    ExprKind::Column(name) => self.qualified(name),
                    _ => None,
                };
                let left = match stream_of {
                    Some(input) => self.metadata(input),
                    None => self.meta(stream)?,
                };
                let left = parts.boxed(left);
                parts.node(Expr::Member(left, member.name.clone()), Type::Any)
            }
            ExprKind::Column(name) => {
                let mut exprs = Vec::with_capacity(self.sources.len());
                for input in 0..self.sources.len() {
                    let metadata = self.metadata(input);
                    exprs.push(Expr::Member(parts.boxed(metadata), name.clone()));
                }
                let expr = if exprs.len() == 1 { exprs.remove(0) } else { Expr::FirstPresent(exprs) };
                parts.node(expr, Type::Any)
            }
            ExprKind::Star(star) => {
                let stream = star.stream.as_ref();
                let input = stream.map_or(Ok(0), |stream| self.stream_named(&stream.name, stream.span))?;
                Ok(self.topic(input))
            }
            _ => Ok(self.topic(0)),
        }
    }

    /// Compiles a call of unnest() or a similar function, and the element that other expressions read.
    pub fn set_returning(&mut self, function: &'static Function, call: &Call, span: Span) -> Result<Compiled> {
        let Code::SetReturning(returning) = function.code else {
            return Err(PlanError::at(PlanErrorKind::SetReturning(ELSEWHERE), span));
        };
        if self.elements.is_some() {
            return Err(PlanError::at(PlanErrorKind::SetReturning(MULTIPLE), span));
        }
        if call.over.is_some() {
            return Err(PlanError::at(PlanErrorKind::Over(call.name.name.to_string()), call.name.span));
        }
        let mut args = Vec::with_capacity(call.args.len());
        for arg in &call.args {
            args.push(self.expr(arg, Clause::Result, None)?);
        }
        check(function, call, &args, self.open_cases > 0)?;
        let taken = match returning {
            SetReturning::Unnest => Class::Array,
            SetReturning::Extract => Class::Struct,
        };
        for (arg, written) in args.iter().zip(&call.args) {
            self.check_class(arg, taken, written, |ty| format!("{}({ty})", function.name))?;
        }
        let arg = args.into_iter().next().unwrap_or_else(|| Compiled::constant(Value::Null));
        let of_row = !arg.aggregate && !arg.late && arg.finished == Finished::No;
        let mut element = Compiled::leaf(SlotRef::Element.expr(), Type::Any);
        element.aggregate = arg.aggregate;
        element.element = true;
        element.row = of_row;
        element.finished = if of_row { Finished::No } else { Finished::Element };
        let rows = RowsOf { function: returning, arg: arg.expr };
        self.elements = Some(Elements { aliases: self.aliases.len(), rows, span, before: false });
        Ok(element)
    }
}

/// A hint for a function that other systems have under this name, or write differently.
fn foreign(name: &str) -> Option<&'static str> {
    Some(match name.to_ascii_lowercase().as_str() {
        "nvl" | "ifnull" | "isnull" => "the first value that is not null is coalesce(a, b)",
        "if" | "iif" | "decode" => "conditions are written CASE WHEN condition THEN a ELSE b END",
        "date_trunc" | "time_bucket" => {
            "rows of a stretch of time are gathered by a window, GROUP BY TUMBLINGWINDOW(mi, 1); a time is written by \
             format_time(t, \"yyyy-MM-dd HH:00\")"
        }
        "replace" => "replace texts with regexp_replace(text, pattern, with)",
        "to_char" | "date_format" | "strftime" => "a time is written by format_time(t, \"yyyy-MM-dd\")",
        "to_timestamp" | "from_unixtime" | "parse_time" => "a time is made by cast(x, \"datetime\")",
        "to_number" | "toint" | "tofloat" | "int" | "float" => {
            "a number is made by cast(x, \"bigint\") or cast(x, \"float\")"
        }
        "array_agg" | "string_agg" | "group_concat" | "listagg" => "values are gathered by collect(x)",
        "count_distinct" | "approx_count_distinct" | "uniq" => "different values are counted by count(DISTINCT x)",
        "first" | "any_value" => "the first value is first_value(x)",
        "last" => "the last value is last_value(x, true)",
        _ => return None,
    })
}

/// Checks a call. `in_case`: a row may never reach it, so that declared types refuse nothing.
pub(super) fn check(function: &'static Function, call: &Call, args: &[Compiled], in_case: bool) -> Result<()> {
    let keys: Vec<_> =
        call.args.iter().enumerate().map(|(index, arg)| meta_key(function, index, arg).is_some()).collect();
    let literals: Vec<_> =
        args.iter().zip(&keys).map(|(arg, key)| arg.literal().filter(|_| arg.written || *key)).collect();
    let declared = |arg: &Compiled| arg.class().filter(|_| !in_case).map(of_class);
    let kind = |(arg, key): (&Compiled, &bool)| {
        if *key { Some(Param::MetaKey) } else { certain_kind(&arg.expr).or_else(|| declared(arg)) }
    };
    let kinds: Vec<_> = args.iter().zip(&keys).map(kind).collect();
    check_call(function, &literals, &kinds).map_err(|error| {
        let span = call.name.span;
        let hint = format!("it is called as {}", function::usage(function));
        PlanError::at(PlanErrorKind::Call { function: call.name.name.to_string(), error }, span).with_hint(hint)
    })
}

/// The key of a message's metadata, for functions that take one. It looks like a name but is not a column.
fn meta_key(function: &Function, index: usize, arg: &ast::Expr) -> Option<String> {
    let mut name = arg;
    while let ExprKind::Dot(left, _) | ExprKind::Member(left, _) = &name.kind {
        name = left;
    }
    let is_name = matches!(name.kind, ExprKind::Column(_)) || matches!(arg.kind, ExprKind::Star(_));
    (is_name && function.signature.param(index) == Some(Param::MetaKey)).then(|| arg.to_string())
}

/// The kind of a declared column.
fn of_class(class: Class) -> Param {
    match class {
        Class::Number => Param::Number,
        Class::Text => Param::Text,
        Class::Bool => Param::Bool,
        Class::Array => Param::Array,
        Class::Struct => Param::Object,
    }
}

/// The kind that an expression always has, whatever a row holds; `None` if it can vary.
fn certain_kind(expr: &Expr) -> Option<Param> {
    match expr {
        Expr::Binary { op, .. } => is_logical(*op).then_some(Param::Bool),
        Expr::Not(_)
        | Expr::Between { .. }
        | Expr::InList { .. }
        | Expr::InArray { .. }
        | Expr::Like { .. }
        | Expr::IsNull { .. } => Some(Param::Bool),
        _ => None,
    }
}

pub(super) fn returned(function: &Function, args: &[Compiled]) -> Type {
    let known = match function.returns {
        Returns::Int => DataType::BigInt,
        Returns::Float => DataType::Float,
        Returns::Text => DataType::String,
        Returns::Bool => DataType::Boolean,
        Returns::Bytes => DataType::Bytea,
        Returns::DateTime => DataType::DateTime,
        Returns::SameAs(index) => return args.get(index).map_or(Type::Any, |arg| arg.ty.clone()),
        Returns::Any if matches!(function.name, "cast" | "try_cast") => match args.get(1).and_then(Compiled::literal) {
            Some(Value::Text(target)) => match target.as_str() {
                "bigint" => DataType::BigInt,
                "float" => DataType::Float,
                "string" => DataType::String,
                "boolean" => DataType::Boolean,
                "datetime" => DataType::DateTime,
                "bytea" => DataType::Bytea,
                _ => return Type::Any,
            },
            _ => return Type::Any,
        },
        Returns::Array | Returns::Object | Returns::Any => return Type::Any,
    };
    Type::Known(known)
}

/// Whether calls with constant arguments may be computed when the rule is planned. Functions other than those of
/// numbers, texts and hashes may need the time zone, which is not known here.
fn answers_anywhere(function: &Function) -> bool {
    function.deterministic && matches!(function.family, Family::Math | Family::Text | Family::Hash)
}
