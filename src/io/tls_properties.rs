//! The TLS properties of clients, one row each. Connectors include these rows in their own tables.

use std::sync::Arc;

use super::tls::{ClientTls, Identity, Pem, TlsError};
use crate::property::{Findings, Property, Warning};

/// The properties as written, before files are read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct TlsDraft {
    insecure: bool,
    only_tls13: bool,
    /// the TLS version, if it is too old
    old_version: Option<String>,
    certificate: PemText,
    key: PemText,
    roots: PemText,
}

/// PEM text as the properties specify it.
#[derive(Clone, Debug, Default, PartialEq)]
struct PemText {
    /// from a property that ends in `Path`; it wins
    file: String,
    /// from a property that ends in `Raw`
    base64: String,
}

/// The target of a connector's properties.
pub(super) trait TakesTls {
    fn tls(&mut self) -> &mut TlsDraft;
}

pub(super) const fn insecure_skip_verify<T: TakesTls>() -> Property<T> {
    Property::flag("insecureSkipVerify", |draft: &mut T, insecure| draft.tls().insecure = insecure)
        .default("false")
        .doc("Accept any server certificate; TLS only")
}

pub(super) const fn certification_path<T: TakesTls>() -> Property<T> {
    Property::text("certificationPath", |draft: &mut T, file| draft.tls().certificate.file = file.to_owned())
        .doc("PEM file of the client certificate; TLS only")
}

pub(super) const fn private_key_path<T: TakesTls>() -> Property<T> {
    Property::text("privateKeyPath", |draft: &mut T, file| draft.tls().key.file = file.to_owned())
        .doc("PEM file of the client certificate's key")
}

pub(super) const fn root_ca_path<T: TakesTls>() -> Property<T> {
    Property::text("rootCaPath", |draft: &mut T, file| draft.tls().roots.file = file.to_owned())
        .doc("PEM file of the authorities to trust instead of the system's, or of the server's own certificate")
}

pub(super) const fn certification_raw<T: TakesTls>() -> Property<T> {
    Property::text("certificationRaw", |draft: &mut T, pem| draft.tls().certificate.base64 = pem.to_owned())
        .alias(&["certficationRaw"])
        .doc("Base64 of the PEM text; `certificationPath` wins")
}

pub(super) const fn private_key_raw<T: TakesTls>() -> Property<T> {
    Property::text("privateKeyRaw", |draft: &mut T, pem| draft.tls().key.base64 = pem.to_owned())
        .doc("Base64 of the PEM text; `privateKeyPath` wins")
}

pub(super) const fn root_ca_raw<T: TakesTls>() -> Property<T> {
    Property::text("rootCARaw", |draft: &mut T, pem| draft.tls().roots.base64 = pem.to_owned())
        .doc("Base64 of the PEM text; `rootCaPath` wins")
}

pub(super) const fn tls_min_version<T: TakesTls>() -> Property<T> {
    Property::text("tlsMinVersion", |draft: &mut T, version| match version {
        "tls1.3" => draft.tls().only_tls13 = true,
        "tls1.2" | "" => draft.tls().only_tls13 = false,
        other => draft.tls().old_version = Some(other.to_owned()),
    })
    .default("tls1.2")
    .doc("`tls1.2` or `tls1.3`; older versions are not supported and mean `tls1.2`")
}

impl TlsDraft {
    /// The TLS configuration; errors go to `found`.
    pub(super) fn client(&self, found: &mut Findings) -> Option<ClientTls> {
        if let Some(old) = &self.old_version {
            let message = format!("tlsMinVersion {old:?} is too old and means tls1.2");
            found.warnings.push(Warning::other("tlsMinVersion", message));
        }
        let pem =
            |text: &PemText, file: &'static str, raw: &'static str| match (text.file.as_str(), text.base64.as_str()) {
                ("", "") => Ok(None),
                ("", base64) => Pem::base64(raw, base64).map(Some),
                (path, _) => Pem::file(file, path).map(Some),
            };
        let identity = || -> Result<ClientTls, TlsError> {
            ClientTls::new(Arc::new(Identity {
                insecure: self.insecure,
                certificate: pem(&self.certificate, "certificationPath", "certificationRaw")?,
                key: pem(&self.key, "privateKeyPath", "privateKeyRaw")?,
                roots: pem(&self.roots, "rootCaPath", "rootCARaw")?,
                tls13_only: self.only_tls13,
            }))
        };
        identity().map_err(|error| found.refuse(error.property().unwrap_or("rootCaPath"), error)).ok()
    }
}
