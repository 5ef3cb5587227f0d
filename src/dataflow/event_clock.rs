//! Decides which clock the times of a stream's rows follow: the system's, or the data's own.
//!
//! In event time, a single row far ahead of the clock has a wrong timestamp, but a stream that has no other rows is
//! simulated. A stranger who is the first to send must not decide this for others, so it takes a while ([`PROOF`]) in
//! which no row near or behind the clock arrives; such a row ends it. Rows near the clock that come later still show that
//! the decision was wrong ([`Verdict::Misled`]). The threads that read a stream share this decision for each rule, so
//! they decide as one thread would.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU32, Ordering};

/// So many rows of a stream must be far ahead of the clock, and no others may come, for its data to count as simulated.
const FIRST_ROWS: u32 = 3;

/// And so long this must go on, ms.
pub const PROOF: i64 = 5_000;

/// So many rows wait meanwhile; further ones are dropped.
const HELD: u32 = 16_384;

/// So many rows near the clock show that the data is not simulated.
const NEAR_ROWS: u8 = 3;

/// Not decided: all rows so far are far ahead of the clock.
const OPEN: u8 = 0;

/// The system's clock: a row far ahead of it has a wrong timestamp.
const WALL: u8 = 1;

/// The data's own clock. Each row near the system's clock adds one.
const DATA: u8 = 2;

/// The data's own clock, wrongly.
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

#[derive(Debug)]
struct EventClock {
    known: AtomicU8,
    /// rows far ahead of the clock while nothing was decided
    held: AtomicU32,
    /// the system's time when the first of them arrived; `i64::MIN`: none has
    since: AtomicI64,
}

impl EventClocks {
    /// The clocks of this many inputs, not decided yet.
    pub fn new(inputs: usize) -> EventClocks {
        let open =
            || EventClock { known: AtomicU8::new(OPEN), held: AtomicU32::new(0), since: AtomicI64::new(i64::MIN) };
        EventClocks((0..inputs).map(|_| open()).collect())
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
        let mut known = clock.known.load(Ordering::Relaxed);
        loop {
            let (verdict, next) = match (known, ahead) {
                (WALL, true) => (Verdict::Drop, WALL),
                (OPEN | WALL, false) => (Verdict::Accept, WALL),
                (OPEN, true) => match clock.hold(now) {
                    Verdict::Simulated => (Verdict::Simulated, DATA),
                    held => (held, OPEN),
                },
                (MISLED.., _) => (Verdict::Accept, known),
                (before, _) if near && before + 1 == MISLED => (Verdict::Misled, MISLED),
                (before, _) => (Verdict::Accept, before + u8::from(near)),
            };
            if next == known {
                return verdict;
            }
            match clock.known.compare_exchange_weak(known, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return verdict,
                Err(other) => known = other,
            }
        }
    }
}

impl EventClock {
    /// What happens to a row far ahead of the clock while nothing is decided.
    fn hold(&self, now: i64) -> Verdict {
        let since = self.since.compare_exchange(i64::MIN, now, Ordering::Relaxed, Ordering::Relaxed);
        let since = since.map_or_else(|since| since, |_| now);
        let held = self.held.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        match (held >= FIRST_ROWS && now.saturating_sub(since) >= PROOF, held > HELD) {
            (true, _) => Verdict::Simulated,
            (false, true) => Verdict::Drop,
            (false, false) => Verdict::Hold,
        }
    }
}

#[cfg(test)]
mod tests {
    use Verdict::{Accept, Drop, Hold, Misled, Simulated};

    use super::*;

    const NOW: i64 = 1_000_000;

    /// Rows with these times, so long after the first one, ms.
    fn judge(rows: &[(i64, i64)]) -> Vec<Verdict> {
        let clocks = EventClocks::new(1);
        // As if each row arrived on another thread.
        rows.iter().map(|(after, time)| clocks.clone().judge(0, *time, NOW + after, 1000)).collect()
    }

    #[test]
    fn one_row_far_ahead_is_wrong() {
        let rows = [NOW + 500, 9_000_000, NOW + 1000, NOW + 1001];
        assert_eq!(judge(&rows.map(|time| (0, time))), [Accept, Drop, Accept, Drop]);
        assert_eq!(judge(&[(0, 9_000_000), (0, NOW), (PROOF, 9_000_001)]), [Hold, Accept, Drop]);
        // Old data is never ahead of the clock.
        let old = [1, 500_000, 999_999, 2_000_000];
        assert_eq!(judge(&old.map(|time| (0, time))), [Accept, Accept, Accept, Drop]);
    }

    #[test]
    fn a_stream_without_other_rows_is_simulated_after_a_while() {
        let rows = [(0, 9_000_000), (1, 9_000_001), (PROOF - 1, 8_000_000), (PROOF, 9_999_999), (PROOF, 5)];
        assert_eq!(judge(&rows), [Hold, Hold, Hold, Simulated, Accept]);
        assert_eq!(judge(&[(0, 9_000_000), (PROOF, 9_000_001), (PROOF, 9_000_002)]), [Hold, Hold, Simulated]);
    }

    #[test]
    fn whoever_comes_first_does_not_decide_for_those_who_follow() {
        let mut rows = vec![(0, 9_000_000); 50];
        rows.extend([(PROOF - 1, NOW + PROOF), (2 * PROOF, 9_000_000), (2 * PROOF, NOW + PROOF)]);
        assert_eq!(judge(&rows)[49..], [Hold, Accept, Drop, Accept]);
    }

    #[test]
    fn rows_near_the_clock_show_that_the_data_was_not_simulated() {
        let mut rows = vec![(0, 9_000_000), (0, 9_000_000), (PROOF, 9_000_000)];
        // A row far behind the clock shows nothing.
        let near = (PROOF, NOW + PROOF);
        rows.extend([near, (PROOF, 5), (PROOF, 9_000_000), near, near, near]);
        assert_eq!(judge(&rows)[2..], [Simulated, Accept, Accept, Accept, Accept, Misled, Accept]);
    }

    #[test]
    fn rows_that_wait_for_a_decision_are_bounded() {
        let verdicts = judge(&vec![(0, 9_000_000); HELD as usize + 2]);
        assert_eq!(verdicts[HELD as usize - 1..], [Hold, Drop, Drop]);
    }
}
