//! Trials: rules that run for a while beside the others, with their own rows, for clients that watch the results.
//!
//! A trial is parsed, planned and run like any rule. Its sources are the rows that came with it, if there are any, and
//! its sink sends server-sent events from the data server. It is not stored, is not in the list of rules, and ends by
//! itself. The number of trials, their rows, their clients and the clients' queues are limited. Requests about one id
//! run one after the other: two requests that create a trial with one id leave one trial, whose results are at its
//! path.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value as Json, json};
use tokio::sync::OwnedMutexGuard;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::definition::Definition;
use super::error::ServiceError;
use super::{Service, check_id, locked};
use crate::definition::stream::{Catalog, Format, StreamDef};
use crate::engine::{EngineError, RuleSpec};
use crate::io::connector::{SinkSpec, SourceSpec};
use crate::io::events::EventSink;
use crate::io::mock::MockSource;
use crate::text::loose;
use crate::value::Text;

/// The most trials at a time.
pub const TRIALS: usize = 64;

/// The most bytes of all rows of one trial.
pub const ROW_BYTES: usize = 1 << 20;

/// How long after its creation or start a trial ends.
pub const LIFE: Duration = Duration::from_secs(5 * 60);

/// A new trial, and the port for its results, which are at `/test/{id}` of the data server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrialPort {
    pub id: String,
    /// the data server's port
    pub port: u16,
}

/// A trial as requested.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    #[serde(default)]
    id: String,
    #[serde(default)]
    sql: String,
    #[serde(default)]
    mock_source: Option<Map<String, Json>>,
    #[serde(default)]
    sink_props: Option<Map<String, Json>>,
    #[serde(default)]
    options: Option<Map<String, Json>>,
}

/// The rows for one stream.
#[derive(Deserialize)]
struct Rows {
    #[serde(default)]
    data: Vec<Map<String, Json>>,
    /// ms
    #[serde(default)]
    interval: u64,
    #[serde(default, rename = "loop")]
    repeat: bool,
}

pub(super) struct Trial {
    /// its id in the engine, which no rule can have
    engine_id: String,
    path: String,
    sink: Arc<EventSink>,
    /// set until it is started
    waiting: Mutex<Option<RuleSpec>>,
    /// the time of its end, ms since the epoch; the timer has a task for it
    ends: AtomicI64,
}

impl Service {
    /// Creates a trial from its JSON text: it is checked and planned, but does not run yet. An older one with its id
    /// ends.
    ///
    /// # Errors
    /// [`ServiceError::TrialJson`], [`ServiceError::Trial`]
    pub async fn create_trial(&self, text: &str) -> Result<TrialPort, ServiceError> {
        self.needs_one_process("a test rule")?;
        let unread = |error: &dyn std::fmt::Display| ServiceError::TrialJson(error.to_string());
        let mut wanted: Wanted = loose::from_slice(text.as_bytes()).map_err(|error| unread(&error))?;
        if wanted.id.is_empty() {
            wanted.id = format!("{:016x}", fastrand::u64(..));
        }
        check_id(&wanted.id)?;
        let id = wanted.id.clone();
        let failed = |error: ServiceError| match error {
            ServiceError::RuleJson(why) => ServiceError::Trial { id: id.clone(), why },
            ServiceError::Stopping => error,
            error => ServiceError::Trial { id: id.clone(), why: error.to_string() },
        };
        let mocks = mocks(&wanted).map_err(failed)?;
        let sink = EventSink::open();
        let spec = self.plan_trial(wanted, &mocks, &sink).map_err(failed)?;
        let _alone = self.alone_with(&id).await;
        self.remove_trial(&id).await;
        let (engine_id, path) = (spec.id.clone(), format!("/test/{id}"));
        let waiting = Mutex::new(Some(spec));
        let trial = Arc::new(Trial { engine_id, path, sink, waiting, ends: AtomicI64::new(0) });
        let room = {
            let mut trials = locked(&self.inner.trials);
            let room = trials.len() < TRIALS;
            if room {
                trials.insert(id.clone(), trial.clone());
            }
            room
        };
        if !room {
            let why = format!("there are {TRIALS} trials already; end one of them with DELETE /ruletest/ID");
            return Err(ServiceError::Trial { id, why });
        }
        // From here on it ends in time, whatever happens to the caller.
        self.end_later(&id, &trial);
        let published = match self.inner.engine.read().await.as_ref() {
            Some(engine) => {
                let published = engine.publish_events(&trial.path, trial.sink.clone()).await;
                published.map_err(|error| ServiceError::Start(error.to_string()))
            }
            None => Err(ServiceError::Stopping),
        };
        match published {
            Ok(address) => Ok(TrialPort { id, port: address.port() }),
            Err(error) => {
                self.remove_trial(&id).await;
                Err(failed(error))
            }
        }
    }

    /// Starts a trial; a running one continues. If it cannot start, it ends.
    ///
    /// # Errors
    /// [`ServiceError::NoTrial`], and reasons why it cannot start.
    pub async fn start_trial(&self, id: &str) -> Result<(), ServiceError> {
        check_id(id)?;
        let _alone = self.alone_with(id).await;
        let trial = locked(&self.inner.trials).get(id).cloned();
        let trial = trial.ok_or_else(|| ServiceError::NoTrial(id.to_owned()))?;
        let Some(spec) = locked(&trial.waiting).take() else { return Ok(()) };
        self.gather_for(&spec).await;
        let started = {
            let engine = self.inner.engine.read().await;
            let engine = engine.as_ref().ok_or(ServiceError::Stopping)?;
            engine.start_rule(spec).await
        };
        match started {
            Ok(()) => {
                self.end_later(id, &trial);
                Ok(())
            }
            Err(error) => {
                self.remove_trial(id).await;
                Err(ServiceError::Start(match error {
                    EngineError::Connector { error, .. } => error.to_string(),
                    error => error.to_string(),
                }))
            }
        }
    }

    /// Ends a trial, if there is one, and the event streams of its clients.
    pub async fn end_trial(&self, id: &str) {
        let _alone = self.alone_with(id).await;
        self.remove_trial(id).await;
    }

    /// Ends a trial if its time is over.
    pub(super) async fn end_old_trial(&self, id: &str) {
        let _alone = self.alone_with(id).await;
        let ends = locked(&self.inner.trials).get(id).map(|trial| trial.ends.load(Ordering::Relaxed));
        if ends.is_some_and(|ends| ends <= self.inner.clock.monotonic()) {
            self.remove_trial(id).await;
        }
    }

    /// Ends all trials, and waits for those that are being created or started.
    pub(super) async fn end_trials(&self) {
        let all: Vec<String> = locked(&self.inner.trials).keys().cloned().collect();
        for id in all {
            self.end_trial(&id).await;
        }
    }

    /// Waits until no other request works on trials with this id, and keeps others out until the result is dropped.
    async fn alone_with(&self, id: &str) -> Vec<OwnedMutexGuard<()>> {
        let id = Text::from(id);
        self.inner.trial_gates.pass(std::iter::once(&id)).await
    }

    /// Ends a trial. The caller holds [`Service::alone_with`].
    async fn remove_trial(&self, id: &str) {
        let Some(trial) = locked(&self.inner.trials).remove(id) else { return };
        self.inner.timer.forget_trial(id, trial.ends.load(Ordering::Relaxed));
        match self.inner.engine.read().await.as_ref() {
            Some(engine) => {
                engine.stop_rule(&trial.engine_id, false).await;
                engine.end_events(&trial.path, &trial.sink).await;
            }
            None => trial.sink.end(),
        }
    }

    /// Ends a trial when its time is over, counted from now.
    fn end_later(&self, id: &str, trial: &Trial) {
        let ends = self.inner.clock.monotonic() + LIFE.as_millis() as i64;
        let before = trial.ends.swap(ends, Ordering::Relaxed);
        self.inner.timer.forget_trial(id, before);
        self.inner.timer.note_trial(id, ends);
    }

    fn plan_trial(
        &self,
        wanted: Wanted,
        mocks: &[(String, MockSource)],
        sink: &Arc<EventSink>,
    ) -> Result<RuleSpec, ServiceError> {
        let mut options = wanted.options.unwrap_or_default();
        // The viewers of a trial see its errors.
        options.retain(|name, _| !name.eq_ignore_ascii_case("sendError"));
        options.insert("sendError".to_owned(), Json::Bool(true));
        let rule = json!({
            "id": wanted.id, "sql": wanted.sql, "options": options, "temp": true,
            "actions": [{"nop": wanted.sink_props.unwrap_or_default()}],
        });
        let definition = Definition::of(rule, None, &self.config().rule)?;
        let bindings = self.bindings();
        let mut catalog = Catalog::clone(&self.catalog());
        for (name, _) in mocks {
            // A separate definition makes a separate stream, so rules on the real stream do not see these rows.
            let known = catalog.relation(name).map(|def| StreamDef::clone(def));
            if let Some(def) = known {
                catalog.replace(StreamDef { format: Format::Json, compression: None, ..def });
            }
        }
        let source = |def: &Arc<StreamDef>| match mocks.iter().find(|(name, _)| *name == *def.name) {
            Some((_, mock)) => Ok(SourceSpec::Mock(mock.clone())),
            None => definition.source(def, &bindings),
        };
        let mut spec = definition.plan_with(&catalog, &bindings, source)?.spec;
        spec.id = format!("$$trial/{}/{:08x}", wanted.id, fastrand::u32(..));
        for action in &mut spec.sinks {
            action.spec = SinkSpec::Events(sink.clone());
        }
        Ok(spec)
    }
}

/// The rows of a trial as messages.
fn mocks(wanted: &Wanted) -> Result<Vec<(String, MockSource)>, ServiceError> {
    let mut left = ROW_BYTES;
    let mut mocks = Vec::new();
    for (stream, rows) in wanted.mock_source.iter().flatten() {
        let rows: Rows = loose::from_value(rows.clone())
            .map_err(|error| ServiceError::RuleJson(format!("mockSource of {stream}: {error}")))?;
        let mut messages = Vec::with_capacity(rows.data.len());
        for row in rows.data {
            let text = Json::Object(row).to_string();
            left = left.checked_sub(text.len()).ok_or_else(|| {
                ServiceError::RuleJson(format!("mockSource has more than {ROW_BYTES} bytes of rows: give it fewer"))
            })?;
            messages.push(Utf8Bytes::from(text));
        }
        let interval = Duration::from_millis(rows.interval.min(LIFE.as_millis() as u64));
        mocks.push((stream.clone(), MockSource { messages: messages.into(), interval, repeat: rows.repeat }));
    }
    Ok(mocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_asked_of_one_id_is_done_one_after_the_other() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let service = super::super::tests::opened(data.path()).await;
        service.create_relation("CREATE STREAM demo () WITH (DATASOURCE=\"/in\", TYPE=\"websocket\")").await.unwrap();
        let text = json!({"id": "t", "sql": "SELECT * FROM demo", "mockSource": {"demo": {"data": [{"a": 1}]}}});
        let asked = (0..40).map(|number| {
            let (service, text) = (service.clone(), text.to_string());
            tokio::spawn(async move {
                match number % 4 {
                    0 | 1 => drop(service.create_trial(&text).await.unwrap()),
                    2 => drop(service.start_trial("t").await),
                    _ => service.end_trial("t").await,
                }
            })
        });
        for done in futures_util::future::join_all(asked).await {
            done.unwrap();
        }
        assert!(service.create_trial(&text.to_string()).await.unwrap().port > 0);
        service.start_trial("t").await.unwrap();
        let made = |service: &Service| locked(&service.inner.trials).len();
        let running = |service: &Service| {
            let inner = service.inner.clone();
            async move { inner.engine.read().await.as_ref().unwrap().status().await.len() }
        };
        assert_eq!((made(&service), running(&service).await), (1, 1));
        // The timer has no tasks of earlier trials.
        let noted = |service: &Service| service.inner.timer.waiting();
        assert_eq!(noted(&service), 1);
        service.end_old_trial("t").await;
        assert_eq!(running(&service).await, 1, "its time is not over");
        locked(&service.inner.trials)["t"].ends.store(0, Ordering::Relaxed);
        service.end_old_trial("t").await;
        assert_eq!((made(&service), running(&service).await), (0, 0));
        service.stop().await;
        let after = service.create_trial(&text.to_string()).await;
        assert!(matches!(after, Err(ServiceError::Stopping)), "{after:?}");
        assert!(locked(&service.inner.trials).is_empty());
    }

    fn read(text: &str) -> Result<Vec<(String, MockSource)>, String> {
        let wanted: Wanted = serde_json::from_str(text).map_err(|error| error.to_string())?;
        mocks(&wanted).map_err(|error| error.to_string())
    }

    #[test]
    fn rows_become_messages_and_are_bounded() {
        let rows =
            read(r#"{"mockSource": {"s": {"data": [{"b": 1, "a": "x"}], "interval": 20, "loop": true}}}"#).unwrap();
        let (name, mock) = &rows[0];
        assert_eq!((name.as_str(), mock.interval, mock.repeat), ("s", Duration::from_millis(20), true));
        assert_eq!(mock.messages[0].as_str(), r#"{"b":1,"a":"x"}"#);
        for (rows, expected) in [
            (r#"{"data": 5}"#.to_owned(), "mockSource of s: "),
            (r#"{"data": [5]}"#.to_owned(), "mockSource of s: "),
            (r#"{"data": [], "interval": -1}"#.to_owned(), "mockSource of s: "),
            (format!(r#"{{"data": [{{"a": "{}"}}]}}"#, "x".repeat(ROW_BYTES)), "mockSource has more than"),
        ] {
            let error = read(&format!(r#"{{"mockSource": {{"s": {rows}}}}}"#)).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert!(read("{}").unwrap().is_empty());
    }
}
