//! The verbs that show a running service: `status`, `tap` and `top`. They query the REST API and print for people, or
//! with `--json` for programs.

mod status;
mod table;
mod tap;
mod top;

use std::time::Duration;

use serde_json::Value;

use super::Failure;
use super::remote::{Door, error_text, sent};

pub use status::Status;
pub use tap::Tap;
pub use top::Top;

/// How long the service may take to respond.
const PATIENCE: Duration = Duration::from_secs(30);

/// A service that is queried repeatedly.
struct Asked {
    base: String,
    agent: ureq::Agent,
    token: Option<String>,
}

impl Asked {
    fn new(door: &Door) -> Result<Asked, Failure> {
        Ok(Asked { base: door.base()?, agent: door.agent(Some(PATIENCE))?, token: door.authorization() })
    }

    /// The JSON of a response.
    fn get(&self, path: &str) -> Result<Value, Failure> {
        let base = &self.base;
        let mut answer = sent(base, path, |at| match &self.token {
            Some(token) => self.agent.get(at).header("authorization", token).call(),
            None => self.agent.get(at).call(),
        })?;
        let status = answer.status();
        let body = answer.body_mut().read_to_string();
        let body = body.map_err(|error| Failure::Refused(format!("the answer of {base} ended early: {error}")))?;
        if !status.is_success() {
            return Err(Failure::Service(error_text(&body)));
        }
        serde_json::from_str(&body)
            .map_err(|error| Failure::Refused(format!("cannot understand the service's answer: {error}")))
    }
}
