//! Sends a request to the service, or to process 0 if the service is another process of `serve --hosts`.
//!
//! Such a process responds with 307 and the same path at process 0. The request is sent again there, once, with its
//! body and token: the service that the user named already has the token, and is trusted not to pass it to strangers.
//! No other redirect is followed, and none from TLS to plain HTTP.

use ureq::http::{Response, Uri, header};
use ureq::{Body, Error};

use super::tls;
use crate::cli::Failure;

/// Sends a request for `path` to the service at `base`, or to the process to which that one redirects. `send` takes a
/// complete URL.
///
/// # Errors
/// The service does not respond, or the redirect is not one of `serve --hosts`.
pub fn sent(
    base: &str,
    path: &str,
    send: impl Fn(String) -> Result<Response<Body>, Error>,
) -> Result<Response<Body>, Failure> {
    let answer = send(format!("{base}{path}")).map_err(|error| unreachable(base, &error))?;
    let Some(location) = location(&answer) else { return Ok(answer) };
    let leader = leader(base, path, answer.status().as_u16(), &location);
    let Some(leader) = leader else { return Err(strange(base, &location)) };
    let answer = send(location.clone()).map_err(|error| unreachable(leader, &error))?;
    match self::location(&answer) {
        Some(further) => Err(strange(leader, &further)),
        None => Ok(answer),
    }
}

/// The error for a service that did not respond: the reason, and what to do.
pub fn unreachable(base: &str, error: &ureq::Error) -> Failure {
    let hint =
        tls::hint(error).unwrap_or("start it with `plutino serve`, or say where it is with --url or PLUTINO_URL");
    Failure::Refused(format!("cannot reach the service at {base}: {error}; {hint}"))
}

/// The target of a response that is a redirect.
fn location(answer: &Response<Body>) -> Option<String> {
    let location = answer.headers().get(header::LOCATION).filter(|_| answer.status().is_redirection())?;
    Some(String::from_utf8_lossy(location.as_bytes()).into_owned())
}

/// The URL of process 0, if `location` is the same path there.
fn leader<'a>(base: &str, path: &str, status: u16, location: &'a str) -> Option<&'a str> {
    let leader = location.strip_suffix(path).filter(|_| status == 307)?;
    let uri: Uri = leader.parse().ok()?;
    let is_origin = uri.authority().is_some() && uri.query().is_none() && matches!(uri.path(), "" | "/");
    let is_safe = match uri.scheme_str()? {
        "https" => true,
        scheme => scheme == "http" && !base.to_ascii_lowercase().starts_with("https:"),
    };
    (is_origin && is_safe && !leader.ends_with('/')).then_some(leader)
}

fn strange(base: &str, location: &str) -> Failure {
    let hint = "redirects are followed to process 0 of `serve --hosts` only; name the service itself with --url";
    Failure::Refused(format!("{base} redirects to {location:?}: {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_path_at_another_process_is_followed() {
        let found = |base, status, location| leader(base, "/rules/a?force=true", status, location);
        let zero = "http://zero:9081";
        assert_eq!(found("http://one:9082", 307, "http://zero:9081/rules/a?force=true"), Some(zero));
        assert_eq!(found("http://proxy/plutino", 307, "http://zero:9081/rules/a?force=true"), Some(zero));
        assert_eq!(found("https://one", 307, "https://zero/rules/a?force=true"), Some("https://zero"));
        for (base, status, location) in [
            ("http://one:9082", 302, "http://zero:9081/rules/a?force=true"),
            ("http://one:9082", 307, "http://zero:9081/rules/a"),
            ("http://one:9082", 307, "http://zero:9081/login?to=/rules/a?force=true"),
            ("http://one:9082", 307, "http://zero:9081/other/rules/a?force=true"),
            ("http://one:9082", 307, "ftp://zero/rules/a?force=true"),
            ("http://one:9082", 307, "/rules/a?force=true"),
            ("https://one", 307, "http://zero:9081/rules/a?force=true"),
            ("HTTPS://one", 307, "http://zero:9081/rules/a?force=true"),
        ] {
            assert_eq!(found(base, status, location), None, "{base} {status} {location}");
        }
    }
}
