//! Are the programs still attached and everything pinned? What somebody took
//! away is put back.
//!
//! Each link is looked at by itself, and an error is not "gone": where it cannot
//! be told how one is, it stays as it is, and the error is given.

use std::time::Instant;

use super::links::Found;
use super::pins::{self, Pins};
use super::{Capture, Error, Owner};
use crate::model::PodIps;
use crate::sys::netns::{self, Netns};

/// What a look at the node's own programs and pins came to.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    /// Put back.
    pub(crate) count: usize,
    /// Why something could not be looked at or put back.
    pub(crate) failed: Vec<String>,
}

impl Restored {
    fn note(&mut self, restored: Result<usize, Error>) {
        match restored {
            Ok(count) => self.count += count,
            Err(error) => self.failed.push(error.to_string()),
        }
    }
}

impl Capture {
    /// Puts back the node's own links and the maps' pins.
    pub(crate) fn restore_node(&mut self) -> Restored {
        let mut restored = Restored::default();
        restored.note(self.restore_map_pins());
        for at in 0..self.hooks.len() {
            restored.note(self.restore_hook(at));
        }
        self.lookup.prepare();
        restored
    }

    fn restore_hook(&mut self, at: usize) -> Result<usize, Error> {
        let (hook, link) = &self.hooks[at];
        match link.look()? {
            Found::Whole => return Ok(0),
            Found::PinnedAgain => {}
            Found::Detached => self.hooks[at].1 = self.attach_hook(hook)?,
        }
        Ok(1)
    }

    /// Puts back an enrolled pod's link; was it missing?
    pub(crate) fn restore_pod(&mut self, netns: &Netns) -> Result<bool, Error> {
        let cookie = netns.cookie();
        match self.pods.get(&cookie).map(|link| link.look()).transpose()? {
            Some(Found::Whole) => return Ok(false),
            Some(Found::PinnedAgain) => {}
            Some(Found::Detached) | None => {
                let link = self.attach_pod(netns)?;
                self.pods.insert(cookie, link);
            }
        }
        Ok(true)
    }

    /// Puts back what was taken from the namespaces that are closed and that nobody
    /// serves. They are not held open, which would keep them from going: each is
    /// sought once something of it is missing.
    pub(crate) fn restore_unserved(&mut self, is_served: impl Fn(u64) -> bool) -> Restored {
        let mut restored = Restored::default();
        let mut missing = Vec::new();
        let unserved = self.pods.iter().filter(|(cookie, _)| !is_served(**cookie));
        for (cookie, link) in unserved {
            let mut seen = self.look_at_links(*cookie);
            seen.note(link.look());
            restored.count += seen.pinned_again;
            restored.failed.extend(seen.failed.map(|e| e.to_string()));
            if seen.missing > 0 {
                missing.push(*cookie);
            }
        }
        let now = Instant::now();
        if self.seeks_missing.is_due(&missing, now) {
            let mended = self.mend_missing(&missing, now);
            restored.count += mended.count;
            self.unmended = mended.failed;
        } else if missing.is_empty() {
            self.unmended.clear();
        }
        restored.failed.extend_from_slice(&self.unmended);
        restored
    }

    /// Of namespaces that are not held: they are sought.
    fn mend_missing(&mut self, missing: &[u64], now: Instant) -> Restored {
        let mut restored = Restored::default();
        let mut unsettled = missing.to_vec();
        let netns::Search { found, unasked } = netns::find(&self.config.names, missing);
        let unasked = unasked.map(|error| Error::Search(error).to_string());
        restored.failed.extend(unasked);
        for netns in found {
            let failed = restored.failed.len();
            restored.note(self.restore_pod(&netns).map(usize::from));
            restored.note(self.restore_links(&netns, PodIps::default()));
            if restored.failed.len() == failed {
                unsettled.retain(|cookie| *cookie != netns.cookie());
            }
        }
        self.seeks_missing.sought(unsettled, now);
        restored
    }

    /// Forgets namespaces that are gone, of those that `is_known` does not know.
    /// Gives the cookies of these, and of those that are still there, or not forgotten.
    ///
    /// A program that is detached is no proof: root may have done it. Where a guard
    /// is at the pod's link, or something names the namespace, the pod is there.
    pub(crate) fn sweep(&mut self, is_known: impl Fn(u64) -> bool) -> (Vec<u64>, Vec<u64>) {
        let others = self.pods.iter().filter(|(cookie, _)| !is_known(**cookie));
        let (gone, there): (Vec<_>, Vec<_>) = others
            .map(|(cookie, link)| (*cookie, link.look()))
            .partition(|(cookie, found)| {
                matches!(found, Ok(Found::Detached)) && !self.has_guarded_link(*cookie)
            });
        let cookies = |all: Vec<(u64, _)>| all.into_iter().map(|(cookie, _)| cookie).collect();
        let (mut gone, mut there): (Vec<u64>, Vec<u64>) = (cookies(gone), cookies(there));
        let now = Instant::now();
        if !gone.is_empty() && !self.seeks_gone.is_due(&gone, now) {
            // As the last search left them.
            there.append(&mut gone);
        } else if !gone.is_empty() {
            let search = netns::find(&self.config.names, &gone);
            let is_found = |c: &u64| search.found.iter().any(|netns| netns.cookie() == *c);
            // Not found is not gone where not all could be looked at.
            let stays = |c: &u64| search.unasked.is_some() || is_found(c);
            let (stay, go): (Vec<u64>, Vec<u64>) = gone.into_iter().partition(stays);
            there.extend(&stay);
            self.seeks_gone.sought(stay, now);
            gone = go;
        }
        gone.retain(|cookie| match self.forget(*cookie) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(cookie, %error, "cannot forget a namespace that is gone");
                there.push(*cookie);
                false
            }
        });
        (gone, there)
    }

    fn restore_map_pins(&mut self) -> Result<usize, Error> {
        if !self.owner.as_ref().map_or(Ok(true), Owner::holds)? {
            self.owner = Some(Owner::of(&self.config.bpffs_dir)?);
        }
        if !pins::is_there(&self.pins.maps())? {
            self.pins = Pins::prepare(&self.config.bpffs_dir)?;
        }
        let mut missing = 0;
        for name in &self.pinned_maps {
            let path = self.pins.maps().join(name);
            if pins::is_there(&path)? {
                continue;
            }
            let map = self.ebpf.map(name);
            let map = map.ok_or_else(|| Error::Missing(name.clone()))?;
            map.pin(&path).map_err(|e| Error::Pins {
                dir: path,
                source: std::io::Error::other(e),
            })?;
            missing += 1;
        }
        Ok(missing)
    }
}
