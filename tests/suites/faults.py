"""Runs a program whose system calls fail when told to.

faults.py SOCKET PROGRAM ARGS...

Only calls of the program's first thread fail: what the agent's control loop
makes. Each call of a kind below counts. Commands on the socket, one a line,
each with a line of answer:
  reset           counts from 0, nothing fails; answers the count so far
  arm N ERRNO M   the N-th call from now fails (M: once, or from); with another
                  word behind it the way home from a namespace, which ends an
                  agent that it fails, always works
  count           answers how many calls failed since armed
  disarm          the same, and nothing fails
The environment's FAULT="N ERRNO M" is as `arm` before the program starts.
"""

import ctypes
import fcntl
import os
import platform
import select
import socket
import struct
import sys

X86 = {
    "bpf": 321, "openat": 257, "socket": 41, "bind": 49, "listen": 50, "sendto": 44,
    "setns": 308, "fcntl": 72, "flock": 73, "rename": 82, "renameat2": 316, "unlink": 87,
    "unlinkat": 263, "mkdir": 83, "mkdirat": 258, "rmdir": 84, "chmod": 90, "statx": 332,
    "newfstatat": 262, "statfs": 137, "getdents64": 217, "setsockopt": 54, "getsockopt": 55,
    "recvfrom": 45, "epoll_ctl": 233,
}
ARM = {
    "bpf": 280, "openat": 56, "socket": 198, "bind": 200, "listen": 201, "sendto": 206,
    "setns": 268, "fcntl": 25, "flock": 32, "renameat2": 276, "unlinkat": 35, "mkdirat": 34,
    "fchmodat": 53, "statx": 291, "newfstatat": 79, "statfs": 43, "getdents64": 61,
    "setsockopt": 208, "getsockopt": 209, "recvfrom": 207, "epoll_ctl": 21,
}
SECCOMP, CALLS = {"x86_64": (317, X86), "aarch64": (277, ARM)}[platform.machine()]
NAMES = {number: name for name, number in CALLS.items()}
F_DUPFD_CLOEXEC = 1030

SET_FILTER, NEW_LISTENER = 1, 8
NOTIFY, ALLOW = 0x7FC00000, 0x7FFF0000
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
RECEIVE, SEND = 0xC0502100, 0xC0182101
CONTINUE = 1


def listener():
    """Of all further calls of these kinds."""
    code = [(LOAD, 0, 0, 0)]
    numbers = list(NAMES)
    for at, number in enumerate(numbers):
        code.append((JUMP_IF_EQUAL, len(numbers) - at, 0, number))
    code += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, NOTIFY)]
    code = b"".join(struct.pack("HBBI", *line) for line in code)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("H6xQ", len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    program = ctypes.create_string_buffer(program, len(program))
    fd = libc.syscall(SECCOMP, SET_FILTER, NEW_LISTENER, program)
    if fd < 0:
        sys.exit("seccomp: " + os.strerror(ctypes.get_errno()))
    return fd


class Supervisor:
    def __init__(self, pid, calls, control):
        self.pid, self.calls, self.control = pid, calls, control
        self.count = self.injected = self.at = self.errno = 0
        self.lasts = self.returns = False
        self.home = self.namespace(f"/proc/{pid}/ns/net")

    @staticmethod
    def namespace(path):
        try:
            return os.stat(path).st_ino
        except OSError:
            return None

    def arm(self, number, errno, mode, *returns):
        self.returns = bool(returns)
        self.count = self.injected = 0
        self.at, self.errno, self.lasts = int(number), int(errno), mode == "from"

    def answer(self, line):
        words = line.split()
        count, injected = self.count, self.injected
        if words[0] == "arm":
            self.arm(*words[1:])
        elif words[0] != "count":
            self.at = self.count = self.injected = 0
        return count if words[0] == "reset" else injected

    def fails(self, thread, number, arguments):
        if thread != self.pid:
            return False
        name = NAMES[number]
        if name == "fcntl" and arguments[1] != F_DUPFD_CLOEXEC:
            return False
        if name == "setns" and self.returns:
            if self.namespace(f"/proc/{self.pid}/fd/{arguments[0]}") == self.home:
                return False
        self.count += 1
        if not self.at or self.count < self.at or (self.count > self.at and not self.lasts):
            return False
        self.injected += 1
        return True

    def call(self):
        notification = bytearray(80)
        try:
            fcntl.ioctl(self.calls, RECEIVE, notification, True)
        except OSError:
            return
        identity, thread, _, number, _, _ = struct.unpack_from("QIIiIQ", notification)
        arguments = struct.unpack_from("6Q", notification, 32)
        failed = self.fails(thread, number, arguments)
        answer = (identity, 0, -self.errno, 0) if failed else (identity, 0, 0, CONTINUE)
        try:
            fcntl.ioctl(self.calls, SEND, struct.pack("QqiI", *answer))
        except OSError:
            pass  # It was killed meanwhile.

    def run(self):
        poll = select.poll()
        poll.register(self.calls, select.POLLIN)
        poll.register(self.control, select.POLLIN)
        asking = {}
        while True:
            for fd, event in poll.poll():
                if fd == self.calls:
                    if event & select.POLLHUP:
                        return
                    self.call()
                elif fd == self.control.fileno():
                    asker = self.control.accept()[0]
                    asking[asker.fileno()] = asker
                    poll.register(asker, select.POLLIN)
                else:
                    line = asking[fd].recv(256).decode()
                    if line.strip():
                        asking[fd].sendall(f"{self.answer(line)}\n".encode())
                    else:
                        poll.unregister(fd)
                        asking.pop(fd).close()


path, program = sys.argv[1], sys.argv[2:]
if os.path.exists(path):
    os.unlink(path)
control = socket.socket(socket.AF_UNIX)
control.bind(path)
control.listen()
ours, theirs = socket.socketpair()
pid = os.getpid()
if os.fork() == 0:
    # A child of nobody here: the program must not wait for it.
    if os.fork() != 0:
        os._exit(0)
    theirs.close()
    calls = socket.recv_fds(ours, 1, 1)[1][0]
    supervisor = Supervisor(pid, calls, control)
    if os.environ.get("FAULT"):
        supervisor.arm(*os.environ["FAULT"].split())
    ours.sendall(b"+")
    supervisor.run()
    os._exit(0)
os.wait()
ours.close()
control.close()
fd = listener()
socket.send_fds(theirs, [b"+"], [fd])
os.close(fd)
os.read(theirs.fileno(), 1)
os.execv(program[0], program)
