//! Checkpoints: converts the state of a rule to bytes and back.
//!
//! A checkpoint consists of a header, the operators' state one after the other in postcard's format, and a checksum.
//! State must never be restored into another plan than the one that made it, because the plan determines the number and
//! types of the parts, and the bytes do not repeat them. So the header has the version of the format and the
//! fingerprint of the plan, and a checkpoint that does not match is refused as a whole. This module does not know what
//! operators store, or where the bytes are kept.

use postcard::ser_flavors::Flavor;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::plan::fingerprint::Fingerprint;

/// The version of the format after the header. Increase it whenever a stored type changes.
const VERSION: u16 = 4;
/// The magic bytes of a checkpoint.
const MAGIC: [u8; 4] = *b"PLcp";
/// The magic bytes of several checkpoints in one: then comes their number, and each with its length before it.
const SEVERAL: [u8; 4] = *b"PLcs";
const HEAD: usize = MAGIC.len() + size_of::<u16>() + size_of::<Fingerprint>();
const CHECKSUM: usize = size_of::<u32>();

/// The largest checkpoint, bytes. The data thread does nothing else while it writes one, which it does repeatedly.
pub const MAX_BYTES: usize = 256 << 20;

/// Why a rule's state cannot be stored or reused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// More than [`MAX_BYTES`].
    #[error(
        "it takes more than {} MiB. Use shorter windows or fewer groups, or qos 0, which keeps no state",
        MAX_BYTES >> 20
    )]
    TooLarge,
    #[error("it cannot be written: {0}")]
    Unwritable(String),
    /// The process ends, and the thread with the state is busy.
    #[error("the rule was busy until the process had to end")]
    Late,
    /// The reason that the process with the state reported.
    #[error("{0}")]
    Elsewhere(String),
    #[error("the checkpoint is damaged ({0})")]
    Damaged(&'static str),
    #[error("the checkpoint has version {0}, this Plutino uses {VERSION}")]
    Version(u16),
    /// The statement, a stream's columns or the time zone have changed.
    #[error("it belongs to another plan: the rule's statement, options or streams have changed")]
    OtherPlan,
}

/// Receives a state part by part.
pub trait StateParts {
    /// Takes the next part.
    ///
    /// # Errors
    /// [`CheckpointError::TooLarge`], [`CheckpointError::Unwritable`]
    fn put<T: Serialize + ?Sized>(&mut self, part: &T) -> Result<(), CheckpointError>;
}

/// Writes the parts of a checkpoint.
pub struct Writer {
    to: postcard::Serializer<Limited>,
}

/// Bytes up to a limit.
struct Limited {
    bytes: Vec<u8>,
    limit: usize,
}

/// Reads the parts of a checkpoint.
pub struct CheckpointReader<'a> {
    from: postcard::Deserializer<'a, postcard::de_flavors::Slice<'a>>,
}

impl Writer {
    pub fn new(plan: &Fingerprint) -> Writer {
        Writer::limited(plan, MAX_BYTES)
    }

    fn limited(plan: &Fingerprint, limit: usize) -> Writer {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(plan);
        Writer { to: postcard::Serializer { output: Limited { bytes, limit: limit - CHECKSUM } } }
    }

    /// The complete checkpoint.
    pub fn finish(self) -> Vec<u8> {
        let mut bytes = self.to.output.bytes;
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }
}

impl StateParts for Writer {
    fn put<T: Serialize + ?Sized>(&mut self, part: &T) -> Result<(), CheckpointError> {
        part.serialize(&mut self.to).map_err(|error| match error {
            postcard::Error::SerializeBufferFull => CheckpointError::TooLarge,
            error => CheckpointError::Unwritable(error.to_string()),
        })
    }
}

impl Flavor for Limited {
    type Output = Vec<u8>;

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        if data.len() > self.limit.saturating_sub(self.bytes.len()) {
            return Err(postcard::Error::SerializeBufferFull);
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    fn finalize(self) -> postcard::Result<Vec<u8>> {
        Ok(self.bytes)
    }
}

impl<'a> CheckpointReader<'a> {
    /// Opens a checkpoint that a rule with this plan has written.
    ///
    /// # Errors
    /// [`CheckpointError`]
    pub fn open(bytes: &'a [u8], plan: &Fingerprint) -> Result<CheckpointReader<'a>, CheckpointError> {
        let cut = || CheckpointError::Damaged("it is cut off");
        let (whole, checksum) = bytes.split_last_chunk().ok_or_else(cut)?;
        let (head, parts) = whole.split_at_checked(HEAD).ok_or_else(cut)?;
        let (magic, head) = head.split_at(MAGIC.len());
        let (version, fingerprint) = head.split_first_chunk().ok_or_else(cut)?;
        if magic != MAGIC {
            return Err(CheckpointError::Damaged("it does not begin like a checkpoint"));
        }
        if crc32fast::hash(whole) != u32::from_le_bytes(*checksum) {
            return Err(CheckpointError::Damaged("its checksum is wrong"));
        }
        match u16::from_le_bytes(*version) {
            VERSION => {}
            other => return Err(CheckpointError::Version(other)),
        }
        if fingerprint != plan {
            return Err(CheckpointError::OtherPlan);
        }
        Ok(CheckpointReader { from: postcard::Deserializer::from_bytes(parts) })
    }

    /// The next part.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`]
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<T, CheckpointError> {
        T::deserialize(&mut self.from).map_err(|_| CheckpointError::Damaged("a part of it cannot be read"))
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`]
    pub fn finish(self) -> Result<(), CheckpointError> {
        match self.from.finalize() {
            Ok([]) => Ok(()),
            _ => Err(CheckpointError::Damaged("it has more parts than the plan")),
        }
    }
}

/// Makes one checkpoint of the checkpoints of a divided state's parts.
///
/// # Errors
/// [`CheckpointError::TooLarge`]
pub fn join(parts: Vec<Vec<u8>>) -> Result<Vec<u8>, CheckpointError> {
    let size: usize = parts.iter().map(Vec::len).sum();
    if size > MAX_BYTES {
        return Err(CheckpointError::TooLarge);
    }
    let mut joined = Vec::with_capacity(SEVERAL.len() + size + (parts.len() + 1) * size_of::<u64>());
    joined.extend(SEVERAL);
    joined.extend((parts.len() as u64).to_le_bytes());
    for part in parts {
        joined.extend((part.len() as u64).to_le_bytes());
        joined.extend(part);
    }
    Ok(joined)
}

/// The checkpoints of the parts of a state; a single one if it is not divided.
///
/// # Errors
/// [`CheckpointError::Damaged`]
pub fn parts(checkpoint: &[u8]) -> Result<Vec<&[u8]>, CheckpointError> {
    let Some(rest) = checkpoint.strip_prefix(&SEVERAL) else { return Ok(vec![checkpoint]) };
    let cut = || CheckpointError::Damaged("it is cut off");
    let (count, mut rest) = rest.split_first_chunk().ok_or_else(cut)?;
    let mut parts = Vec::new();
    for _ in 0..u64::from_le_bytes(*count) {
        let (len, more) = rest.split_first_chunk().ok_or_else(cut)?;
        let len = usize::try_from(u64::from_le_bytes(*len)).map_err(|_| cut())?;
        let (part, more) = more.split_at_checked(len).ok_or_else(cut)?;
        parts.push(part);
        rest = more;
    }
    Ok(parts)
}

/// Reads a list of parts, whose length must match the plan.
///
/// # Errors
/// [`CheckpointError::Damaged`]
pub fn expect_len<T>(parts: Vec<T>, len: usize) -> Result<Vec<T>, CheckpointError> {
    if parts.len() == len { Ok(parts) } else { Err(CheckpointError::Damaged("a part of it belongs to another plan")) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::expr::EvalError;
    use crate::value::Value;
    use crate::value::key::GroupKey;

    const PLAN: Fingerprint = [7; 16];

    fn there_and_back<T: Serialize + DeserializeOwned>(part: &T) -> T {
        let mut writer = Writer::new(&PLAN);
        writer.put(part).unwrap();
        let bytes = writer.finish();
        let mut reader = CheckpointReader::open(&bytes, &PLAN).unwrap();
        let back = reader.take().unwrap();
        reader.finish().unwrap();
        back
    }

    /// Exact to the bit; null and absent are different.
    fn written(value: &Value) -> String {
        match value {
            Value::Float(number) => format!("Float({:x})", number.to_bits()),
            Value::Array(elements) => format!("{:?}", elements.iter().map(written).collect::<Vec<_>>()),
            Value::Object(members) => {
                format!("{:?}", members.iter().map(|(key, value)| (key, written(value))).collect::<Vec<_>>())
            }
            other => format!("{other:?}"),
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Absent),
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            any::<u64>().prop_map(|bits| Value::Float(f64::from_bits(bits))),
            ".{0,40}".prop_map(Value::from),
            Just(Value::Json("{\"a\": [1, 2.50]}".into())),
            prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::from),
            (any::<i64>(), -50_000i32..50_000, 0usize..4).prop_map(|(nanoseconds, offset, zone)| {
                let zone = match zone {
                    0 => jiff::tz::TimeZone::UTC,
                    1 => jiff::tz::Offset::from_seconds(offset).unwrap().to_time_zone(),
                    2 => jiff::tz::TimeZone::get("Asia/Shanghai").unwrap(),
                    _ => jiff::tz::TimeZone::get("America/New_York").unwrap(),
                };
                let at = jiff::Timestamp::from_nanosecond(nanoseconds.into()).unwrap();
                Value::DateTime(Arc::new(at.to_zoned(zone)))
            }),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::array),
                prop::collection::vec((".{0,30}", inner), 0..6)
                    .prop_map(|members| Value::object(members.into_iter().map(|(key, value)| (key.into(), value)))),
            ]
        })
    }

    proptest! {
        #[test]
        fn values_come_back_as_they_were(value in values()) {
            prop_assert_eq!(written(&there_and_back(&value)), written(&value));
            let key = GroupKey::from_values([&value]);
            prop_assert_eq!(there_and_back(&key), key);
        }

        #[test]
        fn what_is_no_checkpoint_is_refused(value in values(), damage: prop::sample::Index, bit in 0u8..8, cut: bool) {
            let mut writer = Writer::new(&PLAN);
            writer.put(&value).unwrap();
            let mut bytes = writer.finish();
            let at = damage.index(bytes.len());
            if cut {
                bytes.truncate(at);
            } else {
                bytes[at] ^= 1 << bit;
            }
            prop_assert!(CheckpointReader::open(&bytes, &PLAN).is_err());
        }

        #[test]
        fn no_bytes_make_a_reader_panic(parts in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = Writer::new(&PLAN).to.output.bytes;
            bytes.extend(parts);
            bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
            let mut reader = CheckpointReader::open(&bytes, &PLAN).unwrap();
            let _ = reader.take::<Vec<(GroupKey, Value)>>();
            let _ = reader.finish();
        }
    }

    #[test]
    fn the_form_is_that_of_its_version() {
        let parts = (
            Value::array([Value::Absent, Value::Int(-3), Value::Float(0.5), Value::from("é")]),
            GroupKey::from_values([&Value::Int(1), &Value::Null]),
            EvalError::DividedByZero,
        );
        let mut writer = Writer::new(&PLAN);
        writer.put(&parts).unwrap();
        let bytes = writer.finish();
        let mut expected = b"PLcp\x04\x00".to_vec();
        expected.extend(PLAN);
        expected.extend(b"\x07\x04\x00\x03\x05\x04\0\0\0\0\0\0\xe0\x3f\x05\x02\xc3\xa9");
        expected.extend(b"\x02\x02\x02\x00\x0fdivided by zero");
        assert_eq!(&bytes[..bytes.len() - CHECKSUM], expected, "raise VERSION with the form");
    }

    #[test]
    fn what_is_kept_of_an_error_is_its_text() {
        let error = there_and_back(&EvalError::DividedByZero);
        assert_eq!(error.to_string(), "divided by zero");
        assert_eq!(there_and_back(&error), error);
    }

    #[test]
    fn what_does_not_agree_is_told() {
        let mut bytes = Writer::new(&PLAN).finish();
        let error = |bytes: &[u8], plan| CheckpointReader::open(bytes, plan).err().map(|error| error.to_string());
        assert_eq!(error(&bytes, &PLAN), None);
        assert!(error(&bytes, &[8; 16]).unwrap().contains("another plan"));
        bytes.truncate(HEAD);
        bytes[MAGIC.len()] = 9;
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        assert!(error(&bytes, &PLAN).unwrap().contains("has version 9, this Plutino uses 4"));
        assert!(error(b"", &PLAN).unwrap().contains("is damaged"));
        assert!(error(b"no checkpoint, but long enough for one", &PLAN).unwrap().contains("begin like a checkpoint"));
        let mut reader = CheckpointReader::open(&Writer::new(&PLAN).finish(), &PLAN).map(|_| ());
        assert_eq!(reader.as_mut(), Ok(&mut ()));
    }

    #[test]
    fn the_parts_of_a_divided_state_come_back() {
        let whole = Writer::new(&PLAN).finish();
        assert_eq!(parts(&whole).unwrap(), [&whole[..]]);
        let joined = join(vec![whole.clone(), Vec::new(), whole.clone()]).unwrap();
        assert_eq!(parts(&joined).unwrap(), [&whole[..], &[], &whole]);
        (SEVERAL.len()..joined.len()).for_each(|cut| assert!(parts(&joined[..cut]).is_err(), "{cut}"));
    }

    #[test]
    fn a_checkpoint_has_a_greatest_size() {
        let mut writer = Writer::limited(&PLAN, HEAD + CHECKSUM + 11);
        assert_eq!(writer.put("0123456789"), Ok(()));
        assert_eq!(writer.put(&1u8), Err(CheckpointError::TooLarge));
        assert_eq!(writer.finish().len(), HEAD + CHECKSUM + 11);
    }
}
