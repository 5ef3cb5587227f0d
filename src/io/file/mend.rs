//! Repairs the end of a file that a killed process or a full disk left incomplete: complete messages stay, a torn one
//! is cut off.
//!
//! Each function returns the length of the complete part, and whether the end of a list or line must be written.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};

use serde_json::Value as Json;

use crate::format::compress::Method;

/// The number of bytes read at a time.
const CHUNK: usize = 64 * 1024;

/// The longest last line that is examined.
pub(super) const LONGEST_LINE: u64 = 64 << 20;

/// The longest member that may be incomplete.
const LONGEST_MEMBER: u64 = 64 << 20;

/// The complete part of a file of lines: up to the last line end. Two kinds of last lines are complete except for their
/// line end, which is reported: valid JSON, and a file's only line unless it is torn JSON, because it may be text of a
/// user.
pub(super) fn lines(file: &mut File, json: bool) -> io::Result<(u64, bool)> {
    let length = file.seek(SeekFrom::End(0))?;
    let start = last_line(file, length)?;
    if start == length {
        return Ok((length, false));
    }
    let whole = if length - start > LONGEST_LINE {
        false
    } else if json {
        let line = tail(file, start, LONGEST_LINE)?;
        serde_json::from_slice::<Json>(&line).is_ok()
            || start == 0 && !line.starts_with(b"{") && !line.starts_with(b"[")
    } else {
        start == 0
    };
    Ok(if whole { (length, true) } else { (start, false) })
}

/// The start of the last line.
fn last_line(file: &mut File, length: u64) -> io::Result<u64> {
    let mut end = length;
    let mut chunk = vec![0; CHUNK];
    while end > 0 {
        let start = end.saturating_sub(CHUNK as u64);
        let part = &mut chunk[..(end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(part)?;
        if let Some(place) = part.iter().rposition(|&byte| byte == b'\n') {
            return Ok(start + place as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// The complete part of a file with a JSON list: up to the end of its last complete element, without the end of the
/// list. `None` if it is not a list, or contains more than a list.
pub(super) fn list(file: &mut File) -> io::Result<Option<u64>> {
    file.seek(SeekFrom::Start(0))?;
    let (mut depth, mut in_text, mut escaped) = (0u64, false, false);
    let (mut at, mut whole) = (0u64, None);
    // Set when the list has ended.
    let mut ended = None;
    let mut reader = BufReader::with_capacity(CHUNK, file);
    loop {
        let chunk = reader.fill_buf()?;
        if chunk.is_empty() {
            return Ok(ended.or(whole));
        }
        for &byte in chunk {
            at += 1;
            if ended.is_some() && !byte.is_ascii_whitespace() {
                return Ok(None);
            }
            if in_text {
                (in_text, escaped) = match byte {
                    _ if escaped => (true, false),
                    b'\\' => (true, true),
                    b'"' => (false, false),
                    _ => (true, false),
                };
                continue;
            }
            match byte {
                b'"' => in_text = true,
                b'[' | b'{' => {
                    depth += 1;
                    if whole.is_none() && (depth > 1 || byte == b'{') {
                        return Ok(None);
                    }
                    whole.get_or_insert(at);
                }
                b']' | b'}' => {
                    depth = depth.saturating_sub(1);
                    match depth {
                        // An element ended before the end of the list, or the list is empty.
                        0 => ended = whole.map(|whole| if empty_or_closed(whole, at) { whole } else { at - 1 }),
                        1 => whole = Some(at),
                        _ => {}
                    }
                }
                // An element that is neither object nor list ends here.
                b',' if depth == 1 => whole = Some(at - 1),
                byte if depth == 0 && !byte.is_ascii_whitespace() => return Ok(None),
                _ => {}
            }
        }
        let used = chunk.len();
        reader.consume(used);
    }
}

/// Whether there is nothing between the last complete element and the end of the list.
fn empty_or_closed(whole: u64, end: u64) -> bool {
    whole + 1 == end
}

/// The first bytes of a member of a compressed file.
fn magic(method: Method) -> &'static [u8] {
    match method {
        Method::Gzip => &[0x1f, 0x8b],
        _ => &[0x28, 0xb5, 0x2f, 0xfd],
    }
}

/// The first bytes of a member that a sink writes: long enough not to occur by chance.
fn beginning(method: Method) -> &'static [u8] {
    match method {
        Method::Gzip => &[0x1f, 0x8b, 8, 0],
        method => magic(method),
    }
}

/// Whether a file begins like a compressed one.
pub(super) fn is_packed(file: &mut File) -> io::Result<bool> {
    let start = tail(file, 0, 4)?;
    Ok([Method::Gzip, Method::Zstd].iter().any(|&method| start.starts_with(magic(method))))
}

/// Up to `most` bytes from a position.
fn tail(file: &mut File, start: u64, most: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    Read::by_ref(file).take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The complete part of a compressed file: up to the end of its last complete member. `None` unless the rest is a
/// single incomplete member: the file is of another kind, or is damaged before its end.
pub(super) fn members(file: &mut File, method: Method) -> io::Result<Option<u64>> {
    let whole = whole_members(file, method)?;
    let rest = tail(file, whole, LONGEST_MEMBER + 1)?;
    let magic = magic(method);
    let begins = rest.starts_with(magic) || magic.starts_with(&rest);
    let beginning = beginning(method);
    let further = rest.windows(beginning.len()).skip(1).any(|bytes| bytes == beginning);
    Ok((begins && !further && rest.len() as u64 <= LONGEST_MEMBER).then_some(whole))
}

fn whole_members(file: &mut File, method: Method) -> io::Result<u64> {
    file.seek(SeekFrom::Start(0))?;
    let mut reader = Counted { inner: BufReader::with_capacity(CHUNK, file), at: 0, failed: None };
    let mut whole = 0;
    loop {
        if reader.fill_buf()?.is_empty() {
            return Ok(whole);
        }
        let read = match method {
            Method::Gzip => io::copy(&mut flate2::bufread::GzDecoder::new(&mut reader), &mut io::sink()).is_ok(),
            _ => match ruzstd::decoding::StreamingDecoder::new(&mut reader) {
                Ok(mut decoder) => io::copy(&mut decoder, &mut io::sink()).is_ok(),
                Err(_) => false,
            },
        };
        // An error of the system does not mean damage.
        if let Some(error) = reader.failed.take() {
            return Err(error);
        }
        if !read {
            return Ok(whole);
        }
        whole = reader.at;
    }
}

/// A reader that knows its position, and whether the system reported an error.
struct Counted<R> {
    inner: R,
    at: u64,
    failed: Option<io::Error>,
}

/// Records an error of the system, since a decoder reports it like damage.
fn keep(failed: &mut Option<io::Error>, error: io::Error) -> io::Error {
    let kind = error.kind();
    if kind != io::ErrorKind::Interrupted {
        *failed = Some(error);
    }
    kind.into()
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf).map_err(|error| keep(&mut self.failed, error))?;
        self.at += read as u64;
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf().map_err(|error| keep(&mut self.failed, error))
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount as u64;
        self.inner.consume(amount);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A temporary file with these bytes.
    fn with<T>(bytes: &[u8], look: impl FnOnce(&mut File) -> T) -> T {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(bytes).expect("it can be written");
        look(&mut file)
    }

    #[test]
    fn a_torn_line_goes() {
        let long = format!("{{\"a\":1}}\n{}", "x".repeat(3 * CHUNK));
        for (text, json, expected) in [
            ("", true, (0, false)),
            ("{\"a\":1}\n", true, (8, false)),
            ("{\"a\":1}\n{\"a\"", true, (8, false)),
            ("{\"a\":1}\n{\"a\":2}", true, (15, true)),
            ("1,2\n3,", false, (4, false)),
            ("1,2", false, (3, true)),
            ("notes of somebody", true, (17, true)),
            ("{\"a\":", true, (0, false)),
            (long.as_str(), true, (8, false)),
        ] {
            assert_eq!(
                with(text.as_bytes(), |file| lines(file, json)).expect("it can be read"),
                expected,
                "{text:.40}"
            );
        }
    }

    #[test]
    fn a_torn_element_goes() {
        for (text, expected) in [
            ("", None),
            ("[", Some(1)),
            ("[]", Some(1)),
            ("[{\"a\":[1,{}]},{\"b\":\"]\\\"\"}]", Some(25)),
            ("[{\"a\":1},{\"b\":[2", Some(8)),
            ("[{\"a\":1},", Some(8)),
            ("[{\"a\":1}", Some(8)),
            ("[1,22]", Some(5)),
            ("[1,22", Some(2)),
            ("{\"a\":1}", None),
            ("x[1]", None),
            ("[1]\n", Some(2)),
            ("[1] [2]", None),
            ("[1]\n{\"a\":1}", None),
        ] {
            assert_eq!(with(text.as_bytes(), list).expect("it can be read"), expected, "{text}");
        }
    }

    #[test]
    fn a_torn_member_goes() {
        for method in [Method::Gzip, Method::Zstd] {
            let (one, two) = (method.pack(b"one\n").expect("packed"), method.pack(b"two\n").expect("packed"));
            let both = [one.clone(), two].concat();
            let whole = |bytes: &[u8]| with(bytes, |file| members(file, method)).expect("it can be read");
            assert_eq!(whole(&both), Some(both.len() as u64), "{method:?}");
            assert_eq!(whole(&both[..both.len() - 1]), Some(one.len() as u64), "{method:?}");
            assert_eq!(whole(&one[..3]), Some(0), "{method:?}");
            assert_eq!(whole(b""), Some(0), "{method:?}");
            // Only a torn end is cut off.
            let mut damaged = both.clone();
            damaged[one.len() - 1] ^= 1;
            damaged[8] ^= 1;
            assert_eq!(whole(&damaged), None, "{method:?}");
            assert_eq!(whole(b"{\"a\":1}\n"), None, "{method:?}");
            assert_eq!(whole(&[&one[..], b"text"].concat()), None, "{method:?}");
            let foreign = if method == Method::Gzip { Method::Zstd } else { Method::Gzip };
            assert_eq!(whole(&foreign.pack(b"one\n").expect("packed")), None, "{method:?}");
        }
    }
}
