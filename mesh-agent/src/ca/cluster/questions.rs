//! Whose question is asked next. Anybody who reaches the port can have tokens
//! reviewed: so a few at once, in turn by the address that they come from, and each
//! address has its share of those that run and of those that wait.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Who shows noise must not be the API server's trouble.
const AT_ONCE: usize = 16;
const AT_ONCE_OF_ONE: usize = 4;
const WAITING: usize = 256;
/// All nodes of a cluster may share an IPv6 network, which is one address here.
const WAITING_OF_ONE: usize = 64;
/// Less than a call to the authority may take.
const WAIT: Duration = Duration::from_secs(3);

/// Too many, from this address or from all.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Busy;

#[derive(Debug, Default)]
pub(super) struct Questions(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    running: usize,
    waiting: usize,
    sources: BTreeMap<IpAddr, SourceQueue>,
    /// Addresses of which some wait, each once; the first one's turn is next.
    queue: VecDeque<IpAddr>,
}

#[derive(Debug, Default)]
struct SourceQueue {
    running: usize,
    waiting: VecDeque<oneshot::Sender<Permit>>,
}

/// The right to ask one question; ends when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    of: Arc<Questions>,
    source: IpAddr,
}

impl Questions {
    /// Waits for a permit, for a while. May be given up at any time.
    pub(super) async fn permit(self: &Arc<Self>, source: IpAddr) -> Result<Permit, Busy> {
        let (given, permit) = oneshot::channel();
        self.0.lock().enter(source, given)?;
        self.go_on();
        // One that comes while nobody waits any more is dropped, and so goes on.
        match tokio::time::timeout(WAIT, permit).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(Busy),
        }
    }

    /// Gives the permits that are free.
    fn go_on(self: &Arc<Self>) {
        loop {
            let mut state = self.0.lock();
            let Some((source, given)) = state.next() else {
                return;
            };
            // One that nobody takes ends here, which locks again.
            drop(state);
            let permit = Permit {
                of: self.clone(),
                source,
            };
            let _unwanted = given.send(permit);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.of.0.lock().leave(self.source);
        self.of.go_on();
    }
}

impl State {
    fn enter(&mut self, source: IpAddr, given: oneshot::Sender<Permit>) -> Result<(), Busy> {
        if self.waiting >= WAITING || self.waits(source) >= WAITING_OF_ONE {
            self.forget_given_up();
        }
        let own = self.waits(source);
        if own >= WAITING_OF_ONE {
            return Err(Busy);
        }
        if self.waiting >= WAITING {
            // Room is made by whoever has more of it than this one would have.
            let most = self.sources.iter().max_by_key(|(_, s)| s.waiting.len());
            let (greedy, has) = most.map_or((source, 0), |(ip, s)| (*ip, s.waiting.len()));
            if has <= own + 1 {
                return Err(Busy);
            }
            if let Some(of) = self.sources.get_mut(&greedy) {
                of.waiting.pop_back();
                self.waiting -= 1;
            }
        }
        let of = self.sources.entry(source).or_default();
        if of.waiting.is_empty() {
            self.queue.push_back(source);
        }
        of.waiting.push_back(given);
        self.waiting += 1;
        Ok(())
    }

    fn waits(&self, source: IpAddr) -> usize {
        self.sources.get(&source).map_or(0, |of| of.waiting.len())
    }

    fn forget_given_up(&mut self) {
        for of in self.sources.values_mut() {
            of.waiting.retain(|given| !given.is_closed());
        }
        self.sources
            .retain(|_, of| of.running > 0 || !of.waiting.is_empty());
        let waits = |ip: &IpAddr| self.sources.get(ip).is_some_and(|s| !s.waiting.is_empty());
        self.queue.retain(waits);
        self.waiting = self.sources.values().map(|of| of.waiting.len()).sum();
    }

    /// The next one that waits, of the address whose turn it is.
    fn next(&mut self) -> Option<(IpAddr, oneshot::Sender<Permit>)> {
        if self.running >= AT_ONCE {
            return None;
        }
        let may_run = |ip: &IpAddr| {
            let of = self.sources.get(ip);
            of.is_some_and(|of| of.running < AT_ONCE_OF_ONE)
        };
        let at = self.queue.iter().position(may_run)?;
        let source = self.queue.remove(at)?;
        let of = self.sources.get_mut(&source)?;
        let given = of.waiting.pop_front()?;
        of.running += 1;
        self.running += 1;
        self.waiting -= 1;
        if !of.waiting.is_empty() {
            self.queue.push_back(source);
        }
        Some((source, given))
    }

    fn leave(&mut self, source: IpAddr) {
        self.running = self.running.saturating_sub(1);
        if let Some(of) = self.sources.get_mut(&source) {
            of.running = of.running.saturating_sub(1);
            if of.running == 0 && of.waiting.is_empty() {
                self.sources.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::task::JoinHandle;

    use super::*;

    fn ip(n: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0a00_0000 + n).into()
    }

    fn ask(questions: &Arc<Questions>, n: u32) -> JoinHandle<Result<Permit, Busy>> {
        let questions = questions.clone();
        tokio::spawn(async move { questions.permit(ip(n)).await })
    }

    async fn settle() {
        for _ in 0..2_000 {
            tokio::task::yield_now().await;
        }
    }

    fn is_empty(questions: &Questions) -> bool {
        let state = questions.0.lock();
        state.running == 0
            && state.waiting == 0
            && state.sources.is_empty()
            && state.queue.is_empty()
    }

    #[tokio::test(start_paused = true)]
    async fn one_address_keeps_nobody_else_from_asking() {
        let questions = Arc::<Questions>::default();
        let flood: Vec<_> = (0..1_000).map(|_| ask(&questions, 1)).collect();
        settle().await;
        let refused = flood.iter().filter(|asking| asking.is_finished()).count();
        // Those that run have their permit; of the others few may wait.
        assert_eq!(refused, 1_000 - WAITING_OF_ONE);
        let other = questions.permit(ip(2)).await;
        assert!(other.is_ok(), "at once");
    }

    /// They are one address here: an IPv6 host has a whole network to connect from.
    #[tokio::test(start_paused = true)]
    async fn many_nodes_of_one_network_that_start_at_once_are_all_asked_about() {
        let questions = Arc::<Questions>::default();
        let nodes: Vec<_> = (0..60).map(|_| ask(&questions, 1)).collect();
        for node in nodes {
            let permit = node.await.expect("it ran").expect("a permit");
            tokio::time::sleep(Duration::from_millis(20)).await;
            drop(permit);
        }
        assert!(is_empty(&questions));
    }

    #[tokio::test(start_paused = true)]
    async fn with_all_in_use_each_address_has_its_turn() {
        let questions = Arc::<Questions>::default();
        let mut held = Vec::new();
        for n in 0..4 {
            for _ in 0..AT_ONCE_OF_ONE {
                held.push(questions.permit(ip(n)).await.expect("a permit"));
            }
        }
        let waiting: Vec<_> = (0..WAITING_OF_ONE).map(|_| ask(&questions, 0)).collect();
        settle().await;
        let late = ask(&questions, 9);
        settle().await;
        assert!(!late.is_finished());
        // Two ends: one of the first address may follow, and then the late one.
        held.truncate(held.len() - 2);
        settle().await;
        assert!(late.is_finished(), "not after all of the other's");
        drop((held, waiting, late));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_makes_room_for_who_has_less_of_it() {
        let questions = Arc::<Questions>::default();
        let addresses = WAITING / WAITING_OF_ONE + 8;
        let flood: Vec<_> = (0..u32::try_from(addresses).expect("few"))
            .flat_map(|n| (0..WAITING_OF_ONE + AT_ONCE_OF_ONE).map(move |_| n))
            .map(|n| ask(&questions, n))
            .collect();
        settle().await;
        assert_eq!(questions.0.lock().waiting, WAITING);
        let late = ask(&questions, 1_000);
        settle().await;
        assert!(!late.is_finished(), "it waits, and is not refused");
        assert_eq!(questions.0.lock().waiting, WAITING);
        tokio::time::sleep(WAIT).await;
        settle().await;
        for asking in flood {
            asking.abort();
        }
        assert!(matches!(late.await, Ok(Err(Busy) | Ok(_))), "not for ever");
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_leaves_nothing_behind() {
        let questions = Arc::<Questions>::default();
        let mut held = Vec::new();
        for _ in 0..AT_ONCE_OF_ONE {
            held.push(questions.permit(ip(1)).await.expect("a permit"));
        }
        let gone: Vec<_> = (0..WAITING_OF_ONE).map(|_| ask(&questions, 1)).collect();
        settle().await;
        gone.iter().for_each(JoinHandle::abort);
        settle().await;
        let next = ask(&questions, 1);
        settle().await;
        held.pop();
        assert!(matches!(next.await, Ok(Ok(_))));
        drop(held);
        assert!(is_empty(&questions));
    }
}
