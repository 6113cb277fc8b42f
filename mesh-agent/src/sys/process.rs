//! What this process uses, from `/proc/self`.

use std::fs;
use std::io::{self, ErrorKind};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{SysconfVar, sysconf};

/// How many files this process may ever have open: the hard limit.
pub(crate) fn open_files() -> io::Result<u64> {
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?.1)
}

/// Takes all that the hard limit gives; how many that is.
pub(crate) fn raise_open_files() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// Use of resources, now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// User and system time.
    pub(crate) cpu: Duration,
    pub(crate) resident_bytes: u64,
    pub(crate) threads: u64,
    pub(crate) open_fds: u64,
    pub(crate) max_fds: u64,
    /// When the process started, since 1970.
    pub(crate) started: Duration,
}

pub(crate) fn usage() -> io::Result<Usage> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields = Stat::parse(&stat).ok_or(ErrorKind::InvalidData)?;
    let ticks = setting(SysconfVar::CLK_TCK)?;
    let page = setting(SysconfVar::PAGE_SIZE)?;
    let (max_fds, _hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let since_boot = |n: u64| Duration::from_secs_f64(n as f64 / ticks as f64);
    Ok(Usage {
        cpu: since_boot(fields.cpu_ticks),
        resident_bytes: fields.resident_pages.saturating_mul(page),
        threads: fields.threads,
        open_fds: open_fds()?,
        max_fds,
        started: boot_time()? + since_boot(fields.start_ticks),
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    start_ticks: u64,
    resident_pages: u64,
}

impl Stat {
    /// Fields are counted from behind the name, which may contain anything.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // proc_pid_stat(5) counts from 1, and the state is its number 3.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(14)?.checked_add(field(15)?)?,
            threads: field(20)?,
            start_ticks: field(22)?,
            resident_pages: field(24)?,
        })
    }
}

fn setting(name: SysconfVar) -> io::Result<u64> {
    let value = sysconf(name)?.and_then(|v| u64::try_from(v).ok());
    value
        .filter(|v| *v > 0)
        .ok_or_else(|| ErrorKind::Unsupported.into())
}

fn boot_time() -> io::Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let seconds = stat.lines().find_map(|l| l.strip_prefix("btime "));
    let seconds = seconds.and_then(|s| s.trim().parse().ok());
    Ok(Duration::from_secs(seconds.ok_or(ErrorKind::InvalidData)?))
}

fn open_fds() -> io::Result<u64> {
    // Linux 6.2 gives the number as the directory's size; before it is 0.
    match fs::metadata("/proc/self/fd")?.len() {
        0 => Ok(fs::read_dir("/proc/self/fd")?.count() as u64),
        count => Ok(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_whose_name_looks_like_fields_is_read_right() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 70 30 13 14 15 16 9 18 5000 20 321 0";
        let stat = Stat::parse(&format!("7 (a) R 1 (b) {tail}"));
        let expected = Stat {
            cpu_ticks: 100,
            threads: 9,
            start_ticks: 5000,
            resident_pages: 321,
        };
        assert_eq!(stat, Some(expected));
        assert_eq!(Stat::parse("7 (a) S 1 2"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn this_process_uses_something() {
        let held: Vec<_> = (0..10)
            .map(|_| fs::File::open("/dev/null").expect("a file"))
            .collect();
        let usage = usage().expect("usage");
        assert!(usage.open_fds > held.len() as u64 && usage.open_fds < usage.max_fds);
        assert!(usage.resident_bytes > 100_000 && usage.threads > 0);
        let now = std::time::SystemTime::now();
        let age = now
            .duration_since(std::time::UNIX_EPOCH + usage.started)
            .expect("in the past");
        assert!(age < Duration::from_secs(3600), "{age:?}");
    }
}
