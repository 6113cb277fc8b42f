//! What is to be expected of a port before anybody has spoken.
//!
//! An expectation says who is waited for, and never what a connection is: that is
//! told by what the client speaks.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::model::AppProtocol;

/// Protocols whose server speaks first, or that are never HTTP: SMTP, POP3, IMAP,
/// LDAP, SMB, databases, caches, queues.
const OPAQUE: [u16; 27] = [
    25, 110, 143, 389, 445, 465, 587, 636, 993, 995, 1433, 1521, 3306, 3389, 4222, 4444, 5222,
    5432, 5671, 5672, 6379, 6380, 9042, 9092, 9300, 11211, 27017,
];

/// Destinations that are remembered; where there are more, all are forgotten.
const MAX_LEARNED: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The client speaks first, and most likely HTTP.
    Http,
    /// Bytes that are nobody's to look at.
    Opaque,
    /// Bytes, as those before it: neither is looked at what they are nor waited for.
    OpaqueSoFar,
    /// Nobody knows who speaks first: neither is waited for.
    Anything,
}

/// By what is declared of the port, or else its number, or else what it was before.
#[must_use]
pub(crate) fn expected(
    declared: AppProtocol,
    ports: [u16; 2],
    learned: Option<Expected>,
) -> Expected {
    match declared {
        AppProtocol::Http1 | AppProtocol::Http2 | AppProtocol::Grpc => Expected::Http,
        AppProtocol::Tls | AppProtocol::Tcp => Expected::Opaque,
        AppProtocol::Unspecified if ports.iter().any(|port| OPAQUE.contains(port)) => {
            Expected::Opaque
        }
        AppProtocol::Unspecified => learned.unwrap_or(Expected::Anything),
    }
}

/// So many connections in a row that were bytes, and the next is taken for the same.
const OPAQUE_AFTER: u8 = 16;
/// Of those that are taken for bytes one in so many is looked at, so that a
/// destination that begins to speak HTTP is found.
const LOOK_EVERY: u8 = 64;

/// What connections to a destination were.
#[derive(Clone, Copy, Debug)]
enum Seen {
    Http,
    /// In a row; past [`OPAQUE_AFTER`] those since the last look.
    Bytes(u8),
}

/// What connections to a destination turned out to be, for the next one.
#[derive(Debug, Default)]
pub(crate) struct Learned(HashMap<SocketAddr, Seen, foldhash::fast::RandomState>);

impl Learned {
    /// Of the next connection. `may_be_opaque`: nothing depends on whether it is HTTP.
    pub(crate) fn next(
        &mut self,
        destination: SocketAddr,
        may_be_opaque: bool,
    ) -> Option<Expected> {
        match self.0.get_mut(&destination)? {
            Seen::Http => Some(Expected::Http),
            Seen::Bytes(run) if !may_be_opaque || *run < OPAQUE_AFTER => None,
            Seen::Bytes(run) if *run - OPAQUE_AFTER >= LOOK_EVERY => {
                *run = OPAQUE_AFTER;
                None
            }
            Seen::Bytes(run) => {
                *run += 1;
                Some(Expected::OpaqueSoFar)
            }
        }
    }

    /// It is not what it was, or not always.
    pub(crate) fn forget(&mut self, destination: SocketAddr) {
        self.0.remove(&destination);
    }

    pub(crate) fn was_http(&mut self, destination: SocketAddr) {
        *self.entry(destination) = Seen::Http;
    }

    /// It was looked at, and is no HTTP.
    pub(crate) fn was_bytes(&mut self, destination: SocketAddr) {
        match self.entry(destination) {
            Seen::Bytes(run) if *run < OPAQUE_AFTER => *run += 1,
            // The look told nothing new.
            Seen::Bytes(_) => {}
            seen @ Seen::Http => *seen = Seen::Bytes(1),
        }
    }

    fn entry(&mut self, destination: SocketAddr) -> &mut Seen {
        if self.0.len() >= MAX_LEARNED && !self.0.contains_key(&destination) {
            self.0.clear();
        }
        self.0.entry(destination).or_insert(Seen::Bytes(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_declared_wins_over_the_number_and_that_over_what_was_seen() {
        let seen = Some(Expected::Http);
        for (declared, port, learned, is) in [
            (AppProtocol::Http1, 3306, None, Expected::Http),
            (AppProtocol::Grpc, 80, None, Expected::Http),
            (AppProtocol::Tcp, 80, seen, Expected::Opaque),
            (AppProtocol::Tls, 443, seen, Expected::Opaque),
            (AppProtocol::Unspecified, 3306, seen, Expected::Opaque),
            (AppProtocol::Unspecified, 8080, seen, Expected::Http),
            (AppProtocol::Unspecified, 80, None, Expected::Anything),
        ] {
            let found = expected(declared, [8080, port], learned);
            assert_eq!(found, is, "{declared:?} {port} {learned:?}");
        }
    }

    #[test]
    fn the_table_of_ports_is_in_order_and_each_is_there_once() {
        assert!(OPAQUE.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn what_was_learned_is_bounded() {
        let mut learned = Learned::default();
        let to = |i: usize| {
            let [high, low] = u16::try_from(i % 60_000).expect("a port").to_be_bytes();
            SocketAddr::from(([10, 0, high, low], 80))
        };
        for i in 0..3 * MAX_LEARNED {
            learned.was_http(to(i));
            assert!(learned.0.len() <= MAX_LEARNED);
            assert_eq!(learned.next(to(i), true), Some(Expected::Http));
        }
        learned.forget(to(0));
        assert_eq!(learned.next(to(0), true), None);
    }

    #[test]
    fn what_was_bytes_for_a_while_is_taken_for_bytes_and_looked_at_now_and_then() {
        let mut learned = Learned::default();
        let to = SocketAddr::from(([10, 0, 0, 1], 80));
        for _ in 0..OPAQUE_AFTER {
            assert_eq!(learned.next(to, true), None);
            learned.was_bytes(to);
        }
        for _ in 0..3 {
            for _ in 0..LOOK_EVERY {
                assert_eq!(learned.next(to, true), Some(Expected::OpaqueSoFar));
            }
            assert_eq!(learned.next(to, true), None);
            learned.was_bytes(to);
        }
        // Where something depends on it, each is looked at.
        assert_eq!(learned.next(to, false), None);
        learned.was_http(to);
        assert_eq!(learned.next(to, true), Some(Expected::Http));
        learned.was_bytes(to);
        assert_eq!(learned.next(to, true), None);
    }
}
