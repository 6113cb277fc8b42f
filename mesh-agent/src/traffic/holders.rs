//! Which policy of a namespace holds where, found once for all of them: to ask each policy for
//! each other one takes minutes where a namespace has tens of thousands.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::traffic_policy::{PolicyKind, PolicyTarget, TrafficPolicy};
use crate::model::{Name, Snapshot};

type Policies = Arc<[Arc<TrafficPolicy>]>;

/// Of one namespace, as long as its policies are the same.
#[derive(Debug, Default)]
pub(crate) struct Holders {
    policies: Option<Policies>,
    /// By their place in the list.
    of_services: BTreeMap<(PolicyKind, Name), OfService>,
}

#[derive(Debug, Default)]
struct OfService {
    whole: Option<usize>,
    ports: BTreeMap<Name, usize>,
}

impl Holders {
    #[must_use]
    pub(crate) fn new(snapshot: &Snapshot, namespace: &str) -> Self {
        let policies = snapshot.traffic_policies.group(namespace).cloned();
        let mut holders = Self::default();
        let all = policies.iter().flat_map(|all| all.iter().enumerate());
        for (at, policy) in all {
            for target in &policy.targets {
                holders.take(policies.as_deref().unwrap_or_default(), at, target);
            }
        }
        holders.policies = policies;
        holders
    }

    /// Nothing is found anew where nothing changed.
    pub(crate) fn follow(&mut self, snapshot: &Snapshot, namespace: &str) {
        let is_same = match (&self.policies, snapshot.traffic_policies.group(namespace)) {
            (Some(of), Some(now)) => Arc::ptr_eq(of, now),
            (of, now) => of.is_none() && now.is_none(),
        };
        if !is_same {
            *self = Self::new(snapshot, namespace);
        }
    }

    fn take(&mut self, all: &[Arc<TrafficPolicy>], at: usize, target: &PolicyTarget) {
        let key = (all[at].kind, target.service.clone());
        let of = self.of_services.entry(key).or_default();
        let held = match &target.section {
            None => of.whole.get_or_insert(at),
            Some(port) => of.ports.entry(port.clone()).or_insert(at),
        };
        if *held != at && all[at].order() < all[*held].order() {
            *held = at;
        }
    }

    /// The one that holds for all of the Service (`None`), or that names this port.
    #[must_use]
    pub(super) fn of(
        &self,
        service: &Name,
        (kind, section): (PolicyKind, Option<&str>),
    ) -> Option<&Arc<TrafficPolicy>> {
        let of = self.of_services.get(&(kind, service.clone()))?;
        let at = match section {
            None => of.whole?,
            Some(port) => *of.ports.get(port)?,
        };
        self.policies.as_deref()?.get(at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;

    use super::*;
    use crate::model::ServiceKey;
    use crate::model::traffic_policy::Says;
    use crate::traffic::holder;

    const SERVICES: [&str; 2] = ["web", "db"];
    const SECTIONS: [Option<&str>; 3] = [None, Some("http"), Some("tcp")];
    const KINDS: [PolicyKind; 2] = [PolicyKind::TrafficPolicy, PolicyKind::XBackendTrafficPolicy];

    type Written = (bool, Option<u64>, Vec<(usize, usize)>);

    fn policy(at: usize, (is_other, created, targets): Written) -> Arc<TrafficPolicy> {
        let targets = targets.into_iter().map(|(service, section)| PolicyTarget {
            service: SERVICES[service].into(),
            section: SECTIONS[section].map(Into::into),
        });
        Arc::new(TrafficPolicy {
            kind: KINDS[usize::from(is_other)],
            namespace: "shop".into(),
            name: format!("p{at}").into(),
            created: created.map(|s| SystemTime::UNIX_EPOCH + Duration::from_secs(s)),
            targets: targets.collect(),
            says: Says::default(),
            fault: None,
            is_known: true,
            without_effect: [].into(),
        })
    }

    proptest! {
        #[test]
        fn who_holds_is_who_would_be_found_by_asking_each(
            written in proptest::collection::vec(
                (any::<bool>(), proptest::option::of(0_u64..3), proptest::collection::vec((0_usize..2, 0_usize..3), 0..4)),
                0..12,
            )
        ) {
            let policies: Vec<_> = written.into_iter().enumerate().map(|(at, one)| policy(at, one)).collect();
            let mut snapshot = Snapshot::default();
            snapshot.traffic_policies.set("shop".into(), policies.clone());
            let holders = Holders::new(&snapshot, "shop");
            for service in SERVICES {
                for kind in KINDS {
                    for section in SECTIONS {
                        let slowly = holder(&policies, &ServiceKey::new("shop", service), (kind, section));
                        prop_assert_eq!(holders.of(&service.into(), (kind, section)), slowly);
                    }
                }
            }
        }
    }

    #[test]
    fn who_follows_sees_the_policies_of_now_and_of_another_namespace() {
        let mut snapshot = Snapshot::default();
        let one = policy(0, (false, None, vec![(0, 0)]));
        let key = (PolicyKind::TrafficPolicy, None);
        let mut holders = Holders::new(&snapshot, "shop");
        assert_eq!(holders.of(&"web".into(), key), None);
        snapshot
            .traffic_policies
            .set("shop".into(), vec![one.clone()]);
        holders.follow(&snapshot, "shop");
        assert_eq!(holders.of(&"web".into(), key), Some(&one));
        holders.follow(&snapshot, "other");
        assert_eq!(holders.of(&"web".into(), key), None);
    }
}
