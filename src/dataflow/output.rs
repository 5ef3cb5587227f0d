//! A rule's results on their way out: rows are encoded once for each form that the rule's sinks want, many messages
//! into one allocation, and handed to the outlets.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;

use crate::codec::json;
use crate::expr::function::{CallContext, Hits};
use crate::expr::{EvalError, Scope};
use crate::io::queue::{MessageBatch, Outlet};
use crate::metrics::RuleMetrics;
use crate::plan::physical::{Item, Projection};
use crate::value::{Text, Value};

/// Encoded bytes beyond which a batch is handed over at once. A message that a slow client still waits for keeps its
/// whole batch alive, so batches stay small.
const BATCH_BYTES: usize = 64 * 1024;

/// One form of the results, and the outlets that want it.
pub struct Encoding {
    /// each row is a message of its own, instead of one list of rows
    pub send_single: bool,
    /// a list without rows, and with `send_single` a row without members, is not sent
    pub omit_if_empty: bool,
    /// where to
    pub outlets: Vec<Arc<dyn Outlet>>,
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
}

struct Form {
    encoding: Encoding,
    bytes: Vec<u8>,
    ends: Vec<u32>,
    /// rows of the open message
    rows: usize,
    /// whether one of them has members
    filled: bool,
    /// where in `bytes` the open message begins, or the first of the open messages where each row is one
    start: usize,
    /// how many messages are done before it
    done: usize,
}

/// The JSON text of each slot's column in the message, where it may be copied instead of encoded.
pub type RawText<'a> = &'a dyn Fn(usize) -> Option<&'a str>;

impl Output {
    /// An output to these sinks.
    pub fn new(encodings: Vec<Encoding>, send_nil: bool, send_error: bool, metrics: Arc<RuleMetrics>) -> Self {
        let forms = encodings
            .into_iter()
            .map(|encoding| Form {
                encoding,
                bytes: Vec::new(),
                ends: Vec::new(),
                rows: 0,
                filled: false,
                start: 0,
                done: 0,
            })
            .collect();
        Output { forms, row: Vec::new(), send_nil, send_error, metrics, received: None, messages: 0 }
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
        let members = encode_row(&mut self.row, projection, scope, raw, self.send_nil)?;
        if !projection.sends {
            return Ok(());
        }
        for form in &mut self.forms {
            form.add(&self.row, members);
        }
        Ok(())
    }

    /// Ends the open message. A message to which no row came is not sent.
    pub fn end_message(&mut self) {
        let mut full = false;
        for (index, form) in self.forms.iter_mut().enumerate() {
            let messages = form.end();
            if index == 0 {
                self.messages += messages;
            }
            full |= form.bytes.len() >= BATCH_BYTES;
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

    /// Counts an error; the open message is lost to it. With the rule option sendError the error's text is sent as a
    /// message of its own.
    pub fn error(&mut self, error: impl std::fmt::Display) {
        let text = error.to_string();
        self.abandon_message();
        if self.send_error {
            for form in &mut self.forms {
                form.bytes.extend_from_slice(text.as_bytes());
                form.close();
                form.begin();
            }
            self.messages += 1;
        }
        self.metrics.error(text);
    }

    /// Hands over what is encoded.
    pub fn flush(&mut self) {
        if self.forms.iter().all(|form| form.ends.is_empty()) {
            self.received = None;
            return;
        }
        self.metrics.sent(std::mem::take(&mut self.messages), self.received.map(|at| at.elapsed()));
        let received = self.received.take();
        for form in self.forms.iter_mut().filter(|form| !form.ends.is_empty()) {
            let bytes = std::mem::take(&mut form.bytes);
            // The next batch will be about as large as this one.
            form.bytes.reserve(bytes.len().min(BATCH_BYTES));
            let batch = Arc::new(MessageBatch::new(bytes.into(), std::mem::take(&mut form.ends), true, received));
            form.begin();
            for outlet in &form.encoding.outlets {
                outlet.send(&batch);
            }
        }
    }

    /// Whether all outlets take more. One that does not raises the rule's signal when it does again.
    pub fn ready(&self) -> bool {
        self.forms.iter().flat_map(|form| &form.encoding.outlets).all(|outlet| outlet.ready())
    }
}

impl Form {
    fn add(&mut self, row: &[u8], members: usize) {
        if self.encoding.send_single {
            if members > 0 || !self.encoding.omit_if_empty {
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
    fn end(&mut self) -> u64 {
        if self.encoding.send_single {
            // Its rows are closed one by one; what came since the last end is counted here.
            self.begin();
            return std::mem::take(&mut self.rows) as u64;
        }
        if self.rows == 0 {
            return 0;
        }
        if self.encoding.omit_if_empty && !self.filled {
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

    fn abandon(&mut self) {
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
    // Keys that objects bring at run time; other items of the same name give way.
    let mut spread: Vec<Text> = Vec::new();
    for item in &projection.items {
        if let Item::Spread { expr, prefix, .. } = item
            && let Value::Object(members) = &*json::expand(&*expr.eval(scope)?)
        {
            spread.extend(members.keys().map(|key| prefixed(prefix, key)));
        }
    }
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
                Value::Absent | Value::Null if !send_nil => {}
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
