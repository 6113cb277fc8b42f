//! The table of kinds: what is served of the configuration, one entry a kind.
//!
//! An entry is a kind's own file: what the API calls it, how it is read, what
//! two versions of it come to, where the snapshot has it. All that is asked of
//! any kind (which are served, how it is told in messages and documentation)
//! follows from this table.

mod about;
#[cfg(test)]
mod api;
mod authorization_policy;
mod endpoint_slice;
mod found;
mod meta;
mod namespace;
mod on_node;
mod part;
mod peer_authentication;
mod pod;
mod reference_grant;
mod route;
mod rules;
mod runtime_class;
mod scope;
mod service;
mod service_account;
mod traffic_policy;
mod unread;

use std::net::IpAddr;
use std::sync::Arc;

use super::fields::Mistake;
use super::intern::Interner;
use super::tree::Node;
use crate::model::policy::{AuthorizationPolicy, PeerAuthentication};
use crate::model::route::Route;
use crate::model::traffic_policy::TrafficPolicy;
use crate::model::{Name, Snapshot};
pub(crate) use about::{About, Followed};
pub(super) use about::{Contradiction, Followers};
use about::{Fact, Policy, Record};
pub(super) use endpoint_slice::{Endpoint, EndpointPort, EndpointSlice, TargetRef};
pub(super) use found::Found;
pub(super) use meta::{ENROLLED, Meta, OBJECT_META};
use namespace::Namespace;
pub(super) use part::{Part, Parts, Unknown};
pub(super) use pod::Pod;
pub(super) use reference_grant::Grant;
pub(super) use route::{FOREIGN, GROUP as ROUTES, NOT_YET, UNSERVED};
use route::{GRPCRoute, HTTPRoute, TCPRoute, TLSRoute};
pub(super) use runtime_class::{RuntimeClass, unfit_by_name};
pub(super) use service::{Distribution, PortRef, ServicePort, ServiceSpec};
use service_account::ServiceAccount;
use traffic_policy::{Backend, Traffic};
#[cfg(test)]
pub(crate) use traffic_policy::{definition, fields_page};

/// Variant, which is the kind's name, and the type that is made of it.
macro_rules! kinds {
    (
        records { $($record:ident($record_type:ty),)* }
        facts { $($fact:ident($fact_type:ty),)* }
        policies { $($policy:ident($policy_type:ty),)* }
    ) => {
        /// In the order in which objects are made sense of.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) enum KindId {
            $($record,)*
            $($fact,)*
            $($policy,)*
        }

        /// What a kind is to the store.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Nature {
            Record,
            Fact(FactId),
            Policy,
        }

        /// One that says what there is, and of which the store makes more than it says.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum FactId {
            $($fact,)*
        }

        /// What an object says, by its kind.
        #[derive(Clone, Debug)]
        pub(crate) enum Kind {
            $($record(Box<$record_type>),)*
            $($fact(Box<$fact_type>),)*
            $($policy(Box<$policy_type>),)*
            /// Something that may be any of these.
            Unknown(Box<Unknown>),
        }

        impl KindId {
            pub(crate) const ALL: &[Self] = &[
                $(Self::$record,)*
                $(Self::$fact,)*
                $(Self::$policy,)*
            ];

            pub(crate) fn about(self) -> &'static About {
                match self {
                    $(Self::$record => &<$record_type as Fact>::ABOUT,)*
                    $(Self::$fact => &<$fact_type as Fact>::ABOUT,)*
                    $(Self::$policy => &<$policy_type as Policy>::ABOUT,)*
                }
            }

            pub(super) fn nature(self) -> Nature {
                match self {
                    $(Self::$record => Nature::Record,)*
                    $(Self::$fact => Nature::Fact(FactId::$fact),)*
                    $(Self::$policy => Nature::Policy,)*
                }
            }

            /// Of records.
            pub(super) fn followers(self) -> Followers {
                match self {
                    $(Self::$record => <$record_type as Record>::FOLLOWERS,)*
                    $(Self::$fact => Followers::Nobody,)*
                    $(Self::$policy => Followers::Nobody,)*
                }
            }

            /// `None` for a policy.
            pub(super) fn read_fact(self, value: &Node<'_>, found: &mut Found) -> Option<Kind> {
                match self {
                    $(Self::$record => {
                        Some(Kind::$record(Box::new(<$record_type as Fact>::read(value, found))))
                    })*
                    $(Self::$fact => {
                        Some(Kind::$fact(Box::new(<$fact_type as Fact>::read(value, found))))
                    })*
                    $(Self::$policy => None,)*
                }
            }

            /// `None` for a fact. Metadata that are not trusted may be anybody's.
            pub(super) fn read_policy(
                self,
                value: &Node<'_>,
                (meta, is_trusted): (&Meta, bool),
                mistakes: &mut Vec<Mistake>,
            ) -> Option<Kind> {
                match self {
                    $(Self::$record => None,)*
                    $(Self::$fact => None,)*
                    $(Self::$policy => {
                        let policy = <$policy_type as Policy>::read(value, meta, is_trusted, mistakes);
                        Some(Kind::$policy(Box::new(policy)))
                    })*
                }
            }

            /// Has the spec fields that only this policy has?
            pub(super) fn is_in(self, spec: &Node<'_>) -> bool {
                match self {
                    $(Self::$record => false,)*
                    $(Self::$fact => false,)*
                    $(Self::$policy => <$policy_type as Policy>::is_in(spec),)*
                }
            }

            /// Does a text that is no document speak of this policy?
            pub(super) fn is_spoken_of(self, text: &str) -> bool {
                match self {
                    $(Self::$record => false,)*
                    $(Self::$fact => false,)*
                    $(Self::$policy => <$policy_type as Policy>::is_spoken_of(text),)*
                }
            }

            /// Stands for whatever there may be of this policy.
            pub(super) fn anything(self, namespace: &str, name: &str, why: &str) -> Option<Kind> {
                match self {
                    $(Self::$record => None,)*
                    $(Self::$fact => None,)*
                    $(Self::$policy => {
                        let policy = <$policy_type as Policy>::anything(namespace, name, why);
                        Some(Kind::$policy(Box::new(policy)))
                    })*
                }
            }

            /// Of a record: makes `all` those of the namespace; were there others?
            pub(super) fn publish_records<'a>(
                self,
                snapshot: &mut Snapshot,
                namespace: &Name,
                all: impl Iterator<Item = &'a Kind>,
            ) -> bool {
                match self {
                    $(Self::$record => {
                        let mut of_kind = all.filter_map(|kind| match kind {
                            Kind::$record(record) => Some(&**record),
                            _ => None,
                        });
                        <$record_type as Record>::publish(snapshot, namespace, &mut of_kind)
                    })*
                    $(Self::$fact => false,)*
                    $(Self::$policy => false,)*
                }
            }

            /// Makes `policies` those of the namespace; were there others?
            pub(super) fn publish(
                self,
                snapshot: &mut Snapshot,
                namespace: &Name,
                policies: Vec<Kind>,
            ) -> bool {
                match self {
                    $(Self::$record => false,)*
                    $(Self::$fact => false,)*
                    $(Self::$policy => {
                        let of_kind = policies.into_iter().filter_map(|kind| match kind {
                            Kind::$policy(policy) => Some(*policy),
                            _ => None,
                        });
                        let all = <$policy_type as Policy>::of(snapshot);
                        let list = of_kind.map(Arc::new).collect();
                        all.put(namespace, list, |policy| policy.name.clone())
                    })*
                }
            }
        }

        impl Kind {
            /// `None` for what may be any.
            pub(super) fn id(&self) -> Option<KindId> {
                Some(match self {
                    $(Self::$record(_) => KindId::$record,)*
                    $(Self::$fact(_) => KindId::$fact,)*
                    $(Self::$policy(_) => KindId::$policy,)*
                    Self::Unknown(_) => return None,
                })
            }

            /// False where it has no such part, or is a policy.
            pub(super) fn fill(&mut self, before: &Self, part: Part) -> bool {
                match (self, before) {
                    $((Self::$record(now), Self::$record(before)) => now.fill(before, part),)*
                    $((Self::$fact(now), Self::$fact(before)) => now.fill(before, part),)*
                    _ => false,
                }
            }

            pub(super) fn share(&mut self, names: &mut Interner) {
                match self {
                    $(Self::$record(record) => record.share(names),)*
                    $(Self::$fact(fact) => fact.share(names),)*
                    $(Self::$policy(_) => {})*
                    Self::Unknown(_) => {}
                }
            }

            pub(super) fn strictness(&self, meta: &Meta) -> u8 {
                match self {
                    $(Self::$record(_) => <$record_type as Fact>::strictness(meta),)*
                    $(Self::$fact(_) => <$fact_type as Fact>::strictness(meta),)*
                    $(Self::$policy(_) => 0,)*
                    Self::Unknown(_) => 0,
                }
            }

            /// Addresses that are nobody else's, also where this version does not
            /// count.
            pub(super) fn addresses(&self) -> Vec<IpAddr> {
                match self {
                    $(Self::$record(record) => record.addresses(),)*
                    $(Self::$fact(fact) => fact.addresses(),)*
                    $(Self::$policy(_) => Vec::new(),)*
                    Self::Unknown(_) => Vec::new(),
                }
            }

            /// Of two versions of one object.
            pub(super) fn contradiction(
                one: (&Meta, &Self),
                other: (&Meta, &Self),
            ) -> Contradiction {
                match (one.1, other.1) {
                    $((Self::$record(a), Self::$record(b)) => {
                        <$record_type as Fact>::contradiction((one.0, a), (other.0, b))
                    })*
                    $((Self::$fact(a), Self::$fact(b)) => {
                        <$fact_type as Fact>::contradiction((one.0, a), (other.0, b))
                    })*
                    $((Self::$policy(a), Self::$policy(b)) if a == b => Contradiction::None,)*
                    _ => Contradiction::Whole,
                }
            }

            /// Of a policy: what stays where nobody can say that it is meant.
            pub(super) fn fail_closed(&mut self, why: &str) {
                match self {
                    $(Self::$record(_) => {})*
                    $(Self::$fact(_) => {})*
                    $(Self::$policy(policy) => policy.fail_closed(why),)*
                    Self::Unknown(_) => {}
                }
            }

            /// A policy that is in force, and not only tried.
            pub(super) fn restricts(&self) -> bool {
                match self {
                    $(Self::$record(_) => false,)*
                    $(Self::$fact(_) => false,)*
                    $(Self::$policy(policy) => policy.restricts(),)*
                    Self::Unknown(_) => false,
                }
            }

            /// A policy that is to hold instead of `now`, which has a mistake.
            pub(super) fn is_better_than(&self, now: &Self) -> bool {
                match (self, now) {
                    $((Self::$policy(before), Self::$policy(now)) => before.is_better_than(now),)*
                    _ => false,
                }
            }
        }
    };
}

kinds! {
    records {
        ServiceAccount(ServiceAccount),
        RuntimeClass(RuntimeClass),
        ReferenceGrant(Grant),
    }
    facts {
        Namespace(Namespace),
        Pod(Pod),
        EndpointSlice(EndpointSlice),
        Service(ServiceSpec),
        GRPCRoute(GRPCRoute),
        HTTPRoute(HTTPRoute),
        TLSRoute(TLSRoute),
        TCPRoute(TCPRoute),
        TrafficPolicy(Traffic),
        XBackendTrafficPolicy(Backend),
    }
    policies {
        AuthorizationPolicy(AuthorizationPolicy),
        PeerAuthentication(PeerAuthentication),
    }
}

impl KindId {
    /// In the order of `PolicyKind`.
    pub(super) const TRAFFIC: [Self; 2] = [Self::TrafficPolicy, Self::XBackendTrafficPolicy];

    /// In the order of `RouteKind`.
    pub(super) const ROUTES: [Self; 4] = [
        Self::GRPCRoute,
        Self::HTTPRoute,
        Self::TLSRoute,
        Self::TCPRoute,
    ];

    pub(super) fn is_policy(self) -> bool {
        self.nature() == Nature::Policy
    }

    pub(super) fn policies() -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(|kind| kind.is_policy())
    }
}

impl Kind {
    pub(super) fn route(&self) -> Option<&Arc<Route>> {
        match self {
            Self::GRPCRoute(route) => Some(&route.0),
            Self::HTTPRoute(route) => Some(&route.0),
            Self::TLSRoute(route) => Some(&route.0),
            Self::TCPRoute(route) => Some(&route.0),
            _ => None,
        }
    }

    pub(super) fn traffic_policy(&self) -> Option<&Arc<TrafficPolicy>> {
        match self {
            Self::TrafficPolicy(policy) => Some(&policy.0),
            Self::XBackendTrafficPolicy(policy) => Some(&policy.0),
            _ => None,
        }
    }

    pub(super) fn is_policy(&self) -> bool {
        self.id().is_some_and(KindId::is_policy)
    }
}
