//! Results as server-sent events, for clients that watch a trial.
//!
//! An [`EventSink`] is a rule's sink, and clients of the data server read it over HTTP. All clients read one bounded
//! ring of batches: a slow client loses the oldest ones, and a comment line reports this. A sink without clients keeps
//! nothing. This module knows neither rules nor the content of messages.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::broadcast::{self, error::RecvError};

use crate::io::queue::{MessageBatch, Outlet, SinkHandle};
use crate::io::sink::{LocalCounts, OpenSink, SinkSettings};
use crate::io::{LinkStatus, dropped};
use crate::sync::locked;

/// The most batches that wait for a slow client before it loses the oldest.
const RING: usize = 128;

/// The most clients of one sink.
pub const CLIENTS: usize = 16;

/// How often a silent stream sends a comment, so that proxies do not close it.
const ALIVE: Duration = Duration::from_secs(15);

/// A client that reads nothing for this long is disconnected.
const STALLED: Duration = Duration::from_secs(30);

/// The head of the response, without its end.
const HEAD: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nConnection: close\r\n";

/// The sinks by path.
#[derive(Clone, Debug, Default)]
pub struct EventPaths(Arc<Mutex<HashMap<String, Arc<EventSink>>>>);

impl EventPaths {
    /// Publishes a sink at a path, and ends the sink that was there.
    pub fn insert(&self, path: &str, sink: Arc<EventSink>) {
        if let Some(old) = locked(&self.0).insert(path.to_owned(), sink) {
            old.end();
        }
    }

    /// Ends a sink; a newer one at its path stays.
    pub fn remove(&self, path: &str, sink: &Arc<EventSink>) {
        sink.end();
        let mut paths = locked(&self.0);
        if paths.get(path).is_some_and(|known| Arc::ptr_eq(known, sink)) {
            paths.remove(path);
        }
    }

    pub fn find(&self, path: &str) -> Option<Arc<EventSink>> {
        locked(&self.0).get(path).cloned()
    }

    pub fn is_empty(&self) -> bool {
        locked(&self.0).is_empty()
    }
}

/// A sink whose results become events.
#[derive(Debug)]
pub struct EventSink {
    /// `None` after it has ended
    ring: Mutex<Option<broadcast::Sender<Arc<MessageBatch>>>>,
    /// messages received, whether or not a client read them
    taken: LocalCounts,
    /// batches lost by slow clients
    dropped: AtomicU64,
}

/// One client's place at a sink.
pub struct Watcher {
    sink: Arc<EventSink>,
    batches: broadcast::Receiver<Arc<MessageBatch>>,
}

/// Equal only to itself.
impl PartialEq for EventSink {
    fn eq(&self, other: &EventSink) -> bool {
        std::ptr::eq(self, other)
    }
}

impl EventSink {
    /// A sink without clients.
    pub fn open() -> Arc<EventSink> {
        let ring = Mutex::new(Some(broadcast::Sender::new(RING)));
        Arc::new(EventSink { ring, taken: LocalCounts::begin(), dropped: AtomicU64::new(0) })
    }

    /// A place for a client, which gets everything from then on; `None` if there are [`CLIENTS`] already, or if the
    /// sink has ended.
    pub fn watch(self: &Arc<Self>) -> Option<Watcher> {
        let ring = locked(&self.ring);
        let ring = ring.as_ref().filter(|ring| ring.receiver_count() < CLIENTS)?;
        Some(Watcher { sink: self.clone(), batches: ring.subscribe() })
    }

    /// The number of clients.
    pub fn watchers(&self) -> usize {
        locked(&self.ring).as_ref().map_or(0, broadcast::Sender::receiver_count)
    }

    /// Ends the sink: clients get what waits for them, then their streams end.
    pub fn end(&self) {
        locked(&self.ring).take();
    }
}

impl Outlet for EventSink {
    fn send(&self, batch: &Arc<MessageBatch>) {
        self.taken.add(batch);
        if let Some(ring) = locked(&self.ring).as_ref() {
            // Sending without clients is not an error.
            let _ = ring.send(batch.clone());
        }
    }
}

impl SinkSettings for Arc<EventSink> {
    fn kind(&self) -> &'static str {
        ""
    }
}

impl OpenSink for Arc<EventSink> {
    fn outlet(&self) -> SinkHandle {
        SinkHandle::Messages(self.clone())
    }

    fn status(&self) -> LinkStatus {
        LinkStatus {
            peers: self.watchers(),
            dropped: dropped("slow client", &self.dropped),
            ..self.taken.status("events")
        }
    }

    fn close(&self, _flush: Duration) -> BoxFuture<'_, ()> {
        self.end();
        Box::pin(std::future::ready(()))
    }
}

impl Watcher {
    /// Writes events until the sink or the client ends. `origin` is that of the page that reads them, if there is one.
    ///
    /// # Errors
    /// The client has disconnected, or reads nothing.
    pub async fn serve(
        mut self,
        mut wire: impl AsyncRead + AsyncWrite + Unpin,
        origin: Option<&str>,
    ) -> io::Result<()> {
        let allowed = origin.map(|origin| format!("Access-Control-Allow-Origin: {origin}\r\nVary: Origin\r\n"));
        send(&mut wire, format!("{HEAD}{}\r\n", allowed.unwrap_or_default()).as_bytes()).await?;
        let (mut text, mut ignored) = (Vec::new(), [0; 256]);
        loop {
            text.clear();
            tokio::select! {
                next = tokio::time::timeout(ALIVE, self.batches.recv()) => match next {
                    Ok(Ok(batch)) => batch.messages().for_each(|message| add_event(&mut text, &message)),
                    Ok(Err(RecvError::Lagged(lost))) => {
                        self.sink.dropped.fetch_add(lost, Ordering::Relaxed);
                        let mut comment = String::new();
                        let _ = write!(comment, ": {lost} batches of results dropped, since they were not read in time\n\n");
                        text.extend_from_slice(comment.as_bytes());
                    }
                    Ok(Err(RecvError::Closed)) => break,
                    Err(_) => text.extend_from_slice(b":\n\n"),
                },
                // Clients send nothing. Reading shows when they disconnect, even while there are no results.
                read = wire.read(&mut ignored) => match read? {
                    0 => return Ok(()),
                    _ => continue,
                },
            }
            send(&mut wire, &text).await?;
        }
        wire.shutdown().await
    }
}

async fn send(wire: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    let written = tokio::time::timeout(STALLED, async {
        wire.write_all(bytes).await?;
        wire.flush().await
    });
    written.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Adds a message as one event, with a data line for each of its lines.
pub fn add_event(events: &mut Vec<u8>, message: &[u8]) {
    // A carriage return also ends a line of an event.
    for line in message.split(|&byte| byte == b'\n') {
        for line in line.strip_suffix(b"\r").unwrap_or(line).split(|&byte| byte == b'\r') {
            events.extend_from_slice(b"data: ");
            events.extend_from_slice(line);
            events.push(b'\n');
        }
    }
    events.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn batch(text: &'static str) -> Arc<MessageBatch> {
        Arc::new(MessageBatch::new(Bytes::from_static(text.as_bytes()), vec![text.len() as u32], true, None))
    }

    #[test]
    fn each_line_of_a_message_is_a_data_line() {
        for (message, event) in [
            ("{}", "data: {}\n\n"),
            ("a\nb", "data: a\ndata: b\n\n"),
            ("a\r\nb\rc", "data: a\ndata: b\ndata: c\n\n"),
            ("", "data: \n\n"),
        ] {
            let mut events = Vec::new();
            add_event(&mut events, message.as_bytes());
            assert_eq!(String::from_utf8(events).unwrap(), event, "{message:?}");
        }
    }

    #[tokio::test]
    async fn a_slow_client_loses_the_oldest_and_is_told() {
        let sink = EventSink::open();
        let watcher = sink.watch().unwrap();
        for _ in 0..RING + 3 {
            sink.send(&batch("x"));
        }
        sink.end();
        let (client, server) = tokio::io::duplex(64 * 1024);
        let (mut reads, _writes) = tokio::io::split(client);
        let serving = tokio::spawn(watcher.serve(server, None));
        let mut text = String::new();
        reads.read_to_string(&mut text).await.unwrap();
        serving.await.unwrap().unwrap();
        assert_eq!(sink.dropped.load(Ordering::Relaxed), 3);
        assert!(text.contains("\n: 3 batches of results dropped"), "{text}");
        assert_eq!(text.matches("data: x\n\n").count(), RING);
        assert!(sink.watch().is_none());
    }

    #[test]
    fn clients_are_bounded_and_a_path_has_one_sink() {
        let (paths, first, second) = (EventPaths::default(), EventSink::open(), EventSink::open());
        let watchers: Vec<Watcher> = (0..CLIENTS).filter_map(|_| first.watch()).collect();
        assert!(first.watch().is_none());
        drop(watchers);
        assert!(first.watch().is_some());
        paths.insert("/test/a", first.clone());
        paths.insert("/test/a", second.clone());
        assert!(first.watch().is_none() && second.watch().is_some());
        paths.remove("/test/a", &first);
        assert!(paths.find("/test/a").is_some());
        paths.remove("/test/a", &second);
        assert!(paths.is_empty());
    }
}
