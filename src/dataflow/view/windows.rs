//! The windows of a message.

use jiff::tz::TimeZone;
use smallvec::SmallVec;

use crate::dataflow::window::gcd;
use crate::plan::physical::WindowSpec;
use crate::time::Alignment;

/// Windows of one length that start at equal distances, like those of rules.
pub struct Hops {
    hops: Alignment,
    slices: Alignment,
    length: u64,
    is_tumbling: bool,
}

impl Hops {
    /// `None` for sessions.
    pub fn new(window: &WindowSpec, zone: &TimeZone) -> Option<Hops> {
        let WindowSpec::Hopping { unit, length, hop } = window else { return None };
        Some(Hops {
            hops: Alignment::new(*unit, *hop, zone.clone()),
            slices: Alignment::new(*unit, gcd(*length, *hop), zone.clone()),
            length: *length,
            is_tumbling: length == hop,
        })
    }

    /// Start and end of each window that contains a time.
    pub fn of(&self, time: i64) -> SmallVec<[(i64, i64); 2]> {
        let mut windows = SmallVec::new();
        if self.is_tumbling {
            windows.push(self.slices.bounds(time));
            return windows;
        }
        let mut end = self.hops.bounds(time).1;
        loop {
            let start = self.start(end);
            if start > time {
                return windows;
            }
            windows.push((start, end));
            let next = self.hops.bounds(end).1;
            if next <= end {
                return windows;
            }
            end = next;
        }
    }

    fn start(&self, end: i64) -> i64 {
        let start = self.hops.before(end, self.length);
        let (first, next) = self.slices.bounds(start);
        if first == start { start } else { next.min(end) }
    }
}
