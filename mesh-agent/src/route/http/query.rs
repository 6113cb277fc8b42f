//! Parameters of a query, and texts with escapes.

/// The value of the first parameter of that name, as it is written.
pub(super) fn first<'q>(query: &'q [u8], name: &[u8]) -> Option<&'q [u8]> {
    let pairs = query.split(|byte| *byte == b'&');
    let mut parts = pairs.map(|pair| match pair.iter().position(|byte| *byte == b'=') {
        Some(at) => (&pair[..at], &pair[at + 1..]),
        None => (pair, &[][..]),
    });
    let is_named = |key: &[u8]| decoded(key).eq(name.iter().copied());
    parts.find_map(|(key, value)| is_named(key).then_some(value))
}

/// Each byte, escapes decoded; what is no escape stays as it is. A `+` is a
/// blank, as forms have it.
pub(super) fn decoded(text: &[u8]) -> impl Iterator<Item = u8> + '_ {
    unescaped(text, true)
}

/// As [`decoded`], where a `+` is itself.
pub(super) fn path_decoded(text: &[u8]) -> Vec<u8> {
    unescaped(text, false).collect()
}

fn unescaped(text: &[u8], is_form: bool) -> impl Iterator<Item = u8> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let byte = *text.get(at)?;
        let escape = (byte == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        if let Some(value) = escape.and_then(hex) {
            at += 3;
            return Some(value);
        }
        at += 1;
        Some(if byte == b'+' && is_form { b' ' } else { byte })
    })
}

fn hex(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (high, low) = (digit(digits[0])?, digit(digits[1])?);
    u8::try_from(high * 16 + low).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_repeated_parameter_counts_and_escapes_are_decoded() {
        let query = b"a=1&b&a=2&n%61me=x+y%21&&c==";
        let value = |name: &str| first(query, name.as_bytes()).map(|v| decoded(v).collect());
        let text = |text: &str| Some(text.as_bytes().to_vec());
        assert_eq!(value("a"), text("1"));
        assert_eq!(value("b"), text(""));
        assert_eq!(value("name"), text("x y!"));
        assert_eq!(value("c"), text("="));
        assert_eq!(value("d"), None);
        assert_eq!(path_decoded(b"/a+b%20%zz%4"), b"/a+b %zz%4");
    }
}
