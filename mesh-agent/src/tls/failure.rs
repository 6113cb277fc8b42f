//! Our reasons for a failed handshake as rustls' errors, and back.
//!
//! rustls chooses the alert by the error, so each reason takes the error
//! whose alert fits; the reasons that have no error of their own travel inside
//! `CertificateError::Other`.

use std::fmt;
use std::sync::Arc;

use rustls::{CertificateError, Error, OtherError};

use crate::model::TlsFailure;

/// A reason that rustls has no error for.
#[derive(Debug)]
struct Reason(TlsFailure);

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peer refused: {:?}", self.0)
    }
}

impl std::error::Error for Reason {}

pub(super) fn to_rustls(failure: TlsFailure) -> Error {
    Error::InvalidCertificate(match failure {
        TlsFailure::Expired => CertificateError::Expired,
        TlsFailure::NotYetValid => CertificateError::NotValidYet,
        TlsFailure::Revoked => CertificateError::Revoked,
        TlsFailure::UnknownIssuer => CertificateError::UnknownIssuer,
        TlsFailure::WrongUsage => CertificateError::InvalidPurpose,
        TlsFailure::UnexpectedIdentity => CertificateError::ApplicationVerificationFailure,
        TlsFailure::BadCertificate => CertificateError::BadEncoding,
        other => CertificateError::Other(OtherError(Arc::new(Reason(other)))),
    })
}

pub(super) fn from_rustls(error: &Error) -> TlsFailure {
    match error {
        Error::InvalidCertificate(error) => from_certificate_error(error),
        Error::NoCertificatesPresented => TlsFailure::NoCertificate,
        Error::NoApplicationProtocol | Error::PeerIncompatible(_) => TlsFailure::NoCommonProtocol,
        Error::AlertReceived(_) => TlsFailure::RefusedByPeer,
        _ => TlsFailure::Malformed,
    }
}

fn from_certificate_error(error: &CertificateError) -> TlsFailure {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => TlsFailure::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            TlsFailure::NotYetValid
        }
        CertificateError::Revoked => TlsFailure::Revoked,
        CertificateError::UnknownIssuer => TlsFailure::UnknownIssuer,
        CertificateError::InvalidPurpose => TlsFailure::WrongUsage,
        CertificateError::ApplicationVerificationFailure => TlsFailure::UnexpectedIdentity,
        CertificateError::Other(OtherError(other)) => other
            .downcast_ref::<Reason>()
            .map_or(TlsFailure::BadCertificate, |reason| reason.0),
        _ => TlsFailure::BadCertificate,
    }
}

pub(super) fn from_webpki(error: &webpki::Error) -> TlsFailure {
    use webpki::Error as E;
    match error {
        E::CertExpired { .. } | E::InvalidCertValidity => TlsFailure::Expired,
        E::CertNotValidYet { .. } => TlsFailure::NotYetValid,
        E::UnknownIssuer => TlsFailure::UnknownIssuer,
        E::CertRevoked => TlsFailure::Revoked,
        E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => TlsFailure::WrongUsage,
        E::MaximumPathDepthExceeded
        | E::MaximumPathBuildCallsExceeded
        | E::MaximumSignatureChecksExceeded
        | E::MaximumNameConstraintComparisonsExceeded => TlsFailure::ChainTooLarge,
        _ => TlsFailure::BadCertificate,
    }
}
