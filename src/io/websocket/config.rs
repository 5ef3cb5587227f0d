//! Makes the settings of a websocket link from its properties, once. No later code sees JSON.
//!
//! The rows are in `properties`; this module combines them into a role, a path and TLS.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::dial::ProxyChoice;
use super::opening::Opening;
use super::properties::{DeflateDraft, Draft, EVENT_PROPERTIES, PROPERTIES};
use super::protocol::Deflate;
use super::watch::KeepAlive;
use crate::format::sink_format::SinkFormat;
pub use crate::io::batch_queue::QueueLimit;
use crate::io::egress::Destination;
use crate::io::environment;
use crate::io::properties;
use crate::io::queue::FeedChecks;
use crate::io::reach::{Reach, ReachError, Variables};
use crate::io::sink::SinkSettings;
use crate::io::source::SourceSettings;
use crate::io::spool::CacheSettings;
use crate::io::tls::ClientTls;
use crate::property::{self, Entry, Findings, Invalid, Property, Warning};
use crate::text::secret::masked_url;

/// The chapter of documentation, generated from the rows.
pub fn reference() -> String {
    format!(
        "## websocket\n\n\
         A source takes its properties from the conf key named by CONF_KEY (`etc/sources/websocket.yaml`, or `sources` \
         in the rule file), then from EXTRA, and its path from DATASOURCE. A sink has them in its action. Durations are \
         milliseconds or text such as `10s`. In every text `${{NAME}}` becomes the environment variable NAME, \
         `${{NAME:-default}}` has a default, and `$${{` is a plain `${{`. Unknown properties are ignored with a warning.\n\n{}",
        property::reference::table(&Settings::properties(), true)
    )
}

/// The chapter of documentation of server-sent events.
pub fn events_reference() -> String {
    format!(
        "## sse\n\n\
         Sends each message as a server-sent event to the clients that GET its path of the data server, for browsers and \
         scripts that do not speak websocket: `new EventSource(\"http://host:10081/feed\")`, `curl -N`. Origins, tokens and \
         TLS are those of the data server, and queues, limits and counts those of websocket clients. A line of a message is \
         a `data:` line. A websocket sink may have the same path.\n\n{}",
        property::reference::table(&Settings::event_properties(), true)
    )
}

/// The role of this end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// Clients connect to an endpoint of the data server.
    #[default]
    Server,
    /// Plutino dials `host:port`.
    Client {
        /// host name or address, IPv6 without brackets
        host: String,
        /// TCP port
        port: u16,
    },
}

/// How a client role uses several addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AddressMode {
    /// one connection; if it fails, to the next address
    #[default]
    Failover,
    /// a connection to each address
    Mirror,
}

/// Waits between dials.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reconnect {
    /// the first wait
    pub initial: Duration,
    /// the longest wait
    pub max: Duration,
    /// the random share of a wait, 0 to 1: a wait becomes up to this much shorter or longer
    pub jitter: f64,
}

/// What to do when a client's queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SlowClient {
    /// Drop its oldest messages, and count them.
    #[default]
    DropOldest,
    /// Disconnect it with code 1008; its waiting messages count as lost.
    Disconnect,
    /// Make the engine wait for it.
    Block,
}

/// All settings of a link. The default values are empty: the users' defaults are in the rows of the properties.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    pub role: Role,
    /// the path as given, with its query string
    pub path: String,
    /// the path for people, with `${NAME}` in place of the values of variables; `None`: it has no variables
    pub shown_path: Option<String>,
    /// TLS of a client role with `wss`
    pub tls: Option<ClientTls>,
    /// headers of the handshake, in order
    pub headers: Vec<(String, String)>,
    /// offered subprotocols
    pub subprotocols: Vec<String>,
    /// messages sent after each connect
    pub on_open: Vec<Opening>,
    /// messages that keep the connection alive
    pub keep_alive: Option<KeepAlive>,
    /// a connection without messages for this long is dropped
    pub data_timeout: Option<Duration>,
    /// a connection of this age is replaced
    pub max_connection_age: Option<Duration>,
    /// how long a connection and its replacement are both open
    pub overlap: Duration,
    /// all addresses of a client role, in the order in which they are dialled; the first is `role`
    pub addresses: Vec<Role>,
    /// how several addresses are used
    pub address_mode: AddressMode,
    /// the number of connections that a source in the client role opens to each address; 0: one
    pub connections: usize,
    /// the checks of each message
    pub checks: FeedChecks,
    /// the interval of pings
    pub ping_interval: Option<Duration>,
    /// silence after which a peer is dropped
    pub idle_timeout: Option<Duration>,
    /// how long a peer may accept no bytes while some are waiting
    pub write_timeout: Option<Duration>,
    /// waits between dials
    pub reconnect: Reconnect,
    /// the longest message, bytes
    pub max_message_size: usize,
    /// compression, if it is wanted
    pub per_message_deflate: Option<Deflate>,
    /// time limit for connecting and all handshakes together
    pub handshake_timeout: Duration,
    /// the HTTP proxy of a client role
    pub proxy: ProxyChoice,
    /// the limit of messages that wait for one client
    pub client_queue: QueueLimit,
    /// what to do beyond the limit
    pub slow_client: SlowClient,
    /// how messages are stored until the peer has read them; `None`: they are not
    pub cache: Option<CacheSettings>,
    /// whether clients read server-sent events
    pub events: bool,
    /// whether to refuse to open the sink without a connection
    pub check_connection: bool,
    /// the named connection of the endpoint
    pub connection: Option<Arc<str>>,
}

/// A link without a path, or with an invalid one.
#[derive(Debug, thiserror::Error)]
#[error("websocket endpoint should start with /: set {property}, now {value:?}, to a path such as /feed")]
struct PathError {
    property: &'static str,
    value: String,
}

/// `keepAlive` without a message.
#[derive(Debug, thiserror::Error)]
#[error("property keepAlive has no message: set message, such as {{\"message\": \"ping\"}}")]
struct NoMessage;

/// Stored messages together with several peers at the same time.
#[derive(Debug, thiserror::Error)]
#[error("property enableCache keeps messages for one peer: leave out mode mirror")]
struct MirroredCache;

impl Settings {
    /// All properties with their documentation.
    pub fn properties() -> Vec<Entry> {
        property::entries(PROPERTIES)
    }

    /// The settings of a source at `path`, the stream's DATASOURCE. If it is empty, the properties give the path.
    ///
    /// # Errors
    /// [`Invalid`] names every wrong property, its value and what is expected.
    pub fn source(path: &str, props: &Map<String, Value>) -> Result<(Settings, Vec<Warning>), Invalid> {
        parse(PROPERTIES, path, props, "DATASOURCE")
    }

    /// The settings of a named connection. `path` is used where the properties have none.
    ///
    /// # Errors
    /// As [`Settings::source`].
    pub fn connection(path: &str, props: &Map<String, Value>) -> Result<(Settings, Vec<Warning>), Invalid> {
        parse(PROPERTIES, path, props, "datasource")
    }

    /// The settings of a sink.
    ///
    /// # Errors
    /// As [`Settings::source`].
    pub fn sink(props: &Map<String, Value>) -> Result<(Settings, Vec<Warning>), Invalid> {
        parse(PROPERTIES, "", props, "path")
    }

    /// The settings of a sink of server-sent events.
    ///
    /// # Errors
    /// As [`Settings::source`].
    pub fn events(props: &Map<String, Value>) -> Result<(Settings, Vec<Warning>), Invalid> {
        let (settings, warnings) = parse(EVENT_PROPERTIES, "", props, "path")?;
        Ok((Settings { events: true, ..settings }, warnings))
    }

    /// The properties of a sink of server-sent events with their documentation.
    pub fn event_properties() -> Vec<Entry> {
        property::entries(EVENT_PROPERTIES)
    }

    /// The path without its query string, which clients in the server role must request.
    pub fn route(&self) -> &str {
        self.path.split('?').next().unwrap_or(&self.path)
    }

    /// Whether the link sends no messages of its own, such as `onOpen`, on a connection.
    pub(super) fn is_silent(&self) -> bool {
        self.on_open.is_empty() && self.keep_alive.is_none() && self.subprotocols.is_empty()
    }

    /// Whether both send the same messages of their own on a connection.
    pub(super) fn sends_like(&self, other: &Settings) -> bool {
        (&self.on_open, &self.keep_alive, &self.subprotocols)
            == (&other.on_open, &other.keep_alive, &other.subprotocols)
    }

    /// The link's address for people: `ws://host:port/path`, or `/path` on the data server.
    pub fn address(&self) -> String {
        match &self.role {
            Role::Server => self.route().to_owned(),
            Role::Client { host, port } => {
                let scheme = if self.tls.is_some() { "wss" } else { "ws" };
                let path = self.shown_path.as_ref().unwrap_or(&self.path);
                format!("{scheme}://{}:{port}{}", bracketed(host), masked_url(path))
            }
        }
    }
}

impl SourceSettings for Settings {
    fn has_files(&self) -> bool {
        self.tls.is_some() || self.on_open.iter().any(Opening::is_file)
    }

    fn checks(&self) -> FeedChecks {
        self.checks.clone()
    }

    fn is_local(&self) -> bool {
        self.role == Role::Server
    }

    fn may_spread(&self) -> bool {
        (self.role == Role::Server || self.connections > 1) && self.checks == FeedChecks::default()
    }

    /// Checks a peer and proxy that are addresses; host names are checked when they are dialled.
    fn check(&self, reach: &Reach) -> Result<(), ReachError> {
        for address in &self.addresses {
            if let Role::Client { host, port } = address {
                let to = Destination { host, port: *port, written: true };
                reach.check_egress("addr", |egress| egress.check_dial_host(to, true))?;
            }
        }
        match &self.proxy {
            ProxyChoice::Through(proxy) => reach.check_egress("proxy", |egress| proxy.check(egress)),
            ProxyChoice::Direct | ProxyChoice::Environment => Ok(()),
        }
    }

    fn limit_variables(&mut self, allowed: &Variables) {
        self.on_open.iter_mut().for_each(|opening| opening.limit_variables(allowed));
    }
}

impl SinkSettings for Settings {
    fn kind(&self) -> &'static str {
        if self.events { "sse" } else { "websocket" }
    }

    fn form(&mut self, format: SinkFormat, _has_format: bool) -> Result<SinkFormat, String> {
        if self.events && !format.is_text() {
            return Err("events are text: leave out compression, and format binary".to_owned());
        }
        match self.cache.as_ref().and_then(|cache| cache.refuses(&format)) {
            Some(reason) => Err(reason),
            None => Ok(format),
        }
    }

    fn cache(&self) -> Option<(CacheSettings, String)> {
        self.cache.clone().map(|cache| (cache, self.address()))
    }

    fn check(&self, reach: &Reach) -> Result<(), ReachError> {
        SourceSettings::check(self, reach)
    }

    fn limit_variables(&mut self, allowed: &Variables) {
        SourceSettings::limit_variables(self, allowed);
    }

    fn has_files(&self) -> bool {
        SourceSettings::has_files(self)
    }

    fn has_checks(&self) -> bool {
        self.check_connection
    }

    fn skip_checks(&mut self) {
        self.check_connection = false;
    }
}

/// A host as in a URL: IPv6 addresses are in brackets.
pub(super) fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// `path_property` is the property in which an error tells the user to set a path.
fn parse(
    rows: &'static [Property<Draft>],
    path: &str,
    props: &Map<String, Value>,
    path_property: &'static str,
) -> Result<(Settings, Vec<Warning>), Invalid> {
    let (draft, mut found): (Draft, Findings) = properties::read(rows, props);
    let Draft { mut settings, datasource, path: own, peers, secure, tls, deflate, cache, gap_wait } = draft;
    settings.shown_path = Some(written_path(path, props)).filter(|written| written.contains("${")).map(str::to_owned);
    settings.path = match path {
        "" => datasource.or(own).unwrap_or_default(),
        path => environment::expand(path).map(String::from).unwrap_or_else(|error| {
            found.refuse(path_property, properties::UnsetProperty { property: path_property.to_owned(), error });
            path.to_owned()
        }),
    };
    let is_path =
        settings.path.starts_with('/') && !settings.path.contains(|c: char| c.is_whitespace() || c.is_control());
    if !is_path && !found.has_fault("path") && !found.has_fault("datasource") {
        found.refuse(path_property, PathError { property: path_property, value: settings.path.clone() });
        if let Some(fault) = found.faults.last_mut().filter(|_| settings.path.is_empty() && path_property == "path") {
            fault.hint = Some(
                "set path, such as \"path\": \"/feed\", for an endpoint of the data server; set addr too, such as \
                 \"addr\": \"host:8080\", to dial a peer"
                    .to_owned(),
            );
        }
    }
    if settings.path.contains("{{") {
        let message = "a template in the path has no effect: the path is used as it is written";
        found.warnings.push(Warning::other("path", message));
    }
    settings.per_message_deflate = per_message_deflate(&deflate, peers.is_empty(), path_property == "path");
    let usual = if secure { 443 } else { 80 };
    let role = |(host, port): (String, Option<u16>)| Role::Client { host, port: port.unwrap_or(usual) };
    settings.addresses = peers.into_iter().map(role).collect();
    if let Some(first) = settings.addresses.first() {
        settings.role = first.clone();
        if secure {
            settings.tls = tls.client(&mut found);
        }
    }
    settings.cache = cache.settle(settings.client_queue, &mut found);
    if settings.cache.is_some() && settings.role == Role::Server {
        settings.cache = None;
        let message = "enableCache has no effect without addr: clients of the data server come and go";
        found.warnings.push(Warning::other("enableCache", message));
    }
    let mirrors = settings.address_mode == AddressMode::Mirror && settings.addresses.len() > 1;
    if settings.cache.is_some() && mirrors {
        found.refuse("enableCache", MirroredCache);
    }
    settings.keep_alive = settings.keep_alive.take().filter(|keep| !keep.message.is_empty());
    let given = props.iter().any(|(name, value)| name.eq_ignore_ascii_case("keepAlive") && !value.is_null());
    if given && settings.keep_alive.is_none() && !found.has_fault("keepAlive") {
        found.refuse("keepAlive", NoMessage);
    }
    if settings.checks.gap_sequence.is_some() {
        // One connection preserves the order of messages; several do not.
        let several = mirrors || settings.max_connection_age.is_some();
        settings.checks.gap_wait = gap_wait.unwrap_or(if several { Duration::from_secs(1) } else { Duration::ZERO });
    } else if !settings.checks.gap_key.is_empty() {
        found.warnings.push(Warning::other("gapKey", "gapKey has no effect without gapSequence"));
    }
    if let Some(age) = settings.max_connection_age {
        settings.overlap = settings.overlap.min(age / 2);
    }
    settings.reconnect.max = settings.reconnect.max.max(settings.reconnect.initial);
    if let (Some(ping), Some(idle)) = (settings.ping_interval, settings.idle_timeout)
        && idle <= ping
    {
        let message = "idleTimeout is not above pingInterval: quiet peers are dropped between two pings";
        let given = |name: &&&str| props.keys().any(|key| key.eq_ignore_ascii_case(name));
        let property = ["pingInterval", "idleTimeout"].iter().find(given).copied().unwrap_or_default();
        found.warnings.push(Warning::other(property, message));
    }
    found.finish(settings)
}

/// The path as the user wrote it.
fn written_path<'p>(path: &'p str, props: &'p Map<String, Value>) -> &'p str {
    let written = |wanted: &str| {
        let (_, value) = props.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted))?;
        value.as_str().filter(|text| !text.is_empty())
    };
    match path {
        "" => written("datasource").or_else(|| written("path")).unwrap_or_default(),
        path => path,
    }
}

/// Whether messages are compressed. A client role compresses only if it is set, and so does the server role of a
/// source. The server role of a sink compresses unless it is turned off, because only clients that ask for compression
/// get it.
fn per_message_deflate(draft: &DeflateDraft, server: bool, sink: bool) -> Option<Deflate> {
    let deflate = Deflate {
        level: draft.level,
        context_takeover: draft.context_takeover.unwrap_or(!server),
        window_bits: draft.window_bits,
        threshold: draft.threshold,
    };
    draft.on.unwrap_or(server && sink).then_some(deflate)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_address_does_not_show_what_a_variable_holds() {
        let Ok(home) = std::env::var("HOME") else { return };
        let props = json!({"addr": "feed.example:1", "path": "/x/${HOME}?k=1"});
        for (datasource, shown) in [("", "/x/${HOME}?k=1"), ("/y${HOME}", "/y${HOME}"), ("/plain", "/plain")] {
            let (settings, _) =
                Settings::source(datasource, props.as_object().expect("an object")).expect("it is right");
            assert_eq!(settings.address(), format!("ws://feed.example:1{shown}"));
            assert_eq!(settings.path.contains(&home), shown.contains("${"));
        }
    }
}
