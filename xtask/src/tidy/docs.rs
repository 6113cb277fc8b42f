//! Files and directories that the documents name are there.
//!
//! In text that is what stands between backticks and ends in `.rs` or `/`; in a
//! picture (a block right after the line `<!-- paths -->`) every word that does.
//! Both are looked for from the repository's root and from the agent's source.

use std::path::Path;

const MARKER: &str = "<!-- paths -->";
const FENCE: &str = "```";
const ROOTS: [&str; 2] = ["", "mesh-agent/src"];

/// Line, and what is there.
type Located = (usize, String);

/// It has the picture of a connection's way.
const PICTURED: &str = "docs/architecture.md";

/// Line and message of each path in the document that is not below `repo`.
pub(super) fn check(repo: &Path, name: &str, document: &str) -> Vec<Located> {
    let is_there = |path: &str| {
        ROOTS.iter().any(|root| {
            let whole = repo.join(root).join(path);
            if path.ends_with('/') {
                whole.is_dir()
            } else {
                whole.is_file()
            }
        })
    };
    let missing = |(line, path): Located| {
        (!is_there(&path)).then(|| (line, format!("path: there is no {path} (any more)")))
    };
    let (paths, mut findings) = paths(document);
    findings.extend(paths.into_iter().filter_map(missing));
    let pictures = document.lines().filter(|line| line.trim() == MARKER);
    if name == PICTURED && pictures.count() != 1 {
        findings.push((1, format!("path: one picture stands below {MARKER}")));
    }
    findings
}

/// What is named as a path, and markers without a block.
fn paths(document: &str) -> (Vec<Located>, Vec<Located>) {
    let (mut paths, mut findings) = (Vec::new(), Vec::new());
    let (mut in_block, mut in_picture, mut marked) = (false, false, None);
    for (line, text) in (1..).zip(document.lines()) {
        if text.trim_start().starts_with(FENCE) {
            in_picture = !in_block && marked.take().is_some();
            in_block = !in_block;
        } else if in_picture && in_block {
            paths.extend(words(text).map(|word| (line, word)));
        } else if !in_block {
            if let Some(at) = marked.take().filter(|_| !text.trim().is_empty()) {
                findings.push((at, format!("path: no block follows {MARKER}")));
            }
            marked = (text.trim() == MARKER).then_some(line);
            let quoted = text.split('`').skip(1).step_by(2);
            let quoted = quoted.filter(|quoted| is_path(quoted));
            paths.extend(quoted.map(|path| (line, path.to_owned())));
        }
    }
    findings.extend(marked.map(|at| (at, format!("path: no block follows {MARKER}"))));
    (paths, findings)
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !is_part(c))
        .filter(|word| is_path(word))
        .map(str::to_owned)
}

fn is_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_-./".contains(c)
}

/// Relative, of one piece, and with an end that says what it is.
fn is_path(text: &str) -> bool {
    let ends = text.ends_with(".rs") || text.ends_with('/');
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    ends && begins && text.chars().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(document: &str) -> Vec<Located> {
        paths(document).0
    }

    #[test]
    fn paths_between_backticks_are_seen_and_other_words_are_not() {
        let text = "`proxy/outbound.rs` and `docs/`, not proxy/x.rs,\n`/sys/fs/bpf/`, `mesh/1`, `use a/b.rs`, `proxy`\n";
        let expected = [(1, "proxy/outbound.rs".into()), (1, "docs/".into())];
        assert_eq!(named(text), expected);
    }

    #[test]
    fn a_block_names_paths_only_where_it_is_marked() {
        let block = "```\naccept (proxy/worker.rs) -> `tunnel/`: mesh/1\n```\n";
        assert_eq!(named(block), []);
        let marked = format!("{MARKER}\n{block}{block}");
        let expected = [(3, "proxy/worker.rs".into()), (3, "tunnel/".into())];
        assert_eq!(named(&marked), expected);
    }

    #[test]
    fn a_marker_without_a_block_is_a_mistake() {
        for text in [format!("{MARKER}\n"), format!("{MARKER}\ntext\n```\n```\n")] {
            assert_eq!(paths(&text).1.len(), 1, "{text}");
        }
    }

    #[test]
    fn the_picture_of_the_way_is_marked() {
        let findings = |name, text: &str| check(Path::new("/"), name, text).len();
        let marked = format!("{MARKER}\n```\n```\n");
        assert_eq!(findings(PICTURED, "```\n```\n"), 1);
        assert_eq!(findings("docs/a.md", "```\n```\n"), 0);
        assert_eq!(findings(PICTURED, &marked), 0);
        assert_eq!(findings(PICTURED, &format!("{marked}{marked}")), 1);
    }

    #[test]
    fn a_path_is_found_from_the_root_and_from_the_agents_source() {
        let dir = std::env::temp_dir().join(format!("tidy-docs-{}", std::process::id()));
        let module = dir.join("mesh-agent/src/proxy");
        std::fs::create_dir_all(&module).expect("make the module");
        std::fs::write(module.join("worker.rs"), "").expect("write the file");
        let text = "`proxy/worker.rs` `mesh-agent/src/proxy/worker.rs` `proxy/`\n`proxy/gone.rs` `gone/` `proxy/worker.rs/`\n";
        let found = check(&dir, "docs/a.md", text);
        std::fs::remove_dir_all(&dir).expect("remove it");
        let messages: Vec<&str> = found.iter().map(|(_, message)| message.as_str()).collect();
        let gone = ["proxy/gone.rs", "gone/", "proxy/worker.rs/"];
        assert_eq!(
            messages,
            gone.map(|path| format!("path: there is no {path} (any more)"))
        );
        assert!(found.iter().all(|(line, _)| *line == 2));
    }
}
