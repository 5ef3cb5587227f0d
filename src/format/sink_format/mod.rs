//! The properties that every sink has: how it wants its results.
//!
//! They apply in this order: rows are gathered (`batchSize`, `lingerInterval`), a template makes text from them
//! (`dataTemplate`), one member is taken (`dataField`), members are chosen (`fields`, `excludeFields`), the value is
//! encoded (`format`) and compressed. For plain JSON, `dataflow::output` writes the text directly and skips all of
//! this.

mod batcher;
mod message;
mod properties;

use std::sync::Arc;

use crate::format::address::Addressing;
use crate::format::compress::Method;
use crate::format::template::Template;
use crate::value::Text;

pub use self::batcher::Batcher;
pub use self::message::{FormatError, Give, Made};
pub use self::properties::{entries, knows, names, read, table};

#[derive(Clone, Debug, Default)]
pub struct SinkFormat {
    /// Each row is a message (an object); otherwise all rows of a result are one message (a list).
    pub send_single: bool,
    /// An empty list, and with `send_single` an empty row, is not sent.
    pub omit_if_empty: bool,
    /// The template's text, and its parsed form.
    pub template: Option<(Text, Arc<Template>)>,
    pub data_field: Option<Text>,
    /// Only these members are sent, in this order; empty: all.
    pub fields: Vec<Text>,
    pub excluded: Vec<Text>,
    pub format: OutputFormat,
    /// Rows in a message; 0: no limit by number.
    pub batch_size: usize,
    /// How long a row waits for others, ms; 0: no limit by time.
    pub linger: i64,
    pub compression: Option<Method>,
    /// How the address of each message is made; `None` if all messages go to the same place.
    pub to: Option<Addressing>,
}

/// How a message is encoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OutputFormat {
    #[default]
    Json,
    /// One line for each row; with `header`, a line of names comes first.
    Delimited {
        delimiter: Text,
        header: bool,
    },
    UrlEncoded,
    /// The bytes of a row's only value.
    Binary,
    /// Rows as values, for sinks that take them.
    Rows,
}

/// Two formats are equal if they make equal messages.
impl PartialEq for SinkFormat {
    fn eq(&self, other: &SinkFormat) -> bool {
        // All fields are named, so that a new one does not compile until it is compared.
        let SinkFormat {
            send_single,
            omit_if_empty,
            template,
            data_field,
            fields,
            excluded,
            format,
            batch_size,
            linger,
            compression,
            to,
        } = self;
        let text = |template: &Option<(Text, Arc<Template>)>| template.as_ref().map(|(text, _)| text.clone());
        (*send_single, *omit_if_empty, *batch_size, *linger)
            == (other.send_single, other.omit_if_empty, other.batch_size, other.linger)
            && (data_field, fields, excluded) == (&other.data_field, &other.fields, &other.excluded)
            && (format, *compression) == (&other.format, other.compression)
            && text(template) == text(&other.template)
            && *to == other.to
    }
}

impl SinkFormat {
    /// The default: a result is a JSON list of rows.
    pub fn lists() -> SinkFormat {
        SinkFormat::default()
    }

    /// The same for a sink that takes rows.
    pub fn of_rows(&self) -> SinkFormat {
        SinkFormat { format: OutputFormat::Rows, compression: None, ..self.clone() }
    }

    /// Whether encoding results as JSON is the only step.
    pub fn is_plain(&self) -> bool {
        let SinkFormat { template, data_field, fields, excluded, format, batch_size, linger, compression, to, .. } =
            self;
        template.is_none()
            && to.is_none()
            && data_field.is_none()
            && fields.is_empty()
            && excluded.is_empty()
            && matches!(format, OutputFormat::Json | OutputFormat::Rows)
            && (*batch_size, *linger) == (0, 0)
            && compression.is_none()
    }

    /// Whether messages are text.
    pub fn is_text(&self) -> bool {
        self.compression.is_none() && self.format != OutputFormat::Binary
    }

    /// Whether rows are gathered into batches.
    pub fn gathers(&self) -> bool {
        self.batch_size > 0 || self.linger > 0
    }
}

#[cfg(test)]
mod tests;
