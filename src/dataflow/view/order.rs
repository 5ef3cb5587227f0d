//! The order of the rows of a view: booleans before numbers before text by code point, nulls always last, equal rows by
//! key.

use std::cmp::Ordering;

use crate::value::key::{GroupKey, KeyPart};

/// A value in this order.
#[derive(Clone, Debug)]
pub struct Ordered(pub KeyPart);

impl Ord for Ordered {
    fn cmp(&self, other: &Ordered) -> Ordering {
        compare(&self.0, &other.0, false)
    }
}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Ordered) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ordered {
    fn eq(&self, other: &Ordered) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ordered {}

/// The order of two keys.
pub fn compare_keys(a: &GroupKey, b: &GroupKey) -> Ordering {
    let parts = a.parts().iter().zip(b.parts());
    parts.map(|(a, b)| compare(a, b, false)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

/// The order of two values of ORDER BY: nulls are last both ways.
pub fn compare(a: &KeyPart, b: &KeyPart, descending: bool) -> Ordering {
    match (a, b) {
        (KeyPart::Nothing, KeyPart::Nothing) => Ordering::Equal,
        (KeyPart::Nothing, _) => Ordering::Greater,
        (_, KeyPart::Nothing) => Ordering::Less,
        (a, b) if descending => values(b, a),
        (a, b) => values(a, b),
    }
}

fn values(a: &KeyPart, b: &KeyPart) -> Ordering {
    let float = f64::from_bits;
    match (a, b) {
        (KeyPart::Int(a), KeyPart::Int(b)) => a.cmp(b),
        (KeyPart::Unsigned(a), KeyPart::Unsigned(b)) => a.cmp(b),
        (KeyPart::Int(_), KeyPart::Unsigned(_)) => Ordering::Less,
        (KeyPart::Unsigned(_), KeyPart::Int(_)) => Ordering::Greater,
        (KeyPart::Unsigned(a), KeyPart::Float(b)) => (*a as f64).total_cmp(&float(*b)).then(Ordering::Less),
        (KeyPart::Float(a), KeyPart::Unsigned(b)) => float(*a).total_cmp(&(*b as f64)).then(Ordering::Greater),
        (KeyPart::Float(a), KeyPart::Float(b)) => float(*a).total_cmp(&float(*b)),
        // A float with a whole value of 64 bits is an Int here, so the two are never equal.
        (KeyPart::Int(a), KeyPart::Float(b)) => (*a as f64).total_cmp(&float(*b)).then(Ordering::Less),
        (KeyPart::Float(a), KeyPart::Int(b)) => float(*a).total_cmp(&(*b as f64)).then(Ordering::Greater),
        (a, b) => rank(a).cmp(&rank(b)).then_with(|| a.cmp(b)),
    }
}

fn rank(part: &KeyPart) -> u8 {
    match part {
        KeyPart::Bool(_) => 0,
        KeyPart::Int(_) | KeyPart::Unsigned(_) | KeyPart::Float(_) => 1,
        KeyPart::Text(_) => 2,
        KeyPart::DateTime(_) => 3,
        KeyPart::Bytes(_) => 4,
        KeyPart::Array(_) => 5,
        KeyPart::Object(_) => 6,
        KeyPart::Nothing => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Value;

    #[test]
    fn nulls_are_last_both_ways_and_ties_go_by_key() {
        let values = [
            Value::Text("ab".into()),
            Value::Null,
            Value::Int(2),
            Value::Bool(true),
            Value::Float(1.5),
            Value::Text("a".into()),
            Value::Int(2),
        ];
        let sorted = |descending: bool| {
            let key = |place: usize| GroupKey::from_values([&Value::Int(place as i64)]);
            let mut keys: Vec<(usize, KeyPart)> = values.iter().map(KeyPart::of).enumerate().collect();
            keys.reverse();
            keys.sort_by(|(a, left), (b, right)| {
                compare(left, right, descending).then_with(|| compare_keys(&key(*a), &key(*b)))
            });
            keys.into_iter().map(|(place, _)| place).collect::<Vec<_>>()
        };
        assert_eq!(sorted(false), [3, 4, 2, 6, 5, 0, 1]);
        assert_eq!(sorted(true), [0, 5, 2, 6, 4, 3, 1]);
    }
}
