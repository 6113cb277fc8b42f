//! Which TrafficPolicy holds for which port of a Service, and how each fares.
//!
//! Pure. Of the policies for the same Service, or for the same port of it, one
//! holds: the oldest, then the first by name; also where its present version is not
//! understood, for which one it is must be the same on every node. A port has, part
//! by part, what the policy that names it says, then what that of its Service says.

mod holders;
mod rates;
mod status;
mod words;

use std::sync::Arc;

pub(crate) use holders::Holders;
#[cfg(test)]
pub(crate) use rates::reference as reference_rates;
pub(crate) use rates::{Asks, Over, Rate, Rates, take};
pub(crate) use status::TargetStatus;
#[cfg(test)]
pub(crate) use status::status;
pub(crate) use words::{fault, words};

use crate::model::traffic::Traffic;
use crate::model::traffic_policy::{PolicyKind, TrafficPolicy};
use crate::model::{AppProtocol, ServiceKey};

/// The one that holds for all of the Service (`None`), or that names this port: of a Service's
/// own policies. Who asks for each policy of a namespace has [`Holders`].
#[must_use]
fn holder<'p>(
    policies: &'p [Arc<TrafficPolicy>],
    service: &ServiceKey,
    (kind, section): (PolicyKind, Option<&str>),
) -> Option<&'p Arc<TrafficPolicy>> {
    let all = policies.iter().filter(|policy| policy.kind == kind);
    let named = all.filter(|policy| policy.is_for(service, section));
    named.min_by(|a, b| a.order().cmp(&b.order()))
}

/// Of all ports that no policy names.
#[must_use]
pub(crate) fn of_service(policies: &[Arc<TrafficPolicy>], service: &ServiceKey) -> Arc<Traffic> {
    let of = |kind| holder(policies, service, (kind, None));
    // What is this mesh's own goes first.
    let said = [PolicyKind::XBackendTrafficPolicy, PolicyKind::TrafficPolicy].map(of);
    let over =
        |under: Arc<Traffic>, policy: &Arc<TrafficPolicy>| Arc::new(policy.says.over(&under));
    said.into_iter().flatten().fold(Traffic::unset(), over)
}

/// What holds for a port that a policy names.
#[must_use]
pub(crate) fn of_port(
    policies: &[Arc<TrafficPolicy>],
    service: (&ServiceKey, &Traffic),
    port: &str,
) -> Option<(Arc<Traffic>, Option<AppProtocol>)> {
    let (service, whole) = service;
    let policy = holder(policies, service, (PolicyKind::TrafficPolicy, Some(port)))?;
    Some((Arc::new(policy.says.over(whole)), policy.says.protocol))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::model::traffic::{Limits, Timeouts};
    use crate::model::traffic_policy::{PolicyTarget, Says};

    fn policy(name: &str, created: Option<u64>, section: Option<&str>) -> TrafficPolicy {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        TrafficPolicy {
            kind: PolicyKind::TrafficPolicy,
            namespace: "shop".into(),
            name: name.into(),
            created: created.map(at),
            targets: [PolicyTarget {
                service: "web".into(),
                section: section.map(Into::into),
            }]
            .into(),
            says: Says::default(),
            fault: None,
            is_known: true,
            without_effect: [].into(),
        }
    }

    fn held(policies: Vec<TrafficPolicy>) -> Option<String> {
        let policies: Vec<_> = policies.into_iter().map(Arc::new).collect();
        let web = ServiceKey::new("shop", "web");
        holder(&policies, &web, (PolicyKind::TrafficPolicy, None))
            .map(|policy| policy.name.to_string())
    }

    #[test]
    fn the_oldest_holds_then_the_first_by_name() {
        let of = |all: &[(&str, Option<u64>)]| {
            let all = all.iter();
            held(all.map(|(name, at)| policy(name, *at, None)).collect())
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("b", Some(1)), ("a", Some(2))]).as_deref(), Some("b"));
        assert_eq!(of(&[("b", Some(1)), ("a", Some(1))]).as_deref(), Some("a"));
        assert_eq!(of(&[("a", None), ("b", Some(9))]).as_deref(), Some("b"));
        assert_eq!(of(&[("b", None), ("a", None)]).as_deref(), Some("a"));
        let mut elsewhere = policy("a", Some(1), None);
        elsewhere.namespace = "other".into();
        assert_eq!(held(vec![elsewhere, policy("b", None, Some("http"))]), None);
    }

    #[test]
    fn a_port_has_what_its_policy_says_over_what_its_service_has() {
        let mut whole = policy("whole", Some(1), None);
        let (a, b) = (Duration::from_secs(1), Duration::from_secs(2));
        whole.says.timeouts = Some(Timeouts {
            connect: Some(a),
            idle: Some(a),
            request: None,
        });
        whole.says.limits = Some(Limits {
            max_requests: 7,
            ..Limits::default()
        });
        let mut port = policy("port", Some(2), Some("http"));
        port.says.timeouts = Some(Timeouts {
            connect: Some(b),
            ..Timeouts::default()
        });
        port.says.protocol = Some(AppProtocol::Grpc);
        let policies = [Arc::new(whole), Arc::new(port)];
        let web = ServiceKey::new("shop", "web");
        let whole = of_service(&policies, &web);
        assert_eq!(
            (whole.limits.max_requests, whole.timeouts.idle),
            (7, Some(a))
        );
        let (port, protocol) = of_port(&policies, (&web, &whole), "http").expect("its own");
        assert_eq!(protocol, Some(AppProtocol::Grpc));
        assert_eq!(port.limits.max_requests, 7, "it says nothing of it");
        assert_eq!(port.timeouts.connect, Some(b));
        assert_eq!(port.timeouts.idle, None, "a part is whole");
        assert_eq!(of_port(&policies, (&web, &whole), "other"), None);
    }
}
