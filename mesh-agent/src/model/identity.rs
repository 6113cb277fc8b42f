//! SPIFFE identities of workloads.

use std::fmt;
use std::sync::Arc;

/// Longest identity in bytes (SPIFFE-ID, section 2.3).
const MAX_ID: usize = 2048;
/// Longest trust domain in bytes (SPIFFE-ID, section 2.1).
const MAX_TRUST_DOMAIN: usize = 255;
const SCHEME: &str = "spiffe://";

/// Why a text is no identity of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpiffeError {
    #[error("it does not begin with spiffe://")]
    Scheme,
    #[error("its trust domain is not 1 to 255 of a-z, 0-9, '.', '-', '_'")]
    TrustDomain,
    #[error("its path is not /ns/NAMESPACE/sa/SERVICE_ACCOUNT")]
    Path,
    #[error("it is longer than 2048 bytes")]
    TooLong,
}

/// The part of a SPIFFE ID that names who vouches for it, for example `cluster.local`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Its name where nobody says otherwise, as in Istio.
    pub(crate) const DEFAULT: &str = "cluster.local";
}

impl Default for TrustDomain {
    fn default() -> Self {
        Self(Self::DEFAULT.into())
    }
}

impl TrustDomain {
    pub(crate) fn new(name: &str) -> Result<Self, SpiffeError> {
        let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
        let fits = (1..=MAX_TRUST_DOMAIN).contains(&name.len());
        if fits && name.bytes().all(allowed) {
            Ok(Self(name.into()))
        } else {
            Err(SpiffeError::TrustDomain)
        }
    }

    #[must_use]
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`, compared byte by byte.
///
/// Having one proves nothing: who presented it is `tls::PeerId`'s to say.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SpiffeId {
    uri: Arc<str>,
    /// Ends of the trust domain and of the namespace in `uri`.
    trust_domain_end: u16,
    namespace_end: u16,
}

impl SpiffeId {
    pub(crate) fn new(
        trust_domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, SpiffeError> {
        Self::parse(&format!(
            "{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}"
        ))
    }

    /// Strict: no percent escapes, no wildcards, no empty or relative
    /// segments, nothing before or after.
    pub(crate) fn parse(uri: &str) -> Result<Self, SpiffeError> {
        if uri.len() > MAX_ID {
            return Err(SpiffeError::TooLong);
        }
        let rest = uri.strip_prefix(SCHEME).ok_or(SpiffeError::Scheme)?;
        let (trust_domain, path) = rest.split_once('/').ok_or(SpiffeError::Path)?;
        TrustDomain::new(trust_domain)?;
        let mut parts = path.split('/');
        let mut next = || parts.next().ok_or(SpiffeError::Path);
        let (ns, namespace, sa, account) = (next()?, next()?, next()?, next()?);
        let whole = ns == "ns" && sa == "sa" && is_segment(namespace) && is_segment(account);
        if !whole || parts.next().is_some() {
            return Err(SpiffeError::Path);
        }
        let trust_domain_end = SCHEME.len() + trust_domain.len();
        let namespace_end = trust_domain_end + "/ns/".len() + namespace.len();
        let short = |n: usize| u16::try_from(n).map_err(|_| SpiffeError::TooLong);
        Ok(Self {
            uri: uri.into(),
            trust_domain_end: short(trust_domain_end)?,
            namespace_end: short(namespace_end)?,
        })
    }

    #[must_use]
    pub(crate) fn as_str(&self) -> &str {
        &self.uri
    }

    /// Without `spiffe://`: Istio's form of a principal.
    #[must_use]
    pub(crate) fn principal(&self) -> &str {
        &self.uri[SCHEME.len()..]
    }

    #[must_use]
    pub(crate) fn trust_domain(&self) -> &str {
        &self.uri[SCHEME.len()..usize::from(self.trust_domain_end)]
    }

    #[must_use]
    pub(crate) fn namespace(&self) -> &str {
        &self.uri
            [usize::from(self.trust_domain_end) + "/ns/".len()..usize::from(self.namespace_end)]
    }

    #[must_use]
    pub(crate) fn service_account(&self) -> &str {
        &self.uri[usize::from(self.namespace_end) + "/sa/".len()..]
    }
}

/// Letters, digits, '.', '-', '_' (SPIFFE-ID, section 2.2), and not "." or "..".
fn is_segment(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    !matches!(text, "" | "." | "..") && text.bytes().all(allowed)
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_identity_has_three_parts() {
        let id = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web-1").expect("an identity");
        assert_eq!(id.trust_domain(), "cluster.local");
        assert_eq!(id.namespace(), "shop");
        assert_eq!(id.service_account(), "web-1");
        assert_eq!(id.principal(), "cluster.local/ns/shop/sa/web-1");
        let domain = TrustDomain::new("cluster.local").expect("a trust domain");
        assert_eq!(SpiffeId::new(&domain, "shop", "web-1"), Ok(id));
    }

    #[test]
    fn what_is_almost_an_identity_is_refused() {
        for (text, error) in [
            ("", SpiffeError::Scheme),
            ("SPIFFE://td/ns/a/sa/b", SpiffeError::Scheme),
            (" spiffe://td/ns/a/sa/b", SpiffeError::Scheme),
            ("https://td/ns/a/sa/b", SpiffeError::Scheme),
            ("spiffe://td", SpiffeError::Path),
            ("spiffe:///ns/a/sa/b", SpiffeError::TrustDomain),
            ("spiffe://TD/ns/a/sa/b", SpiffeError::TrustDomain),
            ("spiffe://u@td/ns/a/sa/b", SpiffeError::TrustDomain),
            ("spiffe://td:8/ns/a/sa/b", SpiffeError::TrustDomain),
            ("spiffe://*/ns/a/sa/b", SpiffeError::TrustDomain),
            ("spiffe://td/ns/a/sa/b/", SpiffeError::Path),
            ("spiffe://td/ns/a/sa/b/c", SpiffeError::Path),
            ("spiffe://td/ns/a/sa/", SpiffeError::Path),
            ("spiffe://td/ns//sa/b", SpiffeError::Path),
            ("spiffe://td/ns/../sa/b", SpiffeError::Path),
            ("spiffe://td/ns/a/sa/*", SpiffeError::Path),
            ("spiffe://td/ns/a/sa/b%2fc", SpiffeError::Path),
            ("spiffe://td/ns/a/sa/b\0", SpiffeError::Path),
            ("spiffe://td/ns/a/sa/b?x=1", SpiffeError::Path),
            ("spiffe://td/ns/a/sa/b#x", SpiffeError::Path),
            ("spiffe://td//ns/a/sa/b", SpiffeError::Path),
            ("spiffe://td/sa/b/ns/a", SpiffeError::Path),
        ] {
            assert_eq!(SpiffeId::parse(text), Err(error), "{text:?}");
        }
        let long = format!("spiffe://td/ns/a/sa/{}", "b".repeat(2048));
        assert_eq!(SpiffeId::parse(&long), Err(SpiffeError::TooLong));
    }

    proptest! {
        #[test]
        fn what_parses_is_made_of_its_parts(text in "spiffe://[a-z.%]{0,5}/ns/[a-z./%*]{0,6}/sa/[a-z./%]{0,6}") {
            if let Ok(id) = SpiffeId::parse(&text) {
                let domain = TrustDomain::new(id.trust_domain()).expect("a trust domain");
                prop_assert_eq!(SpiffeId::new(&domain, id.namespace(), id.service_account()), Ok(id));
            }
        }
    }
}
