//! Ends test binaries that hang: a run that waits for one of them says nothing of all others.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// Some test ends in this time; the slowest needs about a fifth of it on two cores.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// Gives each line of `output` to `read`, and ends the test binaries below the process
/// `root` when none comes for `patience`. What was ended is an error, after the rest.
pub(crate) fn read_lines(
    output: impl Read + Send + 'static,
    root: u32,
    patience: Duration,
    mut read: impl FnMut(&str),
) -> Result<()> {
    let lines = lines_of(output);
    let mut ended = Vec::new();
    loop {
        match lines.recv_timeout(patience) {
            Ok(line) => read(&line.context("read the tests' output")?),
            Err(RecvTimeoutError::Disconnected) if ended.is_empty() => return Ok(()),
            Err(RecvTimeoutError::Disconnected) => {
                bail!("no test of {} ended for {patience:?}", ended.join(", "))
            }
            Err(RecvTimeoutError::Timeout) => match end_tests(root)? {
                tests if tests.is_empty() => {
                    bail!(
                        "no test runs, and nothing came for {patience:?}; ended before: {ended:?}"
                    )
                }
                tests => ended.extend(tests),
            },
        }
    }
}

fn lines_of(output: impl Read + Send + 'static) -> Receiver<std::io::Result<String>> {
    let (to, from) = sync_channel(64);
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n') {
            let line = line.map(|line| String::from_utf8_lossy(&line).into_owned());
            if to.send(line).is_err() {
                return;
            }
        }
    });
    from
}

/// Ends the test binaries below a process; if there is none, the process itself.
fn end_tests(root: u32) -> Result<Vec<String>> {
    let tests: Vec<_> = below(root)
        .into_iter()
        .filter_map(|pid| Some((pid, test_binary(pid)?)))
        .collect();
    if tests.is_empty() {
        signal(root)?;
    }
    for (pid, name) in &tests {
        eprintln!("== {name} hangs (process {pid}): it is ended");
        signal(*pid)?;
    }
    Ok(tests.into_iter().map(|(_, name)| name).collect())
}

fn signal(pid: u32) -> Result<()> {
    let status = Command::new("kill")
        .args(["-KILL", &pid.to_string()])
        .status();
    status.context("run kill")?;
    Ok(())
}

/// All processes that descend from one.
fn below(root: u32) -> Vec<u32> {
    let all: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, parent(pid)?)))
        .collect();
    let mut found = vec![root];
    let mut at = 0;
    while let Some(&of) = found.get(at) {
        let children = all.iter().filter(|(_, parent)| *parent == of);
        found.extend(children.map(|(pid, _)| *pid));
        at += 1;
    }
    found.split_off(1)
}

/// proc(5): the fourth field, behind a name in brackets that may contain anything.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok()
}

/// The name of a binary that cargo builds for tests. What it starts itself lies elsewhere.
fn test_binary(pid: u32) -> Option<String> {
    let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let is_test = exe.parent().and_then(Path::file_name) == Some(OsStr::new("deps"));
    is_test.then(|| {
        exe.file_name()
            .map(|name| name.to_string_lossy().into_owned())
    })?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Stdio};

    fn sh(script: &str) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::piped());
        command.spawn().expect("sh")
    }

    #[test]
    fn what_comes_is_read_line_by_line() {
        let mut child = sh("echo one; printf two");
        let output = child.stdout.take().expect("a pipe");
        let mut lines = Vec::new();
        read_lines(output, child.id(), PATIENCE, |line| {
            lines.push(line.to_owned());
        })
        .expect("it ended");
        assert_eq!(lines, ["one", "two"]);
        child.wait().expect("it ended");
    }

    #[test]
    #[ignore = "what hangs for the test below"]
    fn hangs() {
        thread::sleep(PATIENCE);
    }

    #[test]
    fn a_test_that_hangs_is_ended_and_what_follows_is_read() {
        let this = std::env::current_exe().expect("this binary");
        let hangs = "--ignored --exact stall::tests::hangs > /dev/null";
        let mut child = sh(&format!("{} {hangs}; echo on", this.display()));
        let output = child.stdout.take().expect("a pipe");
        let mut lines = Vec::new();
        let told = read_lines(output, child.id(), Duration::from_secs(3), |line| {
            lines.push(line.to_owned());
        });
        child.wait().expect("it ended");
        assert_eq!(lines, ["on"]);
        assert!(told.expect_err("it hung").to_string().contains("xtask"));
    }
}
