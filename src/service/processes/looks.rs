//! Details of rules and streams from other processes: clients, fields of messages, refused clients.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::super::Service;
use super::leading::REPORTING;
use super::orders::{Answer, Order};
use crate::engine::Engine;
use crate::io::websocket::{ClientStatus, TurnedAway};
use crate::metrics::{SeenField, SeenFields, add_seen, known_cause, known_type};
use crate::value::Text;

/// The most clients of a rule that a process reports.
const CLIENTS: usize = 10_000;

/// A client of a rule's sink.
#[derive(Clone, Debug)]
pub struct SinkClient {
    /// the number of the sink
    pub sink: usize,
    /// the process that it is connected to, if there are several
    pub process: Option<usize>,
    pub status: ClientStatus,
}

/// Details of a rule from one process.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RuleLook {
    clients: Vec<WireClient>,
    seen: Vec<(String, WireSeen)>,
    turned_away: Vec<WireTurnedAway>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct WireClient {
    sink: usize,
    address: String,
    since: SystemTime,
    queued: usize,
    dropped: u64,
}

/// [`SeenFields`] as they are sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WireSeen {
    messages: u64,
    fields: Vec<(String, u64, Vec<String>, String)>,
    partial: bool,
}

/// [`TurnedAway`] as it is sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WireTurnedAway {
    path: String,
    cause: String,
    count: u64,
    peer: String,
    reason: String,
    time: SystemTime,
}

impl RuleLook {
    /// The details of this process.
    pub fn of(engine: &Engine, id: &str) -> RuleLook {
        let client = |(sink, status): (usize, ClientStatus)| {
            let ClientStatus { address, since, queued, dropped } = status;
            WireClient { sink, address, since, queued, dropped }
        };
        RuleLook {
            clients: engine.clients(id).into_iter().take(CLIENTS).map(client).collect(),
            seen: engine.seen(id).into_iter().map(|(stream, seen)| (stream.to_string(), WireSeen::of(seen))).collect(),
            turned_away: turned_away(engine),
        }
    }

    pub fn clients(&self, process: usize) -> impl Iterator<Item = SinkClient> {
        self.clients.iter().map(move |client| {
            let WireClient { sink, address, since, queued, dropped } = client.clone();
            let status = ClientStatus { address, since, queued, dropped };
            SinkClient { sink, process: Some(process), status }
        })
    }

    /// Adds the fields in the messages of the rule's streams.
    pub fn add_seen(&self, all: &mut Vec<(Text, SeenFields)>) {
        for (stream, seen) in &self.seen {
            add_seen(all, stream, seen.clone().into_fields());
        }
    }

    pub fn turned_away(&self) -> impl Iterator<Item = TurnedAway> {
        self.turned_away.iter().cloned().map(WireTurnedAway::into_local)
    }
}

/// Clients that this process refused.
pub fn turned_away(engine: &Engine) -> Vec<WireTurnedAway> {
    let wire = |away: TurnedAway| {
        let TurnedAway { path, cause, count, peer, reason, time } = away;
        WireTurnedAway { path, cause: cause.to_owned(), count, peer, reason: reason.to_owned(), time }
    };
    engine.turned_away().into_iter().map(wire).collect()
}

impl WireSeen {
    pub fn of(seen: SeenFields) -> WireSeen {
        let field = |field: SeenField| {
            let types = field.types.iter().map(|name| (*name).to_owned()).collect();
            (field.name.to_string(), field.present, types, field.example)
        };
        let SeenFields { messages, fields, partial } = seen;
        WireSeen { messages, fields: fields.into_iter().map(field).collect(), partial }
    }

    pub fn into_fields(self) -> SeenFields {
        let field = |(name, present, types, example): (String, u64, Vec<String>, String)| {
            let types = types.iter().filter_map(|name| known_type(name)).collect();
            SeenField { name: name.as_str().into(), present, types, example }
        };
        let WireSeen { messages, fields, partial } = self;
        SeenFields { messages, fields: fields.into_iter().map(field).collect(), partial }
    }
}

impl WireTurnedAway {
    pub fn into_local(self) -> TurnedAway {
        let WireTurnedAway { path, cause, count, peer, reason, time } = self;
        TurnedAway { path, cause: known_cause(&cause), count, peer, reason: known_cause(&reason), time }
    }
}

impl Service {
    /// The fields in the last messages of a stream, in all processes; `None` while no rule reads it.
    pub async fn seen_of_stream(&self, name: &str) -> Option<SeenFields> {
        let mut all = self.inner.engine.read().await.as_ref()?.seen_of_stream(name);
        for answer in self.ask_elsewhere(&Order::Seen(name.to_owned())).await {
            let Answer::Seen(Some(seen)) = answer else { continue };
            match &mut all {
                Some(all) => all.add(seen.into_fields()),
                None => all = Some(seen.into_fields()),
            }
        }
        all
    }

    /// The last clients that the data servers of all processes refused, with the paths that they requested.
    pub async fn turned_away(&self) -> Vec<TurnedAway> {
        let own = self.inner.engine.read().await.as_ref().map(|engine| engine.turned_away());
        let mut all = own.unwrap_or_default();
        for answer in self.ask_elsewhere(&Order::TurnedAway).await {
            if let Answer::TurnedAway(more) = answer {
                all.extend(more.into_iter().map(WireTurnedAway::into_local));
            }
        }
        all
    }

    /// The answers of the other processes that arrive in time.
    async fn ask_elsewhere(&self, order: &Order) -> Vec<Answer> {
        match self.followers() {
            Some(followers) => followers.order_within(order, REPORTING).await,
            None => Vec::new(),
        }
    }
}
