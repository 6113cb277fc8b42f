//! The log's lines, written by a thread of its own.
//!
//! Who reads standard error may stand still (a full pipe, a terminal that is
//! held, a disk that hangs). Whoever logs must not stand still with him: workers
//! log, and so does the loop that keeps closed pods closed. What does not fit
//! into the queue is left out, and counted in the next line that is written.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait to be written.
const QUEUE: usize = 1_024;
/// How long the end of the process waits for the last ones.
const LAST: Duration = Duration::from_secs(1);

enum Item {
    /// Behind so many that are missing.
    Line(Vec<u8>, u64),
    /// Answered when all before it is written.
    Written(SyncSender<()>),
}

/// Takes lines; cheap to clone.
#[derive(Clone)]
pub(super) struct Behind {
    queue: SyncSender<Item>,
    lost: Arc<AtomicU64>,
}

impl Behind {
    /// Starts the thread, which ends with the last clone. `told` is the line about
    /// so many that are missing.
    pub(super) fn start(
        out: impl Write + Send + 'static,
        told: impl Fn(u64) -> String + Send + 'static,
    ) -> io::Result<Self> {
        let (queue, items) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = lost.clone();
        let thread = std::thread::Builder::new().name("log".to_owned());
        thread.spawn(move || run(&items, &counted, out, told))?;
        Ok(Self { queue, lost })
    }

    /// Waits for what was logged so far, for a while.
    pub(super) fn wait(&self) {
        let (written, wait) = sync_channel(1);
        // A queue that is full is not about to be written.
        if self.queue.try_send(Item::Written(written)).is_ok() {
            let _late = wait.recv_timeout(LAST);
        }
    }
}

impl<'a> MakeWriter<'a> for Behind {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

/// One call is one line: nothing of it is kept for the next.
impl Write for &Behind {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let missing = self.lost.swap(0, Ordering::Relaxed);
        if self
            .queue
            .try_send(Item::Line(line.to_vec(), missing))
            .is_err()
        {
            self.lost.fetch_add(missing + 1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn run(
    items: &Receiver<Item>,
    lost: &AtomicU64,
    mut out: impl Write,
    told: impl Fn(u64) -> String,
) {
    for item in items {
        match item {
            Item::Line(line, missing) => {
                let mut text = match missing {
                    0 => Vec::new(),
                    count => told(count).into_bytes(),
                };
                text.extend(line);
                // Nobody can be told now; the next line tells.
                if out.write_all(&text).and_then(|()| out.flush()).is_err() {
                    lost.fetch_add(missing + 1, Ordering::Relaxed);
                }
            }
            Item::Written(done) => {
                // Who asked may not wait any more.
                let _late = done.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::time::Instant;

    use super::*;

    fn told(count: u64) -> String {
        format!("{count} missing\n")
    }

    #[test]
    fn who_logs_does_not_wait_for_a_reader_that_stands_still() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let log = Behind::start(writer, told).expect("a thread");
        let begun = Instant::now();
        let line = [b"x".repeat(99).as_slice(), b"\n"].concat();
        let all = 20 * QUEUE;
        for _ in 0..all {
            (&log).write_all(&line).expect("taken");
        }
        log.wait();
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
        assert!(log.lost.load(Ordering::Relaxed) > 0);
        // It reads on: what is missing is told, and nothing is torn.
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        let mut sent = all;
        let end = Instant::now() + Duration::from_secs(10);
        while log.lost.load(Ordering::Relaxed) > 0 && Instant::now() < end {
            (&log).write_all(b"next\n").expect("taken");
            sent += 1;
            std::thread::yield_now();
        }
        drop(log);
        let text = reading.join().expect("read").expect("text");
        let missing = |l: &str| {
            l.strip_suffix(" missing")
                .and_then(|n| n.parse::<usize>().ok())
        };
        let whole = |l: &&str| l.len() == 99 || *l == "next";
        let there = text.lines().filter(whole).count();
        let told: usize = text.lines().filter_map(missing).sum();
        assert_eq!(there + told, sent, "each is there, or told to be missing");
        let torn = |l: &str| !whole(&l) && missing(l).is_none();
        assert!(!text.lines().any(torn));
    }

    #[test]
    fn the_end_waits_for_the_last_lines() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let log = Behind::start(writer, told).expect("a thread");
        for n in 0..100 {
            (&log)
                .write_all(format!("{n}\n").as_bytes())
                .expect("taken");
        }
        log.wait();
        let mut text = [0; 290];
        reader.read_exact(&mut text).expect("written by now");
        assert!(text.ends_with(b"\n99\n"));
    }
}
