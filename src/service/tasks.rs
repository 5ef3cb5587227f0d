//! Background work after a response: imports of whole configurations.
//!
//! Tasks run one after the other, in the order of their requests. A limited number waits, and the last finished ones
//! are remembered. When the service stops, a running import ends after its current item, so that no change is left
//! incomplete; waiting ones do not start.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use tokio::task::JoinSet;

use super::error::ServiceError;
use super::{ImportSource, Service, locked, millis};

/// The most tasks that are remembered.
const MOST: usize = 100;

/// The most tasks that run or wait: each contains the configuration that it imports.
const WAITING: usize = 8;

/// The state of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// Waits or runs.
    Running,
    /// Completely done.
    Finished,
    /// Partly done.
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
    /// What failed.
    pub message: String,
    /// The time of its start, ms since the epoch.
    pub began: i64,
    /// The time of its end, ms since the epoch; 0 before.
    pub ended: i64,
    cancelled: Arc<AtomicBool>,
}

/// The remembered tasks, the oldest first.
#[derive(Default)]
pub(super) struct Tasks {
    known: VecDeque<Task>,
    /// Running and waiting tasks; dropping this ends them.
    running: JoinSet<()>,
    /// Set when the service has stopped: no task starts after that.
    ended: bool,
    /// Held by the running task.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Service {
    /// Starts an import in the background; returns its id.
    ///
    /// # Errors
    /// [`ServiceError::Import`] if there is nothing to import, or if too many tasks wait; [`ServiceError::Stopping`].
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
        // Fewer tasks can run than are remembered, so at least one is done.
        while tasks.known.len() >= MOST {
            let done = tasks.known.iter().position(|task| task.state != TaskState::Running);
            let _ = done.and_then(|done| tasks.known.remove(done));
        }
        let began = millis(SystemTime::now());
        // Two imports in the same second need different ids.
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
            // A complete import runs to its end even if it is cancelled.
            Some(Ok(_)) if partial && cancelled.load(Ordering::Relaxed) => (TaskState::Cancelled, String::new()),
            Some(Ok(imported)) if imported.is_whole() => (TaskState::Finished, String::new()),
            Some(Ok(imported)) => (TaskState::Failed, serde_json::to_string(&imported.refused).unwrap_or_default()),
        };
        let mut tasks = locked(&self.inner.tasks);
        if let Some(task) = tasks.known.iter_mut().find(|known| known.id == task) {
            (task.state, task.message, task.ended) = (state, message, millis(SystemTime::now()));
        }
    }

    /// Ends all imports, and returns when none is running.
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

    /// Cancels a task. A waiting task does nothing; a partial import ends after its current item; a complete import
    /// runs to its end, since it has emptied the catalog. A finished task stays finished.
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
        let data = tempfile::tempdir().expect("a temporary folder");
        let service = super::super::tests::opened(data.path()).await;
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

        // If the service is dropped without being stopped, waiting tasks end with it.
        let inner = Arc::downgrade(&service.inner);
        drop(service);
        while inner.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    }
}
