"""links.py VERB PIN...: what root does with pinned kernel links.

detach   detaches each, and says how many
count    says how many are attached
"""

import ctypes
import os
import platform
import struct
import sys

BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
OBJ_GET, INFO, DETACH = 7, 15, 34
LIBC = ctypes.CDLL(None, use_errno=True)


def bpf(command, attributes):
    size = len(attributes)
    result = LIBC.syscall(BPF, command, ctypes.create_string_buffer(attributes, size), size)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def link(pin):
    path = ctypes.create_string_buffer(pin.encode())
    return bpf(OBJ_GET, struct.pack("QII", ctypes.addressof(path), 0, 0))


def is_attached(fd):
    """The first word of its target is that of a cgroup, a namespace or an interface."""
    info = ctypes.create_string_buffer(88)
    bpf(INFO, struct.pack("IIQ", fd, len(info), ctypes.addressof(info)))
    return any(info.raw[16:20])


verb, pins = sys.argv[1], sys.argv[2:]
done = 0
for fd in map(link, pins):
    if verb == "detach":
        bpf(DETACH, struct.pack("I", fd))
        done += 1
    else:
        done += is_attached(fd)
    os.close(fd)
print(done)
