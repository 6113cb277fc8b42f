//! The application under test: servers that say what they saw, clients that
//! check it, one scripted end of a connection, and load.

mod load;
mod peer;
mod serve;
mod steady;
mod stop;
mod storm;

use std::net::{IpAddr, SocketAddr, TcpStream};

use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Answers on every address of both families, on each port.
    Serve { ports: Vec<u16> },
    /// Connects `count` times to targets taken at random; prints a JSON report.
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
        own: Vec<IpAddr>,
    },
    /// Connects, or asks, all the time until standard input ends, and keeps streams
    /// going. For each line there prints, as JSON, what became of those that began
    /// before the first, between the first and the second line, and so on; with
    /// the line `next` a new such time begins. `streams` and `failures` are answered
    /// with when each stream, and each that failed, began and ended.
    Steady(steady::Plan),
    /// Holds `count` idle connections to `target` until standard input ends.
    Hold { target: SocketAddr, count: usize },
    /// One end of a connection; steps come on standard input, one a line:
    /// listen PORT, accept, connect ADDRESS, send BYTES, read BYTES, drain,
    /// fin, rst, close, fill, addresses, failed (waits for an error without
    /// reading), fate ADDRESS (connects and reads; what comes of it, and when).
    Peer,
    /// Server for load: echo on the port, bulk on the next, then HTTP/1.1, then HTTP/2.
    LoadServer { port: u16 },
    /// Load; prints what was done as JSON.
    Load {
        kind: load::Kind,
        target: SocketAddr,
        #[arg(long, default_value_t = 1)]
        width: usize,
        #[arg(long, default_value_t = 1000)]
        millis: u64,
        /// Requests a second of all connections together, with `paced`.
        #[arg(long, default_value_t = 1000)]
        rate: u32,
    },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().mode {
        Mode::Serve { ports } => serve::run(&ports),
        Mode::Storm {
            targets,
            count,
            inflight,
            bytes,
            own,
        } => {
            let targets = storm::Target::parse_all(&targets)?;
            let storm = storm::Storm {
                targets,
                count,
                bytes,
                own,
            };
            println!("{}", storm.run(inflight)?);
            Ok(())
        }
        Mode::Steady(plan) => steady::run(&plan),
        Mode::Hold { target, count } => hold(target, count),
        Mode::Peer => peer::run(),
        Mode::LoadServer { port } => load::serve(port),
        Mode::Load {
            kind,
            target,
            width,
            millis,
            rate,
        } => {
            let time = std::time::Duration::from_millis(millis);
            println!("{}", load::run(kind, target, (width, rate), time)?);
            Ok(())
        }
    }
}

fn hold(target: SocketAddr, count: usize) -> anyhow::Result<()> {
    let connect = |_| match TcpStream::connect(target) {
        // Refused by an agent, which answers first: as good as a moment later.
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => Ok(None),
        other => other.map(Some),
    };
    let held: Result<Vec<_>, _> = (0..count).map(connect).collect();
    let held = held?;
    println!("held {}", held.len());
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    drop(held);
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The error as programs name it.
fn errno(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => "EPERM".to_owned(),
        Some(libc::ECONNREFUSED) => "ECONNREFUSED".to_owned(),
        Some(libc::ECONNRESET) => "ECONNRESET".to_owned(),
        Some(libc::EHOSTUNREACH) => "EHOSTUNREACH".to_owned(),
        Some(libc::EPIPE) => "EPIPE".to_owned(),
        Some(libc::ETIMEDOUT) => "ETIMEDOUT".to_owned(),
        _ => error.to_string(),
    }
}
