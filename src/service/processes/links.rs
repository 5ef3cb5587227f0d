//! Connections and refused handshakes of all processes.

use serde::{Deserialize, Serialize};

use super::super::Service;
use super::super::connections::{ConnectionReport, ConnectionState};
use super::super::error::ServiceError;
use super::leading::REPORTING;
use super::orders::{Answer, Order};
use crate::metrics::known_cause;

/// The states of connections in one process, and counts of its data server.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WireLinks {
    /// id and state of each connection, and why it is not connected
    connections: Vec<(String, ConnectionState, Option<String>)>,
    /// refused handshakes, by cause
    refused: Vec<(String, u64)>,
}

impl Service {
    /// The connections of all processes: see [`Service::connections`]. A connection that one process lacks is reported
    /// as that process reports it.
    pub async fn connections_everywhere(&self, all: bool) -> Vec<ConnectionReport> {
        let mut reports = self.connections(all).await;
        self.add_states(&mut reports).await;
        reports
    }

    /// One connection in all processes.
    ///
    /// # Errors
    /// [`ServiceError::NoConnection`]
    pub async fn connection_everywhere(&self, id: &str) -> Result<ConnectionReport, ServiceError> {
        let mut report = [self.connection(id)?];
        self.add_states(&mut report).await;
        let [report] = report;
        Ok(report)
    }

    /// Refused handshakes of the data servers of all processes since the start, by cause.
    pub async fn refused_everywhere(&self) -> Vec<(&'static str, u64)> {
        let mut all = self.refused_handshakes().await;
        for (.., links) in self.links_elsewhere().await {
            for (cause, count) in links.refused {
                let cause = known_cause(&cause);
                match all.iter_mut().find(|(known, _)| *known == cause) {
                    Some((_, known)) => *known += count,
                    None => all.push((cause, count)),
                }
            }
        }
        all
    }

    async fn add_states(&self, reports: &mut [ConnectionReport]) {
        for (process, host, links) in self.links_elsewhere().await {
            for report in reports.iter_mut() {
                let there = links.connections.iter().find(|(id, ..)| *id == report.id);
                if let Some((_, state, error)) = there
                    && *state > report.state
                {
                    report.state = *state;
                    report.error = error.as_ref().map(|error| format!("process {process} ({host}): {error}"));
                }
            }
        }
    }

    async fn links_elsewhere(&self) -> Vec<(usize, String, WireLinks)> {
        let Some(followers) = self.followers() else { return Vec::new() };
        let answers = followers.order_each(&Order::Links, REPORTING).await;
        let links = answers.into_iter().filter_map(|(follower, answer)| match answer {
            Some(Answer::Links(links)) => Some((follower.process, follower.host.clone(), links)),
            _ => None,
        });
        links.collect()
    }

    /// What this process answers to [`Order::Links`].
    pub(super) async fn wire_links(&self) -> WireLinks {
        let connections = self.connections(true).await.into_iter();
        let refused = self.refused_handshakes().await.into_iter();
        WireLinks {
            connections: connections.map(|report| (report.id, report.state, report.error)).collect(),
            refused: refused.map(|(cause, count)| (cause.to_owned(), count)).collect(),
        }
    }
}
