//! Two threads with an epoll set each, one pair of listeners.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, RawFd};

use mesh_tests::sys::epoll::Epoll;

use crate::serve::listen;

const THREADS: usize = 2;
const BUFFER: usize = 256 * 1024;

struct Connection {
    stream: TcpStream,
    is_bulk: bool,
    swallowed: u64,
}

pub(crate) fn serve(port: u16) -> anyhow::Result<()> {
    let (echo, bulk) = (listen(port)?, listen(port + 1)?);
    echo.set_nonblocking(true)?;
    bulk.set_nonblocking(true)?;
    println!("serving");
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| scope.spawn(|| work(&echo, &bulk)))
            .collect();
        for thread in threads {
            match thread.join() {
                Ok(result) => result?,
                Err(_) => anyhow::bail!("a server thread panicked"),
            }
        }
        Ok(())
    })
}

fn work(echo: &TcpListener, bulk: &TcpListener) -> anyhow::Result<()> {
    let epoll = Epoll::new()?;
    epoll.add_exclusive(echo)?;
    epoll.add_exclusive(bulk)?;
    let mut connections: Vec<Option<Connection>> = vec![];
    let mut ready = vec![];
    let mut buffer = vec![0; BUFFER];
    loop {
        epoll.wait(-1, &mut ready)?;
        for fd in &ready {
            if *fd == echo.as_raw_fd() {
                accept(echo, false, &epoll, &mut connections)?;
            } else if *fd == bulk.as_raw_fd() {
                accept(bulk, true, &epoll, &mut connections)?;
            } else if !go_on(slot(&mut connections, *fd), &mut buffer) {
                *slot(&mut connections, *fd) = None;
            }
        }
    }
}

fn slot(connections: &mut Vec<Option<Connection>>, fd: RawFd) -> &mut Option<Connection> {
    let at = usize::try_from(fd).unwrap_or(0);
    if connections.len() <= at {
        connections.resize_with(at + 1, || None);
    }
    &mut connections[at]
}

fn accept(
    listener: &TcpListener,
    is_bulk: bool,
    epoll: &Epoll,
    connections: &mut Vec<Option<Connection>>,
) -> anyhow::Result<()> {
    let stream = match listener.accept() {
        Ok((stream, _)) => stream,
        // Another thread was faster, or the client has gone.
        Err(e)
            if matches!(
                e.kind(),
                ErrorKind::WouldBlock | ErrorKind::ConnectionAborted
            ) =>
        {
            return Ok(());
        }
        Err(e) => return Err(e.into()),
    };
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    epoll.add(&stream)?;
    let fd = stream.as_raw_fd();
    *slot(connections, fd) = Some(Connection {
        stream,
        is_bulk,
        swallowed: 0,
    });
    Ok(())
}

/// False when the connection has ended.
fn go_on(connection: &mut Option<Connection>, buffer: &mut [u8]) -> bool {
    let Some(connection) = connection else {
        return true;
    };
    match connection.stream.read(buffer) {
        Ok(0) => {
            if connection.is_bulk {
                let count = connection.swallowed.to_be_bytes();
                // The client notices what is missing.
                let _ = connection.stream.write_all(&count);
            }
            false
        }
        Ok(n) if connection.is_bulk => {
            connection.swallowed += n as u64;
            true
        }
        Ok(n) => connection.stream.write_all(&buffer[..n]).is_ok(),
        Err(e) => e.kind() == ErrorKind::WouldBlock,
    }
}
