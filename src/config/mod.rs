//! The configuration: files in the `--etc` folder and overrides from the environment become typed settings.
//!
//! Neither the folder nor any file needs to exist. The layers, from weak to strong, are `plutino.yaml` (or
//! `kuiper.yaml`), `sources/websocket.yaml`, and the environment's `KUIPER__…`, `PLUTINO__…`, `WEBSOCKET__…`. Named
//! connections are in `connections/connection.yaml`.
//!
//! `settings` has one row for each setting, `load` reads the layers, `reload` compares two
//! configurations, `shared` lists what several processes must have in common, `sources` keeps the conf keys of
//! connectors.
//! Problems are reported with file and line, or with the variable's name. Nothing behind this module sees YAML.

mod load;
mod reload;
mod settings;
mod shared;
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
pub use self::shared::fingerprint;
pub use self::sources::PropertySets;

/// All settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// the data server
    pub server: ServerSettings,
    /// `basic.timezone`: the time zone of windows and dates
    pub zone: TimeZone,
    /// the `rule` section: options that a rule does not set itself
    pub rule: RuleOptions,
    /// `basic.logLevel`, or debug where `basic.debug` is true
    pub log: Option<String>,
    /// `basic.restIp` and `basic.restPort`: where the REST API listens
    pub rest: SocketAddr,
    /// `basic.restTls`: the API speaks TLS
    pub rest_tls: Option<ServerTls>,
    /// `basic.restHosts`: host names that requests to the API may have, besides its address and the loopback ones
    pub rest_hosts: Vec<String>,
    /// `basic.restOrigins`: web pages that may use the API, in lower case
    pub rest_origins: Vec<String>,
    /// `basic.fileRoots`: folders that properties may name files in, besides the data folder
    pub file_roots: Vec<PathBuf>,
    /// `basic.envAllow`: variables that `${NAME}` may read in properties set over the API
    pub env_allow: Vec<String>,
    /// `basic.egressAllow`: addresses that sinks may send requests to, besides public ones
    pub egress_allow: Vec<Allowed>,
    /// `basic.dialLoopback`: whether websocket clients may connect to this machine
    pub dial_loopback: bool,
    /// what properties set over the API may reach; `None`: only the operator sets properties, so there is no limit
    pub reach: Option<Reach>,
    /// `basic.authentication`: requests to the API need a token
    pub authentication: bool,
    /// `basic.enableRestAuditLog`: each request that changes something is logged
    pub rest_audit: bool,
    /// `basic.prometheus` and `basic.prometheusPort`: the port that serves metrics in addition to the API's `/metrics`
    pub prometheus: Option<u16>,
    /// `basic.gracefulShutdownTimeout`: the time that rules have to end when the process ends
    pub shutdown_timeout: Duration,
    /// `basic.maxMemory`: the memory budget of the process, bytes; `None`: 80 % of the available memory
    pub max_memory: Option<u64>,
    /// `basic.fileLog`: whether the log goes to files
    pub file_log: bool,
    /// rotation of log files, used while `file_log` is on
    pub log_file: LogFile,
    /// `basic.consoleLog`: whether the log goes to stderr
    pub console_log: bool,
    /// `basic.logFormat`
    pub log_format: LogFormat,
    /// the conf keys of sources
    pub sources: PropertySets,
    /// the property sets of sinks, which actions name with `resourceId`
    pub sinks: PropertySets,
    /// named connections
    pub connections: Connections,
    /// the files that the configuration was read from
    pub files: Vec<PathBuf>,
}

/// The form of the log's lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// readable text
    #[default]
    Text,
    /// one JSON object a line
    Json,
}

#[cfg(test)]
mod tests;
