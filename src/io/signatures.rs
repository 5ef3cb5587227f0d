//! Public keys, and a provider for `jsonwebtoken` that verifies asymmetric signatures with ring, which TLS needs
//! anyway.
//!
//! The crate's own providers would add a second cryptographic library. This one only verifies, and supports no
//! algorithm whose key could also sign.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result};
use jsonwebtoken::signature::{Error, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::signature as ring;
use serde_json::{Map, Value as Json};

/// A public key from a PEM file, and the algorithms for its kind.
#[derive(Clone)]
pub struct PublicKey {
    pub algorithms: &'static [Algorithm],
    pub key: DecodingKey,
}

/// The algorithms of RSA keys.
pub const RSA: &[Algorithm] =
    &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];

/// The algorithms of keys on the curves P-256 and P-384.
pub const EC: &[Algorithm] = &[Algorithm::ES256, Algorithm::ES384];

/// The algorithm of Ed25519 keys.
pub const ED: &[Algorithm] = &[Algorithm::EdDSA];

impl PublicKey {
    /// Parses the PEM of a public key; `None`: it is of another kind.
    pub fn from_pem(text: &[u8]) -> Option<PublicKey> {
        let of = |algorithms, key| PublicKey { algorithms, key };
        let rsa = || DecodingKey::from_rsa_pem(text).map(|key| of(RSA, key));
        let ec = || DecodingKey::from_ec_pem(text).map(|key| of(EC, key));
        let ed = || DecodingKey::from_ed_pem(text).map(|key| of(ED, key));
        rsa().or_else(|_| ec()).or_else(|_| ed()).ok()
    }
}

/// Whether the head of a token has `crit`, whatever its value: this demands extensions (RFC 7515, 4.1.11), and none is
/// supported. An unreadable head counts as having it.
pub fn asks_for_extensions(token: &str) -> bool {
    let head = token.split('.').next().and_then(|head| URL_SAFE_NO_PAD.decode(head).ok());
    let members = head.and_then(|head| serde_json::from_slice::<Map<String, Json>>(&head).ok());
    members.is_none_or(|members| members.contains_key("crit"))
}

static PROVIDER: CryptoProvider =
    CryptoProvider { signer_factory: signer, verifier_factory: verifier, key_utils: KeyUtils::new_unimplemented() };

/// Installs this provider for `jsonwebtoken`. Further calls have no effect.
pub fn install() {
    // A provider that is already installed is this one.
    let _ = PROVIDER.install_default();
}

fn signer(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    Err(ErrorKind::InvalidAlgorithm.into())
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    let scheme = match algorithm {
        Algorithm::RS256 => Scheme::Rsa(&ring::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::RS384 => Scheme::Rsa(&ring::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::RS512 => Scheme::Rsa(&ring::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::PS256 => Scheme::Rsa(&ring::RSA_PSS_2048_8192_SHA256),
        Algorithm::PS384 => Scheme::Rsa(&ring::RSA_PSS_2048_8192_SHA384),
        Algorithm::PS512 => Scheme::Rsa(&ring::RSA_PSS_2048_8192_SHA512),
        Algorithm::ES256 => Scheme::Other(&ring::ECDSA_P256_SHA256_FIXED),
        Algorithm::ES384 => Scheme::Other(&ring::ECDSA_P384_SHA384_FIXED),
        Algorithm::EdDSA => Scheme::Other(&ring::ED25519),
        _ => return Err(ErrorKind::InvalidAlgorithm.into()),
    };
    Ok(Box::new(Signature { algorithm: *algorithm, scheme, key: key.clone() }))
}

enum Scheme {
    Rsa(&'static ring::RsaParameters),
    Other(&'static dyn ring::VerificationAlgorithm),
}

struct Signature {
    algorithm: Algorithm,
    scheme: Scheme,
    key: DecodingKey,
}

impl Verifier<Vec<u8>> for Signature {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        let verified = match (self.key.kind(), &self.scheme) {
            (DecodingKeyKind::SecretOrDer(der), Scheme::Rsa(parameters)) => {
                ring::UnparsedPublicKey::new(*parameters, der).verify(message, signature)
            }
            (DecodingKeyKind::SecretOrDer(point), Scheme::Other(algorithm)) => {
                ring::UnparsedPublicKey::new(*algorithm, point).verify(message, signature)
            }
            (DecodingKeyKind::RsaModulusExponent { n, e }, Scheme::Rsa(parameters)) => {
                ring::RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
            }
            (DecodingKeyKind::RsaModulusExponent { .. }, Scheme::Other(_)) => return Err(Error::new()),
        };
        verified.map_err(|_| Error::new())
    }
}

impl JwtVerifier for Signature {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
