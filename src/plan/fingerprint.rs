//! The parts of a plan that determine the layout and meaning of its state.
//!
//! A rule can continue from stored state if its fingerprint is the same. It covers everything that decides which rows
//! reach the rule's operators, what these keep, and where: the inputs with their columns and conditions, the steps, the
//! window, keys and aggregates. It leaves out what only affects results on their way out, so that a rule keeps its
//! state when its sinks, the names of its results, HAVING, ORDER BY or LIMIT change.

use std::fmt::Write;

use jiff::tz::TimeZone;
use sha2::{Digest, Sha256};

use super::explain;
use super::physical::{Body, Input, RulePlan, Stateful, Step, StepKind};

/// The fingerprint of a plan; it is the same on every run and machine.
pub type Fingerprint = [u8; 16];

/// The fingerprint of a rule in this time zone; `None` if it has no state.
pub fn of(plan: &RulePlan, zone: &TimeZone) -> Option<Fingerprint> {
    let text = match &plan.body {
        Body::Rows(_) => return None,
        Body::Stateful(body) => text(body, &plan.inputs, zone),
        // The rows of a view are part of its state and depend on its whole definition.
        Body::View(view) => format!("{} view {:x}", text(&view.body, &plan.inputs, zone), view.about.definition),
    };
    let hash = Sha256::digest(text);
    hash.first_chunk().copied()
}

fn text(body: &Stateful, inputs: &[Input], zone: &TimeZone) -> String {
    let mut text = explain::state(body, inputs);
    let mut add = |what: std::fmt::Arguments<'_>| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{what}");
    };
    // These are not in the text for people.
    let flags = (body.ordered, body.grouped, body.incremental, body.counts_hits);
    add(format_args!(
        "{flags:?} {:?} {} {} {}",
        body.event_time,
        body.row_slots,
        body.steps.len(),
        body.result_steps.len()
    ));
    for call in &body.aggregates {
        add(format_args!("{:?} {}", call.aggregate, call.integral));
    }
    for Step { input, slot, kind } in body.steps.iter().chain(&body.result_steps) {
        if let StepKind::Analytic(call) = kind {
            add(format_args!("{input} {slot} {:?} {:?} {}", call.analytic, call.names, call.over_rows));
        }
    }
    for Input { stream, role, scan, slots } in inputs {
        add(format_args!("{} {role:?} {slots:?}", stream.name));
        if let Some(event_time) = &scan.event_time {
            add(format_args!("{:?}", event_time.format));
        }
    }
    // A zone without a name is identified by its offsets in January and July.
    let moments = [1_704_067_200, 1_719_792_000].map(|second| {
        jiff::Timestamp::from_second(second).map(|moment| zone.to_offset(moment).seconds()).unwrap_or_default()
    });
    add(format_args!("{:?} {moments:?}", zone.iana_name()));
    text
}
