//! Many connections to many targets, each checked.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rand::RngExt as _;
use sha2::{Digest as _, Sha256};

use crate::hex;

/// Where to connect, and where the server must say it was reached.
pub(crate) struct Target {
    text: String,
    to: SocketAddr,
    expected: String,
    tried: AtomicUsize,
}

pub(crate) struct Storm {
    pub(crate) targets: Vec<Target>,
    pub(crate) count: usize,
    pub(crate) bytes: Option<usize>,
    pub(crate) own: Vec<IpAddr>,
}

#[derive(Default)]
struct Tally {
    next: AtomicUsize,
    ok: AtomicUsize,
    wrong: AtomicUsize,
    errors: Mutex<BTreeMap<String, usize>>,
}

impl Target {
    pub(crate) fn parse_all(texts: &[String]) -> anyhow::Result<Vec<Self>> {
        anyhow::ensure!(!texts.is_empty(), "no target");
        let parse = |text: &String| {
            let (to, expected) = text.split_once('=').unwrap_or((text, text));
            Ok(Self {
                text: text.clone(),
                to: to.parse()?,
                expected: expected.to_owned(),
                tried: AtomicUsize::new(0),
            })
        };
        texts.iter().map(parse).collect()
    }
}

impl Storm {
    pub(crate) fn run(&self, inflight: usize) -> anyhow::Result<serde_json::Value> {
        let tally = Tally::default();
        std::thread::scope(|scope| {
            for _ in 0..inflight {
                scope.spawn(|| self.work(&tally));
            }
        });
        let errors = tally.errors.into_inner()?;
        let tried: BTreeMap<_, _> = self
            .targets
            .iter()
            .map(|t| (&t.text, t.tried.load(Ordering::Relaxed)))
            .collect();
        Ok(serde_json::json!({
            "ok": tally.ok.into_inner(),
            "wrong": tally.wrong.into_inner(),
            "lost": errors.values().sum::<usize>(),
            "errors": errors,
            "tried": tried,
        }))
    }

    fn work(&self, tally: &Tally) {
        while tally.next.fetch_add(1, Ordering::Relaxed) < self.count {
            let target = &self.targets[rand::rng().random_range(0..self.targets.len())];
            target.tried.fetch_add(1, Ordering::Relaxed);
            match self.exchange(target) {
                Ok(true) => tally.ok.fetch_add(1, Ordering::Relaxed),
                Ok(false) => tally.wrong.fetch_add(1, Ordering::Relaxed),
                Err(e) => {
                    if let Ok(mut errors) = tally.errors.lock() {
                        *errors.entry(e.to_string()).or_default() += 1;
                    }
                    0
                }
            };
        }
    }

    /// One exchange; false when an address or the content is not as expected.
    fn exchange(&self, target: &Target) -> std::io::Result<bool> {
        let to = target.to;
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(10))?;
        // Before the end: a socket that is closed both ways has no addresses.
        let (peer, local) = (stream.peer_addr()?, stream.local_addr()?.ip());
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        let size = self
            .bytes
            .unwrap_or_else(|| rand::rng().random_range(1..3000));
        let hash = send(&mut stream, size)?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let is_ipv4 = to.ip().to_canonical().is_ipv4();
        let client = self.own.iter().find(|ip| ip.is_ipv4() == is_ipv4);
        let client = client.copied().unwrap_or(local);
        let right = format!("{client} {} {hash} ", target.expected);
        let answered = answer.starts_with(&right) && answer.ends_with('\n');
        Ok(peer == to && local.to_canonical() == client && answered)
    }
}

/// Sends random bytes; their SHA-256.
fn send(stream: &mut TcpStream, size: usize) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    let mut chunk = vec![0_u8; size.min(256 * 1024)];
    rand::rng().fill(&mut chunk[..]);
    let mut left = size;
    while left > 0 {
        let n = left.min(chunk.len());
        hash.update(&chunk[..n]);
        stream.write_all(&chunk[..n])?;
        left -= n;
    }
    Ok(hex(&hash.finalize()))
}
