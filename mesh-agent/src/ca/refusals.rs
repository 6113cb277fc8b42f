//! The log of what was refused, written by a thread of its own.
//!
//! Anybody can be refused, and a disk, or who reads standard output, may stand still:
//! who answers calls waits for neither. What does not fit into the queue is left out,
//! and counted in the next line that is written.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::errors::Error;
use super::limit::Limit;

/// Refusals per second that are written down; more are only counted.
const WRITTEN: u32 = 20;
/// Lines that wait to be written, of a few hundred bytes each.
const QUEUE: usize = 256;
/// How long the end of the authority waits for the last ones.
const LAST: Duration = Duration::from_secs(1);

pub(super) struct Refusals {
    started: Instant,
    limit: Mutex<Limit>,
    queue: Mutex<Option<SyncSender<Entry>>>,
    unwritten: Unwritten,
}

struct Entry {
    line: Vec<u8>,
    /// Of which it tells that they have none.
    before: u64,
}

/// Refusals without a line.
#[derive(Clone, Default)]
struct Unwritten {
    since_last: Arc<AtomicU64>,
    all: Counter,
}

/// The thread, until all is written.
#[must_use]
pub(super) struct Writing(oneshot::Receiver<()>);

impl Default for Refusals {
    fn default() -> Self {
        Self::within(Limit::new(WRITTEN, WRITTEN))
    }
}

impl Refusals {
    fn within(limit: Limit) -> Self {
        Self {
            started: Instant::now(),
            limit: Mutex::new(limit),
            queue: Mutex::default(),
            unwritten: Unwritten::default(),
        }
    }

    /// Starts the thread, which ends with the queue.
    pub(super) fn begin(
        &self,
        write: impl FnMut(&[u8]) -> Result<(), Error> + Send + 'static,
    ) -> io::Result<Writing> {
        let (queue, entries) = sync_channel(QUEUE);
        let (done, written) = oneshot::channel();
        let unwritten = self.unwritten.clone();
        let thread = std::thread::Builder::new().name("refusals".to_owned());
        thread.spawn(move || {
            run(&entries, &unwritten, write);
            // Who asked may not wait any more.
            let _late = done.send(());
        })?;
        *self.queue.lock() = Some(queue);
        Ok(Writing(written))
    }

    /// A disk that stands still is not waited for: the thread ends with the process.
    pub(super) async fn end(&self, writing: Writing) {
        self.queue.lock().take();
        if timeout(LAST, writing.0).await.is_err() {
            tracing::warn!("the last refusals are not written down: their log stands still");
        }
    }

    pub(super) fn unwritten(&self) -> Counter {
        self.unwritten.all.clone()
    }

    /// `line` is told how many before it have none.
    pub(super) fn tell(&self, line: impl FnOnce(u64) -> serde_json::Result<Vec<u8>>) {
        if !self.limit.lock().admits("", self.started.elapsed()) {
            self.unwritten.add(0);
            return;
        }
        let before = self.unwritten.since_last.swap(0, Ordering::Relaxed);
        let is_queued = match line(before) {
            Ok(line) => self.queue(Entry { line, before }),
            Err(error) => {
                tracing::error!(%error, "a refusal has no line");
                false
            }
        };
        if !is_queued {
            self.unwritten.add(before);
        }
    }

    fn queue(&self, entry: Entry) -> bool {
        let queue = self.queue.lock();
        queue.as_ref().is_some_and(|q| q.try_send(entry).is_ok())
    }
}

impl Unwritten {
    /// One more, which would have told of so many before it.
    fn add(&self, before: u64) {
        self.since_last.fetch_add(before + 1, Ordering::Relaxed);
        self.all.inc();
    }
}

fn run(
    entries: &Receiver<Entry>,
    unwritten: &Unwritten,
    mut write: impl FnMut(&[u8]) -> Result<(), Error>,
) {
    for Entry { line, before } in entries {
        if let Err(error) = write(&line) {
            tracing::error!(%error, "cannot write down a refusal");
            unwritten.add(before);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn unlimited() -> Refusals {
        Refusals::within(Limit::new(u32::MAX, 1))
    }

    fn tell(refusals: &Refusals) {
        refusals.tell(|before| Ok(before.to_string().into_bytes()));
    }

    #[tokio::test]
    async fn who_is_refused_waits_for_no_disk_and_what_is_left_out_is_counted() {
        let refusals = unlimited();
        let (gate, is_open) = channel::<()>();
        let (written, lines) = channel();
        let writing = refusals.begin(move |line| {
            // An error once the gate is gone.
            let _open = is_open.recv();
            written.send(line.to_vec()).expect("who looks");
            Ok(())
        });
        let told = 2 * QUEUE as u64;
        (0..told).for_each(|_| tell(&refusals));
        let left_out = refusals.unwritten().get();
        assert!(left_out >= QUEUE as u64 - 1, "{left_out}");
        drop(gate);
        for _ in left_out..told {
            assert_eq!(lines.recv().expect("a line"), b"0");
        }
        tell(&refusals);
        refusals.end(writing.expect("a thread")).await;
        let last = lines.recv().expect("the end waits for the last one");
        assert_eq!(last, left_out.to_string().into_bytes());
        tell(&refusals);
        assert_eq!(refusals.unwritten().get(), left_out + 1, "behind the end");
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_waits_for_a_disk_that_stands_still_for_a_while_only() {
        let refusals = unlimited();
        let (_gate, is_open) = channel::<()>();
        let writing = refusals.begin(move |_| {
            let _open = is_open.recv();
            Ok(())
        });
        tell(&refusals);
        let begun = tokio::time::Instant::now();
        refusals.end(writing.expect("a thread")).await;
        assert!(begun.elapsed() >= LAST);
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_told_by_the_next_line() {
        let refusals = unlimited();
        let failing = refusals.begin(|_| Err(Error::Busy)).expect("a thread");
        tell(&refusals);
        refusals.end(failing).await;
        assert_eq!(refusals.unwritten().get(), 1);
        let (written, lines) = channel();
        let writing = refusals.begin(move |line| {
            written.send(line.to_vec()).expect("who looks");
            Ok(())
        });
        tell(&refusals);
        refusals.end(writing.expect("a thread")).await;
        assert_eq!(lines.recv().expect("a line"), b"1");
    }
}
