//! Messages of `istio.v1.auth.IstioCertificateService`, so that other
//! authorities and other clients can stand in on either side.

use prost_types::{Struct, Value, value::Kind};

pub(crate) const SERVICE: &str = "istio.v1.auth.IstioCertificateService";
pub(crate) const METHOD: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
/// Field of the metadata that names the identity asked for.
const IMPERSONATED: &str = "ImpersonatedIdentity";

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CertificateRequest {
    /// PEM.
    #[prost(string, tag = "1")]
    pub(crate) csr: String,
    /// Seconds; 0 leaves it to the authority.
    #[prost(int64, tag = "3")]
    pub(crate) validity_duration: i64,
    #[prost(message, optional, tag = "4")]
    pub(crate) metadata: Option<Struct>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CertificateResponse {
    /// Leaf, intermediates, and last all roots in one element.
    #[prost(string, repeated, tag = "1")]
    pub(crate) cert_chain: Vec<String>,
}

impl CertificateRequest {
    #[must_use]
    pub(crate) fn new(csr: String, seconds: i64, identity: &str) -> Self {
        let kind = Some(Kind::StringValue(identity.to_owned()));
        let fields = [(IMPERSONATED.to_owned(), Value { kind })].into();
        Self {
            csr,
            validity_duration: seconds,
            metadata: Some(Struct { fields }),
        }
    }

    /// The identity that the metadata names, when it names one;
    /// an error when the field is there and is no text.
    pub(crate) fn impersonated(&self) -> Result<Option<&str>, NotText> {
        let field = self
            .metadata
            .as_ref()
            .and_then(|m| m.fields.get(IMPERSONATED));
        match field.map(|value| &value.kind) {
            None => Ok(None),
            Some(Some(Kind::StringValue(text))) => Ok(Some(text)),
            Some(_) => Err(NotText),
        }
    }
}

/// The metadata names an identity, but not as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the identity in the metadata is no text")]
pub(crate) struct NotText;
