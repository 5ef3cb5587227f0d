//! Addresses of messages: texts that templates make from a result, such as the client to send to, or the URL and
//! headers of a request.
//!
//! The sink chooses the templates ([`Addressing`]) and knows what their texts mean.

use std::sync::Arc;

use crate::format::template::{Template, TemplateError};
use crate::value::{Text, Value};

/// The output of a template for a missing member.
pub const NO_VALUE: &str = "<no value>";

/// The texts for one message, in the order of the templates.
pub type Address = Box<[Text]>;

/// The templates for the addresses of a sink's messages.
#[derive(Clone, Debug, PartialEq)]
pub struct Addressing {
    /// At least one template.
    pub parts: Vec<Part>,
    /// Each row is a message with its own address, even if messages are lists; the template's dot is the row.
    pub each_row: bool,
}

/// A template and the property that contains it.
#[derive(Clone, Debug)]
pub struct Part {
    /// for errors
    pub property: Text,
    /// as written
    pub text: Text,
    template: Arc<Template>,
    /// whether an empty result is an error
    required: bool,
}

/// The text determines the template.
impl PartialEq for Part {
    fn eq(&self, other: &Part) -> bool {
        (&self.property, &self.text, self.required) == (&other.property, &other.text, other.required)
    }
}

/// Why a message has no address.
#[derive(Debug, thiserror::Error)]
#[error("{property}: {reason}")]
pub struct AddressError {
    /// the property whose template failed
    pub property: Text,
    pub reason: String,
}

impl Part {
    /// Parses the value of a property.
    ///
    /// # Errors
    /// [`TemplateError`]
    pub fn new(property: &str, text: &str) -> Result<Part, TemplateError> {
        let template = Arc::new(Template::new(text)?);
        Ok(Part { property: property.into(), text: text.into(), template, required: true })
    }

    /// Allows the template to give an empty text.
    #[must_use]
    pub fn optional(self) -> Part {
        Part { required: false, ..self }
    }

    /// The output of the template for a value.
    ///
    /// # Errors
    /// [`AddressError`]
    pub fn text_of(&self, result: &Value) -> Result<Text, AddressError> {
        let failed = |reason: String| AddressError { property: self.property.clone(), reason };
        let text = self.template.run(result).map_err(|error| failed(error.to_string()))?;
        let text = text.trim();
        if self.required && (text.is_empty() || text == NO_VALUE) {
            return Err(failed(format!("the template {} gives nothing for this result", self.text)));
        }
        Ok(text.into())
    }
}

impl Addressing {
    /// The address of the message made from `result`: a row, or a list of rows.
    ///
    /// # Errors
    /// [`AddressError`]
    pub fn of(&self, result: &Value) -> Result<Address, AddressError> {
        self.parts.iter().map(|part| part.text_of(result)).collect()
    }
}
