//! One end of a connection that does what it is told, step by step.

use std::io::{BufRead as _, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use mesh_tests::sys::epoll::Epoll;
use rand::RngExt as _;
use sha2::{Digest as _, Sha256};

use crate::serve::listen;
use crate::{errno, hex};

/// No step takes longer; `fill` ends sooner.
const PATIENCE: Duration = Duration::from_secs(60);
/// A writer that got nowhere for this long is blocked.
const BLOCKED: Duration = Duration::from_millis(1500);

#[derive(Default)]
struct Peer {
    listener: Option<TcpListener>,
    stream: Option<TcpStream>,
}

pub(crate) fn run() -> Result<()> {
    let mut peer = Peer::default();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (step, argument) = line.split_once(' ').unwrap_or((&line, ""));
        match peer.step(step, argument) {
            Ok(answer) => println!("{answer}"),
            Err(error) => println!("error {error:#}"),
        }
    }
    Ok(())
}

impl Peer {
    fn step(&mut self, step: &str, argument: &str) -> Result<String> {
        match step {
            "listen" => {
                self.listener = Some(listen(argument.parse()?)?);
                Ok("listening".to_owned())
            }
            "accept" => {
                let listener = self.listener.as_ref().context("not listening")?;
                // Of a listener it is accept that ends then (socket(7)).
                socket2::SockRef::from(listener).set_read_timeout(Some(PATIENCE))?;
                let accepted = listener.accept().context("nobody was accepted")?;
                self.use_stream(accepted.0)?;
                Ok("accepted".to_owned())
            }
            "connect" => {
                let to: SocketAddr = argument.parse()?;
                self.use_stream(TcpStream::connect_timeout(&to, PATIENCE)?)?;
                Ok("connected".to_owned())
            }
            "fate" => {
                let (to, begun) = (argument.parse()?, Instant::now());
                let fate = fate(&to);
                Ok(format!("{fate} {}", begun.elapsed().as_micros()))
            }
            "failed" => failed(self.stream()?),
            "addresses" => {
                let stream = self.stream()?;
                Ok(format!(
                    "local {} peer {}",
                    stream.local_addr()?,
                    stream.peer_addr()?
                ))
            }
            "send" => send(self.stream()?, argument.parse()?),
            "fill" => fill(self.stream()?),
            "read" => read(self.stream()?, argument.parse()?),
            "drain" => read(self.stream()?, usize::MAX),
            "fin" => {
                self.stream()?.shutdown(Shutdown::Write)?;
                Ok("fin".to_owned())
            }
            "rst" => {
                let stream = self.stream.take().context("not connected")?;
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                Ok("rst".to_owned())
            }
            "close" => {
                self.stream = None;
                Ok("closed".to_owned())
            }
            other => bail!("no step {other}"),
        }
    }

    fn use_stream(&mut self, stream: TcpStream) -> Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        self.stream = Some(stream);
        Ok(())
    }

    fn stream(&mut self) -> Result<&mut TcpStream> {
        self.stream.as_mut().context("not connected")
    }
}

/// How a connection fails; at connect or at the first read.
fn fate(to: &SocketAddr) -> String {
    let end = TcpStream::connect_timeout(to, PATIENCE).and_then(|mut stream| {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.read(&mut [0; 16])
    });
    match end {
        Ok(0) => "eof".to_owned(),
        Ok(_) => "data".to_owned(),
        Err(e) => errno(&e),
    }
}

/// Waits for the socket's error; nothing is read or written.
fn failed(stream: &TcpStream) -> Result<String> {
    let errors = Epoll::new()?;
    errors.add_for_errors(stream)?;
    let mut ready = vec![];
    errors.wait(i32::try_from(PATIENCE.as_millis())?, &mut ready)?;
    match stream.take_error()? {
        Some(error) => Ok(format!("failed {}", errno(&error))),
        None => bail!("no error"),
    }
}

fn send(stream: &mut TcpStream, count: usize) -> Result<String> {
    let mut bytes = vec![0_u8; count];
    rand::rng().fill(&mut bytes[..]);
    // By chance it may not begin as a protocol that agents look for.
    if let Some(first) = bytes.first_mut() {
        *first = 0;
    }
    stream.write_all(&bytes)?;
    Ok(format!("sent {count} {}", hex(&Sha256::digest(&bytes))))
}

/// Writes until nothing more is taken.
fn fill(stream: &mut TcpStream) -> Result<String> {
    let mut hash = Sha256::new();
    let mut total = 0_usize;
    let mut chunk = vec![0_u8; 64 * 1024];
    rand::rng().fill(&mut chunk[..]);
    stream.set_write_timeout(Some(BLOCKED))?;
    loop {
        match stream.write(&chunk) {
            Ok(n) => {
                hash.update(&chunk[..n]);
                total += n;
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => break,
            Err(e) => return Err(e.into()),
        }
    }
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(format!("blocked {total} {}", hex(&hash.finalize())))
}

/// Reads `count` bytes, or to the end: `read`, `eof` or `reset`, with how
/// many bytes and their SHA-256.
fn read(stream: &mut TcpStream, count: usize) -> Result<String> {
    let mut hash = Sha256::new();
    let mut total = 0;
    let mut buffer = vec![0_u8; 64 * 1024];
    let end = loop {
        if total == count {
            break "read";
        }
        let most = buffer.len().min(count - total);
        match stream.read(&mut buffer[..most]) {
            Ok(0) => break "eof",
            Ok(n) => {
                hash.update(&buffer[..n]);
                total += n;
            }
            Err(e) if e.kind() == ErrorKind::ConnectionReset => break "reset",
            Err(e) => return Err(e.into()),
        }
    };
    Ok(format!("{end} {total} {}", hex(&hash.finalize())))
}
