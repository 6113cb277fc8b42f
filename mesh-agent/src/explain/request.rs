//! A request in words, read as the data path reads one.

use super::Unanswerable;
use crate::http::h1::{Lines, Parsed, Scan, request_head};
use crate::model::KeptHead;

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
    pub(super) fn head(&self, host: &str) -> Result<KeptHead, Unanswerable> {
        let wrong = |why: &str| Unanswerable::Request(why.to_owned());
        let lines: Vec<&str> = self.headers.lines().filter(|l| !l.is_empty()).collect();
        let words = [self.method, self.url];
        if words.iter().any(|word| word.contains(char::is_whitespace)) {
            return Err(wrong("METHOD and URL are one word each"));
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
        let mut lines = Lines::new();
        match request_head(text.as_bytes(), &mut Scan::default(), &mut lines) {
            Ok(Parsed::Head { head, .. }) => Ok(KeptHead::of(&head.head)),
            Ok(Parsed::NeedMore) => Err(wrong("it has no end")),
            Err(bad) => {
                let means = bad.reason(crate::http::h1::Side::Request).refusal().means;
                Err(wrong(&format!("{}: {means}", bad.detail())))
            }
        }
    }
}

/// The host that a URL names, and what a client sends of it.
fn split(url: &str) -> (Option<&str>, &str) {
    let Some((_, rest)) = url.split_once("://").filter(|_| !url.starts_with('/')) else {
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

    fn head(method: &str, url: &str, headers: &str) -> Result<KeptHead, Unanswerable> {
        let words = RequestWords {
            method,
            url,
            headers,
        };
        words.head("web.shop")
    }

    #[test]
    fn the_words_of_a_request_are_read_as_its_bytes() {
        for (url, headers, host, path) in [
            ("/a/../b?q", "", "web.shop", "/b"),
            ("http://X.example:81/a", "", "x.example", "/a"),
            ("http://x.example", "", "x.example", "/"),
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
