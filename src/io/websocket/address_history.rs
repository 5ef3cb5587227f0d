//! The status of each address of a client role, also logged if an address fails repeatedly.

use std::sync::Mutex;
use std::time::SystemTime;

use crate::io::AddressStatus;
use crate::sync::locked;

/// One entry for each address that was dialled.
#[derive(Default)]
pub(super) struct AddressHistory(Mutex<Vec<AddressStatus>>);

impl AddressHistory {
    /// Records an open connection.
    pub fn connects(&self, address: &str) {
        self.at(address, |at| at.connected += 1);
    }

    /// Records the end of a connection.
    pub fn disconnects(&self, address: &str) {
        self.at(address, |at| at.connected = at.connected.saturating_sub(1));
    }

    /// Records why a connection has ended.
    pub fn is_closed(&self, address: &str, error: &str) {
        self.fails(address, error, |at| at.closed += 1);
    }

    /// Records why a dial has failed.
    pub fn is_unreached(&self, address: &str, error: &str) {
        self.fails(address, error, |at| at.unreached += 1);
    }

    pub fn all(&self) -> Vec<AddressStatus> {
        locked(&self.0).clone()
    }

    fn fails(&self, address: &str, error: &str, count: impl FnOnce(&mut AddressStatus)) {
        let status = self.at(address, |at| {
            count(at);
            at.last_error = Some((SystemTime::now(), error.to_owned()));
            at.clone()
        });
        // If an address fails repeatedly, it is logged less and less often.
        let failures = status.failures();
        if failures > 1 && failures.is_power_of_two() {
            tracing::warn!(endpoint = address, "{}", status.trouble());
        }
    }

    fn at<T>(&self, address: &str, see: impl FnOnce(&mut AddressStatus) -> T) -> T {
        let mut all = locked(&self.0);
        let known = all.iter().position(|at| at.address == address);
        let at = known.unwrap_or_else(|| {
            all.push(AddressStatus::new(address));
            all.len() - 1
        });
        see(&mut all[at])
    }
}
