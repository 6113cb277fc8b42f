//! What a steady client does again and again, and how it may come out.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};

use anyhow::Result;
use clap::ValueEnum;
use socket2::{Domain, Socket, Type};

use super::PATIENCE;
use crate::load::{Caller, Getter};

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum What {
    /// Bytes and an answer to them, each time on a new connection.
    Bytes,
    /// GET by HTTP/1.1, each time on a new connection.
    Get,
    /// GET by HTTP/1.1, one after the other on a connection that is kept.
    KeptGet,
    /// Calls of gRPC, one after the other on a connection of HTTP/2 that is kept.
    Call,
}

/// Which ports a client of [`What::Bytes`] calls from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ports {
    /// Ones that nobody else of the namespace gets meanwhile. Each is taken for a minute
    /// after its connection's end, whatever the address.
    Own,
    /// Those of `connect`. To a virtual address, the agent's dial may come from the same
    /// port: the two lead to different addresses.
    Any,
}

/// One that does so.
pub(super) struct Client {
    to: SocketAddr,
    what: What,
    ports: Ports,
    getter: Option<Getter>,
    caller: Option<Caller>,
}

impl Client {
    pub(super) fn new(to: SocketAddr, what: What, ports: Ports) -> Self {
        Self {
            to,
            what,
            ports,
            getter: None,
            caller: None,
        }
    }

    /// After an error the next one begins with a new connection.
    pub(super) fn exchange(&mut self) -> Result<&'static str> {
        match self.what {
            What::Bytes => return Ok(bytes(self.to, self.ports)?),
            What::Get => Getter::new(self.to)?.get()?,
            What::KeptGet => {
                let mut getter = match self.getter.take() {
                    Some(getter) => getter,
                    None => Getter::new(self.to)?,
                };
                getter.get()?;
                self.getter = Some(getter);
            }
            What::Call => {
                let mut caller = match self.caller.take() {
                    Some(caller) => caller,
                    None => Caller::new(self.to)?,
                };
                caller.finish_one()?;
                self.caller = Some(caller);
            }
        }
        Ok("carried")
    }
}

/// The server says which port it was called from: the client's own means that nothing
/// was in between, where it is the client's alone.
fn bytes(to: SocketAddr, ports: Ports) -> std::io::Result<&'static str> {
    let mut stream = connect(to, ports)?;
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

fn connect(to: SocketAddr, ports: Ports) -> std::io::Result<TcpStream> {
    match ports {
        Ports::Any => TcpStream::connect_timeout(&to, PATIENCE),
        Ports::Own => {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
            let any = match to {
                SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            // Linux gives no port that one socket was bound to to another one's `connect`.
            socket.bind(&SocketAddr::new(any, 0).into())?;
            socket.connect_timeout(&to.into(), PATIENCE)?;
            Ok(socket.into())
        }
    }
}
