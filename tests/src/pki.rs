//! Certificates of any kind, below a root that a test has made for the mesh.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};

/// A root, to be given to the authority with [`Root::args`].
pub struct Root {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: PathBuf,
    name: String,
}

/// A certificate with its key, as files in PEM.
#[derive(Clone, Debug)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl Root {
    pub fn new(dir: &Path, name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(Self {
            issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)?,
            dir: dir.to_owned(),
            name: name.to_owned(),
        })
    }

    /// Flags of `mesh-agent ca run`.
    pub fn args(&self) -> Result<[String; 4]> {
        let key = self.issuer.key().serialize_pem();
        let pair = self.write("root", &self.issuer.pem(), &key)?;
        Ok([
            "--ca-cert".to_owned(),
            pair.certificate,
            "--ca-key".to_owned(),
            pair.key,
        ])
    }

    /// That of a workload of the service account, but for what `change` does to it.
    pub fn issue(
        &self,
        account: &str,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Result<Pair> {
        let key = KeyPair::generate()?;
        let mut params = workload(account)?;
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer)?;
        self.write(name, &certificate.pem(), &key.serialize_pem())
    }

    /// The same, signed by itself.
    pub fn self_signed(&self, account: &str, name: &str) -> Result<Pair> {
        let key = KeyPair::generate()?;
        let certificate = workload(account)?.self_signed(&key)?;
        self.write(name, &certificate.pem(), &key.serialize_pem())
    }

    fn write(&self, name: &str, certificate: &str, key: &str) -> Result<Pair> {
        let path = |what: &str| self.dir.join(format!("{}-{name}.{what}", self.name));
        fs::write(path("pem"), certificate)?;
        fs::write(path("key"), key)?;
        // The authority takes no key that others can read.
        fs::set_permissions(path("key"), fs::Permissions::from_mode(0o600))?;
        Ok(Pair {
            certificate: path("pem").display().to_string(),
            key: path("key").display().to_string(),
        })
    }
}

/// A URI in a certificate's names, for example a workload's identity.
pub fn uri(text: &str) -> Result<SanType> {
    Ok(SanType::URI(text.try_into()?))
}

fn workload(account: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(&format!(
        "spiffe://cluster.local/ns/shop/sa/{account}"
    ))?];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    Ok(params)
}
