//! `/openapi.json` against the running routes: every route is described, everything described exists, and responses are
//! among the described ones.

use std::collections::{BTreeMap, BTreeSet};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use plutino::api;
use plutino::config::Config;
use plutino::io::websocket::ServerSettings;
use plutino::service::{Service, ServiceSettings};
use serde_json::Value;
use tower::ServiceExt;

use crate::process::serve::Folder;

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// The service whose routes are asked.
async fn service(folder: &Folder) -> Service {
    let server = ServerSettings { ip: "127.0.0.1".to_owned(), port: 0, ..ServerSettings::default() };
    let config = Config { server, ..Config::default() };
    Service::open(ServiceSettings { config, data: folder.path("data"), workers: 1, cluster: None })
        .await
        .expect("it opens")
}

async fn ask(app: &Router, method: &str, path: &str, body: &str) -> (StatusCode, String) {
    let request = Request::builder().method(method.to_uppercase().as_str()).uri(path).header("host", "localhost");
    let request = request.body(Body::from(body.to_owned())).expect("a request");
    let answer = app.clone().oneshot(request).await.expect("an answer");
    let status = answer.status();
    // A tap of a missing rule ends at once; no other response is endless.
    let body = to_bytes(answer.into_body(), 64 << 20).await.expect("a body");
    (status, String::from_utf8_lossy(&body).into_owned())
}

/// The routes of a router, as it names them when it is printed.
fn routes(app: &Router) -> BTreeSet<String> {
    let printed = format!("{app:?}");
    let quoted = printed.split('"').skip(1).step_by(2);
    quoted.filter(|text| text.starts_with('/') && !text.contains("__private")).map(str::to_owned).collect()
}

/// A path with each placeholder filled in.
fn filled(path: &str) -> String {
    let step = |step: &str| if step.starts_with('{') { "x".to_owned() } else { step.to_owned() };
    path.split('/').map(step).collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn the_description_says_what_the_routes_do() {
    let folder = Folder::new("openapi");
    let service = service(&folder).await;
    let app = api::app(service.clone(), None, false);
    let (status, text) = ask(&app, "get", "/openapi.json", "").await;
    assert_eq!(status, StatusCode::OK);
    let document: Value = serde_json::from_str(&text).expect("JSON");
    // For the validator of `.ci/run`.
    std::fs::write(format!("{}/openapi.json", env!("CARGO_TARGET_TMPDIR")), &text).expect("it can be written");
    let described: BTreeMap<String, Value> =
        document["paths"].as_object().expect("paths").iter().map(|(path, of)| (path.clone(), of.clone())).collect();
    let there = routes(&app);
    assert!(there.len() > 60, "the router names its routes no more: {there:?}");
    let missing: Vec<&String> = there.iter().filter(|path| !described.contains_key(*path)).collect();
    assert!(missing.is_empty(), "not described: {missing:?}");
    let gone: Vec<&String> = described.keys().filter(|path| !there.contains(*path)).collect();
    assert!(gone.is_empty(), "described and not there: {gone:?}");
    let mut wrong = Vec::new();
    for (path, operations) in &described {
        for method in METHODS {
            let operation = &operations[method];
            let body = match &operation["requestBody"]["content"]["application/json"]["example"] {
                Value::Null => String::new(),
                example => example.to_string(),
            };
            // Requests that would end the service, or make it connect elsewhere, have no body.
            let body = if path.contains("import") || path.contains("connection") { "{".to_owned() } else { body };
            let (status, text) = ask(&app, method, &filled(path), &body).await;
            if operation.is_null() {
                // A path such as `/rules/validate` also matches `/rules/{id}`, and is answered as that.
                let of_kind = path.starts_with("/rules/") && status != StatusCode::METHOD_NOT_ALLOWED;
                if status != StatusCode::METHOD_NOT_ALLOWED && !of_kind {
                    wrong.push(format!("{method} {path} is there ({status}) and not described"));
                }
                continue;
            }
            if status == StatusCode::METHOD_NOT_ALLOWED && path != "/stop" {
                wrong.push(format!("{method} {path} is described and not there"));
            }
            if operation["responses"][status.as_str()].is_null() {
                wrong.push(format!("{method} {path} answers {status}, which is not described: {text}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    service.stop().await;
}
