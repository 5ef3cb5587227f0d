//! Estimates the memory of a state.
//!
//! It walks the same parts as a checkpoint, and counts instead of writing, so everything is included and nothing must
//! be tracked while rows flow. Long collections are sampled: only the first elements of each are measured, fewer for
//! deeper ones, and the result is extrapolated. So a measurement takes as long for a million groups as for a hundred.
//! Spare capacity of collections is not included, and anything that several windows share counts for each.

use std::fmt;

use serde::ser::{self, Serialize, Serializer};

use super::checkpoint::{CheckpointError, StateParts};

/// The number of elements of a collection that are measured, by its depth inside other collections.
const SAMPLE: [usize; 4] = [64, 16, 8, 4];

/// A number, boolean or time.
const SCALAR: u64 = 8;
/// The tag of an enum, with its padding.
const TAG: u64 = 16;
/// A text without its heap memory; short ones have none.
const TEXT: u64 = 16;
/// The longest text without heap memory, bytes.
const SHORT: usize = 24;
/// A collection without its elements.
const COLLECTION: u64 = 32;
/// The overhead of a map for each element.
const ENTRY: u64 = 16;

/// The size of a rule's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateSize {
    /// Bytes, estimated.
    pub bytes: u64,
    /// Open windows with rows; `None` if the rule has no windows.
    pub windows: Option<u64>,
}

/// The size of a lookup table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableSize {
    pub rows: u64,
    /// Bytes of its rows and of each index on them, estimated.
    pub bytes: u64,
}

/// Adds up sizes.
#[derive(Default)]
pub struct Meter {
    bytes: u64,
    depth: usize,
}

impl Meter {
    /// The sum, bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds one value with its content.
    pub fn add<T: Serialize + ?Sized>(&mut self, part: &T) {
        // Stopping after a sample is not an error.
        let _ = part.serialize(&mut *self);
    }

    /// Adds `len` values with their content, each of which itself takes this many bytes. The size of the first ones is
    /// extrapolated.
    pub fn add_alike<T>(
        &mut self,
        len: usize,
        each: usize,
        things: impl Iterator<Item = T>,
        add: impl Fn(T, &mut Meter),
    ) {
        let (mut sample, mut seen) = (Meter::default(), 0);
        for thing in things.take(SAMPLE[0]) {
            add(thing, &mut sample);
            seen += 1;
        }
        let inside = (sample.bytes * len as u64).checked_div(seen).unwrap_or(0);
        self.bytes += inside + (len * each) as u64;
    }

    fn text(&mut self, len: usize) {
        self.bytes += TEXT + if len > SHORT { len as u64 } else { 0 };
    }
}

impl StateParts for Meter {
    fn put<T: Serialize + ?Sized>(&mut self, part: &T) -> Result<(), CheckpointError> {
        self.add(part);
        Ok(())
    }
}

/// Signals that the sample of a collection is complete, by ending its walk like an error.
#[derive(Debug)]
pub struct Enough;

impl fmt::Display for Enough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("enough was seen")
    }
}

impl std::error::Error for Enough {}

impl ser::Error for Enough {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Enough
    }
}

/// A collection during its walk.
pub struct Walk<'m> {
    meter: &'m mut Meter,
    /// The length, if known.
    len: Option<usize>,
    seen: usize,
    /// The sum before the first element.
    before: u64,
    /// The overhead of each element.
    each: u64,
}

impl<'m> Walk<'m> {
    fn new(meter: &'m mut Meter, len: Option<usize>, each: u64) -> Walk<'m> {
        meter.bytes += COLLECTION;
        meter.depth += 1;
        Walk { before: meter.bytes, meter, len, seen: 0, each }
    }

    fn element<T: Serialize + ?Sized>(&mut self, element: &T) -> Result<(), Enough> {
        self.meter.bytes += self.each;
        self.meter.add(element);
        self.seen += 1;
        let sample = SAMPLE[(self.meter.depth - 1).min(SAMPLE.len() - 1)];
        let Some(len) = self.len.filter(|len| *len > sample && self.seen == sample) else { return Ok(()) };
        let seen = self.meter.bytes - self.before;
        self.meter.bytes = self.before + seen.saturating_mul(len as u64) / sample as u64;
        self.meter.depth -= 1;
        Err(Enough)
    }

    fn end(self) -> Result<(), Enough> {
        self.meter.depth -= 1;
        Ok(())
    }
}

/// Fields whose number is part of the type.
pub struct Fields<'m>(&'m mut Meter);

impl<'m> Serializer for &'m mut Meter {
    type Ok = ();
    type Error = Enough;
    type SerializeSeq = Walk<'m>;
    type SerializeMap = Walk<'m>;
    type SerializeTuple = Fields<'m>;
    type SerializeTupleStruct = Fields<'m>;
    type SerializeTupleVariant = Fields<'m>;
    type SerializeStruct = Fields<'m>;
    type SerializeStructVariant = Fields<'m>;

    fn serialize_bool(self, _: bool) -> Result<(), Enough> {
        self.serialize_u64(0)
    }

    fn serialize_i8(self, _: i8) -> Result<(), Enough> {
        self.serialize_u64(0)
    }

    fn serialize_i16(self, _: i16) -> Result<(), Enough> {
        self.serialize_u64(0)
    }

    fn serialize_i32(self, _: i32) -> Result<(), Enough> {
        self.serialize_u64(0)
    }

    fn serialize_i64(self, _: i64) -> Result<(), Enough> {
        self.serialize_u64(0)
    }

    fn serialize_u8(self, _: u8) -> Result<(), Enough> {
        self.serialize_u64(0)
    }

    fn serialize_u16(self, _: u16) -> Result<(), Enough> {
        self.serialize_u64(0)
    }

    fn serialize_u32(self, _: u32) -> Result<(), Enough> {
        self.serialize_u64(0)
    }

    fn serialize_u64(self, _: u64) -> Result<(), Enough> {
        self.bytes += SCALAR;
        Ok(())
    }

    fn serialize_f32(self, _: f32) -> Result<(), Enough> {
        self.serialize_u64(0)
    }

    fn serialize_f64(self, _: f64) -> Result<(), Enough> {
        self.serialize_u64(0)
    }

    fn serialize_char(self, _: char) -> Result<(), Enough> {
        self.serialize_u64(0)
    }

    fn serialize_str(self, text: &str) -> Result<(), Enough> {
        self.text(text.len());
        Ok(())
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Result<(), Enough> {
        self.text(bytes.len());
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Enough> {
        self.serialize_u64(0)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Enough> {
        self.serialize_newtype_struct("", value)
    }

    fn serialize_unit(self) -> Result<(), Enough> {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Enough> {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Result<(), Enough> {
        self.bytes += TAG;
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Enough> {
        self.add(value);
        Ok(())
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), Enough> {
        self.bytes += TAG;
        self.add(value);
        Ok(())
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Walk<'m>, Enough> {
        Ok(Walk::new(self, len, 0))
    }

    fn serialize_tuple(self, _: usize) -> Result<Fields<'m>, Enough> {
        Ok(Fields(self))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Fields<'m>, Enough> {
        Ok(Fields(self))
    }

    fn serialize_tuple_variant(self, _: &'static str, _: u32, _: &'static str, _: usize) -> Result<Fields<'m>, Enough> {
        self.bytes += TAG;
        Ok(Fields(self))
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Walk<'m>, Enough> {
        Ok(Walk::new(self, len, ENTRY))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Fields<'m>, Enough> {
        Ok(Fields(self))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Fields<'m>, Enough> {
        self.bytes += TAG;
        Ok(Fields(self))
    }

    fn is_human_readable(&self) -> bool {
        // As in checkpoints: types with two formats use the binary one.
        false
    }
}

impl ser::SerializeSeq for Walk<'_> {
    type Ok = ();
    type Error = Enough;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Enough> {
        self.element(value)
    }

    fn end(self) -> Result<(), Enough> {
        self.end()
    }
}

impl ser::SerializeMap for Walk<'_> {
    type Ok = ();
    type Error = Enough;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Enough> {
        self.meter.add(key);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Enough> {
        self.element(value)
    }

    fn end(self) -> Result<(), Enough> {
        self.end()
    }
}

/// All kinds of fields are measured in the same way.
macro_rules! fields {
    ($($kind:ident::$put:ident),*) => {$(
        impl ser::$kind for Fields<'_> {
            type Ok = ();
            type Error = Enough;

            fn $put<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Enough> {
                self.0.add(value);
                Ok(())
            }

            fn end(self) -> Result<(), Enough> {
                Ok(())
            }
        }
    )*};
    ($($kind:ident),*) => {$(
        impl ser::$kind for Fields<'_> {
            type Ok = ();
            type Error = Enough;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, _: &'static str, value: &T) -> Result<(), Enough> {
                self.0.add(value);
                Ok(())
            }

            fn end(self) -> Result<(), Enough> {
                Ok(())
            }
        }
    )*};
}

fields!(
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field
);
fields!(SerializeStruct, SerializeStructVariant);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::value::Value;
    use crate::value::key::GroupKey;

    fn bytes<T: Serialize + ?Sized>(part: &T) -> u64 {
        let mut meter = Meter::default();
        meter.add(part);
        assert_eq!(meter.depth, 0);
        meter.bytes()
    }

    #[test]
    fn values_count_about_what_they_take() {
        let long = "x".repeat(1000);
        for (value, least, most) in [
            (Value::Null, 16, 24),
            (Value::Int(1), 24, 24),
            (Value::from("short"), 24, 32),
            (Value::from(long.as_str()), 1024, 1040),
            (Value::array(vec![Value::Int(1); 4]), 24 + 96, 200),
            (Value::object([("a".into(), Value::Float(0.5))]), 24 + 48, 200),
        ] {
            let found = bytes(&value);
            assert!((least..=most).contains(&found), "{value:?}: {found}");
        }
    }

    #[test]
    fn long_collections_are_sampled_and_count_whole() {
        let row = |number: u64| (GroupKey::from_values([&Value::Int(number as i64)]), vec![number; 3]);
        let rows: Vec<_> = (0..100_000).map(row).collect();
        let few = bytes(&rows[..50]);
        let (many, expected) = (bytes(&rows), (few - COLLECTION) * 2000 + COLLECTION);
        assert!(many.abs_diff(expected) * 100 < expected, "{many} {expected}");
        let nested: BTreeMap<i64, Vec<Vec<i64>>> = (0..1000).map(|key| (key, vec![vec![1; 30]; 20])).collect();
        let least = 1000 * 20 * 30 * 8;
        assert!((least..least * 2).contains(&bytes(&nested)), "{}", bytes(&nested));
    }

    /// Counts how often it is measured.
    struct Watched<'a>(&'a std::cell::Cell<usize>);

    impl Serialize for Watched<'_> {
        fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            self.0.set(self.0.get() + 1);
            to.serialize_u64(1)
        }
    }

    #[test]
    fn a_measurement_does_not_grow_with_what_is_measured() {
        let looked = std::cell::Cell::new(0);
        let all: Vec<Vec<Watched>> = (0..5000).map(|_| (0..500).map(|_| Watched(&looked)).collect()).collect();
        let found = bytes(&all);
        assert!((5000 * 500 * 8..5000 * 501 * 8 + 5000 * 64).contains(&found), "{found}");
        assert_eq!(looked.get(), SAMPLE[0] * SAMPLE[1]);
    }
}
