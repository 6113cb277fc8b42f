//! The application under test: a server that says what it saw, and a client
//! that checks it.
//!
//! Protocol: the client sends any bytes and its FIN; the server answers
//! `PEER_IP LOCAL_ADDR SHA256\n` and closes. So every exchange proves
//! half-close, content and addresses.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::{Parser, Subcommand};
use rand::RngExt as _;
use sha2::{Digest as _, Sha256};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Answers on every address of both families.
    Serve { port: u16 },
    /// Connects `count` times to the targets in turn; prints a JSON report.
    Storm {
        /// DESTINATION=EXPECTED_SERVER_ADDRESS, for example 10.96.0.1:80=10.77.0.3:8080.
        targets: Vec<String>,
        #[arg(long, default_value_t = 100)]
        count: usize,
        #[arg(long, default_value_t = 16)]
        inflight: usize,
        /// Bytes per connection; random up to 3000 where not given.
        #[arg(long)]
        bytes: Option<usize>,
        /// The client address that servers must see, one per family.
        #[arg(long)]
        own: Vec<std::net::IpAddr>,
    },
    /// Holds `count` idle connections to `target` until standard input ends.
    Hold { target: SocketAddr, count: usize },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().mode {
        Mode::Serve { port } => serve(port),
        Mode::Storm {
            targets,
            count,
            inflight,
            bytes,
            own,
        } => storm(&targets, count, inflight, bytes, &own),
        Mode::Hold { target, count } => {
            let held: Result<Vec<_>, _> = (0..count).map(|_| TcpStream::connect(target)).collect();
            let held = held?;
            println!("held {}", held.len());
            std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
            drop(held);
            Ok(())
        }
    }
}

fn serve(port: u16) -> anyhow::Result<()> {
    let listener = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None)?;
    listener.set_only_v6(false)?;
    listener.set_reuse_address(true)?;
    listener.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    listener.listen(4096)?;
    let listener = TcpListener::from(listener);
    println!("serving");
    for stream in listener.incoming() {
        let stream = stream?;
        std::thread::Builder::new()
            .stack_size(128 * 1024)
            .spawn(move || answer(stream))?;
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut hash = Sha256::new();
    let mut buffer = [0; 32 * 1024];
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
    }
    let peer = stream.peer_addr()?.ip().to_canonical();
    let local = stream.local_addr()?;
    let local = SocketAddr::new(local.ip().to_canonical(), local.port());
    writeln!(stream, "{peer} {local} {}", hex(&hash.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn storm(
    targets: &[String],
    count: usize,
    inflight: usize,
    bytes: Option<usize>,
    own: &[std::net::IpAddr],
) -> anyhow::Result<()> {
    let targets = targets
        .iter()
        .map(|t| {
            let (to, expected) = t.split_once('=').unwrap_or((t, t));
            Ok((to.parse()?, expected.to_owned()))
        })
        .collect::<anyhow::Result<Vec<(SocketAddr, String)>>>()?;
    let next = AtomicUsize::new(0);
    let (ok, wrong) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let errors = std::sync::Mutex::new(std::collections::BTreeMap::<String, usize>::new());
    std::thread::scope(|scope| {
        for _ in 0..inflight {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= count {
                        return;
                    }
                    let (to, expected) = &targets[i % targets.len()];
                    let size = bytes.unwrap_or_else(|| rand::rng().random_range(1..3000));
                    match exchange(*to, expected, size, own) {
                        Ok(true) => ok.fetch_add(1, Ordering::Relaxed),
                        Ok(false) => wrong.fetch_add(1, Ordering::Relaxed),
                        Err(e) => {
                            if let Ok(mut errors) = errors.lock() {
                                *errors.entry(e.to_string()).or_default() += 1;
                            }
                            0
                        }
                    };
                }
            });
        }
    });
    let errors = errors.into_inner()?;
    let (ok, wrong) = (ok.into_inner(), wrong.into_inner());
    println!(
        "{}",
        serde_json::json!({"ok": ok, "wrong": wrong, "lost": errors.values().sum::<usize>(), "errors": errors})
    );
    Ok(())
}

/// One exchange; false when an address or the content is not as expected.
fn exchange(
    to: SocketAddr,
    expected: &str,
    size: usize,
    own: &[std::net::IpAddr],
) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(10))?;
    // Before the end: a socket that is closed both ways has no addresses.
    let (peer, local) = (stream.peer_addr()?, stream.local_addr()?.ip());
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
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
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let client = own.iter().find(|ip| ip.is_ipv4() == to.is_ipv4());
    let client = client.copied().unwrap_or(local);
    let right = format!("{client} {expected} {}\n", hex(&hash.finalize()));
    Ok(peer == to && local == client && answer == right)
}
