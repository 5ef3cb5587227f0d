//! Every refusal of the API as an answer: one place for status, code, text and content type.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::service::{Code, ServiceError};

/// A refusal, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    code: u16,
    message: String,
}

impl ApiError {
    /// An error with this number: 404 where something is not there, 400 otherwise.
    pub fn new(code: Code, message: impl Into<String>) -> ApiError {
        let status = if code == Code::NotFound { StatusCode::NOT_FOUND } else { StatusCode::BAD_REQUEST };
        ApiError { status, code: code as u16, message: message.into() }
    }

    /// An error of the protocol: with a status of its own, and no number.
    pub fn with_status(status: StatusCode, message: impl Into<String>) -> ApiError {
        ApiError { status, ..ApiError::bad(message) }
    }

    /// A body or parameter that cannot be read.
    pub fn bad(message: impl Into<String>) -> ApiError {
        ApiError::new(Code::Undefined, message)
    }
}

/// JSON with a line break, as eKuiper sends it, but under its true content type.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = format!("{}\n", json!({"error": self.code, "message": self.message}));
        (self.status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
    }
}

impl From<ServiceError> for ApiError {
    fn from(error: ServiceError) -> ApiError {
        let status = match &error {
            ServiceError::Store(_) => Some(StatusCode::INTERNAL_SERVER_ERROR),
            ServiceError::Stopping => Some(StatusCode::SERVICE_UNAVAILABLE),
            _ => None,
        };
        let plain = ApiError::new(error.code(), error.to_string());
        ApiError { status: status.unwrap_or(plain.status), ..plain }
    }
}

/// Says what was being done when the service refused: `start rule error: Rule …`.
pub trait Doing<T> {
    /// The error with `what` and a colon before its text. An id that is none stands alone, since nothing was begun.
    ///
    /// # Errors
    /// What the service refused.
    fn doing(self, what: &str) -> Result<T, ApiError>;
}

impl<T> Doing<T> for Result<T, ServiceError> {
    fn doing(self, what: &str) -> Result<T, ApiError> {
        self.map_err(|error| match error {
            ServiceError::Id(_) | ServiceError::EmptyId => error.into(),
            error => {
                let error = ApiError::from(error);
                ApiError { message: format!("{what}: {}", error.message), ..error }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_statuses_belong_together() {
        let of = |error: ServiceError| {
            let error = Err::<(), _>(error).doing("doing").unwrap_err();
            (error.status.as_u16(), error.code, error.message)
        };
        let cases = [
            (ServiceError::NoRule("r".into()), 404, 1002, "doing: Rule r is not found."),
            (ServiceError::RuleExists("r".into()), 400, 1000, "doing: rule r already exists"),
            (ServiceError::Statement("x".into()), 400, 3000, "doing: x"),
            (
                ServiceError::NoTopology("r".into()),
                400,
                1001,
                "doing: Fail to get rule r's topo, make sure the rule has been started before",
            ),
            (ServiceError::EmptyId, 400, 1000, "id cannot be empty"),
            (ServiceError::Stopping, 503, 1000, "doing: the service is stopping"),
        ];
        for (error, status, code, message) in cases {
            assert_eq!(of(error), (status, code, message.to_owned()));
        }
    }
}
