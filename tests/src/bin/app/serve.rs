//! A server that says what it saw.
//!
//! Protocol: the client sends any bytes and its FIN; the server answers
//! `PEER_IP LOCAL_ADDR SHA256 PEER_PORT\n` and closes. So every exchange proves
//! half-close, content and addresses.

use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use sha2::{Digest as _, Sha256};

use crate::hex;

pub(crate) fn run(ports: &[u16]) -> anyhow::Result<()> {
    let listeners = ports
        .iter()
        .map(|port| listen(*port))
        .collect::<std::io::Result<Vec<_>>>()?;
    println!("serving");
    std::thread::scope(|scope| {
        let servers: Vec<_> = listeners
            .iter()
            .map(|l| scope.spawn(|| accept(l)))
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

fn accept(listener: &TcpListener) -> anyhow::Result<()> {
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
    let peer = stream.peer_addr()?;
    let (peer, port) = (peer.ip().to_canonical(), peer.port());
    let local = stream.local_addr()?;
    let local = SocketAddr::new(local.ip().to_canonical(), local.port());
    writeln!(stream, "{peer} {local} {} {port}", hex(&hash.finalize()))
}
