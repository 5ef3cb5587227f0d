//! One timer for all rules and trials: what is to be done, and when.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use super::{Inner, Service, locked, millis};
use crate::engine::PATROL;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Task {
    /// a rule's schedule, or its restart after a failure
    Schedule,
    /// a rule's state is to be stored
    Checkpoint,
    /// a trial's time is over
    Trial,
}

/// The due times, ms since the epoch, of rules and trials.
#[derive(Default)]
pub(super) struct Timer {
    due: Mutex<BTreeSet<(i64, Task, String)>>,
    changed: Notify,
}

impl Timer {
    /// Looks at a rule at this time; `None`: never. An outdated time does no harm: the rule's schedule is evaluated again
    /// then.
    pub fn note(&self, id: &str, at: Option<i64>) {
        if let Some(at) = at {
            self.insert(at, Task::Schedule, id);
        }
    }

    /// Stores the state of a rule at this time.
    pub fn note_checkpoint(&self, id: &str, at: i64) {
        self.insert(at, Task::Checkpoint, id);
    }

    /// Undoes [`Timer::note_checkpoint`].
    pub fn forget_checkpoint(&self, id: &str, at: i64) {
        locked(&self.due).remove(&(at, Task::Checkpoint, id.to_owned()));
    }

    /// Ends a trial at this time, unless it is forgotten before.
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
        locked(&self.due).len()
    }

    /// Takes a task that is due, or returns how long to wait for the next.
    fn next(&self, now: i64) -> Result<(Task, String), Duration> {
        let mut due = locked(&self.due);
        match due.first() {
            Some((at, ..)) if *at <= now => due.pop_first().map(|(_, task, id)| (task, id)).ok_or(PATROL),
            Some((at, ..)) => Err(Duration::from_millis(at.abs_diff(now)).min(PATROL)),
            None => Err(PATROL),
        }
    }
}

/// Runs the timer of a service until the service is dropped or has stopped.
pub(super) fn keep(service: &Service) {
    let (timer, inner) = (service.inner.timer.clone(), Arc::downgrade(&service.inner));
    tokio::spawn(async move {
        while patrol(&timer, &inner).await {
            loop {
                match timer.next(millis(SystemTime::now())) {
                    Ok((task, id)) => {
                        let Some(inner) = inner.upgrade() else { return };
                        // One rule that takes long does not hold up the others.
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

/// Gives memory back where it is short, ends the rules that have failed, and retries connections that could not be opened. False once the service has stopped.
async fn patrol(timer: &Timer, inner: &Weak<Inner>) -> bool {
    let Some(inner) = inner.upgrade() else { return false };
    let service = Service { inner };
    let failed = match service.inner.engine.read().await.as_ref() {
        Some(engine) => {
            engine.relieve_memory().await;
            engine.failed()
        }
        None => return false,
    };
    for id in failed {
        service.mark_failed(&id).await;
    }
    service.hold_missing().await;
    // Tasks that have become due meanwhile need not wait for a change.
    timer.changed.notify_one();
    true
}
