//! TLS for both ends of a websocket: makes rustls configurations from certificates in files or base64 text.
//!
//! All user errors (a missing file, text that is not PEM, a key for another certificate) are found here, before any
//! connection is made, and the error names the property and the file.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use base64::Engine;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{
    self, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme, SupportedProtocolVersion,
    version,
};

use crate::io::reach::{read_regular, within_now};
use crate::io::trust::NamedServers;

/// TLS material that cannot be used. Each variant names the property.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("property {property}: cannot read {file}: {source}")]
    File { property: &'static str, file: String, source: std::io::Error },
    #[error("property {property}: not the base64 of a PEM text: {source}")]
    Base64 { property: &'static str, source: base64::DecodeError },
    #[error("property {property}: {origin} holds no {expected} in PEM form")]
    Pem {
        property: &'static str,
        /// the file, or "the text"
        origin: String,
        /// what the text should contain
        expected: &'static str,
    },
    #[error("property {present} needs {missing} as well")]
    Incomplete {
        /// the property that is set
        present: &'static str,
        /// the property that is missing
        missing: &'static str,
    },
    #[error("property {property}: {origin} cannot be used: {source}")]
    Refused {
        property: &'static str,
        /// the file, or "the text"
        origin: String,
        source: rustls::Error,
    },
    #[error("this system has no certificate authorities to trust: set rootCaPath (or insecureSkipVerify)")]
    NoRoots,
    #[error("cannot read the certificate authorities of this system: {0}; set rootCaPath")]
    Roots(#[source] io::Error),
}

impl TlsError {
    /// The property at fault.
    pub fn property(&self) -> Option<&'static str> {
        match self {
            TlsError::File { property, .. }
            | TlsError::Base64 { property, .. }
            | TlsError::Pem { property, .. }
            | TlsError::Refused { property, .. }
            | TlsError::Incomplete { present: property, .. } => Some(property),
            TlsError::NoRoots | TlsError::Roots(_) => None,
        }
    }
}

/// A PEM text and its origin.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pem {
    property: &'static str,
    origin: String,
    text: Vec<u8>,
}

impl Pem {
    /// Reads the file that `property` names.
    ///
    /// # Errors
    /// [`TlsError::File`]
    pub fn file(property: &'static str, file: &str) -> Result<Pem, TlsError> {
        let text = read(file).map_err(|source| TlsError::File { property, file: file.to_owned(), source })?;
        Ok(Pem { property, origin: file.to_owned(), text })
    }

    /// Decodes the base64 text of `property`; line breaks in it are allowed.
    ///
    /// # Errors
    /// [`TlsError::Base64`]
    pub fn base64(property: &'static str, text: &str) -> Result<Pem, TlsError> {
        let compact: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let text = base64::engine::general_purpose::STANDARD
            .decode(compact)
            .map_err(|source| TlsError::Base64 { property, source })?;
        Ok(Pem { property, origin: "the text".to_owned(), text })
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        CertificateDer::pem_slice_iter(&self.text)
            .collect::<Result<Vec<_>, _>>()
            .ok()
            .filter(|certificates| !certificates.is_empty())
            .ok_or_else(|| self.lacks("certificate"))
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&self.text).map_err(|_| self.lacks("private key"))
    }

    fn lacks(&self, expected: &'static str) -> TlsError {
        TlsError::Pem { property: self.property, origin: self.origin.clone(), expected }
    }

    fn refused(&self, source: rustls::Error) -> TlsError {
        TlsError::Refused { property: self.property, origin: self.origin.clone(), source }
    }
}

/// The largest file of certificates or keys, bytes: ten times the size of a system's list of authorities.
const LARGEST: u64 = 4 << 20;

fn read(file: &str) -> io::Result<Vec<u8>> {
    let path = PathBuf::from(file);
    within_now(move || read_regular(&path, LARGEST))?
}

/// The certificate that a client presents, and the authorities that it trusts; connections with equal identities may be
/// shared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    /// whether to accept any server certificate
    pub insecure: bool,
    /// client certificate chain
    pub certificate: Option<Pem>,
    pub key: Option<Pem>,
    /// authorities to trust instead of the system's
    pub roots: Option<Pem>,
    /// whether to refuse TLS 1.2
    pub tls13_only: bool,
}

/// A client's TLS, ready for use.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// what it was made from
    pub identity: Arc<Identity>,
    pub config: Arc<ClientConfig>,
}

/// The identity determines the configuration.
impl PartialEq for ClientTls {
    fn eq(&self, other: &ClientTls) -> bool {
        self.identity == other.identity
    }
}

impl ClientTls {
    /// Checks the identity and makes the configuration.
    ///
    /// # Errors
    /// [`TlsError`] names the property at fault.
    pub fn new(identity: Arc<Identity>) -> Result<ClientTls, TlsError> {
        let versions: &[&SupportedProtocolVersion] =
            if identity.tls13_only { &[&version::TLS13] } else { &[&version::TLS13, &version::TLS12] };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .expect("ring speaks TLS 1.2 and 1.3");
        let builder = match &identity.roots {
            _ if identity.insecure => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider())))
            }
            Some(pem) => {
                let servers = NamedServers::new(own_roots(pem)?, pem.certificates()?, provider());
                let servers = servers.map_err(|_| pem.lacks("certificate"))?;
                builder.dangerous().with_custom_certificate_verifier(servers)
            }
            None => builder.with_root_certificates(system_roots()?),
        };
        let config = match (&identity.certificate, &identity.key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(certificate), Some(key)) => builder
                .with_client_auth_cert(certificate.certificates()?, key.key()?)
                .map_err(|source| key.refused(source))?,
            (Some(pem), None) => {
                return Err(TlsError::Incomplete { present: pem.property, missing: "privateKeyPath" });
            }
            (None, Some(pem)) => {
                return Err(TlsError::Incomplete { present: pem.property, missing: "certificationPath" });
            }
        };
        Ok(ClientTls { identity, config: Arc::new(config) })
    }
}

/// The names of a server's TLS settings, for errors: certificate, key, authorities of clients.
pub type ServerNames = [&'static str; 3];

/// Makes a server's TLS from its PEM files. With `client_ca_file`, clients must show a certificate from one of its
/// authorities.
///
/// # Errors
/// [`TlsError`] names the property and file at fault.
pub fn server(
    names: ServerNames,
    certfile: &str,
    keyfile: &str,
    client_ca_file: Option<&str>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let certificate = Pem::file(names[0], certfile)?;
    let key = Pem::file(names[1], keyfile)?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3");
    let builder = match client_ca_file {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let authorities = Pem::file(names[2], file)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(own_roots(&authorities)?, provider()).build();
            // Without an authority, no client could connect.
            builder.with_client_cert_verifier(verifier.map_err(|_| authorities.lacks("certificate"))?)
        }
    };
    let config =
        builder.with_single_cert(certificate.certificates()?, key.key()?).map_err(|source| key.refused(source))?;
    Ok(Arc::new(config))
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(ring::default_provider())).clone()
}

fn own_roots(pem: &Pem) -> Result<Arc<RootCertStore>, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in pem.certificates()? {
        store.add(certificate).map_err(|source| pem.refused(source))?;
    }
    Ok(Arc::new(store))
}

/// The system's authorities, read only once, because they may be in many files.
fn system_roots() -> Result<Arc<RootCertStore>, TlsError> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = match ROOTS.get() {
        Some(roots) => roots,
        None => {
            let read = within_now(|| rustls_native_certs::load_native_certs().certs).map_err(TlsError::Roots)?;
            let mut store = RootCertStore::empty();
            store.add_parsable_certificates(read);
            ROOTS.get_or_init(|| Arc::new(store))
        }
    };
    if roots.is_empty() { Err(TlsError::NoRoots) } else { Ok(roots.clone()) }
}

/// Accepts any certificate, but checks that the server has its key.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_not_read() {
        for file in ["/dev/zero", "/", "/no/such/file"] {
            let refused = Pem::file("rootCaPath", file).unwrap_err().to_string();
            assert!(refused.starts_with(&format!("property rootCaPath: cannot read {file}: ")), "{refused}");
        }
    }
}
