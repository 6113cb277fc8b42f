//! The head of a request that outlives the bytes it came in.

use std::ops::Range;

use super::request::{HeaderLine, Host, HttpVersion, NormalPath, Path, PathProblem, RequestHead};

/// An owned copy, in two pieces of memory and a list: as large as the head was, which the
/// reader of heads bounds.
#[derive(Clone, Debug)]
pub(crate) struct KeptHead {
    version: HttpVersion,
    /// Method, normal path, host, names of headers.
    text: String,
    /// All that need not be text.
    bytes: Vec<u8>,
    method: Range<usize>,
    target: Range<usize>,
    path: KeptPath,
    query: Option<Range<usize>>,
    host: Option<(Range<usize>, Option<u16>)>,
    headers: Box<[(Range<usize>, Range<usize>)]>,
}

#[derive(Clone, Debug)]
enum KeptPath {
    Normal {
        normal: Range<usize>,
        decoded: Range<usize>,
        without_parameters: Option<Range<usize>>,
    },
    Ambiguous(PathProblem),
    None,
}

impl KeptHead {
    #[must_use]
    pub(crate) fn of(head: &RequestHead<'_>) -> Self {
        // Each grows once, for each request comes here.
        let of_lines = |len: fn(&HeaderLine<'_>) -> usize| head.headers.iter().map(len).sum();
        let names: usize = of_lines(|line| line.name.len());
        let values: usize = of_lines(|line| line.value.len());
        let around = 3 * head.target.len() + 64;
        let mut text = String::with_capacity(names + around);
        let mut bytes = Vec::with_capacity(values + around);
        let mut word = |part: &str| {
            text.push_str(part);
            text.len() - part.len()..text.len()
        };
        let mut raw = |part: &[u8]| {
            bytes.extend_from_slice(part);
            bytes.len() - part.len()..bytes.len()
        };
        Self {
            version: head.version,
            method: word(head.method),
            target: raw(head.target),
            path: match &head.path {
                Path::Normal(path) => KeptPath::Normal {
                    normal: word(&path.normal),
                    decoded: raw(&path.decoded),
                    without_parameters: path.without_parameters.as_deref().map(&mut raw),
                },
                Path::Ambiguous(problem) => KeptPath::Ambiguous(*problem),
                Path::None => KeptPath::None,
            },
            query: head.query.map(&mut raw),
            host: head.host.as_ref().map(|h| (word(&h.name), h.port)),
            headers: head
                .headers
                .iter()
                .map(|line| (word(line.name), raw(line.value)))
                .collect(),
            text,
            bytes,
        }
    }

    /// The head as it was.
    pub(crate) fn with<T>(&self, ask: impl FnOnce(&RequestHead<'_>) -> T) -> T {
        let lines: Vec<HeaderLine<'_>> = self
            .headers
            .iter()
            .map(|(name, value)| HeaderLine {
                name: self.word(name),
                value: self.raw(value),
            })
            .collect();
        ask(&RequestHead {
            version: self.version,
            method: self.word(&self.method),
            target: self.raw(&self.target),
            path: match &self.path {
                KeptPath::Normal {
                    normal,
                    decoded,
                    without_parameters,
                } => Path::Normal(NormalPath {
                    normal: self.word(normal).into(),
                    decoded: self.raw(decoded).into(),
                    without_parameters: without_parameters.as_ref().map(|r| self.raw(r).into()),
                }),
                KeptPath::Ambiguous(problem) => Path::Ambiguous(*problem),
                KeptPath::None => Path::None,
            },
            query: self.query.as_ref().map(|range| self.raw(range)),
            host: self.host.as_ref().map(|(name, port)| Host {
                name: self.word(name).into(),
                port: *port,
            }),
            headers: &lines,
        })
    }

    fn word(&self, range: &Range<usize>) -> &str {
        &self.text[range.clone()]
    }

    fn raw(&self, range: &Range<usize>) -> &[u8] {
        &self.bytes[range.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_head_is_the_head() {
        let headers = [("Host", &b"a"[..]), ("X-Raw", b"\xff"), ("x-none", b"")];
        let headers = headers.map(|(name, value)| HeaderLine { name, value });
        let normal = Path::Normal(NormalPath {
            normal: "/%C3%A9;x".into(),
            decoded: "/é;x".as_bytes().into(),
            without_parameters: Some("/é".as_bytes().into()),
        });
        let plain = Path::Normal(NormalPath {
            normal: "/".into(),
            decoded: b"/"[..].into(),
            without_parameters: None,
        });
        let ambiguous = Path::Ambiguous(PathProblem::Control);
        for path in [normal, plain, ambiguous, Path::None] {
            for host in [None, Some(("a.example", None)), Some(("b", Some(81)))] {
                let head = RequestHead {
                    version: HttpVersion::Http10,
                    method: "POST",
                    target: b"/\xc3\xa9;x?q=1",
                    path: path.clone(),
                    query: host.is_some().then_some(&b"q=1"[..]),
                    host: host.map(|(name, port)| Host {
                        name: name.into(),
                        port,
                    }),
                    headers: if host.is_some() { &headers } else { &[] },
                };
                let kept = KeptHead::of(&head);
                kept.with(|again| assert_eq!(format!("{again:?}"), format!("{head:?}")));
            }
        }
    }
}
