//! Modules of the agent use modules of lower layers, their own, and the few of
//! their own layer that are named here.

use super::source::Source;

struct Module {
    name: &'static str,
    layer: u8,
    /// Modules of the same layer that it may use.
    beside: &'static [&'static str],
}

const fn module(name: &'static str, layer: u8, beside: &'static [&'static str]) -> Module {
    Module {
        name,
        layer,
        beside,
    }
}

const MODULES: &[Module] = &[
    module("model", 0, &[]),
    module("detect", 1, &[]),
    module("route", 1, &[]),
    module("policy", 1, &[]),
    module("limit", 1, &[]),
    module("balance", 1, &["limit"]),
    module("traffic", 1, &["limit", "policy"]),
    module(
        "plan",
        1,
        &["detect", "route", "policy", "balance", "limit", "traffic"],
    ),
    module("sys", 2, &[]),
    module("capture", 2, &["sys"]),
    module("io", 2, &["sys"]),
    module("tls", 2, &[]),
    module("http", 2, &["io"]),
    module("identity", 2, &["tls", "http", "cluster"]),
    module("kube", 2, &[]),
    module("cluster", 2, &["kube"]),
    module("discovery", 2, &["kube", "sys"]),
    module("tunnel", 2, &["tls", "identity", "io", "http"]),
    module("observe", 2, &["sys"]),
    module("ca", 3, &[]),
    module("cni", 3, &["enrol"]),
    module("status", 3, &[]),
    module("enrol", 3, &[]),
    module("peer", 3, &["enrol"]),
    module("proxy", 3, &["peer", "enrol"]),
    module("explain", 3, &[]),
    module("admin", 3, &[]),
    module("config", 4, &[]),
    module("app", 4, &["config"]),
    module("cli", 4, &["app", "config"]),
    module("main", 4, &["cli"]),
    module("fuzzing", 4, &[]),
];

const MEANING: &[&str] = &[
    "plain data, no I/O",
    "synchronous and pure",
    "one outside thing each",
    "puts lower modules together",
    "flags, start and stop order",
];

/// The modules below, as a table for people.
pub(crate) fn modules_table() -> String {
    let mut table = String::from("| layer | what | modules |\n| --- | --- | --- |\n");
    for (layer, meaning) in MEANING.iter().enumerate() {
        let modules: Vec<String> = MODULES
            .iter()
            .filter(|module| usize::from(module.layer) == layer)
            .map(|module| match module.beside {
                [] => format!("`{}`", module.name),
                beside => format!("`{}` (may use `{}`)", module.name, beside.join("`, `")),
            })
            .collect();
        table.push_str(&format!(
            "| L{layer} | {meaning} | {} |\n",
            modules.join(", ")
        ));
    }
    table
}

/// Is this one of the modules that must be pure?
pub(super) fn is_pure(name: &str) -> bool {
    find(name).is_some_and(|module| module.layer == 1) || name == "model"
}

fn find(name: &str) -> Option<&'static Module> {
    MODULES.iter().find(|module| module.name == name)
}

pub(super) fn check(source: &Source<'_>) -> Vec<(usize, String)> {
    let Some((name, depth)) = source.top_module() else {
        return Vec::new();
    };
    let Some(module) = find(name) else {
        let message = format!("module '{name}' has no layer: add it to xtask/src/tidy/layers.rs");
        return vec![(1, message)];
    };
    let code = source.code.join("\n");
    // Tests of any module may use what fuzzing has for tests.
    let mut findings: Vec<(usize, String)> = crate_paths(&code)
        .into_iter()
        .filter(|(line, used)| !(*used == "fuzzing" && source.is_test[line - 1]))
        .filter_map(|(line, used)| Some((line, refusal(module, used)?)))
        .collect();
    findings.extend(climbs(source, depth));
    findings
}

/// Rows of the table above that no file belongs to.
pub(super) fn without_files(sources: &[Source<'_>]) -> Vec<String> {
    let has_file = |module: &&Module| {
        let mut tops = sources.iter().filter_map(Source::top_module);
        tops.any(|(name, _)| name == module.name)
    };
    let gone = MODULES.iter().filter(|module| !has_file(module));
    gone.map(|module| format!("module '{}' has a layer and no file", module.name))
        .collect()
}

fn refusal(module: &Module, used: &str) -> Option<String> {
    let other = find(used)?;
    let allowed =
        other.layer < module.layer || other.name == module.name || module.beside.contains(&used);
    (!allowed).then(|| {
        format!(
            "layer: '{}' (L{}) may not use '{}' (L{})",
            module.name, module.layer, other.name, other.layer
        )
    })
}

/// Line and first segment of every path that begins at the crate's root,
/// those in `crate::{a, b::{c}}` included.
fn crate_paths(code: &str) -> Vec<(usize, &str)> {
    let mut paths = Vec::new();
    for (at, root) in code.match_indices("crate::") {
        let start = at + root.len();
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let starts = match code[start..].strip_prefix('{') {
            Some(group) => group_starts(group, start + 1),
            None => vec![start],
        };
        for start in starts {
            let name = identifier(&code[start..]);
            paths.push((line_of(code, start), name));
        }
    }
    paths
}

/// Offsets of the elements on the first level of a `{…}` group.
fn group_starts(group: &str, offset: usize) -> Vec<usize> {
    let mut starts = Vec::new();
    let (mut depth, mut expected) = (0_usize, true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => expected = true,
            c if expected && !c.is_whitespace() => {
                starts.push(offset + at);
                expected = false;
            }
            _ => {}
        }
    }
    starts
}

fn identifier(code: &str) -> &str {
    let end = code.find(|c: char| !(c.is_alphanumeric() || c == '_'));
    &code[..end.unwrap_or(code.len())]
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// `super::super::x` that reaches the crate's root would hide a layer.
fn climbs(source: &Source<'_>, depth: usize) -> Vec<(usize, String)> {
    source
        .code_lines()
        .filter(|(line, code)| {
            let inside =
                usize::from(source.is_test[line - 1] && !source.name.ends_with("/tests.rs"));
            code.contains(&"super::".repeat(depth + inside))
        })
        .map(|(line, _)| {
            (
                line,
                "layer: write crate::…, not super:: up to the root".to_owned(),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(name: &str, text: &str) -> Vec<(usize, String)> {
        check(&Source::new(name, text))
    }

    #[test]
    fn a_lower_module_and_its_own_are_allowed() {
        let text = "use crate::model::Snapshot;\nuse crate::capture::Error;\nuse crate::sys::netns::Netns;\n";
        assert!(messages("mesh-agent/src/capture/mod.rs", text).is_empty());
    }

    #[test]
    fn a_higher_module_is_refused_with_its_line() {
        let text = "//! Says crate::proxy in words only.\n\nuse crate::proxy::Workers;\n";
        let found = messages("mesh-agent/src/route/mod.rs", text);
        assert_eq!(
            found,
            [(3, "layer: 'route' (L1) may not use 'proxy' (L3)".to_owned())]
        );
    }

    #[test]
    fn a_module_beside_is_refused_unless_named() {
        let text = "fn f() { crate::observe::count(); crate::sys::socket::mark(); }";
        let found = messages("mesh-agent/src/io/copy.rs", text);
        assert_eq!(found.len(), 1);
        assert!(found[0].1.contains("'observe'"));
    }

    #[test]
    fn only_tests_may_use_what_fuzzing_has() {
        let text = "use crate::fuzzing::mutate::Mutator;\n";
        assert_eq!(messages("mesh-agent/src/detect/mod.rs", text).len(), 1);
        assert!(messages("mesh-agent/src/detect/tests.rs", text).is_empty());
    }

    #[test]
    fn grouped_imports_are_seen_on_their_first_level_only() {
        let text = "use crate::{\n    model::{Service, proxy},\n    admin,\n};\n";
        let found = messages("mesh-agent/src/observe/mod.rs", text);
        assert_eq!(
            found,
            [(
                3,
                "layer: 'observe' (L2) may not use 'admin' (L3)".to_owned()
            )]
        );
    }

    #[test]
    fn climbing_to_the_root_is_refused_and_to_the_module_is_not() {
        assert_eq!(
            messages("mesh-agent/src/route/mod.rs", "use super::proxy::X;").len(),
            1
        );
        assert_eq!(
            messages("mesh-agent/src/route/a.rs", "use super::Decision;").len(),
            0
        );
        assert_eq!(
            messages("mesh-agent/src/route/a.rs", "use super::super::proxy;").len(),
            1
        );
        let in_tests = "#[cfg(test)]\nmod tests {\n  use super::*;\n}";
        assert_eq!(messages("mesh-agent/src/route/mod.rs", in_tests).len(), 0);
    }

    #[test]
    fn a_new_module_must_get_a_layer() {
        let found = messages("mesh-agent/src/cellar/mod.rs", "");
        assert!(found[0].1.contains("'cellar' has no layer"));
    }

    #[test]
    fn a_layer_without_a_module_is_a_mistake() {
        let path = |module: &Module| format!("mesh-agent/src/{}/mod.rs", module.name);
        let names: Vec<String> = MODULES.iter().map(path).collect();
        let sources: Vec<_> = names.iter().map(|name| Source::new(name, "")).collect();
        assert_eq!(without_files(&sources), Vec::<String>::new());
        let found = without_files(&sources[1..]);
        assert_eq!(found, ["module 'model' has a layer and no file"]);
    }

    #[test]
    fn other_crates_have_no_modules() {
        assert!(messages("tests/src/world.rs", "use crate::proxy;").is_empty());
    }
}
