//! The tables of the database, and the transactions over them.

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::record::{Total, key_of, record_key, sealed, state_key};
use super::{Change, RecordKind};

/// The version of the format. A file with a newer version is refused; one with version 1 is converted.
pub const VERSION: u64 = 2;

pub const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// The key in that table for the number of the last import that replaced everything.
pub const IMPORT: &str = "import";

/// All stored records, by [`record_key`] and [`state_key`].
pub const ALL: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records");

/// In version 1: records without checksums, one table for each kind.
fn old_table(kind: RecordKind) -> TableDefinition<'static, &'static str, &'static str> {
    TableDefinition::new(match kind {
        RecordKind::Stream => "streams",
        RecordKind::Table => "tables",
        RecordKind::Rule => "rules",
        RecordKind::ConfKey => "conf_keys",
        RecordKind::Connection => "connections",
        RecordKind::View => "views",
    })
}

/// In version 1: states without checksums.
const OLD_STATES: TableDefinition<&str, &[u8]> = TableDefinition::new("states");

pub fn version(meta: impl ReadableTable<&'static str, u64>) -> Option<u64> {
    meta.get("version").ok()?.map(|version| version.value())
}

/// Writes the version into a new store.
pub fn begin(database: &Database) -> Result<(), redb::Error> {
    let change = database.begin_write()?;
    {
        let mut meta = change.open_table(META)?;
        meta.insert("version", VERSION)?;
        put_total(&mut meta, Total::default())?;
        change.open_table(ALL)?;
    }
    Ok(change.commit()?)
}

pub fn is_old(database: &Database) -> bool {
    let meta = || database.begin_read().ok()?.open_table(META).ok();
    meta().and_then(version) == Some(1)
}

/// Adds checksums to the records of version 1.
pub fn migrate(database: &Database) -> Result<(), redb::Error> {
    let change = database.begin_write()?;
    let mut total = Total::default();
    {
        let mut all = change.open_table(ALL)?;
        let mut put = |key: Vec<u8>, content: &[u8]| -> Result<(), redb::Error> {
            let stored = sealed(&key, content);
            total.add(&stored);
            all.insert(key.as_slice(), stored.as_slice())?;
            Ok(())
        };
        for kind in RecordKind::ALL {
            for record in change.open_table(old_table(kind))?.iter()? {
                let (name, text) = record?;
                put(record_key(kind, name.value()), text.value().as_bytes())?;
            }
        }
        for state in change.open_table(OLD_STATES)?.iter()? {
            let (rule, state) = state?;
            put(state_key(rule.value()), state.value())?;
        }
    }
    for kind in RecordKind::ALL {
        change.delete_table(old_table(kind))?;
    }
    change.delete_table(OLD_STATES)?;
    {
        let mut meta = change.open_table(META)?;
        meta.insert("version", VERSION)?;
        put_total(&mut meta, total)?;
    }
    Ok(change.commit()?)
}

fn put_total(meta: &mut redb::Table<'_, &'static str, u64>, total: Total) -> Result<(), redb::Error> {
    meta.insert("count", total.count)?;
    meta.insert("sum", total.sum)?;
    Ok(())
}

pub fn total(meta: &impl ReadableTable<&'static str, u64>) -> Result<Total, redb::Error> {
    let number = |name| Ok::<_, redb::Error>(meta.get(name)?.map_or(0, |number| number.value()));
    Ok(Total { count: number("count")?, sum: number("sum")? })
}

/// Drops damaged states: their rules start with empty state.
///
/// # Errors
/// The library's; then nothing has changed.
pub fn forget_states(database: &Database, keys: &[Vec<u8>]) -> Result<(), redb::Error> {
    if keys.is_empty() {
        return Ok(());
    }
    let transaction = database.begin_write()?;
    {
        let mut all = transaction.open_table(ALL)?;
        for key in keys {
            all.remove(key.as_slice())?;
        }
        let mut total = Total::default();
        for record in all.iter()? {
            total.add(record?.1.value());
        }
        put_total(&mut transaction.open_table(META)?, total)?;
    }
    Ok(transaction.commit()?)
}

pub fn commit<'a>(database: &Database, changes: impl Iterator<Item = &'a Change>) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut all = transaction.open_table(ALL)?;
        let mut meta = transaction.open_table(META)?;
        let mut total = total(&meta)?;
        for change in changes {
            let Some(key) = key_of(change) else {
                let number = change.becomes.as_deref().and_then(|bytes| bytes.try_into().ok());
                meta.insert(IMPORT, number.map_or(0, u64::from_le_bytes))?;
                continue;
            };
            let before = match &change.becomes {
                Some(content) => {
                    let stored = sealed(&key, content);
                    total.add(&stored);
                    all.insert(key.as_slice(), stored.as_slice())?
                }
                None => all.remove(key.as_slice())?,
            };
            if let Some(before) = before {
                total.remove(before.value());
            }
        }
        put_total(&mut meta, total)?;
    }
    Ok(transaction.commit()?)
}
