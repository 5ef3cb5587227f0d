//! The queries, and their expected results, computed naively from the events.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::feed::{Bid, Feed};
use serde_json::{Value, json};

/// The default lateTolerance of the rules, ms.
const TOLERANCE: i64 = 1000;
/// Length of the windows, ms.
const WINDOW: i64 = 10_000;
/// Hop of query 5, ms.
const HOP: i64 = 2_000;
/// Silence that ends a session of query 11, ms.
const TIMEOUT: i64 = 10_000;

/// A query. Its rule is the file `rules/NAME.yaml`.
pub struct Query {
    /// its name in `--only` and in the table
    pub name: &'static str,
    /// the streams that it reads, by number
    pub streams: &'static [usize],
    /// its windows follow the clock: the assignment of rows to windows is not fixed, so only their sums are compared
    pub by_clock: bool,
    /// all expected rows, in any order
    pub naive: fn(&Feed) -> Vec<Value>,
}

const PERSON: usize = 0;
const AUCTION: usize = 1;
const BID: usize = 2;

/// All queries in order.
pub const QUERIES: &[Query] = &[
    Query { name: "q0", streams: &[BID], by_clock: false, naive: q0 },
    Query { name: "q1", streams: &[BID], by_clock: false, naive: q1 },
    Query { name: "q2", streams: &[BID], by_clock: false, naive: q2 },
    Query { name: "q3", streams: &[PERSON, AUCTION], by_clock: false, naive: q3 },
    Query { name: "q4", streams: &[AUCTION, BID], by_clock: false, naive: q4 },
    Query { name: "q5", streams: &[BID], by_clock: false, naive: q5 },
    Query { name: "q7", streams: &[BID], by_clock: false, naive: q7 },
    Query { name: "q7max", streams: &[BID], by_clock: false, naive: q7_max },
    Query { name: "q8", streams: &[PERSON, AUCTION], by_clock: false, naive: q8 },
    Query { name: "q9", streams: &[AUCTION, BID], by_clock: false, naive: q9 },
    Query { name: "q11", streams: &[BID], by_clock: false, naive: q11 },
    Query { name: "q12", streams: &[BID], by_clock: true, naive: q12 },
];

/// Describes how the result differs from the naive one, if it does. `found` are the rows in any order.
pub fn check(query: &Query, feed: &Feed, found: Vec<Value>) -> Result<(), String> {
    let found = if query.by_clock { summed(found) } else { found };
    // Both have been converted to text: serde_json reads the last digit of some numbers differently.
    let as_read = |row: Value| serde_json::from_str(&row.to_string()).unwrap_or(row);
    let mut expected: Vec<String> = (query.naive)(feed).into_iter().map(as_read).map(canonical).collect();
    let mut found: Vec<String> = found.into_iter().map(canonical).collect();
    if expected.is_empty() {
        return Err("there is no answer to expect: the feed is too short for this query".to_owned());
    }
    expected.sort_unstable();
    found.sort_unstable();
    let first = expected.iter().zip(&found).find(|(expected, found)| expected != found);
    match first {
        Some((expected, found)) => Err(format!("where {expected} is expected there is {found}")),
        None if expected.len() != found.len() => {
            Err(format!("{} rows are expected, there are {}", expected.len(), found.len()))
        }
        None => Ok(()),
    }
}

/// A row as text that equal rows share: members in the order of their names, numbers by value.
fn canonical(row: Value) -> String {
    let Value::Object(members) = row else { return row.to_string() };
    let members: BTreeMap<String, String> = members
        .into_iter()
        .map(|(name, value)| (name, value.as_f64().map_or_else(|| value.to_string(), |number| number.to_string())))
        .collect();
    format!("{members:?}")
}

/// The bids of each bidder over all windows.
fn summed(rows: Vec<Value>) -> Vec<Value> {
    let mut bids: HashMap<i64, i64> = HashMap::new();
    for row in rows {
        *bids.entry(row["bidder"].as_i64().unwrap_or(-1)).or_default() += row["bids"].as_i64().unwrap_or(0);
    }
    bids.into_iter().map(|(bidder, bids)| json!({"bidder": bidder, "bids": bids})).collect()
}

/// Whether a window that ends at `end` is over by the closing events.
fn over(feed: &Feed, end: i64) -> bool {
    end <= feed.closing - TOLERANCE
}

/// The end of the window that holds `time`.
fn end_of(time: i64) -> i64 {
    (time.div_euclid(WINDOW) + 1) * WINDOW
}

/// The bids by the end of their window, without windows that are not over.
fn windows(feed: &Feed) -> BTreeMap<i64, Vec<&Bid>> {
    let mut windows: BTreeMap<i64, Vec<&Bid>> = BTreeMap::new();
    for bid in feed.bids.iter().filter(|bid| over(feed, end_of(bid.time))) {
        windows.entry(end_of(bid.time)).or_default().push(bid);
    }
    windows
}

fn q0(feed: &Feed) -> Vec<Value> {
    let row = |bid: &Bid| json!({"auction": bid.auction, "bidder": bid.bidder, "price": bid.price, "dateTime": bid.time, "extra": bid.extra});
    feed.bids.iter().map(row).collect()
}

fn q1(feed: &Feed) -> Vec<Value> {
    let mut rows = q0(feed);
    rows.iter_mut().zip(&feed.bids).for_each(|(row, bid)| row["price"] = json!(0.908 * bid.price as f64));
    rows
}

fn q2(feed: &Feed) -> Vec<Value> {
    let some = feed.bids.iter().filter(|bid| bid.auction % 123 == 0);
    some.map(|bid| json!({"auction": bid.auction, "price": bid.price})).collect()
}

fn q3(feed: &Feed) -> Vec<Value> {
    let persons: HashMap<i64, _> = feed.persons.iter().map(|person| (person.id, person)).collect();
    let mut rows = Vec::new();
    for auction in feed.auctions.iter().filter(|auction| auction.category == 10 && over(feed, end_of(auction.time))) {
        let Some(person) = persons.get(&auction.seller) else { continue };
        if end_of(person.time) == end_of(auction.time) && ["OR", "ID", "CA"].contains(&person.state) {
            rows.push(json!({"name": person.name, "city": person.city, "state": person.state, "id": auction.id}));
        }
    }
    rows
}

fn q4(feed: &Feed) -> Vec<Value> {
    let auctions: HashMap<i64, _> = feed.auctions.iter().map(|auction| (auction.id, auction)).collect();
    let mut groups: BTreeMap<(i64, i64), (i64, i64)> = BTreeMap::new();
    for (end, bids) in windows(feed) {
        for bid in bids {
            if let Some(auction) = auctions.get(&bid.auction).filter(|auction| end_of(auction.time) == end) {
                let (sum, count) = groups.entry((end, auction.category)).or_default();
                (*sum, *count) = (*sum + bid.price, *count + 1);
            }
        }
    }
    let row = |((end, category), (sum, count))| json!({"category": category, "price": sum as f64 / count as f64, "bids": count, "endtime": end});
    groups.into_iter().map(row).collect()
}

fn q5(feed: &Feed) -> Vec<Value> {
    let mut windows: BTreeMap<i64, BTreeMap<i64, i64>> = BTreeMap::new();
    for bid in &feed.bids {
        let first = (bid.time.div_euclid(HOP) + 1) * HOP;
        for end in (0..WINDOW / HOP).map(|hop| first + hop * HOP).filter(|end| over(feed, *end)) {
            *windows.entry(end).or_default().entry(bid.auction).or_default() += 1;
        }
    }
    let hottest = |(end, auctions): (i64, BTreeMap<i64, i64>)| {
        let (auction, bids) = auctions.into_iter().max_by_key(|(auction, bids)| (*bids, -auction))?;
        Some(json!({"auction": auction, "bids": bids, "endtime": end}))
    };
    windows.into_iter().filter_map(hottest).collect()
}

fn q7(feed: &Feed) -> Vec<Value> {
    let highest = |(end, bids): (i64, Vec<&Bid>)| {
        let bid = bids.into_iter().min_by_key(|bid| (-bid.price, bid.time, bid.auction, bid.bidder))?;
        Some(
            json!({"auction": bid.auction, "bidder": bid.bidder, "price": bid.price, "dateTime": bid.time, "endtime": end}),
        )
    };
    windows(feed).into_iter().filter_map(highest).collect()
}

fn q7_max(feed: &Feed) -> Vec<Value> {
    let row = |(end, bids): (i64, Vec<&Bid>)| json!({"price": bids.iter().map(|bid| bid.price).max(), "endtime": end});
    windows(feed).into_iter().map(row).collect()
}

fn q8(feed: &Feed) -> Vec<Value> {
    let mut auctions: HashMap<(i64, i64), i64> = HashMap::new();
    for auction in &feed.auctions {
        *auctions.entry((auction.seller, end_of(auction.time))).or_default() += 1;
    }
    let mut rows = Vec::new();
    for person in feed.persons.iter().filter(|person| over(feed, end_of(person.time))) {
        let end = end_of(person.time);
        if let Some(count) = auctions.get(&(person.id, end)) {
            rows.push(json!({"id": person.id, "name": person.name, "auctions": count, "starttime": end - WINDOW}));
        }
    }
    rows
}

fn q9(feed: &Feed) -> Vec<Value> {
    let auctions: HashMap<i64, _> = feed.auctions.iter().map(|auction| (auction.id, auction)).collect();
    let mut groups: BTreeMap<(i64, i64), (i64, i64)> = BTreeMap::new();
    for (end, bids) in windows(feed) {
        for bid in bids {
            let Some(auction) = auctions.get(&bid.auction) else { continue };
            if end_of(auction.time) == end && (auction.time..=auction.expires).contains(&bid.time) {
                let (price, count) = groups.entry((end, auction.id)).or_default();
                (*price, *count) = ((*price).max(bid.price), *count + 1);
            }
        }
    }
    let row = |((end, id), (price, count))| json!({"id": id, "price": price, "bids": count, "endtime": end});
    groups.into_iter().map(row).collect()
}

fn q11(feed: &Feed) -> Vec<Value> {
    let times: BTreeSet<i64> = feed.bids.iter().map(|bid| bid.time).collect();
    let mut sessions: Vec<(i64, i64)> = Vec::new();
    for time in times {
        match sessions.last_mut() {
            Some((_, last)) if time - *last <= TIMEOUT => *last = time,
            _ => sessions.push((time, time)),
        }
    }
    let mut groups: BTreeMap<(i64, i64, i64), i64> = BTreeMap::new();
    for bid in &feed.bids {
        let (start, last) = sessions[sessions.partition_point(|(start, _)| *start <= bid.time) - 1];
        if over(feed, last + TIMEOUT + 1) {
            *groups.entry((start, last + TIMEOUT, bid.bidder)).or_default() += 1;
        }
    }
    let row =
        |((start, end, bidder), bids)| json!({"bidder": bidder, "bids": bids, "starttime": start, "endtime": end});
    groups.into_iter().map(row).collect()
}

fn q12(feed: &Feed) -> Vec<Value> {
    let mut bids: HashMap<i64, i64> = HashMap::new();
    feed.bids.iter().for_each(|bid| *bids.entry(bid.bidder).or_default() += 1);
    bids.into_iter().map(|(bidder, bids)| json!({"bidder": bidder, "bids": bids})).collect()
}
