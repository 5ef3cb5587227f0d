//! The service over several processes (`serve --hosts`): process 0 leads, the others follow.
//!
//! Process 0 has the catalog, the store, the timer and the REST API. The others have an engine, and take what process 0
//! orders over the control link. Every change passes through `leading` on its way, at one of two places: what is
//! recorded in the catalog passes [`Service::record`] before it is written; rules pass where they are opened, begin, stop
//! and are saved (`rules::life`, `checkpoints`). A change is answered once all processes have made it; one that a process
//! refuses is undone in all of them.
//!
//! The processes agree on the order of changes because whoever changes something here holds its lock until all have
//! answered. There is no other order: each process builds dataflows of its own, and rules are addressed by numbers that
//! process 0 gives.
//!
//! A process that is lost ends all. So nobody joins later, and the state of the others is what the process 0 of now has
//! ordered.

mod following;
mod leading;
mod orders;
mod report;

use std::io;
use std::sync::{Arc, Weak};

use super::{Inner, Service};
use crate::cluster::{Answers, ControlSocket, Membership};
pub(super) use following::Following;
pub(super) use leading::{Followers, NotBegun};
pub(super) use orders::{Begin, Recipe, Refusal};
pub use report::Share;

/// The number of the process that leads.
const LEADER: usize = 0;

/// What this process is.
pub(super) enum Role {
    /// It is the only one.
    Alone,
    /// It is process 0.
    Leads(Followers),
    /// It takes orders.
    Follows(Following),
}

impl Role {
    /// Takes up the control links: those of process 0 to all others, or the one to process 0.
    ///
    /// # Errors
    /// The error of the system if a socket cannot be used.
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

/// Answers the questions of another process; those of a process that has stopped get an empty answer.
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
