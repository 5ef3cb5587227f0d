//! Waits between attempts: their length, and what the other end asks for.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio_tungstenite::tungstenite::http::{HeaderMap, header};

/// The longest Retry-After that is respected.
const LONGEST_RETRY: Duration = Duration::from_secs(3600);

/// Makes `wait` longer or shorter by a random share up to `jitter`, so that many clients do not come back at the same
/// time.
pub(super) fn jittered(wait: Duration, jitter: f64) -> Duration {
    // The keys of a new hasher are random, which suffices here.
    let chance = RandomState::new().hash_one(0u8) as f64 / u64::MAX as f64;
    wait.mul_f64((1.0 + jitter * (2.0 * chance - 1.0)).max(0.0))
}

/// The wait that a peer asks for, in seconds or as a date.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
            Duration::try_from(at.duration_since(jiff::Timestamp::now())).unwrap_or_default()
        }
    };
    Some(wait.min(LONGEST_RETRY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_seconds_or_a_date() {
        let wait = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, text.parse().expect("a value"));
            retry_after(&headers)
        };
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("99999999"), Some(LONGEST_RETRY));
        assert_eq!(wait("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("Tue, 31 Dec 2999 23:59:59 GMT"), Some(LONGEST_RETRY));
        assert_eq!(wait("soon"), None);
    }
}
