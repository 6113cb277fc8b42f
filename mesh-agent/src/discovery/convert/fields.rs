//! Fields of a DestinationRule's `trafficPolicy`: each by its path.

use std::time::Duration;

use serde_json::Value;

use super::said::Parts;
use crate::discovery::tree::{Node, View};

pub(super) const UNKNOWN: &str = "is not known, so nobody can say what is lost without it";
const TLS: &str = "the mesh would not do it: encryption or a check of the server would be lost";

/// What has fields that are looked at one by one.
const OUTER: &[&str] = &[
    "",
    "loadBalancer",
    "loadBalancer.localityLbSetting",
    "loadBalancer.consistentHash",
    "loadBalancer.consistentHash.httpCookie",
    "loadBalancer.warmup",
    "connectionPool",
    "connectionPool.tcp",
    "connectionPool.http",
    "outlierDetection",
    "tls",
    "retryBudget",
];

/// What has no counterpart, and why.
const LEFT: &[(&str, &str)] = &[
    (
        "loadBalancer.localityLbSetting.distribute",
        "other zones have no shares: they are used where the nearer endpoints are ejected or have too much to do",
    ),
    (
        "loadBalancer.localityLbSetting.failover",
        "there are no regions: all other zones are alike",
    ),
    (
        "loadBalancer.consistentHash.httpQueryParameterName",
        "there is a hash of a header, a cookie, or the client's address",
    ),
    (
        "loadBalancer.consistentHash.ringHash",
        "rendezvous hashing has no ring",
    ),
    (
        "loadBalancer.consistentHash.minimumRingSize",
        "rendezvous hashing has no ring",
    ),
    (
        "loadBalancer.consistentHash.maglev",
        "rendezvous hashing has no table",
    ),
    (
        "loadBalancer.consistentHash.httpCookie.attributes",
        "the agent chooses them",
    ),
    ("loadBalancer.warmup.aggression", "the share grows evenly"),
    (
        "connectionPool.tcp.tcpKeepalive",
        "the agents find dead peers by themselves",
    ),
    (
        "connectionPool.tcp.maxConnectionDuration",
        "a connection that flows is never cut",
    ),
    (
        "connectionPool.http.maxRequestsPerConnection",
        "connections are used for as long as they work",
    ),
    (
        "connectionPool.http.maxRetries",
        "a share of the requests bounds retries, not their number at once: retryBudget",
    ),
    (
        "connectionPool.http.h2UpgradePolicy",
        "the protocol is the client's",
    ),
    (
        "connectionPool.http.useClientProtocol",
        "the protocol is always the client's",
    ),
    (
        "connectionPool.http.maxConcurrentStreams",
        "the server says how many it takes",
    ),
    (
        "outlierDetection.splitExternalLocalOriginErrors",
        "they are always counted apart",
    ),
    (
        "outlierDetection.interval",
        "an endpoint is ejected at once, not at the next sweep",
    ),
    (
        "outlierDetection.minHealthPercent",
        "maxEjectionPercent bounds what is ejected, whatever the others do",
    ),
    (
        "retryBudget.minRetryConcurrency",
        "the minimum is a rate here: minRetryRate",
    ),
    ("proxyProtocol", "the mesh sends no header of PROXY"),
    // Each of its own, by the caller.
    ("portLevelSettings", ""),
    ("port", ""),
];

/// The most that a TrafficPolicy takes.
const MOST: u64 = 1_000_000;
/// Envoy's longest ejection, where nothing else is said.
const LONGEST_EJECTION: Duration = Duration::from_secs(300);
const LONGEST_IDLE: Duration = Duration::from_hours(336);

/// Path, why, and whether it is an error.
pub(super) type Told = (String, String, bool);

#[derive(Default)]
pub(super) struct Fields {
    pub(super) parts: Parts,
    pub(super) notes: Vec<Told>,
    idle: Option<Duration>,
}

/// What a value cannot be, or what is lost of it.
enum No {
    Error(String),
    Left(&'static str),
}

impl From<String> for No {
    fn from(why: String) -> Self {
        Self::Error(why)
    }
}

/// What of a policy that is not translated at all is an error.
pub(super) fn guarded(said: &Node<'_>, at: &str) -> Vec<Told> {
    let mut fields = Fields::default();
    for part in ["tls", "tunnel"] {
        if let Some(value) = said.get(part) {
            fields.walk(value, part, &format!("{at}.{part}"));
        }
    }
    fields.notes
}

impl Fields {
    /// `path` is that from `trafficPolicy`, `at` that from the top.
    pub(super) fn walk(&mut self, value: &Node<'_>, path: &str, at: &str) {
        if let Some((_, why)) = LEFT.iter().find(|(left, _)| *left == path) {
            if !why.is_empty() {
                self.note(at, *why, false);
            }
            return;
        }
        if !OUTER.contains(&path) {
            return match self.field(value, path) {
                Ok(()) => {}
                Err(No::Left(why)) => self.note(at, why, false),
                Err(No::Error(why)) => self.note(at, why, true),
            };
        }
        let View::Mapping(mapping) = value.view() else {
            return self.note(at, "expected a mapping", true);
        };
        for (key, value) in mapping.iter() {
            let path = format!("{path}.{key}");
            self.walk(value, path.trim_start_matches('.'), &format!("{at}.{key}"));
        }
    }

    fn note(&mut self, at: &str, why: impl Into<String>, is_error: bool) {
        self.notes.push((at.to_owned(), why.into(), is_error));
    }

    fn set(&mut self, part: &'static str, field: &str, value: impl Into<Value>) {
        let part = self.parts.entry(part).or_default();
        part.insert(field.to_owned(), value.into());
    }

    fn field(&mut self, value: &Node<'_>, path: &str) -> Result<(), No> {
        let (part, field) = path.split_once('.').unwrap_or(("", path));
        match part {
            "loadBalancer" => self.balancing(value, field),
            "connectionPool" => self.pool(value, field),
            "outlierDetection" => self.outliers(value, field),
            "tls" => tls(value, field),
            "retryBudget" if field == "percent" => {
                let percent = share(value, 0)?;
                self.set("retryBudget", "percent", percent);
                Ok(())
            }
            "" if field == "tunnel" => Err(No::Error(
                "connections would go to the Service itself, not by its proxy".to_owned(),
            )),
            _ => Err(No::Error(UNKNOWN.to_owned())),
        }
    }

    fn balancing(&mut self, value: &Node<'_>, field: &str) -> Result<(), No> {
        let part = "loadBalancer";
        match field {
            "simple" => {
                let by = match text(value)? {
                    "ROUND_ROBIN" => "RoundRobin",
                    "LEAST_REQUEST" | "LEAST_CONN" => "LeastRequest",
                    "RANDOM" => "Random",
                    "UNSPECIFIED" => return Err(No::Left("the default is peak EWMA")),
                    "PASSTHROUGH" => {
                        return Err(No::Left(
                            "connections to a Service are spread; those to a pod's own address are not",
                        ));
                    }
                    _ => return Err(No::Error(UNKNOWN.to_owned())),
                };
                self.set(part, "type", by);
            }
            "consistentHash.httpHeaderName" => self.hash("httpHeaderName", text(value)?.into()),
            "consistentHash.useSourceIp" if *value == false => {}
            "consistentHash.useSourceIp" if *value == true => self.hash("useSourceIp", true.into()),
            "consistentHash.httpCookie.name" => self.cookie("name", text(value)?),
            "consistentHash.httpCookie.path" => self.cookie("path", text(value)?),
            "consistentHash.httpCookie.ttl" => {
                let ttl = time(value)?;
                if !ttl.is_zero() {
                    self.cookie("ttl", &written(ttl));
                }
            }
            "localityLbSetting.enabled" => {
                let prefer = match *value == false {
                    true => "None",
                    false => "Zone",
                };
                self.prefer(prefer, *value == true || *value == false)?;
            }
            "localityLbSetting.failoverPriority" => {
                let View::List(labels) = value.view() else {
                    return Err(No::Error("expected a list".to_owned()));
                };
                let labels: Vec<&str> = labels.iter().filter_map(|label| label.as_text()).collect();
                let is_by_node = labels.contains(&"kubernetes.io/hostname");
                self.prefer(if is_by_node { "Node" } else { "Zone" }, true)?;
                let is_known = |label: &&str| {
                    matches!(
                        *label,
                        "kubernetes.io/hostname" | "topology.kubernetes.io/zone"
                    )
                };
                if !labels.iter().all(is_known) {
                    return Err(No::Left("endpoints are preferred by node and zone alone"));
                }
            }
            "warmup.duration" | "warmupDurationSecs" => {
                let duration = written(time(value)?);
                self.warmup("duration", duration.into());
            }
            "warmup.minimumPercent" => {
                let percent = share(value, 1)?;
                self.warmup("minimumPercent", percent.into());
            }
            _ => return Err(No::Error(UNKNOWN.to_owned())),
        }
        Ok(())
    }

    /// Where nothing is preferred, no order of labels matters.
    fn prefer(&mut self, prefer: &str, is_understood: bool) -> Result<(), No> {
        if !is_understood {
            return Err(No::Error("expected true or false".to_owned()));
        }
        let part = self.parts.entry("loadBalancer").or_default();
        let locality = part
            .entry("locality")
            .or_insert_with(|| serde_json::json!({"prefer": prefer}));
        // By label is nearer; keys come in their order, `enabled` first.
        if prefer == "Node" && locality["prefer"] != "None" {
            locality["prefer"] = prefer.into();
        }
        Ok(())
    }

    fn hash(&mut self, field: &str, value: Value) {
        self.set("loadBalancer", "type", "ConsistentHash");
        let part = self.parts.entry("loadBalancer").or_default();
        let hash = part
            .entry("consistentHash")
            .or_insert_with(|| Value::Object(<_>::default()));
        hash[field] = value;
    }

    fn cookie(&mut self, field: &str, value: &str) {
        let part = self.parts.get("loadBalancer");
        let before = part.and_then(|part| part.get("consistentHash")?.get("httpCookie"));
        let mut cookie = before
            .cloned()
            .unwrap_or_else(|| Value::Object(<_>::default()));
        cookie[field] = value.into();
        self.hash("httpCookie", cookie);
    }

    fn warmup(&mut self, field: &str, value: Value) {
        let part = self.parts.entry("loadBalancer").or_default();
        let warmup = part
            .entry("warmup")
            .or_insert_with(|| Value::Object(<_>::default()));
        warmup[field] = value;
    }

    fn pool(&mut self, value: &Node<'_>, field: &str) -> Result<(), No> {
        match field {
            "tcp.maxConnections" => {
                let most = count(value)?;
                if most > MOST {
                    return Ok(());
                }
                self.set("limits", "maxConnections", most);
            }
            "tcp.connectTimeout" => {
                let connect = written(time(value)?);
                self.set("timeouts", "connect", connect);
            }
            "tcp.idleTimeout" | "http.idleTimeout" => return self.idle(time(value)?),
            "http.http1MaxPendingRequests" => {
                let most = count(value)?.min(MOST);
                self.set("limits", "maxPendingRequests", most);
            }
            "http.http2MaxRequests" => {
                let most = count(value)?.min(MOST);
                self.set("limits", "maxRequests", most);
            }
            _ => return Err(No::Error(UNKNOWN.to_owned())),
        }
        Ok(())
    }

    /// There is one of both, the longer, so that nothing is cut that was not.
    fn idle(&mut self, said: Duration) -> Result<(), No> {
        let before = self.idle;
        let said = match said.is_zero() {
            true => LONGEST_IDLE,
            false => said,
        };
        let longer = before.map_or(said, |before| before.max(said));
        self.idle = Some(longer);
        self.set("timeouts", "idle", written(longer));
        match before {
            Some(before) if before != said => Err(No::Left(
                "there is one idle timeout of HTTP and TCP: it is the longer of the two",
            )),
            _ => Ok(()),
        }
    }

    fn outliers(&mut self, value: &Node<'_>, field: &str) -> Result<(), No> {
        let part = "outlierDetection";
        match field {
            "consecutive5xxErrors" | "consecutiveErrors" => {
                let errors = count(value)?;
                self.set(part, "consecutiveErrors", errors);
            }
            // Only where nothing is said of 5xx, of which these are a part. Keys are read
            // in their order: that of 5xx came before.
            "consecutiveGatewayErrors" => {
                let errors = count(value)?;
                let detection = self.parts.entry(part).or_default();
                if detection.contains_key("consecutiveErrors") {
                    return Err(No::Left("5xx of whatever kind are counted together"));
                }
                self.set(part, "consecutiveErrors", errors);
                return Err(No::Left(
                    "it became consecutiveErrors: 5xx of whatever kind are counted, not 502 to 504 alone",
                ));
            }
            "consecutiveLocalOriginFailures" => {
                let failures = count(value)?;
                self.set(part, "consecutiveLocalOriginFailures", failures);
            }
            "baseEjectionTime" => {
                let base = time(value)?;
                self.set(part, "baseEjectionTime", written(base));
                let longest = base.max(LONGEST_EJECTION);
                self.set(part, "maxEjectionTime", written(longest));
            }
            "maxEjectionPercent" => {
                let percent = share(value, 1)?;
                self.set(part, "maxEjectionPercent", percent);
            }
            _ => return Err(No::Error(UNKNOWN.to_owned())),
        }
        Ok(())
    }
}

/// The mesh's own encryption is always there. All else is told apart by what would be
/// lost: a rule that asks for less asks for nothing that has to be kept.
fn tls(value: &Node<'_>, field: &str) -> Result<(), No> {
    match (field, value.as_text()) {
        ("mode", Some("ISTIO_MUTUAL")) => Ok(()),
        ("mode", Some("DISABLE")) => Err(No::Left(
            "the mesh encrypts between pods of it whatever is said",
        )),
        _ => Err(No::Error(TLS.to_owned())),
    }
}

pub(super) fn whole(value: &Node<'_>) -> Option<u64> {
    match value.view() {
        View::Number(number) => number.as_u64(),
        _ => None,
    }
}

fn count(value: &Node<'_>) -> Result<u64, No> {
    Ok(whole(value).ok_or_else(|| format!("{value} is no whole number"))?)
}

/// In percent; a part of one counts as one.
fn share(value: &Node<'_>, least: u64) -> Result<u64, No> {
    let number = match value.view() {
        View::Number(number) => number.as_f64(),
        // As the API server has numbers that are wrapped.
        View::Mapping(_) => match value["value"].view() {
            View::Number(number) => number.as_f64(),
            _ => None,
        },
        _ => None,
    };
    let percent = (least..=100).find(|percent| {
        number.is_some_and(|number| number >= 0.0 && number <= f64::from(*percent as u32))
    });
    Ok(percent.ok_or_else(|| format!("{value} is no share in percent"))?)
}

fn text<'n>(value: &'n Node<'_>) -> Result<&'n str, No> {
    Ok(value
        .as_text()
        .ok_or_else(|| format!("{value} is no text"))?)
}

/// `1.5s`, `1h30m`, `100ms`: numbers with units.
fn time(value: &Node<'_>) -> Result<Duration, No> {
    let said = text(value)?;
    Ok(duration(said).ok_or_else(|| format!("{said:?} is no duration"))?)
}

fn duration(said: &str) -> Option<Duration> {
    let mut rest = said;
    let mut all = Duration::ZERO;
    while !rest.is_empty() || said.is_empty() {
        let is_number = |c: char| c.is_ascii_digit() || c == '.';
        let number = &rest[..rest.len() - rest.trim_start_matches(is_number).len()];
        rest = &rest[number.len()..];
        let units = [("ms", 1e-3), ("h", 3_600.0), ("m", 60.0), ("s", 1.0)];
        let (unit, seconds) = units.iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        let number: f64 = number.parse().ok()?;
        all = all.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
    }
    Some(all)
}

/// As a TrafficPolicy has it.
fn written(time: Duration) -> String {
    let millis = time.as_millis();
    let units = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
    let of = |(i, (unit, size)): (usize, &(&str, u128))| {
        let rest = match i {
            0 => millis,
            _ => millis % units[i - 1].1,
        };
        let number = rest / size;
        (number > 0).then(|| format!("{number}{unit}"))
    };
    match millis {
        0 => "0s".to_owned(),
        _ => units.iter().enumerate().filter_map(of).collect(),
    }
}
