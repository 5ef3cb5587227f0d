//! Encoded results: many messages in one allocation, shared by all clients that receive them.

use std::sync::OnceLock;
use std::time::Instant;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::format::address::Address;

/// A form of a batch's messages that is made once and shared by all clients of a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// websocket frames of a server
    Framed,
    /// compressed websocket frames of a server
    Deflated,
}

/// A batch's messages in a [`Form`].
#[derive(Clone, Debug)]
pub struct Encoded {
    pub bytes: Bytes,
    /// where each message ends in `bytes`
    pub ends: Vec<usize>,
}

/// Encoded results: many messages in one allocation. Fields that only this process can use are not serialized.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MessageBatch {
    #[serde(with = "whole_bytes")]
    bytes: Bytes,
    /// the end of each message in `bytes`; the first begins at 0
    ends: Vec<u32>,
    /// the address of each message; empty: all go to the same place
    addresses: Vec<Address>,
    /// whether the messages are text
    pub text: bool,
    /// when the input that led to the batch was read, if known
    #[serde(skip)]
    pub received: Option<Instant>,
    /// each form is made by the first client that needs it
    #[serde(skip)]
    forms: [OnceLock<Encoded>; 2],
}

impl MessageBatch {
    /// Makes a batch of the messages that end at `ends` in `bytes`.
    ///
    /// # Panics
    /// If `ends` does not ascend, or exceeds `bytes`: both come from one encoder.
    pub fn new(bytes: Bytes, ends: Vec<u32>, text: bool, received: Option<Instant>) -> Self {
        assert!(ends.is_sorted() && ends.last().is_none_or(|&end| end as usize <= bytes.len()));
        MessageBatch { bytes, ends, addresses: Vec::new(), text, received, forms: Default::default() }
    }

    /// The same messages, each with its address.
    ///
    /// # Panics
    /// If there is not one address for each message.
    pub fn addressed(self, addresses: Vec<Address>) -> Self {
        assert_eq!(addresses.len(), self.len());
        MessageBatch { addresses, ..self }
    }

    /// The address of the message at `index`; `None`: all go to the same place.
    pub fn address(&self, index: usize) -> Option<&Address> {
        self.addresses.get(index)
    }

    /// If messages have addresses: each message as a separate batch, with its address.
    pub fn by_address(&self) -> Option<impl Iterator<Item = (&Address, MessageBatch)>> {
        let single = |(index, address)| {
            let bytes = self.message(index);
            let ends = vec![u32::try_from(bytes.len()).unwrap_or(u32::MAX)];
            (address, MessageBatch::new(bytes, ends, self.text, self.received))
        };
        (!self.addresses.is_empty()).then(|| self.addresses.iter().enumerate().map(single))
    }

    /// The `count` messages from `start` on, as a separate batch that shares the bytes.
    pub fn part(&self, start: usize, count: usize) -> MessageBatch {
        let first = if start == 0 { 0 } else { self.ends[start - 1] };
        let ends: Vec<u32> = self.ends[start..start + count].iter().map(|end| end - first).collect();
        let bytes = self.bytes.slice(first as usize..(first + ends.last().copied().unwrap_or(0)) as usize);
        let addresses =
            if self.addresses.is_empty() { Vec::new() } else { self.addresses[start..start + count].to_vec() };
        MessageBatch { addresses, ..MessageBatch::new(bytes, ends, self.text, self.received) }
    }

    /// The number of messages.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no messages.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The bytes of all messages.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The end of each message in [`MessageBatch::bytes`].
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// The number of bytes that it keeps in memory.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// The message at `index`; it shares the batch's bytes.
    ///
    /// # Panics
    /// If there is no such message.
    pub fn message(&self, index: usize) -> Bytes {
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        self.bytes.slice(start..self.ends[index] as usize)
    }

    /// The size of the `count` messages from `start` on.
    pub fn byte_len_of(&self, start: usize, count: usize) -> usize {
        let end = |messages: usize| if messages == 0 { 0 } else { self.ends[messages - 1] as usize };
        end(start + count) - end(start)
    }

    /// The messages from `start` on, in order.
    pub fn messages_from(&self, start: usize) -> impl Iterator<Item = &[u8]> {
        let first = if start == 0 { 0 } else { self.ends[start - 1] as usize };
        self.ends[start..].iter().scan(first, |from, &end| {
            let message = &self.bytes[*from..end as usize];
            *from = end as usize;
            Some(message)
        })
    }

    /// The batch in this form. `make` makes it if no client has asked for it before.
    pub fn form(&self, form: Form, make: impl FnOnce() -> Encoded) -> &Encoded {
        self.forms[form as usize].get_or_init(make)
    }

    /// The messages in order.
    pub fn messages(&self) -> impl Iterator<Item = Bytes> + '_ {
        (0..self.len()).map(|index| self.message(index))
    }
}

/// Serializes bytes in one piece.
mod whole_bytes {
    use std::fmt;

    use bytes::Bytes;
    use serde::de::{Deserializer, Error, Visitor};
    use serde::ser::Serializer;

    pub fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        deserializer.deserialize_byte_buf(Whole)
    }

    struct Whole;

    impl Visitor<'_> for Whole {
        type Value = Bytes;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
            Ok(Bytes::copy_from_slice(bytes))
        }

        fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
            Ok(bytes.into())
        }
    }
}
