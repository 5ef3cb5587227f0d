//! The cases of the Autobahn test suite, rewritten: each test names its cases.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::code;
use super::deflate::{Agreement, Deflate, Deflater};
use super::oracle::{End, Messages, cut, frame, frames, ours};
use super::{Intake, Opened, Side, Stream};
use crate::io::websocket::totals::Totals;

const KEY: Option<[u8; 4]> = Some([0x11, 0x92, 0xa3, 0x54]);

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
const CLOSE: u8 = 0x88;

/// The largest message that a connection accepts by default.
const LIMIT: usize = 16 << 20;

/// The result of a server for these frames, sent in one piece and in pieces of each of these lengths.
fn take(sent: &[(u8, &[u8])], pieces: &[usize]) -> (Messages, End, Vec<(u8, Vec<u8>)>) {
    let bytes: Vec<u8> = sent.iter().flat_map(|(first, payload)| frame(*first, payload, KEY)).collect();
    let (messages, end, written) = ours(vec![bytes.clone()], Side::Server, LIMIT, None);
    for length in pieces {
        let parts = bytes.chunks(*length).map(<[u8]>::to_vec).collect();
        let again = ours(parts, Side::Server, LIMIT, None);
        assert!((&again.0, &again.1) == (&messages, &end), "in pieces of {length}");
    }
    (messages, end, frames(&written))
}

fn messages(sent: &[(u8, &[u8])]) -> Messages {
    let (messages, end, _) = take(sent, &[1]);
    assert_eq!(end, End::Failed(None), "the script ends without a close frame");
    messages
}

fn fails(sent: &[(u8, &[u8])]) -> Option<u16> {
    let (_, end, written) = take(sent, &[1]);
    let End::Failed(Some(code)) = end else { return None };
    assert_eq!(written.last().expect("the peer gets a close frame"), &(8, code.to_be_bytes().to_vec()));
    Some(code)
}

#[test]
fn sizes_1_1_and_1_2() {
    for length in [0, 1, 125, 126, 127, 128, 65_535, 65_536, 1 << 20] {
        let payload = vec![b'*'; length];
        for first in [TEXT, BINARY] {
            let (got, _, _) = take(&[(first, &payload)], &[997, 2048]);
            assert!(got == [(first == TEXT, payload.clone())], "{length}");
        }
    }
}

#[test]
fn pings_2() {
    let longest = [0xfe; 125];
    for payload in [&b""[..], b"Hello", &[0, 0xff, 0xfe, 0xfd], &longest] {
        let (_, _, written) = take(&[(PING, payload)], &[1]);
        assert_eq!(written, [(10, payload.to_vec())]);
    }
    assert_eq!(fails(&[(PING, &[0xfe; 126])]), Some(code::PROTOCOL));
    // Unsolicited pongs are ignored, 2.7 to 2.9.
    let (_, _, written) = take(&[(PONG, b""), (PONG, b"unsolicited"), (PING, b"payload")], &[1]);
    assert_eq!(written, [(10, b"payload".to_vec())]);
    // Of ten pings at once, only the newest is answered, 2.10 and 2.11; one by one, each is answered.
    let payloads: Vec<Vec<u8>> = (0..10).map(|n| format!("payload-{n}").into_bytes()).collect();
    let pings: Vec<(u8, &[u8])> = payloads.iter().map(|payload| (PING, &payload[..])).collect();
    assert_eq!(take(&pings, &[]).2, [(10, b"payload-9".to_vec())]);
    let parts = pings.iter().map(|(first, payload)| frame(*first, payload, KEY)).collect();
    let each: Vec<(u8, Vec<u8>)> = payloads.into_iter().map(|payload| (10, payload)).collect();
    assert_eq!(frames(&ours(parts, Side::Server, LIMIT, None).2), each);
}

#[test]
fn reserved_bits_3() {
    for bits in 1..=7 {
        for first in [TEXT, BINARY, PING, CLOSE] {
            assert_eq!(fails(&[(TEXT, b"before"), (first | bits << 4, b"")]), Some(code::PROTOCOL));
        }
    }
    assert_eq!(take(&[(TEXT, b"before"), (TEXT | 0x20, b"x")], &[1]).0, [(true, b"before".to_vec())]);
}

#[test]
fn opcodes_4() {
    for opcode in (3..=7).chain(11..=15) {
        assert_eq!(fails(&[(TEXT, b"before"), (0x80 | opcode, b"x"), (PING, b"")]), Some(code::PROTOCOL));
    }
}

#[test]
fn fragments_5() {
    let whole = || vec![(true, b"fragment1fragment2".to_vec())];
    for control in [PING, PONG, CLOSE] {
        assert_eq!(fails(&[(control & 0x7f, b"f1"), (0x80, b"f2")]), Some(code::PROTOCOL), "5.1, 5.2");
    }
    assert_eq!(messages(&[(0x01, b"fragment1"), (0x80, b"fragment2")]), whole(), "5.3 to 5.5");
    assert_eq!(messages(&[(0x01, b"fragment1"), (PING, b"ping"), (0x80, b"fragment2")]), whole(), "5.6 to 5.8");
    for first in [0x80, 0x00] {
        assert_eq!(fails(&[(first, b"alone"), (TEXT, b"Hello")]), Some(code::PROTOCOL), "5.9 to 5.14");
        let after = [(0x01, &b"fragment1"[..]), (0x80, b"fragment2"), (first, b"alone"), (TEXT, b"Hello")];
        assert_eq!(fails(&after), Some(code::PROTOCOL), "5.15 to 5.17");
        assert_eq!(take(&after, &[1]).0, whole());
    }
    assert_eq!(fails(&[(0x01, b"fragment1"), (TEXT, b"fragment2")]), Some(code::PROTOCOL), "5.18");
    let five = [(0x01, &b"1"[..]), (0, b"2"), (PING, b"a"), (0, b"3"), (0, b"4"), (PING, b"b"), (0x80, b"5")];
    assert_eq!(messages(&five), [(true, b"12345".to_vec())], "5.19, 5.20");
    assert_eq!(messages(&[(0x02, b""), (0, b""), (0x80, b"")]), [(false, Vec::new())]);
}

#[test]
fn utf_8_in_6() {
    let valid = [
        "",
        "Hello-µ@ßöäüàá-UTF-8!!",
        "κόσμε",
        "\u{0}",
        "\u{7f}\u{80}\u{7ff}\u{800}\u{ffff}\u{10000}\u{10ffff}",
        "\u{d7ff}\u{e000}\u{fffd}",
        "\u{fffe}\u{1fffe}\u{10fffe}",
    ];
    for text in valid {
        let bytes = text.as_bytes();
        assert_eq!(messages(&[(TEXT, bytes)]), [(true, bytes.to_vec())]);
        for place in 0..=bytes.len() {
            let (one, two) = bytes.split_at(place);
            assert_eq!(messages(&[(0x01, one), (0x80, two)]), [(true, bytes.to_vec())], "{text} cut at {place}");
        }
    }
    let invalid: [&[u8]; 12] = [
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
        b"\x80",
        b"\xbf\x80",
        b"\xc0\xaf",
        b"\xe0\x80\xaf",
        b"\xf0\x80\x80\xaf",
        b"\xed\xad\xbf",
        b"\xf4\x90\x80\x80",
        b"\xf8\x88\x80\x80\x80",
        b"\xfe",
        b"a\xff",
        b"\xce\xba\xe1\xbd",
    ];
    for bytes in invalid {
        assert_eq!(fails(&[(TEXT, bytes)]), Some(code::INVALID));
        assert_eq!(messages(&[(BINARY, bytes)]), [(false, bytes.to_vec())]);
        for place in 0..=bytes.len() {
            let (one, two) = bytes.split_at(place);
            assert_eq!(fails(&[(0x01, one), (0x80, two)]), Some(code::INVALID));
        }
    }
    // It fails at the invalid fragment, not at the end of the message: 6.4.1 and 6.4.2.
    let early = [(0x01, &b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5"[..]), (0, b"\xf4\x90\x80\x80")];
    assert_eq!(fails(&early), Some(code::INVALID));
}

#[test]
fn closing_7() {
    let closed = |payload: &[u8]| take(&[(CLOSE, payload)], &[1]);
    let (got, end, written) = take(&[(TEXT, b"x"), (CLOSE, &[0x03, 0xe8]), (TEXT, b"after"), (PING, b"after")], &[]);
    assert_eq!(got, [(true, b"x".to_vec())], "7.1.1 to 7.1.4");
    assert!(matches!(end, End::Closed(Some(close)) if close.code == 1000));
    assert_eq!(written, [(8, vec![0x03, 0xe8])]);
    // An incomplete message is discarded, 7.1.5.
    assert_eq!(take(&[(0x01, b"fragment"), (CLOSE, &[0x03, 0xe8]), (0x80, b"rest")], &[]).0, []);
    assert_eq!(closed(b"").1, End::Closed(None), "7.3.1");
    assert_eq!(closed(b"").2, [(8, Vec::new())]);
    assert_eq!(fails(&[(CLOSE, b"a")]), Some(code::PROTOCOL), "7.3.2");
    let reason = |length| [&[0x03, 0xe8], &vec![b'r'; length][..]].concat();
    assert!(matches!(closed(&reason(0)).1, End::Closed(Some(close)) if close.reason.is_empty()), "7.3.3");
    assert!(matches!(closed(&reason(123)).1, End::Closed(Some(close)) if close.reason.len() == 123), "7.3.4, 7.3.5");
    assert_eq!(fails(&[(CLOSE, &reason(124))]), Some(code::PROTOCOL), "7.3.6");
    assert_eq!(fails(&[(CLOSE, b"\x03\xe8\xce\xba\xed\xa0\x80")]), Some(code::INVALID), "7.5.1");
    for right in [1000u16, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999] {
        let (_, end, written) = closed(&right.to_be_bytes());
        assert!(matches!(end, End::Closed(Some(close)) if close.code == right), "7.7: {right}");
        assert_eq!(written, [(8, right.to_be_bytes().to_vec())]);
    }
    for wrong in [0u16, 999, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        assert_eq!(fails(&[(CLOSE, &wrong.to_be_bytes())]), Some(code::PROTOCOL), "7.9, 7.13: {wrong}");
    }
}

#[test]
fn masks_are_checked() {
    let unmasked = frame(TEXT, b"x", None);
    assert_eq!(ours(vec![unmasked.clone()], Side::Server, LIMIT, None).1, End::Failed(Some(code::PROTOCOL)));
    assert_eq!(ours(vec![unmasked], Side::Client, LIMIT, None).0, [(true, b"x".to_vec())]);
    assert_eq!(ours(vec![frame(TEXT, b"x", KEY)], Side::Client, LIMIT, None).1, End::Failed(Some(code::PROTOCOL)));
}

#[test]
fn large_messages_9() {
    for length in [1 << 20, LIMIT] {
        let payload: Vec<u8> = (0..length).map(|n| b'a' + (n % 23) as u8).collect();
        for (first, whole) in [(TEXT, true), (BINARY, false)] {
            let pieces = if length < LIMIT { &[64 * 1024][..] } else { &[] };
            let (got, _, _) = take(&[(first, &payload)], pieces);
            assert!(got == [(whole, payload.clone())], "9.1, 9.2: {length}");
            let size = length / 64;
            let fragments: Vec<(u8, &[u8])> = payload
                .chunks(size)
                .enumerate()
                .map(|(n, part)| (if n == 0 { first & 0x0f } else { 0 } | if n == 63 { 0x80 } else { 0 }, part))
                .collect();
            assert!(take(&fragments, &[]).0 == [(whole, payload.clone())], "9.3, 9.4: {length}");
        }
    }
    // One byte more, in one frame and in fragments.
    let payload = vec![b'x'; LIMIT + 1];
    assert_eq!(take(&[(BINARY, &payload)], &[]).1, End::Failed(Some(code::SIZE)));
    let (one, two) = payload.split_at(LIMIT / 2);
    assert_eq!(take(&[(0x02, one), (0x80, two)], &[]).1, End::Failed(Some(code::SIZE)));
    // The message is refused at its header.
    let announced = [&[0x82, 0xff][..], &u64::MAX.to_be_bytes(), &[0; 4]].concat();
    assert_eq!(ours(vec![announced], Side::Server, LIMIT, None).1, End::Failed(Some(code::SIZE)));
}

const OWN: Deflate = Deflate { level: 6, context_takeover: true, window_bits: 15, threshold: 1 };

#[test]
fn compressed_messages_12_and_13() {
    for takeover in [true, false] {
        for bits in [9, 12, 15] {
            let agreement = Agreement { reset_out: !takeover, reset_in: !takeover, bits_out: bits, bits_in: bits };
            let mut deflater = Deflater::new(&agreement, &OWN);
            let mut bytes = Vec::new();
            let mut sent = Vec::new();
            for length in [16, 64, 256, 1024, 4096, 8192, 16_384, 32_768, 65_536, 131_072] {
                for n in 0..4 {
                    let text = format!("{{\"n\":{n},\"a\":\"lorem ipsum {length}\"}}").repeat(length / 20 + 1);
                    let mut packed = Vec::new();
                    if !deflater.deflate(text.as_bytes(), &mut packed) {
                        bytes.extend(frame(TEXT, text.as_bytes(), KEY));
                    } else if n == 1 {
                        // In fragments, with a ping between them: RSV1 is set only on the first.
                        let parts = cut(&packed, &[packed.len() / 3, packed.len() / 2]);
                        bytes.extend(frame(0x41, &parts[0], KEY));
                        bytes.extend(frame(PING, b"", KEY));
                        bytes.extend(frame(0x00, &parts[1], KEY));
                        bytes.extend(frame(0x80, &parts[2], KEY));
                    } else {
                        bytes.extend(frame(0xc1, &packed, KEY));
                    }
                    sent.push((true, text.into_bytes()));
                    // An uncompressed message may come between.
                    bytes.extend(frame(BINARY, b"plain", KEY));
                    sent.push((false, b"plain".to_vec()));
                }
            }
            let parts = bytes.chunks(1000).map(<[u8]>::to_vec).collect();
            assert!(ours(parts, Side::Server, LIMIT, Some(agreement)).0 == sent, "{agreement:?}");
        }
    }
}

#[test]
fn compression_that_is_wrong() {
    let agreement = Agreement { reset_out: true, reset_in: true, bits_out: 15, bits_in: 15 };
    let end = |sent: &[(u8, &[u8])], limit| {
        let bytes = sent.iter().flat_map(|(first, payload)| frame(*first, payload, KEY)).collect();
        ours(vec![bytes], Side::Server, limit, Some(agreement)).1
    };
    let fails = |sent: &[(u8, &[u8])]| end(sent, LIMIT);
    let hello = &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..];
    assert_eq!(fails(&[(0xc1, hello)]), End::Failed(None), "it is right");
    assert_eq!(fails(&[(0xc9, b"")]), End::Failed(Some(code::PROTOCOL)), "a control frame");
    assert_eq!(fails(&[(0x41, hello), (0xc0, b"")]), End::Failed(Some(code::PROTOCOL)), "a continuation");
    assert_eq!(fails(&[(0xe1, hello)]), End::Failed(Some(code::PROTOCOL)), "RSV2");
    assert_eq!(fails(&[(0xc1, b"\xff\xff\xff")]), End::Failed(Some(code::INVALID)), "no deflate stream");
    let mut packed = Vec::new();
    let mut deflater = Deflater::new(&agreement, &OWN);
    assert!(deflater.deflate(&[b'x'; 10_000], &mut packed));
    assert_eq!(end(&[(0xc1, &packed)], 9_999), End::Failed(Some(code::SIZE)), "a bomb");
    assert_eq!(end(&[(0xc1, &packed)], 10_000), End::Failed(None));
    packed.clear();
    assert!(deflater.deflate(&b"\xff\xfe".repeat(100), &mut packed));
    assert_eq!(fails(&[(0xc1, &packed)]), End::Failed(Some(code::INVALID)), "text that is not UTF-8");
}

/// A wire that delivers pings for ever and accepts nothing.
struct Deaf {
    read: usize,
}

impl tokio::io::AsyncRead for Deaf {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let ping = frame(PING, &[b'p'; 125], KEY);
        while buf.remaining() >= ping.len() {
            buf.put_slice(&ping);
            self.read += ping.len();
        }
        Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Deaf {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Pending
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Pending
    }
}

#[test]
fn a_peer_that_takes_no_pongs_is_not_read_on() {
    let opened = Opened { wire: Deaf { read: 0 }, side: Side::Server, deflate: None };
    let mut stream = Stream::new(opened, LIMIT, None, &Arc::new(Totals::default()));
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..1000 {
        assert!(stream.poll_read(&mut cx, &mut Intake::default()).is_pending());
    }
    // One pong is being sent, one waits, and nothing more is read.
    assert!(stream.out.owes());
    assert!(stream.wire().read <= 256 * 1024, "{}", stream.wire().read);
}

proptest! {
    /// Any bytes after RSV1 give a response: no panic, and never more than the limit.
    #[test]
    fn compressed_noise_is_answered(
        noise in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..6),
        reset in any::<bool>(),
    ) {
        let agreement = Agreement { reset_out: reset, reset_in: reset, bits_out: 15, bits_in: 15 };
        let bytes: Vec<u8> = noise.iter().flat_map(|payload| frame(0xc2, payload, KEY)).collect();
        let (messages, _, _) = ours(vec![bytes], Side::Server, 1000, Some(agreement));
        prop_assert!(messages.iter().all(|(_, bytes)| bytes.len() <= 1000));
    }
}
