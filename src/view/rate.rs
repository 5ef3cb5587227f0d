//! The rates that clients can choose. There are few, so that clients with similar rates share deltas.

/// The interval of deltas, ms, rounded up to one of `RATES`; 0: without delay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rate(u32);

/// The possible intervals, ms.
const RATES: [u32; 10] = [50, 100, 250, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000];

impl Rate {
    /// The smallest rate of at least this many ms, or else the largest.
    pub fn rounded(ms: u64) -> Rate {
        if ms == 0 {
            return Rate(0);
        }
        let rate = RATES.iter().find(|&&rate| u64::from(rate) >= ms);
        Rate(*rate.unwrap_or(&RATES[RATES.len() - 1]))
    }

    pub fn millis(self) -> u32 {
        self.0
    }

    pub fn is_limited(self) -> bool {
        self.0 > 0
    }

    /// Whether a tick is in the interval after `from` up to `to`, ms since the epoch.
    pub fn ticks_between(self, from: i64, to: i64) -> bool {
        self.0 > 0 && to.div_euclid(i64::from(self.0)) > from.div_euclid(i64::from(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_rounded_up() {
        for (asked, rate) in [(0, 0), (1, 50), (50, 50), (51, 100), (250, 250), (2_001, 5_000), (3_600_000, 60_000)] {
            assert_eq!(Rate::rounded(asked).millis(), rate, "{asked}");
        }
        assert!(Rate::rounded(100).ticks_between(199, 200) && !Rate::rounded(100).ticks_between(200, 299));
    }
}
