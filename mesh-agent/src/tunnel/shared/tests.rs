//! Channels without sockets: what peers may say, and must not.

mod agree;
mod room;

use std::cell::Cell;
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};
use std::time::Duration;

use super::frame::{Kind, header};
use super::outbox::FULL;
use super::pipe::{MAX_WINDOW, WINDOW};
use super::state::{MAX_CHANNELS, State, Wakers};
use super::{FRESH, SharedConnection};
use crate::io::Account;
use crate::tunnel::ProtocolError;
use crate::tunnel::broken::Broken;
use crate::tunnel::layer::goaway_before_the_first;
use crate::tunnel::stream::Role;

const WHOLE: usize = WINDOW as usize;

impl SharedConnection {
    /// As if the socket had brought them.
    pub(in crate::tunnel) fn bring(&self, sealed: &[u8]) {
        self.io.borrow_mut().received.extend(sealed);
    }

    /// As if nothing had been heard for long.
    pub(in crate::tunnel) fn heard_long_ago(&self) {
        let long_ago = self.heard.get() - (FRESH + Duration::from_secs(1));
        self.heard.set(long_ago);
    }

    pub(in crate::tunnel) fn tcp(&self) -> &tokio::net::TcpStream {
        &self.tcp
    }

    /// Memory of what readers have not taken.
    pub(crate) fn held(&self) -> usize {
        self.state.borrow().held()
    }

    /// It has said nothing yet.
    pub(in crate::tunnel) fn is_quiet(&self) -> bool {
        self.state.borrow().outbox.is_empty()
    }

    /// It does not want the other end any more.
    pub(in crate::tunnel) fn say_alert(&self, description: u8) {
        let io = &mut *self.io.borrow_mut();
        let alert = io.records.fatal_alert(description).expect("sealed");
        io.unsent.extend(&alert);
    }

    /// Nothing more is read before it is sent.
    pub(in crate::tunnel) fn flood(&self) {
        let mut state = self.state.borrow_mut();
        while !state.outbox.is_flooded() {
            state.outbox.push(Kind::Window, 1, &[0, 0, 0, 1]);
        }
    }

    /// What waits for the socket to take more.
    pub(in crate::tunnel) fn unsealed(&self) -> usize {
        self.state.borrow().outbox.len()
    }

    /// Nothing waits, for any reader or for the socket.
    pub(in crate::tunnel) fn is_empty(&self) -> bool {
        let state = self.state.borrow();
        state.held() == 0 && state.outbox.is_empty() && self.io.borrow().unsent.is_empty()
    }
}

/// Of windows that never grow.
fn narrow(role: Role) -> State {
    let (account, _held) = Account::alone(0, 0);
    State::new(role, goaway_before_the_first(), Arc::new(account))
}

fn client() -> State {
    narrow(Role::Client)
}

fn server() -> State {
    narrow(Role::Server)
}

fn frame(kind: Kind, channel: u32, payload: &[u8]) -> Vec<u8> {
    [&header(kind, channel, payload.len()), payload].concat()
}

fn data(channel: u32, len: usize) -> Vec<u8> {
    frame(Kind::Data, channel, &vec![7; len])
}

fn close(channel: u32) -> Vec<u8> {
    frame(Kind::Close, channel, &[])
}

fn window(channel: u32, bytes: u32) -> Vec<u8> {
    frame(Kind::Window, channel, &bytes.to_be_bytes())
}

fn goaway() -> Vec<u8> {
    frame(Kind::Goaway, 0, &[])
}

/// Frames as `docs/protocol.md` shows them.
pub(in crate::tunnel) fn example() -> Vec<Vec<u8>> {
    let mut far = server();
    take(&mut far, &data(1, 1)).expect("a channel");
    far.close_when_empty();
    take(&mut far, &data(2, 1)).expect("it crosses");
    let said = said(&mut far);
    let (goaway, refusal) = said.split_at(goaway().len());
    let (data, closed) = refusal.split_at(refusal.len() - close(2).len());
    let told = [goaway, data, closed].map(<[u8]>::to_vec);
    [vec![window(1, 4096), close(1)], told.to_vec()].concat()
}

fn take(state: &mut State, plaintext: &[u8]) -> Result<usize, ProtocolError> {
    state.take(plaintext, &mut Wakers::new())
}

/// All that an end has to say.
fn said(state: &mut State) -> Vec<u8> {
    let records = state.outbox.take_plaintext();
    state.sent(&mut Wakers::new());
    records.concat()
}

/// What one end has to say, the other one takes.
fn hand_over(from: &mut State, to: &mut State) {
    for plaintext in from.outbox.take_plaintext() {
        take(to, &plaintext).expect("an end keeps to the protocol");
    }
    from.sent(&mut Wakers::new());
}

/// A channel of a client that has said `bytes`.
fn speaking(client: &mut State, bytes: &[u8]) -> Cell<u32> {
    let id = Cell::new(client.open().expect("room"));
    assert_eq!(client.write(&id, bytes), bytes.len());
    id
}

fn speaking_as_far_as_it_goes(client: &mut State) {
    let id = Cell::new(client.open().expect("room"));
    assert!(client.write(&id, &[7; 2 * WHOLE]) <= WHOLE);
}

/// It takes nothing more, however small.
fn full() -> State {
    let mut near = client();
    while near.outbox.takes(2 * WHOLE) {
        speaking_as_far_as_it_goes(&mut near);
    }
    while near.outbox.takes(0) {
        speaking(&mut near, &[7; 1000]);
    }
    near
}

fn read_all(state: &mut State, id: u32) -> Vec<u8> {
    let mut buffer = vec![0; 2 * WHOLE];
    let n = state.read(id, &mut buffer);
    buffer.truncate(n);
    buffer
}

/// Says in which order whoever waits is woken.
struct Noted(u32, Arc<Mutex<Vec<u32>>>);

impl Wake for Noted {
    fn wake(self: Arc<Self>) {
        self.1.lock().expect("no panic").push(self.0);
    }
}

type Woken = Arc<Mutex<Vec<u32>>>;

fn noted(name: u32, woken: &Woken) -> Waker {
    Arc::new(Noted(name, woken.clone())).into()
}

fn run(wakers: Wakers, woken: &Woken) -> Vec<u32> {
    wakers.into_iter().for_each(Waker::wake);
    std::mem::take(&mut woken.lock().expect("no panic"))
}

#[test]
fn what_a_client_must_not_say_breaks_the_protocol() {
    use ProtocolError::{AfterEnd, BadFrame, OutOfPlace, UnknownFrame, Window};
    for (what, frames, error) in [
        ("the second channel first", vec![data(2, 1)], OutOfPlace),
        ("no channel", vec![data(0, 1)], OutOfPlace),
        ("a gap", vec![data(1, 1), data(3, 1)], OutOfPlace),
        ("an early close", vec![close(1)], OutOfPlace),
        ("a window of nothing", vec![window(1, 1)], OutOfPlace),
        ("a goaway", vec![goaway()], OutOfPlace),
        (
            "beyond the window",
            vec![data(1, WHOLE / 2), data(1, WHOLE / 2), data(1, 1)],
            Window,
        ),
        ("at once beyond it", vec![data(1, WHOLE + 1)], Window),
        ("a window of 0", vec![data(1, 1), window(1, 0)], Window),
        (
            "the widest and more",
            vec![data(1, 1), window(1, MAX_WINDOW - WINDOW + 1)],
            Window,
        ),
        (
            "a window that wraps",
            vec![data(1, 1), window(1, u32::MAX)],
            Window,
        ),
        (
            "data behind a close",
            vec![data(1, 1), close(1), data(1, 1)],
            AfterEnd,
        ),
        (
            "a window behind it",
            vec![data(1, 1), close(1), window(1, 1)],
            AfterEnd,
        ),
        (
            "a second close",
            vec![data(1, 1), close(1), close(1)],
            AfterEnd,
        ),
        ("what is no frame", vec![vec![1, 0, 0]], BadFrame),
        (
            "an unknown one",
            vec![data(1, 1), vec![5, 0, 0, 0, 0, 0, 0, 1]],
            UnknownFrame,
        ),
    ] {
        let (mut alone, mut together) = (server(), server());
        assert_eq!(take(&mut together, &frames.concat()), Err(error), "{what}");
        let (last, before) = frames.split_last().expect("frames");
        for plaintext in before {
            assert_eq!(take(&mut alone, plaintext), Ok(1), "{what}");
        }
        assert_eq!(take(&mut alone, last), Err(error), "{what}");
    }
}

#[test]
fn what_a_server_must_not_say_breaks_the_protocol() {
    use ProtocolError::{AfterEnd, OutOfPlace, Window};
    for (what, frames, error) in [
        ("a channel of its own", vec![data(3, 1)], OutOfPlace),
        ("one that has said nothing", vec![data(2, 1)], OutOfPlace),
        (
            "what that one goes by here",
            vec![data((1 << 31) + 1, 1)],
            OutOfPlace,
        ),
        ("a second goaway", vec![goaway(), goaway()], OutOfPlace),
        (
            "beyond the window",
            vec![data(1, WHOLE), data(1, 1)],
            Window,
        ),
        (
            "the widest and more",
            vec![window(1, MAX_WINDOW - WINDOW + 6)],
            Window,
        ),
        (
            "the same in two",
            vec![window(1, MAX_WINDOW - WINDOW + 5), window(1, 1)],
            Window,
        ),
        ("data behind a close", vec![close(1), data(1, 1)], AfterEnd),
        ("a second close", vec![close(1), close(1)], AfterEnd),
    ] {
        let mut state = client();
        let _first = speaking(&mut state, b"hello");
        let _silent = state.open().expect("room");
        assert_eq!(take(&mut state, &frames.concat()), Err(error), "{what}");
    }
}

#[test]
fn ids_are_given_in_the_order_in_which_channels_speak() {
    let (mut near, mut far) = (client(), server());
    let [first, second, third] = [(); 3].map(|()| Cell::new(near.open().expect("room")));
    assert_eq!(near.write(&second, b"second"), 6);
    near.close(third.get());
    assert_eq!(near.write(&first, b"first"), 5);
    assert_eq!((second.get(), first.get()), (1, 2));
    hand_over(&mut near, &mut far);
    assert_eq!(far.take_opened(), Some(1));
    assert_eq!(far.take_opened(), Some(2));
    assert_eq!(far.take_opened(), None);
    assert_eq!(read_all(&mut far, 1), b"second");
    assert_eq!(read_all(&mut far, 2), b"first");
}

#[test]
fn a_channel_that_said_nothing_ends_without_a_word() {
    let mut near = client();
    let id = near.open().expect("room");
    assert_eq!(near.write(&Cell::new(id), b""), 0);
    near.close(id);
    assert_eq!(near.open_channels(), 0);
    assert!(near.outbox.is_empty());
}

#[test]
fn what_comes_late_for_a_channel_that_was_closed_here_is_dropped() {
    let mut far = server();
    take(&mut far, &data(1, 9)).expect("a channel");
    assert_eq!(far.take_opened(), Some(1));
    far.close(1);
    assert_eq!(said(&mut far), close(1));
    let late = [data(1, WHOLE), data(1, WHOLE / 2), window(1, 1), close(1)].concat();
    assert_eq!(take(&mut far, &late), Ok(4));
    assert_eq!((far.open_channels(), far.held()), (0, 0));
    assert!(far.outbox.is_empty() && far.take_opened().is_none());
    assert_eq!(take(&mut far, &data(2, 1)), Ok(1), "the next one is taken");
    assert_eq!(far.take_opened(), Some(2));
}

#[test]
fn a_channel_beyond_the_bound_is_refused_until_another_one_has_ended() {
    let mut far = server();
    let bound = MAX_CHANNELS as u32;
    for id in 1..=bound {
        take(&mut far, &data(id, 1)).expect("a channel");
        assert_eq!(far.take_opened(), Some(id));
    }
    assert!(far.outbox.is_empty());
    take(&mut far, &[data(bound + 1, 1), data(bound + 1, 1)].concat()).expect("refused");
    let refusal = frame(Kind::Data, bound + 1, &goaway_before_the_first());
    assert_eq!(said(&mut far), [refusal, close(bound + 1)].concat());
    assert_eq!(far.take_opened(), None);
    assert_eq!(far.open_channels(), MAX_CHANNELS);
    far.close(5);
    take(&mut far, &data(bound + 2, 1)).expect("a channel");
    assert_eq!(far.take_opened(), Some(bound + 2));
}

#[test]
fn a_client_opens_no_more_than_the_bound_and_none_behind_a_goaway() {
    let mut near = client();
    let ids: Vec<u32> = std::iter::from_fn(|| near.open()).collect();
    assert_eq!(ids.len(), MAX_CHANNELS);
    near.close(ids[7]);
    assert!(near.has_room());
    take(&mut near, &goaway()).expect("once");
    assert!(near.is_closing() && near.open().is_none());
    assert!(!near.is_over());
    ids.iter().for_each(|id| near.close(*id));
    assert!(near.is_over());
}

#[test]
fn a_server_that_goes_away_says_so_once_and_refuses_what_crosses_it() {
    let mut far = server();
    take(&mut far, &data(1, 1)).expect("a channel");
    assert_eq!(far.take_opened(), Some(1));
    far.close_when_empty();
    far.close_when_empty();
    assert_eq!(said(&mut far), goaway());
    take(&mut far, &data(2, 1)).expect("it crossed");
    let refusal = frame(Kind::Data, 2, &goaway_before_the_first());
    assert_eq!(said(&mut far), [refusal, close(2)].concat());
    take(&mut far, &data(1, 5)).expect("what is open goes on");
    assert_eq!(read_all(&mut far, 1), [7; 6]);
    assert!(!far.is_over());
    far.close(1);
    assert!(far.is_over());
}

#[test]
fn a_reader_that_stands_still_has_its_window_and_the_others_go_on() {
    let (mut near, mut far) = (client(), server());
    let (stuck, busy) = (speaking(&mut near, b"a"), speaking(&mut near, b"b"));
    let mut written = 1;
    for turn in 0..100 {
        written += near.write(&stuck, &[1; 3000]);
        let sent = near.write(&busy, &[2; 3000]);
        assert_eq!(sent, 3000, "turn {turn}");
        hand_over(&mut near, &mut far);
        let came = read_all(&mut far, busy.get());
        assert!(came.iter().all(|byte| [2, b'b'].contains(byte)));
        hand_over(&mut far, &mut near);
        assert!(far.held() <= 2 * WHOLE, "{}", far.held());
    }
    assert_eq!(written, WHOLE);
    assert!(!near.may_write(stuck.get(), Waker::noop()));
    assert_eq!(read_all(&mut far, stuck.get()).len(), WHOLE);
    hand_over(&mut far, &mut near);
    assert!(near.may_write(stuck.get(), Waker::noop()));
    assert_eq!(far.held(), 0);
}

#[test]
fn whoever_waits_on_a_channel_hears_of_what_comes_there_and_of_nothing_else() {
    let mut near = client();
    let woken = Woken::default();
    let [one, other] = [(); 2].map(|()| speaking(&mut near, &[7; WHOLE]));
    let listen = |near: &mut State| {
        for id in [&one, &other] {
            let name = 10 * id.get();
            assert!(!near.may_write(id.get(), &noted(name, &woken)));
            let pipe = near.pipe(id.get()).expect("open");
            pipe.read_by(&noted(name + 1, &woken));
        }
    };
    let mut hears = |frames: Vec<u8>| {
        listen(&mut near);
        let mut wakers = Wakers::new();
        near.take(&frames, &mut wakers).expect("in order");
        let woken = run(wakers, &woken);
        for id in [1, 2] {
            near.read(id, &mut [0; 9]);
        }
        woken
    };
    assert_eq!(hears(data(1, 1)), [11]);
    assert_eq!(hears(data(2, 1)), [21]);
    assert_eq!(hears([data(1, 1), data(1, 1)].concat()), [11]);
    assert_eq!(hears(close(1)), [11, 10]);
}

#[test]
fn a_window_wakes_its_writer() {
    let mut near = client();
    let woken = Woken::default();
    let id = speaking(&mut near, &[7; WHOLE]);
    assert!(!near.may_write(id.get(), &noted(1, &woken)));
    let mut wakers = Wakers::new();
    near.take(&window(id.get(), 9), &mut wakers).expect("read");
    assert_eq!(run(wakers, &woken), [1]);
    assert!(near.may_write(id.get(), Waker::noop()));
    assert_eq!(near.write(&id, &[7; 100]), 9);
}

#[test]
fn the_end_of_all_wakes_everybody_and_what_came_before_is_read() {
    let mut near = client();
    let woken = Woken::default();
    let [one, other] = [(); 2].map(|()| speaking(&mut near, b"hello"));
    take(&mut near, &data(one.get(), 3)).expect("within the window");
    for id in [&one, &other] {
        let pipe = near.pipe(id.get()).expect("open");
        pipe.read_by(&noted(id.get(), &woken));
        pipe.written_by(&noted(10 + id.get(), &woken));
    }
    let mut wakers = Wakers::new();
    near.broke(Broken::Lost, &mut wakers);
    let mut names = run(wakers, &woken);
    names.sort_unstable();
    assert_eq!(names, [1, 2, 11, 12]);
    assert!(!near.has_room());
    assert_eq!(read_all(&mut near, one.get()), [7; 3]);
    assert!(read_all(&mut near, one.get()).is_empty());
    near.close(one.get());
    assert!(near.outbox.is_empty(), "there is nobody to tell");
}

#[test]
fn what_is_refused_behind_its_opening_wakes_the_driver_to_say_so() {
    let (mut far, woken) = (server(), Woken::default());
    take(&mut far, &data(1, 1)).expect("a channel");
    assert_eq!(far.take_opened(), Some(1));
    far.driven_by(&noted(1, &woken));
    far.refuse(1);
    assert_eq!(run(Wakers::new(), &woken), [1]);
    let refusal = frame(Kind::Data, 1, &goaway_before_the_first());
    assert_eq!(said(&mut far), [refusal, close(1)].concat());
    assert_eq!(far.open_channels(), 0);
}

#[test]
fn what_was_not_sealed_when_all_ended_never_left() {
    let mut near = client();
    let sealed = speaking(&mut near, b"sealed");
    let _sent = said(&mut near);
    let [fresh, silent] = [
        speaking(&mut near, b"fresh"),
        Cell::new(near.open().expect("room")),
    ];
    assert_eq!(near.write(&sealed, b"more"), 4);
    near.broke(Broken::Lost, &mut Wakers::new());
    for (id, was_sent) in [(sealed, true), (fresh, false), (silent, false)] {
        let pipe = near.pipe(id.get()).expect("its handle is there");
        assert_eq!(pipe.was_sent, was_sent);
    }
    assert!(said(&mut near).is_empty(), "nor does it leave now");
}

#[test]
fn what_ends_in_order_says_all_that_its_channels_had_to_say() {
    let (mut near, mut far) = (client(), server());
    let asking = speaking(&mut near, b"a");
    hand_over(&mut near, &mut far);
    assert_eq!(far.take_opened(), Some(1));
    // The socket takes nothing meanwhile.
    assert_eq!(far.write(&Cell::new(1), b"answer"), 6);
    far.close(1);
    far.broke(Broken::Lost, &mut Wakers::new());
    hand_over(&mut far, &mut near);
    assert_eq!(read_all(&mut near, asking.get()), b"answer");
}
