//! The recipes of docs/live-views.md: each runs, and has rows.

use serde_json::{Value, json};

use super::client::Live;
use crate::process::{Plutino, send, stream};

/// The statements in code spans of the recipes that begin with this text.
fn statements(begin: &str) -> Vec<String> {
    let page = std::fs::read_to_string("docs/live-views.md").expect("the page is there");
    let recipes = page.split("## Recipes").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a section");
    let spans = recipes.split('`').skip(1).step_by(2);
    spans.filter(|span| span.starts_with(begin)).map(str::to_owned).collect()
}

#[tokio::test]
async fn every_recipe_runs() {
    let (views, queries) = (statements("CREATE VIEW "), statements("SELECT "));
    assert!(views.len() >= 8 && queries.len() >= 2, "{} views and {} rules", views.len(), queries.len());
    let rule =
        |(number, sql): (usize, &String)| json!({"id": format!("r{number}"), "sql": sql, "actions": [{"nop": {}}]});
    let mut rules: Vec<Value> = queries.iter().enumerate().map(rule).collect();
    rules.push(json!({"id": "places", "sql": "SELECT site, name FROM names", "actions": [
        {"memory": {"topic": "places", "sendSingle": true}}
    ]}));
    let streams = ["telemetry", "orders", "scores", "pings", "events", "names"].map(|name| stream(name, "", ""));
    let trades = stream("trades", "", ", TIMESTAMP=\"ts\"");
    let rules = json!({
        "streams": streams.iter().chain([&trades]).collect::<Vec<_>>(),
        "tables": ["CREATE TABLE places (site STRING, name STRING) WITH (DATASOURCE=\"places\", TYPE=\"memory\", KIND=\"lookup\", KEY=\"site\")"],
        "views": views,
        "rules": rules,
    });
    let plutino = Plutino::run("live-recipes", &rules, &[]).await;
    let device = json!({"deviceId": 7, "site": "n1", "t": 21.5});
    for (path, message) in [
        ("/names", json!({"site": "n1", "name": "North"})),
        ("/orders", json!({"orderId": 1, "symbol": "A", "price": 9.5, "open": true})),
        ("/scores", json!({"player": "p", "points": 3})),
        ("/pings", json!({"user": "u", "room": "r"})),
        ("/trades", json!({"symbol": "A", "price": 9.5, "ts": 1_764_000_000_000_i64})),
    ] {
        send(&mut plutino.connect(path).await, message.to_string()).await;
    }
    let mut telemetry = plutino.connect("/telemetry").await;
    for _ in 0..12 {
        send(&mut telemetry, device.to_string()).await;
    }
    for view in &views {
        let name = view.split_whitespace().nth(2).expect("a name");
        let mut live = Live::open(plutino.port, &format!("/live/{name}")).await;
        live.until(|rows| rows.len() == 1).await;
    }
    let mut named = Live::open(plutino.port, "/live/named").await;
    named.until_row(&json!([7]), &json!({"deviceId": 7, "t": 21.5, "name": "North"})).await;
}
