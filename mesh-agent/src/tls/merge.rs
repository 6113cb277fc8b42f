//! Which revocations are in force when a file of them is replaced.

use std::time::SystemTime;

use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::revocation::{CrlError, Revocations, lists, parse};
use super::trust::certificates;

/// The revocations that a file and those in force before it come to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Merged {
    /// DER, one list after the other.
    pub(crate) lists: Vec<u8>,
    /// Issuers that are trusted and of which the file has no list: the ones that
    /// were in force stay.
    pub(crate) lacks: Vec<String>,
}

/// Puts `file` in the place of `before`. A list leaves with its root, and not
/// before: a file of somebody else's lists would take ours away. What no root
/// signed (an intermediate's list) stays until it is to be replaced; and while
/// no roots are known (empty) everything stays. Signatures are checked with the
/// roots when they are put in force.
pub(crate) fn merge_crl(
    file: &[u8],
    before: Option<&[u8]>,
    roots: &[u8],
    now: SystemTime,
) -> Result<Merged, CrlError> {
    let mut ders = lists(file)?;
    let next = Revocations::parse(file, &[])?;
    let mut lacks = Vec::new();
    for der in before.map(lists).transpose()?.into_iter().flatten() {
        let list = parse(&der)?;
        let mut alone = Revocations::default();
        alone.add(&list);
        if next.is_older(&alone) {
            return Err(CrlError::Older);
        }
        if next.is_of(&list) {
            continue;
        }
        if is_root(&list, roots) {
            lacks.push(list.issuer().to_string());
        } else if !roots.is_empty() && alone.next_update().is_none_or(|at| at <= now) {
            continue;
        }
        ders.push(der);
    }
    Ok(Merged {
        lists: ders.concat(),
        lacks,
    })
}

/// Did one of these roots (PEM or DER) sign it?
fn is_root(list: &CertificateRevocationList<'_>, roots: &[u8]) -> bool {
    let roots = certificates(roots).unwrap_or_default();
    let mut parsed = roots
        .iter()
        .filter_map(|der| X509Certificate::from_der(der).ok());
    parsed.any(|(_, root)| {
        root.tbs_certificate.subject.as_raw() == list.tbs_cert_list.issuer.as_raw()
            && list.verify_signature(root.public_key()).is_ok()
    })
}
