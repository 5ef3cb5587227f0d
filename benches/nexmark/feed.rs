//! The feed: an auction house's persons, auctions and bids, generated from a seed, in order of event time except for
//! some disorder, as in networks.
//!
//! Of 50 events one is a person, three are auctions and 46 are bids. As in NEXMark, half of the bids go to one hot
//! auction of each hundred, and three quarters of bidders and sellers are one hot person of each hundred. Events come
//! at an even rate, in minutes of activity with a pause after each, so that sessions end. Each stream ends with one
//! event long after all others, which closes their windows before the end of the input.

use std::fmt::Write;

use bytes::Bytes;

/// The streams, in the order used for all counts here.
pub const STREAMS: [&str; 3] = ["person", "auction", "bid"];

/// Event time of the first event, ms: long ago, and the beginning of a window of every length used here.
const START: i64 = 1_699_999_980_000;
/// Events of one cycle of the proportions.
const CYCLE: u64 = 50;
/// Length of activity between pauses, ms of event time.
const ACTIVE: i64 = 60_000;
/// Length of a pause, ms: longer than the timeout of the sessions.
const PAUSE: i64 = 15_000;
/// How long after the last event the closing events are, ms.
const CLOSING: i64 = 600_000;
/// The number of the first person and of the first auction.
const FIRST: i64 = 1000;
/// Auctions that take bids, and persons that are active, at a time.
const OPEN_AUCTIONS: i64 = 100;
const ACTIVE_PERSONS: i64 = 1000;
/// One in this many auctions or persons is hot.
const HOT: i64 = 100;

const STATES: [&str; 6] = ["AZ", "CA", "ID", "OR", "WA", "WY"];
const CITIES: [&str; 8] = ["Phoenix", "Los Angeles", "Boise", "Portland", "Seattle", "Cheyenne", "Bend", "Kent"];
const FIRST_NAMES: [&str; 8] = ["Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie"];
const LAST_NAMES: [&str; 8] = ["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones"];
const CHANNELS: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];

/// A seller or bidder.
pub struct Person {
    pub id: i64,
    pub name: String,
    pub city: &'static str,
    pub state: &'static str,
    pub time: i64,
}

/// An item on sale.
pub struct Auction {
    pub id: i64,
    pub seller: i64,
    pub category: i64,
    pub time: i64,
    pub expires: i64,
}

/// An offer.
pub struct Bid {
    pub auction: i64,
    pub bidder: i64,
    pub price: i64,
    pub time: i64,
    pub extra: String,
}

/// A message: the stream's number and the JSON text.
pub struct Message {
    pub stream: usize,
    pub text: Bytes,
}

/// All events, and their messages in the order of sending.
pub struct Feed {
    pub persons: Vec<Person>,
    pub auctions: Vec<Auction>,
    pub bids: Vec<Bid>,
    pub messages: Vec<Message>,
    /// event time of the closing events, ms
    pub closing: i64,
}

impl Feed {
    /// `events` events, `rate` a second of event time; equal arguments give equal feeds.
    pub fn new(events: u64, rate: u64, seed: u64) -> Feed {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut feed = Feed { persons: vec![], auctions: vec![], bids: vec![], messages: vec![], closing: 0 };
        let mut cycle = Vec::with_capacity(CYCLE as usize);
        for event in 0..events {
            let active = (event * 1000 / rate) as i64;
            let time = START + active + active / ACTIVE * PAUSE;
            let message = match event % CYCLE {
                0 => feed.person(time, &mut random),
                1..=3 => feed.auction(time, &mut random),
                _ => feed.bid(time, &mut random),
            };
            cycle.push(message);
            feed.closing = time + CLOSING;
            if cycle.len() as u64 == CYCLE {
                random.shuffle(&mut cycle);
                feed.messages.append(&mut cycle);
            }
        }
        feed.messages.append(&mut cycle);
        let closing = feed.closing;
        let last =
            [feed.person(closing, &mut random), feed.auction(closing, &mut random), feed.bid(closing, &mut random)];
        feed.messages.extend(last);
        feed
    }

    /// The number of messages of these streams.
    pub fn count(&self, streams: &[usize]) -> u64 {
        self.messages.iter().filter(|message| streams.contains(&message.stream)).count() as u64
    }

    fn person(&mut self, time: i64, random: &mut fastrand::Rng) -> Message {
        let id = FIRST + self.persons.len() as i64;
        let name = format!("{} {}", pick(&FIRST_NAMES, random), pick(&LAST_NAMES, random));
        let (city, state) = (pick(&CITIES, random), pick(&STATES, random));
        let text = format!(
            r#"{{"id":{id},"name":"{name}","email":"{}@{}.com","city":"{city}","state":"{state}","dateTime":{time},"extra":"{}"}}"#,
            letters(7, random),
            letters(5, random),
            letters(40, random)
        );
        self.persons.push(Person { id, name, city, state, time });
        Message { stream: 0, text: text.into() }
    }

    fn auction(&mut self, time: i64, random: &mut fastrand::Rng) -> Message {
        let id = FIRST + self.auctions.len() as i64;
        let seller = recent(self.persons.len(), ACTIVE_PERSONS, 0.75, random);
        let category = random.i64(10..15);
        let expires = time + random.i64(500..20_000);
        let first = random.i64(100..10_000);
        let text = format!(
            r#"{{"id":{id},"item":"{}","initialBid":{first},"reserve":{},"dateTime":{time},"expires":{expires},"seller":{seller},"category":{category},"extra":"{}"}}"#,
            letters(20, random),
            first * 2,
            letters(60, random)
        );
        self.auctions.push(Auction { id, seller, category, time, expires });
        Message { stream: 1, text: text.into() }
    }

    fn bid(&mut self, time: i64, random: &mut fastrand::Rng) -> Message {
        let auction = recent(self.auctions.len(), OPEN_AUCTIONS, 0.5, random);
        let bidder = recent(self.persons.len(), ACTIVE_PERSONS, 0.75, random);
        let price = (10f64.powf(random.f64() * 6.0) * 100.0).round() as i64;
        let extra = letters(30, random);
        let channel = pick(&CHANNELS, random);
        let mut text = String::with_capacity(192);
        let _ = write!(
            text,
            r#"{{"auction":{auction},"bidder":{bidder},"price":{price},"channel":"{channel}","url":"https://www.nexmark.com/{}/item.htm?query=1","dateTime":{time},"extra":"{extra}"}}"#,
            letters(12, random)
        );
        self.bids.push(Bid { auction, bidder, price, time, extra });
        Message { stream: 2, text: text.into() }
    }
}

/// The number of one of the last `window` of `made`; with probability `hot` the last hot one.
fn recent(made: usize, window: i64, hot: f64, random: &mut fastrand::Rng) -> i64 {
    let last = made.max(1) as i64 - 1;
    if random.f64() < hot { FIRST + last / HOT * HOT } else { FIRST + random.i64((last - window + 1).max(0)..=last) }
}

fn pick(from: &[&'static str], random: &mut fastrand::Rng) -> &'static str {
    from[random.usize(..from.len())]
}

fn letters(count: usize, random: &mut fastrand::Rng) -> String {
    (0..count).map(|_| random.lowercase()).collect()
}
