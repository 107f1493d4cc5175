"""HTTP by hand: requests byte for byte, answers as they came, and the engine that notes them (`recorder.py`)."""

import base64
import json
import socket
import struct
import sys
from pathlib import Path

from cluster import call

RECORDER = Path(__file__).parent / "recorder.py"
DEADLINE_SECONDS = 20
CHAT = "/v1/chat/completions"


class Recorder:
    """A deployment whose engine is a recorder."""

    def __init__(self, cluster, name):
        self.name = name
        command = [sys.executable, str(RECORDER), "{port}"]
        self.id = cluster.serve(name, model="demo", runtime="sim", driver="process", command=command)
        self.token = cluster.tokens[name]
        port = cluster.deployment(self.id)["replicas"][0]["port"]
        self.noted = f"http://127.0.0.1:{port}/recorder/requests"

    def requests(self):
        told = call("GET", self.noted).json
        return [one | {"head": base64.b64decode(one["head"]), "body": base64.b64decode(one["body"])} for one in told]

    def forget(self):
        call("DELETE", self.noted)

    def only(self):
        """The one request that has come."""
        noted = self.requests()
        assert len(noted) == 1, noted
        return noted[0]


def script(*steps):
    """The value of `x-script`; bytes are put into base64."""
    words = [[base64.b64encode(part).decode() if isinstance(part, bytes) else part for part in step] for step in steps]
    return base64.b64encode(json.dumps(words).encode()).decode()


def answer(body, content_type="application/json", status="200 OK", headers=""):
    head = f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


def chunked(pieces, content_type="text/event-stream", last=True):
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return head + body + (b"0\r\n\r\n" if last else b"")


def post(body, token=None, path=CHAT, headers="", length=True, content_type="application/json"):
    """A request as bytes."""
    body = body.encode() if isinstance(body, str) else body
    head = f"POST {path} HTTP/1.1\r\nhost: t\r\ncontent-type: {content_type}\r\n"
    head += f"authorization: Bearer {token}\r\n" if token else ""
    head += f"content-length: {len(body)}\r\n" if length else ""
    return (head + headers + "\r\n").encode() + body


class Reply:
    """An answer as it came, with its body taken out of its chunks."""

    def __init__(self, head, body):
        self.head = head.decode("latin-1")
        lines = self.head.split("\r\n")
        self.status = int(lines[0].split(" ")[1])
        self.headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:] if line)}
        self.body = body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def code(self):
        return self.json["error"]["code"]

    def __repr__(self):
        return f"<{self.status} {self.headers} {self.body[:300]!r}>"


class Line:
    """A client's connection."""

    def __init__(self, address, receive_buffer=None):
        host, port = address.rsplit(":", 1)
        self.stream = socket.socket()
        if receive_buffer:
            self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.stream.settimeout(DEADLINE_SECONDS)
        self.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream.connect((host, int(port)))
        self.read = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stream.close()

    def send(self, data):
        self.stream.sendall(data)
        return self

    def fill(self):
        """Reads on; false at the end, whether in order or not."""
        try:
            more = self.stream.recv(1 << 16)
        except ConnectionResetError:
            return False
        self.read += more
        return bool(more)

    def until(self, end):
        while end not in self.read:
            assert self.fill(), f"it ended with {self.read[-300:]!r}"
        found, self.read = self.read.split(end, 1)
        return found + end

    def rest(self):
        """All that still comes."""
        while self.fill():
            pass
        found, self.read = self.read, b""
        return found

    def reply(self, to_head=False):
        """The next answer."""
        head = self.until(b"\r\n\r\n")
        reply = Reply(head, b"")
        if reply.status == 100:
            return self.reply(to_head)
        if to_head or reply.status in (204, 304):
            return reply
        if "chunked" in reply.headers.get("transfer-encoding", ""):
            while size := int(self.until(b"\r\n"), 16):
                reply.body += self.exactly(size)
                self.until(b"\r\n")
            self.until(b"\r\n")
        elif "content-length" in reply.headers:
            reply.body = self.exactly(int(reply.headers["content-length"]))
        else:
            reply.body = self.rest()
        return reply

    def exactly(self, count):
        while len(self.read) < count:
            assert self.fill(), f"it ended with {self.read[-300:]!r}"
        found, self.read = self.read[:count], self.read[count:]
        return found

    def is_closed(self):
        """Whether the other side closes, within the deadline."""
        try:
            while self.fill():
                pass
        except TimeoutError:
            return False
        return True

    def reset(self):
        """Leaves as a program that crashed does."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.close()


def ask(address, data):
    """One request on a connection of its own."""
    with Line(address) as line:
        return line.send(data).reply()
