//! Signing keys, and what they sign.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PublicKeyData, RevokedCertParams, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use serde::{Deserialize, Serialize};
use x509_parser::certificate::X509Certificate;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer as _;
use zeroize::{Zeroize as _, Zeroizing};

use super::errors::Error;
use super::files::check_private;
use super::units::{hex, seconds};
use crate::model::{SpiffeId, TrustDomain};

pub(super) const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Clocks differ.
pub(super) const BACKDATE: Duration = Duration::from_secs(60);
const CRL_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
const MAX_CHAIN: usize = 3;

/// One signing key with its certificates, as kept.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    /// PEM: the signing certificate, then up to the root.
    pub(super) chain: Vec<String>,
    key: Secret,
    /// Seconds since 1970.
    pub(super) added: u64,
}

/// Overwritten when dropped.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
struct Secret(String);

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Ready to sign.
pub(super) struct Authority {
    pub(super) id: String,
    /// PEM, without the root.
    pub(super) intermediates: Vec<String>,
    pub(super) root: String,
    not_before: SystemTime,
    /// The first end of its certificates, up to the root.
    ends: SystemTime,
    issuer: Issuer<'static, KeyPair>,
}

pub(super) struct Signed {
    pub(super) pem: String,
    pub(super) serial: String,
    pub(super) not_after: SystemTime,
}

impl Record {
    /// A new root.
    pub(super) fn generate(domain: &TrustDomain, now: SystemTime) -> Result<Self, Error> {
        let id = hex(&rand::random::<[u8; 4]>());
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, domain.as_str());
        // Distinct in a rotation: revocation lists are found by it.
        name.push(DnType::CommonName, format!("mesh root {id}"));
        params.distinguished_name = name;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = (now - BACKDATE).into();
        params.not_after = (now + ROOT_LIFETIME).into();
        params.serial_number = Some(serial());
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            id,
            chain: vec![certificate.pem()],
            key: Secret(key.serialize_pem()),
            added: seconds(now),
        })
    }

    /// A given one: its certificate, then the ones above up to the root, and its key.
    pub(super) fn import(
        chain: &str,
        key: Zeroizing<String>,
        now: SystemTime,
    ) -> Result<Self, Error> {
        let blocks: Vec<Pem> = Pem::iter_from_buffer(chain.as_bytes())
            .take(MAX_CHAIN + 1)
            .collect::<Result<_, _>>()
            .map_err(|_| Error::Given("the certificates are not PEM"))?;
        check_chain(&blocks, now)?;
        let chain = split_pem(chain);
        let record = Self {
            id: hex(&rand::random::<[u8; 4]>()),
            chain,
            key: Secret(key.as_str().to_owned()),
            added: seconds(now),
        };
        record.load()?;
        Ok(record)
    }

    pub(super) fn load(&self) -> Result<Authority, Error> {
        let key = KeyPair::from_pem(&self.key.0)?;
        let (root, intermediates) = self
            .chain
            .split_last()
            .ok_or(Error::Given("it has no certificate"))?;
        let first = self.chain.first().map(|pem| block(pem)).transpose()?;
        let der = first.ok_or(Error::Given("it has no certificate"))?.contents;
        let certificate = parse(&der)?;
        if certificate.public_key().raw != key.subject_public_key_info() {
            return Err(Error::Given("the key does not belong to the certificate"));
        }
        let validity = certificate.validity();
        let not_before = validity.not_before;
        let mut ends: SystemTime = validity.not_after.to_datetime().into();
        for pem in &self.chain {
            let der = block(pem)?.contents;
            let end = parse(&der)?.validity().not_after.to_datetime().into();
            ends = ends.min(end);
        }
        Ok(Authority {
            id: self.id.clone(),
            ends,
            intermediates: intermediates.to_vec(),
            root: root.clone(),
            not_before: not_before.to_datetime().into(),
            issuer: Issuer::from_ca_cert_der(&der.as_slice().into(), key)?,
        })
    }
}

/// From files: the signing certificate and those above it, and its key.
pub(super) fn import(chain: &Path, key: &Path, now: SystemTime) -> Result<Record, Error> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|error| Error::Io {
            path: path.to_owned(),
            error,
        })
    };
    check_private(key)?;
    Record::import(&read(chain)?, read(key)?.into(), now)
}

fn block(pem: &str) -> Result<Pem, Error> {
    let mut blocks = Pem::iter_from_buffer(pem.as_bytes());
    blocks
        .next()
        .and_then(Result::ok)
        .ok_or(Error::Given("the certificates are not PEM"))
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, Error> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(Error::Given("a certificate cannot be parsed")),
    }
}

/// Each signed by the next, the last by itself, all of authorities and valid.
fn check_chain(blocks: &[Pem], now: SystemTime) -> Result<(), Error> {
    if blocks.is_empty() || blocks.len() > MAX_CHAIN {
        return Err(Error::Given(
            "one to three certificates are needed: the signing one, then up to the root",
        ));
    }
    for (i, block) in blocks.iter().enumerate() {
        let certificate = parse(&block.contents)?;
        let above = parse(&blocks[(i + 1).min(blocks.len() - 1)].contents)?;
        if certificate
            .verify_signature(Some(above.public_key()))
            .is_err()
            || certificate.issuer() != above.subject()
        {
            return Err(Error::Given(
                "the chain is broken or does not end in a self-signed root",
            ));
        }
        let usage = certificate.key_usage().ok().flatten().map(|u| u.value);
        if !certificate.is_ca() || usage.is_some_and(|u| !u.key_cert_sign() || !u.crl_sign()) {
            return Err(Error::Given(
                "a certificate may not sign certificates and revocation lists",
            ));
        }
        let (from, to) = (
            certificate.validity().not_before,
            certificate.validity().not_after,
        );
        if SystemTime::from(from.to_datetime()) > now || SystemTime::from(to.to_datetime()) <= now {
            return Err(Error::Given("a certificate is not valid now"));
        }
    }
    Ok(())
}

/// The certificates' texts, without what stands around them.
fn split_pem(text: &str) -> Vec<String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let parts = text
        .split(BEGIN)
        .skip(1)
        .filter_map(|part| part.split_once(END));
    parts
        .map(|(body, _)| format!("{BEGIN}{body}{END}\n"))
        .collect()
}

/// 126 random bits, always 16 bytes long.
fn serial() -> SerialNumber {
    let mut bytes = rand::random::<[u8; 16]>();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

impl Authority {
    /// When its signing certificate begins.
    pub(super) fn begins(&self) -> SystemTime {
        self.not_before
    }

    /// When the first of its certificates ends.
    pub(super) fn ends(&self) -> SystemTime {
        self.ends
    }

    /// A workload's certificate.
    pub(super) fn sign(
        &self,
        id: &SpiffeId,
        key: &SubjectPublicKeyInfo,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Signed, Error> {
        let mut params = leaf();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        self.finish(params, key, lifetime, now)
    }

    /// The authority's own certificate for its port.
    pub(super) fn sign_server(
        &self,
        names: &[String],
        key: &KeyPair,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Signed, Error> {
        let mut params = leaf();
        params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.finish(params, key, lifetime, now)
    }

    fn finish(
        &self,
        mut params: CertificateParams,
        key: &impl PublicKeyData,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Signed, Error> {
        if self.ends <= now {
            return Err(Error::AuthorityExpired);
        }
        let number = serial();
        let text = hex(&number.to_bytes());
        let not_after = (now + lifetime).min(self.ends);
        params.not_before = (now - BACKDATE).max(self.not_before).into();
        params.not_after = not_after.into();
        params.serial_number = Some(number);
        Ok(Signed {
            pem: params.signed_by(key, &self.issuer)?.pem(),
            serial: text,
            not_after,
        })
    }

    /// A list of these serials (hexadecimal).
    pub(super) fn sign_crl(
        &self,
        revoked: &[(String, u64)],
        number: u64,
        now: SystemTime,
    ) -> Result<String, Error> {
        let revoked_certs = revoked
            .iter()
            .filter_map(|(serial, at)| {
                Some(RevokedCertParams {
                    serial_number: SerialNumber::from_slice(&unhex(serial)?),
                    revocation_time: (SystemTime::UNIX_EPOCH + Duration::from_secs(*at)).into(),
                    reason_code: None,
                    invalidity_date: None,
                })
            })
            .collect();
        let params = CertificateRevocationListParams {
            this_update: (now - BACKDATE).into(),
            next_update: (now + CRL_LIFETIME).into(),
            crl_number: SerialNumber::from_slice(&number.to_be_bytes()),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&self.issuer)?.pem()?)
    }
}

/// Without a subject, so that the name is critical.
fn leaf() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

/// None unless it is 1 to 20 bytes in hexadecimal.
pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    let good = (2..=40).contains(&text.len()) && text.len().is_multiple_of(2) && text.is_ascii();
    let byte = |i: usize| u8::from_str_radix(text.get(i..i + 2)?, 16).ok();
    good.then(|| (0..text.len()).step_by(2).map(byte).collect())?
}
