//! What differs from the defaults, for people.

use std::time::{Duration, SystemTime};

use crate::model::Name;
use crate::model::injection::{Callers, Injection};
use crate::model::traffic::{
    BalanceBy, Counts, HashOn, Hedging, Limits, LoadBalancer, Locality, OutlierDetection, Prefer,
    RateKey, RateLimit, RetryBudget, Timeouts, Traffic,
};

/// One sentence each; none where all is as without a policy.
#[must_use]
pub(crate) fn words(traffic: &Traffic, now: SystemTime) -> Vec<String> {
    let mut all = Vec::new();
    load_balancer(&traffic.load_balancer, &mut all);
    outlier_detection(&traffic.outlier_detection, &mut all);
    limits(&traffic.limits, &mut all);
    retry_budget(&traffic.retry_budget, &mut all);
    all.extend(traffic.hedging.as_ref().map(hedging));
    timeouts(&traffic.timeouts, &mut all);
    all.extend(traffic.rate_limits.iter().map(rate_limit));
    all.extend(traffic.faults.iter().map(|said| fault(said, now)));
    all
}

fn time(time: Duration) -> String {
    match (time.as_secs(), time.subsec_millis()) {
        (seconds, 0) => format!("{seconds}s"),
        _ => format!("{}ms", time.as_millis()),
    }
}

fn load_balancer(said: &LoadBalancer, all: &mut Vec<String>) {
    match &said.by {
        BalanceBy::PeakEwma => {}
        BalanceBy::LeastRequest => all.push("balanced by least request".to_owned()),
        BalanceBy::RoundRobin => all.push("balanced round robin".to_owned()),
        BalanceBy::Random => all.push("balanced by chance".to_owned()),
        BalanceBy::ConsistentHash(HashOn::Header(name)) => {
            all.push(format!("balanced by a hash of header {name}"));
        }
        BalanceBy::ConsistentHash(HashOn::Cookie { name, path, ttl }) => {
            let life = ttl.map_or_else(|| "a session".to_owned(), time);
            all.push(format!(
                "balanced by a hash of cookie {name} (path {path}, for {life})"
            ));
        }
        BalanceBy::ConsistentHash(HashOn::SourceIp) => {
            all.push("balanced by a hash of the client's address".to_owned());
        }
    }
    if said.locality != Locality::default() {
        let prefer = match said.locality.prefer {
            Prefer::Hinted => "endpoints that hints are for are preferred",
            Prefer::Nothing => "no endpoint is preferred",
            Prefer::Zone => "endpoints of the zone are preferred",
            Prefer::Node => "endpoints of the node are preferred",
        };
        let percent = said.locality.spill_over_percent;
        all.push(match said.locality.prefer {
            Prefer::Nothing => prefer.to_owned(),
            Prefer::Hinted | Prefer::Zone | Prefer::Node => {
                format!("{prefer} up to {percent}% of the load of others")
            }
        });
    }
    match (said.warmup, &said.by) {
        (None, _) => {}
        (Some(_), BalanceBy::ConsistentHash(_)) => {
            all.push("warm-up has no effect beside a hash".to_owned());
        }
        (Some(warmup), _) => all.push(format!(
            "new endpoints warm up in {} from {}%",
            time(warmup.duration),
            warmup.minimum_percent
        )),
    }
}

fn outlier_detection(said: &OutlierDetection, all: &mut Vec<String>) {
    let unset = OutlierDetection::default();
    if !said.is_on {
        return all.push("no endpoint is ejected".to_owned());
    }
    if said.consecutive_errors != unset.consecutive_errors {
        all.push(match said.consecutive_errors {
            Some(count) => format!("ejected after {count} failed requests in a row"),
            None => "failed requests in a row eject nobody".to_owned(),
        });
    }
    if said.consecutive_local_origin_failures != unset.consecutive_local_origin_failures {
        all.push(match said.consecutive_local_origin_failures {
            Some(count) => format!("ejected after {count} failed connections in a row"),
            None => "failed connections in a row eject nobody".to_owned(),
        });
    }
    if said.success_rate != unset.success_rate {
        all.push(match said.success_rate {
            Some(rate) => format!(
                "ejected below {}% successes of at least {} requests in {}",
                rate.threshold_percent,
                rate.request_volume,
                time(rate.interval)
            ),
            None => "few successes eject nobody".to_owned(),
        });
    }
    let times = |of: &OutlierDetection| (of.base_ejection_time, of.max_ejection_time);
    if times(said) != times(&unset) {
        let (base, longest) = times(said);
        all.push(format!("ejected for {} to {}", time(base), time(longest)));
    }
    if said.max_ejection_percent != unset.max_ejection_percent {
        all.push(format!(
            "at most {}% are ejected",
            said.max_ejection_percent
        ));
    }
}

fn limits(said: &Limits, all: &mut Vec<String>) {
    let unset = Limits::default();
    if let Some(most) = said.max_connections {
        all.push(format!("at most {most} connections"));
    }
    if said.max_requests != unset.max_requests {
        all.push(format!("at most {} requests in flight", said.max_requests));
    }
    let pending = |of: &Limits| (of.max_pending_requests, of.max_pending_time);
    if pending(said) != pending(&unset) {
        let (most, longest) = pending(said);
        all.push(format!(
            "at most {most} requests wait, for {}",
            time(longest)
        ));
    }
}

fn retry_budget(said: &RetryBudget, all: &mut Vec<String>) {
    if *said != RetryBudget::default() {
        all.push(format!(
            "retries are at most {}% of {}, or {} in {}",
            said.percent,
            time(said.interval),
            said.min_retries.count,
            time(said.min_retries.per)
        ));
    }
}

fn hedging(said: &Hedging) -> String {
    let named = |what: &str, names: &[Box<str>]| match names {
        [] => String::new(),
        names => format!(", {what}{}", names.join(", ")),
    };
    format!(
        "another endpoint is asked as well after {}: GET, HEAD, OPTIONS{}{}",
        time(said.delay),
        named("", &said.methods),
        named("gRPC ", &said.grpc_methods),
    )
}

fn timeouts(said: &Timeouts, all: &mut Vec<String>) {
    let mut tell = |what: &str, after: Option<Duration>| {
        all.extend(after.map(|after| format!("{what} {}", time(after))));
    };
    tell("connects within", said.connect);
    tell("ends when idle for", said.idle);
    tell("each request within", said.request);
}

fn rate_limit(said: &RateLimit) -> String {
    let what = match said.counts {
        Counts::Requests => "requests",
        Counts::Connections => "connections",
    };
    let who = match &said.key {
        RateKey::Principal => "each identity".to_owned(),
        RateKey::Header(name) => format!("each value of {name}"),
        RateKey::Service => "all callers".to_owned(),
    };
    let of = |what: &str, names: Vec<String>| match names.is_empty() {
        true => String::new(),
        false => format!(" {what} {}", names.join(", ")),
    };
    let methods = said.matching.methods.iter().map(ToString::to_string);
    let paths = said
        .matching
        .paths
        .iter()
        .map(|path| path.written().to_owned());
    let which = of("of", methods.collect()) + &of("to", paths.collect());
    let dry = if said.dry_run { ", only counted" } else { "" };
    format!(
        "limit {}: {} {what}{which} in {}, {} at once, for {who}{dry}",
        said.name,
        said.rate.count,
        time(said.rate.per),
        said.burst
    )
}

/// What it does to whom, and until when; or that it does nothing any more.
pub(crate) fn fault(said: &Injection, now: SystemTime) -> String {
    let until = humantime::format_rfc3339_seconds(said.until);
    let what = [
        said.delay
            .map(|delay| format!("a delay of {}", time(delay))),
        said.abort
            .map(|status| format!("an answer {} (gRPC: {})", status.http, status.grpc)),
    ];
    let what: Vec<_> = what.into_iter().flatten().collect();
    let rest = format!(
        "{} into {}% of the requests of {}",
        what.join(", then "),
        said.percent,
        callers(&said.from)
    );
    match said.is_over(now) {
        true => format!("fault {} is over since {until}: {rest}", said.name),
        false => format!("fault {} until {until}: {rest}", said.name),
    }
}

fn callers(said: &Callers) -> String {
    let principals = said
        .principals
        .iter()
        .map(|one| format!("{}{}", one.trust_domain, one.path));
    let namespaces = said.namespaces.iter().map(Name::to_string);
    let namespaces = namespaces.map(|name| format!("namespace {name}"));
    principals.chain(namespaces).collect::<Vec<_>>().join(", ")
}
