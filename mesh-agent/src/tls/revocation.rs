//! Revocation lists, as a file holds them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{
    CertificateRevocationList, FromDer, ParsedExtension, X509Certificate, X509Extension,
};

use super::leaf::{CertificateName, system_time};

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CrlError {
    #[error("the revocation list is not a CRL in PEM or DER")]
    Unreadable,
    #[error("the file holds no revocation list: it would revoke nothing")]
    NoList,
    #[error("a revocation list has the name of a root but not its signature")]
    Signature,
    #[error("a revocation list has a lower CRL number than the one in force")]
    Older,
}

/// Who signed a list: name, and key identifier where the list tells it.
type Issuer = (Vec<u8>, Option<Vec<u8>>);

/// The lists of one file; none of them is empty of meaning.
#[derive(Debug, Default)]
pub(super) struct Revocations {
    revoked: HashSet<CertificateName>,
    /// CRL numbers, without leading zeros; empty where a list has none.
    numbers: BTreeMap<Issuer, Vec<u8>>,
    /// The earliest; a list may say nothing of it.
    next_update: Option<SystemTime>,
}

impl Revocations {
    /// At least one list. A list of one of `roots` must carry its signature.
    pub(super) fn parse(file: &[u8], roots: &[CertificateDer<'static>]) -> Result<Self, CrlError> {
        let mut all = Self::default();
        for der in lists(file)? {
            let list = parse(&der)?;
            check_signature(&list, roots)?;
            all.add(&list);
        }
        Ok(all)
    }

    pub(super) fn add(&mut self, list: &CertificateRevocationList<'_>) {
        let issuer: Arc<[u8]> = list.tbs_cert_list.issuer.as_raw().into();
        let (number, _) = facts(list.extensions());
        let known = self.numbers.entry(signer(list)).or_default();
        if is_lower(known, &number) {
            *known = number;
        }
        let next = list.next_update().map(system_time);
        self.next_update = [self.next_update, next].into_iter().flatten().min();
        let entries = list.iter_revoked_certificates();
        self.revoked.extend(entries.map(|entry| CertificateName {
            issuer: Arc::clone(&issuer),
            serial: entry.raw_serial().into(),
        }));
    }

    /// When the first of the lists is to be replaced by a newer one.
    pub(super) fn next_update(&self) -> Option<SystemTime> {
        self.next_update
    }

    #[cfg(test)]
    pub(super) fn serials(&self) -> impl Iterator<Item = &[u8]> {
        self.revoked.iter().map(|name| &*name.serial)
    }

    /// Has it a list of the one who signed this list? One that names no key may
    /// be anybody's of that name.
    pub(super) fn is_of(&self, list: &CertificateRevocationList<'_>) -> bool {
        let (name, key) = signer(list);
        let same = |other: &Option<Vec<u8>>| other.is_none() || key.is_none() || *other == key;
        let mut all = self.numbers.keys();
        all.any(|(other, its)| *other == name && same(its))
    }

    pub(super) fn contains(&self, name: &CertificateName) -> bool {
        self.revoked.contains(name)
    }

    /// Goes one of them back to a lower number?
    pub(super) fn is_older(&self, before: &Self) -> bool {
        before.numbers.iter().any(|(issuer, number)| {
            let now = self.numbers.get(issuer);
            now.is_some_and(|now| is_lower(now, number))
        })
    }
}

/// At least one, each as DER.
pub(super) fn lists(file: &[u8]) -> Result<Vec<Vec<u8>>, CrlError> {
    let mut lists = Vec::new();
    if is_pem(file) {
        for list in CertificateRevocationListDer::pem_slice_iter(file) {
            let list = list.map_err(|_| CrlError::Unreadable)?;
            parse(&list)?;
            lists.push(list.to_vec());
        }
    } else {
        let mut rest = file;
        while !rest.is_empty() {
            let parsed = CertificateRevocationList::from_der(rest);
            let (after, _) = parsed.map_err(|_| CrlError::Unreadable)?;
            lists.push(rest[..rest.len() - after.len()].to_vec());
            rest = after;
        }
    }
    match lists.is_empty() {
        true => Err(CrlError::NoList),
        false => Ok(lists),
    }
}

pub(super) fn parse(der: &[u8]) -> Result<CertificateRevocationList<'_>, CrlError> {
    match CertificateRevocationList::from_der(der) {
        Ok(([], list)) => Ok(list),
        _ => Err(CrlError::Unreadable),
    }
}

fn signer(list: &CertificateRevocationList<'_>) -> Issuer {
    let (_, key) = facts(list.extensions());
    (list.tbs_cert_list.issuer.as_raw().to_vec(), key)
}

pub(super) fn is_pem(bytes: &[u8]) -> bool {
    // DER of certificates and CRLs begins with a SEQUENCE, which PEM text never does.
    bytes.first() != Some(&0x30)
}

/// The list's number and its signer's key identifier.
fn facts(extensions: &[X509Extension<'_>]) -> (Vec<u8>, Option<Vec<u8>>) {
    let (mut number, mut key) = (Vec::new(), None);
    for extension in extensions {
        match extension.parsed_extension() {
            ParsedExtension::CRLNumber(n) => number = n.to_bytes_be(),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                key = id.key_identifier.as_ref().map(|k| k.0.to_vec());
            }
            _ => {}
        }
    }
    let significant = number.iter().skip_while(|b| **b == 0).copied().collect();
    (significant, key)
}

/// Without leading zeros the longer number is the larger.
fn is_lower(a: &[u8], b: &[u8]) -> bool {
    (a.len(), a) < (b.len(), b)
}

/// While roots rotate, two of them may have the same name.
fn check_signature(
    list: &CertificateRevocationList<'_>,
    roots: &[CertificateDer<'static>],
) -> Result<(), CrlError> {
    let issuer = list.tbs_cert_list.issuer.as_raw();
    let mut named = roots
        .iter()
        .filter_map(|der| X509Certificate::from_der(der).ok())
        .map(|(_, root)| root)
        .filter(|root| root.tbs_certificate.subject.as_raw() == issuer)
        .peekable();
    let is_good = named.peek().is_none()
        || named.any(|root| list.verify_signature(root.public_key()).is_ok());
    is_good.then_some(()).ok_or(CrlError::Signature)
}
