//! Tests of the whole service: what is restored after a restart, and what schedules do.

use super::*;
use crate::io::websocket::ServerSettings;
use crate::sql::ast::Relation;

pub(super) async fn opened(data: &std::path::Path) -> Service {
    opened_by(data, Clock::System).await
}

async fn opened_by(data: &std::path::Path, clock: Clock) -> Service {
    try_opened_by(data, clock).await.unwrap()
}

pub(super) async fn try_opened(data: &std::path::Path) -> Result<Service, StartError> {
    try_opened_by(data, Clock::System).await
}

async fn try_opened_by(data: &std::path::Path, clock: Clock) -> Result<Service, StartError> {
    let server = ServerSettings { ip: "127.0.0.1".to_owned(), port: 0, ..ServerSettings::default() };
    let config = Config { server, ..Config::default() };
    Service::open_by(ServiceSettings { config, data: data.to_owned(), workers: 1, cluster: None }, clock).await
}

#[tokio::test]
async fn what_was_wanted_comes_back() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let service = opened(data.path()).await;
    service.create_relation("CREATE STREAM demo () WITH (DATASOURCE=\"/in\", TYPE=\"websocket\")").await.unwrap();
    for (id, more) in [("runs", ""), ("stopped", ""), ("temporary", ", \"temp\": true"), ("gone", "")] {
        let rule =
            format!("{{\"id\": \"{id}\", \"sql\": \"SELECT a FROM demo\", \"actions\": [{{\"nop\": {{}}}}]{more}}}");
        assert_eq!(service.create_rule(&rule).await.unwrap(), id);
    }
    service.stop_rule("stopped").await.unwrap();
    service.delete_rule("gone").await.unwrap();
    let refused = service.drop_relation(Relation::Stream, "demo", false).await;
    assert!(matches!(refused, Err(ServiceError::Referenced { .. })));
    service.stop().await;
    assert!(matches!(service.start_rule("stopped").await, Err(ServiceError::Stopping)));
    drop(service);

    // The timer's task releases the service, and the store with it, shortly after.
    let service = loop {
        let config = Config { server: ServerSettings { port: 0, ..ServerSettings::default() }, ..Config::default() };
        match Service::open(ServiceSettings { config, data: data.path().to_owned(), workers: 1, cluster: None }).await {
            Ok(service) => break service,
            Err(StartError::Store(StoreError::InUse(_))) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    service.resume().await;
    let phases: Vec<(String, Phase)> = service.rules().into_iter().map(|rule| (rule.id, rule.phase)).collect();
    assert_eq!(phases, [("runs".to_owned(), Phase::Running), ("stopped".to_owned(), Phase::Stopped)]);
    assert_eq!(service.relations(Relation::Stream, None).len(), 1);
    service.stop().await;
    drop(service);
}

/// Waits until a rule is in this state.
async fn comes_to(service: &Service, id: &str, phase: Phase) {
    let wait = async {
        while service.rule_status(id).await.unwrap().phase != phase {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap();
}

#[tokio::test]
async fn schedules_follow_the_clock_and_durations_the_time_that_goes_by() {
    use std::sync::atomic::{AtomicI64, Ordering};
    const HOUR: i64 = 3_600_000;
    let data = tempfile::tempdir().expect("a temporary folder");
    // Half an hour past a full hour.
    let (wall, monotonic) = (Arc::new(AtomicI64::new(472_222 * HOUR + HOUR / 2)), Arc::new(AtomicI64::new(0)));
    let service = opened_by(data.path(), Clock::Stepping { wall: wall.clone(), monotonic: monotonic.clone() }).await;
    service.create_relation("CREATE STREAM demo () WITH (DATASOURCE=\"/in\", TYPE=\"websocket\")").await.unwrap();
    for (id, options) in
        [("brief", "{\"duration\": \"60s\"}"), ("hourly", "{\"cron\": \"0 * * * *\", \"duration\": \"10m\"}")]
    {
        let rule = format!(
            "{{\"id\": \"{id}\", \"sql\": \"SELECT a FROM demo\", \"actions\": [{{\"nop\": {{}}}}], \"options\": {options}}}"
        );
        service.create_rule(&rule).await.unwrap();
    }
    comes_to(&service, "hourly", Phase::Scheduled).await;
    // The clock is set to the next full hour: cron begins, and the duration has not passed.
    wall.fetch_add(HOUR / 2 + 1000, Ordering::Relaxed);
    comes_to(&service, "hourly", Phase::Running).await;
    assert_eq!(service.rule_status("brief").await.unwrap().phase, Phase::Running);
    // The clock is set back: cron waits again.
    wall.fetch_sub(HOUR / 4, Ordering::Relaxed);
    comes_to(&service, "hourly", Phase::Scheduled).await;
    assert_eq!(service.rule_status("brief").await.unwrap().phase, Phase::Running);
    wall.fetch_add(61_000, Ordering::Relaxed);
    monotonic.fetch_add(61_000, Ordering::Relaxed);
    comes_to(&service, "brief", Phase::Stopped).await;
    service.stop().await;
}

#[tokio::test]
async fn a_schedule_is_kept() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let service = opened(data.path()).await;
    service.create_relation("CREATE STREAM demo () WITH (DATASOURCE=\"/in\", TYPE=\"websocket\")").await.unwrap();
    for (id, options) in [
        ("brief", "{\"duration\": \"50ms\"}"),
        ("past", "{\"cronDatetimeRange\": [{\"begin\": \"2020-01-01 00:00:00\", \"end\": \"2020-01-02 00:00:00\"}]}"),
    ] {
        let rule = format!(
            "{{\"id\": \"{id}\", \"sql\": \"SELECT a FROM demo\", \"actions\": [{{\"nop\": {{}}}}], \"options\": {options}}}"
        );
        service.create_rule(&rule).await.unwrap();
    }
    assert_eq!(service.rule_status("past").await.unwrap().phase, Phase::Scheduled);
    let over = loop {
        let report = service.rule_status("brief").await.unwrap();
        if !matches!(report.phase, Phase::Running | Phase::Stopping) {
            break report;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    };
    assert_eq!((over.phase, over.message.as_str()), (Phase::Stopped, "duration terminated"));
    service.stop().await;
}

#[tokio::test]
async fn a_view_that_was_replaced_is_not_ended_for_its_old_version() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let service = opened(data.path()).await;
    service.create_relation("CREATE STREAM demo () WITH (DATASOURCE=\"/in\", TYPE=\"websocket\")").await.unwrap();
    let view = |column: &str| format!("CREATE VIEW v WITH (KEY=\"id\") AS SELECT id, {column} FROM demo");
    service.create_view(&view("a")).await.unwrap();
    let state = async || {
        let engine = service.inner.engine.read().await;
        let engine = engine.as_ref().unwrap();
        (engine.number_of(&crate::engine::view_id("v")), engine.has_view("v"))
    };
    let (old, _) = state().await;
    // Its end waits while it is replaced.
    let sql = view("b");
    let (replaced, ()) = tokio::join!(service.replace_view("v", &sql), service.end_for_memory("v", old.unwrap()));
    replaced.unwrap();
    let (new, is_there) = state().await;
    assert!(new.is_some() && new != old && is_there);
    service.end_for_memory("v", new.unwrap()).await;
    assert_eq!(state().await, (None, false));
    assert_eq!(service.view_status("v").await.unwrap().stopped.as_deref(), Some(super::views::MEMORY_WAS_SHORT));
    // It can be created again.
    service.replace_view("v", &view("b")).await.unwrap();
    assert!(state().await.1);
    service.stop().await;
}
