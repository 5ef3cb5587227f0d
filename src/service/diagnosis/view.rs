//! Why a view has no rows.

use super::{Cause, Diagnosis, Facts, counted, one, stopped_view};
use crate::view::ViewStatus;

/// A view that another view reads.
pub(in crate::service) struct ReadView {
    pub name: String,
    /// the number of its rows
    pub rows: usize,
}

impl Facts<'_> {
    /// The findings about a view that reads these views.
    pub fn of_view(&self, view: &ViewStatus, reads: &[ReadView]) -> Vec<Diagnosis> {
        if let Some(why) = &view.operator.stopped {
            return vec![stopped_view(why)];
        }
        if view.rows > 0 {
            return if self.status.rows_in > 0 { self.unselectable() } else { Vec::new() };
        }
        if view.came > 0 {
            return one("view", Cause::AllLeft, self.left(view));
        }
        if self.status.sources.is_empty() { self.derived(reads) } else { self.silent(self.status) }
    }

    /// Why the rows have left the view.
    fn left(&self, view: &ViewStatus) -> String {
        let (expired, evicted) = (view.operator.expired, view.operator.evicted);
        let others = view.left.saturating_sub(expired + evicted);
        let mut ways = Vec::new();
        for (count, way) in [(expired, "by EXPIRE"), (evicted, "by MAX_ROWS"), (others, "by a change of what it reads")]
        {
            if count > 0 {
                ways.push(format!("{count} {way}"));
            }
        }
        let ways = ways.join(", ");
        let mut text = format!("All rows have left: {ways}.");
        if others > 0
            && let Some(condition) = self.select.filter.as_ref().or(self.select.having.as_ref())
        {
            text.push_str(&format!(" The newest rows do not pass {condition}."));
        }
        text
    }

    /// Why a view over views has never had a row.
    fn derived(&self, reads: &[ReadView]) -> Vec<Diagnosis> {
        if let Some(empty) = reads.iter().find(|view| view.rows == 0) {
            let name = &empty.name;
            let text = format!("View {name}, which it reads, has no rows: its own status says why.");
            return one("source", Cause::NoRows, text);
        }
        let flow = &self.status.work.flow;
        if let Some(fault) = self.status.work.faults.iter().max_by_key(|fault| fault.time) {
            let text = format!("{} failed; the last one: {}", counted(fault.count, "row"), fault.text);
            return one("project", Cause::Errors, text);
        }
        let rows = counted(flow.filter_in, "row");
        let from = &self.select.from.name.name;
        if flow.filter_in > 0 && flow.filter_out == 0 {
            if !self.select.joins.is_empty() {
                let text = format!("None of {rows} of {from} has a partner with which it passes ON and WHERE.");
                return one("join", Cause::NeverTrue, text);
            }
            let condition = self.select.filter.as_ref().map(ToString::to_string).unwrap_or_default();
            let text = format!("The condition was true for none of {rows} of {from}: {condition}.");
            return one("filter", Cause::NeverTrue, text);
        }
        if flow.having_in > 0 && flow.having_out == 0 {
            let text = format!("HAVING was true for none of {}.", counted(flow.having_in, "group"));
            return one("having", Cause::NeverTrue, text);
        }
        Vec::new()
    }
}
