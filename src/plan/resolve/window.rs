//! The window of a rule.

use super::Result;
use crate::plan::compile::{Clause, Compiler};
use crate::plan::error::{PlanError, PlanErrorKind};
use crate::plan::logical::{Expr, SlotRef};
use crate::plan::physical::WindowSpec;
use crate::sql::ast::{self, Over, Window, WindowKind};
use crate::time::Unit;

/// Checks the parts of a window that contain no names.
pub(super) fn check_window(window: &Window) -> Result<()> {
    let at = |kind| Err(PlanError::at(kind, window.span));
    if window.kind.lengths().contains(&0) {
        return at(PlanErrorKind::EmptyWindow);
    }
    let refused = match (&window.kind, &window.over) {
        (_, None) => None,
        (WindowKind::Sliding { .. }, Some(over)) => (!over.partition_by.is_empty()).then_some("PARTITION BY"),
        (WindowKind::State { .. }, Some(over)) => over.when.is_some().then_some("WHEN"),
        (_, Some(_)) => Some("OVER"),
    };
    refused.map_or(Ok(()), |part| at(PlanErrorKind::WindowOver(part)))
}

/// Resolves a window with its conditions, which may read aliases and apply to single rows.
pub(super) fn window_spec(window: &Window, compiler: &mut Compiler) -> Result<WindowSpec<SlotRef>> {
    let gathers = std::mem::replace(&mut compiler.gathers, false);
    compiler.in_window = true;
    let spec = window_conditions(window, compiler);
    compiler.in_window = false;
    compiler.gathers = gathers;
    spec
}

fn window_conditions(window: &Window, compiler: &mut Compiler) -> Result<WindowSpec<SlotRef>> {
    let over = window.over.as_ref();
    let mut row = |expr: &ast::Expr, clause| {
        let compiled = compiler.expr(expr, Clause::Rows(clause), None)?;
        compiler.check_condition(&compiled, expr, clause)?;
        Ok(compiled.expr)
    };
    let millis = |unit: Unit, length: u64| i64::try_from(length.saturating_mul(unit.millis())).unwrap_or(i64::MAX / 4);
    let when = |row: &mut dyn FnMut(&ast::Expr, &'static str) -> Result<Expr>| match over {
        Some(Over { when: Some(when), .. }) => row(when, "OVER").map(Some),
        _ => Ok(None),
    };
    let spec = match &window.kind {
        WindowKind::Tumbling { unit, length } => WindowSpec::Hopping { unit: *unit, length: *length, hop: *length },
        WindowKind::Hopping { unit, length, hop } => WindowSpec::Hopping { unit: *unit, length: *length, hop: *hop },
        WindowKind::Sliding { unit, length, delay } => {
            WindowSpec::Sliding { length: millis(*unit, *length), delay: millis(*unit, *delay), when: when(&mut row)? }
        }
        WindowKind::Session { unit, max, timeout } => {
            WindowSpec::Session { unit: *unit, max: *max, timeout: millis(*unit, *timeout) }
        }
        WindowKind::Count { length, interval } => WindowSpec::Count { length: *length, interval: *interval },
        WindowKind::State { begin, end } => WindowSpec::State {
            begin: row(begin, "STATEWINDOW")?,
            end: end.as_ref().map(|end| row(end, "STATEWINDOW")).transpose()?,
            partition: over
                .iter()
                .flat_map(|over| &over.partition_by)
                .map(|key| Ok(compiler.expr(key, Clause::Rows("OVER"), None)?.expr))
                .collect::<Result<_>>()?,
        },
    };
    Ok(spec)
}
