//! The configuration: files of the `--etc` folder under overrides of the environment, read once into typed settings.
//!
//! Neither the folder nor any file needs to exist. A later layer beats those before it: `plutino.yaml` (or
//! `kuiper.yaml`), `sources/websocket.yaml`, and the environment's `KUIPER__…`, `PLUTINO__…`, `WEBSOCKET__…`. Beside
//! them, `connections/connection.yaml` has named connections.
//!
//! `settings` has one row for each setting, `load` reads the layers, `reload` compares two
//! configurations, `sources` keeps the conf keys of connectors.
//! Problems are reported with file and line, or with the variable's name. Nothing behind this module sees YAML.

mod load;
mod reload;
mod settings;
mod sources;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use jiff::tz::TimeZone;

use crate::definition::connection::Connections;
use crate::definition::rule::RuleOptions;
use crate::io::egress::Allowed;
use crate::io::reach::Reach;
use crate::io::websocket::{ServerSettings, ServerTls};
use crate::logging::LogFile;

pub use self::load::load;
pub use self::reload::Differences;
pub use self::settings::{schema, table, without_effect, zone};
pub use self::sources::PropertySets;

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
    /// `basic.egressAllow`: what sinks may send requests to beside public addresses
    pub egress_allow: Vec<Allowed>,
    /// `basic.dialLoopback`: whether websockets may be dialled on this machine
    pub dial_loopback: bool,
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
    pub sources: PropertySets,
    /// the conf keys of sinks, which they name with `resourceId`
    pub sinks: PropertySets,
    /// named connections
    pub connections: Connections,
    /// the files that it was read from
    pub files: Vec<PathBuf>,
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

#[cfg(test)]
mod tests;
