//! The states of one stream, without any I/O.
//!
//! Each direction is open, then ended by FIN or RESET; a stream is over when
//! both have ended, and only then may the next one begin on the connection. A
//! RESET that arrives while the own direction is open is answered by one, so
//! that no frame of a stream can ever follow the next stream's OPEN in its
//! direction, but for a RESET that crossed the peer's last frame: that one is
//! told by its generation and skipped.

use super::ProtocolError;
use super::frame::{Frame, GENERATIONS, Kind, ResetReason, reset_reason};

/// Which end of the connection this is: the one that opens streams, or the one that takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Client,
    Server,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    Open,
    Ended,
    /// Ended by RESET: what still comes the other way is dropped.
    Reset,
}

/// What a frame means for the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Bytes for the application.
    Data,
    Fin,
    /// The destination's application accepted the connection.
    Accepted,
    Reset(ResetReason),
    /// No stream after the named generation was or will be taken.
    Goaway {
        last: u8,
    },
    /// Of no meaning any more.
    Skip,
}

#[derive(Clone, Debug)]
pub(super) struct Stream {
    role: Role,
    generation: u8,
    accepted: bool,
    /// A RESET of the stream before came.
    crossed: bool,
    sending: Half,
    receiving: Half,
}

impl Stream {
    pub(super) fn new(role: Role, generation: u8) -> Self {
        Self {
            role,
            generation,
            accepted: false,
            crossed: false,
            sending: Half::Open,
            receiving: Half::Open,
        }
    }

    pub(super) fn generation(&self) -> u8 {
        self.generation
    }

    pub(super) fn is_accepted(&self) -> bool {
        self.accepted
    }

    /// The server's own word: its ACCEPT is on the way.
    pub(super) fn accept(&mut self) {
        self.accepted = true;
    }

    pub(super) fn may_send(&self) -> bool {
        self.sending == Half::Open
    }

    pub(super) fn may_receive(&self) -> bool {
        self.receiving == Half::Open
    }

    /// FIN came.
    pub(super) fn has_fin(&self) -> bool {
        self.receiving == Half::Ended
    }

    /// Both directions have ended.
    pub(super) fn is_over(&self) -> bool {
        !self.may_send() && !self.may_receive()
    }

    /// FIN was sent.
    pub(super) fn fin(&mut self) {
        self.sending = Half::Ended;
    }

    /// RESET was sent. Also after FIN: the peer may still be sending.
    pub(super) fn reset(&mut self) {
        self.sending = Half::Reset;
    }

    /// A frame of another generation: only a RESET of the stream before may have
    /// crossed that stream's end, and only one.
    fn crossed(&mut self, frame: &Frame) -> Result<Event, ProtocolError> {
        let may_cross = frame.kind == Kind::Reset && next(frame.generation) == self.generation;
        if may_cross && !std::mem::replace(&mut self.crossed, true) {
            Ok(Event::Skip)
        } else {
            Err(ProtocolError::BadGeneration)
        }
    }

    /// Takes a frame that arrived while this stream is the current one.
    pub(super) fn receive(
        &mut self,
        frame: &Frame,
        payload: &[u8],
    ) -> Result<Event, ProtocolError> {
        if frame.kind == Kind::Goaway {
            return Ok(Event::Goaway { last: payload[0] });
        }
        if frame.generation != self.generation {
            return self.crossed(frame);
        }
        if !self.may_receive() {
            // The peer's application failed after its FIN.
            return match frame.kind {
                Kind::Reset if self.may_send() => Ok(Event::Reset(reset_reason(payload))),
                Kind::Reset => Ok(Event::Skip),
                _ => Err(ProtocolError::AfterEnd),
            };
        }
        let dropping = self.sending == Half::Reset;
        match frame.kind {
            Kind::Reset => {
                self.receiving = Half::Reset;
                Ok(if dropping {
                    Event::Skip
                } else {
                    Event::Reset(reset_reason(payload))
                })
            }
            Kind::Accept if self.role == Role::Client && !self.accepted => {
                self.accepted = true;
                Ok(Event::Accepted)
            }
            Kind::Data | Kind::Fin if self.role == Role::Client && !self.accepted => {
                Err(ProtocolError::BeforeAccept)
            }
            Kind::Data if dropping => Ok(Event::Skip),
            Kind::Data => Ok(Event::Data),
            Kind::Fin => {
                self.receiving = Half::Ended;
                Ok(if dropping { Event::Skip } else { Event::Fin })
            }
            Kind::Accept | Kind::Open | Kind::Goaway => Err(ProtocolError::OutOfPlace),
        }
    }
}

/// The generation of the stream after `generation`.
pub(super) fn next(generation: u8) -> u8 {
    (generation + 1) % GENERATIONS
}

/// The generation of the stream before `generation`.
pub(super) fn previous(generation: u8) -> u8 {
    (generation + GENERATIONS - 1) % GENERATIONS
}

/// What a frame means between two streams, for the end that takes streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Between {
    Open,
    Goaway,
    Skip,
}

/// `last`: generation of the stream that is over; the next one's is expected.
pub(super) fn between(frame: &Frame, last: u8) -> Result<Between, ProtocolError> {
    match frame.kind {
        Kind::Open if frame.generation == next(last) => Ok(Between::Open),
        Kind::Goaway => Ok(Between::Goaway),
        Kind::Reset if frame.generation == last => Ok(Between::Skip),
        _ => Err(ProtocolError::OutOfPlace),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: Kind, generation: u8) -> Frame {
        Frame {
            kind,
            generation,
            start: 0,
            len: 0,
        }
    }

    #[test]
    fn a_stream_is_over_when_both_directions_have_ended() {
        let mut client = Stream::new(Role::Client, 3);
        let mut take = |kind| client.receive(&frame(kind, 3), &[0, 0]);
        assert_eq!(take(Kind::Data), Err(ProtocolError::BeforeAccept));
        assert_eq!(take(Kind::Accept), Ok(Event::Accepted));
        assert_eq!(take(Kind::Data), Ok(Event::Data));
        assert_eq!(take(Kind::Fin), Ok(Event::Fin));
        assert_eq!(take(Kind::Data), Err(ProtocolError::AfterEnd));
        assert!(!client.is_over());
        client.fin();
        assert!(client.is_over());
    }

    #[test]
    fn what_comes_after_our_reset_is_dropped_until_the_peer_has_ended_too() {
        let mut server = Stream::new(Role::Server, 0);
        server.reset();
        assert_eq!(server.receive(&frame(Kind::Data, 0), &[]), Ok(Event::Skip));
        assert!(!server.is_over());
        assert_eq!(
            server.receive(&frame(Kind::Reset, 0), &[4]),
            Ok(Event::Skip)
        );
        assert!(server.is_over());
    }

    #[test]
    fn a_reset_after_fin_still_reaches_a_side_that_sends() {
        let mut client = Stream::new(Role::Client, 0);
        let _accepted = client.receive(&frame(Kind::Accept, 0), &[]);
        let _fin = client.receive(&frame(Kind::Fin, 0), &[]);
        assert_eq!(
            client.receive(&frame(Kind::Reset, 0), &[0]),
            Ok(Event::Reset(ResetReason::Aborted))
        );
    }

    #[test]
    fn only_one_crossed_reset_of_the_stream_before_is_skipped() {
        let mut stream = Stream::new(Role::Server, 0);
        let before = GENERATIONS - 1;
        assert_eq!(
            stream.receive(&frame(Kind::Reset, before), &[0]),
            Ok(Event::Skip)
        );
        for kind in [Kind::Data, Kind::Fin, Kind::Open, Kind::Reset] {
            assert_eq!(
                stream.receive(&frame(kind, before), &[0]),
                Err(ProtocolError::BadGeneration)
            );
        }
        assert_eq!(
            stream.receive(&frame(Kind::Reset, 7), &[0]),
            Err(ProtocolError::BadGeneration)
        );
    }

    /// Two ends and the frames on the way between them, each in order.
    struct Pair {
        ends: [Stream; 2],
        way: [std::collections::VecDeque<Frame>; 2],
        resets: [bool; 2],
    }

    impl Pair {
        fn new(generation: u8) -> Self {
            let mut server = Stream::new(Role::Server, generation);
            server.accept();
            let mut pair = Self {
                ends: [Stream::new(Role::Client, generation), server],
                way: Default::default(),
                resets: [false; 2],
            };
            pair.way[0].push_back(frame(Kind::Accept, generation));
            pair
        }

        fn send(&mut self, from: usize, kind: Kind) {
            let end = &mut self.ends[from];
            match kind {
                Kind::Data if end.may_send() => {}
                Kind::Fin if end.may_send() => end.fin(),
                Kind::Reset if !end.is_over() && end.sending != Half::Reset => end.reset(),
                _ => return,
            }
            let generation = end.generation();
            self.way[1 - from].push_back(frame(kind, generation));
        }

        fn deliver(&mut self, to: usize) {
            let Some(frame) = self.way[to].pop_front() else {
                return;
            };
            let event = self.ends[to]
                .receive(&frame, &[0, 0])
                .expect("what the other end sends is always in order");
            if let Event::Reset(_) = event {
                self.resets[to] = true;
                if self.ends[to].may_send() {
                    self.send(to, Kind::Reset);
                }
            }
        }
    }

    proptest! {
        /// Whatever the applications do and however frames cross: no end ever
        /// sees a frame out of order, and both ends agree that it is over.
        #[test]
        fn two_ends_always_agree(steps in proptest::collection::vec((0_usize..2, 0_u8..4), 0..60)) {
            let mut pair = Pair::new(9);
            for (side, what) in steps {
                match what {
                    0 => pair.send(side, Kind::Data),
                    1 => pair.send(side, Kind::Fin),
                    2 => pair.send(side, Kind::Reset),
                    _ => pair.deliver(side),
                }
            }
            for side in [0, 1] {
                pair.send(side, Kind::Fin);
            }
            for _ in 0..200 {
                pair.deliver(0);
                pair.deliver(1);
            }
            prop_assert!(pair.ends.iter().all(Stream::is_over), "{:?}", pair.ends);
        }
    }
}
