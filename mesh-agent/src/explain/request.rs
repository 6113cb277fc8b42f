//! A request in words, read as the data path reads one.

use super::question::Unanswerable;
use crate::http::h1::{Lines, Parsed, Request, Scan, Side, request_head};
use crate::http::hygiene;
use crate::model::{Edits, KeptHead, RequestHead};

/// A request that is asked about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestWords<'q> {
    pub(crate) method: &'q str,
    /// `http://HOST/PATH?QUERY`, or from the path on.
    pub(crate) url: &'q str,
    /// Each as it stands in a request, one a line.
    pub(crate) headers: &'q str,
}

impl RequestWords<'_> {
    /// For `host`, where the words name none.
    pub(super) fn written(&self, host: &str) -> Result<Written, Unanswerable> {
        let lines: Vec<&str> = self.headers.lines().filter(|l| !l.is_empty()).collect();
        let words = [self.method, self.url];
        if words.iter().any(|word| word.contains(char::is_whitespace)) {
            return Err(unanswerable("METHOD and URL are one word each"));
        }
        let (named, target) = split(self.url);
        let names_host = |line: &&str| {
            let name = line.split(':').next().unwrap_or_default();
            name.eq_ignore_ascii_case("host")
        };
        let host = match lines.iter().any(names_host) {
            true => String::new(),
            false => format!("Host: {}\r\n", named.unwrap_or(host)),
        };
        let lines = lines.join("\r\n");
        let end = if lines.is_empty() { "" } else { "\r\n" };
        let text = format!(
            "{} {target} HTTP/1.1\r\n{host}{lines}{end}\r\n",
            self.method
        );
        Written::read(text.into_bytes())
    }
}

/// A request as its bytes, and its head as the data path reads it.
pub(super) struct Written {
    bytes: Vec<u8>,
    head: KeptHead,
}

impl Written {
    fn read(bytes: Vec<u8>) -> Result<Self, Unanswerable> {
        let head = read(&bytes, |request| KeptHead::of(&request.head))?;
        Ok(Self { bytes, head })
    }

    pub(super) fn with<T>(&self, ask: impl FnOnce(&RequestHead<'_>) -> T) -> T {
        self.head.with(ask)
    }

    /// What goes on of it, with what a route changes.
    pub(super) fn going_on(&self, edits: &Edits) -> Result<Self, Unanswerable> {
        let rewritten = read(&self.bytes, |request| {
            hygiene::rewritten(request, &self.bytes, Some(edits))
        })?;
        let rewritten = rewritten.map_err(|_| unanswerable("the route cannot change it so"))?;
        Self::read(rewritten.unwrap_or_else(|| self.bytes.clone()))
    }
}

fn read<T>(bytes: &[u8], look: impl FnOnce(&Request<'_>) -> T) -> Result<T, Unanswerable> {
    let mut lines = Lines::new();
    match request_head(bytes, &mut Scan::default(), &mut lines) {
        Ok(Parsed::Head { head, .. }) => Ok(look(&head)),
        Ok(Parsed::NeedMore) => Err(unanswerable("it has no end")),
        Err(bad) => {
            let means = bad.reason(Side::Request).refusal().means;
            Err(unanswerable(&format!("{}: {means}", bad.detail())))
        }
    }
}

fn unanswerable(why: &str) -> Unanswerable {
    Unanswerable::Request(why.to_owned())
}

/// The host that a URL names, and what a client sends of it. What is no URL of HTTP
/// goes as it came: it is the reader's to refuse.
fn split(url: &str) -> (Option<&str>, &str) {
    let is_http = |scheme: &str| {
        ["http", "https"]
            .iter()
            .any(|s| scheme.eq_ignore_ascii_case(s))
    };
    let Some((_, rest)) = url.split_once("://").filter(|(s, _)| is_http(s)) else {
        return (None, url);
    };
    match rest.find(['/', '?', '#']) {
        Some(at) if rest[at..].starts_with('/') => (Some(&rest[..at]), &rest[at..]),
        // As it came: what it is for is the reader's to say.
        Some(at) => (Some(&rest[..at]), url),
        None => (Some(rest), "/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Path;

    fn head(method: &str, url: &str, headers: &str) -> Result<Written, Unanswerable> {
        let words = RequestWords {
            method,
            url,
            headers,
        };
        words.written("web.shop")
    }

    #[test]
    fn the_words_of_a_request_are_read_as_its_bytes() {
        for (url, headers, host, path) in [
            ("/a/../b?q", "", "web.shop", "/b"),
            ("http://X.example:81/a", "", "x.example", "/a"),
            ("http://x.example", "", "x.example", "/"),
            ("HTTPS://x.example/a", "", "x.example", "/a"),
            ("/a?u=ftp://y/", "", "web.shop", "/a"),
            ("/", "host: y.example\nx-role: admin", "y.example", "/"),
        ] {
            let kept = head("GET", url, headers).expect(url);
            kept.with(|head| {
                let Path::Normal(normal) = &head.path else {
                    panic!("{url} has no path");
                };
                let name = head.host.as_ref().map(|h| &*h.name);
                assert_eq!((name, &*normal.normal), (Some(host), path), "{url}");
                assert_eq!(
                    head.values("x-role").count(),
                    headers.matches("role").count()
                );
            });
        }
        for (method, url, headers) in [
            ("GET X", "/", ""),
            ("GET", "/ b", ""),
            ("GET", "b", ""),
            ("GET", "/%00", ""),
            ("GET", "ftp://x/y", ""),
            ("GET", "://x/y", ""),
            ("GET", "x/?u=http://y/", ""),
            ("GET", "/", "no line"),
            ("GET", "/", "host: a\nhost: b"),
        ] {
            assert!(
                head(method, url, headers).is_err(),
                "{method} {url} {headers}"
            );
        }
    }
}
