//! JSON web tokens for clients of the data server: `source.httpServerJwt`.
//!
//! Keys are in PEM files, or in files with a set of keys (JWKS). Only asymmetric algorithms are accepted, because
//! whoever can check a token must not be able to make one.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::crypto::verify;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, decode_header};
use serde_json::{Map, Value as Json};

use crate::io::signatures::{self, PublicKey};

/// The longest token, bytes: the cost of checking a signature grows with the length.
const LONGEST: usize = 16 * 1024;

/// The largest file of keys, bytes.
const LARGEST: u64 = 1024 * 1024;

/// `source.httpServerJwt`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JwtSettings {
    /// PEM files of public keys, or JWKS files
    pub keys: Vec<String>,
    /// values of which `aud` must contain one; empty: not checked
    pub audience: Vec<String>,
    /// values of which `iss` must be one; empty: not checked
    pub issuer: Vec<String>,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JwtError {
    #[error("source.httpServerJwt.keys: {path} cannot be read: {error}")]
    Read { path: PathBuf, error: std::io::Error },
    #[error(
        "source.httpServerJwt.keys: {0} holds no public key: expected a PEM file (RSA, EC or Ed25519) or a JWKS file"
    )]
    NoKey(PathBuf),
    #[error("source.httpServerJwt names no keys: give it the files of the public keys")]
    Empty,
}

/// Checks tokens.
pub struct JwtKeys {
    keys: Vec<Key>,
    settings: JwtSettings,
}

struct Key {
    /// `kid`
    id: Option<String>,
    public: PublicKey,
}

impl JwtKeys {
    /// Loads the keys.
    ///
    /// # Errors
    /// [`JwtError`]
    pub fn load(settings: &JwtSettings) -> Result<JwtKeys, JwtError> {
        signatures::install();
        let mut keys = Vec::new();
        for file in &settings.keys {
            let path = Path::new(file);
            let read = || {
                let meta = std::fs::metadata(path)?;
                if !meta.is_file() || meta.len() > LARGEST {
                    return Err(std::io::Error::other("expected a file of up to 1 MiB"));
                }
                std::fs::read(path)
            };
            let content = read().map_err(|error| JwtError::Read { path: path.to_owned(), error })?;
            let found = keys_of(&content);
            if found.is_empty() {
                return Err(JwtError::NoKey(path.to_owned()));
            }
            keys.extend(found);
        }
        if keys.is_empty() {
            return Err(JwtError::Empty);
        }
        Ok(JwtKeys { keys, settings: settings.clone() })
    }

    /// The claims of a token signed with one of the keys; `None` if the token is not accepted. `now` is in seconds
    /// since the epoch.
    pub fn check(&self, token: &str, now: f64) -> Option<Map<String, Json>> {
        if token.len() > LONGEST || signatures::asks_for_extensions(token) {
            return None;
        }
        let header = decode_header(token).ok()?;
        let (message, signature) = token.rsplit_once('.')?;
        let fits = |key: &&Key| {
            key.public.algorithms.contains(&header.alg)
                && (header.kid.is_none() || key.id.is_none() || key.id == header.kid)
        };
        let signed = |key: &Key| verify(signature, message.as_bytes(), &key.public.key, header.alg).unwrap_or(false);
        if !self.keys.iter().filter(fits).any(signed) {
            return None;
        }
        let (_, claims) = message.split_once('.')?;
        let claims: Map<String, Json> = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        self.accepts(&claims, now).then_some(claims)
    }

    /// Whether the registered claims (RFC 7519, 4.1) are acceptable. Others may have any type, even `sub`.
    fn accepts(&self, claims: &Map<String, Json>, now: f64) -> bool {
        // Otherwise a time that is not a number would never expire.
        let time = |name: &str| match claims.get(name) {
            None => Ok(None),
            Some(at) => at.as_f64().filter(|at| *at >= 0.0).map(Some).ok_or(()),
        };
        let (Ok(exp), Ok(nbf)) = (time("exp"), time("nbf")) else { return false };
        let is_one_of = |name: &str, wanted: &[String]| match claims.get(name) {
            _ if wanted.is_empty() => true,
            Some(Json::String(one)) => wanted.contains(one),
            Some(Json::Array(several)) => {
                several.iter().any(|one| one.as_str().is_some_and(|one| wanted.iter().any(|wanted| wanted == one)))
            }
            _ => false,
        };
        exp.is_none_or(|exp| now < exp)
            && nbf.is_none_or(|nbf| nbf <= now)
            && is_one_of("aud", &self.settings.audience)
            && is_one_of("iss", &self.settings.issuer)
    }
}

/// When a token expires, ms since the epoch.
pub fn expires(claims: &Map<String, Json>) -> Option<i64> {
    claims.get("exp")?.as_f64().map(|seconds| (seconds * 1000.0) as i64)
}

fn keys_of(content: &[u8]) -> Vec<Key> {
    if let Ok(set) = serde_json::from_slice::<JwkSet>(content) {
        return set.keys.iter().filter_map(key_of_set).collect();
    }
    PublicKey::from_pem(content).map(|public| Key { id: None, public }).into_iter().collect()
}

fn key_of_set(jwk: &jsonwebtoken::jwk::Jwk) -> Option<Key> {
    use jsonwebtoken::jwk::AlgorithmParameters as Of;
    let algorithms = match &jwk.algorithm {
        Of::RSA(_) => signatures::RSA,
        Of::EllipticCurve(_) => signatures::EC,
        Of::OctetKeyPair(_) => signatures::ED,
        // Shared secrets and unknown kinds of keys are not accepted.
        _ => return None,
    };
    let public = PublicKey { algorithms, key: DecodingKey::from_jwk(jwk).ok()? };
    Some(Key { id: jwk.common.key_id.clone(), public })
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
    use serde_json::json;

    use super::*;

    /// A token with these claims and the signature that `sign` makes.
    fn token(header: &Json, claims: &Json, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
        let part = |json: &Json| URL_SAFE_NO_PAD.encode(json.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = URL_SAFE_NO_PAD.encode(sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    #[test]
    fn keys_of_a_set_check_their_own_algorithms_only() {
        let random = SystemRandom::new();
        let ec = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let ec = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, ec.as_ref(), &random).unwrap();
        let ed = Ed25519KeyPair::from_pkcs8(Ed25519KeyPair::generate_pkcs8(&random).unwrap().as_ref()).unwrap();
        let encoded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let point = ec.public_key().as_ref();
        let set = json!({"keys": [
            {"kty": "EC", "crv": "P-256", "kid": "ec", "x": encoded(&point[1..33]), "y": encoded(&point[33..])},
            {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": encoded(ed.public_key().as_ref())},
            {"kty": "oct", "kid": "secret", "k": encoded(b"everybody knows it")},
        ]});
        let file = std::env::temp_dir().join(format!("plutino-jwks-{}.json", std::process::id()));
        std::fs::write(&file, set.to_string()).unwrap();
        let settings = JwtSettings {
            keys: vec![file.to_string_lossy().into_owned()],
            audience: vec!["board".to_owned()],
            issuer: vec!["me".to_owned()],
        };
        let keys = JwtKeys::load(&settings).unwrap();
        let _ = std::fs::remove_file(&file);
        let by_ec = |message: &[u8]| ec.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec();
        let by_ed = |message: &[u8]| ed.sign(message).as_ref().to_vec();
        let claims = json!({"sub": "ann", "aud": ["other", "board"], "iss": "me", "exp": 100});
        for (header, claims, by, taken) in [
            (json!({"alg": "ES256"}), &claims, "ec", true),
            (json!({"alg": "ES256", "kid": "ec"}), &claims, "ec", true),
            (json!({"alg": "EdDSA", "kid": "ed"}), &claims, "ed", true),
            (json!({"alg": "EdDSA", "kid": "ec"}), &claims, "ed", false),
            (json!({"alg": "EdDSA"}), &claims, "ec", false),
            (json!({"alg": "ES256"}), &claims, "ed", false),
            (json!({"alg": "HS256", "kid": "secret"}), &claims, "ed", false),
            (json!({"alg": "none"}), &claims, "ed", false),
            (json!({"alg": "ES256", "crit": ["exp"]}), &claims, "ec", false),
            (json!({"alg": "ES256", "crit": ["b64"], "b64": false}), &claims, "ec", false),
            (json!({"alg": "ES256", "crit": []}), &claims, "ec", false),
            (json!({"alg": "ES256", "crit": null}), &claims, "ec", false),
            (json!({"alg": "ES256"}), &json!({"sub": "ann", "aud": "board", "exp": 100}), "ec", false),
            (json!({"alg": "ES256"}), &json!({"sub": "ann", "iss": "me", "exp": 100}), "ec", false),
            (json!({"alg": "ES256"}), &json!({"aud": "board", "iss": "me", "exp": 5}), "ec", false),
            (json!({"alg": "ES256"}), &json!({"aud": "board", "iss": "me", "exp": "never"}), "ec", false),
        ] {
            let token = match by {
                "ec" => token(&header, claims, by_ec),
                _ => token(&header, claims, by_ed),
            };
            assert_eq!(keys.check(&token, 10.0).is_some(), taken, "{header} {claims} {by}");
        }
    }
}
