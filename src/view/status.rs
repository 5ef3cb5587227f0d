//! The status of a view.

use std::collections::HashSet;
use std::sync::Arc;

use super::counters::OperatorStatus;
use super::store::View;

#[derive(Clone, Debug, Default)]
pub struct ViewStatus {
    pub rows: usize,
    pub changes: u64,
    pub changes_per_second: u64,
    pub inserts: u64,
    pub updates: u64,
    pub deletes: u64,
    /// the inserts since the view began with its current query
    pub came: u64,
    /// the deletes since then
    pub left: u64,
    pub operator: OperatorStatus,
    pub state_bytes: usize,
    pub ended_lives: usize,
    pub subscriptions: usize,
    pub cohorts: usize,
    pub clients: usize,
    pub lagging_clients: usize,
    pub resumed: u64,
    pub gaps_expired: u64,
    pub gaps_changed: u64,
    pub gaps_restart: u64,
    pub deltas: u64,
    pub merged: u64,
    pub snapshot_rows: u64,
}

/// One subscription, as GET /views/{name}/clients shows it.
#[derive(Clone, Debug)]
pub struct ClientStatus {
    pub peer: String,
    pub s: u64,
    pub params: serde_json::Map<String, serde_json::Value>,
    pub lag_changes: u64,
    pub lag_ms: i64,
    pub waiting_bytes: usize,
    pub every: u32,
}

impl View {
    pub fn status(&self) -> ViewStatus {
        let members = || self.cohorts.iter().flat_map(|(_, cohort)| cohort.members.iter());
        let sockets: HashSet<*const super::Mailbox> =
            members().map(|(_, member)| Arc::as_ptr(&member.mailbox)).collect();
        let lagging: HashSet<*const super::Mailbox> = members()
            .filter(|(_, member)| member.behind_since.is_some())
            .map(|(_, member)| Arc::as_ptr(&member.mailbox))
            .collect();
        let counters = &self.counters;
        ViewStatus {
            rows: self.rows.live,
            changes: counters.changes(),
            changes_per_second: counters.rate.per_second,
            inserts: counters.inserts,
            updates: counters.updates,
            deletes: counters.deletes,
            came: counters.inserts - self.begun.0,
            left: counters.deletes - self.begun.1,
            operator: self.operator.clone(),
            state_bytes: self.bytes() + self.operator.bytes,
            ended_lives: self.divisions.iter().map(|(_, division)| division.ended()).sum(),
            subscriptions: members().count(),
            cohorts: self.cohorts.len(),
            clients: sockets.len(),
            lagging_clients: lagging.len(),
            resumed: counters.resumed,
            gaps_expired: counters.gaps_expired,
            gaps_changed: counters.gaps_changed,
            gaps_restart: counters.gaps_restart,
            deltas: counters.deltas,
            merged: counters.merged,
            snapshot_rows: counters.snapshot_rows,
        }
    }

    /// Its subscriptions.
    pub fn clients(&self, now: i64) -> Vec<ClientStatus> {
        let mut clients = Vec::new();
        for (_, cohort) in self.cohorts.iter() {
            for (_, member) in &cohort.members {
                clients.push(ClientStatus {
                    peer: member.mailbox.peer().to_owned(),
                    s: cohort.s,
                    params: cohort.selection.filter.params_json(),
                    lag_changes: cohort.cuts.saturating_sub(member.cuts),
                    lag_ms: member.behind_since.map_or(0, |since| (now - since).max(0)),
                    waiting_bytes: member.mailbox.waiting(),
                    every: cohort.selection.every.millis(),
                });
            }
        }
        clients
    }
}
