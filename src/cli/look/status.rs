//! `plutino status`: shows the state of rules and views, and why one is silent.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use clap::Args;
use serde_json::Value;

use super::table::{duration, lines, short};
use super::{Asked, Door, Failure};
use crate::cli::status::micros;
use crate::io::printable;

/// The time between two queries, for rates.
const LOOK: Duration = Duration::from_millis(500);

/// The most errors shown for one operator.
const ERRORS: usize = 3;

/// Show the state of the rules and views of a service, and why one is silent
///
/// Without a name, all rules and views are listed. With the name of a rule, its operators are shown with the numbers of
/// rows that entered, left and were lost, its sources and sinks, the last errors with the messages that caused them,
/// and a diagnosis if there are no results. With the name of a view, its rows, changes, clients and sources, and a
/// diagnosis if it has no rows.
#[derive(Args)]
pub struct Status {
    /// Name of a rule or view
    name: Option<String>,
    /// Print the service's response as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    door: Door,
}

impl Status {
    pub fn run(self) -> Result<(), Failure> {
        let service = Asked::new(&self.door)?;
        let text = match &self.name {
            None => self.of_all(&service)?,
            Some(name) => match self.of_rule(&service, name) {
                Err(Failure::Service(refusal)) => self.of_view(&service, name, refusal)?,
                result => result?,
            },
        };
        writeln!(io::stdout().lock(), "{text}")?;
        Ok(())
    }

    fn of_all(&self, service: &Asked) -> Result<String, Failure> {
        let overview = service.get("/overview")?;
        if self.json {
            return Ok(overview.to_string());
        }
        let (rules, views) = (list(&overview["rules"]), list(&overview["views"]));
        let mut all = if rules.is_empty() { vec!["There are no rules.".to_owned()] } else { lines_of(rules) };
        // There are no results, or they have no receiver.
        let stuck = |rule: &Value| rule["out"] == 0 || rule["lost"] != 0 || rule["unconnected"] != 0;
        let silent = |rule: &&Value| rule["status"] == "running" && stuck(rule);
        for rule in rules.iter().filter(silent) {
            let id = text(&rule["id"]);
            let status = service.get(&format!("/rules/{id}/status"))?;
            let first = status["diagnosis"].as_array().and_then(|all| all.first());
            all.extend(first.map(|found| format!("{id}: {}", finding(found))));
        }
        if !views.is_empty() {
            all.push(String::new());
            all.extend(lines_of_views(views));
            for view in views {
                let first = list(&view["diagnosis"]).first();
                all.extend(first.map(|found| format!("{}: {}", text(&view["name"]), finding(found))));
            }
        }
        Ok(all.join("\n"))
    }

    /// The view with this name; if there is none, fails with `refusal`, the error for a missing rule.
    fn of_view(&self, service: &Asked, name: &str, refusal: String) -> Result<String, Failure> {
        let known = service.get("/views")?;
        if !list(&known).iter().any(|view| view == name) {
            return Err(Failure::Service(refusal));
        }
        let status = service.get(&format!("/views/{name}/status"))?;
        Ok(if self.json { status.to_string() } else { shown_view(name, &status).join("\n") })
    }

    fn of_rule(&self, service: &Asked, rule: &str) -> Result<String, Failure> {
        let path = format!("/rules/{rule}/status?details");
        let before = service.get(&path)?;
        if self.json {
            return Ok(before.to_string());
        }
        let runs = before["status"] == "running";
        let now = if runs {
            std::thread::sleep(LOOK);
            service.get(&path)?
        } else {
            before.clone()
        };
        Ok(shown(rule, &before, &now).join("\n"))
    }
}

fn lines_of(rules: &[Value]) -> Vec<String> {
    let heading = ["RULE", "STATE", "UP", "IN", "OUT", "WAITING", "ERRORS", "LOST", "CLIENTS"].map(str::to_owned);
    let row = |rule: &Value| {
        let of = |name: &str| number(&rule[name]);
        let state = text(&rule["status"]);
        let up = up(rule["started"].as_i64(), state == "running");
        let counts = ["in", "out", "waiting", "errors", "lost", "clients"].map(of);
        [text(&rule["id"]), state, up].into_iter().chain(counts).collect()
    };
    lines(&std::iter::once(heading.to_vec()).chain(rules.iter().map(row)).collect::<Vec<_>>())
}

fn lines_of_views(views: &[Value]) -> Vec<String> {
    let heading = ["VIEW", "STATE", "IN", "ROWS", "CHANGES", "ERRORS", "CLIENTS"].map(str::to_owned);
    let row = |view: &Value| {
        let of = |name: &str| number(&view[name]);
        let (name, state) = (text(&view["name"]), text(&view["status"]));
        vec![name, state, of("in"), of("rows"), of("changes"), of("errors"), of("clients")]
    };
    lines(&std::iter::once(heading.to_vec()).chain(views.iter().map(row)).collect::<Vec<_>>())
}

/// A view's status for people.
fn shown_view(name: &str, now: &Value) -> Vec<String> {
    let state = match now["stopped"].as_str() {
        Some(why) => format!("stopped: {}", printable(why)),
        None => "running".to_owned(),
    };
    let of = |name: &str| number(&now[name]);
    let mut all = vec![
        format!("view {name}: {state}"),
        format!("rows: {}, {} bytes with their state", of("rows"), of("stateBytes")),
        format!(
            "changes: {} ({} inserts, {} updates, {} deletes), {} in the last second",
            of("changes"),
            of("inserts"),
            of("updates"),
            of("deletes"),
            of("changesPerSecond")
        ),
        format!("clients: {}, {} of them behind", of("clients"), of("laggingClients")),
    ];
    for (name, what) in [
        ("expired", "rows that left by EXPIRE"),
        ("evicted", "rows that left by MAX_ROWS"),
        ("late", "late messages, dropped"),
        ("errors", "messages and rows lost to errors"),
    ] {
        all.extend(now[name].as_u64().filter(|count| *count > 0).map(|count| format!("{what}: {count}")));
    }
    all.extend(now["lastError"].as_str().map(|error| format!("last error: {}", printable(error))));
    list(&now["sources"]).iter().for_each(|source| all.extend(link_lines("source", source)));
    all.extend(findings(now));
    all
}

/// A rule's status for people; `before` is its status a moment ago.
fn shown(rule: &str, before: &Value, now: &Value) -> Vec<String> {
    let runs = now["status"] == "running";
    let mut all = vec![format!(
        "{rule}: {}{}",
        text(&now["status"]),
        match runs {
            true => format!(" for {}", up(now["lastStartTimestamp"].as_i64(), true)),
            false => some(": ", &text(&now["message"])),
        }
    )];
    if let Some(process) = now["shareOf"].as_u64() {
        all.push(format!("only the share of process {process}: process 0 has the sums over all processes"));
    }
    let operators = list(&now["operators"]);
    if !operators.is_empty() {
        all.push(String::new());
        let heading = ["OPERATOR", "IN", "OUT", "ERRORS", "IN/S", "OUT/S"].map(str::to_owned);
        let mut rows = vec![heading.to_vec()];
        for (at, operator) in operators.iter().enumerate() {
            let rate = |name: &str| {
                let was = before["operators"][at][name].as_u64().unwrap_or(0);
                let grown = operator[name].as_u64().unwrap_or(0).saturating_sub(was);
                short(grown as f64 / LOOK.as_secs_f64())
            };
            let of = |name: &str| number(&operator[name]);
            rows.push(vec![text(&operator["name"]), of("in"), of("out"), of("errors"), rate("in"), rate("out")]);
        }
        all.extend(lines(&rows));
    }
    for (name, links) in [("source", &now["sources"]), ("sink", &now["sinks"])] {
        for link in list(links) {
            all.push(String::new());
            all.extend(link_lines(name, link));
        }
    }
    let mut facts = Vec::new();
    if let (Some(p50), Some(p99)) = (now["latency"]["p50Us"].as_u64(), now["latency"]["p99Us"].as_u64()) {
        facts.push(format!("latency: p50 {}, p99 {}", micros(p50), micros(p99)));
    }
    if let Some(lag) = now["watermarkLagMs"].as_i64() {
        facts.push(format!("watermark: {lag} ms behind the clock"));
    }
    if let Some(bytes) = now["state"]["bytes"].as_u64() {
        let windows = now["state"]["openWindows"].as_u64().map(|open| format!(", {open} open windows"));
        facts.push(format!("state: {bytes} bytes{}", windows.unwrap_or_default()));
    }
    for (name, what) in [("lateRows", "late rows, dropped"), ("futureRows", "rows ahead of the clock, dropped")] {
        facts.extend(now[name].as_u64().filter(|count| *count > 0).map(|count| format!("{what}: {count}")));
    }
    for (name, count) in now.as_object().into_iter().flatten() {
        if let Some(kind) = name.strip_prefix("feed_").and_then(|rest| rest.strip_suffix("_total")) {
            facts.push(format!("messages {}: {}", kind.replace('_', " "), number(count)));
        }
    }
    facts.extend(list(&now["warnings"]).iter().map(|odd| format!("warning: {}", printable(&text(&odd["message"])))));
    if !facts.is_empty() {
        all.push(String::new());
        all.append(&mut facts);
    }
    for operator in operators {
        let errors = list(&operator["lastErrors"]);
        if errors.is_empty() {
            continue;
        }
        all.push(String::new());
        all.push(format!("errors of {}:", text(&operator["name"])));
        for error in errors.iter().rev().take(ERRORS) {
            all.push(format!("  {}", printable(&text(&error["error"]))));
            if let Some(message) = error["message"].as_str().filter(|message| !message.is_empty()) {
                all.push(format!("    of {}", printable(message)));
            }
        }
    }
    all.extend(findings(now));
    all
}

/// The diagnosis under its heading; empty if there is none.
fn findings(now: &Value) -> Vec<String> {
    let found = list(&now["diagnosis"]);
    if found.is_empty() {
        return Vec::new();
    }
    let heading = [String::new(), "diagnosis:".to_owned()];
    heading.into_iter().chain(found.iter().map(|found| format!("  {}", finding(found)))).collect()
}

fn link_lines(kind: &str, link: &Value) -> Vec<String> {
    let name = some(" ", &text(&link["stream"]));
    let address = text(&link["address"]);
    // An endpoint of the data server exists without any client.
    let listens = address.starts_with(':') && link["state"] == "connected";
    let state = if listens { "listening".to_owned() } else { text(&link["state"]) };
    let peer = if listens { "client" } else { "peer" };
    let peers = match link["peers"].as_u64().unwrap_or(0) {
        1 => format!("1 {peer}"),
        peers => format!("{peers} {peer}s"),
    };
    let mut line = format!("{kind}{name} {address}: {state}, {peers}, {} messages", number(&link["messages"]));
    let queued = link["queued"].as_u64().filter(|queued| *queued > 0);
    line.push_str(&queued.map(|queued| format!(", {queued} waiting")).unwrap_or_default());
    for (cause, count) in link["dropped"].as_object().into_iter().flatten() {
        line.push_str(&format!(", {count} lost ({cause})"));
    }
    if link["state"] != "connected" {
        line.push_str(&some(": ", &printable(&text(&link["lastError"]))));
    }
    let client = |client: &Value| {
        format!(
            "  client {} for {}, {} waiting, {} lost",
            text(&client["address"]),
            up(client["since"].as_i64(), true),
            number(&client["queued"]),
            number(&client["dropped"])
        )
    };
    let addresses = list(&link["addresses"]).iter().filter(|at| failures(at) > 1).map(address_line);
    std::iter::once(line).chain(addresses).chain(list(&link["clients"]).iter().map(client)).collect()
}

fn failures(at: &Value) -> u64 {
    ["closed", "unreached"].iter().filter_map(|name| at[*name].as_u64()).sum()
}

/// An address whose connections fail repeatedly.
fn address_line(at: &Value) -> String {
    let up = if at["connected"].as_u64().is_some_and(|up| up > 0) { "connected" } else { "not connected" };
    let (closed, unreached) = (number(&at["closed"]), number(&at["unreached"]));
    let last = some(", last: ", &printable(&text(&at["lastError"])));
    format!("  {}: {up}, {closed} times closed, {unreached} times not reached{last}", text(&at["address"]))
}

fn finding(found: &Value) -> String {
    format!("{}: {}", text(&found["operator"]), printable(&text(&found["message"])))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn number(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string())
}

/// A text after its label; empty if there is no text.
fn some(before: &str, text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{before}{text}") }
}

/// The time that has passed since a time in ms since the epoch.
fn up(since: Option<i64>, runs: bool) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_millis() as i64);
    match since.filter(|since| runs && *since > 0) {
        Some(since) => duration(u64::try_from((now - since) / 1000).unwrap_or(0)),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_silent_rule_says_why() {
        let status = |rows: u64| {
            json!({
                "status": "running", "message": "", "lastStartTimestamp": 0, "lateRows": 0,
                "operators": [
                    {"name": "source_demo", "in": rows, "out": rows, "errors": 0, "lastErrors": []},
                    {"name": "op_2_filter", "in": rows, "out": 0, "errors": 1,
                        "lastErrors": [{"error": "bad", "message": "{\"a\":1}"}]},
                ],
                "sources": [{"stream": "demo", "address": ":1/in", "state": "connected", "peers": 1, "messages": rows}],
                "sinks": [],
                "diagnosis": [{"operator": "filter", "cause": "absentField", "message": "Field t was never there."}],
            })
        };
        let lines = shown("hot", &status(5), &status(10));
        assert_eq!(
            lines,
            [
                "hot: running for -",
                "",
                "OPERATOR     IN  OUT  ERRORS  IN/S  OUT/S",
                "source_demo  10   10       0    10     10",
                "op_2_filter  10    0       1    10      0",
                "",
                "source demo :1/in: listening, 1 client, 10 messages",
                "",
                "errors of op_2_filter:",
                "  bad",
                "    of {\"a\":1}",
                "",
                "diagnosis:",
                "  filter: Field t was never there.",
            ]
        );
    }
}
