//! Decides which clock the times of a stream's rows follow: the system's, or the data's own.
//!
//! In event time, a single row far ahead of the clock has a wrong timestamp, but a stream that begins with such rows is
//! simulated. The threads that read a stream share this decision for each rule, so they decide as one thread would.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// The first rows of a stream that must all be far ahead of the clock for its data to count as simulated.
const FIRST_ROWS: u8 = 3;

/// The system's clock: a row far ahead of it has a wrong timestamp.
const WALL: u8 = u8::MAX - 1;

/// The data's own clock.
const DATA: u8 = u8::MAX;

/// What happens to a row in event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It advances the watermark.
    Accept,
    /// It advances the watermark, and from now on the stream's times are not compared with the clock, because its first
    /// rows were all far ahead of it.
    Simulated,
    /// It waits for its time. It does not advance the watermark, because its timestamp may be wrong.
    Hold,
    /// It is too far ahead of the clock.
    Drop,
}

impl Verdict {
    /// What happens to a row of a stream that follows the system's clock, whatever its first rows are.
    pub fn by_wall(time: i64, now: i64, skew: i64) -> Verdict {
        if time > now.saturating_add(skew) { Verdict::Drop } else { Verdict::Accept }
    }
}

/// A row is late, by this many ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LateBy(pub i64);

/// The clocks of a rule's inputs. Clones share them.
#[derive(Clone, Debug)]
pub struct EventClocks(Arc<[AtomicU8]>);

impl EventClocks {
    /// The clocks of this many inputs, not decided yet.
    pub fn new(inputs: usize) -> EventClocks {
        // A number below `FIRST_ROWS`: this many rows have arrived, all far ahead of the clock.
        EventClocks((0..inputs).map(|_| AtomicU8::new(0)).collect())
    }

    /// The number of the rule's inputs.
    pub fn inputs(&self) -> usize {
        self.0.len()
    }

    /// What happens to a row with this time, if rows more than `skew` ms ahead of the clock are wrong.
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
            // As if each row arrived on another thread.
            rows.iter().map(|time| clocks.clone().judge(0, *time, 1_000_000, 1000)).collect()
        };
        use Verdict::{Accept, Drop, Hold, Simulated};
        assert_eq!(judge(&[1_000_500, 9_000_000, 1_001_000, 1_001_001]), [Accept, Drop, Accept, Drop]);
        assert_eq!(judge(&[9_000_000, 1_000_000, 9_000_001]), [Hold, Accept, Drop]);
        assert_eq!(judge(&[9_000_000, 9_000_001, 8_000_000, 9_999_999, 5]), [Hold, Hold, Simulated, Accept, Accept]);
        // Old data is never ahead of the clock.
        assert_eq!(judge(&[1, 500_000, 999_999, 2_000_000]), [Accept, Accept, Accept, Drop]);
    }
}
