//! Writes messages as bytes: frames are made once for all clients if possible, and wait here until the kernel has taken
//! them.
//!
//! A server's frames are the same for each client: the first writer of a batch makes them and keeps them with the batch
//! ([`MessageBatch::form`]). Large messages are not copied; only a header is written before each. A client masks its
//! frames, so they cannot be shared.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use super::Side;
use super::deflate::Deflater;
use super::frame::{MAX_CONTROL, MAX_HEADER, Opcode, header_len, mask, put_header};
use crate::io::queue::{Encoded, Form, MessageBatch};

/// Messages with at least this average size are written from where they are; shorter ones are copied after their
/// headers.
const LARGE: usize = 4 * 1024;

/// Larger batches are not framed for all clients, because this would need twice the memory.
const SHARED: usize = 1 << 20;

/// The most slices in one system call.
const SLICES: usize = 64;

/// Makes the frames of one connection.
pub struct Encoder {
    side: Side,
    deflater: Option<Deflater>,
}

impl Encoder {
    pub fn new(side: Side, deflater: Option<Deflater>) -> Encoder {
        Encoder { side, deflater }
    }

    /// Frames messages of `batch` from `start` into `out`: at least one, then until `limit` bytes are reached. Returns
    /// their number.
    pub fn encode(&mut self, batch: &MessageBatch, start: usize, limit: usize, out: &mut Outbound) -> usize {
        let small = batch.byte_len() <= LARGE * batch.len();
        let encoded = match (self.side, &mut self.deflater) {
            (Side::Server, None) if small && batch.byte_len() <= SHARED => {
                batch.form(Form::Framed, || framed(batch, 0, usize::MAX, None, Side::Server))
            }
            (Side::Server, Some(deflater)) if deflater.is_shared() => {
                batch.form(Form::Deflated, || framed(batch, 0, usize::MAX, Some(deflater), Side::Server))
            }
            (Side::Server, None) if !small => return gather(batch, start, limit, out),
            (side, deflater) => {
                let encoded = framed(batch, start, limit, deflater.as_mut(), side);
                let count = encoded.ends.len();
                out.push(encoded.bytes);
                return count;
            }
        };
        let from = if start == 0 { 0 } else { encoded.ends[start - 1] };
        let within = encoded.ends[start..].partition_point(|&end| end - from <= limit);
        let count = within.max(1);
        out.push(encoded.bytes.slice(from..encoded.ends[start + count - 1]));
        count
    }

    /// One text message as a frame.
    pub fn text(&self, message: &str) -> Bytes {
        frame(Opcode::Text, message.as_bytes(), self.side)
    }

    /// Frames one text message into `out`. A server does not copy a large one.
    pub fn message(&self, text: Bytes, out: &mut Outbound) {
        if self.side == Side::Client || text.len() < LARGE {
            return out.push(frame(Opcode::Text, &text, self.side));
        }
        let mut header = Vec::with_capacity(MAX_HEADER);
        put_header(&mut header, Opcode::Text, false, text.len(), None);
        out.push(header.into());
        out.push(text);
    }
}

/// The frames of the messages from `start`, up to `limit` bytes.
fn framed(
    batch: &MessageBatch,
    start: usize,
    limit: usize,
    mut deflater: Option<&mut Deflater>,
    side: Side,
) -> Encoded {
    let opcode = opcode(batch);
    let mut bytes = Vec::with_capacity((batch.byte_len() + batch.len() * 4).min(limit.saturating_add(LARGE)));
    let mut ends = Vec::with_capacity(if start == 0 { batch.len() } else { 0 });
    let mut packed = Vec::new();
    for message in batch.messages_from(start) {
        packed.clear();
        let compressed = deflater.as_mut().is_some_and(|deflater| deflater.deflate(message, &mut packed));
        let payload = if compressed { &packed } else { message };
        put_frame(&mut bytes, opcode, compressed, payload, side);
        ends.push(bytes.len());
        if bytes.len() >= limit {
            break;
        }
    }
    Encoded { bytes: bytes.into(), ends }
}

/// As [`framed`], but without copying the messages.
fn gather(batch: &MessageBatch, start: usize, limit: usize, out: &mut Outbound) -> usize {
    let opcode = opcode(batch);
    let (mut count, mut bytes) = (0, 0);
    while start + count < batch.len() && bytes < limit {
        let message = batch.message(start + count);
        let mut header = Vec::with_capacity(MAX_HEADER);
        put_header(&mut header, opcode, false, message.len(), None);
        bytes += header.len() + message.len();
        out.push(header.into());
        out.push(message);
        count += 1;
    }
    count
}

fn opcode(batch: &MessageBatch) -> Opcode {
    if batch.text { Opcode::Text } else { Opcode::Binary }
}

fn put_frame(out: &mut Vec<u8>, opcode: Opcode, compressed: bool, payload: &[u8], side: Side) {
    // Unpredictable, as RFC 6455, 10.3 requires, because the content may come from others.
    let key = (side == Side::Client).then(rand::random::<[u8; 4]>);
    put_header(out, opcode, compressed, payload.len(), key);
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(key) = key {
        mask(&mut out[start..], key);
    }
}

fn frame(opcode: Opcode, payload: &[u8], side: Side) -> Bytes {
    // Without room to spare, the bytes are shared without another allocation.
    let mut bytes = Vec::with_capacity(header_len(payload.len(), side == Side::Client) + payload.len());
    put_frame(&mut bytes, opcode, false, payload, side);
    bytes.into()
}

/// The data that waits for the kernel: frames pushed by the writer, at most one pong, one ping, and a close frame.
pub struct Outbound {
    side: Side,
    /// complete frames, except that the beginning of the first may already be sent
    pieces: VecDeque<Bytes>,
    /// the payload of the newest unanswered ping
    pong: Option<Bytes>,
    /// the last frame
    close: Option<Bytes>,
    /// whether nothing more may be pushed
    closed: bool,
    /// written, but possibly not flushed
    unflushed: bool,
}

impl Outbound {
    pub fn new(side: Side) -> Outbound {
        Outbound { side, pieces: VecDeque::new(), pong: None, close: None, closed: false, unflushed: false }
    }

    /// Adds frames. The caller pushes only as much as may wait at a time, and flushes before it pushes more.
    pub fn push(&mut self, frames: Bytes) {
        if !self.closed && !frames.is_empty() {
            self.pieces.push_back(frames);
        }
    }

    /// Answers a ping, in place of an older one that was not answered yet.
    pub fn pong(&mut self, payload: Bytes) {
        if !self.closed {
            self.pong = Some(payload);
        }
    }

    /// Sends a ping with this number.
    pub fn ping(&mut self, number: u64) {
        self.push(frame(Opcode::Ping, &number.to_be_bytes(), self.side));
    }

    /// Sends the last frame. A second one is ignored.
    pub fn close(&mut self, code: Option<u16>, reason: &str) {
        if self.closed {
            return;
        }
        let mut payload = Vec::new();
        if let Some(code) = code {
            payload.extend_from_slice(&code.to_be_bytes());
            // Cut between characters if necessary.
            let most = reason.floor_char_boundary(MAX_CONTROL as usize - 2);
            payload.extend_from_slice(&reason.as_bytes()[..most]);
        }
        self.close = Some(frame(Opcode::Close, &payload, self.side));
        self.pong = None;
        self.closed = true;
    }

    /// Whether a close frame was sent or is waiting.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether a pong waits: then no further ping may be read.
    pub fn owes(&self) -> bool {
        self.pong.is_some()
    }

    /// Waits until the kernel has everything.
    pub fn poll_flush<W: AsyncWrite + Unpin>(&mut self, wire: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.pieces.is_empty() {
                if let Some(pong) = self.pong.take() {
                    self.pieces.push_back(frame(Opcode::Pong, &pong, self.side));
                } else if let Some(close) = self.close.take() {
                    self.pieces.push_back(close);
                } else {
                    if self.unflushed {
                        ready!(Pin::new(wire).poll_flush(cx))?;
                        self.unflushed = false;
                    }
                    return Poll::Ready(Ok(()));
                }
            }
            let written = if self.pieces.len() == 1 {
                ready!(Pin::new(&mut *wire).poll_write(cx, &self.pieces[0]))?
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let count = self.pieces.len().min(SLICES);
                for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                    *slice = IoSlice::new(piece);
                }
                ready!(Pin::new(&mut *wire).poll_write_vectored(cx, &slices[..count]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.advance(written);
        }
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(first) = self.pieces.front_mut() {
            if written < first.len() {
                first.advance(written);
                return;
            }
            written -= first.len();
            self.pieces.pop_front();
        }
    }
}
