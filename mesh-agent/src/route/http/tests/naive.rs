//! The engine against a model that is written straight from the API's text:
//! all matches of all rules are looked at, and compared two by two.

use std::cmp::Ordering;
use std::time::SystemTime;

use proptest::prelude::*;

use super::world::*;
use crate::model::http_route::{HttpMatch, PathMatch};
use crate::model::route::{Route, Rules};

const PATHS: [&str; 7] = ["/", "/a", "/a/", "/a/b", "/ab", "/a/b/c", "/c"];
const NAMES: [&str; 3] = ["echo", "echo-v1", "echo-v2"];

fn a_match() -> impl Strategy<Value = HttpMatch> {
    let kind = (0..3_usize, 0..PATHS.len());
    let conditions = (any::<bool>(), 0..3_usize, 0..3_usize);
    (kind, conditions).prop_map(|((kind, path), (has_method, of_headers, of_query))| {
        let path = PATHS[path];
        let mut one = match kind {
            0 => prefix(path),
            1 => exact(path),
            _ => regex(&format!("{path}[a-c]*")),
        };
        if has_method {
            one = method(one, "POST");
        }
        one = headers(one, &[("h1", "1"), ("h2", "1")][..of_headers]);
        query(one, &[("q1", "1"), ("q2", "1")][..of_query])
    })
}

fn a_route() -> impl Strategy<Value = Vec<(usize, Vec<HttpMatch>)>> {
    let rule = (0..NAMES.len(), prop::collection::vec(a_match(), 1..4));
    prop::collection::vec(rule, 1..4)
}

fn a_request() -> impl Strategy<Value = Asked> {
    (0..PATHS.len(), any::<bool>(), 0..4_u8, 0..4_u8).prop_map(|(path, posts, lines, pairs)| {
        let query: Vec<&str> = [("q1=1", 1), ("q2=1", 2)]
            .iter()
            .filter(|(_, bit)| pairs & bit > 0)
            .map(|(pair, _)| *pair)
            .collect();
        let mut request = match query.is_empty() {
            true => get(PATHS[path]),
            false => get(&format!("{}?{}", PATHS[path], query.join("&"))),
        };
        for (name, bit) in [("h1", 1), ("h2", 2)] {
            if lines & bit > 0 {
                request = request.header(name, "1");
            }
        }
        if posts {
            request.method("POST")
        } else {
            request
        }
    })
}

/// "Path prefix match by element, a trailing / ignored": and so on.
fn holds(one: &HttpMatch, request: &Asked) -> bool {
    let (path, query) = request
        .target
        .split_once('?')
        .unwrap_or((&request.target, ""));
    let on_path = match &one.path {
        PathMatch::Exact(exact) => path == &**exact,
        PathMatch::Prefix(prefix) => {
            let wanted: Vec<&str> = prefix.split('/').filter(|e| !e.is_empty()).collect();
            let elements: Vec<&str> = path.split('/').filter(|e| !e.is_empty()).collect();
            elements.starts_with(&wanted)
        }
        PathMatch::Regex(text) => {
            let start = text.trim_end_matches("[a-c]*");
            path.strip_prefix(start)
                .is_some_and(|rest| rest.chars().all(|c| "abc".contains(c)))
        }
        PathMatch::Grpc { .. } => false,
    };
    let has = |name: &str| request.headers.iter().any(|(other, _)| other == name);
    on_path
        && one
            .method
            .as_deref()
            .is_none_or(|method| method == request.method)
        && one.headers.iter().all(|test| has(&test.name))
        && one
            .query
            .iter()
            .all(|test| query.contains(&format!("{}=1", test.name)))
}

/// A match with where it stands.
struct Candidate<'c> {
    one: &'c HttpMatch,
    created: Option<SystemTime>,
    name: String,
    rule: usize,
    to: &'c str,
}

/// Less: goes first.
fn before(a: &Candidate<'_>, b: &Candidate<'_>) -> Ordering {
    let kind = |c: &Candidate<'_>| match &c.one.path {
        PathMatch::Exact(_) => 0,
        PathMatch::Regex(_) => 1,
        _ => 2,
    };
    let characters = |c: &Candidate<'_>| match &c.one.path {
        PathMatch::Prefix(path) => path.trim_end_matches('/').len(),
        PathMatch::Regex(path) => path.len(),
        _ => 0,
    };
    let age = |c: &Candidate<'_>| {
        c.created.map_or(u64::MAX, |at| {
            at.duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs())
        })
    };
    kind(a)
        .cmp(&kind(b))
        .then(characters(b).cmp(&characters(a)))
        .then(b.one.method.is_some().cmp(&a.one.method.is_some()))
        .then(b.one.headers.len().cmp(&a.one.headers.len()))
        .then(b.one.query.len().cmp(&a.one.query.len()))
        .then(age(a).cmp(&age(b)))
        .then(a.name.cmp(&b.name))
        .then(a.rule.cmp(&b.rule))
}

fn expected(routes: &[Route], request: &Asked) -> String {
    let mut candidates = Vec::new();
    for route in routes {
        let Rules::Http(rules) = &route.rules else {
            continue;
        };
        for (number, rule) in rules.iter().enumerate() {
            let to = NAMES
                .iter()
                .find(|name| rule.backends[0] == backend(name, 1));
            for one in rule.matches.iter().filter(|one| holds(one, request)) {
                candidates.push(Candidate {
                    one,
                    created: route.created,
                    name: route.key.name.to_string(),
                    rule: number,
                    to: to.expect("one of them"),
                });
            }
        }
    }
    let first = candidates.iter().min_by(|a, b| before(a, b));
    first.map_or_else(|| "404".to_owned(), |first| first.to.to_owned())
}

proptest! {
    #[test]
    fn decisions_are_those_of_the_model(
        said in prop::collection::vec((a_route(), prop::option::of(0..3_u64)), 1..4),
        requests in prop::collection::vec(a_request(), 1..20),
    ) {
        let routes = said.iter().enumerate().map(|(number, (rules, age))| {
            let rules = rules.iter().map(|(name, matches)| to(NAMES[*name], matches.clone()));
            let one = route(["c", "a", "b"][number], rules);
            match age {
                Some(age) => aged(one, *age),
                None => one,
            }
        });
        let routes: Vec<Route> = routes.collect();
        let world = World::new(routes.clone());
        for request in &requests {
            prop_assert_eq!(world.ask(request).brief(), expected(&routes, request), "{:?}", request);
        }
    }
}
