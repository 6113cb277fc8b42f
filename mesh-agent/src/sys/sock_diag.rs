//! What the kernel says of TCP sockets (`NETLINK_SOCK_DIAG`): whose cgroup each
//! listening one is in, and which others there are.
//!
//! The id is the true one in every cgroup namespace, and the one that the kernel
//! programs see.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd as _;

use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};
use nix::sys::stat::fstat;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
const TCP_LISTEN: u32 = 1 << 10;
/// From SYN_SENT on, without those that wait for nothing but time.
const TCP_CONNECTED: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
/// Of a `nlmsghdr` and of an `inet_diag_req_v2`.
const HEADER: usize = 16;
const REQUEST: usize = 56;
/// Of an `inet_diag_msg`, and where in it these are.
const ANSWER: usize = 72;
const FAMILY: usize = 0;
const SOURCE_PORT: usize = 4;
const OTHER_PORT: usize = 6;
const SOURCE: usize = 8;
const OTHER: usize = 24;
const UID: usize = 64;
const INODE: usize = 68;
/// `INET_DIAG_CGROUP_ID` (Linux 5.9).
const CGROUP_ID: u16 = 21;

/// A listening socket of the calling thread's network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listening {
    pub(crate) port: u16,
    /// Of who made it.
    pub(crate) uid: u32,
    /// Of the cgroup that it was made in.
    pub(crate) cgroup: u64,
    inode: u32,
}

/// All that listen on a port, whatever the address.
pub(crate) fn listening(port: u16) -> io::Result<Vec<Listening>> {
    let mut found = Vec::new();
    dump(TCP_LISTEN, port, |body| {
        let cgroup = attribute(&body[ANSWER..], CGROUP_ID);
        found.extend(cgroup.map(|cgroup| Listening {
            port: port_at(body, SOURCE_PORT),
            uid: word(body, UID),
            inode: word(body, INODE),
            cgroup,
        }));
    })?;
    Ok(found)
}

/// Both ends of each TCP connection of the calling thread's network namespace, the own
/// one first; those too whose process is gone.
pub(crate) fn connected() -> io::Result<Vec<(SocketAddr, SocketAddr)>> {
    let mut found = Vec::new();
    dump(TCP_CONNECTED, 0, |body| {
        let end = |address, port| SocketAddr::new(ip_at(body, address), port_at(body, port));
        found.push((end(SOURCE, SOURCE_PORT), end(OTHER, OTHER_PORT)));
    })?;
    Ok(found)
}

/// Id of the calling process's own cgroup: that of a socket that it makes.
pub(crate) fn own_cgroup_id() -> io::Result<u64> {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let inode = fstat(socket.as_fd())?.st_ino;
    let port = socket.local_addr()?.port();
    let own = listening(port)?
        .into_iter()
        .find(|listening| u64::from(listening.inode) == inode);
    let own = own.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    Ok(own.cgroup)
}

/// Each socket of both families in one of these states, on a port (0: any).
fn dump(states: u32, port: u16, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
        socket.send(&request(family as u8, states, port), 0)?;
        loop {
            let (datagram, _) = socket.recv_from_full()?;
            if read(&datagram, &mut each)? {
                break;
            }
        }
    }
    Ok(())
}

fn request(family: u8, states: u32, port: u16) -> Vec<u8> {
    let length = (HEADER + REQUEST) as u32;
    let mut bytes = Vec::with_capacity(HEADER + REQUEST);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(DUMP.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, libc::IPPROTO_TCP as u8, 0, 0]);
    bytes.extend(states.to_ne_bytes());
    bytes.extend(port.to_be_bytes());
    bytes.resize(HEADER + REQUEST, 0);
    bytes
}

/// True with the last part of the answer.
fn read(datagram: &[u8], each: &mut impl FnMut(&[u8])) -> io::Result<bool> {
    let mut rest = datagram;
    while rest.len() >= HEADER {
        let length = word(rest, 0) as usize;
        let body = rest.get(HEADER..length).ok_or(io::ErrorKind::InvalidData)?;
        match half(rest, 4) {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR if body.len() >= 4 => {
                let errno = word(body, 0).cast_signed();
                return Err(io::Error::from_raw_os_error(-errno));
            }
            SOCK_DIAG_BY_FAMILY if body.len() >= ANSWER => each(body),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn port_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn ip_at(bytes: &[u8], at: usize) -> IpAddr {
    if i32::from(bytes[FAMILY]) == libc::AF_INET {
        return [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]].into();
    }
    let mut v6 = [0; 16];
    v6.copy_from_slice(&bytes[at..at + 16]);
    v6.into()
}

/// The attribute's eight bytes.
fn attribute(mut rest: &[u8], wanted: u16) -> Option<u64> {
    while rest.len() >= 4 {
        let length = usize::from(half(rest, 0));
        let value = rest.get(4..length)?;
        if half(rest, 2) == wanted {
            return Some(u64::from_ne_bytes(value.try_into().ok()?));
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_who_listens_and_in_which_cgroup() {
        let listener = TcpListener::bind("[::1]:0").expect("a listener");
        let port = listener.local_addr().expect("its address").port();
        let found = listening(port).expect("an answer");
        let [one] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!(one.port, port);
        assert_eq!(one.uid, nix::unistd::getuid().as_raw());
        assert_eq!(one.cgroup, own_cgroup_id().expect("an answer"));
        drop(listener);
        assert_eq!(listening(port).expect("an answer"), []);
    }

    #[test]
    fn both_ends_of_a_connection_are_told_for_as_long_as_it_is_there() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).expect("a listener");
            let to = listener.local_addr().expect("its address");
            let client = std::net::TcpStream::connect(to).expect("connected");
            let from = client.local_addr().expect("its address");
            let found = connected().expect("an answer");
            assert!(found.contains(&(from, to)) && found.contains(&(to, from)));
            let (server, _) = listener.accept().expect("accepted");
            drop((client, server));
            assert!(!connected().expect("an answer").contains(&(from, to)));
        }
    }

    #[test]
    fn an_answer_that_is_cut_short_is_an_error_and_no_panic() {
        let mut found = Vec::new();
        let whole = request(2, TCP_LISTEN, 80);
        for length in 0..whole.len() {
            let read = read(&whole[..length], &mut |body| found.push(body.to_vec()));
            assert!(read.is_err() || length < HEADER, "{length}");
        }
        assert!(found.is_empty());
        assert_eq!(
            attribute(&[12, 0, 21, 0, 1, 0, 0, 0, 0, 0, 0, 0], 21),
            Some(1)
        );
        assert_eq!(attribute(&[12, 0, 21, 0, 1, 0, 0], 21), None);
        assert_eq!(attribute(&[0, 0, 20, 0], 21), None);
    }
}
