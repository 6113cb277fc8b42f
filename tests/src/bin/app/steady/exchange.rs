//! What a steady client does again and again, and how it may come out.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};

use anyhow::Result;
use clap::ValueEnum;

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

/// One that does so.
pub(super) struct Client {
    to: SocketAddr,
    what: What,
    getter: Option<Getter>,
    caller: Option<Caller>,
}

impl Client {
    pub(super) fn new(to: SocketAddr, what: What) -> Self {
        Self {
            to,
            what,
            getter: None,
            caller: None,
        }
    }

    /// After an error the next one begins with a new connection.
    pub(super) fn exchange(&mut self) -> Result<&'static str> {
        match self.what {
            What::Bytes => return Ok(bytes(self.to)?),
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
/// was in between.
fn bytes(to: SocketAddr) -> std::io::Result<&'static str> {
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
