//! The properties that every sink has, one row each.
//!
//! A setter only records the user's value in a [`Draft`]; [`read`] decides what depends on several properties.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value as Json};

use super::{OutputFormat, SinkFormat};
use crate::format::address::{Addressing, Part};
use crate::format::compress::Method;
use crate::format::template::Template;
use crate::property::{self, Entry, Findings, Noun, Property, Type, Wrong, reference};
use crate::value::Text;

/// The largest `batchSize`: gathered rows are in memory.
const MOST_ROWS: u64 = 1_000_000;

/// The properties as written, before they are combined.
#[derive(Clone, Default)]
struct Draft {
    format: SinkFormat,
    encoding: Encoding,
    delimiter: Text,
    header: bool,
}

#[derive(Clone, Default)]
enum Encoding {
    #[default]
    Json,
    Delimited,
    UrlEncoded,
    Binary,
}

type Row = Property<Draft>;

const PROPERTIES: &[Row] = &[
    Row::flag("sendSingle", |draft, single| draft.format.send_single = single)
        .default("false")
        .doc("Each row is a message, an object; otherwise a result is one message, a list of its rows"),
    Row::flag("omitIfEmpty", |draft, omit| draft.format.omit_if_empty = omit)
        .default("false")
        .doc("Do not send a list whose rows are all empty, nor, with `sendSingle`, an empty row"),
    Row::parsed("to", "a template", |draft, text| {
        let part = |text| Part::new("to", text).map(|part| Addressing { parts: vec![part], each_row: true });
        draft.format.to = unless_empty(text).map(|_| part(text)).transpose()?;
        Ok(())
    })
    .doc(
        "A template for the id of the client to send a row to: `meta(client)` of the message that the row answers. \
     It implies `sendSingle`: each row is a message, and the dot of `dataTemplate`",
    ),
    Row::whole("batchSize", 0, MOST_ROWS, |draft, rows| draft.format.batch_size = rows as usize)
        .expecting("a number of rows, at most 1000000")
        // eKuiper's text.
        .otherwise(|size| {
            let negative = size.as_i64().is_some_and(|size| size < 0);
            negative.then(|| format!("fail to parse sink configuration: invalid batchSize {size}"))
        })
        .default("0")
        .doc("Gather this many rows into one message; each row of a window counts"),
    Row::duration("lingerInterval", |draft, wait| draft.format.linger = millis(wait)).default("0").doc(
        "The longest time that a gathered row waits for others. With `batchSize`, whichever is reached first; \
         without it, a batch has at most 100,000 rows",
    ),
    Row::parsed("dataTemplate", "a template", |draft, text| {
        draft.format.template = template(text)?;
        Ok(())
    })
    .doc("A template that makes the text of the message: see [templates](#templates)"),
    Row::text("dataField", |draft, name| draft.format.data_field = unless_empty(name)).doc(
        "Send this member of the result, an object or a list of objects, instead of the result; for a list of \
         rows, the member of the first row",
    ),
    Row::names("fields", |draft, names| draft.format.fields = texts(names))
        .doc("Keep these members, in this order; one that is absent is null"),
    Row::names("excludeFields", |draft, names| draft.format.excluded = texts(names))
        .doc("Drop these members; not together with `fields`"),
    Row::choice("format", &["json", "delimited", "urlencoded", "binary"], |draft, format| {
        draft.encoding = match format {
            "delimited" => Encoding::Delimited,
            "urlencoded" => Encoding::UrlEncoded,
            "binary" => Encoding::Binary,
            _ => Encoding::Json,
        };
    })
    .otherwise(|format| Some(format!("format type {} not supported", format.as_str()?)))
    .default("json")
    .doc("How a message is encoded: see [formats](#formats)"),
    Row::text("delimiter", |draft, text| {
        if !text.is_empty() {
            draft.delimiter = text.into();
        }
    })
    .default(",")
    .doc("The text between two values; `delimited` only"),
    Row::flag("hasHeader", |draft, header| draft.header = header)
        .default("false")
        .doc("Start each message with a line of names; `delimited` only"),
    Row::choice("compression", &["gzip", "zlib", "flate", "zstd"], |draft, method| {
        draft.format.compression = Method::of(method);
    })
    .otherwise(|method| {
        let method = method.as_str()?;
        Some(format!("get compressor {method} fail with error: unsupported compressor: {method}"))
    })
    .doc("Compress each message, which then becomes a binary frame"),
    // Ignoring these would silently change messages.
    Row::unsupported("schemaId"),
    Row::unsupported("encryption"),
    // Tuning of eKuiper's engine. Types are checked, since eKuiper refuses wrong ones too.
    Row::without_effect("encProps", Type::ANY),
    Row::without_effect("concurrency", NUMBER),
    Row::without_effect("bufferLength", COUNT),
    Row::without_effect("enableCache", Type::Flag),
    Row::without_effect("memoryCacheThreshold", COUNT),
    Row::without_effect("maxDiskCache", COUNT),
    Row::without_effect("bufferPageSize", COUNT),
    Row::without_effect("resendInterval", Type::Duration { least: Duration::ZERO, most: Duration::MAX }),
    Row::without_effect("cleanCacheAtStop", Type::Flag),
    Row::without_effect("resendAlterQueue", Type::Flag),
    Row::without_effect("resendPriority", NUMBER),
    Row::without_effect("resendIndicatorField", Type::Text("a text")),
    Row::without_effect("resendDestination", Type::ANY),
    Row::without_effect("retryInterval", Type::ANY),
    Row::without_effect("retryCount", Type::ANY),
    Row::without_effect("runAsync", Type::ANY),
];

const NUMBER: Type = Type::Number { least: f64::NEG_INFINITY, most: f64::INFINITY };

const COUNT: Type = Type::Number { least: 0.0, most: f64::INFINITY };

/// Properties that cannot be set together.
#[derive(Debug, thiserror::Error)]
enum Conflict {
    #[error("`to` makes each row a message: leave out batchSize and lingerInterval")]
    ToAndBatches,
    /// eKuiper's text.
    #[error("field and excludeFields cannot both be set")]
    FieldsAndExcluded,
}

/// Reads the properties that every sink has. Those of the sink itself are ignored.
pub fn read(props: &Map<String, Json>) -> (SinkFormat, Findings) {
    let mut draft: Draft = property::default(PROPERTIES);
    let mut found = property::read(PROPERTIES, Noun::SinkProperty, props, &mut draft);
    let Draft { mut format, encoding, delimiter, header } = draft;
    if format.to.is_some() {
        format.send_single = true;
        if format.gathers() {
            found.refuse("", Conflict::ToAndBatches);
        }
    }
    if !format.fields.is_empty() && !format.excluded.is_empty() {
        found.refuse("", Conflict::FieldsAndExcluded);
    }
    format.format = match encoding {
        Encoding::Json => OutputFormat::Json,
        Encoding::Delimited => OutputFormat::Delimited { delimiter, header },
        Encoding::UrlEncoded => OutputFormat::UrlEncoded,
        Encoding::Binary => OutputFormat::Binary,
    };
    (format, found)
}

/// All properties with their documentation.
pub fn entries() -> Vec<Entry> {
    property::entries(PROPERTIES)
}

/// All names and other spellings.
pub fn names() -> impl Iterator<Item = &'static str> {
    PROPERTIES.iter().flat_map(Property::spellings)
}

/// The table of `docs/sinks.md`.
pub fn table() -> String {
    reference::table(&entries(), false)
}

/// Whether this is a property that every sink has.
pub fn knows(name: &str) -> bool {
    property::knows(PROPERTIES, name)
}

/// Parses the template, unless the text is empty.
fn template(text: &str) -> Result<Option<(Text, Arc<Template>)>, Wrong> {
    Ok(match text {
        "" => None,
        text => Some((text.into(), Arc::new(Template::new(text)?))),
    })
}

fn unless_empty(text: &str) -> Option<Text> {
    (!text.is_empty()).then(|| text.into())
}

fn texts(names: Vec<String>) -> Vec<Text> {
    names.into_iter().map(Text::from).collect()
}

fn millis(wait: Duration) -> i64 {
    i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)
}
