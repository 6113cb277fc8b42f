//! What a scalar without quotes is.
//!
//! As the YAML 1.1 that Kubernetes' own tools read: `on` and `no` are truth
//! values. Numbers are YAML 1.2's; a decimal with a zero before it is a float.

use serde_json::Number;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    Number(Number),
    Text,
    /// A number that nothing can be made of: infinite, or none.
    NotFinite,
}

pub(super) fn resolve(text: &str) -> Scalar {
    if is_null(text) {
        return Scalar::Null;
    }
    match text.as_bytes()[0] {
        b'0'..=b'9' | b'+' | b'-' | b'.' => number(text),
        b't' | b'T' | b'f' | b'F' | b'y' | b'Y' | b'n' | b'N' | b'o' | b'O' => {
            boolean(text).map_or(Scalar::Text, Scalar::Bool)
        }
        _ => Scalar::Text,
    }
}

pub(super) fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

pub(super) fn boolean(text: &str) -> Option<bool> {
    let is_one = |words: &[&str]| words.iter().any(|word| word.eq_ignore_ascii_case(text));
    if is_one(&["true", "yes", "y", "on"]) {
        Some(true)
    } else if is_one(&["false", "no", "n", "off"]) {
        Some(false)
    } else {
        None
    }
}

fn number(text: &str) -> Scalar {
    if let Some(integer) = integer(text) {
        return Scalar::Number(integer);
    }
    match float(text) {
        Some(float) => Number::from_f64(float).map_or(Scalar::NotFinite, Scalar::Number),
        None => Scalar::Text,
    }
}

/// Of 64 bits, decimal or with a prefix.
pub(super) fn integer(text: &str) -> Option<Number> {
    let negative = text.strip_prefix('-');
    let rest = negative.or_else(|| text.strip_prefix('+')).unwrap_or(text);
    let (radix, digits) = match rest.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &rest[2..]),
        [b'0', b'o' | b'O', ..] => (8, &rest[2..]),
        [b'0', b'b' | b'B', ..] => (2, &rest[2..]),
        [b'0', _, ..] => return None,
        _ => (10, rest),
    };
    let magnitude = magnitude(digits, radix)?;
    match negative {
        None => u64::try_from(magnitude).ok().map(Number::from),
        Some(_) => i64::try_from(-magnitude).ok().map(Number::from),
    }
}

/// Underscores stand between digits.
fn magnitude(digits: &str, radix: u32) -> Option<i128> {
    let mut value: i128 = 0;
    let mut after_digit = false;
    for byte in digits.bytes() {
        if byte == b'_' && after_digit {
            after_digit = false;
            continue;
        }
        let digit = char::from(byte).to_digit(radix)?;
        value = value.checked_mul(radix.into())?.checked_add(digit.into())?;
        after_digit = true;
    }
    after_digit.then_some(value)
}

/// Also one that is infinite, or no number.
pub(super) fn float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    match unsigned {
        ".nan" | ".NaN" | ".NAN" => return Some(f64::NAN),
        ".inf" | ".Inf" | ".INF" => return Some(f64::INFINITY),
        _ => {}
    }
    // Not the names that Rust has for them.
    let is_numeral = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    text.parse().ok().filter(|_| is_numeral)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scalar_without_quotes_is_what_it_looks_like() {
        let int = |n: i64| Scalar::Number(n.into());
        let float = |n: f64| Scalar::Number(Number::from_f64(n).expect("finite"));
        for (text, is) in [
            ("", Scalar::Null),
            ("~", Scalar::Null),
            ("null", Scalar::Null),
            ("nUll", Scalar::Text),
            ("true", Scalar::Bool(true)),
            ("On", Scalar::Bool(true)),
            ("n", Scalar::Bool(false)),
            ("nope", Scalar::Text),
            ("8080", int(8080)),
            ("-1", int(-1)),
            ("+7", int(7)),
            ("0", int(0)),
            ("-0", int(0)),
            ("0x1F", int(31)),
            ("-0o17", int(-15)),
            ("0b1_0", int(2)),
            ("1_000", int(1000)),
            ("1__0", Scalar::Text),
            ("_1", Scalar::Text),
            ("1_", Scalar::Text),
            ("007", float(7.0)),
            ("-007", float(-7.0)),
            ("0o8", Scalar::Text),
            ("1.10", float(1.1)),
            ("1.", float(1.0)),
            (".5", float(0.5)),
            (".", Scalar::Text),
            ("1e3", float(1000.0)),
            ("18446744073709551616", float(18_446_744_073_709_551_616.0)),
            (".inf", Scalar::NotFinite),
            ("-.NaN", Scalar::NotFinite),
            ("1e999", Scalar::NotFinite),
            ("inf", Scalar::Text),
            ("-inf", Scalar::Text),
            ("nan", Scalar::Text),
            ("10.0.0.1", Scalar::Text),
            ("12:30:45", Scalar::Text),
            ("--5", Scalar::Text),
            ("2026-11-27T10:00:00Z", Scalar::Text),
        ] {
            assert_eq!(resolve(text), is, "{text:?}");
        }
    }
}
