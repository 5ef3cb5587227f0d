//! Comparison with the message layer of tungstenite: the same bytes, split at the same places, must give the same
//! messages and end.

use std::io::{self, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket};

use super::deflate::{Agreement, Deflate};
use super::frame::{Header, mask};
use super::read::Intake;
use super::stream::{Opened, Read, Stream};
use super::{Close, Side};
use crate::io::queue::Frame;
use crate::io::websocket::totals::Totals;

/// A wire with given reads: one part each, then the end.
pub struct Script {
    parts: std::vec::IntoIter<Vec<u8>>,
    rest: Vec<u8>,
    /// a part was just read: return nothing once
    pause: bool,
    pub written: Vec<u8>,
}

impl Script {
    pub fn new(parts: Vec<Vec<u8>>) -> Script {
        Script { parts: parts.into_iter(), rest: Vec::new(), pause: false, written: Vec::new() }
    }

    fn take(&mut self, most: usize) -> Vec<u8> {
        if self.rest.is_empty() {
            self.rest = self.parts.by_ref().find(|part| !part.is_empty()).unwrap_or_default();
        }
        let rest = self.rest.split_off(most.min(self.rest.len()));
        std::mem::replace(&mut self.rest, rest)
    }
}

impl AsyncRead for Script {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.pause = !self.pause;
        if !self.pause {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let bytes = self.take(buf.remaining());
        buf.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.written.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl io::Read for Script {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let bytes = self.take(buf.len());
        buf[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }
}

impl Write for Script {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.written.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The messages: whether text, and the bytes.
pub type Messages = Vec<(bool, Vec<u8>)>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// with this close frame
    Closed(Option<Close>),
    /// with an error, and the code for the peer
    Failed(Option<u16>),
}

/// The result of our layer for the parts, and what it writes.
pub fn ours(parts: Vec<Vec<u8>>, side: Side, limit: usize, deflate: Option<Agreement>) -> (Messages, End, Vec<u8>) {
    let opened = Opened { wire: Script::new(parts), side, deflate };
    let own = Deflate { level: 6, context_takeover: true, window_bits: 15, threshold: 1 };
    let mut stream = Stream::new(opened, limit, Some(&own), &Arc::new(Totals::default()));
    let mut cx = Context::from_waker(Waker::noop());
    let mut messages = Vec::new();
    let end = loop {
        let mut intake = Intake::default();
        let read = stream.poll_read(&mut cx, &mut intake);
        messages.extend(intake.frames.into_iter().map(|frame| match frame {
            Frame::Text(text) => (true, text.as_bytes().to_vec()),
            other => (false, other.bytes().to_vec()),
        }));
        match read {
            Poll::Ready(Read::Closed(close)) => break End::Closed(close),
            Poll::Ready(Read::Broken(error)) => break End::Failed(error.code()),
            _ => {}
        }
    };
    if let End::Failed(Some(code)) = end {
        stream.out.close(Some(code), "");
    }
    assert!(matches!(stream.poll_flush(&mut cx), Poll::Ready(Ok(()))));
    (messages, end, std::mem::take(&mut stream.wire().written))
}

fn theirs(parts: Vec<Vec<u8>>, side: Side, limit: usize) -> (Messages, End) {
    let role = if side == Side::Server { Role::Server } else { Role::Client };
    let config = WebSocketConfig::default().max_message_size(Some(limit)).max_frame_size(Some(limit));
    let mut socket = WebSocket::from_raw_socket(Script::new(parts), role, Some(config));
    let mut messages = Vec::new();
    loop {
        let end = match socket.read() {
            Ok(Message::Text(text)) => {
                messages.push((true, text.as_bytes().to_vec()));
                continue;
            }
            Ok(Message::Binary(bytes)) => {
                messages.push((false, bytes.to_vec()));
                continue;
            }
            Ok(Message::Close(None)) => End::Closed(None),
            // The name in tungstenite for a code that must not be sent.
            Ok(Message::Close(Some(frame))) if frame.reason.as_str() == "Protocol violation" => End::Failed(Some(1002)),
            Ok(Message::Close(Some(frame))) => {
                End::Closed(Some(Close { code: frame.code.into(), reason: frame.reason.to_string() }))
            }
            Ok(_) => continue,
            Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) | Error::Io(_)) => End::Failed(None),
            Err(Error::Utf8(_)) => End::Failed(Some(1007)),
            Err(Error::Capacity(_)) => End::Failed(Some(1009)),
            Err(_) => End::Failed(Some(1002)),
        };
        return (messages, end);
    }
}

/// A frame with any header and its length in the shortest form.
pub fn frame(first: u8, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let masked = if key.is_some() { 0x80 } else { 0 };
    let mut bytes = match payload.len() {
        length @ 0..=125 => vec![first, masked | length as u8],
        length @ 126..=0xffff => [&[first, masked | 126][..], &(length as u16).to_be_bytes()].concat(),
        length => [&[first, masked | 127][..], &(length as u64).to_be_bytes()].concat(),
    };
    let mut payload = payload.to_vec();
    if let Some(key) = key {
        bytes.extend_from_slice(&key);
        mask(&mut payload, key);
    }
    bytes.extend(payload);
    bytes
}

/// Splits bytes at these places.
pub fn cut(bytes: &[u8], places: &[usize]) -> Vec<Vec<u8>> {
    let mut places: Vec<usize> = places.iter().map(|place| place % (bytes.len() + 1)).collect();
    places.sort_unstable();
    places.push(bytes.len());
    let mut from = 0;
    places.into_iter().map(|to| bytes[std::mem::replace(&mut from, to)..to].to_vec()).collect()
}

/// One item sent by a peer: its frames, without masks.
fn sent() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
    let text = prop_oneof!["[ -~]{0,40}", "[ä-ü€𝄞a-c]{0,20}", "[a-f]{120,330}"];
    let binary = prop::collection::vec(any::<u8>(), 0..200);
    let whole = prop_oneof![
        8 => text.clone().prop_map(|text| vec![(0x81, text.into_bytes())]),
        4 => binary.clone().prop_map(|bytes| vec![(0x82, bytes)]),
    ];
    let control = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..126).prop_map(|bytes| vec![(0x89, bytes)]),
        2 => prop::collection::vec(any::<u8>(), 0..126).prop_map(|bytes| vec![(0x8a, bytes)]),
    ];
    let fragments = (
        prop_oneof![text.prop_map(|t| (1u8, t.into_bytes())), binary.prop_map(|b| (2u8, b))],
        prop::collection::vec(any::<usize>(), 1..5),
        any::<bool>(),
    );
    let fragments = fragments.prop_map(|((opcode, payload), places, pings)| {
        let parts = cut(&payload, &places);
        let last = parts.len() - 1;
        let mut frames = Vec::new();
        for (place, part) in parts.into_iter().enumerate() {
            let first = if place == 0 { opcode } else { 0 };
            frames.push((first | if place == last { 0x80 } else { 0 }, part));
            if pings && place < last {
                frames.push((0x89, b"between".to_vec()));
            }
        }
        frames
    });
    let close = (any::<u16>(), 990u16..1020, any::<bool>(), prop::collection::vec(any::<u8>(), 0..4), "[a-zä]{0,20}");
    let close = close.prop_map(|(any, near, far, odd, reason)| {
        let payload = match odd.len() {
            0 => odd,
            1 => odd,
            2 => [&[0x03, 0xe8], &odd[..]].concat(),
            _ => [&(if far { any } else { near }).to_be_bytes()[..], reason.as_bytes()].concat(),
        };
        vec![(0x88, payload)]
    });
    let wild =
        (any::<u8>(), prop::collection::vec(any::<u8>(), 0..140)).prop_map(|(first, payload)| vec![(first, payload)]);
    prop_oneof![12 => whole, 4 => control, 5 => fragments, 1 => close, 1 => wild]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn the_same_bytes_give_the_same_messages_and_end(
        sent in prop::collection::vec(sent(), 0..12),
        keys in prop::collection::vec(any::<[u8; 4]>(), 4),
        server in any::<bool>(),
        wrong_mask in prop::option::weighted(0.05, any::<usize>()),
        flips in prop::collection::vec((any::<usize>(), any::<u8>()), 0..2),
        flip in prop::bool::weighted(0.3),
        places in prop::collection::vec(any::<usize>(), 0..12),
        limit in prop_oneof![Just(200usize), Just(1 << 20)],
    ) {
        let mut bytes = Vec::new();
        for (n, (first, payload)) in sent.iter().flatten().enumerate() {
            let masked = server != wrong_mask.is_some_and(|place| place % 16 == n);
            bytes.extend(frame(*first, payload, masked.then(|| keys[n % keys.len()])));
        }
        for (place, by) in flips.into_iter().filter(|_| flip && !bytes.is_empty()).collect::<Vec<_>>() {
            let place = place % bytes.len();
            bytes[place] ^= by;
        }
        let side = if server { Side::Server } else { Side::Client };
        let parts = cut(&bytes, &places);
        let (messages, end, written) = ours(parts.clone(), side, limit, None);
        let (expected, expected_end) = theirs(parts, side, limit);
        prop_assert_eq!(messages, expected);
        // Ours fails at an invalid header, theirs waits for the payload.
        if !(expected_end == End::Failed(None) && matches!(end, End::Failed(Some(1002 | 1009)))) {
            prop_assert_eq!(&end, &expected_end);
        }
        // The peer gets a close frame.
        let sent = frames(&written).into_iter().find(|(opcode, _)| *opcode == 8).map(|(_, payload)| payload);
        let code = match end {
            End::Closed(close) => Some(close.map_or(Vec::new(), |close| close.code.to_be_bytes().to_vec())),
            End::Failed(code) => code.map(|code| code.to_be_bytes().to_vec()),
        };
        prop_assert_eq!(sent, code);
    }
}

/// The written frames: opcodes and payloads without masks.
pub fn frames(mut written: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some(header) = Header::parse(written).expect("our own frames are right") {
        let end = header.size + header.payload as usize;
        let mut payload = written[header.size..end].to_vec();
        if let Some(key) = header.mask {
            mask(&mut payload, key);
        }
        frames.push((header.opcode as u8, payload));
        written = &written[end..];
    }
    assert!(written.is_empty());
    frames
}
