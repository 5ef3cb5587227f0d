//! Headers and masking of frames: RFC 6455, 5.2 and 5.3.

use bytes::BufMut;

use super::ReadError;

/// The longest header in bytes.
pub const MAX_HEADER: usize = 14;

/// The longest payload of a control frame in bytes.
pub const MAX_CONTROL: u64 = 125;

/// The kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// continues a message
    Continue = 0,
    /// begins a text message
    Text = 1,
    /// begins a binary message
    Binary = 2,
    /// ends the connection
    Close = 8,
    /// asks for a pong
    Ping = 9,
    /// answers a ping
    Pong = 10,
}

impl Opcode {
    fn of(code: u8) -> Result<Opcode, ReadError> {
        Ok(match code {
            0 => Opcode::Continue,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            unknown => return Err(ReadError::Opcode(unknown)),
        })
    }

    /// Whether it is a control frame.
    pub fn is_control(self) -> bool {
        self as u8 >= 8
    }
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// the last frame of its message
    pub last: bool,
    /// RSV1: the message is compressed
    pub compressed: bool,
    /// RSV2 or RSV3
    pub reserved: bool,
    pub opcode: Opcode,
    /// frames of clients have one
    pub mask: Option<[u8; 4]>,
    /// bytes of the payload
    pub payload: u64,
    /// bytes of the header
    pub size: usize,
}

impl Header {
    /// Parses the header at the start of `bytes`; `None` if it is incomplete.
    pub fn parse(bytes: &[u8]) -> Result<Option<Header>, ReadError> {
        let &[first, second, ref rest @ ..] = bytes else { return Ok(None) };
        let opcode = Opcode::of(first & 0x0f)?;
        let (payload, rest, extended) = match second & 0x7f {
            126 => match rest.split_first_chunk() {
                Some((length, rest)) => (u16::from_be_bytes(*length).into(), rest, 2),
                None => return Ok(None),
            },
            127 => match rest.split_first_chunk() {
                Some((length, rest)) => (u64::from_be_bytes(*length), rest, 8),
                None => return Ok(None),
            },
            short => (short.into(), rest, 0),
        };
        let masked = second & 0x80 != 0;
        let mask = rest.first_chunk().copied().filter(|_| masked);
        if masked && mask.is_none() {
            return Ok(None);
        }
        Ok(Some(Header {
            last: first & 0x80 != 0,
            compressed: first & 0x40 != 0,
            reserved: first & 0x30 != 0,
            opcode,
            mask,
            payload,
            size: 2 + extended + if masked { 4 } else { 0 },
        }))
    }
}

/// Writes the header of a control frame, or of a frame with a complete message.
pub fn put_header(out: &mut impl BufMut, opcode: Opcode, compressed: bool, payload: usize, mask: Option<[u8; 4]>) {
    out.put_u8(0x80 | if compressed { 0x40 } else { 0 } | opcode as u8);
    let masked = if mask.is_some() { 0x80 } else { 0 };
    match payload {
        0..=125 => out.put_u8(masked | payload as u8),
        126..=0xffff => {
            out.put_u8(masked | 126);
            out.put_u16(payload as u16);
        }
        _ => {
            out.put_u8(masked | 127);
            out.put_u64(payload as u64);
        }
    }
    if let Some(mask) = mask {
        out.put_slice(&mask);
    }
}

/// The length of the header of a frame with a payload of this length.
pub fn header_len(payload: usize, masked: bool) -> usize {
    let length = match payload {
        0..=125 => 0,
        126..=0xffff => 2,
        _ => 8,
    };
    2 + length + if masked { 4 } else { 0 }
}

/// Masks or unmasks bytes, eight at a time.
pub fn mask(bytes: &mut [u8], key: [u8; 4]) {
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written() {
        for opcode in [Opcode::Text, Opcode::Binary, Opcode::Continue, Opcode::Ping, Opcode::Pong, Opcode::Close] {
            for payload in [0, 1, 125, 126, 127, 0xffff, 0x1_0000, 16 << 20] {
                for key in [None, Some([1, 2, 3, 4])] {
                    let mut bytes = Vec::new();
                    put_header(&mut bytes, opcode, opcode == Opcode::Text, payload, key);
                    assert_eq!(bytes.len(), header_len(payload, key.is_some()));
                    for cut in 0..bytes.len() {
                        assert_eq!(Header::parse(&bytes[..cut]).expect("no error"), None);
                    }
                    let header = Header::parse(&bytes).expect("no error").expect("it is whole");
                    assert_eq!((header.opcode, header.payload, header.mask), (opcode, payload as u64, key));
                    assert_eq!((header.size, header.last, header.reserved), (bytes.len(), true, false));
                    assert_eq!(header.compressed, opcode == Opcode::Text);
                }
            }
        }
        assert!(matches!(Header::parse(&[0x83, 0]), Err(ReadError::Opcode(3))));
        assert!(matches!(Header::parse(&[0x8b, 0]), Err(ReadError::Opcode(11))));
    }

    #[test]
    fn a_mask_is_the_same_at_every_length() {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        for length in 0..70 {
            let plain: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let mut masked = plain.clone();
            mask(&mut masked, key);
            let expected: Vec<u8> = plain.iter().enumerate().map(|(n, byte)| byte ^ key[n % 4]).collect();
            assert_eq!(masked, expected);
            mask(&mut masked, key);
            assert_eq!(masked, plain);
        }
    }
}
