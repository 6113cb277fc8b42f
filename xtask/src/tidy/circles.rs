//! No circle of files: each can be read, tested and moved without those that
//! use it.

use super::Finding;
use super::graph::{Graph, Module};

/// Two files that are one thing.
type Pair = [&'static str; 2];

const ONE_THING: &[Pair] = &[
    // The state of a connection, and of the stream that it carries now: each
    // step of one is a step of the other, and one file of both is too long.
    ["tunnel::connection", "tunnel::relay"],
];

/// Uses that close a circle and are borne with. None is: a new one is cut.
const KNOWN: &[(&str, &str)] = &[];

pub(super) fn check(graph: &Graph) -> Vec<Finding> {
    check_with(graph, ONE_THING, KNOWN)
}

fn check_with(graph: &Graph, one_thing: &[Pair], known: &[(&str, &str)]) -> Vec<Finding> {
    let is_one = |from: &str, to: &str| {
        one_thing
            .iter()
            .any(|pair| *pair == [from, to] || *pair == [to, from])
    };
    // From `to` back to where it is used, or to the other half of that.
    let back = |from: &str, to: &str, known: &[(&str, &str)]| {
        let is_there = |at: &str| at == from || is_one(at, from);
        graph.chain(to, is_there, |a, b| known.contains(&(a, b)))
    };
    let mut findings = Vec::new();
    let mut told: Vec<Module> = Vec::new();
    for (from, to) in graph.edges() {
        if known.contains(&(from, to)) || is_one(from, to) || told.iter().any(|at| at == from) {
            continue;
        }
        if let Some(chain) = back(from, to, known) {
            findings.push(circle(graph, from, &chain));
            told.extend(chain);
        }
    }
    for (from, to) in known {
        let closes = graph.line(from, to).is_some() && back(from, to, &[]).is_some();
        if !closes {
            findings.push(Finding {
                file: graph.file(from).to_owned(),
                line: 1,
                message: format!(
                    "circle: {from} -> {to} closes none any more: take it out of KNOWN in xtask/src/tidy/circles.rs"
                ),
            });
        }
    }
    findings
}

/// `chain` leads from what `from` uses back to it.
fn circle(graph: &Graph, from: &str, chain: &[Module]) -> Finding {
    let to = &chain[0];
    Finding {
        file: graph.file(from).to_owned(),
        line: graph.line(from, to).unwrap_or(1),
        message: format!(
            "circle: {from} -> {}: cut one of these uses: take it as an argument, or move what both need to a third file",
            chain.join(" -> ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::graph::graph_of;
    use super::*;

    fn circles(files: &[(&str, &str)]) -> Vec<String> {
        let findings = check_with(&graph_of(files), &[], &[]).into_iter();
        let chain = |finding: Finding| finding.message.split(": ").nth(1).map(str::to_owned);
        findings.filter_map(chain).collect()
    }

    #[test]
    fn files_that_use_each_other_are_a_circle() {
        let files = [
            ("proxy/dial.rs", "use super::reach::Reach;"),
            (
                "proxy/reach.rs",
                "fn f() { crate::proxy::renew::again() }\nstruct Reach;",
            ),
            (
                "proxy/renew.rs",
                "use crate::{\n model,\n proxy::{dial::Dial},\n};",
            ),
        ];
        assert_eq!(
            circles(&files),
            ["proxy::dial -> proxy::reach -> proxy::renew -> proxy::dial"]
        );
    }

    #[test]
    fn the_finding_stands_at_the_use() {
        let files = [
            (
                "io/pump.rs",
                "//! Pump.\n\nuse super::rest;\nfn f() { rest::g() }",
            ),
            ("io/rest.rs", "use super::pump::P;"),
        ];
        let found = check_with(&graph_of(&files), &[], &[]);
        assert_eq!(
            (found[0].file.as_str(), found[0].line),
            ("mesh-agent/src/io/pump.rs", 4)
        );
    }

    #[test]
    fn also_over_several_modules() {
        let files = [
            ("capture/mod.rs", "use crate::sys::bpf::B;"),
            ("sys/bpf.rs", "use crate::capture::C;\npub struct B;"),
        ];
        assert_eq!(circles(&files), ["capture -> sys::bpf -> capture"]);
    }

    #[test]
    fn a_parent_that_only_hands_on_is_in_no_circle() {
        let files = [
            (
                "policy/mod.rs",
                "mod index;\npub use index::Index;\npub struct Entry;",
            ),
            ("policy/index.rs", "use super::Entry;\npub struct Index;"),
        ];
        assert_eq!(circles(&files), Vec::<String>::new());
    }

    #[test]
    fn a_parent_and_a_child_that_use_each_other_are_a_circle() {
        let files = [
            (
                "policy/mod.rs",
                "mod index;\npub use index::Index;\npub struct Entry;\nfn f(i: Index) {}",
            ),
            ("policy/index.rs", "use super::Entry;\npub struct Index;"),
        ];
        assert_eq!(circles(&files), ["policy -> policy::index -> policy"]);
    }

    #[test]
    fn what_is_taken_from_a_parent_counts_where_it_is_defined() {
        let files = [
            ("policy/mod.rs", "mod a;\nmod b;\npub use a::A;\nuse b::B;"),
            ("policy/a.rs", "use super::B;\npub struct A;"),
            ("policy/b.rs", "pub struct B;\nfn f(a: crate::policy::A) {}"),
        ];
        assert_eq!(circles(&files), ["policy::a -> policy::b -> policy::a"]);
    }

    #[test]
    fn tests_may_use_what_they_test() {
        let files = [
            (
                "io/mod.rs",
                "#[cfg(test)]\nmod tests {\n use super::pump::P;\n}\npub struct I;",
            ),
            ("io/pump.rs", "use super::I;\npub struct P;"),
            ("io/tests.rs", "use super::pump::P;\npub struct T;"),
        ];
        assert_eq!(circles(&files), Vec::<String>::new());
    }

    #[test]
    fn two_halves_of_one_thing_are_allowed_and_no_third() {
        let mut files = vec![
            ("tunnel/connection.rs", "use super::relay::R;"),
            ("tunnel/relay.rs", "use super::connection::C;"),
        ];
        assert_eq!(check_with(&graph_of(&files), ONE_THING, &[]), []);
        files[1].1 = "use super::frame::F;";
        files.push(("tunnel/frame.rs", "use super::connection::C;"));
        assert_eq!(check_with(&graph_of(&files), ONE_THING, &[]).len(), 1);
    }

    #[test]
    fn a_listed_use_that_closes_no_circle_must_leave_the_list() {
        let known = &[("io", "io::pump")];
        let circle = [
            ("io/mod.rs", "mod pump;\nuse pump::P;\npub struct I;"),
            ("io/pump.rs", "use super::I;\npub struct P;"),
        ];
        assert_eq!(check_with(&graph_of(&circle), &[], known), []);
        let cut = [circle[0], ("io/pump.rs", "pub struct P;")];
        let found = check_with(&graph_of(&cut), &[], known);
        assert!(
            found[0].message.contains("closes none any more"),
            "{found:?}"
        );
        assert_eq!(found[0].file, "mesh-agent/src/io/mod.rs");
    }
}
