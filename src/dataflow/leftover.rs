//! How many rows the rules of a data thread had left to process after their last turns: what is known of a thread that no
//! longer answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The rows of all rules of a thread. Clones share the count.
#[derive(Clone, Debug, Default)]
pub struct Leftover(Arc<AtomicU64>);

/// The rows of one rule, which leave the count with it.
#[derive(Debug)]
pub struct RuleLeftover {
    thread: Leftover,
    rows: u64,
}

impl Leftover {
    pub fn rows(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// For a rule that begins.
    pub fn of_rule(&self) -> RuleLeftover {
        RuleLeftover { thread: self.clone(), rows: 0 }
    }
}

impl RuleLeftover {
    /// Sets the number of rows that the rule has left after a turn.
    pub fn set(&mut self, rows: u64) {
        if rows != self.rows {
            self.thread.0.fetch_add(rows.wrapping_sub(self.rows), Ordering::Relaxed);
            self.rows = rows;
        }
    }
}

impl Drop for RuleLeftover {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_of_a_rule_leave_with_it() {
        let thread = Leftover::default();
        let (mut some, mut more) = (thread.of_rule(), thread.of_rule());
        some.set(1_000);
        more.set(900);
        assert_eq!(thread.rows(), 1_900);
        some.set(10);
        assert_eq!(thread.rows(), 910);
        drop(more);
        assert_eq!(thread.rows(), 10);
    }
}
