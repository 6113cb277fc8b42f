//! How long the node's join token is good, as the authority tells with each
//! certificate: the token itself does not say. Every renewal shows it again, so
//! a node whose token ended gets no further certificate.

use std::time::{Duration, SystemTime};

/// Of the answer's metadata, in seconds since 1970.
const CREATED: &str = "mesh-token-created";
const EXPIRES: &str = "mesh-token-expires";
/// So long before an end it is told, whatever the life: nobody looks for months.
const MOST: Duration = Duration::from_secs(7 * 24 * 3600);

/// It has ended, or the last tenth of its life is left. In seconds since 1970.
pub(super) fn is_ending(created: u64, expires: u64, now: u64) -> bool {
    let life = expires.saturating_sub(created);
    let soon = (life / 10).min(MOST.as_secs());
    now.saturating_add(soon) >= expires
}

/// In seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenLife {
    pub(crate) created: u64,
    pub(crate) expires: u64,
}

impl TokenLife {
    /// It has ended, or the last tenth of its life is left.
    #[must_use]
    pub(crate) fn is_ending(&self, now: u64) -> bool {
        is_ending(self.created, self.expires, now)
    }

    #[must_use]
    #[cfg(test)]
    pub(crate) fn has_ended(&self, now: u64) -> bool {
        self.expires <= now
    }

    #[must_use]
    pub(crate) fn end(&self) -> SystemTime {
        let until = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(self.expires));
        until.unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// As the authority told it; none where it is another kind of authority.
    pub(super) fn told(metadata: &tonic::metadata::MetadataMap) -> Option<Self> {
        let number = |name| metadata.get(name)?.to_str().ok()?.parse().ok();
        Some(Self {
            created: number(CREATED)?,
            expires: number(EXPIRES)?,
        })
    }

    /// Tells it with an answer.
    pub(crate) fn tell(&self, metadata: &mut tonic::metadata::MetadataMap) {
        metadata.insert(CREATED, self.created.into());
        metadata.insert(EXPIRES, self.expires.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3600;

    fn life(days: u64) -> TokenLife {
        TokenLife {
            created: 100 * DAY,
            expires: (100 + days) * DAY,
        }
    }

    #[test]
    fn an_end_is_told_a_tenth_of_the_life_ahead_and_a_week_at_most() {
        for (days, ahead) in [(30, 3), (10, 1), (365, 7)] {
            let life = life(days);
            let at = life.expires - ahead * DAY;
            assert!(!life.is_ending(at - 1) && life.is_ending(at), "{days}");
            assert!(!life.has_ended(life.expires - 1) && life.has_ended(life.expires));
        }
        let odd = TokenLife {
            created: u64::MAX,
            expires: u64::MAX,
        };
        assert!(!odd.is_ending(5) && odd.end() == SystemTime::UNIX_EPOCH);
    }

    #[test]
    fn it_is_read_as_it_was_told_and_an_authority_that_says_nothing_has_none() {
        let mut metadata = tonic::metadata::MetadataMap::new();
        assert_eq!(TokenLife::told(&metadata), None);
        life(30).tell(&mut metadata);
        assert_eq!(TokenLife::told(&metadata), Some(life(30)));
        metadata.insert(EXPIRES, "soon".parse().expect("text"));
        assert_eq!(TokenLife::told(&metadata), None);
    }
}
