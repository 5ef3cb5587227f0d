//! The `rest` sink: requests to a real server, a slow one, one that dies, and to addresses that it must not reach.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process::http::{HttpServer, Request};
use crate::process::serve::{Folder, LIMIT, Served, free_port};
use crate::process::{Client, send};

/// A service whose sinks may reach this machine, with a stream at `/in`.
async fn serve(folder: &Folder) -> Served {
    folder.write(
        "etc/plutino.yaml",
        "basic: {egressAllow: [127.0.0.1], logLevel: info}\nsource: {endpointLinger: 120s}\n",
    );
    let served = folder.serve();
    let stream = json!({"sql": "CREATE STREAM demo () WITH (TYPE=\"websocket\", DATASOURCE=\"/in\")"});
    served.asks("POST", "/streams", &stream).await.done();
    served
}

async fn rule(served: &Served, sql: &str, props: Value) -> Client {
    let rule = json!({"id": "r", "sql": sql, "actions": [{"rest": props}]});
    served.asks("POST", "/rules", &rule).await.done();
    tokio_tungstenite::connect_async(served.data_url("/in")).await.expect("the path is there").0
}

fn numbers(requests: &[Request]) -> Vec<i64> {
    requests
        .iter()
        .map(|request| serde_json::from_str::<Value>(&request.text()).expect("JSON")["n"].as_i64().expect("n"))
        .collect()
}

async fn send_numbers(client: &mut Client, numbers: std::ops::Range<i64>) {
    for n in numbers {
        send(client, json!({"n": n}).to_string()).await;
    }
}

#[tokio::test]
async fn messages_are_requests_in_order() {
    let (folder, server) = (Folder::new("rest"), HttpServer::start());
    let served = serve(&folder).await;
    let props = json!({"url": server.url("/hook"), "method": "post", "headers": {"X-Key": "k"}, "sendSingle": true});
    let mut client = rule(&served, "SELECT n FROM demo", props).await;
    send_numbers(&mut client, 0..200).await;
    let requests = server.wait_for(200);
    assert_eq!(numbers(&requests), (0..200).collect::<Vec<_>>());
    let first = &requests[0];
    assert_eq!((first.method.as_str(), first.path.as_str()), ("POST", "/hook"));
    assert_eq!((first.headers["content-type"].as_str(), first.headers["x-key"].as_str()), ("application/json", "k"));
    let status =
        served.status_when("all are delivered", |status| status["sink_rest_0_0_records_out_total"] == 200).await;
    assert_eq!(status["sink_rest_0_0_connection_status"], 1, "{status:#}");
    let page = served.asks("GET", "/rules/r", &Value::Null).await.body;
    assert!(page.contains("\"X-Key\":\"***\"") && !page.contains("\"k\""), "headers are secrets: {page}");
}

#[tokio::test]
async fn requests_stay_in_order_when_a_rule_stops_and_starts() {
    let (folder, gate) = (Folder::new("rest-order"), Arc::new((Mutex::new(false), Condvar::new())));
    let waits = gate.clone();
    // Nothing is answered before messages of the next start wait, too.
    let server = HttpServer::answering(move |_| {
        let (is_open, opened) = &*waits;
        let is_open = is_open.lock().expect("no panic");
        drop(opened.wait_while(is_open, |is_open| !*is_open).expect("no panic"));
        (200, String::new(), String::new())
    });
    let served = serve(&folder).await;
    let props = json!({"url": server.url("/"), "method": "post", "sendSingle": true});
    let mut client = rule(&served, "SELECT n FROM demo", props).await;
    let comes_in = |status: &Value| status["sink_rest_0_0_records_in_total"].as_u64();
    send_numbers(&mut client, 0..10).await;
    served.status_when("they wait", |status| comes_in(status) == Some(10)).await;
    for verb in ["stop", "start"] {
        served.asks("POST", &format!("/rules/r/{verb}"), &Value::Null).await.done();
    }
    let before = comes_in(&served.asks("GET", "/rules/r/status", &Value::Null).await.json()).expect("a number");
    send_numbers(&mut client, 10..20).await;
    served.status_when("the others wait", |status| comes_in(status) == Some(before + 10)).await;
    *gate.0.lock().expect("no panic") = true;
    gate.1.notify_all();
    let requests = server.until("the last one", |requests| numbers(requests).contains(&19));
    // What is not sent a while after the stop is lost, so that numbers may be missing.
    assert!(numbers(&requests).is_sorted(), "{:?}", numbers(&requests));
}

#[tokio::test]
async fn a_server_that_fails_does_not_delay_messages_for_others() {
    let (folder, good) = (Folder::new("rest-hosts"), HttpServer::start());
    let served = serve(&folder).await;
    // One takes nothing, one accepts connections and never answers, and one says that it is down, until it is not.
    let closed = format!("127.0.0.1:{}", free_port());
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let down = Arc::new(AtomicU64::new(3));
    let left = down.clone();
    let comes_back = HttpServer::answering(move |_| {
        let fails = left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok();
        (if fails { 500 } else { 200 }, String::new(), String::new())
    });
    let props = json!({
        "url": "http://{{.at}}/", "method": "post", "sendSingle": true, "timeout": "10m",
        "retry": {"initial": "20ms", "max": "20ms", "attempts": 5},
    });
    let mut client = rule(&served, "SELECT n, at FROM demo", props).await;
    let addresses = [
        closed,
        silent.local_addr().expect("it is bound").to_string(),
        comes_back.address.to_string(),
        good.address.to_string(),
    ];
    for n in 0..40 {
        for at in &addresses {
            send(&mut client, json!({"n": n, "at": at}).to_string()).await;
        }
    }
    assert_eq!(numbers(&good.wait_for(40)), (0..40).collect::<Vec<_>>());
    // In the order of each server: the first one is repeated until it is taken.
    let expected: Vec<i64> = [0; 3].into_iter().chain(0..40).collect();
    assert_eq!(numbers(&comes_back.wait_for(43)), expected);
    served.status_when("what nobody takes is counted", |status| status["lost"]["server error"] == 40).await;
}

#[tokio::test]
async fn properties_are_made_of_rows_and_bodies_of_templates() {
    let (folder, server) = (Folder::new("rest-dynamic"), HttpServer::start());
    let served = serve(&folder).await;
    let props = json!({
        "url": format!("{}/{{{{.id}}}}", server.url("/things")), "method": "{{.m}}", "bodyType": "text",
        "headers": {"X-Id": "no {{.id}}"}, "dataTemplate": "it is {{.id}}", "sendSingle": true,
    });
    let mut client = rule(&served, "SELECT * FROM demo", props).await;
    send(&mut client, r#"{"id":"a b","m":"put"}"#).await;
    send(&mut client, r#"{"id":"no method"}"#).await;
    send(&mut client, r#"{"id":"x","m":"trace"}"#).await;
    send(&mut client, r#"{"id":7,"m":"delete"}"#).await;
    let requests = server.wait_for(2);
    let shown: Vec<_> =
        requests.iter().map(|r| (r.method.as_str(), r.path.as_str(), r.headers["x-id"].as_str(), r.text())).collect();
    assert_eq!(
        shown,
        [
            ("PUT", "/things/a%20b", "no a b", "it is a b".to_owned()),
            ("DELETE", "/things/7", "no 7", "it is 7".to_owned())
        ]
    );
    let status = served
        .status_when("the two that are no requests are counted", |status| {
            status["sink_rest_0_0_dropped"]["invalid request"] == 1
        })
        .await;
    assert!(status.to_string().contains("gives nothing for this result"), "{status:#}");
    let rule = json!({"sql": "SELECT a, b FROM demo", "actions": [{"rest": {
        "url": server.url("/form"), "method": "post", "bodyType": "form", "sendSingle": true, "compression": "gzip",
    }}]});
    served.asks("PUT", "/rules/r", &rule).await.done();
    send(&mut client, r#"{"a":1,"b":"x y"}"#).await;
    let requests = server.wait_for(3);
    let form = &requests[2];
    assert_eq!(form.headers["content-type"], "application/x-www-form-urlencoded");
    assert_eq!(form.headers["content-encoding"], "gzip");
    let mut body = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(form.body.as_slice()), &mut body).expect("gzip");
    assert_eq!(body, "a=1&b=x+y");
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_refusals_are_not() {
    let tries = Arc::new(AtomicUsize::new(0));
    let tried = tries.clone();
    let server = HttpServer::answering(move |request| {
        let try_ = tried.fetch_add(1, Ordering::SeqCst);
        match (request.path.as_str(), try_) {
            ("/gone", _) => (404, String::new(), "no such thing\u{1b}[2J".to_owned()),
            (_, 0) => (503, "retry-after: 1\r\n".to_owned(), String::new()),
            (_, 1) => (429, String::new(), String::new()),
            (_, 2) => (500, String::new(), String::new()),
            _ => (204, String::new(), String::new()),
        }
    });
    let folder = Folder::new("rest-retry");
    let served = serve(&folder).await;
    let props = json!({"url": format!("http://{}/{{{{.p}}}}", server.address), "method": "post", "sendSingle": true});
    let mut client = rule(&served, "SELECT * FROM demo", props).await;
    let began = Instant::now();
    send(&mut client, r#"{"p":"ok","n":1}"#).await;
    server.wait_for(4);
    assert!(began.elapsed() >= Duration::from_secs(1), "Retry-After is honoured");
    send(&mut client, r#"{"p":"gone","n":2}"#).await;
    send(&mut client, r#"{"p":"ok","n":3}"#).await;
    let requests = server.wait_for(6);
    assert_eq!(numbers(&requests), [1, 1, 1, 1, 2, 3]);
    let status =
        served.status_when("the refusal is counted", |status| status["sink_rest_0_0_dropped"]["refused"] == 1).await;
    let error = status["sink_rest_0_0_last_exception"].as_str().expect("a text");
    assert!(error.contains("status 404: no such thing\\u{1b}[2J"), "{error}");
}

#[tokio::test]
async fn a_server_that_dies_gets_all_when_it_is_back() {
    let folder = Folder::new("rest-dies");
    // Nobody else gets the port while the server is away.
    let address = format!("127.0.0.1:{}", free_port());
    let server = HttpServer::at(&address, |_| (200, String::new(), String::new()));
    let served = serve(&folder).await;
    let props = json!({"url": server.url("/"), "method": "post", "sendSingle": true, "retry": {"max": "200ms"}});
    let mut client = rule(&served, "SELECT n FROM demo", props).await;
    send_numbers(&mut client, 0..10).await;
    server.wait_for(10);
    drop(server);
    send_numbers(&mut client, 10..60).await;
    // The sink may notice it before all messages have come.
    let wait = |status: &Value| status["sink_rest_0_0_buffer_length"].as_u64().expect("a number") >= 49;
    let is_away = |status: &Value| status["sink_rest_0_0_connection_status"] == -1;
    served.status_when("the server is away, and messages wait", |status| is_away(status) && wait(status)).await;
    let server = HttpServer::at(&address, |_| (200, String::new(), String::new()));
    assert_eq!(numbers(&server.wait_for(50)), (10..60).collect::<Vec<_>>());
    served.status_when("it is back", |status| status["sink_rest_0_0_connection_status"] == 1).await;
}

#[tokio::test]
async fn a_slow_server_holds_nobody_up_and_the_oldest_go() {
    let folder = Folder::new("rest-slow");
    let open = Arc::new((std::sync::Mutex::new(false), std::sync::Condvar::new()));
    let gate = open.clone();
    let server = HttpServer::answering(move |_| {
        let shut = gate.0.lock().expect("no panic");
        drop(gate.1.wait_timeout_while(shut, LIMIT, |open| !*open));
        (200, String::new(), String::new())
    });
    let served = serve(&folder).await;
    let props = json!({"url": server.url("/"), "method": "post", "sendSingle": true, "queue": 100, "timeout": "60s"});
    let mut client = rule(&served, "SELECT n FROM demo", props).await;
    let sent = 5000;
    send_numbers(&mut client, 0..sent).await;
    let counts = ["/sink_rest_0_0_buffer_length", "/sink_rest_0_0_dropped/queue full"];
    let count = |status: &Value, path: &str| status.pointer(path).and_then(Value::as_i64);
    let all_counted = |status: &Value| counts.iter().map(|path| count(status, path)).sum::<Option<i64>>() == Some(sent);
    let status = served.status_when("the rule has passed on all", all_counted).await;
    let dropped = count(&status, counts[1]).expect("a number");
    *open.0.lock().expect("no panic") = true;
    open.1.notify_all();
    let requests = server.until("the last one comes", |requests| numbers(requests).last() == Some(&(sent - 1)));
    let came = numbers(&requests);
    assert!(came.is_sorted() && came.len() as i64 == sent - dropped, "{}", came.len());
}

#[tokio::test]
async fn this_machine_is_reached_only_where_it_is_allowed() {
    let hits = Arc::new(AtomicU64::new(0));
    let counted = hits.clone();
    let secret = HttpServer::answering(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        (200, String::new(), String::new())
    });
    let target = secret.url("/secret");
    let server = HttpServer::answering(move |_| (307, format!("location: {target}\r\n"), String::new()));
    let folder = Folder::new("rest-egress");
    folder.write("etc/plutino.yaml", &format!("basic: {{egressAllow: ['{}']}}\n", server.address));
    let served = folder.serve();
    let stream = json!({"sql": "CREATE STREAM demo () WITH (TYPE=\"websocket\", DATASOURCE=\"/in\")"});
    served.asks("POST", "/streams", &stream).await.done();
    for url in [
        "http://127.0.0.1:1/",
        "http://localhost:1/x",
        "http://[::1]/",
        "http://169.254.169.254/latest",
        "http://0.0.0.0/",
    ] {
        let rule =
            json!({"id": "no", "sql": "SELECT * FROM demo", "actions": [{"rest": {"url": url, "method": "post"}}]});
        let answer = served.asks("POST", "/rules", &rule).await;
        assert!(answer.status == 400 && answer.body.contains("add it to basic.egressAllow"), "{url}: {}", answer.body);
    }
    let props = json!({"url": "{{.u}}", "method": "post", "sendSingle": true});
    let mut client = rule(&served, "SELECT * FROM demo", props).await;
    send(&mut client, json!({"u": secret.url("/a")}).to_string()).await;
    send(&mut client, json!({"u": server.url("/redirect")}).to_string()).await;
    let status = served
        .status_when("both are refused", |status| status["sink_rest_0_0_dropped"]["address not allowed"] == 2)
        .await;
    assert!(status["sink_rest_0_0_last_exception"].to_string().contains("basic.egressAllow"), "{status:#}");
    assert_eq!(hits.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_rule_file_may_name_this_machine() {
    let server = HttpServer::start();
    let folder = Folder::new("rest-run");
    folder.write("feed", "{\"n\":1}\n{\"n\":2}\n");
    let rules = json!({
        "streams": ["CREATE STREAM demo () WITH (TYPE=\"websocket\", DATASOURCE=\"/in\")"],
        "rules": [{"id": "r", "sql": "SELECT n FROM demo", "actions": [{"rest": {"url": server.url("/"), "method": "post", "sendSingle": true}}]}],
    });
    folder.write("rules.json", &rules.to_string());
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_plutino"))
        .args(["run", "rules.json", "--feed", "feed"])
        .current_dir(&folder.0)
        .env("KUIPER__SOURCE__HTTPSERVERIP", "127.0.0.1")
        .env("KUIPER__SOURCE__HTTPSERVERPORT", "0")
        .output()
        .await
        .expect("the binary starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(numbers(&server.requests()), [1, 2]);
}

#[tokio::test]
async fn tokens_are_fetched_renewed_and_asked_for_anew() {
    let folder = Folder::new("rest-oauth");
    // A token of a refresh; those of accesses are 0, 1, …
    let accesses = Arc::new(AtomicU64::new(0));
    let counted = accesses.clone();
    let server = HttpServer::answering(move |request| {
        let authorization = request.headers.get("authorization").map_or("", String::as_str);
        match request.path.as_str() {
            "/token" if request.text() != r#"{"user":"u"}"# => (400, String::new(), "who are you?".to_owned()),
            "/token" => {
                let number = counted.fetch_add(1, Ordering::Relaxed);
                let answer =
                    json!({"access_token": format!("t{number}"), "renew": {"by": "r"}, "expires_in": number * 3600});
                (200, String::new(), answer.to_string())
            }
            // The first token has no limit, and is refused after one message.
            "/hook" if request.text() == r#"{"n":1}"# && authorization == "Bearer t0" => {
                (401, String::new(), String::new())
            }
            "/hook" => (200, String::new(), String::new()),
            _ => (404, String::new(), String::new()),
        }
    });
    let served = serve(&folder).await;
    let oauth =
        |body: &str| json!({"access": {"url": server.url("/token"), "body": body, "expire": "{{.expires_in}}"}});
    let props = |body: &str| {
        json!({
            "url": server.url("/hook"), "method": "post", "sendSingle": true, "oAuth": oauth(body),
            "headers": {"Authorization": "Bearer {{.access_token}}", "X-Plain": "p"},
        })
    };
    let mut client = rule(&served, "SELECT n FROM demo", props(r#"{"user":"u"}"#)).await;
    send_numbers(&mut client, 0..3).await;
    let requests = server.until("all are delivered", |requests| {
        requests.iter().any(|request| request.path == "/hook" && request.text() == r#"{"n":2}"#)
    });
    let shown: Vec<(String, &str)> = requests
        .iter()
        .filter(|request| request.path == "/hook")
        .map(|request| (request.text(), request.headers["authorization"].as_str()))
        .collect();
    let expected = [("0", "t0"), ("1", "t0"), ("1", "t1"), ("2", "t1")]
        .map(|(n, token)| (format!("{{\"n\":{n}}}"), format!("Bearer {token}")));
    let shown: Vec<(String, String)> = shown.into_iter().map(|(text, token)| (text, token.to_owned())).collect();
    assert_eq!(shown, expected);
    assert!(requests.iter().filter(|request| request.path == "/hook").all(|request| request.headers["x-plain"] == "p"));
    let page = served.asks("GET", "/rules/r", &Value::Null).await.body;
    assert!(!page.contains("\"u\"") && !page.contains("/token"), "{page}");
    // If the token server refuses, nothing is sent without a token.
    let refused = json!({"sql": "SELECT n FROM demo", "actions": [{"rest": props(r#"{"user":"x"}"#)}]});
    served.asks("PUT", "/rules/r", &refused).await.done();
    send_numbers(&mut client, 3..4).await;
    let status = served.status_when("it is refused", |status| status["sink_rest_0_0_dropped"]["refused"] == 1).await;
    assert!(
        status["sink_rest_0_0_last_exception"].as_str().is_some_and(|error| error.contains("who are you?")),
        "{status:#}"
    );
    assert!(server.requests().iter().all(|request| request.text() != r#"{"n":3}"#));
}

#[tokio::test]
async fn a_message_is_the_file_of_a_form() {
    let (folder, server) = (Folder::new("rest-formdata"), HttpServer::start());
    let served = serve(&folder).await;
    let props = json!({
        "url": server.url("/upload"), "method": "post", "sendSingle": true, "bodyType": "formdata",
        "fileFieldName": "result", "formData": {"device": "no {{.n}}", "key": "k"},
    });
    let mut client = rule(&served, "SELECT n FROM demo", props).await;
    send_numbers(&mut client, 7..8).await;
    let requests = server.wait_for(1);
    let kind = &requests[0].headers["content-type"];
    let boundary = kind.strip_prefix("multipart/form-data; boundary=").expect("a boundary");
    let text = requests[0].text();
    let parts: Vec<&str> = text.split(boundary).collect();
    assert_eq!(parts.len(), 5, "{text}");
    assert!(parts[1].contains("name=\"result\"; filename=") && parts[1].contains("\r\n\r\n{\"n\":7}\r\n"), "{text}");
    assert!(text.contains("name=\"device\"\r\n\r\nno 7\r\n") && text.contains("name=\"key\"\r\n\r\nk\r\n"), "{text}");
    let page = served.asks("GET", "/rules/r", &Value::Null).await.body;
    assert!(!page.contains("\"k\""), "fields are secrets: {page}");
}

#[tokio::test]
async fn a_server_that_refuses_everything_is_a_finding() {
    let (folder, accepts) = (Folder::new("rest-refuses"), Arc::new(AtomicU64::new(0)));
    let open = accepts.clone();
    let server = HttpServer::answering(move |_| match open.load(Ordering::Acquire) {
        0 => (400, String::new(), "no such thing".to_owned()),
        _ => (200, String::new(), String::new()),
    });
    let served = serve(&folder).await;
    let props = json!({"url": server.url("/hook"), "method": "post", "sendSingle": true});
    let mut client = rule(&served, "SELECT n FROM demo", props).await;
    send_numbers(&mut client, 0..2).await;
    let found = |status: &Value, text: &str| {
        let first = &status["diagnosis"][0];
        first["cause"] == "undelivered" && first["message"].as_str().is_some_and(|message| message.starts_with(text))
    };
    let status =
        served.status_when("it is found", |status| found(status, "None of 2 results could be delivered")).await;
    let message = status["diagnosis"][0]["message"].as_str().expect("a text");
    assert!(message.contains("/hook: POST ") && message.ends_with("status 400: no such thing"), "{message}");
    assert_eq!(status["diagnosis"][0]["operator"], "sink");
    let status = served.asks("GET", "/rules/r/status?details", &Value::Null).await.json();
    assert!(status["sinks"][0]["lastError"].as_str().is_some_and(|error| error.contains("status 400")), "{status:#}");
    let overview = served.asks("GET", "/overview", &Value::Null).await.json();
    assert!(
        overview["rules"][0]["lastError"].as_str().is_some_and(|error| error.contains("status 400")),
        "{overview:#}"
    );
    // One that is delivered ends it, and a single one that is refused is not reported.
    accepts.store(1, Ordering::Release);
    send_numbers(&mut client, 2..3).await;
    let is_silent = |status: &Value| status["diagnosis"] == json!([]);
    served.status_when("one is delivered", |status| is_silent(status)).await;
    accepts.store(0, Ordering::Release);
    send_numbers(&mut client, 3..4).await;
    let refused = |status: &Value| status["sink_rest_0_0_dropped"]["refused"].as_u64();
    let status = served.status_when("it is refused", |status| refused(status) == Some(3)).await;
    assert!(is_silent(&status), "{status:#}");
    send_numbers(&mut client, 4..6).await;
    served.status_when("three in a row", |status| found(status, "Not one of the last 3 results could be")).await;
}
