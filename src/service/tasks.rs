//! Background work after a response: imports of whole configurations.
//!
//! Tasks run one after the other, in the order of their requests. A bounded number waits, and the last finished ones
//! are remembered. When the service stops, a running import ends after its current item, so that no change is left half
//! done, and waiting ones do not start.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use tokio::task::JoinSet;

use super::error::ServiceError;
use super::{ImportSource, Service, locked, millis};

/// The most tasks that are remembered.
const MOST: usize = 100;

/// The most tasks that run or wait: each holds the configuration that it imports.
const WAITING: usize = 8;

/// The state of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// Waits or runs.
    Running,
    /// Done completely.
    Finished,
    /// Done in part.
    Failed,
    /// Cancelled.
    Cancelled,
}

impl TaskState {
    /// The name in responses.
    pub fn as_str(self) -> &'static str {
        match self {
            TaskState::Running => "running",
            TaskState::Finished => "finish",
            TaskState::Failed => "failed",
            TaskState::Cancelled => "cancelled",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Task {
    pub id: String,
    pub state: TaskState,
    /// What could not be done.
    pub message: String,
    /// When it began, ms since the epoch.
    pub began: i64,
    /// When it ended, ms since the epoch; 0 before.
    pub ended: i64,
    cancelled: Arc<AtomicBool>,
}

/// The remembered tasks, the oldest first.
#[derive(Default)]
pub(super) struct Tasks {
    known: VecDeque<Task>,
    /// Those that run or wait; dropping this ends them.
    running: JoinSet<()>,
    /// The service has stopped: no task begins any more.
    ended: bool,
    /// Held by the running task.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Service {
    /// Starts an import in the background; returns its id.
    ///
    /// # Errors
    /// [`ServiceError::Import`] if there is nothing to import, or too much waits already; [`ServiceError::Stopping`].
    pub async fn begin_import(&self, source: ImportSource, partial: bool) -> Result<String, ServiceError> {
        let text = self.import_text(source).await?;
        let cancelled = Arc::new(AtomicBool::new(false));
        let mut tasks = locked(&self.inner.tasks);
        if tasks.ended {
            return Err(ServiceError::Stopping);
        }
        let running = tasks.known.iter().filter(|task| task.state == TaskState::Running).count();
        if running >= WAITING {
            return Err(ServiceError::Import(format!(
                "{WAITING} imports are waiting already; try again when one is done"
            )));
        }
        // Fewer run than are remembered, so one of them is done.
        while tasks.known.len() >= MOST {
            let done = tasks.known.iter().position(|task| task.state != TaskState::Running);
            let _ = done.and_then(|done| tasks.known.remove(done));
        }
        let began = millis(SystemTime::now());
        // Two imports in one second must not share an id.
        let mut number = began / 1000;
        while tasks.known.iter().any(|task| task.id == task_id(number)) {
            number += 1;
        }
        let (id, state) = (task_id(number), TaskState::Running);
        let task =
            Task { id: id.clone(), state, message: String::new(), began, ended: 0, cancelled: cancelled.clone() };
        tasks.known.push_back(task);
        while tasks.running.try_join_next().is_some() {}
        let (turn, inner, task) = (tasks.turn.clone(), Arc::downgrade(&self.inner), id.clone());
        tasks.running.spawn(async move {
            let _alone = turn.lock().await;
            // A waiting task does not keep the service alive.
            let Some(inner) = inner.upgrade() else { return };
            Service { inner }.run_import(&task, &text, partial, &cancelled).await;
        });
        Ok(id)
    }

    async fn run_import(&self, task: &str, text: &str, partial: bool, cancelled: &AtomicBool) {
        let imported = match cancelled.load(Ordering::Relaxed) {
            true => None,
            false => Some(self.import_unless(text, partial, cancelled).await),
        };
        let (state, message) = match imported {
            None => (TaskState::Cancelled, String::new()),
            Some(Err(error)) => (TaskState::Failed, error.to_string()),
            // A complete import runs to its end.
            Some(Ok(_)) if partial && cancelled.load(Ordering::Relaxed) => (TaskState::Cancelled, String::new()),
            Some(Ok(imported)) if imported.is_whole() => (TaskState::Finished, String::new()),
            Some(Ok(imported)) => (TaskState::Failed, serde_json::to_string(&imported.refused).unwrap_or_default()),
        };
        let mut tasks = locked(&self.inner.tasks);
        if let Some(task) = tasks.known.iter_mut().find(|known| known.id == task) {
            (task.state, task.message, task.ended) = (state, message, millis(SystemTime::now()));
        }
    }

    /// Ends all imports. Returns when none is running any more.
    pub(super) async fn end_imports(&self) {
        let mut running = {
            let mut tasks = locked(&self.inner.tasks);
            tasks.ended = true;
            tasks.known.iter().for_each(|task| task.cancelled.store(true, Ordering::Relaxed));
            std::mem::take(&mut tasks.running)
        };
        while running.join_next().await.is_some() {}
    }

    /// The state of a task.
    ///
    /// # Errors
    /// [`ServiceError::NoTask`]
    pub fn task(&self, id: &str) -> Result<Task, ServiceError> {
        let tasks = locked(&self.inner.tasks);
        let found = tasks.known.iter().find(|task| task.id == id).cloned();
        found.ok_or_else(|| ServiceError::NoTask(id.chars().take(256).collect()))
    }

    /// Cancels a task. A waiting task does nothing; a partial import ends after its current item. A complete import has
    /// emptied the catalog and runs to its end. A finished task stays finished.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn imports_end_with_the_service() {
        let data = std::env::temp_dir().join(format!("plutino-tasks-{}-{:x}", std::process::id(), fastrand::u64(..)));
        let service = super::super::tests::opened(&data).await;
        let stream = |name: &str| format!("CREATE STREAM {name} () WITH (DATASOURCE=\"/in\", TYPE=\"websocket\")");
        let streams: serde_json::Map<_, _> =
            (0..200).map(|number| (format!("s{number}"), stream(&format!("s{number}")).into())).collect();
        let text = serde_json::json!({"streams": streams}).to_string();
        let import = || ImportSource::new(text.clone(), String::new());
        let first = service.begin_import(import(), true).await.unwrap();
        let second = service.begin_import(import(), true).await.unwrap();
        service.stop().await;
        for id in [&first, &second] {
            let task = service.task(id).unwrap();
            assert!(task.state == TaskState::Cancelled && task.ended > 0, "{task:?}");
        }
        assert!(matches!(service.begin_import(import(), true).await, Err(ServiceError::Stopping)));

        // Without a stop, waiting tasks end with the last owner of the service.
        let inner = Arc::downgrade(&service.inner);
        drop(service);
        while inner.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
        let _ = std::fs::remove_dir_all(&data);
    }
}
