//! The clients of a service: REST over one kept connection, and websockets that send prepared frames and count
//! messages. Both are minimal code over a socket, since they share the cores with the process under test.

use crate::failure::{Doing, Outcome, wrong};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

/// Silence after which waiting for a response fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to the REST API.
pub struct Rest {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Rest {
    /// Connects.
    pub fn connect(port: u16) -> Outcome<Rest> {
        Ok(Rest { stream: open(port)?, buffer: Vec::new() })
    }

    /// One call; any response other than 2xx is an error. Returns the body.
    pub fn call(&mut self, method: &str, path: &str, body: &str) -> Outcome<String> {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        self.stream.write_all(request.as_bytes()).doing("asking")?;
        self.buffer.clear();
        let mut chunk = [0; 16 * 1024];
        loop {
            if let Some((head, length)) = self.head()
                && self.buffer.len() >= head + length
            {
                let text = String::from_utf8_lossy(&self.buffer[head..]).into_owned();
                return match self.buffer.starts_with(b"HTTP/1.1 2") {
                    true => Ok(text),
                    false => wrong(format!("{method} {path}: {}", String::from_utf8_lossy(&self.buffer))),
                };
            }
            match self.stream.read(&mut chunk).doing("reading an answer")? {
                0 => return wrong(format!("{method} {path}: the connection was closed")),
                read => self.buffer.extend_from_slice(&chunk[..read]),
            }
        }
    }

    /// Length of the head, and of the body after it.
    fn head(&self) -> Option<(usize, usize)> {
        let end = self.buffer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = std::str::from_utf8(&self.buffer[..end]).ok()?.to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"))?.trim().parse().ok()?;
        Some((end, length))
    }
}

fn open(port: u16) -> Outcome<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).doing("connecting")?;
    stream.set_nodelay(true).doing("setting up a connection")?;
    stream.set_read_timeout(Some(PATIENCE)).doing("setting up a connection")?;
    Ok(stream)
}

/// A websocket.
pub struct Socket {
    stream: TcpStream,
    /// received bytes that were not parsed yet, and how much of them is a frame that was counted already
    buffer: Vec<u8>,
}

impl Socket {
    /// Connects to an endpoint as soon as it exists.
    pub fn connect(port: u16, path: &str) -> Outcome<Socket> {
        let until = Instant::now() + PATIENCE;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: cGx1dGlubyBsb2FkLi4uLg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        while Instant::now() < until {
            if let Ok(mut stream) = open(port) {
                stream.write_all(request.as_bytes()).doing("a handshake")?;
                let mut answer = Vec::new();
                let mut byte = [0];
                while !answer.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
                    answer.push(byte[0]);
                }
                if answer.starts_with(b"HTTP/1.1 101") {
                    return Ok(Socket { stream, buffer: Vec::new() });
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        wrong(format!("no websocket at {path}"))
    }

    /// Sends frames as they are.
    pub fn send(&mut self, frames: &[u8]) -> Outcome<()> {
        self.stream.write_all(frames).doing("sending messages")
    }

    /// Waits for this many messages; an error after a long silence.
    pub fn receive(&mut self, messages: u64) -> Outcome<()> {
        let mut chunk = vec![0; 256 * 1024];
        let mut seen = 0;
        while seen < messages {
            let read = self.stream.read(&mut chunk);
            match read {
                Ok(0) => return wrong(format!("the connection was closed after {seen} of {messages} results")),
                Ok(read) => self.buffer.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return wrong(format!("nothing more came after {seen} of {messages} results"));
                }
                Err(error) => return Err(error).doing("receiving results"),
            }
            let mut at = 0;
            while let Some(end) = frame_end(&self.buffer[at..]) {
                if matches!(self.buffer[at] & 0x0f, 1 | 2) {
                    seen += 1;
                }
                at += end;
            }
            self.buffer.drain(..at);
        }
        match seen == messages {
            true => Ok(()),
            false => wrong(format!("{seen} results instead of {messages}")),
        }
    }
}

/// The end of the first frame of a server, if it is complete.
fn frame_end(bytes: &[u8]) -> Option<usize> {
    let (header, length) = match (bytes.get(1)? & 0x7f, bytes) {
        (126, &[_, _, a, b, ..]) => (4, usize::from(u16::from_be_bytes([a, b]))),
        (126 | 127, _) => return None,
        (short, _) => (2, usize::from(short)),
    };
    (bytes.len() >= header + length).then_some(header + length)
}

/// Appends a text frame of a client, masked with zeros.
pub fn frame(payload: &str, frames: &mut Vec<u8>) {
    frames.push(0x81);
    match u16::try_from(payload.len()) {
        Ok(short @ 0..126) => frames.push(0x80 | short as u8),
        Ok(long) => {
            frames.push(0x80 | 126);
            frames.extend_from_slice(&long.to_be_bytes());
        }
        Err(_) => unreachable!("messages of the benchmark are short"),
    }
    frames.extend_from_slice(&[0; 4]);
    frames.extend_from_slice(payload.as_bytes());
}
