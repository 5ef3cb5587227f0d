//! The current rows by key.
//!
//! An entry keeps its number while it has a row, a staged row, or a life that is still needed.

use super::form::Form;
use crate::value::Value;
use crate::value::key::{GroupKey, KeyPart};
use crate::value::numbered::{HasKey, Numbered};

/// A key and its current row.
#[derive(Debug)]
pub struct Entry {
    pub key: GroupKey,
    /// the row as JSON; `None`: the key has no row now
    pub row: Option<Box<[u8]>>,
    /// the forms of the part columns; empty if the key determines them
    pub forms: Box<[Form]>,
    /// 1 + its position among the staged rows; 0: not staged
    pub staged: u32,
    /// number of lives that refer to it
    pub lives: u32,
}

impl HasKey for Entry {
    type Key = [KeyPart];

    fn key(&self) -> &[KeyPart] {
        self.key.parts()
    }
}

/// All entries.
#[derive(Debug, Default)]
pub struct Rows {
    pub entries: Numbered<Entry>,
    /// entries with a row
    pub live: usize,
    /// bytes of all rows
    pub bytes: usize,
}

impl Rows {
    /// The entry with a key.
    pub fn find(&self, key: &[KeyPart]) -> Option<u32> {
        self.entries.find(key)
    }

    /// The entry with a key, made if it does not exist.
    pub fn find_or_insert(&mut self, key: &GroupKey) -> u32 {
        let new = || Entry { key: key.clone(), row: None, forms: Box::default(), staged: 0, lives: 0 };
        self.entries.find(key.parts()).unwrap_or_else(|| self.entries.insert(new()))
    }

    /// Entries whose key can have these forms. A form does not distinguish 7 from "7".
    pub fn candidates(&self, forms: &[Form]) -> Vec<u32> {
        let mut keys: Vec<Vec<KeyPart>> = vec![Vec::new()];
        for form in forms {
            let parts = parts_of(form);
            let with = |key: &Vec<KeyPart>, part: &KeyPart| {
                let mut key = key.clone();
                key.push(part.clone());
                key
            };
            keys = keys.iter().flat_map(|key| parts.iter().map(move |part| with(key, part))).collect();
        }
        keys.iter().filter_map(|key| self.find(key)).collect()
    }

    /// Forgets an entry that is no longer used.
    pub fn release(&mut self, entry: u32) {
        let Some(found) = self.entries.get(entry) else { return };
        if found.row.is_none() && found.staged == 0 && found.lives == 0 {
            self.entries.remove(entry);
        }
    }

    /// Replaces the row, and returns the old one.
    pub fn set(&mut self, entry: u32, row: Option<Box<[u8]>>, forms: Box<[Form]>) -> Option<Box<[u8]>> {
        let found = &mut self.entries[entry];
        self.live += usize::from(row.is_some());
        self.bytes += row.as_ref().map_or(0, |row| row.len());
        let before = std::mem::replace(&mut found.row, row);
        found.forms = forms;
        self.live -= usize::from(before.is_some());
        self.bytes -= before.as_ref().map_or(0, |row| row.len());
        before
    }

    /// The JSON of a current row.
    pub fn json(&self, entry: u32) -> Option<&[u8]> {
        self.entries.get(entry)?.row.as_deref()
    }
}

/// The parts of keys with this form.
fn parts_of(form: &Form) -> Vec<KeyPart> {
    let Some(text) = form else { return vec![KeyPart::Nothing] };
    let mut parts = vec![KeyPart::Text(text.clone())];
    let number = text.parse().map(Value::Int).or_else(|_| text.parse().map(Value::Float));
    parts.extend(number.ok().map(|number| KeyPart::of(&number)));
    parts.extend(match text.as_str() {
        "true" => Some(KeyPart::Bool(true)),
        "false" => Some(KeyPart::Bool(false)),
        _ => None,
    });
    parts.extend(text.parse().ok().map(KeyPart::DateTime));
    parts
}
