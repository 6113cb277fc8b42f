//! A row of the table: what is asked, and what is to come of it.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::CALLS;

pub(crate) struct Case {
    /// The official suite's; with blanks in it, one of our own.
    pub(crate) name: &'static str,
    pub(crate) yaml: String,
    pub(crate) rows: Vec<Row>,
}

pub(crate) struct Row {
    pub(crate) asks: Asks,
    /// The server's name or the status, and what is shown of them.
    pub(crate) wanted: String,
}

/// What of an exchange is compared besides who answered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    Nothing,
    /// The lines that the server saw whose names begin with `x-`, sorted.
    Lines,
    Path,
    /// Whether the answer has the line that the case's filter adds.
    Mark,
}

/// A request; of the client, for `echo` at port 80, unless it is said.
#[derive(Clone)]
pub(crate) struct Asks {
    pub(crate) visits: bool,
    pub(crate) service: &'static str,
    pub(crate) port: u16,
    pub(crate) host: &'static str,
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) headers: Vec<String>,
    shown: Shown,
}

pub(crate) fn get(path: &str) -> Asks {
    Asks {
        visits: false,
        service: "echo",
        port: 80,
        host: "echo",
        method: "GET",
        path: path.to_owned(),
        headers: vec![],
        shown: Shown::Nothing,
    }
}

/// A call of gRPC of this case.
pub(crate) fn call(case: &str) -> Asks {
    let calls = get("/pkg.Echo/Echo").at("echo", CALLS).method("POST");
    let typed = calls.with("content-type: application/grpc");
    typed.with(&format!("x-test-case: {case}"))
}

impl Asks {
    pub(crate) fn at(self, service: &'static str, port: u16) -> Self {
        Self {
            service,
            port,
            ..self
        }
    }

    pub(crate) fn method(self, method: &'static str) -> Self {
        Self { method, ..self }
    }

    pub(crate) fn host(self, host: &'static str) -> Self {
        Self { host, ..self }
    }

    pub(crate) fn with(mut self, line: &str) -> Self {
        self.headers.push(line.to_owned());
        self
    }

    /// By the client of the other namespace.
    pub(crate) fn visits(self) -> Self {
        Self {
            visits: true,
            ..self
        }
    }

    pub(crate) fn lines_seen(self, wanted: &str) -> Row {
        self.shows(Shown::Lines, wanted)
    }

    pub(crate) fn path_seen(self, wanted: &str) -> Row {
        self.shows(Shown::Path, wanted)
    }

    /// `wanted`: a name, and `marked` behind it where the filter was met.
    pub(crate) fn mark_seen(self, wanted: &str) -> Row {
        self.shows(Shown::Mark, wanted)
    }

    /// Who answers: a name, `any` of the servers, a status; behind that of a redirect, where to.
    pub(crate) fn gets(self, wanted: &str) -> Row {
        self.shows(Shown::Nothing, wanted)
    }

    fn shows(self, shown: Shown, wanted: &str) -> Row {
        Row {
            asks: Self { shown, ..self },
            wanted: wanted.to_owned(),
        }
    }

    /// As curl and `explain` are told.
    pub(crate) fn lines(&self) -> Vec<String> {
        let host = format!("host: {}", self.host);
        [host].into_iter().chain(self.headers.clone()).collect()
    }
}

impl fmt::Display for Asks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, path, .. } = self;
        let from = ["client", "visitor"][usize::from(self.visits)];
        write!(f, "{from} to {}:{}, ", self.service, self.port)?;
        write!(f, "{method} {path} {:?}", self.lines())
    }
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: BTreeMap<String, String>,
    told: Value,
}

impl Answer {
    /// As curl writes it.
    pub(crate) fn read(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        let mut lines = head.lines();
        let first = lines.next().unwrap_or_default();
        let status = first.split(' ').nth(1).unwrap_or_default();
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_lowercase(), value.trim().to_owned()))
        };
        Self {
            status: status.parse().unwrap_or_default(),
            headers: lines.filter_map(header).collect(),
            told: serde_json::from_str(body).unwrap_or_default(),
        }
    }

    /// The server that answered.
    pub(crate) fn name(&self) -> Option<&str> {
        self.told["name"].as_str()
    }

    pub(crate) fn location(&self) -> Option<&str> {
        self.headers.get("location").map(String::as_str)
    }

    /// Why the agent refused it, in a word.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.headers.get("x-mesh-reason").map(String::as_str)
    }

    /// The target that the server saw.
    pub(crate) fn path(&self) -> Option<&str> {
        let first = self.told["first"].as_str();
        let of_first = first.and_then(|first| first.split(' ').nth(1));
        of_first.or_else(|| self.told["path"].as_str())
    }

    /// Header lines that the server saw: a list, or an object of lists.
    fn lines(&self) -> Vec<(String, String)> {
        let headers = &self.told["headers"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_lowercase();
        let mut lines: Vec<(String, String)> = match headers {
            Value::Array(lines) => lines.iter().map(|l| (text(&l[0]), text(&l[1]))).collect(),
            other => {
                let fields = other.as_object().into_iter().flatten();
                let each = fields.flat_map(|(name, values)| {
                    let values = values.as_array().into_iter().flatten();
                    values.map(|value| (name.to_lowercase(), text(value)))
                });
                each.collect()
            }
        };
        lines.sort();
        lines
    }

    /// In the words of a row.
    pub(crate) fn shown(&self, asks: &Asks) -> String {
        let who = match (self.name(), self.location()) {
            (Some(name), _) => name.to_owned(),
            (None, Some(to)) => format!("{} {to}", self.status),
            (None, None) => self.status.to_string(),
        };
        let lines = || {
            let lines = self.lines().into_iter();
            let ours = lines.filter(|(name, _)| name.starts_with("x-") && name != "x-test-case");
            let text: Vec<String> = ours.map(|(n, v)| format!("{n}: {v}")).collect();
            text.join(", ")
        };
        let more = match asks.shown {
            Shown::Nothing => return who,
            Shown::Lines => lines(),
            Shown::Path => self.path().unwrap_or_default().to_owned(),
            Shown::Mark => match self.headers.get("x-header-set") {
                Some(value) if value == "set" => "marked".to_owned(),
                _ => return who,
            },
        };
        format!("{who} {more}")
    }
}

/// `any` of the servers is either of them.
pub(crate) fn agree(wanted: &str, got: &str) -> bool {
    let either = |rest: &str| ["echo-v1", "echo-v2"].map(|name| format!("{name}{rest}"));
    match wanted.strip_prefix("any") {
        Some(rest) => either(rest).iter().any(|one| one == got),
        None => wanted == got,
    }
}
