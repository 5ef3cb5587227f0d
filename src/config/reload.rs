//! Decides which changed settings a running service applies at once, and which wait for a restart.
//!
//! Both functions name every field of [`Config`], so a new setting does not compile until someone has decided where it
//! belongs.

use super::Config;
use crate::io::websocket::ServerSettings;

/// The settings in which two configurations differ, by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// A running service applies them.
    pub at_once: Vec<&'static str>,
    /// They take effect at the next start.
    pub at_restart: Vec<&'static str>,
}

impl Config {
    /// The settings in which `new` differs.
    pub fn differences(&self, new: &Config) -> Differences {
        let Config {
            server,
            zone,
            rule,
            log,
            rest,
            rest_tls,
            rest_hosts,
            rest_origins,
            file_roots,
            env_allow,
            egress_allow,
            dial_loopback,
            // The service computes it from other settings.
            reach: _,
            authentication,
            rest_audit,
            prometheus,
            shutdown_timeout,
            max_memory,
            file_log,
            log_file,
            console_log,
            log_format,
            sources,
            sinks,
            connections,
            // Not a setting: the list shows a reload whether a file has disappeared.
            files: _,
        } = new;
        let ServerSettings {
            ip,
            port,
            tls,
            // No setting changes it.
            handshake_timeout: _,
            origins,
            tokens,
            linger,
            max_connections,
            max_connections_per_ip,
            unfinished_bytes: _,
            jwt,
        } = server;
        let speaks_tls = rest_tls.is_some() == self.rest_tls.is_some();
        let at_once = [
            ("basic.logLevel", *log != self.log),
            ("basic.consoleLog", *console_log != self.console_log),
            ("basic.fileLog", *file_log != self.file_log),
            ("basic.timezone", *zone != self.zone),
            ("basic.restHosts", *rest_hosts != self.rest_hosts),
            ("basic.restOrigins", *rest_origins != self.rest_origins),
            ("basic.restTls", speaks_tls && *rest_tls != self.rest_tls),
            ("basic.maxMemory", *max_memory != self.max_memory),
            ("basic.gracefulShutdownTimeout", *shutdown_timeout != self.shutdown_timeout),
            ("source.httpServerTls", *tls != self.server.tls),
            ("source.httpServerOrigins", *origins != self.server.origins),
            ("source.httpServerTokens", *tokens != self.server.tokens),
            ("source.httpServerJwt", *jwt != self.server.jwt),
        ];
        let at_restart = [
            ("basic.restIp", rest.ip() != self.rest.ip()),
            ("basic.restPort", rest.port() != self.rest.port()),
            ("basic.restTls", !speaks_tls),
            ("basic.fileRoots", *file_roots != self.file_roots),
            ("basic.envAllow", *env_allow != self.env_allow),
            ("basic.egressAllow", *egress_allow != self.egress_allow),
            ("basic.dialLoopback", *dial_loopback != self.dial_loopback),
            ("basic.authentication", *authentication != self.authentication),
            ("basic.enableRestAuditLog", *rest_audit != self.rest_audit),
            ("basic.prometheus", *prometheus != self.prometheus),
            ("basic.rotateTime", log_file.hours != self.log_file.hours),
            ("basic.rotateCount", log_file.count != self.log_file.count),
            ("basic.logFormat", *log_format != self.log_format),
            ("source.httpServerIp", *ip != self.server.ip),
            ("source.httpServerPort", *port != self.server.port),
            ("source.endpointLinger", *linger != self.server.linger),
            ("source.maxConnections", *max_connections != self.server.max_connections),
            ("source.maxConnectionsPerIp", *max_connections_per_ip != self.server.max_connections_per_ip),
            ("the section rule", *rule != self.rule),
            ("conf keys of sources", *sources != self.sources),
            ("conf keys of sinks", *sinks != self.sinks),
            ("connections of files", *connections != self.connections),
        ];
        let different = |settings: &[(&'static str, bool)]| {
            settings.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect()
        };
        Differences { at_once: different(&at_once), at_restart: different(&at_restart) }
    }

    /// This configuration with those settings of `new` that a running service applies at once.
    pub fn taking_over(&self, new: &Config) -> Config {
        let old = self.clone();
        // No `..old` here either: a new setting must be assigned to one of the two sides.
        let server = ServerSettings {
            tls: new.server.tls.clone(),
            origins: new.server.origins.clone(),
            tokens: new.server.tokens.clone(),
            jwt: new.server.jwt.clone(),
            ip: old.server.ip,
            port: old.server.port,
            handshake_timeout: old.server.handshake_timeout,
            linger: old.server.linger,
            max_connections: old.server.max_connections,
            max_connections_per_ip: old.server.max_connections_per_ip,
            unfinished_bytes: old.server.unfinished_bytes,
        };
        let both = old.rest_tls.is_some() && new.rest_tls.is_some();
        Config {
            server,
            zone: new.zone.clone(),
            log: new.log.clone(),
            rest_hosts: new.rest_hosts.clone(),
            rest_origins: new.rest_origins.clone(),
            rest_tls: if both { new.rest_tls.clone() } else { old.rest_tls },
            max_memory: new.max_memory,
            shutdown_timeout: new.shutdown_timeout,
            console_log: new.console_log,
            file_log: new.file_log,
            rule: old.rule,
            rest: old.rest,
            file_roots: old.file_roots,
            env_allow: old.env_allow,
            egress_allow: old.egress_allow,
            dial_loopback: old.dial_loopback,
            reach: old.reach,
            authentication: old.authentication,
            rest_audit: old.rest_audit,
            prometheus: old.prometheus,
            log_file: old.log_file,
            log_format: old.log_format,
            sources: old.sources,
            sinks: old.sinks,
            connections: old.connections,
            files: new.files.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_over_differs_no_more() {
        let old = Config::default();
        assert_eq!(old.differences(&old.clone()), Differences::default());
        let mut new = old.clone();
        new.server.tokens = vec!["one".to_owned()];
        new.server.port = 1;
        new.rest_tls = Some(Default::default());
        new.rule.send_error = !new.rule.send_error;
        new.rest_hosts = vec!["board.example".to_owned()];
        let found = old.differences(&new);
        assert_eq!(found.at_once, ["basic.restHosts", "source.httpServerTokens"]);
        assert_eq!(found.at_restart, ["basic.restTls", "source.httpServerPort", "the section rule"]);
        let left = old.taking_over(&new).differences(&new);
        assert_eq!(left, Differences { at_once: Vec::new(), ..found });
    }
}
