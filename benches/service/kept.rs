//! The cost of keeping messages until a peer has received them: the same feed to a connected peer, with and without
//! `enableCache`.

use crate::client::{Rest, Socket, frame};
use crate::failure::{Doing, Outcome, wrong};
use crate::{Options, STREAM, Served};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Messages a second.
const PACE: usize = 100_000;

/// How long each measurement takes.
const TIME: Duration = Duration::from_secs(5);

/// How often a chunk is sent.
const CHUNK: Duration = Duration::from_millis(5);

/// CPU time per message, µs: without and with `enableCache`. Rounds alternate; the best of each counts.
pub fn costs(options: &Options) -> Outcome<(f64, f64)> {
    let mut best = [f64::MAX; 2];
    for _ in 0..options.rounds {
        for (place, cached) in [false, true].into_iter().enumerate() {
            best[place] = best[place].min(cost(options, cached)?);
        }
    }
    Ok((best[0], best[1]))
}

fn cost(options: &Options, cached: bool) -> Outcome<f64> {
    let mut served = Served::start(options, "kept")?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).doing("listening as the peer")?;
    let port = listener.local_addr().doing("listening as the peer")?.port();
    served.call("POST", "/streams", STREAM)?;
    let rule = format!(
        r#"{{"id": "kept", "sql": "SELECT * FROM telemetry", "actions": [{{"websocket":
            {{"addr": "127.0.0.1:{port}", "path": "/up", "sendSingle": true, "enableCache": {cached}}}}}]}}"#
    );
    served.call("POST", "/rules", &rule)?;
    let mut peer = Peer::accept(&listener)?;
    let mut sender = Socket::connect(served.data, "/in")?;
    let chunks = (TIME.as_millis() / CHUNK.as_millis()) as u32;
    let each = PACE / (1000 / CHUNK.as_millis() as usize);
    let mut chunk = Vec::new();
    (0..each).for_each(|number| frame(&format!(r#"{{"device":"dev-{number:03}","value":{number}.5}}"#), &mut chunk));
    // One-time work is done before the measurement.
    sender.send(&chunk)?;
    peer.receive(each)?;
    let before = served.process.cpu()?;
    let messages = each * chunks as usize;
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let begun = Instant::now();
            for number in 1..=chunks {
                sender.send(&chunk)?;
                std::thread::sleep((begun + CHUNK * number).saturating_duration_since(Instant::now()));
            }
            Outcome::Ok(())
        });
        let received = peer.receive(messages);
        sending.join().unwrap_or_else(|_| wrong("the generator panicked")).and(received)
    })?;
    let cpu = served.process.cpu()? - before;
    // After the last pong nothing is kept any more.
    let until = Instant::now() + Duration::from_secs(60);
    let mut rest = Rest::connect(served.rest)?;
    let waits = |status: String| !status.replace(": ", ":").contains("\"sink_websocket_0_0_buffer_length\":0,");
    while waits(rest.call("GET", "/rules/kept/status", "")?) {
        peer.answer()?;
        if Instant::now() > until {
            return wrong("messages are kept although the peer has them");
        }
    }
    served.process.alive()?;
    Ok(cpu.as_secs_f64() * 1e6 / messages as f64)
}

/// A websocket server for one connection: it counts messages and answers pings.
struct Peer {
    stream: TcpStream,
    /// received bytes that were not parsed yet
    buffer: Vec<u8>,
    messages: usize,
}

impl Peer {
    fn accept(listener: &TcpListener) -> Outcome<Peer> {
        let (mut stream, _) = listener.accept().doing("waiting to be dialled")?;
        stream.set_nodelay(true).doing("setting up a connection")?;
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).doing("a handshake")?;
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let key = head.lines().filter_map(|line| line.split_once(": "));
        let key = key.filter(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key")).map(|(_, key)| key).next();
        let accept = derive_accept_key(key.unwrap_or_default().trim().as_bytes());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).doing("a handshake")?;
        Ok(Peer { stream, buffer: Vec::new(), messages: 0 })
    }

    /// Waits for this many more messages.
    fn receive(&mut self, messages: usize) -> Outcome<()> {
        let wanted = self.messages + messages;
        self.stream.set_read_timeout(Some(Duration::from_secs(30))).doing("setting up a connection")?;
        while self.messages < wanted {
            if !self.read()? {
                return wrong(format!("nothing more came after {} of {wanted} messages", self.messages));
            }
        }
        if self.messages == wanted { Ok(()) } else { wrong(format!("{} messages, not {wanted}", self.messages)) }
    }

    /// Answers received pings.
    fn answer(&mut self) -> Outcome<()> {
        self.stream.set_read_timeout(Some(Duration::from_millis(20))).doing("setting up a connection")?;
        self.read().map(drop)
    }

    /// Reads available bytes; `false`: nothing arrived in time.
    fn read(&mut self) -> Outcome<bool> {
        let mut chunk = [0; 256 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => return wrong("the peer's connection was closed"),
            Ok(read) => self.buffer.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error).doing("receiving as the peer"),
        }
        let mut at = 0;
        while let Some((header, end)) = client_frame(&self.buffer[at..]) {
            let frame = &self.buffer[at..at + end];
            match frame[0] & 0x0f {
                1 | 2 => self.messages += 1,
                9 => {
                    let (mask, payload) = (&frame[header - 4..header], &frame[header..]);
                    let mut pong = vec![0x8a, payload.len() as u8];
                    pong.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
                    self.stream.write_all(&pong).doing("answering a ping")?;
                }
                _ => {}
            }
            at += end;
        }
        self.buffer.drain(..at);
        Ok(true)
    }
}

/// The length of the head of a client's first frame, mask included, and the end of the frame, if it is complete.
fn client_frame(bytes: &[u8]) -> Option<(usize, usize)> {
    let (header, length) = match (bytes.get(1)? & 0x7f, bytes) {
        (126, &[_, _, a, b, ..]) => (8, usize::from(u16::from_be_bytes([a, b]))),
        (126 | 127, _) => return None,
        (short, _) => (6, usize::from(short)),
    };
    (bytes.len() >= header + length).then_some((header, header + length))
}
