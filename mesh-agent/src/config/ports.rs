//! Ranges of ports, LOW-HIGH.

use std::ops::RangeInclusive;

/// Fewer would bound how many connections one client can have to one server.
const FEWEST: u16 = 1_000;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RangeError {
    #[error("two port numbers as LOW-HIGH are expected")]
    Malformed,
    #[error("ports below 1024 tell servers that the client is privileged")]
    Privileged,
    #[error("at least {FEWEST} ports are needed")]
    TooFew,
}

pub(super) fn range(text: &str) -> Result<RangeInclusive<u16>, RangeError> {
    let (low, high) = text.split_once('-').ok_or(RangeError::Malformed)?;
    let number = |text: &str| {
        text.trim()
            .parse::<u16>()
            .map_err(|_| RangeError::Malformed)
    };
    let (low, high) = (number(low)?, number(high)?);
    if low < 1024 {
        return Err(RangeError::Privileged);
    }
    match high.checked_sub(low) {
        Some(distance) if distance >= FEWEST - 1 => Ok(low..=high),
        _ => Err(RangeError::TooFew),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_range_that_serves_is_taken() {
        assert_eq!(range("10000-32000"), Ok(10_000..=32_000));
        assert_eq!(range("1024-2023"), Ok(1024..=2023));
        assert_eq!(range("1023-9000"), Err(RangeError::Privileged));
        assert_eq!(range("0-65535"), Err(RangeError::Privileged));
        assert_eq!(range("1024-2022"), Err(RangeError::TooFew));
        assert_eq!(range("9000-2000"), Err(RangeError::TooFew));
        for malformed in ["", "9000", "9000-", "-9000", "1024-70000", "a-b", "1-2-3"] {
            assert_eq!(range(malformed), Err(RangeError::Malformed), "{malformed}");
        }
    }
}
