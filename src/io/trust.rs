//! Decides which servers a client trusts if the user has named certificates.
//!
//! A named certificate is an authority. It may also be the server's own self-signed one: `openssl req -x509` marks its
//! certificates as authorities, and rustls refuses an authority as a server. So a server is also trusted if it shows
//! exactly the named certificate, for the host's name and within its validity.

use std::sync::Arc;

use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{VerifierBuilderError, WebPkiServerVerifier, verify_server_name};
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// Trusts servers with a certificate from an authority, and those that show a certificate in `named`.
#[derive(Debug)]
pub struct NamedServers {
    authorities: Arc<WebPkiServerVerifier>,
    named: Vec<CertificateDer<'static>>,
}

impl NamedServers {
    /// Trusts `authorities`, which are the certificates in `named`.
    ///
    /// # Errors
    /// [`VerifierBuilderError`] if there are none.
    pub fn new(
        authorities: Arc<RootCertStore>,
        named: Vec<CertificateDer<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Arc<NamedServers>, VerifierBuilderError> {
        let authorities = WebPkiServerVerifier::builder_with_provider(authorities, provider).build()?;
        Ok(Arc::new(NamedServers { authorities, named }))
    }
}

impl ServerCertVerifier for NamedServers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.authorities.verify_server_cert(end_entity, intermediates, name, ocsp, now);
        match verified {
            // Errors without a name are about the use of an authority. The validity was checked before, and has a named
            // error.
            Err(Error::InvalidCertificate(CertificateError::Other(_))) if self.named.contains(end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
    use tokio_rustls::rustls::crypto::ring;

    use super::*;

    /// A self-signed certificate for `localhost`, marked as an authority or not.
    fn self_signed(is_ca: IsCa) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.is_ca = is_ca;
        params.not_before = rcgen::date_time_ymd(2024, 1, 1);
        params.not_after = rcgen::date_time_ymd(2034, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn a_server_with_the_named_certificate_is_trusted() {
        let authority = || IsCa::Ca(BasicConstraints::Unconstrained);
        let at = |year: u64| UnixTime::since_unix_epoch(Duration::from_secs((year - 1970) * 31_557_600));
        for own in [self_signed(authority()), self_signed(IsCa::ExplicitNoCa), self_signed(IsCa::NoCa)] {
            let mut store = RootCertStore::empty();
            store.add(own.clone()).unwrap();
            let servers = NamedServers::new(Arc::new(store), vec![own.clone()], Arc::new(ring::default_provider()));
            let servers = servers.unwrap();
            let check = |shown: &CertificateDer<'_>, name: &str, year| {
                let name = ServerName::try_from(name.to_owned()).unwrap();
                servers.verify_server_cert(shown, &[], &name, &[], at(year))
            };
            assert!(check(&own, "localhost", 2030).is_ok());
            assert!(check(&own, "other.example", 2030).is_err(), "a name is checked");
            assert!(check(&own, "localhost", 2040).is_err(), "a certificate has its time");
            assert!(check(&own, "localhost", 2020).is_err(), "a certificate has its time");
            assert!(check(&self_signed(authority()), "localhost", 2030).is_err(), "another one with the same name");
        }
    }
}
