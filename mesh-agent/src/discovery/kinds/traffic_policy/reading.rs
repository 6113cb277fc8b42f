//! What a TrafficPolicy says, part by part: each mistake is told, and the first one
//! says why the policy as it is does not count.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::super::found::Found;
use super::super::part::Part;
use super::super::route::NOT_YET;
use super::spec;
use super::values::Label;
use crate::discovery::fields::{Mistake, nulls, typed, unknown};
use crate::discovery::tree::{Node, View};
use crate::model::traffic::{
    BalanceBy, Counts, HashOn, Limits, LoadBalancer, Locality, OutlierDetection, Prefer, Rate,
    RateKey, RateLimit, RetryBudget, SuccessRate, Timeouts, Warmup,
};
use crate::model::traffic_policy::{PolicyTarget, Says, TrafficPolicy};
use crate::model::{AppProtocol, Name};

/// Those of [`spec::Spec`], which a test holds them to.
pub(super) const FIELDS: &[&str] = &[
    "faults",
    "limits",
    "loadBalancer",
    "outlierDetection",
    "protocol",
    "rateLimits",
    "retryBudget",
    "targetRefs",
    "timeouts",
];
/// Those that are read and checked, and not done.
pub(super) const UNSERVED: &[&str] = &[
    "limits.maxPendingRequests",
    "limits.maxPendingTime",
    "loadBalancer.locality",
];
const MAX_TARGETS: usize = 16;
const MAX_LIMITS: usize = 16;
const SECOND: Duration = Duration::from_secs(1);

pub(super) fn read(value: &Node<'_>, found: &mut Found) -> TrafficPolicy {
    let metadata = &value["metadata"];
    let text = |field: &str| metadata[field].as_text().unwrap_or_default();
    let namespace: Name = match text("namespace") {
        "" => "default".into(),
        namespace => namespace.into(),
    };
    let name: Name = text("name").into();
    let mut reading = Reading {
        spec: &value["spec"],
        mistakes: Vec::new(),
    };
    let top = ["apiVersion", "kind", "metadata", "spec", "status"];
    unknown(value, &top, "", &mut reading.mistakes);
    match reading.spec.view() {
        View::Mapping(_) => {
            unknown(reading.spec, FIELDS, "spec", &mut reading.mistakes);
            nulls(reading.spec, "spec", &mut reading.mistakes);
        }
        _ => reading.wrong("spec", "expected a mapping"),
    }
    let targets = reading.targets();
    let mut says = reading.says(&format!("{namespace}/{name}").into());
    if says.protocol.is_some() && targets.iter().any(|target| target.section.is_none()) {
        let message = "is of a port: each targetRef needs a sectionName";
        reading.wrong("spec.protocol", message);
    }
    for field in UNSERVED {
        let value = field.split('.').fold(reading.spec, |at, name| &at[name]);
        if !value.is_null() {
            found.advise(&format!("spec.{field}"), NOT_YET);
        }
    }
    let mistakes = reading.mistakes;
    let fault = mistakes.first();
    let fault = fault.map(|(at, what)| format!("{at}: {what}").into());
    for (at, what) in mistakes {
        found.mistake(&at, what, Part::Route);
    }
    if fault.is_some() {
        says = Says {
            rate_limits: says.rate_limits,
            ..Says::default()
        };
    }
    TrafficPolicy {
        namespace,
        name,
        created: humantime::parse_rfc3339(text("creationTimestamp")).ok(),
        targets,
        says,
        is_known: fault.is_none(),
        fault,
    }
}

pub(super) struct Reading<'n, 't> {
    spec: &'n Node<'t>,
    mistakes: Vec<Mistake>,
}

impl<'n, 't> Reading<'n, 't> {
    pub(super) fn wrong(&mut self, at: &str, what: impl Into<String>) {
        self.mistakes.push((at.to_owned(), what.into()));
    }

    pub(super) fn typed<T: DeserializeOwned>(&mut self, value: &Node<'_>, at: &str) -> Option<T> {
        match typed(value, at) {
            Ok(part) => Some(part),
            Err(mistake) => {
                self.mistakes.push(mistake);
                None
            }
        }
    }

    /// `None` also where nothing is said.
    fn part<T: DeserializeOwned>(&mut self, field: &str) -> Option<T> {
        let value = &self.spec[field];
        match value.is_null() {
            true => None,
            false => self.typed(value, &format!("spec.{field}")),
        }
    }

    /// None of more than `most`.
    pub(super) fn list(&mut self, field: &str, most: usize) -> Option<&'n [Node<'t>]> {
        let spec: &'n Node<'t> = self.spec;
        let at = format!("spec.{field}");
        match spec[field].view() {
            View::Null => None,
            View::List(list) if list.len() <= most => Some(list),
            View::List(list) => {
                let message = format!("{} are more than the {most} that are served", list.len());
                self.wrong(&at, message);
                None
            }
            _ => {
                self.wrong(&at, "expected a list");
                None
            }
        }
    }

    fn targets(&mut self) -> Box<[PolicyTarget]> {
        let mut targets: BTreeSet<PolicyTarget> = BTreeSet::new();
        let list = self.list("targetRefs", MAX_TARGETS).unwrap_or_default();
        if list.is_empty() && self.mistakes.is_empty() {
            self.wrong("spec.targetRefs", "names no Service");
        }
        for (i, value) in list.iter().enumerate() {
            let at = format!("spec.targetRefs[{i}]");
            let Some(target) = self.typed::<spec::TargetRef>(value, &at) else {
                continue;
            };
            let (spec::Core::Core, spec::ServiceKind::Service) = (target.group, target.kind);
            let is_new = targets.insert(PolicyTarget {
                service: target.name.0.into(),
                section: target.section_name.map(|Label(name)| name.into()),
            });
            if !is_new {
                self.wrong(&at, "is named twice");
            }
        }
        targets.into_iter().collect()
    }

    fn says(&mut self, policy: &Name) -> Says {
        let protocol = self.part::<spec::Protocol>("protocol");
        Says {
            protocol: protocol.map(app_protocol),
            load_balancer: self.load_balancer(),
            outlier_detection: self.outlier_detection(),
            limits: self.part("limits").map(limits),
            retry_budget: self.part("retryBudget").map(retry_budget),
            timeouts: self.part("timeouts").map(timeouts),
            rate_limits: self.rate_limits(policy),
            faults: self.faults(policy),
        }
    }

    fn load_balancer(&mut self) -> Option<LoadBalancer> {
        let at = "spec.loadBalancer";
        let said: spec::LoadBalancer = self.part("loadBalancer")?;
        let by = match (said.by, said.consistent_hash) {
            (Some(spec::BalanceType::ConsistentHash), Some(hash)) => {
                BalanceBy::ConsistentHash(self.hash_on(hash)?)
            }
            (Some(spec::BalanceType::ConsistentHash), None) | (_, Some(_)) => {
                self.wrong(at, "consistentHash and type ConsistentHash need each other");
                return None;
            }
            (None | Some(spec::BalanceType::PeakEwma), None) => BalanceBy::PeakEwma,
            (Some(spec::BalanceType::LeastRequest), None) => BalanceBy::LeastRequest,
            (Some(spec::BalanceType::RoundRobin), None) => BalanceBy::RoundRobin,
            (Some(spec::BalanceType::Random), None) => BalanceBy::Random,
        };
        Some(LoadBalancer {
            by,
            locality: said.locality.map(locality).unwrap_or_default(),
            warmup: said.warmup.map(|warmup| Warmup {
                duration: warmup.duration.0,
                minimum_percent: warmup.minimum_percent.map_or(10, |percent| percent.0),
            }),
        })
    }

    fn hash_on(&mut self, hash: spec::ConsistentHash) -> Option<HashOn> {
        match (hash.http_header_name, hash.http_cookie, hash.use_source_ip) {
            (Some(name), None, None) => Some(HashOn::Header(name.0.to_ascii_lowercase().into())),
            (None, Some(cookie), None) => Some(HashOn::Cookie {
                name: cookie.name.0.into(),
                path: cookie.path.map_or_else(|| "/".into(), |path| path.0.into()),
                ttl: cookie.ttl.map(|ttl| ttl.0),
            }),
            (None, None, Some(spec::Yes)) => Some(HashOn::SourceIp),
            _ => {
                let message = "exactly one of httpHeaderName, httpCookie and useSourceIp";
                self.wrong("spec.loadBalancer.consistentHash", message);
                None
            }
        }
    }

    fn outlier_detection(&mut self) -> Option<OutlierDetection> {
        let said: spec::OutlierDetection = self.part("outlierDetection")?;
        let unset = OutlierDetection::default();
        let base = said.base_ejection_time.map(|time| time.0);
        let longest = said.max_ejection_time.map(|time| time.0);
        let detection = OutlierDetection {
            is_on: said.enabled.unwrap_or(unset.is_on),
            consecutive_errors: or(said.consecutive_errors, unset.consecutive_errors),
            consecutive_local_origin_failures: or(
                said.consecutive_local_origin_failures,
                unset.consecutive_local_origin_failures,
            ),
            success_rate: match said.success_rate {
                Some(said) => success_rate(&said),
                None => unset.success_rate,
            },
            base_ejection_time: base.unwrap_or(unset.base_ejection_time),
            max_ejection_time: longest.unwrap_or(unset.max_ejection_time),
            max_ejection_percent: said
                .max_ejection_percent
                .map_or(unset.max_ejection_percent, |percent| percent.0),
        };
        if detection.base_ejection_time > detection.max_ejection_time {
            let message = "baseEjectionTime is more than maxEjectionTime";
            self.wrong("spec.outlierDetection", message);
            return None;
        }
        Some(detection)
    }

    /// Those that can be read, also where others cannot.
    fn rate_limits(&mut self, policy: &Name) -> Option<Arc<[RateLimit]>> {
        let list = self.list("rateLimits", MAX_LIMITS)?;
        let mut names = BTreeSet::new();
        let mut limits = Vec::new();
        for (i, value) in list.iter().enumerate() {
            let at = format!("spec.rateLimits[{i}]");
            let said = self.typed::<spec::RateLimit>(value, &at);
            let Some(limit) = said.and_then(|said| self.rate_limit(said, &at, policy)) else {
                continue;
            };
            match names.insert(limit.name.clone()) {
                true => limits.push(limit),
                false => self.wrong(&format!("{at}.name"), "is another limit's name"),
            }
        }
        Some(limits.into())
    }

    fn rate_limit(&mut self, said: spec::RateLimit, at: &str, policy: &Name) -> Option<RateLimit> {
        let (counts, count) = match (said.requests, said.connections) {
            (Some(count), None) => (Counts::Requests, count.0),
            (None, Some(count)) => (Counts::Connections, count.0),
            _ => {
                self.wrong(at, "exactly one of requests and connections");
                return None;
            }
        };
        let key = match said.key.map(|key| (key.by, key.header)) {
            None | Some((spec::KeyType::Principal, None)) => RateKey::Principal,
            Some((spec::KeyType::Service, None)) => RateKey::Service,
            Some((spec::KeyType::Header, Some(_))) if counts == Counts::Connections => {
                self.wrong(&format!("{at}.key"), "connections have no headers");
                return None;
            }
            Some((spec::KeyType::Header, Some(name))) => {
                RateKey::Header(name.0.to_ascii_lowercase().into())
            }
            Some((spec::KeyType::Header, None) | (_, Some(_))) => {
                let message = "header and type Header need each other";
                self.wrong(&format!("{at}.key"), message);
                return None;
            }
        };
        Some(RateLimit {
            policy: policy.clone(),
            name: said.name.0.into(),
            counts,
            rate: Rate {
                count,
                per: said.interval.map_or(SECOND, |time| time.0),
            },
            burst: said.burst.map_or(count, |burst| burst.0),
            key,
            dry_run: said.dry_run.unwrap_or(false),
        })
    }
}

/// 0 switches it off.
fn or(
    said: Option<super::values::Within<0, 1_000>>,
    unset: Option<NonZeroU32>,
) -> Option<NonZeroU32> {
    said.map_or(unset, |count| NonZeroU32::new(count.0))
}

fn success_rate(said: &spec::SuccessRate) -> Option<SuccessRate> {
    let unset = SuccessRate::default();
    let threshold = said.threshold_percent.map(|percent| percent.0);
    let threshold_percent = threshold.unwrap_or(unset.threshold_percent);
    (threshold_percent > 0).then(|| SuccessRate {
        threshold_percent,
        request_volume: said
            .request_volume
            .map_or(unset.request_volume, |volume| volume.0),
        interval: said.interval.map_or(unset.interval, |time| time.0),
    })
}

fn app_protocol(said: spec::Protocol) -> AppProtocol {
    match said {
        spec::Protocol::HTTP => AppProtocol::Http1,
        spec::Protocol::HTTP2 => AppProtocol::Http2,
        spec::Protocol::GRPC => AppProtocol::Grpc,
        spec::Protocol::TLS => AppProtocol::Tls,
        spec::Protocol::TCP => AppProtocol::Tcp,
    }
}

fn locality(said: spec::Locality) -> Locality {
    let unset = Locality::default();
    Locality {
        prefer: match said.prefer {
            None => unset.prefer,
            Some(spec::Prefer::Node) => Prefer::Node,
            Some(spec::Prefer::Zone) => Prefer::Zone,
            Some(spec::Prefer::None) => Prefer::Nothing,
        },
        spill_over_percent: said
            .spill_over_percent
            .map_or(unset.spill_over_percent, |percent| percent.0),
    }
}

fn limits(said: spec::Limits) -> Limits {
    let unset = Limits::default();
    let pending = said.max_pending_requests.map(|count| count.0);
    Limits {
        max_connections: said.max_connections.map(|count| count.0),
        max_requests: said
            .max_requests
            .map_or(unset.max_requests, |count| count.0),
        max_pending_requests: pending.unwrap_or(unset.max_pending_requests),
        max_pending_time: said
            .max_pending_time
            .map_or(unset.max_pending_time, |time| time.0),
    }
}

fn retry_budget(said: spec::RetryBudget) -> RetryBudget {
    let unset = RetryBudget::default();
    RetryBudget {
        percent: said.percent.map_or(unset.percent, |percent| percent.0),
        interval: said.interval.map_or(unset.interval, |time| time.0),
        min_retries: said.min_retry_rate.map_or(unset.min_retries, |rate| Rate {
            count: rate.count.0,
            per: rate.interval.map_or(SECOND, |time| time.0),
        }),
    }
}

fn timeouts(said: spec::Timeouts) -> Timeouts {
    Timeouts {
        connect: said.connect.map(|time| time.0),
        idle: said.idle.map(|time| time.0),
        request: said.request.map(|time| time.0),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::api::fields;
    use super::*;

    #[test]
    fn the_fields_are_those_of_the_type() {
        assert_eq!(FIELDS, fields::<spec::Spec>());
    }
}
