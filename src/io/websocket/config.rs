//! What a user can say about a websocket link: raw properties become typed settings here, once.
//!
//! One table, [`Settings::properties`], holds every property with its type, default and meaning; parsing checks against
//! it and the generated documentation prints it. Nothing behind this module sees JSON.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::dial::ProxyChoice;
use super::opening::Opening;
use super::protocol::Deflate;
use super::watch::{KeepAlive, KeepAliveWhen};
use crate::io::environment::{self, UnsetVariable};
use crate::io::queue::FeedChecks;
use crate::io::tls::{self, ClientTls, TlsError};
use crate::text::secret::{HIDDEN, is_secret, masked_url};
use crate::value::field_path::FieldPath;

/// A property that a user can set.
#[derive(Clone, Copy, Debug)]
pub struct Property {
    /// the name in the documents
    pub name: &'static str,
    /// further spellings that are taken
    pub aliases: &'static [&'static str],
    /// what it takes, for people
    pub kind: &'static str,
    /// what holds when it is absent, for people
    pub default: &'static str,
    /// where it applies: `source`, `sink`, `both`
    pub place: &'static str,
    /// what it does
    pub doc: &'static str,
}

pub(in crate::io) const fn property(
    name: &'static str,
    aliases: &'static [&'static str],
    kind: &'static str,
    default: &'static str,
    place: &'static str,
    doc: &'static str,
) -> Property {
    Property { name, aliases, kind, default, place, doc }
}

/// The chapter of documentation that the table makes.
pub fn reference() -> String {
    format!(
        "## websocket\n\n\
         A source takes its properties from the conf key named by CONF_KEY (`etc/sources/websocket.yaml`, or `sources` \
         in the rule file), then from EXTRA, and its path from DATASOURCE. A sink has them in its action. Durations are \
         milliseconds or text such as `10s`. Unknown properties are warned of.\n\n{}",
        table(PROPERTIES)
    )
}

/// A table of properties, one row for each.
pub(in crate::io) fn table(properties: &[Property]) -> String {
    let mut page = String::from("| property | where | takes | default | meaning |\n|---|---|---|---|---|\n");
    for Property { name, aliases, kind, default, place, doc } in properties {
        let names: Vec<String> = std::iter::once(name).chain(*aliases).map(|name| format!("`{name}`")).collect();
        let default = if default.is_empty() { "–".to_owned() } else { format!("`{default}`") };
        // A bar would end the cell.
        let doc = doc.replace('|', "\\|");
        page.push_str(&format!("| {} | {place} | {kind} | {default} | {doc} |\n", names.join(", ")));
    }
    page
}

/// Every property of the websocket connector.
const PROPERTIES: &[Property] = &[
    property(
        "path",
        &["datasource"],
        "text",
        "",
        "both",
        "path of the endpoint, begins with `/`; a query string is sent by a client role and ignored by a server role. `datasource` wins over `path`",
    ),
    property(
        "addr",
        &["address"],
        "text",
        "",
        "both",
        "host:port to dial, or a list of them (see `mode`); without a port, that of the scheme (80, with wss 443); empty or absent: server role, an endpoint of the data server",
    ),
    property("scheme", &[], "text", "ws", "both", "`ws` or `wss`; client role"),
    property(
        "headers",
        &["requestHeader"],
        "object",
        "{}",
        "both",
        "headers of the handshake, each a text or a list of texts; client role",
    ),
    property(
        "subprotocols",
        &[],
        "list of texts",
        "[]",
        "both",
        "subprotocols. A client role offers them, and accepts a server that chooses none; a server role chooses the first of them that a client offers",
    ),
    property(
        "onOpen",
        &[],
        "text, object or list of them",
        "[]",
        "both",
        "messages to send after each connect, before all others; client role. `{file: …}` reads them at each dial: the file is one message, or a JSON list of messages",
    ),
    property(
        "mode",
        &[],
        "failover or mirror",
        "failover",
        "both",
        "what to do with a list in `addr`. `failover`: dial the next address where one fails or a connection ends. `mirror`: keep a connection to each; `dedupKey` lets messages that several bring count once, and a sink sends to all",
    ),
    property(
        "proxy",
        &[],
        "env or http://host:port",
        "",
        "both",
        "HTTP proxy to dial through (CONNECT): `http://user:password@host:port`, or `env` for HTTPS_PROXY (with wss) or HTTP_PROXY, else ALL_PROXY, but for the hosts of NO_PROXY; client role",
    ),
    property(
        "keepAlive",
        &[],
        "object",
        "",
        "both",
        "`{message, every: 30s, when: quiet}`: a message that keeps the connection alive, for peers that want more than pings; sent after `every` without a message from the peer (`quiet`), or each time (`always`). `{{now}}` in it becomes the time in ms; client role",
    ),
    property(
        "dataTimeout",
        &[],
        "duration",
        "0",
        "both",
        "dial again after so long without a message, though the peer answers pings; 0: never; client role",
    ),
    property(
        "maxConnectionAge",
        &[],
        "duration",
        "0",
        "both",
        "replace a connection of this age, for peers that cut it at a known time: the new one is up `overlap` before the old one closes; 0: never; client role",
    ),
    property(
        "overlap",
        &[],
        "duration",
        "5s",
        "both",
        "how long a connection and the one that replaces it are both up; at most half of `maxConnectionAge`",
    ),
    property(
        "dedupKey",
        &[],
        "a field or a path such as data->t",
        "",
        "source",
        "a field that names a message: one that has come before, among the last 65,536, is dropped and counted as `duplicate`. For `maxConnectionAge` and mirrors",
    ),
    property(
        "gapSequence",
        &[],
        "a field or a path such as data->seq",
        "",
        "source",
        "a field with a number that grows by one from message to message: numbers that are missing, doubled or reordered are counted, and `meta(gap)` says how many are missing before a message",
    ),
    property(
        "gapKey",
        &[],
        "a field or a path such as data->symbol",
        "",
        "source",
        "a field that says which sequence a message is of, where there are several; up to 65,536 are followed",
    ),
    property("pingInterval", &[], "duration", "30s", "both", "how often a ping is sent; 0: never"),
    property(
        "idleTimeout",
        &[],
        "duration",
        "90s",
        "both",
        "a peer of which nothing was heard for so long, not even a pong, is dropped; 0: never",
    ),
    property(
        "writeTimeout",
        &[],
        "duration",
        "10s",
        "both",
        "a peer that takes no bytes for so long, while some wait for it, is dropped; 0: never",
    ),
    property(
        "reconnect",
        &[],
        "object",
        "{initial: 100ms, max: 10s, jitter: 0.2}",
        "both",
        "waits between dials: the first, the longest (each is twice the one before; neither is less than 100 ms), and the share of it that chance takes off or adds; client role",
    ),
    property(
        "maxMessageSize",
        &[],
        "number of bytes",
        "16777216",
        "both",
        "a longer message closes its connection with code 1009",
    ),
    property(
        "perMessageDeflate",
        &[],
        "off, on or object",
        "off; of a sink in the server role: on",
        "both",
        "compression of messages (RFC 7692): a client role offers it, a server role accepts it from clients that offer it. An object sets `level` (1 to 9; 6), `contextTakeover` (messages refer to those before them: smaller, for memory of each connection; client role true, server role false, and what a server role sends never does), `windowBits` (9 to 15; 15) and `threshold` (shorter messages are not compressed; 128 bytes)",
    ),
    property(
        "handshakeTimeout",
        &[],
        "duration",
        "10s",
        "both",
        "how long connect, TLS and HTTP handshake may take together; client role",
    ),
    property(
        "insecureSkipVerify",
        &[],
        "true or false",
        "false",
        "both",
        "accept any server certificate; client role with wss",
    ),
    property("certificationPath", &[], "text", "", "both", "PEM file of the client certificate; client role with wss"),
    property("privateKeyPath", &[], "text", "", "both", "PEM file of the client certificate's key"),
    property(
        "rootCaPath",
        &["rootCAPath"],
        "text",
        "",
        "both",
        "PEM file of the authorities to trust, in place of the system's",
    ),
    property("certificationRaw", &["certficationRaw"], "base64 of PEM", "", "both", "as certificationPath, which wins"),
    property("privateKeyRaw", &[], "base64 of PEM", "", "both", "as privateKeyPath, which wins"),
    property("rootCARaw", &["rootCaRaw"], "base64 of PEM", "", "both", "as rootCaPath, which wins"),
    property(
        "tlsMinVersion",
        &[],
        "text",
        "tls1.2",
        "both",
        "`tls1.2` or `tls1.3`; older versions are not spoken, they mean tls1.2",
    ),
    property(
        "connectionSelector",
        &[],
        "text",
        "",
        "both",
        "id of a named connection, whose peer, path, headers and TLS are then used: see [connections](connections.md)",
    ),
    property(
        "checkConnection",
        &[],
        "true or false",
        "false",
        "sink",
        "refuse the rule unless a connection is established: the peer can be dialled, or a client is connected to the endpoint",
    ),
    property(
        "clientQueue",
        &[],
        "number of messages, or object",
        "{messages: 65536, bytes: 16777216}",
        "sink",
        "how much may wait for one client; what comes first counts",
    ),
    property(
        "slowClient",
        &[],
        "dropOldest, disconnect or block",
        "dropOldest",
        "sink",
        "what happens when a client's queue is full: it loses its oldest messages; it is disconnected (code 1008); the engine waits for it, with all rules of the data thread, also for a peer that is away",
    ),
];

/// Properties that others read: they are known here, so that no warning names them.
const FOREIGN: &[&str] = &[
    "sendSingle",
    "omitIfEmpty",
    "dataTemplate",
    "to",
    "dataField",
    "fields",
    "excludeFields",
    "format",
    "schemaId",
    "delimiter",
    "useInt64ForWholeNumber",
    "hasHeader",
    "batchSize",
    "lingerInterval",
    "compression",
    "encryption",
    "encProps",
    "concurrency",
    "bufferLength",
    "enableCache",
    "memoryCacheThreshold",
    "maxDiskCache",
    "bufferPageSize",
    "resendInterval",
    "cleanCacheAtStop",
    "resendAlterQueue",
    "resendPriority",
    "resendIndicatorField",
    "resendDestination",
    "type",
    "key",
    "schema",
    "strictValidation",
    "shared",
    "timestamp",
    "timestampFormat",
    "confKey",
    "extra",
    "kind",
    "retryInterval",
    "renegotiationSupport",
    "tls",
    "decrypt",
    "decompression",
    "httpServerIp",
    "httpServerPort",
    "httpServerTls",
    "runAsync",
    "bufferPageSize",
];

/// Which end dials.
#[derive(Clone, Default, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    #[default]
    /// Clients come to an endpoint of the data server.
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
#[derive(Clone, Default, Copy, Debug, PartialEq)]
pub struct Reconnect {
    /// the first wait
    pub initial: Duration,
    /// the longest wait
    pub max: Duration,
    /// the share of a wait, 0 to 1, by which chance makes it shorter or longer
    pub jitter: f64,
}

/// How much may wait for one client.
#[derive(Clone, Default, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimit {
    /// messages
    pub messages: usize,
    /// bytes that the waiting messages keep alive; the newest batch is kept even if it alone is larger
    pub bytes: usize,
}

/// What happens when a client's queue is full.
#[derive(Clone, Default, Copy, Debug, PartialEq, Eq)]
pub enum SlowClient {
    #[default]
    /// It loses its oldest messages; each is counted.
    DropOldest,
    /// It is disconnected with code 1008; what waited is counted as lost.
    Disconnect,
    /// The engine waits for it.
    Block,
}

/// All that a link needs to know.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// which end dials
    pub role: Role,
    /// path as given, with its query string
    pub path: String,
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
    /// refuse to open the sink without a connection
    pub check_connection: bool,
    /// the named connection that gave the endpoint
    pub connection: Option<Arc<str>>,
}

/// Properties that are not right.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// of another type or out of range
    #[error("property {property} is {value}, expected {expected}")]
    Value {
        /// its name as the user wrote it
        property: String,
        /// what it was, shortened
        value: String,
        /// what it should be
        expected: &'static str,
    },
    /// no or a wrong path
    #[error("websocket endpoint should start with /: set {property}, now {value:?}, to a path such as /feed")]
    Path {
        /// which property gives it
        property: &'static str,
        /// what it was
        value: String,
    },
    /// `${NAME}` without a value
    #[error("property {property}: {error}")]
    UnsetVariable {
        /// its name as the user wrote it
        property: String,
        /// the variable
        error: UnsetVariable,
    },
    /// certificates
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Something a user should know that does not keep the link from working.
pub type Warning = String;

impl Settings {
    /// Every property with its documentation.
    pub fn properties() -> &'static [Property] {
        PROPERTIES
    }

    /// The settings of a source at `path` (the stream's DATASOURCE; empty: the properties give it).
    ///
    /// # Errors
    /// [`SettingsError`] names the property, what it is and what it should be.
    pub fn source(path: &str, props: &Map<String, Value>) -> Result<(Settings, Vec<Warning>), SettingsError> {
        parse(Some(path).filter(|path| !path.is_empty()), props, "DATASOURCE")
    }

    /// The settings of a sink.
    ///
    /// # Errors
    /// As [`Settings::source`].
    pub fn sink(props: &Map<String, Value>) -> Result<(Settings, Vec<Warning>), SettingsError> {
        parse(None, props, "path")
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

    /// Where the link is, for people: `ws://host:port/path`, or `/path` of the data server. Secrets in the query are
    /// hidden.
    pub fn address(&self) -> String {
        match &self.role {
            Role::Server => self.route().to_owned(),
            Role::Client { host, port } => {
                let scheme = if self.tls.is_some() { "wss" } else { "ws" };
                format!("{scheme}://{}:{port}{}", bracketed(host), masked_url(&self.path))
            }
        }
    }
}

/// A host as it stands in a URL: IPv6 addresses in brackets.
pub(super) fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

fn parse(
    path: Option<&str>,
    props: &Map<String, Value>,
    path_property: &'static str,
) -> Result<(Settings, Vec<Warning>), SettingsError> {
    let unset = |property: String, error| SettingsError::UnsetVariable { property, error };
    let expanded = environment::expand_properties(props).map_err(|errors| {
        let (property, error) = errors.into_iter().next().unwrap_or_default();
        unset(property, error)
    })?;
    let raw = Raw { props: &expanded };
    let mut warnings = unknown(props);
    let path = match path {
        Some(path) => environment::expand(path).map_err(|error| unset(path_property.to_owned(), error))?.into_owned(),
        None => match raw.text("datasource")? {
            Some(path) => path,
            None => raw.text("path")?.unwrap_or_default(),
        },
    };
    if !path.starts_with('/') || path.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(SettingsError::Path { property: path_property, value: path });
    }
    if path.contains("{{") {
        warnings.push("a template in the path has no effect: the path is taken as it is written".into());
    }
    if raw.find("addr").is_none() && raw.find("address").is_some() {
        warnings.push("property address is taken as addr, which is its right name".into());
    }
    let scheme = raw.text("scheme")?.unwrap_or_else(|| "ws".into());
    let secure = match scheme.to_ascii_lowercase().as_str() {
        "ws" | "" => false,
        "wss" => true,
        _ => return Err(raw.wrong("scheme", "ws or wss")),
    };
    let addresses = addresses(&raw, secure)?;
    let role = addresses.first().cloned().unwrap_or_default();
    let tls = if secure && role != Role::Server { Some(client_tls(&raw, &mut warnings)?) } else { None };
    let mut settings = Settings {
        tls,
        headers: headers(&raw)?,
        subprotocols: raw.texts("subprotocols")?,
        on_open: on_open(&raw)?,
        keep_alive: keep_alive(&raw)?,
        data_timeout: raw.duration("dataTimeout")?.filter(|d| !d.is_zero()),
        max_connection_age: raw.duration("maxConnectionAge")?.filter(|d| !d.is_zero()),
        overlap: raw.duration("overlap")?.unwrap_or(Duration::from_secs(5)),
        addresses,
        address_mode: match raw.text("mode")?.as_deref() {
            None | Some("" | "failover") => AddressMode::Failover,
            Some("mirror") => AddressMode::Mirror,
            Some(_) => return Err(raw.wrong("mode", "failover or mirror")),
        },
        checks: FeedChecks {
            dedup: field_path(&raw, "dedupKey")?,
            gap_key: field_path(&raw, "gapKey")?,
            gap_sequence: field_path(&raw, "gapSequence")?,
        },
        ping_interval: raw.duration("pingInterval")?.or(Some(Duration::from_secs(30))).filter(|d| !d.is_zero()),
        idle_timeout: raw.duration("idleTimeout")?.or(Some(Duration::from_secs(90))).filter(|d| !d.is_zero()),
        write_timeout: raw.duration("writeTimeout")?.or(Some(Duration::from_secs(10))).filter(|d| !d.is_zero()),
        reconnect: reconnect(&raw)?,
        max_message_size: raw.count("maxMessageSize", 1, "a number of bytes from 1")?.unwrap_or(16 << 20),
        per_message_deflate: per_message_deflate(&raw, role == Role::Server, path_property == "path")?,
        handshake_timeout: raw
            .duration("handshakeTimeout")?
            .filter(|limit| !limit.is_zero())
            .unwrap_or(Duration::from_secs(10)),
        proxy: match raw.text("proxy")? {
            None => ProxyChoice::Direct,
            Some(text) => ProxyChoice::parse(&text).ok_or_else(|| raw.wrong("proxy", "env or http://host:port"))?,
        },
        client_queue: client_queue(&raw)?,
        slow_client: match raw.text("slowClient")?.as_deref() {
            None | Some("dropOldest") => SlowClient::DropOldest,
            Some("disconnect") => SlowClient::Disconnect,
            Some("block") => SlowClient::Block,
            Some(_) => return Err(raw.wrong("slowClient", "dropOldest, disconnect or block")),
        },
        check_connection: raw.flag("checkConnection")?.unwrap_or(false),
        connection: raw.text("connectionSelector")?.filter(|id| !id.is_empty()).map(Arc::from),
        role,
        path,
    };
    if settings.checks.gap_key.is_some() && settings.checks.gap_sequence.is_none() {
        warnings.push("gapKey has no effect without gapSequence".into());
    }
    if let Some(age) = settings.max_connection_age {
        settings.overlap = settings.overlap.min(age / 2);
    }
    if let (Some(ping), Some(idle)) = (settings.ping_interval, settings.idle_timeout)
        && idle <= ping
    {
        warnings.push("idleTimeout is not above pingInterval: quiet peers will be dropped between two pings".into());
    }
    Ok((settings, warnings))
}

fn per_message_deflate(raw: &Raw, server: bool, sink: bool) -> Result<Option<Deflate>, SettingsError> {
    const EXPECTED: &str =
        "off, on or an object of level (1 to 9), contextTakeover, windowBits (9 to 15) and threshold";
    const NAME: &str = "perMessageDeflate";
    let mut deflate = Deflate { level: 6, context_takeover: !server, window_bits: 15, threshold: 128 };
    let Some(value) = raw.find(NAME) else { return Ok((server && sink).then_some(deflate)) };
    let wrong = || raw.wrong(NAME, EXPECTED);
    let within = |value: &Value, least: u8, most: u8| {
        let number = value.as_u64().and_then(|number| u8::try_from(number).ok());
        number.filter(|number| (least..=most).contains(number)).ok_or_else(wrong)
    };
    match value {
        Value::Bool(on) => Ok(on.then_some(deflate)),
        Value::String(text) if text.eq_ignore_ascii_case("off") => Ok(None),
        Value::String(text) if ["on", "accept"].iter().any(|on| text.eq_ignore_ascii_case(on)) => Ok(Some(deflate)),
        Value::Object(members) => {
            for (name, value) in members {
                match name.to_ascii_lowercase().as_str() {
                    "level" => deflate.level = within(value, 1, 9)?,
                    "contexttakeover" => deflate.context_takeover = value.as_bool().ok_or_else(wrong)?,
                    "windowbits" => deflate.window_bits = within(value, 9, 15)?,
                    "threshold" => deflate.threshold = count(NAME, value, 0, EXPECTED)?,
                    _ => return Err(wrong()),
                }
            }
            Ok(Some(deflate))
        }
        _ => Err(wrong()),
    }
}

/// The properties as the user gave them.
struct Raw<'a> {
    props: &'a Map<String, Value>,
}

impl Raw<'_> {
    fn find(&self, name: &str) -> Option<&Value> {
        self.props
            .get(name)
            .or_else(|| self.props.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
            .filter(|value| !value.is_null())
    }

    fn wrong(&self, name: &str, expected: &'static str) -> SettingsError {
        wrong(name, self.find(name).unwrap_or(&Value::Null), expected)
    }

    fn text(&self, name: &str) -> Result<Option<String>, SettingsError> {
        match self.find(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(self.wrong(name, "a text")),
        }
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, SettingsError> {
        match self.find(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(Some(true)),
            Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(Some(false)),
            Some(_) => Err(self.wrong(name, "true or false")),
        }
    }

    fn texts(&self, name: &str) -> Result<Vec<String>, SettingsError> {
        match self.find(name) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text.clone()]),
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| item.as_str().map(str::to_owned).ok_or_else(|| self.wrong(name, "a list of texts")))
                .collect(),
            Some(_) => Err(self.wrong(name, "a list of texts")),
        }
    }

    fn duration(&self, name: &str) -> Result<Option<Duration>, SettingsError> {
        self.find(name).map(|value| duration(name, value)).transpose()
    }

    fn count(&self, name: &str, least: u64, expected: &'static str) -> Result<Option<usize>, SettingsError> {
        self.find(name).map(|value| count(name, value, least, expected)).transpose()
    }
}

fn wrong(name: &str, value: &Value, expected: &'static str) -> SettingsError {
    // The error is shown to others than those who wrote the value.
    let mut shown = if is_secret(name) && !value.is_null() { HIDDEN.to_owned() } else { value.to_string() };
    if let Some((cut, _)) = shown.char_indices().nth(80) {
        shown.truncate(cut);
        shown.push('…');
    }
    SettingsError::Value { property: name.to_owned(), value: shown, expected }
}

fn count(name: &str, value: &Value, least: u64, expected: &'static str) -> Result<usize, SettingsError> {
    value
        .as_u64()
        .filter(|&number| number >= least)
        .and_then(|number| usize::try_from(number).ok())
        .ok_or_else(|| wrong(name, value, expected))
}

/// The longest duration that is taken: far beyond any use, and safe to add to any clock.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Milliseconds, or text such as `10s`, `1m30s`, `250ms`.
fn duration(name: &str, value: &Value) -> Result<Duration, SettingsError> {
    let parsed = match value {
        Value::Number(number) => number.as_u64().map(Duration::from_millis),
        Value::String(text) => duration_text(text),
        _ => None,
    };
    parsed
        .filter(|duration| *duration <= LONGEST)
        .ok_or_else(|| wrong(name, value, "milliseconds or a duration such as \"10s\" (up to a year)"))
}

fn duration_text(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if let Ok(ms) = rest.parse::<u64>() {
        return Some(Duration::from_millis(ms));
    }
    let mut sum = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        sum += number
            * match &rest[..end] {
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "d" => 86400.0,
                _ => return None,
            };
        rest = &rest[end..];
    }
    Duration::try_from_secs_f64(sum).ok()
}

fn host_and_port(addr: &str, secure: bool) -> Option<Role> {
    let (host, port) = if let Some(rest) = addr.strip_prefix('[') {
        let (host, tail) = rest.split_once(']')?;
        (host, tail.strip_prefix(':'))
    } else {
        match addr.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (addr, None),
        }
    };
    let port = match port {
        Some(port) => port.parse().ok().filter(|&port| port != 0)?,
        None => {
            if secure {
                443
            } else {
                80
            }
        }
    };
    let fits = !host.is_empty() && host.chars().all(|c| c.is_alphanumeric() || "-._:%".contains(c));
    fits.then(|| Role::Client { host: host.to_owned(), port })
}

fn headers(raw: &Raw) -> Result<Vec<(String, String)>, SettingsError> {
    let mut headers = Vec::new();
    for name in ["headers", "requestHeader"] {
        const EXPECTED: &str = "an object of texts or lists of texts that are valid HTTP headers";
        let Some(value) = raw.find(name) else { continue };
        let Value::Object(fields) = value else { return Err(raw.wrong(name, EXPECTED)) };
        for (field, value) in fields {
            let values = match value {
                Value::Array(values) => values.as_slice(),
                single => std::slice::from_ref(single),
            };
            for value in values {
                let text = match value {
                    Value::String(text) => text.clone(),
                    Value::Number(number) => number.to_string(),
                    _ => return Err(raw.wrong(name, EXPECTED)),
                };
                if !super::dial::valid_header(field, &text) {
                    return Err(raw.wrong(name, EXPECTED));
                }
                headers.push((field.clone(), text));
            }
        }
    }
    Ok(headers)
}

fn on_open(raw: &Raw) -> Result<Vec<Opening>, SettingsError> {
    let entries = match raw.find("onOpen") {
        None => return Ok(Vec::new()),
        Some(Value::Array(entries)) => entries.as_slice(),
        Some(single) => std::slice::from_ref(single),
    };
    let wrong = || raw.wrong("onOpen", "a text, an object, or a list of them");
    entries.iter().map(|entry| Opening::parse(entry).ok_or_else(wrong)).collect()
}

fn addresses(raw: &Raw, secure: bool) -> Result<Vec<Role>, SettingsError> {
    let name = if raw.find("addr").is_some() { "addr" } else { "address" };
    let entries = match raw.find(name) {
        None => return Ok(Vec::new()),
        Some(Value::String(addr)) if addr.trim().is_empty() => return Ok(Vec::new()),
        Some(Value::String(addr)) => vec![addr.clone()],
        Some(Value::Array(_)) => raw.texts(name)?,
        Some(_) => return Err(raw.wrong(name, "a text")),
    };
    let role = |addr: &String| host_and_port(addr.trim(), secure).ok_or_else(|| raw.wrong("addr", "host:port"));
    entries.iter().map(role).collect()
}

fn keep_alive(raw: &Raw) -> Result<Option<KeepAlive>, SettingsError> {
    const EXPECTED: &str = "an object {message, every, when}: a text or an object, a duration, and quiet or always";
    let Some(value) = raw.find("keepAlive") else { return Ok(None) };
    let Value::Object(fields) = value else { return Err(raw.wrong("keepAlive", EXPECTED)) };
    let mut keep = KeepAlive { every: Duration::from_secs(30), ..KeepAlive::default() };
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("message", Value::String(text)) => keep.message = text.clone(),
            ("message", Value::Object(_) | Value::Array(_)) => keep.message = value.to_string(),
            ("every", value) => keep.every = duration("keepAlive.every", value)?.max(SHORTEST_WAIT),
            ("when", Value::String(when)) if when == "quiet" => keep.when = KeepAliveWhen::Quiet,
            ("when", Value::String(when)) if when == "always" => keep.when = KeepAliveWhen::Always,
            _ => return Err(raw.wrong("keepAlive", EXPECTED)),
        }
    }
    if keep.message.is_empty() { Err(raw.wrong("keepAlive", EXPECTED)) } else { Ok(Some(keep)) }
}

fn field_path(raw: &Raw, name: &str) -> Result<Option<FieldPath>, SettingsError> {
    let Some(text) = raw.text(name)?.filter(|text| !text.trim().is_empty()) else { return Ok(None) };
    FieldPath::parse(text.trim()).map(Some).ok_or_else(|| raw.wrong(name, "a field or a path such as data->t"))
}

/// The shortest wait between dials: a peer that refuses is not to be flooded, nor the processor burnt.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);

fn reconnect(raw: &Raw) -> Result<Reconnect, SettingsError> {
    let mut waits = Reconnect { initial: Duration::from_millis(100), max: Duration::from_secs(10), jitter: 0.2 };
    const EXPECTED: &str = "an object {initial, max, jitter}: two durations and a number from 0 to 1";
    let Some(value) = raw.find("reconnect") else { return Ok(waits) };
    let Value::Object(fields) = value else { return Err(raw.wrong("reconnect", EXPECTED)) };
    for (name, value) in fields {
        match name.as_str() {
            "initial" => waits.initial = duration("reconnect.initial", value)?.max(SHORTEST_WAIT),
            "max" => waits.max = duration("reconnect.max", value)?,
            "jitter" => {
                waits.jitter = value
                    .as_f64()
                    .filter(|jitter| (0.0..=1.0).contains(jitter))
                    .ok_or_else(|| wrong("reconnect.jitter", value, "a number from 0 to 1"))?;
            }
            _ => return Err(raw.wrong("reconnect", EXPECTED)),
        }
    }
    waits.max = waits.max.max(waits.initial);
    Ok(waits)
}

fn client_queue(raw: &Raw) -> Result<QueueLimit, SettingsError> {
    let mut limit = QueueLimit { messages: 65_536, bytes: 16 << 20 };
    const EXPECTED: &str = "a number of messages from 1, or an object {messages, bytes}";
    match raw.find("clientQueue") {
        None => {}
        Some(value @ Value::Number(_)) => limit.messages = count("clientQueue", value, 1, EXPECTED)?,
        Some(Value::Object(fields)) => {
            for (name, value) in fields {
                match name.as_str() {
                    "messages" => limit.messages = count("clientQueue.messages", value, 1, "a number from 1")?,
                    "bytes" => limit.bytes = count("clientQueue.bytes", value, 1, "a number of bytes from 1")?,
                    _ => return Err(raw.wrong("clientQueue", EXPECTED)),
                }
            }
        }
        Some(_) => return Err(raw.wrong("clientQueue", EXPECTED)),
    }
    Ok(limit)
}

fn client_tls(raw: &Raw, warnings: &mut Vec<Warning>) -> Result<ClientTls, SettingsError> {
    let pem = |path: &'static str, raws: [&'static str; 2]| -> Result<Option<tls::Pem>, SettingsError> {
        if let Some(file) = raw.text(path)?.filter(|file| !file.is_empty()) {
            return Ok(Some(tls::Pem::file(path, &file)?));
        }
        for name in raws {
            if let Some(text) = raw.text(name)?.filter(|text| !text.is_empty()) {
                return Ok(Some(tls::Pem::base64(name, &text)?));
            }
        }
        Ok(None)
    };
    let tls13_only = match raw.text("tlsMinVersion")?.as_deref() {
        None | Some("tls1.2") => false,
        Some("tls1.3") => true,
        Some(other) => {
            warnings.push(format!("tlsMinVersion {other:?} is not spoken; tls1.2 is the least"));
            false
        }
    };
    let identity = tls::Identity {
        insecure: raw.flag("insecureSkipVerify")?.unwrap_or(false),
        certificate: pem("certificationPath", ["certificationRaw", "certficationRaw"])?,
        key: pem("privateKeyPath", ["privateKeyRaw", "privateKeyRaw"])?,
        roots: pem("rootCaPath", ["rootCARaw", "rootCaRaw"])?,
        tls13_only,
    };
    Ok(ClientTls::new(Arc::new(identity))?)
}

/// A warning for each property that nobody reads, with the name that was probably meant.
fn unknown(props: &Map<String, Value>) -> Vec<Warning> {
    unknown_among(props, PROPERTIES)
}

/// As [`unknown`], for a connector with these properties.
pub(in crate::io) fn unknown_among(props: &Map<String, Value>, properties: &[Property]) -> Vec<Warning> {
    let own = || properties.iter().flat_map(|property| property.aliases.iter().chain([&property.name])).copied();
    let known = || own().chain(FOREIGN.iter().copied());
    let mut warnings = Vec::new();
    for key in props.keys() {
        if known().any(|name| name.eq_ignore_ascii_case(key)) {
            continue;
        }
        let near = known()
            .map(|name| (distance(&key.to_ascii_lowercase(), &name.to_ascii_lowercase()), name))
            .filter(|(steps, name)| *steps <= 1 + name.len() / 5)
            .min();
        warnings.push(match near {
            Some((_, name)) => format!("unknown property {key}: did you mean {name}?"),
            None => format!("unknown property {key} is ignored"),
        });
    }
    warnings
}

/// How many letters must be put in, taken out or changed to make one text the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
