//! What an answer's head says, and what of it goes on.

use crate::http::answer::REASON;
use crate::http::h1::{Asked, Body, Framing, InvalidEdit, Response, Side as Of, encode_response};
use crate::http::hygiene;
use crate::model::{Edits, HeaderLine};
use crate::proxy::http::hold::{Held, Hold, says_overflow};

/// What an answer's head says.
pub(super) struct Passed {
    pub(super) status: u16,
    pub(super) informational: bool,
    pub(super) framing: Framing,
    /// The client may ask again on its connection.
    pub(super) keeps: bool,
    pub(super) persistent: bool,
    pub(super) grpc_status: Option<u32>,
}

pub(super) type Answered = (Passed, Option<Vec<u8>>);

/// What is known by the head; the head to send instead of it, where it changes, and whether that
/// `is_last`: see [`ends_early`].
pub(super) fn answered(
    (asked, is_last): (&Asked, bool),
    edits: &Edits,
    response: &Response<'_>,
    bytes: &[u8],
) -> Result<Answered, InvalidEdit> {
    let keeps = asked.persistent && response.framing != Framing::UntilClose && !is_last;
    let mut changes = hygiene::of_response(response, asked, !keeps);
    if !response.informational {
        changes.headers.extend(edits.headers.iter().cloned());
    }
    let passed = Passed {
        status: response.status,
        informational: response.informational,
        framing: response.framing,
        keeps,
        persistent: response.persistent,
        grpc_status: None,
    };
    if changes.is_empty() {
        return Ok((passed, None));
    }
    let mut head = Vec::with_capacity(bytes.len() + 64);
    encode_response(bytes, &changes, &mut head)?;
    Ok((passed, Some(head)))
}

/// Does the exchange end with it though the request is not whole? So its client's connection
/// cannot be kept, and the client is told. Either its server hangs up, and reads no more of the
/// request, or all of the answer is here, in what has come `behind` its head, and nobody waits
/// for the rest of the request.
pub(super) fn ends_early(response: &Response<'_>, behind: &[u8]) -> bool {
    let mut body = Body::new(response.framing, Of::Response);
    let is_whole = body.follow(behind).is_ok() && body.has_ended();
    !response.informational && (is_whole || !response.persistent)
}

pub(super) fn held(hold: &Hold, head: &Response<'_>) -> Option<Held> {
    hold.held((head.status, None), |name| {
        value(head.headers, name).map(str::as_bytes)
    })
}

/// In the head, where that is all of an answer.
pub(super) fn grpc_status(lines: &[HeaderLine<'_>]) -> Option<u32> {
    value(lines, "grpc-status")?.parse().ok()
}

pub(super) fn is_overflow(lines: &[HeaderLine<'_>]) -> bool {
    value(lines, REASON).is_some_and(says_overflow)
}

fn value<'l>(lines: &[HeaderLine<'l>], name: &str) -> Option<&'l str> {
    let mut lines = lines.iter();
    let line = lines.find(|line| line.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(line.value).ok()
}
