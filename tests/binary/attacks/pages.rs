//! Web pages opened in a browser on a machine that can reach the REST API.

use serde_json::Value;

use crate::process::serve::{Answer, Folder, Served, ask, raw};

/// A request with these headers; `Host` is among them.
fn with_headers(served: &Served, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let head = format!(
        "{method} {path} HTTP/1.1\r\n{headers}Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    raw(&served.rest, head.as_bytes()).expect("an answer")
}

const STREAM: &str = r#"{"sql": "CREATE STREAM s () WITH (DATASOURCE=\"/s\", TYPE=\"websocket\")"}"#;

#[test]
fn a_name_that_leads_here_is_not_answered() {
    let folder = Folder::new("rebinding");
    folder.write("etc/plutino.yaml", "basic:\n  restHosts: [plutino.example]\n");
    let served = folder.serve();
    for host in ["evil.example", "evil.example:9081", "10.1.2.3", "localhost.evil.example"] {
        for (method, path) in [("GET", "/data/export"), ("POST", "/stop"), ("GET", "/"), ("OPTIONS", "/rules")] {
            let answer = with_headers(&served, method, path, &format!("Host: {host}\r\n"), "");
            assert_eq!(answer.status, 403, "{host} {method} {path}");
            assert!(answer.body.contains("basic.restHosts") || method == "HEAD", "{}", answer.body);
        }
    }
    // An absolute address in the request line names a host, too.
    let absolute = "GET http://evil.example/rules HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(raw(&served.rest, absolute.as_bytes()).expect("an answer").status, 403);
    for host in ["localhost", "127.0.0.1:1", "[::1]:9081", "plutino.example:80", "PLUTINO.EXAMPLE"] {
        assert_eq!(with_headers(&served, "GET", "/rules", &format!("Host: {host}\r\n"), "").status, 200, "{host}");
    }
}

#[test]
fn two_hosts_are_not_one() {
    let folder = Folder::new("hosts");
    let served = folder.serve();
    for headers in ["Host: localhost\r\nHost: localhost\r\n", "Host: localhost\r\nHost: evil.example\r\n", ""] {
        assert_eq!(with_headers(&served, "GET", "/rules", headers, "").status, 400, "{headers:?}");
    }
}

#[test]
fn a_page_of_a_stranger_neither_reads_nor_changes() {
    let folder = Folder::new("origin");
    let served = folder.serve();
    for page in ["Origin: https://evil.example\r\n", "Origin: null\r\n", "Sec-Fetch-Site: cross-site\r\n"] {
        for (method, path, body) in [
            ("POST", "/streams", STREAM),
            ("POST", "/config/uploads", r#"{"name": "x", "content": "y"}"#),
            ("GET", "/data/export", ""),
            ("GET", "/metrics", ""),
            ("POST", "/stop", ""),
            ("GET", "/stop", ""),
            ("POST", "/batch/req", "[]"),
        ] {
            let answer = ask(&served.rest, method, path, &format!("{page}Content-Type: text/plain\r\n"), body);
            let answer = answer.expect("an answer");
            assert_eq!(answer.status, 403, "{page} {method} {path}: {}", answer.body);
            assert!(!answer.headers.contains_key("access-control-allow-origin"), "{path}");
        }
    }
    // An image on a page, where the browser sends no origin: it must not stop anything.
    let image = "User-Agent: Mozilla/5.0\r\nAccept: image/*\r\n";
    assert_eq!(ask(&served.rest, "GET", "/stop", image, "").expect("an answer").status, 405);
    assert_eq!(served.get("/streams"), Value::Array(Vec::new()));
    assert!(!served.ask("GET", "/streams", &Value::Null).headers.contains_key("access-control-allow-origin"));
}

#[test]
fn a_page_that_is_allowed_sends_json() {
    let folder = Folder::new("own-page");
    folder.write("etc/plutino.yaml", "basic:\n  restOrigins: ['https://board.example/']\n");
    let served = folder.serve();
    let own = format!("Origin: http://{}\r\nSec-Fetch-Site: same-origin\r\n", served.rest);
    let board = "Origin: https://board.example\r\nSec-Fetch-Site: cross-site\r\n";
    for (page, status) in [(own.as_str(), 201), (board, 400)] {
        let send = |kind: &str| {
            let headers = format!("{page}Content-Type: {kind}\r\n");
            ask(&served.rest, "POST", "/streams", &headers, STREAM).expect("an answer")
        };
        for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
            assert_eq!(send(kind).status, 415, "{kind}");
        }
        assert_eq!(send("application/json; charset=utf-8").status, status);
        let origin = page.lines().next().and_then(|line| line.strip_prefix("Origin: ")).expect("it has an origin");
        let listed = ask(&served.rest, "GET", "/streams", page, "").expect("an answer");
        assert_eq!(listed.headers.get("access-control-allow-origin").map(String::as_str), Some(origin));
        assert_eq!(listed.headers.get("vary").map(String::as_str), Some("origin"));
    }
    let wanted = "Access-Control-Request-Method: PUT\r\nAccess-Control-Request-Headers: content-type\r\n";
    let preflight =
        |page: &str| ask(&served.rest, "OPTIONS", "/rules/r", &format!("{page}{wanted}"), "").expect("an answer");
    let answer = preflight(board);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers.get("access-control-allow-methods").map(String::as_str), Some("PUT"));
    assert_eq!(preflight("Origin: https://evil.example\r\n").status, 403);
    let form = "--x\r\nContent-Disposition: form-data; name=\"uploadFile\"; filename=\"f\"\r\n\r\nhi\r\n--x--\r\n";
    let headers = format!("{own}Content-Type: multipart/form-data; boundary=x\r\n");
    assert_eq!(ask(&served.rest, "POST", "/config/uploads", &headers, form).expect("an answer").status, 201);
}

#[test]
fn any_page_is_no_setting() {
    let folder = Folder::new("any-page");
    folder.write("etc/plutino.yaml", "basic:\n  restOrigins: ['*']\n");
    let said = folder.refused();
    assert!(said.contains("restOrigins") && said.contains("each by its name"), "{said}");
}
