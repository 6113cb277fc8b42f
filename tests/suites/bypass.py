"""Clients that try every way to a server, for the suite bypass.

Prints one line of JSON: the server's answer and this end's addresses, or the error's name.
"""

import ctypes
import errno
import json
import mmap
import os
import socket
import struct
import subprocess
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
MARK_THROUGH = 0x6D657369
TCP_FASTOPEN_CONNECT = 30
SO_MARK = 36
CLONE_NEWNET = 0x40000000
TEXT = b"by another way"


def syscall(number, *args):
    result = LIBC.syscall(ctypes.c_long(number), *args)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def family(host):
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def tcp(host, protocol=0):
    return socket.socket(family(host), socket.SOCK_STREAM, protocol)


def plain(to):
    s = tcp(to[0])
    s.connect(to)
    return s


def mptcp(to):
    s = tcp(to[0], socket.IPPROTO_MPTCP)
    s.connect(to)
    return s


def fastopen(to):
    s = tcp(to[0])
    s.sendto(b"", socket.MSG_FASTOPEN, to)
    return s


def fastopen_connect(to):
    s = tcp(to[0])
    s.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
    s.connect(to)
    return s


def mapped(to):
    s = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    s.connect(("::ffff:" + to[0], to[1]))
    return s


def device(to):
    s = tcp(to[0])
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0\0")
    s.connect(to)
    return s


def device_unprivileged(to):
    os.setgroups([])
    os.setuid(65534)
    return device(to)


def mark(to):
    s = tcp(to[0])
    s.setsockopt(socket.SOL_SOCKET, SO_MARK, 0x1234)
    s.connect(to)
    return s


def mark_through(to):
    s = tcp(to[0])
    s.setsockopt(socket.SOL_SOCKET, SO_MARK, MARK_THROUGH)
    s.connect(to)
    return s


def port(to):
    s = tcp(to[0])
    own = ("::", 45679) if ":" in to[0] else ("0.0.0.0", 45678)
    s.bind(own)
    s.connect(to)
    assert s.getsockname()[1] == own[1]
    return s


def reconnect(to):
    s = tcp(to[0])
    s.connect(to)
    # AF_UNSPEC: back to a socket that may connect again.
    unspecified = struct.pack("H14x", socket.AF_UNSPEC)
    if LIBC.connect(s.fileno(), unspecified, len(unspecified)) != 0:
        raise OSError(ctypes.get_errno(), "disconnect")
    s.connect(to)
    return s


def uring(to):
    """IORING_OP_CONNECT, by hand: one entry, one wait."""
    params = ctypes.create_string_buffer(120)
    ring = syscall(425, 4, params)
    words = struct.unpack("30I", params.raw)
    sq_entries, cq_entries, sq, cq = words[0], words[1], words[10:20], words[20:30]
    length = max(sq[6] + sq_entries * 4, cq[5] + cq_entries * 16)
    area = mmap.mmap(ring, length, mmap.MAP_SHARED, offset=0)
    completions = mmap.mmap(ring, length, mmap.MAP_SHARED, offset=0x8000000)
    entries = mmap.mmap(ring, sq_entries * 64, mmap.MAP_SHARED, offset=0x10000000)
    s = tcp(to[0])
    if family(to[0]) == socket.AF_INET:
        address = struct.pack("=H", 2) + struct.pack("!H", to[1]) + socket.inet_aton(to[0]) + bytes(8)
    else:
        packed = socket.inet_pton(socket.AF_INET6, to[0])
        address = struct.pack("=H", 10) + struct.pack("!HI", to[1], 0) + packed + bytes(4)
    buffer = ctypes.create_string_buffer(address, len(address))
    entries[0:64] = struct.pack("=BBHiQQIIQ24x", 16, 0, 0, s.fileno(), len(address), ctypes.addressof(buffer), 0, 0, 7)
    area[sq[6] : sq[6] + 4] = struct.pack("I", 0)
    area[sq[1] : sq[1] + 4] = struct.pack("I", 1)
    syscall(426, ring, 1, 1, 1, None, 0)
    result = struct.unpack("i", completions[cq[5] + 8 : cq[5] + 12])[0]
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return s


def setns(path):
    with open(path) as namespace:
        if LIBC.setns(namespace.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")


def exchange(s):
    s.settimeout(10)
    peer, local = s.getpeername(), s.getsockname()
    s.sendall(TEXT)
    s.shutdown(socket.SHUT_WR)
    answer = b""
    while chunk := s.recv(4096):
        answer += chunk
    return {"answer": answer.decode().split(), "peer": list(peer[:2]), "local": list(local[:2])}


def report(work):
    try:
        print(json.dumps(work()))
    except OSError as error:
        print(json.dumps({"error": errno.errorcode.get(error.errno, str(error))}))


def target(text):
    host, number = text.rsplit(":", 1)
    return host.strip("[]"), int(number)


def give(path):
    """Gives sockets of this namespace to whoever asks on a Unix socket."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(path)
    server.listen()
    print("giving", flush=True)
    while True:
        asker, _ = server.accept()
        given = tcp("0.0.0.0")
        socket.send_fds(asker, [b"x"], [given.fileno()])
        given.close()


def received(path, to):
    asker = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    asker.connect(path)
    _, fds, _, _ = socket.recv_fds(asker, 1, 1)
    s = socket.socket(fileno=fds[0])
    s.connect(to)
    return s


def inside(path, to):
    setns(path)
    return plain(to)


def bound(source, to, prepare=None):
    s = tcp(to[0])
    if prepare:
        s.setsockopt(*prepare, 1)
    s.bind((source, 0))
    s.connect(to)
    return s


def transparent(source, to):
    v6 = ":" in source
    return bound(source, to, (socket.IPPROTO_IPV6, 75) if v6 else (socket.IPPROTO_IP, 19))


def freebind(source, to):
    v6 = ":" in source
    return bound(source, to, (socket.IPPROTO_IPV6, 78) if v6 else (socket.IPPROTO_IP, 15))


def added(source, to):
    """The address is put onto an interface of this namespace, for as long as it takes."""
    address = [source + ("/128" if ":" in source else "/32"), "dev", "lo"]
    # Without the detection of duplicates, which would hold the address back for a second.
    once = ["nodad"] if ":" in source else []
    subprocess.run(["ip", "addr", "add", *address, *once], check=True)
    try:
        return bound(source, to)
    finally:
        subprocess.run(["ip", "addr", "del", *address], check=True)


def new_namespace(to):
    if LIBC.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    return plain(to)


def listeners(own):
    """Connects to every listener on loopback except the application's."""
    results = []
    for table, host in (("/proc/net/tcp", "127.0.0.1"), ("/proc/net/tcp6", "::1")):
        for line in open(table).read().splitlines()[1:]:
            fields = line.split()
            number = int(fields[1].rsplit(":", 1)[1], 16)
            if fields[3] != "0A" or number == own:
                continue
            results.append(touch((host, number)))
    return {"touched": results}


def touch(to):
    """What comes back from a port: bytes, an orderly end, or an error's name."""
    try:
        s = socket.create_connection(to, timeout=5)
        s.sendall(b"GET /status HTTP/1.0\r\nHost: localhost\r\n\r\n")
        data = s.recv(100)
        return data.decode(errors="replace") if data else "EOF"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))


def udp_serve(number):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("0.0.0.0", number))
    print("serving", flush=True)
    while True:
        data, peer = s.recvfrom(2000)
        s.sendto(peer[0].encode() + b" " + data, peer)


def udp(to):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(5)
    s.connect(to)
    s.send(TEXT)
    return {"answer": s.recv(2000).decode()}


def tuples(pin):
    """Values of the pinned map of live tuples, by destination port."""
    path = ctypes.create_string_buffer(pin.encode())
    attr = ctypes.create_string_buffer(struct.pack("QII", ctypes.addressof(path), 0, 0))
    fd = syscall(321, 7, attr, 16)
    key, value = ctypes.create_string_buffer(40), ctypes.create_string_buffer(bytes(8), 8)
    found, previous = [], 0
    while True:
        packed = struct.pack("I4xQQQ", fd, previous, ctypes.addressof(key), 0)
        try:
            syscall(321, 4, ctypes.create_string_buffer(packed), 32)
        except OSError:
            return {"tuples": found}
        packed = struct.pack("I4xQQQ", fd, ctypes.addressof(key), ctypes.addressof(value), 0)
        syscall(321, 1, ctypes.create_string_buffer(packed), 32)
        address = socket.inet_ntop(socket.AF_INET6, key.raw[16:32])
        found.append([address, struct.unpack("I", key.raw[36:40])[0], struct.unpack("Q", value.raw)[0]])
        last = ctypes.create_string_buffer(key.raw[:40])
        previous = ctypes.addressof(last)


def detach(pin):
    """Detaches a pinned link, whoever's it is."""
    path = ctypes.create_string_buffer(pin.encode())
    attr = ctypes.create_string_buffer(struct.pack("QII", ctypes.addressof(path), 0, 0))
    fd = syscall(321, 7, attr, 16)
    syscall(321, 34, ctypes.create_string_buffer(struct.pack("I", fd)), 4)
    return {"detached": pin}


def main(mode, *args):
    if mode == "give":
        give(*args)
    elif mode == "udp-serve":
        udp_serve(int(args[0]))
    elif mode == "udp":
        report(lambda: udp(target(args[0])))
    elif mode == "tuples":
        report(lambda: tuples(args[0]))
    elif mode == "detach":
        report(lambda: detach(args[0]))
    elif mode == "listeners":
        report(lambda: listeners(int(args[0])))
    elif mode == "touch":
        report(lambda: {"touched": [touch(target(to)) for to in args]})
    elif mode in ("received", "inside", "transparent", "freebind", "added"):
        report(lambda: exchange(globals()[mode](args[0], target(args[1]))))
    else:
        report(lambda: exchange(globals()[mode](target(args[0]))))


main(*sys.argv[1:])
