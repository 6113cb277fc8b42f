//! Answers of the agent itself.

use crate::model::{HeaderLine, Limited, RefuseReason, Refused, RequestHead, Status};

/// Where the word of the reason stands, for clients in the mesh.
pub(crate) const REASON: &str = "x-mesh-reason";

/// The client that an answer is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Client {
    /// It speaks gRPC: HTTP 200, and the status beside it.
    pub(crate) is_grpc: bool,
    /// It asked with HEAD, and takes no body.
    pub(crate) is_head: bool,
    /// It is in the mesh, and is told the reason.
    pub(crate) is_meshed: bool,
}

impl Client {
    pub(crate) fn of(head: &RequestHead<'_>, is_meshed: bool) -> Self {
        Self {
            is_grpc: is_grpc(head.headers),
            is_head: head.method == "HEAD",
            is_meshed,
        }
    }
}

/// What a client is told, on HTTP/1 or HTTP/2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Of a refusal.
    #[cfg(test)]
    pub(crate) fn of(reason: RefuseReason, client: Client) -> Self {
        Self::with(reason, reason.refusal().status, client)
    }

    fn with(reason: RefuseReason, status: Status, client: Client) -> Self {
        let refusal = reason.refusal();
        let mut answer = if client.is_grpc {
            Self::grpc(status.grpc, refusal.label)
        } else {
            Self::text(status.http, refusal.label, client.is_head)
        };
        if client.is_meshed {
            answer.headers.push((REASON, refusal.label.to_owned()));
        }
        answer
    }

    /// Of a refusal with what is known of its cause.
    pub(crate) fn refused(refused: &Refused, client: Client) -> Self {
        let status = refused.status.unwrap_or(refused.reason.refusal().status);
        let mut answer = Self::with(refused.reason, status, client);
        if let Some(limited) = &refused.limited {
            answer.tell_limit(limited, client);
        }
        answer
    }

    /// When to ask again; clients in the mesh are told what they ran into. By names of
    /// others than the mesh's own, for those are kept to each hop.
    fn tell_limit(&mut self, limited: &Limited, client: Client) {
        let after = limited.retry_after;
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        self.headers
            .push(("retry-after", seconds.max(1).to_string()));
        if client.is_grpc {
            let millis = after.as_micros().div_ceil(1_000);
            self.headers
                .push(("grpc-retry-pushback-ms", millis.to_string()));
        }
        if client.is_meshed {
            let (count, per) = limited.quota;
            let policy = format!("\"{}\";q={count};w={}", limited.by, per.as_secs().max(1));
            self.headers.push(("ratelimit-policy", policy));
        }
    }

    /// A short text.
    pub(crate) fn text(status: u16, text: &str, is_head: bool) -> Self {
        let body = format!("{text}\n").into_bytes();
        Self {
            status,
            headers: vec![
                ("content-type", "text/plain".to_owned()),
                ("content-length", body.len().to_string()),
            ],
            body: if is_head { Vec::new() } else { body },
        }
    }

    /// A head that is all of the answer, as gRPC has it.
    pub(crate) fn grpc(status: u8, message: &str) -> Self {
        Self {
            status: 200,
            headers: vec![
                ("content-type", "application/grpc".to_owned()),
                ("content-length", "0".to_owned()),
                ("grpc-status", status.to_string()),
                ("grpc-message", percent_encoded(message)),
            ],
            body: Vec::new(),
        }
    }

    pub(crate) fn grpc_status(&self) -> Option<u32> {
        let status = self.headers.iter().find(|(name, _)| *name == "grpc-status");
        status?.1.parse().ok()
    }

    /// On HTTP/1.
    pub(crate) fn bytes(&self, close: bool) -> Vec<u8> {
        let status = format!("HTTP/1.1 {} {}\r\n", self.status, phrase(self.status));
        let mut out = status.into_bytes();
        for (name, value) in &self.headers {
            super::h1::push_line(name.as_bytes(), value.as_bytes(), &mut out);
        }
        if close {
            out.extend_from_slice(b"connection: close\r\n");
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&self.body);
        out
    }
}

/// `application/grpc`, `application/grpc+proto`; gRPC-Web is HTTP to us.
pub(crate) fn is_grpc(lines: &[HeaderLine<'_>]) -> bool {
    const TYPE: &[u8] = b"application/grpc";
    let content_type = lines
        .iter()
        .find(|line| line.name.eq_ignore_ascii_case("content-type"));
    let Some((begin, rest)) = content_type.and_then(|l| l.value.split_at_checked(TYPE.len()))
    else {
        return false;
    };
    begin.eq_ignore_ascii_case(TYPE) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// As the gRPC specification has `grpc-message`.
fn percent_encoded(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        414 => "URI Too Long",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        508 => "Loop Detected",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::model::REFUSE_REASONS;

    fn line(value: &'static str) -> [HeaderLine<'static>; 1] {
        let (name, value) = ("Content-Type", value.as_bytes());
        [HeaderLine { name, value }]
    }

    #[test]
    fn a_refusal_is_told_in_the_clients_words() {
        let client = Client {
            is_meshed: true,
            ..Client::default()
        };
        let bytes = Answer::of(RefuseReason::Denied, client).bytes(true);
        assert_eq!(
            String::from_utf8(bytes).expect("text"),
            "HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain\r\ncontent-length: 7\r\n\
             x-mesh-reason: denied\r\nconnection: close\r\n\r\ndenied\n"
        );
        let client = Client {
            is_grpc: true,
            ..Client::default()
        };
        let bytes = Answer::of(RefuseReason::Denied, client).bytes(false);
        assert_eq!(
            String::from_utf8(bytes).expect("text"),
            "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\n\
             grpc-status: 7\r\ngrpc-message: denied\r\n\r\n"
        );
    }

    #[test]
    fn a_rate_limit_says_when_to_ask_again_and_in_the_mesh_which_one_it_is() {
        let refused = Refused {
            limited: Some(Arc::new(Limited {
                by: "shop/web/all".into(),
                quota: (10, Duration::from_secs(1)),
                retry_after: Duration::from_millis(1_001),
            })),
            ..RefuseReason::RateLimited.into()
        };
        let said = |client| {
            let bytes = Answer::refused(&refused, client).bytes(false);
            String::from_utf8(bytes).expect("text")
        };
        let mut client = Client::default();
        let outside = said(client);
        assert!(
            outside.starts_with("HTTP/1.1 429 Too Many Requests\r\n"),
            "{outside}"
        );
        assert!(outside.contains("retry-after: 2\r\n"), "{outside}");
        assert!(!outside.contains("shop/web"), "{outside}");
        (client.is_meshed, client.is_grpc) = (true, true);
        let grpc = said(client);
        for line in [
            "grpc-status: 8\r\n",
            "grpc-retry-pushback-ms: 1001\r\n",
            "ratelimit-policy: \"shop/web/all\";q=10;w=1\r\n",
        ] {
            assert!(grpc.contains(line), "{grpc}");
        }
    }

    #[test]
    fn a_fault_has_the_status_that_it_asks_for() {
        let refused = Refused {
            status: Some(Status { http: 418, grpc: 9 }),
            ..RefuseReason::FaultInjected.into()
        };
        let mut client = Client {
            is_meshed: true,
            ..Client::default()
        };
        let answer = Answer::refused(&refused, client);
        assert_eq!(answer.status, 418);
        let told = (REASON, "fault_injected".to_owned());
        assert!(answer.headers.contains(&told), "{answer:?}");
        client.is_grpc = true;
        assert_eq!(Answer::refused(&refused, client).grpc_status(), Some(9));
    }

    #[test]
    fn a_head_has_the_length_and_no_body() {
        let client = Client {
            is_head: true,
            ..Client::default()
        };
        let bytes = Answer::of(RefuseReason::Denied, client).bytes(false);
        let text = String::from_utf8(bytes).expect("text");
        assert!(text.contains("content-length: 7\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\n"), "{text}");
    }

    #[test]
    fn every_reason_has_a_phrase() {
        for reason in REFUSE_REASONS {
            assert!(!phrase(reason.refusal().status.http).is_empty(), "{reason}");
        }
    }

    #[test]
    fn grpc_is_known_by_its_content_type() {
        for value in [
            "application/grpc",
            "Application/gRPC+proto",
            "application/grpc;x=y",
        ] {
            assert!(is_grpc(&line(value)), "{value}");
        }
        for value in [
            "application/grpc-web",
            "application/grpc-web+proto",
            "text/plain",
            "",
        ] {
            assert!(!is_grpc(&line(value)), "{value}");
        }
    }

    #[test]
    fn a_message_is_escaped() {
        assert_eq!(percent_encoded("a b%\n\u{e9}"), "a b%25%0A%C3%A9");
    }
}
