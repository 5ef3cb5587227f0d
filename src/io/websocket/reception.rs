//! Clients of live views that another process hands over to this one, which has the views.

use std::io;

use tokio::net::TcpStream;

use super::handover::{Introduction, Passage};
use super::server;
use super::socket::{Socket, Wire};
use super::{Hub, Websockets};
use crate::framing;

impl Websockets {
    /// Hands clients of live views over by `passage`, to the process with the rows. Call it before anything is opened.
    pub fn hand_over_by(&self, passage: Passage) {
        let _ = self.hub.passage.set(passage);
    }

    /// Serves a client of live views that another process hands over, in its own task.
    pub fn take_over(&self, stream: TcpStream) {
        let hub = self.hub.clone();
        self.hub.control.spawn(async move { hub.take_over(stream).await });
    }
}

impl Hub {
    async fn take_over(&self, mut stream: TcpStream) {
        let Some(door) = self.registry.lock().await.server.as_ref().map(|server| server.door.clone()) else { return };
        let greeted = tokio::time::timeout(door.handshake_timeout, async {
            let Introduction { from, identity } = framing::receive(&mut stream).await?;
            let wire = Wire::plain(Socket::new(stream));
            io::Result::Ok((server::greet_handed(wire, from, identity, &door, &self.data).await?, from))
        });
        match greeted.await {
            Ok(Ok((Some(guest), from))) => server::attend(guest, from, &door, &self.data).await,
            Ok(Ok((None, _))) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a client that was handed over has disconnected"),
            Err(_) => tracing::debug!("a client was handed over without an introduction in time"),
        }
    }
}
