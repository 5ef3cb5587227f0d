//! The model test: random rows, cuts and clients. In every case, a client that has read everything holds exactly its
//! part.

mod horizon;
mod model;

use std::sync::Arc;
use std::task::Waker;

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use self::model::{Client, RETAIN, World, description};
use super::*;
use crate::sync::locked;
use crate::time::Clock;
use crate::value::Value;
use crate::value::key::GroupKey;

#[derive(Clone, Debug)]
enum Step {
    Put(i64, usize, i64),
    Remove(i64),
    Cut,
    Pass(i64),
    Connect(usize, u64),
    Read(usize, usize),
    /// the client's connection is cut, and it resumes
    Resume(usize),
    Leave(usize),
    Check,
}

const SITES: [&str; 3] = ["n1", "n2", "n3"];

fn params(kind: usize) -> Json {
    match kind {
        0 => json!({}),
        1 => json!({"id": 1}),
        2 => json!({"site": "n1"}),
        3 => json!({"site": ["n1", "n2"]}),
        4 => json!({"id": [1, 2, 3], "site": ["n2", "n3"]}),
        _ => json!({"id": [2, 4]}),
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..6i64, 0..3usize, 0..4i64).prop_map(|(id, site, v)| Step::Put(id, site, v)),
        3 => (0..6i64).prop_map(Step::Remove),
        6 => Just(Step::Cut),
        2 => prop_oneof![Just(50), Just(300), Just(3_000)].prop_map(Step::Pass),
        2 => (0..6usize, prop_oneof![3 => Just(0), 1 => Just(80), 1 => Just(400)]).prop_map(|(p, e)| Step::Connect(p, e)),
        6 => (0..6usize, 1..6usize).prop_map(|(client, frames)| Step::Read(client, frames)),
        2 => (0..6usize).prop_map(Step::Resume),
        1 => (0..6usize).prop_map(Step::Leave),
        1 => Just(Step::Check),
    ]
}

fn quiesce(world: &World, clients: &mut [Client]) {
    for _ in 0..30 {
        world.pass(50);
        for client in clients.iter_mut() {
            while client.read(16, world.now()) {}
        }
    }
    clients.iter().for_each(|client| client.expects(world));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn every_client_holds_its_part(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new("fleet");
        let mut clients: Vec<Client> = Vec::new();
        for step in steps {
            match step {
                Step::Put(id, site, v) => world.put(id, SITES[site], v),
                Step::Remove(id) => world.remove(id),
                Step::Cut => world.cut(),
                Step::Pass(ms) => world.pass(ms),
                Step::Connect(kind, every) if clients.len() < 6 => clients.push(world.client(params(kind), every)),
                Step::Connect(..) => {}
                Step::Read(client, frames) => {
                    let now = world.now();
                    if let Some(client) = clients.get_mut(client) {
                        client.read(frames, now);
                    }
                }
                Step::Resume(client) => {
                    if let Some(client) = clients.get_mut(client) {
                        client.session = None;
                        client.connect(&world);
                    }
                }
                Step::Leave(client) => {
                    if client < clients.len() {
                        clients.remove(client);
                    }
                }
                Step::Check => {
                    world.cut();
                    quiesce(&world, &mut clients);
                }
            }
        }
        world.cut();
        quiesce(&world, &mut clients);
        drop(clients);
        // At the end, nothing but rows is left.
        world.pass(2 * RETAIN + 1_000);
        let view = locked(&world.view);
        prop_assert_eq!(view.status().cohorts, 0);
        prop_assert_eq!(view.status().ended_lives, 0);
        prop_assert_eq!(view.divisions.len(), 0);
        prop_assert_eq!(view.rows.entries.len(), view.len());
    }
}

#[test]
fn a_snapshot_then_each_change() {
    let mut world = World::new("fleet");
    world.put(1, "n1", 1);
    world.put(2, "n2", 1);
    world.cut();
    let mut all = world.client(json!({}), 0);
    let mut one = world.client(json!({"site": "n1"}), 0);
    for client in [&mut all, &mut one] {
        client.read(99, world.now());
        assert_eq!(client.seen, ["hello", "subscribed", "snapshot", "rows", "ready"]);
        client.expects(&world);
    }
    // The row moves to another part.
    world.put(1, "n3", 2);
    world.cut();
    for client in [&mut all, &mut one] {
        client.read(99, world.now());
        assert_eq!(client.seen.last().unwrap(), "delta");
        client.expects(&world);
    }
    // Changes elsewhere are not sent.
    world.put(2, "n2", 5);
    world.cut();
    assert!(!one.read(1, world.now()));
}

#[test]
fn rows_are_found_by_their_parameters() {
    let mut world = World::new("fleet");
    for (id, site) in [(1, "n1"), (2, "n2"), (3, "n1")] {
        world.put(id, site, 1);
    }
    world.cut();
    let view = locked(&world.view);
    for (query, found) in [
        ("", vec![1, 2, 3]),
        ("id=1&id=3.0&id=9", vec![1, 3]),
        ("id=1&site=n2", vec![]),
        ("id=2&id=3&site=n2&site=n1", vec![2, 3]),
        ("site=n1", vec![1, 3]),
    ] {
        let asked = client::read_query("fleet".into(), query).expect("a query");
        let filter = Filter::resolve(view.about(), &asked.params, None).expect("parameters of the view");
        let mut ids = Vec::new();
        view.each_row(&filter, |row| {
            let row: Json = serde_json::from_slice(row).expect("a row is JSON");
            ids.extend(row["id"].as_i64());
            true
        });
        ids.sort_unstable();
        assert_eq!(ids, found, "{query}");
    }
}

#[test]
fn first_rows_of_several_cuts_are_one_snapshot() {
    let mut world = World::new("fleet");
    // It follows the view without rows.
    let mut early = world.client(json!({}), 0);
    while early.read(9, world.now()) {}
    locked(&world.view).open();
    let mut late = world.client(json!({"site": "n1"}), 0);
    for id in 0..4 {
        world.put(id, "n1", 1);
        world.cut();
        early.seen.clear();
        while early.read(9, world.now()) {}
        while late.read(9, world.now()) {}
        assert_eq!((early.seen.len(), late.seen.len()), (0, 2), "{:?} {:?}", early.seen, late.seen);
    }
    locked(&world.view).opened();
    while early.read(9, world.now()) {}
    while late.read(9, world.now()) {}
    assert_eq!(early.seen, ["delta"]);
    assert_eq!(late.seen, ["hello", "subscribed", "snapshot", "rows", "ready"]);
    for client in [&early, &late] {
        client.expects(&world);
    }
}

#[test]
fn clients_of_a_view_over_views_wait_from_its_creation_on() {
    let mut world = World::new("fleet");
    let about = |definition| Description { over_views: true, definition, ..description("fleet") };
    world.view = world.views.create(about(1));
    let mut client = world.client(json!({}), 0);
    for definition in [2, 3] {
        client.seen.clear();
        while client.read(9, world.now()) {}
        assert!(!client.seen.iter().any(|kind| kind == "ready"), "{:?}", client.seen);
        world.put(1, "n1", 1);
        world.cut();
        locked(&world.view).opened();
        while client.read(9, world.now()) {}
        client.expects(&world);
        // Another definition starts empty.
        locked(&world.view).redefine(about(definition), world.now());
    }
}

#[test]
fn a_cursor_from_before_all_first_rows_are_there_lacks_none_of_them() {
    let mut world = World::new("fleet");
    locked(&world.view).open();
    world.put(1, "n1", 1);
    world.cut();
    let at = locked(&world.view).at();
    for comes_late in [false, true] {
        let mut client = world.client(json!({}), 0);
        client.cursor = Some(at.to_string());
        if !comes_late {
            client.connect(&world);
        }
        world.put(if comes_late { 3 } else { 2 }, "n1", 1);
        world.cut();
        locked(&world.view).opened();
        if comes_late {
            client.connect(&world);
        }
        while client.read(9, world.now()) {}
        client.expects(&world);
    }
}

#[test]
fn clients_of_one_part_share_its_bytes() {
    let mut world = World::new("fleet");
    let mut clients: Vec<Client> = (0..3).map(|_| world.client(json!({"site": ["n1", "n2"]}), 0)).collect();
    clients.iter_mut().for_each(|client| while client.read(9, world.now()) {});
    world.put(1, "n1", 1);
    world.cut();
    let now = world.now();
    let frames: Vec<Frame> =
        clients.iter_mut().map(|client| client.session.as_mut().unwrap().next(now).unwrap()).collect();
    assert!(frames.iter().all(|frame| frame.json.as_ptr() == frames[0].json.as_ptr()));
}

#[test]
fn a_client_that_stalls_gets_one_delta() {
    let mut world = World::new("fleet");
    let mut client = world.client(json!({}), 0);
    client.read(99, world.now());
    for v in 0..1_000 {
        world.put(v % 5, "n1", v);
        world.cut();
    }
    client.seen.clear();
    client.read(99, world.now());
    assert_eq!(client.seen, ["delta"]);
    client.expects(&world);
}

#[test]
fn a_large_answer_comes_as_its_client_reads() {
    let mut world = World::new("fleet");
    for id in 0..3_000 {
        world.put_padded(id, "n1", 0, 500);
    }
    world.cut();
    let mut client = world.client(json!({"site": "n1"}), 0);
    let mut rounds = 0;
    while client.read(3, world.now()) {
        rounds += 1;
        // Rows change, leave and come while they are sent, at first faster than they are read.
        for id in 0..if rounds < 9 { 400 } else { 3 } {
            world.put_padded((id * 7 + rounds) % 3_100, "n1", rounds, 500);
        }
        if rounds < 20 {
            world.remove(rounds * 11 % 3_000);
        }
        world.cut();
        if rounds > 60 {
            break;
        }
    }
    while client.read(99, world.now()) {}
    assert!(client.cursor.is_some());
    client.expects(&world);
}

#[test]
fn the_rows_of_a_new_part_are_gathered_in_turns() {
    let mut world = World::new("fleet");
    for id in 0..20_000 {
        world.put(id, SITES[id as usize % 3], 0);
    }
    world.cut();
    let mut client = world.client(json!({"site": "n1"}), 0);
    let mut turns = 0;
    while client.cursor.is_none() {
        client.read(99, world.now());
        turns += 1;
        // Rows change, leave and come meanwhile, gathered ones and others.
        for id in (turns..22_000).step_by(97) {
            world.put(id, SITES[(id + turns) as usize % 3], turns);
        }
        (turns..20_000).step_by(531).for_each(|id| world.remove(id));
        world.cut();
    }
    assert!(turns > 2, "{turns}");
    // A second client finds them gathered.
    let mut second = world.client(json!({"site": ["n1", "n2"]}), 0);
    second.read(1_000, world.now());
    for client in [&mut client, &mut second] {
        while client.read(99, world.now()) {}
        client.expects(&world);
    }
}

#[test]
fn a_cursor_resumes_or_tells_why_not() {
    let mut world = World::new("fleet");
    world.put(1, "n1", 1);
    world.put(2, "n1", 1);
    world.cut();
    let mut client = world.client(json!({"site": "n1"}), 0);
    client.read(99, world.now());
    client.session = None;
    world.put(1, "n2", 2);
    world.put(3, "n1", 1);
    world.cut();
    world.pass(RETAIN - 500);
    client.seen.clear();
    client.connect(&world);
    client.read(99, world.now());
    assert_eq!(client.seen, ["hello", "subscribed", "delta"]);
    client.expects(&world);
    client.session = None;
    world.remove(3);
    world.cut();
    world.pass(RETAIN * 2);
    client.seen.clear();
    client.connect(&world);
    client.read(99, world.now());
    assert_eq!(client.seen, ["hello", "subscribed", "gap", "snapshot", "rows", "ready"]);
    client.expects(&world);
}

/// The session's replies as JSON, without `hello`.
fn answers(session: &mut Session, now: i64) -> Vec<Json> {
    let mut answers = Vec::new();
    while let Some(frame) = session.next(now) {
        answers.push(serde_json::from_slice(&frame.json).unwrap());
    }
    answers.retain(|answer: &Json| answer["t"] != "hello");
    answers
}

fn session(world: &World, claims: Option<Json>) -> Session {
    let identity = Identity {
        expires: claims.as_ref().and_then(|claims| claims["exp"].as_i64()),
        claims: claims.and_then(|claims| claims.as_object().cloned()),
    };
    Session::new(world.views.clone(), Arc::new(Mailbox::new("test".into())), identity, world.now())
}

#[test]
fn each_error_has_its_code() {
    let world = World::new("fleet");
    let deep = "[".repeat(10_000);
    let many: Vec<i64> = (0..1_001).collect();
    let many = json!({"t": "subscribe", "view": "fleet", "params": {"id": many}}).to_string();
    let product = json!({"t": "subscribe", "view": "fleet", "params": {"id": (0..40).collect::<Vec<_>>(),
        "site": (0..40).collect::<Vec<_>>()}})
    .to_string();
    for (message, code) in [
        ("", "bad_message"),
        ("7", "bad_message"),
        (deep.as_str(), "bad_message"),
        (r#"{"t":"nonsense"}"#, "bad_message"),
        (r#"{"t":"subscribe"}"#, "bad_message"),
        (r#"{"t":"subscribe","view":"fleet","surprise":1}"#, "bad_message"),
        (r#"{"t":"subscribe","view":"fleet","every":"often"}"#, "bad_message"),
        (r#"{"t":"subscribe","view":"fleet","every":-1}"#, "bad_message"),
        (r#"{"t":"subscribe","view":7}"#, "bad_message"),
        (r#"{"t":"subscribe","view":"fleet","id":{}}"#, "bad_message"),
        (r#"{"t":"subscribe","view":"flete"}"#, "unknown_view"),
        (r#"{"t":"subscribe","view":"fleet","params":{"v":1}}"#, "unknown_param"),
        (r#"{"t":"subscribe","view":"fleet","params":{"id":"abc"}}"#, "bad_param"),
        (r#"{"t":"subscribe","view":"fleet","params":{"id":[]}}"#, "bad_param"),
        (r#"{"t":"subscribe","view":"fleet","params":{"site":{"a":1}}}"#, "bad_param"),
        (many.as_str(), "too_many_values"),
        (product.as_str(), "too_many_values"),
        (r#"{"t":"unsubscribe","s":99}"#, "not_subscribed"),
    ] {
        let mut session = session(&world, None);
        session.receive(message, world.now());
        let answers = answers(&mut session, world.now());
        assert_eq!(answers.len(), 1, "{message}");
        assert_eq!((&answers[0]["t"], &answers[0]["code"]), (&json!("error"), &json!(code)), "{message}");
        assert_eq!(session.over(), None);
    }
    let mut session = session(&world, None);
    let subscribe = r#"{"t":"subscribe","id":5,"view":"fleet","params":{"id":[2,1,2]},"every":60}"#;
    session.receive(subscribe, world.now());
    let frames = answers(&mut session, world.now());
    assert_eq!(frames[0]["params"], json!({"id": [1, 2]}));
    assert_eq!((&frames[0]["every"], &frames[0]["id"]), (&json!(100), &json!(5)));
    session.receive(subscribe, world.now());
    assert_eq!(answers(&mut session, world.now())[0]["code"], "duplicate");
    session.receive(&"x".repeat(70_000), world.now());
    assert_eq!(answers(&mut session, world.now())[0]["code"], "too_large");
    assert_eq!(session.over().unwrap().code, 1009);
}

#[test]
fn claims_choose_the_part() {
    let mut world = World::new("claimed");
    let put = |id: i64, owner: &str| {
        let row = json!({"id": id, "site": "n1", "v": 1, "owner": owner}).to_string();
        let forms = [Some(id.to_string().into()), Some("n1".into()), Some(owner.into())];
        locked(&world.view).put(&GroupKey::from_values([&Value::Int(id)]), row.into_bytes().into(), forms.into());
    };
    put(1, "ann");
    put(2, "bob");
    put(3, "7");
    world.cut();
    let rows = |claims: Option<Json>| {
        let mut session = session(&world, claims);
        session.receive(r#"{"t":"subscribe","view":"claimed"}"#, world.now());
        let answers = answers(&mut session, world.now());
        if answers[0]["t"] == "error" {
            return answers[0]["code"].clone();
        }
        answers.iter().find(|answer| answer["t"] == "ready").unwrap()["count"].clone()
    };
    assert_eq!(rows(None), "forbidden");
    assert_eq!(rows(Some(json!({}))), "forbidden");
    assert_eq!(rows(Some(json!({"sub": null}))), "forbidden");
    assert_eq!(rows(Some(json!({"sub": "ann"}))), 1);
    assert_eq!(rows(Some(json!({"sub": 7}))), 1);
    assert_eq!(rows(Some(json!({"sub": ["ann", "bob"]}))), 2);
    assert_eq!(rows(Some(json!({"sub": []}))), 0);
    let mut session = session(&world, Some(json!({"sub": "ann", "exp": world.now() + 1_000})));
    session.receive(r#"{"t":"subscribe","view":"claimed"}"#, world.now());
    answers(&mut session, world.now());
    world.pass(1_500);
    assert!(!session.mailbox().is_empty(Waker::noop()));
    let frames = answers(&mut session, world.now());
    assert_eq!(frames, [json!({"t": "unsubscribed", "s": frames[0]["s"], "why": "expired"})]);
    session.receive(r#"{"t":"subscribe","view":"claimed"}"#, world.now());
    assert_eq!(answers(&mut session, world.now())[0]["code"], "forbidden");
}

#[test]
fn a_new_definition_is_told_and_a_drop_ends() {
    let mut world = World::new("fleet");
    world.put(1, "n1", 1);
    world.cut();
    let mut session = session(&world, None);
    for params in ["{}", r#"{"site":"n1"}"#] {
        session.receive(&format!(r#"{{"t":"subscribe","id":"x","view":"fleet","params":{params}}}"#), world.now());
    }
    answers(&mut session, world.now());
    let mut about = description("fleet");
    about.parts.pop();
    about.definition = 2;
    locked(&world.view).redefine(about, world.now());
    let frames = answers(&mut session, world.now());
    let of = |s: u64| frames.iter().filter(|frame| frame["s"] == s).map(|frame| frame["t"].clone()).collect::<Vec<_>>();
    let first = frames[0]["s"].as_u64().unwrap();
    let (whole, site) = (first.min(frames[1]["s"].as_u64().unwrap()), first.max(frames[1]["s"].as_u64().unwrap()));
    assert_eq!(of(whole), ["gap", "subscribed", "snapshot", "ready"]);
    assert_eq!(of(site), ["unsubscribed"]);
    assert!(frames.iter().any(|frame| frame["why"] == "changed"));
    world.views.drop_view("fleet");
    let frames = answers(&mut session, world.now());
    assert_eq!(frames, [json!({"t": "unsubscribed", "s": whole, "why": "dropped"})]);
}

#[test]
fn a_client_that_does_not_read_keeps_no_rows_of_a_dropped_view() {
    let mut world = World::new("fleet");
    let mut client = world.client(json!({}), 0);
    client.read(1, world.now());
    world.put(1, "n1", 1);
    world.cut();
    world.views.drop_view("fleet");
    let World { now, views, view, .. } = world;
    let rows = Arc::downgrade(&view);
    drop(view);
    assert!(rows.upgrade().is_none());
    let mut session = client.session.expect("it is connected");
    let frames = answers(&mut session, now.load(std::sync::atomic::Ordering::Relaxed));
    assert_eq!(frames.last().map(|frame| frame["t"].clone()), Some(json!("unsubscribed")));
    drop(views);
}

#[test]
fn a_view_that_is_ending_takes_no_clients() {
    let world = World::new("fleet");
    locked(&world.view).end();
    let mut client = world.client(json!({}), 0);
    while client.read(9, world.now()) {}
    assert_eq!(client.seen, ["hello", "error"]);
}

#[test]
fn a_heartbeat_names_what_is_caught_up() {
    let mut world = World::new("fleet");
    let mut client = world.client(json!({}), 1_000);
    client.read(99, world.now());
    world.put(1, "n1", 1);
    world.cut();
    let before = client.cursor.clone();
    client.session.as_mut().unwrap().mailbox().heartbeat();
    client.seen.clear();
    client.read(99, world.now());
    assert_eq!(client.seen, ["progress"]);
    assert_eq!(client.cursor, before, "a pending change is not passed");
    world.pass(1_000);
    client.read(99, world.now());
    client.session.as_mut().unwrap().mailbox().heartbeat();
    client.read(99, world.now());
    client.expects(&world);
    assert_ne!(client.cursor, before);
}

#[test]
fn beyond_the_room_clients_are_sent_away() {
    let views = Arc::new(Views::new(Clock::Manual(Arc::default())).with_room(1));
    let open = || Session::new(views.clone(), Arc::new(Mailbox::new(String::new())), Identity::default(), 0);
    let (first, mut second) = (open(), open());
    let frames = answers(&mut second, 0);
    assert_eq!((&frames[0]["code"], &frames[0]["retry"]), (&json!("too_many_clients"), &json!(true)));
    assert_eq!((frames.len(), second.over().map(|over| over.code)), (1, Some(1013)));
    drop((first, second));
    let mut third = open();
    assert!(answers(&mut third, 0).is_empty() && third.over().is_none(), "there is room again");
}

#[test]
fn net_changes_of_cuts_are_recorded_for_readers() {
    let mut view = View::new(description("fleet"), "run".into(), 1);
    let key = |id: i64| GroupKey::from_values([&Value::Int(id)]);
    let forms = || -> Box<[Form]> { [Some("1".into()), Some("n1".into())].into() };
    view.put(&key(1), b"{}".as_slice().into(), forms());
    view.cut(1, 1);
    assert!(view.take_changes().is_empty(), "nobody reads it");
    view.record(true);
    view.put(&key(1), b"{ }".as_slice().into(), forms());
    view.put(&key(2), b"{}".as_slice().into(), forms());
    view.remove(&key(2));
    view.put(&key(3), b"{}".as_slice().into(), forms());
    assert_eq!(view.staged_len(), 2);
    view.cut(2, 2);
    let changes = view.take_changes();
    let shown = |row: &Option<Box<[u8]>>| row.as_deref().map(|row| String::from_utf8_lossy(row).into_owned());
    let frames: Vec<_> =
        changes.iter().map(|change| (change.key.clone(), shown(&change.old), shown(&change.new))).collect();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(frames, [(key(1), text("{}"), text("{ }")), (key(3), None, text("{}"))]);
    view.remove(&key(1));
    assert_eq!(view.staged_len(), 1);
    view.unstage();
    view.cut(3, 3);
    assert!(view.take_changes().is_empty());
    assert_eq!(view.len(), 2);
}

#[test]
fn subscriptions_of_a_socket_have_room_and_no_more() {
    let views = Arc::new(Views::new(Clock::Manual(Arc::default())));
    views.create(description("fleet"));
    let mut session = Session::new(views.clone(), Arc::new(Mailbox::new(String::new())), Identity::default(), 0);
    let subscribe = |session: &mut Session, value: usize| {
        let site = format!("{value:050000}");
        session.receive(&json!({"t": "subscribe", "view": "fleet", "params": {"site": site}}).to_string(), 0);
        answers(session, 0).pop().expect("an answer")
    };
    let codes: Vec<Json> = (0..30).map(|value| subscribe(&mut session, value)["code"].clone()).collect();
    assert_eq!(codes[0], Json::Null);
    assert_eq!(codes[29], json!("too_many_subscriptions"));
    // An unsubscribed part makes room.
    session.receive(&json!({"t": "unsubscribe", "s": 1}).to_string(), 0);
    answers(&mut session, 0);
    assert_eq!(subscribe(&mut session, 40)["code"], Json::Null);
    // The claims of a token are those of all its subscriptions, and count once.
    let world = World::new("claimed");
    let owners: Vec<String> = (0..30).map(|owner| format!("owner {owner:030}")).collect();
    let mut session = self::session(&world, Some(json!({"sub": owners})));
    for id in 0..session::SUBSCRIPTIONS {
        session.receive(&json!({"t": "subscribe", "view": "claimed", "params": {"id": id}}).to_string(), 0);
        let frames = answers(&mut session, 0);
        assert_eq!(frames[0]["t"], "subscribed", "{id}: {}", frames[0]);
    }
    let short = Arc::new(Views::new(Clock::Manual(Arc::default())).sparing(|| true));
    short.create(description("fleet"));
    let mut session = Session::new(short, Arc::new(Mailbox::new(String::new())), Identity::default(), 0);
    session.receive(&json!({"t": "subscribe", "view": "fleet"}).to_string(), 0);
    assert_eq!(answers(&mut session, 0)[0]["code"], json!("too_many_subscriptions"));
}
