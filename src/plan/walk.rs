//! The only walk over the expressions of a plan and of its parts.
//!
//! Each function destructures its part without `..`, so that a new field does not compile until this file handles it.

use super::logical::{
    Alias, Expr as LogicalExpr, Logical, LogicalElements, LogicalInput, LogicalJoin, LogicalStep, Output, OutputValue,
};
use super::physical::{AggregateCall, AnalyticCall, OrderBy, RowNumber, RowsOf, WindowSpec};
use crate::expr::Expr;

impl Logical {
    /// Visits every expression of the rule, outermost only ([`Expr::visit`] goes inside).
    pub fn each_expr<'a>(&'a self, see: &mut dyn FnMut(&'a LogicalExpr)) {
        let Logical {
            inputs,
            joins,
            aliases,
            fields,
            filter,
            window,
            admit,
            keys,
            aggregates,
            window_aggregates,
            grouped: _,
            having,
            order,
            steps,
            result_steps,
            numbers,
            elements,
            limit: _,
            watermark: _,
        } = self;
        for LogicalInput { stream: _, role: _, columns: _, event_time: _ } in inputs {}
        for LogicalJoin { kind: _, on, text: _, span: _ } in joins {
            on.iter().for_each(&mut *see);
        }
        for Alias { name: _, expr, shared: _ } in aliases {
            see(expr);
        }
        for field in fields {
            match field {
                Output::Field { name: _, value, plain: _ } | Output::Hidden(value) => match value {
                    OutputValue::Alias(_) => {}
                    OutputValue::Expr(expr) => see(expr),
                },
                Output::Spread { expr, name: _ } => see(expr),
                Output::Star { messages: _ } => {}
            }
        }
        filter.iter().chain(admit).chain(keys).chain(having).for_each(&mut *see);
        window.iter().for_each(|window| window.each_expr(see));
        aggregates.iter().chain(window_aggregates).for_each(|call| call.each_expr(see));
        order.iter().for_each(|key| key.each_expr(see));
        for LogicalStep { aliases: _, call, span: _ } in steps {
            call.each_expr(see);
        }
        result_steps.iter().for_each(|call| call.each_expr(see));
        numbers.iter().for_each(|number| number.each_expr(see));
        if let Some(LogicalElements { aliases: _, rows, before: _, span: _ }) = elements {
            rows.each_expr(see);
        }
    }
}

impl<S> AggregateCall<S> {
    pub fn each_expr<'a>(&'a self, see: &mut dyn FnMut(&'a Expr<S>)) {
        let AggregateCall { aggregate: _, arg, integral: _ } = self;
        arg.iter().for_each(see);
    }

    pub fn map<T>(&self, slot: &mut dyn FnMut(&S) -> T) -> AggregateCall<T> {
        let AggregateCall { aggregate, arg, integral } = self;
        AggregateCall { aggregate: *aggregate, arg: arg.as_ref().map(|arg| arg.map(slot)), integral: *integral }
    }
}

impl<S> AnalyticCall<S> {
    pub fn each_expr<'a>(&'a self, see: &mut dyn FnMut(&'a Expr<S>)) {
        let AnalyticCall { analytic: _, args, names: _, over_rows: _, partition, when } = self;
        args.iter().chain(partition).chain(when).for_each(see);
    }

    pub fn map<T>(&self, slot: &mut dyn FnMut(&S) -> T) -> AnalyticCall<T> {
        let AnalyticCall { analytic, args, names, over_rows, partition, when } = self;
        AnalyticCall {
            analytic: *analytic,
            args: args.iter().map(|arg| arg.map(slot)).collect(),
            names: names.clone(),
            over_rows: *over_rows,
            partition: partition.iter().map(|key| key.map(slot)).collect(),
            when: when.as_ref().map(|when| when.map(slot)),
        }
    }
}

impl<S> OrderBy<S> {
    pub fn each_expr<'a>(&'a self, see: &mut dyn FnMut(&'a Expr<S>)) {
        let OrderBy { expr, descending: _ } = self;
        see(expr);
    }

    pub fn map<T>(&self, slot: &mut dyn FnMut(&S) -> T) -> OrderBy<T> {
        OrderBy { expr: self.expr.map(slot), descending: self.descending }
    }
}

impl<S> RowNumber<S> {
    pub fn each_expr<'a>(&'a self, see: &mut dyn FnMut(&'a Expr<S>)) {
        let RowNumber { partition, order } = self;
        partition.iter().for_each(&mut *see);
        order.iter().for_each(|key| key.each_expr(see));
    }

    pub fn map<T>(&self, slot: &mut dyn FnMut(&S) -> T) -> RowNumber<T> {
        RowNumber {
            partition: self.partition.iter().map(|key| key.map(slot)).collect(),
            order: self.order.iter().map(|key| key.map(slot)).collect(),
        }
    }
}

impl<S> RowsOf<S> {
    pub fn each_expr<'a>(&'a self, see: &mut dyn FnMut(&'a Expr<S>)) {
        let RowsOf { function: _, arg } = self;
        see(arg);
    }

    pub fn map<T>(&self, slot: &mut dyn FnMut(&S) -> T) -> RowsOf<T> {
        RowsOf { function: self.function, arg: self.arg.map(slot) }
    }
}

impl<S> WindowSpec<S> {
    pub fn each_expr<'a>(&'a self, see: &mut dyn FnMut(&'a Expr<S>)) {
        match self {
            WindowSpec::Each
            | WindowSpec::Hopping { unit: _, length: _, hop: _ }
            | WindowSpec::Session { unit: _, max: _, timeout: _ }
            | WindowSpec::Count { length: _, interval: _ } => {}
            WindowSpec::Sliding { length: _, delay: _, when } => when.iter().for_each(see),
            WindowSpec::State { begin, end, partition } => {
                see(begin);
                end.iter().chain(partition).for_each(see);
            }
        }
    }

    pub fn map<T>(&self, slot: &mut dyn FnMut(&S) -> T) -> WindowSpec<T> {
        match self {
            WindowSpec::Each => WindowSpec::Each,
            WindowSpec::Hopping { unit, length, hop } => {
                WindowSpec::Hopping { unit: *unit, length: *length, hop: *hop }
            }
            WindowSpec::Session { unit, max, timeout } => {
                WindowSpec::Session { unit: *unit, max: *max, timeout: *timeout }
            }
            WindowSpec::Count { length, interval } => WindowSpec::Count { length: *length, interval: *interval },
            WindowSpec::Sliding { length, delay, when } => {
                WindowSpec::Sliding { length: *length, delay: *delay, when: when.as_ref().map(|when| when.map(slot)) }
            }
            WindowSpec::State { begin, end, partition } => WindowSpec::State {
                begin: begin.map(slot),
                end: end.as_ref().map(|end| end.map(slot)),
                partition: partition.iter().map(|key| key.map(slot)).collect(),
            },
        }
    }
}
