//! The example page of live views in a real browser, steered over the DevTools protocol.
//!
//! Where there is no Chromium, the test says that it is skipped; with PLUTINO_REQUIRE_BROWSER=1 it fails instead.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use crate::process::{Client, LIMIT, Plutino, send};

const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// A page in a browser.
struct Page {
    devtools: Client,
    session: String,
    calls: u64,
    _browser: Child,
    profile: PathBuf,
}

impl Page {
    /// Opens a page; `None` where there is no browser.
    async fn open(url: &str) -> Option<Page> {
        let profile = std::env::temp_dir().join(format!("plutino-browser-{}", std::process::id()));
        let flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"];
        let start = |program: &&str| {
            let mut command = Command::new(program);
            command.args(flags).arg("--remote-debugging-port=0");
            command.arg(format!("--user-data-dir={}", profile.display())).arg("about:blank");
            command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).spawn().ok()
        };
        let mut browser = BROWSERS.iter().find_map(start)?;
        let mut said = BufReader::new(browser.stderr.take().expect("a pipe")).lines();
        let address = async {
            loop {
                let line = said.next_line().await.expect("it can be read").expect("the browser says where it listens");
                if let Some((_, address)) = line.split_once("DevTools listening on ") {
                    return address.trim().to_owned();
                }
            }
        };
        let address = timeout(3 * LIMIT, address).await.expect("the browser starts in time");
        // What else it says must not fill the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
        let devtools = connect_async(address).await.expect("DevTools take clients").0;
        let mut page = Page { devtools, session: String::new(), calls: 0, _browser: browser, profile };
        let target = page.call("Target.createTarget", json!({"url": url})).await["targetId"].clone();
        let attached = page.call("Target.attachToTarget", json!({"targetId": target, "flatten": true})).await;
        page.session = attached["sessionId"].as_str().expect("a session").to_owned();
        Some(page)
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.calls += 1;
        let mut call = json!({"id": self.calls, "method": method, "params": params});
        if !self.session.is_empty() {
            call["sessionId"] = json!(self.session);
        }
        self.devtools.send(Message::text(call.to_string())).await.expect("the browser runs");
        loop {
            let answer = timeout(LIMIT, self.devtools.next()).await.expect("an answer in time").expect("it goes on");
            let Message::Text(text) = answer.expect("the socket is whole") else { continue };
            let answer: Value = serde_json::from_str(&text).expect("answers are JSON");
            if answer["id"] == self.calls {
                return answer["result"].clone();
            }
        }
    }

    /// What an expression is in the page.
    async fn evaluate(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true});
        self.call("Runtime.evaluate", params).await["result"]["value"].clone()
    }

    /// Waits until an expression is so.
    async fn until(&mut self, expression: &str, wanted: Value) {
        let mut last = Value::Null;
        let reached = async {
            while last != wanted {
                last = self.evaluate(expression).await;
                tokio::task::yield_now().await;
            }
        };
        if timeout(LIMIT, reached).await.is_err() {
            let state = self.evaluate("document.getElementById('state')?.textContent").await;
            panic!("{expression} is {}, not {wanted}; the page says {state}", self.evaluate(expression).await);
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self._browser.start_kill();
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

/// Serves the files of the repository; gives the port.
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
    let Some(mut page) = Page::open(&url).await else {
        assert!(std::env::var("PLUTINO_REQUIRE_BROWSER").as_deref() != Ok("1"), "there is no Chromium");
        eprintln!("skipped: there is no Chromium");
        return;
    };
    const FLEET: &str = "[...document.querySelectorAll('#fleet tr')].map(row => [...row.cells].map(cell => cell.textContent).join(' '))";
    page.until("document.getElementById('state')?.textContent", json!("open")).await;
    let mut telemetry = plutino.connect("/telemetry").await;
    for (device, site, temperature) in [(2, "oslo", 20.5), (1, "cork", 7.5), (2, "oslo", 19.5)] {
        let message = json!({"deviceId": device, "site": site, "temperature": temperature});
        send(&mut telemetry, message.to_string()).await;
    }
    page.until(FLEET, json!(["1 cork 7.5 7.5 1", "2 oslo 19.5 20.5 2"])).await;
    page.evaluate("{ const site = document.getElementById('site'); site.value = 'oslo'; site.onchange(); }").await;
    page.until(FLEET, json!(["2 oslo 19.5 20.5 2"])).await;
    send(&mut telemetry, r#"{"deviceId":2,"site":"pune","temperature":1}"#).await;
    page.until(FLEET, json!([])).await;
    // The candle of the open window moves with each trade.
    let mut trades = plutino.connect("/trades").await;
    for (price, shown) in [
        (10, "open 10, high 10, low 10, close 10, volume 5"),
        (12, "open 10, high 12, low 10, close 12, volume 10"),
        (9, "open 10, high 12, low 9, close 9, volume 15"),
    ] {
        send(&mut trades, json!({"symbol":"ACME","price":price,"size":5,"ts":1_000_000}).to_string()).await;
        page.until("document.getElementById('last').textContent", json!(shown)).await;
    }
    page.until("document.querySelectorAll('#candles rect').length", json!(1)).await;
}
