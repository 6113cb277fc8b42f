//! Why a call was not answered, or answered with no.

use serde::Deserialize;

use crate::kube::Malformed;

/// Longest text of the server's that is kept.
const MAX_MESSAGE: usize = 300;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("there is no {0}")]
    NotFound(String),
    #[error("{0} is there already")]
    Exists(String),
    /// Somebody else changed it since it was read.
    #[error("{0} was changed by somebody else")]
    Conflict(String),
    /// The version from which a watch was to go on.
    #[error("what changed since is not known any more")]
    Gone,
    #[error("the API server refuses {path}: {code} {message}")]
    Refused {
        path: String,
        code: u16,
        message: String,
    },
    /// No answer in time, or one that says that there is none now.
    #[error("the API server does not answer: {0}")]
    Away(String),
    #[error("the API server's answer cannot be read: {0}")]
    Odd(String),
}

/// What it answers instead of an object.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    reason: String,
    message: String,
    pub(super) code: u16,
}

impl ApiError {
    /// Of an answer that is no success.
    pub(super) fn of(path: &str, code: u16, body: &str) -> Self {
        let status: Status = serde_json::from_str(body).unwrap_or_default();
        let path = path.split('?').next().unwrap_or(path).to_owned();
        let message: String = status.message.chars().take(MAX_MESSAGE).collect();
        let message = message.escape_debug().to_string();
        match code {
            404 => Self::NotFound(path),
            409 if status.reason == "AlreadyExists" => Self::Exists(path),
            409 => Self::Conflict(path),
            410 => Self::Gone,
            408 | 429 | 500.. => Self::Away(format!("{code} {message}")),
            _ => Self::Refused {
                path,
                code,
                message,
            },
        }
    }
}

impl From<Malformed> for ApiError {
    fn from(error: Malformed) -> Self {
        Self::Odd(error.to_string())
    }
}

impl From<serde_json::Error> for ApiError {
    fn from(error: serde_json::Error) -> Self {
        // Without the text: it may be a Secret's.
        Self::Odd(format!("line {}, column {}", error.line(), error.column()))
    }
}
