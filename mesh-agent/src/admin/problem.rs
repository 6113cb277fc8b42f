//! One thing that an operator should know.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What is wrong, what follows, what to do: shown by `status`, told by
/// `/readyz`, and logged when it comes, changes and goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What it is about; no two have the same.
    pub subject: String,
    pub what: String,
    pub effect: String,
    pub remedy: String,
    /// Nothing works while it lasts: the node is not ready.
    pub blocks: bool,
    /// Belongs to every start; it is not logged.
    pub starting: bool,
    /// Seconds since 1970 when it was first seen.
    pub since: u64,
}

impl Problem {
    #[must_use]
    pub fn new(
        subject: impl Into<String>,
        what: impl Into<String>,
        effect: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            subject: subject.into(),
            what: what.into(),
            effect: effect.into(),
            remedy: remedy.into(),
            ..Self::default()
        }
    }

    #[must_use]
    pub fn blocking(self) -> Self {
        Self {
            blocks: true,
            ..self
        }
    }

    #[must_use]
    pub fn starting(self) -> Self {
        Self {
            starting: true,
            ..self
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        for (name, text) in [("effect", &self.effect), ("to do", &self.remedy)] {
            if !text.is_empty() {
                write!(f, "; {name}: {text}")?;
            }
        }
        Ok(())
    }
}
