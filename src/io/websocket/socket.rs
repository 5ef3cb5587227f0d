//! A TCP socket, plain or with TLS, that can move to another runtime.
//!
//! Handshakes run on the control runtime; then the connection lives on the data thread of its stream. A tokio socket is
//! bound to the reactor that made it, so it moves as a plain socket: [`Wire::detach`] on the old runtime,
//! [`Wire::attach`] on the new one. Bytes buffered by TLS or the websocket move with it.
//!
//! Writing to a socket fails if the peer accepts no bytes for the write timeout, no matter what is written: results,
//! pongs or a close frame.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsStream;

/// The byte stream of a websocket.
pub struct Wire {
    layer: Layer,
    /// bytes read too early, which are read again first
    early: Vec<u8>,
}

enum Layer {
    /// TCP
    Plain(Socket),
    /// TLS over TCP, either side
    Tls(Box<TlsStream<Socket>>),
}

/// A TCP socket, with or without a runtime.
pub struct Socket {
    place: Place,
    /// how long the peer may accept no bytes while some wait; `None`: for ever
    write_timeout: Option<Duration>,
    /// runs while bytes wait for the peer
    deadline: Option<Pin<Box<Sleep>>>,
}

enum Place {
    /// registered with the reactor that made or attached it
    Registered(TcpStream),
    /// between two runtimes
    Detached(std::net::TcpStream),
    /// after a failed move
    Lost,
}

impl Wire {
    /// A wire over TCP.
    pub fn plain(socket: Socket) -> Wire {
        Wire { layer: Layer::Plain(socket), early: Vec::new() }
    }

    /// A wire over TLS.
    pub fn tls(stream: impl Into<TlsStream<Socket>>) -> Wire {
        Wire { layer: Layer::Tls(Box::new(stream.into())), early: Vec::new() }
    }

    /// Returns bytes that were read beyond a handshake; they are read next.
    pub fn put_back(&mut self, bytes: Vec<u8>) {
        self.early.splice(..0, bytes);
    }

    /// Removes the socket from its runtime.
    ///
    /// # Errors
    /// Those of the reactor.
    pub fn detach(&mut self) -> io::Result<()> {
        let place = &mut self.socket().place;
        if let Place::Registered(_) = place
            && let Place::Registered(stream) = std::mem::replace(place, Place::Lost)
        {
            *place = Place::Detached(stream.into_std()?);
        }
        Ok(())
    }

    /// Adds the socket to the current runtime.
    ///
    /// # Errors
    /// Those of the reactor.
    pub fn attach(&mut self) -> io::Result<()> {
        let place = &mut self.socket().place;
        if let Place::Detached(_) = place
            && let Place::Detached(stream) = std::mem::replace(place, Place::Lost)
        {
            *place = Place::Registered(TcpStream::from_std(stream)?);
        }
        Ok(())
    }

    /// From now on writing fails with [`io::ErrorKind::TimedOut`] after the peer has accepted no bytes for `limit`.
    pub fn set_write_timeout(&mut self, limit: Option<Duration>) {
        self.socket().write_timeout = limit;
    }

    /// Limits the send buffer of the kernel to about `bytes`, if possible.
    pub fn limit_send_buffer(&mut self, bytes: usize) {
        if let Place::Registered(stream) = &self.socket().place
            && let Err(error) = socket2::SockRef::from(stream).set_send_buffer_size(bytes)
        {
            tracing::debug!(%error, "the send buffer of a socket keeps its size");
        }
    }

    fn socket(&mut self) -> &mut Socket {
        match &mut self.layer {
            Layer::Plain(socket) => socket,
            Layer::Tls(stream) => match &mut **stream {
                TlsStream::Client(stream) => stream.get_mut().0,
                TlsStream::Server(stream) => stream.get_mut().0,
            },
        }
    }
}

impl Socket {
    /// A socket of the current runtime.
    pub fn new(stream: TcpStream) -> Socket {
        Socket { place: Place::Registered(stream), write_timeout: None, deadline: None }
    }

    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        match &mut self.place {
            Place::Registered(stream) => Ok(Pin::new(stream)),
            Place::Detached(_) | Place::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// The result of an attempt to write, given how long the peer has accepted nothing.
    fn attempted(&mut self, cx: &mut Context<'_>, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let Some(limit) = self.write_timeout else { return wrote };
        if wrote.is_ready() {
            self.deadline = None;
            return wrote;
        }
        let deadline = || Box::pin(tokio::time::sleep_until(Instant::now() + limit));
        ready!(self.deadline.get_or_insert_with(deadline).as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = self.stream()?.poll_write(cx, buf);
        self.attempted(cx, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = self.stream()?.poll_write_vectored(cx, bufs);
        self.attempted(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        if !wire.early.is_empty() {
            let count = wire.early.len().min(buf.remaining());
            buf.put_slice(&wire.early[..count]);
            wire.early.drain(..count);
            return Poll::Ready(Ok(()));
        }
        match &mut wire.layer {
            Layer::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Layer::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().layer {
            Layer::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Layer::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().layer {
            Layer::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Layer::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().layer {
            Layer::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Layer::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().layer {
            Layer::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Layer::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
