//! Finds out why a rule or view is silent: the first operator at which its rows vanish, and the reason, as far as
//! counters and a sample of the messages show it.
//!
//! Operators are checked in the order of the flow. The search ends at the first that lets nothing through, because
//! those after it get no rows. A selected column that is in no message is always reported.

mod view;

use std::time::{Duration, SystemTime};

use super::status::{Phase, RuleReport};
use super::topology::each_name;
use crate::definition::rule::RuleOptions;
use crate::engine::{RuleStatus, TableStatus};
use crate::io::websocket::TurnedAway;
use crate::io::{LinkState, LinkStatus, NO_CLIENT};
use crate::metrics::{Place, SeenFields};
use crate::sql::ast::{Expr, Field, Select};
use crate::text::suggest;
use crate::value::Text;

pub(super) use view::ReadView;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// the operator at which rows vanish: source, decoder, watermark, filter, window, having, project or sink
    pub operator: &'static str,
    /// the reason, for programs
    pub cause: Cause,
    /// the reason, for people
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// the rule does not run
    NotRunning,
    /// the peer of a source is not connected
    NotConnected,
    /// no client is connected to a source's path
    NoClient,
    /// peers are connected but send nothing
    NoMessages,
    /// no message can be read
    Unreadable,
    /// all rows are behind the watermark
    Late,
    /// timestamps are read in the wrong unit
    TimestampUnit,
    /// all rows are too far ahead of the clock
    Future,
    /// a column in a condition or in the select list is in no message
    AbsentField,
    /// a condition has never been true
    NeverTrue,
    /// every row fails
    Errors,
    /// no window has ended yet
    OpenWindow,
    /// a stream without rows holds the watermark back
    IdleStream,
    /// nobody receives the results
    NoReceiver,
    /// the server or file of a sink takes no results
    Undelivered,
    /// a stream, table or view that is read was dropped
    Dropped,
    /// the view that is read has no rows
    NoRows,
    /// all rows of a view have left it
    AllLeft,
}

impl Cause {
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::NotRunning => "notRunning",
            Cause::NotConnected => "notConnected",
            Cause::NoClient => "noClient",
            Cause::NoMessages => "noMessages",
            Cause::Unreadable => "unreadable",
            Cause::Late => "late",
            Cause::TimestampUnit => "timestampUnit",
            Cause::Future => "future",
            Cause::AbsentField => "absentField",
            Cause::NeverTrue => "neverTrue",
            Cause::Errors => "errors",
            Cause::OpenWindow => "openWindow",
            Cause::IdleStream => "idleStream",
            Cause::NoReceiver => "noReceiver",
            Cause::Undelivered => "undelivered",
            Cause::Dropped => "dropped",
            Cause::NoRows => "noRows",
            Cause::AllLeft => "allLeft",
        }
    }
}

/// From how many lost results on a sink that has delivered others is reported: a server may refuse a single result for
/// its content.
const UNDELIVERED: u64 = 3;

/// Facts about a running rule or view.
pub(super) struct Facts<'a> {
    /// its query
    pub select: &'a Select,
    pub options: &'a RuleOptions,
    /// its status
    pub status: &'a RuleStatus,
    /// the fields seen in its streams' messages
    pub seen: &'a [(Text, SeenFields)],
    /// clients that were refused
    pub turned_away: &'a [TurnedAway],
}

/// Why a rule does not run; `None` if it runs.
pub(super) fn not_running(report: &RuleReport) -> Option<Diagnosis> {
    if report.phase == Phase::Running {
        return None;
    }
    let why = if report.message.is_empty() { String::new() } else { format!(": {}", report.message) };
    let message = format!("The rule does not run ({}{why}).", report.phase.as_str());
    Some(Diagnosis { operator: "rule", cause: Cause::NotRunning, message })
}

/// The finding that a view does not run.
pub(super) fn stopped_view(why: &str) -> Diagnosis {
    Diagnosis { operator: "view", cause: Cause::NotRunning, message: format!("The view has stopped: {why}") }
}

/// The findings about dropped sources.
pub(super) fn dropped(names: &[Text]) -> Vec<Diagnosis> {
    let dropped = |name: &Text| Diagnosis { operator: "source", cause: Cause::Dropped, message: was_dropped(name) };
    names.iter().map(dropped).collect()
}

/// What it means for a reader that its source was dropped.
pub(super) fn was_dropped(name: &str) -> String {
    format!(
        "{name} was dropped: its last definition and rows are used until {name} is created again or the service ends"
    )
}

/// The finding that a lookup table refused messages or rows; `None` if it took all.
pub(super) fn unread_table(table: &TableStatus) -> Option<Diagnosis> {
    let (_, error) = table.last_error.as_ref().filter(|_| table.errors > 0)?;
    let refused = counted(table.errors, "error");
    let message = format!("{}, which is joined, had {refused}; the last one: {error}", table.name);
    Some(Diagnosis { operator: "source", cause: Cause::Unreadable, message })
}

fn one(operator: &'static str, cause: Cause, message: impl Into<String>) -> Vec<Diagnosis> {
    vec![Diagnosis { operator, cause, message: message.into() }]
}

impl Facts<'_> {
    /// The findings about a rule.
    pub fn of_rule(&self) -> Vec<Diagnosis> {
        let mut found = self.silent(self.status);
        if found.iter().all(|one| one.cause != Cause::AbsentField) && self.status.rows_in > 0 {
            found.extend(self.unselectable());
        }
        found
    }

    /// The findings about the first operator that lets nothing through.
    fn silent(&self, status: &RuleStatus) -> Vec<Diagnosis> {
        let work = &status.work;
        let flow = &work.flow;
        let inputs = &work.inputs;
        let unread: u64 = inputs.iter().map(|input| input.errors).sum();
        let error_at = |place: Place| work.faults.iter().find(|fault| fault.place == place);
        let last_of = |place: Place| error_at(place).map(|fault| fault.text.clone()).unwrap_or_default();
        let mut missing = Vec::new();
        for (stream, link) in &status.sources {
            let brought = inputs.iter().filter(|input| input.stream == *stream);
            if brought.map(|input| input.rows + input.errors).sum::<u64>() == 0 {
                missing.extend(self.no_input(stream, link));
            }
        }
        if status.rows_in == 0 && unread == 0 {
            return missing;
        }
        if status.rows_in == 0 {
            let text = format!("None of {} can be read: {}", counted(unread, "message"), last_of(Place::Decoder));
            return one("decoder", Cause::Unreadable, text);
        }
        // The number of rows that reached the filter of the scan.
        let failed: u64 = error_at(Place::Decoder).map_or(0, |fault| fault.count).saturating_sub(unread);
        let timely = status.rows_in.saturating_sub(status.late + status.future + failed);
        if timely == 0 && work.passed == 0 {
            return self.no_timely_row(status, failed, last_of(Place::Decoder));
        }
        if work.passed == 0 {
            return self.filtered(timely, error_at(Place::Filter).map_or(0, |fault| fault.count), status);
        }
        if flow.filter_in > 0 && flow.filter_out == 0 {
            return self.filtered(flow.filter_in, error_at(Place::Filter).map_or(0, |fault| fault.count), status);
        }
        if flow.window_in > 0 && flow.windows == 0 {
            return self.open_window(status);
        }
        if flow.having_in > 0 && flow.having_out == 0 {
            let fields = self.absent_of(self.select.having.as_ref());
            if let Some(found) = fields.into_iter().next() {
                return vec![Diagnosis { operator: "having", ..found }];
            }
            let text = format!("HAVING was true for none of {}.", counted(flow.having_in, "group"));
            return one("having", Cause::NeverTrue, text);
        }
        if status.rows_out == 0 {
            let last = work.faults.iter().filter(|fault| fault.place != Place::Decoder).max_by_key(|fault| fault.time);
            return match last {
                Some(fault) => {
                    let operator = match fault.place {
                        Place::Filter => "filter",
                        Place::Window => "window",
                        Place::Join => "join",
                        Place::Aggregate => "aggregate",
                        Place::Having => "having",
                        _ => "project",
                    };
                    let text = format!("{} failed; the last one: {}", counted(fault.count, "row"), fault.text);
                    one(operator, Cause::Errors, text)
                }
                None => {
                    missing.extend(self.held_back(status));
                    missing
                }
            };
        }
        let mut found: Vec<Diagnosis> = missing;
        found.extend(status.sinks.iter().filter_map(|sink| self.no_receiver(sink)));
        found
    }

    /// Why a source delivers nothing.
    fn no_input(&self, stream: &str, link: &LinkStatus) -> Vec<Diagnosis> {
        let address = &link.address;
        if link.serves() {
            let path = address.find('/').map_or("", |at| &address[at..]);
            if link.peers > 0 {
                let text = format!("{} of {stream} ({address}) sent no message.", counted(link.peers as u64, "client"));
                return one("source", Cause::NoMessages, text);
            }
            let mut text = match link.history.disconnected {
                Some(_) => format!("No client is connected to {address}, the path of {stream}, any more."),
                None => format!("No client has connected to {address}, the path of {stream}."),
            };
            if let Some(refused) = self.refused_near(path) {
                text.push(' ');
                text.push_str(&refused);
            }
            return one("source", Cause::NoClient, text);
        }
        if link.state != LinkState::Connected {
            let since = SystemTime::now().duration_since(link.since).unwrap_or(Duration::ZERO).as_secs();
            let why = link.last_error.as_ref().map_or_else(String::new, |(_, error)| format!(": {error}"));
            let text = format!("{stream} is not connected to {address}, for {since} s{why}");
            return one("source", Cause::NotConnected, text);
        }
        if let Some(topic) = address.strip_prefix("memory:") {
            let text = format!("No rule has sent a row to topic {topic}, which {stream} reads.");
            return one("source", Cause::NoMessages, text);
        }
        one("source", Cause::NoMessages, format!("{stream} is connected to {address}, which has sent no message."))
    }

    /// Clients that were refused at this path or at a similar one.
    fn refused_near(&self, path: &str) -> Option<String> {
        let exact = self.turned_away.iter().rev().find(|refused| refused.path == path);
        let near = || {
            let paths = self.turned_away.iter().rev().filter(|refused| refused.cause == "path");
            let nearest = suggest::nearest(path, paths.clone().map(|refused| refused.path.as_str()));
            let slashed = |refused: &&TurnedAway| refused.path.trim_end_matches('/') == path.trim_end_matches('/');
            let found = paths.clone().find(|refused| Some(refused.path.as_str()) == nearest);
            found.or_else(|| paths.clone().find(slashed))
        };
        let refused = exact.or_else(near)?;
        let times = counted(refused.count, "handshake");
        let why = match refused.cause {
            "path" => "no rule has this path: paths are exact",
            "origin" => "the origin of the page is not allowed",
            "token" if !refused.reason.is_empty() => refused.reason,
            cause => cause,
        };
        Some(format!("Refused: {times} at {}, the last one from {} ({why}).", refused.path, refused.peer))
    }

    /// Rows arrived, but all of them too late or too early.
    fn no_timely_row(&self, status: &RuleStatus, failed: u64, last: String) -> Vec<Diagnosis> {
        let rows = counted(status.rows_in, "row");
        let unit = status.work.unit.map(|unit| {
            format!("The timestamps look like {unit}, but are read as ms: set TIMESTAMP_FORMAT=\"{unit}\".")
        });
        if let Some(text) = unit {
            return one("watermark", Cause::TimestampUnit, text);
        }
        if failed >= status.late && failed >= status.future {
            return one("decoder", Cause::Unreadable, format!("None of {rows} fits its stream's columns: {last}"));
        }
        if status.future > status.late {
            let text = format!(
                "All of {rows} are further ahead of the clock than maxFutureSkew, and are dropped: check the clock of \
                 the sender and TIMESTAMP_FORMAT, or raise maxFutureSkew."
            );
            return one("watermark", Cause::Future, text);
        }
        let by = status.work.late_by;
        let text = format!("All of {rows} are late, by up to {by} ms: raise lateTolerance, or check TIMESTAMP.");
        one("watermark", Cause::Late, text)
    }

    /// WHERE has let nothing through.
    fn filtered(&self, rows: u64, errors: u64, status: &RuleStatus) -> Vec<Diagnosis> {
        let select = self.select;
        let door = select.window.as_ref().and_then(|window| window.filter.as_ref());
        let conditions =
            || select.filter.iter().chain(door).chain(select.joins.iter().filter_map(|join| join.on.as_ref()));
        let absent: Vec<Diagnosis> = conditions().flat_map(|condition| self.absent_of(Some(condition))).collect();
        if let Some(first) = absent.into_iter().next() {
            return vec![first];
        }
        let fault = status.work.faults.iter().find(|fault| fault.place == Place::Filter);
        if let Some(fault) = fault.filter(|_| errors >= rows) {
            let text = format!("The condition fails for all of {}: {}", counted(rows, "row"), fault.text);
            return one("filter", Cause::Errors, text);
        }
        let shown = select.filter.as_ref().or(door).map(ToString::to_string).unwrap_or_default();
        let mut text = format!("The condition was true for none of {}: {shown}.", counted(rows, "row"));
        if let Some(fault) = fault.filter(|_| errors > 0) {
            text.push_str(&format!(" It fails for {errors} of them: {}.", fault.text));
        }
        if let Some((name, example)) = conditions().find_map(|condition| self.example_of(condition)) {
            text.push_str(&format!(" The last messages have {name} = {example}, for example."));
        }
        one("filter", Cause::NeverTrue, text)
    }

    /// Rows are in windows, but none has ended.
    fn open_window(&self, status: &RuleStatus) -> Vec<Diagnosis> {
        let rows = counted(status.work.flow.window_in, "row");
        if !self.options.event_time {
            return one("window", Cause::OpenWindow, format!("{rows} came, and no window has ended yet."));
        }
        if let Some(found) = self.held_back(status) {
            return vec![found];
        }
        let tolerance = self.options.late_tolerance;
        let text = format!(
            "{rows} came, and no window has ended yet: in event time one ends when a row comes that is later than its \
             end by lateTolerance ({tolerance} ms)."
        );
        one("window", Cause::OpenWindow, text)
    }

    /// Reports the one of several streams that holds back the watermark because it brings no rows.
    fn held_back(&self, status: &RuleStatus) -> Option<Diagnosis> {
        let inputs = &status.work.inputs;
        let silent: Vec<&str> =
            inputs.iter().filter(|input| input.rows == 0).map(|input| input.stream.as_str()).collect();
        if !self.options.event_time || inputs.len() < 2 || silent.is_empty() {
            return None;
        }
        let after = self.options.idle_timeout;
        let text = format!(
            "The watermark waits for {}: no message has arrived. After idleTimeout ({after} ms) it no longer waits.",
            silent.join(", ")
        );
        one("window", Cause::IdleStream, text).pop()
    }

    /// Why nobody receives a sink's results.
    fn no_receiver(&self, sink: &LinkStatus) -> Option<Diagnosis> {
        // It may have been connected before.
        if !sink.serves() && sink.state != LinkState::Connected {
            let why = sink.last_error.as_ref().map_or_else(String::new, |(_, error)| format!(": {error}"));
            let waiting = match sink.queued {
                0 => String::new(),
                1 => "; 1 message waits".to_owned(),
                many => format!("; {many} messages wait"),
            };
            let text = format!("The sink is not connected to {}{why}{waiting}", sink.address);
            return one("sink", Cause::NotConnected, text).pop();
        }
        let never = sink.messages == 0;
        if sink.undelivered >= UNDELIVERED || never && sink.undelivered > 0 {
            let results = counted(sink.undelivered, "result");
            let which = if never { format!("None of {results}") } else { format!("Not one of the last {results}") };
            let why = sink.last_error.as_ref().map_or_else(|| ".".to_owned(), |(_, error)| format!(": {error}"));
            let text = format!("{which} could be delivered to {}{why}", sink.address);
            return one("sink", Cause::Undelivered, text).pop();
        }
        if sink.messages > 0 || sink.peers > 0 {
            return None;
        }
        let unheard: u64 = sink.dropped.iter().filter(|(cause, _)| *cause == NO_CLIENT).map(|(_, count)| count).sum();
        if sink.serves() && unheard > 0 {
            let path = sink.address.find('/').map_or("", |at| &sink.address[at..]);
            let mut text =
                format!("{} had no receiver: no client is connected to {}.", counted(unheard, "result"), sink.address);
            if let Some(refused) = self.refused_near(path) {
                text.push(' ');
                text.push_str(&refused);
            }
            return one("sink", Cause::NoReceiver, text).pop();
        }
        None
    }

    /// Columns in the select list that no message has.
    fn unselectable(&self) -> Vec<Diagnosis> {
        let exprs = self.select.fields.iter().filter_map(|field| match field {
            Field::Expr { expr, .. } => Some(expr),
            Field::Star(_) => None,
        });
        let found = exprs.chain(&self.select.group_by).flat_map(|expr| self.absent_of(Some(expr)));
        let mut found: Vec<Diagnosis> = found.map(|one| Diagnosis { operator: "project", ..one }).collect();
        found.dedup();
        found.truncate(3);
        found
    }

    /// Columns in an expression that no message has.
    fn absent_of(&self, expr: Option<&Expr>) -> Vec<Diagnosis> {
        let mut found = Vec::new();
        for (stream, column) in expr.into_iter().flat_map(|expr| columns(expr, self.select)) {
            let streams: Vec<&(Text, SeenFields)> = self.seen_of(stream.as_ref());
            let messages: u64 = streams.iter().map(|(_, seen)| seen.messages).sum();
            let known =
                streams.iter().any(|(_, seen)| seen.messages == 0 || seen.partial || seen.field(&column).is_some());
            if messages == 0 || known {
                continue;
            }
            let names = streams.iter().flat_map(|(_, seen)| seen.fields.iter().map(|field| field.name.as_str()));
            let hint = suggest::nearest(&column, names.clone()).map_or_else(
                || {
                    let names: Vec<&str> = names.take(8).collect();
                    format!("they have {}", names.join(", "))
                },
                |near| format!("did you mean {near}?"),
            );
            let message = format!("Field {column} was in none of the last {}; {hint}", counted(messages, "message"));
            found.push(Diagnosis { operator: "filter", cause: Cause::AbsentField, message });
        }
        found
    }

    /// A column in an expression, with one of its values.
    fn example_of(&self, expr: &Expr) -> Option<(Text, String)> {
        columns(expr, self.select).into_iter().find_map(|(stream, column)| {
            let example = self.seen_of(stream.as_ref()).into_iter().find_map(|(_, seen)| seen.field(&column))?;
            Some((column, example.example.clone()))
        })
    }

    /// The fields seen in the streams that a column may belong to.
    fn seen_of(&self, stream: Option<&Text>) -> Vec<&(Text, SeenFields)> {
        self.seen.iter().filter(|(name, _)| stream.is_none_or(|stream| stream == name)).collect()
    }
}

/// The columns that an expression reads, each with its stream if it is named. Aliases of the select list are replaced
/// by the columns that they read.
fn columns(expr: &Expr, select: &Select) -> Vec<(Option<Text>, Text)> {
    let sources = || std::iter::once(&select.from).chain(select.joins.iter().map(|join| &join.source));
    let alias = |name: &Text| {
        select.fields.iter().find_map(|field| match field {
            Field::Expr { expr, alias: Some(alias), .. } if alias.name == *name => Some(expr),
            _ => None,
        })
    };
    let mut found = Vec::new();
    let mut named: Vec<&Expr> = vec![expr];
    let mut seen = Vec::new();
    // An item may refer to earlier items, and use its own name for a column.
    while let Some(expr) = named.pop() {
        each_name(expr, &mut |stream, column| {
            let source = stream.map(|stream| {
                let is = |source: &&crate::sql::ast::Source| {
                    source.name.name == *stream || source.alias.as_ref().is_some_and(|alias| alias.name == *stream)
                };
                (stream, sources().find(is))
            });
            match source {
                Some((_, Some(source))) => found.push((Some(source.name.name.clone()), column.clone())),
                // This is a member of a column.
                Some((column, None)) => found.push((None, column.clone())),
                None => match alias(column).filter(|_| !seen.contains(column)) {
                    Some(expr) => {
                        seen.push(column.clone());
                        named.push(expr);
                    }
                    None if seen.contains(column) || !found.iter().any(|(_, known)| known == column) => {
                        found.push((None, column.clone()));
                    }
                    None => {}
                },
            }
        });
    }
    found
}

/// `1 row`, `2 rows`.
fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
