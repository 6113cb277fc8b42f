//! What the commands did. A command runs beside the authority, whose log is the
//! audit trail: so it leaves its lines in the state, and each replica writes them
//! down as it sees them.

use serde::{Deserialize, Serialize};

use crate::ca::errors::Error;
use crate::ca::store::Documents;

pub(super) const HISTORY: &str = "history.json";
/// Lines that stay in the state.
const KEPT: usize = 100;

#[derive(Default, Serialize, Deserialize)]
pub(super) struct History {
    /// Of the last line; the first has 1.
    pub(super) number: u64,
    lines: Vec<String>,
}

impl History {
    pub(super) fn of(documents: &Documents) -> Result<Self, Error> {
        Ok(documents.get(HISTORY)?.unwrap_or_default())
    }

    pub(super) fn add(documents: &mut Documents, line: &str) -> Result<(), Error> {
        let mut history = Self::of(documents)?;
        history.number += 1;
        history.lines.push(line.to_owned());
        let surplus = history.lines.len().saturating_sub(KEPT);
        history.lines.drain(..surplus);
        documents.put(HISTORY, &history)
    }

    /// The lines after this one, as far as they are still there.
    pub(super) fn since(&self, number: u64) -> &[String] {
        let new = self.number.saturating_sub(number);
        let new = usize::try_from(new).unwrap_or(usize::MAX);
        &self.lines[self.lines.len().saturating_sub(new)..]
    }
}
