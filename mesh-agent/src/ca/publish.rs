//! What nodes copy or watch: the bundle of roots, and the revocation lists.

use std::time::SystemTime;

use super::authority::Record;
use super::errors::Error;
use super::records::{BUNDLE, CRL, REVOKED, RevokedFile};
use super::state::authority_file;
use super::store::{Documents, Store};
use super::units::seconds;

/// Makes the bundle and the revocation lists anew; gives the lists.
pub(super) fn publish(store: &dyn Store, now: SystemTime) -> Result<String, Error> {
    let mut lists = String::new();
    store.change(&mut |documents| {
        lists = make(documents, now)?;
        Ok(())
    })?;
    Ok(lists)
}

fn make(documents: &mut Documents, now: SystemTime) -> Result<String, Error> {
    let authorities = authority_file(documents)?.authorities;
    let mut file = documents.get::<RevokedFile>(REVOKED)?.unwrap_or_default();
    file.number += 1;
    // A little longer than the certificate, as clocks differ.
    file.revoked.retain(|r| r.until + 3600 > seconds(now));
    let revoked: Vec<_> = file
        .revoked
        .iter()
        .map(|r| (r.serial.clone(), r.at))
        .collect();
    let list = |record: &Record| record.load()?.sign_crl(&revoked, file.number, now);
    let lists = authorities
        .iter()
        .map(list)
        .collect::<Result<Vec<String>, Error>>()?
        .concat();
    let roots = authorities.iter().filter_map(|a| a.chain.last());
    let bundle: String = roots.map(String::as_str).collect();
    documents.put(REVOKED, &file)?;
    documents.put_bytes(CRL, lists.clone().into_bytes());
    documents.put_bytes(BUNDLE, bundle.into_bytes());
    Ok(lists)
}
