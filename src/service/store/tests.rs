use std::sync::atomic::{AtomicBool, Ordering};

use redb::{Database, TableDefinition};
use tempfile::TempDir;

use super::file::FILE;
use super::*;

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn opened(folder: &Path) -> Result<Records, String> {
    Store::open(folder).map(|(_, records)| records).map_err(|error| error.to_string())
}

#[tokio::test]
async fn what_was_written_is_there_again() {
    let folder = folder();
    let (store, records) = Store::open(folder.path()).unwrap();
    assert_eq!(records, Records::default());
    store
        .write(vec![Change::put(RecordKind::Stream, "a", "A"), Change::put(RecordKind::Rule, "r", "1")])
        .await
        .unwrap();
    store.write(vec![Change::put(RecordKind::Rule, "r", "2"), Change::remove(RecordKind::Stream, "a")]).await.unwrap();
    assert!(Store::open(folder.path()).is_err_and(|error| error.to_string().contains("in use by another process")));
    drop(store);
    let records = opened(folder.path()).unwrap();
    assert_eq!(records.of(RecordKind::Rule).collect::<Vec<_>>(), [("r", "2")]);
    assert_eq!(records.of(RecordKind::Stream).count(), 0);
}

#[tokio::test]
async fn states_are_read_when_they_are_asked_for() {
    let folder = folder();
    let (store, _) = Store::open(folder.path()).unwrap();
    assert_eq!((store.states().unwrap(), store.state("r").await.unwrap()), (Vec::new(), None));
    store.write(vec![Change::put_state("r", vec![1; 100_000]), Change::put_state("s", vec![2])]).await.unwrap();
    drop(store);
    let (store, records) = Store::open(folder.path()).unwrap();
    assert_eq!(records, Records::default());
    assert_eq!(store.states().unwrap(), ["r", "s"]);
    assert_eq!(store.state("r").await.unwrap(), Some(vec![1; 100_000]));
    store.write(vec![Change::remove_state("r")]).await.unwrap();
    assert_eq!((store.states().unwrap(), store.state("r").await.unwrap()), (vec!["s".to_owned()], None));
}

#[tokio::test]
async fn many_at_a_time_share_a_transaction() {
    let folder = folder();
    let (store, _) = Store::open(folder.path()).unwrap();
    let writes = (0..500).map(|i| store.write(vec![Change::put(RecordKind::Rule, i.to_string(), "{}")]));
    for written in futures_util::future::join_all(writes).await {
        written.unwrap();
    }
    drop(store);
    assert_eq!(opened(folder.path()).unwrap().of(RecordKind::Rule).count(), 500);
}

#[tokio::test]
async fn a_damaged_store_is_refused_and_left_as_it_is() {
    let folder = folder();
    let (store, _) = Store::open(folder.path()).unwrap();
    store.write(vec![Change::put(RecordKind::Rule, "r", "x".repeat(10_000))]).await.unwrap();
    drop(store);
    let file = folder.path().join(FILE);
    let whole = std::fs::read(&file).unwrap();
    for damage in [&b"no database at all"[..], &whole[..whole.len() / 2], &[0; 8192]] {
        std::fs::write(&file, damage).unwrap();
        let error = opened(folder.path()).unwrap_err();
        assert!(error.contains("is damaged"), "{error}");
        assert_eq!(std::fs::read(&file).unwrap(), damage);
    }
    std::fs::write(&file, whole).unwrap();
    assert_eq!(opened(folder.path()).unwrap().of(RecordKind::Rule).count(), 1);
}

#[test]
fn a_newer_store_is_refused() {
    let folder = folder();
    std::fs::create_dir_all(folder.path()).unwrap();
    let database = Database::create(folder.path().join(FILE)).unwrap();
    let change = database.begin_write().unwrap();
    change.open_table(META).unwrap().insert("version", 3).unwrap();
    change.commit().unwrap();
    drop(database);
    let before = std::fs::read(folder.path().join(FILE)).unwrap();
    let error = opened(folder.path()).unwrap_err();
    assert!(error.contains("has version 3, this Plutino knows up to 2"), "{error}");
    assert_eq!(std::fs::read(folder.path().join(FILE)).unwrap(), before);
}

/// Makes a store of version 1, without checksums.
fn old(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let database = Database::create(folder.join(FILE)).unwrap();
    let change = database.begin_write().unwrap();
    change.open_table(META).unwrap().insert("version", 1).unwrap();
    let rules: TableDefinition<&str, &str> = TableDefinition::new("rules");
    change.open_table(rules).unwrap().insert("r", "R").unwrap();
    let states: TableDefinition<&str, &[u8]> = TableDefinition::new("states");
    change.open_table(states).unwrap().insert("r", &[1, 2][..]).unwrap();
    change.commit().unwrap();
}

#[tokio::test]
async fn an_old_store_is_taken_over() {
    let folder = folder();
    old(folder.path());
    for _ in 0..2 {
        let (store, records) = Store::open(folder.path()).unwrap();
        assert_eq!(records.of(RecordKind::Rule).collect::<Vec<_>>(), [("r", "R")]);
        assert_eq!((store.damage().count(), store.state("r").await.unwrap()), (0, Some(vec![1, 2])));
        store.write(vec![Change::put(RecordKind::Stream, "s", "S")]).await.unwrap();
    }
}

/// Changes bits of a content wherever it is in the file.
fn flip(folder: &Path, content: &[u8]) {
    let file = folder.join(FILE);
    let mut bytes = std::fs::read(&file).unwrap();
    let places: Vec<usize> =
        (0..bytes.len() - content.len()).filter(|at| &bytes[*at..*at + content.len()] == content).collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at] ^= 4;
    }
    std::fs::write(&file, bytes).unwrap();
}

#[tokio::test]
async fn a_damaged_record_is_named_and_the_rest_can_be_read() {
    let folder = folder();
    let (store, _) = Store::open(folder.path()).unwrap();
    let put = |name: &str| Change::put(RecordKind::Rule, name, format!("the text of {name}"));
    store.write(vec![put("a"), put("b"), put("c"), Change::put_state("a", b"the state of a".to_vec())]).await.unwrap();
    drop(store);
    flip(folder.path(), b"the text of b");
    flip(folder.path(), b"the state of a");

    let (store, records) = Store::open(folder.path()).unwrap();
    assert_eq!(records.of(RecordKind::Rule).map(|(name, _)| name).collect::<Vec<_>>(), ["a", "c"]);
    let damage: Vec<String> = store.damage().map(ToString::to_string).collect();
    assert_eq!(damage, ["the rule b is damaged"]);
    assert!(store.state("a").await.is_err());
    let refused = store.write(vec![put("d")]).await.unwrap_err().to_string();
    assert!(refused.contains("read-only") && refused.contains("plutino store repair"), "{refused}");
    drop(store);

    let checked = check(folder.path()).unwrap();
    assert_eq!((checked.records.of(RecordKind::Rule).count(), checked.states, checked.damage.len()), (2, 0, 2));
    let kept = repair(folder.path()).unwrap().kept.expect("there was something to repair");
    assert!(kept.is_file(), "the damaged file is kept");
    assert_eq!(repair(folder.path()).unwrap().kept, None);
    let (store, records) = Store::open(folder.path()).unwrap();
    assert_eq!((records.of(RecordKind::Rule).count(), store.damage().count()), (2, 0));
    store.write(vec![put("d")]).await.unwrap();
}

#[tokio::test]
async fn a_damaged_state_is_forgotten() {
    let folder = folder();
    let (store, _) = Store::open(folder.path()).unwrap();
    let states = ["a", "b"].map(|rule| Change::put_state(rule, format!("the state of {rule}").into_bytes()));
    store.write(states.to_vec()).await.unwrap();
    drop(store);
    flip(folder.path(), b"the state of a");
    for _ in 0..2 {
        let (store, _) = Store::open(folder.path()).unwrap();
        assert_eq!((store.damage().count(), store.states().unwrap()), (0, vec!["b".to_owned()]));
        store.write(vec![Change::put(RecordKind::Rule, "r", "x")]).await.unwrap();
    }
}

#[tokio::test]
async fn a_record_that_is_missing_is_missed() {
    let folder = folder();
    let (store, _) = Store::open(folder.path()).unwrap();
    store.write(vec![Change::put(RecordKind::Rule, "a", "A"), Change::put(RecordKind::Rule, "b", "B")]).await.unwrap();
    drop(store);
    let database = Database::open(folder.path().join(FILE)).unwrap();
    let change = database.begin_write().unwrap();
    let all: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records");
    change.open_table(all).unwrap().remove(&b"ra"[..]).unwrap();
    change.commit().unwrap();
    drop(database);
    let (store, records) = Store::open(folder.path()).unwrap();
    assert_eq!(records.of(RecordKind::Rule).count(), 1);
    assert_eq!(store.damage().collect::<Vec<_>>(), [&Damage::Missing { expected: 2, found: 1 }]);
}

/// A flipped bit of the file, wherever it is, must be noticed before it changes what is served or written.
#[tokio::test]
async fn a_flipped_bit_never_changes_the_catalog() {
    let folder = folder();
    let (store, _) = Store::open(folder.path()).unwrap();
    let rule = |i: usize, text: &str| Change::put(RecordKind::Rule, format!("rule{i}"), text.repeat(60));
    // Many commits, so that both commit slots and the lists of free pages are in use.
    for i in 0..60 {
        store.write(vec![rule(i, "text"), Change::put_state(format!("rule{i}"), vec![7; 50])]).await.unwrap();
    }
    store.write((0..20).map(|i| rule(i * 3, "changed")).collect()).await.unwrap();
    drop(store);
    let file = folder.path().join(FILE);
    let whole = std::fs::read(&file).unwrap();
    let right = opened(folder.path()).unwrap();
    let (mut random, mut refused) = (fastrand::Rng::with_seed(7), 0);
    let used: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] != 0).collect();
    for round in 0..150 {
        let at = match round % 3 {
            // the header with its commit slots
            0 => random.usize(..320),
            1 => used[random.usize(..used.len())],
            _ => random.usize(..whole.len()),
        };
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << random.u8(..8);
        std::fs::write(&file, &bytes).unwrap();
        let (store, records) = match Store::open(folder.path()) {
            Ok(opened) => opened,
            Err(error) => {
                assert!(error.to_string().contains("is damaged"), "byte {at}: {error}");
                assert!(std::fs::read(&file).unwrap() == bytes, "byte {at}: it was changed");
                refused += 1;
                continue;
            }
        };
        let damaged: Vec<String> = store.damage().map(ToString::to_string).collect();
        let known =
            |kind, name: &str| right.of(kind).find(|(known, _)| *known == name).map(|(_, text)| text.to_owned());
        assert!(records == right || !damaged.is_empty(), "byte {at}");
        for (name, text) in records.of(RecordKind::Rule) {
            assert_eq!(known(RecordKind::Rule, name).as_deref(), Some(text), "byte {at}");
        }
        let _ = store.states();
        let written = store.write(vec![rule(3, "new"), Change::remove(RecordKind::Rule, "rule4")]).await;
        assert_eq!(written.is_err(), !damaged.is_empty(), "byte {at}: {written:?} {damaged:?}");
        assert!(written.is_ok() || written.unwrap_err().to_string().contains("plutino store repair"), "byte {at}");
        drop(store);
        if damaged.is_empty() {
            let (store, after) = Store::open(folder.path()).unwrap();
            assert_eq!(store.damage().count(), 0, "byte {at}");
            let rules = after.of(RecordKind::Rule);
            let others = |(name, text): &(&str, &str)| known(RecordKind::Rule, name).as_deref() == Some(*text);
            assert_eq!((after.of(RecordKind::Rule).count(), rules.filter(others).count()), (59, 58), "byte {at}");
        } else {
            assert!(std::fs::read(&file).unwrap() == bytes, "byte {at}: it was changed");
            let repaired = repair(folder.path()).unwrap();
            std::fs::remove_file(repaired.kept.expect("it was damaged")).unwrap();
            let (store, _) = Store::open(folder.path()).unwrap();
            store.write(vec![rule(3, "new")]).await.unwrap();
        }
    }
    // Without the page sizes at its beginning, or without the page that all others hang from, nothing can be read.
    assert!(refused < 30, "{refused}");
}

#[tokio::test]
async fn a_transaction_is_written_whole() {
    let folder = folder();
    let (store, _) = Store::open(folder.path()).unwrap();
    let done: Result<i32, StoreError> = store
        .transaction(async {
            store.write(vec![Change::put(RecordKind::Rule, "a", "1")]).await.unwrap();
            store
                .write(vec![Change::put(RecordKind::Rule, "b", "2"), Change::remove(RecordKind::Rule, "a")])
                .await
                .unwrap();
            Ok(7)
        })
        .await;
    assert_eq!(done.unwrap(), 7);
    let failed: Result<(), StoreError> = store
        .transaction(async {
            store.write(vec![Change::remove(RecordKind::Rule, "b")]).await?;
            Err(StoreError::Closed)
        })
        .await;
    assert!(failed.is_err());
    store.without_writing(async { store.write(vec![Change::remove(RecordKind::Rule, "b")]).await.unwrap() }).await;
    drop(store);
    assert_eq!(opened(folder.path()).unwrap().of(RecordKind::Rule).collect::<Vec<_>>(), [("b", "2")]);
}

#[tokio::test]
async fn a_backup_is_a_store() {
    let folder = folder();
    let (store, _) = Store::open(folder.path()).unwrap();
    store.write(vec![Change::put(RecordKind::Rule, "a", "1"), Change::put_state("a", vec![9])]).await.unwrap();
    let copy = folder.path().join("copy").join(FILE);
    std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
    std::io::copy(&mut store.backup().await.unwrap(), &mut std::fs::File::create_new(&copy).unwrap()).unwrap();
    store.write(vec![Change::remove(RecordKind::Rule, "a")]).await.unwrap();
    let (store, records) = Store::open(copy.parent().unwrap()).unwrap();
    assert_eq!(records.of(RecordKind::Rule).collect::<Vec<_>>(), [("a", "1")]);
    assert_eq!(store.state("a").await.unwrap(), Some(vec![9]));
}

#[tokio::test]
async fn a_backup_of_a_busy_store_is_of_one_moment() {
    let folder = folder();
    let (store, _) = Store::open(folder.path()).unwrap();
    let busy = AtomicBool::new(true);
    let writes = async {
        for number in 0.. {
            store.write(vec![Change::put(RecordKind::Rule, "a", format!("{number}"))]).await.unwrap();
            if !busy.load(Ordering::Relaxed) {
                return;
            }
        }
    };
    let backups = async {
        for _ in 0..50 {
            store.backup().await.unwrap();
        }
        busy.store(false, Ordering::Relaxed);
    };
    tokio::join!(writes, backups);
}

#[test]
fn every_damage_says_what_it_is() {
    for (damage, says) in [
        (Damage::Record { what: "rule", name: "r".to_owned() }, "the rule r is damaged"),
        (Damage::Missing { expected: 3, found: 2 }, "2 of 3 are there"),
        (Damage::Unreadable("x".to_owned()), "cannot be read: x"),
        (Damage::Pages, "pages of its file"),
        (Damage::Recovered, "its last commit, is damaged"),
    ] {
        assert!(damage.to_string().contains(says), "{damage}");
    }
}
