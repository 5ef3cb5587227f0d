//! The example page of live views in a real browser.

use std::path::Path;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::browser::chromium::Page;
use crate::process::{Plutino, send};

/// Serves the files of the repository; returns the port.
async fn serve_files() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("it is bound").port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = vec![0; 8 * 1024];
                let read = socket.read(&mut request).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&request[..read]).into_owned();
                let path = head.split(' ').nth(1).unwrap_or("/").split('?').next().unwrap_or("/").to_owned();
                let path = if path.ends_with('/') { format!("{path}index.html") } else { path };
                let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path.trim_start_matches('/'));
                let kind = if path.ends_with(".js") { "text/javascript" } else { "text/html" };
                let (status, body) = match std::fs::read(file) {
                    Ok(body) => ("200 OK", body),
                    Err(_) => ("404 Not Found", Vec::new()),
                };
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                let _ = socket.write_all(head.as_bytes()).await;
                let _ = socket.write_all(&body).await;
            });
        }
    });
    port
}

#[tokio::test]
async fn the_example_page_follows_its_views() {
    let rules = include_str!("../../../examples/live/rules.yaml");
    let rules: Value = serde_saphyr::from_str(rules).expect("the example is YAML");
    let plutino = Plutino::run("live-browser", &rules, &[]).await;
    let files = serve_files().await;
    let url = format!("http://127.0.0.1:{files}/examples/live/?server=ws://127.0.0.1:{}/live", plutino.port);
    let Some(mut page) = Page::open().await else { return };
    page.go(&url).await;
    const FLEET: &str = "[...document.querySelectorAll('#fleet tr')].map(row => [...row.cells].map(cell => cell.textContent).join(' '))";
    page.becomes("document.getElementById('state')?.textContent", &json!("open")).await;
    let mut telemetry = plutino.connect("/telemetry").await;
    for (device, site, temperature) in [(2, "oslo", 20.5), (1, "cork", 7.5), (2, "oslo", 19.5)] {
        let message = json!({"deviceId": device, "site": site, "temperature": temperature});
        send(&mut telemetry, message.to_string()).await;
    }
    page.becomes(FLEET, &json!(["1 cork 7.5 7.5 1", "2 oslo 19.5 20.5 2"])).await;
    page.value("{ const site = document.getElementById('site'); site.value = 'oslo'; site.onchange(); }").await;
    page.becomes(FLEET, &json!(["2 oslo 19.5 20.5 2"])).await;
    send(&mut telemetry, r#"{"deviceId":2,"site":"pune","temperature":1}"#).await;
    page.becomes(FLEET, &json!([])).await;
    // The candle of the open window moves with each trade.
    let mut trades = plutino.connect("/trades").await;
    for (price, shown) in [
        (10, "open 10, high 10, low 10, close 10, volume 5"),
        (12, "open 10, high 12, low 10, close 12, volume 10"),
        (9, "open 10, high 12, low 9, close 9, volume 15"),
    ] {
        send(&mut trades, json!({"symbol":"ACME","price":price,"size":5,"ts":1_000_000}).to_string()).await;
        page.becomes("document.getElementById('last').textContent", &json!(shown)).await;
    }
    page.becomes("document.querySelectorAll('#candles rect').length", &json!(1)).await;
}
