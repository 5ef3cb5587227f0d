//! The load: a generator that writes pre-encoded frames, and receivers that read little more than frame headers.
//!
//! Both must cost far less than the measured process, since they share two cores with it. So frames are prepared and
//! written as they are, a receiver counts all results and parses only a sample, and neither uses a websocket library.
//! Latency is open loop: a message has a scheduled time, and its latency starts there even if the generator or the
//! system is late.

use crate::failure::{Doing, Outcome, wrong};
use crate::workload::{Block, Group};
use futures_util::future::{join_all, try_join_all};
use hdrhistogram::Histogram;
use serde_json::Value;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// Bytes that are read at once.
const READ: usize = 256 * 1024;
/// The largest frame that a receiver takes, in bytes.
const LARGEST: usize = 64 * 1024 * 1024;
/// The last interval before a message's time is spent in a busy loop: shorter than the precision of a sleep, and a
/// small part of a core even at 10,000 messages/s.
const SPIN: Duration = Duration::from_micros(15);
/// Silence after which waiting for results fails.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// One in this many results is parsed and compared, if there is one receiver.
const SAMPLE: u64 = 64;

/// How fast messages are sent.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// As fast as the socket takes them.
    Flood,
    /// Each message at its own scheduled time.
    Timed(Schedule),
    /// As fast as possible with at most this many results outstanding, for a peer that drops messages when its queues
    /// are full.
    Window(u64),
}

/// When single messages should be sent.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// The time of the first.
    pub start: Instant,
    /// Messages a second.
    pub rate: u64,
}

impl Schedule {
    fn due(&self, index: u64) -> Instant {
        self.start + Duration::from_nanos(index * 1_000_000_000 / self.rate)
    }
}

/// A websocket connection of the benchmark, and the bytes received after the handshake.
pub struct Connection {
    stream: TcpStream,
    surplus: Vec<u8>,
}

/// Makes one attempt at a websocket connection to `path` on a port of 127.0.0.1; none if it does not exist yet.
pub fn connect(port: u16, path: &str) -> Outcome<Option<Connection>> {
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return Ok(None) };
    stream.set_nodelay(true).doing("setting up a connection")?;
    stream.set_read_timeout(Some(PATIENCE)).doing("setting up a connection")?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: cGx1dGlubyBsb2FkLi4uLg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    let mut end = None;
    if stream.write_all(request.as_bytes()).is_err() {
        return Ok(None);
    }
    while end.is_none() && answer.len() < 64 * 1024 {
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return Ok(None),
            Ok(read) => answer.extend_from_slice(&chunk[..read]),
        }
        end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    }
    match end {
        Some(end) if answer.starts_with(b"HTTP/1.1 101") => {
            stream.set_read_timeout(None).doing("setting up a connection")?;
            Ok(Some(Connection { stream, surplus: answer.split_off(end + 4) }))
        }
        _ => Ok(None),
    }
}

/// The measurements of the generator.
pub struct Sent {
    /// When the socket accepted the last byte.
    pub end: Instant,
    /// How late single messages were written, in nanoseconds.
    pub lateness: Histogram<u64>,
}

/// Sends the first `total` messages of the endlessly repeated block. `results` counts the results that have arrived, for
/// [`Pace::Window`].
pub fn send(connection: &mut Connection, block: &Block, total: u64, pace: Pace, results: &AtomicU64) -> Outcome<Sent> {
    let mut lateness = histogram();
    let frames = |first: u64, count: u64| {
        let at = (first % block.len()) as usize * block.frame_length;
        &block.frames[at..at + count as usize * block.frame_length]
    };
    if let Pace::Timed(_) = pace {
        sharpen_sleep();
    }
    let mut sent = 0;
    while sent < total {
        let rest = (total - sent).min(block.len() - sent % block.len());
        let step = match pace {
            Pace::Flood => rest,
            Pace::Window(most) => {
                let step = rest.min(64);
                while block.results(sent + step).saturating_sub(results.load(Ordering::Relaxed)) > most {
                    std::thread::sleep(Duration::from_micros(100));
                }
                step
            }
            Pace::Timed(schedule) => {
                lateness.saturating_record(wait_until(schedule.due(sent)).as_nanos() as u64);
                1
            }
        };
        connection.stream.write_all(frames(sent, step)).doing("sending messages")?;
        sent += step;
    }
    Ok(Sent { end: Instant::now(), lateness })
}

/// Waits, and returns how late it is then.
fn wait_until(due: Instant) -> Duration {
    loop {
        let now = Instant::now();
        match due.checked_duration_since(now) {
            None | Some(Duration::ZERO) => return now - due,
            Some(long) if long > SPIN => std::thread::sleep(long - SPIN),
            Some(_) => std::hint::spin_loop(),
        }
    }
}

/// Makes sleeps of the calling thread end on time; otherwise the kernel may be up to 50 µs late to save wake-ups. If
/// the system does not allow it, the generator is less precise, which the table shows.
fn sharpen_sleep() {
    let thread = std::fs::read_link("/proc/thread-self").unwrap_or_default();
    if let Some(id) = thread.file_name().and_then(|name| name.to_str()) {
        let _ = std::fs::write(format!("/proc/{id}/timerslack_ns"), "1");
    }
}

/// A histogram from a microsecond to a minute, in nanoseconds.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 60_000_000_000, 3).expect("the bounds are in order")
}

/// A receiving client.
pub struct Receiver {
    stream: tokio::net::TcpStream,
    buffer: Vec<u8>,
    /// The unread part of the buffer.
    start: usize,
    end: usize,
}

/// The results that one receiver should get.
pub struct Expected<'a> {
    /// The messages that are sent.
    pub block: &'a Block,
    /// How many of them.
    pub messages: u64,
    /// Receivers that share the machine: with more of them, each compares a smaller part.
    pub receivers: u64,
    /// When messages are sent, where latency is measured.
    pub schedule: Option<Schedule>,
}

impl Receiver {
    /// Takes over a connection. Called inside a tokio runtime.
    pub fn new(connection: Connection) -> Outcome<Receiver> {
        connection.stream.set_nonblocking(true).doing("setting up a receiver")?;
        let stream = tokio::net::TcpStream::from_std(connection.stream).doing("setting up a receiver")?;
        let mut buffer = connection.surplus;
        let end = buffer.len();
        buffer.resize(READ.max(end), 0);
        Ok(Receiver { stream, buffer, start: 0, end })
    }

    /// Reads every result in order up to the last expected one; counts them in `progress`. Returns their latencies.
    async fn results(&mut self, expected: &Expected<'_>, progress: &AtomicU64) -> Outcome<Histogram<u64>> {
        let total = expected.block.results(expected.messages);
        let stride = SAMPLE * expected.receivers;
        let mut latencies = histogram();
        let mut index = 0;
        while index < total {
            self.fill(|| format!("{index} of {total} results")).await?;
            let now = Instant::now();
            while let Some(frame) = self.next().await? {
                if index >= total {
                    return wrong(format!("more results than the {total} expected"));
                }
                if index % stride == 0 || index + 1 == total {
                    expected.block.check(index, frame).or_else(wrong)?;
                }
                if let Some(schedule) = expected.schedule {
                    latencies.saturating_record((now - schedule.due(index)).as_nanos() as u64);
                }
                index += 1;
            }
            progress.store(index, Ordering::Relaxed);
        }
        Ok(latencies)
    }

    /// Reads rows of windows until their counts add up to all messages, and compares the totals.
    async fn groups(&mut self, expected: &Expected<'_>) -> Outcome<()> {
        let mut groups: HashMap<String, Group> = HashMap::new();
        let mut counted = 0;
        while counted < expected.messages {
            self.fill(|| format!("windows with {counted} of {} messages", expected.messages)).await?;
            while let Some(frame) = self.next().await? {
                let value: Value =
                    serde_json::from_slice(frame).or_else(|e| wrong(format!("a window is no JSON: {e}")))?;
                for row in value.as_array().unwrap_or(&vec![value.clone()]) {
                    let column = |name| row[name].as_f64();
                    let (Some(device), Some(average), Some(greatest), Some(count)) =
                        (row["device"].as_str(), column("a"), column("m"), row["n"].as_u64())
                    else {
                        return wrong(format!("a row of a window should have device, a, m and n, and is {row}"));
                    };
                    counted += count;
                    groups.entry(device.to_owned()).or_default().add(count, average * count as f64, greatest);
                }
            }
        }
        let want = expected.block.groups(expected.messages);
        for (device, want) in &want {
            match groups.get(device) {
                Some(got) if want.agrees(got) => {}
                got => return wrong(format!("the windows of {device} should hold {want:?} and hold {got:?}")),
            }
        }
        match groups.len() == want.len() {
            true => Ok(()),
            false => wrong(format!("{} devices in the windows, {} were sent", groups.len(), want.len())),
        }
    }

    /// Reads available bytes into the buffer; fails after a long silence, with the progress so far.
    async fn fill(&mut self, so_far: impl Fn() -> String) -> Outcome<()> {
        match timeout(PATIENCE, self.read()).await {
            Ok(Ok(0)) => wrong(format!("the connection was closed after {}", so_far())),
            Ok(read) => read.map(|_| ()),
            Err(_) => wrong(format!("nothing came for {PATIENCE:?} after {}", so_far())),
        }
    }

    async fn read(&mut self) -> Outcome<usize> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.end == self.buffer.len() {
            self.buffer.resize(self.end * 2, 0);
        }
        let read = self.stream.read(&mut self.buffer[self.end..]).await.doing("receiving results")?;
        self.end += read;
        Ok(read)
    }

    /// The payload of the next complete data frame in the buffer. Pings are answered.
    async fn next(&mut self) -> Outcome<Option<&[u8]>> {
        loop {
            let Some((opcode, from, to)) = self.frame()? else { return Ok(None) };
            self.start = to;
            match opcode {
                1 | 2 => return Ok(Some(&self.buffer[from..to])),
                8 => return wrong("the connection was closed by the process under test"),
                9 => {
                    // A pong with the ping's payload, masked with zeros: the payload of a control frame is short.
                    let mut pong = vec![0x8a, 0x80 | (to - from) as u8, 0, 0, 0, 0];
                    pong.extend_from_slice(&self.buffer[from..to]);
                    self.stream.write_all(&pong).await.doing("answering a ping")?;
                }
                _ => {}
            }
        }
    }

    /// Opcode and bounds of the payload of the next frame, if it is complete.
    fn frame(&self) -> Outcome<Option<(u8, usize, usize)>> {
        let bytes = &self.buffer[self.start..self.end];
        let (&[first, second, ..], false) = (bytes, bytes.len() < 2) else { return Ok(None) };
        if first & 0x80 == 0 || second & 0x80 != 0 {
            return wrong("a result came in fragments or masked");
        }
        let (header, length) = match (second, bytes) {
            (126, &[_, _, a, b, ..]) => (4, u64::from(u16::from_be_bytes([a, b]))),
            (127, &[_, _, a, b, c, d, e, f, g, h, ..]) => (10, u64::from_be_bytes([a, b, c, d, e, f, g, h])),
            (126 | 127, _) => return Ok(None),
            (short, _) => (2, u64::from(short)),
        };
        if length > LARGEST as u64 {
            return wrong(format!("a result of {length} bytes"));
        }
        let end = header + length as usize;
        Ok((bytes.len() >= end).then_some((first & 0x0f, self.start + header, self.start + end)))
    }

    /// Reads until nothing has come for `quiet`; returns the number of results.
    async fn drain(&mut self, quiet: Duration) -> Outcome<u64> {
        let mut results = 0;
        loop {
            while self.next().await?.is_some() {
                results += 1;
            }
            match timeout(quiet, self.read()).await {
                Err(_) => return Ok(results),
                Ok(Ok(0)) => return wrong("the connection was closed by the process under test"),
                Ok(read) => read?,
            };
        }
    }
}

/// Waits until all receivers have all expected results, in order; returns the latencies of the first.
pub async fn collect(
    receivers: &mut [Receiver],
    expected: &Expected<'_>,
    progress: &AtomicU64,
) -> Outcome<Histogram<u64>> {
    let unread = AtomicU64::new(0);
    let all = receivers.iter_mut().enumerate().map(|(at, receiver)| {
        let progress = if at == 0 { progress } else { &unread };
        receiver.results(expected, progress)
    });
    let mut histograms = try_join_all(all).await?;
    Ok(histograms.swap_remove(0))
}

/// Waits until the receiver has all windows.
pub async fn collect_groups(receivers: &mut [Receiver], expected: &Expected<'_>) -> Outcome<()> {
    try_join_all(receivers.iter_mut().map(|receiver| receiver.groups(expected))).await.map(|_| ())
}

/// Reads until all receivers have been silent for `quiet`; returns the least number of results among them and the sum.
pub async fn drain(receivers: &mut [Receiver], quiet: Duration) -> Outcome<(u64, u64)> {
    let counts = join_all(receivers.iter_mut().map(|receiver| receiver.drain(quiet))).await;
    let counts = counts.into_iter().collect::<Outcome<Vec<u64>>>()?;
    Ok((counts.iter().copied().min().unwrap_or(0), counts.iter().sum()))
}
