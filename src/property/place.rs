//! Turns faults and warnings into problems of a document, each at its property.

use super::{Fault, Warning};
use crate::text::document::{Document, Node, Place, Problem};

impl Fault {
    /// Makes a problem of `document`. `set` is the object with the properties, `prefix` precedes the message.
    pub fn problem(&self, document: &Document, set: &Node, subject: &str, prefix: &str) -> Problem {
        let (_, place) = place_of(set, &self.property);
        document.error(place, subject, format!("{prefix}{self}")).with_hint(self.hint.clone())
    }
}

impl Warning {
    /// Makes a problem of `document`. `set` is the object with the properties, `prefix` precedes the message.
    pub fn problem(&self, document: &Document, set: &Node, subject: &str, prefix: &str) -> Problem {
        let (place, _) = place_of(set, self.property().unwrap_or_default());
        document.warning(place, subject, format!("{prefix}{}", self.message())).with_hint(self.hint())
    }
}

/// The places of a property's name and value, or that of the object if the property is not there.
fn place_of(set: &Node, property: &str) -> (Place, Place) {
    let named =
        |node: &'_ Node, name: &str| node.members().iter().position(|member| member.key.eq_ignore_ascii_case(name));
    let mut places = (set.place, set.place);
    let mut node = set;
    // A name may itself contain a dot.
    let parts = if named(set, property).is_some() { vec![property] } else { property.split('.').collect() };
    for part in parts {
        let Some(member) = named(node, part).and_then(|at| node.members().get(at)) else { break };
        places = (member.place, member.node.place);
        node = &member.node;
    }
    places
}
