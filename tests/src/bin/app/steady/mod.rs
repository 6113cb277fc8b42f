//! Connects, or asks, all the time; tells what became of each, by when it began.

mod exchange;

use std::collections::BTreeMap;
use std::io::{BufRead as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use self::exchange::{Client, Ports, What};
use crate::errno;

#[derive(Args)]
pub(crate) struct Plan {
    targets: Vec<SocketAddr>,
    #[arg(long, default_value = "bytes")]
    what: What,
    /// How many at a time.
    #[arg(long, default_value_t = 4)]
    width: usize,
    #[arg(long, default_value_t = 4)]
    streams: usize,
    /// Milliseconds from what is written to a stream, 1 KiB, to the next.
    #[arg(long, default_value_t = 2)]
    stream_pause: u64,
    /// Most connections a second [default: as many as there can be]. Each has a port of
    /// its own then, which is taken for a minute after its end.
    #[arg(long)]
    rate: Option<u32>,
}

const PATIENCE: Duration = Duration::from_secs(10);
/// After a refusal: there are no more of them than can be counted.
const PAUSE: Duration = Duration::from_millis(2);

/// Kind of outcome -> how many; and `first_carried_us` and `last_carried_us`, since 1970.
type Tally = BTreeMap<String, u64>;

/// Of a stream, or of what failed: since 1970.
#[derive(Serialize)]
struct Span {
    begun_us: u64,
    ended_us: u64,
    how: String,
}

/// The first ones.
#[derive(Default)]
struct Spans(Vec<Span>);

#[derive(Default)]
struct Steady {
    time: AtomicUsize,
    tallies: Mutex<Vec<Tally>>,
    streams: Mutex<Spans>,
    failures: Mutex<Spans>,
    stop: AtomicBool,
}

pub(crate) fn run(plan: &Plan) -> Result<()> {
    let steady = Steady::default();
    let targets = &plan.targets;
    // Of each of the threads.
    let pace = |rate: u32| Duration::from_secs_f64(plan.width as f64 / f64::from(rate.max(1)));
    let pace = plan.rate.map(pace).unwrap_or_default();
    let ports = match plan.rate {
        Some(_) => Ports::Own,
        // There are not enough of them.
        None => Ports::Any,
    };
    let pause = Duration::from_millis(plan.stream_pause);
    std::thread::scope(|scope| {
        for i in 0..plan.width {
            let client = Client::new(targets[i % targets.len()], plan.what, ports);
            let steady = &steady;
            scope.spawn(move || steady.repeat(client, pace));
        }
        for i in 0..plan.streams {
            let target = targets[i % targets.len()];
            let steady = &steady;
            scope.spawn(move || steady.stream(target, pause));
        }
        let told = steady.listen();
        steady.stop.store(true, Ordering::Relaxed);
        told
    })
}

fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_micros()).unwrap_or(0))
}

impl Spans {
    const MOST: usize = 4096;

    fn note(spans: &Mutex<Self>, begun_us: u64, how: &str) {
        if let Ok(mut spans) = spans.lock()
            && spans.0.len() < Self::MOST
        {
            spans.0.push(Span {
                begun_us,
                ended_us: now_us(),
                how: how.to_owned(),
            });
        }
    }

    fn told(spans: &Mutex<Self>) -> Result<String> {
        let spans = spans.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
        Ok(serde_json::to_string(&spans.0)?)
    }
}

impl Steady {
    fn listen(&self) -> Result<()> {
        for line in std::io::stdin().lock().lines() {
            let answer = match line?.as_str() {
                "streams" => Spans::told(&self.streams)?,
                "failures" => Spans::told(&self.failures)?,
                line => {
                    if line == "next" {
                        self.time.fetch_add(1, Ordering::SeqCst);
                    }
                    let tallies = self.tallies.lock();
                    let tallies = tallies.map_err(|_| anyhow::anyhow!("poisoned"))?;
                    serde_json::to_string(&*tallies)?
                }
            };
            println!("{answer}");
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
            let now = now_us();
            tally.entry("first_carried_us".to_owned()).or_insert(now);
            tally.insert("last_carried_us".to_owned(), now);
        }
        *tally.entry(what.to_owned()).or_default() += 1;
    }

    fn repeat(&self, mut client: Client, pace: Duration) {
        while !self.stop.load(Ordering::Relaxed) {
            let next = Instant::now() + pace;
            let (time, begun) = (self.time.load(Ordering::SeqCst), now_us());
            match client.exchange() {
                Ok(what) => {
                    self.count(time, what);
                    if what != "carried" {
                        Spans::note(&self.failures, begun, what);
                    }
                }
                Err(error) => {
                    let how = match error.downcast_ref() {
                        Some(error) => errno(error),
                        None => format!("{error:#}"),
                    };
                    self.count(time, &how);
                    Spans::note(&self.failures, begun, &how);
                    std::thread::sleep(PAUSE);
                }
            }
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }

    /// One stream after the other, each for as long as it can be written to.
    fn stream(&self, to: SocketAddr, pause: Duration) {
        while !self.stop.load(Ordering::Relaxed) {
            let (time, begun) = (self.time.load(Ordering::SeqCst), now_us());
            match TcpStream::connect_timeout(&to, PATIENCE) {
                Ok(stream) => {
                    self.count(time, "stream");
                    if let Some(error) = self.write(stream, pause) {
                        self.count(self.time.load(Ordering::SeqCst), "stream ended");
                        Spans::note(&self.streams, begun, &errno(&error));
                    }
                }
                Err(error) => {
                    self.count(time, &format!("stream {}", errno(&error)));
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    /// What ended it; none where the client itself does.
    fn write(&self, mut stream: TcpStream, pause: Duration) -> Option<std::io::Error> {
        while !self.stop.load(Ordering::Relaxed) {
            if let Err(error) = stream.write_all(&[7; 1024]) {
                return Some(error);
            }
            std::thread::sleep(pause);
        }
        None
    }
}
