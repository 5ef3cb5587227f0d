//! The model that tests compare views with: a view, a naive copy of its rows, and clients that check every frame.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::{Value as Json, json};

use super::super::*;
use crate::sync::locked;
use crate::time::Clock;
use crate::value::Value;
use crate::value::key::GroupKey;

pub(super) const RETAIN: i64 = 2_000;

pub(super) fn description(name: &str) -> Description {
    let part = |name: &str, ty, in_key, claim: Option<&str>| PartColumn {
        name: name.into(),
        ty,
        in_key,
        is_param: claim.is_none(),
        claim: claim.map(Into::into),
    };
    let column = |name: &str, ty| Column { name: name.into(), ty };
    let claimed = name == "claimed";
    let mut parts = vec![part("id", ColumnType::Bigint, Some(0), None), part("site", ColumnType::Any, None, None)];
    if claimed {
        parts.push(part("owner", ColumnType::Any, None, Some("sub")));
    }
    Description {
        name: name.into(),
        path: format!("/live/{name}"),
        key: vec!["id".into()],
        columns: vec![column("id", ColumnType::Bigint), column("site", ColumnType::Any), column("v", ColumnType::Any)],
        parts,
        retain: RETAIN,
        max_rows: 8,
        definition: 1,
        ..Description::default()
    }
}

/// A world with one view and a clock that the test moves.
pub(super) struct World {
    pub(super) now: Arc<AtomicI64>,
    pub(super) views: Arc<Views>,
    pub(super) view: Arc<ViewCell>,
    /// the naive copy of the rows, and the copy after the next cut
    pub(super) rows: BTreeMap<i64, (String, i64)>,
    pub(super) staged: BTreeMap<i64, (String, i64)>,
}

impl World {
    pub(super) fn new(name: &str) -> World {
        let now = Arc::new(AtomicI64::new(1_000_000));
        let views = Arc::new(Views::new(Clock::Manual(now.clone())));
        let view = views.create(description(name));
        World { now, views, view, rows: BTreeMap::new(), staged: BTreeMap::new() }
    }

    pub(super) fn now(&self) -> i64 {
        self.now.load(Ordering::Relaxed)
    }

    pub(super) fn put(&mut self, id: i64, site: &str, v: i64) {
        self.put_padded(id, site, v, 0);
    }

    pub(super) fn put_padded(&mut self, id: i64, site: &str, v: i64, pad: usize) {
        let row = json!({"id": id, "site": site, "v": v, "pad": "x".repeat(pad)}).to_string();
        let key = GroupKey::from_values([&Value::Int(id)]);
        let forms = [Some(id.to_string().into()), Some(site.into())];
        locked(&self.view).put(&key, row.into_bytes().into(), forms.into());
        self.staged.insert(id, (site.to_owned(), v));
    }

    pub(super) fn remove(&mut self, id: i64) {
        locked(&self.view).remove(&GroupKey::from_values([&Value::Int(id)]));
        self.staged.remove(&id);
    }

    pub(super) fn cut(&mut self) {
        let now = self.now();
        locked(&self.view).cut(now, now);
        self.rows = self.staged.clone();
    }

    pub(super) fn pass(&self, ms: i64) {
        for _ in 0..ms.div_euclid(50) {
            self.now.fetch_add(50, Ordering::Relaxed);
            self.views.tick();
        }
    }

    pub(super) fn client(&self, params: Json, every: u64) -> Client {
        let mut client = Client {
            session: None,
            params,
            every,
            rows: BTreeMap::new(),
            cursor: None,
            s: 0,
            seen: Vec::new(),
            loading: None,
            more: false,
            before: None,
        };
        client.connect(self);
        client
    }
}

/// A client that reads the protocol strictly.
pub(super) struct Client {
    pub(super) session: Option<Session>,
    pub(super) params: Json,
    pub(super) every: u64,
    pub(super) rows: BTreeMap<i64, Json>,
    pub(super) cursor: Option<String>,
    pub(super) s: u64,
    /// kinds of frames so far
    pub(super) seen: Vec<String>,
    /// the rows of an incomplete snapshot
    pub(super) loading: Option<BTreeMap<i64, Json>>,
    /// whether it holds rows of several cuts
    pub(super) more: bool,
    /// the cursor before frames without one
    pub(super) before: Option<String>,
}

impl Client {
    pub(super) fn connect(&mut self, world: &World) {
        let mailbox = Arc::new(Mailbox::new("test".into()));
        let mut session = Session::new(world.views.clone(), mailbox, Identity::default(), world.now());
        let mut subscribe =
            json!({"t": "subscribe", "id": "a", "view": "fleet", "params": self.params, "every": self.every});
        if let Some(cursor) = &self.cursor {
            subscribe["cursor"] = json!(cursor);
        }
        if self.cursor.is_none() {
            self.rows.clear();
        }
        (self.loading, self.more, self.before) = (None, false, None);
        session.receive(&subscribe.to_string(), world.now());
        self.session = Some(session);
    }

    /// Reads up to this many frames; true if there were that many.
    pub(super) fn read(&mut self, frames: usize, now: i64) -> bool {
        for _ in 0..frames {
            let Some(frame) = self.session.as_mut().and_then(|session| session.next(now)) else { return false };
            let message: Json = serde_json::from_slice(&frame.json).expect("a frame is JSON");
            self.apply(&message);
        }
        true
    }

    pub(super) fn apply(&mut self, message: &Json) {
        let kind = message["t"].as_str().unwrap();
        self.seen.push(kind.to_owned());
        let id = |row: &Json| row["id"].as_i64().expect("a row has its key");
        let list = |name: &str| message[name].as_array().cloned().unwrap_or_default();
        for name in ["insert", "update", "delete"] {
            assert!(message.get(name).is_none_or(|list| !list.as_array().unwrap().is_empty()), "{message}");
        }
        match kind {
            "hello" | "error" => {}
            "subscribed" => self.s = message["s"].as_u64().unwrap(),
            "gap" => assert_eq!(message["s"], self.s),
            "snapshot" => {
                assert!(self.loading.is_none());
                (self.loading, self.more, self.before) = (Some(BTreeMap::new()), false, None);
            }
            "rows" => {
                let loading = self.loading.as_mut().expect("rows come in a snapshot");
                for row in list("rows") {
                    assert!(loading.insert(id(&row), row.clone()).is_none(), "twice: {row}");
                }
            }
            "ready" => {
                self.rows = self.loading.take().expect("ready ends a snapshot");
                assert_eq!(message["count"], self.rows.len());
                self.more = message["more"] == true;
                self.cursor = message["at"].as_str().map(str::to_owned);
                assert_eq!(self.more, self.cursor.is_none());
            }
            "delta" => {
                assert!(self.loading.is_none(), "no delta within a snapshot");
                let more = message["more"] == true;
                if more && !self.more {
                    self.more = true;
                    self.before = self.cursor.take();
                }
                // The one that completes a cut is exact, too.
                let strict = !more;
                for row in list("insert") {
                    assert!(self.rows.insert(id(&row), row.clone()).is_none() || !strict, "known: {row}");
                }
                for row in list("update") {
                    assert!(self.rows.insert(id(&row), row.clone()).is_some() || !strict, "unknown: {row}");
                }
                for row in list("delete") {
                    assert_eq!(row.as_object().unwrap().len(), 1, "a delete names the key");
                    assert!(self.rows.remove(&id(&row)).is_some() || !strict, "unknown: {row}");
                }
                assert_eq!(more, message.get("at").is_none());
                if let Some(at) = message["at"].as_str() {
                    if let Some(cursor) = self.cursor.as_ref().or(self.before.as_ref()) {
                        let number = |cursor: &str| cursor.rsplit_once('.').unwrap().1.parse::<u64>().unwrap();
                        let prev = message["prev"].as_str().unwrap();
                        assert!(number(prev) <= number(cursor) && number(cursor) < number(at), "{message} at {cursor}");
                    }
                    (self.cursor, self.before, self.more) = (Some(at.to_owned()), None, false);
                }
            }
            "progress" => {
                for (s, at) in message["at"].as_object().unwrap() {
                    assert_eq!(*s, self.s.to_string());
                    self.cursor = Some(at.as_str().unwrap().to_owned());
                }
            }
            "unsubscribed" => {}
            other => panic!("{other}"),
        }
    }

    pub(super) fn expects(&self, world: &World) {
        let list = |name: &str| match &self.params[name] {
            Json::Null => None,
            Json::Array(values) => Some(values.clone()),
            value => Some(vec![value.clone()]),
        };
        let (ids, sites) = (list("id"), list("site"));
        let wanted: BTreeMap<i64, (String, i64)> = world
            .rows
            .iter()
            .filter(|(id, _)| ids.as_ref().is_none_or(|ids| ids.contains(&json!(id))))
            .filter(|(_, (site, _))| sites.as_ref().is_none_or(|sites| sites.contains(&json!(site))))
            .map(|(id, row)| (*id, row.clone()))
            .collect();
        let held: BTreeMap<i64, (String, i64)> = self
            .rows
            .iter()
            .map(|(id, row)| (*id, (row["site"].as_str().unwrap().to_owned(), row["v"].as_i64().unwrap())))
            .collect();
        assert_eq!(held, wanted, "params {}", self.params);
    }
}
