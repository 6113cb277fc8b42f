//! Clients of HTTP/2: calls as those of gRPC, and a long body.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd as _, RawFd};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use mesh_tests::sys::epoll::Epoll;
use serde_json::Value;

use super::SMALL;
use super::client::{Done, PATIENCE, connect, histogram, latency, nanos};
use super::http2::{Flow, Frame, MAX_DATA, PREFACE, data, greeting, kind, request};

/// Calls at once on each connection.
const STREAMS: usize = 8;

/// One that was asked for and is not answered.
struct Call {
    stream: u32,
    since: Instant,
    /// Of the answer's body; `None`: nothing came yet.
    got: Option<usize>,
}

pub(crate) struct Caller {
    socket: TcpStream,
    flow: Flow,
    calls: Vec<Call>,
    next: u32,
    /// No whole frame yet.
    begun: Vec<u8>,
    out: Vec<u8>,
}

impl Caller {
    pub(crate) fn new(to: SocketAddr) -> Result<Self> {
        let mut out = PREFACE.to_vec();
        greeting(&mut out);
        let socket = connect(to)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            socket,
            flow: Flow::new(),
            calls: vec![],
            next: 1,
            begun: vec![],
            out,
        })
    }

    /// One call, to the end of its answer.
    pub(crate) fn finish_one(&mut self) -> Result<()> {
        self.call()?;
        self.send()?;
        while self.hear()?.is_empty() {
            // The answers to what is about the connection.
            self.send()?;
        }
        Ok(())
    }

    /// Written by the next [`Self::send`].
    fn call(&mut self) -> Result<()> {
        self.flow.may_send -= SMALL as i64;
        ensure!(self.flow.may_send >= 0, "the window is too small");
        request(&mut self.out, self.next);
        data(&mut self.out, self.next, &[7; SMALL], true);
        self.calls.push(Call {
            stream: self.next,
            since: Instant::now(),
            got: None,
        });
        self.next += 2;
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        self.socket.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    /// Reads once; since when those calls waited that are answered now.
    fn hear(&mut self) -> Result<Vec<Instant>> {
        let mut buffer = [0; 16 * 1024];
        let n = self.socket.read(&mut buffer)?;
        ensure!(n > 0, "closed before all was answered");
        self.begun.extend_from_slice(&buffer[..n]);
        let begun = std::mem::take(&mut self.begun);
        let (mut rest, mut answered) = (begun.as_slice(), vec![]);
        while let Some((frame, behind)) = Frame::split(rest) {
            rest = behind;
            answered.extend(self.take(&frame)?);
        }
        self.begun = rest.to_vec();
        Ok(answered)
    }

    fn take(&mut self, frame: &Frame<'_>) -> Result<Option<Instant>> {
        let heard = self.flow.heard(frame, &mut self.out);
        if heard.map_err(|why| anyhow!(why))? || frame.kind == kind::WINDOW_UPDATE {
            return Ok(None);
        }
        ensure!(frame.kind != kind::RST_STREAM, "a stream was reset");
        let at = self.calls.iter().position(|c| c.stream == frame.stream);
        let at = at.context("a stream that nobody asked for")?;
        let call = &mut self.calls[at];
        match (call.got, frame.kind) {
            (None, kind::HEADERS) => {
                ensure!(frame.is_ok(), "another status");
                call.got = Some(0);
            }
            (Some(got), kind::DATA) => call.got = Some(got + frame.payload.len()),
            (Some(_), kind::HEADERS) => {}
            (None, _) | (Some(_), _) => bail!("a frame out of place"),
        }
        if !frame.ends() {
            return Ok(None);
        }
        let call = self.calls.swap_remove(at);
        // The mesh's own answers have no body.
        ensure!(call.got == Some(SMALL), "another answer");
        Ok(Some(call.since))
    }
}

/// [`STREAMS`] calls at once on each of `width` connections.
pub(super) fn calls(to: SocketAddr, width: usize, time: Duration) -> Result<Value> {
    let epoll = Epoll::new()?;
    let mut callers: HashMap<RawFd, Caller> = HashMap::new();
    for _ in 0..width {
        let mut caller = Caller::new(to)?;
        // What the first call costs is that of the connection.
        caller.call()?;
        caller.send()?;
        while caller.hear()?.is_empty() {}
        epoll.add(&caller.socket)?;
        callers.insert(caller.socket.as_raw_fd(), caller);
    }
    let mut times = histogram()?;
    let (mut errors, mut ready) = (0, vec![]);
    let start = Instant::now();
    for caller in callers.values_mut() {
        for _ in 0..STREAMS {
            caller.call()?;
        }
        caller.send()?;
    }
    while start.elapsed() < time {
        epoll.wait(1000, &mut ready)?;
        for fd in &ready {
            let Some(caller) = callers.get_mut(fd) else {
                continue;
            };
            let gone_on = caller.hear().and_then(|answered| {
                for since in answered {
                    times.saturating_record(nanos(since));
                    caller.call()?;
                }
                caller.send()
            });
            if let Err(error) = gone_on {
                eprintln!("{error:#}");
                errors += caller.calls.len() as u64;
                callers.remove(fd);
            }
        }
    }
    Ok(latency(&times, errors, start))
}

/// Of one long request.
struct Windows {
    flow: Flow,
    of_stream: i64,
    /// Answers to what is about the connection: only one thread writes.
    out: Vec<u8>,
    /// What the server took, by its own word.
    taken: Option<u64>,
}

/// One request, as long as its windows let it be within that time.
pub(super) fn long_body(to: SocketAddr, time: Duration) -> Result<Done> {
    const STREAM: u32 = 1;
    let Caller {
        mut socket,
        mut flow,
        mut out,
        ..
    } = Caller::new(to)?;
    socket.write_all(&out)?;
    out.clear();
    let begun = greeted(&mut socket, &mut flow, &mut out)?;
    request(&mut out, STREAM);
    socket.write_all(&std::mem::take(&mut out))?;
    let windows = Mutex::new(Windows {
        of_stream: flow.of_stream,
        flow,
        out,
        taken: None,
    });
    let changed = Condvar::new();
    let mut reader = socket.try_clone()?;
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| read(&mut reader, begun, &windows, &changed));
        let sent = write(&mut socket, (&windows, &changed), time);
        if sent.is_err() {
            // So that the reader ends, too.
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
        let read = reading.join().ok().context("the reader panicked")?;
        let (sent, ()) = (sent?, read?);
        let windows = windows.lock().unwrap_or_else(PoisonError::into_inner);
        let units = windows.taken.context("no answer")?;
        let errors = u64::from(units != sent);
        Ok(Done { units, errors })
    })
}

/// The server's settings; what came behind them.
fn greeted(socket: &mut TcpStream, flow: &mut Flow, out: &mut Vec<u8>) -> Result<Vec<u8>> {
    let mut begun = vec![];
    loop {
        if let Some((frame, rest)) = Frame::split(&begun) {
            ensure!(frame.kind == kind::SETTINGS, "no settings");
            flow.heard(&frame, out).map_err(|why| anyhow!(why))?;
            return Ok(rest.to_vec());
        }
        more(socket, &mut begun)?;
    }
}

fn more(socket: &mut TcpStream, begun: &mut Vec<u8>) -> Result<()> {
    let mut buffer = [0; 16 * 1024];
    let n = socket.read(&mut buffer)?;
    ensure!(n > 0, "closed before the answer was whole");
    begun.extend_from_slice(&buffer[..n]);
    Ok(())
}

/// To the end of the answer.
fn read(
    socket: &mut TcpStream,
    mut begun: Vec<u8>,
    windows: &Mutex<Windows>,
    changed: &Condvar,
) -> Result<()> {
    loop {
        let mut rest = begun.as_slice();
        while let Some((frame, behind)) = Frame::split(rest) {
            rest = behind;
            let mut windows = windows.lock().unwrap_or_else(PoisonError::into_inner);
            let windows = &mut *windows;
            let of_stream = windows.flow.of_stream;
            let heard = windows.flow.heard(&frame, &mut windows.out);
            heard.map_err(|why| anyhow!(why))?;
            // A setting is about streams that are there as well.
            windows.of_stream += windows.flow.of_stream - of_stream;
            let word = |n: usize| frame.payload.get(..n);
            match (frame.kind, frame.stream) {
                (kind::RST_STREAM, _) => bail!("it was reset"),
                (kind::WINDOW_UPDATE, 1..) => {
                    let more = word(4).context("half an update")?;
                    windows.of_stream += i64::from(u32::from_be_bytes(more.try_into()?));
                }
                (kind::DATA, _) if windows.taken.is_none() => {
                    let count = word(8).context("no count")?;
                    windows.taken = Some(u64::from_be_bytes(count.try_into()?));
                }
                _ => {}
            }
            changed.notify_one();
            if frame.ends() {
                return Ok(());
            }
        }
        begun = rest.to_vec();
        more(socket, &mut begun)?;
    }
}

fn write(
    socket: &mut TcpStream,
    (windows, changed): (&Mutex<Windows>, &Condvar),
    time: Duration,
) -> Result<u64> {
    let end = Instant::now() + time;
    let (chunk, mut sent) = (vec![7; 8 * MAX_DATA], 0);
    let mut out = vec![];
    while Instant::now() < end {
        let may = {
            let held = windows.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = changed.wait_timeout_while(held, PATIENCE, |w| {
                let may_go = w.flow.may_send.min(w.of_stream) > 0;
                !may_go && w.out.is_empty() && w.taken.is_none()
            });
            let (mut windows, waited) = waited.unwrap_or_else(PoisonError::into_inner);
            ensure!(!waited.timed_out(), "no window");
            ensure!(windows.taken.is_none(), "answered before the end");
            let may = windows.flow.may_send.min(windows.of_stream);
            let may = may.clamp(0, chunk.len() as i64);
            out.append(&mut windows.out);
            windows.flow.may_send -= may;
            windows.of_stream -= may;
            usize::try_from(may)?
        };
        for part in chunk[..may].chunks(MAX_DATA) {
            data(&mut out, 1, part, false);
        }
        socket.write_all(&out)?;
        out.clear();
        sent += may as u64;
    }
    data(&mut out, 1, &[], true);
    socket.write_all(&out)?;
    Ok(sent)
}
