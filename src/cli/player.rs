//! Sends the lines of a file over a websocket, each as one message.
//!
//! A separate thread reads the lines, because reading stdin blocks. A short queue limits memory, whatever the size of
//! the file. The socket sets the pace.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::time::Duration;

use futures_util::{FutureExt, Sink, SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::replay::Pace;
use crate::io::printable;
use crate::io::queue::Frame;
use crate::io::recording::Reader;

/// Size of a batch of lines, in bytes.
const BATCH: usize = 64 * 1024;

/// The longest line, in bytes: a file without line breaks must not fill the memory.
const LONGEST: usize = 64 << 20;

/// A message, and the time of its arrival if it is known, ms since the epoch.
type Line = (Message, Option<i64>);

type Batch = Vec<Line>;

/// A file, and how to play it.
#[derive(Clone, Debug, PartialEq)]
pub struct Track {
    /// `None`: stdin
    pub file: Option<PathBuf>,
    /// messages per second; `None`: unlimited
    pub rate: Option<f64>,
    /// whether it is a recording, whose messages have times
    pub recorded: bool,
    /// how fast a recording is replayed
    pub pace: Pace,
    /// start again at the end
    pub repeat: bool,
}

/// Why playing ended early.
#[derive(Debug, thiserror::Error)]
pub enum PlayError {
    #[error("cannot read {name}: {source}")]
    Read {
        /// the file's name
        name: String,
        source: io::Error,
    },
    #[error("the peer ended the connection after {sent} messages: {reason}")]
    Ended {
        /// messages sent
        sent: u64,
        /// the peer's close frame, or the error
        reason: String,
    },
}

impl Track {
    /// The file's name in messages.
    pub fn name(&self) -> String {
        self.file.as_ref().map_or_else(|| "stdin".to_owned(), |file| file.display().to_string())
    }

    /// Sends all messages, then closes. Returns their number; by then the peer has read all of them.
    ///
    /// # Errors
    /// [`PlayError`]
    pub async fn play<S>(&self, websocket: WebSocketStream<S>) -> Result<u64, PlayError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.start().play(websocket).await
    }

    /// As [`Track::play`], but after the last message it waits for the peer at most until `stuck` returns.
    ///
    /// # Errors
    /// [`PlayError`]
    pub async fn play_until<S>(
        &self,
        websocket: WebSocketStream<S>,
        stuck: impl Future<Output = ()>,
    ) -> Result<u64, PlayError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.start().play_until(websocket, stuck).await
    }

    /// A player before the first message. After a connection has ended, it can continue over another one.
    pub fn start(&self) -> Player<'_> {
        Player { track: self, lines: self.lines(), waiting: VecDeque::new(), sent: 0, started: None, first: None }
    }

    /// The lines as messages, in batches. The reading thread ends when the receiver is dropped.
    fn lines(&self) -> mpsc::Receiver<io::Result<Batch>> {
        let (batches, lines) = mpsc::channel(4);
        let track = self.clone();
        std::thread::spawn(move || {
            if let Err(error) = track.read(&batches) {
                let _ = batches.blocking_send(Err(error));
            }
        });
        lines
    }

    fn read(&self, batches: &mpsc::Sender<io::Result<Batch>>) -> io::Result<()> {
        if self.recorded {
            return self.read_recording(batches);
        }
        loop {
            let mut input: Box<dyn BufRead> = match &self.file {
                Some(file) => Box::new(BufReader::with_capacity(BATCH, File::open(file)?)),
                None => Box::new(io::stdin().lock()),
            };
            let mut some = false;
            loop {
                let (batch, more) = read_batch(&mut input, self.file.is_none())?;
                some |= !batch.is_empty();
                if !batch.is_empty() && batches.blocking_send(Ok(batch)).is_err() {
                    return Ok(());
                }
                if !more {
                    break;
                }
            }
            // Repeating an empty file would only use CPU.
            if !self.repeat || !some {
                return Ok(());
            }
        }
    }
}

impl Track {
    fn read_recording(&self, batches: &mpsc::Sender<io::Result<Batch>>) -> io::Result<()> {
        let Some(mut reader) = self.file.as_ref().map_or(Ok(None), |file| Reader::open(file))? else { return Ok(()) };
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(message) = reader.read()? {
            bytes += message.frame.bytes().len();
            let line = match message.frame {
                Frame::Text(text) => Message::Text(text),
                Frame::Binary(bytes) => Message::Binary(bytes),
                Frame::Row(_) => continue,
            };
            batch.push((line, Some(message.at)));
            if bytes >= BATCH {
                bytes = 0;
                if batches.blocking_send(Ok(std::mem::take(&mut batch))).is_err() {
                    return Ok(());
                }
            }
        }
        // If this fails, the receiver is gone.
        let _ = batches.blocking_send(Ok(batch));
        Ok(())
    }
}

/// A track that is being played.
pub struct Player<'a> {
    track: &'a Track,
    lines: mpsc::Receiver<io::Result<Batch>>,
    /// read, but not yet given to a socket
    waiting: VecDeque<Line>,
    sent: u64,
    /// the time when the first message was due
    started: Option<Instant>,
    /// the time when the first message of a recording arrived, ms since the epoch
    first: Option<i64>,
}

impl Player<'_> {
    /// Sends the remaining messages, then closes. Returns the number sent over all connections.
    ///
    /// # Errors
    /// [`PlayError`]. After [`PlayError::Ended`] the next call continues with the first message that no socket has
    /// taken. Messages that the ended connection had taken and its peer had not read are lost.
    pub async fn play<S>(&mut self, websocket: WebSocketStream<S>) -> Result<u64, PlayError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.play_until(websocket, std::future::pending()).await
    }

    async fn play_until<S>(
        &mut self,
        websocket: WebSocketStream<S>,
        stuck: impl Future<Output = ()>,
    ) -> Result<u64, PlayError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut writing, mut reading) = websocket.split();
        // Reading continues while messages are sent: it answers pings and notices the peer's close frame. Messages are
        // ignored. Fused, because a connection that the peer has ended must not be read again.
        let hears = async {
            let mut reason = "without a close frame".to_owned();
            while let Some(message) = reading.next().await {
                match message {
                    Ok(Message::Close(Some(frame))) => {
                        reason = format!("code {} {}", frame.code, printable(&frame.reason))
                    }
                    Ok(Message::Close(None)) => reason = "close frame without a code".to_owned(),
                    Ok(_) => {}
                    Err(error) => return error.to_string(),
                }
            }
            reason
        };
        let mut hears = std::pin::pin!(hears.fuse());
        let played = tokio::select! {
            played = self.send_all(&mut writing) => played,
            reason = &mut hears => Err(SendError::Ended(reason)),
        };
        let sent = self.sent;
        match played {
            Ok(()) => {
                let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
                // The reply to the close frame means that everything before it was read.
                let closes = async {
                    let closed = writing.send(Message::Close(Some(close))).await;
                    closed.map_err(|error| PlayError::Ended { sent, reason: error.to_string() })
                };
                tokio::select! {
                    ended = async { tokio::join!(closes, hears).0 } => ended.map(|()| sent),
                    () = stuck => Ok(sent),
                }
            }
            Err(SendError::Ended(reason)) => {
                // The close frame has more information than the broken pipe that follows it.
                let close_reason = tokio::time::timeout(Duration::from_millis(100), hears).await;
                Err(PlayError::Ended { sent, reason: close_reason.unwrap_or(reason) })
            }
            Err(SendError::Read(source)) => Err(PlayError::Read { name: self.track.name(), source }),
        }
    }

    async fn send_all<W>(&mut self, writing: &mut W) -> Result<(), SendError>
    where
        W: Sink<Message, Error = Error> + Unpin,
    {
        let ended = |error: Error| SendError::Ended(error.to_string());
        let start = *self.started.get_or_insert_with(Instant::now);
        loop {
            // A message leaves the queue only after the socket has taken it, because this future may be dropped at any
            // await.
            while let Some((message, at)) = self.waiting.front().cloned() {
                let wait = match (self.track.rate, self.track.pace, at) {
                    (Some(rate), ..) => self.sent as f64 / rate,
                    (None, Pace::Times(times), Some(at)) => {
                        let passed = at.saturating_sub(*self.first.get_or_insert(at)).max(0);
                        passed as f64 / 1000.0 / times
                    }
                    _ => 0.0,
                };
                if wait > 0.0 {
                    let due = start + Duration::from_secs_f64(wait.min(1e9));
                    if due > Instant::now() {
                        writing.flush().await.map_err(ended)?;
                        tokio::time::sleep_until(due).await;
                    }
                }
                writing.feed(message).await.map_err(ended)?;
                self.waiting.pop_front();
                self.sent += 1;
            }
            if self.lines.is_empty() {
                writing.flush().await.map_err(ended)?;
            }
            match self.lines.recv().await {
                Some(batch) => self.waiting.extend(batch.map_err(SendError::Read)?),
                None => return Ok(()),
            }
        }
    }
}

/// Why sending stopped.
enum SendError {
    Read(io::Error),
    Ended(String),
}

/// The next lines, and whether there may be more. `live` input is passed on line by line as it arrives.
fn read_batch(input: &mut dyn BufRead, live: bool) -> io::Result<(Batch, bool)> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while bytes < BATCH {
        let mut line = Vec::new();
        let read = io::Read::take(&mut *input, LONGEST as u64).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok((batch, false));
        }
        if read == LONGEST {
            let message = format!("a line is longer than {LONGEST} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let length = line.trim_ascii_end().len();
        line.truncate(length);
        if line.is_empty() {
            continue;
        }
        bytes += length;
        let message = match String::from_utf8(line) {
            Ok(text) => Message::text(text),
            Err(error) => Message::binary(error.into_bytes()),
        };
        batch.push((message, None));
        if live {
            break;
        }
    }
    Ok((batch, true))
}
