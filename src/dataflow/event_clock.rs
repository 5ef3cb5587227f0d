//! Which clock the times of a stream's rows follow: the system's, or one of the data's own.
//!
//! In event time a single row far ahead of the clock is wrong, but a stream that begins with such rows is simulated. The
//! threads that read a stream share this state for each rule, so they decide as one thread would.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// The first rows of a stream that must all be far ahead of the clock for its data to count as simulated.
const FIRST_ROWS: u8 = 3;

/// The worker's: a row far ahead of it is wrong.
const WALL: u8 = u8::MAX - 1;

/// The data's own.
const DATA: u8 = u8::MAX;

/// What happens to a row in event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The watermark follows it.
    Accept,
    /// The watermark follows it, and from now on the stream's times are taken as they are: its first rows were all far
    /// ahead of the clock.
    Simulated,
    /// It waits for its time. The watermark does not follow it, since it may be wrong.
    Hold,
    /// It is too far ahead of the clock.
    Drop,
}

/// A row is late, by so many ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LateBy(pub i64);

/// The clocks of a rule's inputs. Clones share them.
#[derive(Clone, Debug)]
pub struct EventClocks(Arc<[AtomicU8]>);

impl EventClocks {
    /// Those of so many inputs, of which nothing is known yet.
    pub fn new(inputs: usize) -> EventClocks {
        // A number below `FIRST_ROWS`: this many rows came, all of them far ahead of the clock.
        EventClocks((0..inputs).map(|_| AtomicU8::new(0)).collect())
    }

    /// How many inputs the rule has.
    pub fn inputs(&self) -> usize {
        self.0.len()
    }

    /// What happens to a row with this time, if rows further ahead of the clock than `skew` ms are wrong.
    pub fn judge(&self, input: u16, time: i64, now: i64, skew: i64) -> Verdict {
        let clock = &self.0[usize::from(input)];
        let ahead = time > now.saturating_add(skew);
        let mut known = clock.load(Ordering::Relaxed);
        loop {
            let (verdict, next) = match (known, ahead) {
                (DATA, _) => (Verdict::Accept, DATA),
                (WALL, true) => (Verdict::Drop, WALL),
                (_, false) => (Verdict::Accept, WALL),
                (before, true) if before + 1 >= FIRST_ROWS => (Verdict::Simulated, DATA),
                (before, true) => (Verdict::Hold, before + 1),
            };
            if next == known {
                return verdict;
            }
            match clock.compare_exchange_weak(known, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return verdict,
                Err(other) => known = other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_row_far_ahead_is_wrong_and_a_stream_that_begins_so_is_simulated() {
        let judge = |rows: &[i64]| -> Vec<Verdict> {
            let clocks = EventClocks::new(1);
            // As if each row came on another thread.
            rows.iter().map(|time| clocks.clone().judge(0, *time, 1_000_000, 1000)).collect()
        };
        use Verdict::{Accept, Drop, Hold, Simulated};
        assert_eq!(judge(&[1_000_500, 9_000_000, 1_001_000, 1_001_001]), [Accept, Drop, Accept, Drop]);
        assert_eq!(judge(&[9_000_000, 1_000_000, 9_000_001]), [Hold, Accept, Drop]);
        assert_eq!(judge(&[9_000_000, 9_000_001, 8_000_000, 9_999_999, 5]), [Hold, Hold, Simulated, Accept, Accept]);
        // Old data is never ahead.
        assert_eq!(judge(&[1, 500_000, 999_999, 2_000_000]), [Accept, Accept, Accept, Drop]);
    }
}
