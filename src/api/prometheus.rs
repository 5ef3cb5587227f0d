//! `/metrics`: all counters, in Prometheus' text format 0.0.4.
//!
//! Series that eKuiper has keep their names (`kuiper_source_records_in_total` …, with the labels rule, type, op and
//! instance); others are named `plutino_…`. The values come from existing counters: nothing is counted only for this
//! page. State sizes are measured when the page is requested.

use std::fmt::Write;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::guard::{self, Guarded};
use super::heavy;
use super::process::Usage;
use crate::io::UNREAD;
use crate::memory;
use crate::metrics::{LATENCY_BOUNDS, Latency};
use crate::service::{Counters, Phase, RuleReport, Service};
use crate::time::clock_steps;

/// How long the page waits for the state sizes of a data thread.
const MEASURING: Duration = Duration::from_millis(500);

/// The route of the metrics.
pub fn routes() -> Router<Service> {
    Router::new().route("/metrics", get(metrics)).route_layer(middleware::from_fn(heavy::few))
}

/// Only the metrics, for a separate port.
pub fn metrics_app(service: Service) -> Router {
    let guarded = Guarded::plain(&service);
    routes().with_state(service).layer(middleware::from_fn_with_state(guarded, guard::guard))
}

async fn metrics(State(service): State<Service>) -> Response {
    let mut page = Page::default();
    let measured = service.measure(MEASURING).await;
    for rule in service.rules() {
        // A rule that was deleted in the meantime is left out.
        if let Ok(report) = service.rule_status(&rule.id).await {
            page.rule(&rule.id, &report);
        }
        if let Some(size) = measured.rules.get(&rule.id) {
            page.state.sample(&[("rule", &rule.id)], size.bytes);
            size.windows.iter().for_each(|windows| page.windows.sample(&[("rule", &rule.id)], windows));
        }
    }
    for (name, size) in &measured.tables {
        page.table_rows.sample(&[("table", name)], size.rows);
        page.table_state.sample(&[("table", name)], size.bytes);
    }
    for queue in service.waiting().await {
        let thread = queue.thread.to_string();
        page.waiting.sample(&[("stream", &queue.stream), ("thread", &thread)], queue.messages);
    }
    for (address, count) in service.unread_messages().await {
        // The series belongs to no rule, so it names the endpoint.
        let labels = [("rule", ""), ("type", "endpoint"), ("op", &address), ("cause", UNREAD)];
        page.dropped.sample(&labels, count);
    }
    page.damage.sample(&[], service.damage().count());
    for (cause, count) in service.refused_handshakes().await {
        page.refused.sample(&[("cause", cause)], count);
    }
    page.lost_lines.sample(&[], crate::logging::lost_lines());
    for (step, count) in memory::counts() {
        page.memory_acts.sample(&[("step", step)], count);
    }
    page.memory_budget.sample(&[], memory::budget());
    page.memory_pressure.sample(&[], memory::level() as u8);
    page.unfinished.sample(&[], service.unfinished_bytes().await);
    page.clock_steps.sample(&[], clock_steps());
    for (cause, count) in service.disconnects().await {
        page.disconnects.sample(&[("cause", cause)], count);
    }
    let mut texts = page.texts();
    texts.push(super::views::metrics(&service).await);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], heavy::Parts::body(texts)).into_response()
}

/// A counter of an operator: name, type and meaning.
struct Field {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    /// Whether only sources and sinks have it.
    link: bool,
    value: fn(&Counters) -> i64,
}

const FIELDS: [Field; 8] = [
    Field {
        name: "records_in_total",
        kind: "counter",
        help: "What came in",
        link: false,
        value: |part| part.records_in as i64,
    },
    Field {
        name: "records_out_total",
        kind: "counter",
        help: "What went on",
        link: false,
        value: |part| part.records_out as i64,
    },
    Field {
        name: "messages_processed_total",
        kind: "counter",
        help: "What was worked on",
        link: false,
        value: |part| part.processed as i64,
    },
    Field {
        name: "exceptions_total",
        kind: "counter",
        help: "Errors",
        link: false,
        value: |part| part.exceptions as i64,
    },
    Field {
        name: "last_invocation",
        kind: "gauge",
        help: "When it did something last, in ms since the epoch; 0: never",
        link: false,
        value: |part| part.last_invocation,
    },
    Field {
        name: "process_latency_us",
        kind: "gauge",
        help: "Median time from reading a message to handing its result on, in microseconds",
        link: false,
        value: |part| part.latency_us as i64,
    },
    Field {
        name: "buffer_length",
        kind: "gauge",
        help: "Messages that wait",
        link: false,
        value: |part| part.queued as i64,
    },
    Field {
        name: "connection_status",
        kind: "gauge",
        help: "1 connected, 0 connecting, -1 disconnected",
        link: true,
        value: |part| part.link.as_ref().map_or(0, |link| i64::from(link.state)),
    },
];

const KINDS: [&str; 3] = ["source", "op", "sink"];

/// The samples of one metric name.
struct Family {
    name: String,
    kind: &'static str,
    help: &'static str,
    samples: String,
}

impl Family {
    fn new(name: impl Into<String>, kind: &'static str, help: &'static str) -> Family {
        Family { name: name.into(), kind, help, samples: String::new() }
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.sample_of("", labels, value);
    }

    /// A sample of a histogram: `part` is the suffix of its name.
    fn sample_of(&mut self, part: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.samples.push_str(&self.name);
        self.samples.push_str(part);
        for (index, (name, value)) in labels.iter().enumerate() {
            let _ = write!(self.samples, "{}{name}=\"", if index == 0 { '{' } else { ',' });
            for c in value.chars() {
                match c {
                    '\\' => self.samples.push_str("\\\\"),
                    '"' => self.samples.push_str("\\\""),
                    '\n' => self.samples.push_str("\\n"),
                    c => self.samples.push(c),
                }
            }
            self.samples.push('"');
        }
        let _ = writeln!(self.samples, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

struct Page {
    /// For each kind of operator, one family for each field.
    parts: Vec<Family>,
    rule_status: Family,
    running: u64,
    stopped: u64,
    rows: Family,
    late: Family,
    future: Family,
    feed: Family,
    dropped: Family,
    lag: Family,
    state: Family,
    windows: Family,
    table_rows: Family,
    table_state: Family,
    waiting: Family,
    clients: Family,
    bytes: Family,
    unproven: Family,
    refused: Family,
    disconnects: Family,
    lost_lines: Family,
    memory_acts: Family,
    memory_budget: Family,
    memory_pressure: Family,
    unfinished: Family,
    clock_steps: Family,
    damage: Family,
    latencies: Family,
}

impl Default for Page {
    fn default() -> Page {
        let named =
            |kind: &str, field: &Field| Family::new(format!("kuiper_{kind}_{}", field.name), field.kind, field.help);
        let parts = KINDS.iter().flat_map(|kind| FIELDS.iter().map(move |field| named(kind, field))).collect();
        let counter = |name, help| Family::new(name, "counter", help);
        let gauge = |name, help| Family::new(name, "gauge", help);
        Page {
            parts,
            rule_status: gauge("kuiper_rule_status", "1 running, 0 stopped, -1 stopped by an error"),
            running: 0,
            stopped: 0,
            rows: counter(
                "plutino_rule_thread_rows_total",
                "Rows that each data thread has read for a rule that is on several",
            ),
            late: counter("plutino_rule_late_rows_total", "Rows behind the watermark, dropped"),
            future: counter("plutino_rule_future_rows_total", "Rows too far ahead of the clock, dropped"),
            feed: counter("plutino_feed_messages_total", "Odd messages of a rule's streams, by kind"),
            dropped: counter("plutino_dropped_messages_total", "Messages that a source or sink lost, by cause"),
            lag: gauge("plutino_rule_watermark_lag_ms", "How far the watermark is behind the clock, in event time"),
            state: gauge("plutino_rule_state_bytes", "Memory of what a rule remembers, estimated"),
            windows: gauge("plutino_rule_open_windows", "Windows with rows that have not ended"),
            table_rows: gauge("plutino_table_rows", "Rows of a lookup table"),
            table_state: gauge("plutino_table_state_bytes", "Memory of a lookup table, of all data threads, estimated"),
            waiting: gauge("plutino_stream_queue_messages", "Messages that were read and wait for the data thread"),
            clients: gauge("plutino_clients", "Peers of a source or sink that are connected now"),
            bytes: counter("plutino_bytes_total", "Bytes of messages that a source took or a sink sent"),
            unproven: gauge(
                "plutino_unproven_messages",
                "Messages that a peer's socket has taken and of which no pong tells yet that they were read",
            ),
            refused: counter("plutino_refused_handshakes_total", "Handshakes that the data server refused, by cause"),
            lost_lines: counter("plutino_log_lost_lines_total", "Lines of the log that could not be written in time"),
            memory_acts: counter(
                "plutino_memory_acts_total",
                "Actions taken to free memory: clients refused, queues shortened or their clients disconnected, rules stopped",
            ),
            memory_budget: gauge(
                "plutino_memory_budget_bytes",
                "What the process may take (basic.maxMemory); 0: no limit",
            ),
            memory_pressure: gauge(
                "plutino_memory_pressure",
                "0 enough memory, 1 no new clients, 2 short queues, 3 the rule with the largest state fails",
            ),
            unfinished: gauge("plutino_unfinished_bytes", "Bytes of messages that are not whole yet"),
            clock_steps: counter("plutino_clock_steps_total", "Steps of the system's clock by more than a second"),
            disconnects: counter(
                "plutino_disconnects_total",
                "Websocket connections that ended out of order, by cause",
            ),
            latencies: Family::new(
                "kuiper_sink_process_latency_us_hist",
                "histogram",
                "Time from reading a message to handing its result on, in microseconds",
            ),
            damage: gauge("plutino_store_damage", "Damaged records of the store; it is read-only if there are any"),
        }
    }
}

impl Page {
    fn rule(&mut self, id: &str, report: &RuleReport) {
        let running = matches!(report.phase, Phase::Running | Phase::Starting | Phase::Stopping);
        let status = if running { 1 } else { -i32::from(report.phase == Phase::Failed) };
        self.rule_status.sample(&[("rule", id)], status);
        *if running { &mut self.running } else { &mut self.stopped } += 1;
        for (name, counters) in &report.parts {
            let Some((kind, op)) = name.split_once('_') else { continue };
            let Some(first) = KINDS.iter().position(|known| *known == kind) else { continue };
            let labels = [("rule", id), ("type", kind), ("op", op), ("op_instance", "0")];
            for (index, field) in FIELDS.iter().enumerate() {
                if !field.link || counters.link.is_some() {
                    self.parts[first * FIELDS.len() + index].sample(&labels, (field.value)(counters));
                }
            }
        }
        for (kind, op, cause, count) in report.losses.iter() {
            self.dropped.sample(&[("rule", id), ("type", kind), ("op", op), ("cause", cause)], count);
        }
        let Some(status) = &report.engine else { return };
        if let Some(latency) = &status.latency {
            for (name, _) in &report.parts {
                let Some(op) = name.strip_prefix("sink_") else { continue };
                self.latency(&[("rule", id), ("type", "sink"), ("op", op), ("op_instance", "0")], latency);
            }
        }
        if status.work.threads.len() > 1 {
            for (thread, rows) in &status.work.threads {
                self.rows.sample(&[("rule", id), ("thread", &thread.to_string())], rows);
            }
        }
        self.late.sample(&[("rule", id)], status.late);
        self.future.sample(&[("rule", id)], status.future);
        for (event, count) in status.feed.each() {
            self.feed.sample(&[("rule", id), ("kind", event.name())], count);
        }
        if let Some(lag) = report.watermark_lag {
            self.lag.sample(&[("rule", id)], lag);
        }
        let sources = status.sources.iter().map(|(name, link)| ("source", name.clone(), link));
        let sinks = status.sinks.iter().enumerate().map(|(number, link)| ("sink", number.to_string(), link));
        for (kind, op, link) in sources.chain(sinks) {
            let labels = [("rule", id), ("type", kind), ("op", &op)];
            self.clients.sample(&labels, link.peers);
            self.bytes.sample(&labels, link.bytes);
            if kind == "sink" {
                self.unproven.sample(&labels, link.unproven);
            }
        }
    }

    /// The time from reading a message to giving its result to the sinks, which all sinks of a rule share.
    fn latency(&mut self, labels: &[(&str, &str)], latency: &Latency) {
        let bounds = LATENCY_BOUNDS.iter().map(u64::to_string).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(latency.buckets.iter().chain([&latency.count])) {
            self.latencies.sample_of("_bucket", &[labels, &[("le", bound.as_str())]].concat(), count);
        }
        self.latencies.sample_of("_sum", labels, latency.sum_us);
        self.latencies.sample_of("_count", labels, latency.count);
    }

    /// The page, one text for each family.
    fn texts(self) -> Vec<String> {
        let mut count = Family::new("kuiper_rule_count", "gauge", "Rules by state");
        count.sample(&[("status", "running")], self.running);
        count.sample(&[("status", "stop")], self.stopped);
        let own = [
            self.rule_status,
            count,
            self.rows,
            self.late,
            self.future,
            self.feed,
            self.dropped,
            self.lag,
            self.state,
            self.windows,
        ];
        let rest = [
            self.table_rows,
            self.table_state,
            self.waiting,
            self.clients,
            self.bytes,
            self.unproven,
            self.refused,
            self.disconnects,
            self.lost_lines,
            self.memory_acts,
            self.memory_budget,
            self.memory_pressure,
            self.unfinished,
            self.clock_steps,
            self.damage,
            self.latencies,
        ];
        let mut process = Vec::new();
        if let Some(usage) = Usage::now() {
            let mut one = |name, kind, help, value: f64| {
                let mut family = Family::new(name, kind, help);
                family.sample(&[], value);
                process.push(family);
            };
            one("process_cpu_seconds_total", "counter", "Time on all processors, in seconds", usage.cpu_seconds);
            one("process_resident_memory_bytes", "gauge", "Memory in use, in bytes", usage.resident_bytes as f64);
            one("process_start_time_seconds", "gauge", "Start since the epoch, in seconds", usage.start_seconds);
        }
        let all = own.into_iter().chain(rest).chain(self.parts).chain(process);
        let with_head = |Family { name, kind, help, mut samples }: Family| {
            samples.insert_str(0, &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
            samples
        };
        all.filter(|family| !family.samples.is_empty()).map(with_head).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut family = Family::new("f", "gauge", "");
        family.sample(&[("a", "x\"y\\z\nw"), ("b", "")], 1);
        family.sample(&[], 2);
        assert_eq!(family.samples, "f{a=\"x\\\"y\\\\z\\nw\",b=\"\"} 1\nf 2\n");
    }
}
