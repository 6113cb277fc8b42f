//! Two threads with an epoll set each, and the same listeners.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, RawFd};
use std::sync::Arc;

use mesh_tests::sys::epoll::Epoll;
use nix::sys::signalfd::SignalFd;

use super::SMALL;
use super::http::{ANSWER, head_end};
use super::http2::{
    Flow, Frame, PREFACE, Swallowed, answer as answer_of_http2, goodbye, greeting, kind,
};
use crate::serve::{listen, take};
use crate::stop::sigterm;

const THREADS: usize = 2;
const BUFFER: usize = 256 * 1024;

/// What a listener is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Echo,
    Bulk,
    Http,
    Http2,
}

const ROLES: [Role; 4] = [Role::Echo, Role::Bulk, Role::Http, Role::Http2];

struct Connection {
    stream: TcpStream,
    role: Role,
    swallowed: u64,
    /// A request that is not whole yet.
    begun: Vec<u8>,
    http2: Option<Box<Http2>>,
    /// The server is to end.
    is_last: bool,
    has_answered: bool,
}

impl Connection {
    /// Of a kind where the server may end it: HTTP/1.1, between two requests.
    fn is_done(&self) -> bool {
        self.is_last && self.has_answered && self.role == Role::Http && self.begun.is_empty()
    }
}

/// A connection of HTTP/2.
struct Http2 {
    flow: Flow,
    /// Bytes of each request that is not whole yet.
    swallowed: HashMap<u32, Swallowed>,
    has_answered: bool,
    /// The newest stream.
    newest: u32,
    has_said_goodbye: bool,
}

type Listeners = Vec<(TcpListener, Role)>;

pub(crate) fn serve(port: u16) -> anyhow::Result<()> {
    let stop = sigterm()?;
    let mut listeners = Listeners::new();
    for (port, role) in (port..).zip(ROLES) {
        let listener = listen(port)?;
        listener.set_nonblocking(true)?;
        listeners.push((listener, role));
    }
    println!("serving");
    // They end with the thread that is the last to have stopped.
    let listeners = Arc::new(listeners);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| Arc::clone(&listeners))
            .map(|listeners| scope.spawn(|| work(listeners, &stop)))
            .collect();
        drop(listeners);
        for thread in threads {
            match thread.join() {
                Ok(result) => result?,
                Err(_) => anyhow::bail!("a server thread panicked"),
            }
        }
        Ok(())
    })
}

/// Until SIGTERM, and then until all connections have ended.
fn work(listeners: Arc<Listeners>, stop: &SignalFd) -> anyhow::Result<()> {
    let epoll = Epoll::new()?;
    for (listener, _) in &*listeners {
        epoll.add_exclusive(listener)?;
    }
    epoll.add(stop)?;
    let mut listeners = Some(listeners);
    let mut connections: Vec<Option<Connection>> = vec![];
    let mut ready = vec![];
    let mut buffer = vec![0; BUFFER];
    while listeners.is_some() || connections.iter().any(Option::is_some) {
        epoll.wait(-1, &mut ready)?;
        let is_listener = |fd: RawFd| {
            let mut all = listeners.iter().flat_map(|l| l.iter());
            all.find(|(l, _)| fd == l.as_raw_fd())
        };
        for fd in &ready {
            if let Some((listener, role)) = is_listener(*fd) {
                accept(listener, *role, &epoll, &mut connections)?;
            } else if !go_on(slot(&mut connections, *fd), &mut buffer) {
                *slot(&mut connections, *fd) = None;
            }
        }
        if ready.contains(&stop.as_raw_fd())
            && let Some(listeners) = listeners.take()
        {
            epoll.remove(stop)?;
            // Nobody is in their queues: an end would refuse them.
            for (listener, role) in &*listeners {
                while accept(listener, *role, &epoll, &mut connections)? {}
            }
            drop(listeners);
            for connection in &mut connections {
                if !end_soon(connection, &mut buffer) {
                    *connection = None;
                }
            }
        }
    }
    Ok(())
}

fn slot(connections: &mut Vec<Option<Connection>>, fd: RawFd) -> &mut Option<Connection> {
    let at = usize::try_from(fd).unwrap_or(0);
    if connections.len() <= at {
        connections.resize_with(at + 1, || None);
    }
    &mut connections[at]
}

/// False when nobody waits; another thread may be faster.
fn accept(
    listener: &TcpListener,
    role: Role,
    epoll: &Epoll,
    connections: &mut Vec<Option<Connection>>,
) -> anyhow::Result<bool> {
    let Some(stream) = take(listener)? else {
        return Ok(false);
    };
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    epoll.add(&stream)?;
    let fd = stream.as_raw_fd();
    *slot(connections, fd) = Some(Connection {
        stream,
        role,
        swallowed: 0,
        begun: vec![],
        http2: None,
        is_last: false,
        has_answered: false,
    });
    Ok(true)
}

/// At the server's end: what has come is answered, and is the last. False when the
/// connection has ended.
fn end_soon(connection: &mut Option<Connection>, buffer: &mut [u8]) -> bool {
    if let Some(connection) = connection {
        connection.is_last = true;
        if let Some(http2) = &mut connection.http2 {
            let mut out = vec![];
            http2.say_goodbye(&mut out);
            if connection.stream.write_all(&out).is_err() {
                return false;
            }
        }
    }
    go_on(connection, buffer) && !connection.as_ref().is_some_and(Connection::is_done)
}

/// False when the connection has ended.
fn go_on(connection: &mut Option<Connection>, buffer: &mut [u8]) -> bool {
    let Some(connection) = connection else {
        return true;
    };
    match connection.stream.read(buffer) {
        Ok(0) => {
            if connection.role == Role::Bulk {
                let count = connection.swallowed.to_be_bytes();
                // The client notices what is missing.
                let _ = connection.stream.write_all(&count);
            }
            false
        }
        Ok(n) => match connection.role {
            Role::Echo => connection.stream.write_all(&buffer[..n]).is_ok(),
            Role::Bulk => {
                connection.swallowed += n as u64;
                true
            }
            Role::Http => answer(connection, &buffer[..n]),
            Role::Http2 => go_on_with_http2(connection, &buffer[..n]).is_some(),
        },
        Err(e) => e.kind() == ErrorKind::WouldBlock,
    }
}

/// Each request that is whole, by one write; false when the client is gone, or its
/// head has no end.
fn answer(connection: &mut Connection, bytes: &[u8]) -> bool {
    const MAX_HEAD: usize = 64 * 1024;
    connection.begun.extend_from_slice(bytes);
    let mut answers = vec![];
    while let Some(end) = head_end(&connection.begun) {
        connection.begun.drain(..end);
        answers.extend_from_slice(ANSWER);
    }
    connection.has_answered |= !answers.is_empty();
    connection.begun.len() <= MAX_HEAD
        && connection.stream.write_all(&answers).is_ok()
        && !connection.is_done()
}

/// Each call that is whole, by one write; `None` when the client is gone, or says what
/// it may not.
fn go_on_with_http2(connection: &mut Connection, bytes: &[u8]) -> Option<()> {
    let mut out = vec![];
    connection.begun.extend_from_slice(bytes);
    let mut begun = std::mem::take(&mut connection.begun);
    let http2 = match &mut connection.http2 {
        Some(http2) => http2,
        none => {
            if begun.len() < PREFACE.len() {
                connection.begun = begun;
                return Some(());
            }
            begun = begun.strip_prefix(PREFACE)?.to_vec();
            greeting(&mut out);
            none.insert(Box::new(Http2 {
                flow: Flow::new(),
                swallowed: HashMap::new(),
                has_answered: false,
                newest: 0,
                has_said_goodbye: false,
            }))
        }
    };
    let mut rest = begun.as_slice();
    while let Some((frame, behind)) = Frame::split(rest) {
        rest = behind;
        http2.take(&frame, &mut out)?;
    }
    if connection.is_last {
        http2.say_goodbye(&mut out);
    }
    connection.begun = rest.to_vec();
    connection.stream.write_all(&out).ok()
}

impl Http2 {
    /// Once: the newest stream is the last; it is the client that ends the connection.
    fn say_goodbye(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.has_said_goodbye, true) {
            goodbye(out, self.newest);
        }
    }

    fn take(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) -> Option<()> {
        if self.flow.heard(frame, out).ok()? {
            return Some(());
        }
        if frame.stream > self.newest {
            // The client may do it elsewhere.
            if self.has_said_goodbye {
                return Some(());
            }
            self.newest = frame.stream;
        }
        match frame.kind {
            kind::RST_STREAM => {
                self.swallowed.remove(&frame.stream);
            }
            kind::HEADERS => {
                self.swallowed.entry(frame.stream).or_default();
            }
            kind::DATA => self.swallowed.get_mut(&frame.stream)?.note(frame, out),
            _ => {}
        }
        if frame.ends() {
            let swallowed = self.swallowed.remove(&frame.stream)?;
            // The first bytes say how much came.
            let mut body = [7; SMALL];
            body[..8].copy_from_slice(&swallowed.all.to_be_bytes());
            self.flow.may_send -= SMALL as i64;
            if self.flow.may_send < 0 {
                return None;
            }
            let is_first = !std::mem::replace(&mut self.has_answered, true);
            answer_of_http2(out, frame.stream, &body, is_first);
        }
        Some(())
    }
}
