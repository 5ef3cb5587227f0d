//! Clients of live views that connect to a process without the views.
//!
//! All processes of a cluster have the paths of the views; process 0 has their rows. Another process checks a client's
//! TLS, origin and token as usual. Then it opens a connection to process 0, sends the client's address and claims, and
//! copies bytes in both directions, beginning with the client's request. Process 0 serves the request as if the client
//! had connected there. Bytes that one end does not read wait in the sockets, so nothing grows, and a client that reads
//! nothing is dropped like one of process 0.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;

use super::connection::refuse;
use super::live::{IDLE, Place};
use super::socket::Wire;
use crate::framing;
use crate::view::Identity;

/// Opens a connection to process 0.
pub type Passage = Arc<dyn Fn() -> BoxFuture<'static, io::Result<TcpStream>> + Send + Sync>;

/// Describes a client to process 0. It is shorter than the longest document of [`framing`]: the token with the claims
/// was in the head of a request.
#[derive(Serialize, Deserialize)]
pub(super) struct Introduction {
    pub from: SocketAddr,
    pub identity: Identity,
}

/// A client that passed the checks and will be served by process 0.
pub(super) struct HandedOver {
    pub wire: Wire,
    /// the bytes that it has sent: its request
    pub sent: Vec<u8>,
    pub from: SocketAddr,
    pub identity: Identity,
}

impl HandedOver {
    /// Hands the client over, and copies bytes until one side ends. Runs on a data thread; the socket is detached
    /// before.
    pub async fn go(self, passage: Passage, place: Place) {
        let from = self.from;
        if let Err(error) = self.travel(&passage).await {
            tracing::debug!(client = %from, %error, "a client that was handed over to process 0 has disconnected");
        }
        drop(place);
    }

    async fn travel(mut self, passage: &Passage) -> io::Result<()> {
        self.wire.attach()?;
        self.wire.set_write_timeout(Some(IDLE));
        let introduction = Introduction { from: self.from, identity: self.identity };
        let mut stream = match introduce(passage, &introduction, &self.sent).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(client = %self.from, %error, "cannot hand a client over to process 0");
                let text = "process 0, which has the views, does not answer: try again later\n";
                return refuse(&mut self.wire, "503 Service Unavailable", text).await;
            }
        };
        copy_bidirectional(&mut self.wire, &mut stream).await.map(drop)
    }
}

/// Opens a connection to process 0, and sends the introduction and the request of a client.
async fn introduce(passage: &Passage, introduction: &Introduction, sent: &[u8]) -> io::Result<TcpStream> {
    let mut stream = passage().await?;
    framing::send(&mut stream, introduction).await?;
    stream.write_all(sent).await?;
    Ok(stream)
}
