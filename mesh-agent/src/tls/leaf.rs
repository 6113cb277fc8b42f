//! What a workload's certificate says about it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::OID_KEY_TYPE_EC_PUBLIC_KEY;
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

use crate::model::{SpiffeId, TlsFailure};

/// Longest serial number (RFC 5280, section 4.1.2.2).
const MAX_SERIAL: usize = 20;

/// Issuer (DER of its name) and serial number: what a CRL names a certificate by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct CertificateName {
    pub(super) issuer: Arc<[u8]>,
    pub(super) serial: Arc<[u8]>,
}

impl CertificateName {
    pub(super) fn of(der: &[u8]) -> Result<Self, TlsFailure> {
        Ok(Self::from_parsed(&parse(der)?))
    }

    /// Of a certificate that proves nothing it may be as long as a peer likes.
    pub(super) fn short_serial(&self) -> Arc<[u8]> {
        match self.serial.get(..MAX_SERIAL) {
            Some(first) => first.into(),
            None => self.serial.clone(),
        }
    }

    fn from_parsed(certificate: &X509Certificate<'_>) -> Self {
        Self {
            issuer: certificate.tbs_certificate.issuer.as_raw().into(),
            serial: certificate.raw_serial().into(),
        }
    }
}

/// Which side of a handshake a certificate must be good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Client,
    Server,
}

#[derive(Clone, Debug)]
pub(super) struct Leaf {
    pub(super) id: SpiffeId,
    pub(super) name: CertificateName,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    /// SHA-256 of all of it.
    pub(super) fingerprint: Fingerprint,
}

pub(crate) type Fingerprint = [u8; 32];

impl Leaf {
    /// Strict: exactly one URI SAN, which is an identity of a workload; an
    /// extended key usage; an elliptic-curve key; not a CA. Proves nothing
    /// about who signed it.
    pub(super) fn parse(der: &[u8]) -> Result<Self, TlsFailure> {
        let certificate = parse(der)?;
        let key_type = &certificate.public_key().algorithm.algorithm;
        if *key_type != OID_KEY_TYPE_EC_PUBLIC_KEY || certificate.is_ca() {
            return Err(TlsFailure::BadCertificate);
        }
        check_has_usage(&certificate)?;
        let validity = certificate.validity();
        Ok(Self {
            id: identity(&certificate)?,
            name: CertificateName::from_parsed(&certificate),
            not_before: system_time(validity.not_before),
            not_after: system_time(validity.not_after),
            fingerprint: Sha256::digest(der).into(),
        })
    }
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, TlsFailure> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(TlsFailure::BadCertificate),
    }
}

/// When a certificate ends.
pub(super) fn not_after(der: &[u8]) -> Result<SystemTime, TlsFailure> {
    Ok(system_time(parse(der)?.validity().not_after))
}

fn identity(certificate: &X509Certificate<'_>) -> Result<SpiffeId, TlsFailure> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| TlsFailure::BadCertificate)?
        .ok_or(TlsFailure::NoIdentity)?;
    let mut uri = None;
    for name in &names.value.general_names {
        match name {
            GeneralName::URI(_) if uri.is_some() => return Err(TlsFailure::SeveralIdentities),
            GeneralName::URI(text) => uri = Some(*text),
            // It may have been meant as a URI: the rest must not count as the only one.
            GeneralName::Invalid(..) => return Err(TlsFailure::MalformedIdentity),
            _ => {}
        }
    }
    let uri = uri.ok_or(TlsFailure::NoIdentity)?;
    SpiffeId::parse(uri).map_err(|_| TlsFailure::MalformedIdentity)
}

/// webpki checks the extended key usage against the role, but takes its
/// absence as good for all: we demand it.
fn check_has_usage(certificate: &X509Certificate<'_>) -> Result<(), TlsFailure> {
    certificate
        .extended_key_usage()
        .map_err(|_| TlsFailure::BadCertificate)?
        .map(|_| ())
        .ok_or(TlsFailure::WrongUsage)
}

pub(super) fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    UNIX_EPOCH + Duration::from_secs(seconds)
}
