//! `ci`: all that must hold before a change lands.

use std::process::Stdio;

use anyhow::Result;

use crate::command::run as run_command;
use crate::repo::Repo;
use crate::summary::Steps;
use crate::{demo, test};

pub(crate) fn run(repo: &Repo, args: &[String]) -> Result<()> {
    crate::no_arguments("ci", args)?;
    let mut steps = Steps::default();
    steps.run("test", || test::run(repo, &[]));
    steps.run("demo", || {
        demo::build_release(repo, "demo")?;
        run_command(demo::release_command(repo, "demo").stdin(Stdio::null()))
    });
    steps.finish("ci")
}
