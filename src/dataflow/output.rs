//! Encodes a rule's results and passes them to its sinks: once for each form that the sinks want, many messages in one
//! allocation. Sinks inside the process get the rows themselves.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::expr::Scope;
use crate::format::address::Address;
use crate::format::sink_format::{Batcher, Give, Made, SinkFormat};
use crate::io::queue::{MessageBatch, Outlet, RowOutlet};
use crate::metrics::{Place, Point, RuleMetrics, Taps};
use crate::plan::physical::Projection;
use crate::value::json;
use crate::value::{Row, Value};

use super::dead_letters::{DeadLetters, Letterbox};
use super::project::{RawText, RowError, decode_row, encode_members, encode_row, shown};
use super::slots::SlotNames;
use super::timers::{Alarm, WorkerClock};

/// A batch is sent when it has this many bytes. A message that a slow client has not received keeps its whole batch in
/// memory, so batches stay small.
const BATCH_BYTES: usize = 64 * 1024;

/// Rows are sent when there are this many.
const BATCH_ROWS: usize = 512;

/// The largest message, bytes. Longer ones are lost and counted: the result of a window without LIMIT may have any
/// length, and no client accepts such a message.
const MAX_MESSAGE: usize = 256 << 20;

/// If each row is a message, the rows of a result are held back up to this many bytes, until the result is complete.
/// Longer results are sent while they are made.
const HELD_BYTES: usize = 8 << 20;

/// The most error texts kept while a message is open, to be sent after it.
const ERRORS_KEPT: usize = 64;

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

/// A sink that has not found a client for all messages of a batch so far.
pub struct Unheard {
    pub outlet: Arc<dyn Outlet>,
    /// Its number among the sinks of the form.
    pub place: usize,
    /// The number of messages that a client has received.
    pub heard: usize,
}

/// The results of a rule.
pub struct Output {
    forms: Vec<Form>,
    /// Rows are encoded here, then copied into each form.
    row: Vec<u8>,
    send_nil: bool,
    send_error: bool,
    metrics: Arc<RuleMetrics>,
    /// The names of the slots of a rule with state.
    names: SlotNames,
    /// When the oldest input of the pending messages was read.
    received: Option<Instant>,
    /// Pending messages of the first form.
    messages: u64,
    /// Set if results are gathered into batches.
    gathering: Option<Gathering>,
    /// Whether the open message has rows.
    open: bool,
    /// Errors to send after the open message.
    errors: Vec<String>,
    /// Whether the rule pauses: then nothing is sent.
    held: bool,
    /// the sinks for failed messages
    dead_letters: Option<Box<DeadLetters>>,
    /// Set if other processes may have clients.
    elsewhere: Option<Rc<dyn Elsewhere>>,
}

/// The clock, and the alarm that wakes the rule when a batch is due.
pub struct Gathering {
    pub clock: Rc<WorkerClock>,
    pub alarm: Alarm,
}

struct Form {
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
    /// Whether any of them has members.
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
                addresses: Vec::new(),
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
            names: SlotNames::default(),
            received: None,
            messages: 0,
            gathering: None,
            open: false,
            errors: Vec::new(),
            held: false,
            dead_letters: None,
            elsewhere: None,
        }
    }

    /// Sends failed messages to these sinks.
    #[must_use]
    pub fn with_dead_letters(mut self, encodings: Vec<Encoding>) -> Self {
        if !encodings.is_empty() {
            let letterbox = |Encoding { format, outlets, rows, .. }| Letterbox { format, outlets, rows };
            self.dead_letters = Some(Box::new(DeadLetters::new(encodings.into_iter().map(letterbox))));
        }
        self
    }

    /// Whether a sink's clients may be connected to other processes; then [`Output::send_elsewhere`] must be called.
    pub fn is_everywhere(&self) -> bool {
        self.forms.iter().any(Form::is_everywhere)
    }

    /// Also sends results to other processes.
    pub fn send_elsewhere(&mut self, elsewhere: Rc<dyn Elsewhere>) {
        self.elsewhere = Some(elsewhere);
    }

    /// Sends results that another process made. Returns how many messages a client has received, by sink. A form that
    /// is not here has no sinks here.
    pub fn send_on(&self, form: u64, batch: &Arc<MessageBatch>) -> Vec<usize> {
        let known = self.forms.iter().find(|known| known.encoding.name == form);
        let outlets = known.into_iter().flat_map(|form| &form.encoding.outlets);
        outlets.map(|outlet| if outlet.is_everywhere() { outlet.send_on(batch) } else { 0 }).collect()
    }

    /// Whether the sinks accept more results of other processes.
    pub fn takes_on(&self) -> bool {
        let mut outlets = self.forms.iter().flat_map(|form| &form.encoding.outlets);
        outlets.all(|outlet| !outlet.is_everywhere() || outlet.ready())
    }

    /// Whether results may be gathered into batches; then [`Output::gather`] and [`Output::tick`] must be called.
    pub fn gathers(&self) -> bool {
        self.forms.iter().any(|form| form.encoding.format.gathers())
    }

    /// Sets the largest message, bytes; longer ones are errors.
    #[cfg(test)]
    pub fn limit_messages(&mut self, limit: usize) {
        self.forms.iter_mut().for_each(|form| form.limit = limit);
    }

    /// Whether errors are sent to sinks.
    pub fn reports_errors(&self) -> bool {
        self.send_error || self.dead_letters.is_some()
    }

    /// Whether an outlet may be full ([`Output::ready`]).
    pub fn may_wait(&self) -> bool {
        if self.elsewhere.is_some() {
            return true;
        }
        let waits = |form: &Form| {
            !form.encoding.rows.is_empty() || form.encoding.outlets.iter().any(|outlet| outlet.may_wait())
        };
        self.forms.iter().any(waits) || self.dead_letters.as_ref().is_some_and(|letters| letters.may_wait())
    }

    /// Enables batches.
    pub fn gather(&mut self, gathering: Gathering) {
        self.gathering = Some(gathering);
    }

    /// Sends the batches that are due.
    pub fn tick(&mut self) {
        let now = self.gathering.as_ref().map_or(0, |gathering| gathering.clock.now());
        self.each_batcher(|batcher, give| batcher.tick(now, give));
        self.flush();
    }

    /// Sends all batches: no more results will follow.
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

    /// Sets the names of a rule's slots, for showing rows.
    pub fn name_slots(&mut self, names: SlotNames) {
        self.names = names;
    }

    /// Offers a row of a rule with state to taps.
    pub fn tap(&self, point: Point, slots: &[Value]) {
        if self.metrics.taps.wants(point) {
            self.metrics.taps.offer(point, || self.names.shown(slots));
        }
    }

    /// The rule's counters.
    pub fn metrics(&self) -> &Arc<RuleMetrics> {
        &self.metrics
    }

    /// Sets when the input of the next rows was read.
    pub fn received(&mut self, at: Option<Instant>) {
        if self.received.is_none() {
            self.received = at;
        }
    }

    /// Adds a row to the open message. `raw` gives the text of a slot that may be copied unchanged.
    ///
    /// # Errors
    /// `RowError`; then the row is not in the message.
    pub fn row<'a>(&mut self, projection: &Projection, scope: &'a Scope<'a>, raw: RawText<'a>) -> Result<(), RowError> {
        self.row.clear();
        let wants_rows = self.forms.iter().any(Form::wants_rows);
        let (members, decoded) = if wants_rows {
            // Expressions are evaluated only once: the text is made from the values.
            let row = decode_row(projection, scope, raw, self.send_nil)?;
            if self.forms.iter().any(Form::wants_text) {
                encode_members(&mut self.row, &row)?;
            }
            (row.len(), Some(row))
        } else {
            let members = encode_row(&mut self.row, projection, scope, raw, self.send_nil)?;
            // Copied text may have escapes that decoding would change.
            json::replace_unpaired(&mut self.row);
            (members, None)
        };
        if !projection.sends {
            return Ok(());
        }
        if self.metrics.taps.wants(Point::Project) {
            let values = decoded.as_ref().filter(|_| self.row.is_empty());
            self.metrics.taps.offer(Point::Project, || values.map_or_else(|| lossy(&self.row), shown));
        }
        self.open = true;
        for form in &mut self.forms {
            form.add(&self.row, members, decoded.as_ref());
        }
        Ok(())
    }

    /// Ends the open message. A message without rows is not sent.
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

    /// Whether the rows of the open message should be sent before it is complete.
    pub fn overflows(&self) -> bool {
        self.forms.iter().any(|form| form.encoding.format.send_single && form.bytes.len() >= HELD_BYTES)
    }

    /// Sends the rows of the open message, each of which is a message.
    pub fn spill(&mut self) {
        for (index, form) in self.forms.iter_mut().enumerate() {
            let rows = form.spill();
            if index == 0 {
                self.messages += rows;
            }
        }
        self.flush();
    }

    /// Counts an error of an operator: the row or group is lost, the open message is not. With the rule option
    /// `sendError`, the error's text is sent as a message after the open one.
    pub fn error(&mut self, place: Place, error: impl std::fmt::Display) {
        self.error_of(place, error, None);
    }

    /// The same for an error caused by a row of a rule with state.
    pub fn error_of_row(&mut self, place: Place, error: impl std::fmt::Display, slots: &[Value]) {
        let row = self.names.shown(slots);
        self.error_of(place, error, Some(&row));
    }

    /// The same for an error caused by this message or row.
    pub fn error_of(&mut self, place: Place, error: impl std::fmt::Display, message: Option<&str>) {
        let text = error.to_string();
        if self.send_error {
            if !self.open {
                self.send_error(&text);
            } else if self.errors.len() < ERRORS_KEPT {
                self.errors.push(text.clone());
            }
        }
        if let Some(dead_letters) = &mut self.dead_letters {
            dead_letters.add(place, &text, message);
        }
        self.metrics.error_of(place, text, message);
    }

    fn send_error(&mut self, text: &str) {
        for form in &mut self.forms {
            form.report(text, &self.metrics);
        }
        self.messages += 1;
    }

    /// Holds back all output while the rule pauses.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// Sends the encoded messages.
    pub fn flush(&mut self) {
        if self.held {
            return;
        }
        if let Some(dead_letters) = &mut self.dead_letters {
            dead_letters.hand_over();
        }
        if self.forms.iter().all(|form| form.done == 0 && form.decoded_done == 0) {
            self.received = None;
            return;
        }
        self.metrics.sent(std::mem::take(&mut self.messages), self.received.map(|at| at.elapsed()));
        let received = self.received.take();
        let taps = Some(&self.metrics.taps).filter(|taps| taps.wants(Point::Sink));
        for form in &mut self.forms {
            taps.into_iter().for_each(|taps| form.show(taps));
            form.hand_over_rows(received, &self.metrics);
        }
        for form in &mut self.forms {
            let elsewhere = self.elsewhere.as_deref().filter(|_| form.is_everywhere());
            form.hand_over_texts(received, elsewhere);
        }
    }

    /// Whether all sinks accept more. A full one raises the rule's signal when it has room.
    pub fn ready(&self) -> bool {
        let ready = |form: &Form| {
            form.encoding.outlets.iter().all(|outlet| outlet.ready())
                && form.encoding.rows.iter().all(|outlet| outlet.ready())
        };
        self.forms.iter().all(ready)
            && self.dead_letters.as_ref().is_none_or(|letters| letters.ready())
            && self.elsewhere.as_ref().is_none_or(|elsewhere| elsewhere.ready())
    }
}

impl Form {
    /// Whether clients in other processes get it, too.
    fn is_everywhere(&self) -> bool {
        self.encoding.outlets.iter().any(|outlet| outlet.is_everywhere())
    }

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

    /// Ends the open list; returns the number of messages that the form has gained.
    fn end(&mut self, gathering: Option<&Gathering>, metrics: &RuleMetrics) -> u64 {
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

    /// If each row is a message: ends the open ones, and returns their number.
    fn spill(&mut self) -> u64 {
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

    /// Offers the complete messages to taps.
    fn show(&self, taps: &Taps) {
        let mut start = 0;
        for &end in &self.ends[..self.done] {
            taps.offer(Point::Sink, || lossy(&self.bytes[start..end as usize]));
            start = end as usize;
        }
        self.decoded[..self.decoded_done].iter().for_each(|row| taps.offer(Point::Sink, || shown(row)));
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

    /// Sends the complete messages, also to other processes; the open one stays.
    fn hand_over_texts(&mut self, received: Option<Instant>, elsewhere: Option<&dyn Elsewhere>) {
        if self.done == 0 {
            return;
        }
        let open = self.bytes.split_off(self.start);
        let bytes = std::mem::replace(&mut self.bytes, open);
        let base = self.start as u32;
        let open_ends = self.ends.split_off(self.done).into_iter().map(|end| end - base).collect();
        let ends = std::mem::replace(&mut self.ends, open_ends);
        // The next row allocates memory again, so that thousands of idle rules hold none.
        self.usual = bytes.len().min(BATCH_BYTES);
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

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
