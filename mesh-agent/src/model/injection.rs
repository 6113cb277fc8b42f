//! Faults that are injected on purpose, to see how callers bear them: what a
//! [`TrafficPolicy`](super::traffic_policy::TrafficPolicy) says of them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Name, SpiffeId};

/// Into requests of these callers, so many of a hundred, until then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Injection {
    /// NAMESPACE/POLICY/NAME.
    pub(crate) by: Arc<str>,
    pub(crate) name: Name,
    /// Somebody.
    pub(crate) from: Callers,
    pub(crate) percent: u32,
    /// Before anything of the request goes on.
    pub(crate) delay: Option<Duration>,
    /// The answer, which no server has given.
    pub(crate) abort: Option<Abort>,
    pub(crate) until: SystemTime,
}

/// In the words of HTTP and of gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Abort {
    pub(crate) http: u16,
    pub(crate) grpc: u8,
}

/// One of them is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Callers {
    pub(crate) principals: Box<[Principal]>,
    pub(crate) namespaces: Box<[Name]>,
}

/// `TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Principal {
    /// One of the names of the mesh's own.
    pub(crate) trust_domain: Box<str>,
    /// What stands behind that, with its `/`.
    pub(crate) path: Box<str>,
}

impl Injection {
    /// From then on it has no effect.
    #[must_use]
    pub(crate) fn is_over(&self, now: SystemTime) -> bool {
        now >= self.until
    }
}

impl Callers {
    #[must_use]
    pub(crate) fn is_nobody(&self) -> bool {
        self.principals.is_empty() && self.namespaces.is_empty()
    }

    /// A workload of this mesh. `is_own`: of a trust domain.
    #[must_use]
    pub(crate) fn have(&self, caller: &SpiffeId, is_own: impl Fn(&str) -> bool) -> bool {
        let by_namespace = || {
            let mut namespaces = self.namespaces.iter();
            namespaces.any(|namespace| *namespace == *caller.namespace())
        };
        let is_it = |principal: &Principal| {
            let path = caller.principal().strip_prefix(caller.trust_domain());
            path == Some(&*principal.path) && is_own(&principal.trust_domain)
        };
        by_namespace() || self.principals.iter().any(is_it)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> SpiffeId {
        SpiffeId::parse(text).expect("an id")
    }

    #[test]
    fn it_is_for_those_that_it_names_by_any_name_of_the_mesh_and_for_nobody_else() {
        let is_own = |domain: &str| matches!(domain, "mesh.example" | "cluster.local");
        let of = |domain: &str| Callers {
            principals: [Principal {
                trust_domain: domain.into(),
                path: "/ns/shop/sa/cart".into(),
            }]
            .into(),
            ..Callers::default()
        };
        let cart = id("spiffe://mesh.example/ns/shop/sa/cart");
        assert!(of("mesh.example").have(&cart, is_own));
        assert!(of("cluster.local").have(&cart, is_own));
        assert!(!of("other.example").have(&cart, is_own));
        for other in [
            "spiffe://mesh.example/ns/shop/sa/cart-2",
            "spiffe://mesh.example/ns/prod/sa/cart",
        ] {
            assert!(!of("mesh.example").have(&id(other), is_own), "{other}");
        }
        let namespace = Callers {
            namespaces: ["shop".into()].into(),
            ..Callers::default()
        };
        assert!(namespace.have(&cart, is_own));
        assert!(!namespace.have(&id("spiffe://mesh.example/ns/shop-2/sa/cart"), is_own));
        assert!(Callers::default().is_nobody() && !Callers::default().have(&cart, is_own));
    }
}
