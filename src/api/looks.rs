//! Links and findings in the statuses of rules and views.

use serde_json::{Map, Value as Json, json};

use super::millis;
use crate::io::{AddressStatus, LinkStatus};
use crate::service::Diagnosis;

/// A finding of the diagnosis.
pub fn finding(found: &Diagnosis) -> Json {
    json!({"operator": found.operator, "cause": found.cause.as_str(), "message": found.message})
}

/// A source or sink.
pub fn link(link: &LinkStatus) -> Json {
    let dropped: Map<String, Json> =
        link.dropped.iter().map(|(cause, count)| ((*cause).to_owned(), Json::from(*count))).collect();
    json!({
        "address": link.address, "state": link.state.as_str(), "since": millis(link.since), "peers": link.peers,
        "messages": link.messages, "bytes": link.bytes, "queued": link.queued, "dropped": dropped,
        "lastError": link.last_error.as_ref().map(|(_, text)| text),
        "addresses": link.addresses.iter().map(address).collect::<Json>(),
    })
}

fn address(at: &AddressStatus) -> Json {
    json!({
        "address": at.address, "connected": at.connected, "closed": at.closed, "unreached": at.unreached,
        "lastError": at.last_error.as_ref().map(|(_, text)| text),
        "lastErrorTime": at.last_error.as_ref().map(|(time, _)| millis(*time)),
    })
}

/// A source, with the name of its stream.
pub fn source((stream, source): &(String, LinkStatus)) -> Json {
    let mut shown = link(source);
    shown["stream"] = stream.as_str().into();
    shown
}
