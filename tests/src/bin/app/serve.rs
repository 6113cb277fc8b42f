//! A server that says what it saw.
//!
//! Protocol: the client sends any bytes and its FIN; the server answers
//! `PEER_IP LOCAL_ADDR SHA256 PEER_PORT\n` and closes. So every exchange proves
//! half-close, content and addresses.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;

use mesh_tests::sys::epoll::Epoll;
use nix::sys::signalfd::SignalFd;
use sha2::{Digest as _, Sha256};

use crate::hex;
use crate::stop::sigterm;

pub(crate) fn run(ports: &[u16]) -> anyhow::Result<()> {
    let stop = sigterm()?;
    let listeners = ports
        .iter()
        .map(|port| listen(*port))
        .collect::<std::io::Result<Vec<_>>>()?;
    println!("serving");
    std::thread::scope(|scope| {
        let servers: Vec<_> = listeners
            .into_iter()
            .map(|l| scope.spawn(|| accept(l, &stop)))
            .collect();
        for server in servers {
            match server.join() {
                Ok(result) => result?,
                Err(_) => anyhow::bail!("a server thread panicked"),
            }
        }
        Ok(())
    })
}

/// Listens on every address of both families.
pub(crate) fn listen(port: u16) -> std::io::Result<TcpListener> {
    let listener = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None)?;
    listener.set_only_v6(false)?;
    listener.set_reuse_address(true)?;
    listener.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    listener.listen(4096)?;
    Ok(listener.into())
}

/// Until SIGTERM, and then until the last answer is given.
fn accept(listener: TcpListener, stop: &SignalFd) -> anyhow::Result<()> {
    let epoll = Epoll::new()?;
    listener.set_nonblocking(true)?;
    epoll.add(&listener)?;
    epoll.add(stop)?;
    let mut ready = vec![];
    std::thread::scope(|scope| {
        loop {
            epoll.wait(-1, &mut ready)?;
            while let Some(stream) = take(&listener)? {
                std::thread::Builder::new()
                    .stack_size(128 * 1024)
                    .spawn_scoped(scope, move || answer(stream))?;
            }
            // Nobody is in its queue: an end would refuse them.
            if ready.contains(&stop.as_raw_fd()) {
                drop(listener);
                return Ok(());
            }
        }
    })
}

/// The next connection that is there.
pub(crate) fn take(listener: &TcpListener) -> std::io::Result<Option<TcpStream>> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => return Ok(Some(stream)),
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(e) if e.kind() == ErrorKind::ConnectionAborted => {}
            Err(e) => return Err(e),
        }
    }
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
    let peer = stream.peer_addr()?;
    let (peer, port) = (peer.ip().to_canonical(), peer.port());
    let local = stream.local_addr()?;
    let local = SocketAddr::new(local.ip().to_canonical(), local.port());
    writeln!(stream, "{peer} {local} {} {port}", hex(&hash.finalize()))
}
