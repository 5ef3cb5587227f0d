//! Work that goes on after its request was answered: imports of whole configurations.
//!
//! They run one after the other in the order in which they came, so that two never mix. Only so many wait at a time,
//! and of those that are done the last ones are remembered.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use super::error::ServiceError;
use super::{ImportSource, Service, locked, millis};

/// How many tasks are remembered at most.
const MOST: usize = 100;

/// How many tasks run or wait at most: each holds what it imports.
const WAITING: usize = 8;

/// How a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// it waits or runs
    Running,
    /// it has done all
    Finished,
    /// it could not do all
    Failed,
    /// it was told to end before its end
    Cancelled,
}

impl TaskState {
    /// The state's name in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            TaskState::Running => "running",
            TaskState::Finished => "finish",
            TaskState::Failed => "failed",
            TaskState::Cancelled => "cancelled",
        }
    }
}

/// A task.
#[derive(Clone, Debug)]
pub struct Task {
    /// its id
    pub id: String,
    /// how it stands
    pub state: TaskState,
    /// what could not be done
    pub message: String,
    /// when it was begun, ms since the epoch
    pub began: i64,
    /// when it ended, ms since the epoch; 0 before
    pub ended: i64,
    cancelled: Arc<AtomicBool>,
}

/// All that are remembered, the oldest first.
#[derive(Default)]
pub(super) struct Tasks {
    known: VecDeque<Task>,
    /// held by the one that runs
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Service {
    /// Begins an import, and does not wait for it; its id.
    ///
    /// # Errors
    /// [`ServiceError::Import`] if there is nothing to import, or too much waits already.
    pub async fn begin_import(&self, source: ImportSource, partial: bool) -> Result<String, ServiceError> {
        let text = source.text().await?;
        let cancelled = Arc::new(AtomicBool::new(false));
        let (id, turn) = {
            let mut tasks = locked(&self.inner.tasks);
            let running = tasks.known.iter().filter(|task| task.state == TaskState::Running).count();
            if running >= WAITING {
                return Err(ServiceError::Import(format!("{WAITING} imports are waiting already")));
            }
            // Fewer run than are remembered, so that one is done.
            while tasks.known.len() >= MOST {
                let done = tasks.known.iter().position(|task| task.state != TaskState::Running);
                let _ = done.and_then(|done| tasks.known.remove(done));
            }
            let began = millis(SystemTime::now());
            // Two imports of one second must not share an id.
            let mut number = began / 1000;
            while tasks.known.iter().any(|task| task.id == task_id(number)) {
                number += 1;
            }
            let id = task_id(number);
            let (state, cancelled) = (TaskState::Running, cancelled.clone());
            tasks.known.push_back(Task { id: id.clone(), state, message: String::new(), began, ended: 0, cancelled });
            (id, tasks.turn.clone())
        };
        let (service, task) = (self.clone(), id.clone());
        tokio::spawn(async move {
            let _alone = turn.lock().await;
            let imported = match cancelled.load(Ordering::Relaxed) {
                true => None,
                false => Some(service.import_unless(&text, partial, &cancelled).await),
            };
            let (state, message) = match imported {
                None => (TaskState::Cancelled, String::new()),
                Some(Err(error)) => (TaskState::Failed, error.to_string()),
                Some(Ok(_)) if cancelled.load(Ordering::Relaxed) => (TaskState::Cancelled, String::new()),
                Some(Ok(imported)) if imported.is_whole() => (TaskState::Finished, String::new()),
                Some(Ok(imported)) => (TaskState::Failed, serde_json::to_string(&imported.refused).unwrap_or_default()),
            };
            let mut tasks = locked(&service.inner.tasks);
            if let Some(task) = tasks.known.iter_mut().find(|known| known.id == task) {
                (task.state, task.message, task.ended) = (state, message, millis(SystemTime::now()));
            }
        });
        Ok(id)
    }

    /// How a task stands.
    ///
    /// # Errors
    /// [`ServiceError::NoTask`]
    pub fn task(&self, id: &str) -> Result<Task, ServiceError> {
        let tasks = locked(&self.inner.tasks);
        let found = tasks.known.iter().find(|task| task.id == id).cloned();
        found.ok_or_else(|| ServiceError::NoTask(id.chars().take(256).collect()))
    }

    /// Tells a task to end: one that waits does nothing, one that runs ends after the item at which it is. One that is
    /// done stays done.
    ///
    /// # Errors
    /// [`ServiceError::NoTask`]
    pub fn cancel_task(&self, id: &str) -> Result<(), ServiceError> {
        self.task(id)?.cancelled.store(true, Ordering::Relaxed);
        Ok(())
    }
}

fn task_id(number: i64) -> String {
    format!("dataImport-{number}")
}
