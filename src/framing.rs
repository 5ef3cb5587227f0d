//! JSON documents on a byte stream, each after its length (four bytes, big-endian).
//!
//! A receiver reads exactly one document: the bytes after it are left on the stream.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The longest document, bytes. Peers that are not known yet can send one, so it is short.
const LONGEST: u32 = 64 * 1024;

/// Sends a document.
///
/// # Errors
/// The system's error, or that the document is longer than 64 KiB.
pub async fn send(stream: &mut (impl AsyncWrite + Unpin), document: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_vec(document)?;
    let length = u32::try_from(text.len()).ok().filter(|length| *length <= LONGEST);
    stream.write_u32(length.ok_or_else(|| too_long(io::ErrorKind::InvalidInput))?).await?;
    stream.write_all(&text).await
}

/// Receives a document.
///
/// # Errors
/// The system's error, or that the document is longer than 64 KiB, or cannot be read.
pub async fn receive<D: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<D> {
    let length = stream.read_u32().await?;
    if length > LONGEST {
        return Err(too_long(io::ErrorKind::InvalidData));
    }
    let mut text = vec![0; length as usize];
    stream.read_exact(&mut text).await?;
    Ok(serde_json::from_slice(&text)?)
}

fn too_long(kind: io::ErrorKind) -> io::Error {
    io::Error::new(kind, "the document is longer than 64 KiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_after_a_document_stay_on_the_stream() {
        let mut stream = Vec::new();
        send(&mut stream, &["a", "b"]).await.expect("it is short");
        stream.extend(b"GET /");
        let mut rest = stream.as_slice();
        assert_eq!(receive::<Vec<String>>(&mut rest).await.expect("it is complete"), ["a", "b"]);
        assert_eq!(rest, b"GET /");
    }

    #[tokio::test]
    async fn long_documents_are_refused_on_both_sides() {
        let mut stream = Vec::new();
        let error = send(&mut stream, &"x".repeat(LONGEST as usize)).await.expect_err("it is too long");
        assert_eq!((error.kind(), stream.len()), (io::ErrorKind::InvalidInput, 0));
        let mut length = (LONGEST + 1).to_be_bytes().to_vec();
        length.extend(b"x");
        let error = receive::<String>(&mut length.as_slice()).await.expect_err("it is too long");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
