//! A network that changes records, and peers with any certificate.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls_pki_types::{CertificateDer, UnixTime};

use super::leaf::{CertificateName, Leaf, Role};
use super::{HEAD, MAX_PLAINTEXT, Opened, RecordError, Records, TAIL, Trust};
use crate::model::{SpiffeId, TrustDomain};

/// Records of one input; it costs their encryption.
const MAX_RECORDS: usize = 64;
/// Content types.
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
/// What becomes of a record: it is a key update instead, and the sender's keys change.
const ASKS: u8 = 2;

/// The input is a list of records, each with its content type, what becomes
/// of it on the way, a length and a content.
pub(crate) fn records(bytes: &[u8]) {
    let (mut sender, mut receiver) = Records::pair();
    let (mut sender_changed, mut receiver_changed) = (0, 0);
    let mut rest = bytes;
    for _ in 0..MAX_RECORDS {
        let [kind, way, high, low, behind @ ..] = rest else {
            return;
        };
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        let (content, behind) = behind.split_at(len.min(behind.len()));
        rest = behind;
        // After a key update that the sender only pretended they are others.
        let same_keys = sender_changed == receiver_changed;
        sender_changed += usize::from(way & 7 == ASKS);
        let (mut record, intact) = on_the_way(&mut sender, *kind, *way, content);
        let opened = receiver.open(&mut record);
        receiver_changed += usize::from(changed_keys(&opened, &record));
        let sent = (intact && same_keys).then_some((*kind, content));
        judge(&opened, &record, sent);
        if matches!(opened, Err(_) | Ok(Opened::Closed)) {
            // An end is final.
            assert_eq!(receiver.open(&mut record), opened);
            return;
        }
        if opened == Ok(Opened::NeedMore) {
            return;
        }
    }
}

/// The only message after the handshake that a server takes is a key update.
fn changed_keys(opened: &Result<Opened, RecordError>, record: &[u8]) -> bool {
    const TAG: usize = TAIL - 1;
    let Ok(Opened::Handled { consumed }) = opened else {
        return false;
    };
    // Decrypted in place: content, its type, padding.
    let inner = &record[HEAD..consumed - TAG];
    inner.iter().rfind(|byte| **byte != 0) == Some(&HANDSHAKE)
}

/// The record as it arrives, and whether it does so unchanged.
fn on_the_way(sender: &mut Records, kind: u8, way: u8, content: &[u8]) -> (Vec<u8>, bool) {
    let harm = usize::from(way >> 3);
    if way & 7 == 1 {
        return (content.to_vec(), false);
    }
    if way & 7 == ASKS {
        return (sender.ask_for_update().expect("keys"), true);
    }
    let content = &content[..content.len().min(MAX_PLAINTEXT)];
    let mut record = [&[0; HEAD], content, &[0; TAIL]].concat();
    let len = sender
        .seal_as(kind, &mut record, content.len())
        .expect("room");
    assert_eq!(len, record.len());
    match way & 7 {
        3 => record[harm % len] ^= 1 << (harm & 7),
        4 => record.truncate(len.saturating_sub(1 + harm)),
        // The one before it is lost.
        5 => {
            let second = sender.seal_as(kind, &mut record, content.len());
            second.expect("room");
        }
        _ => return (record, true),
    }
    (record, false)
}

/// `sent`: content type and content of a record that arrived as it was sent.
fn judge(opened: &Result<Opened, RecordError>, buffer: &[u8], sent: Option<(u8, &[u8])>) {
    match (opened, sent) {
        (
            Ok(Opened::Data {
                plaintext,
                consumed,
            }),
            Some((kind, content)),
        ) => {
            assert!(*consumed == buffer.len() && plaintext.end <= *consumed);
            let got = &buffer[plaintext.clone()];
            // A type of 0 is padding: the type is the last byte before it.
            let sent = [content, &[kind]].concat();
            let end = sent.iter().rposition(|b| *b != 0).expect("a type");
            assert_eq!((sent[end], got), (DATA, &sent[..end]));
        }
        (Ok(Opened::Data { .. } | Opened::Handled { .. } | Opened::Closed), None) => {
            panic!("a record that was changed is taken: {opened:?}");
        }
        (Err(RecordError::NotAuthentic), Some(_)) => panic!("a good record is refused"),
        _ => {}
    }
}

/// The certificate that signed the good ones of the corpus. Its key is gone.
const ROOT: &[u8] = include_bytes!("fuzz-root.der");
/// Whom it ever signed a certificate for in this trust domain.
const SIGNED: [&str; 3] = [
    "spiffe://cluster.local/ns/shop/sa/peer",
    "spiffe://cluster.local/ns/shop/sa/other",
    "spiffe://cluster.local/ns/Shop/sa/peer",
];
const MAX_CHAIN: usize = 6;

fn domain() -> TrustDomain {
    TrustDomain::new("cluster.local").expect("a trust domain")
}

/// The input is a chain: certificates with two bytes of length before each,
/// the leaf first; or, if that is no chain, one certificate.
pub(crate) fn certificate(bytes: &[u8]) {
    static TRUST: OnceLock<Arc<Trust>> = OnceLock::new();
    let trust = TRUST.get_or_init(|| Arc::new(Trust::new(domain(), ROOT, None).expect("a trust")));
    let mut chain = chain(bytes);
    if chain.is_empty() {
        chain.push(CertificateDer::from(bytes));
    }
    for der in &chain {
        let name = CertificateName::of(der);
        if let Ok(leaf) = Leaf::parse(der) {
            assert_eq!(name.as_ref(), Ok(&leaf.name));
            identity(leaf.id.as_str().as_bytes());
        }
    }
    let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
    for role in [Role::Client, Role::Server] {
        if let Ok((leaf, _)) = trust.verify(&chain[0], &chain[1..], role, now) {
            assert!(SIGNED.contains(&leaf.id.as_str()), "never signed: {leaf:?}");
        }
    }
}

fn chain(bytes: &[u8]) -> Vec<CertificateDer<'_>> {
    let mut chain = Vec::new();
    let mut rest = bytes;
    while let [high, low, behind @ ..] = rest {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        let Some((der, behind)) = behind.split_at_checked(len) else {
            return Vec::new();
        };
        if chain.len() == MAX_CHAIN {
            break;
        }
        chain.push(CertificateDer::from(der));
        rest = behind;
    }
    chain
}

/// Roots and revocations as an operator or the authority gives them.
pub(crate) fn trust(bytes: &[u8]) {
    let _roots = Trust::new(domain(), bytes, None);
    let _crl = Trust::new(domain(), ROOT, Some(bytes));
}

/// An identity is made of its parts and of nothing else.
pub(crate) fn identity(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(id) = SpiffeId::parse(text) {
        assert_eq!(id.as_str(), text);
        let path = &text["spiffe://".len()..];
        assert!(
            !path.contains(['%', '*', '?', '#', '@', ':', '\0', ' ', '\n']),
            "{text:?}"
        );
        let domain = TrustDomain::new(id.trust_domain()).expect("a trust domain");
        assert_eq!(
            SpiffeId::new(&domain, id.namespace(), id.service_account()),
            Ok(id)
        );
    }
}

#[cfg(test)]
pub(crate) fn record_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let item = |kind: u8, way: u8, content: &[u8]| {
        let [high, low] = u16::try_from(content.len()).expect("short").to_be_bytes();
        [&[kind, way, high, low], content].concat()
    };
    let data = |way| item(DATA, way, b"some bytes of an application");
    let idle = item(DATA, 0, b"").repeat(40);
    let padded = item(0, 0, b"data\x17\0\0");
    let update = item(HANDSHAKE, 0, &[24, 0, 0, 1, 1]);
    let ticket = item(HANDSHAKE, 0, &[4, 0, 0, 1, 0]);
    let header = item(0, 1, &[23, 3, 3, 0xff, 0xff, 0]);
    vec![
        ("data", [data(0), data(0)].concat()),
        ("idle", idle),
        ("padded", [padded, data(0)].concat()),
        ("zeros", item(0, 0, &[0; 9])),
        ("key-update", [data(0), data(2), data(0)].concat()),
        ("key-update-in-vain", [update, data(0)].concat()),
        ("ticket", ticket),
        ("close", item(21, 0, &[1, 0])),
        ("alert", item(21, 0, &[2, 80])),
        ("user-canceled", [item(21, 0, &[1, 90]), data(0)].concat()),
        ("changed", [data(0), data(3 | 9 << 3)].concat()),
        ("cut", data(4)),
        ("one-lost", [data(0), data(5)].concat()),
        ("raw", item(0, 1, &[23, 3, 3, 0, 20])),
        ("raw-too-long", header),
        ("raw-hello", item(0, 1, &[22, 3, 1, 0, 4, 1, 0, 0, 0])),
        ("inner-change-cipher", item(20, 0, &[1])),
        ("large", item(DATA, 0, &[0x55; 2000])),
    ]
}

/// Chains of all kinds, and the root that signed the good ones.
#[cfg(test)]
pub(crate) fn certificate_seeds() -> (Vec<u8>, Vec<(String, Vec<u8>)>) {
    const LARGEST: usize = 6 * 1024;
    let pki = super::tests::wrong::Pki::new();
    let part = |der: &[u8]| {
        let len = u16::try_from(der.len()).expect("short").to_be_bytes();
        [&len, der].concat()
    };
    let mut seeds: Vec<(String, Vec<u8>)> = Vec::new();
    for case in pki.cases() {
        let chain: Vec<u8> = case.shown.cert.iter().flat_map(|der| part(der)).collect();
        if chain.len() <= LARGEST {
            seeds.push((case.name.to_owned(), chain));
        }
    }
    seeds.push(("no chain".to_owned(), pki.cases()[0].shown.cert[0].to_vec()));
    (pki.root.der().to_vec(), seeds)
}

#[cfg(test)]
pub(crate) fn trust_seeds(root: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let (pki, crl) = super::tests::wrong::Pki::with_crl();
    let pem = pki.root.pem().into_bytes();
    let der = rustls_pki_types::pem::PemObject::from_pem_slice(crl.as_bytes());
    let der: rustls_pki_types::CertificateRevocationListDer<'static> = der.expect("a CRL");
    vec![
        ("root-der", root.to_vec()),
        ("root-pem", pem.clone()),
        ("two-roots-pem", pem.repeat(2)),
        ("half-pem", pem[..pem.len() / 2].to_vec()),
        ("crl-der", der.to_vec()),
        ("crl-pem", crl.clone().into_bytes()),
        ("both-pem", [&pem[..], crl.as_bytes()].concat()),
    ]
}

#[cfg(test)]
pub(crate) fn identity_seeds() -> Vec<(String, Vec<u8>)> {
    let texts = super::tests::wrong::identities();
    let seeds = texts.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
    let long = format!("{}{}", SIGNED[0], "x".repeat(2048));
    seeds
        .chain([("long".to_owned(), long.into_bytes())])
        .collect()
}
