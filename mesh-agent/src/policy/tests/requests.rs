//! Rules about requests: what a connection may before one is seen, and what then.

use super::super::{Authorizer, Needs, Request, Verdict};
use super::verdicts::{id, policy, request, snapshot, workload};
use crate::model::policy::{
    Action, AuthorizationPolicy, Condition, HostPattern, Match, Operation, PathPattern, Pattern,
    Scope,
};
use crate::model::{HeaderLine, Host, HttpVersion, Path, PathProblem, RequestHead, Workload};

pub(super) fn head<'h>(
    method: &'h str,
    path: &'h str,
    headers: &'h [HeaderLine<'h>],
) -> RequestHead<'h> {
    RequestHead {
        host: Some(Host {
            name: "shop.example".into(),
            port: None,
        }),
        ..RequestHead::for_test(method, path, headers)
    }
}

fn values<T>(values: impl IntoIterator<Item = T>) -> Match<T> {
    Match {
        values: values.into_iter().collect(),
        not_values: vec![],
    }
}

fn paths(patterns: &[&str]) -> Operation {
    let parse = |text: &&str| PathPattern::parse(text).expect(text);
    Operation {
        paths: values(patterns.iter().map(parse)),
        ..Operation::default()
    }
}

fn methods(names: &[&str]) -> Operation {
    let parse = |text: &&str| Pattern::parse(text).expect(text);
    Operation {
        methods: values(names.iter().map(parse)),
        ..Operation::default()
    }
}

/// From `namespace`, with these operations in the first rule.
fn about(name: &str, action: Action, namespace: &str, to: Vec<Operation>) -> AuthorizationPolicy {
    let mut policy = policy(name, action, Scope::Namespace, &[namespace]);
    policy.rules[0].to = to;
    policy
}

struct Mesh {
    authorizer: Authorizer,
    web: Workload,
}

impl Mesh {
    fn with(policies: Vec<AuthorizationPolicy>) -> Self {
        let web = workload("shop", "web-0", "web");
        let authorizer = Authorizer::compile(&snapshot(std::slice::from_ref(&web), policies));
        Self { authorizer, web }
    }

    fn ask(&self, namespace: &str, http: Option<&RequestHead<'_>>) -> &'static str {
        let source = id(namespace);
        let asked = Request {
            http,
            ..request(Some(&source), &self.web, 80)
        };
        match self.authorizer.check(&asked) {
            Verdict::Permit(_) => "permit",
            Verdict::Deny(_) => "deny",
            Verdict::NeedsRequest => "later",
        }
    }

    fn needs(&self, namespace: &str) -> Needs {
        let source = id(namespace);
        self.authorizer
            .needs(&request(Some(&source), &self.web, 80))
    }
}

#[test]
fn a_connection_is_decided_by_itself_where_no_request_can_change_it() {
    use Action::{Allow, Deny};
    let deny = || about("d", Deny, "bad", vec![paths(&["/admin*"])]);
    let allow = || about("a", Allow, "dev", vec![paths(&["/public*"])]);
    let whole = || policy("w", Allow, Scope::Namespace, &["ops"]);
    let (public, admin) = (head("GET", "/public", &[]), head("GET", "/admin", &[]));
    let cases = [
        // policies, who, connection, /public, /admin
        (vec![deny()], "dev", ["permit", "permit", "permit"]),
        (vec![deny()], "bad", ["later", "permit", "deny"]),
        (vec![allow()], "dev", ["later", "permit", "deny"]),
        (vec![allow()], "bad", ["deny", "deny", "deny"]),
        (
            vec![allow(), whole()],
            "ops",
            ["permit", "permit", "permit"],
        ),
        (vec![allow(), whole()], "dev", ["later", "permit", "deny"]),
        (vec![deny(), whole()], "bad", ["deny", "deny", "deny"]),
        (vec![deny(), allow()], "bad", ["deny", "deny", "deny"]),
    ];
    for (policies, who, expected) in cases {
        let mesh = Mesh::with(policies);
        let got = [None, Some(&public), Some(&admin)].map(|http| mesh.ask(who, http));
        assert_eq!(got, expected, "{who} {:?}", mesh.authorizer.status());
        let path = Needs {
            path: got[0] == "later",
            ..Needs::default()
        };
        assert_eq!(mesh.needs(who), path, "{who}");
    }
}

/// What servers read differently matches where it denies, and does not where it allows.
#[test]
fn what_has_no_one_meaning_is_read_the_way_that_allows_less() {
    use Action::{Allow, Deny};
    let ambiguous = |mut head: RequestHead<'static>| {
        head.path = Path::Ambiguous(PathProblem::EncodedSeparator);
        head
    };
    let pathless = RequestHead {
        path: Path::None,
        ..head("OPTIONS", "*", &[])
    };
    let plain = head("GET", "/x", &[]);
    let odd = [
        (paths(&["/admin*"]), ambiguous(plain.clone())),
        (paths(&["/admin*"]), pathless),
        (methods(&["DELETE"]), head("delete", "/x", &[])),
    ];
    for (operation, head) in odd {
        for action in [Allow, Deny] {
            let mut not = operation.clone();
            std::mem::swap(&mut not.paths.values, &mut not.paths.not_values);
            std::mem::swap(&mut not.methods.values, &mut not.methods.not_values);
            for operation in [operation.clone(), not] {
                let mesh = Mesh::with(vec![about("p", action, "dev", vec![operation])]);
                assert_eq!(mesh.ask("dev", Some(&head)), "deny", "{action:?} {head:?}");
            }
        }
        let mesh = Mesh::with(vec![policy("w", Allow, Scope::Namespace, &["dev"])]);
        assert_eq!(
            mesh.ask("dev", Some(&head)),
            "permit",
            "no rule looks at it"
        );
    }
}

#[test]
fn each_line_of_a_header_counts() {
    let line = |name, value: &'static str| HeaderLine {
        name,
        value: value.as_bytes(),
    };
    let user = line("X-Role", "user");
    let admin = line("x-role", "admin");
    let alike = line("x_role", "admin");
    let cases: [(&[HeaderLine<'_>], [&str; 4]); 8] = [
        // lines, and what ALLOW of admin, DENY of admin, ALLOW and DENY of all but it say
        (&[admin], ["permit", "deny", "deny", "permit"]),
        (&[user], ["deny", "permit", "permit", "deny"]),
        (&[], ["deny", "permit", "permit", "deny"]),
        (&[user, admin], ["deny"; 4]),
        (&[admin, admin], ["permit", "deny", "deny", "permit"]),
        (&[user, alike], ["deny"; 4]),
        (&[alike], ["deny"; 4]),
        (
            &[line("x-role", "ad"), line("x-role", "min")],
            ["deny", "permit", "permit", "deny"],
        ),
    ];
    for (lines, expected) in cases {
        let matchers = [false, true].map(|negated| {
            let admin = vec![Pattern::Exact("admin".to_owned())];
            let (values, not_values) = match negated {
                false => (admin, vec![]),
                true => (vec![], admin),
            };
            Condition::Header {
                name: "x-role".to_owned(),
                values: Match { values, not_values },
            }
        });
        let mut got = Vec::new();
        for matcher in matchers {
            for action in [Action::Allow, Action::Deny] {
                let mut by_header = policy("p", action, Scope::Namespace, &["dev"]);
                by_header.rules[0].when = vec![matcher.clone()];
                let mesh = Mesh::with(vec![by_header]);
                assert_eq!(mesh.ask("dev", None), "later");
                assert!(mesh.needs("dev").headers);
                got.push(mesh.ask("dev", Some(&head("GET", "/", lines))));
            }
        }
        assert_eq!(got, expected, "{lines:?}");
    }
}

/// Servers make one value of several lines, each in its own way.
#[test]
fn what_is_split_over_lines_is_denied_as_if_it_came_in_one() {
    let line = |name, value: &'static str| HeaderLine {
        name,
        value: value.as_bytes(),
    };
    let roles = [line("x-role", "a"), line("x-role", "b")];
    let alike = [line("X-Role", "a"), line("x_role", "b")];
    let cookies = [line("cookie", "a=1"), line("Cookie", "admin=1")];
    let cases: [(&str, &str, &[HeaderLine<'_>]); 8] = [
        ("x-role", "a,b", &roles),
        ("x-role", "a, b", &roles),
        ("x-role", "a,b", &alike),
        ("cookie", "a=1; admin=1", &cookies),
        ("cookie", "*; admin=1", &cookies),
        ("cookie", "a=1;*", &cookies),
        ("cookie", "a=1;admin=1", &cookies),
        ("cookie", "a=1, admin=1", &cookies),
    ];
    for (name, pattern, lines) in cases {
        for (action, expected) in [(Action::Deny, "deny"), (Action::Allow, "deny")] {
            let mesh = Mesh::with(vec![by_header(action, name, pattern)]);
            let said = mesh.ask("dev", Some(&head("GET", "/", lines)));
            assert_eq!(said, expected, "{action:?} {name}: {pattern}");
        }
    }
    // Of HTTP/2 there is no doubt: each browser splits its cookies.
    for (pattern, expected) in [
        ("a=1; admin=1", "permit"),
        ("a=1*", "permit"),
        ("admin=1", "deny"),
    ] {
        let mesh = Mesh::with(vec![by_header(Action::Allow, "cookie", pattern)]);
        let split = RequestHead {
            version: HttpVersion::Http2,
            ..head("GET", "/", &cookies)
        };
        assert_eq!(mesh.ask("dev", Some(&split)), expected, "{pattern}");
    }
    let mesh = Mesh::with(vec![by_header(Action::Deny, "cookie", "admin=1")]);
    assert_eq!(mesh.ask("dev", Some(&head("GET", "/", &cookies))), "deny");
}

fn by_header(action: Action, name: &str, pattern: &str) -> AuthorizationPolicy {
    let mut policy = policy("p", action, Scope::Namespace, &["dev"]);
    policy.rules[0].when = vec![Condition::Header {
        name: name.to_owned(),
        values: values(Pattern::parse(pattern)),
    }];
    policy
}

#[test]
fn a_header_without_a_value_is_neither_there_nor_not() {
    let empty = HeaderLine {
        name: "X-Debug",
        value: b"",
    };
    let any = || vec![Pattern::Present];
    for (values, not_values) in [(any(), vec![]), (vec![], any())] {
        for action in [Action::Allow, Action::Deny] {
            let mut by_header = policy("p", action, Scope::Namespace, &["dev"]);
            let (values, not_values) = (values.clone(), not_values.clone());
            by_header.rules[0].when = vec![Condition::Header {
                name: "x-debug".to_owned(),
                values: Match { values, not_values },
            }];
            let mesh = Mesh::with(vec![by_header]);
            let said = mesh.ask("dev", Some(&head("GET", "/", &[empty])));
            assert_eq!(said, "deny", "{action:?}");
        }
    }
}

#[test]
fn a_host_that_may_be_the_denied_one_is_denied() {
    let operation = Operation {
        hosts: values([HostPattern::parse("shop.example").expect("a host")]),
        ..Operation::default()
    };
    let of = |action| Mesh::with(vec![about("p", action, "dev", vec![operation.clone()])]);
    let (allow, deny) = (of(Action::Allow), of(Action::Deny));
    let host = |name: &'static str, port| Host {
        name: name.into(),
        port,
    };
    let cases = [
        (Some(host("shop.example", None)), ["permit", "deny"]),
        (Some(host("shop.example", Some(80))), ["permit", "deny"]),
        (Some(host("shop.example", Some(8080))), ["deny", "deny"]),
        (Some(host("other.example", None)), ["deny", "permit"]),
        (None, ["deny", "deny"]),
    ];
    for (host, expected) in cases {
        let asked = RequestHead {
            host: host.clone(),
            ..head("GET", "/", &[])
        };
        let got = [&allow, &deny].map(|mesh| mesh.ask("dev", Some(&asked)));
        assert_eq!(got, expected, "{host:?}");
    }
}

#[test]
fn a_hello_says_the_name_and_who_speaks_http_says_none() {
    for (action, expected) in [
        (Action::Allow, ["later", "permit", "deny", "deny"]),
        (Action::Deny, ["later", "deny", "permit", "permit"]),
    ] {
        let mut by_name = policy("p", action, Scope::Namespace, &["dev"]);
        by_name.rules[0].when = vec![Condition::Sni(values([Pattern::Exact(
            "a.example".to_owned(),
        )]))];
        let mesh = Mesh::with(vec![by_name]);
        assert!(mesh.needs("dev").sni);
        let source = id("dev");
        let head = head("GET", "/", &[]);
        let asked = |sni, http| {
            let asked = Request {
                sni,
                http,
                ..request(Some(&source), &mesh.web, 80)
            };
            match mesh.authorizer.check(&asked) {
                Verdict::Permit(_) => "permit",
                Verdict::Deny(_) => "deny",
                Verdict::NeedsRequest => "later",
            }
        };
        let got = [
            asked(None, None),
            asked(Some("a.example"), None),
            asked(Some("b.example"), None),
            asked(None, Some(&head)),
        ];
        assert_eq!(got, expected, "{action:?}");
    }
}

#[test]
fn a_403_says_the_rule_in_the_words_of_istio() {
    use Action::{Allow, Deny};
    let mut broken = policy("p", Deny, Scope::Namespace, &["dev"]);
    broken.broken = Some("for the test".to_owned());
    for (policy, expected) in [
        (
            policy("p", Deny, Scope::Namespace, &["x", "dev"]),
            "ns[shop]-policy[p]-rule[1]",
        ),
        (policy("p", Allow, Scope::Namespace, &["x"]), "none"),
        (broken, "ns[shop]-policy[p]"),
    ] {
        let mesh = Mesh::with(vec![policy]);
        let source = id("dev");
        let asked = request(Some(&source), &mesh.web, 80);
        let Verdict::Deny(deny) = mesh.authorizer.check(&asked) else {
            panic!("not denied: {expected}");
        };
        let expected = format!("rbac_access_denied_matched_policy[{expected}]");
        assert_eq!(deny.details(), expected);
    }
}

#[test]
fn a_dry_run_tells_of_a_request_what_it_could_not_of_the_connection() {
    let mut rehearsed = about("d", Action::Deny, "dev", vec![paths(&["/admin*"])]);
    rehearsed.dry_run = true;
    let mesh = Mesh::with(vec![rehearsed]);
    let source = id("dev");
    let said = |http: Option<&RequestHead<'_>>| {
        let asked = Request {
            http,
            ..request(Some(&source), &mesh.web, 80)
        };
        let Verdict::Permit(permit) = mesh.authorizer.check(&asked) else {
            panic!("a rehearsal denies nothing");
        };
        permit
            .dry_run()
            .iter()
            .map(|d| d.allowed)
            .collect::<Vec<_>>()
    };
    assert_eq!(said(None), Vec::<bool>::new());
    assert_eq!(said(Some(&head("GET", "/x", &[]))), Vec::<bool>::new());
    assert_eq!(said(Some(&head("GET", "/admin", &[]))), [false]);
    assert!(mesh.needs("dev").is_empty());
}
