"""Clients, a server and another load balancer, for the suite services.

calls TARGET COUNT       who answers each of so many connections: "ADDRESS:PORT", or an error's name
serve-greeting PORT      a server that speaks first
greeted TARGET           its greeting, and after how many seconds
balance CGROUP FROM TO   a program at connect that puts TO in the place of FROM (IPv4), until killed
"""

import ctypes
import errno
import json
import os
import platform
import socket
import struct
import sys
import time

BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
LOAD, LINK_CREATE = 5, 28
CGROUP_SOCK_ADDR, INET4_CONNECT = 18, 10
LIBC = ctypes.CDLL(None, use_errno=True)


def target(text):
    host, port = text.rsplit(":", 1)
    return host.strip("[]"), int(port)


def call(to):
    try:
        with socket.create_connection(to, timeout=5) as s:
            s.sendall(b"who")
            s.shutdown(socket.SHUT_WR)
            answer = b""
            while chunk := s.recv(4096):
                answer += chunk
            return answer.decode().split()[1]
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))


def serve_greeting(port):
    server = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    print("serving", flush=True)
    while True:
        s, _ = server.accept()
        s.sendall(b"220 ready\r\n")
        s.close()


def greeted(to):
    begun = time.monotonic()
    with socket.create_connection(to, timeout=5) as s:
        return {"greeting": s.recv(100).decode(), "after": time.monotonic() - begun}


def bpf(command, attributes):
    size = len(attributes)
    result = LIBC.syscall(BPF, command, ctypes.create_string_buffer(attributes, size), size)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def instruction(code, to=0, source=0, offset=0, value=0):
    return struct.pack("=BBhi", code, source << 4 | to, offset, value)


def balance(cgroup, before, after):
    """Of struct bpf_sock_addr: user_ip4 at 4, user_port at 24."""

    def word(address):
        return struct.unpack("=i", socket.inet_aton(address))[0]

    (host, port), (new_host, new_port) = target(before), target(after)
    code = b"".join(
        [
            instruction(0x61, 2, 1, 4),
            instruction(0xB4, 3, value=word(host)),
            instruction(0x5D, 2, 3, 6),
            instruction(0x61, 2, 1, 24),
            instruction(0x55, 2, offset=4, value=socket.htons(port)),
            instruction(0xB4, 2, value=word(new_host)),
            instruction(0x63, 1, 2, 4),
            instruction(0xB4, 2, value=socket.htons(new_port)),
            instruction(0x63, 1, 2, 24),
            instruction(0xB7, 0, value=1),
            instruction(0x95),
        ]
    )
    code, license = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")
    log = ctypes.create_string_buffer(65536)
    head = struct.pack("=IIQQIIQII", CGROUP_SOCK_ADDR, len(code) // 8, ctypes.addressof(code),
                       ctypes.addressof(license), 1, len(log), ctypes.addressof(log), 0, 0)
    tail = b"other_lb\0\0\0\0\0\0\0\0" + struct.pack("=II", 0, INET4_CONNECT)
    try:
        program = bpf(LOAD, head + tail)
    except OSError:
        print(log.value.decode(), file=sys.stderr)
        raise
    group = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    link = bpf(LINK_CREATE, struct.pack("=IIII", program, group, INET4_CONNECT, 0))
    print("balancing", flush=True)
    while True:
        time.sleep(60)
        assert link


def main(mode, *args):
    if mode == "calls":
        print(json.dumps([call(target(args[0])) for _ in range(int(args[1]))]))
    elif mode == "serve-greeting":
        serve_greeting(int(args[0]))
    elif mode == "greeted":
        print(json.dumps(greeted(target(args[0]))))
    elif mode == "balance":
        balance(*args)


main(*sys.argv[1:])
