//! What the data path may have, as the limit of open files gives it.
//!
//! A part is held back for control: admin pages, configuration, certificates,
//! enrolment, looking after programs. The kernel gives the lowest number that is
//! free, so a descriptor's number tells how many are in use, at no cost.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A connection is two descriptors, and two entries of the kernel's map of tuples.
const MOST_CONNECTIONS: usize = 100_000;
/// What a node should have (`mesh-agent doctor` asks for it).
pub(crate) const RECOMMENDED_OPEN_FILES: u64 = 16_384;

/// What an agent has open without a pod: programs, maps, listeners, files, spare ones
/// (about 80 of two workers, counted).
const OWN_FILES: usize = 80;
/// What it has open for an enrolled pod, beside a listener of each worker: its network
/// namespace, and what holds its programs.
const FILES_OF_POD: usize = 6;

/// Spare descriptors of all workers that are given up just now, or were taken by others.
static MISSING: AtomicUsize = AtomicUsize::new(0);

/// A spare descriptor, which is given up for a moment and taken back.
#[derive(Debug)]
pub(crate) struct SpareFile(Option<File>);

impl SpareFile {
    pub(crate) fn new() -> Self {
        MISSING.fetch_add(1, Ordering::SeqCst);
        let mut spare = Self(None);
        spare.take_back();
        spare
    }

    pub(crate) fn give_up(&mut self) {
        if let Some(file) = self.0.take() {
            // Said before anybody can have it.
            MISSING.fetch_add(1, Ordering::SeqCst);
            drop(file);
        }
    }

    /// If there is one.
    pub(crate) fn take_back(&mut self) {
        if self.0.is_none()
            && let Some(next) = one_more()
        {
            self.0 = Some(next);
            MISSING.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Drop for SpareFile {
    fn drop(&mut self) {
        if self.0.is_none() {
            MISSING.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn one_more() -> Option<File> {
    File::open("/dev/null").ok()
}

/// Has the last descriptor been taken while a spare one is given up? Who keeps it leaves
/// nobody able to refuse.
pub(crate) fn is_anothers_spare() -> bool {
    MISSING.load(Ordering::SeqCst) > 0 && one_more().is_none()
}

/// Bounds that follow from the number of files that may be open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    open_files: usize,
    /// Descriptors of this number and above are control's.
    data_files: usize,
    workers: usize,
    /// Of the whole agent.
    pub(crate) connections: usize,
    /// Of one pod, so that a busy one does not starve its neighbours.
    pub(crate) connections_per_pod: usize,
    /// Idle connections to other agents, of one worker.
    pub(crate) pooled: usize,
}

impl Limits {
    #[must_use]
    pub(crate) fn of(open_files: u64, workers: usize) -> Self {
        let open_files = usize::try_from(open_files).unwrap_or(usize::MAX);
        let held_back = (open_files / 16).clamp(64, 1024);
        let data_files = open_files.saturating_sub(held_back);
        let workers = workers.max(1);
        let pooled = (data_files / 10 / workers).clamp(1, 512);
        let rest = data_files.saturating_sub(pooled.saturating_mul(workers));
        let connections = (rest / 2).clamp(1, MOST_CONNECTIONS);
        Self {
            open_files,
            data_files,
            workers,
            connections,
            connections_per_pod: connections.div_ceil(2),
            pooled,
        }
    }

    /// How many there is room for, about, beside what the agent has open of itself and of
    /// so many enrolled pods.
    #[must_use]
    pub(crate) fn connections_beside(&self, pods: usize) -> usize {
        let left = self.for_connections().saturating_sub(self.own_files(pods));
        (left / 2).min(self.connections)
    }

    /// With how many enrolled pods there is none, about.
    #[must_use]
    pub(crate) fn pods_that_fill(&self) -> usize {
        let shared = self.for_connections().saturating_sub(OWN_FILES);
        shared.div_ceil(self.files_of_pod())
    }

    /// What the agent has open of itself and of so many enrolled pods, about.
    #[must_use]
    pub(crate) fn own_files(&self, pods: usize) -> usize {
        OWN_FILES.saturating_add(pods.saturating_mul(self.files_of_pod()))
    }

    #[must_use]
    pub(crate) fn files_of_pod(&self) -> usize {
        FILES_OF_POD + self.workers
    }

    /// Is more than half of what is not held back the agent's own?
    #[must_use]
    pub(crate) fn are_own(&self, pods: usize) -> bool {
        self.own_files(pods).saturating_mul(2) > self.data_files
    }

    /// What connections may have, but for those that idle between agents.
    fn for_connections(&self) -> usize {
        let idle = self.pooled.saturating_mul(self.workers);
        self.data_files.saturating_sub(idle)
    }

    /// Is it one that is held back for control?
    pub(crate) fn is_held_back(&self, fd: &impl AsFd) -> bool {
        let number = usize::try_from(fd.as_fd().as_raw_fd()).unwrap_or(usize::MAX);
        number >= self.data_files
    }

    /// From this number on descriptors are control's.
    pub(crate) fn data_files(&self) -> usize {
        self.data_files
    }

    /// Are those of the data path all in use? Looked at by taking one.
    #[must_use]
    pub(crate) fn are_used_up(&self) -> bool {
        std::fs::File::open("/dev/null").map_or(true, |next| self.is_held_back(&next))
    }

    #[must_use]
    pub(crate) fn open_files(&self) -> usize {
        self.open_files
    }

    /// Is it less than a node should have, or than what is asked for?
    #[must_use]
    pub(crate) fn is_short(&self, connections: usize) -> bool {
        connections > self.connections || (self.open_files as u64) < RECOMMENDED_OPEN_FILES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_limit_some_descriptors_are_left_for_control() {
        for open_files in [64_u64, 256, 400, 1024, 20_000, 1 << 20, u64::MAX] {
            for workers in [1, 2, 64] {
                let limits = Limits::of(open_files, workers);
                let used = limits.connections * 2 + limits.pooled * workers;
                let text = format!("{open_files} {workers} {limits:?}");
                assert!(limits.connections >= 1 && limits.connections_per_pod >= 1);
                assert!(limits.connections <= MOST_CONNECTIONS, "{text}");
                // Of very few there is nothing to be shared out.
                if open_files >= 256 {
                    assert!(used <= limits.data_files, "{text}");
                    assert!(limits.data_files + 64 <= limits.open_files, "{text}");
                }
            }
        }
        let usual = Limits::of(20_000, 2);
        assert!((8_000..10_000).contains(&usual.connections), "{usual:?}");
        assert!(!usual.is_short(usual.connections));
        assert!(usual.is_short(20_000));
        assert!(Limits::of(1024, 2).is_short(1));
    }

    #[test]
    fn a_descriptor_tells_by_its_number_whether_it_is_controls() {
        let file = std::fs::File::open("/dev/null").expect("a file");
        assert!(!Limits::of(20_000, 1).is_held_back(&file));
        assert!(Limits::of(64, 1).is_held_back(&file));
        assert!(!Limits::of(20_000, 1).are_used_up());
        assert!(Limits::of(64, 1).are_used_up());
    }
}
