//! Sockets as the data path needs them. All made in the calling thread's
//! network namespace: call inside `Netns::run`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use mesh_common::abi::{MARK, MARK_THROUGH};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// `IP_BIND_ADDRESS_NO_PORT`: the port is chosen at connect, by the whole tuple.
const IP_BIND_ADDRESS_NO_PORT: libc::c_int = 24;
const BACKLOG: i32 = 4096;
/// `IP_LOCAL_PORT_RANGE` (Linux 6.3): a part of the namespace's range, both families.
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

fn socket(ip: IpAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(SocketAddr::new(ip, 0));
    let socket = Socket::new(
        domain,
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    if ip.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// Lets the socket have addresses that are not the namespace's own (CAP_NET_ADMIN).
fn set_transparent(socket: &Socket, ip: IpAddr) -> io::Result<()> {
    match ip {
        IpAddr::V4(_) => socket.set_ip_transparent_v4(true),
        IpAddr::V6(_) => set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT, 1),
    }
}

/// `members` listeners on one loopback port, one for each worker; the kernel
/// spreads connections over them although sk_lookup names only one.
pub(crate) fn listener_group(family_of: IpAddr, members: usize) -> io::Result<Vec<TcpListener>> {
    let loopback: IpAddr = match family_of {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let mut group: Vec<TcpListener> = Vec::with_capacity(members);
    for _ in 0..members {
        let socket = socket(loopback)?;
        set_transparent(&socket, loopback)?;
        socket.set_reuse_port(true)?;
        // What is accepted holds the application's port in the pod and inherits
        // this: without it the application could not bind its port again.
        socket.set_reuse_address(true)?;
        // Both are inherited by accepted sockets, which is no system call for each.
        // A client that vanished holds its connection for two minutes, not for ever.
        socket.set_tcp_nodelay(true)?;
        keep_alive(&socket)?;
        // For `sock_ops`, which notes what each SYN-ACK answers, also a repeated one.
        set_int(&socket, libc::IPPROTO_TCP, libc::TCP_SAVE_SYN, 1)?;
        let port = match group.first() {
            Some(first) => first.local_addr()?.port(),
            None => 0,
        };
        socket.bind(&SocketAddr::new(loopback, port).into())?;
        socket.listen(BACKLOG)?;
        // After it: with `net.ipv4.tcp_fastopen` of 0x400 listening turns it on. Data of a
        // SYN would be taken before the client has proved its address, and the answer to
        // it is none that `sock_ops` is asked for.
        set_int(&socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 0)?;
        group.push(socket.into());
    }
    Ok(group)
}

/// Can a socket be held to a part of the namespace's ports?
#[must_use]
pub(crate) fn can_narrow_ports() -> bool {
    let narrowed = socket(Ipv4Addr::LOCALHOST.into()).and_then(|s| narrow(&s, &(32_768..=32_769)));
    narrowed.is_ok()
}

fn narrow(socket: &Socket, ports: &RangeInclusive<u16>) -> io::Result<()> {
    let range = u32::from(*ports.end()) << 16 | u32::from(*ports.start());
    set_int(
        socket,
        libc::IPPROTO_IP,
        IP_LOCAL_PORT_RANGE,
        range.cast_signed(),
    )
}

/// A socket that will connect from `source`, the pod's own address; from one of
/// `ports`, where not every port of the pod's will do.
pub(crate) fn dial_socket(
    source: IpAddr,
    ports: Option<&RangeInclusive<u16>>,
) -> io::Result<Socket> {
    let socket = socket(source)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(ports) = ports {
        narrow(&socket, ports)?;
    }
    set_int(&socket, libc::IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)?;
    queue_errors(&socket, source, true)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    Ok(socket)
}

/// The same for a connection that the destination's agent must take, also where
/// that is this one (TLS between pods of one node).
pub(crate) fn dial_through_socket(
    source: IpAddr,
    ports: Option<&RangeInclusive<u16>>,
) -> io::Result<Socket> {
    let socket = dial_socket(source, ports)?;
    socket.set_mark(MARK_THROUGH)?;
    Ok(socket)
}

/// A socket that will connect as `source`, a client elsewhere, to an
/// application in this namespace; the mark leads the replies back over `lo`.
pub(crate) fn delivery_socket(source: SocketAddr) -> io::Result<Socket> {
    let socket = socket(source.ip())?;
    socket.set_tcp_nodelay(true)?;
    set_transparent(&socket, source.ip())?;
    socket.set_mark(MARK)?;
    queue_errors(&socket, source.ip(), true)?;
    // Ports come from our own range; one in TIME_WAIT may be used again.
    socket.set_reuse_address(true)?;
    socket.bind(&source.into())?;
    Ok(socket)
}

/// Has ICMPv6 errors of a connect queued. Over `lo` and veth they come while
/// the connecting call still holds the socket, and then the kernel forgets them
/// until the SYN is repeated, a second later. (Those of IPv4 it does not.)
fn queue_errors(socket: &impl AsRawFd, ip: IpAddr, on: bool) -> io::Result<()> {
    if ip.is_ipv4() {
        return Ok(());
    }
    set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, on.into())
}

/// How the connect from `source` ended, once the socket says that it has.
pub(crate) fn connected(socket: &(impl AsFd + AsRawFd), source: IpAddr) -> io::Result<()> {
    let known = SockRef::from(socket);
    if let Some(error) = known.take_error()? {
        return Err(error);
    }
    if source.is_ipv6() {
        if let Some(error) = queued_error(socket) {
            return Err(error);
        }
        // An error that is queued and cannot be read must not pass for a success.
        known.peer_addr()?;
    }
    // On a connection errors are hints again, as for IPv4.
    queue_errors(socket, source, false)
}

fn queued_error(socket: &impl AsRawFd) -> Option<io::Error> {
    let mut space = nix::cmsg_space!([u8; 64]);
    let (fd, flags) = (socket.as_raw_fd(), MsgFlags::MSG_ERRQUEUE);
    let message = recvmsg::<()>(fd, &mut [], Some(&mut space), flags).ok()?;
    let error = message.cmsgs().ok()?.find_map(|part| match part {
        ControlMessageOwned::Ipv6RecvErr(error, _) => i32::try_from(error.ee_errno).ok(),
        _ => None,
    });
    Some(io::Error::from_raw_os_error(error?))
}

/// A peer that has not said a word for this long, though it was asked, is gone.
const SILENCE: Duration = Duration::from_secs(120);
/// The question is repeated this often, for the second half of that time.
const RETRIES: u32 = 6;

/// Notices a peer that is gone, while nothing is sent to it. Costs four system
/// calls: for connections that last.
pub(crate) fn keep_alive(socket: &impl AsFd) -> io::Result<()> {
    // Switches it on as well.
    SockRef::from(socket).set_tcp_keepalive(
        &socket2::TcpKeepalive::new()
            .with_time(SILENCE / 2)
            .with_interval(SILENCE / 2 / RETRIES)
            .with_retries(RETRIES),
    )
}

/// Is the peer gone with bytes that it was sent? Keepalive asks nothing then, and
/// the kernel goes on for a quarter of an hour.
///
/// Not `TCP_USER_TIMEOUT`: that also ends the connection of a peer that lives,
/// answers, and does not read for that long (measured: `ETIMEDOUT`).
///
/// Needs [`keep_alive`]: without it who was not sent anything for that long, and now misses one
/// packet, would be gone. With it who lives has said something in half of that time.
pub(crate) fn is_abandoned(socket: &impl AsFd) -> bool {
    silence(socket).is_some_and(|seen| seen.is_unanswered && seen.lasts >= SILENCE)
}

/// What the kernel knows of a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerSilence {
    /// Nothing has come of it for so long, no acknowledgement either; also where it was not sent
    /// anything.
    pub(crate) lasts: Duration,
    /// What it was sent is sent once more.
    pub(crate) is_unanswered: bool,
    /// Bytes that it has acknowledged in all: acknowledgements come also with what it sends
    /// once more itself, and say nothing new.
    pub(crate) acknowledged: u64,
}

/// `None` where the kernel cannot be asked: such a connection fails by itself.
pub(crate) fn silence(socket: &impl AsFd) -> Option<PeerSilence> {
    let info = tcp_info(socket).ok()?;
    let silent = info.tcpi_last_ack_recv.min(info.tcpi_last_data_recv);
    Some(PeerSilence {
        lasts: Duration::from_millis(silent.into()),
        is_unanswered: leaves_unanswered((info.tcpi_retransmits, info.tcpi_probes)),
        acknowledged: info.tcpi_bytes_acked,
    })
}

/// Has either end said that it is done, or failed? Also where there is much before that is
/// not read.
pub(crate) fn has_ended(socket: &impl AsFd) -> bool {
    const ESTABLISHED: u8 = 1;
    // One that cannot be asked is none.
    tcp_info(socket).map_or(true, |info| info.tcpi_state != ESTABLISHED)
}

/// Has it failed, or have both ends said that they are done? What one that failed had to send
/// stays unacknowledged.
pub(crate) fn is_closed(socket: &impl AsFd) -> bool {
    const CLOSE: u8 = 7;
    // One that cannot be asked is none.
    tcp_info(socket).map_or(true, |info| info.tcpi_state == CLOSE)
}

/// A single probe of a closed window may be under way to a peer that lives: they
/// are up to two minutes apart.
fn leaves_unanswered((retransmits, probes): (u8, u8)) -> bool {
    retransmits > 0 || probes > 1
}

fn tcp_info(socket: &impl AsFd) -> io::Result<libc::tcp_info> {
    // SAFETY: integers only, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the buffer is as long as `len` says, and outlives the call.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    if rc == 0 {
        Ok(info)
    } else {
        Err(io::Error::last_os_error())
    }
}

fn set_int(socket: &impl AsRawFd, level: i32, option: i32, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the value lives through the call and its size is passed along.
    let rc = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Carries our mark: an own delivery that came back to us.
pub(crate) fn is_own_delivery(socket: &impl AsFd) -> bool {
    // A socket whose mark cannot be read is treated as ours: it is refused.
    SockRef::from(socket)
        .mark()
        .map_or(true, |mark| mark == MARK)
}

/// Keeps the kernel from holding much that is not sent yet, where we hold more ourselves.
pub(crate) fn bound_unsent(socket: &impl AsFd) {
    const UNSENT_BYTES: u32 = 128 * 1024;
    // It can fail only for a socket that is already dead.
    let _dead = SockRef::from(socket).set_tcp_notsent_lowat(UNSENT_BYTES);
}

/// Bytes that were written and that the peer's kernel has not acknowledged.
pub(crate) fn unacknowledged(socket: &impl AsRawFd) -> io::Result<usize> {
    let mut left: libc::c_int = 0;
    // SAFETY: TIOCOUTQ (SIOCOUTQ of a socket) writes one int to the given place.
    let rc = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut left) };
    match rc {
        0 => Ok(usize::try_from(left).unwrap_or(0)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes closing the socket send RST instead of FIN.
pub(crate) fn reset_on_close(socket: &impl AsFd) {
    // It can fail only for a socket that is already dead.
    let _dead = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// Ends it with RST now, and throws away what the kernel still had to send: closing does that only
/// with the last who holds it.
pub(crate) fn abort(socket: &impl AsFd) {
    let nowhere = libc::sockaddr {
        sa_family: libc::AF_UNSPEC as libc::sa_family_t,
        sa_data: [0; 14],
    };
    let (fd, len) = (socket.as_fd().as_raw_fd(), size_of_val(&nowhere));
    // SAFETY: the address is as long as `len` says, and outlives the call.
    // It can fail only for a socket that is already dead.
    let _dead = unsafe { libc::connect(fd, &raw const nowhere, len as libc::socklen_t) };
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read as _, Write as _};
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_peer_is_gone_when_it_leaves_bytes_unanswered_and_not_when_it_does_not_read() {
        for (retransmits, probes, gone) in [
            (0, 0, false), // nothing was asked
            (3, 0, true),
            (0, 1, false), // under way to a closed window
            (0, 2, true),
        ] {
            let told = leaves_unanswered((retransmits, probes));
            assert_eq!(told, gone, "{retransmits} {probes}");
        }
    }

    #[test]
    fn the_kernel_tells_what_is_asked_of_it() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("its address");
        let near = std::net::TcpStream::connect(address).expect("connected");
        let info = tcp_info(&near).expect("told");
        assert_eq!((info.tcpi_retransmits, info.tcpi_probes), (0, 0));
        assert!(info.tcpi_last_ack_recv < 60_000 && info.tcpi_snd_mss > 0);
        assert!(!is_abandoned(&near));
        let (mut far, _) = listener.accept().expect("accepted");
        (&near).write_all(b"hello").expect("written");
        far.read_exact(&mut [0; 5]).expect("read");
        // Its answer says that it has it.
        far.write_all(b"!").expect("written");
        (&near).read_exact(&mut [0]).expect("read");
        let after = silence(&near).expect("told").acknowledged;
        assert_eq!(after - info.tcpi_bytes_acked, 5);
        keep_alive(&near).expect("asked for");
        assert!(SockRef::from(&near).keepalive().expect("told"));
    }

    #[test]
    fn what_a_peer_that_is_gone_had_not_taken_is_never_acknowledged() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let to = listener.local_addr().expect("an address");
        let near = TcpStream::connect(to).expect("connected");
        let (far, _) = listener.accept().expect("accepted");
        near.set_nonblocking(true).expect("asked for");
        while (&near).write(&[7; 16 * 1024]).is_ok() {}
        assert!(!is_closed(&near));
        reset_on_close(&far);
        drop(far);
        near.set_nonblocking(false).expect("asked for");
        let end = (&near).read(&mut [0]).expect_err("no end in order");
        assert_eq!(end.kind(), ErrorKind::ConnectionReset);
        assert!(unacknowledged(&near).expect("told") > 0 && is_closed(&near));
    }

    #[test]
    fn what_an_aborted_socket_had_to_send_never_arrives_whoever_holds_it() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let to = listener.local_addr().expect("an address");
        let near = TcpStream::connect(to).expect("connected");
        let (mut far, _) = listener.accept().expect("accepted");
        near.set_nonblocking(true).expect("asked for");
        let mut written = 0;
        while let Ok(n) = (&near).write(&[7; 16 * 1024]) {
            written += n;
        }
        assert!(unacknowledged(&near).expect("told") > 0);
        let _another = near.try_clone().expect("a handle");
        abort(&near);
        let patience = Some(Duration::from_secs(9));
        far.set_read_timeout(patience).expect("asked for");
        let mut got = vec![];
        let end = far.read_to_end(&mut got).expect_err("no end in order");
        assert_eq!(end.kind(), ErrorKind::ConnectionReset);
        assert!(got.len() < written, "{written}");
        assert!((&near).write(&[7]).is_err() && has_ended(&near));
    }
}
