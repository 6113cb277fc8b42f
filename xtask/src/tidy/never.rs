//! What must never use what, however short the way.

use super::Finding;
use super::graph::{Graph, Module};

/// A module and all below it; one that moves is named by both its places.
type Place = &'static [&'static str];

struct Never {
    /// As a sentence that begins with the file at fault.
    why: &'static str,
    from: Place,
    to: Place,
    /// Also by way of other files.
    reaches: bool,
    /// Uses that break the rule today. This list only gets shorter: cut a use,
    /// and take it out here.
    known: &'static [(&'static str, &'static str)],
}

const INBOUND: Place = &["proxy::inbound"];
const OUTBOUND: Place = &["proxy::outbound"];
const EXPLAIN: Place = &["explain"];
const DISCOVERY: Place = &["discovery"];
const ENROL: Place = &["enrol"];
const PROXY: Place = &["proxy"];

const NEVER: &[Never] = &[
    Never {
        why: "inbound never uses outbound: what both need is a file of its own",
        from: INBOUND,
        to: OUTBOUND,
        reaches: false,
        known: &[],
    },
    Never {
        why: "outbound never uses inbound: what both need is a file of its own",
        from: OUTBOUND,
        to: INBOUND,
        reaches: false,
        known: &[],
    },
    Never {
        why: "explain never reaches the proxy: both ask the plan",
        from: EXPLAIN,
        to: PROXY,
        reaches: true,
        known: &[],
    },
    Never {
        why: "discovery never reaches the proxy: it publishes, whoever listens",
        from: DISCOVERY,
        to: PROXY,
        reaches: true,
        known: &[],
    },
    Never {
        why: "enrolment never reaches the proxy: it asks for listeners through a trait that the proxy has",
        from: ENROL,
        to: PROXY,
        reaches: true,
        known: &[],
    },
];

pub(super) fn check(graph: &Graph) -> Vec<Finding> {
    NEVER.iter().flat_map(|never| never.check(graph)).collect()
}

impl Never {
    fn check(&self, graph: &Graph) -> Vec<Finding> {
        let is_known = |from: &str, to: &str| self.known.contains(&(from, to));
        let mut findings = Vec::new();
        for from in graph.modules().filter(|module| self.is_from(module)) {
            // A way through others of its own begins at them.
            let is_cut = |a: &str, b: &str| {
                is_known(a, b) || self.is_from(b) || (!self.reaches && a != from)
            };
            let chain = graph.chain(from, |to| self.is_to(to), is_cut);
            findings.extend(chain.map(|chain| self.broken(graph, &chain)));
        }
        for (from, to) in self.known {
            if !self.counts(graph, from, to) {
                findings.push(Finding {
                    file: graph.file(from).to_owned(),
                    line: 1,
                    message: format!(
                        "never: {from} -> {to} breaks no rule any more: take it out in xtask/src/tidy/never.rs"
                    ),
                });
            }
        }
        findings
    }

    fn is_from(&self, module: &str) -> bool {
        is_in(module, self.from)
    }

    /// What belongs to the one side cannot be the other.
    fn is_to(&self, module: &str) -> bool {
        is_in(module, self.to) && !self.is_from(module)
    }

    /// Is the listed use there, and one that the rule forbids?
    fn counts(&self, graph: &Graph, from: &str, to: &str) -> bool {
        let leads = || {
            let is_cut = |_: &str, b: &str| self.is_from(b);
            self.is_to(to) || graph.chain(to, |at| self.is_to(at), is_cut).is_some()
        };
        graph.line(from, to).is_some() && leads()
    }

    fn broken(&self, graph: &Graph, chain: &[Module]) -> Finding {
        Finding {
            file: graph.file(&chain[0]).to_owned(),
            line: graph.line(&chain[0], &chain[1]).unwrap_or(1),
            message: format!("never: {}: {}", chain.join(" -> "), self.why),
        }
    }
}

fn is_in(module: &str, place: Place) -> bool {
    place.iter().any(|top| {
        module
            .strip_prefix(top)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    })
}

#[cfg(test)]
mod tests {
    use super::super::graph::graph_of;
    use super::*;

    fn broken(files: &[(&str, &str)]) -> Vec<String> {
        let findings = check(&graph_of(files)).into_iter();
        let fresh = findings.filter(|finding| !finding.message.contains("any more"));
        fresh.map(|finding| finding.message).collect()
    }

    #[test]
    fn inbound_and_outbound_never_use_each_other() {
        let files = [
            ("proxy/inbound/sniff.rs", "use crate::proxy::outbound::X;"),
            (
                "proxy/outbound.rs",
                "struct X;\nfn f() { super::inbound::g() }",
            ),
            ("proxy/inbound.rs", "fn g() {}"),
        ];
        let found = broken(&files);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("inbound never uses outbound"));
        assert!(found[1].contains("outbound never uses inbound"));
    }

    #[test]
    fn what_both_use_is_allowed() {
        let files = [
            ("proxy/inbound.rs", "use super::deliver::d;"),
            ("proxy/outbound.rs", "use super::deliver::d;"),
            (
                "proxy/deliver.rs",
                "use super::outbound;\nfn d() { outbound::e() }",
            ),
        ];
        assert!(broken(&files).is_empty());
    }

    #[test]
    fn explain_never_reaches_the_proxy_also_not_through_another() {
        let files = [
            ("explain/mod.rs", "use crate::plan::Target;"),
            ("plan/mod.rs", "use crate::proxy::Shared;\nstruct Target;"),
            ("proxy/mod.rs", "struct Shared;"),
        ];
        let found = broken(&files);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("never: explain -> plan -> proxy: "));
    }

    #[test]
    fn discovery_never_reaches_the_proxy() {
        let proxy = ("proxy/worker.rs", "struct W;");
        let files = [
            ("discovery/build.rs", "use crate::proxy::worker::W;"),
            proxy,
        ];
        assert_eq!(broken(&files).len(), 1);
        let files = [("discovery/build.rs", "use crate::policy::W;"), proxy];
        assert!(broken(&files).is_empty());
    }

    #[test]
    fn enrolment_never_reaches_the_proxy() {
        let proxy = ("proxy/mod.rs", "pub struct Workers;");
        for place in ["enrol/mod.rs", "enrol/ports.rs"] {
            let files = [(place, "fn f(w: &crate::proxy::Workers) {}"), proxy];
            assert_eq!(broken(&files).len(), 1, "{place}");
        }
    }

    #[test]
    fn a_listed_use_that_is_gone_must_leave_the_list() {
        let rule = Never {
            why: "never",
            from: EXPLAIN,
            to: PROXY,
            reaches: true,
            known: &[("explain", "proxy")],
        };
        let proxy = ("proxy/mod.rs", "pub struct Workers;");
        let uses = graph_of(&[("explain/mod.rs", "use crate::proxy::Workers;"), proxy]);
        assert_eq!(rule.check(&uses), []);
        let clean = graph_of(&[("explain/mod.rs", ""), proxy]);
        assert!(rule.check(&clean)[0].message.contains("any more"));
    }
}
