//! A websocket over a byte stream: reads messages, and writes waiting frames.
//!
//! Read buffers belong to the thread, not to the connection. A connection that stops in the middle of a frame keeps the
//! bytes of it, so an idle connection needs no buffer.

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
use crate::io::queue::BATCH_BYTES;
use crate::io::websocket::totals::{Held, Totals};

/// The number of bytes read at a time, unless the peer sends faster.
const READ: usize = 64 * 1024;

/// The number of bytes read at a time after a read that has filled its buffer. The messages of each such read are taken
/// before the next one, which then uses the same memory again.
const READ_FAST: usize = BATCH_BYTES;

/// With less room than this, a read starts a new buffer.
const MIN_READ: usize = 16 * 1024;

thread_local! {
    /// a buffer that no connection is using
    static SPARE: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// A byte stream after its handshake.
pub struct Opened<W> {
    pub wire: W,
    pub side: Side,
    pub deflate: Option<Agreement>,
}

/// The result of a round of reading.
#[derive(Debug)]
pub enum Read {
    /// the intake has a batch, and there may be more
    Full,
    /// everything available is in the intake
    Taken,
    /// a close frame; the reply waits to be flushed
    Closed(Option<Close>),
    /// reading has ended
    Broken(ReadError),
}

/// A connection, from either side.
pub struct Stream<W> {
    wire: W,
    decoder: Decoder,
    /// makes the frames that are pushed into `out`
    pub encoder: Encoder,
    /// the bytes that wait to be written
    pub out: Outbound,
    buffer: BytesMut,
    /// the number of bytes to read at a time
    usual: usize,
    held: Held,
}

impl<W: AsyncRead + AsyncWrite + Unpin> Stream<W> {
    /// A connection that accepts messages of up to `limit` bytes. `deflate` has the level and threshold, if the
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
            usual: READ,
            held: Held::new(totals),
        }
    }

    /// The underlying byte stream.
    pub fn wire(&mut self) -> &mut W {
        &mut self.wire
    }

    /// Reads what is available, at least one message, or up to the end. Pongs are written meanwhile; if one cannot be
    /// written, nothing is read.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, intake: &mut Intake) -> Poll<Read> {
        let read = self.poll_messages(cx, intake);
        if let Poll::Ready(Read::Broken(_) | Read::Closed(_)) = read {
            // Closing takes time, and others may need the memory.
            self.buffer = BytesMut::new();
            self.decoder.give_up();
            self.held.set(0);
        }
        read
    }

    fn poll_messages(&mut self, cx: &mut Context<'_>, intake: &mut Intake) -> Poll<Read> {
        loop {
            let need = match self.decoder.decode(&mut self.buffer, intake) {
                Ok(Step::More(need)) if self.usual == READ || intake.frames.is_empty() => need,
                Ok(Step::More(_) | Step::Full) => {
                    // The engine may take its time with these messages, so a pong is written before.
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
            if !self.held.set(self.buffer.len() + self.decoder.unfinished()) {
                return Poll::Ready(Read::Broken(ReadError::Budget { limit: self.held.limit() }));
            }
            self.make_room(need);
            let room = self.buffer.capacity() - self.buffer.len();
            let read = pin!(self.wire.read_buf(&mut self.buffer)).poll(cx);
            match read {
                Poll::Pending => return self.rests(intake),
                Poll::Ready(Ok(0)) => return Poll::Ready(Read::Broken(ReadError::Reset)),
                Poll::Ready(Err(error)) => return Poll::Ready(Read::Broken(error.into())),
                Poll::Ready(Ok(read)) => {
                    self.usual = if read == room && room >= READ / 2 { READ_FAST } else { READ };
                    intake.heard.get_or_insert_with(Instant::now);
                }
            }
        }
    }

    /// Waits until the kernel has everything that was pushed.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.out.poll_flush(&mut self.wire, cx)
    }

    /// Nothing more can be read now. A connection that stops early in a frame keeps no more than its bytes; of a later part
    /// the buffer stays, since copying it again and again would cost more than it saves.
    fn rests(&mut self, intake: &Intake) -> Poll<Read> {
        if self.buffer.len() < MIN_READ && self.buffer.capacity() > self.buffer.len() {
            let rest = BytesMut::from(&self.buffer[..]);
            let buffer = std::mem::replace(&mut self.buffer, rest);
            SPARE.with_borrow_mut(|spare| {
                if buffer.capacity() > spare.capacity() {
                    *spare = buffer;
                    spare.clear();
                }
            });
        }
        if intake.frames.is_empty() { Poll::Pending } else { Poll::Ready(Read::Taken) }
    }

    /// Makes room for a read if the next frame needs `need` bytes.
    fn make_room(&mut self, need: usize) {
        let wanted = self.usual.saturating_sub(self.buffer.len()).max(MIN_READ);
        if self.buffer.len() < MIN_READ
            && self.buffer.capacity() - self.buffer.len() < MIN_READ
            && !self.buffer.try_reclaim(wanted)
        {
            let mut buffer = SPARE.with_borrow_mut(std::mem::take);
            buffer.extend_from_slice(&self.buffer);
            self.buffer = buffer;
        }
        let room = self.buffer.capacity() - self.buffer.len();
        if need <= READ {
            let least = MIN_READ.max(need);
            if room < least {
                // With what is in the buffer no more than `usual`: then a buffer that nobody else uses is used again.
                self.buffer.reserve(self.usual.saturating_sub(self.buffer.len()).max(least));
            }
        } else if room < MIN_READ {
            // Memory grows with the bytes received, not with the announced length.
            self.buffer.reserve(need.min(self.buffer.len().max(READ)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::Waker;

    use tokio::io::ReadBuf;

    use super::super::frame::{Opcode, put_header};
    use super::*;

    /// A wire on which the same frame comes again and again, as fast as it is read.
    struct Flood {
        frame: Vec<u8>,
        place: usize,
        reads: usize,
    }

    impl AsyncRead for Flood {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            self.reads += 1;
            while buf.remaining() > 0 {
                let rest = &self.frame[self.place..];
                let count = rest.len().min(buf.remaining());
                buf.put_slice(&rest[..count]);
                self.place = (self.place + count) % self.frame.len();
            }
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Flood {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn a_fast_peer_is_read_into_the_same_memory() {
        for size in [200, 16 * 1024] {
            let mut frame = Vec::new();
            put_header(&mut frame, Opcode::Binary, false, size, None);
            frame.resize(frame.len() + size, b'x');
            let wire = Flood { frame, place: 0, reads: 0 };
            let opened = Opened { wire, side: Side::Client, deflate: None };
            let mut stream = Stream::new(opened, 1 << 20, None, &Arc::new(Totals::default()));
            let mut cx = Context::from_waker(Waker::noop());
            let mut bytes = 0;
            let mut memory = Vec::new();
            while stream.wire().reads < 20 {
                let reads = stream.wire().reads;
                let mut intake = Intake::default();
                assert!(matches!(stream.poll_read(&mut cx, &mut intake), Poll::Ready(Read::Full)));
                assert!(intake.frames.iter().all(|frame| frame.bytes().len() == size));
                bytes += intake.frames.len() * size;
                if stream.wire().reads > reads {
                    memory.push(intake.frames[0].bytes().as_ptr());
                }
            }
            assert!(bytes > 18 * (READ_FAST - 64 * 1024), "{bytes} bytes in 20 reads");
            let settled = &memory[4..];
            assert!(settled.iter().all(|place| *place == settled[0]), "{size}: {memory:?}");
        }
    }
}
