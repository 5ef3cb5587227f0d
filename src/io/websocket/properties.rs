//! The properties of websocket links, one row each.
//!
//! A setter only records the user's value in a [`Draft`]; `config` makes what depends on several properties, such as
//! the role or TLS. A new property is one row here and one field in `Settings`.

use std::time::Duration;

use serde_json::Value as Json;

use super::config::{AddressMode, Settings, SlowClient};
use super::dial::ProxyChoice;
use super::opening::Opening;
use super::watch::{KeepAlive, KeepAliveWhen};
use crate::io::spool::properties::{self as cache, CacheDraft, TakesCache};
use crate::io::tls_properties::{self, TakesTls, TlsDraft};
use crate::property::{Property, Wrong};
use crate::value::field_path::FieldPath;

/// The properties as written, before they are combined.
#[derive(Clone, Default)]
pub(super) struct Draft {
    /// settings that depend on a single property
    pub settings: Settings,
    pub path: Option<String>,
    pub datasource: Option<String>,
    /// hosts, each with its port if one is given
    pub peers: Vec<(String, Option<u16>)>,
    /// whether wss is used
    pub secure: bool,
    pub tls: TlsDraft,
    pub deflate: DeflateDraft,
    pub cache: CacheDraft,
    /// `None`: other properties decide
    pub gap_wait: Option<Duration>,
}

/// The value of `perMessageDeflate`.
#[derive(Clone)]
pub(super) struct DeflateDraft {
    /// `None`: the role decides
    pub on: Option<bool>,
    pub level: u8,
    /// `None`: the role decides
    pub context_takeover: Option<bool>,
    pub window_bits: u8,
    pub threshold: usize,
}

impl Default for DeflateDraft {
    fn default() -> DeflateDraft {
        DeflateDraft { on: None, level: 6, context_takeover: None, window_bits: 15, threshold: 128 }
    }
}

impl TakesTls for Draft {
    fn tls(&mut self) -> &mut TlsDraft {
        &mut self.tls
    }
}

impl TakesCache for Draft {
    fn cache(&mut self) -> &mut CacheDraft {
        &mut self.cache
    }
}

type Row = Property<Draft>;

/// The expected value of properties that name fields of a message.
const FIELDS: &str = "a field, a path such as data->t, or a list of them";

/// Rows that websockets and server-sent events share.
const WRITE_TIMEOUT: Row =
    Row::duration("writeTimeout", |draft, wait| draft.settings.write_timeout = unless_zero(wait))
        .default("10s")
        .doc("Drop a peer that reads nothing for this long while data waits for it; `0`: never");
const CHECK_CONNECTION: Row = Row::flag("checkConnection", |draft, check| draft.settings.check_connection = check)
        .default("false")
        .of_sink()
        .doc("Refuse the rule unless there is a connection: the peer can be dialled, or a client is connected to the endpoint");
const CLIENT_QUEUE: Row = Row::object(
    "clientQueue",
    &[
        Row::whole("messages", 1, usize::MAX as u64, |draft, messages| {
            draft.settings.client_queue.messages = messages as usize;
        })
        .default("65536"),
        Row::whole("bytes", 1, usize::MAX as u64, |draft, bytes| draft.settings.client_queue.bytes = bytes as usize)
            .default("16777216"),
    ],
)
.shorthand("messages")
.of_sink()
.doc("The queue limits of one client; whichever is reached first applies");
const SLOW_CLIENT: Row = Row::choice("slowClient", &["dropOldest", "disconnect", "block"], |draft, policy| {
    draft.settings.slow_client = match policy {
        "disconnect" => SlowClient::Disconnect,
        "block" => SlowClient::Block,
        _ => SlowClient::DropOldest,
    };
})
.default("dropOldest")
.of_sink()
.doc(
    "What happens when a client's queue is full. `dropOldest`: its oldest messages are dropped. `disconnect`: it \
     is disconnected with code 1008. `block`: the engine waits for it, and with it all rules of the data thread, even \
     if the peer is away",
);

/// The rows of the sink `sse`.
pub(super) const EVENT_PROPERTIES: &[Row] = &[
    Row::text("path", |draft, path| draft.path = Some(path.to_owned()))
        .of_sink()
        .doc("Path of the data server; begins with `/`"),
    WRITE_TIMEOUT,
    CHECK_CONNECTION,
    CLIENT_QUEUE,
    SLOW_CLIENT,
];

pub(super) const PROPERTIES: &[Row] = &[
    // Where the peer is.
    Row::text("path", |draft, path| draft.path = Some(path.to_owned())).doc(
        "Path of the endpoint; begins with `/`. A client role sends the query string, a server role ignores it. In \
         the server role `{name}` matches any one segment, and `meta(path_name)` is its value",
    ),
    Row::text("datasource", |draft, path| draft.datasource = Some(path.to_owned()))
        .doc("The same as `path`; `datasource` wins if both are set"),
    Row::any("addr", "host:port, or list of them", "host:port", set_addresses)
        .misspelt(&["address"])
        .doc("Dial this host:port (client role). Without a port: 80, with wss 443. If it is a list, `mode` determines which. Empty or absent: serve clients at an endpoint of the data server (server role)"),
    Row::choice("mode", &["failover", "mirror"], |draft, mode| {
        draft.settings.address_mode = if mode == "mirror" { AddressMode::Mirror } else { AddressMode::Failover };
    })
    .default("failover")
    .doc("What to do with a list in `addr`. `failover`: dial the next address when one fails or a connection ends. \
     `mirror`: keep a connection to each address; with `dedupKey`, a message received from several counts once; a \
     sink sends to all"),
    Row::whole("connections", 1, 64, |draft, count| draft.settings.connections = count as usize)
        .default("1")
        .of_source()
        .doc("How many connections to dial, for feeds that distribute their messages over connections; with `--workers` they are spread over the data threads; client role"),
    Row::choice("scheme", &["ws", "wss"], |draft, scheme| draft.secure = scheme == "wss")
        .default("ws")
        .doc("Whether the client role uses TLS (`wss`)"),
    Row::text("connectionSelector", |draft, id| {
        draft.settings.connection = Some(id).filter(|id| !id.is_empty()).map(Into::into);
    })
    .doc("Use the peer, path, headers and TLS of the named connection with this id: see [connections](connections.md)"),
    // The handshake.
    Row::any("headers", "object", HEADERS, add_headers)
        .doc("Headers of the handshake, each a text or a list of texts; client role"),
    Row::any("requestHeader", "object", HEADERS, add_headers).doc("More headers of the handshake, like `headers`"),
    Row::texts("subprotocols", |draft, names| draft.settings.subprotocols = names)
        .default("[]")
        .doc("Subprotocols. A client role offers them, and accepts a server that chooses none; a server role chooses the first of them that a client offers, and accepts clients that offer none of them"),
    Row::duration("handshakeTimeout", |draft, limit| {
        draft.settings.handshake_timeout = if limit.is_zero() { Duration::from_secs(10) } else { limit };
    })
    .default("10s")
    .doc("Limit for connect, TLS and HTTP handshake together; client role"),
    Row::any("onOpen", "text, object or list of them", "a text, an object, or a list of them", set_on_open)
        .default("[]")
        .doc("Messages to send after each connect, before all others; client role. `{file: …}` reads them at each dial: the file is one message, or a JSON list of messages"),
    Row::parsed("proxy", "env or http://host:port", |draft, proxy| {
        draft.settings.proxy = ProxyChoice::parse(proxy).ok_or(Wrong::Value)?;
        Ok(())
    })
    .doc("HTTP proxy to dial through (CONNECT): `http://user:password@host:port`, or `env`: HTTPS_PROXY (with wss) or \
     HTTP_PROXY, otherwise ALL_PROXY, except for hosts in NO_PROXY; client role"),
    // The connection.
    Row::object("keepAlive", &[
        Row::any("message", "text or object", "a text, an object or a list", set_keep_alive),
        Row::duration("every", |draft, every| keep_alive(draft).every = every.max(SHORTEST_WAIT)).default("30s"),
        Row::choice("when", &["quiet", "always"], |draft, when| {
            keep_alive(draft).when = if when == "always" { KeepAliveWhen::Always } else { KeepAliveWhen::Quiet };
        })
        .default("quiet"),
    ])
    .doc("A message that keeps the connection alive, for peers that require more than pings. `when: quiet`: sent \
     after `every` without a message from the peer. `when: always`: sent each `every`, for peers that close the \
     connection of a client that sends nothing, even while they send themselves. `{{now}}` in it becomes the time in \
     ms; client role"),
    Row::duration("dataTimeout", |draft, limit| draft.settings.data_timeout = unless_zero(limit))
        .default("0")
        .doc("Reconnect after this long without a message, even if the peer answers pings; `0`: never; client role"),
    Row::duration("maxConnectionAge", |draft, age| draft.settings.max_connection_age = unless_zero(age))
        .default("0")
        .doc("Replace a connection of this age, for peers that close it at a known time: the new one is open for `overlap` before the old one closes; `0`: never; client role"),
    Row::duration("overlap", |draft, overlap| draft.settings.overlap = overlap)
        .default("5s")
        .doc("How long a connection and the one that replaces it are both open; at most half of `maxConnectionAge`"),
    Row::any("dedupKey", "field, path or list of them", FIELDS, |draft, paths| {
        draft.settings.checks.dedup = field_paths(paths)?;
        Ok(())
    })
    .of_source()
    .doc("A field that names a message, a path such as `data->t`, or a list of them; `self` is the whole message. A \
     message with the same key as one of the last 65,536 is dropped and counted as `duplicate`: the key must be \
     unique over all channels of the feed, such as `[channel, seq]`. Used with `maxConnectionAge` and mirrors"),
    Row::parsed("gapSequence", "a field or a path such as data->seq", |draft, path| {
        draft.settings.checks.gap_sequence = field_path(path)?;
        Ok(())
    })
    .of_source()
    .doc("A field with a number that grows by one with each message: missing, duplicate and reordered numbers are \
     counted, and `meta(gap)` is how many are missing before a message"),
    Row::any("gapKey", "field, path or list of them", FIELDS, |draft, paths| {
        draft.settings.checks.gap_key = field_paths(paths)?;
        Ok(())
    })
    .of_source()
    .doc("A field, or a list of them, that identifies the sequence of a message, if there are several; up to 65,536 are tracked"),
    Row::duration("gapWait", |draft, wait| draft.gap_wait = Some(wait))
        .of_source()
        .doc("How long to wait for a number, from another mirror or connection, before it counts as missing: it is \
         counted then, and reported by `meta(gap)` with the next message. Default: `1s` with `mode: mirror` or \
         `maxConnectionAge`, otherwise `0`"),
    Row::duration("pingInterval", |draft, every| draft.settings.ping_interval = unless_zero(every))
        .default("30s")
        .doc("Send a ping this often, and to a sink's peer also after 4096 messages; `0`: never"),
    Row::duration("idleTimeout", |draft, silence| draft.settings.idle_timeout = unless_zero(silence))
        .default("90s")
        .doc("Drop a peer that has been silent (no message, no pong) for this long; `0`: never"),
    WRITE_TIMEOUT,
    Row::object("reconnect", &[
        Row::duration("initial", |draft, wait| draft.settings.reconnect.initial = wait.max(SHORTEST_WAIT))
            .default("100ms"),
        Row::duration("max", |draft, wait| draft.settings.reconnect.max = wait).default("10s"),
        Row::number("jitter", 0.0, 1.0, |draft, share| draft.settings.reconnect.jitter = share).default("0.2"),
    ])
    .doc("Waits between dials: the first one, the longest one (each is twice the one before, none is below 100 ms), and the fraction by which they are randomly changed; client role"),
    Row::whole("maxMessageSize", 1, usize::MAX as u64, |draft, bytes| draft.settings.max_message_size = bytes as usize)
        .default("16777216")
        .doc("Bytes of the longest message; a longer one closes its connection with code 1009"),
    Row::any(
        "perMessageDeflate",
        "off, on or object",
        "off, on or an object of level (1 to 9), contextTakeover, windowBits (9 to 15) and threshold",
        set_deflate,
    )
    .doc("Compression of messages (RFC 7692): a client role offers it, a server role accepts it from clients that \
     offer it. Default: `off`, for a sink in the server role `on`. An object sets `level` (1 to 9; 6), \
     `contextTakeover` (messages refer to earlier ones: they are smaller, but each connection needs memory; client \
     role true, server role false; messages that a server role sends never refer to others), `windowBits` (9 to 15; \
     15) and `threshold` (shorter messages are not compressed; 128 bytes)"),
    // TLS of the client role.
    tls_properties::insecure_skip_verify(),
    tls_properties::certification_path(),
    tls_properties::private_key_path(),
    tls_properties::root_ca_path(),
    tls_properties::certification_raw(),
    tls_properties::private_key_raw(),
    tls_properties::root_ca_raw(),
    tls_properties::tls_min_version(),
    // Results.
    CHECK_CONNECTION,
    CLIENT_QUEUE,
    SLOW_CLIENT,
    cache::enable_cache(),
    cache::memory_cache_threshold(),
    cache::max_disk_cache(),
    cache::buffer_page_size(),
    cache::resend_interval(),
    cache::clean_cache_at_stop(),
    cache::resend_alter_queue(),
    cache::resend_priority(),
    cache::resend_indicator_field(),
];

/// The shortest wait between dials, so that neither a peer that refuses is flooded nor the processor kept busy.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);

const HEADERS: &str = "an object of texts or lists of texts that are valid HTTP headers";

fn unless_zero(duration: Duration) -> Option<Duration> {
    Some(duration).filter(|duration| !duration.is_zero())
}

/// Splits `host:port`, `host`, or `[::1]:port`.
fn host_and_port(addr: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match addr.strip_prefix('[') {
        Some(rest) => {
            let (host, tail) = rest.split_once(']')?;
            (host, tail.strip_prefix(':'))
        }
        None => addr.rsplit_once(':').map_or((addr, None), |(host, port)| (host, Some(port))),
    };
    let port = match port {
        Some(port) => Some(port.parse().ok().filter(|&port| port != 0)?),
        None => None,
    };
    let fits = !host.is_empty() && host.chars().all(|c| c.is_alphanumeric() || "-._:%".contains(c));
    fits.then(|| (host.to_owned(), port))
}

fn add_headers(draft: &mut Draft, value: &Json) -> Result<(), Wrong> {
    for (field, value) in value.as_object().ok_or(Wrong::Value)? {
        for value in value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice) {
            let text = match value {
                Json::String(text) => text.clone(),
                Json::Number(number) => number.to_string(),
                _ => return Err(Wrong::Value),
            };
            if !super::dial::valid_header(field, &text) {
                return Err(Wrong::Value);
            }
            draft.settings.headers.push((field.clone(), text));
        }
    }
    Ok(())
}

fn set_on_open(draft: &mut Draft, value: &Json) -> Result<(), Wrong> {
    let entries = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    let read = entries.iter().map(|entry| Opening::parse(entry).ok_or(Wrong::Value));
    draft.settings.on_open = read.collect::<Result<_, _>>()?;
    Ok(())
}

fn set_addresses(draft: &mut Draft, value: &Json) -> Result<(), Wrong> {
    let entries = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    let mut peers = Vec::new();
    for entry in entries {
        let addr = entry.as_str().ok_or(Wrong::Value)?.trim();
        if !(addr.is_empty() && entries.len() == 1) {
            peers.push(host_and_port(addr).ok_or(Wrong::Value)?);
        }
    }
    draft.peers = peers;
    Ok(())
}

fn keep_alive(draft: &mut Draft) -> &mut KeepAlive {
    draft.settings.keep_alive.get_or_insert_default()
}

fn set_keep_alive(draft: &mut Draft, value: &Json) -> Result<(), Wrong> {
    keep_alive(draft).message = match value {
        Json::String(text) => text.clone(),
        Json::Object(_) | Json::Array(_) => value.to_string(),
        _ => return Err(Wrong::Value),
    };
    Ok(())
}

/// An empty text means no path.
fn field_path(text: &str) -> Result<Option<FieldPath>, Wrong> {
    match text.trim() {
        "" => Ok(None),
        text => FieldPath::parse(text).map(Some).ok_or(Wrong::Value),
    }
}

/// One field, or a list of fields. An empty text means none.
fn field_paths(value: &Json) -> Result<Vec<FieldPath>, Wrong> {
    let entries = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    let mut paths = Vec::new();
    for entry in entries {
        paths.extend(field_path(entry.as_str().ok_or(Wrong::Value)?)?);
    }
    Ok(paths)
}

fn set_deflate(draft: &mut Draft, value: &Json) -> Result<(), Wrong> {
    let deflate = &mut draft.deflate;
    let within = |value: &Json, least: u8, most: u8| {
        let number = value.as_u64().and_then(|number| u8::try_from(number).ok());
        number.filter(|number| (least..=most).contains(number)).ok_or(Wrong::Value)
    };
    deflate.on = Some(match value {
        Json::Bool(on) => *on,
        Json::String(text) if text.eq_ignore_ascii_case("off") => false,
        Json::String(text) if ["on", "accept"].iter().any(|on| text.eq_ignore_ascii_case(on)) => true,
        Json::Object(_) => true,
        _ => return Err(Wrong::Value),
    });
    for (name, value) in value.as_object().into_iter().flatten() {
        match name.to_ascii_lowercase().as_str() {
            "level" => deflate.level = within(value, 1, 9)?,
            "contexttakeover" => deflate.context_takeover = Some(value.as_bool().ok_or(Wrong::Value)?),
            "windowbits" => deflate.window_bits = within(value, 9, 15)?,
            "threshold" => {
                let bytes = value.as_u64().and_then(|bytes| usize::try_from(bytes).ok());
                deflate.threshold = bytes.ok_or(Wrong::Value)?;
            }
            _ => return Err(Wrong::Value),
        }
    }
    Ok(())
}
