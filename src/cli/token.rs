//! `plutino token`: makes keys, and tokens signed with them, for the REST API (`basic.authentication`) and the data
//! server (`source.httpServerJwt`).
//!
//! Only asymmetric keys, because a service that checks tokens must not be able to make them.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use clap::{Args, Subcommand, ValueEnum};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use serde_json::{Map, Value, json};
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use super::{Failure, say};
use crate::property::duration;

/// What precedes the raw public key in its DER form (RFC 8410, RFC 5480).
const ED25519_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const P256_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Claims that have a separate option.
const OWN_OPTIONS: [(&str, &str); 5] =
    [("iss", "--issuer"), ("aud", "--audience"), ("sub", "--subject"), ("exp", "--expires"), ("iat", "--expires")];

/// Make keys and tokens for the REST API and the data server
#[derive(Args)]
pub struct Token {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Key(Key),
    Create(Create),
}

/// Make a key pair
///
/// FILE gets the private key, which signs tokens; keep it away from the service. The public key is written beside it,
/// with the extension .pub: copy it into the folder mgmt of the configuration for the REST API, or name it in
/// source.httpServerJwt.keys for the data server.
#[derive(Args)]
struct Key {
    /// File for the private key, such as ops.key; it must not exist
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[arg(long, value_enum, default_value_t = Kind::Ed25519)]
    kind: Kind,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// Signs with EdDSA
    Ed25519,
    /// Signs with ES256
    P256,
}

/// Print a token
#[derive(Args)]
struct Create {
    /// PEM file with the private key: from plutino token key, or another one in PKCS#8 form (Ed25519, P-256, RSA)
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The issuer (iss). The REST API needs a public key of this name; default: the name of the key file, with the
    /// extension .pub
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// The audience (aud); can be given several times. The REST API requires eKuiper
    #[arg(long, value_name = "NAME", default_value = "eKuiper")]
    audience: Vec<String>,
    /// The subject (sub)
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
    /// How long the token is valid, such as 12h or 30d; never: until its key is removed
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = lifetime)]
    expires: Lifetime,
    /// A further claim, which live views can require; a value that is not JSON is a text. Can be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = claim)]
    claim: Vec<(String, Value)>,
}

/// How long a token is valid; `None`: without an end.
type Lifetime = Option<Duration>;

fn lifetime(text: &str) -> Result<Lifetime, String> {
    if text.eq_ignore_ascii_case("never") {
        return Ok(None);
    }
    let time = duration::parse_text(text).filter(|time| !time.is_zero());
    time.map(Some).ok_or_else(|| "expected a duration such as 12h or 30d, or never".to_owned())
}

fn claim(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("expected NAME=VALUE")?;
    if let Some((_, option)) = OWN_OPTIONS.iter().find(|(own, _)| *own == name) {
        return Err(format!("{name} is set by {option}"));
    }
    Ok((name.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| Value::from(value))))
}

impl Token {
    pub fn run(self) -> Result<(), Failure> {
        match self.what {
            What::Key(key) => key.make(),
            What::Create(create) => {
                writeln!(std::io::stdout().lock(), "{}", create.token(SystemTime::now())?)?;
                Ok(())
            }
        }
    }
}

impl Key {
    fn make(self) -> Result<(), Failure> {
        let failed = |_| Failure::Refused("no key can be made: the system gives no random numbers".to_owned());
        let random = SystemRandom::new();
        let (private, public) = match self.kind {
            Kind::Ed25519 => {
                let private = Ed25519KeyPair::generate_pkcs8(&random).map_err(failed)?;
                let pair = Ed25519KeyPair::from_pkcs8(private.as_ref()).expect("a key that was just made can be read");
                (private, [&ED25519_HEAD[..], pair.public_key().as_ref()].concat())
            }
            Kind::P256 => {
                let scheme = &ECDSA_P256_SHA256_FIXED_SIGNING;
                let private = EcdsaKeyPair::generate_pkcs8(scheme, &random).map_err(failed)?;
                let pair = EcdsaKeyPair::from_pkcs8(scheme, private.as_ref(), &random);
                let pair = pair.expect("a key that was just made can be read");
                (private, [&P256_HEAD[..], pair.public_key().as_ref()].concat())
            }
        };
        let beside = public_file(&self.file);
        if beside == self.file {
            let hint = "use another name for the private key, such as ops.key";
            return Err(Failure::Usage(format!("{} would be both keys: {hint}", beside.display())));
        }
        write_new(&self.file, &pem("PRIVATE KEY", private.as_ref()), 0o600)?;
        if let Err(failure) = write_new(&beside, &pem("PUBLIC KEY", &public), 0o644) {
            // Half a pair is useless, and the next attempt may use the same name.
            let _ = std::fs::remove_file(&self.file);
            return Err(failure);
        }
        say(&format!("the private key is in {}, the public key in {}", self.file.display(), beside.display()));
        Ok(())
    }
}

impl Create {
    fn token(self, now: SystemTime) -> Result<String, Failure> {
        let signer = Signer::read(&self.key)?;
        let name = public_file(&self.key).file_name().map(|name| name.to_string_lossy().into_owned());
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut claims = Map::new();
        claims.insert("iss".to_owned(), json!(self.issuer.or(name).unwrap_or_default()));
        let audience = match self.audience.as_slice() {
            [one] => json!(one),
            several => json!(several),
        };
        claims.insert("aud".to_owned(), audience);
        claims.extend(self.subject.map(|subject| ("sub".to_owned(), json!(subject))));
        claims.insert("iat".to_owned(), json!(now));
        claims.extend(self.expires.map(|time| ("exp".to_owned(), json!(now.saturating_add(time.as_secs().max(1))))));
        claims.extend(self.claim);
        let head = json!({"alg": signer.algorithm(), "typ": "JWT"});
        let part = |text: String| URL_SAFE_NO_PAD.encode(text);
        let message = format!("{}.{}", part(head.to_string()), part(Value::Object(claims).to_string()));
        let signature = signer.sign(message.as_bytes())?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// A private key.
enum Signer {
    Ed25519(Box<Ed25519KeyPair>),
    P256(Box<EcdsaKeyPair>),
    Rsa(Box<RsaKeyPair>),
}

impl Signer {
    fn read(file: &Path) -> Result<Signer, Failure> {
        let wrong = |reason: &str| Failure::Refused(format!("--key {}: {reason}", file.display()));
        let text = std::fs::read(file).map_err(|error| wrong(&error.to_string()))?;
        let key =
            PrivateKeyDer::from_pem_slice(&text).map_err(|_| wrong("the file holds no private key in PEM form"))?;
        let hint = "expected an Ed25519, P-256 or RSA key; openssl pkcs8 -topk8 -nodes converts one to PKCS#8";
        let found = match &key {
            PrivateKeyDer::Pkcs8(key) => {
                let der = key.secret_pkcs8_der();
                let ed25519 = || Some(Signer::Ed25519(Box::new(Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok()?)));
                let random = SystemRandom::new();
                let p256 = || EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random).ok();
                let rsa = || Some(Signer::Rsa(Box::new(RsaKeyPair::from_pkcs8(der).ok()?)));
                ed25519().or_else(|| Some(Signer::P256(Box::new(p256()?)))).or_else(rsa)
            }
            PrivateKeyDer::Pkcs1(key) => {
                RsaKeyPair::from_der(key.secret_pkcs1_der()).ok().map(|key| Signer::Rsa(Box::new(key)))
            }
            _ => None,
        };
        found.ok_or_else(|| wrong(hint))
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Signer::Ed25519(_) => "EdDSA",
            Signer::P256(_) => "ES256",
            Signer::Rsa(_) => "RS256",
        }
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Failure> {
        let random = SystemRandom::new();
        let signed = match self {
            Signer::Ed25519(key) => Ok(key.sign(message).as_ref().to_vec()),
            Signer::P256(key) => key.sign(&random, message).map(|signature| signature.as_ref().to_vec()),
            Signer::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).map(|()| signature)
            }
        };
        signed.map_err(|_| Failure::Refused("the key cannot sign".to_owned()))
    }
}

/// The file of the public key that belongs to a private one.
fn public_file(private: &Path) -> PathBuf {
    private.with_extension("pub")
}

/// Writes a file that does not exist yet.
fn write_new(file: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    use std::os::unix::fs::OpenOptionsExt;
    let opened = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(file);
    let written = opened.and_then(|mut opened| opened.write_all(text.as_bytes()));
    written.map_err(|error| Failure::Refused(format!("cannot write {}: {error}", file.display())))
}

fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in STANDARD.encode(der).as_bytes().chunks(64) {
        let _ = writeln!(text, "{}", String::from_utf8_lossy(line));
    }
    let _ = writeln!(text, "-----END {label}-----");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_values_or_texts() {
        assert_eq!(claim("roles=[\"a\"]"), Ok(("roles".to_owned(), json!(["a"]))));
        assert_eq!(claim("name=ann=x"), Ok(("name".to_owned(), json!("ann=x"))));
        assert_eq!(claim("level=3"), Ok(("level".to_owned(), json!(3))));
        assert_eq!(claim("exp=3"), Err("exp is set by --expires".to_owned()));
        assert!(claim("name").is_err() && claim("=x").is_err());
    }

    #[test]
    fn lifetimes_are_durations() {
        assert_eq!(lifetime("30d"), Ok(Some(Duration::from_secs(30 * 86_400))));
        assert_eq!(lifetime("Never"), Ok(None));
        assert!(lifetime("0s").is_err() && lifetime("soon").is_err());
    }
}
