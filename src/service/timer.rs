//! One timer for all rules and trials.
//!
//! Schedules follow the time of day, and are evaluated again if the system's clock steps. Everything else uses the
//! monotonic clock, so a step of the system's clock does not change how long it waits.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use super::views::MEMORY_WAS_SHORT;
use super::{Inner, Service, locked};
use crate::engine::{PATROL, Relieved, view_of};
use crate::time::{Anchor, Clock, count_step};

/// The kinds of tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Task {
    /// a rule's schedule, or its restart after a failure
    Schedule,
    /// storing a rule's state
    Checkpoint,
    /// the end of a trial
    Trial,
}

/// The due times of rules and trials.
#[derive(Default)]
pub(super) struct Timer {
    /// rules with schedules, by the time of day, ms since the epoch
    by_clock: Mutex<BTreeSet<(i64, String)>>,
    /// everything else, by the monotonic clock, ms
    due: Mutex<BTreeSet<(i64, Task, String)>>,
    changed: Notify,
}

impl Timer {
    /// Checks a rule's schedule at this time of day; `None`: never. An outdated time does no harm, since the schedule
    /// is evaluated again then.
    pub fn note(&self, id: &str, at: Option<i64>) {
        if let Some(at) = at {
            locked(&self.by_clock).insert((at, id.to_owned()));
            self.changed.notify_one();
        }
    }

    /// Restarts a failed rule at this time of the monotonic clock.
    pub fn note_retry(&self, id: &str, at: i64) {
        self.insert(at, Task::Schedule, id);
    }

    /// Stores a rule's state at this time of the monotonic clock.
    pub fn note_checkpoint(&self, id: &str, at: i64) {
        self.insert(at, Task::Checkpoint, id);
    }

    /// Undoes [`Timer::note_checkpoint`].
    pub fn forget_checkpoint(&self, id: &str, at: i64) {
        locked(&self.due).remove(&(at, Task::Checkpoint, id.to_owned()));
    }

    /// Ends a trial at this time of the monotonic clock, unless it is cancelled before.
    pub fn note_trial(&self, id: &str, at: i64) {
        self.insert(at, Task::Trial, id);
    }

    /// Undoes [`Timer::note_trial`].
    pub fn forget_trial(&self, id: &str, at: i64) {
        locked(&self.due).remove(&(at, Task::Trial, id.to_owned()));
    }

    fn insert(&self, at: i64, task: Task, id: &str) {
        locked(&self.due).insert((at, task, id.to_owned()));
        self.changed.notify_one();
    }

    /// The number of due times.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        locked(&self.due).len() + locked(&self.by_clock).len()
    }

    /// Takes a due task, or returns how long to wait for the next one.
    fn next(&self, clock: &Clock) -> Result<(Task, String), Duration> {
        let wait =
            |at: Option<i64>, now: i64| at.map_or(PATROL, |at| Duration::from_millis(at.abs_diff(now)).min(PATROL));
        let (now, mut by_clock) = (clock.now(), locked(&self.by_clock));
        let first = by_clock.first().map(|(at, _)| *at);
        if first.is_some_and(|at| at <= now)
            && let Some((_, id)) = by_clock.pop_first()
        {
            return Ok((Task::Schedule, id));
        }
        let schedule = wait(first, now);
        let (now, mut due) = (clock.monotonic(), locked(&self.due));
        let first = due.first().map(|(at, ..)| *at);
        if first.is_some_and(|at| at <= now)
            && let Some((_, task, id)) = due.pop_first()
        {
            return Ok((task, id));
        }
        Err(schedule.min(wait(first, now)))
    }
}

/// Runs the timer of a service until the service stops or is dropped.
pub(super) fn keep(service: &Service) {
    let (timer, inner) = (service.inner.timer.clone(), Arc::downgrade(&service.inner));
    let clock = service.inner.clock.clone();
    let mut anchor = Anchor::new(&clock);
    tokio::spawn(async move {
        while patrol(&timer, &inner).await {
            loop {
                if let Some(by) = anchor.stepped(&clock) {
                    let Some(inner) = inner.upgrade() else { return };
                    if count_step(clock.now(), clock.monotonic()) {
                        tracing::warn!(by_ms = by, "the system clock has jumped; schedules are recalculated");
                    }
                    let now = clock.now();
                    (Service { inner }).scheduled_rules().iter().for_each(|id| timer.note(id, Some(now)));
                }
                match timer.next(&clock) {
                    Ok((task, id)) => {
                        let Some(inner) = inner.upgrade() else { return };
                        // A rule that takes long does not delay the others.
                        tokio::spawn(async move {
                            let service = Service { inner };
                            match task {
                                Task::Schedule => service.keep_schedule(&id).await,
                                Task::Checkpoint => service.checkpoint(&id).await,
                                Task::Trial => service.end_old_trial(&id).await,
                            }
                        });
                    }
                    Err(wait) => {
                        let changed = tokio::time::timeout(wait, timer.changed.notified()).await;
                        if changed.is_err() {
                            break;
                        }
                    }
                }
            }
        }
    });
}

/// Relieves memory if it is short, ends rules that have failed, restarts rules whose streams were wrongly taken for
/// simulated data, and retries connections that could not be opened. False after the service has stopped.
async fn patrol(timer: &Timer, inner: &Weak<Inner>) -> bool {
    let Some(inner) = inner.upgrade() else { return false };
    let service = Service { inner };
    let (relieved, failed, misled) = match service.inner.engine.read().await.as_ref() {
        Some(engine) => (engine.relieve_memory().await, engine.failed(), engine.misled()),
        None => return false,
    };
    match relieved {
        Some(Relieved::View(name, number)) => {
            // This waits while views change. If the service ends, the view ends with it, so the shutdown must not wait.
            let service = service.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = service.inner.shutdown.cancelled() => {}
                    () = service.end_for_memory(&name, number) => {}
                }
            });
        }
        Some(Relieved::Filling(name)) => service.note_problem(&name, MEMORY_WAS_SHORT),
        Some(Relieved::Rule(_) | Relieved::Table(_)) | None => {}
    }
    for (id, number) in failed {
        service.mark_failed(&id, number).await;
    }
    for id in misled {
        if let Some(view) = view_of(&id) {
            tracing::warn!(
                view,
                "its watermark is far ahead of the clock, so its rows are late: create it again, with \
                 EVENT_CLOCK=\"wall\" in the stream's options"
            );
            continue;
        }
        match service.reset_rule(&id).await {
            Ok(()) => {
                tracing::warn!(rule = id, "it is restarted with empty state: its watermark was far ahead of the clock")
            }
            Err(error) => {
                tracing::warn!(rule = id, "its watermark is far ahead of the clock, and it cannot restart: {error}")
            }
        }
    }
    service.hold_missing().await;
    // Tasks that have become due in the meantime run without waiting for a change.
    timer.changed.notify_one();
    true
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    #[test]
    fn waits_do_not_follow_a_step_of_the_clock_and_schedules_do() {
        const NOON: i64 = 1_700_000_000_000;
        let (wall, monotonic) = (Arc::new(AtomicI64::new(NOON)), Arc::new(AtomicI64::new(5)));
        let clock = Clock::Stepping { wall: wall.clone(), monotonic: monotonic.clone() };
        let (timer, mut anchor) = (Timer::default(), Anchor::new(&clock));
        timer.note_checkpoint("r", clock.monotonic() + 10_000);
        timer.note("daily", Some(NOON + 7_200_000));
        wall.fetch_sub(900, Ordering::Relaxed);
        assert_eq!(anchor.stepped(&clock), None, "a correction is not a step");
        wall.fetch_sub(3_600_000, Ordering::Relaxed);
        assert_eq!(anchor.stepped(&clock), Some(-3_600_000));
        assert_eq!(timer.next(&clock), Err(PATROL));
        monotonic.fetch_add(9_990, Ordering::Relaxed);
        assert_eq!(timer.next(&clock), Err(Duration::from_millis(10)));
        monotonic.fetch_add(10, Ordering::Relaxed);
        assert_eq!(timer.next(&clock), Ok((Task::Checkpoint, "r".to_owned())));
        wall.store(NOON + 7_200_000, Ordering::Relaxed);
        assert_eq!(timer.next(&clock), Ok((Task::Schedule, "daily".to_owned())));
    }
}
