//! A websocket over a wire: reading into messages, writing what waits.
//!
//! Read buffers belong to the thread, not to the connection: only one whose bytes end in the middle of a frame keeps
//! its buffer, so that an idle connection costs none.

use std::cell::RefCell;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::deflate::{Agreement, Deflate, Deflater, Inflater};
use super::read::{Decoder, Intake, Step};
use super::write::{Encoder, Outbound};
use super::{Close, ReadError, Side};
use crate::io::websocket::totals::{Held, Totals};

/// How much is read at a time, in bytes.
const READ: usize = 64 * 1024;

/// With less room than this, a read begins a new buffer.
const MIN_READ: usize = 16 * 1024;

/// Unfinished messages up to this size count against no budget.
const UNCOUNTED: usize = 64 * 1024;

thread_local! {
    /// a buffer that no connection keeps
    static SPARE: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// A wire whose handshake is done.
pub struct Opened<W> {
    pub wire: W,
    pub side: Side,
    pub deflate: Option<Agreement>,
}

/// What a round of reading came to.
#[derive(Debug)]
pub enum Read {
    /// the intake is full, and more may be there
    Full,
    /// what was there is in the intake
    Taken,
    /// a close frame; its answer waits to be flushed
    Closed(Option<Close>),
    /// reading is over
    Broken(ReadError),
}

/// A connection of either side.
pub struct Stream<W> {
    wire: W,
    decoder: Decoder,
    /// makes the frames of what is pushed into `out`
    pub encoder: Encoder,
    /// what waits to be written
    pub out: Outbound,
    buffer: BytesMut,
    held: Held,
}

impl<W: AsyncRead + AsyncWrite + Unpin> Stream<W> {
    /// A connection that takes messages of up to `limit` bytes. `deflate` is asked for its level and threshold, if the
    /// handshake has agreed on compression.
    pub fn new(opened: Opened<W>, limit: usize, deflate: Option<&Deflate>, totals: &Arc<Totals>) -> Stream<W> {
        let Opened { wire, side, deflate: agreement } = opened;
        let inflater = agreement.as_ref().map(Inflater::new);
        let deflater = agreement.as_ref().zip(deflate).map(|(agreement, own)| Deflater::new(agreement, own));
        Stream {
            wire,
            decoder: Decoder::new(side, limit, inflater),
            encoder: Encoder::new(side, deflater),
            out: Outbound::new(side),
            buffer: BytesMut::new(),
            held: Held::new(totals),
        }
    }

    /// The bytes below.
    pub fn wire(&mut self) -> &mut W {
        &mut self.wire
    }

    /// Reads what is there, at least one message, or up to the end. Pongs are written meanwhile; while one cannot be,
    /// nothing is read.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, intake: &mut Intake) -> Poll<Read> {
        let read = self.poll_messages(cx, intake);
        if let Poll::Ready(Read::Broken(_) | Read::Closed(_)) = read {
            // The goodbye takes its time, and others may need the memory.
            self.buffer = BytesMut::new();
            self.decoder.give_up();
            self.held.set(0);
        }
        read
    }

    fn poll_messages(&mut self, cx: &mut Context<'_>, intake: &mut Intake) -> Poll<Read> {
        loop {
            let need = match self.decoder.decode(&mut self.buffer, intake) {
                Ok(Step::More(need)) => need,
                Ok(Step::Full) => {
                    // The engine may take its time with these: a pong does not wait for it.
                    let _ = self.poll_flush(cx);
                    return Poll::Ready(Read::Full);
                }
                Ok(Step::Ping(payload)) => {
                    self.out.pong(payload);
                    continue;
                }
                Ok(Step::Pong(number)) => {
                    intake.pong = number.or(intake.pong);
                    continue;
                }
                Ok(Step::Close(close)) => {
                    self.out.close(close.as_ref().map(|close| close.code), "");
                    return Poll::Ready(Read::Closed(close));
                }
                Err(error) => return Poll::Ready(Read::Broken(error)),
            };
            if self.out.owes() {
                match self.poll_flush(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Read::Broken(error.into())),
                    Poll::Pending => return self.rests(intake),
                }
            }
            let unfinished = self.buffer.len() + self.decoder.unfinished();
            if !self.held.set(if unfinished > UNCOUNTED { unfinished } else { 0 }) {
                return Poll::Ready(Read::Broken(ReadError::Budget { limit: self.held.limit() }));
            }
            self.make_room(need);
            let read = pin!(self.wire.read_buf(&mut self.buffer)).poll(cx);
            match read {
                Poll::Pending => return self.rests(intake),
                Poll::Ready(Ok(0)) => return Poll::Ready(Read::Broken(ReadError::Reset)),
                Poll::Ready(Err(error)) => return Poll::Ready(Read::Broken(error.into())),
                Poll::Ready(Ok(_)) => {
                    intake.heard.get_or_insert_with(Instant::now);
                }
            }
        }
    }

    /// Waits until the kernel has all that was pushed.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.out.poll_flush(&mut self.wire, cx)
    }

    /// Nothing more can be read now.
    fn rests(&mut self, intake: &Intake) -> Poll<Read> {
        if self.buffer.is_empty() {
            SPARE.with_borrow_mut(|spare| {
                let buffer = std::mem::take(&mut self.buffer);
                if buffer.capacity() > spare.capacity() {
                    *spare = buffer;
                }
            });
        }
        if intake.frames.is_empty() { Poll::Pending } else { Poll::Ready(Read::Taken) }
    }

    /// Makes room for a read in which the next frame needs `need` bytes.
    fn make_room(&mut self, need: usize) {
        if self.buffer.is_empty() && self.buffer.capacity() < MIN_READ {
            self.buffer = SPARE.with_borrow_mut(std::mem::take);
        }
        let room = self.buffer.capacity() - self.buffer.len();
        if need <= READ {
            if room < MIN_READ.max(need) {
                self.buffer.reserve(READ);
            }
        } else if room < MIN_READ {
            // Memory grows with what has come, not with what is announced.
            self.buffer.reserve(need.min(self.buffer.len().max(READ)));
        }
    }
}
