//! Compiles calls that read more than one row: aggregates, analytic functions and row numbers. Each becomes a step of
//! the plan, and its result a slot.

use super::calls::{check, returned};
use super::names::{column_names, default_name};
use super::types::Class;
use super::{Clause, Compiled, Compiler, Finished, Parts, Result, Scope, Type};
use crate::expr::aggregate::{Aggregate, Distinct};
use crate::expr::analytic::Analytic;
use crate::expr::function::{CallError, Function, Param};
use crate::plan::error::{PlanError, PlanErrorKind};
use crate::plan::logical::{Expr, LogicalStep, SlotRef};
use crate::plan::physical::{AggregateCall, AnalyticCall, RowNumber};
use crate::sql::ast::{self, Call, ExprKind};
use crate::text::span::Span;
use crate::value::{Text, Value};

impl Compiler {
    pub(super) fn aggregate(
        &mut self,
        aggregate: Aggregate,
        function: &'static Function,
        call: &Call,
        span: Span,
        (clause, own): Scope,
    ) -> Result<Compiled> {
        match clause {
            Clause::Result | Clause::Groups(_) => {}
            Clause::Rows("WHERE") if self.windowed => {}
            Clause::Rows(clause) => {
                let call = ExprKind::Call(call.clone());
                let call = ast::Expr { kind: call, span }.to_string();
                return Err(PlanError::at(PlanErrorKind::Aggregate { clause, call }, span));
            }
            Clause::Aggregate => {
                return Err(PlanError::at(PlanErrorKind::NestedAggregate(call.name.name.to_string()), span));
            }
        }
        let star = call.args.first().and_then(|arg| match &arg.kind {
            ExprKind::Star(star) => Some(star),
            _ => None,
        });
        if star.is_some() && (call.distinct || !aggregate.takes_rows()) {
            return Err(PlanError::at(PlanErrorKind::Star, call.args[0].span));
        }
        let mut args = Vec::with_capacity(call.args.len());
        // Counting rows needs no argument.
        let mut counts_rows = false;
        if let Some(star) = star {
            args.push(match aggregate {
                Aggregate::Count => self.presence(star)?.unwrap_or_else(|| {
                    counts_rows = true;
                    Compiled::leaf(Expr::Constant(Value::Null), Type::Any)
                }),
                _ => self.star_object(star, Clause::Aggregate)?,
            });
        }
        for arg in &call.args[args.len()..] {
            let arg = self.expr(arg, Clause::Aggregate, own).map_err(|error| match *error.kind {
                PlanErrorKind::NestedAggregate(_) => {
                    PlanError::at(PlanErrorKind::NestedAggregate(call.name.name.to_string()), span)
                }
                _ => error,
            })?;
            args.push(arg);
        }
        check(function, call, &args, self.open_cases > 0)?;
        self.check_aggregate(function, call, &args)?;
        let aggregate = aggregate.with(args.get(1).and_then(Compiled::literal));
        let aggregate = if call.distinct { aggregate.distinct().unwrap_or(aggregate) } else { aggregate };
        let ty = returned(function, &args);
        // Calls with equal texts are equal, except for a name that is a field in one place and an alias in another.
        let own = own.filter(|own| call.args.iter().any(|arg| column_names(arg, &[]).iter().any(|name| name == own)));
        let text = format!("{aggregate:?} {own:?} {}", call.args.first().map_or("*".to_owned(), ToString::to_string));
        let arg = match aggregate {
            Aggregate::Count if counts_rows => None,
            Aggregate::Deduplicate { .. } => Some(self.with_row(args.swap_remove(0), span)?),
            _ => Some(args.swap_remove(0)),
        };
        // The type of these results is known if the type of the argument is known.
        let declared = match aggregate {
            Aggregate::Count | Aggregate::CountDistinct => true,
            Aggregate::Sum | Aggregate::Avg | Aggregate::Min | Aggregate::Max => {
                arg.as_ref().is_some_and(|arg| arg.declared)
            }
            _ => false,
        };
        let integral = self.integers || arg.as_ref().is_some_and(|arg| arg.ty != Type::Any);
        if let Clause::Rows(_) = clause {
            // WHERE compares each row with a result over all rows of the window.
            self.window_aggregates.push(AggregateCall { aggregate, arg: arg.map(|arg| arg.expr), integral });
            let number = self.window_aggregates.len() - 1;
            // Its value exists after the window has ended.
            return Ok(Compiled {
                late: true,
                declared,
                ..Compiled::leaf(SlotRef::WindowAggregate(number).expr(), ty)
            });
        }
        let calls = &mut self.aggregates;
        let index = *self.aggregates_by_text.entry(text).or_insert_with(|| {
            calls.push(AggregateCall { aggregate, arg: arg.map(|arg| arg.expr), integral });
            calls.len() - 1
        });
        let mut compiled = Compiled::leaf(SlotRef::Aggregate(index).expr(), ty);
        compiled.aggregate = true;
        compiled.declared = declared;
        Ok(compiled)
    }

    /// Refuses an argument whose declared type cannot be summed or averaged.
    fn check_aggregate(&self, function: &'static Function, call: &Call, args: &[Compiled]) -> Result<()> {
        let wrong = |arg: &Compiled| arg.literal().is_none() && arg.class().is_some_and(|class| class != Class::Number);
        if function.signature.param(0) != Some(Param::Number) || !args.first().is_some_and(wrong) {
            return Ok(());
        }
        let error = CallError::Kind { expected: Param::Number, position: 1 };
        Err(PlanError::at(PlanErrorKind::Call { function: call.name.name.to_string(), error }, call.args[0].span))
    }

    /// A value and its row, for deduplication.
    fn with_row(&mut self, value: Compiled, span: Span) -> Result<Compiled> {
        let mut parts = Parts::new();
        let members = vec![
            (Text::const_new(Distinct::VALUE), parts.take(value)),
            (
                Text::const_new(Distinct::ROW),
                parts.take(self.row_object(0..self.sources.len(), span, Vec::new(), Vec::new())?),
            ),
        ];
        parts.constant = false;
        parts.kept(Expr::Object { wholes: Vec::new(), except: Vec::new(), members }, Type::Any)
    }

    /// Compiles a call of an analytic function: over rows, or over result rows if an argument is an aggregate.
    pub(super) fn analytic(
        &mut self,
        analytic: Analytic,
        function: &'static Function,
        call: &Call,
        span: Span,
        (clause, own): Scope,
    ) -> Result<Compiled> {
        let mut args = Vec::with_capacity(call.args.len());
        for arg in &call.args {
            args.push(match &arg.kind {
                ExprKind::Star(star) => self.star_object(star, clause)?,
                _ => self.expr(arg, clause, own)?,
            });
        }
        check(function, call, &args, self.open_cases > 0)?;
        let ty = returned(function, &args);
        self.analytic_call(analytic, args, Vec::new(), call, span, ty, clause)
    }

    /// Adds an analytic call at the stage that its arguments require.
    #[expect(clippy::too_many_arguments, reason = "the parts of a call")]
    fn analytic_call(
        &mut self,
        analytic: Analytic,
        args: Vec<Compiled>,
        names: Vec<Text>,
        call: &Call,
        span: Span,
        ty: Type,
        clause: Clause,
    ) -> Result<Compiled> {
        let over = call.over.as_ref();
        let mut parts = Parts::new();
        let args: Vec<Expr> = args.into_iter().map(|arg| parts.take(arg)).collect();
        let mut partition = Vec::new();
        for key in over.iter().flat_map(|over| &over.partition_by) {
            partition.push(self.expr(key, Clause::Rows("OVER"), None)?.expr);
        }
        let when = match over.and_then(|over| over.when.as_deref()) {
            Some(written) => {
                let when = self.expr(written, Clause::Rows("OVER"), None)?;
                self.check_condition(&when, written, "OVER")?;
                Some(when.expr)
            }
            None => None,
        };
        if let Some(key) = over.and_then(|over| over.order_by.first()) {
            return Err(PlanError::at(PlanErrorKind::OverOrder(call.name.name.to_string()), key.expr.span));
        }
        // changed_cols is about what is sent, so rows that WHERE, FILTER or HAVING drops do not count.
        let results =
            parts.aggregate || parts.late || (parts.hits && self.gathers) || analytic == Analytic::ChangedCols;
        if parts.element {
            self.elements.iter_mut().for_each(|elements| elements.before = true);
        }
        let over_rows = call.args.iter().any(|arg| matches!(arg.kind, ExprKind::Star(_)));
        let call_of_plan = AnalyticCall { analytic, args, names, over_rows, partition, when };
        let mut compiled = if results {
            if clause != Clause::Result {
                return Err(PlanError::at(PlanErrorKind::SelectOnly(call.name.name.to_string()), span));
            }
            self.result_steps.push(call_of_plan);
            Compiled::leaf(SlotRef::ResultStep(self.result_steps.len() - 1).expr(), ty)
        } else {
            self.steps.push(LogicalStep { aliases: self.aliases.len(), call: call_of_plan, span });
            Compiled::leaf(SlotRef::Step(self.steps.len() - 1).expr(), ty)
        };
        compiled.aggregate = results && parts.aggregate;
        compiled.late = results;
        compiled.finished = if results { Finished::Step } else { Finished::No };
        compiled.row = !results;
        Ok(compiled)
    }

    /// Compiles `changed_cols(prefix, ignoreNull, column, …)` as an item of the select list: an object with the changed
    /// columns.
    pub fn changed_cols(&mut self, function: &'static Function, call: &Call, span: Span) -> Result<Compiled> {
        if call.over.is_some() {
            return Err(PlanError::at(PlanErrorKind::Over(call.name.name.to_string()), span));
        }
        let mut args = Vec::with_capacity(call.args.len());
        let mut names = Vec::new();
        let mut unnamed = 0;
        for (index, arg) in call.args.iter().enumerate() {
            let star = matches!(arg.kind, ExprKind::Star(_));
            args.push(match &arg.kind {
                ExprKind::Star(star) => self.star_object(star, Clause::Result)?,
                _ => self.expr(arg, Clause::Result, None)?,
            });
            if index >= 2 {
                names.push(match unnamed {
                    _ if star => Text::const_new("*"),
                    // The first expression without a name gets only the prefix.
                    0 => match default_name(arg, &mut unnamed) {
                        _ if unnamed > 0 => Text::default(),
                        name => name,
                    },
                    _ => default_name(arg, &mut unnamed),
                });
            }
        }
        check(function, call, &args, self.open_cases > 0)?;
        self.analytic_call(Analytic::ChangedCols, args, names, call, span, Type::Any, Clause::Result)
    }

    /// Compiles `row_number() [OVER (…)]`.
    pub(super) fn row_number(
        &mut self,
        function: &'static Function,
        call: &Call,
        span: Span,
        clause: Clause,
    ) -> Result<Compiled> {
        if clause != Clause::Result {
            return Err(PlanError::at(PlanErrorKind::WindowFunction, span));
        }
        let mut args = Vec::new();
        for arg in &call.args {
            args.push(self.expr(arg, Clause::Result, None)?);
        }
        check(function, call, &args, self.open_cases > 0)?;
        let mut number = RowNumber { partition: Vec::new(), order: Vec::new() };
        if let Some(over) = &call.over {
            for key in &over.partition_by {
                number.partition.push(self.expr(key, Clause::Groups("OVER"), None)?.expr);
            }
            number.order = self.order_by(&over.order_by, "OVER")?;
        }
        self.numbers.push(number);
        let mut compiled = Compiled::leaf(SlotRef::Number(self.numbers.len() - 1).expr(), Type::INT);
        compiled.late = true;
        compiled.finished = Finished::Number;
        Ok(compiled)
    }
}
