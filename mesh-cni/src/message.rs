//! What the plugin asks and the agent answers: one message each way, JSON, over a
//! `SOCK_SEQPACKET`; the namespace's descriptor is beside the question.
//!
//! Plugin and agent may be of different versions, either way. A field is only ever
//! added, and one that is not known is passed over. What cannot be said so raises
//! `needs`: who is older refuses, and says why.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The newest messages that are understood here.
pub const VERSION: u32 = 1;
/// Longest message.
pub const MAX_BYTES: usize = 16 * 1024;
/// Most addresses of a pod that are told.
pub(crate) const MAX_ADDRESSES: usize = 32;

/// A sandbox has its network and no container yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The oldest version that understands this message.
    pub needs: u32,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// The runtime's name of the sandbox (`CNI_CONTAINERID`).
    pub sandbox: String,
    /// What the plugins before gave it.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// How long the plugin will wait for the answer.
    #[serde(default)]
    pub patience_ms: u64,
}

impl Request {
    #[must_use]
    pub fn patience(&self) -> Duration {
        Duration::from_millis(self.patience_ms)
    }

    /// Reads one; else what to answer.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Needs {
            needs: u32,
        }
        // The rest of a newer one may be anything.
        let Needs { needs } = serde_json::from_slice(bytes)
            .map_err(|error| format!("the plugin's question cannot be read: {error}"))?;
        if needs > VERSION {
            return Err(format!(
                "the plugin {} on this node is newer (messages of version {needs}) than its agent (version {VERSION}): upgrade the agent",
                crate::PLUGIN
            ));
        }
        serde_json::from_slice(bytes)
            .map_err(|error| format!("the plugin's question cannot be read: {error}"))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The oldest version that understands this message.
    pub needs: u32,
    pub outcome: Outcome,
    /// Why; of what is refused also what to do. One line.
    #[serde(default)]
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The mesh carries its connections from the first one on.
    Enrolled,
    /// It is not in the mesh.
    Outside,
    /// It is in the mesh, or may be, and is not enrolled: it must not start.
    Refused,
    /// A word of a newer agent's: nothing that lets a pod start.
    #[serde(other)]
    Unknown,
}

impl Answer {
    #[must_use]
    pub fn new(outcome: Outcome, message: impl Into<String>) -> Self {
        Self {
            needs: 1,
            outcome,
            message: message.into(),
        }
    }

    /// May the pod start? Else why not.
    pub(crate) fn permits(&self) -> Result<(), String> {
        match self.outcome {
            _ if self.needs > VERSION => Err(format!(
                "the agent of this node is newer (messages of version {}) than its plugin (version {VERSION}); the agent writes the new plugin when it starts",
                self.needs
            )),
            Outcome::Enrolled | Outcome::Outside => Ok(()),
            Outcome::Refused => Err(self.message.clone()),
            Outcome::Unknown => Err(format!(
                "the agent's answer is not known to its plugin: {}",
                self.message
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = r#"{"needs":1,"namespace":"shop","name":"web","uid":"u1","sandbox":"s1"}"#;

    #[test]
    fn an_older_and_a_newer_plugin_are_understood_as_far_as_they_say() {
        let old = Request::read(OLD.as_bytes()).expect("the first version, without more");
        assert_eq!((old.name.as_str(), old.patience_ms), ("web", 0));
        let newer = OLD.replace('}', r#","colour":{"of":["it"]}}"#);
        assert_eq!(Request::read(newer.as_bytes()), Ok(old));
        let foreign = r#"{"needs":2,"pod":7}"#;
        let why = Request::read(foreign.as_bytes()).expect_err("not understood");
        assert!(why.contains("upgrade the agent"), "{why}");
        for broken in ["", "{}", "[1]", r#"{"needs":1}"#, r#"{"needs":-1}"#] {
            assert!(Request::read(broken.as_bytes()).is_err(), "{broken}");
        }
    }

    #[test]
    fn only_two_words_let_a_pod_start() {
        let answer = |text: &str| serde_json::from_str::<Answer>(text).expect("an answer");
        for (text, permits) in [
            (r#"{"needs":1,"outcome":"enrolled"}"#, true),
            (
                r#"{"needs":1,"outcome":"outside","message":"m","more":1}"#,
                true,
            ),
            (r#"{"needs":1,"outcome":"refused","message":"m"}"#, false),
            (r#"{"needs":1,"outcome":"later","message":"m"}"#, false),
            (r#"{"needs":2,"outcome":"enrolled","message":"m"}"#, false),
        ] {
            assert_eq!(answer(text).permits().is_ok(), permits, "{text}");
        }
        assert!(serde_json::from_str::<Answer>("{}").is_err());
    }
}
