//! permessage-deflate (RFC 7692): negotiation, compression and decompression of messages.
//!
//! Without context takeover each message is compressed separately. Then no connection needs its own state: the
//! connections of a thread share one, and a result is compressed once for all clients. A server role always sends this
//! way, and asks its clients for the same unless `contextTakeover` is set.

use std::cell::RefCell;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::ReadError;

/// The end of every compressed message, which is not sent (RFC 7692, 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// The largest window, which is also the default.
const MAX_BITS: u8 = 15;

/// The smallest window that the compressor supports; RFC 7692 also allows 8, which is declined.
const MIN_BITS: u8 = 9;

const NAME: &str = "permessage-deflate";

/// The settings of compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deflate {
    /// 1 fast to 9 small
    pub level: u8,
    /// messages can refer to earlier ones: smaller, but costs 40 KB (in) and 300 KB (out) per connection
    pub context_takeover: bool,
    /// largest window in bits, 9 to 15
    pub window_bits: u8,
    /// shorter messages are not compressed, bytes
    pub threshold: usize,
}

/// The negotiated parameters, seen from this end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// each sent message starts without context
    pub reset_out: bool,
    /// each received message does
    pub reset_in: bool,
    /// window of sent messages; below 9 they are not compressed
    pub bits_out: u8,
    /// window of received messages
    pub bits_in: u8,
}

/// The parameters of an offer or response.
#[derive(Default)]
struct Parameters {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_max_window_bits: Option<u8>,
    /// the inner value is absent if an offer has the parameter without a value
    client_max_window_bits: Option<Option<u8>>,
}

/// The response of a server to the offers of a client (the values of `Sec-WebSocket-Extensions`): the first acceptable
/// one, and the value of the response header. `None`: there is none, and messages are not compressed.
pub fn negotiate<'a>(offers: impl IntoIterator<Item = &'a str>, own: &Deflate) -> Option<(Agreement, String)> {
    let offers = offers.into_iter().flat_map(|value| value.split(','));
    offers.filter_map(|offer| parameters(offer).and_then(Result::ok)).find_map(|offer| {
        let bits_out = offer.server_max_window_bits.unwrap_or(MAX_BITS).min(own.window_bits);
        if bits_out < MIN_BITS {
            return None;
        }
        let reset_in = offer.client_no_context_takeover || !own.context_takeover;
        let mut answer = format!("{NAME}; server_no_context_takeover");
        if reset_in {
            answer.push_str("; client_no_context_takeover");
        }
        if bits_out < MAX_BITS {
            answer.push_str(&format!("; server_max_window_bits={bits_out}"));
        }
        let mut bits_in = MAX_BITS;
        if offer.client_max_window_bits.is_some() && own.window_bits < MAX_BITS {
            bits_in = own.window_bits;
            answer.push_str(&format!("; client_max_window_bits={bits_in}"));
        }
        Some((Agreement { reset_out: true, reset_in, bits_out, bits_in }, answer))
    })
}

/// The offer of a client.
pub fn offer(own: &Deflate) -> String {
    let mut offer = NAME.to_owned();
    if !own.context_takeover {
        offer.push_str("; server_no_context_takeover; client_no_context_takeover");
    }
    if own.window_bits < MAX_BITS {
        let bits = own.window_bits;
        offer.push_str(&format!("; server_max_window_bits={bits}; client_max_window_bits={bits}"));
    } else {
        offer.push_str("; client_max_window_bits");
    }
    offer
}

/// The agreement after a server's response to [`offer`]; `None` if the server wants no compression.
///
/// # Errors
/// The response does not match the offer: the connection must not be used.
pub fn accepted<'a>(
    answers: impl IntoIterator<Item = &'a str>,
    own: &Deflate,
) -> Result<Option<Agreement>, &'static str> {
    const WRONG: &str = "the answer names an extension, or a parameter of one, that was not offered";
    let answers = answers.into_iter().flat_map(|value| value.split(',')).filter(|answer| !answer.trim().is_empty());
    let mut agreement = None;
    for answer in answers {
        let Some(Ok(answer)) = parameters(answer) else { return Err(WRONG) };
        let bits_in = answer.server_max_window_bits.unwrap_or(MAX_BITS);
        let bits_out = match answer.client_max_window_bits {
            None => own.window_bits,
            Some(Some(bits)) => bits.min(own.window_bits),
            Some(None) => return Err(WRONG),
        };
        // A server that was asked for a smaller window must confirm it.
        if agreement.is_some() || bits_in > own.window_bits {
            return Err(WRONG);
        }
        agreement = Some(Agreement {
            reset_out: answer.client_no_context_takeover || !own.context_takeover,
            reset_in: answer.server_no_context_takeover,
            bits_out,
            bits_in: bits_in.max(MIN_BITS),
        });
    }
    Ok(agreement)
}

/// The parameters of an extension; `None` if it is not permessage-deflate.
fn parameters(extension: &str) -> Option<Result<Parameters, ()>> {
    let mut parts = extension.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case(NAME) {
        return None;
    }
    let mut found = Parameters::default();
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim(), Some(value.trim().trim_matches('"'))),
            None => (part, None),
        };
        let bits = value.map(|value| match value.parse() {
            Ok(bits @ 8..=MAX_BITS) if !value.starts_with(['0', '+']) => Ok(bits),
            _ => Err(()),
        });
        let fresh = match (name, bits) {
            ("server_no_context_takeover", None) => !std::mem::replace(&mut found.server_no_context_takeover, true),
            ("client_no_context_takeover", None) => !std::mem::replace(&mut found.client_no_context_takeover, true),
            ("server_max_window_bits", Some(Ok(bits))) => found.server_max_window_bits.replace(bits).is_none(),
            ("client_max_window_bits", None) => found.client_max_window_bits.replace(None).is_none(),
            ("client_max_window_bits", Some(Ok(bits))) => found.client_max_window_bits.replace(Some(bits)).is_none(),
            _ => false,
        };
        if !fresh {
            return Some(Err(()));
        }
    }
    Some(Ok(found))
}

thread_local! {
    /// for messages without context
    static INFLATE: RefCell<Option<Decompress>> = const { RefCell::new(None) };
    /// with its level and window
    static DEFLATE: RefCell<Option<(u8, u8, Compress)>> = const { RefCell::new(None) };
}

/// Decompresses the messages of one connection.
pub struct Inflater {
    /// its context, if messages refer to earlier ones; made with the first message
    own: Option<Decompress>,
    takeover: bool,
    bits: u8,
}

impl Inflater {
    pub fn new(agreement: &Agreement) -> Inflater {
        Inflater { own: None, takeover: !agreement.reset_in, bits: agreement.bits_in }
    }

    /// Decompresses `payload` to a message of at most `limit` bytes.
    ///
    /// # Errors
    /// [`ReadError::Bomb`], [`ReadError::Deflate`]
    pub fn inflate(&mut self, payload: &[u8], limit: usize) -> Result<Vec<u8>, ReadError> {
        if self.takeover {
            let bits = self.bits;
            return inflate(
                self.own.get_or_insert_with(|| Decompress::new_with_window_bits(false, bits)),
                payload,
                limit,
            );
        }
        INFLATE.with_borrow_mut(|shared| {
            // A larger window can decompress what was compressed with a smaller one.
            let decompress = shared.get_or_insert_with(|| Decompress::new_with_window_bits(false, MAX_BITS));
            decompress.reset(false);
            inflate(decompress, payload, limit)
        })
    }
}

fn inflate(decompress: &mut Decompress, payload: &[u8], limit: usize) -> Result<Vec<u8>, ReadError> {
    let mut out = Vec::with_capacity(payload.len().saturating_mul(4).max(256).min(limit.saturating_add(1)));
    for mut part in [payload, &TAIL] {
        loop {
            let before = (decompress.total_in(), out.len());
            let status = decompress.decompress_vec(part, &mut out, FlushDecompress::Sync);
            let status = status.map_err(|_| ReadError::Deflate)?;
            let taken = (decompress.total_in() - before.0) as usize;
            part = &part[taken..];
            if out.len() > limit {
                return Err(ReadError::Bomb { limit });
            }
            match status {
                // A final block ends a stream, and another stream can follow in the same message.
                Status::StreamEnd => decompress.reset(false),
                _ if out.len() == out.capacity() => {
                    out.reserve(out.len().max(256).min(limit - out.len() + 1));
                    continue;
                }
                _ if taken == 0 && out.len() == before.1 && !part.is_empty() => return Err(ReadError::Deflate),
                _ => {}
            }
            if part.is_empty() {
                break;
            }
        }
    }
    Ok(out)
}

/// Compresses the messages of one connection, or of all connections that share a result.
pub struct Deflater {
    level: u8,
    bits: u8,
    threshold: usize,
    /// its context, if messages refer to earlier ones; made with the first message
    own: Option<Compress>,
    takeover: bool,
}

impl Deflater {
    pub fn new(agreement: &Agreement, own: &Deflate) -> Deflater {
        Deflater {
            level: own.level,
            bits: agreement.bits_out,
            threshold: own.threshold,
            own: None,
            takeover: !agreement.reset_out,
        }
    }

    /// Whether its output is valid for every client that negotiated no context.
    pub fn is_shared(&self) -> bool {
        !self.takeover && self.bits == MAX_BITS
    }

    /// Appends the compressed message to `out`. If false, `out` is unchanged and the message must be sent uncompressed.
    pub fn deflate(&mut self, message: &[u8], out: &mut Vec<u8>) -> bool {
        if message.len() < self.threshold.max(1) || self.bits < MIN_BITS {
            return false;
        }
        let start = out.len();
        let new = |level, bits| Compress::new_with_window_bits(Compression::new(u32::from(level)), false, bits);
        let (level, bits) = (self.level, self.bits);
        if self.takeover {
            // The peer must see everything that the compressor has seen.
            return deflate(self.own.get_or_insert_with(|| new(level, bits)), message, out);
        }
        let done = DEFLATE.with_borrow_mut(|shared| {
            if shared.as_ref().is_none_or(|(l, b, _)| (*l, *b) != (level, bits)) {
                *shared = Some((level, bits, new(level, bits)));
            }
            let Some((_, _, compress)) = shared else { return false };
            compress.reset();
            deflate(compress, message, out)
        });
        if !done || out.len() - start >= message.len() {
            out.truncate(start);
            return false;
        }
        true
    }
}

/// Compresses `message` with a flush, so that it can be decompressed completely. False only if the compressor fails.
fn deflate(compress: &mut Compress, message: &[u8], out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let mut rest = message;
    loop {
        out.reserve((rest.len() / 2).max(64));
        let before = compress.total_in();
        if compress.compress_vec(rest, out, FlushCompress::Sync).is_err() {
            out.truncate(start);
            return false;
        }
        rest = &rest[(compress.total_in() - before) as usize..];
        // If `out` has room left, everything was written.
        if rest.is_empty() && out.len() < out.capacity() {
            break;
        }
    }
    if out[start..].ends_with(&TAIL) {
        out.truncate(out.len() - TAIL.len());
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Deflate = Deflate { level: 6, context_takeover: true, window_bits: 15, threshold: 1 };

    #[test]
    fn a_server_takes_the_first_offer_that_it_can_honour() {
        let alone = Deflate { context_takeover: false, ..OWN };
        let small = Deflate { window_bits: 11, ..OWN };
        for (offer, own, answer) in [
            ("", OWN, None),
            ("permessage-bzip2", OWN, None),
            ("permessage-deflate", OWN, Some("permessage-deflate; server_no_context_takeover")),
            (
                "x-webkit, Permessage-Deflate; client_max_window_bits",
                alone,
                Some("permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
            ),
            (
                "permessage-deflate; client_no_context_takeover",
                OWN,
                Some("permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
            ),
            (
                "permessage-deflate; server_max_window_bits=8, permessage-deflate; server_max_window_bits=\"10\"",
                OWN,
                Some("permessage-deflate; server_no_context_takeover; server_max_window_bits=10"),
            ),
            (
                "permessage-deflate; client_max_window_bits",
                small,
                Some(
                    "permessage-deflate; server_no_context_takeover; server_max_window_bits=11; client_max_window_bits=11",
                ),
            ),
            ("permessage-deflate; server_max_window_bits=8", OWN, None),
            ("permessage-deflate; server_max_window_bits", OWN, None),
            ("permessage-deflate; server_max_window_bits=16", OWN, None),
            ("permessage-deflate; server_max_window_bits=010", OWN, None),
            ("permessage-deflate; client_no_context_takeover; client_no_context_takeover", OWN, None),
            ("permessage-deflate; unknown", OWN, None),
            ("permessage-deflate; server_no_context_takeover=1", OWN, None),
        ] {
            let answered = negotiate([offer], &own).map(|(_, answer)| answer);
            assert_eq!(answered.as_deref(), answer, "{offer}");
        }
    }

    #[test]
    fn a_client_takes_an_answer_to_what_it_offered() {
        assert_eq!(offer(&OWN), "permessage-deflate; client_max_window_bits");
        let all = Agreement { reset_out: false, reset_in: false, bits_out: 15, bits_in: 15 };
        let takes = |answer: &str| accepted([answer], &OWN);
        assert_eq!(accepted([], &OWN), Ok(None));
        assert_eq!(takes("permessage-deflate"), Ok(Some(all)));
        let none = takes("permessage-deflate; server_no_context_takeover; client_no_context_takeover");
        assert_eq!(none, Ok(Some(Agreement { reset_out: true, reset_in: true, ..all })));
        let bits = takes("permessage-deflate; server_max_window_bits=8; client_max_window_bits=8");
        assert_eq!(bits, Ok(Some(Agreement { bits_out: 8, bits_in: 9, ..all })));
        for wrong in ["x", "permessage-deflate, permessage-deflate", "permessage-deflate; client_max_window_bits"] {
            assert!(takes(wrong).is_err(), "{wrong}");
        }
        let small = Deflate { window_bits: 10, ..OWN };
        assert!(accepted(["permessage-deflate"], &small).is_err(), "the server does not keep to the smaller window");
    }

    #[test]
    fn messages_come_back_in_every_agreement() {
        let texts: Vec<Vec<u8>> = (0..200usize)
            .map(|n| format!("{{\"n\":{n},\"text\":\"{}\"}}", "ab".repeat(n * n % 3000)).into_bytes())
            .collect();
        for takeover in [false, true] {
            for bits in 9..=15 {
                let agreement = Agreement { reset_out: !takeover, reset_in: !takeover, bits_out: bits, bits_in: bits };
                let mut deflater = Deflater::new(&agreement, &OWN);
                let mut inflater = Inflater::new(&agreement);
                for text in &texts {
                    let mut packed = b"before".to_vec();
                    if deflater.deflate(text, &mut packed) {
                        assert!(packed.starts_with(b"before"));
                        assert_eq!(inflater.inflate(&packed[6..], 1 << 20).expect("it inflates"), *text);
                    } else {
                        assert!(!takeover && packed == b"before");
                    }
                }
            }
        }
    }

    #[test]
    fn what_inflates_is_bounded_and_checked() {
        let agreement = Agreement { reset_out: true, reset_in: true, bits_out: 15, bits_in: 15 };
        let mut packed = Vec::new();
        assert!(Deflater::new(&agreement, &OWN).deflate(&vec![b'x'; 1 << 20], &mut packed));
        let mut inflater = Inflater::new(&agreement);
        assert!(packed.len() < 2000);
        assert!(matches!(inflater.inflate(&packed, (1 << 20) - 1), Err(ReadError::Bomb { .. })));
        assert_eq!(inflater.inflate(&packed, 1 << 20).expect("it is within the limit").len(), 1 << 20);
        assert!(matches!(inflater.inflate(b"\xff\xff\xff", 100), Err(ReadError::Deflate)));
        // RFC 7692, 7.2.3: plain, stored, with a final block, and two blocks.
        let hello = |bytes: &[u8]| Inflater::new(&agreement).inflate(bytes, 100).expect("it inflates");
        assert_eq!(hello(&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]), b"Hello");
        assert_eq!(hello(&[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00]), b"Hello");
        assert_eq!(hello(&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00]), b"Hello");
        assert_eq!(hello(&[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00]), b"Hello");
        assert_eq!(hello(&[0x00]), b"");
    }
}
