//! The settings of a websocket link, made of its properties once. Nothing behind this module sees JSON.
//!
//! The rows are in `properties`; here what they say together becomes a role, a path and TLS.

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

/// The chapter of documentation that the rows make.
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

/// Which end dials.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// Clients come to an endpoint of the data server.
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

/// What a client role does with several addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AddressMode {
    /// one connection, to the next address where one fails
    #[default]
    Failover,
    /// a connection to each
    Mirror,
}

/// Waits between dials.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reconnect {
    /// the first wait
    pub initial: Duration,
    /// the longest wait
    pub max: Duration,
    /// the share of a wait, 0 to 1, by which chance makes it shorter or longer
    pub jitter: f64,
}

/// What happens when a client's queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SlowClient {
    /// It loses its oldest messages; each is counted.
    #[default]
    DropOldest,
    /// It is disconnected with code 1008; what waited is counted as lost.
    Disconnect,
    /// The engine waits for it.
    Block,
}

/// All that a link needs to know. Its default is empty: the defaults of users are in the rows of the properties.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// which end dials
    pub role: Role,
    /// path as given, with its query string
    pub path: String,
    /// the path for people, with `${NAME}` where a variable's value stands in `path`; `None`: it has no variables
    pub shown_path: Option<String>,
    /// TLS of a client role with `wss`
    pub tls: Option<ClientTls>,
    /// headers of the handshake, in their order
    pub headers: Vec<(String, String)>,
    /// offered subprotocols
    pub subprotocols: Vec<String>,
    /// messages sent after each connect
    pub on_open: Vec<Opening>,
    /// messages that keep a connection alive
    pub keep_alive: Option<KeepAlive>,
    /// a connection without a message for so long is dropped
    pub data_timeout: Option<Duration>,
    /// a connection of this age is replaced
    pub max_connection_age: Option<Duration>,
    /// how long a connection and the one that replaces it are both up
    pub overlap: Duration,
    /// all addresses of a client role, in the order in which they are dialled; `role` is the first
    pub addresses: Vec<Role>,
    /// what becomes of the addresses behind the first
    pub address_mode: AddressMode,
    /// how many connections a source of the client role has to each address that it dials; 0: one
    pub connections: usize,
    /// what is checked of each message
    pub checks: FeedChecks,
    /// how often a ping is sent
    pub ping_interval: Option<Duration>,
    /// silence after which a peer is dropped
    pub idle_timeout: Option<Duration>,
    /// how long a peer may take no bytes while some wait for it
    pub write_timeout: Option<Duration>,
    /// waits between dials
    pub reconnect: Reconnect,
    /// longest message in bytes
    pub max_message_size: usize,
    /// compression, where it is wanted
    pub per_message_deflate: Option<Deflate>,
    /// limit of connect and handshakes together
    pub handshake_timeout: Duration,
    /// the HTTP proxy of a client role
    pub proxy: ProxyChoice,
    /// how much may wait for one client
    pub client_queue: QueueLimit,
    /// what happens beyond it
    pub slow_client: SlowClient,
    /// how messages are kept until the peer has them, if they are
    pub cache: Option<CacheSettings>,
    /// clients read server-sent events
    pub events: bool,
    /// refuse to open the sink without a connection
    pub check_connection: bool,
    /// the named connection that gave the endpoint
    pub connection: Option<Arc<str>>,
}

/// A link without a path, or with a wrong one.
#[derive(Debug, thiserror::Error)]
#[error("websocket endpoint should start with /: set {property}, now {value:?}, to a path such as /feed")]
struct PathError {
    property: &'static str,
    value: String,
}

/// A `keepAlive` that says nothing.
#[derive(Debug, thiserror::Error)]
#[error("property keepAlive has no message: set message, such as {{\"message\": \"ping\"}}")]
struct NoMessage;

/// Messages that are kept for several peers at once.
#[derive(Debug, thiserror::Error)]
#[error("property enableCache keeps messages for one peer: leave out mode mirror")]
struct MirroredCache;

impl Settings {
    /// Every property with its documentation.
    pub fn properties() -> Vec<Entry> {
        property::entries(PROPERTIES)
    }

    /// The settings of a source at `path`, the stream's DATASOURCE. If it is empty, the properties give the path.
    ///
    /// # Errors
    /// [`Invalid`] names every property that is wrong, what it is and what it should be.
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

    /// The path without its query string: what clients of a server role must ask for.
    pub fn route(&self) -> &str {
        self.path.split('?').next().unwrap_or(&self.path)
    }

    /// Whether it says nothing of its own on a connection.
    pub(super) fn is_silent(&self) -> bool {
        self.on_open.is_empty() && self.keep_alive.is_none() && self.subprotocols.is_empty()
    }

    /// Whether it says the same on a connection.
    pub(super) fn says_as(&self, other: &Settings) -> bool {
        (&self.on_open, &self.keep_alive, &self.subprotocols)
            == (&other.on_open, &other.keep_alive, &other.subprotocols)
    }

    /// Where the link is, for people: `ws://host:port/path`, or `/path` of the data server.
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
    fn checks(&self) -> FeedChecks {
        self.checks.clone()
    }

    fn is_local(&self) -> bool {
        self.role == Role::Server
    }

    fn may_spread(&self) -> bool {
        (self.role == Role::Server || self.connections > 1) && self.checks == FeedChecks::default()
    }

    /// Checks peers and a proxy that are addresses; names are judged when they are dialled.
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

    fn skip_checks(&mut self) {
        self.check_connection = false;
    }
}

/// A host as it stands in a URL: IPv6 addresses in brackets.
pub(super) fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// `path_property` is where the user is told to set a path.
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
        // One connection keeps the order; several do not.
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

/// The path as the user has written it.
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

/// A client role compresses if it is told to. So does the server role of a source; that of a sink unless it is told not
/// to, since only clients that ask for compression get it.
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
