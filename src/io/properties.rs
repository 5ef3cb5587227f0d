//! How the properties of every connector are read: variables of the environment first, then the connector's rows.

use std::borrow::Cow;

use serde_json::{Map, Value as Json};

use crate::io::environment::{self, Unset};
use crate::property::{self, Findings, Property};

/// Reads properties by the rows of a connector, which are for a target with their defaults.
pub(super) fn read<T: Default>(rows: &'static [Property<T>], props: &Map<String, Json>) -> (T, Findings) {
    let (expanded, unset) = match environment::expand_properties(props) {
        Ok(expanded) => (expanded, Unset::new()),
        Err(unset) => {
            let mut props = props.clone();
            props.retain(|name, _| !unset.iter().any(|(wrong, _)| wrong == name));
            (Cow::Owned(props), unset)
        }
    };
    let mut target = property::default(rows);
    let mut found = property::read(rows, "property", &expanded, &mut target);
    found.unknown("property", props, rows, FOREIGN);
    for (name, error) in unset {
        found.refuse("property", &name, UnsetProperty { property: name.clone(), error });
    }
    (target, found)
}

/// A property with a variable that has no value.
#[derive(Debug, thiserror::Error)]
#[error("property {property}: {error}")]
pub(super) struct UnsetProperty {
    pub property: String,
    pub error: environment::UnsetVariable,
}

/// Names that are known, though no connector reads them: streams and the format of sinks read some, the rest are
/// eKuiper's and have no effect here.
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
