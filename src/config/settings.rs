//! The settings of the sections `basic` and `source`, one row each. The section `rule` has the rows of rule options.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::tz::TimeZone;
use serde_json::{Value as Json, json};

use super::{Config, LogFormat, PropertySets};
use crate::definition::connection::Connections;
use crate::definition::rule::{RuleOptions, options};
use crate::io::egress::Allowed;
use crate::io::reach::ALLOWED_VARIABLES;
use crate::io::websocket::{JwtSettings, ServerSettings, ServerTls};
use crate::logging::{Level, LogFile};
use crate::property::{self, Noun, Property, Type, Wrong, reference, schema};

/// The settings as written, before those that depend on each other are combined.
pub(super) struct Draft {
    pub config: Config,
    pub debug: bool,
    pub prometheus: bool,
    pub prometheus_port: u16,
}

type Row = Property<Draft>;

pub(super) const SECTIONS: &[Row] = &[Row::object("basic", BASIC), Row::object("source", SOURCE)];

const BASIC: &[Row] = &[
    Row::parsed("logLevel", "trace, debug, info, warn or error", |draft, name| {
        draft.config.log = Some(Level::of(name).ok_or(Wrong::Value)?.directive().to_owned());
        Ok(())
    })
    .doc("`error`, `warn`, `info`, `debug` or `trace` (eKuiper's `fatal` and `panic` are `error`); absent: `warn`. `--log` and `PLUTINO_LOG` take precedence"),
    Row::flag("debug", |draft, on| draft.debug = on)
        .default("false")
        .doc("`true`: log level `debug`, regardless of `logLevel`, unless that is `trace`"),
    Row::flag("consoleLog", |draft, on| draft.config.console_log = on)
        .default("true")
        .doc("The service logs to stderr"),
    Row::flag("fileLog", |draft, on| draft.config.file_log = on)
        .default("false")
        .doc("The service logs to files `plutino.DATE.log` (UTC) in `--log-dir`; without it, in `log` next to the data folder"),
    Row::whole("rotateTime", 0, u64::MAX, |draft, hours| draft.config.log_file.hours = hours)
        .expecting("a number of hours")
        .default("24")
        .doc("Hours until the next log file: 24 or more is one a day, less is one an hour"),
    Row::whole("rotateCount", 0, usize::MAX as u64, |draft, files| draft.config.log_file.count = files as usize)
        .expecting("a number of files")
        .default("3")
        .doc("Log files that are kept; `0` keeps all"),
    Row::choice("logFormat", &["text", "json"], |draft, format| {
        draft.config.log_format = if format == "json" { LogFormat::Json } else { LogFormat::Text };
    })
    .default("text")
    .doc("`json`: each line of the log is a JSON object"),
    Row::parsed("timezone", "Local, or a time zone such as Europe/Berlin", |draft, name| {
        draft.config.zone = zone(name).ok_or(Wrong::Value)?;
        Ok(())
    })
    .default("Local")
    .doc("The time zone in which windows are aligned, such as `Europe/Berlin`"),
    Row::parsed("restIp", IP, |draft, ip| {
        draft.config.rest.set_ip(ip.parse().map_err(|_| Wrong::Value)?);
        Ok(())
    })
    .default("127.0.0.1")
    .doc("The address on which the REST API listens"),
    Row::whole("restPort", 0, 65_535, |draft, port| draft.config.rest.set_port(port as u16))
        .expecting(PORT)
        .default("9081")
        .doc("Its port; `0`: any free port"),
    Row::checked_texts("restHosts", "a list of host names such as plutino.example, without a port", |draft, hosts| {
        draft.config.rest_hosts = checked(hosts, is_host)?;
        Ok(())
    })
    .doc("Host names under which the API may be addressed, in addition to its own address and the loopback ones: see [security](security.md#web-pages)"),
    // `*` is not allowed: every page that a user visits could use the API.
    Row::checked_texts("restOrigins", "a list of origins such as https://board.example, each by its name", |draft, origins| {
        let origins = checked(origins, |origin| origin != "*" && is_origin(origin))?;
        let plain = |origin: String| origin.trim_end_matches('/').to_ascii_lowercase();
        draft.config.rest_origins = origins.into_iter().map(plain).collect();
        Ok(())
    })
    .doc("Origins of web pages that may use the API, such as `https://console.example`; the API's own origin always may"),
    Row::checked_texts("fileRoots", "a list of folders such as /srv/files, each from the root on", |draft, folders| {
        let folders = checked(folders, |folder| Path::new(folder).is_absolute())?;
        draft.config.file_roots = folders.into_iter().map(PathBuf::from).collect();
        Ok(())
    })
    .doc("Folders, in addition to the data folder, whose files requests may name"),
    Row::checked_texts("envAllow", "a list of environment variables such as FEED_TOKEN or FEED_*", |draft, names| {
        draft.config.env_allow = checked(names, is_variable)?;
        Ok(())
    })
    .default(ALLOWED_VARIABLES)
    .doc("Variables that `${NAME}` may name in properties set over the API; a `*` at the end matches the rest of the name"),
    Row::checked_texts("egressAllow", "a list of addresses, networks or hosts such as 127.0.0.1:8080, 169.254.0.0/16 or localhost", |draft, texts| {
        let allowed: Option<Vec<Allowed>> = texts.iter().map(|text| Allowed::parse(text)).collect();
        draft.config.egress_allow = allowed.ok_or(Wrong::Value)?;
        Ok(())
    })
    .doc("Loopback and link-local addresses, and addresses of the service itself, to which sinks may send requests \
     and websockets may connect: see [security](security.md#requests-of-sinks)"),
    Row::flag("dialLoopback", |draft, dials| draft.config.dial_loopback = dials)
        .default("true")
        .doc("Websockets may dial the machine itself; `false`: only addresses in `egressAllow`"),
    Row::object("restTls", &[
        Row::text("certfile", |draft, file| set_file(rest_tls(draft, file), file, |tls| &mut tls.certfile))
            .doc("PEM file of the certificate; with it and the key the API uses https"),
        Row::text("keyfile", |draft, file| set_file(rest_tls(draft, file), file, |tls| &mut tls.keyfile))
            .doc("PEM file of the key"),
        Row::text("clientCaFile", |draft, file| {
            set_file(rest_tls(draft, file), file, |tls| tls.client_ca_file.get_or_insert_default());
        })
        .doc("PEM file of authorities; clients must present a certificate of one of them"),
    ]),
    Row::flag("authentication", |draft, on| draft.config.authentication = on)
        .default("false")
        .doc("The API requires a token: see [security](security.md)"),
    Row::flag("enableRestAuditLog", |draft, on| draft.config.rest_audit = on)
        .default("false")
        .doc("Each request that may change something is logged, whatever the level: method, path, status"),
    Row::flag("prometheus", |draft, on| draft.prometheus = on)
        .default("false")
        .doc("`/metrics` is also served on a separate port, without TLS and token, on `restIp`"),
    Row::whole("prometheusPort", 0, 65_535, |draft, port| draft.prometheus_port = port as u16)
        .expecting(PORT)
        .default("20499")
        .doc("That port; `0`: any free port"),
    Row::size("maxMemory", |draft, bytes| draft.config.max_memory = Some(bytes))
        .expecting("bytes, or a size such as \"512MiB\"; 0 is no budget")
        .doc("The memory budget of the process; absent: 80 % of the control group or machine; `0`: none. From 85 % \
         on, new clients are refused; from 98 % on, the rule with the largest state is stopped with a message"),
    Row::duration("gracefulShutdownTimeout", |draft, time| draft.config.shutdown_timeout = time)
        .default("5s")
        .doc("The time limit of an orderly shutdown: messages that clients have not received by then are lost and counted"),
    Row::without_effect("logDisableTimestamp", Type::ANY),
    Row::without_effect("syslog", Type::ANY),
    Row::without_effect("maxAge", Type::ANY),
    Row::without_effect("rotateSize", Type::ANY),
    Row::without_effect("ip", Type::ANY),
    Row::without_effect("port", Type::ANY),
    Row::without_effect("pluginHosts", Type::ANY),
    Row::without_effect("ignoreCase", Type::ANY),
    Row::without_effect("sql", Type::ANY),
    Row::without_effect("rulePatrolInterval", Type::ANY),
    Row::without_effect("cfgStorageType", Type::ANY),
    Row::without_effect("enablePrivateMetric", Type::ANY),
    Row::without_effect("aesKey", Type::ANY),
    Row::without_effect("metricsDumpConfig", Type::ANY),
    Row::without_effect("enableResourceProfiling", Type::ANY),
    Row::without_effect("resourceProfileConfig", Type::ANY),
    Row::without_effect("security", Type::ANY),
    Row::without_effect("store", Type::ANY),
    Row::without_effect("hotReload", Type::ANY),
];

const SOURCE: &[Row] = &[
    Row::parsed("httpServerIp", IP, |draft, ip| {
        ip.parse::<IpAddr>().map_err(|_| Wrong::Value)?;
        draft.config.server.ip = ip.to_owned();
        Ok(())
    })
    .default("0.0.0.0")
    .doc("The address on which the data server listens, while a rule needs it"),
    Row::whole("httpServerPort", 0, 65_535, |draft, port| draft.config.server.port = port as u16)
        .expecting(PORT)
        .default("10081")
        .doc("Its port; `0`: any free port"),
    Row::object("httpServerTls", &[
        Row::text("certfile", |draft, file| set_file(server_tls(draft, file), file, |tls| &mut tls.certfile))
            .doc("PEM file of the certificate; with it and the key endpoints are wss://"),
        Row::text("keyfile", |draft, file| set_file(server_tls(draft, file), file, |tls| &mut tls.keyfile))
            .doc("PEM file of the key"),
        Row::text("clientCaFile", |draft, file| {
            set_file(server_tls(draft, file), file, |tls| tls.client_ca_file.get_or_insert_default());
        })
        .doc("PEM file of authorities; clients must present a certificate of one of them"),
    ]),
    Row::checked_texts("httpServerOrigins", "a list of origins such as https://board.example, or * for any", |draft, origins| {
        draft.config.server.origins = checked(origins, is_origin)?;
        Ok(())
    })
    .doc("Origins that web pages may connect from, such as `https://board.example`; `*` is any. Absent: pages of the same host"),
    Row::duration("endpointLinger", |draft, time| draft.config.server.linger = time)
        .default("5s")
        .doc("How long a path of the data server stays open, with its clients, after the last rule or connection has stopped using it; `0`: it closes at once. Not in `plutino run`"),
    Row::object("httpServerJwt", &[
        Row::checked_texts("keys", "a list of files: PEM of public keys, or JWKS", |draft, files| {
            jwt(draft).keys = checked(files, |file| !file.is_empty())?;
            Ok(())
        })
        .doc("Files with the keys of JSON web tokens, PEM of public keys (RSA, EC, Ed25519) or JWKS. Clients may use such tokens instead of the tokens below; their claims restrict the rows of [live views](live-views.md#access)"),
        Row::texts("audience", |draft, names| jwt(draft).audience = names)
            .expecting("a text or a list of texts")
            .doc("A token's `aud` must contain one of these; absent: `aud` is not checked"),
        Row::texts("issuer", |draft, names| jwt(draft).issuer = names)
            .expecting("a text or a list of texts")
            .doc("A token's `iss` must be one of these; absent: `iss` is not checked"),
    ]),
    Row::checked_texts("httpServerTokens", "a list of texts that are not empty", |draft, tokens| {
        draft.config.server.tokens = checked(tokens, |token| !token.is_empty())?;
        Ok(())
    })
    .doc("Tokens, one of which clients must send; best set as `PLUTINO__SOURCE__HTTPSERVERTOKENS`"),
    Row::whole("maxConnections", 0, usize::MAX as u64, |draft, most| draft.config.server.max_connections = most as usize)
        .expecting(CLIENTS)
        .default("0")
        .doc("The most clients of the data server; others get 503. `0`: as many as the file descriptors of the process allow (`ulimit -n`), minus a reserve for the REST API and other uses"),
    Row::whole("maxConnectionsPerIp", 0, usize::MAX as u64, |draft, most| {
        draft.config.server.max_connections_per_ip = most as usize;
    })
    .expecting(CLIENTS)
    .default("0")
    .doc("The same for one address (of IPv6: one /64); `0`: no limit, since all clients behind a proxy have one address"),
];

const IP: &str = "an IP address of this machine, or 0.0.0.0 for all";
const PORT: &str = "a port from 0 (any free one) to 65535";
const CLIENTS: &str = "a number of clients; 0 is no limit";

impl Default for Config {
    /// The configuration without any file or environment variable.
    fn default() -> Config {
        Draft::default().finish()
    }
}

impl Default for Draft {
    fn default() -> Draft {
        let mut draft = Draft { config: unset(), debug: false, prometheus: false, prometheus_port: 0 };
        property::set_defaults(SECTIONS, &mut draft);
        draft
    }
}

impl Draft {
    /// Combines settings that depend on each other.
    pub fn finish(self) -> Config {
        let Draft { mut config, debug, prometheus, prometheus_port } = self;
        // `trace` writes more than `debug`, so it wins.
        if debug && config.log.as_deref() != Some(Level::Trace.directive()) {
            config.log = Some(Level::Debug.directive().to_owned());
        }
        config.prometheus = prometheus.then_some(prometheus_port);
        config
    }
}

/// The values before the defaults of the rows are applied.
fn unset() -> Config {
    Config {
        server: ServerSettings::default(),
        zone: TimeZone::UTC,
        rule: RuleOptions::default(),
        log: None,
        rest: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
        rest_tls: None,
        rest_hosts: Vec::new(),
        rest_origins: Vec::new(),
        file_roots: Vec::new(),
        env_allow: Vec::new(),
        egress_allow: Vec::new(),
        dial_loopback: true,
        reach: None,
        authentication: false,
        rest_audit: false,
        prometheus: None,
        shutdown_timeout: Duration::ZERO,
        max_memory: None,
        file_log: false,
        log_file: LogFile::default(),
        console_log: false,
        log_format: LogFormat::Text,
        sources: PropertySets::default(),
        sinks: PropertySets::default(),
        connections: Connections::default(),
        files: Vec::new(),
    }
}

/// The JSON Schema of `plutino.yaml`. It allows the sections that only eKuiper has.
pub fn schema() -> Json {
    let mut members = schema::members(&property::entries(SECTIONS), None);
    let mut defaults = options::entries();
    defaults.retain(|option| option.about.name != "deadLetter");
    members.insert("rule".to_owned(), Json::Object(schema::object(&defaults, None)));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Plutino configuration: etc/plutino.yaml",
        "type": "object",
        "properties": members,
        "$defs": {(schema::VARIABLE): schema::variable()}
    })
}

/// The table of a section for `docs/config.md`.
pub fn table(section: &str) -> String {
    let mut entries = property::entries(SECTIONS);
    entries.retain(|entry| entry.about.name == section);
    reference::table_of(Noun::Setting, &entries)
}

/// The eKuiper settings of a section that have no effect, as a sentence for `docs/config.md`.
pub fn without_effect(section: &str) -> String {
    let entries = property::entries(SECTIONS);
    let members = entries.iter().find(|entry| entry.about.name == section).map(|entry| entry.members.as_slice());
    reference::without_effect(members.unwrap_or_default())
}

/// The TLS settings of the API; `None` if `file` is empty, which means "no TLS" in eKuiper's own file.
fn rest_tls<'a>(draft: &'a mut Draft, file: &str) -> Option<&'a mut ServerTls> {
    (!file.is_empty()).then(|| draft.config.rest_tls.get_or_insert_default())
}

/// The same for the data server.
fn server_tls<'a>(draft: &'a mut Draft, file: &str) -> Option<&'a mut ServerTls> {
    (!file.is_empty()).then(|| draft.config.server.tls.get_or_insert_default())
}

fn set_file(tls: Option<&mut ServerTls>, file: &str, member: fn(&mut ServerTls) -> &mut String) {
    if let Some(tls) = tls {
        file.clone_into(member(tls));
    }
}

fn jwt(draft: &mut Draft) -> &mut JwtSettings {
    draft.config.server.jwt.get_or_insert_default()
}

fn checked(texts: Vec<String>, fits: impl Fn(&str) -> bool) -> Result<Vec<String>, Wrong> {
    if texts.iter().all(|text| fits(text)) { Ok(texts) } else { Err(Wrong::Value) }
}

/// The time zone with this name: `Local`, or a name in the time zone database.
pub fn zone(name: &str) -> Option<TimeZone> {
    match name.to_ascii_lowercase().as_str() {
        "local" => Some(TimeZone::system()),
        "utc" => Some(TimeZone::UTC),
        _ => TimeZone::get(name).ok(),
    }
}

/// Whether the text is an origin: scheme, host and port (RFC 6454), or `null`; `*` means any.
fn is_origin(text: &str) -> bool {
    let named = |(scheme, host): (&str, &str)| {
        !scheme.is_empty() && !host.is_empty() && !host.contains(['/', '?', '#', '@', ' '])
    };
    matches!(text, "*" | "null") || text.trim_end_matches('/').split_once("://").is_some_and(named)
}

/// Whether the text is a host without scheme, port and path; IPv6 addresses are in brackets.
fn is_host(text: &str) -> bool {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let plain = |host: &str| !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ', ':', '*', '[', ']']);
    inner.map_or_else(|| plain(text), |address| address.parse::<std::net::Ipv6Addr>().is_ok())
}

/// Whether the text is the name of an environment variable; a trailing `*` matches any ending.
fn is_variable(text: &str) -> bool {
    let name = text.strip_suffix('*').unwrap_or(text);
    !text.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
