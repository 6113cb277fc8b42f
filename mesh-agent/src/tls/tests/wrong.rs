//! Certificates that no honest peer shows, each with why it is refused.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RevokedCertParams, SanType,
    SerialNumber, date_time_ymd,
};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::support::{Issuer, ca_params, domain, id, root, workload_params};
use crate::model::TlsFailure as F;
use crate::tls::Trust;

const REVOKED_LEAF: &[u8] = &[7, 1];
const REVOKED_INTERMEDIATE: &[u8] = &[7, 2];
const GOOD: &str = "spiffe://cluster.local/ns/shop/sa/peer";

/// What a wrong peer shows, and what each side of ours makes of it.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) shown: Arc<CertifiedKey>,
    /// Shown by a client, shown by a server; `None`: it is good.
    pub(super) as_client: Option<F>,
    pub(super) as_server: Option<F>,
}

pub(crate) struct Pki {
    pub(crate) root: Issuer,
    pub(super) trust: Arc<Trust>,
    cases: Vec<Case>,
}

impl Pki {
    pub(crate) fn new() -> Self {
        Self::with_crl().0
    }

    /// Also the list of its revoked ones, in PEM.
    pub(crate) fn with_crl() -> (Self, String) {
        let root = root("root");
        // Long past its next update: still counts.
        let crl = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2020, 1, 2),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: [REVOKED_LEAF, REVOKED_INTERMEDIATE].map(revoked).to_vec(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let crl = crl.signed_by(&root).expect("a CRL").pem().expect("PEM");
        let trust = Trust::new(domain(), root.pem().as_bytes(), Some(crl.as_bytes()));
        let mut pki = Self {
            root,
            trust: Arc::new(trust.expect("a trust")),
            cases: Vec::new(),
        };
        pki.fill();
        (pki, crl)
    }

    pub(crate) fn cases(&self) -> &[Case] {
        &self.cases
    }

    fn fill(&mut self) {
        self.right_ones();
        self.issuers();
        self.times_and_usages();
        self.names();
        self.chains();
        self.encodings();
        self.keys();
    }

    fn add(&mut self, name: &'static str, shown: Arc<CertifiedKey>, failure: F) {
        self.add_both(name, shown, Some(failure), Some(failure));
    }

    fn add_both(
        &mut self,
        name: &'static str,
        shown: Arc<CertifiedKey>,
        as_client: Option<F>,
        as_server: Option<F>,
    ) {
        self.cases.push(Case {
            name,
            shown,
            as_client,
            as_server,
        });
    }

    /// The right certificate but for what `change` does to it.
    fn leaf(&self, change: impl FnOnce(&mut CertificateParams)) -> Arc<CertifiedKey> {
        self.leaf_of(&self.root, change, &[])
    }

    fn leaf_of(
        &self,
        issuer: &Issuer,
        change: impl FnOnce(&mut CertificateParams),
        behind: &[&Issuer],
    ) -> Arc<CertifiedKey> {
        let key = KeyPair::generate().expect("a key");
        let mut params = workload_params(GOOD);
        change(&mut params);
        let leaf = params.signed_by(&key, issuer).expect("a certificate");
        let chain = std::iter::once(leaf.der().clone())
            .chain(behind.iter().map(|issuer| issuer.der().clone()))
            .collect();
        certified(chain, &key)
    }

    fn intermediate(&self, change: impl FnOnce(&mut CertificateParams)) -> Issuer {
        intermediate_of(&self.root, change)
    }

    fn right_ones(&mut self) {
        let right = self.leaf(|_| {});
        self.add_both("right", right, None, None);
        let through = self.intermediate(|_| {});
        let right = self.leaf_of(&through, |_| {}, &[&through]);
        self.add_both("right, through an intermediate", right, None, None);
        let right = self.leaf(|p| p.subject_alt_names.push(dns("db.shop")));
        self.add_both("right, with a DNS name", right, None, None);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("a key");
        let leaf = workload_params(GOOD).signed_by(&key, &self.root);
        let right = certified(vec![leaf.expect("a certificate").der().clone()], &key);
        self.add_both("right, on P-384", right, None, None);
        let other = self.leaf(|p| p.subject_alt_names = vec![uri(id("other").as_str())]);
        self.add_both("another workload", other, None, Some(F::UnexpectedIdentity));
        let other = self.leaf(|p| p.subject_alt_names = vec![uri(&GOOD.replace("shop", "Shop"))]);
        self.add_both("another case", other, None, Some(F::UnexpectedIdentity));
    }

    fn issuers(&mut self) {
        let key = KeyPair::generate().expect("a key");
        let own = workload_params(GOOD)
            .self_signed(&key)
            .expect("a certificate");
        let own = certified(vec![own.der().clone()], &key);
        self.add("self-signed", own, F::UnknownIssuer);
        let other = root("other root");
        let leaf = self.leaf_of(&other, |_| {}, &[]);
        self.add("other root", leaf, F::UnknownIssuer);
        let leaf = self.leaf_of(&other, |_| {}, &[&other]);
        self.add("other root, sent along", leaf, F::UnknownIssuer);
        let namesake = root("root");
        let leaf = self.leaf_of(&namesake, |_| {}, &[]);
        self.add("other root of the same name", leaf, F::BadCertificate);
        let through = self.intermediate(|_| {});
        let leaf = self.leaf_of(&through, |_| {}, &[]);
        self.add("intermediate left out", leaf, F::UnknownIssuer);
    }

    fn times_and_usages(&mut self) {
        let leaf = self.leaf(|p| p.not_after = date_time_ymd(2020, 1, 1));
        self.add("expired", leaf, F::Expired);
        let leaf = self.leaf(|p| {
            p.not_before = date_time_ymd(2021, 1, 1);
            p.not_after = date_time_ymd(2020, 1, 1);
        });
        self.add("ends before it begins", leaf, F::Expired);
        let leaf = self.leaf(|p| p.not_before = date_time_ymd(3000, 1, 1));
        self.add("not yet valid", leaf, F::NotYetValid);
        let server = self.leaf(|p| {
            p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        });
        self.add_both("for servers only", server, Some(F::WrongUsage), None);
        let client = self.leaf(|p| {
            p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        });
        self.add_both("for clients only", client, None, Some(F::WrongUsage));
        let code = self.leaf(|p| {
            p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        });
        self.add("for code", code, F::WrongUsage);
        let none = self.leaf(|p| p.extended_key_usages.clear());
        self.add("without a usage", none, F::WrongUsage);
        let any = self.leaf(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any]);
        self.add("for anything", any, F::WrongUsage);
        let leaf = self.leaf(|p| p.serial_number = Some(REVOKED_LEAF.to_vec().into()));
        self.add("revoked", leaf, F::Revoked);
        let through =
            self.intermediate(|p| p.serial_number = Some(REVOKED_INTERMEDIATE.to_vec().into()));
        let leaf = self.leaf_of(&through, |_| {}, &[&through]);
        self.add("revoked intermediate", leaf, F::Revoked);
    }

    fn names(&mut self) {
        let leaf = self.leaf(|p| p.subject_alt_names.clear());
        self.add("no SAN", leaf, F::NoIdentity);
        let leaf = self.leaf(|p| {
            p.subject_alt_names.clear();
            p.distinguished_name.push(DnType::CommonName, GOOD);
        });
        self.add("identity as common name", leaf, F::NoIdentity);
        let address = SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        let mail = SanType::Rfc822Name("peer@shop".try_into().expect("ASCII"));
        for (name, san) in [
            ("DNS name only", dns("peer.shop")),
            ("identity as DNS name", dns(GOOD)),
            ("address only", address),
            ("mail only", mail),
        ] {
            let leaf = self.leaf(|p| p.subject_alt_names = vec![san]);
            self.add(name, leaf, F::NoIdentity);
        }
        for (name, second) in [
            ("two identities", "spiffe://cluster.local/ns/shop/sa/db"),
            ("the same twice", GOOD),
            ("identity and web address", "https://shop.example.com/"),
        ] {
            let leaf = self.leaf(|p| p.subject_alt_names.push(uri(second)));
            self.add(name, leaf, F::SeveralIdentities);
        }
        for (name, text) in FOREIGN {
            let leaf = self.leaf(|p| p.subject_alt_names = vec![uri(text)]);
            self.add(name, leaf, F::ForeignTrustDomain);
        }
        let long = format!("{GOOD}{}", "x".repeat(3000));
        for (name, text) in MALFORMED
            .iter()
            .copied()
            .chain([("oversized", long.as_str())])
        {
            let leaf = self.leaf(|p| p.subject_alt_names = vec![uri(text)]);
            self.add(name, leaf, F::MalformedIdentity);
        }
        for (name, bytes) in [
            ("not ASCII", [GOOD.as_bytes(), &[0xc3, 0xa4]].concat()),
            ("not UTF-8", [GOOD.as_bytes(), &[0xff]].concat()),
        ] {
            let leaf = self.leaf(|p| raw_san(p, &[&bytes]));
            self.add(name, leaf, F::MalformedIdentity);
        }
        let leaf = self.leaf(|p| raw_san(p, &[GOOD.as_bytes(), &[0xff, 0xfe]]));
        self.add("a second one that is not UTF-8", leaf, F::MalformedIdentity);
    }

    fn chains(&mut self) {
        let many = self.leaf(|p| {
            p.subject_alt_names
                .extend((0..1000).map(|i| dns(&format!("n{i}.shop"))));
        });
        self.add("a thousand names", many, F::ChainTooLarge);
        let ballast: Vec<Issuer> = (0..20).map(|_| self.intermediate(|_| {})).collect();
        let ballast: Vec<&Issuer> = ballast.iter().collect();
        let leaf = self.leaf_of(&self.root, |_| {}, &ballast[..4]);
        self.add("five certificates", leaf, F::ChainTooLarge);
        let leaf = self.leaf_of(&self.root, |_| {}, &ballast);
        self.add("twenty-one certificates", leaf, F::ChainTooLarge);
        let leaf = self.leaf_of(&self.root, |_| {}, &ballast.repeat(6));
        self.add(
            "more bytes than a handshake may have",
            leaf,
            F::ChainTooLarge,
        );
        let not_a_ca = self.intermediate(|p| p.is_ca = IsCa::ExplicitNoCa);
        let leaf = self.leaf_of(&not_a_ca, |_| {}, &[&not_a_ca]);
        self.add("intermediate that is no CA", leaf, F::BadCertificate);
        let plain = self.intermediate(|p| p.is_ca = IsCa::NoCa);
        let leaf = self.leaf_of(&plain, |_| {}, &[&plain]);
        self.add("intermediate without constraints", leaf, F::BadCertificate);
        let last = self.intermediate(|p| {
            p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        });
        let beyond = intermediate_of(&last, |_| {});
        let leaf = self.leaf_of(&beyond, |_| {}, &[&beyond, &last]);
        self.add("longer than the path length", leaf, F::BadCertificate);
        let old = self.intermediate(|p| p.not_after = date_time_ymd(2020, 1, 1));
        let leaf = self.leaf_of(&old, |_| {}, &[&old]);
        self.add("expired intermediate", leaf, F::Expired);
        let ca = self.leaf(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
        self.add("a CA itself", ca, F::BadCertificate);
    }

    fn encodings(&mut self) {
        let good = self.leaf(|_| {});
        let with = |der: Vec<u8>| {
            let chain = vec![CertificateDer::from(der)];
            Arc::new(CertifiedKey::new(chain, Arc::clone(&good.key)))
        };
        let der = good.cert[0].to_vec();
        self.add("garbage", with(vec![0x41; 300]), F::BadCertificate);
        self.add(
            "cut short",
            with(der[..der.len() - 9].to_vec()),
            F::BadCertificate,
        );
        self.add(
            "bytes behind",
            with([&der[..], &[0]].concat()),
            F::BadCertificate,
        );
        let mut changed = der.clone();
        // In the last bytes of the signature.
        let last = changed.len() - 1;
        changed[last] ^= 1;
        self.add("changed signature", with(changed), F::BadCertificate);
        let leaf = self.leaf(|p| {
            let mut unknown = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 9], vec![5, 0]);
            unknown.set_criticality(true);
            p.custom_extensions.push(unknown);
        });
        self.add("unknown critical extension", leaf, F::BadCertificate);
    }

    fn keys(&mut self) {
        let good = self.leaf(|_| {});
        let other = self.leaf(|_| {});
        let stolen = CertifiedKey::new(good.cert.clone(), Arc::clone(&other.key));
        self.add(
            "somebody else's certificate",
            Arc::new(stolen),
            F::BadCertificate,
        );
        for (name, algorithm) in [("RSA", &PKCS_RSA_SHA256), ("Ed25519", &PKCS_ED25519)] {
            let key = KeyPair::generate_for(algorithm).expect("a key");
            let leaf = workload_params(GOOD).signed_by(&key, &self.root);
            let leaf = certified(vec![leaf.expect("a certificate").der().clone()], &key);
            // It finds no signature scheme that we offer: a client sends no
            // certificate, a server gives up with an alert.
            let (client, server) = (F::NoCertificate, F::RefusedByPeer);
            self.add_both(name, leaf, Some(client), Some(server));
        }
    }
}

const FOREIGN: &[(&str, &str)] = &[
    ("other trust domain", "spiffe://other.local/ns/shop/sa/peer"),
    (
        "trust domain with a suffix",
        "spiffe://cluster.local.evil/ns/shop/sa/peer",
    ),
    (
        "trust domain with a prefix",
        "spiffe://x.cluster.local/ns/shop/sa/peer",
    ),
    (
        "trust domain with a dot",
        "spiffe://cluster.local./ns/shop/sa/peer",
    ),
];

const MALFORMED: &[(&str, &str)] = &[
    ("empty", ""),
    ("web address", "https://cluster.local/ns/shop/sa/peer"),
    ("no path", "spiffe://cluster.local"),
    ("root path", "spiffe://cluster.local/"),
    ("no trust domain", "spiffe:///ns/shop/sa/peer"),
    (
        "upper-case trust domain",
        "spiffe://Cluster.Local/ns/shop/sa/peer",
    ),
    (
        "upper-case scheme",
        "SPIFFE://cluster.local/ns/shop/sa/peer",
    ),
    ("space before", " spiffe://cluster.local/ns/shop/sa/peer"),
    ("space behind", "spiffe://cluster.local/ns/shop/sa/peer "),
    ("NUL behind", "spiffe://cluster.local/ns/shop/sa/peer\0"),
    ("NUL within", "spiffe://cluster.local/ns/shop/sa/pe\0er"),
    ("line break", "spiffe://cluster.local/ns/shop/sa/peer\n"),
    ("escaped letter", "spiffe://cluster.local/ns/shop/sa/p%65er"),
    (
        "escaped slash",
        "spiffe://cluster.local/ns/shop/sa/x%2fpeer",
    ),
    ("wildcard account", "spiffe://cluster.local/ns/shop/sa/*"),
    ("wildcard namespace", "spiffe://cluster.local/ns/*/sa/peer"),
    ("wildcard trust domain", "spiffe://*/ns/shop/sa/peer"),
    ("parts swapped", "spiffe://cluster.local/sa/peer/ns/shop"),
    ("no account", "spiffe://cluster.local/ns/shop"),
    ("empty account", "spiffe://cluster.local/ns/shop/sa/"),
    ("one part more", "spiffe://cluster.local/ns/shop/sa/peer/x"),
    ("trailing slash", "spiffe://cluster.local/ns/shop/sa/peer/"),
    ("double slash", "spiffe://cluster.local//ns/shop/sa/peer"),
    ("parent directory", "spiffe://cluster.local/ns/../sa/peer"),
    ("query", "spiffe://cluster.local/ns/shop/sa/peer?x=1"),
    ("fragment", "spiffe://cluster.local/ns/shop/sa/peer#x"),
    ("user", "spiffe://user@cluster.local/ns/shop/sa/peer"),
    ("port", "spiffe://cluster.local:443/ns/shop/sa/peer"),
    (
        "other keywords",
        "spiffe://cluster.local/namespace/shop/sa/peer",
    ),
];

fn intermediate_of(issuer: &Issuer, change: impl FnOnce(&mut CertificateParams)) -> Issuer {
    let key = KeyPair::generate().expect("a key");
    let mut params = ca_params("intermediate");
    params.distinguished_name.push(
        DnType::OrganizationName,
        format!("{:?}", &key.public_key_raw()[..8]),
    );
    change(&mut params);
    CertifiedIssuer::signed_by(params, key, issuer).expect("an intermediate")
}

fn revoked(serial: &[u8]) -> RevokedCertParams {
    RevokedCertParams {
        serial_number: serial.to_vec().into(),
        revocation_time: date_time_ymd(2020, 1, 1),
        reason_code: None,
        invalidity_date: None,
    }
}

fn certified(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Arc<CertifiedKey> {
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialized_der()));
    let key = any_supported_type(&der).expect("a key");
    Arc::new(CertifiedKey::new(chain, key))
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().expect("ASCII"))
}

/// A SAN of URIs with any bytes in them.
fn raw_san(params: &mut CertificateParams, uris: &[&[u8]]) {
    let value = |tag: u8, content: &[u8]| {
        let length = u8::try_from(content.len())
            .ok()
            .filter(|length| *length < 0x80);
        [&[tag, length.expect("a short form")][..], content].concat()
    };
    let names: Vec<u8> = uris.iter().flat_map(|uri| value(0x86, uri)).collect();
    params.subject_alt_names.clear();
    let extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], value(0x30, &names));
    params.custom_extensions.push(extension);
}

/// Right and wrong identities, with names.
pub(crate) fn identities() -> impl Iterator<Item = (&'static str, &'static str)> {
    let all = [&[("right", GOOD)][..], FOREIGN, MALFORMED];
    all.into_iter().flatten().copied()
}
