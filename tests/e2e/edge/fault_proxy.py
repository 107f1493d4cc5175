"""A bad line to an HTTP server on this machine: what it does to each request can be changed at any time.

Bytes are passed on as they are, in both directions; only where a request begins is understood, for there it is decided
what becomes of it. Between a request and the end of its answer nothing changes.
"""

import random
import re
import select
import socket
import struct
import threading
import time
from dataclasses import dataclass

# How often something that waits looks whether it is still to wait.
LOOK_SECONDS = 0.05
HEAD_MAX = 64 * 1024
PIECE = 64 * 1024


@dataclass(frozen=True)
class Pass:
    """The request goes through, and comes there so many seconds later; so does its answer."""

    seconds: float = 0
    answer_seconds: float = 0


@dataclass(frozen=True)
class Reset:
    """The connection is reset; with `done`, after the server has got the request and has answered."""

    done: bool = False


@dataclass(frozen=True)
class BlackHole:
    """Nobody ever answers, until another mode is set: then the connection is closed."""


@dataclass(frozen=True)
class Away:
    """Nobody listens."""


@dataclass(frozen=True)
class Answer:
    """This is answered, and the server never hears of it."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain"


@dataclass(frozen=True)
class Sometimes:
    """This happens to a part of the requests; the others go through. With `only`, to those whose head matches."""

    mode: object
    rate: float = 1.0
    only: str = ""


PASS = Pass()
HTML = Answer(200, b"<!DOCTYPE html><html><body><h1>It works!</h1></body></html>\n", "text/html; charset=utf-8")
ERROR = Answer(500, b"<html><body>500 Internal Server Error</body></html>\n", "text/html")


@dataclass(frozen=True)
class Asked:
    """A request: when, its head, and what became of it."""

    at: float
    head: str
    mode: object

    @property
    def line(self):
        return self.head.split("\r\n", 1)[0]


class FaultProxy:
    """Stands between a client and a port of this machine until `end`; `asked` lists the requests."""

    def __init__(self, port, seed=0, listen_port=0):
        self.target = port
        self.random = random.Random(seed)
        self.asked = []
        self.lock = threading.Lock()
        self.mode, self.turn = PASS, 0
        self.listener = self.listen(listen_port)
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def set(self, mode):
        """From the next request on."""
        with self.lock:
            self.mode, self.turn = mode, self.turn + 1
            if isinstance(mode, Away):
                self.close()
            elif self.listener is None:
                self.listener = self.listen(self.port)

    def end(self):
        with self.lock:
            self.turn += 1
            self.close()

    def close(self):
        if self.listener is not None:
            # This alone wakes the thread that accepts.
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
            self.listener = None

    def listen(self, port):
        listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self.accept, args=(listener,), daemon=True).start()
        return listener

    def accept(self, listener):
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=Line(self, client).run, daemon=True).start()

    def decide(self, head):
        """What becomes of a request, and until when that is so."""
        with self.lock:
            mode = self.mode
            if isinstance(mode, Sometimes):
                hit = re.search(mode.only, head) and self.random.random() < mode.rate
                mode = mode.mode if hit else PASS
            self.asked.append(Asked(time.monotonic(), head, mode))
            return mode, self.turn

    def wait(self, turn, seconds=None):
        """Waits so long; not longer than the mode stays."""
        until = None if seconds is None else time.monotonic() + seconds
        while self.turn == turn and (until is None or time.monotonic() < until):
            threading.Event().wait(LOOK_SECONDS)

    def lines(self, pattern=""):
        """The requests whose first line matches."""
        return [asked for asked in list(self.asked) if re.search(pattern, asked.line)]


class Gone(Exception):
    """One of both ends has closed the connection."""


class Line:
    """One connection: a request, its answer, the next request."""

    def __init__(self, proxy, client):
        self.proxy, self.client, self.server = proxy, client, None

    def run(self):
        try:
            while self.one():
                pass
        except (OSError, Gone):
            pass
        finally:
            for end in (self.client, self.server):
                if end is not None:
                    end.close()

    def one(self):
        """One request; answers whether another may follow."""
        begun = self.wait_for_request()
        head = self.read_head(begun)
        mode, turn = self.proxy.decide(head.partition(b"\r\n\r\n")[0].decode(errors="replace"))
        if isinstance(mode, (Reset, BlackHole, Answer)) and not getattr(mode, "done", False):
            return self.fail(mode, turn, head)
        slow = mode if isinstance(mode, Pass) else PASS
        if isinstance(mode, Away):
            return False
        self.proxy.wait(turn, slow.seconds)
        self.send_to_server(head)
        for piece in self.rest_of(head):
            self.server.sendall(piece)
        first = self.read(self.server)
        self.proxy.wait(turn, slow.answer_seconds)
        if isinstance(mode, Reset):
            return self.reset()
        self.client.sendall(first)
        return True

    def wait_for_request(self):
        """Passes the answer on until the client sends again."""
        while True:
            ends = [end for end in (self.client, self.server) if end is not None]
            ready = select.select(ends, [], [])[0]
            if self.server in ready:
                self.client.sendall(self.read(self.server))
            elif self.client in ready:
                return self.read(self.client)

    def read_head(self, data):
        while b"\r\n\r\n" not in data:
            if len(data) > HEAD_MAX:
                raise Gone
            data += self.read(self.client)
        return data

    def rest_of(self, head):
        """The pieces of the body that have not come with the head."""
        fields, _, begun = head.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", fields)
        left = int(length[1]) - len(begun) if length else 0
        while left > 0:
            piece = self.read(self.client)
            left -= len(piece)
            yield piece

    def send_to_server(self, data):
        if self.server is None:
            self.server = socket.create_connection(("127.0.0.1", self.proxy.target))
            self.server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.server.sendall(data)

    def fail(self, mode, turn, head):
        if isinstance(mode, Reset):
            return self.reset()
        for _ in self.rest_of(head):
            pass
        if isinstance(mode, BlackHole):
            self.proxy.wait(turn)
            return False
        fields = f"content-type: {mode.content_type}\r\ncontent-length: {len(mode.body)}\r\nconnection: close"
        self.client.sendall(f"HTTP/1.1 {mode.status} Tried\r\n{fields}\r\n\r\n".encode() + mode.body)
        return False

    def reset(self):
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    def read(self, end):
        data = end.recv(PIECE)
        if not data:
            raise Gone
        return data
