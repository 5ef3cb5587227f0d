//! Sends rows to the workers that have the state of their keys.
//!
//! It replaces the queue that a rule has if its state is on one thread. Rows of this thread's own keys go into its
//! queue, all others are sent (`forward`). What advances the watermark goes to every owner, with or without rows: each
//! owner decides which of its rows are late and when its time has come.

use std::rc::Rc;
use std::time::Instant;

use crate::value::Value;

use super::division::Division;
use super::event_clock::{EventClocks, LateBy, Verdict};
use super::forward::Forward;
use super::queue::RuleQueue;

/// Sends the rows of a rule to the owners of their keys.
pub struct Exchange {
    division: Division,
    /// For each input, the slots that make the key.
    keys: Vec<Vec<usize>>,
    clocks: EventClocks,
    /// By owner.
    lanes: Box<[Lane]>,
}

/// How rows reach one owner.
pub enum Lane {
    /// The owner is this worker.
    Here(Rc<RuleQueue>),
    /// The owner is another worker.
    Away(Rc<Forward>),
}

impl Exchange {
    /// `keys`: for each input, the slots that make the key. `lanes`: one for each owner, in their order.
    pub fn new(division: Division, keys: Vec<Vec<usize>>, clocks: EventClocks, lanes: Vec<Lane>) -> Exchange {
        Exchange { division, keys, clocks, lanes: lanes.into() }
    }

    /// What happens to a row; see [`EventClocks::judge`].
    pub fn judge(&self, input: u16, time: i64, now: i64, skew: i64) -> Verdict {
        self.clocks.judge(input, time, now, skew)
    }

    /// Advances the watermark by a row that arrived at `now`, whether the row passes or not.
    pub fn advance(&self, input: u16, time: i64, tolerance: i64, now: i64) {
        for lane in &self.lanes {
            match lane {
                Lane::Here(queue) => queue.move_on(input, time, tolerance, now),
                // A thread that does not accumulate rows does not decide which are late.
                Lane::Away(forward) => _ = forward.advance(input, time, tolerance),
            }
        }
    }

    /// Adds a row that has passed the scan at `now`, taking its slots.
    ///
    /// # Errors
    /// The row is late. Rows of other workers' keys are judged there.
    pub fn push(
        &self,
        input: u16,
        now: i64,
        time: i64,
        received: Instant,
        slots: &mut [Value],
        event_time: bool,
    ) -> Result<(), LateBy> {
        let owner = self.division.owner_of(slots, &self.keys[usize::from(input)]);
        match &self.lanes[owner] {
            Lane::Here(queue) => {
                if event_time {
                    queue.expect_in_time(input, time)?;
                }
                queue.push(input, time, received, slots);
            }
            Lane::Away(forward) => forward.push(input, now, time, received, slots),
        }
        Ok(())
    }

    /// Hands over what the scan of an input has found up to `now`. `behind` says whether more messages wait for the
    /// scan.
    pub fn hand_over(&self, input: u16, now: i64, behind: bool) {
        for lane in &self.lanes {
            match lane {
                Lane::Here(queue) => {
                    queue.set_behind(input, behind);
                    queue.hand_over();
                }
                Lane::Away(forward) => forward.hand_over(input, now, behind),
            }
        }
    }

    /// Whether an owner has reached its limit of rows that wait or are on their way: then the streams should wait.
    pub fn is_full(&self) -> bool {
        self.lanes.iter().any(|lane| match lane {
            Lane::Here(queue) => queue.is_full(),
            Lane::Away(forward) => forward.is_full(),
        })
    }

    /// Whether there are unsent rows.
    pub fn holds_rows(&self) -> bool {
        self.lanes.iter().any(|lane| matches!(lane, Lane::Away(forward) if forward.holds_rows()))
    }
}
