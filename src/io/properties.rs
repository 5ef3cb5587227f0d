//! Reads the properties of connectors: environment variables are replaced first, then the connector's rows apply.

use serde_json::{Map, Value as Json};

use crate::format::sink_format;
use crate::io::environment;
use crate::property::{self, Findings, Noun, Property};

/// Reads properties by a connector's rows into a target with the rows' defaults.
pub(super) fn read<T: Clone + Default + Send + Sync + 'static>(
    rows: &'static [Property<T>],
    props: &Map<String, Json>,
) -> (T, Findings) {
    let (expanded, unset) = environment::expand_properties(props);
    let mut target = property::default(rows);
    let mut found = property::read(rows, Noun::Property, &expanded, &mut target);
    let others = STREAM_OPTIONS.iter().copied().chain(sink_format::names());
    found.unknown(Noun::Property, props, rows, others);
    for (name, error) in unset {
        found.refuse(&name, UnsetProperty { property: name.clone(), error });
    }
    (target, found)
}

/// A property that names an unset variable.
#[derive(Debug, thiserror::Error)]
#[error("property {property}: {error}")]
pub(super) struct UnsetProperty {
    pub property: String,
    pub error: environment::UnsetVariable,
}

/// Names that are allowed among a connector's properties although it does not read them: options of streams in EXTRA
/// and conf keys, and what eKuiper's connector files contain.
const STREAM_OPTIONS: &[&str] = &[
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
    "useInt64ForWholeNumber",
    "decompression",
    "decrypt",
    "renegotiationSupport",
    "tls",
    "httpServerIp",
    "httpServerPort",
    "httpServerTls",
];
