//! How rows of a view leave that no message removes: by their age (EXPIRE) and by their number (MAX_ROWS).
//!
//! Rows of single messages leave in [`Outgoing`](super::outgoing::Outgoing), which has their order; here are the groups.

use crate::dataflow::feed::Why;
use crate::plan::view::ViewKind;

use super::ViewOperator;
use super::outgoing::EXPIRED_AT_ONCE;

impl ViewOperator {
    /// Removes groups that got no messages for too long, and groups of windows that ended too long ago, up to
    /// [`EXPIRED_AT_ONCE`].
    pub(super) fn expire(&mut self, now: i64) {
        self.expires_more = false;
        let Some(expire) = self.plan.expire else { return };
        let windows = matches!(self.plan.kind, ViewKind::Windows);
        let now = if windows { self.reached } else { now };
        let most = self.counts.expired + EXPIRED_AT_ONCE as u64;
        while let Some((since, number)) = self.first_to_expire()
            && since.saturating_add(expire) <= now
        {
            if self.counts.expired == most {
                self.expires_more = true;
                break;
            }
            self.counts.expired += 1;
            self.forget(number, Why::Expired);
        }
        if windows && let Some(sessions) = &mut self.sessions {
            sessions.sweep(now);
        }
    }

    /// The group that expires first, after the time from which its age counts.
    fn first_to_expire(&self) -> Option<(i64, u32)> {
        match self.plan.kind {
            ViewKind::Windows => self.ends.first().copied(),
            _ => self.groups.oldest().map(|(number, touched)| (touched, number)),
        }
    }

    /// Removes the groups with the oldest last message beyond MAX_ROWS.
    pub(super) fn evict(&mut self) {
        while self.groups.len() > self.plan.max_rows
            && let Some((number, _)) = self.groups.oldest()
        {
            self.counts.evicted += 1;
            self.forget(number, Why::Evicted);
        }
    }

    /// Requests a wake-up for the next row that expires by the clock.
    pub(super) fn wake(&mut self) {
        let Some(expire) = self.plan.expire else { return };
        let next = match self.plan.kind {
            ViewKind::Newest { .. } => self.out.touched_first(),
            _ => self.first_to_expire().map(|(since, _)| since),
        };
        let now = self.clock.now();
        // Only one timer at a time, so that the heap does not grow with the rows.
        if let Some(next) = next.map(|at| at.saturating_add(expire))
            && self.wakes.is_none_or(|wakes| wakes <= now || next < wakes)
        {
            self.alarm.at(next);
            self.wakes = Some(next);
        }
    }
}
