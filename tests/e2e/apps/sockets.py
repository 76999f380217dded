"""A little HTTP server that uses its sockets in every way but the usual one: `sockets.py WAY PORT`.

GET /bytes/N answers N bytes, POST /upload answers the length of the body it got.
"""

import ctypes
import mmap
import os
import select
import socket
import struct
import sys
import threading

SO_ZEROCOPY, MSG_ZEROCOPY, MSG_ERRQUEUE = 60, 0x4000000, 0x2000
FILLER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nGET /bytes/1 HTTP/1.1\r\nhost: a\r\n\r\n0\r\n\r\n"


def filler(length):
    return (FILLER * (length // len(FILLER) + 1))[:length]


class Connection:
    """HTTP on one connection, by `receive` and `send`; the ways differ in these."""

    def __init__(self, sock):
        self.sock = sock
        self.rest = b""

    def receive(self, length):
        return self.sock.recv(length)

    def send(self, data):
        self.sock.sendall(data)

    def discard(self, length):
        """Takes a body of this length from the connection."""
        while length > 0:
            got = len(self.receive(min(length, 65536)))
            if got == 0:
                raise EOFError
            length -= got

    def request(self):
        """Method, path and length of the body of the next request, which it takes from the connection."""
        while b"\r\n\r\n" not in self.rest:
            data = self.receive(65536)
            if not data:
                raise EOFError
            self.rest += data
        head, self.rest = self.rest.split(b"\r\n\r\n", 1)
        lines = head.decode().split("\r\n")
        method, path, _ = lines[0].split(" ")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:])
        length = int(fields.get("content-length", 0))
        here = min(length, len(self.rest))
        self.rest = self.rest[here:]
        self.discard(length - here)
        return method, path, length

    def answer(self, method, path, length):
        body = filler(int(path.rsplit("/", 1)[1])) if path.startswith("/bytes/") else str(length).encode()
        self.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    def serve(self):
        try:
            while True:
                self.answer(*self.request())
        except (EOFError, OSError):
            pass
        finally:
            self.close()

    def close(self):
        self.sock.close()


class Peek(Connection):
    """Looks before it takes, more than once."""

    def receive(self, length):
        for _ in range(3):
            self.sock.recv(length, socket.MSG_PEEK)
        return self.sock.recv(length)


class Discard(Connection):
    """Has the kernel throw bodies away; takes a read of nothing for nothing."""

    def receive(self, length):
        assert self.sock.recv(0) == b""
        assert os.readv(self.sock.fileno(), [bytearray(0)]) == 0
        return self.sock.recv(length)

    def discard(self, length):
        while length > 0:
            got = self.sock.recv_into(bytearray(min(length, 65536)), 0, socket.MSG_TRUNC)
            if got == 0:
                raise EOFError
            length -= got


class Vectors(Connection):
    """Many buffers, some of them empty, in calls of every kind that takes several."""

    def receive(self, length):
        parts = [bytearray(0), bytearray(3), bytearray(0), bytearray(50), bytearray(length)]
        got = self.sock.recvmsg_into(parts)[0] if length % 2 else os.readv(self.sock.fileno(), parts)
        return b"".join(parts)[:got]

    def send(self, data):
        while data:
            parts = [data[at : at + 7] for at in range(0, min(len(data), 7000), 7)]
            parts[1:1] = [b"", b""]
            sent = os.writev(self.sock.fileno(), parts[:1000]) if len(data) % 2 else self.sock.sendmsg(parts[:1000])
            data = data[sent:]


class Nonblocking(Connection):
    """Buffers so small that hardly a write is complete, and no waiting inside calls."""

    def __init__(self, sock):
        super().__init__(sock)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    def receive(self, length):
        while True:
            try:
                return self.sock.recv(length)
            except BlockingIOError:
                select.select([self.sock], [], [])

    def send(self, data):
        while data:
            try:
                data = data[self.sock.send(data) :]
            except BlockingIOError:
                select.select([], [self.sock], [])


class Splice(Connection):
    """Bodies that never pass through the process: in and out by splice, out by sendfile with its corners."""

    def __init__(self, sock):
        super().__init__(sock)
        self.out, self.into = os.pipe()
        self.file = os.memfd_create("content")
        os.write(self.file, filler(1 << 20))
        self.null = os.open("/dev/null", os.O_WRONLY)

    def discard(self, length):
        while length > 0:
            got = os.splice(self.sock.fileno(), self.into, min(length, 4096))
            if got == 0:
                raise EOFError
            os.splice(self.out, self.null, got)
            length -= got

    def answer(self, method, path, length):
        if not path.startswith("/bytes/"):
            return super().answer(method, path, length)
        count = int(path.rsplit("/", 1)[1])
        self.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % count)
        at, size, fd = 0, 1 << 20, self.sock.fileno()
        assert os.sendfile(fd, self.file, size, 10) == 0  # at the file's end there is nothing to send
        while at < count:
            if at % 3 == 0:
                at += os.sendfile(fd, self.file, at % size, min(count - at, 10_000))
            else:
                some = os.splice(self.file, self.into, min(count - at, 5_000), offset_src=at % size)
                at += some
                while some > 0:
                    some -= os.splice(self.out, fd, some)

    def close(self):
        for fd in (self.out, self.into, self.file, self.null):
            os.close(fd)
        super().close()


class Zerocopy(Connection):
    """Sends from the process's own pages, and reads from the error queue when the kernel is done with them."""

    def __init__(self, sock):
        super().__init__(sock)
        sock.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)

    def send(self, data):
        while data:
            data = data[self.sock.send(data, MSG_ZEROCOPY) :]
            try:
                self.sock.recvmsg(100, 100, MSG_ERRQUEUE)
            except BlockingIOError:
                pass


class Duplicated(Connection):
    """Closes a descriptor of the connection before each response, and goes on with another one."""

    def send(self, data):
        copy = self.sock.dup()
        self.sock.close()
        self.sock = copy
        super().send(data)


class Duplex(Connection):
    """One thread reads, another one writes."""

    def __init__(self, sock):
        super().__init__(sock)
        self.answers = []
        self.ready = threading.Semaphore(0)
        threading.Thread(target=self.write, daemon=True).start()

    def send(self, data):
        self.answers.append(data)
        self.ready.release()

    def write(self):
        while True:
            self.ready.acquire()
            data = self.answers.pop(0)
            if data is None:
                return
            self.sock.sendall(data)

    def close(self):
        self.send(None)
        super().close()


class Uring(Connection):
    """Every other request is read through io_uring, every third response written through it."""

    SETUP, ENTER, SEND, RECV, GETEVENTS = 425, 426, 26, 27, 1

    def __init__(self, sock):
        super().__init__(sock)
        self.turn = 0
        self.libc = ctypes.CDLL(None, use_errno=True)
        params = bytearray(120)
        self.ring = self.syscall(self.SETUP, 4, ctypes.addressof(ctypes.c_char.from_buffer(params)))
        words = struct.unpack("<30I", params)
        self.sq, self.cq = words[10:18], words[20:28]  # struct io_sqring_offsets, io_cqring_offsets
        length = max(self.sq[6] + 4 * words[0], self.cq[5] + 16 * words[1])
        self.rings = mmap.mmap(self.ring, length, mmap.MAP_SHARED, offset=0)
        self.entries = mmap.mmap(self.ring, 64 * words[0], mmap.MAP_SHARED, offset=0x10000000)

    def syscall(self, *words):
        result = self.libc.syscall(*map(ctypes.c_long, words))
        if result < 0:
            raise OSError(ctypes.get_errno(), "io_uring")
        return result

    def word(self, at):
        return struct.unpack("<I", self.rings[at : at + 4])[0]

    def submit(self, operation, buffer):
        """Moves bytes between the socket and the buffer; answers how many."""
        address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        head, tail, mask, array = self.cq[0], self.sq[1], self.word(self.sq[2]), self.sq[6]
        slot = self.word(tail) & mask
        entry = struct.pack("<BBHiQQI", operation, 0, 0, self.sock.fileno(), 0, address, len(buffer))
        self.entries[64 * slot : 64 * slot + 64] = entry.ljust(64, b"\0")
        self.rings[array + 4 * slot : array + 4 * slot + 4] = struct.pack("<I", slot)
        self.rings[tail : tail + 4] = struct.pack("<I", self.word(tail) + 1)
        self.syscall(self.ENTER, self.ring, 1, 1, self.GETEVENTS, 0, 0)
        at = self.cq[5] + 16 * (self.word(head) & self.word(self.cq[2]))
        result = struct.unpack("<QiI", self.rings[at : at + 16])[1]
        self.rings[head : head + 4] = struct.pack("<I", self.word(head) + 1)
        if result < 0:
            raise OSError(-result, "io_uring")
        return result

    def receive(self, length):
        if self.turn % 2 == 0:
            return super().receive(length)
        buffer = bytearray(length)
        got = self.submit(self.RECV, buffer)
        return bytes(buffer[:got])

    def send(self, data):
        self.turn += 1
        if self.turn % 3 != 0:
            return super().send(data)
        buffer = bytearray(data)
        while buffer:
            sent = self.submit(self.SEND, buffer)
            buffer = buffer[sent:]

    def close(self):
        os.close(self.ring)
        super().close()


class Compat(Connection):
    """32-bit system calls, in a 64-bit process: `int 0x80`, with everything below 4 GiB."""

    # push rbx; push rbp; load eax, ebx, ecx, edx, esi, edi, ebp from the words at rdi; int 0x80; pop; ret
    CODE = bytes.fromhex(
        "53 55 49 89 f8 41 8b 00 41 8b 58 04 41 8b 48 08 41 8b 50 0c 41 8b 70 10 41 8b 78 14 41 8b 68 18"
        "cd 80 5d 5b 48 98 c3"
    )
    READ, WRITE, CLOSE, SOCKETCALL, READV, WRITEV = 3, 4, 6, 102, 145, 146
    SENDTO, SENDMSG, RECVFROM, RECVMSG, SENDMMSG = 369, 370, 371, 372, 345
    SEND, RECV = 9, 10

    def __init__(self, sock):
        super().__init__(sock)
        self.turn = 0
        # Code, arguments, structures, and a buffer.
        low = 0x40  # MAP_32BIT
        self.size = 1 << 21
        self.memory = mmap.mmap(
            -1,
            self.size,
            mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | low,
            mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC,
        )
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.memory[: len(self.CODE)] = self.CODE
        self.function = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p)(self.base)
        self.buffer = self.base + 8192

    def words(self, at, *words):
        self.memory[at : at + 4 * len(words)] = struct.pack(f"<{len(words)}I", *words)
        return self.base + at

    def call(self, number, *args):
        result = self.function(self.words(1024, number, *args, *[0] * (6 - len(args))))
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return result

    def vector(self, length):
        """Three `struct iovec` for the buffer's first bytes."""
        parts = [0, min(length, 5), length]
        words = []
        for start, end in zip([0] + parts, parts):
            words += [self.buffer + start, end - start]
        return self.words(2048, *words)

    def message(self, length):
        return self.words(3072, 0, 0, self.vector(length), 3, 0, 0, 0, 0)

    def receive(self, length):
        length = min(length, 100_000)
        fd = self.sock.fileno()
        self.turn += 1
        ways = [
            lambda: self.call(self.READ, fd, self.buffer, length),
            lambda: self.call(self.READV, fd, self.vector(length), 3),
            lambda: self.call(self.RECVFROM, fd, self.buffer, length, 0, 0, 0),
            lambda: self.call(self.RECVMSG, fd, self.message(length), 0),
            lambda: self.call(self.SOCKETCALL, self.RECV, self.words(4096, fd, self.buffer, length, 0)),
        ]
        got = ways[self.turn % len(ways)]()
        return self.memory[8192 : 8192 + got]

    def send(self, data):
        fd = self.sock.fileno()
        while data:
            length = min(len(data), 1 << 20)
            self.memory[8192 : 8192 + length] = data[:length]
            self.turn += 1
            ways = [
                lambda: self.call(self.WRITE, fd, self.buffer, length),
                lambda: self.call(self.WRITEV, fd, self.vector(length), 3),
                lambda: self.call(self.SENDTO, fd, self.buffer, length, 0, 0, 0),
                lambda: self.call(self.SENDMSG, fd, self.message(length), 0),
                lambda: self.call(self.SOCKETCALL, self.SEND, self.words(4096, fd, self.buffer, length, 0)),
                lambda: self.send_messages(fd, length),
            ]
            data = data[ways[self.turn % len(ways)]() :]

    def send_messages(self, fd, length):
        self.message(length)
        self.call(self.SENDMMSG, fd, self.base + 3072, 1, 0)
        return struct.unpack("<I", self.memory[3072 + 28 : 3072 + 32])[0]

    def close(self):
        self.call(self.CLOSE, self.sock.detach())


def in_threads(kind):
    """A thread per connection."""

    def serve(listener):
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=kind(sock).serve, daemon=True).start()

    return serve


def passed(listener):
    """One process accepts and hands each connection to another one, which serves it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        listener.close()
        while True:
            _, fds, _, _ = socket.recv_fds(theirs, 1, 1)
            sock = socket.socket(fileno=fds[0])
            threading.Thread(target=Connection(sock).serve, daemon=True).start()
    while True:
        sock, _ = listener.accept()
        socket.send_fds(ours, [b"x"], [sock.fileno()])
        sock.close()


def reused(listener):
    """Closes descriptors on which another thread still waits; the next connection gets their numbers."""
    Connection(listener.accept()[0]).serve()  # whoever asks whether we are there
    while True:
        sock, _ = listener.accept()
        connection = Connection(sock)
        connection.answer(*connection.request())
        # The old connection lives on in this call, until its client leaves.
        waiting = threading.Thread(target=os.read, args=(sock.fileno(), 1), daemon=True)
        waiting.start()
        while waiting.is_alive() and not waits_in_read(waiting.native_id):
            pass
        sock.close()
        again, _ = listener.accept()
        Connection(again).serve()


def waits_in_read(thread):
    """Whether a thread of ours is inside read(2); its number is 0."""
    try:
        with open(f"/proc/self/task/{thread}/syscall") as call:
            return call.read().startswith("0 ")
    except OSError:
        return False


def executing(listener, connection=None):
    """Becomes another program (itself) after each response, with its listener and the connection left open."""
    listener.set_inheritable(True)
    while True:
        if connection is None:
            sock, _ = listener.accept()
            connection = Connection(sock)
        try:
            request = connection.request()
        except EOFError:
            connection.close()
            connection = None
            continue
        fds = [listener.fileno()]
        # Asked for nothing, it does not answer: the connection ends without a call that closes it.
        connection.sock.set_inheritable(request[1] != "/bytes/0")
        if request[1] != "/bytes/0":
            connection.answer(*request)
            fds.append(connection.sock.fileno())
        os.execv(sys.executable, [sys.executable, __file__, "executing", "--fds", *map(str, fds)])


def shared(listener):
    """Two processes that share nothing but the port."""
    port = listener.getsockname()[1]
    listener.close()
    if os.fork() == 0:
        if os.fork() != 0:
            os._exit(0)  # its child is nobody's from now on
    own = socket.socket()
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    own.bind(("127.0.0.1", port))
    own.listen(100)
    in_threads(Connection)(own)


WAYS = {
    "peek": in_threads(Peek),
    "discard": in_threads(Discard),
    "vectors": in_threads(Vectors),
    "nonblocking": in_threads(Nonblocking),
    "splice": in_threads(Splice),
    "zerocopy": in_threads(Zerocopy),
    "duplicated": in_threads(Duplicated),
    "duplex": in_threads(Duplex),
    "compat": in_threads(Compat),
    "uring": in_threads(Uring),
    "passed": passed,
    "reused": reused,
    "executing": executing,
    "shared": shared,
}


def main():
    way, *words = sys.argv[1:]
    if words[0] == "--fds":
        listener, *connections = [socket.socket(fileno=int(word)) for word in words[1:]]
        return WAYS[way](listener, *map(Connection, connections))
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", int(words[0])))
    listener.listen(100)
    WAYS[way](listener)


main()
