//! Verbs that need no agent: a directory's mistakes, a machine's lacks.

use std::path::Path;

use super::ending::CannotAsk;
use crate::config::{Chain, Exit};
use crate::model::policy::MeshSettings;
use crate::{app, discovery};

pub(super) fn config(dir: &Path, settings: MeshSettings, json: bool) -> anyhow::Result<Exit> {
    let checked =
        discovery::Checked::of(dir, settings).map_err(|error| CannotAsk(error.to_string()))?;
    if json {
        say!("{}", serde_json::to_string_pretty(&checked)?);
    } else {
        say_part!("{checked}");
    }
    Ok(match checked.is_whole() {
        true => Exit::Yes,
        false => Exit::No,
    })
}

/// Each line: what, is it there, and what follows if not.
pub(super) fn doctor(chain: &Chain, run_dir: &Path) -> Exit {
    let checks = app::doctor(chain, run_dir);
    for check in &checks {
        match (check.present, check.needed) {
            (true, _) => say!("ok       {}", check.what),
            (false, true) => say!("MISSING  {}: {}", check.what, check.consequence),
            (false, false) => say!("degraded {}: {}", check.what, check.consequence),
        }
    }
    let lacks = |needed| checks.iter().any(|c| !c.present && c.needed == needed);
    match (lacks(true), lacks(false)) {
        (true, _) => Exit::No,
        (false, true) => Exit::Degraded,
        (false, false) => Exit::Yes,
    }
}
