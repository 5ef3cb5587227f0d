//! Redirects paths with empty or dot segments (`//rules`, `/rules/./r1`) to their clean form.

use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Redirects to the clean form of the path, if it differs.
pub async fn to_clean(request: Request, next: Next) -> Response {
    let uri = request.uri();
    let Some(clean) = clean(uri.path()) else { return next.run(request).await };
    let target = match uri.query() {
        Some(query) => format!("{clean}?{query}"),
        None => clean,
    };
    match HeaderValue::from_str(&target) {
        Ok(target) => (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, target)]).into_response(),
        Err(_) => StatusCode::BAD_REQUEST.into_response(),
    }
}

/// The path without empty and dot segments; `None` if there are none. It begins with exactly one slash, so it cannot
/// name another host.
fn clean(path: &str) -> Option<String> {
    let steps = path.strip_prefix('/')?.split('/');
    let last = steps.clone().count() - 1;
    if !steps.clone().enumerate().any(|(at, step)| matches!(step, "." | "..") || (step.is_empty() && at < last)) {
        return None;
    }
    let mut kept: Vec<&str> = Vec::new();
    for step in steps {
        match step {
            "" | "." => {}
            ".." => drop(kept.pop()),
            step => kept.push(step),
        }
    }
    let slash = if path.ends_with('/') && !kept.is_empty() { "/" } else { "" };
    // Some clients treat a backslash as a slash.
    Some(format!("/{}{slash}", kept.join("/")).replace('\\', "%5C"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_clean() {
        let cases = [
            ("/", None),
            ("/rules", None),
            ("/rules/", None),
            ("/rules/a..b/.c", None),
            ("//rules", Some("/rules")),
            ("///", Some("/")),
            ("/rules//r1///status", Some("/rules/r1/status")),
            ("/rules//", Some("/rules/")),
            ("/rules/../streams/./x", Some("/streams/x")),
            ("/../../etc", Some("/etc")),
            ("//\\elsewhere.org", Some("/%5Celsewhere.org")),
            ("*", None),
        ];
        for (path, expected) in cases {
            assert_eq!(clean(path).as_deref(), expected, "{path}");
        }
    }
}
