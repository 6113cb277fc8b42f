//! Clients that count what they got done in a time.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd as _, RawFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use hdrhistogram::Histogram;
use mesh_tests::sys::epoll::Epoll;
use serde_json::{Value, json};

use super::SMALL;
use super::calls;
use super::http::{REQUEST, answer_end};

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Kind {
    /// Connect, 64 bytes there and back, close; in `width` threads.
    Connections,
    /// 64 bytes there and back, on `width` connections.
    Echo,
    /// As many bytes as go through, on `width` connections.
    Bulk,
    /// Requests of HTTP/1.1, one after the other on each of `width` connections.
    Http,
    /// The same, as many a second as asked for, each counted from when it was due.
    Paced,
    /// Calls of HTTP/2, several at once on each of `width` connections.
    Http2,
    /// One long request of HTTP/2 on each of `width` connections.
    Http2Bulk,
    /// Holds `width` connections until standard input ends.
    Idle,
    /// The same, each with one request of HTTP/1.1 behind it.
    IdleHttp,
}

pub(super) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn run(
    kind: Kind,
    to: SocketAddr,
    (width, rate): (usize, u32),
    time: Duration,
) -> Result<Value> {
    match kind {
        Kind::Connections => in_threads(width, || connections(to, time)),
        Kind::Bulk => in_threads(width, || bulk(to, time)),
        Kind::Echo if width == 1 => echo_one(to, time),
        Kind::Echo => echo_many(to, width, time),
        Kind::Http => requests(to, width, time),
        Kind::Paced => paced(to, (width, rate), time),
        Kind::Http2 => calls::calls(to, width, time),
        Kind::Http2Bulk => in_threads(width, || calls::long_body(to, time)),
        Kind::Idle => idle(width, || {
            let mut stream = connect(to)?;
            exchange(&mut stream)?;
            Ok(stream)
        }),
        Kind::IdleHttp => idle(width, || {
            let mut getter = Getter::new(to)?;
            getter.get()?;
            Ok(getter)
        }),
    }
}

#[derive(Default)]
pub(super) struct Done {
    pub(super) units: u64,
    pub(super) errors: u64,
}

fn in_threads(width: usize, work: impl Fn() -> Result<Done> + Sync) -> Result<Value> {
    let start = Instant::now();
    let done = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..width).map(|_| scope.spawn(&work)).collect();
        let mut sum = Done::default();
        for thread in threads {
            let done = thread.join().ok().context("a thread panicked")??;
            sum.units += done.units;
            sum.errors += done.errors;
        }
        Ok::<_, anyhow::Error>(sum)
    })?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(json!({"units": done.units, "errors": done.errors, "seconds": seconds}))
}

pub(super) fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn exchange(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut buffer = [7; SMALL];
    stream.write_all(&buffer)?;
    stream.read_exact(&mut buffer)
}

fn connections(to: SocketAddr, time: Duration) -> Result<Done> {
    let end = Instant::now() + time;
    let mut done = Done::default();
    while Instant::now() < end {
        match TcpStream::connect(to).and_then(|mut s| exchange(&mut s)) {
            Ok(()) => done.units += 1,
            Err(_) => done.errors += 1,
        }
    }
    Ok(done)
}

fn bulk(to: SocketAddr, time: Duration) -> Result<Done> {
    let mut stream = connect(to)?;
    let end = Instant::now() + time;
    let chunk = vec![7; 128 * 1024];
    let mut sent = 0;
    while Instant::now() < end {
        stream.write_all(&chunk)?;
        sent += chunk.len() as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut count = [0; 8];
    stream.read_exact(&mut count)?;
    let units = u64::from_be_bytes(count);
    Ok(Done {
        units,
        errors: u64::from(units != sent),
    })
}

pub(super) fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000_000, 3)?)
}

pub(super) fn nanos(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

pub(super) fn latency(histogram: &Histogram<u64>, errors: u64, start: Instant) -> Value {
    let us = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    json!({
        "units": histogram.len(), "errors": errors, "seconds": start.elapsed().as_secs_f64(),
        "p50_us": us(0.50), "p90_us": us(0.90), "p99_us": us(0.99), "p999_us": us(0.999),
    })
}

fn echo_one(to: SocketAddr, time: Duration) -> Result<Value> {
    let mut stream = connect(to)?;
    exchange(&mut stream)?;
    let mut times = histogram()?;
    let start = Instant::now();
    while start.elapsed() < time {
        let before = Instant::now();
        exchange(&mut stream)?;
        times.saturating_record(nanos(before));
    }
    Ok(latency(&times, 0, start))
}

fn echo_many(to: SocketAddr, width: usize, time: Duration) -> Result<Value> {
    let epoll = Epoll::new()?;
    let mut streams: HashMap<RawFd, (TcpStream, Instant)> = HashMap::new();
    for _ in 0..width {
        let mut stream = connect(to)?;
        exchange(&mut stream)?;
        epoll.add(&stream)?;
        streams.insert(stream.as_raw_fd(), (stream, Instant::now()));
    }
    let mut times = histogram()?;
    let mut errors = 0;
    let mut ready = vec![];
    let mut buffer = [7; SMALL];
    let start = Instant::now();
    for (stream, sent) in streams.values_mut() {
        *sent = Instant::now();
        stream.write_all(&buffer)?;
    }
    while start.elapsed() < time {
        epoll.wait(1000, &mut ready)?;
        for fd in &ready {
            let Some((stream, sent)) = streams.get_mut(fd) else {
                continue;
            };
            // 64 bytes come in one segment; if not, the rest is there soon.
            if stream.read_exact(&mut buffer).is_err() {
                errors += 1;
                streams.remove(fd);
                continue;
            }
            times.saturating_record(nanos(*sent));
            *sent = Instant::now();
            stream.write_all(&buffer)?;
        }
    }
    Ok(latency(&times, errors, start))
}

/// One that has asked and waits.
struct Asking {
    stream: TcpStream,
    since: Instant,
    got: Vec<u8>,
}

fn requests(to: SocketAddr, width: usize, time: Duration) -> Result<Value> {
    let epoll = Epoll::new()?;
    let mut asking: HashMap<RawFd, Asking> = HashMap::new();
    for _ in 0..width {
        let mut stream = connect(to)?;
        // What the first request costs is that of the connection.
        stream.write_all(REQUEST)?;
        let mut got = vec![];
        while !heard(&mut stream, &mut got)? {}
        epoll.add(&stream)?;
        let since = Instant::now();
        asking.insert(stream.as_raw_fd(), Asking { stream, since, got });
    }
    let mut times = histogram()?;
    let mut errors = 0;
    let mut ready = vec![];
    let start = Instant::now();
    for client in asking.values_mut() {
        client.since = Instant::now();
        client.stream.write_all(REQUEST)?;
    }
    while start.elapsed() < time {
        epoll.wait(1000, &mut ready)?;
        for fd in &ready {
            let Some(client) = asking.get_mut(fd) else {
                continue;
            };
            match heard(&mut client.stream, &mut client.got) {
                Ok(true) => {
                    times.saturating_record(nanos(client.since));
                    client.since = Instant::now();
                    client.stream.write_all(REQUEST)?;
                }
                Ok(false) => {}
                Err(error) => {
                    eprintln!("{error:#}");
                    errors += 1;
                    asking.remove(fd);
                }
            }
        }
    }
    Ok(latency(&times, errors, start))
}

/// A thread for each connection. What is late is not left out: its time begins when it
/// was due, so that one that stalls is seen in all that it held back.
fn paced(to: SocketAddr, (width, rate): (usize, u32), time: Duration) -> Result<Value> {
    let step = Duration::from_secs(1) * u32::try_from(width)? / rate.max(1);
    let times = Mutex::new(histogram()?);
    let connections: Vec<Getter> = (0..width)
        .map(|_| {
            let mut getter = Getter::new(to)?;
            getter.get()?;
            Ok(getter)
        })
        .collect::<Result<_>>()?;
    let start = Instant::now();
    let errors = std::thread::scope(|scope| {
        let ask = |(at, mut getter): (usize, Getter)| {
            let mut own = histogram()?;
            // Spread over the first step, not all at once.
            let mut due = start + step * u32::try_from(at)? / u32::try_from(width)?;
            while due < start + time {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                getter.get()?;
                own.saturating_record(nanos(due));
                due += step;
            }
            let mut all = times.lock().unwrap_or_else(PoisonError::into_inner);
            all.add(own).context("the same bounds")
        };
        let threads: Vec<_> = connections
            .into_iter()
            .enumerate()
            .map(|getter| scope.spawn(move || ask(getter)))
            .collect();
        let failed = threads.into_iter().map(|thread| match thread.join() {
            Ok(Ok(())) => 0,
            Ok(Err(why)) => {
                eprintln!("{why:#}");
                1
            }
            Err(_) => 1,
        });
        failed.sum()
    });
    let times = times.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(latency(&times, errors, start))
}

/// One that asks, and waits for the answer, again and again.
pub(crate) struct Getter {
    stream: TcpStream,
    got: Vec<u8>,
}

impl Getter {
    pub(crate) fn new(to: SocketAddr) -> Result<Self> {
        let stream = connect(to)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            got: vec![],
        })
    }

    pub(crate) fn get(&mut self) -> Result<()> {
        self.stream.write_all(REQUEST)?;
        while !heard(&mut self.stream, &mut self.got)? {}
        Ok(())
    }
}

/// Reads once; true when the answer is whole.
fn heard(stream: &mut TcpStream, got: &mut Vec<u8>) -> Result<bool> {
    let mut buffer = [0; 4096];
    let n = stream.read(&mut buffer)?;
    anyhow::ensure!(n > 0, "closed before the answer was whole");
    got.extend_from_slice(&buffer[..n]);
    match answer_end(got) {
        Ok(Some(end)) => {
            anyhow::ensure!(end == got.len(), "more than was asked for");
            got.clear();
            Ok(true)
        }
        Ok(None) => Ok(false),
        Err(why) => anyhow::bail!(why),
    }
}

fn idle<T>(width: usize, hold: impl Fn() -> Result<T>) -> Result<Value> {
    let held = (0..width).map(|_| hold()).collect::<Result<Vec<_>>>()?;
    println!("held");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(json!({"units": held.len(), "errors": 0}))
}
