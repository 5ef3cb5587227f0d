//! The console in headless Chromium: each page with data, the editor, a trial, a tap, and texts from outside that must
//! not be interpreted as markup.
//!
//! With UPDATE_DOCS=1 the screenshots of `docs/console/` are taken again.

pub mod chromium;

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use crate::process::serve::{Folder, Served, free_port};
use crate::process::{Plutino, stream};
use chromium::Page;

/// Runs if it is ever interpreted as markup.
const ATTACK: &str = "<img src=x onerror='window.attacked=true'>";

async fn done(served: &Served, path: &str, body: Value) {
    let answer = served.asks("POST", path, &body).await;
    assert!((200..300).contains(&answer.status), "{path} {body}: {}", answer.body);
}

/// A service whose rules have something to show.
async fn with_data(folder: &Folder) -> Served {
    let served = folder.serve();
    let sql = "CREATE STREAM telemetry () WITH (TYPE=\"websocket\", DATASOURCE=\"/telemetry\")";
    done(&served, "/streams", json!({"sql": sql})).await;
    let hot = format!(
        "SELECT device, temperature, '{}' AS note FROM telemetry WHERE temperature > 75",
        ATTACK.replace('\'', "")
    );
    for (id, name, sql) in [
        ("hot", ATTACK, hot.as_str()),
        ("silent", "", "SELECT * FROM telemetry WHERE temperatur > 75"),
        ("mean", "", "SELECT device, avg(temperature) AS mean FROM telemetry GROUP BY device, COUNTWINDOW(4)"),
        ("wrong", "", "SELECT temperature * 2 AS t, device + 1 AS d FROM telemetry"),
    ] {
        let actions = json!([{"websocket": {"path": format!("/{id}"), "sendSingle": true}}]);
        done(&served, "/rules", json!({"id": id, "name": name, "sql": sql, "actions": actions})).await;
    }
    let sql = "CREATE VIEW fleet WITH (KEY=\"device\") AS SELECT device, temperature, site FROM telemetry";
    done(&served, "/views", json!({"sql": sql})).await;
    served
}

async fn open(page: &mut Page, served: &Served, path: &str, ready: &str) {
    page.go(&served.url(&format!("/console/#/{path}"))).await;
    page.until(ready).await;
}

/// Whether the page shows a text.
fn shows(text: &str) -> String {
    format!("document.querySelector('main')?.innerText.includes({})", Value::from(text))
}

async fn pictures(page: &mut Page, name: &str) {
    for (width, height) in [(1280, 900), (400, 860)] {
        let picture = page.picture(width, height).await;
        assert!(picture.starts_with(b"\x89PNG"));
        let wide = page.value("document.documentElement.scrollWidth <= innerWidth").await;
        assert_eq!(wide, true, "{name} is wider than {width} pixels");
        if std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
            let path = format!("{}/docs/console/{name}-{width}.png", env!("CARGO_MANIFEST_DIR"));
            std::fs::write(path, picture).expect("the picture can be written");
        }
    }
}

#[tokio::test]
async fn the_console_shows_a_service_and_changes_it() {
    let Some(mut page) = Page::open().await else { return };
    let folder = Folder::new("console");
    let served = with_data(&folder).await;
    let (mut sender, _) = connect_async(served.data_url("/telemetry")).await.expect("the endpoint is there");
    let mut sent = 0;
    let mut feed = async |rows: u32| {
        for _ in 0..rows {
            let row = json!({"device": format!("d{}", sent % 5), "temperature": 60 + sent % 40, "site": ATTACK});
            sender.send(Message::text(row.to_string())).await.expect("it is taken");
            sent += 1;
        }
    };
    feed(400).await;

    // A browser without a path is redirected here.
    page.go(&served.url("/")).await;
    page.until("location.pathname === '/console/'").await;
    page.until(&shows("Clients that were refused")).await;
    // Charts need two requests.
    page.until("document.querySelector('[data-series=in] path')").await;
    feed(200).await;
    page.until("document.querySelectorAll('[data-series=in] path.line')[0].getAttribute('d').split('L').length > 2")
        .await;
    pictures(&mut page, "overview").await;

    open(&mut page, &served, "rules", &shows("silent")).await;
    assert_eq!(page.value("document.querySelectorAll('tbody tr').length").await, 4);
    page.fill("input[type=search]", "sil").await;
    page.until("document.querySelectorAll('tbody tr').length === 1").await;
    page.fill("input[type=search]", "").await;
    pictures(&mut page, "rules").await;

    open(&mut page, &served, "rules/silent", &shows("did you mean temperature?")).await;
    page.until("document.querySelectorAll('.graph rect').length >= 4").await;
    page.until(&shows("None is connected.")).await;
    pictures(&mut page, "rule").await;
    open(&mut page, &served, "rules/wrong", &shows("Errors of op_3_project")).await;
    page.until(&shows("onerror")).await;

    open(&mut page, &served, "rules/hot", &shows("Rows as they pass")).await;
    page.click("section .bar button").await;
    page.until(&shows("waiting for rows")).await;
    feed(40).await;
    page.until("document.querySelectorAll('[data-tap] div').length > 5").await;
    page.click("[data-key=stop]").await;
    page.until(&shows("Rule hot was stopped.")).await;
    page.click("[data-key=start]").await;
    page.until(&shows("Rule hot was started")).await;

    open(&mut page, &served, "catalog", &shows("telemetry")).await;
    open(&mut page, &served, "streams/telemetry", &shows("temperature")).await;
    page.until(&shows("100 %")).await;
    open(&mut page, &served, "views/fleet", "document.querySelectorAll('[data-view] tbody tr').length === 5").await;
    feed(5).await;
    pictures(&mut page, "view").await;
    open(&mut page, &served, "log", "document.querySelector('[data-log]')").await;

    edit(&mut page, &served).await;
    assert_eq!(page.value("window.attacked === undefined").await, true);
    assert!(page.complaints.is_empty(), "{:?}", page.complaints);
}

#[tokio::test]
async fn the_console_of_a_run_shows_it_and_offers_no_change() {
    let Some(mut page) = Page::open().await else { return };
    let view = "CREATE VIEW fleet WITH (KEY=\"device\") AS SELECT device, temperature FROM telemetry";
    let rule =
        |id: &str, sql: &str| json!({"id": id, "sql": sql, "actions": [{"websocket": {"path": format!("/{id}")}}]});
    let rules = json!({
        "streams": [stream("telemetry", "", "")],
        "views": [view],
        "rules": [rule("hot", "SELECT * FROM telemetry WHERE temperatur > 75"), rule("all", "SELECT * FROM telemetry")],
    });
    let port = free_port();
    let mut plutino = Plutino::run("console-looks", &rules, &[&format!("--console={port}")]).await;
    let console = format!("http://127.0.0.1:{port}/console/");
    let mut sender = plutino.connect("/telemetry").await;
    for n in 0..20 {
        let row = json!({"device": format!("d{}", n % 4), "temperature": n});
        sender.send(Message::text(row.to_string())).await.expect("it is taken");
    }
    for (path, ready) in [
        ("", shows("Clients that were refused")),
        ("rules", shows("hot")),
        ("rules/hot", shows("did you mean temperature?")),
        ("edit", "document.querySelector('.editor textarea')".to_owned()),
        ("catalog", shows("telemetry")),
        ("streams/telemetry", shows("temperature")),
        ("views/fleet", "document.querySelectorAll('[data-view] tbody tr').length === 4".to_owned()),
        ("log", "document.querySelector('[data-log]')".to_owned()),
    ] {
        page.go(&format!("{console}#/{path}")).await;
        page.until(&ready).await;
        // The page knows this after its first response.
        page.until("document.body.hasAttribute('data-read-only')").await;
        let hidden =
            "[...document.querySelectorAll('.changes')].every(one => getComputedStyle(one).display === 'none')";
        assert_eq!(page.value(hidden).await, true, "{path}");
    }
    page.go(&format!("{console}#/rules/all")).await;
    page.until(&shows("Rows as they pass")).await;
    page.until("document.querySelector('[data-key=stop]')").await;
    let hidden = "getComputedStyle(document.querySelector('[data-key=stop]').parentElement).display === 'none'";
    assert_eq!(page.value(hidden).await, true);
    // Taps are allowed, because they change nothing.
    page.click("section .bar button").await;
    page.until(&shows("waiting for rows")).await;
    sender.send(Message::text(r#"{"device":"tapped"}"#)).await.expect("it is taken");
    page.until(&shows("tapped")).await;
    assert!(page.complaints.is_empty(), "{:?}", page.complaints);
    plutino.terminate();
    assert_eq!(plutino.exit_code().await, Some(0));
}

/// A statement with an error, a correct one, a trial of it, and the rule made from it.
async fn edit(page: &mut Page, served: &Served) {
    open(page, served, "edit", "document.querySelector('.editor textarea')").await;
    page.until(&shows("Trial run")).await;
    page.fill(".editor textarea", "SELECT temperature,\n  nosuch(device) AS d\nFROM telemetry").await;
    page.until("document.querySelector('.editor .wrong')?.textContent === 'nosuch'").await;
    page.until(&format!("document.querySelector('[data-checks]').innerText.includes({})", Value::from("2:3"))).await;
    page.fill(".editor textarea", "SELECT temperature * 2 AS twice FROM telemetry WHERE temper").await;
    page.until("[...document.querySelectorAll('.menu li')].some(item => item.innerText.includes('temperature'))").await;
    page.fill(".editor textarea", "SELECT temperature * 2 AS twice FROM telemetry WHERE temperature > 5").await;
    page.until("!document.querySelector('.editor .wrong')").await;
    page.until(&shows("Nothing is wrong.")).await;
    page.fill("textarea[placeholder]", "{\"temperature\": 3}\n{\"temperature\": 21}").await;
    page.click("[data-try]").await;
    page.until("document.querySelector('[data-trial]').innerText.includes('42')").await;
    assert_eq!(page.value("document.querySelector('[data-trial]').innerText.includes('6')").await, false);
    pictures(page, "editor").await;
    page.fill("input[name=id]", "made").await;
    page.click("[data-save]").await;
    page.until(&shows("Rule made was created successfully.")).await;
    let status = served.asks("GET", "/rules/made/status", &Value::Null).await.json();
    assert_eq!(status["status"], "running");
}
