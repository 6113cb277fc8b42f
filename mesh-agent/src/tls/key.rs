//! A workload's private key.

use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rcgen::{CertificateParams, DistinguishedName, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType};
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::sign::SigningKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::{Zeroize, Zeroizing};

use crate::model::SpiffeId;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("it is no private key in PEM (PKCS#8 or SEC1)")]
    Unreadable,
    #[error("it is no elliptic-curve key")]
    Unsupported,
    #[error("the key could not be made: no randomness or no memory")]
    Generate,
    #[error("the certificate request could not be made")]
    Request,
}

/// In memory only, overwritten when dropped, never printed.
pub(crate) struct PrivateKey {
    der: Encoded,
}

/// How the key is encoded: ours as PKCS#8, from files also as SEC1.
enum Encoded {
    Pkcs8(Zeroizing<Vec<u8>>),
    Sec1(Zeroizing<Vec<u8>>),
}

impl PrivateKey {
    /// A new ECDSA key on P-256.
    pub(crate) fn generate() -> Result<Self, KeyError> {
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
                .map_err(|_| KeyError::Generate)?;
        Ok(Self {
            der: Encoded::Pkcs8(Zeroizing::new(document.as_ref().to_vec())),
        })
    }

    /// From PKCS#8 or SEC1.
    pub(crate) fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let mut parsed = PrivateKeyDer::from_pem_slice(pem).map_err(|_| KeyError::Unreadable)?;
        let der = match &parsed {
            PrivateKeyDer::Pkcs8(key) => {
                Encoded::Pkcs8(Zeroizing::new(key.secret_pkcs8_der().to_vec()))
            }
            PrivateKeyDer::Sec1(key) => {
                Encoded::Sec1(Zeroizing::new(key.secret_sec1_der().to_vec()))
            }
            _ => return Err(KeyError::Unsupported),
        };
        parsed.zeroize();
        Ok(Self { der })
    }

    /// A certificate signing request in PEM: no subject, and the identity as
    /// the one URI SAN (critical, as there is no subject).
    pub(crate) fn csr(&self, id: &SpiffeId) -> Result<String, KeyError> {
        let Encoded::Pkcs8(der) = &self.der else {
            return Err(KeyError::Unsupported);
        };
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der)
            .map_err(|_| KeyError::Unsupported)?;
        let uri = id.as_str().try_into().map_err(|_| KeyError::Request)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(uri)];
        params
            .serialize_request(&Requester(pair))
            .and_then(|request| request.pem())
            .map_err(|_| KeyError::Request)
    }

    pub(super) fn signing_key(&self) -> Result<Arc<dyn SigningKey>, KeyError> {
        let der = match &self.der {
            Encoded::Pkcs8(der) => PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der.as_slice())),
            Encoded::Sec1(der) => PrivateKeyDer::Sec1(der.as_slice().into()),
        };
        any_ecdsa_type(&der).map_err(|_| KeyError::Unsupported)
    }
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

/// Signs a request without handing the key to the crate that writes it.
struct Requester(EcdsaKeyPair);

impl PublicKeyData for Requester {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Requester {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0
            .sign(&SystemRandom::new(), message)
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|_| rcgen::Error::RingUnspecified)
    }
}
