//! `plutino top`: all rules of a service, live.

use std::cmp::Ordering;
use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::table::{lines, short};
use super::{Asked, Door, Failure};

/// The most rules shown on a terminal.
const SHOWN: usize = 50;

/// Show all rules of a service with their rates, live
///
/// The table is redrawn every second. Type the name of a column and Enter to sort by it, q and Enter to end.
#[derive(Args)]
pub struct Top {
    /// Sort by this column; numbers in descending order
    #[arg(long, value_enum, value_name = "COLUMN", default_value_t = Column::In)]
    sort: Column,
    /// Milliseconds between two updates
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    every: u64,
    /// Print one table and end
    #[arg(long)]
    once: bool,
    /// Print JSON lists instead of tables
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    door: Door,
}

/// A column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Column {
    /// the rule's id
    Rule,
    /// its state
    State,
    /// rows per second
    In,
    /// sent messages per second
    Out,
    /// errors per second
    Errors,
    /// lost messages per second
    Lost,
    /// messages that wait for receivers
    Waiting,
    /// connected clients
    Clients,
    /// median latency
    P50,
    /// 99th percentile of the latency
    P99,
}

const COLUMNS: [(Column, &str, &str); 10] = [
    (Column::Rule, "RULE", "rule"),
    (Column::State, "STATE", "status"),
    (Column::In, "IN/S", "inRate"),
    (Column::Out, "OUT/S", "outRate"),
    (Column::Errors, "ERRORS/S", "errorRate"),
    (Column::Lost, "LOST/S", "lostRate"),
    (Column::Waiting, "WAITING", "waiting"),
    (Column::Clients, "CLIENTS", "clients"),
    (Column::P50, "P50 µs", "p50Us"),
    (Column::P99, "P99 µs", "p99Us"),
];

impl Top {
    pub fn run(mut self) -> Result<(), Failure> {
        let service = Asked::new(&self.door)?;
        let every = Duration::from_millis(self.every);
        let typed = if io::stdin().is_terminal() && !self.once { Some(typed()) } else { None };
        let (mut before, mut at) = (service.get("/overview")?, Instant::now());
        let mut drawn = 0;
        loop {
            if let Some(word) = wait(typed.as_ref(), every) {
                if word == "q" {
                    return Ok(());
                }
                if let Ok(column) = Column::from_str(&word, true) {
                    self.sort = column;
                }
                // The typed line is below the table.
                drawn += 1;
            }
            let now = service.get("/overview")?;
            let rules = rules(&before, &now, at.elapsed(), self.sort);
            (before, at) = (now, Instant::now());
            let mut out = io::stdout().lock();
            if self.json {
                writeln!(out, "{}", Value::Array(rules))?;
            } else {
                let table = table(&before, &rules);
                if !self.once && io::stdout().is_terminal() {
                    if drawn > 0 {
                        write!(out, "\x1b[{drawn}A\x1b[J")?;
                    }
                    drawn = table.len();
                    write!(out, "\x1b[?7l{}\n\x1b[?7h", table.join("\n"))?;
                } else {
                    writeln!(out, "{}", table.join("\n"))?;
                }
            }
            out.flush()?;
            if self.once {
                return Ok(());
            }
        }
    }
}

/// Waits for the next update; typing a word ends the wait.
fn wait(typed: Option<&mpsc::Receiver<String>>, every: Duration) -> Option<String> {
    let Some(typed) = typed else {
        std::thread::sleep(every);
        return None;
    };
    match typed.recv_timeout(every) {
        Ok(word) => Some(word),
        Err(RecvTimeoutError::Timeout) => None,
        Err(RecvTimeoutError::Disconnected) => {
            std::thread::sleep(every);
            None
        }
    }
}

/// The typed lines. The reading thread ends with the process.
fn typed() -> mpsc::Receiver<String> {
    let (sender, typed) = mpsc::sync_channel(8);
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line.trim().to_owned()).is_err() {
                return;
            }
        }
    });
    typed
}

/// The rules with their rates between two updates, sorted.
fn rules(before: &Value, now: &Value, passed: Duration, sort: Column) -> Vec<Value> {
    let of = |overview: &Value| overview["rules"].as_array().cloned().unwrap_or_default();
    let old = of(before);
    let mut rules: Vec<Value> = of(now)
        .into_iter()
        .map(|rule| {
            let was = old.iter().find(|was| was["id"] == rule["id"]);
            let rate = |name: &str| {
                let old = was.and_then(|was| was[name].as_u64()).unwrap_or(0);
                // A restarted rule counts from 0.
                let grown = rule[name].as_u64().unwrap_or(0).saturating_sub(old) as f64;
                (grown / passed.as_secs_f64().max(1e-3) * 10.0).round() / 10.0
            };
            json!({
                "rule": rule["id"], "status": rule["status"], "inRate": rate("in"), "outRate": rate("out"),
                "errorRate": rate("errors"), "lostRate": rate("lost"), "clients": rule["clients"],
                "p50Us": rule["p50Us"], "p99Us": rule["p99Us"], "in": rule["in"], "out": rule["out"],
                "errors": rule["errors"], "lost": rule["lost"], "waiting": rule["waiting"],
                "watermarkLagMs": rule["watermarkLagMs"],
            })
        })
        .collect();
    let key = COLUMNS.iter().find(|(column, ..)| *column == sort).map_or("rule", |(.., key)| *key);
    rules.sort_by(|one, other| order(&one[key], &other[key]).then_with(|| order(&one["rule"], &other["rule"])));
    rules
}

/// Numbers descending, texts ascending, missing values last.
fn order(one: &Value, other: &Value) -> Ordering {
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => other.total_cmp(&one),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => one.as_str().unwrap_or_default().cmp(other.as_str().unwrap_or_default()),
    }
}

fn table(overview: &Value, rules: &[Value]) -> Vec<String> {
    let cell = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => short(number.as_f64().unwrap_or(0.0)),
        _ => "-".to_owned(),
    };
    let mut rows = vec![COLUMNS.iter().map(|(_, heading, _)| (*heading).to_owned()).collect::<Vec<_>>()];
    rows.extend(rules.iter().take(SHOWN).map(|rule| COLUMNS.iter().map(|(.., key)| cell(&rule[*key])).collect()));
    let memory =
        overview["memoryBytes"].as_u64().map_or_else(String::new, |bytes| format!(", {} MB", bytes / 1_000_000));
    let mut all = vec![format!("{} rules, {} clients{memory}", rules.len(), cell(&overview["clients"])), String::new()];
    all.extend(lines(&rows));
    if rules.len() > SHOWN {
        all.push(format!("… and {} more", rules.len() - SHOWN));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_between_two_looks_and_columns_sort() {
        let rule = |id: &str, rows: u64| {
            json!({
                "id": id, "status": "running", "in": rows, "out": 0, "errors": 0, "lost": 0, "waiting": 7 * rows,
                "clients": 1,
            })
        };
        let before = json!({"rules": [rule("a", 0), rule("b", 0)]});
        let now = json!({"rules": [rule("a", 10), rule("b", 40)]});
        let sorted = rules(&before, &now, Duration::from_secs(2), Column::In);
        assert_eq!((&sorted[0]["rule"], &sorted[0]["inRate"]), (&json!("b"), &json!(20.0)));
        let sorted = rules(&before, &now, Duration::from_secs(2), Column::Rule);
        assert_eq!(sorted[0]["rule"], "a");
        let sorted = rules(&before, &now, Duration::from_secs(2), Column::Waiting);
        assert_eq!((&sorted[0]["rule"], &sorted[0]["waiting"]), (&json!("b"), &json!(280)));
        assert!(table(&now, &sorted)[2].contains("WAITING"), "{:?}", table(&now, &sorted));
        assert!(table(&now, &sorted)[2].starts_with("RULE"), "{:?}", table(&now, &sorted));
    }
}
