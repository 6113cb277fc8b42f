//! The words of header lines.

pub(crate) use crate::model::header_name::{HOP_BY_HOP, is_framing, is_identity, is_removable};

/// The elements of a list as RFC 9110, section 5.6.1, has it; empty ones are none.
pub(crate) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let elements = value.split(|byte| *byte == b',').map(trim);
    elements.filter(|element| !element.is_empty())
}

pub(crate) fn trim(value: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !is_blank(byte));
    let end = value.iter().rposition(|byte| !is_blank(byte));
    match (start, end) {
        (Some(start), Some(end)) => &value[start..=end],
        _ => &[],
    }
}

/// RFC 9110, section 5.6.2.
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_elements_without_blanks() {
        let found: Vec<&[u8]> = list(b" close ,,\tkeep-alive").collect();
        assert_eq!(found, [b"close".as_slice(), b"keep-alive"]);
    }
}
