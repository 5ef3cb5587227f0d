//! Tests of resets and refused updates.

use futures_util::FutureExt;
use futures_util::future::join_all;
use tempfile::TempDir;

use super::super::status::Phase;
use super::super::tests::{opened, try_opened};
use super::super::{Service, StartError, StoreError};
use crate::sql::ast::Relation;

/// A service with a stream, in a temporary folder.
struct Run {
    service: Service,
    data: TempDir,
}

impl Run {
    async fn new() -> Run {
        let data = tempfile::tempdir().expect("a temporary folder");
        let service = opened(data.path()).await;
        service.create_relation("CREATE STREAM demo () WITH (DATASOURCE=\"/in\", TYPE=\"websocket\")").await.unwrap();
        Run { service, data }
    }

    async fn phase(&self, id: &str) -> (Phase, i64) {
        let report = self.service.rule_status(id).await.unwrap();
        (report.phase, report.next_start)
    }

    /// The number of the running version.
    async fn number(&self, id: &str) -> u64 {
        self.service.inner.engine.read().await.as_ref().and_then(|engine| engine.number_of(id)).unwrap_or_default()
    }

    /// Stops the service, and opens it again. Rules do not run yet.
    async fn reopen(self) -> Run {
        let Run { service, data } = self;
        service.stop().await;
        drop(service);
        // The timer's task releases the service, and the store with it, shortly after.
        loop {
            match try_opened(data.path()).await {
                Ok(service) => return Run { service, data },
                Err(StartError::Store(StoreError::InUse(_))) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Creates this many rules that have no clients.
    async fn fill(&self, rules: usize) -> Vec<String> {
        let ids: Vec<String> = (0..rules).map(|number| format!("r{number:03}")).collect();
        let made = ids.iter().map(|id| async move { self.service.create_rule(&rule(id, NOP, "")).await });
        assert!(join_all(made).await.iter().all(Result::is_ok));
        ids
    }

    async fn end(self) {
        self.service.stop().await;
    }
}

fn rule(id: &str, sink: &str, options: &str) -> String {
    format!(r#"{{"id": "{id}", "sql": "SELECT a FROM demo", "actions": [{sink}], "options": {{{options}}}}}"#)
}

const NOP: &str = r#"{"nop": {}}"#;

/// At midnight, for a minute: the rule waits unless the test runs then.
const NIGHTLY: &str = r#""cron": "0 0 1 1 *", "duration": "1m""#;

/// Makes a rule fail: another process has the data server's port.
async fn failing(run: &Run) -> i64 {
    let restart = r#""restartStrategy": {"attempts": 3, "delay": 600000}"#;
    let sink = r#"{"websocket": {"path": "/taken"}}"#;
    run.service.create_rule(&rule("failed", sink, restart)).await.unwrap();
    let number = run.number("failed").await;
    run.service.mark_failed("failed", number).await;
    run.phase("failed").await.1
}

#[tokio::test]
async fn a_rule_that_waits_goes_on_waiting_when_its_state_is_reset() {
    let run = Run::new().await;
    run.service.create_rule(&rule("nightly", NOP, NIGHTLY)).await.unwrap();
    failing(&run).await;
    let before = (run.phase("nightly").await, run.phase("failed").await);
    assert_eq!((before.0.0, before.1.0), (Phase::Scheduled, Phase::Failed));
    assert!(before.0.1 > 0, "it has a time to start at");
    for id in ["nightly", "failed"] {
        run.service.reset_rule(id).await.unwrap();
    }
    assert_eq!((run.phase("nightly").await, run.phase("failed").await), before);
    run.end().await;
}

#[tokio::test]
async fn a_refused_update_changes_nothing() {
    let run = Run::new().await;
    let unreachable = r#"{"websocket": {"path": "/nobody", "checkConnection": true}}"#;
    for (id, options) in [("nightly", NIGHTLY), ("runs", "")] {
        run.service.create_rule(&rule(id, NOP, options)).await.unwrap();
    }
    failing(&run).await;
    for id in ["nightly", "runs", "failed"] {
        let before = (run.phase(id).await, run.service.rule_text(id).unwrap());
        let error = run.service.update_rule(id, &rule(id, unreachable, "")).await.unwrap_err().to_string();
        assert!(error.contains("no client is connected to the endpoint /nobody"), "{id}: {error}");
        assert_eq!((run.phase(id).await, run.service.rule_text(id).unwrap()), before, "{id}");
    }
    assert_eq!(run.service.inner.engine.read().await.as_ref().unwrap().status().await.len(), 1);
    run.end().await;
}

#[tokio::test]
async fn nobody_waits_while_the_file_of_a_table_is_read() {
    let run = Run::new().await;
    run.service.create_rule(&rule("runs", NOP, "")).await.unwrap();
    std::fs::write(run.data.path().join("t.json"), "[{\"k\": 1}]").unwrap();
    let sql = "CREATE TABLE t (k BIGINT) WITH (DATASOURCE=\"t.json\", TYPE=\"file\", KIND=\"lookup\", KEY=\"k\")";
    let mut creating = Box::pin(run.service.create_relation(sql));
    // The file is read on another thread, so the runtime of this test's thread has not seen it yet.
    assert!((&mut creating).now_or_never().is_none());
    assert!(run.service.rule_status("runs").now_or_never().is_some());
    run.service.stop_rule("runs").await.unwrap();
    creating.await.unwrap();
    run.end().await;
}

#[tokio::test]
async fn a_lease_and_links_that_are_dropped_let_their_endpoint_go() {
    let run = Run::new().await;
    let websockets = run.service.inner.engine.read().await.as_ref().unwrap().websockets();
    let props = serde_json::json!({"path": "/held"});
    let settings = || crate::io::websocket::Settings::sink(props.as_object().unwrap()).unwrap().0;
    let lease = websockets.hold(settings()).await.unwrap();
    assert!(websockets.has_path("/held"));
    drop(lease);
    while websockets.has_path("/held") {
        tokio::task::yield_now().await;
    }
    run.end().await;
}

#[tokio::test]
async fn a_running_rule_takes_up_the_new_definition_of_its_stream() {
    let run = Run::new().await;
    for (id, options) in [("runs", ""), ("nightly", NIGHTLY)] {
        run.service.create_rule(&rule(id, NOP, options)).await.unwrap();
    }
    let websockets = run.service.inner.engine.read().await.as_ref().unwrap().websockets();
    let there = || ["/in", "/moved", "/strange"].map(|path| websockets.has_path(path));
    assert_eq!(there(), [true, false, false]);
    for (columns, path) in [("", "/moved"), ("b BIGINT", "/strange")] {
        let sql = format!("CREATE STREAM demo ({columns}) WITH (DATASOURCE=\"{path}\", TYPE=\"websocket\")");
        run.service.replace_relation(Relation::Stream, "demo", &sql).await.unwrap();
        // The second table has no column `a`, so the rule continues with the first.
        assert_eq!(there(), [false, true, false], "{path}");
    }
    assert_eq!((run.phase("runs").await.0, run.phase("nightly").await.0), (Phase::Running, Phase::Scheduled));
    run.end().await;
}

#[tokio::test]
async fn stored_rules_start_while_some_of_them_and_their_stream_change() {
    let run = Run::new().await;
    let ids = run.fill(600).await;
    let Run { service, data } = run.reopen().await;
    let changes = async {
        let moved = "CREATE STREAM demo () WITH (DATASOURCE=\"/moved\", TYPE=\"websocket\")";
        service.replace_relation(Relation::Stream, "demo", moved).await.unwrap();
        service.update_rule("r599", &rule("r599", NOP, NIGHTLY)).await.unwrap();
        service.delete_rule("r300").await.unwrap();
        service.stop_rule("r598").await.unwrap();
    };
    tokio::join!(service.resume(), changes);
    let run = Run { service, data };
    for id in ids.iter().filter(|id| *id != "r300") {
        let expected = match id.as_str() {
            "r599" => Phase::Scheduled,
            "r598" => Phase::Stopped,
            _ => Phase::Running,
        };
        assert_eq!(run.phase(id).await.0, expected, "{id}");
    }
    assert!(run.service.rule_text("r300").is_err());
    let websockets = run.service.inner.engine.read().await.as_ref().unwrap().websockets();
    assert_eq!(["/in", "/moved"].map(|path| websockets.has_path(path)), [false, true]);
    run.end().await;
}

#[tokio::test]
async fn a_service_that_ends_while_stored_rules_start_starts_them_the_next_time() {
    let run = Run::new().await;
    let ids = run.fill(300).await;
    let run = run.reopen().await;
    // Both run at once, so the end comes while some rules run and others wait.
    tokio::join!(run.service.resume(), run.service.stop());
    let run = run.reopen().await;
    run.service.resume().await;
    for id in &ids {
        assert_eq!(run.phase(id).await.0, Phase::Running, "{id}");
    }
    run.end().await;
}

#[tokio::test]
async fn a_failure_of_an_older_version_does_not_stop_a_rule() {
    let run = Run::new().await;
    run.service.create_rule(&rule("runs", NOP, "")).await.unwrap();
    let old = run.number("runs").await;
    run.service.restart_rule("runs").await.unwrap();
    run.service.fail_rule("runs", old, Some("late".to_owned())).await;
    assert_eq!(run.phase("runs").await.0, Phase::Running);
    run.service.fail_rule("runs", run.number("runs").await, Some("now".to_owned())).await;
    assert_eq!(run.phase("runs").await.0, Phase::Failed);
    run.end().await;
}
