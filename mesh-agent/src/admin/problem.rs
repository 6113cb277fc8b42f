//! One thing that an operator should know.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::text::printable;

/// What is wrong, what follows, what to do: shown by `status`, told by
/// `/readyz`, and logged when it comes, changes and goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Problem {
    /// What it is about; no two have the same.
    pub(crate) subject: String,
    pub(crate) what: String,
    pub(crate) effect: String,
    pub(crate) remedy: String,
    /// Nothing works while it lasts: the node is not ready.
    pub(crate) blocks: bool,
    /// Belongs to every start; it is not logged.
    pub(crate) starting: bool,
    /// Seconds since 1970 when it was first seen.
    pub(crate) since: u64,
}

impl Problem {
    /// What comes from elsewhere in it (names, paths, answers) forges no line.
    #[must_use]
    pub(crate) fn new(
        subject: impl Into<String>,
        what: impl Into<String>,
        effect: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let shown = |text: String| printable(&text).into_owned();
        Self {
            subject: shown(subject.into()),
            what: shown(what.into()),
            effect: shown(effect.into()),
            remedy: shown(remedy.into()),
            ..Self::default()
        }
    }

    #[must_use]
    pub(crate) fn blocking(self) -> Self {
        Self {
            blocks: true,
            ..self
        }
    }

    #[must_use]
    pub(crate) fn starting(self) -> Self {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_a_problem_begins_no_line_of_its_own() {
        let file = "a.yaml\nready\u{1b}[2J";
        let problem = Problem::new(file, file, "", format!("mend {file}"));
        assert_eq!(problem.to_string().lines().count(), 1, "{problem}");
        assert!(!problem.to_string().contains('\u{1b}'));
    }
}
