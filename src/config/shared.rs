//! The settings that must be the same in all processes of `--hosts`.
//!
//! The processes compare them before they start. The values travel over links that are not encrypted, and end up in
//! logs, so a value that may hold a secret is replaced by its fingerprint. Addresses, logs and limits may differ.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use super::Config;
use crate::definition::rule::RuleOptions;
use crate::io::websocket::{JwtSettings, ServerSettings};

/// The most bytes of names and values that are compared one by one. More properties of conf keys and connections than
/// fit are compared as a whole.
const LARGEST: usize = 32 * 1024;

impl Config {
    /// Each shared setting: its name, and a value without secrets.
    pub fn shared(&self) -> Vec<(String, String)> {
        let zone = self.zone.iana_name().map_or_else(|| format!("{:?}", self.zone), str::to_owned);
        let mut settings = vec![
            ("basic.timezone".to_owned(), zone),
            ("basic.authentication".to_owned(), self.authentication.to_string()),
        ];
        settings.extend(access(&self.server));
        settings.extend(options(&self.rule));
        let properties: Vec<(String, String)> =
            self.property_values().into_iter().map(|(name, value)| (name, fingerprint(value.to_string()))).collect();
        match properties.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() <= LARGEST {
            true => settings.extend(properties),
            false => {
                settings.push(("conf keys or connections in etc".to_owned(), fingerprint(format!("{properties:?}"))))
            }
        }
        settings
    }

    /// The properties of conf keys and connections, by name.
    fn property_values(&self) -> BTreeMap<String, Json> {
        let mut all = BTreeMap::new();
        for (what, sets) in [("source", &self.sources), ("sink", &self.sinks)] {
            for ((kind, key), props) in sets.each() {
                let named = |name| format!("property {name} of the {what} conf key {kind}.{key} in etc");
                all.extend(props.into_iter().map(|(name, value)| (named(name), value)));
            }
        }
        for (id, connection) in self.connections.each() {
            all.insert(format!("the kind of connection {id} in etc"), connection.kind.as_str().into());
            for (name, value) in &connection.props {
                all.insert(format!("property {name} of connection {id} in etc"), value.clone());
            }
        }
        all
    }
}

/// Who may connect to the data server: a client may choose any process.
fn access(server: &ServerSettings) -> Vec<(String, String)> {
    let ServerSettings {
        tls,
        origins,
        tokens,
        jwt,
        // Each process may have a place, limits and a pace of its own.
        ip: _,
        port: _,
        handshake_timeout: _,
        linger: _,
        max_connections: _,
        max_connections_per_ip: _,
        unfinished_bytes: _,
    } = server;
    let on = |on: bool| if on { "on" } else { "off" }.to_owned();
    let sorted = |texts: &[String]| {
        let mut texts = texts.to_vec();
        texts.sort_unstable();
        texts.join(", ")
    };
    let shown = |text: String| if text.is_empty() { "none".to_owned() } else { text };
    let secret = |texts: &[String]| match texts.len() {
        0 => "none".to_owned(),
        count => format!("{count} (sha256 {})", fingerprint(sorted(texts))),
    };
    let mut settings = vec![
        // Each process may have a certificate of its own.
        ("source.httpServerTls".to_owned(), on(tls.is_some())),
        (
            "source.httpServerTls.clientCaFile".to_owned(),
            on(tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some())),
        ),
        ("source.httpServerOrigins".to_owned(), shown(sorted(origins))),
        ("source.httpServerTokens".to_owned(), secret(tokens)),
    ];
    let none = JwtSettings::default();
    let JwtSettings { keys, audience, issuer } = jwt.as_ref().unwrap_or(&none);
    // The files may be in another place. One that cannot be read is reported when the data server starts.
    let keys: Vec<String> = keys.iter().filter_map(|file| std::fs::read(file).ok()).map(fingerprint).collect();
    settings.extend([
        ("source.httpServerJwt.keys".to_owned(), shown(sorted(&keys))),
        ("source.httpServerJwt.audience".to_owned(), shown(sorted(audience))),
        ("source.httpServerJwt.issuer".to_owned(), shown(sorted(issuer))),
    ]);
    settings
}

/// The section `rule`.
fn options(rule: &RuleOptions) -> Vec<(String, String)> {
    let RuleOptions {
        event_time,
        late_tolerance,
        idle_timeout,
        max_future_skew,
        concurrency,
        max_state_bytes,
        evicts,
        send_nil,
        send_meta,
        send_error,
        // No setting: rules set it themselves.
        temporary: _,
        qos,
        checkpoint_interval,
        schedule,
        restart,
    } = rule;
    let options = [
        ("isEventTime", event_time.to_string()),
        ("lateTolerance", format!("{late_tolerance} ms")),
        ("idleTimeout", format!("{idle_timeout} ms")),
        ("maxFutureSkew", format!("{max_future_skew} ms")),
        ("concurrency", concurrency.map_or(0, |threads| threads.get()).to_string()),
        ("maxStateBytes", max_state_bytes.to_string()),
        ("onStateFull", if *evicts { "evict" } else { "fail" }.to_owned()),
        ("sendNilField", send_nil.to_string()),
        ("sendMetaToSink", send_meta.to_string()),
        ("sendError", send_error.to_string()),
        ("qos", qos.to_string()),
        ("checkpointInterval", format!("{checkpoint_interval} ms")),
        ("cron, duration or cronDatetimeRange", fingerprint(format!("{schedule:?}"))),
        ("restartStrategy", fingerprint(format!("{restart:?}"))),
    ];
    options.into_iter().map(|(name, value)| (format!("rule.{name}"), value)).collect()
}

/// The start of a SHA-256 digest: enough to tell texts apart, and short enough to compare by eye.
pub fn fingerprint(content: impl AsRef<[u8]>) -> String {
    Sha256::digest(content).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of the settings in which two configurations differ.
    fn differing(one: &Config, other: &Config) -> Vec<String> {
        let (one, other) = (one.shared(), other.shared());
        let differs = |setting: &&(String, String)| !other.contains(setting);
        one.iter().filter(differs).map(|(name, _)| name.clone()).collect()
    }

    #[test]
    fn each_shared_setting_is_named_and_no_secret_is_shown() {
        let before = Config::default();
        let mut config = Config::default();
        config.rest.set_port(1);
        config.server.port = 2;
        config.server.max_connections = 3;
        assert_eq!(config.shared(), before.shared(), "each process has ports and limits of its own");
        type Change = fn(&mut Config);
        let changes: [(Change, &str); 7] = [
            (|config| config.rule.qos = 1, "rule.qos"),
            (|config| config.rule.late_tolerance = 7, "rule.lateTolerance"),
            (|config| config.server.tls = Some(Default::default()), "source.httpServerTls"),
            (|config| config.server.origins = vec!["https://a.example".to_owned()], "source.httpServerOrigins"),
            (|config| config.server.tokens = vec!["secret-token".to_owned()], "source.httpServerTokens"),
            (
                |config| {
                    config.server.jwt = Some(JwtSettings { audience: vec!["board".to_owned()], ..Default::default() })
                },
                "source.httpServerJwt.audience",
            ),
            (|config| config.authentication = true, "basic.authentication"),
        ];
        for (change, name) in changes {
            let mut config = Config::default();
            change(&mut config);
            assert_eq!(differing(&config, &before), [name]);
            assert!(!format!("{:?}", config.shared()).contains("secret"), "{:?}", config.shared());
        }
        assert_eq!(fingerprint("a").len(), 12);
    }
}
