//! While nobody answers, one of all who ask tries, for all of them.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;

use super::backoff::{Backoff, jittered};
use super::client::Client;
use super::fault::Fault;
use super::presence::Groups;

/// What says no more than that somebody is there.
const PROBE: &str = "/readyz";
const FIRST: Duration = Duration::from_millis(50);
/// Those who waited do not come all at once.
const SPREAD: Duration = Duration::from_millis(200);

/// Shared by the followers of one API server.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    away: Mutex<Option<(Instant, Fault)>>,
    /// What is installed.
    pub(super) groups: Groups,
    /// Whoever has it tries for all.
    probing: AsyncMutex<()>,
}

impl Gate {
    /// Since when nobody answers, and why, where that is so.
    pub(crate) fn away(&self) -> Option<(Instant, Fault)> {
        self.away.lock().clone()
    }

    pub(super) fn note_away(&self, fault: &Fault) {
        let mut away = self.away.lock();
        match &mut *away {
            // In whatever words: it is one absence, and told once.
            Some((_, known)) if known.reason() == fault.reason() => {}
            Some((_, known)) => *known = fault.clone(),
            None => *away = Some((Instant::now(), fault.clone())),
        }
    }

    pub(super) fn note_there(&self) {
        self.away.lock().take();
    }

    /// Until somebody answers, whatever he says.
    pub(super) async fn wait(&self, client: &Client) {
        let mut backoff = Backoff::new(FIRST, client.patience().away);
        let probing = self.probing.lock().await;
        while self.away().is_some() {
            tokio::time::sleep(backoff.pause()).await;
            match client.get(PROBE, 64 << 10).await {
                Err(fault) if fault.is_away() => self.note_away(&fault),
                _ => self.note_there(),
            }
        }
        drop(probing);
        tokio::time::sleep(jittered(SPREAD)).await;
    }
}
