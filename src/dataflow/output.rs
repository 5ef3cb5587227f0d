//! A rule's results on their way out: rows are encoded once for each form that the rule's sinks want, many messages
//! into one allocation, and handed to the outlets. Sinks inside the process get the rows themselves.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;

use crate::expr::function::{CallContext, Hits};
use crate::expr::{EvalError, Scope};
use crate::format::json;
use crate::format::sink_format::{Batcher, Give, Made, SinkFormat};
use crate::io::queue::{MessageBatch, Outlet, RowOutlet};
use crate::metrics::{Place, RuleMetrics};
use crate::plan::physical::{Item, Projection};
use crate::value::{Object, Row, Text, Value};

use super::worker::{Timers, WorkerClock};

/// Encoded bytes beyond which a batch is handed over at once. A message that a slow client still waits for keeps its
/// whole batch alive, so batches stay small.
const BATCH_BYTES: usize = 64 * 1024;

/// Decoded rows beyond which they are handed over at once.
const BATCH_ROWS: usize = 512;

/// One form of the results, and the outlets that want it.
pub struct Encoding {
    /// what messages are like
    pub shape: Arc<SinkFormat>,
    /// where to
    pub outlets: Vec<Arc<dyn Outlet>>,
    /// who gets the rows as they are, one by one
    pub rows: Vec<Arc<dyn RowOutlet>>,
}

/// Why a result row could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// an expression
    #[error("run Select error: {0}")]
    Eval(#[from] EvalError),
    /// a value that JSON cannot say
    #[error("run Select error: {0}")]
    Encode(#[from] json::EncodeError),
}

impl RowError {
    /// The operator that it is of.
    pub fn place(&self) -> Place {
        match self {
            RowError::Eval(_) => Place::Project,
            RowError::Encode(_) => Place::Encode,
        }
    }
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
    /// wakes the rule when gathered rows must go
    alarm: Option<Alarm>,
}

/// The clock and the timers of a rule whose results wait for others.
pub struct Alarm {
    /// the worker's clock
    pub clock: Rc<WorkerClock>,
    /// its timers
    pub timers: Rc<Timers>,
    /// what they run for this rule
    pub slot: usize,
}

struct Form {
    encoding: Encoding,
    /// where the messages are other than JSON as it is
    shaper: Option<Batcher>,
    bytes: Vec<u8>,
    /// how large the batch before was: the next one will be about as large
    usual: usize,
    ends: Vec<u32>,
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

/// The JSON text of each slot's column in the message, where it may be copied instead of encoded.
pub type RawText<'a> = &'a dyn Fn(usize) -> Option<&'a str>;

impl Output {
    /// An output to these sinks.
    pub fn new(encodings: Vec<Encoding>, send_nil: bool, send_error: bool, metrics: Arc<RuleMetrics>) -> Self {
        let forms = encodings
            .into_iter()
            .map(|encoding| Form {
                shaper: (!encoding.shape.is_plain()).then(|| Batcher::new(encoding.shape.clone())),
                encoding,
                bytes: Vec::new(),
                usual: 0,
                ends: Vec::new(),
                rows: 0,
                filled: false,
                start: 0,
                done: 0,
                decoded: Vec::new(),
                decoded_done: 0,
            })
            .collect();
        Output { forms, row: Vec::new(), send_nil, send_error, metrics, received: None, messages: 0, alarm: None }
    }

    /// Whether results may wait for others; then [`Output::wake_by`] and [`Output::tick`] are needed.
    pub fn gathers(&self) -> bool {
        self.forms.iter().any(|form| form.encoding.shape.gathers())
    }

    /// Whether errors are sent to the sinks.
    pub fn tells_errors(&self) -> bool {
        self.send_error
    }

    /// Whether an outlet may be one that does not always take more ([`Output::ready`]).
    pub fn may_wait(&self) -> bool {
        let waits = |form: &Form| {
            !form.encoding.rows.is_empty() || form.encoding.outlets.iter().any(|outlet| outlet.may_wait())
        };
        self.forms.iter().any(waits)
    }

    /// Sets who wakes the rule when results that wait must go.
    pub fn wake_by(&mut self, alarm: Alarm) {
        self.alarm = Some(alarm);
    }

    /// Sends results that have waited long enough for others.
    pub fn tick(&mut self) {
        let now = self.alarm.as_ref().map_or(0, |alarm| alarm.clock.now());
        self.each_shaper(|shaper, give| shaper.tick(now, give));
        self.flush();
    }

    /// Sends all results that wait for others: no more will come.
    pub fn finish(&mut self) {
        self.each_shaper(|shaper, give| shaper.flush(give));
        self.flush();
    }

    fn each_shaper(&mut self, run: impl Fn(&mut Batcher, Give<'_>)) {
        for (index, form) in self.forms.iter_mut().enumerate() {
            let Some(mut shaper) = form.shaper.take() else { continue };
            let made = form.give(&self.metrics, |give| run(&mut shaper, give));
            form.shaper = Some(shaper);
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
    /// [`RowError`]; the row is then not in the message.
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
        for form in &mut self.forms {
            form.add(&self.row, members, decoded.as_ref());
        }
        Ok(())
    }

    /// Ends the open message. A message to which no row came is not sent.
    pub fn end_message(&mut self) {
        let mut full = false;
        for (index, form) in self.forms.iter_mut().enumerate() {
            let messages = form.end(self.alarm.as_ref(), &self.metrics);
            if index == 0 {
                self.messages += messages;
            }
            full |= form.bytes.len() >= BATCH_BYTES || form.decoded.len() >= BATCH_ROWS;
        }
        if full {
            self.flush();
        }
    }

    /// Drops the rows of the open message, also where each row is a message of its own.
    fn abandon_message(&mut self) {
        for form in &mut self.forms {
            form.abandon();
        }
    }

    /// Counts an error of an operator; the open message is lost to it. With the rule option sendError the error's text is sent as a
    /// message of its own.
    pub fn error(&mut self, place: Place, error: impl std::fmt::Display) {
        let text = error.to_string();
        self.abandon_message();
        if self.send_error {
            for form in &mut self.forms {
                form.tell(&text, &self.metrics);
            }
            self.messages += 1;
        }
        self.metrics.error_at(place, text);
    }

    /// Hands over what is encoded.
    pub fn flush(&mut self) {
        if self.forms.iter().all(|form| form.ends.is_empty() && form.decoded.is_empty()) {
            self.received = None;
            return;
        }
        self.metrics.sent(std::mem::take(&mut self.messages), self.received.map(|at| at.elapsed()));
        let received = self.received.take();
        for form in &mut self.forms {
            form.hand_over_rows(received, &self.metrics);
        }
        for form in self.forms.iter_mut().filter(|form| !form.ends.is_empty()) {
            let bytes = std::mem::take(&mut form.bytes);
            // Room is made with the next row: thousands of rules that have nothing to say hold none.
            form.usual = bytes.len().min(BATCH_BYTES);
            let text = form.encoding.shape.is_text();
            let batch = Arc::new(MessageBatch::new(bytes.into(), std::mem::take(&mut form.ends), text, received));
            form.begin();
            for outlet in &form.encoding.outlets {
                outlet.send(&batch);
            }
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
        self.shaper.is_some() || !self.encoding.rows.is_empty()
    }

    /// Whether it needs rows as JSON.
    fn wants_text(&self) -> bool {
        self.shaper.is_none() && !self.encoding.outlets.is_empty()
    }

    fn add(&mut self, row: &[u8], members: usize, decoded: Option<&Row>) {
        if let Some(decoded) = decoded.filter(|_| self.wants_rows())
            && (self.shaper.is_some() || members > 0 || !self.encoding.shape.omit_if_empty)
        {
            self.decoded.push(decoded.clone());
        }
        if self.shaper.is_some() {
            return;
        }
        if self.encoding.outlets.is_empty() {
            return;
        }
        if self.bytes.capacity() == 0 {
            self.bytes.reserve(self.usual);
        }
        if self.encoding.shape.send_single {
            if members > 0 || !self.encoding.shape.omit_if_empty {
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
    fn end(&mut self, alarm: Option<&Alarm>, metrics: &RuleMetrics) -> u64 {
        if let Some(mut shaper) = self.shaper.take() {
            // Before them are rows that have been made already.
            let rows = match self.decoded_done {
                0 => std::mem::take(&mut self.decoded),
                done => self.decoded.split_off(done),
            };
            let now = alarm.map_or(0, |alarm| alarm.clock.now());
            let mut wake = None;
            let made = self.give(metrics, |give| wake = shaper.rows(rows, now, give));
            if let (Some(alarm), Some(at)) = (alarm, wake) {
                alarm.timers.request(at, alarm.slot);
            }
            self.shaper = Some(shaper);
            return made;
        }
        let decoded = (self.decoded.len() - self.decoded_done) as u64;
        self.decoded_done = self.decoded.len();
        if self.encoding.outlets.is_empty() {
            // Each row is a message.
            return decoded;
        }
        if self.encoding.shape.send_single {
            // Its rows are closed one by one; what came since the last end is counted here.
            self.begin();
            return std::mem::take(&mut self.rows) as u64;
        }
        if self.rows == 0 {
            return 0;
        }
        if self.encoding.shape.omit_if_empty && !self.filled {
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

    fn close(&mut self) {
        // Batches are handed over at 64 KiB; one message beyond 4 GiB is not possible (a frame is limited far below).
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
                self.decoded.extend(rows);
                self.decoded_done = self.decoded.len();
            }
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
    fn tell(&mut self, error: &str, metrics: &RuleMetrics) {
        if let Some(mut shaper) = self.shaper.take() {
            self.give(metrics, |give| shaper.error(error, give));
            self.shaper = Some(shaper);
            return;
        }
        if !self.encoding.outlets.is_empty() {
            self.bytes.extend_from_slice(error.as_bytes());
            self.close();
            self.begin();
        }
        if !self.encoding.rows.is_empty() {
            self.decoded.push(vec![("error".into(), error.into())]);
            self.decoded_done = self.decoded.len();
        }
    }

    fn hand_over_rows(&mut self, received: Option<Instant>, metrics: &RuleMetrics) {
        if self.decoded.is_empty() {
            return;
        }
        let mut rows = std::mem::take(&mut self.decoded);
        self.decoded_done = 0;
        let mut error = |text: String| metrics.error_at(Place::Encode, text);
        if let Some((last, others)) = self.encoding.rows.split_last() {
            for outlet in others {
                outlet.send(rows.clone(), received, &mut error);
            }
            last.send(std::mem::take(&mut rows), received, &mut error);
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

/// Writes a result row as a JSON object and says how many members it has; members of a `*` that is copied whole count
/// as one.
fn encode_row<'a>(
    out: &mut Vec<u8>,
    projection: &Projection,
    scope: &'a Scope<'a>,
    raw: RawText<'a>,
    send_nil: bool,
) -> Result<usize, RowError> {
    if let [Item::Star { slots, except }] = projection.items.as_slice()
        && let ([slot], []) = (slots.as_slice(), except.as_slice())
        && let Some(text) = whole(*slot, scope, raw)
    {
        out.extend_from_slice(text.as_bytes());
        return Ok(usize::from(text.len() > 2));
    }
    let decoded = |item: &Item| match item {
        Item::Star { slots, .. } => {
            slots.iter().any(|slot| raw(*slot).is_none() && matches!(scope.slots[*slot], Value::Object(_)))
        }
        _ => false,
    };
    if projection.items.iter().any(decoded) {
        let row = decode_row(projection, scope, raw, send_nil)?;
        encode_members(out, &row)?;
        return Ok(row.len());
    }
    let spread = spread_keys(projection, scope)?;
    out.push(b'{');
    let mut members = 0;
    for item in &projection.items {
        match item {
            Item::Star { slots, except } => {
                let texts: SmallVec<[&str; 4]> = slots.iter().filter_map(|slot| whole(*slot, scope, raw)).collect();
                for (index, text) in texts.iter().enumerate() {
                    for (key, value) in json::members(text) {
                        let hidden = |name: &Text| is_key(key, name);
                        if except.iter().any(hidden) || spread.iter().any(hidden) {
                            continue;
                        }
                        // Of equal keys that of the first message counts.
                        let before = &texts[..index];
                        if before.iter().any(|text| json::members(text).any(|(other, _)| same_key(other, key))) {
                            continue;
                        }
                        separate(out, &mut members);
                        out.extend_from_slice(key.as_bytes());
                        out.push(b':');
                        out.extend_from_slice(value.as_bytes());
                    }
                }
            }
            Item::Field { name, .. } if spread.contains(name) => {}
            Item::Field { name, expr, plain } => {
                if let crate::expr::Expr::Slot(slot) = expr
                    && let Some(text) = raw(*slot)
                {
                    if text != "null" || *plain || send_nil {
                        separate(out, &mut members);
                        json::write_key(out, name);
                        out.push(b':');
                        out.extend_from_slice(text.as_bytes());
                    }
                    continue;
                }
                let value = expr.eval(scope)?;
                let sent = match value.as_ref() {
                    Value::Absent => send_nil,
                    Value::Null => *plain || send_nil,
                    _ => true,
                };
                if sent {
                    write_member(out, &mut members, name, &value)?;
                }
            }
            Item::Spread { expr, prefix, name } => match &*json::expand(&*expr.eval(scope)?) {
                Value::Object(object) => {
                    for (key, value) in object.iter().filter(|(_, value)| !matches!(value, Value::Absent)) {
                        write_member(out, &mut members, &prefixed(prefix, key), value)?;
                    }
                }
                Value::Absent if !send_nil => {}
                // A null element is an element.
                value if !name.is_empty() => write_member(out, &mut members, name, value)?,
                _ => {}
            },
            Item::Hidden { expr } => {
                expr.eval(scope)?;
            }
        }
    }
    out.push(b'}');
    Ok(members)
}

/// Keys that objects bring at run time; other items of the same name give way.
fn spread_keys<'a>(projection: &Projection, scope: &'a Scope<'a>) -> Result<Vec<Text>, RowError> {
    let mut spread = Vec::new();
    for item in &projection.items {
        if let Item::Spread { expr, prefix, .. } = item
            && let Value::Object(members) = &*json::expand(&*expr.eval(scope)?)
        {
            spread.extend(members.keys().map(|key| prefixed(prefix, key)));
        }
    }
    Ok(spread)
}

/// Makes a result row as it is, without encoding it.
fn decode_row<'a>(
    projection: &Projection,
    scope: &'a Scope<'a>,
    raw: RawText<'a>,
    send_nil: bool,
) -> Result<Row, RowError> {
    let spread = spread_keys(projection, scope)?;
    let mut row = Row::with_capacity(projection.items.len());
    for item in &projection.items {
        match item {
            Item::Star { slots, except } => {
                let shown = |key: &Text| !except.contains(key) && !spread.contains(key);
                for slot in slots {
                    match (whole(*slot, scope, raw), &scope.slots[*slot]) {
                        (Some(text), _) => {
                            // By way of an object: of duplicate keys of one message the last counts.
                            let object: Object =
                                json::members(text).map(|(key, value)| (json::key(key), json::value(value))).collect();
                            keep(&mut row, object.into_iter().filter(|(key, _)| shown(key)));
                        }
                        (None, Value::Object(object)) => {
                            let members = object.iter().filter(|(key, _)| shown(key));
                            keep(&mut row, members.map(|(key, value)| (key.clone(), value.clone())));
                        }
                        _ => {}
                    }
                }
            }
            Item::Field { name, .. } if spread.contains(name) => {}
            Item::Field { name, expr, plain } => {
                let value = match expr {
                    crate::expr::Expr::Slot(slot) if let Some(text) = raw(*slot) => json::value(text),
                    _ => expr.eval(scope)?.into_owned(),
                };
                match value {
                    Value::Absent if !send_nil => {}
                    Value::Null if !*plain && !send_nil => {}
                    Value::Absent => put(&mut row, name.clone(), Value::Null),
                    value => put(&mut row, name.clone(), value),
                }
            }
            Item::Spread { expr, prefix, name } => match &*json::expand(&*expr.eval(scope)?) {
                Value::Object(object) => {
                    for (key, value) in object.iter().filter(|(_, value)| !matches!(value, Value::Absent)) {
                        put(&mut row, prefixed(prefix, key), value.clone());
                    }
                }
                Value::Absent if !send_nil => {}
                // A null element is an element.
                value if !name.is_empty() => put(&mut row, name.clone(), value.clone()),
                _ => {}
            },
            Item::Hidden { expr } => {
                expr.eval(scope)?;
            }
        }
    }
    Ok(row)
}

/// Adds members of a message; of names that are there already the first counts.
fn keep(row: &mut Row, members: impl Iterator<Item = (Text, Value)>) {
    let before = row.len();
    for (name, value) in members {
        if !row[..before].iter().any(|(other, _)| *other == name) {
            row.push((name, value));
        }
    }
}

fn put(row: &mut Row, name: Text, value: Value) {
    match row.iter_mut().find(|(other, _)| *other == name) {
        Some((_, old)) => *old = value,
        None => row.push((name, value)),
    }
}

/// Writes a row as a JSON object.
fn encode_members(out: &mut Vec<u8>, row: &Row) -> Result<(), RowError> {
    out.push(b'{');
    let mut members = 0;
    for (name, value) in row {
        write_member(out, &mut members, name, value)?;
    }
    out.push(b'}');
    Ok(())
}

fn write_member(out: &mut Vec<u8>, members: &mut usize, name: &str, value: &Value) -> Result<(), json::EncodeError> {
    separate(out, members);
    json::write_key(out, name);
    out.push(b':');
    json::write_value(out, value)
}

fn prefixed(prefix: &str, key: &Text) -> Text {
    if prefix.is_empty() { key.clone() } else { Text::from(format!("{prefix}{key}")) }
}

/// Whether two keys as they stand in JSON are the same.
fn same_key(left: &str, right: &str) -> bool {
    left == right || ((left.contains('\\') || right.contains('\\')) && json::key(left) == json::key(right))
}

fn separate(out: &mut Vec<u8>, members: &mut usize) {
    if *members > 0 {
        out.push(b',');
    }
    *members += 1;
}

/// The text of a whole message: where it stands, or as it was kept in the slot.
fn whole<'a>(slot: usize, scope: &'a Scope<'a>, raw: RawText<'a>) -> Option<&'a str> {
    raw(slot).or_else(|| match &scope.slots[slot] {
        Value::Json(text) => Some(text),
        _ => None,
    })
}

/// Whether a key as it stands in JSON, with its quotes, is `name`.
fn is_key(raw: &str, name: &str) -> bool {
    let inner = &raw[1..raw.len() - 1];
    if inner.contains('\\') { json::key(raw) == name } else { inner == name }
}

/// What rows of one rule are evaluated with.
#[derive(Clone, Debug)]
pub struct RuleContext {
    /// id of the rule
    pub id: String,
    /// when it started, ms since the epoch
    pub started: i64,
    /// the configured zone
    pub zone: jiff::tz::TimeZone,
    /// what the rule has sent before
    pub hits: Cell<Hits>,
}

impl RuleContext {
    /// The context of a row with this time.
    pub fn row(&self, now: i64, event_time: i64) -> CallContext<'_> {
        CallContext {
            rule: &self.id,
            rule_started: self.started,
            now,
            event_time,
            window: None,
            zone: &self.zone,
            hits: self.hits.get(),
        }
    }

    /// The context of a window from `start` to `end`.
    pub fn window(&self, now: i64, start: i64, end: i64) -> CallContext<'_> {
        CallContext { window: Some((start, end)), ..self.row(now, end) }
    }
}
