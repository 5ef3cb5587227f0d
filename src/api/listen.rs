//! Connections of the API: accepted, bounded in number, and ended when they keep the service waiting.
//!
//! A client that sends its request drop by drop, or none at all, holds a connection for [`HEAD_TIME`] and no longer.
//! Requests that are under way when the service ends are answered first.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt;

/// So long the head of a request may take, and so long a connection may wait for the next one.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// How many connections there are at most; further ones wait until one of them ends.
const CONNECTIONS: usize = 512;

/// The largest head of a request, in bytes.
const HEAD_SIZE: usize = 64 << 10;

/// Serves the connections of `listener` until `end` is there and the requests under way are answered.
pub async fn serve<L: Listener>(mut listener: L, app: Router, end: impl Future<Output = ()> + Send) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let (ending, _) = watch::channel(false);
    let mut end = std::pin::pin!(end);
    loop {
        // Nobody closes the semaphore.
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place,
            () = &mut end => break,
        };
        let (io, _) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut end => break,
        };
        let service = app.clone().map_request(|request: Request<Incoming>| request.map(Body::new));
        let mut ends = ending.subscribe();
        tokio::spawn(async move {
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(HEAD_SIZE);
            let mut connection =
                std::pin::pin!(server.serve_connection(TokioIo::new(io), TowerToHyperService::new(service)));
            let ended = tokio::select! {
                ended = &mut connection => ended,
                // An error means that `serve` itself is gone, and is as good as the news.
                () = async { drop(ends.wait_for(|ends| *ends).await) } => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!("a connection of the API ended: {error}");
            }
            drop(place);
        });
    }
    drop(listener);
    let _ = ending.send(true);
    ending.closed().await;
}
