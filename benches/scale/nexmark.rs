//! Queries of NEXMark on data threads that are fed from memory: rows of all streams are dealt out to the threads.

use std::collections::BTreeMap;

use plutino::definition::rule::RuleOptions;
use plutino::definition::stream::Catalog;
use plutino::io::queue::{BATCH_FRAMES, FrameBatch};
use plutino::sql::parse_create;

use crate::feed::{Feed, STREAMS};
use crate::in_process::{Job, batch};

/// Events of all streams together.
const EVENTS: u64 = 2_000_000;

/// Events of a second of event time.
const RATE: u64 = 20_000;

/// How far a thread may be behind another one, ms of event time.
const TOLERANCE: i64 = 60_000;

/// Statements, by the number of the stream.
const CREATE: [&str; 3] = [
    "CREATE STREAM person (id BIGINT, name STRING, email STRING, city STRING, state STRING, dateTime BIGINT, extra STRING) \
     WITH (TYPE=\"websocket\", DATASOURCE=\"/person\", TIMESTAMP=\"dateTime\")",
    "CREATE STREAM auction (id BIGINT, item STRING, initialBid BIGINT, reserve BIGINT, dateTime BIGINT, expires BIGINT, \
     seller BIGINT, category BIGINT, extra STRING) WITH (TYPE=\"websocket\", DATASOURCE=\"/auction\", TIMESTAMP=\"dateTime\")",
    "CREATE STREAM bid (auction BIGINT, bidder BIGINT, price BIGINT, channel STRING, url STRING, dateTime BIGINT, \
     extra STRING) WITH (TYPE=\"websocket\", DATASOURCE=\"/bid\", TIMESTAMP=\"dateTime\")",
];

/// The queries as in `benches/nexmark/rules`, and whether they are in event time.
const QUERIES: [(&str, bool, &str); 5] = [
    ("NEXMark q1", false, "SELECT auction, bidder, 0.908 * price AS price, dateTime, extra FROM bid"),
    (
        "NEXMark q5",
        true,
        "SELECT auction, count(*) AS bids, window_end() AS endtime FROM bid GROUP BY auction, HOPPINGWINDOW(ss, 10, 2) \
         ORDER BY bids DESC, auction ASC LIMIT 1",
    ),
    (
        "NEXMark q7",
        true,
        "SELECT auction, bidder, price, dateTime, window_end() AS endtime FROM bid GROUP BY TUMBLINGWINDOW(ss, 10) \
         ORDER BY price DESC, dateTime ASC, auction ASC, bidder ASC LIMIT 1",
    ),
    (
        "NEXMark q8",
        true,
        "SELECT person.id AS id, person.name AS name, count(*) AS auctions, window_start() AS starttime FROM person \
         INNER JOIN auction ON person.id = auction.seller GROUP BY person.id, person.name, TUMBLINGWINDOW(ss, 10)",
    ),
    ("NEXMark q12", false, "SELECT bidder, count(*) AS bids FROM bid GROUP BY bidder, TUMBLINGWINDOW(ss, 10)"),
];

/// The queries with their rows.
pub fn jobs() -> Vec<Job> {
    let feed = Feed::new(EVENTS, RATE, 1);
    let mut catalog = Catalog::default();
    for create in CREATE {
        catalog.create(&parse_create(create).expect("it is right")).expect("it is new");
    }
    let job = |(name, event_time, sql): (&'static str, bool, &str)| {
        // With more than one, results of different keys have no order, and rows are joined where their keys are.
        let concurrency = std::num::NonZeroUsize::new(64);
        let options = RuleOptions { event_time, late_tolerance: TOLERANCE, concurrency, ..RuleOptions::default() };
        let plan = plutino::plan::plan(sql, &options, &catalog).expect("it is right");
        let streams = plan
            .inputs
            .iter()
            .map(|input| STREAMS.iter().position(|name| *name == input.stream.name.as_str()).expect("the feed has it"));
        let batches = batches(&feed, &streams.collect::<Vec<_>>());
        Job { name, plan, rounds: 1, batches }
    };
    QUERIES.into_iter().map(job).collect()
}

/// The messages of these streams in batches, as sockets bring them under load, each with the number of its input.
fn batches(feed: &Feed, streams: &[usize]) -> Vec<(usize, FrameBatch)> {
    let mut waiting: BTreeMap<usize, Vec<&[u8]>> = BTreeMap::new();
    let mut batches = Vec::new();
    let mut hand_over = |waiting: &mut BTreeMap<usize, Vec<&[u8]>>| {
        for (input, texts) in waiting.iter_mut().filter(|(_, texts)| !texts.is_empty()) {
            batches.push((*input, batch(texts)));
            texts.clear();
        }
    };
    for message in &feed.messages {
        let Some(input) = streams.iter().position(|stream| *stream == message.stream) else { continue };
        let texts = waiting.entry(input).or_default();
        texts.push(&message.text);
        if texts.len() == BATCH_FRAMES {
            hand_over(&mut waiting);
        }
    }
    hand_over(&mut waiting);
    batches
}
