//! Connects all the time; tells what became of each connection, by when it began.
//!
//! The server says which port it was called from: the client's own means that
//! nothing was in between.

use std::collections::BTreeMap;
use std::io::{BufRead as _, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;

use crate::errno;

const PATIENCE: Duration = Duration::from_secs(10);
/// After a refusal: there are no more of them than can be counted.
const PAUSE: Duration = Duration::from_millis(2);

/// Kind of outcome -> how many; and `first_carried_us` and `last_carried_us`, since 1970.
type Tally = BTreeMap<String, u64>;

#[derive(Default)]
struct Steady {
    time: AtomicUsize,
    tallies: Mutex<Vec<Tally>>,
    stop: AtomicBool,
}

pub(crate) fn run(
    targets: &[SocketAddr],
    width: usize,
    streams: usize,
    rate: Option<u32>,
) -> Result<()> {
    let steady = Steady::default();
    // Of each of the threads.
    let pace = rate.map(|rate| Duration::from_secs_f64(width as f64 / f64::from(rate.max(1))));
    std::thread::scope(|scope| {
        for i in 0..width {
            let target = targets[i % targets.len()];
            let steady = &steady;
            scope.spawn(move || steady.connect(target, pace.unwrap_or_default()));
        }
        for i in 0..streams {
            let target = targets[i % targets.len()];
            let steady = &steady;
            scope.spawn(move || steady.stream(target));
        }
        let told = steady.listen();
        steady.stop.store(true, Ordering::Relaxed);
        told
    })
}

impl Steady {
    fn listen(&self) -> Result<()> {
        for line in std::io::stdin().lock().lines() {
            if line? == "next" {
                self.time.fetch_add(1, Ordering::SeqCst);
            }
            let tallies = self
                .tallies
                .lock()
                .map_err(|_| anyhow::anyhow!("poisoned"))?;
            println!("{}", serde_json::to_string(&*tallies)?);
        }
        Ok(())
    }

    fn count(&self, time: usize, what: &str) {
        let Ok(mut tallies) = self.tallies.lock() else {
            return;
        };
        if tallies.len() <= time {
            tallies.resize_with(time + 1, Tally::new);
        }
        let tally = &mut tallies[time];
        if what == "carried" {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let now = now.map_or(0, |now| u64::try_from(now.as_micros()).unwrap_or(0));
            tally.entry("first_carried_us".to_owned()).or_insert(now);
            tally.insert("last_carried_us".to_owned(), now);
        }
        *tally.entry(what.to_owned()).or_default() += 1;
    }

    fn connect(&self, to: SocketAddr, pace: Duration) {
        while !self.stop.load(Ordering::Relaxed) {
            let next = Instant::now() + pace;
            let time = self.time.load(Ordering::SeqCst);
            match exchange(to) {
                Ok(what) => self.count(time, what),
                Err(error) => {
                    self.count(time, &errno(&error));
                    std::thread::sleep(PAUSE);
                }
            }
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }

    /// One stream after the other, each for as long as it can be written to.
    fn stream(&self, to: SocketAddr) {
        while !self.stop.load(Ordering::Relaxed) {
            let time = self.time.load(Ordering::SeqCst);
            match TcpStream::connect_timeout(&to, PATIENCE) {
                Ok(mut stream) => {
                    self.count(time, "stream");
                    while !self.stop.load(Ordering::Relaxed) && stream.write_all(&[7; 1024]).is_ok()
                    {
                        std::thread::sleep(PAUSE);
                    }
                    self.count(self.time.load(Ordering::SeqCst), "stream ended");
                }
                Err(error) => {
                    self.count(time, &format!("stream {}", errno(&error)));
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }
}

fn exchange(to: SocketAddr) -> std::io::Result<&'static str> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    let own = stream.local_addr()?.port();
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"who calls?")?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let port = answer.trim_end().rsplit(' ').next();
    Ok(match port.map(str::parse::<u16>) {
        Some(Ok(port)) if port == own => "direct",
        Some(Ok(_)) => "carried",
        // It ended without an answer.
        _ => "cut",
    })
}
