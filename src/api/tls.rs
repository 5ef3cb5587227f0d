//! The REST API's port where it speaks TLS: handshakes go on beside each other, bounded in number and time, so that one
//! slow client does not keep the others waiting.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;

/// Handshakes that may go on at a time; further connections wait in the listener's queue.
const HANDSHAKES: usize = 128;

/// How long a handshake may take.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// A port that speaks TLS. Its task ends with it.
pub struct TlsPort {
    address: SocketAddr,
    greeted: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    task: JoinHandle<()>,
}

impl TlsPort {
    /// Speaks TLS on a port that is bound.
    ///
    /// # Errors
    /// Those of the system.
    pub fn new(listener: TcpListener, config: Arc<ServerConfig>) -> io::Result<TlsPort> {
        let address = listener.local_addr()?;
        let (greet, greeted) = mpsc::channel(HANDSHAKES);
        let task = tokio::spawn(accept(listener, config.into(), greet));
        Ok(TlsPort { address, greeted, task })
    }
}

impl Drop for TlsPort {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listener for TlsPort {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.greeted.recv().await {
            Some(greeted) => greeted,
            // The task runs as long as this is there.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

async fn accept(mut listener: TcpListener, tls: TlsAcceptor, greet: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
        // As a listener of axum: what goes wrong with one connection is waited out.
        let (stream, from) = Listener::accept(&mut listener).await;
        let (tls, greet) = (tls.clone(), greet.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE_TIME, tls.accept(stream)).await {
                Ok(Ok(stream)) => drop(greet.send((stream, from)).await),
                Ok(Err(error)) => tracing::debug!(client = %from, %error, "TLS handshake of the API failed"),
                Err(_) => tracing::debug!(client = %from, "TLS handshake of the API took too long"),
            }
            drop(permit);
        });
    }
}
