//! `plutino watch`: shows a live view on the terminal, as a table that changes in place, or as lines of JSON.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Map, Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::http::Uri;

use super::peer::Access;
use super::remote::Door;
use super::terminal::{Block, Size, cut};
use super::{Failure, Interrupts, block_on, config_of, say};
use crate::io::websocket::Wire;

/// The widest cell of a table, characters.
const WIDE: usize = 40;

/// How long the server may be silent: two of its heartbeats.
const SILENT: Duration = Duration::from_secs(31);

/// Watch a live view: its current rows, then each change
///
/// On a terminal, the rows are a table that changes in place, with as many of the first rows as fit. Otherwise, and
/// with --json, each new, changed or removed row is a line of JSON. A broken connection is dialled again, and continues
/// where it stopped.
#[derive(Args)]
pub struct Watch {
    /// ws://host:port/path of the view, or its name; a name is looked up at the data server of the service that --url
    /// names, or else of the service in the configuration
    #[arg(value_name = "URL|NAME")]
    view: String,
    /// Parameters, such as deviceId=7; repeat a parameter to give it several values
    #[arg(value_name = "PARAM=VALUE")]
    params: Vec<String>,
    /// Print lines of JSON even on a terminal
    #[arg(long)]
    json: bool,
    /// Print the current rows, and end
    #[arg(long)]
    once: bool,
    /// Least number of milliseconds between changes
    #[arg(long, value_name = "MS", default_value_t = 0)]
    every: u64,
    /// Token for the data server, if it requires one
    #[arg(long, env = "PLUTINO_DATA_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    data_token: Option<String>,
    /// URL of the REST API of the service that has the view
    #[arg(long, env = "PLUTINO_URL", value_name = "URL")]
    url: Option<String>,
    /// Token of that service's REST API, if it requires one
    #[arg(long, env = "PLUTINO_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Configuration folder, which names the data server's address
    #[arg(long, value_name = "DIR", default_value = "etc")]
    etc: PathBuf,
    #[command(flatten)]
    access: Access,
}

/// How a connection ended.
enum Ended {
    /// everything requested is printed
    Done,
    /// the connection broke
    Cut(String),
}

impl Watch {
    pub fn run(self) -> Result<(), Failure> {
        let table = !self.json && !self.once && io::stdout().is_terminal();
        let mut rows = Rows::new(table);
        block_on(async {
            let mut interrupts = Interrupts::listen()?;
            let mut reported = String::new();
            loop {
                let ended = tokio::select! {
                    ended = self.follow(&mut rows) => ended?,
                    () = interrupts.next() => return Ok(()),
                };
                let Ended::Cut(why) = ended else { return Ok(()) };
                if self.once {
                    return Err(Failure::Refused(why));
                }
                // The same reason is reported only once.
                if reported != why {
                    say(&format!("{why}; dialling again"));
                    reported = why;
                }
                tokio::select! {
                    () = tokio::time::sleep(super::REDIAL) => {}
                    () = interrupts.next() => return Ok(()),
                }
            }
        })
    }

    /// The URL of the socket, and the name of the view if a message must request it.
    async fn target(&self) -> Result<(String, Option<&str>), Failure> {
        if self.view.contains("://") {
            return Ok((self.view.clone(), None));
        }
        if let Some(service) = &self.url {
            return Ok((format!("{}/live", self.data_server(service).await?), Some(&self.view)));
        }
        let config = config_of(&self.etc)?;
        let scheme = if config.server.tls.is_some() { "wss" } else { "ws" };
        let host = match config.server.ip.as_str() {
            "0.0.0.0" | "::" => "127.0.0.1",
            ip => ip,
        };
        Ok((format!("{scheme}://{host}:{}/live", config.server.port), Some(&self.view)))
    }

    /// The URL of the data server of a service. It is on the host of the service, unless it listens on a specific other
    /// address.
    async fn data_server(&self, service: &str) -> Result<String, Failure> {
        let access = &self.access;
        let door = Door::at(Some(service.to_owned()), self.token.clone(), access.ca.clone(), access.insecure);
        // The client of the REST API blocks its thread.
        let asked = tokio::task::spawn_blocking(move || {
            let answer: Value = serde_json::from_reader(door.download("/overview")?)
                .map_err(|error| Failure::Refused(format!("cannot understand the service's answer: {error}")))?;
            Ok::<Value, Failure>(answer)
        });
        let overview = asked.await.map_err(|error| Failure::Refused(error.to_string()))??;
        let listens = overview["dataServer"].as_str().and_then(|address| address.parse::<SocketAddr>().ok());
        let Some(listens) = listens else {
            return Err(Failure::Refused(format!(
                "the data server of {service} does not listen: it has no view or rule"
            )));
        };
        let scheme = if overview["dataServerTls"] == true { "wss" } else { "ws" };
        let host = service.parse::<Uri>().ok().and_then(|uri| Some(uri.host()?.to_owned()));
        match host {
            Some(host) if listens.ip().is_unspecified() => Ok(format!("{scheme}://{host}:{}", listens.port())),
            _ => Ok(format!("{scheme}://{listens}")),
        }
    }

    fn params(&self) -> Result<Vec<(&str, &str)>, Failure> {
        self.params
            .iter()
            .map(|param| {
                let wrong = || Failure::Usage(format!("{param:?} is not a parameter, expected name=value"));
                param.split_once('=').ok_or_else(wrong)
            })
            .collect()
    }

    async fn follow(&self, rows: &mut Rows) -> Result<Ended, Failure> {
        let (mut url, view) = match self.target().await {
            Ok(target) => target,
            Err(Failure::Refused(why)) => return Ok(Ended::Cut(why)),
            Err(failure) => return Err(failure),
        };
        let params = self.params()?;
        let cursor = rows.cursor.clone();
        if view.is_none() {
            let mut query = form_urlencoded::Serializer::new(String::new());
            params.iter().for_each(|(name, value)| {
                query.append_pair(name, value);
            });
            if self.every > 0 {
                query.append_pair("_every", &self.every.to_string());
            }
            if let Some(cursor) = &cursor {
                query.append_pair("_cursor", cursor);
            }
            let query = query.finish();
            if !query.is_empty() {
                url.push(if url.contains('?') { '&' } else { '?' });
                url.push_str(&query);
            }
        }
        let mut socket = match self.access.dial(&url, self.data_token.as_deref()).await {
            Ok(socket) => socket,
            Err(Failure::Refused(why)) => {
                let hint = match (view, &self.url) {
                    (Some(_), None) => {
                        "; the configuration in --etc says where it is: for another service, use --url or PLUTINO_URL"
                    }
                    _ => "",
                };
                return Ok(Ended::Cut(format!("{why}{hint}")));
            }
            Err(failure) => return Err(failure),
        };
        if let Some(view) = view {
            let mut values: Map<String, Value> = Map::new();
            for (name, value) in params {
                let list = values.entry(name).or_insert_with(|| json!([]));
                list.as_array_mut().into_iter().for_each(|list| list.push(value.into()));
            }
            let mut subscribe = json!({"t": "subscribe", "view": view, "params": values, "every": self.every});
            if let Some(cursor) = cursor {
                subscribe["cursor"] = cursor.into();
            }
            if let Err(error) = socket.send(Message::text(subscribe.to_string())).await {
                return Ok(Ended::Cut(error.to_string()));
            }
        }
        loop {
            let frame = match next(&mut socket).await {
                Ok(frame) => frame,
                Err(why) => return Ok(Ended::Cut(why)),
            };
            let text = |name: &str| frame[name].as_str().unwrap_or_default().to_owned();
            match text("t").as_str() {
                "error" => return Err(Failure::Refused(format!("{}: {}", text("code"), text("message")))),
                "unsubscribed" => {
                    return Err(Failure::Refused(format!("the server ended the subscription: {}", text("why"))));
                }
                _ => rows.apply(&frame)?,
            }
            if self.once && rows.complete_at(&frame) {
                let _ = socket.close(None).await;
                return Ok(Ended::Done);
            }
        }
    }
}

async fn next(socket: &mut WebSocketStream<Wire>) -> Result<Value, String> {
    loop {
        let message =
            tokio::time::timeout(SILENT, socket.next()).await.map_err(|_| "the server is silent".to_owned())?;
        match message {
            Some(Ok(Message::Text(text))) => {
                return serde_json::from_str(&text).map_err(|error| format!("the server did not send JSON: {error}"));
            }
            Some(Ok(Message::Close(_))) | None => return Err("the connection has ended".to_owned()),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.to_string()),
        }
    }
}

/// The rows received so far.
struct Rows {
    /// whether they are shown as a table
    table: bool,
    key: Vec<String>,
    columns: Vec<String>,
    order: Vec<(String, bool)>,
    rows: BTreeMap<String, Map<String, Value>>,
    cursor: Option<String>,
    /// the rows of a cut that is not complete
    loading: Option<BTreeMap<String, Map<String, Value>>>,
    /// the table on the terminal
    block: Block,
}

impl Rows {
    fn new(table: bool) -> Rows {
        Rows {
            table,
            key: Vec::new(),
            columns: Vec::new(),
            order: Vec::new(),
            rows: BTreeMap::new(),
            cursor: None,
            loading: None,
            block: Block::default(),
        }
    }

    fn apply(&mut self, frame: &Value) -> Result<(), Failure> {
        let list = |name: &str| frame[name].as_array().into_iter().flatten().filter_map(Value::as_object).cloned();
        let texts = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        match frame["t"].as_str().unwrap_or_default() {
            "subscribed" => {
                // What an earlier connection began is not continued.
                self.loading = None;
                self.key = texts(&frame["key"]);
                let columns = frame["columns"].as_array().into_iter().flatten();
                self.columns = columns.filter_map(|column| Some(column["name"].as_str()?.to_owned())).collect();
                let order = frame["order"].as_array().into_iter().flatten();
                self.order = order.filter_map(|key| Some((key[0].as_str()?.to_owned(), key[1] == "desc"))).collect();
            }
            "snapshot" => self.loading = Some(BTreeMap::new()),
            "rows" => {
                for row in list("rows") {
                    let key = self.key_of(&row);
                    self.loading.get_or_insert_default().insert(key, row);
                }
            }
            // With `more`, the rows are of several cuts: deltas complete them.
            "ready" if frame["more"] == true => self.cursor = None,
            "ready" => {
                self.cursor = frame["at"].as_str().map(str::to_owned);
                self.swap(frame)?;
            }
            "delta" if frame["more"] == true || self.loading.is_some() => {
                let shown = &self.rows;
                let mut next = self.loading.take().unwrap_or_else(|| shown.clone());
                for row in list("insert").chain(list("update")) {
                    next.insert(self.key_of(&row), row);
                }
                for row in list("delete") {
                    next.remove(&self.key_of(&row));
                }
                self.loading = Some(next);
                self.cursor = frame["at"].as_str().map(str::to_owned);
                if frame["more"] != true {
                    self.swap(frame)?;
                }
            }
            "delta" => {
                for (op, rows) in [("insert", list("insert")), ("update", list("update"))] {
                    for row in rows {
                        self.tell(op, frame, &row)?;
                        let key = self.key_of(&row);
                        self.rows.insert(key, row);
                    }
                }
                for row in list("delete") {
                    self.tell("delete", frame, &row)?;
                    self.rows.remove(&self.key_of(&row));
                }
                self.cursor = frame["at"].as_str().map(str::to_owned);
                self.draw()?;
            }
            "progress" => {
                if let Some(at) = frame["at"].as_object().and_then(|at| at.values().next()).and_then(Value::as_str) {
                    self.cursor = Some(at.to_owned());
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether this frame, which was applied, has completed the rows.
    fn complete_at(&self, frame: &Value) -> bool {
        (frame["t"] == "ready" || frame["t"] == "delta") && self.loading.is_none() && self.cursor.is_some()
    }

    /// Replaces the rows by those that are complete now: only differences are printed.
    fn swap(&mut self, frame: &Value) -> Result<(), Failure> {
        let old = std::mem::replace(&mut self.rows, self.loading.take().unwrap_or_default());
        for (key, row) in &self.rows {
            match old.get(key) {
                None => self.tell("insert", frame, row)?,
                Some(before) if before != row => self.tell("update", frame, row)?,
                Some(_) => {}
            }
        }
        for (key, row) in &old {
            if !self.rows.contains_key(key) {
                let key: Map<String, Value> =
                    self.key.iter().filter_map(|name| Some((name.clone(), row.get(name)?.clone()))).collect();
                self.tell("delete", frame, &key)?;
            }
        }
        self.draw()
    }

    fn tell(&self, op: &str, frame: &Value, row: &Map<String, Value>) -> Result<(), Failure> {
        if !self.table {
            let mut out = io::stdout().lock();
            writeln!(out, "{}", json!({"op": op, "ts": frame["ts"], "row": row}))?;
            out.flush()?;
        }
        Ok(())
    }

    fn key_of(&self, row: &Map<String, Value>) -> String {
        let parts: Vec<&Value> = self.key.iter().map(|name| row.get(name).unwrap_or(&Value::Null)).collect();
        json!(parts).to_string()
    }

    /// Redraws the table.
    fn draw(&mut self) -> Result<(), Failure> {
        if !self.table {
            return Ok(());
        }
        let size = Size::of(io::stdout());
        // The heading and the number of hidden rows are lines, too.
        let lines = self.lines(size.lines().saturating_sub(2).max(1));
        let text = self.block.redraw(&lines, size);
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()?;
        Ok(())
    }

    /// The table with `most` rows.
    fn lines(&self, most: usize) -> Vec<String> {
        let mut columns = self.columns.clone();
        for row in self.rows.values().take(most) {
            columns.extend(row.keys().filter(|name| !columns.contains(name)).cloned().collect::<Vec<_>>());
        }
        let mut rows: Vec<&Map<String, Value>> = self.rows.values().collect();
        rows.sort_by(|a, b| {
            let sorted =
                self.order.iter().map(|(name, descending)| compare(&a[name.as_str()], &b[name.as_str()], *descending));
            let mut sorted = sorted.filter(|order| order.is_ne());
            sorted.next().unwrap_or_else(|| {
                let keys = self.key.iter().map(|name| compare(&a[name.as_str()], &b[name.as_str()], false));
                keys.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
            })
        });
        let cells: Vec<Vec<String>> =
            rows.iter().take(most).map(|row| columns.iter().map(|name| cell(row.get(name))).collect()).collect();
        let width = |place: usize| {
            let cells = cells.iter().map(|row| row[place].chars().count());
            cells.chain([columns[place].chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns.len()).map(width).collect();
        let line = |cells: &[String]| {
            let padded: Vec<String> =
                cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
            padded.join("  ").trim_end().to_owned()
        };
        let mut lines = vec![line(&columns)];
        lines.extend(cells.iter().map(|row| line(row)));
        if self.rows.len() > most {
            lines.push(format!("… and {} rows more", self.rows.len() - most));
        }
        lines
    }
}

/// The order of a view's rows: booleans before numbers before text; nulls are last in either direction.
fn compare(a: &Value, b: &Value, descending: bool) -> std::cmp::Ordering {
    use std::cmp::Ordering;
    let rank = |value: &Value| match value {
        Value::Bool(_) => 0,
        Value::Number(_) => 1,
        Value::String(_) => 2,
        Value::Null => 9,
        _ => 3,
    };
    let order = match (a, b) {
        (Value::Null, _) | (_, Value::Null) => return rank(a).cmp(&rank(b)),
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal),
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (a, b) => rank(a).cmp(&rank(b)),
    };
    if descending { order.reverse() } else { order }
}

fn cell(value: Option<&Value>) -> String {
    let text = match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.escape_debug().to_string(),
        Some(other) => other.to_string(),
    };
    cut(&text, WIDE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_sorted_and_only_differences_are_printed() {
        let mut rows = Rows::new(false);
        let columns = json!([{"name":"id","type":"bigint"},{"name":"t","type":"any"}]);
        let subscribed = json!({"t":"subscribed","key":["id"],"columns":columns,"order":[["t","desc"]]});
        for frame in [
            subscribed,
            json!({"t":"snapshot","s":1}),
            json!({"t":"rows","s":1,"rows":[{"id":1,"t":5},{"id":2,"t":null},{"id":3,"t":9.5}]}),
            json!({"t":"ready","s":1,"at":"e.1","ts":0,"count":3}),
            json!({"t":"delta","s":1,"prev":"e.1","at":"e.2","ts":0,"insert":[{"id":4,"t":"x"}],"delete":[{"id":1}]}),
        ] {
            assert!(rows.apply(&frame).is_ok());
        }
        assert_eq!(rows.lines(4), ["id  t", "4   x", "3   9.5", "2"]);
        assert_eq!(rows.lines(2), ["id  t", "4   x", "3   9.5", "… and 1 rows more"]);
        assert_eq!(rows.cursor.as_deref(), Some("e.2"));
    }

    #[test]
    fn rows_of_several_cuts_are_shown_when_they_are_complete() {
        let mut rows = Rows::new(false);
        let ids = |rows: &Rows| rows.rows.values().map(|row| row["id"].as_i64().unwrap()).collect::<Vec<_>>();
        let mut apply = |frame: Value, shown: &[i64], cursor: Option<&str>| {
            assert!(rows.apply(&frame).is_ok());
            assert_eq!((ids(&rows).as_slice(), rows.cursor.as_deref()), (shown, cursor), "{frame}");
            rows.complete_at(&frame)
        };
        apply(json!({"t":"subscribed","key":["id"],"columns":[{"name":"id","type":"bigint"}]}), &[], None);
        apply(json!({"t":"snapshot","s":1}), &[], None);
        apply(json!({"t":"rows","s":1,"rows":[{"id":1},{"id":2}]}), &[], None);
        assert!(!apply(json!({"t":"ready","s":1,"ts":0,"count":2,"more":true}), &[], None));
        let delta = json!({"t":"delta","s":1,"ts":0,"insert":[{"id":3}],"delete":[{"id":9}],"more":true});
        assert!(!apply(delta, &[], None));
        let delta = json!({"t":"delta","s":1,"prev":"e.7","at":"e.8","ts":0,"delete":[{"id":1}]});
        assert!(apply(delta, &[2, 3], Some("e.8")));
        // A large delta.
        assert!(!apply(json!({"t":"delta","s":1,"ts":0,"insert":[{"id":4}],"more":true}), &[2, 3], None));
        assert!(apply(json!({"t":"delta","s":1,"prev":"e.8","at":"e.9","ts":0}), &[2, 3, 4], Some("e.9")));
        // A gap within it, and its snapshot.
        apply(json!({"t":"delta","s":1,"ts":0,"insert":[{"id":5}],"more":true}), &[2, 3, 4], None);
        apply(json!({"t":"snapshot","s":1}), &[2, 3, 4], None);
        assert!(apply(json!({"t":"ready","s":1,"at":"e.12","ts":0,"count":0}), &[], Some("e.12")));
    }
}
