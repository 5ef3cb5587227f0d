//! One form of a rule's results: collects encoded messages and rows, and passes them to the sinks that want this form.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::format::address::Address;
use crate::format::sink_format::{Batcher, Give, Made, SinkFormat};
use crate::io::queue::{MessageBatch, Outlet, RowOutlet};
use crate::metrics::{Place, Point, RuleMetrics, Taps};
use crate::value::Row;

use super::project::shown;
use super::timers::{Alarm, WorkerClock};

/// A batch is sent when it has this many bytes. A message that a slow client has not received keeps its whole batch in
/// memory, so batches stay small.
const BATCH_BYTES: usize = 64 * 1024;

/// A batch of rows is handed over once it has this many.
const BATCH_ROWS: usize = 512;

/// If each row is a message, the rows of one result are held back up to this many bytes, until the result is complete.
/// Longer results are sent as they are made.
const HELD_BYTES: usize = 8 << 20;

/// The largest message, bytes. Longer ones are lost and counted: the result of a window without LIMIT may have any
/// length, and no client accepts such a message.
const MAX_MESSAGE: usize = 256 << 20;

/// One form of the results, and the sinks that want it.
#[derive(Clone)]
pub struct Encoding {
    /// Identifies the form in other processes: a hash of its format and its sinks' addresses.
    pub name: u64,
    pub format: Arc<SinkFormat>,
    pub outlets: Vec<Arc<dyn Outlet>>,
    /// Sinks that take rows.
    pub rows: Vec<Arc<dyn RowOutlet>>,
}

/// Sends results to the clients of other processes.
pub trait Elsewhere {
    /// Sends messages of one form of the results ([`Encoding::name`]) to all other processes. `unheard` are the sinks
    /// with messages that no client here has received.
    fn send(&self, form: u64, batch: &Arc<MessageBatch>, unheard: Vec<Unheard>);

    /// Whether it accepts more. The rule is woken when that changes.
    fn ready(&self) -> bool;
}

/// A sink of which some messages of a batch have found no client so far.
pub struct Unheard {
    pub outlet: Arc<dyn Outlet>,
    /// Its number among the sinks of the form.
    pub place: usize,
    /// The number of messages that a client has received.
    pub heard: usize,
}

/// The clock, and the alarm that wakes the rule when a batch is due.
pub struct Gathering {
    pub clock: Rc<WorkerClock>,
    pub alarm: Alarm,
}

/// Collects the results in one form.
pub struct Form {
    encoding: Encoding,
    /// The largest message, bytes.
    limit: usize,
    /// The open message is too long: its rows are dropped.
    too_long: bool,
    /// Set for messages that are not plain JSON.
    batcher: Option<Batcher>,
    bytes: Vec<u8>,
    /// The size of the last batch: the next one will have about the same.
    usual: usize,
    ends: Vec<u32>,
    /// The address of each message, if not all go to the same place.
    addresses: Vec<Address>,
    /// The number of rows in the open message.
    rows: usize,
    /// Whether any of these rows has members.
    filled: bool,
    /// The start of the open message in `bytes`; if each row is a message, that of the first open one.
    start: usize,
    /// The number of complete messages before it.
    done: usize,
    /// Decoded rows, if a sink wants them.
    decoded: Vec<Row>,
    /// The number of decoded rows that belong to complete messages.
    decoded_done: usize,
}

impl Form {
    /// A form without messages.
    pub fn new(encoding: Encoding) -> Form {
        Form {
            batcher: (!encoding.format.is_plain()).then(|| Batcher::new(encoding.format.clone())),
            encoding,
            limit: MAX_MESSAGE,
            too_long: false,
            bytes: Vec::new(),
            usual: 0,
            ends: Vec::new(),
            addresses: Vec::new(),
            rows: 0,
            filled: false,
            start: 0,
            done: 0,
            decoded: Vec::new(),
            decoded_done: 0,
        }
    }

    /// The form's name: see [`Encoding::name`].
    pub fn name(&self) -> u64 {
        self.encoding.name
    }

    /// The sinks that take encoded messages.
    pub fn outlets(&self) -> &[Arc<dyn Outlet>] {
        &self.encoding.outlets
    }

    /// Sets the largest message, bytes; longer ones are errors.
    #[cfg(test)]
    pub fn limit_messages(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Whether results may be gathered into batches.
    pub fn gathers(&self) -> bool {
        self.encoding.format.gathers()
    }

    /// Whether a sink may be full ([`Form::is_ready`]).
    pub fn may_wait(&self) -> bool {
        !self.encoding.rows.is_empty() || self.encoding.outlets.iter().any(|outlet| outlet.may_wait())
    }

    /// Whether all sinks take more.
    pub fn is_ready(&self) -> bool {
        self.encoding.outlets.iter().all(|outlet| outlet.ready())
            && self.encoding.rows.iter().all(|outlet| outlet.ready())
    }

    /// Whether it holds as much as one batch may.
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= BATCH_BYTES || self.decoded.len() >= BATCH_ROWS
    }

    /// Whether the rows of the open message should be sent before it is complete.
    pub fn overflows(&self) -> bool {
        self.encoding.format.send_single && self.bytes.len() >= HELD_BYTES
    }

    /// Whether it has no complete message.
    pub fn is_idle(&self) -> bool {
        self.done == 0 && self.decoded_done == 0
    }

    /// Runs the batcher, if there is one; returns how many messages it made.
    pub fn batch(&mut self, metrics: &RuleMetrics, run: impl Fn(&mut Batcher, Give<'_>)) -> u64 {
        let Some(mut batcher) = self.batcher.take() else { return 0 };
        let made = self.give(metrics, |give| run(&mut batcher, give));
        self.batcher = Some(batcher);
        made
    }

    /// Whether clients in other processes get it, too.
    pub fn is_everywhere(&self) -> bool {
        self.encoding.outlets.iter().any(|outlet| outlet.is_everywhere())
    }

    /// Whether it needs rows as values.
    pub fn wants_rows(&self) -> bool {
        self.batcher.is_some() || !self.encoding.rows.is_empty()
    }

    /// Whether it needs rows as JSON.
    pub fn wants_text(&self) -> bool {
        self.batcher.is_none() && !self.encoding.outlets.is_empty()
    }

    pub fn add(&mut self, row: &[u8], members: usize, decoded: Option<&Row>) {
        if let Some(decoded) = decoded.filter(|_| self.wants_rows())
            && (self.batcher.is_some() || members > 0 || !self.encoding.format.omit_if_empty)
        {
            self.decoded.push(decoded.clone());
        }
        if self.batcher.is_some() {
            return;
        }
        if self.encoding.outlets.is_empty() {
            return;
        }
        if self.bytes.capacity() == 0 {
            self.bytes.reserve(self.usual);
        }
        if self.too_long || self.bytes.len() - self.start + row.len() >= self.limit {
            // If each row is a message, the limit applies to each.
            let alone = self.encoding.format.send_single && row.len() < self.limit;
            if !alone {
                self.too_long = true;
                return;
            }
        }
        if self.encoding.format.send_single {
            if members > 0 || !self.encoding.format.omit_if_empty {
                self.bytes.extend_from_slice(row);
                self.close();
                self.rows += 1;
            }
        } else {
            self.bytes.push(if self.rows == 0 { b'[' } else { b',' });
            self.bytes.extend_from_slice(row);
            self.rows += 1;
            self.filled |= members > 0;
        }
    }

    /// Ends the open list; returns how many messages the form has gained.
    pub fn end(&mut self, gathering: Option<&Gathering>, metrics: &RuleMetrics) -> u64 {
        if let Some(mut batcher) = self.batcher.take() {
            // Earlier rows are encoded already.
            let rows = match self.decoded_done {
                0 => std::mem::take(&mut self.decoded),
                done => self.decoded.split_off(done),
            };
            let now = gathering.map_or(0, |gathering| gathering.clock.now());
            let mut wake = None;
            let made = self.give(metrics, |give| wake = batcher.rows(rows, now, give));
            if let (Some(gathering), Some(at)) = (gathering, wake) {
                gathering.alarm.at(at);
            }
            self.batcher = Some(batcher);
            return made;
        }
        let decoded = (self.decoded.len() - self.decoded_done) as u64;
        self.decoded_done = self.decoded.len();
        if self.encoding.outlets.is_empty() {
            // Each row is a message.
            return decoded;
        }
        if std::mem::take(&mut self.too_long) {
            let what = if self.encoding.format.send_single { "a result row" } else { "the result" };
            let limit = self.limit >> 20;
            metrics.error_at(
                Place::Encode,
                format!("{what} is longer than {limit} MiB and is not sent; use LIMIT, fewer columns or sendSingle"),
            );
            if !self.encoding.format.send_single {
                self.abandon();
                return 0;
            }
        }
        if self.encoding.format.send_single {
            // Its rows are closed one by one; those since the last end are counted here.
            return self.spill();
        }
        if self.rows == 0 {
            return 0;
        }
        if self.encoding.format.omit_if_empty && !self.filled {
            self.abandon();
            return 0;
        }
        self.bytes.push(b']');
        self.close();
        self.begin();
        self.rows = 0;
        self.filled = false;
        1
    }

    /// If each row is a message: completes the rows so far; returns how many.
    pub fn spill(&mut self) -> u64 {
        if !self.encoding.format.send_single || self.batcher.is_some() {
            return 0;
        }
        self.begin();
        std::mem::take(&mut self.rows) as u64
    }

    fn close(&mut self) {
        // Rows are sent in batches long before this limit.
        self.ends.push(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX));
    }

    /// The next message begins here.
    fn begin(&mut self) {
        self.start = self.bytes.len();
        self.done = self.ends.len();
    }

    /// Runs a function that gives messages; returns their number. Errors are counted.
    fn give(&mut self, metrics: &RuleMetrics, run: impl FnOnce(Give<'_>)) -> u64 {
        let mut made = 0;
        run(&mut |result| match result {
            Ok(Made::Rows(rows)) => {
                made += rows.len() as u64;
                // Rows of an open message stay after them.
                let count = rows.len();
                self.decoded.splice(self.decoded_done..self.decoded_done, rows);
                self.decoded_done += count;
            }
            Ok(Made::For(address, message)) => {
                self.bytes.extend_from_slice(&message);
                self.addresses.push(address);
                self.close();
                self.begin();
                made += 1;
            }
            // The text of an error has no address, so nobody gets it; the error is counted nevertheless.
            Ok(Made::Message(_)) if self.encoding.format.to.is_some() => {}
            Ok(Made::Message(message)) => {
                self.bytes.extend_from_slice(&message);
                self.close();
                self.begin();
                made += 1;
            }
            Err(error) => metrics.error_at(Place::Encode, error.to_string()),
        });
        made
    }

    /// Sends an error's text as a message.
    pub fn report(&mut self, error: &str, metrics: &RuleMetrics) {
        if let Some(mut batcher) = self.batcher.take() {
            self.give(metrics, |give| batcher.error(error, give));
            self.batcher = Some(batcher);
            return;
        }
        if !self.encoding.outlets.is_empty() {
            self.bytes.extend_from_slice(error.as_bytes());
            self.close();
            self.begin();
        }
        if !self.encoding.rows.is_empty() {
            self.decoded.insert(self.decoded_done, vec![("error".into(), error.into())]);
            self.decoded_done += 1;
        }
    }

    /// Shows completed messages to taps.
    pub fn show(&self, taps: &Taps) {
        let mut start = 0;
        for &end in &self.ends[..self.done] {
            taps.offer(Point::Sink, || lossy(&self.bytes[start..end as usize]));
            start = end as usize;
        }
        self.decoded[..self.decoded_done].iter().for_each(|row| taps.offer(Point::Sink, || shown(row)));
    }

    pub fn hand_over_rows(&mut self, received: Option<Instant>, metrics: &RuleMetrics) {
        if self.decoded_done == 0 {
            return;
        }
        let open = self.decoded.split_off(self.decoded_done);
        let mut rows = std::mem::replace(&mut self.decoded, open);
        self.decoded_done = 0;
        let mut error = |text: String| metrics.error_at(Place::Encode, text);
        if let Some((last, others)) = self.encoding.rows.split_last() {
            for outlet in others {
                outlet.send(rows.clone(), received, &mut error);
            }
            last.send(std::mem::take(&mut rows), received, &mut error);
        }
    }

    /// Hands over the completed messages, also to other processes; the open one stays.
    pub fn hand_over_texts(&mut self, received: Option<Instant>, elsewhere: Option<&dyn Elsewhere>) {
        if self.done == 0 {
            return;
        }
        let open = self.bytes.split_off(self.start);
        let bytes = std::mem::replace(&mut self.bytes, open);
        let base = self.start as u32;
        let open_ends = self.ends.split_off(self.done).into_iter().map(|end| end - base).collect();
        let ends = std::mem::replace(&mut self.ends, open_ends);
        // The next row allocates memory again, so that thousands of idle rules hold none. A batch ends with the message
        // that fills it.
        self.usual = bytes.len().min(2 * BATCH_BYTES);
        (self.start, self.done) = (0, 0);
        let text = self.encoding.format.is_text();
        let batch = MessageBatch::new(bytes.into(), ends, text, received);
        let addresses = std::mem::take(&mut self.addresses);
        let batch = Arc::new(if addresses.is_empty() { batch } else { batch.addressed(addresses) });
        let Some(elsewhere) = elsewhere else {
            self.encoding.outlets.iter().for_each(|outlet| outlet.send(&batch));
            return;
        };
        let mut unheard = Vec::new();
        for (place, outlet) in self.encoding.outlets.iter().enumerate() {
            if !outlet.is_everywhere() {
                outlet.send(&batch);
                continue;
            }
            let heard = outlet.send_on(&batch);
            if heard < batch.len() {
                unheard.push(Unheard { outlet: outlet.clone(), place, heard });
            }
        }
        elsewhere.send(self.encoding.name, &batch, unheard);
    }

    fn abandon(&mut self) {
        self.decoded.truncate(self.decoded_done);
        self.bytes.truncate(self.start);
        self.ends.truncate(self.done);
        self.rows = 0;
        self.filled = false;
    }
}

/// Bytes as text for people.
pub fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
