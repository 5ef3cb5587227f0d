//! Messages of the server as JSON text.

use bytes::Bytes;
use serde_json::{Map, Value as Json, json};

use super::client::ClientError;
use super::description::Description;
use super::form::write_part;
use super::lives::Change;
use super::rate::Rate;
use super::rows::{Entry, Rows};
use crate::value::Text;
use crate::value::json as text;

/// The size of the rows in one frame of a large snapshot or delta, bytes.
pub const CHUNK: usize = 64 * 1024;

/// A message of the server. Clones share its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub json: Bytes,
    /// the client's cursor after this message
    pub at: Option<Text>,
}

/// Why a cursor cannot resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// the cursor is older than RETAIN allows
    Expired,
    /// the cursor belongs to another view, other parameters or claims, or an earlier definition
    Changed,
    /// the cursor belongs to an earlier run, or is unreadable
    Restart,
}

impl GapReason {
    pub fn name(self) -> &'static str {
        match self {
            GapReason::Expired => "expired",
            GapReason::Changed => "changed",
            GapReason::Restart => "restart",
        }
    }
}

/// Why a subscription ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    Asked,
    Dropped,
    Expired,
}

impl EndReason {
    pub fn name(self) -> &'static str {
        match self {
            EndReason::Asked => "asked",
            EndReason::Dropped => "dropped",
            EndReason::Expired => "expired",
        }
    }
}

impl Frame {
    fn of(json: &Json) -> Frame {
        Frame { json: json.to_string().into(), at: None }
    }

    pub fn hello(heartbeat: u64) -> Frame {
        Frame::of(&json!({"t": "hello", "v": 1, "heartbeat": heartbeat}))
    }

    pub fn error(id: Option<&Json>, error: &ClientError) -> Frame {
        let mut frame = Map::new();
        frame.insert("t".into(), "error".into());
        if let Some(id) = id {
            frame.insert("id".into(), id.clone());
        }
        frame.insert("code".into(), error.code.name().into());
        frame.insert("message".into(), error.message.as_str().into());
        frame.insert("retry".into(), error.retry.into());
        Frame::of(&Json::Object(frame))
    }

    pub fn unsubscribed(s: u64, why: EndReason) -> Frame {
        Frame::of(&json!({"t": "unsubscribed", "s": s, "why": why.name()}))
    }

    pub fn subscribed(
        id: Option<&Json>,
        s: u64,
        about: &Description,
        params: &Map<String, Json>,
        every: Rate,
        resumed: bool,
    ) -> Frame {
        let mut frame = Map::new();
        let mut add = |name: &str, value: Json| {
            frame.insert(name.to_owned(), value);
        };
        add("t", "subscribed".into());
        if let Some(id) = id {
            add("id", id.clone());
        }
        add("s", s.into());
        add("view", about.name.as_str().into());
        add("key", about.key.iter().map(|name| Json::from(name.as_str())).collect());
        let column = |column: &super::Column| json!({"name": column.name.as_str(), "type": column.ty.to_string()});
        add("columns", about.columns.iter().map(column).collect());
        if !about.order.is_empty() {
            let key =
                |(name, descending): &(Text, bool)| json!([name.as_str(), if *descending { "desc" } else { "asc" }]);
            add("order", about.order.iter().map(key).collect());
        }
        if let Some(limit) = about.limit {
            add("limit", limit.into());
        }
        add("params", Json::Object(params.clone()));
        add("every", every.millis().into());
        add("retain", about.retain.into());
        add("resumed", resumed.into());
        Frame::of(&Json::Object(frame))
    }

    pub fn gap(s: u64, from: &str, why: GapReason) -> Frame {
        Frame::of(&json!({"t": "gap", "s": s, "from": from, "why": why.name()}))
    }

    pub fn snapshot(s: u64) -> Frame {
        Frame::of(&json!({"t": "snapshot", "s": s}))
    }

    /// The end of a snapshot. It has no cursor if rows changed while they were sent; deltas with `more` then follow.
    pub fn ready(s: u64, at: Option<Text>, ts: i64, count: usize) -> Frame {
        let json = match &at {
            Some(at) => json!({"t": "ready", "s": s, "at": at.as_str(), "ts": ts, "count": count}),
            None => json!({"t": "ready", "s": s, "ts": ts, "count": count, "more": true}),
        };
        Frame { json: json.to_string().into(), at }
    }

    pub fn progress(ts: i64, at: &[(u64, Text)]) -> Frame {
        let cursors: Map<String, Json> =
            at.iter().map(|(s, cursor)| (s.to_string(), Json::from(cursor.as_str()))).collect();
        let mut frame = Frame::of(&json!({"t": "progress", "ts": ts, "at": cursors}));
        if let [(_, cursor)] = at {
            frame.at = Some(cursor.clone());
        }
        frame
    }
}

/// A frame of rows under construction.
pub struct RowsFrame(Vec<u8>);

impl RowsFrame {
    pub fn new(s: u64) -> RowsFrame {
        // Most parts have few rows, and there can be many parts.
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(br#"{"t":"rows","s":"#);
        out.extend_from_slice(itoa::Buffer::new().format(s).as_bytes());
        out.extend_from_slice(br#","rows":["#);
        RowsFrame(out)
    }

    pub fn push(&mut self, row: &[u8]) {
        separate(&mut self.0);
        self.0.extend_from_slice(row);
    }

    /// Whether the frame is full.
    pub fn is_full(&self) -> bool {
        self.0.len() >= CHUNK
    }

    pub fn is_empty(&self) -> bool {
        self.0.ends_with(b"[")
    }

    pub fn finish(mut self) -> Frame {
        self.0.extend_from_slice(b"]}");
        Frame { json: self.0.into_boxed_slice().into(), at: None }
    }
}

/// The first and the last cut of a delta.
pub struct Span {
    pub prev: Text,
    pub at: Text,
    /// number of cuts in it, if more than one
    pub merged: Option<u64>,
}

/// A delta with these changes. Without a span it has `more`: it sets and removes rows without a cursor.
pub fn delta(
    s: u64,
    about: &Description,
    rows: &Rows,
    ts: i64,
    span: Option<Span>,
    changes: &[(u32, Change)],
) -> Frame {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(br#"{"t":"delta","s":"#);
    out.extend_from_slice(itoa::Buffer::new().format(s).as_bytes());
    if let Some(span) = &span {
        out.extend_from_slice(br#","prev":""#);
        out.extend_from_slice(span.prev.as_bytes());
        out.extend_from_slice(br#"","at":""#);
        out.extend_from_slice(span.at.as_bytes());
        out.push(b'"');
    }
    out.extend_from_slice(br#","ts":"#);
    out.extend_from_slice(itoa::Buffer::new().format(ts).as_bytes());
    for (name, kind) in [("insert", Change::Insert), ("update", Change::Update), ("delete", Change::Delete)] {
        if !changes.iter().any(|(_, change)| *change == kind) {
            continue;
        }
        out.extend_from_slice(b",\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":[");
        for (entry, _) in changes.iter().filter(|(_, change)| *change == kind) {
            let Some(found) = rows.entries.get(*entry) else { continue };
            separate(&mut out);
            match (kind, &found.row) {
                (Change::Insert | Change::Update, Some(row)) => out.extend_from_slice(row),
                _ => write_key(&mut out, about, found),
            }
        }
        out.push(b']');
    }
    let at = span.map(|span| {
        if let Some(merged) = span.merged {
            out.extend_from_slice(br#","merged":"#);
            out.extend_from_slice(itoa::Buffer::new().format(merged).as_bytes());
        }
        span.at
    });
    out.extend_from_slice(if at.is_some() { b"}" } else { br#","more":true}"# });
    Frame { json: out.into_boxed_slice().into(), at }
}

/// Appends the object of a row's key columns.
pub fn write_key(out: &mut Vec<u8>, about: &Description, entry: &Entry) {
    out.push(b'{');
    for (name, part) in about.key.iter().zip(entry.key.parts()) {
        if !out.ends_with(b"{") {
            out.push(b',');
        }
        text::write_key(out, name);
        out.push(b':');
        write_part(out, part);
    }
    out.push(b'}');
}

fn separate(out: &mut Vec<u8>) {
    if !out.ends_with(b"[") {
        out.push(b',');
    }
}
