//! The trace that a request belongs to. Its headers go on as they came; the id is
//! for the access log.

use crate::model::{RequestHead, TraceId};

/// W3C's `traceparent` if it is valid and there is one, else B3's.
pub(crate) fn id(head: &RequestHead<'_>) -> Option<TraceId> {
    let one = |name: &str| {
        let mut values = head.values(name);
        let first = values.next()?;
        values.next().is_none().then_some(first)
    };
    let w3c = one("traceparent").and_then(of_traceparent);
    let single = || one("b3").and_then(|b3| of_hex(b3.split(|byte| *byte == b'-').next()?));
    w3c.or_else(single)
        .or_else(|| one("x-b3-traceid").and_then(of_hex))
}

/// `00-<trace>-<parent>-<flags>`; a later version may have more fields.
fn of_traceparent(value: &[u8]) -> Option<TraceId> {
    let fields = |at: usize, len: usize| value.get(at..at + len);
    let version = fields(0, 2)?;
    let are_apart = [2, 35, 52].iter().all(|at| value.get(*at) == Some(&b'-'));
    let ends = match version {
        b"ff" => return None,
        b"00" => value.len() == 55,
        _ => value.len() == 55 || value.get(55) == Some(&b'-'),
    };
    let parent = fields(36, 16)?;
    let is_lower = value.iter().all(|byte| !byte.is_ascii_uppercase());
    let rest = [version, parent, fields(53, 2)?];
    let is_hex = rest
        .iter()
        .all(|field| field.iter().all(u8::is_ascii_hexdigit));
    if !(are_apart && ends && is_lower && is_hex) || parent.iter().all(|digit| *digit == b'0') {
        return None;
    }
    of_hex(fields(3, 32)?)
}

/// 128 bits, or 64 that are padded; never zero.
fn of_hex(digits: &[u8]) -> Option<TraceId> {
    let is_id = matches!(digits.len(), 16 | 32) && digits.iter().all(u8::is_ascii_hexdigit);
    let digits = std::str::from_utf8(digits).ok().filter(|_| is_id)?;
    let id = u128::from_str_radix(digits, 16).ok()?;
    (id != 0).then_some(TraceId(id.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{HeaderLine, HttpVersion, Path};

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn found(lines: &[(&str, &str)]) -> Option<String> {
        let lines: Vec<HeaderLine<'_>> = lines
            .iter()
            .map(|(name, value)| HeaderLine {
                name,
                value: value.as_bytes(),
            })
            .collect();
        let head = RequestHead {
            version: HttpVersion::Http11,
            method: "GET",
            target: b"/",
            path: Path::of(b"/"),
            query: None,
            host: None,
            headers: &lines,
        };
        let TraceId(id) = id(&head)?;
        Some(id.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    #[test]
    fn a_valid_traceparent_names_the_trace() {
        let w3c =
            |version: &str, more: &str| format!("{version}-{TRACE}-b7ad6b7169203331-01{more}");
        for good in [w3c("00", ""), w3c("01", ""), w3c("cc", "-x")] {
            assert_eq!(found(&[("TraceParent", &good)]).as_deref(), Some(TRACE));
        }
        let upper = w3c("00", "").to_uppercase();
        let zero = format!("00-{}-b7ad6b7169203331-01", "0".repeat(32));
        let no_parent = format!("00-{TRACE}-{}-01", "0".repeat(16));
        for bad in [
            w3c("ff", ""),
            w3c("00", "-x"),
            w3c("01", "x"),
            w3c("0x", ""),
            upper,
            zero,
            no_parent,
            TRACE.to_owned(),
            String::new(),
        ] {
            assert_eq!(found(&[("traceparent", &bad)]), None, "{bad}");
        }
        let one = w3c("00", "");
        assert_eq!(found(&[("traceparent", &one), ("traceparent", &one)]), None);
    }

    #[test]
    fn b3_is_read_where_there_is_no_traceparent() {
        let short = "a3ce929d0e0e4736";
        let padded = format!("{}{short}", "0".repeat(16));
        let single = format!("{short}-00f067aa0ba902b7-d");
        assert_eq!(found(&[("b3", &single)]), Some(padded.clone()));
        assert_eq!(found(&[("X-B3-TraceId", short)]), Some(padded));
        assert_eq!(found(&[("X-B3-TraceId", TRACE)]).as_deref(), Some(TRACE));
        assert_eq!(found(&[("b3", "0")]), None);
        assert_eq!(found(&[]), None);
    }
}
