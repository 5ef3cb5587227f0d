//! Encodes a rule's results and passes them to its sinks: once for each form that the sinks want, many messages in one
//! allocation. Sinks inside the process get the rows themselves.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::expr::Scope;
use crate::format::sink_format::{Batcher, Give};
use crate::io::queue::MessageBatch;
use crate::metrics::{Place, Point, RuleMetrics};
use crate::plan::physical::Projection;
use crate::value::Value;
use crate::value::json;

use super::dead_letters::{DeadLetters, Letterbox};
use super::encoding::{Elsewhere, Encoding, Form, Gathering, lossy};
use super::project::{RawText, RowError, decode_row, encode_members, encode_row, shown};
use super::slots::SlotNames;

/// The most error texts kept while a message is open, to be sent after it.
const ERRORS_KEPT: usize = 64;

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

impl Output {
    /// An output to these sinks.
    pub fn new(encodings: Vec<Encoding>, send_nil: bool, send_error: bool, metrics: Arc<RuleMetrics>) -> Self {
        let forms = encodings.into_iter().map(Form::new).collect();
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
        let known = self.forms.iter().find(|known| known.name() == form);
        let outlets = known.into_iter().flat_map(|form| form.outlets());
        outlets.map(|outlet| if outlet.is_everywhere() { outlet.send_on(batch) } else { 0 }).collect()
    }

    /// Whether the sinks accept more results of other processes.
    pub fn takes_on(&self) -> bool {
        let mut outlets = self.forms.iter().flat_map(|form| form.outlets());
        outlets.all(|outlet| !outlet.is_everywhere() || outlet.ready())
    }

    /// Whether results may be gathered into batches; then [`Output::gather`] and [`Output::tick`] must be called.
    pub fn gathers(&self) -> bool {
        self.forms.iter().any(Form::gathers)
    }

    /// Sets the largest message, bytes; longer ones are errors.
    #[cfg(test)]
    pub fn limit_messages(&mut self, limit: usize) {
        self.forms.iter_mut().for_each(|form| form.limit_messages(limit));
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
        self.forms.iter().any(Form::may_wait) || self.dead_letters.as_ref().is_some_and(|letters| letters.may_wait())
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
            let made = form.batch(&self.metrics, &run);
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
            full |= form.is_full();
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
        self.forms.iter().any(Form::overflows)
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
        if self.forms.iter().all(Form::is_idle) {
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
        self.forms.iter().all(Form::is_ready)
            && self.dead_letters.as_ref().is_none_or(|letters| letters.ready())
            && self.elsewhere.as_ref().is_none_or(|elsewhere| elsewhere.ready())
    }
}
