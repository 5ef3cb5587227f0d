//! Clients of live views and the feed that changes them: minimal code over a socket, since they share the cores with
//! the process under test.

use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::failure::{Doing, Outcome, wrong};

/// What all clients have received.
pub struct Seen {
    pub deltas: AtomicU64,
    /// rows in deltas
    pub rows: AtomicU64,
    pub snapshots: AtomicU64,
    pub ready: AtomicU64,
    pub resumed: AtomicU64,
    /// from the time in a row to the time when it was read, µs
    pub latency: Mutex<Histogram<u64>>,
    /// the origin of the times in rows
    pub from: Instant,
}

impl Seen {
    pub fn new() -> Outcome<Seen> {
        let Ok(latency) = Histogram::new(3) else { return wrong("no histogram") };
        let count = AtomicU64::default;
        Ok(Seen {
            deltas: count(),
            rows: count(),
            snapshots: count(),
            ready: count(),
            resumed: count(),
            latency: Mutex::new(latency),
            from: Instant::now(),
        })
    }

    fn frame(&self, text: &[u8]) {
        let is = |kind: &[u8]| text.starts_with(kind);
        let add = |count: &AtomicU64, more: u64| count.fetch_add(more, Ordering::Relaxed);
        if is(b"{\"t\":\"delta\"") {
            add(&self.deltas, 1);
            let mut rows = 0;
            for at in memchr::memmem::find_iter(text, b"\"sent\":") {
                rows += 1;
                let digits = text[at + 7..].iter().take_while(|byte| byte.is_ascii_digit());
                let sent = digits.fold(0, |number: u64, digit| number * 10 + u64::from(digit - b'0'));
                let now = self.from.elapsed().as_micros() as u64;
                if sent > 0
                    && let Ok(mut latency) = self.latency.lock()
                {
                    latency.saturating_record(now.saturating_sub(sent));
                }
            }
            add(&self.rows, rows);
        } else if is(b"{\"t\":\"snapshot\"") {
            add(&self.snapshots, 1);
        } else if is(b"{\"t\":\"ready\"") {
            add(&self.ready, 1);
        } else if is(b"{\"t\":\"subscribed\"") && memchr::memmem::find(text, b"\"resumed\":true").is_some() {
            add(&self.resumed, 1);
        }
    }
}

/// A websocket.
pub struct Socket {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Socket {
    pub async fn connect(port: u16, path: &str) -> Outcome<Socket> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.doing("connecting")?;
        stream.set_nodelay(true).doing("setting up a connection")?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: cGx1dGlubyBsb2FkLi4uLg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.doing("a handshake")?;
        let mut buffer = Vec::new();
        loop {
            if stream.read_buf(&mut buffer).await.doing("a handshake")? == 0 {
                return wrong(format!("{path}: {}", String::from_utf8_lossy(&buffer)));
            }
            if let Some(end) = memchr::memmem::find(&buffer, b"\r\n\r\n") {
                if !buffer.starts_with(b"HTTP/1.1 101") {
                    return wrong(format!("{path}: {}", String::from_utf8_lossy(&buffer)));
                }
                buffer.drain(..end + 4);
                return Ok(Socket { stream, buffer });
            }
        }
    }

    /// Reads and counts frames until `until` is true for one; returns that frame. `None` at the end.
    pub async fn read(&mut self, seen: &Seen, until: impl Fn(&[u8]) -> bool) -> Outcome<Option<Vec<u8>>> {
        loop {
            let mut taken = 0;
            while let Some((from, to)) = frame(&self.buffer[taken..]) {
                let text = &self.buffer[taken + from..taken + to];
                taken += to;
                seen.frame(text);
                if until(text) {
                    let text = text.to_vec();
                    self.buffer.drain(..taken);
                    return Ok(Some(text));
                }
            }
            self.buffer.drain(..taken);
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return Ok(None),
                Ok(_) => {}
            }
        }
    }

    pub async fn send(&mut self, frames: &[u8]) -> Outcome<()> {
        self.stream.write_all(frames).await.doing("sending messages")
    }
}

/// The bounds of the text in the first frame of a server, if it is complete.
fn frame(bytes: &[u8]) -> Option<(usize, usize)> {
    let length = usize::from(bytes.get(1)? & 0x7f);
    let (from, length) = match length {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?),
        short => (2, short),
    };
    (bytes.len() >= from + length).then_some((from, from + length))
}

/// Appends a text as a client's frame; its mask is 0.
pub fn push_frame(frames: &mut Vec<u8>, text: &str) {
    frames.push(0x81);
    match text.len() {
        short @ 0..126 => frames.push(0x80 | short as u8),
        long => {
            frames.push(0x80 | 126);
            frames.extend_from_slice(&(long as u16).to_be_bytes());
        }
    }
    frames.extend_from_slice(&[0; 4]);
    frames.extend_from_slice(text.as_bytes());
}
