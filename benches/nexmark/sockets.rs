//! A query over websockets: the real binary with the query's rule file, three feeds and one receiver of results.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::failure::{Doing, Outcome, wrong};
use crate::feed::{Feed, STREAMS};
use crate::inprocess::{Run, rows};
use crate::process::{Folder, Process, free_port};
use crate::query::Query;

/// The time limit for the program's endpoints to be available.
const STARTING: Duration = Duration::from_secs(20);
/// How long results may be silent: longer than a processing-time window.
const PATIENCE: Duration = Duration::from_secs(15);
/// Bytes that are written at once to one feed.
const CHUNK: usize = 64 * 1024;

/// The bytes of all feeds in the order of sending, as masked frames.
pub fn frames(feed: &Feed, streams: &[usize]) -> Vec<(usize, Bytes)> {
    let mut waiting = [BytesMut::new(), BytesMut::new(), BytesMut::new()];
    let mut chunks = Vec::new();
    let mut hand_over = |waiting: &mut [BytesMut; 3]| {
        let full = waiting.iter_mut().enumerate().filter(|(_, bytes)| !bytes.is_empty());
        chunks.extend(full.map(|(stream, bytes)| (stream, bytes.split().freeze())));
    };
    for message in feed.messages.iter().filter(|message| streams.contains(&message.stream)) {
        let bytes = &mut waiting[message.stream];
        frame(bytes, &message.text);
        if bytes.len() >= CHUNK {
            hand_over(&mut waiting);
        }
    }
    hand_over(&mut waiting);
    chunks
}

/// A text frame masked with zeros, which does not change the text; the receiver still has to unmask it.
fn frame(bytes: &mut BytesMut, text: &[u8]) {
    bytes.put_u8(0x81);
    match u16::try_from(text.len()).expect("messages of the feed are short") {
        short @ 0..126 => bytes.put_u8(0x80 | short as u8),
        long => {
            bytes.put_u8(0x80 | 126);
            bytes.put_u16(long);
        }
    }
    bytes.put_u32(0);
    bytes.put_slice(text);
}

/// Runs a query once. `expected` is the number of result messages, if it does not depend on the clock.
pub fn run(
    query: &Query,
    rules: &Path,
    feed: &Feed,
    chunks: &[(usize, Bytes)],
    expected: u64,
    keep: bool,
) -> Outcome<Run> {
    let folder = Folder::make(query.name)?;
    let port = free_port()?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_plutino"));
    command.arg("run").arg(rules.join(format!("{}.yaml", query.name))).arg("--quiet").current_dir(folder.path());
    command.env("KUIPER__SOURCE__HTTPSERVERIP", "127.0.0.1").env("KUIPER__SOURCE__HTTPSERVERPORT", port.to_string());
    let mut process = Process::start(query.name, command, folder.path())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.doing("making a runtime")?;
    let run = runtime.block_on(exchange(query, &mut process, port, feed, chunks, expected, keep))?;
    process.stop(true)?;
    Ok(run)
}

async fn exchange(
    query: &Query,
    process: &mut Process,
    port: u16,
    feed: &Feed,
    chunks: &[(usize, Bytes)],
    expected: u64,
    keep: bool,
) -> Outcome<Run> {
    let mut results = connect(process, port, "results").await?;
    let mut feeds = [None, None, None];
    for &stream in query.streams {
        feeds[stream] = Some(connect(process, port, STREAMS[stream]).await?);
    }
    let (cpu, begun) = (process.cpu()?, Instant::now());
    let bids = feed.bids.len() as i64;
    let by_clock = query.by_clock;
    let receiver = tokio::spawn(async move {
        let mut kept = Vec::new();
        let (mut messages, mut counted) = (0, 0);
        while if by_clock { counted < bids } else { messages < expected } {
            let message = match timeout(PATIENCE, results.next()).await {
                Ok(Some(Ok(Message::Text(text)))) => Bytes::from(text),
                Ok(Some(Ok(_))) => continue,
                Ok(Some(Err(error))) => return wrong(format!("receiving results: {error}")),
                Ok(None) => return wrong(format!("the results ended after {messages} messages")),
                Err(_) => return wrong(format!("nothing came for {PATIENCE:?} after {messages} result messages")),
            };
            messages += 1;
            if by_clock {
                let rows = rows(std::iter::once(message.clone()))?;
                counted += rows.iter().filter_map(|row| row["bids"].as_i64()).sum::<i64>();
            }
            if keep {
                kept.push(message);
            }
        }
        Ok((messages, kept))
    });
    for (stream, bytes) in chunks {
        let feed = feeds[*stream].as_mut().expect("only streams of the query are in the chunks");
        feed.get_mut().write_all(bytes).await.doing("sending the feed")?;
    }
    let (messages, kept) = receiver.await.or_else(|error| wrong(format!("the receiver failed: {error}")))??;
    let run = Run { cpu: process.cpu()?.saturating_sub(cpu), wall: begun.elapsed(), messages, rows: Vec::new() };
    Ok(Run { rows: rows(kept.into_iter())?, ..run })
}

/// Connects as soon as the endpoint exists.
async fn connect(process: &mut Process, port: u16, path: &str) -> Outcome<WebSocketStream<TcpStream>> {
    let until = Instant::now() + STARTING;
    while Instant::now() < until {
        process.alive()?;
        if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)).await
            && let Ok((websocket, _)) = client_async(format!("ws://127.0.0.1:{port}/{path}"), stream).await
        {
            return Ok(websocket);
        }
        sleep(Duration::from_millis(5)).await;
    }
    wrong(format!("no websocket at /{path} within {STARTING:?}: {}", process.said()))
}
