//! What people see of the certificates: never keys.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use super::Identities;
use super::manager::IdentityEntry;
use super::token::is_ending;

/// Of one identity.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct IdentityStatus {
    pub(crate) identity: String,
    /// `valid`, `expired`, `missing`.
    pub(crate) state: &'static str,
    /// Hexadecimal.
    pub(crate) serial: Option<String>,
    pub(crate) expires: Option<String>,
    pub(crate) expires_in_seconds: Option<i64>,
    /// It will end soon, and its source does not make another one by itself.
    pub(crate) is_ending: bool,
    pub(crate) age_seconds: Option<u64>,
    /// In a row.
    pub(crate) failures: u32,
    pub(crate) last_error: Option<String>,
    /// What to do about it.
    pub(crate) remedy: Option<String>,
    pub(crate) is_awaited: bool,
}

/// Of the join token that was shown last.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct TokenStatus {
    pub(crate) expires: String,
    pub(crate) expires_in_seconds: i64,
    /// It has ended, or will soon.
    pub(crate) is_ending: bool,
    /// What to do then.
    pub(crate) remedy: String,
}

#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Status {
    pub(crate) trust_domain: String,
    /// `ca`, `files`, `none`.
    pub(crate) source: &'static str,
    /// Counts changes of roots and revocations.
    pub(crate) trust_generation: u64,
    /// Why the newest revocation list is not in force.
    pub(crate) revocations: Option<String>,
    /// When the lists were to be replaced by newer ones, where that is past.
    pub(crate) revocations_since: Option<String>,
    /// None until the authority has told, and where it does not.
    pub(crate) token: Option<TokenStatus>,
    pub(crate) identities: Vec<IdentityStatus>,
}

impl Identities {
    #[must_use]
    pub(crate) fn status(&self) -> Status {
        let now = SystemTime::now();
        let entries = self.shared.entries.lock();
        let renews = self.shared.renews;
        let describe = |entry| describe(entry, renews, now);
        let identities: Vec<_> = entries.values().map(describe).collect();
        drop(entries);
        Status {
            trust_domain: self.trust_domain.to_string(),
            source: self.shared.source.unwrap_or("none"),
            trust_generation: *self.shared.generation.borrow(),
            revocations: self.shared.problem.lock().clone(),
            revocations_since: self.overdue(now),
            token: self.token(now),
            identities,
        }
    }
}

impl Identities {
    fn overdue(&self, now: SystemTime) -> Option<String> {
        let due = self.trust()?.crl_next_update()?;
        let format = humantime::format_rfc3339_seconds;
        (due <= now).then(|| format(due).to_string())
    }

    fn token(&self, now: SystemTime) -> Option<TokenStatus> {
        let life = (*self.shared.token.lock())?;
        let left = seconds_until(life.end(), now);
        Some(TokenStatus {
            expires: humantime::format_rfc3339_seconds(life.end()).to_string(),
            expires_in_seconds: left,
            is_ending: life.is_ending(since_1970(now)),
            remedy: self.shared.new_token.clone(),
        })
    }
}

fn describe(entry: &IdentityEntry, renews: bool, now: SystemTime) -> IdentityStatus {
    let held = entry.handle.held();
    let left = held.as_ref().map(|c| seconds_until(c.not_after(), now));
    let failures = entry.plan.failures();
    let failed = (failures > 0).then(|| entry.handle.last_failure());
    IdentityStatus {
        identity: entry.handle.id().to_string(),
        state: match left {
            None => "missing",
            Some(left) if left <= 0 => "expired",
            Some(_) => "valid",
        },
        serial: held.as_ref().map(|c| hex(c.serial())),
        expires: held
            .as_ref()
            .map(|c| humantime::format_rfc3339_seconds(c.not_after()).to_string()),
        expires_in_seconds: left,
        is_ending: !renews
            && held.as_ref().is_some_and(|c| {
                is_ending(
                    since_1970(c.not_before()),
                    since_1970(c.not_after()),
                    since_1970(now),
                )
            }),
        age_seconds: age(entry, now).map(|age| age.as_secs()),
        failures,
        last_error: failed.as_ref().map(|f| f.message.to_string()),
        remedy: failed.map(|f| f.remedy),
        is_awaited: entry.handle.is_awaited(),
    }
}

fn since_1970(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

fn age(entry: &IdentityEntry, now: SystemTime) -> Option<Duration> {
    Some(now.duration_since(entry.obtained?).unwrap_or_default())
}

fn seconds_until(then: SystemTime, now: SystemTime) -> i64 {
    let seconds = |d: Duration| i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
    match then.duration_since(now) {
        Ok(left) => seconds(left),
        Err(past) => -seconds(past.duration()),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
