//! Requests from web pages: eKuiper lets every origin ask, with a fixed list of methods and headers.

use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::HEAD];
const HEADERS: [&str; 6] = ["accept", "accept-language", "content-type", "content-language", "origin", "authorization"];

/// Answers preflights, and marks the answers to requests that name an origin.
pub async fn cors(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let origin = headers.contains_key(header::ORIGIN);
    let wanted = headers.get(header::ACCESS_CONTROL_REQUEST_METHOD).cloned();
    let any = (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    if let Some(method) = wanted.filter(|_| origin && request.method() == Method::OPTIONS) {
        if !METHODS.iter().any(|known| known.as_str().as_bytes() == method.as_bytes()) {
            return StatusCode::METHOD_NOT_ALLOWED.into_response();
        }
        let asked = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).map(HeaderValue::to_str);
        let asked = match asked.transpose() {
            Ok(asked) => asked.unwrap_or_default().to_ascii_lowercase(),
            Err(_) => return StatusCode::FORBIDDEN.into_response(),
        };
        let names: Vec<&str> = asked.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        if names.iter().any(|name| !HEADERS.contains(name)) {
            return StatusCode::FORBIDDEN.into_response();
        }
        let mut answer = ([any, (header::ACCESS_CONTROL_ALLOW_METHODS, method)], ()).into_response();
        if let Ok(names) = HeaderValue::from_str(&names.join(",")).map_err(|_| ())
            && !names.is_empty()
        {
            answer.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
        }
        return answer;
    }
    // Any path may be asked for what it can do. A page that asks has to say for which method.
    if request.method() == Method::OPTIONS {
        return if origin { StatusCode::BAD_REQUEST } else { StatusCode::OK }.into_response();
    }
    let mut answer = next.run(request).await;
    if origin {
        answer.headers_mut().insert(any.0, any.1);
    }
    answer
}
