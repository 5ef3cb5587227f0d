//! Reads messages from bytes: frames are parsed and unmasked in the read buffer, and cut out as slices.
//!
//! Only messages that cannot be slices are copied: fragments are joined, compressed messages are decompressed. Errors
//! are found in a frame's header, before its payload arrives.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::deflate::Inflater;
use super::frame::{Header, MAX_CONTROL, MAX_HEADER, Opcode, mask};
use super::{Close, ReadError, Side, utf8};
use crate::io::queue::{BATCH_BYTES, BATCH_FRAMES, Frame};

/// The messages from one round of reading, up to the limits of a batch.
pub struct Intake {
    /// complete messages, in order
    pub frames: Vec<Frame>,
    bytes: usize,
    /// the number of messages that it takes
    most: usize,
    /// when something first arrived, even a part of a message or a control frame
    pub heard: Option<Instant>,
    /// the number in the last pong
    pub pong: Option<u64>,
}

impl Default for Intake {
    fn default() -> Intake {
        Intake::with_capacity(0)
    }
}

impl Intake {
    /// An empty intake with room for a usual number of messages.
    pub fn with_capacity(frames: usize) -> Intake {
        Intake { frames: Vec::with_capacity(frames), bytes: 0, most: BATCH_FRAMES, heard: None, pong: None }
    }

    /// An empty intake for a single message.
    pub fn for_one() -> Intake {
        Intake { frames: Vec::new(), bytes: 0, most: 1, heard: None, pong: None }
    }

    fn is_full(&self, more: usize) -> bool {
        self.frames.len() + more >= self.most || self.bytes >= BATCH_BYTES
    }
}

/// Why the decoder stopped.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// at least this many further bytes are needed for the next frame
    More(usize),
    /// the intake is full
    Full,
    /// a ping with its payload
    Ping(Bytes),
    /// a pong, with the number in its payload if it has one
    Pong(Option<u64>),
    /// a close frame; anything after it is ignored
    Close(Option<Close>),
}

/// The state of a connection between two frames.
pub struct Decoder {
    side: Side,
    /// longest message in bytes, compressed or not
    limit: usize,
    inflater: Option<Inflater>,
    /// the message whose fragments are arriving
    partial: Option<Partial>,
    /// messages found in this round; the vector is reused
    found: Vec<Found>,
}

/// The first fragments of a message.
struct Partial {
    text: bool,
    compressed: bool,
    bytes: BytesMut,
    /// how many of its bytes are valid UTF-8
    valid: usize,
}

/// A message that was found.
enum Found {
    /// it is in the buffer
    Slice { start: usize, end: usize, text: bool },
    /// it was joined or decompressed
    Whole(Frame),
}

impl Decoder {
    pub fn new(side: Side, limit: usize, inflater: Option<Inflater>) -> Decoder {
        Decoder { side, limit, inflater, partial: None, found: Vec::new() }
    }

    /// Bytes of the incomplete message.
    pub fn unfinished(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.bytes.len())
    }

    /// Drops the incomplete message.
    pub fn give_up(&mut self) {
        self.partial = None;
    }

    /// Decodes frames from the front of `buffer` until something other than a message comes.
    ///
    /// # Errors
    /// Protocol errors. Messages before the error are in the intake.
    pub fn decode(&mut self, buffer: &mut BytesMut, intake: &mut Intake) -> Result<Step, ReadError> {
        let mut at = 0;
        let end = loop {
            if intake.is_full(self.found.len()) {
                break Ok(Step::Full);
            }
            match self.frame(buffer, &mut at, intake) {
                Ok(None) => {}
                Ok(Some(step)) => break Ok(step),
                Err(error) => break Err(error),
            }
        };
        if at > 0 {
            let taken = buffer.split_to(at).freeze();
            for found in self.found.drain(..) {
                intake.frames.push(match found {
                    Found::Slice { start, end, text: false } => Frame::Binary(taken.slice(start..end)),
                    Found::Slice { start, end, text: true } => text(taken.slice(start..end))?,
                    Found::Whole(frame) => frame,
                });
            }
        }
        end
    }

    /// Decodes the frame at `at`, and moves `at` past it. `None`: it belonged to a message.
    fn frame(&mut self, buffer: &mut BytesMut, at: &mut usize, intake: &mut Intake) -> Result<Option<Step>, ReadError> {
        let there = buffer.len() - *at;
        let Some(header) = Header::parse(&buffer[*at..])? else {
            return Ok(Some(Step::More(MAX_HEADER.saturating_sub(there).max(1))));
        };
        self.check(&header)?;
        // The size was checked against a limit that is a `usize`.
        let whole = header.size + header.payload as usize;
        if there < whole {
            return Ok(Some(Step::More(whole - there)));
        }
        let (start, end) = (*at + header.size, *at + whole);
        if let Some(key) = header.mask {
            mask(&mut buffer[start..end], key);
        }
        let payload = &buffer[start..end];
        let text = header.opcode == Opcode::Text;
        match header.opcode {
            Opcode::Text | Opcode::Binary if header.last && !header.compressed => {
                intake.bytes += payload.len();
                self.found.push(Found::Slice { start, end, text });
            }
            Opcode::Text | Opcode::Binary if header.last => {
                let message = inflated(&mut self.inflater, payload, text, self.limit)?;
                intake.bytes += message.bytes().len();
                self.found.push(Found::Whole(message));
            }
            Opcode::Text | Opcode::Binary => {
                let mut partial = Partial { text, compressed: header.compressed, bytes: BytesMut::new(), valid: 0 };
                partial.extend(payload)?;
                self.partial = Some(partial);
            }
            Opcode::Continue => {
                let Some(partial) = &mut self.partial else { return Err(ReadError::NothingToContinue) };
                partial.extend(payload)?;
                if header.last
                    && let Some(partial) = self.partial.take()
                {
                    let message = partial.complete(&mut self.inflater, self.limit)?;
                    intake.bytes += message.bytes().len();
                    self.found.push(Found::Whole(message));
                }
            }
            Opcode::Ping => {
                let payload = Bytes::copy_from_slice(payload);
                *at = end;
                return Ok(Some(Step::Ping(payload)));
            }
            Opcode::Pong => {
                let number = payload.try_into().ok().map(u64::from_be_bytes);
                *at = end;
                return Ok(Some(Step::Pong(number)));
            }
            Opcode::Close => {
                let close = close(payload)?;
                *at = end;
                return Ok(Some(Step::Close(close)));
            }
        }
        *at = end;
        Ok(None)
    }

    /// Checks a header.
    fn check(&self, header: &Header) -> Result<(), ReadError> {
        let control = header.opcode.is_control();
        let within = |size: u64| match size <= self.limit as u64 {
            true => Ok(()),
            false => Err(ReadError::Size { size, limit: self.limit }),
        };
        if !control {
            within(header.payload)?;
        }
        match (self.side, header.mask) {
            (Side::Server, None) => return Err(ReadError::Unmasked),
            (Side::Client, Some(_)) => return Err(ReadError::Masked),
            _ => {}
        }
        let begins = matches!(header.opcode, Opcode::Text | Opcode::Binary);
        if header.reserved || (header.compressed && !(begins && self.inflater.is_some())) {
            return Err(ReadError::ReservedBits);
        }
        match (control, &self.partial) {
            (true, _) if !header.last => Err(ReadError::FragmentedControl),
            (true, _) if header.payload > MAX_CONTROL => Err(ReadError::LargeControl(header.payload)),
            (false, Some(_)) if begins => Err(ReadError::Unfinished),
            (false, None) if !begins => Err(ReadError::NothingToContinue),
            (false, Some(partial)) => within(header.payload.saturating_add(partial.bytes.len() as u64)),
            _ => Ok(()),
        }
    }
}

impl Partial {
    fn extend(&mut self, payload: &[u8]) -> Result<(), ReadError> {
        self.bytes.extend_from_slice(payload);
        if self.text && !self.compressed {
            match simdutf8::compat::from_utf8(&self.bytes[self.valid..]) {
                Ok(_) => self.valid = self.bytes.len(),
                // The last character may continue in the next fragment.
                Err(error) if error.error_len().is_none() => self.valid += error.valid_up_to(),
                Err(_) => return Err(ReadError::Utf8),
            }
        }
        Ok(())
    }

    fn complete(self, inflater: &mut Option<Inflater>, limit: usize) -> Result<Frame, ReadError> {
        if self.compressed {
            return inflated(inflater, &self.bytes, self.text, limit);
        }
        let bytes = self.bytes.freeze();
        if self.text { text(bytes) } else { Ok(Frame::Binary(bytes)) }
    }
}

fn text(bytes: Bytes) -> Result<Frame, ReadError> {
    utf8::checked(bytes).map(Frame::Text).ok_or(ReadError::Utf8)
}

fn inflated(inflater: &mut Option<Inflater>, payload: &[u8], is_text: bool, limit: usize) -> Result<Frame, ReadError> {
    let Some(inflater) = inflater else { return Err(ReadError::ReservedBits) };
    let bytes = Bytes::from(inflater.inflate(payload, limit)?);
    if is_text { text(bytes) } else { Ok(Frame::Binary(bytes)) }
}

fn close(payload: &[u8]) -> Result<Option<Close>, ReadError> {
    match payload {
        [] => Ok(None),
        [_] => Err(ReadError::CloseCode),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            let reason = std::str::from_utf8(reason).map_err(|_| ReadError::Utf8)?;
            if !CloseCode::from(code).is_allowed() {
                return Err(ReadError::CloseCode);
            }
            Ok(Some(Close { code, reason: reason.to_owned() }))
        }
    }
}
