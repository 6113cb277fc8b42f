//! What `deny.toml` says of licences, banned crates and sources, looked at with
//! nothing but cargo: no tool to install, no network.
//!
//! cargo-deny looks closer (clarified licences, duplicates, advisories); but a
//! machine that has it not must not let a dependency pass unseen.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, bail};

use crate::command::cargo;
use crate::repo::Repo;

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";
/// Lock files of the repository; the fuzzers' may be missing.
const LOCKS: [&str; 2] = ["Cargo.lock", "fuzz/Cargo.lock"];

pub(crate) fn check(repo: &Repo) -> Result<()> {
    let rules = fs::read_to_string(repo.root.join("deny.toml")).context("read deny.toml")?;
    let allowed = strings_of(&rules, "allow");
    let banned = banned(&rules);
    if allowed.is_empty() || banned.is_empty() {
        bail!("deny.toml allows no licence or bans no crate: is it another form?");
    }
    let mut findings = Vec::new();
    for lock in LOCKS {
        match fs::read_to_string(repo.root.join(lock)) {
            Ok(text) => findings.extend(of_lock(lock, &text, &banned)),
            Err(_) if lock != LOCKS[0] => {}
            Err(error) => return Err(error).with_context(|| format!("read {lock}")),
        }
    }
    findings.extend(of_licences(&tree(repo)?, &allowed));
    match findings.is_empty() {
        true => Ok(()),
        false => bail!(
            "dependencies that deny.toml does not allow\n{}",
            findings.join("\n")
        ),
    }
}

/// Each crate that is built here, and its licence: `name vVERSION|LICENCE`.
fn tree(repo: &Repo) -> Result<String> {
    let out = cargo(repo)
        .args(["tree", "--workspace", "--locked", "--offline"])
        .args(["--edges", "normal,build,dev", "--prefix", "none"])
        .args(["--no-dedupe", "--format", "{p}|{l}"])
        .output()
        .context("start cargo tree")?;
    if !out.status.success() {
        bail!("cargo tree: {}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn of_licences(tree: &str, allowed: &[String]) -> BTreeSet<String> {
    let mut findings = BTreeSet::new();
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let (package, licence) = line.rsplit_once('|').unwrap_or((line, ""));
        // Ours: by a path in the repository.
        if package.contains(" (/") || is_allowed(licence, allowed) {
            continue;
        }
        let licence = if licence.is_empty() { "none" } else { licence };
        findings.insert(format!("{package}: its licence is {licence}"));
    }
    findings
}

/// An SPDX expression, or the older form with slashes; what cannot be read is
/// not allowed.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let expression = expression.replace('/', " OR ");
    let spaced = expression.replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser {
        words: &words,
        allowed,
    };
    parser.any_of() == Some(true) && parser.words.is_empty()
}

struct Parser<'a> {
    words: &'a [&'a str],
    allowed: &'a [String],
}

impl<'a> Parser<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        Some(first)
    }

    fn skip(&mut self, word: &str) -> bool {
        let is = self.words.first() == Some(&word);
        if is {
            self.words = &self.words[1..];
        }
        is
    }

    fn any_of(&mut self) -> Option<bool> {
        let mut any = self.all_of()?;
        while self.skip("OR") {
            any |= self.all_of()?;
        }
        Some(any)
    }

    fn all_of(&mut self) -> Option<bool> {
        let mut all = self.one()?;
        while self.skip("AND") {
            all &= self.one()?;
        }
        Some(all)
    }

    fn one(&mut self) -> Option<bool> {
        if self.skip("(") {
            let inner = self.any_of()?;
            return self.skip(")").then_some(inner);
        }
        let mut licence = self.next()?.to_owned();
        if self.skip("WITH") {
            licence = format!("{licence} WITH {}", self.next()?);
        }
        Some(self.allowed.contains(&licence))
    }
}

fn of_lock(lock: &str, text: &str, banned: &[String]) -> Vec<String> {
    let mut findings = Vec::new();
    let mut name = "";
    for line in text.lines() {
        if let Some(value) = value_of(line, "name") {
            name = value;
            if banned.iter().any(|banned| banned == name) {
                findings.push(format!("{lock}: {name} is banned"));
            }
        }
        if let Some(source) = value_of(line, "source").filter(|s| *s != CRATES_IO) {
            findings.push(format!("{lock}: {name} comes from {source}"));
        }
    }
    findings
}

fn value_of<'l>(line: &'l str, key: &str) -> Option<&'l str> {
    let rest = line.strip_prefix(key)?.trim_start().strip_prefix('=')?;
    rest.trim().strip_prefix('"')?.strip_suffix('"')
}

/// The texts of a list `KEY = [ "a", "b" ]`, over any number of lines.
fn strings_of(toml: &str, key: &str) -> Vec<String> {
    let begin = format!("\n{key} = [");
    let list = toml.split_once(&begin).map_or("", |(_, rest)| rest);
    let list = list.split_once(']').map_or("", |(list, _)| list);
    list.split('"')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// Of `{ crate = "NAME", … }`.
fn banned(toml: &str) -> Vec<String> {
    let parts = toml.split("{ crate = \"").skip(1);
    parts
        .filter_map(|part| Some(part.split_once('"')?.0.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = include_str!("../../deny.toml");

    #[test]
    fn the_rules_are_read_from_where_cargo_deny_reads_them() {
        let allowed = strings_of(RULES, "allow");
        assert!(allowed.contains(&"Apache-2.0 WITH LLVM-exception".to_owned()));
        assert!(allowed.contains(&"Zlib".to_owned()) && allowed.len() > 8);
        assert!(banned(RULES).contains(&"openssl-sys".to_owned()));
    }

    #[test]
    fn an_expression_is_allowed_where_some_way_through_it_is() {
        let allowed = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"];
        let allowed = allowed.map(str::to_owned);
        for good in [
            "MIT",
            "MIT OR GPL-3.0",
            "GPL-3.0 OR (MIT AND Apache-2.0)",
            "MIT/Apache-2.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
            "(MIT OR GPL-3.0) AND Apache-2.0",
        ] {
            assert!(is_allowed(good, &allowed), "{good}");
        }
        for bad in [
            "",
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "MIT WITH LLVM-exception",
            "(MIT",
            "MIT)",
            "MIT OR",
            "MIT MIT",
        ] {
            assert!(!is_allowed(bad, &allowed), "{bad}");
        }
    }

    #[test]
    fn a_crate_from_elsewhere_a_banned_one_and_one_without_a_licence_are_named() {
        let lock = "[[package]]\nname = \"openssl-sys\"\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"\n\n\
                    [[package]]\nname = \"ours\"\n\n[[package]]\nname = \"fork\"\nsource = \"git+https://example.org/fork\"\n";
        let found = of_lock("Cargo.lock", lock, &["openssl-sys".to_owned()]);
        let expected = [
            "Cargo.lock: openssl-sys is banned",
            "Cargo.lock: fork comes from git+https://example.org/fork",
        ];
        assert_eq!(found, expected);
        let tree = "ours v0.1.0 (/r/ours)|\na v1.0.0|MIT\nb v2.0.0|\na v1.0.0|MIT\n";
        let found = of_licences(tree, &["MIT".to_owned()]);
        assert_eq!(Vec::from_iter(found), ["b v2.0.0: its licence is none"]);
    }
}
