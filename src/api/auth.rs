//! Authentication of the API (`basic.authentication`): a request needs a JSON web token (RFC 7519) signed by a known
//! issuer.
//!
//! A token is in the header `Authorization`, with or without `Bearer` before it. It is signed with RS256, or with ES256
//! or EdDSA if the key is of that kind; `iss` names a public key file in the folder of keys (`etc/mgmt`), `aud`
//! contains `eKuiper`, and `exp` and `nbf` are checked if they are present. Error texts are those that eKuiper's users
//! know.
//!
//! An issuer's name comes from outside and never becomes a path: only the keys in the folder's listing are used.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use jsonwebtoken::dangerous::insecure_decode_claims;
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use serde_json::Value as Json;

use super::console;
use crate::io::signatures::{self, PublicKey};
use crate::sync::locked;

/// The required audience.
const AUDIENCE: &str = "eKuiper";

/// Accepted algorithms.
const ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

/// The longest token, bytes: the cost of checking a signature grows with its length.
const LONGEST: usize = 16 << 10;

/// How long the content of the folder is cached.
const PATIENCE: Duration = Duration::from_secs(1);

/// The largest key file, bytes.
const LARGEST_KEY: u64 = 64 << 10;

/// The public keys of the issuers.
pub struct Keys {
    folder: PathBuf,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    keys: HashMap<String, Arc<PublicKey>>,
    read: Option<Instant>,
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
enum Refused {
    #[error("missing_token")]
    Missing,
    #[error("validate token error: token is malformed: {0}")]
    Malformed(String),
    #[error("validate token error: token has invalid claims: {0}")]
    Claims(&'static str),
    #[error("validate token error: issuer field not exist in jwt payload")]
    NoIssuer,
    #[error("validate token error: not found target key file {0} in /etc/mgmt")]
    NoKey(String),
    #[error("validate token error: token signature is invalid: {0}")]
    Signature(String),
    #[error("audience field should contain {AUDIENCE}, but got [{0}]")]
    Audience(String),
}

impl Keys {
    /// The keys of a folder, which need not exist: it is read when a token arrives.
    pub fn new(folder: PathBuf) -> Arc<Keys> {
        signatures::install();
        Arc::new(Keys { folder, known: Mutex::default() })
    }

    fn of(&self, issuer: &str) -> Option<Arc<PublicKey>> {
        let mut known = locked(&self.known);
        // Keys may change while the process runs, but clients must not be able to cause a read of the folder with each
        // request.
        if known.read.is_none_or(|read| read.elapsed() >= PATIENCE) {
            known.keys = self.read();
            known.read = Some(Instant::now());
        }
        known.keys.get(issuer).cloned()
    }

    /// All public keys of the folder. Files that are not keys are logged and skipped.
    fn read(&self) -> HashMap<String, Arc<PublicKey>> {
        let mut keys = HashMap::new();
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(folder = %self.folder.display(), %error, "the folder of keys cannot be read");
                return keys;
            }
        };
        for entry in entries.flatten() {
            let (Ok(name), path) = (entry.file_name().into_string(), entry.path()) else { continue };
            if !path.metadata().is_ok_and(|meta| meta.is_file() && meta.len() <= LARGEST_KEY) {
                continue;
            }
            let Ok(text) = std::fs::read(&path) else { continue };
            match PublicKey::from_pem(&text) {
                Some(key) => drop(keys.insert(name, Arc::new(key))),
                None => tracing::debug!(file = %path.display(), "not the PEM of a public key"),
            }
        }
        keys
    }

    /// Checks the header.
    fn check(&self, authorization: Option<&str>) -> Result<(), Refused> {
        let token = authorization.unwrap_or_default().trim();
        let (scheme, rest) = token.split_once(' ').unwrap_or((token, ""));
        let token = if scheme.eq_ignore_ascii_case("bearer") { rest.trim() } else { token };
        if token.is_empty() {
            return Err(Refused::Missing);
        }
        if token.len() > LONGEST {
            return Err(Refused::Malformed(format!("it has more than {LONGEST} bytes")));
        }
        let header = decode_header(token).map_err(|error| refused(&error))?;
        let method = |why: &str| Refused::Signature(format!("signing method {:?} is invalid: {why}", header.alg));
        if !ALGORITHMS.contains(&header.alg) {
            return Err(method("it must be RS256, ES256 or EdDSA"));
        }
        if signatures::asks_for_extensions(token) {
            return Err(Refused::Malformed("its head has crit, and no extension is known".to_owned()));
        }
        let claims: Json = insecure_decode_claims(token).map_err(|error| refused(&error))?;
        let issuer = claims["iss"].as_str().filter(|issuer| !issuer.is_empty()).ok_or(Refused::NoIssuer)?;
        let Some(key) = self.of(issuer) else {
            return Err(Refused::NoKey(issuer.chars().take(128).collect()));
        };
        if !key.algorithms.contains(&header.alg) {
            return Err(method("the issuer's key is of another kind"));
        }
        // Values other than numbers would be ignored below, and the token would never expire.
        for name in ["exp", "nbf"] {
            let is_time = claims[name].is_null() || claims[name].as_f64().is_some_and(|seconds| seconds >= 0.0);
            if !is_time {
                return Err(Refused::Malformed(format!("{name} is not a time")));
            }
        }
        let claims = claims_checked(token, &key, header.alg)?;
        let audience: Vec<&str> = match &claims["aud"] {
            Json::String(one) => vec![one],
            Json::Array(several) => several.iter().filter_map(Json::as_str).collect(),
            _ => Vec::new(),
        };
        if !audience.contains(&AUDIENCE) {
            return Err(Refused::Audience(audience.join(" ").chars().take(128).collect()));
        }
        Ok(())
    }
}

/// Passes requests with a valid token, and those that need none: `/` and `/ping` only show that the service runs, and
/// the files of the console contain nothing about it.
pub async fn authenticate(State(keys): State<Arc<Keys>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if matches!(path, "/" | "/ping") || path == "/console" || path.starts_with(console::PATH) {
        return next.run(request).await;
    }
    let shown = request.headers().get(header::AUTHORIZATION).map(|value| value.to_str().unwrap_or("?"));
    match keys.check(shown) {
        Ok(()) => next.run(request).await,
        Err(refused) => {
            let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
            (StatusCode::UNAUTHORIZED, challenge, format!("{refused}\n")).into_response()
        }
    }
}

fn claims_checked(token: &str, key: &PublicKey, algorithm: Algorithm) -> Result<Json, Refused> {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_aud = false;
    validation.validate_exp = true;
    validation.validate_nbf = true;
    validation.leeway = 0;
    decode::<Json>(token, &key.key, &validation).map(|token| token.claims).map_err(|error| match error.kind() {
        ErrorKind::InvalidSignature if algorithm == Algorithm::RS256 => {
            Refused::Signature("crypto/rsa: verification error".to_owned())
        }
        _ => refused(&error),
    })
}

fn refused(error: &Error) -> Refused {
    match error.kind() {
        ErrorKind::ExpiredSignature => Refused::Claims("token is expired"),
        ErrorKind::ImmatureSignature => Refused::Claims("token is not valid yet"),
        ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => {
            Refused::Signature("verification error".to_owned())
        }
        ErrorKind::InvalidToken => Refused::Malformed("token contains an invalid number of segments".to_owned()),
        other => Refused::Malformed(format!("{other:?}").chars().take(200).collect()),
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use ring::rand::SystemRandom;
    use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
    use serde_json::json;
    use tempfile::TempDir;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject;

    use super::*;

    /// A token with this header, signed with the tests' key.
    fn token(head: &Json, claims: &Json) -> String {
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("../../tests/keys/issuer.key")).unwrap();
        let key = RsaKeyPair::from_pkcs8(key.secret_der()).unwrap();
        let part = |value: &Json| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(head), part(claims));
        let mut signature = vec![0; key.public().modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// A folder of keys, with that of `ours`.
    fn keys() -> (TempDir, Arc<Keys>) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir_all(folder.path().join("mgmt")).unwrap();
        std::fs::write(folder.path().join("mgmt").join("ours"), include_str!("../../tests/keys/issuer.pub")).unwrap();
        std::fs::write(folder.path().join("mgmt").join("none"), "not a key").unwrap();
        std::fs::write(folder.path().join("outside"), include_str!("../../tests/keys/issuer.pub")).unwrap();
        let keys = Keys::new(folder.path().join("mgmt"));
        (folder, keys)
    }

    #[test]
    fn a_token_is_taken_or_refused_with_the_reason() {
        let (_folder, keys) = keys();
        let signed = |claims: &Json| token(&json!({"alg": "RS256", "typ": "JWT"}), claims);
        let good = signed(&json!({"iss": "ours", "aud": "eKuiper"}));
        let check = |text: &str| keys.check(Some(text)).map_err(|refused| refused.to_string());
        assert_eq!(check(&good), Ok(()));
        assert_eq!(check(&format!("Bearer {good}")), Ok(()));
        assert_eq!(check(&format!("bearer  {good}")), Ok(()));
        assert_eq!(check(&signed(&json!({"iss": "ours", "aud": ["x", "eKuiper"], "exp": 99_999_999_999_u64}))), Ok(()));
        assert_eq!(keys.check(None), Err(Refused::Missing));
        let (before, last) = good.split_at(good.len() - 20);
        let tampered = format!("{before}{}{}", if last.starts_with('A') { 'B' } else { 'A' }, &last[1..]);
        for (token, expected) in [
            ("", "missing_token"),
            ("Bearer ", "missing_token"),
            ("x", "validate token error: token is malformed: "),
            ("a.b.c", "validate token error: token is malformed: "),
            (
                &signed(&json!({"iss": "ours", "aud": "eKuiper", "exp": 1})),
                "token has invalid claims: token is expired",
            ),
            (&signed(&json!({"iss": "ours", "aud": "eKuiper", "nbf": 99_999_999_999_u64})), "token is not valid yet"),
            (&signed(&json!({"iss": "ours", "aud": "eKuiper", "exp": -1})), "token is malformed: exp is not a time"),
            (
                &signed(&json!({"iss": "ours", "aud": "eKuiper", "exp": "2020"})),
                "token is malformed: exp is not a time",
            ),
            (&signed(&json!({"iss": "ours", "aud": "eKuiper", "nbf": {}})), "token is malformed: nbf is not a time"),
            (&signed(&json!({"aud": "eKuiper"})), "issuer field not exist in jwt payload"),
            (&signed(&json!({"iss": "theirs", "aud": "eKuiper"})), "not found target key file theirs in /etc/mgmt"),
            (&signed(&json!({"iss": "none", "aud": "eKuiper"})), "not found target key file none"),
            (&signed(&json!({"iss": "../outside", "aud": "eKuiper"})), "not found target key file ../outside"),
            (
                &signed(&json!({"iss": "ours", "aud": "other"})),
                "audience field should contain eKuiper, but got [other]",
            ),
            (&signed(&json!({"iss": "ours"})), "but got []"),
            (&tampered, "token signature is invalid"),
            (&"a".repeat(LONGEST + 1), "token is malformed: it has more than"),
        ] {
            let refused = check(token).unwrap_err();
            assert!(refused.contains(expected), "{token}: {refused}");
        }
        let none = "eyJhbGciOiJub25lIn0.eyJpc3MiOiJvdXJzIiwiYXVkIjoiZUt1aXBlciJ9.";
        assert!(check(none).is_err());
        let claims = json!({"iss": "ours", "aud": "eKuiper"});
        for (algorithm, why) in [("HS256", "it must be RS256, ES256 or EdDSA"), ("EdDSA", "key is of another kind")] {
            let confused = token(&json!({ "alg": algorithm }), &claims);
            assert!(check(&confused).unwrap_err().contains(why), "{algorithm}");
        }
        for critical in [json!(["exp"]), json!(["b64"]), json!([]), Json::Null] {
            let token = token(&json!({"alg": "RS256", "b64": true, "crit": critical}), &claims);
            assert!(check(&token).unwrap_err().contains("its head has crit"), "{critical}");
        }
    }

    #[test]
    fn a_key_that_is_taken_away_lets_nobody_in() {
        let (folder, keys) = keys();
        let token = token(&json!({"alg": "RS256"}), &json!({"iss": "ours", "aud": "eKuiper"}));
        assert_eq!(keys.check(Some(&token)), Ok(()));
        std::fs::remove_file(folder.path().join("mgmt").join("ours")).unwrap();
        keys.known.lock().unwrap().read = Instant::now().checked_sub(PATIENCE);
        assert!(matches!(keys.check(Some(&token)), Err(Refused::NoKey(_))));
    }
}
