//! The console: pages for a browser at `/console/`, which are part of the binary.
//!
//! They are plain modules and one style sheet without a build step, and request nothing from other hosts. They use the
//! same routes as any client. The pages themselves need no token, since they contain nothing about this service; the
//! routes they use do. The content security policy lets no other script run, whatever is in a name or a message.

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::service::Service;

/// Where the pages are.
pub const PATH: &str = "/console/";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The files by name, each with its content type.
const FILES: &[(&str, &str, &str)] = &[
    ("", HTML, include_str!("console/index.html")),
    ("icon.svg", "image/svg+xml", include_str!("console/icon.svg")),
    ("style.css", CSS, include_str!("console/style.css")),
    ("api.js", SCRIPT, include_str!("console/api.js")),
    ("catalog.js", SCRIPT, include_str!("console/catalog.js")),
    ("chart.js", SCRIPT, include_str!("console/chart.js")),
    ("complete.js", SCRIPT, include_str!("console/complete.js")),
    ("dom.js", SCRIPT, include_str!("console/dom.js")),
    ("edit.js", SCRIPT, include_str!("console/edit.js")),
    ("editor.js", SCRIPT, include_str!("console/editor.js")),
    ("graph.js", SCRIPT, include_str!("console/graph.js")),
    ("highlight.js", SCRIPT, include_str!("console/highlight.js")),
    ("live.js", SCRIPT, include_str!("console/live.js")),
    ("log.js", SCRIPT, include_str!("console/log.js")),
    ("main.js", SCRIPT, include_str!("console/main.js")),
    ("overview.js", SCRIPT, include_str!("console/overview.js")),
    ("plutino-live.js", SCRIPT, include_str!("../../clients/js/plutino-live.js")),
    ("rule.js", SCRIPT, include_str!("console/rule.js")),
    ("rules.js", SCRIPT, include_str!("console/rules.js")),
    ("tap.js", SCRIPT, include_str!("console/tap.js")),
    ("trial.js", SCRIPT, include_str!("console/trial.js")),
    ("view.js", SCRIPT, include_str!("console/view.js")),
];

/// The routes of the console.
pub fn routes() -> Router<Service> {
    Router::new()
        .route("/console", get(to_console))
        .route("/console/", get(|headers: HeaderMap| async move { file("", &headers) }))
        .route(
            "/console/{file}",
            get(|Path(name): Path<String>, headers: HeaderMap| async move { file(&name, &headers) }),
        )
}

/// Redirects a browser to the pages.
pub async fn to_console() -> Response {
    (StatusCode::FOUND, [(header::LOCATION, PATH)]).into_response()
}

/// Whether a request comes from a browser that expects a page.
pub fn wants_page(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    accepted.split(',').any(|kind| kind.split(';').next().is_some_and(|kind| kind.trim() == "text/html"))
}

fn file(name: &str, headers: &HeaderMap) -> Response {
    let found = FILES.iter().find(|(known, ..)| *known == name);
    let Some((_, kind, text)) = found else {
        return (StatusCode::NOT_FOUND, "404 page not found\n").into_response();
    };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let policy =
        HeaderValue::from_str(&policy(host)).unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"));
    let mut answer = ([(header::CONTENT_TYPE, *kind)], *text).into_response();
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    answer
}

/// Allows only files of this service, and connections to it and to its data server, which has another port on the same
/// host.
fn policy(host: &str) -> String {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    // Anything but a host name is left out of the policy.
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || ".-[]:".contains(c));
    let data =
        if is_name { format!(" http://{name}:* https://{name}:* ws://{name}:* wss://{name}:*") } else { String::new() };
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'{data}; base-uri \
         'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size limit of all files together, bytes.
    const LARGEST: usize = 200 * 1024;

    #[test]
    fn the_files_are_small_and_name_each_other() {
        assert!(FILES.iter().map(|(.., text)| text.len()).sum::<usize>() <= LARGEST);
        for (name, kind, text) in FILES {
            for line in text.lines().filter(|_| *kind == SCRIPT) {
                let Some((_, rest)) = line.split_once(" from \"./") else { continue };
                let imported = rest.split('"').next().unwrap_or_default();
                assert!(FILES.iter().any(|(known, ..)| *known == imported), "{name} imports {imported}");
            }
            let foreign = ["http://", "https://"].iter().any(|scheme| {
                text.match_indices(scheme).any(|(at, _)| !text[at..].starts_with("http://www.w3.org/2000/svg"))
            });
            assert!(!foreign, "{name} names another host");
            assert!(!text.contains("innerHTML") && !text.contains("insertAdjacentHTML"), "{name} makes markup of text");
        }
    }

    #[test]
    fn the_policy_names_the_host_that_was_asked() {
        assert!(policy("localhost:9081").contains("connect-src 'self' http://localhost:* "));
        assert!(policy("[::1]:9081").contains("ws://[::1]:*"));
        assert!(policy("evil; script-src *").contains("connect-src 'self'; base-uri"));
    }

    #[test]
    fn browsers_want_pages() {
        let wants = |accept: &'static str| {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
            wants_page(&headers)
        };
        assert!(wants("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8") && wants("application/json, text/html;q=0.5"));
        assert!(!wants("*/*") && !wants("application/json") && !wants_page(&HeaderMap::new()));
    }
}
