//! How long a caller of gRPC waits: kept for it, and told the server as far as it is not
//! over yet.

use std::time::{Duration, Instant};

use crate::http::grpc;
use crate::http::h2::HeaderMap;

/// Less than this is not told: a request that did not wait goes on as it came.
const TOLD: Duration = Duration::from_millis(1);
/// The last one of so many parts of the time, and not less than that.
const LAST: u32 = 10;
const LAST_LEAST: Duration = Duration::from_millis(5);

/// When an answer has to be whole for its caller, whose request came then.
pub(super) fn of(headers: &HeaderMap, came: Instant) -> Option<Instant> {
    // With two values nobody knows.
    let mut values = headers.get_all(grpc::TIMEOUT).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    came.checked_add(grpc::timeout(value.as_bytes())?)
}

/// From then on it is as good as over: its server counts from when the call has come there, by
/// a clock and timers of its own, and may want some of it for its answer.
pub(super) fn due(came: Instant, ends: Instant) -> Instant {
    let last = (ends.saturating_duration_since(came) / LAST).max(LAST_LEAST);
    ends.checked_sub(last).map_or(came, |due| due.max(came))
}

/// What goes to the server now says how much is left. `ends`: for whatever reason.
pub(super) fn shorten(headers: &mut HeaderMap, ends: Option<Instant>, now: Instant) {
    let (Some(ends), Some(asked)) = (ends, headers.get(grpc::TIMEOUT)) else {
        return;
    };
    let left = ends.saturating_duration_since(now);
    let is_same = grpc::timeout(asked.as_bytes()).is_none_or(|asked| asked < left + TOLD);
    if !is_same && let Ok(value) = grpc::timeout_value(left).try_into() {
        headers.insert(grpc::TIMEOUT, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(values: &[&'static str]) -> HeaderMap {
        let lines = values.iter().map(|value| value.parse().expect("a value"));
        lines.fold(HeaderMap::new(), |mut lines, value| {
            lines.append(grpc::TIMEOUT, value);
            lines
        })
    }

    #[test]
    fn a_deadline_counts_from_when_the_request_came() {
        let came = Instant::now();
        assert_eq!(
            of(&said(&["2S"]), came),
            Some(came + Duration::from_secs(2))
        );
        for odd in [&[][..], &["2S", "2S"], &["2s"], &["x"]] {
            assert_eq!(of(&said(odd), came), None, "{odd:?}");
        }
    }

    #[test]
    fn in_its_last_tenth_it_is_as_good_as_over() {
        let (came, ms) = (Instant::now(), Duration::from_millis);
        for (given, due_at) in [(1000, 900), (20, 15), (3, 0), (0, 0)] {
            assert_eq!(due(came, came + ms(given)), came + ms(due_at), "{given}");
        }
    }

    #[test]
    fn the_server_is_told_what_is_left_and_nothing_new_where_nothing_was_lost() {
        let (came, ms) = (Instant::now(), Duration::from_millis);
        for (asked, ends, after, told) in [
            ("2S", Some(2000), 500, "1500000u"),
            ("2S", Some(2000), 3000, "0n"),
            // By the route.
            ("20S", Some(1000), 0, "1000000u"),
            ("2S", Some(2000), 0, "2S"),
            ("2000000u", Some(2000), 1, "1999000u"),
            ("2S", Some(9000), 0, "2S"),
            ("2S", None, 500, "2S"),
            ("odd", Some(1000), 500, "odd"),
        ] {
            let mut headers = said(&[asked]);
            let ends = ends.map(|ends| came + ms(ends));
            shorten(&mut headers, ends, came + ms(after));
            assert_eq!(headers[grpc::TIMEOUT], told, "{asked} {ends:?} {after}");
        }
        let mut none = HeaderMap::new();
        shorten(&mut none, Some(came), came);
        assert!(
            none.is_empty(),
            "who says nothing waits as long as it likes"
        );
    }
}
