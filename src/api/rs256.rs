//! RS256 tokens: signatures are verified as [`crate::io::signatures`] does.

pub(super) use crate::io::signatures::install;

#[cfg(test)]
pub(super) mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use ring::rand::SystemRandom;
    use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
    use serde_json::Value;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject;

    /// A token with this head, signed by the key of the tests.
    pub fn token(head: &Value, claims: &Value) -> String {
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("../../tests/keys/issuer.key")).unwrap();
        let key = RsaKeyPair::from_pkcs8(key.secret_der()).unwrap();
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(head), part(claims));
        let mut signature = vec![0; key.public().modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
