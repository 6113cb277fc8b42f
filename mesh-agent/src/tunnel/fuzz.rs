//! A peer that has a good certificate and sends any plaintext it likes.

use super::frame::{self, Frame, HEADER, Kind, Open};
use super::relay::Relay;
use super::stream::{self, Between, Event, Role, Stream};

/// Plaintext of a record in the input is at most this long.
const MAX_RECORD: usize = 512;

/// The input is the role and the generation before, then steps: what the local
/// side does, or a record (its length, and its bytes).
pub(crate) fn frames(bytes: &[u8]) {
    let Some((&first, mut rest)) = bytes.split_first() else {
        return;
    };
    let mut end = Watched::new(first);
    while let Some((&step, behind)) = rest.split_first() {
        rest = behind;
        match step {
            0 if end.role == Role::Server => end.local(Stream::accept),
            0 => {}
            1 => end.local(|s| {
                if s.may_send() {
                    s.fin();
                }
            }),
            2 => end.local(|s| {
                if !s.is_over() {
                    s.reset();
                }
            }),
            _ => {
                let Some((&more, behind)) = rest.split_first() else {
                    return;
                };
                let len = (usize::from(step & 1) << 8 | usize::from(more)).min(MAX_RECORD);
                let (record, behind) = behind.split_at(len.min(behind.len()));
                rest = behind;
                // What a broken protocol ends with is the end of the connection.
                if end.record(record).is_none() {
                    return;
                }
            }
        }
    }
}

/// The stream of one end, and what was seen of it.
struct Watched {
    role: Role,
    /// Of the current stream, or of the last one.
    generation: u8,
    stream: Option<Stream>,
    ended: bool,
    accepted: bool,
}

impl Watched {
    fn new(first: u8) -> Self {
        let role = if first & 1 == 0 {
            Role::Client
        } else {
            Role::Server
        };
        let generation = (first >> 1) % frame::GENERATIONS;
        Self {
            role,
            generation,
            stream: (role == Role::Client).then(|| Stream::new(role, generation)),
            ended: false,
            accepted: false,
        }
    }

    fn local(&mut self, step: impl FnOnce(&mut Stream)) {
        if let Some(stream) = &mut self.stream {
            step(stream);
        }
    }

    /// `None` when the connection is closed by it.
    fn record(&mut self, plaintext: &[u8]) -> Option<()> {
        let mut at = 0;
        while at < plaintext.len() {
            let found = frame::parse(plaintext, at).ok()?;
            assert!(found.start == at + HEADER && found.start + found.len <= plaintext.len());
            let payload = &plaintext[found.start..found.start + found.len];
            at = found.start + found.len;
            if self.stream.as_ref().is_some_and(Stream::is_over) {
                self.stream = None;
            }
            match &mut self.stream {
                Some(stream) => {
                    let event = stream.receive(&found, payload).ok()?;
                    self.judge(&found, event);
                }
                None if self.role == Role::Client => return None,
                None => self.between(&found, plaintext, at)?,
            }
        }
        Some(())
    }

    /// What no application may ever see.
    fn judge(&mut self, found: &Frame, event: Event) {
        let counts = matches!(event, Event::Data | Event::Fin | Event::Accepted);
        if counts {
            assert_eq!(
                found.generation, self.generation,
                "a frame of another stream"
            );
            assert!(!self.ended, "{event:?} after the end of its direction");
        }
        if self.role == Role::Client && matches!(event, Event::Data | Event::Fin) {
            assert!(self.accepted, "{event:?} before ACCEPT");
        }
        match event {
            Event::Accepted => {
                assert!(self.role == Role::Client && !self.accepted);
                self.accepted = true;
            }
            Event::Fin | Event::Reset(_) => self.ended = true,
            Event::Data | Event::Goaway { .. } | Event::Skip => {}
        }
    }

    fn between(&mut self, found: &Frame, plaintext: &[u8], at: usize) -> Option<()> {
        if stream::between(found, self.generation).ok()? != Between::Open {
            return Some(());
        }
        assert_eq!(found.kind, Kind::Open);
        assert_eq!(found.generation, stream::next(self.generation));
        let payload = &plaintext[found.start..found.start + found.len];
        let open = Open::decode(payload).ok()?;
        assert!(open.hops < frame::MAX_HOPS);
        let replay_on = open.encode(found.generation);
        assert_eq!(Open::decode(&replay_on[HEADER..]), Ok(open));
        // Data behind it is kept until the application is there: no more of it
        // than came.
        let mut relay = Relay::server(found.generation);
        let _in_order = relay.take_early(plaintext, at);
        assert!(relay.rest_capacity() <= 2 * plaintext.len());
        self.generation = found.generation;
        self.stream = Some(Stream::new(Role::Server, found.generation));
        self.ended = false;
        Some(())
    }
}

/// One of each kind of step, in order and out of it, as `(name, input)`.
#[cfg(test)]
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let open = Open {
        original: "10.96.0.1:80".parse().expect("an address"),
        source: "[fd00::5]:40000".parse().expect("an address"),
        hops: 1,
        takes_rule: true,
        trace: Some([7; 26]),
    };
    let frame = |kind: Kind, generation: u8, payload: &[u8]| {
        let mut bytes = vec![0; HEADER];
        frame::put_header(&mut bytes, kind, generation, payload.len());
        [&bytes[..], payload].concat()
    };
    let record = |frames: &[Vec<u8>]| {
        let all = frames.concat();
        let [high, low] = u16::try_from(all.len()).expect("short").to_be_bytes();
        [vec![4 | high, low], all].concat()
    };
    // Roles: an even first byte is the client, with that generation.
    let (client, server) = (vec![3 << 1], vec![(2 << 1) | 1]);
    let open = |generation| open.encode(generation).to_vec();
    let request = frame(Kind::Data, 3, b"GET / HTTP/1.1\r\n\r\n");
    let (accept, fin) = (frame(Kind::Accept, 3, &[]), frame(Kind::Fin, 3, &[]));
    let reset = |generation, why| frame(Kind::Reset, generation, &[why]);
    let goaway = |last| frame(Kind::Goaway, last, &[last, 0]);
    let whole = record(&[open(3), request.clone(), fin.clone()]);
    let answer = record(&[accept.clone(), request.clone(), fin.clone()]);
    vec![
        (
            "server-whole",
            [server.clone(), whole.clone(), vec![0, 1]].concat(),
        ),
        (
            "server-two-streams",
            [
                &server[..],
                &whole,
                &[0, 1],
                &record(&[open(4), frame(Kind::Fin, 4, &[])]),
                &[1],
            ]
            .concat(),
        ),
        (
            "server-crossed-reset",
            [
                &server[..],
                &whole,
                &[0, 2],
                &record(&[reset(3, 4)]),
                &record(&[open(4)]),
            ]
            .concat(),
        ),
        ("server-reset", {
            let steps = [record(&[open(3)]), record(&[reset(3, 0)]), vec![2]];
            [server.clone(), steps.concat()].concat()
        }),
        (
            "server-goaway",
            [server.clone(), record(&[goaway(2)])].concat(),
        ),
        (
            "server-wrong-generation",
            [server.clone(), record(&[open(9)])].concat(),
        ),
        (
            "server-data-first",
            [server.clone(), record(std::slice::from_ref(&request))].concat(),
        ),
        (
            "client-whole",
            [client.clone(), answer.clone(), vec![1]].concat(),
        ),
        (
            "client-before-accept",
            [client.clone(), record(&[request, accept])].concat(),
        ),
        (
            "client-dropping",
            [client.clone(), vec![2], answer].concat(),
        ),
        (
            "client-goaway",
            [client.clone(), record(&[goaway(3), goaway(2)])].concat(),
        ),
        (
            "client-unknown",
            [client, record(&[vec![7, 3, 0, 0], fin])].concat(),
        ),
    ]
}
