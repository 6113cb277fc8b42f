//! What the runtime is told: a result, or an error that becomes the pod's event.

use serde::Serialize;

use crate::entry::SUPPORTED_VERSIONS;
use crate::text;

/// For standard output, and the exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub is_success: bool,
    pub text: String,
}

impl Reply {
    pub(crate) fn nothing() -> Self {
        Self::result(String::new())
    }

    pub(crate) fn result(text: String) -> Self {
        Self {
            is_success: true,
            text,
        }
    }
}

/// Of the specification; from 100 on they are a plugin's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Version = 1,
    Environment = 4,
    Io = 5,
    Decode = 6,
    /// The agent does not answer.
    TryAgain = 11,
    /// The agent says no.
    Refused = 100,
}

/// What, and by which cause; then what to do. The runtime shows both in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    code: Code,
    what: String,
    remedy: String,
}

impl Failure {
    pub(crate) fn new(code: Code, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            code,
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    /// `version`: that of the runtime's call.
    pub(crate) fn reply(&self, version: Option<&str>) -> Reply {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Error<'a> {
            cni_version: &'a str,
            code: u32,
            msg: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            details: &'a str,
        }
        let error = Error {
            cni_version: version.unwrap_or(newest()),
            code: self.code as u32,
            msg: &text::line(&self.what),
            details: &text::line(&self.remedy),
        };
        Reply {
            is_success: false,
            // Words and a number cannot fail to be written.
            text: serde_json::to_string(&error).unwrap_or_default() + "\n",
        }
    }
}

pub(crate) fn versions() -> Reply {
    let versions = serde_json::json!({
        "cniVersion": newest(),
        "supportedVersions": SUPPORTED_VERSIONS,
    });
    Reply::result(format!("{versions}\n"))
}

fn newest() -> &'static str {
    SUPPORTED_VERSIONS[SUPPORTED_VERSIONS.len() - 1]
}
