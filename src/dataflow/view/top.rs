//! The first rows of a view in its order, while rows change: ORDER BY … LIMIT, and row_number() per group.
//!
//! All rows are kept in order, those within the limit separately from those beyond it, so that the next row is
//! available when one is removed.

use std::collections::{BTreeSet, HashMap};

use crate::plan::view::Top;
use crate::value::key::{GroupKey, KeyPart};

use super::order::SortKey;
use super::row::Made;
use crate::dataflow::row::KeyHasher;

/// A change before or after a top: the row of a key, or that it is removed.
pub type Change = (GroupKey, Option<Made>);

/// The first rows of each group.
pub struct TopRows {
    plan: Top,
    groups: HashMap<GroupKey, Group, KeyHasher>,
    rows: HashMap<GroupKey, Kept, KeyHasher>,
}

#[derive(Default)]
struct Group {
    /// the first rows
    within: BTreeSet<SortKey>,
    beyond: BTreeSet<SortKey>,
}

struct Kept {
    group: GroupKey,
    sort: SortKey,
    row: Made,
}

impl TopRows {
    pub fn new(plan: Top) -> TopRows {
        TopRows { plan, groups: HashMap::default(), rows: HashMap::default() }
    }

    /// Applies a change, and gives the resulting changes of the first rows, in order.
    pub fn change(&mut self, (key, row): Change, out: &mut Vec<Change>) {
        let new = row.map(|row| {
            let part = |place: &usize| row.sort.get(*place).cloned().unwrap_or(KeyPart::Nothing);
            let mut group = GroupKey::default();
            self.plan.partition.iter().for_each(|place| group.push_part(part(place)));
            let values = self.plan.order.iter().map(|(place, descending)| (part(place), *descending));
            let sort = SortKey::new(values, key.clone());
            Kept { group, sort, row }
        });
        let old = self.rows.remove(&key);
        if let (Some(old), Some(new)) = (&old, &new)
            && old.group == new.group
            && old.sort == new.sort
        {
            if self.groups.get(&new.group).is_some_and(|group| group.within.contains(&new.sort)) {
                out.push((key.clone(), Some(new.row.clone())));
            }
        } else {
            if let Some(old) = old {
                self.leave(&old, out);
            }
            if let Some(new) = &new {
                self.enter(new, out);
            }
        }
        if let Some(new) = new {
            self.rows.insert(key, new);
        }
    }

    /// The number of all rows, including those beyond the first.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// All rows, including those beyond the first.
    pub fn rows(&self) -> impl Iterator<Item = (&GroupKey, &Made)> {
        self.rows.iter().map(|(key, kept)| (key, &kept.row))
    }

    fn leave(&mut self, old: &Kept, out: &mut Vec<Change>) {
        let Some(group) = self.groups.get_mut(&old.group) else { return };
        if group.within.remove(&old.sort) {
            out.push((old.sort.key().clone(), None));
            if let Some(next) = group.beyond.pop_first() {
                out.extend(self.rows.get(next.key()).map(|kept| (next.key().clone(), Some(kept.row.clone()))));
                group.within.insert(next);
            }
        } else {
            group.beyond.remove(&old.sort);
        }
        if group.within.is_empty() {
            self.groups.remove(&old.group);
        }
    }

    fn enter(&mut self, new: &Kept, out: &mut Vec<Change>) {
        let group = self.groups.entry(new.group.clone()).or_default();
        if group.within.len() >= self.plan.rows {
            match group.within.last() {
                Some(last) if new.sort < *last => {
                    if let Some(last) = group.within.pop_last() {
                        out.push((last.key().clone(), None));
                        group.beyond.insert(last);
                    }
                }
                _ => {
                    group.beyond.insert(new.sort.clone());
                    return;
                }
            }
        }
        group.within.insert(new.sort.clone());
        out.push((new.sort.key().clone(), Some(new.row.clone())));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::value::Value;

    #[test]
    fn the_first_rows_follow_every_change() {
        let plan = Top { partition: vec![0], order: vec![(1, true)], rows: 3 };
        let mut top = TopRows::new(plan);
        let mut all: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
        let mut held: BTreeMap<i64, Box<[u8]>> = BTreeMap::new();
        let mut random = fastrand::Rng::with_seed(5);
        let id = |key: &GroupKey| match key.parts() {
            [KeyPart::Int(id)] => *id,
            _ => unreachable!(),
        };
        for _ in 0..5_000 {
            let key = random.i64(0..20);
            let row = random.bool().then(|| (random.i64(0..3), random.i64(0..6)));
            let made = row.map(|(group, value)| Made {
                json: format!("{group} {value}").into_bytes().into(),
                forms: Box::default(),
                sort: Box::new([KeyPart::Int(group), KeyPart::Int(value)]),
            });
            match row {
                Some(row) => all.insert(key, row),
                None => all.remove(&key),
            };
            let mut out = Vec::new();
            top.change((GroupKey::from_values([&Value::Int(key)]), made), &mut out);
            for (key, row) in out {
                match row {
                    Some(row) => held.insert(id(&key), row.json),
                    None => held.remove(&id(&key)),
                };
            }
            let mut wanted = BTreeMap::new();
            for group in 0..3 {
                let mut rows: Vec<_> = all.iter().filter(|(_, row)| row.0 == group).collect();
                rows.sort_by_key(|(key, row)| (-row.1, **key));
                wanted.extend(
                    rows.into_iter()
                        .take(3)
                        .map(|(key, row)| (*key, format!("{} {}", row.0, row.1).into_bytes().into_boxed_slice())),
                );
            }
            assert_eq!(held, wanted);
        }
    }
}
