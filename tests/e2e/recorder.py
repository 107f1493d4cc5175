"""An engine that notes every byte it gets and answers as it is told: started by the agent as `python3 recorder.py PORT`.

A request's header `x-script` holds JSON in base64: a list of steps, done one after the other.
`["send", base64]`, `["repeat", base64, times]`, `["pause", seconds]`, `["gone"]` (waits until the other side hangs up),
`["close"]`, `["reset"]`. Without one the answer is `{}`. `GET /recorder/requests` tells what came, and `DELETE` forgets it.
"""

import base64
import json
import os
import select
import socket
import struct
import sys
import threading
import time

NOTED = []
LOCK = threading.Lock()
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
WAIT_SECONDS = 60


class Wire:
    """One connection, read strictly."""

    def __init__(self, stream):
        self.stream, self.read = stream, b""

    def fill(self):
        more = self.stream.recv(1 << 20)
        self.read += more
        return bool(more)

    def until(self, end):
        while end not in self.read:
            if not self.fill():
                return None
        found, self.read = self.read.split(end, 1)
        return found + end

    def exactly(self, count):
        while len(self.read) < count:
            if not self.fill():
                return None
        found, self.read = self.read[:count], self.read[count:]
        return found

    def chunks(self):
        body = b""
        while True:
            line = self.until(b"\r\n")
            size = int(line.strip(), 16)
            body += self.exactly(size)
            self.exactly(2)
            if size == 0:
                return body

    def request(self):
        head = self.until(b"\r\n\r\n")
        if head is None:
            return None
        lines = head.decode("latin-1").split("\r\n")
        headers = [tuple(line.split(": ", 1)) for line in lines[1:] if line]
        found = {name.lower(): value for name, value in headers}
        if "chunked" in found.get("transfer-encoding", ""):
            body = self.chunks()
        else:
            body = self.exactly(int(found.get("content-length", 0)))
        return {"head": head, "line": lines[0], "headers": found, "body": body}

    def wait_for_the_end(self):
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            ready, _, _ = select.select([self.stream], [], [], 1)
            try:
                if ready and not self.stream.recv(1 << 16):
                    return
            except OSError:
                return


def note(request):
    noted = {
        "head": base64.b64encode(request["head"]).decode(),
        "body": base64.b64encode(request["body"] or b"").decode(),
        "came": time.monotonic(),
        "whole": request["body"] is not None,
        "gone": None,
        "sent": 0,
    }
    with LOCK:
        NOTED.append(noted)
    return noted


def play(wire, noted, script):
    """Does the steps; true if the connection is of further use."""
    for step, *arguments in script:
        if step in ("send", "repeat"):
            data, times = base64.b64decode(arguments[0]), (arguments + [1])[1]
            for _ in range(times):
                wire.stream.sendall(data)
                noted["sent"] += len(data)
        elif step == "pause":
            time.sleep(arguments[0])
        elif step == "gone":
            wire.wait_for_the_end()
            noted["gone"] = time.monotonic()
            return False
        else:
            if step == "reset":
                wire.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
    return True


def own(request):
    """What is asked of this program itself, and not of an engine."""
    method, path = request["line"].split(" ")[:2]
    if path == "/health":
        return b"{}"
    if path == "/recorder/requests":
        with LOCK:
            told = json.dumps(NOTED).encode()
            if method == "DELETE":
                NOTED.clear()
        return told
    return None


def serve(stream):
    wire = Wire(stream)
    with stream:
        while (request := wire.request()) is not None:
            if (told := own(request)) is not None:
                stream.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(told), told))
                continue
            noted = note(request)
            script = json.loads(base64.b64decode(request["headers"].get("x-script", "bnVsbA==")))
            try:
                if not noted["whole"] or not play(wire, noted, script or [["send", base64.b64encode(ANSWER)]]):
                    return
            except OSError:
                noted["gone"] = time.monotonic()
                return


def main():
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=512)
    print(f"recorder {os.getpid()} listens on {sys.argv[1]}", flush=True)
    while True:
        stream, _ = listener.accept()
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(stream,), daemon=True).start()


main()
