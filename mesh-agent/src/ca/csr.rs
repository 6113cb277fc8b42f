//! Reads certificate requests, strictly.

use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer as _;

use super::errors::Refusal;
use crate::model::SpiffeId;

const MAX_CSR: usize = 8 * 1024;

/// Who asks, and for which key. Only the identity and the key are taken over.
pub(super) fn read(pem: &str) -> Result<(SpiffeId, SubjectPublicKeyInfo), Refusal> {
    if pem.len() > MAX_CSR {
        return Err(Refusal::Csr);
    }
    let mut blocks = Pem::iter_from_buffer(pem.as_bytes());
    let (Some(Ok(block)), None) = (blocks.next(), blocks.next()) else {
        return Err(Refusal::Csr);
    };
    if !matches!(
        block.label.as_str(),
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST"
    ) {
        return Err(Refusal::Csr);
    }
    read_der(&block.contents)
}

fn read_der(der: &[u8]) -> Result<(SpiffeId, SubjectPublicKeyInfo), Refusal> {
    let Ok(([], csr)) = X509CertificationRequest::from_der(der) else {
        return Err(Refusal::Csr);
    };
    csr.verify_signature().map_err(|_| Refusal::CsrSignature)?;
    let spki = csr.certification_request_info.subject_pki.raw;
    let key = SubjectPublicKeyInfo::from_der(spki).map_err(|_| Refusal::KeyType)?;
    if *rcgen::PublicKeyData::algorithm(&key) != rcgen::PKCS_ECDSA_P256_SHA256 {
        return Err(Refusal::KeyType);
    }
    Ok((identity(&csr)?, key))
}

/// The one name in the one extension request.
fn identity(csr: &X509CertificationRequest<'_>) -> Result<SpiffeId, Refusal> {
    let mut names = Vec::new();
    for attribute in csr.certification_request_info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(request) = attribute.parsed_attribute() else {
            continue;
        };
        for extension in &request.extensions {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(san) => names.extend(&san.general_names),
                // May not ask to be an authority; what else it asks for is not taken over.
                ParsedExtension::BasicConstraints(basic) if basic.ca => return Err(Refusal::Csr),
                _ => {}
            }
        }
    }
    match names[..] {
        [GeneralName::URI(uri)] => SpiffeId::parse(uri).map_err(|_| Refusal::Names),
        _ => Err(Refusal::Names),
    }
}

/// Any bytes as a request, in PEM or as the DER within.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).map_or(Err(Refusal::Csr), read);
    for (id, _key) in text.into_iter().chain(read_der(bytes)) {
        assert_eq!(SpiffeId::parse(id.as_str()), Ok(id));
    }
}
