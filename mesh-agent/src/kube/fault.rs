//! Why a call to the API server came to nothing.

use std::error::Error;
use std::time::Duration;

use serde::Deserialize;

/// Of a message of the API server: it may repeat what anybody wrote.
const MAX_MESSAGE: usize = 300;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    #[error("it did not answer within {} s", .0.as_secs())]
    Silent(Duration),
    #[error("it answers {0}")]
    Refused(Refused),
    #[error("what it says is not understood: {0}")]
    Garbled(String),
    #[error("it says that there is no such kind any more: what is known stays until it has said so for {} s", .0.as_secs())]
    Missing(Duration),
}

/// An answer that is a `Status`, or at least a code.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{code} {reason}: {message}")]
pub(crate) struct Refused {
    pub(crate) code: u16,
    pub(crate) reason: String,
    pub(crate) message: String,
    /// When it wants to be asked again.
    pub(crate) retry_after: Option<Duration>,
    /// It has not got that far yet, or was set back.
    pub(crate) is_too_new: bool,
}

/// One word each, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    Unreachable,
    Silent,
    Unauthorized,
    Forbidden,
    NotFound,
    Expired,
    Throttled,
    ServerError,
    Invalid,
}

impl Reason {
    pub(crate) const ALL: [Self; 9] = [
        Self::Unreachable,
        Self::Silent,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::Expired,
        Self::Throttled,
        Self::ServerError,
        Self::Invalid,
    ];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Silent => "timeout",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::Expired => "expired",
            Self::Throttled => "throttled",
            Self::ServerError => "server_error",
            Self::Invalid => "invalid",
        }
    }
}

impl Fault {
    pub(crate) fn unreachable(error: &(dyn Error + 'static)) -> Self {
        Self::Unreachable(chain(error))
    }

    pub(crate) fn reason(&self) -> Reason {
        let refused = match self {
            Self::Unreachable(_) => return Reason::Unreachable,
            Self::Silent(_) => return Reason::Silent,
            Self::Garbled(_) => return Reason::Invalid,
            Self::Missing(_) => return Reason::NotFound,
            Self::Refused(refused) => refused,
        };
        match refused.code {
            401 => Reason::Unauthorized,
            403 => Reason::Forbidden,
            404 => Reason::NotFound,
            410 => Reason::Expired,
            429 => Reason::Throttled,
            500.. => Reason::ServerError,
            _ => Reason::Invalid,
        }
    }

    /// Nobody answers: whatever is asked.
    pub(crate) fn is_away(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Silent(_))
    }

    /// What was asked for by its version is not there any more, or not yet: all
    /// is to be listed anew.
    pub(crate) fn is_expired(&self) -> bool {
        let Self::Refused(refused) = self else {
            return false;
        };
        refused.code == 410 || refused.is_too_new
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refused) => refused.retry_after,
            _ => None,
        }
    }
}

/// As the API server writes it.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    code: Option<u16>,
    reason: Option<String>,
    message: Option<String>,
    details: Option<Details>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Details {
    retry_after_seconds: Option<u64>,
    causes: Option<Vec<Cause>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Cause {
    reason: Option<String>,
    message: Option<String>,
}

impl Refused {
    /// Of the body of an answer with such a code, or of an event of a watch,
    /// which has its code inside.
    pub(crate) fn of(code: Option<u16>, body: &[u8]) -> Self {
        let Ok(status) = serde_json::from_slice::<Status>(body) else {
            let message = String::from_utf8_lossy(body);
            return Self {
                code: code.unwrap_or(500),
                reason: "no Status".to_owned(),
                message: shortened(message.trim()),
                ..Self::default()
            };
        };
        let details = status.details.unwrap_or_default();
        let causes = details.causes.unwrap_or_default();
        let names = causes.iter().filter_map(|cause| cause.reason.as_deref());
        let told = causes.iter().filter_map(|cause| cause.message.as_deref());
        let message = status.message.unwrap_or_default();
        // Older servers say it only in words.
        let in_words = told
            .chain([message.as_str()])
            .any(|text| text.starts_with("Too large resource version"));
        Self {
            code: code.or(status.code).unwrap_or(500),
            is_too_new: in_words || names.into_iter().any(|r| r == "ResourceVersionTooLarge"),
            reason: shortened(&status.reason.unwrap_or_default()),
            message: shortened(&message),
            retry_after: details.retry_after_seconds.map(Duration::from_secs),
        }
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// An error with its causes, each once.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    shortened(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_old_or_too_new_is_to_be_listed_anew() {
        let gone = r#"{"kind":"Status","reason":"Expired","message":"too old resource version: 1 (2)","code":410}"#;
        let gone = Fault::Refused(Refused::of(None, gone.as_bytes()));
        assert!(gone.is_expired());
        assert_eq!(gone.reason(), Reason::Expired);
        let new = r#"{"kind":"Status","reason":"Timeout","message":"Too large resource version: 9, current: 2","details":{"causes":[{"reason":"ResourceVersionTooLarge","message":"Too large resource version"}],"retryAfterSeconds":1},"code":504}"#;
        let new = Fault::Refused(Refused::of(Some(504), new.as_bytes()));
        assert!(new.is_expired());
        assert_eq!(new.retry_after(), Some(Duration::from_secs(1)));
        let plain = Fault::Refused(Refused::of(Some(404), b"404 page not found\n"));
        assert_eq!(plain.reason(), Reason::NotFound);
        assert_eq!(
            plain.to_string(),
            "it answers 404 no Status: 404 page not found"
        );
        let busy = Fault::Refused(Refused::of(Some(503), b"{}"));
        assert!(!busy.is_expired() && !busy.is_away());
    }

    #[test]
    fn a_long_message_is_cut_between_letters() {
        let body = "ä".repeat(1_000);
        let refused = Refused::of(Some(500), body.as_bytes());
        assert_eq!(refused.message.chars().count(), MAX_MESSAGE + 1);
    }

    #[test]
    fn every_reason_has_a_word_of_its_own() {
        let mut words: Vec<_> = Reason::ALL.iter().map(|reason| reason.label()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Reason::ALL.len());
    }
}
