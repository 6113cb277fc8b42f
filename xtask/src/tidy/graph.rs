//! Which file of the agent uses which other.
//!
//! A use is followed to the file that defines the thing: what a module only
//! hands on (`mod x; pub use x::Y;`) is a use of `x` by whoever takes `Y` from
//! there, and not by the module. Uses through a method's name are not seen.

use std::collections::{BTreeMap, VecDeque};

use super::paths::{Import, Paths};
use super::source::Source;

/// `proxy::inbound` for `mesh-agent/src/proxy/inbound.rs`.
pub(super) type Module = String;

/// How far a name that is handed on is followed.
const MAX_HOPS: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Graph {
    /// Uses of each module's file, with the line of the first.
    uses: BTreeMap<Module, BTreeMap<Module, usize>>,
    files: BTreeMap<Module, String>,
}

impl Graph {
    pub(super) fn of(sources: &[Source<'_>]) -> Self {
        let modules: BTreeMap<Module, Paths> = sources
            .iter()
            .filter_map(|source| Some((module(source)?, Paths::of(source))))
            .collect();
        let files = sources
            .iter()
            .filter_map(|source| Some((module(source)?, source.name.to_owned())))
            .collect();
        let reader = Reader { modules: &modules };
        let uses = modules
            .iter()
            .map(|(name, paths)| (name.clone(), reader.uses(name, paths)))
            .collect();
        Self { uses, files }
    }

    pub(super) fn modules(&self) -> impl Iterator<Item = &str> {
        self.uses.keys().map(String::as_str)
    }

    /// Repository's path of a module's file.
    pub(super) fn file<'s>(&'s self, module: &'s str) -> &'s str {
        self.files.get(module).map_or(module, String::as_str)
    }

    pub(super) fn line(&self, from: &str, to: &str) -> Option<usize> {
        self.uses.get(from)?.get(to).copied()
    }

    pub(super) fn edges(&self) -> impl Iterator<Item = (&str, &str)> {
        self.uses
            .iter()
            .flat_map(|(from, uses)| uses.keys().map(move |to| (from.as_str(), to.as_str())))
    }

    /// The shortest chain of uses from one of `from` to a module that is
    /// `wanted`, over edges that are not `cut`; both ends included.
    pub(super) fn chain(
        &self,
        from: &str,
        wanted: impl Fn(&str) -> bool,
        cut: impl Fn(&str, &str) -> bool,
    ) -> Option<Vec<Module>> {
        let mut before: BTreeMap<&str, &str> = BTreeMap::new();
        let mut next = VecDeque::from([self.uses.get_key_value(from)?.0.as_str()]);
        while let Some(at) = next.pop_front() {
            let uses = self.uses.get(at).into_iter().flat_map(BTreeMap::keys);
            for to in uses.filter(|to| !cut(at, to)) {
                if wanted(to) {
                    return Some(way_back(&before, from, at, to));
                }
                if to != from && !before.contains_key(to.as_str()) {
                    before.insert(to, at);
                    next.push_back(to);
                }
            }
        }
        None
    }
}

fn way_back(before: &BTreeMap<&str, &str>, from: &str, last: &str, to: &str) -> Vec<Module> {
    let mut chain = vec![to.to_owned(), last.to_owned()];
    let mut at = last;
    while at != from
        && let Some(earlier) = before.get(at)
    {
        at = earlier;
        chain.push(at.to_owned());
    }
    chain.reverse();
    chain
}

/// `None` for what is no module of the agent, its root, or only tests.
fn module(source: &Source<'_>) -> Option<Module> {
    source
        .top_module()
        .filter(|(top_module, _)| *top_module != "main")?;
    if source.is_test.iter().all(|test| *test) {
        return None;
    }
    let path = source.name.strip_prefix("mesh-agent/src/")?;
    let path = path.strip_suffix(".rs")?;
    Some(path.strip_suffix("/mod").unwrap_or(path).replace('/', "::"))
}

struct Reader<'m> {
    modules: &'m BTreeMap<Module, Paths>,
}

impl Reader<'_> {
    fn uses(&self, module: &str, paths: &Paths) -> BTreeMap<Module, usize> {
        let mut uses = BTreeMap::new();
        let mut add = |to: Option<Module>, line: usize| {
            if let Some(to) = to.filter(|to| to != module) {
                let first = uses.entry(to).or_insert(line);
                *first = line.min(*first);
            }
        };
        for import in &paths.imports {
            let only_hands_on = import.is_exported
                && import
                    .name
                    .as_ref()
                    .is_none_or(|name| !paths.names.contains(name));
            if only_hands_on {
                continue;
            }
            let path = self.absolute(module, paths, &import.path, 0);
            let found = path.and_then(|path| self.definer(&path, import.name.is_none(), 0));
            add(found, import.line);
        }
        for written in &paths.written {
            let path = self.absolute(module, paths, &written.path, 0);
            let found = path.and_then(|path| self.definer(&path, false, 0));
            add(found, written.line);
        }
        uses
    }

    /// From the crate's root; `None` for what is of another crate.
    fn absolute(
        &self,
        module: &str,
        paths: &Paths,
        path: &[String],
        hops: usize,
    ) -> Option<Vec<String>> {
        let own = || module.split("::").map(str::to_owned);
        let (first, rest) = path.split_first()?;
        let mut absolute: Vec<String> = match first.as_str() {
            "crate" => Vec::new(),
            "self" => own().collect(),
            "super" => {
                let above = path.iter().take_while(|part| *part == "super").count();
                let depth = own().count().checked_sub(above)?;
                let rest = path[above..].iter().cloned();
                return Some(own().take(depth).chain(rest).collect());
            }
            child if paths.children.contains(child) => own().chain([child.to_owned()]).collect(),
            name => {
                let is_it = |import: &&Import| import.name.as_deref() == Some(name);
                let import = paths.imports.iter().find(is_it)?;
                // `use tokio::sync;` and the like end here.
                let is_own = import.path.first() != Some(first) && hops < MAX_HOPS;
                let path = is_own.then_some(&import.path)?;
                self.absolute(module, paths, path, hops + 1)?
            }
        };
        absolute.extend_from_slice(rest);
        Some(absolute)
    }

    /// The module whose file defines what the path ends in. A module by itself
    /// is no use: what is taken from it is.
    fn definer(&self, path: &[String], is_glob: bool, hops: usize) -> Option<Module> {
        let mut at = String::new();
        for (depth, part) in path.iter().enumerate() {
            let below = if at.is_empty() {
                part.clone()
            } else {
                format!("{at}::{part}")
            };
            if self.modules.contains_key(&below) {
                at = below;
                continue;
            }
            let paths = self.modules.get(&at)?;
            let is_it = |import: &&Import| import.name.as_ref() == Some(part);
            let Some(import) = paths.imports.iter().find(is_it).filter(|_| hops < MAX_HOPS) else {
                return Some(at);
            };
            // Handed on; from another crate it is nobody's here.
            let mut whole = self.absolute(&at, paths, &import.path, 0)?;
            whole.extend_from_slice(&path[depth + 1..]);
            return self.definer(&whole, is_glob, hops + 1);
        }
        (is_glob && !at.is_empty()).then_some(at)
    }
}

/// Of files below mesh-agent/src; each has an empty parent unless it is given.
#[cfg(test)]
pub(super) fn graph_of(files: &[(&str, &str)]) -> Graph {
    let mut texts: BTreeMap<String, &str> = BTreeMap::new();
    for (name, text) in files {
        if let Some((parent, _)) = name.rsplit_once('/') {
            let is_given = |end: &str| files.iter().any(|(n, _)| *n == format!("{parent}{end}"));
            if !is_given(".rs") && !is_given("/mod.rs") {
                texts.insert(format!("mesh-agent/src/{parent}/mod.rs"), "//! Empty.");
            }
        }
        texts.insert(format!("mesh-agent/src/{name}"), text);
    }
    let sources: Vec<Source<'_>> = texts
        .iter()
        .map(|(name, text)| Source::new(name, text))
        .collect();
    Graph::of(&sources)
}
