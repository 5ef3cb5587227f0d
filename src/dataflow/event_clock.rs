//! Decides which clock the times of a stream's rows follow: the system's, or the data's own.
//!
//! In event time, a single row far ahead of the clock has a wrong timestamp, but a stream that has no other rows is
//! simulated: its first rows decide. Whoever sends first may be a stranger, so rows near the clock that come later show
//! that the decision was wrong ([`Verdict::Misled`]). The threads that read a stream share this decision for each rule,
//! so they decide as one thread would.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// If this many first rows of a stream are all far ahead of the clock, its data counts as simulated.
const FIRST_ROWS: u8 = 3;

/// This many rows near the clock show that the data is not simulated.
const NEAR_ROWS: u8 = 3;

/// Below `FIRST_ROWS`, nothing is decided yet: the value counts the rows so far, all far ahead of the clock.
const OPEN: u8 = 0;

/// The system's clock: a row far ahead of it has a wrong timestamp.
const WALL: u8 = FIRST_ROWS;

/// The data's own clock. Each row near the system's clock adds one.
const DATA: u8 = WALL + 1;

/// The data's own clock was chosen, and later rows show that this was wrong.
const MISLED: u8 = DATA + NEAR_ROWS;

/// What happens to a row in event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It advances the watermark.
    Accept,
    /// It advances the watermark, and from now on the stream's times are not compared with the clock, because all rows
    /// so far were far ahead of it.
    Simulated,
    /// The same as `Accept`; but the stream was wrongly taken for simulated.
    Misled,
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
pub struct EventClocks(Arc<[EventClock]>);

/// What is known of an input: `OPEN` and a number of rows, `WALL`, or `DATA` and a number of rows.
type EventClock = AtomicU8;

impl EventClocks {
    /// The clocks of this many inputs, not decided yet.
    pub fn new(inputs: usize) -> EventClocks {
        EventClocks((0..inputs).map(|_| EventClock::new(OPEN)).collect())
    }

    /// The number of the rule's inputs.
    pub fn inputs(&self) -> usize {
        self.0.len()
    }

    /// What happens to a row with this time, if rows more than `skew` ms ahead of the clock are wrong.
    pub fn judge(&self, input: u16, time: i64, now: i64, skew: i64) -> Verdict {
        let clock = &self.0[usize::from(input)];
        let ahead = time > now.saturating_add(skew);
        let near = !ahead && time >= now.saturating_sub(skew);
        let mut known = clock.load(Ordering::Relaxed);
        loop {
            let (verdict, next) = match (known, ahead) {
                (WALL, true) => (Verdict::Drop, WALL),
                (OPEN..=WALL, false) => (Verdict::Accept, WALL),
                (OPEN..WALL, true) if known + 1 == FIRST_ROWS => (Verdict::Simulated, DATA),
                (OPEN..WALL, true) => (Verdict::Hold, known + 1),
                (MISLED.., _) => (Verdict::Accept, known),
                (before, _) if near && before + 1 == MISLED => (Verdict::Misled, MISLED),
                (before, _) => (Verdict::Accept, before + u8::from(near)),
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
    use Verdict::{Accept, Drop, Hold, Misled, Simulated};

    use super::*;

    const NOW: i64 = 1_000_000;

    fn judge(times: &[i64]) -> Vec<Verdict> {
        let clocks = EventClocks::new(1);
        // As if each row arrived on another thread.
        times.iter().map(|time| clocks.clone().judge(0, *time, NOW, 1000)).collect()
    }

    #[test]
    fn one_row_far_ahead_is_wrong() {
        assert_eq!(judge(&[NOW + 500, 9_000_000, NOW + 1000, NOW + 1001]), [Accept, Drop, Accept, Drop]);
        assert_eq!(judge(&[9_000_000, 9_000_001, NOW, 9_000_002]), [Hold, Hold, Accept, Drop]);
        // Old data is never ahead of the clock.
        assert_eq!(judge(&[1, 500_000, 999_999, 2_000_000]), [Accept, Accept, Accept, Drop]);
    }

    #[test]
    fn a_stream_whose_first_rows_are_far_ahead_is_simulated() {
        let times = [9_000_000, 8_000_000, 9_000_001, 9_999_999, 5];
        assert_eq!(judge(&times), [Hold, Hold, Simulated, Accept, Accept]);
    }

    #[test]
    fn rows_near_the_clock_show_that_the_data_was_not_simulated() {
        // A row far behind the clock shows nothing.
        let times = [9_000_000, 9_000_000, 9_000_000, NOW, 5, 9_000_000, NOW, NOW + 1, NOW];
        let verdicts = [Hold, Hold, Simulated, Accept, Accept, Accept, Accept, Misled, Accept];
        assert_eq!(judge(&times), verdicts);
    }
}
