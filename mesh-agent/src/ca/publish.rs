//! What nodes copy: the bundle of roots, and the revocation lists.

use std::time::SystemTime;

use super::errors::Error;
use super::state::{BUNDLE, CRL, REVOKED, RevokedFile, load};
use super::store::Store;
use super::units::seconds;

/// Writes the bundle and the revocation lists anew. The lock is held.
pub(super) fn publish(store: &Store, now: SystemTime) -> Result<(), Error> {
    let loaded = load(store)?;
    let mut file = store.read::<RevokedFile>(REVOKED)?.unwrap_or_default();
    file.number += 1;
    // A little longer than the certificate, as clocks differ.
    file.revoked.retain(|r| r.until + 3600 > seconds(now));
    let revoked: Vec<_> = file
        .revoked
        .iter()
        .map(|r| (r.serial.clone(), r.at))
        .collect();
    let lists: Vec<String> = loaded
        .authorities
        .iter()
        .map(|a| a.sign_crl(&revoked, file.number, now))
        .collect::<Result<_, _>>()?;
    store.write(REVOKED, &file)?;
    store.write_bytes(CRL, lists.concat().as_bytes())?;
    store.write_bytes(BUNDLE, loaded.bundle().as_bytes())
}
