//! What the access log says of a request's head.

use std::borrow::Cow;

use super::RequestHead;

/// Longest path, host or method in a line.
const LONGEST: usize = 2_048;

/// Method, path and host, in one piece of memory.
#[derive(Debug)]
pub(crate) struct RequestText {
    all: Box<str>,
    method: usize,
    path: usize,
    has_host: bool,
}

impl RequestText {
    #[must_use]
    pub(crate) fn of(head: &RequestHead<'_>) -> Self {
        // Queries hold what is nobody's business: tokens, names, mail addresses.
        let mut path = head.target.split(|byte| matches!(byte, b'?' | b'#'));
        let (path, host) = (path.next().unwrap_or_default(), host(head));
        let parts = [
            head.method.as_bytes(),
            path,
            host.as_deref().unwrap_or_default(),
        ];
        let parts = parts.map(|part| &part[..part.len().min(LONGEST)]);
        let mut all = String::with_capacity(parts.iter().map(|part| part.len()).sum());
        let [method, path, _] = parts.map(|part| {
            part.utf8_chunks().for_each(|chunk| {
                all.push_str(chunk.valid());
                if !chunk.invalid().is_empty() {
                    all.push(char::REPLACEMENT_CHARACTER);
                }
            });
            all.len()
        });
        Self {
            all: all.into(),
            method,
            path,
            has_host: host.is_some(),
        }
    }

    #[must_use]
    pub(crate) fn method(&self) -> &str {
        &self.all[..self.method]
    }

    /// Without the query.
    #[must_use]
    pub(crate) fn path(&self) -> &str {
        &self.all[self.method..self.path]
    }

    #[must_use]
    pub(crate) fn host(&self) -> Option<&str> {
        self.has_host.then(|| &self.all[self.path..])
    }
}

/// As it came; of HTTP/2 `:authority`.
fn host<'h>(head: &RequestHead<'h>) -> Option<Cow<'h, [u8]>> {
    if let Some(line) = head.values("host").next() {
        return Some(line.into());
    }
    let host = head.host.as_ref()?;
    let text = match host.port {
        Some(port) => format!("{}:{port}", host.name),
        None => host.name.to_string(),
    };
    Some(text.into_bytes().into())
}
