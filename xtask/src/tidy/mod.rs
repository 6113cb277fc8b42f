//! `tidy`: the repository's own rules, which no compiler checks.
//!
//! Layers of the agent's modules, circles of files, crates confined to one module,
//! pure modules that stay pure, where `unsafe` may stand, sizes, front doors,
//! leftover work, paths that documents name, settings that deploy/ makes, metrics that
//! either names, names that the tests' scripts give twice.

mod circles;
mod confine;
mod deploy;
mod docs;
mod graph;
mod layers;
mod metrics;
mod never;
mod paths;
mod scripts;
mod shape;
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::repo::Repo;
use graph::Graph;
use source::Source;

pub(crate) use layers::modules_table;

/// One broken rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    file: String,
    line: usize,
    message: String,
}

pub(crate) fn run(repo: &Repo, args: &[String]) -> Result<()> {
    crate::no_arguments("tidy", args)?;
    check(repo)
}

pub(crate) fn check(repo: &Repo) -> Result<()> {
    let mut texts = Vec::new();
    for path in files(&repo.root, "rs")? {
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let name = path.strip_prefix(&repo.root).unwrap_or(&path);
        texts.push((name.to_string_lossy().into_owned(), text));
    }
    let sources: Vec<Source<'_>> = texts
        .iter()
        .map(|(name, text)| Source::new(name, text))
        .collect();
    let mut findings: Vec<Finding> = sources.iter().flat_map(check_file).collect();
    let graph = Graph::of(&sources);
    findings.extend(circles::check(&graph));
    findings.extend(never::check(&graph));
    findings.extend(without_module(&sources));
    findings.extend(check_documents(repo)?);
    findings.extend(check_deploy(repo)?);
    findings.extend(check_metrics(repo)?);
    findings.extend(check_scripts(repo, &texts)?);
    findings.sort();
    findings.dedup();
    for Finding {
        file,
        line,
        message,
    } in &findings
    {
        println!("{file}:{line}: {message}");
    }
    if !findings.is_empty() {
        bail!("{} broken rules", findings.len());
    }
    Ok(())
}

fn check_file(source: &Source<'_>) -> Vec<Finding> {
    [layers::check, confine::check, shape::check]
        .iter()
        .flat_map(|rule| located(source.name, rule(source)))
        .collect()
}

fn without_module(sources: &[Source<'_>]) -> impl Iterator<Item = Finding> {
    let found = layers::without_files(sources).into_iter();
    located("xtask/src/tidy/layers.rs", found.map(|m| (1, m)).collect())
}

/// Those at the root and in docs/.
fn check_documents(repo: &Repo) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for directory in [repo.root.clone(), repo.root.join("docs")] {
        let entries =
            fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("list {}", directory.display()))?;
            let path = entry.path();
            if path.extension().is_none_or(|e| e != "md") {
                continue;
            }
            let text =
                fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            let name = path.strip_prefix(&repo.root).unwrap_or(&path);
            let name = name.to_string_lossy();
            findings.extend(located(&name, docs::check(&repo.root, &name, &text)));
        }
    }
    Ok(findings)
}

fn check_deploy(repo: &Repo) -> Result<Vec<Finding>> {
    let reference = repo.root.join("docs/configuration.md");
    let reference =
        fs::read_to_string(&reference).with_context(|| format!("read {}", reference.display()))?;
    let mut findings = Vec::new();
    for path in files(&repo.root.join("deploy"), "yaml")? {
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let name = path.strip_prefix(&repo.root).unwrap_or(&path);
        let found = deploy::check(&reference, &text);
        findings.extend(located(&name.to_string_lossy(), found));
    }
    Ok(findings)
}

/// The reference of metrics, and what has the names of former ones.
const NOT_OF_METRICS: [&str; 2] = ["docs/metrics.md", "CHANGELOG.md"];

/// What people write of metrics: documents, alerts, dashboards.
fn check_metrics(repo: &Repo) -> Result<Vec<Finding>> {
    let [reference, _] = NOT_OF_METRICS;
    let reference = repo.root.join(reference);
    let reference =
        fs::read_to_string(&reference).with_context(|| format!("read {}", reference.display()))?;
    let reference = metrics::Reference::read(&reference);
    let mut paths = files(&repo.root, "md")?;
    paths.extend(files(&repo.root.join("deploy"), "yaml")?);
    paths.extend(files(&repo.root.join("deploy"), "json")?);
    let mut findings = Vec::new();
    for path in paths {
        let name = path.strip_prefix(&repo.root).unwrap_or(&path);
        let name = name.to_string_lossy();
        if NOT_OF_METRICS.contains(&&*name) {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        findings.extend(located(&name, metrics::check(&reference, &text)));
    }
    Ok(findings)
}

/// Each script of the tests alone, and those that a source makes one program of.
fn check_scripts(repo: &Repo, sources: &[(String, String)]) -> Result<Vec<Finding>> {
    let mut scripts = Vec::new();
    for path in files(&repo.root.join("tests"), "py")? {
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let name = path.strip_prefix(&repo.root).unwrap_or(&path);
        scripts.push((name.to_string_lossy().into_owned(), text));
    }
    let mut programs: Vec<Vec<scripts::Script<'_>>> = Vec::new();
    programs.extend(scripts.iter().map(|(name, text)| vec![(&**name, &**text)]));
    for (source, text) in sources {
        let beside = Path::new(source).parent().unwrap_or(Path::new(""));
        for files in scripts::put_together(text) {
            let of = |file: &&str| {
                let path = beside.join(file);
                let script = scripts.iter().find(|(name, _)| Path::new(name) == path)?;
                Some((&*script.0, &*script.1))
            };
            programs.push(files.iter().filter_map(of).collect());
        }
    }
    let found = programs.iter().flat_map(|program| scripts::check(program));
    let finding = |(file, line, message): (&str, usize, String)| Finding {
        file: file.to_owned(),
        line,
        message,
    };
    Ok(found.map(finding).collect())
}

fn located(file: &str, found: Vec<(usize, String)>) -> impl Iterator<Item = Finding> {
    found.into_iter().map(move |(line, message)| Finding {
        file: file.to_owned(),
        line,
        message,
    })
}

/// Every file of that ending below `root`, build results left out.
fn files(root: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![root.to_path_buf()];
    while let Some(directory) = directories.pop() {
        let entries =
            fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("list {}", directory.display()))?;
            let (path, name) = (entry.path(), entry.file_name());
            let kind = entry
                .file_type()
                .with_context(|| format!("look at {}", path.display()))?;
            let hidden = name.to_string_lossy().starts_with('.');
            if kind.is_dir() && !hidden && name != "target" {
                directories.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|e| e == ending) {
                files.push(path);
            }
        }
    }
    Ok(files)
}
