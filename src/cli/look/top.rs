//! `plutino top`: all rules of a service, live.

use std::cmp::Ordering;
use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::table::{lines, short};
use super::{Asked, Door, Failure};
use crate::cli::say;
use crate::cli::terminal::{Block, Size};
use crate::io::printable;

/// The most rules shown by `--once`, and where the output is no terminal.
const SHOWN: usize = 50;

/// The lines of a table that are not rules: the sums, an empty line or a notice, the heading, the number of hidden rules.
const OTHER_LINES: usize = 4;

/// Show all rules of a service with their rates, live
///
/// The table is redrawn every second, and shows as many rules as fit the terminal. Type the name of a column and Enter to
/// sort by it, q and Enter to end.
#[derive(Args)]
pub struct Top {
    /// Sort by this column; numbers in descending order
    #[arg(long, value_enum, value_name = "COLUMN", default_value_t = Column::In, ignore_case = true)]
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

/// A column of the table. The aliases are its heading, and its name in the JSON lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Column {
    /// the rule's id
    Rule,
    /// its state
    #[value(aliases(["status"]))]
    State,
    /// rows per second
    #[value(aliases(["in/s", "inRate"]))]
    In,
    /// sent messages per second
    #[value(aliases(["out/s", "outRate"]))]
    Out,
    /// errors per second
    #[value(aliases(["errors/s", "errorRate"]))]
    Errors,
    /// lost messages per second
    #[value(aliases(["lost/s", "lostRate"]))]
    Lost,
    /// messages that wait for receivers
    Waiting,
    /// connected clients
    Clients,
    /// median latency
    #[value(aliases(["p50 µs", "p50Us"]))]
    P50,
    /// 99th percentile of the latency
    #[value(aliases(["p99 µs", "p99Us"]))]
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
        let typed = if self.once { None } else { Some(typed()) };
        let is_live = !self.once && !self.json && io::stdout().is_terminal();
        let (mut before, mut at) = (service.get("/overview")?, Instant::now());
        let (mut block, mut notice) = (Block::default(), String::new());
        loop {
            if let Some(word) = wait(typed.as_ref(), every) {
                if word.eq_ignore_ascii_case("q") {
                    return Ok(());
                }
                match named(&word) {
                    // Only Enter shows the next table at once.
                    _ if word.is_empty() => {}
                    Ok(column) => (self.sort, notice) = (column, String::new()),
                    Err(why) if is_live => notice = why,
                    Err(why) => say(&format!("plutino: {why}")),
                }
                // A terminal shows the typed line below the table.
                if io::stdin().is_terminal() {
                    block.grow();
                }
            }
            let now = service.get("/overview")?;
            let rules = rules(&before, &now, at.elapsed(), self.sort);
            (before, at) = (now, Instant::now());
            let mut out = io::stdout().lock();
            if self.json {
                writeln!(out, "{}", Value::Array(rules))?;
            } else if is_live {
                let size = Size::of(io::stdout());
                // The line in which the user types needs room, too.
                let room = size.lines().saturating_sub(1 + OTHER_LINES).max(1);
                write!(out, "{}", block.redraw(&table(&before, &rules, &notice, room), size))?;
            } else {
                writeln!(out, "{}", table(&before, &rules, "", SHOWN).join("\n"))?;
            }
            out.flush()?;
            if self.once {
                return Ok(());
            }
        }
    }
}

/// The column with this name or heading.
///
/// # Errors
/// The names of all columns.
fn named(word: &str) -> Result<Column, String> {
    Column::from_str(word, true).map_err(|_| {
        let names: Vec<String> = Column::value_variants()
            .iter()
            .filter_map(|column| Some(column.to_possible_value()?.get_name().to_owned()))
            .collect();
        format!("there is no column {}; there are {}", printable(word), names.join(", "))
    })
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

/// The table with `most` rules. The notice is shown above it.
fn table(overview: &Value, rules: &[Value], notice: &str, most: usize) -> Vec<String> {
    let cell = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => short(number.as_f64().unwrap_or(0.0)),
        _ => "-".to_owned(),
    };
    let mut rows = vec![COLUMNS.iter().map(|(_, heading, _)| (*heading).to_owned()).collect::<Vec<_>>()];
    rows.extend(rules.iter().take(most).map(|rule| COLUMNS.iter().map(|(.., key)| cell(&rule[*key])).collect()));
    let memory =
        overview["memoryBytes"].as_u64().map_or_else(String::new, |bytes| format!(", {} MB", bytes / 1_000_000));
    let mut all =
        vec![format!("{} rules, {} clients{memory}", rules.len(), cell(&overview["clients"])), notice.to_owned()];
    all.extend(lines(&rows));
    if rules.len() > most {
        all.push(format!("… and {} more", rules.len() - most));
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
        let shown = table(&now, &sorted, "", 2);
        assert!(shown[2].starts_with("RULE") && shown[2].contains("WAITING"), "{shown:?}");
        assert_eq!(shown.len(), OTHER_LINES - 1 + 2);
        let shown = table(&now, &sorted, "a notice", 1);
        assert_eq!((shown[1].as_str(), shown[4].as_str()), ("a notice", "… and 1 more"));
        assert_eq!(shown.len(), OTHER_LINES + 1);
    }

    #[test]
    fn columns_are_found_by_name_and_heading() {
        for (column, heading, key) in COLUMNS {
            for word in [heading, &heading.to_lowercase(), key, &key.to_uppercase()] {
                assert_eq!(named(word), Ok(column), "{word}");
            }
        }
        assert_eq!((named("out"), named("Lost")), (Ok(Column::Out), Ok(Column::Lost)));
        let expected =
            "there is no column nosuch; there are rule, state, in, out, errors, lost, waiting, clients, p50, p99";
        assert_eq!(named("nosuch"), Err(expected.to_owned()));
    }
}
