//! What a TrafficPolicy says, part by part: each mistake is told, and the first one
//! says why the policy as it is does not count.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use serde::de::{DeserializeOwned, IgnoredAny};

use super::super::NOT_YET;
use super::super::found::Found;
use super::super::part::Part;
use super::spec;
use super::values::Label;
use crate::discovery::fields::{Mistake, nulls, typed, unknown};
use crate::discovery::tree::{Node, View};
use crate::model::traffic::{
    BalanceBy, Counts, HashOn, Hedging, Limits, LoadBalancer, Locality, OutlierDetection, Prefer,
    Rate, RateKey, RateLimit, RequestMatch, RetryBudget, SuccessRate, Timeouts, Warmup,
};
use crate::model::traffic_policy::{PolicyKind, PolicyTarget, Says, TrafficPolicy};
use crate::model::{AppProtocol, Name};

/// Those of [`spec::Spec`], which a test holds them to.
pub(super) const FIELDS: &[&str] = &[
    "faults",
    "hedging",
    "limits",
    "loadBalancer",
    "outlierDetection",
    "protocol",
    "rateLimits",
    "retryBudget",
    "targetRefs",
    "timeouts",
];
pub(super) const MAX_TARGETS: usize = 16;
const MAX_LIMITS: usize = 16;
const MAX_METHODS: usize = 4;
const MAX_GRPC: usize = 64;
const SECOND: Duration = Duration::from_secs(1);

pub(super) fn read(value: &Node<'_>, found: &mut Found) -> TrafficPolicy {
    let mut reading = Reading::begin(value, FIELDS);
    let targets = reading.targets();
    let mut says = reading.says(&reading.policy.clone());
    if says.protocol.is_some() && targets.iter().any(|target| target.section.is_none()) {
        let message = "is of a port: each targetRef needs a sectionName";
        reading.wrong("spec.protocol", message);
    }
    if !reading.is_good() {
        says = Says {
            rate_limits: says.rate_limits,
            ..Says::default()
        };
    }
    reading.end(value, found, (PolicyKind::TrafficPolicy, targets, says))
}

pub(super) struct Reading<'n, 't> {
    spec: &'n Node<'t>,
    namespace: Name,
    name: Name,
    /// `namespace/name`.
    policy: Name,
    mistakes: Vec<Mistake>,
}

impl<'n, 't> Reading<'n, 't> {
    /// `fields`: those that its spec may have.
    pub(super) fn begin(value: &'n Node<'t>, fields: &[&str]) -> Self {
        let metadata = &value["metadata"];
        let text = |field: &str| metadata[field].as_text().unwrap_or_default();
        let namespace = match text("namespace") {
            "" => "default",
            namespace => namespace,
        };
        let mut reading = Self {
            spec: &value["spec"],
            namespace: namespace.into(),
            name: text("name").into(),
            policy: format!("{namespace}/{}", text("name")).into(),
            mistakes: Vec::new(),
        };
        let top = ["apiVersion", "kind", "metadata", "spec", "status"];
        unknown(value, &top, "", &mut reading.mistakes);
        match reading.spec.view() {
            View::Mapping(_) => {
                unknown(reading.spec, fields, "spec", &mut reading.mistakes);
                nulls(reading.spec, "spec", &mut reading.mistakes);
            }
            _ => reading.wrong("spec", "expected a mapping"),
        }
        reading
    }

    /// What was read of it; `says` is what holds also where something is wrong.
    pub(super) fn end(
        self,
        value: &Node<'_>,
        found: &mut Found,
        (kind, targets, says): (PolicyKind, Box<[PolicyTarget]>, Says),
    ) -> TrafficPolicy {
        let created = value["metadata"]["creationTimestamp"].as_text();
        let fault = self.mistakes.first();
        let fault = fault.map(|(at, what)| format!("{at}: {what}").into());
        let idle = found.advisories.iter().filter(|(_, what)| what == NOT_YET);
        let without_effect = idle.map(|(at, _)| at.as_str().into()).collect();
        for (at, what) in self.mistakes {
            found.mistake(&at, what, Part::Route);
        }
        TrafficPolicy {
            kind,
            namespace: self.namespace,
            name: self.name,
            created: humantime::parse_rfc3339(created.unwrap_or_default()).ok(),
            targets,
            says,
            is_known: fault.is_none(),
            without_effect,
            fault,
        }
    }

    pub(super) fn is_good(&self) -> bool {
        self.mistakes.is_empty()
    }

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
    pub(super) fn part<T: DeserializeOwned>(&mut self, field: &str) -> Option<T> {
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
            hedging: self.hedging(),
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

    fn hedging(&mut self) -> Option<Hedging> {
        let at = "spec.hedging";
        let said: spec::Hedging = self.part("hedging")?;
        let methods = said.methods.unwrap_or_default();
        let methods = methods.into_iter().map(method);
        let called = said.grpc_methods.unwrap_or_default();
        let called = called.into_iter().map(|method| method.0.into());
        Some(Hedging {
            delay: said.delay.0,
            methods: self.set(methods, (&format!("{at}.methods"), MAX_METHODS))?,
            grpc_methods: self.set(called, (&format!("{at}.grpcMethods"), MAX_GRPC))?,
        })
    }

    /// None of more than `most`, and none twice.
    pub(super) fn set(
        &mut self,
        names: impl Iterator<Item = Box<str>>,
        (at, most): (&str, usize),
    ) -> Option<Arc<[Box<str>]>> {
        let names: Vec<Box<str>> = names.collect();
        let different: BTreeSet<&str> = names.iter().map(|name| &**name).collect();
        if different.len() < names.len() {
            self.wrong(at, "has one twice");
            return None;
        }
        if names.len() > most {
            let message = format!("{} are more than the {most} that are served", names.len());
            self.wrong(at, message);
            return None;
        }
        Some(names.into())
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

    /// Those that can be read, also where others cannot. Of one that can be read but for
    /// which requests it is for, none is left out.
    fn rate_limits(&mut self, policy: &Name) -> Option<Arc<[RateLimit]>> {
        let list = self.list("rateLimits", MAX_LIMITS)?;
        let mut names = BTreeSet::new();
        let mut limits = Vec::new();
        for (i, value) in list.iter().enumerate() {
            let at = format!("spec.rateLimits[{i}]");
            let said = self.typed::<spec::RateLimit<IgnoredAny>>(value, &at);
            let limit = said.and_then(|said| self.rate_limit(said, &at, policy));
            let Some(mut limit) = limit else {
                continue;
            };
            limit.matching = self.matching(&value["match"], limit.counts, &at);
            match names.insert(limit.name.clone()) {
                true => limits.push(limit),
                false => self.wrong(&format!("{at}.name"), "is another limit's name"),
            }
        }
        Some(limits.into())
    }

    fn rate_limit(
        &mut self,
        said: spec::RateLimit<IgnoredAny>,
        at: &str,
        policy: &Name,
    ) -> Option<RateLimit> {
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
            matching: RequestMatch::default(),
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

fn method(said: spec::Method) -> Box<str> {
    let name = match said {
        spec::Method::DELETE => "DELETE",
        spec::Method::PATCH => "PATCH",
        spec::Method::POST => "POST",
        spec::Method::PUT => "PUT",
    };
    name.into()
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
