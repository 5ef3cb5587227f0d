//! Decides how the results of a plan are made: which rows must be kept, and until when.

use crate::plan::physical::{OrderBy, Stateful};

/// How the results of a plan are made.
pub(super) struct Strategy {
    /// Result rows of groups are projected when they are made, because nothing needs all of them.
    pub straight: bool,
    /// Rows that are already result rows are projected as they arrive.
    pub streams: bool,
    /// Without GROUP BY: the order in which aggregates that make lists see the rows.
    pub by_row: Vec<OrderBy>,
    /// Rows that only their groups need are not kept.
    pub direct: bool,
    /// Set if rows are result rows after sorting: the number of wanted rows. Only those that are sent are copied.
    pub wanted: Option<usize>,
    /// The number of sorted result rows that are wanted.
    pub sorted: Option<usize>,
}

impl Strategy {
    pub fn of(plan: &Stateful) -> Strategy {
        let plain = plan.numbers.is_empty() && plan.result_steps.is_empty() && plan.rows_of.is_none();
        let straight = plain && plan.order.is_empty();
        let by_row: Vec<OrderBy> = if plan.grouped && plan.keys.is_empty() {
            plan.order.iter().filter(|key| reads_rows_only(key, plan)).cloned().collect()
        } else {
            Vec::new()
        };
        let limit = plan.limit.and_then(|limit| usize::try_from(limit).ok());
        // Unnesting makes any number of rows from one, so all are needed.
        let sorted = limit.filter(|_| !plan.order.is_empty() && plan.numbers.is_empty() && plan.rows_of.is_none());
        Strategy {
            straight,
            streams: straight && !plan.grouped && plan.aggregates.is_empty() && plan.having.is_none(),
            direct: plan.grouped && by_row.is_empty(),
            by_row,
            wanted: limit.filter(|_| only_ordered(plan)),
            sorted,
        }
    }
}

/// Whether rows are result rows after they are sorted.
fn only_ordered(plan: &Stateful) -> bool {
    let made = plan.grouped || !plan.aggregates.is_empty() || !plan.numbers.is_empty() || plan.rows_of.is_some();
    !made && plan.having.is_none() && !plan.order.is_empty()
}

/// Whether a key of ORDER BY reads only what exists before grouping.
fn reads_rows_only(key: &OrderBy, plan: &Stateful) -> bool {
    key.expr.slots().into_iter().all(|slot| slot < plan.row_slots)
}
