//! Error responses: the only place that decides status, code, text and content type.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value as Json, json};

use super::details::Detailed;
use crate::service::{Code, ServiceError};
use crate::text::document::{Problem, Severity};

/// An error response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    code: u16,
    message: String,
    details: Vec<Json>,
}

impl ApiError {
    /// An error with this code: 404 if something does not exist, otherwise 400.
    pub fn new(code: Code, message: impl Into<String>) -> ApiError {
        let status = if code == Code::NotFound { StatusCode::NOT_FOUND } else { StatusCode::BAD_REQUEST };
        ApiError { status, code: code as u16, message: message.into(), details: Vec::new() }
    }

    /// A protocol error: it has its own status and no code.
    pub fn with_status(status: StatusCode, message: impl Into<String>) -> ApiError {
        ApiError { status, ..ApiError::bad(message) }
    }

    /// Adds all errors of a rule or statement as `details`, for clients that request them.
    pub fn with_problems(self, problems: &[Problem]) -> ApiError {
        ApiError { details: problems.iter().map(detail).collect(), ..self }
    }

    /// The same as text, for responses that are not JSON.
    pub fn into_text(self, status: StatusCode) -> Response {
        let detailed = self.detailed(|error| explained(&error.message, &error.details));
        with((status, self.message).into_response(), detailed)
    }

    /// The long form, if there are details; `body` writes it.
    fn detailed(&self, body: impl Fn(&ApiError) -> String) -> Option<Detailed> {
        let first = self.details.iter().find(|detail| detail["severity"].is_null()).or(self.details.first())?;
        let of = |name: &str| first[name].as_str().unwrap_or_default();
        let place = if first["line"].is_null() {
            String::new()
        } else {
            format!("{}:{}:{}: ", of("in"), first["line"], first["column"])
        };
        let hint = if of("hint").is_empty() { String::new() } else { format!(" ({})", of("hint")) };
        let more = match self.details.len() {
            1 => String::new(),
            all => format!("; and {} more: ask with ?details", all - 1),
        };
        Some(Detailed { body: body(self), first: format!("{place}{}{hint}{more}", of("message")) })
    }

    /// A body or parameter that cannot be parsed.
    pub fn bad(message: impl Into<String>) -> ApiError {
        ApiError::new(Code::Undefined, message)
    }
}

/// The response to an accepted request: plain text, or with warnings if the client requests them and there are any.
pub fn accepted(status: StatusCode, text: String, warnings: &[Problem]) -> Response {
    if warnings.is_empty() {
        return (status, text).into_response();
    }
    let warnings: Vec<Json> = warnings.iter().map(warning).collect();
    let body = json!({"message": text.trim_end(), "warnings": warnings});
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

/// A warning in a response.
pub fn warning(warning: &Problem) -> Json {
    let mut shown = detail(warning);
    if !warning.subject.is_empty() {
        shown["message"] = format!("{}: {}", warning.subject, warning.message).into();
    }
    shown
}

/// An error in a response.
pub fn detail(problem: &Problem) -> Json {
    let mut detail = json!({"message": problem.message});
    let mut put = |name: &str, value: Json| detail[name] = value;
    match (&problem.in_sql, problem.place.filter(|place| place.line > 0)) {
        (Some(place), _) => {
            put("in", "sql".into());
            put("line", place.line.into());
            put("column", place.column.into());
        }
        (None, Some(place)) => {
            put("in", problem.file.as_str().into());
            put("line", place.line.into());
            put("column", place.column.into());
        }
        (None, None) => {}
    }
    if let Some(hint) = &problem.hint {
        put("hint", hint.as_str().into());
    }
    if let Some(excerpt) = problem.excerpt.as_ref().filter(|_| problem.in_sql.is_some()) {
        put("excerpt", excerpt.as_str().into());
    }
    if problem.severity == Severity::Warning {
        put("severity", "warning".into());
    }
    detail
}

/// The error message followed by its `details`, for people.
pub fn explained(message: &str, details: &[Json]) -> String {
    let mut text = message.to_owned();
    for detail in details {
        let of = |name: &str| detail[name].as_str().unwrap_or_default();
        if details.len() > 1 || !message.contains(of("message")) {
            let place = match (&detail["line"], of("in")) {
                (Json::Number(line), place) if place != "sql" => format!("{place}:{line}:{}: ", detail["column"]),
                _ => String::new(),
            };
            let severity = if of("severity").is_empty() { String::new() } else { format!("{}: ", of("severity")) };
            text.push_str(&format!("\n{place}{severity}{}", of("message")));
        }
        for line in of("excerpt").lines() {
            text.push_str("\n    ");
            text.push_str(line);
        }
        if !of("hint").is_empty() {
            text.push_str("\n    hint: ");
            text.push_str(of("hint"));
        }
    }
    text
}

/// JSON with a line break, as eKuiper sends it, but with its correct content type.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let plain = |error: &ApiError| json!({"error": error.code, "message": error.message});
        let detailed = self.detailed(|error| {
            let mut body = plain(error);
            body["details"] = Json::Array(error.details.clone());
            format!("{body}\n")
        });
        let body = format!("{}\n", plain(&self));
        with((self.status, [(header::CONTENT_TYPE, "application/json")], body).into_response(), detailed)
    }
}

/// A response with its long form attached.
fn with(mut response: Response, detailed: Option<Detailed>) -> Response {
    if let Some(detailed) = detailed {
        response.extensions_mut().insert(detailed);
    }
    response
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

/// Adds the operation to an error: `start rule error: Rule …`.
pub trait ErrorContext<T> {
    /// The error with `what` and a colon before its text. Errors of an invalid id are unchanged, since nothing had
    /// begun.
    ///
    /// # Errors
    /// The service's error.
    fn context(self, what: &str) -> Result<T, ApiError>;
}

impl<T> ErrorContext<T> for Result<T, ServiceError> {
    fn context(self, what: &str) -> Result<T, ApiError> {
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
            let error = Err::<(), _>(error).context("doing").unwrap_err();
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

    #[test]
    fn warnings_are_not_reported_as_the_first_error() {
        let document = crate::text::document::Document::from_json("rule", &json!({}));
        let place = document.root.place;
        let (odd, wrong) = (document.warning(place, "", "it is odd"), document.error(place, "", "it is wrong"));
        let first = |problems: &[Problem]| {
            let error = ApiError::bad("no").with_problems(problems);
            error.detailed(|error| error.message.clone()).map(|detailed| detailed.first)
        };
        let header = first(&[odd.clone(), wrong.clone()]).unwrap_or_default();
        assert!(header.contains("it is wrong; and 1 more"), "{header}");
        assert!(first(&[odd]).unwrap_or_default().ends_with("it is odd"));
        assert_eq!(first(&[]), None);
    }
}
