//! The configuration: files of the `--etc` folder under overrides of the environment, made into typed settings once.
//!
//! Neither the folder nor any file needs to exist. A later layer beats those before it: `plutino.yaml` (or
//! `kuiper.yaml`), `sources/websocket.yaml`, and the environment's `KUIPER__…`, `PLUTINO__…`, `WEBSOCKET__…`. Beside
//! them, `connections/connection.yaml` has named connections.
//! What is wrong is told with file and line, or the variable's name. Nothing behind this module sees YAML.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::tz::TimeZone;
use serde_json::{Map, Value as Json};

use crate::definition::connection::{Connections, put};
use crate::definition::rule::{self, RuleOptions};
use crate::io::connector;
use crate::io::reach::{ALLOWED_VARIABLES, Reach};
use crate::io::websocket::{ServerSettings, ServerTls, Settings};
use crate::logging::{Level, LogFile};
use crate::text::document::{Document, Node, Place, Problem, Severity, Value};

/// All settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// the data server
    pub server: ServerSettings,
    /// `basic.timezone`: windows are aligned in it
    pub zone: TimeZone,
    /// the `rule` section: options that a rule does not set itself
    pub rule: RuleOptions,
    /// `basic.logLevel`, or debug where `basic.debug` is true
    pub log: Option<String>,
    /// `basic.restIp` and `basic.restPort`: where the REST API listens
    pub rest: SocketAddr,
    /// `basic.restTls`: the API speaks TLS
    pub rest_tls: Option<ServerTls>,
    /// `basic.restHosts`: names under which the API may be asked, beside its address and the loopback ones
    pub rest_hosts: Vec<String>,
    /// `basic.restOrigins`: web pages that may use the API, in small letters
    pub rest_origins: Vec<String>,
    /// `basic.fileRoots`: folders beside the data folder whose files properties may name
    pub file_roots: Vec<PathBuf>,
    /// `basic.envAllow`: variables that `${NAME}` may name in properties set over the API
    pub env_allow: Vec<String>,
    /// what properties set over the API may reach; `None` where all of them are the operator's
    pub reach: Option<Reach>,
    /// `basic.authentication`: whoever uses the API must show a token
    pub authentication: bool,
    /// `basic.enableRestAuditLog`: each request that changes something has a line in the log
    pub rest_audit: bool,
    /// `basic.prometheus` and `basic.prometheusPort`: where the metrics are beside the API's `/metrics`
    pub prometheus: Option<u16>,
    /// `basic.gracefulShutdownTimeout`: how long rules may take to end when the process ends
    pub shutdown_timeout: Duration,
    /// `basic.maxMemory`: the memory budget of the process, bytes; `None`: 80 % of what there is
    pub max_memory: Option<u64>,
    /// `basic.fileLog`: whether the log goes to files
    pub file_log: bool,
    /// how these are, now or once they are switched on
    pub log_file: LogFile,
    /// `basic.consoleLog`: whether the log goes to stderr
    pub console_log: bool,
    /// `basic.logFormat`
    pub log_format: LogFormat,
    /// the conf keys of sources
    pub sources: SourceSettings,
    /// the conf keys of sinks, which they name with `resourceId`
    pub sinks: SourceSettings,
    /// named connections
    pub connections: Connections,
}

/// How lines of the log look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// for people
    #[default]
    Text,
    /// an object of JSON each
    Json,
}

/// The port of metrics where `basic.prometheus` is true and no other is said.
const PROMETHEUS_PORT: u16 = 20499;

/// Where the REST API listens unless the configuration says otherwise: nobody outside of the machine reaches it.
const REST: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9081);

impl Default for Config {
    fn default() -> Config {
        Config {
            server: ServerSettings { linger: Duration::from_secs(5), ..ServerSettings::default() },
            zone: TimeZone::system(),
            rule: RuleOptions::default(),
            log: None,
            rest: REST,
            rest_tls: None,
            rest_hosts: Vec::new(),
            rest_origins: Vec::new(),
            file_roots: Vec::new(),
            env_allow: vec![ALLOWED_VARIABLES.to_owned()],
            reach: None,
            authentication: false,
            rest_audit: false,
            prometheus: None,
            shutdown_timeout: Duration::from_secs(5),
            max_memory: None,
            file_log: false,
            log_file: LogFile::default(),
            console_log: true,
            log_format: LogFormat::Text,
            sources: SourceSettings::default(),
            sinks: SourceSettings::default(),
            connections: Connections::default(),
        }
    }
}

/// Property sets of sources by kind and CONF_KEY; `default` lies under every other one.
#[derive(Clone, Debug, Default)]
pub struct SourceSettings {
    /// by kind, then by key
    sets: BTreeMap<String, BTreeMap<String, Map<String, Json>>>,
    /// made while the process runs, by kind and key: they stand in place of those of `sets`
    made: BTreeMap<String, BTreeMap<String, Map<String, Json>>>,
    /// `WEBSOCKET__KEY__PROPERTY`: kind and key in small letters, property, value
    overrides: Vec<(String, String, String, Json)>,
}

/// Settings that eKuiper knows and Plutino has no use for, in small letters: no warning names them.
const FOREIGN: &[&str] = &[
    "basic.logdisabletimestamp",
    "basic.syslog",
    "basic.maxage",
    "basic.rotatesize",
    "basic.ip",
    "basic.port",
    "basic.pluginhosts",
    "basic.ignorecase",
    "basic.sql",
    "basic.rulepatrolinterval",
    "basic.cfgstoragetype",
    "basic.enableprivatemetric",
    "basic.aeskey",
    "basic.metricsdumpconfig",
    "basic.enableresourceprofiling",
    "basic.resourceprofileconfig",
    "basic.security",
    "basic.store",
    "basic.hotreload",
    "sink",
    "store",
    "portable",
    "opentelemetry",
    "connection",
    "logger",
];

/// Settings that Plutino reads, as they are written.
const OWN: &[&str] = &[
    "basic.logLevel",
    "basic.debug",
    "basic.timezone",
    "basic.restIp",
    "basic.restPort",
    "basic.restHosts",
    "basic.restOrigins",
    "basic.fileRoots",
    "basic.envAllow",
    "basic.restTls.certfile",
    "basic.restTls.keyfile",
    "basic.restTls.clientCaFile",
    "basic.authentication",
    "basic.enableRestAuditLog",
    "basic.prometheus",
    "basic.prometheusPort",
    "basic.gracefulShutdownTimeout",
    "basic.maxMemory",
    "basic.consoleLog",
    "basic.fileLog",
    "basic.logFormat",
    "basic.rotateTime",
    "basic.rotateCount",
    "source.httpServerIp",
    "source.httpServerPort",
    "source.httpServerTls.certfile",
    "source.httpServerTls.keyfile",
    "source.httpServerTls.clientCaFile",
    "source.httpServerOrigins",
    "source.httpServerTokens",
    "source.endpointLinger",
    "source.maxConnections",
    "source.maxConnectionsPerIp",
    "source.httpServerJwt.keys",
    "source.httpServerJwt.audience",
    "source.httpServerJwt.issuer",
];

/// Reads the folder `etc` and the environment; the second answer are warnings.
///
/// # Errors
/// All [`Problem`]s, errors and warnings.
pub fn load(
    etc: &Path,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<(Config, Vec<Problem>), Vec<Problem>> {
    let mut reader = Reader {
        config: Config::default(),
        tls: Vec::new(),
        debug: false,
        prometheus: false,
        prometheus_port: PROMETHEUS_PORT,
        file_log: false,
        log_file: LogFile::default(),
        problems: Vec::new(),
    };
    if let Some(main) = ["plutino.yaml", "kuiper.yaml"].iter().map(|name| etc.join(name)).find(|path| path.is_file()) {
        reader.file(&main, Reader::main_file);
    }
    let connector = etc.join("sources").join("websocket.yaml");
    if connector.is_file() {
        reader.file(&connector, Reader::connector_file);
    }
    for kind in connector::SINKS {
        let sinks = etc.join("sinks").join(format!("{kind}.yaml"));
        if sinks.is_file() {
            reader.sink_file(&sinks, kind);
        }
    }
    let connections = etc.join("connections").join("connection.yaml");
    if connections.is_file() {
        reader.file(&connections, |reader, document| {
            reader.config.connections.read(document, &mut reader.problems);
        });
    }
    let mut variables: Vec<(String, String)> =
        environment.into_iter().filter(|(name, _)| name.contains("__")).collect();
    variables.sort();
    for prefix in ["KUIPER__", "PLUTINO__", "WEBSOCKET__"] {
        for (name, value) in &variables {
            if name.len() > prefix.len() && name.is_char_boundary(prefix.len()) {
                let (head, path) = name.split_at(prefix.len());
                if head.eq_ignore_ascii_case(prefix) {
                    reader.variable(name, prefix, path, value);
                }
            }
        }
    }
    reader.finish()
}

impl SourceSettings {
    /// Puts the property sets of `node` (`{"websocket": {"KEY": {"addr": "…"}}}`) in place of those of the same key.
    pub fn replace(&mut self, document: &Document, node: &Node, problems: &mut Vec<Problem>) {
        if !matches!(node.value, Value::Map(_) | Value::Null) {
            let message = format!("sources is {}, expected an object of conf keys by source type", node.kind());
            problems.push(document.error(node.place, "", message));
        }
        for kind in node.members() {
            self.replace_kind(document, &kind.key, &kind.node, problems);
        }
    }

    fn replace_kind(&mut self, document: &Document, kind: &str, node: &Node, problems: &mut Vec<Problem>) {
        if !connector::SOURCES.contains(&kind) && !connector::SINKS.contains(&kind) {
            let hint = Some("there is websocket".to_owned());
            problems.push(document.warning(node.place, "", format!("source type {kind} not found")).with_hint(hint));
        }
        if !matches!(node.value, Value::Map(_) | Value::Null) {
            let message = format!("sources: {kind} is {}, expected an object of conf keys", node.kind());
            problems.push(document.error(node.place, "", message));
        }
        for member in node.members() {
            match &member.node.value {
                Value::Map(_) | Value::Null => {
                    let set = member.node.json_members();
                    self.sets.entry(kind.to_owned()).or_default().insert(member.key.clone(), set);
                }
                _ => {
                    let message = format!("conf key {} is {}, expected an object", member.key, member.node.kind());
                    problems.push(document.error(member.node.place, "", message));
                }
            }
        }
    }

    /// The properties of a source with this CONF_KEY; `None` if there is no such key. Without one, those of `default`.
    pub fn properties(&self, kind: &str, key: Option<&str>) -> Option<Map<String, Json>> {
        let key = key.filter(|key| !key.is_empty()).unwrap_or("default");
        let mut known = key == "default";
        let mut props = Map::new();
        for layer in ["default", key] {
            if let Some(set) = self.own(kind, layer) {
                known |= layer == key;
                for (name, value) in set {
                    put(&mut props, name, value.clone());
                }
            }
            if layer == key && key == "default" {
                break;
            }
        }
        for layer in ["default", key] {
            for (own_kind, own_key, name, value) in &self.overrides {
                if own_kind == kind && own_key.eq_ignore_ascii_case(layer) {
                    known |= layer == key;
                    put(&mut props, name, value.clone());
                }
            }
        }
        known.then_some(props)
    }

    /// The properties that this key itself sets.
    pub fn own(&self, kind: &str, key: &str) -> Option<&Map<String, Json>> {
        [&self.made, &self.sets].into_iter().find_map(|sets| sets.get(kind)?.get(key))
    }

    /// Puts a property set in place of the one with this key; `None`: what the files say counts again.
    pub fn overlay(&mut self, kind: &str, key: &str, props: Option<Map<String, Json>>) {
        let made = self.made.entry(kind.to_owned()).or_default();
        match props {
            Some(props) => drop(made.insert(key.to_owned(), props)),
            None => drop(made.remove(key)),
        }
    }

    /// The keys of a kind that the files have.
    pub fn keys(&self, kind: &str) -> impl Iterator<Item = &str> {
        self.sets.get(kind).into_iter().flat_map(|sets| sets.keys().map(String::as_str))
    }
}

fn port(node: &Node) -> Option<u16> {
    let Value::Number(port) = &node.value else { return None };
    port.as_u64().and_then(|port| u16::try_from(port).ok())
}

fn whole(node: &Node) -> Option<u64> {
    let Value::Number(number) = &node.value else { return None };
    number.as_u64()
}

/// A list of texts; one text is a list of one.
fn texts(node: &Node) -> Option<Vec<String>> {
    match node.json() {
        Json::String(text) => Some(vec![text]),
        Json::Array(texts) => texts.into_iter().map(|text| text.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

/// Whether a page can have this origin: scheme, host and port (RFC 6454), or `null`; `*` is any. A page that no entry of the
/// list can name would be kept out without a word.
fn is_origin(text: &str) -> bool {
    let named = |(scheme, host): (&str, &str)| {
        !scheme.is_empty() && !host.is_empty() && !host.contains(['/', '?', '#', '@', ' '])
    };
    matches!(text, "*" | "null") || text.trim_end_matches('/').split_once("://").is_some_and(named)
}

/// A host without scheme, port and path; IPv6 addresses in brackets.
fn is_host(text: &str) -> bool {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let plain = |host: &str| !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ', ':', '*', '[', ']']);
    inner.map_or_else(|| plain(text), |address| address.parse::<std::net::Ipv6Addr>().is_ok())
}

/// The name of an environment variable; a `*` at its end stands for the rest of the name.
fn is_variable(text: &str) -> bool {
    let name = text.strip_suffix('*').unwrap_or(text);
    !text.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

struct Reader {
    config: Config,
    /// where certificate and key of a server are set, and whether it is that of the API, for the case that one is
    /// missing
    tls: Vec<(Document, Place, bool)>,
    /// `basic.debug`
    debug: bool,
    /// `basic.prometheus`
    prometheus: bool,
    /// `basic.prometheusPort`
    prometheus_port: u16,
    /// `basic.fileLog`
    file_log: bool,
    log_file: LogFile,
    problems: Vec<Problem>,
}

impl Reader {
    fn file(&mut self, path: &Path, read: fn(&mut Reader, &Document)) {
        match Document::read(path) {
            Ok(document) => match document.root.value {
                Value::Map(_) | Value::Null => read(self, &document),
                _ => {
                    let message = format!("the file holds {}, expected sections", document.root.kind());
                    self.problems.push(document.error(document.root.place, "", message));
                }
            },
            Err(problem) => self.problems.push(*problem),
        }
    }

    fn main_file(&mut self, document: &Document) {
        for section in document.root.members() {
            self.section(document, &section.key, &section.node, section.place);
        }
    }

    fn connector_file(&mut self, document: &Document) {
        let mut sets = document.root.clone();
        if let Value::Map(members) = &mut sets.value {
            members.retain(|member| {
                let server = member.key.eq_ignore_ascii_case("source");
                if server {
                    self.section(document, "source", &member.node, member.place);
                }
                !server
            });
        }
        self.config.sources.replace_kind(document, "websocket", &sets, &mut self.problems);
        for set in sets.members() {
            self.check_set(document, &set.key, &set.node);
        }
    }

    /// The conf keys of one kind of sinks.
    fn sink_file(&mut self, path: &Path, kind: &str) {
        match Document::read(path) {
            Ok(document) => {
                let root = document.root.clone();
                self.config.sinks.replace_kind(&document, kind, &root, &mut self.problems);
            }
            Err(problem) => self.problems.push(*problem),
        }
    }

    /// What is wrong with the properties of a conf key, each at its place.
    fn check_set(&mut self, document: &Document, key: &str, set: &Node) {
        let (faults, warnings) = connector::set_faults("websocket", &set.json_members());
        let subject = format!("conf key {key}");
        self.problems.extend(faults.iter().map(|fault| fault.problem(document, set, &subject, "")));
        self.problems.extend(warnings.iter().map(|warning| warning.problem(document, set, &subject, "")));
    }

    /// One section of the main file, or what the environment says in its place.
    fn section(&mut self, document: &Document, name: &str, node: &Node, place: Place) {
        let lower = name.to_ascii_lowercase();
        if FOREIGN.contains(&lower.as_str()) || node.is_null() {
            return;
        }
        if !["basic", "source", "rule"].contains(&lower.as_str()) {
            let hint = rule::meant(name, &["basic", "source", "rule", "sink", "store"]);
            let message = format!("unknown section {name} is ignored");
            self.problems.push(document.warning(place, "", message).with_hint(hint));
            return;
        }
        if !matches!(node.value, Value::Map(_)) {
            let message = format!("section {name} is {}, expected an object", node.kind());
            self.problems.push(document.error(node.place, "", message));
            return;
        }
        if lower == "rule" {
            self.config.rule =
                rule::parse_options(document, node, "section rule", &self.config.rule, &mut self.problems);
            return;
        }
        for member in node.members() {
            self.setting(document, &format!("{name}.{}", member.key), member.place, &member.node);
        }
    }

    fn setting(&mut self, document: &Document, name: &str, place: Place, node: &Node) {
        let lower = name.to_ascii_lowercase();
        if node.is_null() || FOREIGN.contains(&lower.as_str()) {
            return;
        }
        let mut wrong = |expected: &str| {
            let is = node.json();
            self.problems.push(document.error(node.place, "", format!("{name} is {is}, expected {expected}")));
        };
        let text = node.text().filter(|text| !text.is_empty());
        match lower.as_str() {
            "basic.loglevel" => match text.and_then(Level::of) {
                Some(level) => self.config.log = Some(level.directive().to_owned()),
                None => wrong("trace, debug, info, warn or error"),
            },
            "basic.debug" => match node.value {
                Value::Bool(on) => self.debug = on,
                _ => wrong("true or false"),
            },
            "basic.timezone" => match text.map(zone) {
                Some(Some(zone)) => self.config.zone = zone,
                _ => wrong("Local, or a time zone such as Europe/Berlin"),
            },
            "basic.restip" => match text.and_then(|ip| ip.parse().ok()) {
                Some(ip) => self.config.rest.set_ip(ip),
                None => wrong("an IP address of this machine, or 0.0.0.0 for all"),
            },
            "basic.restport" => match port(node) {
                Some(port) => self.config.rest.set_port(port),
                None => wrong("a port from 0 (any free one) to 65535"),
            },
            "basic.resthosts" => match texts(node) {
                Some(hosts) if hosts.iter().all(|host| is_host(host)) => self.config.rest_hosts = hosts,
                _ => wrong("a list of host names such as plutino.example, without a port"),
            },
            // Not `*`: any page could use the API of whoever looks at it.
            "basic.restorigins" => match texts(node) {
                Some(origins) if origins.iter().all(|origin| origin != "*" && is_origin(origin)) => {
                    let plain = |origin: &String| origin.trim_end_matches('/').to_ascii_lowercase();
                    self.config.rest_origins = origins.iter().map(plain).collect();
                }
                _ => wrong("a list of origins such as https://board.example, each by its name"),
            },
            "basic.fileroots" => match texts(node) {
                Some(folders) if folders.iter().all(|folder| Path::new(folder).is_absolute()) => {
                    self.config.file_roots = folders.into_iter().map(PathBuf::from).collect();
                }
                _ => wrong("a list of folders such as /srv/files, each from the root on"),
            },
            "basic.envallow" => match texts(node) {
                Some(names) if names.iter().all(|name| is_variable(name)) => self.config.env_allow = names,
                _ => wrong("a list of environment variables such as FEED_TOKEN or FEED_*"),
            },
            "basic.authentication" => match node.value {
                Value::Bool(on) => self.config.authentication = on,
                _ => wrong("true or false"),
            },
            "basic.enablerestauditlog" => match node.value {
                Value::Bool(on) => self.config.rest_audit = on,
                _ => wrong("true or false"),
            },
            "basic.prometheus" => match node.value {
                Value::Bool(on) => self.prometheus = on,
                _ => wrong("true or false"),
            },
            "basic.prometheusport" => match port(node) {
                Some(port) => self.prometheus_port = port,
                None => wrong("a port from 0 (any free one) to 65535"),
            },
            "basic.gracefulshutdowntimeout" => {
                match rule::milliseconds(node).and_then(|millis| u64::try_from(millis).ok()) {
                    Some(millis) => self.config.shutdown_timeout = Duration::from_millis(millis),
                    None => wrong("milliseconds, or a duration such as 10s"),
                }
            }
            "basic.maxmemory" => match rule::bytes(node) {
                Some(budget) => self.config.max_memory = Some(budget),
                None => wrong("bytes, or a size such as \"512MiB\"; 0 is no budget"),
            },
            "basic.consolelog" => match node.value {
                Value::Bool(on) => self.config.console_log = on,
                _ => wrong("true or false"),
            },
            "basic.filelog" => match node.value {
                Value::Bool(on) => self.file_log = on,
                _ => wrong("true or false"),
            },
            "basic.logformat" => match text {
                Some("text") => self.config.log_format = LogFormat::Text,
                Some("json") => self.config.log_format = LogFormat::Json,
                _ => wrong("text or json"),
            },
            "basic.rotatetime" => match whole(node) {
                Some(hours) => self.log_file.hours = hours,
                None => wrong("a number of hours"),
            },
            "basic.rotatecount" => match whole(node).and_then(|count| usize::try_from(count).ok()) {
                Some(count) => self.log_file.count = count,
                None => wrong("a number of files"),
            },
            "source.httpserverorigins" => match texts(node) {
                Some(texts) if texts.iter().all(|origin| is_origin(origin)) => self.config.server.origins = texts,
                _ => wrong("a list of origins such as https://board.example, or * for any"),
            },
            "source.httpservertokens" => match texts(node) {
                Some(texts) if texts.iter().all(|token| !token.is_empty()) => self.config.server.tokens = texts,
                _ => wrong("a list of texts that are not empty"),
            },
            "source.httpserverjwt" => match &node.value {
                Value::Map(members) => {
                    for member in members {
                        let name = format!("{name}.{}", member.key);
                        self.setting(document, &name, member.place, &member.node);
                    }
                }
                _ => wrong("an object {keys, audience, issuer}"),
            },
            "source.httpserverjwt.keys" => match texts(node) {
                Some(files) if files.iter().all(|file| !file.is_empty()) => {
                    self.config.server.jwt.get_or_insert_default().keys = files;
                }
                _ => wrong("a list of files: PEM of public keys, or JWKS"),
            },
            "source.httpserverjwt.audience" => match texts(node) {
                Some(names) => self.config.server.jwt.get_or_insert_default().audience = names,
                None => wrong("a text or a list of texts"),
            },
            "source.httpserverjwt.issuer" => match texts(node) {
                Some(names) => self.config.server.jwt.get_or_insert_default().issuer = names,
                None => wrong("a text or a list of texts"),
            },
            "source.httpserverip" => match text.filter(|ip| ip.parse::<std::net::IpAddr>().is_ok()) {
                Some(ip) => self.config.server.ip = ip.to_owned(),
                None => wrong("an IP address of this machine, or 0.0.0.0 for all"),
            },
            "source.endpointlinger" => match rule::milliseconds(node).and_then(|millis| u64::try_from(millis).ok()) {
                Some(millis) => self.config.server.linger = Duration::from_millis(millis),
                None => wrong("milliseconds, or a duration such as 5s; 0: no time"),
            },
            "source.httpserverport" => match port(node) {
                Some(port) => self.config.server.port = port,
                None => wrong("a port from 0 (any free one) to 65535"),
            },
            "source.maxconnections" | "source.maxconnectionsperip" => {
                match whole(node).and_then(|limit| usize::try_from(limit).ok()) {
                    Some(limit) if name.eq_ignore_ascii_case("source.maxConnections") => {
                        self.config.server.max_connections = limit;
                    }
                    Some(limit) => self.config.server.max_connections_per_ip = limit,
                    None => wrong("a number of clients; 0 is no limit"),
                }
            }
            "source.httpservertls" | "basic.resttls" => match &node.value {
                Value::Map(members) => {
                    for member in members {
                        self.setting(document, &format!("{name}.{}", member.key), member.place, &member.node);
                    }
                }
                _ => wrong("an object {certfile, keyfile}"),
            },
            "source.httpservertls.certfile"
            | "source.httpservertls.keyfile"
            | "source.httpservertls.clientcafile"
            | "basic.resttls.clientcafile"
            | "basic.resttls.certfile"
            | "basic.resttls.keyfile" => match text {
                Some(file) => {
                    let rest = lower.starts_with("basic");
                    let tls = if rest { &mut self.config.rest_tls } else { &mut self.config.server.tls };
                    let tls = tls.get_or_insert_with(ServerTls::default);
                    match lower.rsplit('.').next() {
                        Some("certfile") => tls.certfile = file.to_owned(),
                        Some("keyfile") => tls.keyfile = file.to_owned(),
                        _ => tls.client_ca_file = Some(file.to_owned()),
                    }
                    self.tls.push((document.clone(), node.place, rest));
                }
                // An empty text is how eKuiper's own file says "none".
                None if node.text() == Some("") => {}
                None => wrong("a file name"),
            },
            _ => {
                let message = format!("unknown setting {name} is ignored");
                self.problems.push(document.warning(place, "", message).with_hint(rule::meant(name, OWN)));
            }
        }
    }

    /// An override of the environment: `path` is what follows the prefix.
    fn variable(&mut self, name: &str, prefix: &str, path: &str, value: &str) {
        let parts: Vec<&str> = path.split("__").collect();
        if parts.iter().any(|part| part.is_empty()) {
            return;
        }
        let label = format!("environment variable {name}");
        let value = as_value(value);
        if prefix == "WEBSOCKET__" && !parts[0].eq_ignore_ascii_case("source") {
            let [key, property, rest @ ..] = parts.as_slice() else {
                let hint = Some("write WEBSOCKET__KEY__PROPERTY".to_owned());
                self.problems.push(Problem::warning(&label, None, "", "names no property").with_hint(hint));
                return;
            };
            let known = Settings::properties().into_iter().flat_map(|known| known.about.names());
            let property = known.into_iter().find(|known| known.eq_ignore_ascii_case(property)).unwrap_or(property);
            // A third part is a member of an object, such as a header.
            let value = rest
                .iter()
                .rev()
                .fold(value, |value, part| Json::Object(Map::from_iter([((*part).to_owned(), value)])));
            let alone = Map::from_iter([(property.to_owned(), value.clone())]);
            for error in connector::set_faults("websocket", &alone).0 {
                self.problems.push(Problem::error(&label, None, "", error.to_string()));
            }
            let set = ("websocket".to_owned(), key.to_ascii_lowercase(), property.to_owned(), value);
            self.config.sources.overrides.push(set);
            return;
        }
        let (section, rest) = (parts[0], &parts[1..]);
        if rest.is_empty() {
            let hint = Some(format!("write {prefix}SECTION__SETTING"));
            self.problems.push(Problem::warning(&label, None, "", "names no setting").with_hint(hint));
            return;
        }
        // The value as a document of its own, so that it goes the way of the files.
        let nested =
            rest.iter().rev().fold(value, |value, part| Json::Object(Map::from_iter([((*part).to_owned(), value)])));
        match Document::parse(&label, nested.to_string()) {
            Ok(document) => {
                let root = document.root.clone();
                let (first, first_tls) = (self.problems.len(), self.tls.len());
                self.section(&document, &section.to_ascii_lowercase(), &root, root.place);
                for problem in &mut self.problems[first..] {
                    problem.place = None;
                }
                for (_, place, _) in &mut self.tls[first_tls..] {
                    *place = Place::default();
                }
            }
            Err(problem) => self.problems.push(*problem),
        }
    }

    fn finish(mut self) -> Result<(Config, Vec<Problem>), Vec<Problem>> {
        for (name, of_rest, tls) in
            [("source.httpServerTls", false, &self.config.server.tls), ("basic.restTls", true, &self.config.rest_tls)]
        {
            if tls.as_ref().is_some_and(|tls| tls.certfile.is_empty() || tls.keyfile.is_empty()) {
                let message = format!("{name} needs both certfile and keyfile");
                for (document, place, _) in self.tls.iter().filter(|(.., rest)| *rest == of_rest) {
                    self.problems.push(document.error(*place, "", message.clone()));
                }
            }
        }
        // Trace is more than debug.
        if self.debug && self.config.log.as_deref() != Some(Level::Trace.directive()) {
            self.config.log = Some(Level::Debug.directive().to_owned());
        }
        self.config.prometheus = self.prometheus.then_some(self.prometheus_port);
        (self.config.file_log, self.config.log_file) = (self.file_log, self.log_file);
        if self.problems.iter().any(|problem| problem.severity == Severity::Error) {
            return Err(self.problems);
        }
        Ok((self.config, self.problems))
    }
}

/// What a variable's text is: JSON, a list `[a,b]`, or one of what stands in such a list.
fn as_value(text: &str) -> Json {
    let text = text.trim();
    match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => serde_json::from_str(text).unwrap_or_else(|_| {
            let parts = inner.split(',').map(str::trim).filter(|part| !part.is_empty());
            Json::Array(parts.map(single_value).collect())
        }),
        None => single_value(text),
    }
}

/// A number, true or false, an object, or text.
fn single_value(text: &str) -> Json {
    serde_json::from_str(text).unwrap_or_else(|_| match text.to_ascii_lowercase().as_str() {
        "true" => Json::Bool(true),
        "false" => Json::Bool(false),
        _ => Json::String(text.to_owned()),
    })
}

/// The zone of a name as the configuration has it: `Local`, or one of the time zone database.
pub fn zone(name: &str) -> Option<TimeZone> {
    match name.to_ascii_lowercase().as_str() {
        "local" => Some(TimeZone::system()),
        "utc" => Some(TimeZone::UTC),
        _ => TimeZone::get(name).ok(),
    }
}

#[cfg(test)]
mod tests;
