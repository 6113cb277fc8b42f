//! A running authority, to be looked at: its page, and how it fares.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime};

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::metrics::{Metrics, Node, State};
use super::seats::Seats;
use super::signer::Ca;
use super::state::Loaded;
use super::token::TokenState;
use super::tokens;
use super::units::{seconds, time};

/// A root or signing certificate that ends within this is a problem.
const ROOT_SOON: Duration = Duration::from_secs(90 * 24 * 3600);

/// Something an operator should know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) subject: &'static str,
    pub(crate) what: String,
    pub(crate) effect: String,
    pub(crate) remedy: String,
    /// It signs nothing while this lasts.
    pub(crate) blocks: bool,
}

/// A running authority, to be looked at.
#[derive(Clone)]
pub(crate) struct Handle {
    pub(super) ca: Arc<Ca>,
    pub(super) seats: Arc<Seats>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handle")
    }
}

impl Handle {
    /// All that keeps it from signing, or will.
    #[must_use]
    pub(crate) fn troubles(&self) -> Vec<Trouble> {
        let mut troubles = Vec::new();
        let loaded = self.ca.fresh();
        let unread = loaded.as_ref().err().map(|error| (error.to_string(), true));
        let failed = unread.or_else(|| self.ca.metrics.failure(Instant::now()));
        if let Some((what, is_blocking)) = failed {
            troubles.push(Trouble {
                subject: "signing",
                what: format!("the authority cannot sign: {what}"),
                effect:
                    "no node gets or renews a certificate; those that live are used until they end"
                        .to_owned(),
                remedy: "mend what the message names; the next request tries again".to_owned(),
                blocks: is_blocking,
            });
        }
        if let Some(what) = self.ca.metrics.unpublished() {
            troubles.push(Trouble {
                subject: "publishing",
                what: format!("the revocation lists cannot be made anew: {what}"),
                effect: "agents tell that their lists are overdue, a week after the last ones"
                    .to_owned(),
                remedy: "mend what the message names; it is tried again by itself".to_owned(),
                blocks: false,
            });
        }
        if let Some(what) = self.ca.metrics.unrooted() {
            troubles.push(Trouble {
                subject: "roots",
                what: format!("the ConfigMap with the roots cannot be written: {what}"),
                effect: "agents that start do not know this authority, or a root that is new"
                    .to_owned(),
                remedy: "mend what the message names; it is tried again by itself".to_owned(),
                blocks: false,
            });
        }
        let now = SystemTime::now();
        if let Ok(loaded) = &loaded {
            troubles.extend(self.tokens(loaded, seconds(now)));
        }
        if let Ok(loaded) = &loaded
            && let Ok(signing) = loaded.signing()
            && signing.ends() <= now + ROOT_SOON
        {
            let until = time(seconds(signing.ends()));
            let ended = signing.ends() <= now;
            troubles.push(Trouble {
                subject: "root",
                what: match ended {
                    true => format!(
                        "the certificates of authority {} ended at {until}",
                        signing.id
                    ),
                    false => format!(
                        "the certificates of authority {} end at {until}",
                        signing.id
                    ),
                },
                effect: match ended {
                    true => "no node gets or renews a certificate; none outlived them".to_owned(),
                    false => "no certificate outlives them".to_owned(),
                },
                remedy: match loaded.authorities.len() {
                    1 => "`mesh-agent ca rotate prepare`, then activate and retire".to_owned(),
                    _ => "`mesh-agent ca rotate activate`, then retire".to_owned(),
                },
                blocks: ended,
            });
        }
        troubles
    }

    fn tokens(&self, loaded: &Loaded, now: u64) -> Option<Trouble> {
        let known = &self.ca.remembered;
        let (first, nodes) = tokens::ending(&loaded.tokens, |id| known.knows(id), now)?;
        let what = match first <= now {
            true => "ended",
            false => "ends",
        };
        Some(Trouble {
            subject: "tokens",
            what: format!(
                "the join token of {nodes} {what}, the first at {}",
                time(first)
            ),
            effect: "from then on such a node gets no certificate, and its pods' connections to other nodes end with those that it has".to_owned(),
            remedy: "`mesh-agent ca token create --node NODE --allow …`, and put it where the node's --ca-token-file names it".to_owned(),
            blocks: false,
        })
    }

    /// The nodes of the cluster where an agent is; None while that is not known.
    #[must_use]
    pub(crate) fn nodes(&self) -> Option<Vec<Arc<str>>> {
        let (_, pods) = self.ca.cluster.as_ref()?;
        let cluster = self.ca.config.cluster.as_ref()?;
        pods.nodes_of(&cluster.accounts)
    }

    /// The page, as OpenMetrics.
    #[must_use]
    pub(crate) fn page(&self) -> String {
        let mut registry = Registry::default();
        self.register(&mut registry);
        let mut page = String::new();
        if prometheus_client::encoding::text::encode(&mut page, &registry).is_err() {
            page.clear();
        }
        page
    }

    fn register(&self, r: &mut Registry) {
        let Metrics {
            issued,
            refused,
            duration,
            // `status` and `mesh_ca_ready` have these.
            failure: _,
            unpublished: _,
            unrooted: _,
        } = &self.ca.metrics;
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        r.register(
            "mesh_ca_build",
            "Which authority this is",
            Info::new(version),
        );
        r.register(
            "mesh_ca_certificates_issued",
            "Certificates that were signed",
            issued.clone(),
        );
        r.register(
            "mesh_ca_requests_refused",
            "Requests that were refused, by reason",
            refused.clone(),
        );
        r.register(
            "mesh_ca_refusals_unwritten",
            "Refusals without a line in the log of them: more than 20 in a second, or it stands still",
            self.ca.audit.unwritten(),
        );
        r.register(
            "mesh_ca_request_duration_seconds",
            "Time from a request to its answer, in seconds",
            duration.clone(),
        );
        let gauge = |value: f64| {
            let gauge = Gauge::<f64, AtomicU64>::default();
            gauge.set(value);
            gauge
        };
        let failed = self.ca.metrics.failure(Instant::now()).is_some();
        let blocked = failed || self.troubles().iter().any(|t| t.blocks);
        r.register(
            "mesh_ca_ready",
            "1 where it can sign, else 0",
            gauge(f64::from(u8::from(!blocked))),
        );
        r.register(
            "mesh_ca_records",
            "Certificates that are remembered; expired ones until the next clean-up",
            gauge(self.ca.remembered.total() as f64),
        );
        let (unproven, proven) = self.seats.count();
        let connections = Family::<State, Gauge>::default();
        for (state, count) in [("unproven", unproven), ("proven", proven)] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            connections.get_or_create(&State { state }).set(count);
        }
        r.register(
            "mesh_ca_connections",
            "Open connections; proven ones have shown a good token",
            connections,
        );
        r.register(
            "mesh_ca_connections_displaced",
            "Connections that had shown no good token and were closed to make room for others",
            self.seats.displaced(),
        );
        r.register(
            "mesh_ca_connections_refused",
            "Connections that were closed at once: too many had shown no good token yet",
            self.seats.refused(),
        );
        if let Ok(loaded) = self.ca.fresh() {
            self.register_state(r, &loaded);
        }
    }

    fn register_state(&self, r: &mut Registry, loaded: &Loaded) {
        let now = seconds(SystemTime::now());
        let tokens = Family::<State, Gauge>::default();
        for (state, name) in [
            (TokenState::Valid, "valid"),
            (TokenState::Expired, "expired"),
            (TokenState::Revoked, "revoked"),
        ] {
            let count = loaded
                .tokens
                .iter()
                .filter(|t| t.state(now) == state)
                .count();
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            tokens.get_or_create(&State { state: name }).set(count);
        }
        r.register("mesh_ca_tokens", "Join tokens by state", tokens);
        let ends = Family::<Node, Gauge<f64, AtomicU64>>::default();
        for (node, at) in tokens::ends(&loaded.tokens) {
            ends.get_or_create(&Node { node }).set(at as f64);
        }
        r.register(
            "mesh_ca_token_expiry_timestamp_seconds",
            "When the last join token of each node ends, in seconds since 1970",
            ends,
        );
        if let Ok(signing) = loaded.signing() {
            let ends = Gauge::<f64, AtomicU64>::default();
            ends.set(seconds(signing.ends()) as f64);
            r.register(
                "mesh_ca_root_expiration_timestamp_seconds",
                "When the first certificate of the signing authority ends, in seconds since 1970",
                ends,
            );
        }
    }
}
