//! HTTP/1.1 as the load has it: `GET` without a body, a small answer with a length.

/// What a client asks for.
pub(super) const REQUEST: &[u8] = b"GET /bench HTTP/1.1\r\nHost: server.shop\r\n\
User-Agent: mesh-app\r\nAccept: */*\r\n\r\n";

/// What the server says to each.
pub(super) const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nServer: mesh-app\r\n\
Content-Type: text/plain\r\nContent-Length: 64\r\n\r\n\
0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

const HEAD_END: &[u8] = b"\r\n\r\n";

/// Where the first head ends, its blank line included.
pub(super) fn head_end(bytes: &[u8]) -> Option<usize> {
    let found = bytes.windows(HEAD_END.len()).position(|w| w == HEAD_END)?;
    Some(found + HEAD_END.len())
}

/// Bytes of a whole answer with status 200 and a length, once they are there; an
/// error for anything else.
pub(super) fn answer_end(bytes: &[u8]) -> Result<Option<usize>, String> {
    let Some(end) = head_end(bytes) else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    if !head.starts_with("http/1.1 200 ") {
        return Err(format!("another answer: {head:?}"));
    }
    let length = head.split("content-length:").nth(1).and_then(|rest| {
        let number = rest.split("\r\n").next()?;
        number.trim().parse::<usize>().ok()
    });
    let whole = end + length.ok_or_else(|| format!("no length: {head:?}"))?;
    Ok((bytes.len() >= whole).then_some(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_behind_its_body_and_not_before() {
        for cut in 0..ANSWER.len() {
            assert_eq!(answer_end(&ANSWER[..cut]), Ok(None), "{cut}");
        }
        let two = [ANSWER, ANSWER].concat();
        assert_eq!(answer_end(&two), Ok(Some(ANSWER.len())));
        assert!(answer_end(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n").is_err());
    }
}
