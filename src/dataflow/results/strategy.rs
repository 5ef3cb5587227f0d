//! How the results of a plan are made: which rows must be kept, and until when.

use crate::plan::physical::{OrderBy, Stateful};

/// What the plan says about how results are made.
pub(super) struct Strategy {
    /// result rows of groups are projected as they are made: nothing needs to see all of them
    pub straight: bool,
    /// and so are rows that are result rows as they are
    pub streams: bool,
    /// without GROUP BY, aggregates that make lists see the rows in the order of these
    pub by_row: Vec<OrderBy>,
    /// rows that only their groups need are not kept
    pub direct: bool,
    /// rows are result rows as they are, once they are in order: no more than those that are sent are copied
    pub wanted: Option<usize>,
    /// how many result rows are wanted of those that are put in order
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
        // A row may make none or several where it is unnested, so that all are needed in order.
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

/// Whether rows are result rows as they are, once they are in order.
fn only_ordered(plan: &Stateful) -> bool {
    let made = plan.grouped || !plan.aggregates.is_empty() || !plan.numbers.is_empty() || plan.rows_of.is_some();
    !made && plan.having.is_none() && !plan.order.is_empty()
}

/// Whether a key of ORDER BY needs nothing that comes after grouping.
fn reads_rows_only(key: &OrderBy, plan: &Stateful) -> bool {
    key.expr.slots().into_iter().all(|slot| slot < plan.row_slots)
}
