//! Headless Chromium, controlled over the DevTools protocol: opens, clicks and reads one page.

use std::process::Stdio;

use base64::Engine;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Duration, Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::process::serve::{Folder, LIMIT};

/// Names under which Chromium is installed.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

/// A browser with one page.
pub struct Page {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: String,
    calls: u64,
    /// errors thrown by the page, and requests that its policy blocked
    pub complaints: Vec<String>,
    _child: Child,
    _profile: Folder,
}

/// The browser's name; `None`, with a message, if there is none. With PLUTINO_REQUIRE_BROWSER=1 there must be one.
fn found() -> Option<String> {
    let given = std::env::var("CHROMIUM").ok();
    let runs = |name: &String| {
        let answer =
            std::process::Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        answer.is_ok_and(|status| status.success())
    };
    let found = given.into_iter().chain(NAMES.map(str::to_owned)).find(runs);
    if found.is_none() {
        assert!(std::env::var("PLUTINO_REQUIRE_BROWSER").as_deref() != Ok("1"), "Chromium is missing");
        eprintln!("skipped: Chromium is missing (install it, or name it in CHROMIUM)");
    }
    found
}

impl Page {
    /// Opens an empty page; `None` without a browser.
    pub async fn open() -> Option<Page> {
        let program = found()?;
        let profile = Folder::new("chromium");
        let mut child = Command::new(program)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0"])
            .arg(format!("--user-data-dir={}", profile.0.path().display()))
            .arg("about:blank")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the browser starts");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let address = timeout(LIMIT, async {
            loop {
                let line = lines.next_line().await.expect("a pipe").expect("the browser says where it listens");
                if let Some(at) = line.find("ws://") {
                    return line[at..].to_owned();
                }
            }
        });
        let address = address.await.expect("the browser starts in time");
        // Read to the end, so that the browser does not block on a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let (socket, _) = connect_async(address).await.expect("the browser is there");
        let (session, complaints) = (String::new(), Vec::new());
        let mut page = Page { socket, session, calls: 0, complaints, _child: child, _profile: profile };
        let target = page.call("Target.createTarget", json!({"url": "about:blank"})).await["targetId"].clone();
        let attached = page.call("Target.attachToTarget", json!({"targetId": target, "flatten": true})).await;
        page.session = attached["sessionId"].as_str().unwrap_or_default().to_owned();
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            page.call(domain, json!({})).await;
        }
        Some(page)
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.calls += 1;
        let id = self.calls;
        let mut call = json!({"id": id, "method": method, "params": params});
        if !self.session.is_empty() {
            call["sessionId"] = self.session.as_str().into();
        }
        self.socket.send(Message::text(call.to_string())).await.expect("the browser listens");
        timeout(LIMIT, async {
            loop {
                let message = self.socket.next().await.expect("the browser goes on").expect("the socket is whole");
                let Message::Text(text) = message else { continue };
                let answer: Value = serde_json::from_str(&text).expect("JSON");
                match answer["method"].as_str() {
                    Some("Runtime.exceptionThrown") => self.complaints.push(answer["params"].to_string()),
                    Some("Log.entryAdded") if answer["params"]["entry"]["source"] == "security" => {
                        self.complaints.push(answer["params"]["entry"]["text"].to_string());
                    }
                    _ => {}
                }
                if answer["id"] == id {
                    assert!(answer["error"].is_null(), "{method}: {answer}");
                    return answer["result"].clone();
                }
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{method} is not answered"))
    }

    /// Opens an address.
    pub async fn go(&mut self, url: &str) {
        self.call("Page.navigate", json!({"url": url})).await;
    }

    /// The value of a JavaScript expression.
    pub async fn value(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let answer = self.call("Runtime.evaluate", params).await;
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub async fn until(&mut self, expression: &str) {
        let begun = Instant::now();
        while self.value(&format!("Boolean({expression})")).await != true {
            if begun.elapsed() > Duration::from_secs(30) {
                let text = self.value("document.body.innerText").await;
                panic!("never: {expression}\n{}\n{:?}", text.as_str().unwrap_or_default(), self.complaints);
            }
            sleep(Duration::from_millis(30)).await;
        }
    }

    /// Waits until an expression has this value.
    pub async fn becomes(&mut self, expression: &str, wanted: &Value) {
        self.until(&format!("JSON.stringify({expression}) === {}", Value::from(wanted.to_string()))).await;
    }

    /// Replaces the text of a field.
    pub async fn fill(&mut self, field: &str, text: &str) {
        let (field, text) = (Value::from(field), Value::from(text));
        self.value(&format!(
            "(() => {{ const f = document.querySelector({field}); f.focus(); f.value = {text}; f.selectionStart = f.value.length; \
             f.dispatchEvent(new Event('input', {{bubbles: true}})); }})()"
        ))
        .await;
    }

    /// Clicks the element that a selector finds, once it exists.
    pub async fn click(&mut self, selector: &str) {
        let selector = Value::from(selector);
        self.until(&format!("document.querySelector({selector})")).await;
        self.value(&format!("document.querySelector({selector}).dispatchEvent(new MouseEvent('click', {{bubbles: true, cancelable: true}}))"))
            .await;
    }

    /// A screenshot of the page at this size.
    pub async fn picture(&mut self, width: u32, height: u32) -> Vec<u8> {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", size).await;
        let answer = self.call("Page.captureScreenshot", json!({"format": "png"})).await;
        let data = answer["data"].as_str().unwrap_or_default();
        base64::engine::general_purpose::STANDARD.decode(data).expect("base64")
    }
}
