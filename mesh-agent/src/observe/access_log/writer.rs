//! Where lines go: standard output, or a file that may be moved away.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;

use super::Target;

/// How often it is looked whether the file is still there, or can be opened again.
const LOOK: Duration = Duration::from_secs(1);

pub(super) struct Writer {
    /// `None`: standard output.
    path: Option<PathBuf>,
    out: Option<Box<dyn Write + Send>>,
    opened: Option<Metadata>,
    looked: Option<Instant>,
    reopen: Arc<AtomicBool>,
    dropped: Counter,
    /// Half a line was written: the next one begins on a line of its own.
    torn: bool,
    /// Said once until it works again.
    complained: bool,
}

impl Writer {
    pub(super) fn new(target: Target, reopen: Arc<AtomicBool>, dropped: Counter) -> Self {
        let (path, out): (_, Option<Box<dyn Write + Send>>) = match target {
            Target::Off => (None, None),
            // Not std's own handle: its buffer would hide what was not written.
            Target::Stdout => (None, stdout()),
            Target::File(path) => (Some(path), None),
        };
        let mut writer = Self {
            path,
            out,
            opened: None,
            looked: None,
            reopen,
            dropped,
            torn: false,
            complained: false,
        };
        writer.look(Instant::now());
        writer
    }

    /// Writes whole lines, or counts those that it could not write.
    pub(super) fn write(&mut self, lines: &[u8]) {
        self.look(Instant::now());
        if lines.is_empty() {
            return;
        }
        let Some(out) = &mut self.out else {
            self.dropped.inc_by(count(lines));
            return;
        };
        let mut written = 0;
        let mut result = match self.torn {
            true => out.write_all(b"\n"),
            false => Ok(()),
        };
        while result.is_ok() && written < lines.len() {
            self.torn = false;
            match out.write(&lines[written..]) {
                Ok(0) => result = Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => written += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => result = Err(e),
            }
        }
        match result.and_then(|()| out.flush()) {
            Ok(()) => self.complained = false,
            Err(error) => self.failed(&lines[..written], &lines[written..], &error),
        }
    }

    fn failed(&mut self, written: &[u8], rest: &[u8], error: &io::Error) {
        self.torn |= written.last().is_some_and(|last| *last != b'\n');
        self.dropped.inc_by(count(rest));
        self.complain(
            "cannot write the access log; lines are dropped and counted",
            error,
        );
    }

    fn complain(&mut self, message: &str, error: &io::Error) {
        if !self.complained {
            tracing::error!(%error, path = ?self.path, "{message}");
        }
        self.complained = true;
    }

    /// Opens the file when there is none, when asked to, and when it was moved or removed.
    fn look(&mut self, now: Instant) {
        let Some(path) = self.path.clone() else {
            return;
        };
        let asked = self.reopen.swap(false, Ordering::Relaxed);
        if !asked && self.looked.is_some_and(|at| now < at + LOOK) {
            return;
        }
        self.looked = Some(now);
        if asked || !self.is_there(&path) {
            self.open(&path);
        }
    }

    fn is_there(&self, path: &Path) -> bool {
        let Some(opened) = &self.opened else {
            return false;
        };
        let same = |m: Metadata| (m.dev(), m.ino()) == (opened.dev(), opened.ino());
        std::fs::metadata(path).is_ok_and(same)
    }

    fn open(&mut self, path: &Path) {
        let opened = OpenOptions::new().append(true).create(true).open(path);
        let with_metadata = |file: File| file.metadata().map(|m| (file, m));
        match opened.and_then(with_metadata) {
            Ok((file, metadata)) => {
                self.out = Some(Box::new(file));
                self.opened = Some(metadata);
                self.torn = false;
                self.complained = false;
            }
            // Nobody reads a file that has no name: its lines would be lost in silence.
            Err(error) => {
                self.out = None;
                self.opened = None;
                self.complain(
                    "cannot open the access log; lines are dropped and counted",
                    &error,
                );
            }
        }
    }
}

fn stdout() -> Option<Box<dyn Write + Send>> {
    match io::stdout().as_fd().try_clone_to_owned() {
        Ok(fd) => Some(Box::new(File::from(fd))),
        Err(error) => {
            tracing::error!(%error, "no standard output for the access log");
            None
        }
    }
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}
