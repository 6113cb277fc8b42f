//! `gen`: text in committed files that is made from the code.
//!
//! `docs/metrics.md` and `docs/configuration.md` are written by unit tests of the
//! agent, which knows what is in them and holds the committed files to it.
//!
//! A generated block stands between `<!-- generated: NAME -->` and
//! `<!-- end -->`; the rest of the file is written by people.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::USAGE;
use crate::command;
use crate::repo::Repo;
use crate::test::PROFILE;
use crate::tidy;

struct Block {
    file: &'static str,
    name: &'static str,
    text: fn() -> String,
}

const BLOCKS: &[Block] = &[
    Block {
        file: "docs/development.md",
        name: "verbs",
        text: || format!("```\n{USAGE}```\n"),
    },
    Block {
        file: "docs/development.md",
        name: "modules",
        text: tidy::modules_table,
    },
];

pub(crate) fn run(repo: &Repo, args: &[String]) -> Result<()> {
    match args {
        [] => {
            write(repo)?;
            references(repo)
        }
        [flag] if flag == "--check" => check(repo),
        _ => bail!("usage: cargo xtask gen [--check]"),
    }
}

fn write(repo: &Repo) -> Result<()> {
    for block in BLOCKS {
        let path = repo.root.join(block.file);
        let (old, new) = render(repo, block)?;
        if old != new {
            fs::write(&path, new).with_context(|| format!("write {}", path.display()))?;
            println!("gen: {} ({})", block.file, block.name);
        }
    }
    Ok(())
}

fn references(repo: &Repo) -> Result<()> {
    let mut command = command::cargo(repo);
    // In the profile of the tests: what they built serves this too.
    command
        .args(["test", "-q", "--profile", PROFILE])
        .args(["-p", "mesh-agent", "--lib", "app::reference"])
        .env("MESH_WRITE_REFERENCE", "1");
    command::run(&mut command).context("write the agent's references")
}

/// Fails if a committed file is not what its source makes of it.
pub(crate) fn check(repo: &Repo) -> Result<()> {
    let mut stale = Vec::new();
    for block in BLOCKS {
        let (old, new) = render(repo, block)?;
        if old != new {
            stale.push(format!("{} ({})", block.file, block.name));
        }
    }
    if !stale.is_empty() {
        bail!(
            "stale: {}; run `cargo xtask gen` and commit",
            stale.join(", ")
        );
    }
    Ok(())
}

fn render(repo: &Repo, block: &Block) -> Result<(String, String)> {
    let path = repo.root.join(block.file);
    let old = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let new = replace_block(&old, block.name, &(block.text)())
        .with_context(|| format!("find the block '{}' in {}", block.name, path.display()))?;
    Ok((old, new))
}

fn replace_block(file: &str, name: &str, text: &str) -> Option<String> {
    let begin = format!("<!-- generated: {name} -->\n");
    let start = file.find(&begin)? + begin.len();
    let length = file[start..].find("<!-- end -->")?;
    let (before, after) = (&file[..start], &file[start + length..]);
    Some(format!("{before}{text}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_block_is_replaced() {
        let file = "a\n<!-- generated: x -->\nold\n<!-- end -->\nb\n";
        let new = replace_block(file, "x", "new\n").expect("the block");
        assert_eq!(new, "a\n<!-- generated: x -->\nnew\n<!-- end -->\nb\n");
        assert_eq!(replace_block(file, "y", ""), None);
    }
}
