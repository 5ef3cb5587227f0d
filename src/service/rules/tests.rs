//! Tests of resets and refused updates.

use futures_util::FutureExt;
use tempfile::TempDir;

use super::super::Service;
use super::super::status::Phase;
use super::super::tests::opened;
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
