//! What is to be expected of a port before anybody has spoken.
//!
//! An expectation says who is waited for, and how long; what a connection is is told by
//! what the client speaks. Where something depends on requests nothing else goes on.

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
    /// HTTP, and nothing else: something depends on each of its requests.
    Requests,
    /// The client speaks first, and most likely HTTP.
    Http,
    /// Bytes that are nobody's to look at.
    Opaque,
    /// Bytes, as those before it: neither is looked at what they are nor waited for.
    OpaqueSoFar,
    /// Nobody knows who speaks first: neither is waited for.
    Anything,
}

/// By what is declared of the port, or else its number; `is_asked`: a route or a limit
/// asks for requests there. `None`: by what it was before.
#[must_use]
pub(crate) fn expected(declared: AppProtocol, ports: [u16; 2], is_asked: bool) -> Option<Expected> {
    match declared {
        AppProtocol::Http1 | AppProtocol::Http2 | AppProtocol::Grpc => Some(Expected::Requests),
        AppProtocol::Tls | AppProtocol::Tcp => Some(Expected::Opaque),
        AppProtocol::Unspecified if ports.iter().any(|port| OPAQUE.contains(port)) => {
            Some(Expected::Opaque)
        }
        AppProtocol::Unspecified => is_asked.then_some(Expected::Requests),
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
    /// Of the next connection, on whose requests nothing depends.
    pub(crate) fn next(&mut self, destination: SocketAddr) -> Expected {
        match self.0.get_mut(&destination) {
            Some(Seen::Http) => Expected::Http,
            None => Expected::Anything,
            Some(Seen::Bytes(run)) if *run < OPAQUE_AFTER => Expected::Anything,
            Some(Seen::Bytes(run)) if *run - OPAQUE_AFTER >= LOOK_EVERY => {
                *run = OPAQUE_AFTER;
                Expected::Anything
            }
            Some(Seen::Bytes(run)) => {
                *run += 1;
                Expected::OpaqueSoFar
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

    /// It was looked at, and is no HTTP: what might have become it does not count.
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
    fn what_is_declared_wins_over_the_number_and_that_over_what_asks_for_requests() {
        use Expected::{Opaque, Requests};
        for (declared, port, is_asked, is) in [
            (AppProtocol::Http1, 3306, false, Some(Requests)),
            (AppProtocol::Http2, 80, true, Some(Requests)),
            (AppProtocol::Grpc, 80, false, Some(Requests)),
            (AppProtocol::Tcp, 80, true, Some(Opaque)),
            (AppProtocol::Tls, 443, false, Some(Opaque)),
            (AppProtocol::Unspecified, 3306, true, Some(Opaque)),
            (AppProtocol::Unspecified, 8080, true, Some(Requests)),
            (AppProtocol::Unspecified, 80, false, None),
        ] {
            let found = expected(declared, [8080, port], is_asked);
            assert_eq!(found, is, "{declared:?} {port} {is_asked}");
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
            assert_eq!(learned.next(to(i)), Expected::Http);
        }
        learned.forget(to(0));
        assert_eq!(learned.next(to(0)), Expected::Anything);
    }

    #[test]
    fn what_was_bytes_for_a_while_is_taken_for_bytes_and_looked_at_now_and_then() {
        let mut learned = Learned::default();
        let to = SocketAddr::from(([10, 0, 0, 1], 80));
        for _ in 0..OPAQUE_AFTER {
            assert_eq!(learned.next(to), Expected::Anything);
            learned.was_bytes(to);
        }
        for _ in 0..3 {
            for _ in 0..LOOK_EVERY {
                assert_eq!(learned.next(to), Expected::OpaqueSoFar);
            }
            assert_eq!(learned.next(to), Expected::Anything);
            learned.was_bytes(to);
        }
        learned.was_http(to);
        assert_eq!(learned.next(to), Expected::Http);
        learned.was_bytes(to);
        assert_eq!(learned.next(to), Expected::Anything);
    }
}
