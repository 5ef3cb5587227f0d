//! Sessions of each key: messages without a gap longer than the timeout, split at ticks, like those of rules.
//!
//! A late message in event time can extend a session to an earlier start, join two, or move a split. So the messages of
//! open sessions are kept, and if one arrives out of order the sessions of its key are computed again.

use std::collections::{HashMap, HashSet};

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::groups::Arguments;
use crate::dataflow::row::KeyHasher;
use crate::plan::physical::WindowSpec;
use crate::time::Alignment;
use crate::value::Value;
use crate::value::key::GroupKey;

/// The open sessions of all keys.
pub struct Sessions {
    ticks: Alignment,
    timeout: i64,
    /// messages can arrive out of order
    in_event_time: bool,
    keys: HashMap<GroupKey, Open, KeyHasher>,
}

/// The sessions of a key that can still change.
#[derive(Default, Serialize, Deserialize)]
struct Open {
    /// ordered by time and, if equal, by arrival; empty if messages always arrive in order
    rows: Vec<SessionRow>,
    /// starts of the sessions with a row in the view
    shown: Vec<i64>,
    /// start and last message of the last session
    last: Option<(i64, i64)>,
}

/// A message of an open session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionRow {
    pub time: i64,
    /// whether it passes WHERE; other messages only keep the session open
    pub passes: bool,
    pub slots: Box<[Value]>,
    pub arguments: Vec<Option<Value>>,
}

/// The effect of a message on the sessions of its key.
pub struct Redrawn {
    /// starts of sessions that no longer exist
    pub gone: Vec<i64>,
    /// new or changed sessions
    pub sessions: Vec<Drawn>,
}

/// A session with its messages.
pub struct Drawn {
    pub start: i64,
    pub end: i64,
    pub rows: Vec<SessionRow>,
    /// whether these are all its messages, or only new ones
    pub is_whole: bool,
}

impl Sessions {
    /// `None` for other windows.
    pub fn new(window: &WindowSpec, zone: &TimeZone, in_event_time: bool) -> Option<Sessions> {
        let WindowSpec::Session { unit, max, timeout } = window else { return None };
        let ticks = Alignment::new(*unit, *max, zone.clone());
        Some(Sessions { ticks, timeout: *timeout, in_event_time, keys: HashMap::default() })
    }

    /// Adds a message; `closed` is the time before which nothing more arrives.
    pub fn row(&mut self, key: &GroupKey, row: SessionRow, closed: i64) -> Redrawn {
        let (ticks, timeout) = (&self.ticks, self.timeout);
        let open = self.keys.entry(key.clone()).or_default();
        if open.last.is_none_or(|(_, last)| row.time >= last) {
            return open.append(row, ticks, timeout, self.in_event_time.then_some(closed));
        }
        open.forget(ticks, timeout, closed);
        let place = open.rows.partition_point(|known| known.time <= row.time);
        let time = row.time;
        open.rows.insert(place, row);
        let sessions = draw(&open.rows, ticks, timeout);
        open.last = sessions.last().and_then(|last| Some((last.start, last.rows.last()?.time)));
        let shows = |session: &Drawn| session.rows.iter().any(|row| row.passes);
        let now: HashSet<i64> = sessions.iter().filter(|session| shows(session)).map(|session| session.start).collect();
        let gone = open.shown.iter().copied().filter(|start| !now.contains(start)).collect();
        let before = std::mem::replace(&mut open.shown, now.into_iter().collect());
        // Only the session of the message and later ones can have changed.
        let changed = |session: &Drawn| shows(session) && (session.end >= time || !before.contains(&session.start));
        Redrawn { gone, sessions: sessions.into_iter().filter(changed).collect() }
    }

    /// Forgets keys whose sessions have all ended at `closed`.
    pub fn sweep(&mut self, closed: i64) {
        let (ticks, timeout) = (&self.ticks, self.timeout);
        self.keys.retain(|_, open| {
            open.last.is_some_and(|(start, last)| closed <= last.saturating_add(timeout) && closed < cut(start, ticks))
        });
    }

    /// The state, for a checkpoint.
    pub fn save(&self) -> Vec<(&GroupKey, impl Serialize)> {
        self.keys.iter().collect()
    }

    /// Restores the state of a checkpoint.
    pub fn restore(&mut self, saved: Vec<(GroupKey, SavedSessions)>) {
        self.keys = saved.into_iter().map(|(key, SavedSessions(open))| (key, open)).collect();
    }
}

impl Open {
    /// Adds a message that is not before the last one.
    fn append(&mut self, row: SessionRow, ticks: &Alignment, timeout: i64, closed: Option<i64>) -> Redrawn {
        let time = row.time;
        let extends = |(start, last): &(i64, i64)| time <= last.saturating_add(timeout) && time < cut(*start, ticks);
        let start = match self.last.filter(extends) {
            Some((start, _)) => start,
            None => {
                match closed {
                    Some(closed) => self.forget(ticks, timeout, closed),
                    None => self.shown.clear(),
                }
                time
            }
        };
        self.last = Some((start, time));
        let end = time.saturating_add(timeout).min(cut(start, ticks));
        let is_whole = !self.shown.contains(&start);
        if closed.is_some() {
            self.rows.push(row.clone());
        }
        if is_whole && !row.passes {
            return Redrawn { gone: Vec::new(), sessions: Vec::new() };
        }
        if is_whole {
            self.shown.push(start);
        }
        Redrawn { gone: Vec::new(), sessions: vec![Drawn { start, end, rows: vec![row], is_whole }] }
    }

    /// Forgets the messages of sessions that can no longer change; their rows stay in the view.
    fn forget(&mut self, ticks: &Alignment, timeout: i64, closed: i64) {
        let mut over = 0;
        for session in draw(&self.rows, ticks, timeout) {
            let last = session.rows.last().map_or(session.start, |row| row.time);
            if closed > last.saturating_add(timeout) || closed >= cut(session.start, ticks) {
                over += session.rows.len();
                self.shown.retain(|start| *start != session.start);
            }
        }
        self.rows.drain(..over);
    }
}

/// The sessions of a key in a checkpoint.
#[derive(Deserialize)]
#[serde(transparent)]
pub struct SavedSessions(Open);

impl SessionRow {
    pub fn new(time: i64, passes: bool, slots: &[Value], arguments: Arguments) -> SessionRow {
        SessionRow { time, passes, slots: slots.into(), arguments: arguments.into_iter().collect() }
    }
}

/// The latest split of a session that starts at `start`: the first tick at least one length later.
fn cut(start: i64, ticks: &Alignment) -> i64 {
    let (first, end) = ticks.bounds(start);
    if first == start { end } else { ticks.bounds(end).1 }
}

/// The sessions of rows in order of time.
fn draw(rows: &[SessionRow], ticks: &Alignment, timeout: i64) -> Vec<Drawn> {
    let mut sessions: Vec<Drawn> = Vec::new();
    let mut limit = i64::MIN;
    for row in rows {
        let extends = sessions.last().is_some_and(|session| row.time <= session.end && row.time < limit);
        let end = row.time.saturating_add(timeout);
        match sessions.last_mut().filter(|_| extends) {
            Some(session) => {
                session.end = end;
                session.rows.push(row.clone());
            }
            None => {
                // The previous session ended by its timeout or by a split.
                if let Some(before) = sessions.last_mut() {
                    before.end = before.end.min(limit);
                }
                limit = cut(row.time, ticks);
                sessions.push(Drawn { start: row.time, end, rows: vec![row.clone()], is_whole: true });
            }
        }
    }
    if let Some(last) = sessions.last_mut() {
        last.end = last.end.min(limit);
    }
    sessions
}
