"""Ways past the agent that need the second line, for the suite guard.

Each sends a marker that must not be readable outside. Prints one line of JSON.
"""

import ctypes
import errno
import hashlib
import json
import os
import socket
import struct
import subprocess
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
TCP_FASTOPEN_CONNECT = 30
TCP_FASTOPEN_NO_COOKIE = 34
IPV6_CHECKSUM = 7
SYN = 0x02
WAIT = 1.5


def family(host):
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def tcp(host):
    s = socket.socket(family(host), socket.SOCK_STREAM)
    s.settimeout(WAIT)
    return s


def run(*command):
    subprocess.run(command, check=True)


def sysctl(name, value):
    with open("/proc/sys/" + name, "w") as file:
        file.write(value)


def exchange(s, marker):
    s.sendall(marker)
    s.shutdown(socket.SHUT_WR)
    answer = b""
    while chunk := s.recv(4096):
        answer += chunk
    return {"answer": answer.decode(errors="replace")}


def plain(own, to, marker):
    s = tcp(to[0])
    s.connect(to)
    return exchange(s, marker)


def patient(own, to, marker):
    """Waits for what is repeated."""
    s = tcp(to[0])
    s.settimeout(10)
    s.connect(to)
    return exchange(s, marker)


def late_device(own, to, marker):
    """Captured at connect, which sends nothing yet; bound to a device before it does."""
    os.setgroups([])
    os.setuid(65534)
    s = tcp(to[0])
    s.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
    s.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1)
    s.connect(to)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0\0")
    return exchange(s, marker)


def early(own, to, marker):
    """The marker is in the SYN; says whether the other end took it from there."""
    info, taken = 11, 0x20
    s = tcp(to[0])
    s.settimeout(5)
    s.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
    s.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1)
    s.connect(to)
    answer = exchange(s, marker)
    answer["whole"] = hashlib.sha256(marker).hexdigest() in answer["answer"]
    # The sixth byte of TCP_INFO are options; a connection that ended has them still.
    answer["taken"] = bool(s.getsockopt(socket.IPPROTO_TCP, info, 16)[5] & taken)
    return answer


def simultaneous(own, to, marker):
    """Asks past the agent from a port of its own, for an end that asks as well."""
    s = tcp(to[0])
    s.settimeout(4)
    s.bind((own, 45100))
    s.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
    s.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1)
    s.connect(to)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0\0")
    s.send(b"ask")
    print("asking", flush=True)
    # Only once the other end's SYN was answered.
    s.sendall(marker)
    # Nobody reads a second line.
    os._exit(0)


def meet(own, to, marker):
    """The other end of that."""
    s = tcp(to[0])
    s.bind((own, 45200))
    s.connect(to)
    return {"answer": s.recv(4096).decode(errors="replace")}


def own_rules(own, to, marker):
    """Without the rule that leads marked packets to the agent."""
    for version in ("-4", "-6"):
        subprocess.run(["ip", version, "rule", "del", "priority", "100"], stderr=subprocess.DEVNULL)
    return plain(own, to, marker)


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packed(host):
    return socket.inet_pton(family(host), host)


def segment(own, to, marker):
    """A SYN with the marker as data."""
    head = struct.pack("!HHIIBBHHH", 45000, to[1], 1, 0, 5 << 4, SYN, 65535, 0, 0)
    pseudo = packed(own) + packed(to[0]) + struct.pack("!IHH", len(head) + len(marker), 0, 6)
    if family(own) == socket.AF_INET:
        pseudo = packed(own) + packed(to[0]) + struct.pack("!HH", 6, len(head) + len(marker))
    value = checksum(pseudo + head + marker)
    return head[:16] + struct.pack("!H", value) + head[18:] + marker


def ip_packet(own, to, payload, fragment=0, extensions=()):
    if family(own) == socket.AF_INET:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 7, fragment, 64, 6, 0)
        head += packed(own) + packed(to[0])
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload
    following = 6
    for kind in reversed(extensions):
        body = bytes([following, 0, 1, 4, 0, 0, 0, 0])
        if kind == 44:
            body = struct.pack("!BBHI", following, 0, fragment, 7)
        payload, following = body + payload, kind
    return struct.pack("!IHBB", 6 << 28, len(payload), following, 64) + packed(own) + packed(to[0]) + payload


def raw(own, to, marker):
    if family(own) == socket.AF_INET:
        s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        s.sendto(ip_packet(own, to, segment(own, to, marker)), (to[0], 0))
    else:
        s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_TCP)
        s.setsockopt(socket.IPPROTO_IPV6, IPV6_CHECKSUM, 16)
        s.sendto(segment(own, to, marker), (to[0], 0))
    return {"sent": True}


def spoofed(own, to, marker):
    other = "10.77.0.99" if family(own) == socket.AF_INET else "fd77::99"
    return frame(other, ip_packet(other, to, segment(other, to, marker)))


def frame(own, packet, tags=b""):
    kind = 0x0800 if family(own) == socket.AF_INET else 0x86DD
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind(("eth0", 0))
    with open("/sys/class/net/eth0/address") as file:
        mac = bytes.fromhex(file.read().strip().replace(":", ""))
    s.send(b"\xff" * 6 + mac + tags + struct.pack("!H", kind) + packet)
    return {"sent": True}


def packet(own, to, marker):
    return frame(own, ip_packet(own, to, segment(own, to, marker)))


def fragment(own, to, marker):
    more = 0x2000 if family(own) == socket.AF_INET else 1
    return frame(own, ip_packet(own, to, segment(own, to, marker + b"-" * 4), more, (44,)))


def extended(own, to, marker):
    return frame(own, ip_packet(own, to, segment(own, to, marker), 0, (0, 60, 60)))


def vlan(own, to, marker):
    return frame(own, ip_packet(own, to, segment(own, to, marker)), struct.pack("!HH", 0x8100, 7))


def vlans(own, to, marker):
    tags = struct.pack("!HHHH", 0x88A8, 7, 0x8100, 7)
    return frame(own, ip_packet(own, to, segment(own, to, marker)), tags)


def unshare():
    if LIBC.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def inner(work):
    """Runs `work` in a namespace inside the pod's, which forwards and masquerades for it."""
    ready, go, result = os.pipe(), os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        unshare()
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        for command in (
            "ip link set lo up",
            "ip addr add 10.99.0.2/24 dev eth0",
            "ip addr add fd99::2/64 dev eth0 nodad",
            "ip link set eth0 up",
            "ip route add default via 10.99.0.1",
            "ip -6 route add default via fd99::1",
        ):
            run(*command.split())
        os.write(result[1], json.dumps(outcome(work)).encode())
        os._exit(0)
    os.read(ready[0], 1)
    subprocess.run(["ip", "link", "del", "inner"], stderr=subprocess.DEVNULL)
    run(*f"ip link add inner type veth peer name eth0 netns {child}".split())
    for command in ("ip addr add 10.99.0.1/24 dev inner", "ip addr add fd99::1/64 dev inner nodad", "ip link set inner up"):
        run(*command.split())
    sysctl("net/ipv4/ip_forward", "1")
    sysctl("net/ipv6/conf/all/forwarding", "1")
    os.write(go[1], b"x")
    os.close(result[1])
    said = os.read(result[0], 65536)
    os.waitpid(child, 0)
    return json.loads(said)


def nft(text):
    subprocess.run(["nft", "-f", "-"], input=text.encode(), check=True)


def masquerade():
    nft(
        "table inet inner { chain post { type nat hook postrouting priority 100; oifname eth0 masquerade; }; }"
    )


def nested(own, to, marker):
    masquerade()
    return inner(lambda: plain(own, to, marker))


def serve(address, number, marker):
    s = socket.socket(family(address), socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((address, number))
    s.listen()
    print("serving", flush=True)
    while True:
        client, _ = s.accept()
        client.sendall(marker)
        client.close()


def publish(number, marker):
    """A server inside a namespace inside, published at a port of the pod's."""
    nft(
        "table inet published {"
        "chain pre { type nat hook prerouting priority -100;"
        f" meta nfproto ipv4 tcp dport {number} dnat ip to 10.99.0.2:{number};"
        f" meta nfproto ipv6 tcp dport {number} dnat ip6 to [fd99::2]:{number}; }}; }}"
    )
    inner(lambda: serve("::", number, marker))


def redirect(number, marker):
    """A server at loopback, published at a port of the pod's."""
    sysctl("net/ipv4/conf/all/route_localnet", "1")
    nft(
        "table ip redirected { chain pre { type nat hook prerouting priority -100;"
        f" tcp dport {number} dnat to 127.0.0.1:{number}; }}; }}"
    )
    serve("127.0.0.1", number, marker)


def ask(to, number=0):
    """From a port of its own, if one is given."""
    s = tcp(to[0])
    if number:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("", number))
    s.connect(to)
    return {"answer": s.recv(4096).decode(errors="replace")}


def bpf(command, attr, size):
    result = LIBC.syscall(ctypes.c_long(321), command, attr, size)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def program(verdict):
    """A classifier that always says that: mov r0, verdict; exit."""
    code = ctypes.create_string_buffer(struct.pack("<BBhiBBhi", 0xB7, 0, 0, verdict, 0x95, 0, 0, 0))
    licence = ctypes.create_string_buffer(b"GPL")
    attr = struct.pack("<IIQQ", 3, 2, ctypes.addressof(code), ctypes.addressof(licence))
    return bpf(5, ctypes.create_string_buffer(attr + bytes(48), 72), 72)


def classifier(interface, verdict):
    """Attaches one behind all that are there, until the input ends."""
    links = []
    for attach in (46, 47):
        attr = struct.pack("<IIII", program(verdict), socket.if_nametoindex(interface), attach, 0)
        links.append(bpf(28, ctypes.create_string_buffer(attr + bytes(48), 64), 64))
    print("attached", flush=True)
    sys.stdin.read()


def outcome(work):
    try:
        return work()
    except OSError as error:
        return {"error": errno.errorcode.get(error.errno, str(error))}


def target(text):
    host, number = text.rsplit(":", 1)
    # With the scope of a link-local address.
    return socket.getaddrinfo(host.strip("[]"), int(number), type=socket.SOCK_STREAM)[0][4]


def main(mode, *args):
    if mode == "classifier":
        classifier(args[0], int(args[1]))
    elif mode in ("publish", "redirect"):
        globals()[mode](int(args[0]), args[1].encode())
    elif mode == "ask":
        print(json.dumps(outcome(lambda: ask(target(args[0]), *map(int, args[1:])))))
    else:
        own, to, marker = args
        print(json.dumps(outcome(lambda: globals()[mode](own, target(to), marker.encode()))))


main(*sys.argv[1:])
