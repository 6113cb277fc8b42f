//! On how many nodes an object is in force, by what their agents report.
//!
//! An agent says up to which version of the API server each kind is in force with it.
//! An object is in force on a node that has its kind as of the version in which it was
//! first seen as it is now, or of a later one: versions of one kind only grow. What is
//! held is a number for each node and kind, of nodes that have an agent, and of the
//! objects that an agent names as held back (it does not understand them as they are now)
//! a digest.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::conditions::{Condition, Holds};
use super::lease::LIFE;
use crate::model::MAX_HELD_BACK;

/// Asked of the agents, where nothing changes, of few nodes and of each more.
const AGAIN: Duration = Duration::from_secs(30);
const AGAIN_EACH: Duration = Duration::from_millis(100);
/// One that was not heard of for so many times of it is silent.
const MISSED: u32 = 5;
const MISSED_OF: u32 = 2;
/// Reports about one change come spread over this, for each node.
const SPREAD_EACH: Duration = Duration::from_millis(2);
/// Nodes that are kept, whatever the API server says.
const MAX_NODES: usize = 20_000;

/// The nodes where an agent is; None while that is not known.
type Where = Box<dyn Fn() -> Option<Vec<Arc<str>>> + Send + Sync>;

/// When an agent is to report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    pub(crate) spread: Duration,
    pub(crate) again: Duration,
}

#[derive(Default)]
pub(crate) struct Nodes {
    agents: OnceLock<Where>,
    /// Those that are counted, in order.
    kinds: OnceLock<Vec<String>>,
    digests: RandomState,
    inner: Mutex<Inner>,
    pub(super) changed: Notify,
}

#[derive(Default)]
struct Inner {
    /// Since when this replica takes reports.
    since: Option<Instant>,
    /// Since when it does not any more.
    lost: Option<Instant>,
    heard: HashMap<Box<str>, Heard>,
}

impl Inner {
    fn held_since(&self) -> Option<Instant> {
        self.since.filter(|_| self.lost.is_none())
    }
}

struct Heard {
    at: Instant,
    /// Of each kind that is counted.
    in_force: Box<[Has]>,
}

/// What a node has of a kind.
#[derive(Clone, Debug, Default)]
struct Has {
    /// 0 where it said nothing of it.
    version: u64,
    /// Digests of the objects of which it has not what they say now.
    held_back: Arc<[u64]>,
}

/// What an agent says of a kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    /// As `PLURAL.GROUP`.
    pub(crate) kind: String,
    pub(crate) version: u64,
    /// As `NAMESPACE/NAME`.
    pub(crate) held_back: Vec<String>,
}

impl std::fmt::Debug for Nodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Nodes")
    }
}

impl Nodes {
    /// To be told once, as soon as it can be known.
    pub(crate) fn set_agents(&self, agents: Where) {
        let _told_once = self.agents.set(agents);
    }

    /// Those that are counted. To be told once, before any is.
    pub(super) fn set_kinds(&self, kinds: impl Iterator<Item = String>) {
        let _told_once = self.kinds.set(kinds.collect());
    }

    fn kinds(&self) -> &[String] {
        self.kinds.get().map_or(&[], Vec::as_slice)
    }

    /// None: another replica takes them. Of a kind that is named twice the older version
    /// counts, once, and whatever either holds back; of one that nobody counts, nothing.
    pub(crate) fn take(
        &self,
        node: &str,
        said: impl IntoIterator<Item = Said>,
        now: Instant,
    ) -> Option<Pace> {
        let kinds = self.kinds();
        let mut by_kind: BTreeMap<usize, (u64, Vec<u64>)> = BTreeMap::new();
        for one in said {
            if let Some(at) = kinds.iter().position(|known| *known == one.kind) {
                let known = by_kind.entry(at).or_insert((one.version, Vec::new()));
                known.0 = one.version.min(known.0);
                let held_back = one.held_back.iter().take(MAX_HELD_BACK + 1);
                let digests = held_back.map(|object| self.digests.hash_one(object.as_str()));
                known.1.extend(digests);
                // Nothing of the kind is known to be in force there.
                if known.1.len() > MAX_HELD_BACK {
                    *known = (0, Vec::new());
                }
            }
        }
        let of = |at| {
            let (version, held_back) = by_kind.remove(&at).unwrap_or_default();
            Has {
                version,
                held_back: held_back.into(),
            }
        };
        let in_force = (0..kinds.len()).map(of).collect();
        let mut inner = self.inner.lock();
        inner.held_since()?;
        let is_known = inner.heard.contains_key(node);
        if is_known || inner.heard.len() < MAX_NODES {
            let heard = Heard { at: now, in_force };
            inner.heard.insert(node.into(), heard);
        }
        let pace = pace(inner.heard.len());
        drop(inner);
        self.changed.notify_one();
        Some(pace)
    }

    /// Where it is not held nothing is taken or counted. What was heard before is kept for
    /// one life of the Lease: an API server that is slow for a moment loses it, nodes where
    /// nothing changes are heard of again late, and what they have does not get older.
    pub(super) fn hold(&self, is_held: bool, now: Instant) {
        let mut inner = self.inner.lock();
        let lost = inner.lost;
        if lost.is_some_and(|lost| now.saturating_duration_since(lost) >= LIFE) {
            *inner = Inner::default();
        }
        match (is_held, inner.since) {
            (true, None) => inner.since = Some(now),
            (true, Some(_)) => inner.lost = None,
            (false, Some(_)) => inner.lost = inner.lost.or(Some(now)),
            (false, None) => {}
        }
    }

    /// As of now; None where it is not known which nodes there are.
    pub(super) fn tally(&self, now: Instant) -> Option<Tally> {
        let agents = (self.agents.get()?)()?;
        let mut inner = self.inner.lock();
        let since = inner.held_since()?;
        let there: HashSet<&str> = agents.iter().map(|node| &**node).collect();
        inner.heard.retain(|node, _| there.contains(&**node));
        let patience = pace(there.len()).again * MISSED / MISSED_OF;
        let mut tally = Tally {
            nodes: there.len(),
            unheard: 0,
            by_kind: BTreeMap::new(),
            digests: self.digests.clone(),
        };
        for node in there {
            let heard = inner.heard.get(node);
            let last = heard.map_or(since, |heard| heard.at);
            let is_silent = now.saturating_duration_since(last) > patience;
            tally.unheard += usize::from(is_silent && heard.is_none());
            let all = heard.into_iter().flat_map(|heard| &*heard.in_force);
            for (kind, has) in self.kinds().iter().zip(all) {
                if has.version > 0 {
                    let of_kind = tally.by_kind.entry(kind.clone()).or_default();
                    of_kind.push((has.clone(), is_silent));
                }
            }
        }
        Some(tally)
    }
}

fn pace(nodes: usize) -> Pace {
    let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
    Pace {
        spread: SPREAD_EACH.saturating_mul(nodes),
        again: AGAIN.max(AGAIN_EACH.saturating_mul(nodes)),
    }
}

/// What all nodes have in force.
#[derive(Debug)]
pub(super) struct Tally {
    nodes: usize,
    /// Silent ones of which nothing is known.
    unheard: usize,
    /// Of each node that has any, and whether it is silent now.
    by_kind: BTreeMap<String, Vec<(Has, bool)>>,
    digests: RandomState,
}

/// Of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) nodes: usize,
    pub(super) have: usize,
    /// That do not have it, as far as is known, and are not heard of.
    pub(super) silent: usize,
}

impl Tally {
    /// Of an object, as `NAMESPACE/NAME`, that was first seen at that version as it is now.
    pub(super) fn count(&self, (kind, object): (&str, &str), version: u64) -> Count {
        let all = self.by_kind.get(kind).map_or(&[][..], |all| all);
        let digest = self.digests.hash_one(object);
        let has_it = |has: &Has| has.version >= version && !has.held_back.contains(&digest);
        let have = all.iter().filter(|(has, _)| has_it(has)).count();
        let lags = all.iter().filter(|(has, silent)| *silent && !has_it(has));
        Count {
            nodes: self.nodes,
            have,
            silent: self.unheard + lags.count(),
        }
    }
}

impl Count {
    /// Nothing more is to be waited for but who is silent.
    fn is_settled(self) -> bool {
        self.have + self.silent >= self.nodes
    }

    pub(super) fn is_everywhere(self) -> bool {
        self.have >= self.nodes
    }

    pub(super) fn message(self) -> String {
        let Self {
            nodes,
            have,
            silent,
        } = self;
        match silent {
            0 => format!("in force on {have} of {nodes} nodes"),
            _ => format!("in force on {have} of {nodes} nodes; {silent} not heard of"),
        }
    }

    /// `kind`: the condition's type.
    pub(super) fn condition(self, kind: &'static str) -> Condition {
        let (holds, reason) = match (self.is_everywhere(), self.is_settled()) {
            (true, _) => (Holds::True, PROGRAMMED),
            (false, true) => (Holds::Unknown, SILENT),
            (false, false) => (Holds::False, PENDING),
        };
        Condition {
            kind,
            holds,
            reason,
            message: self.message(),
        }
    }
}

pub(super) const PROGRAMMED: &str = "Programmed";
pub(super) const PENDING: &str = "Pending";
pub(super) const SILENT: &str = "NodesSilent";

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: &str = "authorizationpolicies.security.istio.io";

    fn nodes(names: &'static [&'static str]) -> Nodes {
        let nodes = Nodes::default();
        let there = move || Some(names.iter().map(|name| (*name).into()).collect());
        nodes.set_agents(Box::new(there));
        nodes.set_kinds([KIND.to_owned()].into_iter());
        nodes
    }

    fn report(nodes: &Nodes, node: &str, version: u64, at: Instant) -> Option<Pace> {
        nodes.take(node, [has(version, &[])], at)
    }

    fn has(version: u64, held_back: &[&str]) -> Said {
        Said {
            kind: KIND.to_owned(),
            version,
            held_back: held_back.iter().map(ToString::to_string).collect(),
        }
    }

    fn said(nodes: &Nodes, version: u64, at: Instant) -> String {
        said_of(nodes, "shop/web", version, at)
    }

    fn said_of(nodes: &Nodes, object: &str, version: u64, at: Instant) -> String {
        let tally = nodes.tally(at).expect("known");
        let count = tally.count((KIND, object), version);
        let Condition {
            holds,
            reason,
            message,
            ..
        } = count.condition("Programmed");
        format!("{holds:?} {reason}: {message}")
    }

    #[test]
    fn an_object_is_in_force_where_its_kind_is_as_new_as_it_is() {
        let (nodes, begun) = (nodes(&["a", "b"]), Instant::now());
        assert_eq!(
            report(&nodes, "a", 7, begun),
            None,
            "another one takes them"
        );
        nodes.hold(true, begun);
        assert!(report(&nodes, "a", 7, begun).is_some());
        assert_eq!(
            said(&nodes, 7, begun),
            "False Pending: in force on 1 of 2 nodes"
        );
        report(&nodes, "b", 6, begun);
        assert!(said(&nodes, 7, begun).starts_with("False"));
        report(&nodes, "b", 9, begun);
        assert_eq!(
            said(&nodes, 7, begun),
            "True Programmed: in force on 2 of 2 nodes"
        );
        assert!(said(&nodes, 8, begun).starts_with("False"));
        // A node without an agent counts nothing, whatever it said.
        report(&nodes, "gone", 99, begun);
        assert!(said(&nodes, 99, begun).ends_with("0 of 2 nodes"));
        nodes.hold(false, begun);
        assert!(nodes.tally(begun).is_none());
    }

    #[test]
    fn what_nodes_said_is_kept_for_one_life_of_a_lease_that_is_lost_and_not_counted_meanwhile() {
        let (nodes, begun) = (nodes(&["a", "b"]), Instant::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        nodes.hold(true, at(0));
        report(&nodes, "a", 7, at(1));
        nodes.hold(false, at(10));
        assert!(nodes.tally(at(11)).is_none());
        assert_eq!(
            report(&nodes, "b", 7, at(11)),
            None,
            "another one may take them"
        );
        nodes.hold(false, at(15));
        nodes.hold(true, at(24));
        assert!(said(&nodes, 7, at(24)).ends_with("1 of 2 nodes"));
        nodes.hold(false, at(30));
        nodes.hold(false, at(45));
        assert!(nodes.inner.lock().heard.is_empty());
        nodes.hold(true, at(46));
        assert!(said(&nodes, 7, at(46)).ends_with("0 of 2 nodes"));
        // Nobody looked meanwhile.
        report(&nodes, "a", 7, at(46));
        nodes.hold(false, at(50));
        nodes.hold(true, at(65));
        assert!(said(&nodes, 7, at(65)).ends_with("0 of 2 nodes"));
    }

    #[test]
    fn a_node_counts_once_whatever_it_says_of_a_kind() {
        let (nodes, now) = (nodes(&["a", "b", "c"]), Instant::now());
        nodes.hold(true, now);
        let thrice = [9, 7, 8].map(|version| has(version, &[]));
        nodes.take("a", thrice, now);
        assert_eq!(
            said(&nodes, 7, now),
            "False Pending: in force on 1 of 3 nodes"
        );
        assert!(
            said(&nodes, 8, now).ends_with("0 of 3 nodes"),
            "the least of it"
        );
        let others = (0..10_000).map(|n| Said {
            kind: format!("kind{n}"),
            ..has(9, &[])
        });
        nodes.take("b", others, now);
        let heard = nodes.inner.lock();
        assert_eq!(
            heard.heard["b"].in_force.len(),
            1,
            "what is counted is held"
        );
    }

    /// An older agent does not know a field that is new, and goes on with what it knows.
    #[test]
    fn an_object_is_not_in_force_where_an_older_version_of_it_is_kept() {
        let (nodes, now) = (nodes(&["a", "b"]), Instant::now());
        nodes.hold(true, now);
        nodes.take("a", [has(9, &["shop/other", "shop/web"])], now);
        nodes.take("b", [has(9, &[])], now);
        assert_eq!(
            said(&nodes, 7, now),
            "False Pending: in force on 1 of 2 nodes"
        );
        assert!(said_of(&nodes, "shop/api", 7, now).ends_with("2 of 2 nodes"));
        // Named in either half of what it says twice.
        nodes.take("a", [has(9, &["shop/web"]), has(9, &[])], now);
        assert!(said(&nodes, 7, now).ends_with("1 of 2 nodes"));
        nodes.take("a", [has(10, &[])], now);
        assert!(said(&nodes, 7, now).starts_with("True"));
        // More than are taken: nothing of it is known to be in force there.
        let many: Vec<String> = (0..=MAX_HELD_BACK).map(|n| format!("shop/{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        nodes.take("a", [has(9, &many)], now);
        assert!(said_of(&nodes, "shop/api", 7, now).ends_with("1 of 2 nodes"));
        // Silent, it is not said to have it either.
        nodes.take("a", [has(9, &["shop/web"])], now);
        let late = now + Duration::from_secs(80);
        nodes.take("b", [has(9, &[])], late);
        assert_eq!(
            said(&nodes, 7, late),
            "Unknown NodesSilent: in force on 1 of 2 nodes; 1 not heard of"
        );
    }

    #[test]
    fn a_node_that_is_silent_is_not_said_to_lack_it_nor_to_have_it() {
        let (nodes, begun) = (nodes(&["a", "b", "c"]), Instant::now());
        nodes.hold(true, begun);
        report(&nodes, "b", 5, begun);
        let later = begun + Duration::from_secs(60);
        report(&nodes, "a", 7, later);
        assert!(said(&nodes, 7, later).starts_with("False"), "not yet");
        let late = begun + Duration::from_secs(80);
        report(&nodes, "a", 7, late);
        assert_eq!(
            said(&nodes, 7, late),
            "Unknown NodesSilent: in force on 1 of 3 nodes; 2 not heard of"
        );
        // One that had it when it was heard of last has it.
        assert_eq!(
            said(&nodes, 5, late),
            "Unknown NodesSilent: in force on 2 of 3 nodes; 1 not heard of"
        );
    }

    #[test]
    fn many_nodes_are_asked_less_often_so_that_all_of_them_cost_the_same() {
        assert_eq!(pace(3).again, AGAIN);
        let many = pace(5_000);
        assert_eq!(many.again, Duration::from_secs(500));
        assert_eq!(many.spread, Duration::from_secs(10));
    }
}
