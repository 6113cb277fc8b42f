//! Verbs that need no agent: a directory's mistakes, a machine's lacks.

use std::path::Path;

use super::ending::CannotAsk;
use crate::config::Exit;
use crate::model::policy::MeshSettings;
use crate::{app, discovery};

pub(super) fn config(dir: &Path, root_namespace: String) -> anyhow::Result<Exit> {
    let update = discovery::check(dir, MeshSettings { root_namespace })
        .map_err(|error| CannotAsk(error.to_string()))?;
    for problem in update.problems.iter() {
        println!("{problem}");
    }
    for status in update.policy.status() {
        println!("{status}");
    }
    if update.skipped > 0 {
        println!("{} objects of other kinds were passed over", update.skipped);
    }
    if update.mistakes().next().is_some() {
        return Ok(Exit::No);
    }
    println!("{}: no mistakes found", dir.display());
    Ok(Exit::Yes)
}

/// Each line: what, is it there, and what follows if not.
pub(super) fn doctor() -> Exit {
    let checks = app::doctor();
    for check in &checks {
        match (check.present, check.needed) {
            (true, _) => println!("ok       {}", check.what),
            (false, true) => println!("MISSING  {}: {}", check.what, check.consequence),
            (false, false) => println!("degraded {}: {}", check.what, check.consequence),
        }
    }
    let lacks = |needed| checks.iter().any(|c| !c.present && c.needed == needed);
    match (lacks(true), lacks(false)) {
        (true, _) => Exit::No,
        (false, true) => Exit::Degraded,
        (false, false) => Exit::Yes,
    }
}
