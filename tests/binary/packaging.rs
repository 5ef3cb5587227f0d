//! The contents of packages besides the binary: manual pages, and the alerts and the dashboard that read `/metrics`.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Instant;

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use crate::process::serve::{Folder, LIMIT};

#[test]
fn each_verb_has_a_manual_page() {
    let folder = Folder::new("packaging-man");
    let mut command = Command::new(env!("CARGO_BIN_EXE_plutino"));
    let done = command.args(["man", "pages/of"]).current_dir(&folder.0).output().expect("the binary starts");
    assert!(done.status.success(), "{done:?}");
    for page in ["plutino", "plutino-serve", "plutino-run", "plutino-token-create"] {
        let text = std::fs::read_to_string(folder.path(format!("pages/of/{page}.1"))).expect(page);
        assert!(text.contains(".SH SYNOPSIS"), "{page}");
    }
    assert!(!folder.path("pages/of/plutino-man.1").exists(), "hidden verbs have none");
}

/// The series that a file names.
fn series(file: &str) -> BTreeSet<String> {
    let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect("the file can be read");
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let known = |word: &&str| ["kuiper_", "plutino_", "process_"].iter().any(|prefix| word.starts_with(prefix));
    words.filter(known).map(str::to_owned).collect()
}

#[tokio::test]
async fn alerts_and_dashboard_read_series_that_there_are() {
    let folder = Folder::new("packaging-series");
    let served = folder.serve();
    let stream =
        "CREATE STREAM demo (a BIGINT, at BIGINT) WITH (TYPE=\"websocket\", DATASOURCE=\"/in\", TIMESTAMP=\"at\")";
    served.asks("POST", "/streams", &json!({ "sql": stream })).await.done();
    let rule = json!({
        "id": "r", "sql": "SELECT count(*) AS n FROM demo GROUP BY TUMBLINGWINDOW(ss, 1)",
        "actions": [{"websocket": {"path": "/out"}}], "options": {"isEventTime": true},
    });
    served.asks("POST", "/rules", &rule).await.done();
    let plain = json!({"id": "plain", "sql": "SELECT a FROM demo", "actions": [{"websocket": {"path": "/plain"}}]});
    served.asks("POST", "/rules", &plain).await.done();
    // Some series appear only after their first event: results without a receiver, a watermark, results in flight.
    let mut sender = connect_async(served.data_url("/in")).await.expect("the endpoint is there").0;
    let mut send = async |second: i64| {
        let row = json!({"a": 1, "at": 1_700_000_000_000 + 1000 * second});
        sender.send(Message::text(row.to_string())).await.expect("it is taken");
    };
    let page_with = async |series: &[&str]| {
        let begun = Instant::now();
        loop {
            let page = served.asks("GET", "/metrics", &Value::Null).await.done();
            if series.iter().all(|series| page.contains(series)) {
                return page;
            }
            assert!(begun.elapsed() < LIMIT, "{page}");
        }
    };
    send(1).await;
    send(5).await;
    page_with(&["plutino_dropped_messages_total{", "plutino_rule_watermark_lag_ms{"]).await;
    let _receiver = connect_async(served.data_url("/plain")).await.expect("the endpoint is there").0;
    send(9).await;
    let page = page_with(&["kuiper_sink_process_latency_us_hist_bucket{"]).await;
    let families: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    for file in ["etc/prometheus/alerts.yaml", "etc/grafana/dashboard.json"] {
        let named = series(file);
        assert!(named.len() > 5, "{file}: {named:?}");
        let family = |name: &str| name.strip_suffix("_bucket").unwrap_or(name).to_owned();
        let missing: Vec<&String> = named.iter().filter(|name| !families.contains(family(name).as_str())).collect();
        assert!(missing.is_empty(), "{file} reads {missing:?}, which /metrics does not have");
    }
}
