"""Has a thread's wait for events fail for good, as if its epoll were closed.

break.py PID THREAD
"""

import ctypes
import os
import platform
import struct
import sys

ATTACH, DETACH, GET_REGISTERS, SET_REGISTERS = 16, 17, 0x4204, 0x4205
GENERAL = ctypes.c_void_p(1)
WAIT_ALL = 0x40000000
EINTR, EBADF = 4, 9
# Where the answer of a call is, and its number; numbers of the waits.
X86 = (10 * 8, 15 * 8, {232, 281, 441})
ARM = (0, 8 * 8, {22, 441})
ANSWER, NUMBER, WAITS = {"x86_64": X86, "aarch64": ARM}[platform.machine()]

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def ptrace(request, thread, kind=None, data=None):
    if libc.ptrace(request, thread, kind, data) < 0:
        sys.exit(f"ptrace {request}: {os.strerror(ctypes.get_errno())}")


def break_wait(thread):
    """False where it does something else at the moment."""
    ptrace(ATTACH, thread)
    os.waitpid(thread, WAIT_ALL)
    registers = ctypes.create_string_buffer(1024)
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(registers), len(registers))
    ptrace(GET_REGISTERS, thread, GENERAL, vector)
    answer = struct.unpack_from("q", registers, ANSWER)[0]
    number = struct.unpack_from("q", registers, NUMBER)[0]
    waits = answer == -EINTR and number in WAITS
    if waits:
        struct.pack_into("q", registers, ANSWER, -EBADF)
        ptrace(SET_REGISTERS, thread, GENERAL, vector)
    ptrace(DETACH, thread)
    return waits


pid, name = sys.argv[1], sys.argv[2]
for thread in os.listdir(f"/proc/{pid}/task"):
    with open(f"/proc/{pid}/task/{thread}/comm") as comm:
        if comm.read().strip() == name:
            while not break_wait(int(thread)):
                pass
            sys.exit(0)
sys.exit(f"no thread {name}")
