//! The parts of a state that is divided by key, and what part of the rule's plan each of them executes.

use std::rc::Rc;

use crate::dataflow::division::Division;
use crate::dataflow::forward::Forward;
use crate::plan::physical::{Input, Role, Scan, Stateful, WindowSpec};

/// The part of a divided state that is here.
pub struct Own {
    pub division: Division,
    /// The number of this owner of keys; `None`: this part has the windows of all owners.
    pub owner: Option<usize>,
}

/// Sends the content of windows home.
pub struct Shipping {
    pub home: Rc<Forward>,
    /// The end of the last slice that was reported to home.
    pub reported: Option<i64>,
}

/// The plan of home's part: other threads have done everything before the results of groups.
pub fn at_home(plan: Stateful) -> Stateful {
    let window = match plan.window {
        // Windows that have ended elsewhere come one after the other, even if they overlap.
        WindowSpec::Hopping { unit, hop, .. } if !plan.joins.is_empty() => {
            WindowSpec::Hopping { unit, length: hop, hop }
        }
        window => window,
    };
    Stateful {
        window,
        ordered: false,
        steps: Vec::new(),
        admit: None,
        filter: None,
        joins: Vec::new(),
        computed: Vec::new(),
        joined_filter: None,
        incremental: true,
        ..plan
    }
}

/// The input of home: the rows that other threads have joined, whose groups it gets.
pub fn joined_input(plan: &Stateful, inputs: &[Input]) -> Input {
    let stream = inputs[0].stream.clone();
    Input { stream, role: Role::Stream, scan: Scan::default(), slots: 0..plan.row_slots }
}

/// The plan of an owner of keys that sends home the groups of its joined rows: home does everything after the groups.
pub fn at_owner(plan: Stateful) -> Stateful {
    Stateful {
        having: None,
        numbers: Vec::new(),
        order: Vec::new(),
        result_steps: Vec::new(),
        rows_of: None,
        limit: None,
        ..plan
    }
}
