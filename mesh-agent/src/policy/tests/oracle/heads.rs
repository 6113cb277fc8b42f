//! Requests, and what the documentation says of rules about them.

use rand::RngExt as _;

use super::Dice;
use super::naive::{Asked, text};
use crate::model::policy::{Condition, HostPattern, Match, Operation, PathPattern, Pattern};
use crate::model::{HeaderLine, Host, HttpVersion, NormalPath, Path, PathProblem, RequestHead};

const METHODS: [&str; 4] = ["GET", "POST", "PUT", "get"];
const HOSTS: [&str; 3] = ["a.example", "b.example", "example"];
const HOST_PATTERNS: [&str; 7] = [
    "a.example",
    "A.example:80",
    "*.example",
    "example*",
    "a.example:*",
    "b.example:8080",
    "*",
];
/// Decoded; one with parameters has them cut behind.
const PATHS: [&str; 8] = [
    "/", "/a", "/a/", "/a/b", "/a/b/c", "/a;x/b", "/b/a", "/a/x y",
];
const PATH_PATTERNS: [&str; 12] = [
    "/", "/a", "/a*", "/a/*", "*/b", "*b", "*", "/a/{*}", "/{*}/b", "/a/{**}", "/{**}/c",
    "/a/x%20y",
];
const NAMES: [&str; 3] = ["x-role", "X-Role", "x_role"];
const VALUES: [&str; 3] = ["admin", "user", ""];

/// What of the head is assumed where there is none.
#[derive(Clone, Copy)]
pub(super) enum Head<'h> {
    Known(&'h RequestHead<'h>),
    /// What denies most, and what denies least.
    Worst,
    Best,
}

impl Dice {
    pub(super) fn operation(&mut self) -> Operation {
        let path = |text: &str| PathPattern::parse(text).expect("a path");
        let host = |text: &str| HostPattern::parse(text).expect("a host");
        Operation {
            ports: self.matcher(|d| d.pick(&super::PORTS)),
            methods: self.rarely(|d| d.pattern(&METHODS[..3])),
            paths: self.rarely(|d| path(d.pick(&PATH_PATTERNS))),
            hosts: self.rarely(|d| host(d.pick(&HOST_PATTERNS))),
        }
    }

    pub(super) fn header(&mut self) -> Condition {
        Condition::Header {
            name: "x-role".to_owned(),
            values: self.matcher(|d| d.pattern(&VALUES[..2])),
        }
    }

    fn rarely<T>(&mut self, make: impl FnMut(&mut Self) -> T) -> Match<T> {
        match self.one(3) {
            true => self.matcher(make),
            false => Match::default(),
        }
    }

    pub(super) fn lines(&mut self) -> Vec<HeaderLine<'static>> {
        self.some(3, |d| HeaderLine {
            name: d.pick(&NAMES),
            value: d.pick(&VALUES).as_bytes(),
        })
    }

    pub(super) fn head<'h>(&mut self, headers: &'h [HeaderLine<'h>]) -> RequestHead<'h> {
        let path = self.pick(&PATHS);
        let bare = || path.replace(";x", "").into_bytes().into_boxed_slice();
        let host = Host {
            name: self.pick(&HOSTS).into(),
            port: self.pick(&[None, Some(80), Some(8080)]),
        };
        RequestHead {
            version: HttpVersion::Http11,
            method: self.pick(&METHODS),
            target: path.as_bytes(),
            path: match self.0.random_range(0..12) {
                0 => Path::Ambiguous(PathProblem::EncodedSeparator),
                1 => Path::None,
                _ => Path::Normal(NormalPath {
                    normal: path.replace(' ', "%20").into(),
                    decoded: path.as_bytes().into(),
                    without_parameters: path.contains(';').then(bare),
                }),
            },
            query: None,
            host: (!self.one(12)).then_some(host),
            headers,
        }
    }
}

/// Of what the server may take it for, all have to fit an ALLOW and one a DENY;
/// nothing at all: nobody can say.
fn holds<T>(
    list: &Match<T>,
    asked: &Asked<'_>,
    forms: impl Fn(&RequestHead<'_>, &T) -> Vec<bool>,
) -> bool {
    let head = match asked.head {
        Head::Known(head) => head,
        Head::Worst => return asked.deny || (list.values.is_empty() && list.not_values.is_empty()),
        Head::Best => return !asked.deny || (list.values.is_empty() && list.not_values.is_empty()),
    };
    // By pattern: yes, no, or it depends.
    let said = |values: &[T]| -> Option<bool> {
        let each: Vec<Vec<bool>> = values.iter().map(|v| forms(head, v)).collect();
        let surely = each.iter().any(|f| !f.is_empty() && f.iter().all(|b| *b));
        let never = each.iter().all(|f| !f.is_empty() && f.iter().all(|b| !*b));
        match (surely, never) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        }
    };
    let positive = list.values.is_empty() || said(&list.values).unwrap_or(asked.deny);
    let negative =
        list.not_values.is_empty() || said(&list.not_values).map_or(asked.deny, |found| !found);
    positive && negative
}

pub(super) fn operation(operation: &Operation, asked: &Asked<'_>) -> bool {
    holds(&operation.methods, asked, |head, pattern| {
        match head.method {
            "get" => vec![],
            method => vec![text(pattern, &method)],
        }
    }) && holds(&operation.paths, asked, |head, pattern| {
        let Path::Normal(path) = &head.path else {
            return vec![];
        };
        let pattern = pattern.written().replace("%20", " ");
        let forms = [Some(&*path.decoded), path.without_parameters.as_deref()];
        let forms = forms.into_iter().flatten();
        forms
            .map(|form| glob(&pattern, std::str::from_utf8(form).expect("text")))
            .collect()
    }) && holds(&operation.hosts, asked, |head, pattern| {
        let Some(host) = &head.host else {
            return vec![];
        };
        let pattern = pattern.written().to_lowercase();
        let (name, port) = pattern.split_once(':').unwrap_or((&pattern, ""));
        let alone = glob(&pattern, &host.name);
        let may_be = match (port, host.port) {
            ("", _) => alone,
            (_, None) => glob(name, &host.name),
            (_, Some(_)) => false,
        };
        let said = match host.port {
            None => alone,
            Some(80) if alone => true,
            Some(port) => glob(&pattern, &format!("{}:{port}", host.name)),
        };
        vec![said, said || may_be]
    })
}

pub(super) fn header(values: &Match<Pattern>, asked: &Asked<'_>) -> bool {
    // Each line by itself, and with them those that a server may take for the same.
    let lines = |list: &[Pattern]| -> Option<bool> {
        let Head::Known(head) = asked.head else {
            return None;
        };
        let matches = |line: &HeaderLine<'_>| {
            let value = std::str::from_utf8(line.value).expect("text");
            list.iter().any(|pattern| text(pattern, &value))
        };
        let exact = |line: &&HeaderLine<'_>| !line.name.contains('_');
        let surely = head.headers.iter().filter(exact).count() == head.headers.len();
        let matching = head.headers.iter().filter(|l| matches(l)).count();
        let values = |lines: Vec<&HeaderLine<'_>>| -> Vec<String> {
            let text = |line: &&HeaderLine<'_>| String::from_utf8_lossy(line.value).into_owned();
            lines.iter().map(text).collect()
        };
        let joined = |several: Vec<&HeaderLine<'_>>| {
            let ways = [",", ", "].map(|way| values(several.clone()).join(way));
            let fits = |way: &String| list.iter().any(|p| text(p, &way.as_str()));
            several.len() > 1 && ways.iter().any(fits)
        };
        let is_joined = joined(head.headers.iter().filter(exact).collect())
            || joined(head.headers.iter().collect());
        let empty = head.headers.iter().any(|line| line.value.is_empty());
        match matching {
            0 if empty && list.contains(&Pattern::Present) => None,
            0 if is_joined => None,
            0 => Some(false),
            all if all == head.headers.len() && surely => Some(true),
            _ => None,
        }
    };
    if let Head::Best = asked.head {
        return !asked.deny || (values.values.is_empty() && values.not_values.is_empty());
    }
    let positive = values.values.is_empty() || lines(&values.values).unwrap_or(asked.deny);
    let negative =
        values.not_values.is_empty() || lines(&values.not_values).map_or(asked.deny, |f| !f);
    positive && negative
}

/// `*` and `{**}` for anything, `{*}` for what has no slash.
fn glob(pattern: &str, text: &str) -> bool {
    let ends = |from: usize, rest: &str| {
        (from..=text.len()).any(|at| text.is_char_boundary(at) && glob(rest, &text[at..]))
    };
    if let Some(rest) = pattern.strip_prefix("{**}") {
        return ends(0, rest);
    }
    if let Some(rest) = pattern.strip_prefix("{*}") {
        let most = text.find('/').unwrap_or(text.len());
        return (1..=most).any(|at| glob(rest, &text[at..]));
    }
    if let Some(rest) = pattern.strip_prefix('*') {
        return ends(0, rest);
    }
    match (pattern.chars().next(), text.chars().next()) {
        (None, None) => true,
        (Some(a), Some(b)) => a == b && glob(&pattern[a.len_utf8()..], &text[b.len_utf8()..]),
        _ => false,
    }
}
