//! Until when the identities of peers are proved.
//!
//! A certificate shown in a handshake proves its identity until it ends. A
//! stream may live longer: its client makes another handshake with the same peer
//! in time, and each end notes what it was shown. Where no newer certificate of
//! the same identity was seen at the same address, the stream is cut.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use crate::identity::Handle;
use crate::model::{Name, SpiffeId};
use crate::tls::PeerId;

/// A peer's stream outlives its certificate by this: clocks differ, and the
/// client may need a second try.
pub(crate) const GRACE: Duration = Duration::from_secs(5);
/// Pairs that are remembered. Streams of others end with their certificate: those of who
/// has the most pairs.
const MAX: usize = 32_768;
/// Least number of pairs at which expired ones are looked for.
const FEW: usize = 1024;
/// Between two looks for them, at least.
const TIDY_PAUSE: Duration = Duration::from_secs(1);

/// Who proved itself to whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Pair {
    /// Of this node's pod.
    pub(crate) netns: u64,
    pub(crate) peer_ip: IpAddr,
    pub(crate) peer: SpiffeId,
}

/// What the last handshake of a pair showed.
#[derive(Clone, Debug)]
pub(crate) struct Proof {
    pub(crate) peer: PeerId,
    /// When the client is to make another.
    pub(crate) due: SystemTime,
}

/// Who has a pair remembered: one that has many makes others lose none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// A pod of this node, by its namespace: it has connected.
    Pod(u64),
    /// Another node, whose pod has.
    Node(Name),
    /// Who is of no node that is known.
    Unknown,
}

struct Known {
    proof: Proof,
    source: Source,
    /// No other renewal begins before this.
    not_before: SystemTime,
}

impl Known {
    fn take(&mut self, proof: Proof, trusted: &dyn Fn(&PeerId) -> bool) {
        let known = &self.proof.peer;
        if known.not_after() <= proof.peer.not_after() || !trusted(known) {
            self.proof = proof;
        }
    }
}

#[derive(Default)]
struct Table {
    known: HashMap<Pair, Known>,
    /// How many each has.
    sources: HashMap<Source, usize>,
    /// Number of pairs at which expired ones are dropped.
    tidy_at: usize,
    /// When that was done last: in a table that is full of live ones it helps nobody.
    tidied: Option<SystemTime>,
}

/// The proofs of all workers: the next handshake of a pair may come to another.
#[derive(Default)]
pub(crate) struct Proofs(Mutex<Table>);

impl Proofs {
    /// A handshake was verified. What ends sooner than what is known says nothing, while
    /// that is still `trusted`. A pair that is not known is remembered as its source's,
    /// where there is one.
    pub(crate) fn note_proof(
        &self,
        (pair, source): (Pair, Option<Source>),
        proof: Proof,
        (now, trusted): (SystemTime, &dyn Fn(&PeerId) -> bool),
    ) {
        let mut table = self.0.lock();
        table.tidy(now);
        if let Some(known) = table.known.get_mut(&pair) {
            return known.take(proof, trusted);
        }
        if let Some(source) = source.filter(|source| table.has_room(source)) {
            table.insert(pair, source, proof);
        }
    }

    pub(crate) fn get(&self, pair: &Pair) -> Option<Proof> {
        let table = self.0.lock();
        table.known.get(pair).map(|known| known.proof.clone())
    }

    /// May a renewal begin now? One at a time, rarely at first and each second
    /// when the end is near. Not for a pair that there was no room for.
    fn begin(&self, pair: &Pair, until: SystemTime, now: SystemTime) -> bool {
        let mut table = self.0.lock();
        let Some(known) = table.known.get_mut(pair).filter(|k| k.not_before <= now) else {
            return false;
        };
        let left = until.duration_since(now).unwrap_or_default();
        let pause = (left / 10).clamp(Duration::from_secs(1), Duration::from_secs(60));
        known.not_before = now + pause;
        true
    }
}

impl Table {
    /// Makes some at the cost of the source with the most, unless that is the one.
    fn has_room(&mut self, source: &Source) -> bool {
        if self.known.len() < MAX {
            return true;
        }
        let own = self.sources.get(source).copied().unwrap_or_default();
        let most = self.sources.iter().max_by_key(|(_, has)| **has);
        let Some(most) = most.filter(|(_, has)| **has > own + 1) else {
            return false;
        };
        let of_most = |(_, known): &(&Pair, &Known)| known.source == *most.0;
        let displaced = self.known.iter().find(of_most);
        let displaced = displaced.map(|(pair, _)| pair.clone());
        displaced.is_some_and(|pair| self.remove(&pair))
    }

    fn insert(&mut self, pair: Pair, source: Source, proof: Proof) {
        *self.sources.entry(source.clone()).or_default() += 1;
        let known = Known {
            proof,
            source,
            not_before: SystemTime::UNIX_EPOCH,
        };
        self.known.insert(pair, known);
    }

    fn remove(&mut self, pair: &Pair) -> bool {
        let Some(known) = self.known.remove(pair) else {
            return false;
        };
        if let Some(has) = self.sources.get_mut(&known.source) {
            *has -= 1;
            if *has == 0 {
                self.sources.remove(&known.source);
            }
        }
        true
    }

    fn tidy(&mut self, now: SystemTime) {
        let since = self.tidied.and_then(|at| now.duration_since(at).ok());
        let is_lately = since.is_some_and(|since| since < TIDY_PAUSE);
        if self.known.len() < self.tidy_at.max(FEW) || is_lately {
            return;
        }
        self.tidied = Some(now);
        let live = |known: &Known| now < known.proof.peer.not_after() + GRACE;
        self.known.retain(|_, known| live(known));
        self.sources.clear();
        for known in self.known.values() {
            *self.sources.entry(known.source.clone()).or_default() += 1;
        }
        self.tidy_at = (self.known.len() * 2).clamp(FEW, MAX);
    }
}

/// When a client that showed and was shown certificates until `expires` makes
/// another handshake: renewal of certificates is at half of their life, so that
/// by two thirds of the rest both ends have newer ones. `spread` parts pairs
/// that began together.
pub(crate) fn due(now: SystemTime, expires: SystemTime, spread: u64) -> SystemTime {
    let left = expires.duration_since(now).unwrap_or_default();
    let part = u32::try_from(spread % 8).unwrap_or(0);
    expires - left / 3 - (left / 64) * part
}

/// What a live connection between agents stands on.
#[derive(Debug)]
pub(crate) struct PeerSession {
    /// Certificate of this node's pod that the connection stands for.
    pub(crate) own: Arc<Handle>,
    /// As in the connection's own handshake.
    pub(crate) peer: PeerId,
    pub(crate) validity: PeerValidity,
}

/// How long the peer of a live connection counts as proved.
#[derive(Debug)]
pub(crate) struct PeerValidity {
    pub(crate) pair: Pair,
    /// Where the client makes another handshake; none at the server.
    renew_at: Option<SocketAddr>,
    until: SystemTime,
    due: SystemTime,
}

/// What is to be done about a live connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RenewalAction {
    Nothing,
    /// Make another handshake with the peer, there.
    Renew(Pair, SocketAddr),
    /// The peer's identity is not proved any more.
    Cut,
}

impl PeerValidity {
    pub(crate) fn server(pair: Pair, until: SystemTime) -> Self {
        Self {
            pair,
            renew_at: None,
            until,
            due: until,
        }
    }

    /// `due`: when another handshake, to `to`, is to be made.
    pub(crate) fn client(pair: Pair, until: SystemTime, to: SocketAddr, due: SystemTime) -> Self {
        Self {
            renew_at: Some(to),
            due,
            ..Self::server(pair, until)
        }
    }

    /// `may_renew`: there is room for another handshake now. What is not `trusted` any
    /// more proves nothing.
    pub(crate) fn renewal_action(
        &mut self,
        (proofs, trusted): (&Proofs, &dyn Fn(&PeerId) -> bool),
        now: SystemTime,
        may_renew: bool,
    ) -> RenewalAction {
        if now < self.due {
            return RenewalAction::Nothing;
        }
        let proof = proofs.get(&self.pair);
        if let Some(proof) = proof.filter(|proof| trusted(&proof.peer)) {
            self.until = self.until.max(proof.peer.not_after());
            self.due = match self.renew_at {
                Some(_) => self.due.max(proof.due),
                None => self.until,
            };
        }
        if now >= self.until + GRACE {
            return RenewalAction::Cut;
        }
        match self.renew_at {
            Some(to)
                if may_renew && now >= self.due && proofs.begin(&self.pair, self.until, now) =>
            {
                RenewalAction::Renew(self.pair.clone(), to)
            }
            _ => RenewalAction::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    fn id() -> SpiffeId {
        let domain = crate::model::TrustDomain::new("cluster.local").expect("a domain");
        SpiffeId::new(&domain, "shop", "web").expect("an identity")
    }

    fn pair(netns: u64) -> Pair {
        Pair {
            netns,
            peer_ip: [10, 0, 0, 1].into(),
            peer: id(),
        }
    }

    /// A handshake at `now` in which certificates until `until` were shown.
    fn proof(now: u64, until: u64) -> Proof {
        Proof {
            peer: PeerId::for_test(id(), at(until)),
            due: due(at(now), at(until), 0),
        }
    }

    fn here() -> Option<Source> {
        Some(Source::Pod(1))
    }

    /// No root was removed.
    fn believed(_: &PeerId) -> bool {
        true
    }

    fn there() -> SocketAddr {
        ([10, 0, 0, 1], 80).into()
    }

    #[test]
    fn a_renewal_comes_after_the_certificates_own_and_well_before_their_end() {
        // A certificate of 3600 s, renewed at 1800 s; handshakes at either moment.
        for (made, spread) in [(0, 0), (0, 7), (1800, 0), (1800, 7)] {
            let due = due(at(made), at(3600), spread);
            assert!(due > at(1800) && due < at(3300), "{made} {spread}: {due:?}");
        }
        assert_eq!(due(at(10), at(5), 3), at(5), "expired already");
    }

    #[test]
    fn a_server_cuts_when_no_newer_certificate_of_the_pair_was_seen() {
        let proofs = Proofs::default();
        proofs.note_proof((pair(1), here()), proof(0, 100), (at(0), &believed));
        let mut stream = PeerValidity::server(pair(1), at(100));
        let mut renewal_action = |now| stream.renewal_action((&proofs, &believed), at(now), true);
        assert_eq!(
            renewal_action(104),
            RenewalAction::Nothing,
            "within the grace"
        );
        // Of others: another pod here, another address there.
        proofs.note_proof((pair(2), here()), proof(90, 200), (at(90), &believed));
        let mut elsewhere = pair(1);
        elsewhere.peer_ip = [10, 0, 0, 2].into();
        proofs.note_proof((elsewhere, here()), proof(90, 200), (at(90), &believed));
        assert_eq!(renewal_action(105), RenewalAction::Cut);
        proofs.note_proof((pair(1), here()), proof(90, 200), (at(90), &believed));
        assert_eq!(renewal_action(105), RenewalAction::Nothing);
        assert_eq!(renewal_action(204), RenewalAction::Nothing);
        assert_eq!(renewal_action(205), RenewalAction::Cut);
    }

    #[test]
    fn a_client_renews_once_for_all_streams_of_a_pair_and_again_if_that_failed() {
        let proofs = Proofs::default();
        let first = proof(0, 300);
        proofs.note_proof((pair(1), here()), first.clone(), (at(0), &believed));
        let mut streams =
            [0, 1].map(|_| PeerValidity::client(pair(1), at(300), there(), first.due));
        let renew = RenewalAction::Renew(pair(1), there());
        assert_eq!(
            streams[0].renewal_action((&proofs, &believed), at(199), true),
            RenewalAction::Nothing
        );
        assert_eq!(
            streams[0].renewal_action((&proofs, &believed), at(200), false),
            RenewalAction::Nothing,
            "no room"
        );
        assert_eq!(
            streams[0].renewal_action((&proofs, &believed), at(200), true),
            renew
        );
        assert_eq!(
            streams[1].renewal_action((&proofs, &believed), at(201), true),
            RenewalAction::Nothing,
            "under way"
        );
        assert_eq!(
            streams[1].renewal_action((&proofs, &believed), at(211), true),
            renew,
            "it failed"
        );
        proofs.note_proof((pair(1), here()), proof(211, 600), (at(211), &believed));
        for stream in &mut streams {
            assert_eq!(
                stream.renewal_action((&proofs, &believed), at(400), true),
                RenewalAction::Nothing
            );
        }
    }

    #[test]
    fn an_older_certificate_takes_nothing_back() {
        let proofs = Proofs::default();
        proofs.note_proof((pair(1), here()), proof(0, 200), (at(0), &believed));
        proofs.note_proof((pair(1), here()), proof(1, 100), (at(1), &believed));
        let known = proofs.get(&pair(1)).expect("known");
        assert_eq!(known.peer.not_after(), at(200));
    }

    #[test]
    fn what_is_not_trusted_any_more_proves_nothing_and_makes_way() {
        let proofs = Proofs::default();
        let distrusted = |peer: &PeerId| peer.not_after() < at(900);
        proofs.note_proof((pair(1), here()), proof(0, 900), (at(0), &believed));
        let mut stream = PeerValidity::server(pair(1), at(100));
        let action = stream.renewal_action((&proofs, &distrusted), at(105), true);
        assert_eq!(action, RenewalAction::Cut, "its own certificate is over");
        proofs.note_proof((pair(1), here()), proof(90, 200), (at(90), &distrusted));
        let known = proofs.get(&pair(1)).expect("known");
        assert_eq!(known.peer.not_after(), at(200));
    }

    /// Pairs of one source, all of them different from those of others.
    fn note_many(proofs: &Proofs, source: &Source, count: usize) {
        let from = match source {
            Source::Pod(n) => *n << 32,
            Source::Node(_) | Source::Unknown => 0,
        };
        for n in 0..count as u64 {
            let noted = (pair(from + n), Some(source.clone()));
            proofs.note_proof(noted, proof(0, 100), (at(0), &believed));
        }
    }

    #[test]
    fn who_has_most_pairs_takes_no_room_from_others() {
        let (proofs, greedy) = (Proofs::default(), Source::Node(Name::from("n9")));
        note_many(&proofs, &greedy, MAX + 10);
        for pod in [1, 2] {
            note_many(&proofs, &Source::Pod(pod), 3);
        }
        note_many(&proofs, &greedy, MAX);
        for pod in [1, 2] {
            assert!((0..3).all(|n| proofs.get(&pair((pod << 32) + n)).is_some()));
        }
        let table = proofs.0.lock();
        assert_eq!(table.known.len(), MAX);
        assert_eq!(table.sources[&greedy], MAX - 6);
        assert_eq!(table.sources.values().sum::<usize>(), MAX);
    }

    #[test]
    fn a_handshake_renews_what_is_known_and_makes_nothing_known_without_a_stream() {
        let proofs = Proofs::default();
        proofs.note_proof((pair(1), None), proof(0, 100), (at(0), &believed));
        assert!(proofs.get(&pair(1)).is_none());
        proofs.note_proof((pair(1), here()), proof(0, 100), (at(0), &believed));
        proofs.note_proof((pair(1), None), proof(50, 200), (at(50), &believed));
        let known = proofs.get(&pair(1)).expect("known");
        assert_eq!(known.peer.not_after(), at(200));
    }

    #[test]
    fn memory_is_bounded_and_expired_pairs_make_room() {
        let proofs = Proofs::default();
        for netns in 0..MAX as u64 + 10 {
            proofs.note_proof((pair(netns), here()), proof(0, 100), (at(0), &believed));
        }
        assert_eq!(proofs.0.lock().known.len(), MAX);
        assert!(proofs.get(&pair(MAX as u64)).is_none());
        proofs.note_proof(
            (pair(MAX as u64), here()),
            proof(200, 300),
            (at(200), &believed),
        );
        assert_eq!(proofs.0.lock().known.len(), 1);
    }
}
