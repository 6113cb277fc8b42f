//! A peer that has a good certificate and sends any plaintext it likes on a shared connection.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::frame::{self, HEADER, Kind};
use super::outbox::FLOODED;
use super::pipe::{MAX_WINDOW, WINDOW};
use super::state::{MAX_CHANNELS, State, Wakers};
use crate::tls::MAX_PLAINTEXT;
use crate::tunnel::broken::Broken;
use crate::tunnel::layer::goaway_before_the_first;
use crate::tunnel::stream::Role;

/// Plaintext of a record in the input is at most this long.
const MAX_RECORD: usize = 4096;
/// Units of what this end writes and reads.
const UNIT: usize = 512;
/// What one record of the input is answered by at most, and more.
const ANSWERS: usize = 4 * MAX_RECORD;

/// The input is the role, then steps: what this end does (and how much of it, on which of its
/// channels), or a record (its length, and its bytes).
pub(crate) fn shared(bytes: &[u8]) {
    let Some((&role, mut rest)) = bytes.split_first() else {
        return;
    };
    let mut end = Watched::new(match role & 1 {
        0 => Role::Client,
        _ => Role::Server,
    });
    while let [step, more, behind @ ..] = rest {
        rest = behind;
        let more = usize::from(*more);
        match step {
            0 => end.open(),
            1 => end.write(more),
            2 => end.read(more),
            3 => end.close(more),
            4 => end.state.close_when_empty(),
            5 => end.send(),
            _ => {
                let len = (usize::from(step & 15) << 8 | more).min(MAX_RECORD);
                let (record, behind) = behind.split_at(len.min(behind.len()));
                rest = behind;
                // What a broken protocol ends with is the end of the connection.
                if end.record(record).is_none() {
                    end.breaks();
                    return;
                }
            }
        }
        end.judge();
    }
    end.leaves();
}

/// Both directions of a channel, as they were seen.
struct Seen {
    /// What the peer said, and was not read.
    came: Vec<u8>,
    /// The peer may take so much more.
    to_go: usize,
}

/// One end, and what was seen of it.
struct Watched {
    role: Role,
    state: State,
    /// Of this end, each by its id of now.
    handles: Vec<Cell<u32>>,
    /// What both ends know of, until its handle is gone.
    seen: BTreeMap<u32, Seen>,
    /// The last channel that was opened, as both ends count them.
    last: u32,
    is_going_away: bool,
}

impl Watched {
    fn new(role: Role) -> Self {
        Self {
            role,
            state: State::new(role, goaway_before_the_first(), Arc::default()),
            handles: Vec::new(),
            seen: BTreeMap::new(),
            last: 0,
            is_going_away: false,
        }
    }

    /// Of this end's, or the next one of the peer's.
    fn open(&mut self) {
        let id = match self.role {
            Role::Client => self.state.open(),
            Role::Server => self.state.take_opened(),
        };
        if let (Role::Server, Some(id)) = (self.role, id) {
            assert!(self.seen.contains_key(&id), "{id} was not opened");
            let is_next = self.handles.iter().all(|other| other.get() < id);
            assert!(is_next, "{id} was opened before");
        }
        self.handles.extend(id.map(Cell::new));
    }

    fn handle(&self, of: usize) -> Option<&Cell<u32>> {
        self.handles.get(of % self.handles.len().max(1))
    }

    fn write(&mut self, more: usize) {
        let Some(id) = self.handles.get(more % self.handles.len().max(1)) else {
            return;
        };
        let before = id.get();
        let is_open = self.state.pipe(before).is_some_and(|pipe| !pipe.is_closed);
        let wanted = more * UNIT;
        let sent = match is_open {
            true => self.state.write(id, &vec![7; wanted]),
            false => 0,
        };
        assert!(sent <= wanted);
        if id.get() != before {
            assert!(self.role == Role::Client && sent > 0);
            self.last += 1;
            assert_eq!(id.get(), self.last, "ids are given in the order of speech");
            self.seen.insert(self.last, Seen::new());
        }
        if sent > 0 {
            let seen = self.seen.get_mut(&id.get()).expect("a channel");
            seen.to_go = seen.to_go.checked_sub(sent).expect("within the window");
        }
    }

    fn read(&mut self, more: usize) {
        let Some(id) = self.handle(more).map(Cell::get) else {
            return;
        };
        let mut buffer = vec![0; more * UNIT + 1];
        let n = self.state.read(id, &mut buffer);
        match self.seen.get_mut(&id) {
            Some(seen) => {
                let expected = seen.came.drain(..n.min(seen.came.len()));
                assert!(
                    expected.eq(buffer[..n].iter().copied()),
                    "another channel's"
                );
            }
            None => assert_eq!(n, 0, "nobody knows of it"),
        }
    }

    fn close(&mut self, of: usize) {
        if !self.handles.is_empty() {
            let id = self.handles.remove(of % self.handles.len()).get();
            self.state.close(id);
            self.seen.remove(&id);
        }
    }

    /// What is sent is what a peer may be sent.
    fn send(&mut self) {
        let records = self.state.outbox.take_plaintext();
        self.state.sent(&mut Wakers::new());
        let all: usize = records.iter().map(Vec::len).sum();
        assert!(all <= FLOODED + ANSWERS, "{all} bytes were kept");
        for plaintext in records {
            assert!(!plaintext.is_empty() && plaintext.len() <= MAX_PLAINTEXT);
            let mut at = 0;
            while at < plaintext.len() {
                let found = frame::parse(&plaintext, at).expect("a good frame");
                at = found.start + found.len;
                assert!(found.channel <= self.last, "of a channel that is not open");
                if found.kind == Kind::Goaway {
                    assert!(self.role == Role::Server && !self.is_going_away);
                    self.is_going_away = true;
                }
            }
        }
    }

    /// `None` when the connection is closed by it.
    fn record(&mut self, plaintext: &[u8]) -> Option<()> {
        if self.state.outbox.is_flooded() {
            // Nothing is read meanwhile.
            self.send();
        }
        let goes_away = self.state.is_closing();
        let frames = self.state.take(plaintext, &mut Wakers::new()).ok()?;
        let (mut at, mut count) = (0, 0);
        while at < plaintext.len() {
            let found = frame::parse(plaintext, at).expect("it was taken");
            assert_eq!(found.start, at + HEADER);
            at = found.start + found.len;
            count += 1;
            let payload = &plaintext[found.start..at];
            self.frame(found.kind, found.channel, payload, goes_away);
        }
        assert_eq!(frames, count);
        Some(())
    }

    fn frame(&mut self, kind: Kind, id: u32, payload: &[u8], goes_away: bool) {
        if kind == Kind::Goaway {
            assert_eq!(self.role, Role::Client);
            return;
        }
        if id > self.last {
            let opens = (self.role, kind, id) == (Role::Server, Kind::Data, self.last + 1);
            assert!(opens, "{kind:?} of {id} behind {}", self.last);
            self.last = id;
            if !goes_away && self.seen.len() < MAX_CHANNELS {
                self.seen.insert(id, Seen::new());
            }
        }
        let Some(seen) = self.seen.get_mut(&id) else {
            return;
        };
        match kind {
            Kind::Data => seen.came.extend_from_slice(payload),
            Kind::Window => {
                let bytes = payload.try_into().expect("four bytes");
                seen.to_go += u32::from_be_bytes(bytes) as usize;
            }
            Kind::Close | Kind::Goaway => {}
        }
        let most = MAX_WINDOW as usize;
        assert!(seen.came.len() <= most && seen.to_go <= most);
    }

    fn judge(&self) {
        let channels = self.state.open_channels();
        assert!(channels <= MAX_CHANNELS);
        let held = self.state.held();
        assert!(
            held <= channels * 2 * MAX_WINDOW as usize,
            "{held} bytes held"
        );
    }

    /// Whoever has a channel finds its end.
    fn breaks(&mut self) {
        self.state.broke(Broken::Lost, &mut Wakers::new());
        for id in &self.handles {
            let pipe = self.state.pipe(id.get()).expect("its handle is there");
            assert!(pipe.is_closed && pipe.is_readable());
        }
    }

    /// Nothing is left where nobody has a channel any more.
    fn leaves(mut self) {
        while let (Role::Server, Some(id)) = (self.role, self.state.take_opened()) {
            self.handles.push(Cell::new(id));
        }
        for id in std::mem::take(&mut self.handles) {
            self.state.close(id.get());
        }
        self.send();
        let left = (self.state.open_channels(), self.state.held());
        assert_eq!(left, (0, 0));
        assert!(self.state.outbox.is_empty());
    }
}

impl Seen {
    fn new() -> Self {
        Self {
            came: Vec::new(),
            to_go: WINDOW as usize,
        }
    }
}

/// Both roles, in order and out of it, as `(name, input)`.
#[cfg(test)]
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let frame = |kind, channel, payload: &[u8]| {
        let header = frame::header(kind, channel, payload.len());
        [&header[..], payload].concat()
    };
    let record = |frames: &[Vec<u8>]| {
        let all = frames.concat();
        let [high, low] = u16::try_from(all.len()).expect("short").to_be_bytes();
        [vec![16 | high, low], all].concat()
    };
    let data = |channel| frame(Kind::Data, channel, b"\x17\x03\x03\x00\x04\x01\x00\x00\x00");
    let close = |channel| frame(Kind::Close, channel, &[]);
    let window = |channel, bytes: u32| frame(Kind::Window, channel, &bytes.to_be_bytes());
    let goaway = || frame(Kind::Goaway, 0, &[]);
    let full = |channel| {
        let some = record(&[frame(Kind::Data, channel, &[7; 4000])]);
        some.repeat(3)
    };
    let bound = u32::try_from(MAX_CHANNELS).expect("few");
    let many: Vec<Vec<u8>> = (1..=bound + 9)
        .map(|id| frame(Kind::Data, id, b"a"))
        .collect();
    let (server, client) = (vec![1], vec![0]);
    let steps = |first: &[u8], steps: &[Vec<u8>]| [first, &steps.concat()].concat();
    let two_opened = || vec![0, 0, 0, 0, 1, 1, 1, 2, 5, 0];
    vec![
        (
            "server-two-channels",
            steps(
                &server,
                &[
                    record(&[data(1), data(2), data(1)]),
                    vec![0, 0, 0, 0, 2, 1, 1, 2, 5, 0],
                    record(&[window(1, 100), close(2), data(1)]),
                    vec![2, 1, 3, 0, 5, 0],
                ],
            ),
        ),
        (
            "server-closes-first",
            steps(
                &server,
                &[
                    record(&[data(1)]),
                    vec![0, 0, 3, 0],
                    record(&[data(1), window(1, 1), close(1), data(2)]),
                ],
            ),
        ),
        ("server-beyond-the-window", steps(&server, &[full(1)])),
        ("server-out-of-order", steps(&server, &[record(&[data(2)])])),
        (
            "server-goes-away",
            steps(
                &server,
                &[
                    record(&[data(1)]),
                    vec![4, 0],
                    record(&[data(2), data(3), data(2), close(1)]),
                    vec![5, 0],
                ],
            ),
        ),
        (
            "server-many",
            steps(&server, &many.chunks(400).map(record).collect::<Vec<_>>()),
        ),
        (
            "client-two-channels",
            steps(
                &client,
                &[
                    two_opened(),
                    record(&[data(1), data(2), window(1, 512), close(2)]),
                    vec![2, 0, 2, 1, 3, 0, 5, 0],
                ],
            ),
        ),
        (
            "client-goaway-twice",
            steps(&client, &[two_opened(), record(&[goaway(), goaway()])]),
        ),
        (
            "client-not-opened",
            steps(&client, &[two_opened(), record(&[data(3)])]),
        ),
        (
            "client-after-close",
            steps(&client, &[two_opened(), record(&[close(1), close(1)])]),
        ),
    ]
}
