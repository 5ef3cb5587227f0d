//! The service over several processes (`serve --hosts`): process 0 leads, the others follow.
//!
//! Process 0 has the catalog, the store, the timer and the REST API. The others have an engine, and execute what
//! process 0 orders over the control link. Every change passes through `leading`, at one of two places: changes of the
//! catalog in [`Service::record`], before they are written; rules where they are opened, begin, stop and are saved
//! (`rules::life`, `checkpoints`). A change is answered after all processes have made it; if one of them refuses, it is
//! undone in all.
//!
//! The processes agree on the order of changes because each change in process 0 holds a lock until all processes have
//! answered. No other order is needed: each process builds its own dataflows, and rules are addressed by numbers that
//! process 0 assigns.
//!
//! If a process is lost, all end. So no process joins later, and the state of the others always comes from the orders
//! of the current process 0.

mod following;
mod leading;
mod links;
mod looks;
mod orders;
mod report;
mod taps;
mod uploads;

use std::io;
use std::sync::{Arc, Weak};

use super::{Inner, Service};
use crate::cluster::{Answers, ControlSocket, Membership};
pub(super) use following::Following;
pub(super) use leading::{Followers, NotBegun};
pub use looks::{RuleLook, SinkClient};
pub(super) use orders::{Begin, Recipe, Refusal};
pub use report::Share;

/// The process that leads.
const LEADER: usize = 0;

/// The role of this process.
pub(super) enum Role {
    /// It is the only one.
    Alone,
    /// It is process 0 of several.
    Leads(Followers),
    /// It takes orders.
    Follows(Following),
}

impl Role {
    /// Starts to use the control links: those of process 0 to all others, or the one to process 0.
    ///
    /// # Errors
    /// The system's error if a socket cannot be used.
    pub fn of(membership: &Membership, controls: Vec<ControlSocket>, inner: &Weak<Inner>) -> io::Result<Role> {
        if membership.process == LEADER {
            return Ok(Role::Leads(Followers::start(membership.host(), controls, inner)?));
        }
        let mut controls = controls.into_iter();
        let control = controls.next().ok_or(io::ErrorKind::NotConnected)?;
        let control = control.start(answers(inner, Service::follow))?;
        Ok(Role::Follows(Following::new(membership.process, control)))
    }
}

/// Answers the questions of another process. After this process has stopped, the answer is empty.
fn answers<Q, A, F>(inner: &Weak<Inner>, answer: fn(Service, Q) -> F) -> Answers
where
    Q: serde::de::DeserializeOwned + Send + 'static,
    A: serde::Serialize,
    F: Future<Output = A> + Send + 'static,
{
    let inner = inner.clone();
    Arc::new(move |question: Vec<u8>| {
        let inner = inner.upgrade();
        Box::pin(async move {
            let (Some(inner), Ok(question)) = (inner, postcard::from_bytes(&question)) else { return Vec::new() };
            let answer = answer(Service { inner }, question).await;
            postcard::to_allocvec(&answer).unwrap_or_default()
        })
    })
}

impl Service {
    /// The number of this process, if its counts are only its own share: process 0 has the sums.
    pub fn is_share_of(&self) -> Option<usize> {
        self.process().filter(|_| self.follows())
    }

    /// The number of this process, if there are several.
    pub(super) fn process(&self) -> Option<usize> {
        match self.role() {
            Role::Alone => None,
            Role::Leads(_) => Some(LEADER),
            Role::Follows(following) => Some(following.process()),
        }
    }
}
