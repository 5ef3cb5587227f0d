//! Addresses of messages: texts that templates make of a result, such as the client it is for, or the URL and the
//! headers of a request.
//!
//! A sink chooses the templates ([`Addressing`]), and it alone knows what their texts mean.

use std::sync::Arc;

use crate::format::template::{Template, TemplateError};
use crate::value::{Text, Value};

/// The texts that a sink's templates made for one message, in the order of the templates.
pub type Address = Box<[Text]>;

/// The templates that address the messages of a sink.
#[derive(Clone, Debug, PartialEq)]
pub struct Addressing {
    /// At least one.
    pub parts: Vec<Part>,
    /// each row is a message with an address of its own, also where messages are lists; the dot is then the row
    pub each_row: bool,
}

/// One template with the property that it is the value of.
#[derive(Clone, Debug)]
pub struct Part {
    /// for errors
    pub property: Text,
    /// as it was written
    pub text: Text,
    template: Arc<Template>,
    /// whether an empty text is an error
    required: bool,
}

/// The template follows from its text.
impl PartialEq for Part {
    fn eq(&self, other: &Part) -> bool {
        (&self.property, &self.text, self.required) == (&other.property, &other.text, other.required)
    }
}

/// Why a message has no address.
#[derive(Debug, thiserror::Error)]
#[error("{property}: {reason}")]
pub struct AddressError {
    /// the property whose template is to blame
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

    /// Lets the template give nothing.
    #[must_use]
    pub fn optional(self) -> Part {
        Part { required: false, ..self }
    }

    fn run(&self, result: &Value) -> Result<Text, AddressError> {
        let failed = |reason: String| AddressError { property: self.property.clone(), reason };
        let text = self.template.run(result).map_err(|error| failed(error.to_string()))?;
        let text = text.trim();
        if self.required && (text.is_empty() || text == "<no value>") {
            return Err(failed(format!("the template {} gives nothing for this result", self.text)));
        }
        Ok(text.into())
    }
}

impl Addressing {
    /// The address of a message made of `result`: a row, or a list of rows.
    ///
    /// # Errors
    /// [`AddressError`]
    pub fn of(&self, result: &Value) -> Result<Address, AddressError> {
        self.parts.iter().map(|part| part.run(result)).collect()
    }
}
