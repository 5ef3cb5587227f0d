//! The `log` sink: each message is one line on stdout.
//!
//! All sinks of a process share one writer thread, so lines are never mixed. If stdout is read slowly, the engine waits
//! (policy `block`), so a pipe loses nothing. The thread starts with the first message.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use futures_util::future::BoxFuture;

use crate::io::queue::{MessageBatch, Outlet, Signal, SinkHandle};
use crate::io::sink::{LocalCounts, OpenSink, SinkSettings};
use crate::io::{LinkStatus, dropped};

/// How many messages of one sink can wait before the engine waits.
const WAITING: usize = 4096;

/// The settings: there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsoleSink;

impl SinkSettings for ConsoleSink {
    fn has_files(&self) -> bool {
        false
    }

    fn kind(&self) -> &'static str {
        "log"
    }
}

/// The writer.
#[derive(Clone)]
pub struct Console {
    jobs: Sender<(Arc<MessageBatch>, Arc<LogSink>)>,
}

impl Console {
    /// The writer for stdout.
    pub fn stdout() -> Console {
        static STDOUT: OnceLock<Console> = OnceLock::new();
        STDOUT.get_or_init(|| Console::new(io::stdout())).clone()
    }

    /// A separate writer, for tests and other outputs. Its thread ends with its last sink.
    pub fn new(out: impl Write + Send + 'static) -> Console {
        // Unbounded: each sink limits its own number of messages.
        let (jobs, work) = crossbeam_channel::unbounded();
        // If the thread cannot start, every send fails and is counted as dropped.
        let _ = std::thread::Builder::new().name("log".into()).spawn(move || write(out, work));
        Console { jobs }
    }

    /// A sink of this writer. `signal` is raised when it is ready again.
    pub fn open(&self, signal: Signal) -> Arc<LogSink> {
        Arc::new_cyclic(|me| LogSink {
            me: me.clone(),
            jobs: self.jobs.clone(),
            signal,
            queued: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            written: LocalCounts::begin(),
            dropped: AtomicU64::new(0),
        })
    }
}

/// One `log` sink.
pub struct LogSink {
    me: std::sync::Weak<LogSink>,
    jobs: Sender<(Arc<MessageBatch>, Arc<LogSink>)>,
    signal: Signal,
    queued: AtomicUsize,
    over: AtomicBool,
    written: LocalCounts,
    /// messages lost because stdout is closed
    dropped: AtomicU64,
}

impl LogSink {
    /// The number of waiting messages.
    fn queued(&self) -> usize {
        self.queued.load(Ordering::Acquire)
    }

    fn done(&self, batch: &MessageBatch, written: bool) {
        let count = batch.len();
        if written {
            self.written.add(batch);
        } else {
            self.dropped.fetch_add(count as u64, Ordering::Relaxed);
        }
        let left = self.queued.fetch_sub(count, Ordering::AcqRel) - count;
        if left <= WAITING / 2 && self.over.swap(false, Ordering::AcqRel) {
            self.signal.raise();
        }
    }
}

impl Outlet for LogSink {
    fn send(&self, batch: &Arc<MessageBatch>) {
        let Some(me) = self.me.upgrade() else { return };
        if batch.is_empty() {
            return;
        }
        // Set the flag first: the writer may finish the batch before this function ends.
        if self.queued.load(Ordering::Acquire) + batch.len() > WAITING {
            self.over.store(true, Ordering::Release);
        }
        self.queued.fetch_add(batch.len(), Ordering::AcqRel);
        if let Err(unsent) = self.jobs.send((batch.clone(), me)) {
            let (batch, me) = unsent.into_inner();
            me.done(&batch, false);
        }
    }

    fn ready(&self) -> bool {
        !self.over.load(Ordering::Acquire)
    }
}

impl OpenSink for Arc<LogSink> {
    fn outlet(&self) -> SinkHandle {
        SinkHandle::Messages(self.clone())
    }

    fn status(&self) -> LinkStatus {
        LinkStatus {
            dropped: dropped("output closed", &self.dropped),
            queued: self.queued(),
            ..self.written.status("stdout")
        }
    }

    /// Waits until everything is written.
    fn close(&self, flush: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let deadline = tokio::time::Instant::now() + flush;
            // Used only at the end of a rule, so polling is simpler than waking up for each batch.
            while self.queued() > 0 && tokio::time::Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
    }
}

fn write(mut out: impl Write, work: Receiver<(Arc<MessageBatch>, Arc<LogSink>)>) {
    let mut lines = Vec::new();
    while let Ok((batch, sink)) = work.recv() {
        lines.clear();
        batch.messages().for_each(|message| add_line(&mut lines, &message));
        // A batch is written at once, so that lines of two sinks are never mixed and a terminal shows them immediately.
        let written = out.write_all(&lines).and_then(|()| out.flush()).is_ok();
        sink.done(&batch, written);
    }
}

/// Adds a message as one line. Line ends in it, which can only be between JSON tokens of a passed on message, become
/// blanks, which mean the same there.
pub fn add_line(lines: &mut Vec<u8>, message: &[u8]) {
    let start = lines.len();
    lines.extend_from_slice(message);
    for byte in &mut lines[start..] {
        *byte = if matches!(*byte, b'\n' | b'\r') { b' ' } else { *byte };
    }
    lines.push(b'\n');
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_message_is_one_line() {
        for (message, line) in [("", "\n"), ("{\n\"a\":\r\n1}", "{ \"a\":  1}\n"), ("\n", " \n"), ("plain", "plain\n")]
        {
            let mut lines = b"before\n".to_vec();
            super::add_line(&mut lines, message.as_bytes());
            assert_eq!(lines, format!("before\n{line}").as_bytes(), "{message:?}");
        }
    }
}
