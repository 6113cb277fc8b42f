//! What of gRPC is looked at: its messages in the data of a stream, counted as they pass,
//! and how long a caller waits.

use std::time::Duration;

const PREFIX: usize = 5;

/// How long a caller waits for all of the answer.
pub(crate) const TIMEOUT: &str = "grpc-timeout";

/// Of the value of [`TIMEOUT`]: up to eight digits and a unit. What is none says nothing,
/// as servers have it.
pub(crate) fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// The same as a value, in the finest unit that eight digits have room for, and never more.
pub(crate) fn timeout_value(left: Duration) -> String {
    let units = [
        (left.as_nanos(), 'n'),
        (left.as_micros(), 'u'),
        (left.as_millis(), 'm'),
        (u128::from(left.as_secs()), 'S'),
        (u128::from(left.as_secs() / 60), 'M'),
        (u128::from(left.as_secs() / 3600), 'H'),
    ];
    let fits = |(count, _): &&(u128, char)| *count <= MAX_DIGITS;
    let (count, unit) = units.iter().find(fits).unwrap_or(&(MAX_DIGITS, 'H'));
    format!("{count}{unit}")
}

const MAX_DIGITS: u128 = 99_999_999;

pub(crate) use crate::model::grpc_status::http_status;

/// A flag and a length of four bytes stand before each message.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Messages {
    count: u64,
    /// Of the prefix, as far as it came.
    prefix: [u8; PREFIX],
    prefixed: usize,
    /// Of the message under way.
    left: usize,
}

impl Messages {
    /// Those that have begun.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn pass(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.left > 0 {
                let passed = self.left.min(data.len());
                self.left -= passed;
                data = &data[passed..];
                continue;
            }
            let missing = (PREFIX - self.prefixed).min(data.len());
            let (begin, rest) = data.split_at(missing);
            self.prefix[self.prefixed..][..missing].copy_from_slice(begin);
            self.prefixed += missing;
            data = rest;
            if self.prefixed == PREFIX {
                let [_, length @ ..] = self.prefix;
                self.left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                self.prefixed = 0;
                self.count += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_digits_and_a_unit_and_nothing_else() {
        for (value, expected) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("400m", Duration::from_millis(400)),
            ("00000005u", Duration::from_micros(5)),
            ("0n", Duration::ZERO),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ] {
            assert_eq!(timeout(value.as_bytes()), Some(expected), "{value}");
        }
        for odd in [
            "",
            "m",
            "5",
            "5s",
            "123456789m",
            "-1S",
            "+1S",
            "1 S",
            " 1S",
            "1S ",
            "1.5S",
        ] {
            assert_eq!(timeout(odd.as_bytes()), None, "{odd:?}");
        }
    }

    #[test]
    fn what_is_left_is_told_in_eight_digits_and_is_never_more() {
        for (left, value) in [
            (Duration::ZERO, "0n"),
            (Duration::from_millis(99), "99000000n"),
            (Duration::from_millis(100), "100000u"),
            (Duration::new(1, 999), "1000000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(200_000), "200000S"),
            (Duration::from_secs(u64::MAX), "99999999H"),
        ] {
            assert_eq!(timeout_value(left), value, "{left:?}");
            let read = timeout(value.as_bytes()).expect("a timeout");
            assert!(read <= left, "{value}");
        }
    }

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let mut bytes = Vec::new();
        for length in [0_u32, 1, 300, 0, 7] {
            bytes.push(0);
            bytes.extend(length.to_be_bytes());
            bytes.extend(vec![1; length as usize]);
        }
        for size in 1..bytes.len() {
            let mut messages = Messages::default();
            for part in bytes.chunks(size) {
                messages.pass(part);
            }
            assert_eq!(messages.count(), 5, "by {size}");
        }
    }
}
