//! One timer for all rules and trials: what is to be done, and when.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use super::{Inner, Service, locked, millis};

/// How often rules are looked at that may have failed, and how long a change of the clock can go unseen.
const PATROL: Duration = Duration::from_secs(1);

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Task {
    /// its schedule, and its restart after a failure
    Schedule,
    /// its state, which is to be kept
    Checkpoint,
    /// a trial whose time is over
    Trial,
}

/// Times, ms since the epoch, with the rules and trials that are to be looked at then.
#[derive(Default)]
pub(super) struct Timer {
    due: Mutex<BTreeSet<(i64, Task, String)>>,
    changed: Notify,
}

impl Timer {
    /// Looks at a rule at this time; `None`: never. A time that has become meaningless does no harm, since the rule's
    /// schedule is asked again then.
    pub fn note(&self, id: &str, at: Option<i64>) {
        if let Some(at) = at {
            self.insert(at, Task::Schedule, id);
        }
    }

    /// Keeps the state of a rule at this time.
    pub fn note_checkpoint(&self, id: &str, at: i64) {
        self.insert(at, Task::Checkpoint, id);
    }

    /// Takes back [`Timer::note_checkpoint`].
    pub fn forget_checkpoint(&self, id: &str, at: i64) {
        locked(&self.due).remove(&(at, Task::Checkpoint, id.to_owned()));
    }

    /// Ends a trial at this time, unless it is forgotten before.
    pub fn note_trial(&self, id: &str, at: i64) {
        self.insert(at, Task::Trial, id);
    }

    /// A trial was ended that was noted for this time.
    pub fn forget_trial(&self, id: &str, at: i64) {
        locked(&self.due).remove(&(at, Task::Trial, id.to_owned()));
    }

    fn insert(&self, at: i64, task: Task, id: &str) {
        locked(&self.due).insert((at, task, id.to_owned()));
        self.changed.notify_one();
    }

    /// How many times are noted.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        locked(&self.due).len()
    }

    /// Takes a rule or trial whose time has come; else says how long there is to wait.
    fn next(&self, now: i64) -> Result<(Task, String), Duration> {
        let mut due = locked(&self.due);
        match due.first() {
            Some((at, ..)) if *at <= now => due.pop_first().map(|(_, task, id)| (task, id)).ok_or(PATROL),
            Some((at, ..)) => Err(Duration::from_millis(at.abs_diff(now)).min(PATROL)),
            None => Err(PATROL),
        }
    }
}

/// Keeps the agenda of a service until nobody has the service any more, or it has stopped.
pub(super) fn keep(service: &Service) {
    let (agenda, inner) = (service.inner.agenda.clone(), Arc::downgrade(&service.inner));
    tokio::spawn(async move {
        while patrol(&agenda, &inner).await {
            loop {
                match agenda.next(millis(SystemTime::now())) {
                    Ok((task, id)) => {
                        let Some(inner) = inner.upgrade() else { return };
                        // A rule that is busy for long is not to hold up the others.
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
                        let changed = tokio::time::timeout(wait, agenda.changed.notified()).await;
                        if changed.is_err() {
                            break;
                        }
                    }
                }
            }
        }
    });
}

/// Ends the rules that have failed, and opens connections that could not be opened; false once the service has.
async fn patrol(agenda: &Timer, inner: &Weak<Inner>) -> bool {
    let Some(inner) = inner.upgrade() else { return false };
    let service = Service { inner };
    let failed = match service.inner.engine.read().await.as_ref() {
        Some(engine) => engine.failed(),
        None => return false,
    };
    for id in failed {
        service.mark_failed(&id).await;
    }
    service.hold_missing().await;
    // What has become due meanwhile is not to wait for a change.
    agenda.changed.notify_one();
    true
}
