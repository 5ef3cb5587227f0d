//! A rule's results on their way out: rows are encoded once for each form that the rule's sinks want, many messages
//! into one allocation, and handed to the outlets. Sinks inside the process get the rows themselves.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::expr::Scope;
use crate::format::sink_format::{Batcher, Give, Made, SinkFormat};
use crate::io::queue::{MessageBatch, Outlet, RowOutlet};
use crate::metrics::{Place, RuleMetrics};
use crate::plan::physical::Projection;
use crate::value::json;
use crate::value::{Row, Text};

use super::project::{RawText, RowError, decode_row, encode_members, encode_row};
use super::timers::{Alarm, WorkerClock};

/// Encoded bytes beyond which a batch is handed over at once. A message that a slow client still waits for keeps its
/// whole batch alive, so batches stay small.
const BATCH_BYTES: usize = 64 * 1024;

/// Decoded rows beyond which they are handed over at once.
const BATCH_ROWS: usize = 512;

/// The largest message that is made of a result, bytes. Longer ones are lost, and counted: the result of a window without
/// LIMIT may have any length, and no client takes such a message.
const MAX_MESSAGE: usize = 256 << 20;

/// Bytes of the rows of one result that are held back until all of it is there, where each row is a message. What is
/// longer goes out as it is made.
const HELD_BYTES: usize = 8 << 20;

/// Texts of errors that are kept while a message is open, to be sent after it.
const ERRORS_KEPT: usize = 64;

/// One form of the results, and the outlets that want it.
pub struct Encoding {
    /// what messages are like
    pub format: Arc<SinkFormat>,
    pub outlets: Vec<Arc<dyn Outlet>>,
    /// who gets the rows as they are, one by one
    pub rows: Vec<Arc<dyn RowOutlet>>,
}

/// The result side of a rule.
pub struct Output {
    forms: Vec<Form>,
    /// rows are encoded here, then copied into each form
    row: Vec<u8>,
    send_nil: bool,
    send_error: bool,
    metrics: Arc<RuleMetrics>,
    /// when the oldest input of what is not handed over yet was read
    received: Option<Instant>,
    /// messages not handed over yet, of the first form
    messages: u64,
    /// where results wait for others
    gathering: Option<Gathering>,
    /// rows were added to a message that has not ended
    open: bool,
    /// errors to be sent when the open message has ended
    errors: Vec<String>,
    /// the rule pauses: nothing goes out
    held: bool,
}

/// What a rule needs whose results wait for others: the time, and who wakes it when they must go.
pub struct Gathering {
    /// the worker's clock
    pub clock: Rc<WorkerClock>,
    /// wakes the rule
    pub alarm: Alarm,
}

struct Form {
    encoding: Encoding,
    /// the largest message
    limit: usize,
    /// the open message is too long: its rows are dropped
    too_long: bool,
    /// where the messages are other than JSON as it is
    batcher: Option<Batcher>,
    bytes: Vec<u8>,
    /// how large the batch before was: the next one will be about as large
    usual: usize,
    ends: Vec<u32>,
    /// the clients of the messages, where each is for one
    targets: Vec<Text>,
    /// rows of the open message
    rows: usize,
    /// whether one of them has members
    filled: bool,
    /// where in `bytes` the open message begins, or the first of the open messages where each row is one
    start: usize,
    /// how many messages are done before it
    done: usize,
    /// decoded rows, where an outlet wants them
    decoded: Vec<Row>,
    /// how many of them are of messages that are done
    decoded_done: usize,
}

impl Output {
    /// An output to these sinks.
    pub fn new(encodings: Vec<Encoding>, send_nil: bool, send_error: bool, metrics: Arc<RuleMetrics>) -> Self {
        let forms = encodings
            .into_iter()
            .map(|encoding| Form {
                batcher: (!encoding.format.is_plain()).then(|| Batcher::new(encoding.format.clone())),
                encoding,
                limit: MAX_MESSAGE,
                too_long: false,
                bytes: Vec::new(),
                usual: 0,
                ends: Vec::new(),
                targets: Vec::new(),
                rows: 0,
                filled: false,
                start: 0,
                done: 0,
                decoded: Vec::new(),
                decoded_done: 0,
            })
            .collect();
        Output {
            forms,
            row: Vec::new(),
            send_nil,
            send_error,
            metrics,
            received: None,
            messages: 0,
            gathering: None,
            open: false,
            errors: Vec::new(),
            held: false,
        }
    }

    /// Whether results may wait for others; then [`Output::gather`] and [`Output::tick`] are needed.
    pub fn gathers(&self) -> bool {
        self.forms.iter().any(|form| form.encoding.format.gathers())
    }

    /// Makes messages beyond this length, bytes, errors.
    #[cfg(test)]
    pub fn limit_messages(&mut self, limit: usize) {
        self.forms.iter_mut().for_each(|form| form.limit = limit);
    }

    /// Whether errors are sent to the sinks.
    pub fn reports_errors(&self) -> bool {
        self.send_error
    }

    /// Whether an outlet may be one that does not always take more ([`Output::ready`]).
    pub fn may_wait(&self) -> bool {
        let waits = |form: &Form| {
            !form.encoding.rows.is_empty() || form.encoding.outlets.iter().any(|outlet| outlet.may_wait())
        };
        self.forms.iter().any(waits)
    }

    /// Lets results wait for others.
    pub fn gather(&mut self, gathering: Gathering) {
        self.gathering = Some(gathering);
    }

    /// Sends results that have waited long enough for others.
    pub fn tick(&mut self) {
        let now = self.gathering.as_ref().map_or(0, |gathering| gathering.clock.now());
        self.each_batcher(|batcher, give| batcher.tick(now, give));
        self.flush();
    }

    /// Sends all results that wait for others: no more will come.
    pub fn finish(&mut self) {
        self.each_batcher(|batcher, give| batcher.flush(give));
        self.flush();
    }

    fn each_batcher(&mut self, run: impl Fn(&mut Batcher, Give<'_>)) {
        for (index, form) in self.forms.iter_mut().enumerate() {
            let Some(mut batcher) = form.batcher.take() else { continue };
            let made = form.give(&self.metrics, |give| run(&mut batcher, give));
            form.batcher = Some(batcher);
            if index == 0 {
                self.messages += made;
            }
        }
    }

    /// The rule's counters.
    pub fn metrics(&self) -> &Arc<RuleMetrics> {
        &self.metrics
    }

    /// Says when the input of the next rows was read.
    pub fn received(&mut self, at: Option<Instant>) {
        if self.received.is_none() {
            self.received = at;
        }
    }

    /// Adds a row to the open message. `raw` gives the text of a slot that may be copied as it is.
    ///
    /// # Errors
    /// `RowError`; the row is then not in the message.
    pub fn row<'a>(&mut self, projection: &Projection, scope: &'a Scope<'a>, raw: RawText<'a>) -> Result<(), RowError> {
        self.row.clear();
        let wants_rows = self.forms.iter().any(Form::wants_rows);
        let (members, decoded) = if wants_rows {
            // Expressions are run once: the text is written from the values.
            let row = decode_row(projection, scope, raw, self.send_nil)?;
            if self.forms.iter().any(Form::wants_text) {
                encode_members(&mut self.row, &row)?;
            }
            (row.len(), Some(row))
        } else {
            let members = encode_row(&mut self.row, projection, scope, raw, self.send_nil)?;
            // Copied text may have escapes that decoding would have read as something else.
            json::replace_unpaired(&mut self.row);
            (members, None)
        };
        if !projection.sends {
            return Ok(());
        }
        self.open = true;
        for form in &mut self.forms {
            form.add(&self.row, members, decoded.as_ref());
        }
        Ok(())
    }

    /// Ends the open message. A message to which no row came is not sent.
    pub fn end_message(&mut self) {
        self.open = false;
        let mut full = false;
        for (index, form) in self.forms.iter_mut().enumerate() {
            let messages = form.end(self.gathering.as_ref(), &self.metrics);
            if index == 0 {
                self.messages += messages;
            }
            full |= form.bytes.len() >= BATCH_BYTES || form.decoded.len() >= BATCH_ROWS;
        }
        for error in std::mem::take(&mut self.errors) {
            self.send_error(&error);
        }
        if full {
            self.flush();
        }
    }

    /// Whether so much of the open message is there that its rows should go out before the others are made.
    pub fn overflows(&self) -> bool {
        self.forms.iter().any(|form| form.encoding.format.send_single && form.bytes.len() >= HELD_BYTES)
    }

    /// Hands over the rows of an open message that are messages of their own.
    pub fn spill(&mut self) {
        for (index, form) in self.forms.iter_mut().enumerate() {
            let rows = form.spill();
            if index == 0 {
                self.messages += rows;
            }
        }
        self.flush();
    }

    /// Counts an error of an operator; the row or group that it concerns is lost, the open message is not. With the rule
    /// option sendError the error's text is sent as a message of its own, after the open message.
    pub fn error(&mut self, place: Place, error: impl std::fmt::Display) {
        let text = error.to_string();
        if self.send_error {
            if !self.open {
                self.send_error(&text);
            } else if self.errors.len() < ERRORS_KEPT {
                self.errors.push(text.clone());
            }
        }
        self.metrics.error_at(place, text);
    }

    fn send_error(&mut self, text: &str) {
        for form in &mut self.forms {
            form.report(text, &self.metrics);
        }
        self.messages += 1;
    }

    /// Holds everything back, or no longer: the rule pauses.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// Hands over what is encoded.
    pub fn flush(&mut self) {
        if self.held {
            return;
        }
        if self.forms.iter().all(|form| form.done == 0 && form.decoded_done == 0) {
            self.received = None;
            return;
        }
        self.metrics.sent(std::mem::take(&mut self.messages), self.received.map(|at| at.elapsed()));
        let received = self.received.take();
        for form in &mut self.forms {
            form.hand_over_rows(received, &self.metrics);
        }
        for form in &mut self.forms {
            form.hand_over_texts(received);
        }
    }

    /// Whether all outlets take more. One that does not raises the rule's signal when it does again.
    pub fn ready(&self) -> bool {
        let ready = |form: &Form| {
            form.encoding.outlets.iter().all(|outlet| outlet.ready())
                && form.encoding.rows.iter().all(|outlet| outlet.ready())
        };
        self.forms.iter().all(ready)
    }
}

impl Form {
    /// Whether it needs rows as values.
    fn wants_rows(&self) -> bool {
        self.batcher.is_some() || !self.encoding.rows.is_empty()
    }

    /// Whether it needs rows as JSON.
    fn wants_text(&self) -> bool {
        self.batcher.is_none() && !self.encoding.outlets.is_empty()
    }

    fn add(&mut self, row: &[u8], members: usize, decoded: Option<&Row>) {
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
            // Rows that are messages of their own are limited one by one.
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

    /// Ends the open list and says how many messages the form has got by it.
    fn end(&mut self, gathering: Option<&Gathering>, metrics: &RuleMetrics) -> u64 {
        if let Some(mut batcher) = self.batcher.take() {
            // Before them are rows that have been made already.
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
            // Its rows are closed one by one; what came since the last end is counted here.
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

    /// Where each row is a message: ends those that are there, and says how many they are.
    fn spill(&mut self) -> u64 {
        if !self.encoding.format.send_single || self.batcher.is_some() {
            return 0;
        }
        self.begin();
        std::mem::take(&mut self.rows) as u64
    }

    fn close(&mut self) {
        // Rows go out in batches long before that.
        self.ends.push(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX));
    }

    /// The next message begins here.
    fn begin(&mut self) {
        self.start = self.bytes.len();
        self.done = self.ends.len();
    }

    /// Runs something that gives messages, and says how many it gave. Why there is none is counted.
    fn give(&mut self, metrics: &RuleMetrics, run: impl FnOnce(Give<'_>)) -> u64 {
        let mut made = 0;
        run(&mut |result| match result {
            Ok(Made::Rows(rows)) => {
                made += rows.len() as u64;
                // Rows of an open message stay behind them.
                let count = rows.len();
                self.decoded.splice(self.decoded_done..self.decoded_done, rows);
                self.decoded_done += count;
            }
            Ok(Made::For(client, message)) => {
                self.bytes.extend_from_slice(&message);
                self.targets.push(client);
                self.close();
                self.begin();
                made += 1;
            }
            // An error that is sent is for nobody here; it is counted all the same.
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
    fn report(&mut self, error: &str, metrics: &RuleMetrics) {
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

    fn hand_over_rows(&mut self, received: Option<Instant>, metrics: &RuleMetrics) {
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

    /// Hands over the messages that have ended; the open one stays.
    fn hand_over_texts(&mut self, received: Option<Instant>) {
        if self.done == 0 {
            return;
        }
        let open = self.bytes.split_off(self.start);
        let bytes = std::mem::replace(&mut self.bytes, open);
        let base = self.start as u32;
        let open_ends = self.ends.split_off(self.done).into_iter().map(|end| end - base).collect();
        let ends = std::mem::replace(&mut self.ends, open_ends);
        // Room is made with the next row: thousands of rules that have nothing to say hold none.
        self.usual = bytes.len().min(BATCH_BYTES);
        (self.start, self.done) = (0, 0);
        let text = self.encoding.format.is_text();
        let batch = MessageBatch::new(bytes.into(), ends, text, received);
        let targets = std::mem::take(&mut self.targets);
        let batch = Arc::new(if targets.is_empty() { batch } else { batch.addressed(targets) });
        for outlet in &self.encoding.outlets {
            outlet.send(&batch);
        }
    }

    fn abandon(&mut self) {
        self.decoded.truncate(self.decoded_done);
        self.bytes.truncate(self.start);
        self.ends.truncate(self.done);
        self.rows = 0;
        self.filled = false;
    }
}
