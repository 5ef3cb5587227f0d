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

/// Why a token is not accepted. Operators see it; the client does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenFault {
    Missing,
    /// it is not one of `source.httpServerTokens`, and there are no keys
    Unknown,
    Malformed,
    Algorithm,
    Signature,
    Expired,
    Early,
    Time,
    Audience,
    Issuer,
}

impl TokenFault {
    pub fn as_str(self) -> &'static str {
        match self {
            TokenFault::Missing => "there is no token",
            TokenFault::Unknown => "the token is not one of source.httpServerTokens",
            TokenFault::Malformed => {
                "the token is neither one of source.httpServerTokens nor a JSON web token that can be read"
            }
            TokenFault::Algorithm => "no key in source.httpServerJwt.keys fits the token's alg and kid",
            TokenFault::Signature => "the token's signature fits none of source.httpServerJwt.keys",
            TokenFault::Expired => "the token has expired (exp)",
            TokenFault::Early => "the token is not valid yet (nbf)",
            TokenFault::Time => "the token's exp or nbf is not a time",
            TokenFault::Audience => "the token's aud is not in source.httpServerJwt.audience",
            TokenFault::Issuer => "the token's iss is not in source.httpServerJwt.issuer",
        }
    }
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

    /// The claims of a token signed with one of the keys. `now` is in seconds since the epoch.
    ///
    /// # Errors
    /// [`TokenFault`]
    pub fn check(&self, token: &str, now: f64) -> Result<Map<String, Json>, TokenFault> {
        if token.len() > LONGEST || signatures::asks_for_extensions(token) {
            return Err(TokenFault::Malformed);
        }
        let header = decode_header(token).map_err(|_| TokenFault::Malformed)?;
        let (message, signature) = token.rsplit_once('.').ok_or(TokenFault::Malformed)?;
        let fits = |key: &&Key| {
            key.public.algorithms.contains(&header.alg)
                && (header.kid.is_none() || key.id.is_none() || key.id == header.kid)
        };
        let signed = |key: &Key| verify(signature, message.as_bytes(), &key.public.key, header.alg).unwrap_or(false);
        if !self.keys.iter().any(|key| fits(&key)) {
            return Err(TokenFault::Algorithm);
        }
        if !self.keys.iter().filter(fits).any(signed) {
            return Err(TokenFault::Signature);
        }
        let claims = message.split_once('.').and_then(|(_, claims)| URL_SAFE_NO_PAD.decode(claims).ok());
        let claims: Option<Map<String, Json>> = claims.and_then(|claims| serde_json::from_slice(&claims).ok());
        let claims = claims.ok_or(TokenFault::Malformed)?;
        self.accepts(&claims, now)?;
        Ok(claims)
    }

    /// Checks the registered claims (RFC 7519, 4.1). Others may have any type, even `sub`.
    fn accepts(&self, claims: &Map<String, Json>, now: f64) -> Result<(), TokenFault> {
        // Otherwise a time that is not a number would never expire.
        let time = |name: &str| match claims.get(name) {
            None => Ok(None),
            Some(at) => at.as_f64().filter(|at| *at >= 0.0).map(Some).ok_or(()),
        };
        let (Ok(exp), Ok(nbf)) = (time("exp"), time("nbf")) else { return Err(TokenFault::Time) };
        let is_one_of = |name: &str, wanted: &[String]| match claims.get(name) {
            _ if wanted.is_empty() => true,
            Some(Json::String(one)) => wanted.contains(one),
            Some(Json::Array(several)) => {
                several.iter().any(|one| one.as_str().is_some_and(|one| wanted.iter().any(|wanted| wanted == one)))
            }
            _ => false,
        };
        let checks = [
            (exp.is_none_or(|exp| now < exp), TokenFault::Expired),
            (nbf.is_none_or(|nbf| nbf <= now), TokenFault::Early),
            (is_one_of("aud", &self.settings.audience), TokenFault::Audience),
            (is_one_of("iss", &self.settings.issuer), TokenFault::Issuer),
        ];
        checks.into_iter().find(|(fits, _)| !fits).map_or(Ok(()), |(_, fault)| Err(fault))
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
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("jwks.json");
        std::fs::write(&file, set.to_string()).unwrap();
        let settings = JwtSettings {
            keys: vec![file.to_string_lossy().into_owned()],
            audience: vec!["board".to_owned()],
            issuer: vec!["me".to_owned()],
        };
        let keys = JwtKeys::load(&settings).unwrap();
        let by_ec = |message: &[u8]| ec.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec();
        let by_ed = |message: &[u8]| ed.sign(message).as_ref().to_vec();
        let claims = json!({"sub": "ann", "aud": ["other", "board"], "iss": "me", "exp": 100});
        let es = || json!({"alg": "ES256"});
        for (header, claims, by, refused) in [
            (json!({"alg": "ES256"}), &claims, "ec", None),
            (json!({"alg": "ES256", "kid": "ec"}), &claims, "ec", None),
            (json!({"alg": "EdDSA", "kid": "ed"}), &claims, "ed", None),
            (json!({"alg": "EdDSA", "kid": "ec"}), &claims, "ed", Some(TokenFault::Algorithm)),
            (json!({"alg": "EdDSA"}), &claims, "ec", Some(TokenFault::Signature)),
            (json!({"alg": "ES256"}), &claims, "ed", Some(TokenFault::Signature)),
            (json!({"alg": "HS256", "kid": "secret"}), &claims, "ed", Some(TokenFault::Algorithm)),
            (json!({"alg": "none"}), &claims, "ed", Some(TokenFault::Malformed)),
            (json!({"alg": "ES256", "crit": ["exp"]}), &claims, "ec", Some(TokenFault::Malformed)),
            (json!({"alg": "ES256", "crit": ["b64"], "b64": false}), &claims, "ec", Some(TokenFault::Malformed)),
            (json!({"alg": "ES256", "crit": []}), &claims, "ec", Some(TokenFault::Malformed)),
            (json!({"alg": "ES256", "crit": null}), &claims, "ec", Some(TokenFault::Malformed)),
            (es(), &json!({"sub": "ann", "aud": "board", "exp": 100}), "ec", Some(TokenFault::Issuer)),
            (es(), &json!({"sub": "ann", "iss": "me", "exp": 100}), "ec", Some(TokenFault::Audience)),
            (es(), &json!({"aud": "board", "iss": "me", "exp": 5}), "ec", Some(TokenFault::Expired)),
            (es(), &json!({"aud": "board", "iss": "me", "nbf": 50}), "ec", Some(TokenFault::Early)),
            (es(), &json!({"aud": "board", "iss": "me", "exp": "never"}), "ec", Some(TokenFault::Time)),
        ] {
            let token = match by {
                "ec" => token(&header, claims, by_ec),
                _ => token(&header, claims, by_ed),
            };
            assert_eq!(keys.check(&token, 10.0).err(), refused, "{header} {claims} {by}");
        }
    }
}
