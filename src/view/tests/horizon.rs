//! How far back cursors resume.

use super::model::*;
use serde_json::json;

/// The kinds of frames that a client gets which resumes after this many rows were removed within RETAIN.
fn kinds_after_removed(rows: i64) -> Vec<String> {
    let mut world = World::new("fleet");
    world.put(0, "n1", 1);
    world.cut();
    let mut client = world.client(json!({}), 0);
    client.read(100, world.now());
    client.session = None;
    for id in 1..=rows {
        world.put(id, "n1", 1);
        world.cut();
        world.remove(id);
        world.cut();
    }
    world.pass(RETAIN / 2);
    client.seen.clear();
    client.connect(&world);
    client.read(100, world.now());
    client.expects(&world);
    client.seen.into_iter().filter(|kind| kind != "progress").collect()
}

#[test]
fn a_cursor_resumes_while_at_most_max_rows_were_removed() {
    let most = description("fleet").max_rows as i64;
    assert_eq!(kinds_after_removed(most), ["hello", "subscribed"]);
    // A snapshot is smaller than the delta could be.
    assert_eq!(kinds_after_removed(most + 1), ["hello", "subscribed", "gap", "snapshot", "rows", "ready"]);
}
