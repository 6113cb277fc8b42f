//! Where lines go: standard output, or a file that may be moved away.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;

use super::target::Target;

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
    trouble: Arc<Trouble>,
    /// Half a line was written: the next one begins on a line of its own.
    torn: bool,
}

/// Why lines are dropped now.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// They cannot be written.
    failure: Mutex<Option<String>>,
    /// They come faster than they are taken.
    pub(super) is_behind: AtomicBool,
}

impl Trouble {
    pub(super) fn now(&self) -> Option<String> {
        let behind = || {
            let is_behind = self.is_behind.load(Ordering::Relaxed);
            is_behind.then(|| "it is not taken as fast as it is written".to_owned())
        };
        self.failure.lock().clone().or_else(behind)
    }
}

impl Writer {
    pub(super) fn new(
        target: Target,
        reopen: Arc<AtomicBool>,
        dropped: Counter,
        trouble: Arc<Trouble>,
    ) -> Self {
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
            trouble,
            torn: false,
        };
        if writer.path.is_none() && writer.out.is_none() {
            let why = "there is no standard output".to_owned();
            *writer.trouble.failure.lock() = Some(why);
        }
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
            Ok(()) => *self.trouble.failure.lock() = None,
            Err(error) => self.failed(&lines[..written], &lines[written..], &error),
        }
    }

    fn failed(&mut self, written: &[u8], rest: &[u8], error: &io::Error) {
        self.torn |= written.last().is_some_and(|last| *last != b'\n');
        self.dropped.inc_by(count(rest));
        self.complain("written", error);
    }

    /// Told as a problem of the node until it works again.
    fn complain(&self, what: &str, error: &io::Error) {
        let name = self
            .path
            .as_ref()
            .map(|path| format!(" {}", path.display()));
        let name = name.unwrap_or_default();
        *self.trouble.failure.lock() = Some(format!("the file{name} cannot be {what}: {error}"));
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
                *self.trouble.failure.lock() = None;
            }
            // Nobody reads a file that has no name: its lines would be lost in silence.
            Err(error) => {
                self.out = None;
                self.opened = None;
                self.complain("opened", &error);
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
