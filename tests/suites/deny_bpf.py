"""Runs a program to which the kernel refuses one command of bpf(2).

deny_bpf.py COMMAND ERRNO PROGRAM ARGS...
"""

import ctypes
import os
import platform
import struct
import sys

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
PR_SET_NO_NEW_PRIVS = 38
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
NUMBER, ARGUMENT = 0, 16
BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]

command, error = int(sys.argv[1]), int(sys.argv[2])
code = [
    (LOAD, 0, 0, NUMBER),
    (JUMP_IF_EQUAL, 0, 3, BPF),
    (LOAD, 0, 0, ARGUMENT),
    (JUMP_IF_EQUAL, 0, 1, command),
    (RETURN, 0, 0, ERRNO | error),
    (RETURN, 0, 0, ALLOW),
]
code = b"".join(struct.pack("HBBI", *line) for line in code)
buffer = ctypes.create_string_buffer(code)
program = struct.pack("H6xQ", len(code) // 8, ctypes.addressof(buffer))
libc = ctypes.CDLL(None, use_errno=True)
for call in (
    (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
    (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.create_string_buffer(program), 0, 0),
):
    if libc.prctl(*call) != 0:
        sys.exit(os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[3], sys.argv[3:])
