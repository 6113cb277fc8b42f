//! Keys, credentials, trust, and the channel to the CA.

use std::sync::Arc;

use rcgen::{
    CertificateRevocationListParams, CertificateSigningRequestParams, CertifiedIssuer, DnType,
    KeyIdMethod, KeyPair, SanType, SerialNumber, date_time_ymd,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use x509_parser::prelude::{FromDer, X509CertificationRequest};

use super::support::{
    DEADLINE, ca_params, credentials, domain, id, private, root, sockets, trust, workload_params,
};
use crate::model::{PeerProtocol, TlsFailure, TrustDomain};
use crate::tls::{
    CaClient, CaName, CaServer, Credentials, CredentialsError, CrlError, PeerId, PrivateKey, Trust,
    TrustError, accept, connect, merge_crl, warm,
};

#[test]
fn a_request_names_the_identity_and_nothing_else() {
    let key = PrivateKey::generate().expect("a key");
    let pem = key.csr(&id("web")).expect("a request");
    let request = CertificateSigningRequestParams::from_pem(&pem).expect("a good request");
    let uri = SanType::URI(id("web").as_str().try_into().expect("ASCII"));
    assert_eq!(request.params.subject_alt_names, [uri]);
    assert_eq!(request.params.distinguished_name.iter().count(), 0);
    assert!(
        !request
            .params
            .is_ca
            .eq(&rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained))
    );
    let der = rustls_pki_types::pem::PemObject::from_pem_slice(pem.as_bytes());
    let der: rustls_pki_types::CertificateSigningRequestDer<'_> = der.expect("PEM");
    let (_, parsed) = X509CertificationRequest::from_der(&der).expect("a request");
    let wanted: Vec<_> = parsed
        .requested_extensions()
        .into_iter()
        .flatten()
        .collect();
    assert_eq!(wanted.len(), 1, "{wanted:?}");
}

#[test]
fn a_generated_key_serves_the_certificate_that_it_asked_for() {
    let root = root("root");
    let key = PrivateKey::generate().expect("a key");
    let request = key.csr(&id("web")).expect("a request");
    let mut request = CertificateSigningRequestParams::from_pem(&request).expect("a request");
    request.params = workload_params(id("web").as_str());
    let chain = request.signed_by(&root).expect("a certificate").pem();
    let ours = Credentials::new(&id("web"), &chain, &key, trust(&root)).expect("credentials");
    assert_eq!(ours.id(), &id("web"));
    assert!(!ours.serial().is_empty());
    assert_eq!(ours.is_trusted(), Ok(()));
    let other = Credentials::new(&id("db"), &chain, &key, trust(&root));
    assert!(matches!(other, Err(CredentialsError::OtherIdentity(found)) if found == id("web")));
    let stranger = PrivateKey::generate().expect("a key");
    let other = Credentials::new(&id("web"), &chain, &stranger, trust(&root));
    assert!(matches!(other, Err(CredentialsError::KeyMismatch)));
    assert_eq!(format!("{key:?}"), "PrivateKey(..)");
}

#[test]
fn what_peers_would_refuse_is_not_taken_as_own() {
    let (root, other) = (root("root"), root("other"));
    let key = &KeyPair::generate().expect("a key");
    let signed = |change: &dyn Fn(&mut rcgen::CertificateParams)| {
        let mut params = workload_params(id("web").as_str());
        change(&mut params);
        let chain = params.signed_by(key, &root).expect("a certificate").pem();
        move |trust| Credentials::new(&id("web"), &chain, &private(key), trust).err()
    };
    let good = signed(&|_| {});
    assert!(good(trust(&root)).is_none());
    let rejected = |error: Option<CredentialsError>| match error {
        Some(CredentialsError::Rejected(failure)) => failure,
        other => panic!("{other:?}"),
    };
    assert_eq!(rejected(good(trust(&other))), TlsFailure::UnknownIssuer);
    let expired = signed(&|params| params.not_after = date_time_ymd(2020, 1, 1));
    assert_eq!(rejected(expired(trust(&root))), TlsFailure::Expired);
    let usage = signed(&|params| params.extended_key_usages.truncate(1));
    assert_eq!(rejected(usage(trust(&root))), TlsFailure::WrongUsage);
    let elsewhere = TrustDomain::new("elsewhere").expect("a trust domain");
    let elsewhere = Trust::new(elsewhere, root.pem().as_bytes(), None).expect("a trust");
    assert_eq!(
        rejected(good(Arc::new(elsewhere))),
        TlsFailure::ForeignTrustDomain
    );
}

#[test]
fn a_new_trust_counts_at_once_even_against_the_own_certificate() {
    let (root, next) = (root("root"), root("next"));
    let ours = credentials(&root, "web");
    let both = [root.pem(), next.pem()].concat();
    let both = Trust::new(domain(), both.as_bytes(), None).expect("a trust");
    assert_eq!(
        ours.with_trust(Arc::new(both))
            .expect("credentials")
            .is_trusted(),
        Ok(())
    );
    let after = ours.with_trust(trust(&next)).expect("credentials");
    assert_eq!(after.is_trusted(), Err(TlsFailure::UnknownIssuer));
}

#[test]
fn roots_and_lists_that_cannot_be_used_are_refused() {
    let root_one = root("root");
    let of = |roots: &[u8], crl: Option<&[u8]>| Trust::new(domain(), roots, crl).err();
    assert_eq!(of(b"", None), Some(TrustError::NoRoots));
    assert_eq!(of(b"hello", None), Some(TrustError::NoRoots));
    assert_eq!(
        of(&[0x30, 3, 1, 2, 3], None),
        Some(TrustError::RootsUnreadable)
    );
    assert_eq!(of(root_one.der(), None), None);
    let leaf = workload_params(id("web").as_str());
    let leaf = leaf
        .self_signed(&KeyPair::generate().expect("a key"))
        .expect("a certificate");
    assert_eq!(of(leaf.pem().as_bytes(), None), Some(TrustError::NotACa));
    let many = root_one.pem().repeat(65);
    assert_eq!(of(many.as_bytes(), None), Some(TrustError::TooManyRoots));
    assert_eq!(
        of(root_one.der(), Some(&[0x30, 0])),
        Some(TrustError::Crl(CrlError::Unreadable))
    );
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2020, 1, 1),
        next_update: date_time_ymd(2020, 1, 2),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    // The name of our root, but another key.
    let forged = list.signed_by(&root("root")).expect("a CRL");
    assert_eq!(
        of(root_one.der(), Some(forged.der())),
        Some(TrustError::Crl(CrlError::Signature))
    );
    let right = list.signed_by(&root_one).expect("a CRL");
    assert_eq!(of(root_one.der(), Some(right.der())), None);
    // What holds no list would revoke nothing.
    let no_list = Some(TrustError::Crl(CrlError::NoList));
    for file in ["", "\n", "<html>404</html>", &root_one.pem()] {
        assert_eq!(of(root_one.der(), Some(file.as_bytes())), no_list, "{file}");
    }
    let certificate = of(root_one.der(), Some(root_one.der()));
    assert_eq!(certificate, Some(TrustError::Crl(CrlError::Unreadable)));
}

#[test]
fn revocations_never_go_back() {
    let (one, other) = (root("one"), root("other"));
    let list = |root: &super::support::Issuer, number: u64| {
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2020, 1, 2),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(root).expect("a CRL").pem().expect("PEM")
    };
    let before = list(&one, 300) + &list(&other, 2);
    let both = one.pem() + &other.pem();
    let older = Err(CrlError::Older);
    let lacks = |who: &[&str]| Ok(who.iter().map(|w| format!("CN={w}")).collect::<Vec<_>>());
    for (roots, numbers, expected) in [
        (&both, (Some(300), Some(2)), lacks(&[])),
        (&both, (Some(301), Some(3)), lacks(&[])),
        (&both, (Some(65_536), Some(2)), lacks(&[])),
        (&both, (Some(299), Some(2)), older.clone()),
        (&both, (Some(300), Some(1)), older),
        // A root that is gone takes its list with it, and one that is there does not.
        (&other.pem(), (None, Some(2)), lacks(&[])),
        (&both, (None, Some(2)), lacks(&["one"])),
        (&both, (None, None), Err(CrlError::NoList)),
    ] {
        let lists = [(&one, numbers.0), (&other, numbers.1)];
        let lists = lists.map(|(root, n)| n.map(|n| list(root, n)).unwrap_or_default());
        let file = lists.concat();
        let merged = merge_crl(
            file.as_bytes(),
            Some(before.as_bytes()),
            roots.as_bytes(),
            std::time::SystemTime::now(),
        );
        assert_eq!(merged.map(|m| m.lacks), expected, "{numbers:?}");
    }
}

#[test]
fn a_file_of_somebody_elses_lists_takes_nothing_of_ours_away() {
    let (ours, stranger, between) = (root("ours"), root("stranger"), root("between"));
    let revoked = |by: &super::support::Issuer, serial: u64, year| {
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(year, 1, 2),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![rcgen::RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: date_time_ymd(2020, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(by).expect("a CRL").pem().expect("PEM")
    };
    let before = revoked(&ours, 7, 2020) + &revoked(&between, 8, 2100);
    let file = revoked(&stranger, 9, 2020);
    let now = std::time::SystemTime::now();
    let merge = |file: &[u8], before: &[u8], roots: &str| {
        merge_crl(file, Some(before), roots.as_bytes(), now).expect("merged")
    };
    let merged = merge(file.as_bytes(), before.as_bytes(), &ours.pem());
    assert_eq!(merged.lacks, ["CN=ours"]);
    let has = |lists: &[u8], serial: u8| {
        let lists = super::super::revocation::Revocations::parse(lists, &[]);
        lists.expect("lists").serials().any(|s| s == [serial])
    };
    let all = |lists: &[u8]| [7, 8, 9].map(|serial| has(lists, serial));
    assert_eq!(all(&merged.lists), [true; 3]);
    // A list of a root that is not trusted any more goes with the next file; that of
    // an intermediate stays until it is to be replaced.
    let later = merge(file.as_bytes(), &merged.lists, &stranger.pem());
    assert_eq!(all(&later.lists), [false, true, true]);
    // Of whom the lists are is not known before the roots are.
    let early = merge(file.as_bytes(), before.as_bytes(), "");
    assert_eq!((all(&early.lists), early.lacks), ([true; 3], vec![]));
    let again = merge(&merged.lists, &merged.lists, &ours.pem());
    assert_eq!(again.lacks, Vec::<String>::new());
}

async fn talk(client: &CaClient, server: &CaServer) -> std::io::Result<String> {
    let (c, s) = sockets().await;
    let server = async {
        let mut stream = server.accept(s).await?;
        stream.write_all(b"certificate").await?;
        stream.shutdown().await
    };
    let client = async {
        let mut text = String::new();
        client.connect(c).await?.read_to_string(&mut text).await?;
        Ok(text)
    };
    tokio::join!(client, server).0
}

#[tokio::test]
async fn the_ca_is_known_by_its_name() {
    warm();
    let (root, other) = (root("root"), root("other"));
    let key = KeyPair::generate().expect("a key");
    let mut params = workload_params(id("ca").as_str());
    params.distinguished_name.push(DnType::CommonName, "ca");
    params
        .subject_alt_names
        .push(SanType::DnsName("ca.mesh".try_into().expect("ASCII")));
    let chain = params.signed_by(&key, &root).expect("a certificate").pem();
    let server = CaServer::new(&chain, &private(&key)).expect("a server");
    let name = |text: &str| CaName::Server(text.to_owned());
    for (roots, expected, is_good) in [
        (&root, name("ca.mesh"), true),
        (&root, name("other.mesh"), false),
        (&other, name("ca.mesh"), false),
    ] {
        let client = CaClient::new(roots.pem().as_bytes(), &expected).expect("a client");
        let said = talk(&client, &server).await;
        assert_eq!(
            said.is_ok_and(|text| text == "certificate"),
            is_good,
            "{expected:?}"
        );
    }
}

/// `root` and `other`, as one bundle.
fn trust_of(roots: &[&super::support::Issuer]) -> Arc<Trust> {
    let pem: String = roots.iter().map(|root| root.pem()).collect();
    Arc::new(Trust::new(domain(), pem.as_bytes(), None).expect("a trust"))
}

/// Who a client with that chain is to a server under that trust.
async fn shown(
    chain: &str,
    key: &KeyPair,
    (by, trust): (&Arc<Credentials>, &Arc<Trust>),
) -> PeerId {
    warm();
    let client = Credentials::new(&id("web"), chain, &private(key), Arc::clone(trust));
    let client = client.expect("credentials");
    let server = by.with_trust(Arc::clone(trust)).expect("credentials");
    let (c, s) = sockets().await;
    let expected = [id("db")];
    let (session, _) = tokio::join!(
        accept(&s, &server, DEADLINE),
        connect(&c, &client, &expected, PeerProtocol::Mesh1, DEADLINE)
    );
    session.expect("a session").peer
}

#[tokio::test]
async fn who_was_verified_by_a_root_is_believed_as_long_as_that_root_is_there() {
    let (old, new) = (root("root"), root("root"));
    let both = trust_of(&[&old, &new]);
    let key = KeyPair::generate().expect("a key");
    let server = credentials(&new, "db");
    for (signed_by, other) in [(&old, &new), (&new, &old)] {
        let chain = workload_params(id("web").as_str()).signed_by(&key, signed_by);
        let chain = chain.expect("a certificate").pem();
        let peer = shown(&chain, &key, (&server, &both)).await;
        for stays in [&[signed_by, other][..], &[other, signed_by], &[signed_by]] {
            assert_eq!(trust_of(stays).still_trusts(&peer), Ok(()));
        }
        let gone = trust_of(&[other]).still_trusts(&peer);
        assert_eq!(gone, Err(TlsFailure::UnknownIssuer));
    }
}

#[tokio::test]
async fn a_chain_that_another_root_signed_too_is_believed_after_a_new_handshake() {
    let (old, new) = (root("old"), root("new"));
    let key = KeyPair::generate().expect("a key");
    let middle_key = || KeyPair::from_pem(&key.serialize_pem()).expect("the same key");
    // One intermediate, with a certificate of either root.
    let by = |root| CertifiedIssuer::signed_by(ca_params("middle"), middle_key(), root);
    let (by_old, by_new) = (by(&old).expect("one"), by(&new).expect("one"));
    let leaf_key = KeyPair::generate().expect("a key");
    let leaf = workload_params(id("web").as_str()).signed_by(&leaf_key, &by_old);
    let leaf = leaf.expect("a certificate").pem();
    let chain = [leaf, by_old.pem(), by_new.pem()].concat();
    let (only_old, only_new) = (trust_of(&[&old]), trust_of(&[&new]));
    // The server's own chain is of no account: it shows what its client trusts.
    let before = shown(&chain, &leaf_key, (&credentials(&old, "db"), &only_old)).await;
    assert_eq!(only_old.still_trusts(&before), Ok(()));
    let gone = only_new.still_trusts(&before);
    assert_eq!(gone, Err(TlsFailure::UnknownIssuer), "fails closed");
    // While the first one is still in mind.
    let after = shown(&chain, &leaf_key, (&credentials(&new, "db"), &only_new)).await;
    assert_eq!(only_new.still_trusts(&after), Ok(()));
}

#[tokio::test]
async fn a_peer_counts_no_longer_than_the_first_certificate_of_its_path() {
    let root = root("root");
    let mut params = ca_params("middle");
    params.not_after = date_time_ymd(2040, 1, 1);
    let ends: std::time::SystemTime = params.not_after.into();
    let middle = CertifiedIssuer::signed_by(params, KeyPair::generate().expect("a key"), &root);
    let middle = middle.expect("an intermediate");
    let key = KeyPair::generate().expect("a key");
    let mut params = workload_params(id("web").as_str());
    params.not_after = date_time_ymd(2090, 1, 1);
    let leaf = params.signed_by(&key, &middle).expect("a certificate");
    let chain = [leaf.pem(), middle.pem()].concat();
    let server = credentials(&root, "db");
    let peer = shown(&chain, &key, (&server, &trust(&root))).await;
    assert_eq!(peer.not_after(), ends);
    let own = Credentials::new(&id("web"), &chain, &private(&key), trust(&root));
    assert_eq!(own.expect("credentials").not_after(), ends);
}
