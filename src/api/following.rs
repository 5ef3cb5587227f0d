//! The API of a process that takes orders (`serve --hosts`): it answers what it knows itself, and redirects everything
//! else to process 0.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};

use super::guard::{self, Guarded};
use super::{Keys, auth, details, heavy, info, prometheus, redirect, rules};
use crate::service::Service;

/// The routes of a process that takes orders; `leader` is the URL of process 0.
pub fn following_app(service: Service, keys: Option<Arc<Keys>>, leader: &str) -> Router {
    let guarded = Guarded::new(&service);
    let leader: Arc<str> = leader.into();
    let elsewhere = move |request: Request| {
        let leader = leader.clone();
        async move { to_leader(&leader, &request) }
    };
    let routes = Router::new()
        .merge(info::routes_of_process())
        .merge(rules::status_routes())
        .merge(prometheus::routes())
        .route_layer(middleware::from_fn(details::details))
        .fallback(elsewhere.clone())
        .method_not_allowed_fallback(elsewhere)
        .with_state(service);
    let routes = match keys {
        Some(keys) => routes.layer(middleware::from_fn_with_state(keys, auth::authenticate)),
        None => routes,
    };
    routes
        .layer(middleware::from_fn(redirect::to_clean))
        .layer(middleware::from_fn(heavy::bounded))
        .layer(middleware::from_fn_with_state(guarded, guard::guard))
}

/// Redirects a request to process 0.
fn to_leader(leader: &str, request: &Request) -> Response {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    match HeaderValue::from_str(&format!("{leader}{target}")) {
        Ok(location) => (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]).into_response(),
        Err(_) => StatusCode::BAD_REQUEST.into_response(),
    }
}
