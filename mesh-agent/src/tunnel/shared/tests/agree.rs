//! Two ends that write, read, open and close at random.

use std::collections::{BTreeMap, VecDeque};
use std::sync::OnceLock;

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::*;

const LOOP: usize = 65_521;
const WIDEST: usize = MAX_WINDOW as usize;

/// What a channel says in a direction, from a place on; another one says something else.
fn pattern(channel: u32, by: Role, from: usize, len: usize) -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = BYTES.get_or_init(|| {
        let mut rng = SmallRng::seed_from_u64(7);
        let mut once = vec![0; LOOP];
        rand::RngExt::fill(&mut rng, &mut once[..]);
        once.repeat(6)
    });
    let at = (channel as usize * 2 + usize::from(by == Role::Server)) * 7_919 + from;
    &bytes[at % LOOP..][..len]
}

/// What one end has of a channel.
#[derive(Debug, Default)]
struct Half {
    id: Cell<u32>,
    written: usize,
    read: usize,
    is_closed: bool,
}

struct End {
    role: Role,
    state: State,
    /// By the number of the client's opening.
    halves: BTreeMap<u32, Half>,
    /// On the way to it.
    way: VecDeque<Vec<u8>>,
}

impl End {
    fn new(role: Role, is_narrow: bool) -> Self {
        let wide = || State::new(role, goaway_before_the_first(), Arc::default());
        Self {
            role,
            state: if is_narrow { narrow(role) } else { wide() },
            halves: BTreeMap::new(),
            way: VecDeque::new(),
        }
    }
}

struct Pair {
    /// The client, and the server.
    ends: [End; 2],
    opened: u32,
}

impl Pair {
    /// `narrow`: the windows of which ends never grow.
    fn new(narrow: [bool; 2]) -> Self {
        let ends = [
            End::new(Role::Client, narrow[0]),
            End::new(Role::Server, narrow[1]),
        ];
        Self { ends, opened: 0 }
    }

    fn open(&mut self) {
        if let Some(id) = self.ends[0].state.open() {
            let half = Half {
                id: Cell::new(id),
                ..Half::default()
            };
            self.ends[0].halves.insert(self.opened, half);
            self.opened += 1;
        }
    }

    /// One of those that the end has open.
    fn pick(&self, side: usize, of: usize) -> Option<u32> {
        let open = self.ends[side]
            .halves
            .iter()
            .filter(|(_, half)| !half.is_closed);
        let open: Vec<u32> = open.map(|(number, _)| *number).collect();
        open.get(of % open.len().max(1)).copied()
    }

    fn write(&mut self, side: usize, number: u32, len: usize) {
        let came = self.ends[1 - side]
            .halves
            .get(&number)
            .map_or(0, |half| half.read);
        let End {
            role,
            state,
            halves,
            ..
        } = &mut self.ends[side];
        let half = halves.get_mut(&number).expect("it was picked");
        if state.pipe(half.id.get()).is_none_or(|pipe| pipe.is_closed) {
            return;
        }
        let before = half.id.get();
        let sent = state.write(&half.id, pattern(number, *role, half.written, len));
        assert!(half.id.get() == before || sent > 0);
        half.written += sent;
        assert!(half.written - came <= WIDEST, "beyond the window");
        let may = state.may_write(half.id.get(), Waker::noop());
        assert!(sent == len || !may, "who may write has written all");
    }

    fn read(&mut self, side: usize, number: u32, len: usize) -> usize {
        let mut buffer = vec![0; len];
        let is_taken = self.ends[1].halves.contains_key(&number);
        let End {
            role,
            state,
            halves,
            ..
        } = &mut self.ends[side];
        let half = halves.get_mut(&number).expect("it was picked");
        let n = state.read(half.id.get(), &mut buffer);
        let other = match role {
            Role::Client => Role::Server,
            Role::Server => Role::Client,
        };
        if is_taken {
            let expected = pattern(number, other, half.read, n);
            assert!(buffer[..n] == *expected, "bytes of another channel");
        } else {
            let refusal = &goaway_before_the_first()[half.read..];
            assert_eq!(&buffer[..n], &refusal[..n], "refused, and nothing else");
        }
        half.read += n;
        n
    }

    fn close(&mut self, side: usize, number: u32) {
        let End { state, halves, .. } = &mut self.ends[side];
        let half = halves.get_mut(&number).expect("it was picked");
        half.is_closed = true;
        state.close(half.id.get());
    }

    /// What an end has to say is on its way.
    fn send(&mut self, side: usize) {
        let records = self.ends[side].state.outbox.take_plaintext();
        self.ends[side].state.sent(&mut Wakers::new());
        self.ends[1 - side].way.extend(records);
    }

    fn deliver(&mut self, side: usize) {
        let Some(plaintext) = self.ends[side].way.pop_front() else {
            return;
        };
        take(&mut self.ends[side].state, &plaintext).expect("a good peer");
        while let (1, Some(id)) = (side, self.ends[side].state.take_opened()) {
            let mut halves = self.ends[0].halves.iter();
            let (number, _) = halves
                .find(|(_, half)| half.id.get() == id)
                .expect("it opened it");
            let half = Half {
                id: Cell::new(id),
                ..Half::default()
            };
            let before = self.ends[1].halves.insert(*number, half);
            assert!(before.is_none(), "a channel is opened once");
        }
        let End { state, .. } = &self.ends[side];
        assert!(state.held() <= state.open_channels() * 2 * WIDEST);
    }

    /// Until nothing is on its way, and nobody has anything to read.
    fn settle(&mut self) {
        loop {
            let mut moved = 0;
            for side in [0, 1] {
                self.send(side);
                while !self.ends[1 - side].way.is_empty() {
                    self.deliver(1 - side);
                    moved += 1;
                }
                let open: Vec<u32> = self.ends[side].halves.keys().copied().collect();
                for number in open {
                    if !self.ends[side].halves[&number].is_closed {
                        moved += self.read(side, number, WIDEST);
                    }
                }
            }
            if moved == 0 {
                return;
            }
        }
    }

    /// All that one end has said, the other one has read, where it has not left before.
    fn agree(&self) {
        for (number, near) in &self.ends[0].halves {
            let Some(far) = self.ends[1].halves.get(number) else {
                let refusal = goaway_before_the_first().len();
                let is_refused = near.written > 0 && (near.is_closed || near.read == refusal);
                assert!(is_refused || near.written == 0, "{number}: {near:?}");
                continue;
            };
            assert_eq!(near.id, far.id);
            for (from, to) in [(near, far), (far, near)] {
                assert!(to.read <= from.written);
                assert!(to.is_closed || to.read == from.written, "{from:?}, {to:?}");
            }
        }
    }
}

type Step = (u8, usize, usize, usize);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let len = prop_oneof![1_usize..100, 1_usize..60_000];
    proptest::collection::vec((0_u8..24, 0_usize..2, 0_usize..40, len), 0..400)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever the two ends do, and whenever what they say arrives.
    #[test]
    fn a_byte_of_one_channel_never_reaches_another_and_none_is_lost(
        steps in steps(),
        goes_away in prop::option::of(0_usize..400),
        narrow in any::<[bool; 2]>(),
    ) {
        let mut pair = Pair::new(narrow);
        for (at, (what, side, of, len)) in steps.into_iter().enumerate() {
            if goes_away == Some(at) {
                pair.ends[1].state.close_when_empty();
            }
            let picked = pair.pick(side, of);
            match (what, picked) {
                (0..=2, _) => pair.open(),
                (3, Some(number)) => pair.close(side, number),
                (4..=11, Some(number)) => pair.write(side, number, len),
                (12..=15, Some(number)) => {
                    pair.read(side, number, len);
                }
                (16..=19, _) => pair.send(side),
                _ => pair.deliver(side),
            }
        }
        pair.settle();
        pair.agree();
        for side in [0, 1] {
            while let Some(number) = pair.pick(side, 0) {
                pair.close(side, number);
            }
        }
        pair.settle();
        for end in &pair.ends {
            prop_assert_eq!((end.state.open_channels(), end.state.held()), (0, 0));
            prop_assert!(end.state.outbox.is_empty());
            prop_assert_eq!(end.state.is_over(), end.state.is_closing());
        }
    }
}
