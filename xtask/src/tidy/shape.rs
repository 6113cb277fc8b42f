//! Sizes, front doors and words left behind.

use super::source::{Source, find_word};

const MAX_LINES: usize = 600;

pub(super) fn check(source: &Source<'_>) -> Vec<(usize, String)> {
    let mut findings = Vec::new();
    findings.extend(too_long(source));
    findings.extend(no_front_door(source));
    findings.extend(nameless_todos(source));
    findings
}

fn too_long(source: &Source<'_>) -> Option<(usize, String)> {
    let lines = source.is_test.iter().filter(|test| !**test).count();
    let at = source.is_test.len();
    (lines > MAX_LINES).then(|| {
        (
            at,
            format!("size: {lines} lines without tests, limit {MAX_LINES}: split the file"),
        )
    })
}

/// A module begins with what it does and what it never does.
fn no_front_door(source: &Source<'_>) -> Option<(usize, String)> {
    let (_, depth) = source.top_module()?;
    if depth != 1 || source.name.ends_with("/main.rs") {
        return None;
    }
    let open = source
        .text
        .first()
        .is_some_and(|line| line.starts_with("//!"));
    (!open).then(|| {
        (
            1,
            "front door: a module begins with a `//!` comment".to_owned(),
        )
    })
}

fn nameless_todos(source: &Source<'_>) -> Vec<(usize, String)> {
    let is_nameless = |comment: &str| {
        ["TODO", "FIXME"]
            .iter()
            .any(|word| find_word(comment, word).is_some())
            && !names_issue(comment)
    };
    source
        .comments
        .iter()
        .enumerate()
        .filter(|(_, comment)| is_nameless(comment))
        .map(|(i, _)| {
            (
                i + 1,
                "todo: name the issue, as in `TODO(#12)`, or do it".to_owned(),
            )
        })
        .collect()
}

fn names_issue(comment: &str) -> bool {
    comment
        .split('#')
        .skip(1)
        .any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(name: &str, text: &str) -> Vec<(usize, String)> {
        check(&Source::new(name, text))
    }

    #[test]
    fn tests_do_not_count_towards_a_files_length() {
        let code = "fn f() {}\n".repeat(590);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "// t\n".repeat(100));
        assert!(messages("xtask/src/a.rs", &format!("{code}{tests}")).is_empty());
        let found = messages("xtask/src/a.rs", &"fn f() {}\n".repeat(601));
        assert!(found[0].1.starts_with("size: 602 lines"), "{found:?}");
    }

    #[test]
    fn a_module_has_a_front_door_and_its_inner_files_need_none() {
        assert_eq!(
            messages("mesh-agent/src/route/mod.rs", "use std::fmt;\n").len(),
            1
        );
        assert!(messages("mesh-agent/src/route/mod.rs", "//! Routes.\n").is_empty());
        assert!(messages("mesh-agent/src/route/inner.rs", "use std::fmt;\n").is_empty());
    }

    #[test]
    fn work_left_behind_names_its_issue() {
        let found = messages(
            "a.rs",
            "// TODO: later\n// TODO(#12): later\nlet s = \"TODO\";\n",
        );
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, 1);
    }
}
