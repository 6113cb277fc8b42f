//! The access log: JSON lines, made and written by a thread of its own.
//!
//! Workers hand over small records through a bounded queue and never wait; what
//! does not fit, or could not be written, is counted.

mod json;
pub(super) mod line;
mod parties;
mod record;
pub(super) mod request;
mod target;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::counter::Counter;

use super::connections::LiveConnection;
use crate::model::RequestRecord;
use parties::Known;
use record::Record;
pub(super) use record::{CloseRecord, Event};
pub(crate) use target::{Events, Target};
use writer::{Trouble, Writer};

/// Records waiting for the thread; more are dropped and counted.
const QUEUE: usize = 8_192;
/// The thread looks for records this often. Waking it for each would cost the
/// worker a system call, more than all the rest.
const TURN: Duration = Duration::from_millis(25);
/// Lines are written in pieces of about this size.
const PIECE: usize = 64 * 1024;
/// How long the end of the agent waits for the last lines.
const LAST: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct AccessLog {
    events: Events,
    queue: Option<SyncSender<Queued>>,
    /// Says that the thread has written everything and ended.
    done: Option<parking_lot::Mutex<Receiver<()>>>,
    reopen: Arc<AtomicBool>,
    dropped: Counter,
    trouble: Arc<Trouble>,
}

/// What waits for the thread.
#[derive(Debug)]
enum Queued {
    Connection(Record),
    Request(Box<request::RequestLine>),
}

impl AccessLog {
    pub(super) fn start(node: &str, target: Target, events: Events) -> Self {
        let mut log = Self {
            events,
            queue: None,
            done: None,
            reopen: Arc::default(),
            dropped: Counter::default(),
            trouble: Arc::default(),
        };
        if target == Target::Off {
            return log;
        }
        let (sender, records) = sync_channel(QUEUE);
        let (ended, done) = sync_channel(1);
        let node: Arc<str> = node.into();
        let (reopen, dropped) = (log.reopen.clone(), log.dropped.clone());
        let trouble = log.trouble.clone();
        let thread = std::thread::Builder::new().name("access-log".to_owned());
        let spawned = thread.spawn(move || {
            // Opened here: a fifo without a reader blocks already then.
            let writer = Writer::new(target, reopen, dropped, trouble.clone());
            run(&node, &records, writer, &trouble);
            // Nobody waits unless the agent ends.
            let _nobody = ended.send(());
        });
        // Without the thread the queue is closed and every line counts as dropped.
        if let Err(error) = spawned {
            tracing::error!(%error, "cannot start the access log's thread");
        }
        log.queue = Some(sender);
        log.done = Some(parking_lot::Mutex::new(done));
        log
    }

    pub(super) fn dropped(&self) -> Counter {
        self.dropped.clone()
    }

    /// Why lines are dropped now.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.now()
    }

    /// The file was renamed: the next lines go to a new one.
    pub(super) fn reopen(&self) {
        self.reopen.store(true, Ordering::Relaxed);
    }

    pub(super) fn send(&self, live: &Arc<LiveConnection>, event: Event) {
        let Some(queue) = &self.queue else { return };
        if !self.events.want(&event) {
            return;
        }
        let record = Record {
            at: SystemTime::now(),
            live: live.clone(),
            event,
        };
        self.queue(queue, Queued::Connection(record));
    }

    pub(super) fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    pub(super) fn send_request(&self, record: &RequestRecord<'_>) {
        let Some(queue) = &self.queue else { return };
        if self.events == Events::Refused && request::was_allowed(record.ended) {
            return;
        }
        let entry = Box::new(request::RequestLine::of(record));
        self.queue(queue, Queued::Request(entry));
    }

    fn queue(&self, queue: &SyncSender<Queued>, queued: Queued) {
        if queue.try_send(queued).is_err() {
            self.dropped.inc();
            self.trouble.is_behind.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(done) = &self.done {
            // A stuck writer must not keep the agent from ending.
            let _late = done.lock().recv_timeout(LAST);
        }
    }
}

fn run(node: &Arc<str>, records: &Receiver<Queued>, mut writer: Writer, trouble: &Trouble) {
    let mut piece = Vec::with_capacity(2 * PIECE);
    let mut known = Known::new(node.clone());
    loop {
        let state = match records.try_recv() {
            Ok(queued) => {
                match queued {
                    Queued::Connection(record) => line::append(&mut piece, node, &record),
                    Queued::Request(entry) => request::append(&mut piece, &mut known, &entry),
                }
                if piece.len() < PIECE {
                    continue;
                }
                None
            }
            Err(state) => Some(state),
        };
        writer.write(&piece);
        piece.clear();
        match state {
            None => {}
            Some(TryRecvError::Empty) => {
                trouble.is_behind.store(false, Ordering::Relaxed);
                std::thread::sleep(TURN);
            }
            Some(TryRecvError::Disconnected) => return,
        }
    }
}
