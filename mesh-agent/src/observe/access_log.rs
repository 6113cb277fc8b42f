//! JSON lines, written by a thread of their own.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::counter::Counter;
use serde::Serialize;

use super::labels::{close_reason, direction};
use crate::model::{Opening, Outcome, UnknownPeer, Workload};

/// Lines waiting for the writer; more are dropped and counted.
const QUEUE: usize = 8192;

/// Where the access log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Target {
    #[default]
    Off,
    Stdout,
    File(PathBuf),
}

#[derive(Debug)]
pub(super) struct AccessLog {
    node: Arc<str>,
    queue: Option<SyncSender<String>>,
    dropped: Counter,
}

#[derive(Serialize)]
struct Line<'a> {
    timestamp: String,
    event: &'static str,
    node: &'a str,
    id: u64,
    direction: &'static str,
    client: String,
    destination: String,
    upstream: Option<String>,
    source_workload: Option<String>,
    source_service_account: Option<&'a str>,
    destination_workload: Option<String>,
    destination_service_account: Option<&'a str>,
    service: Option<String>,
    generation: u64,
    #[serde(flatten)]
    end: Option<End>,
}

#[derive(Serialize)]
struct End {
    bytes_sent: u64,
    bytes_received: u64,
    connect_ms: Option<f64>,
    duration_ms: f64,
    reason: &'static str,
}

impl AccessLog {
    pub(super) fn start(node: &str, target: Target) -> Self {
        let dropped = Counter::default();
        let queue = (target != Target::Off).then(|| {
            let (sender, receiver) = sync_channel(QUEUE);
            let writer = std::thread::Builder::new().name("access-log".to_owned());
            // Without the thread the queue is closed and every line counts as dropped.
            if let Err(error) = writer.spawn(move || write(&target, &receiver)) {
                tracing::error!(%error, "cannot start the access log's thread");
            }
            sender
        });
        Self {
            node: node.into(),
            queue,
            dropped,
        }
    }

    pub(super) fn dropped(&self) -> Counter {
        self.dropped.clone()
    }

    pub(super) fn opened(&self, opening: &Opening) {
        if self.queue.is_some() {
            self.send("open", opening, None);
        }
    }

    pub(super) fn closed(&self, outcome: &Outcome) {
        if self.queue.is_some() {
            let ms = |d: Duration| d.as_secs_f64() * 1e3;
            let end = End {
                bytes_sent: outcome.bytes.sent,
                bytes_received: outcome.bytes.received,
                connect_ms: outcome.connect_time.map(ms),
                duration_ms: ms(outcome.duration),
                reason: close_reason(outcome.reason),
            };
            self.send("close", &outcome.opening, Some(end));
        }
    }

    fn send(&self, event: &'static str, o: &Opening, end: Option<End>) {
        let (source_workload, source_service_account) = names(&o.source);
        let (destination_workload, destination_service_account) = names(&o.destination);
        let line = Line {
            timestamp: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            event,
            node: &self.node,
            id: o.id,
            direction: direction(o.direction),
            client: o.client.to_string(),
            destination: o.orig_dst.to_string(),
            upstream: o.upstream.map(|u| u.to_string()),
            source_workload,
            source_service_account,
            destination_workload,
            destination_service_account,
            service: o.service.as_ref().map(ToString::to_string),
            generation: o.generation,
            end,
        };
        let sent = serde_json::to_string(&line).map(|text| match &self.queue {
            Some(queue) => queue.try_send(text),
            None => Ok(()),
        });
        if !matches!(sent, Ok(Ok(()))) {
            if let Ok(Err(TrySendError::Disconnected(_))) = sent {
                tracing::debug!("the access log's thread has ended");
            }
            self.dropped.inc();
        }
    }
}

fn names(workload: &Result<Arc<Workload>, UnknownPeer>) -> (Option<String>, Option<&str>) {
    match workload {
        Ok(w) => (Some(w.key.to_string()), Some(&w.service_account)),
        Err(UnknownPeer) => (None, None),
    }
}

fn write(target: &Target, lines: &Receiver<String>) {
    let out: Box<dyn Write> = match target {
        Target::Off => return,
        Target::Stdout => Box::new(io::stdout()),
        Target::File(path) => match OpenOptions::new().append(true).create(true).open(path) {
            Ok(file) => Box::new(file),
            Err(error) => {
                tracing::error!(%error, path = %path.display(), "cannot open the access log");
                return;
            }
        },
    };
    let mut out = BufWriter::new(out);
    while let Ok(line) = lines.recv() {
        let mut next = Some(line);
        while let Some(line) = next {
            if writeln!(out, "{line}").is_err() {
                tracing::error!("cannot write the access log; it ends here");
                return;
            }
            next = lines.try_recv().ok();
        }
        if out.flush().is_err() {
            return;
        }
    }
}
