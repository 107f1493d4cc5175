"""Stands between a program and a Unix socket, and holds back what is looked for."""

import re
import socket
import threading


class UnixProxy:
    """Passes everything on, with two exceptions.

    A request whose first line matches `hold` never arrives. Of the answer to the first one that matches `stall` only
    so many bytes arrive, and then no more, while its connection stays open.
    """

    def __init__(self, path, target, hold=None, stall=None, stall_bytes=0):
        self.path, self.target, self.stall_bytes = str(path), str(target), stall_bytes
        self.hold, self.stall = (re.compile(each.encode()) if each else None for each in (hold, stall))
        self.held, self.stalled = threading.Event(), threading.Event()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.path)
        self.listener.listen(64)
        threading.Thread(target=self.accept, daemon=True).start()

    @property
    def host(self):
        return f"unix://{self.path}"

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            server.connect(self.target)
            # How many more bytes its client may get; nobody counts at first.
            room = [None]
            for pump in (self.pump_requests, self.pump_answers):
                threading.Thread(target=self.until_closed, args=(pump, client, server, room), daemon=True).start()

    def until_closed(self, pump, client, server, room):
        try:
            pump(client, server, room)
        except OSError:
            pass
        for end in (client, server):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def pump_requests(self, client, server, room):
        while data := client.recv(65536):
            if self.hold and self.hold.match(data):
                self.held.set()
                # Whoever asked is left without an answer, until it goes.
                while client.recv(65536):
                    pass
                return
            if self.stall and not self.stalled.is_set() and self.stall.match(data):
                self.stalled.set()
                room[0] = self.stall_bytes
            server.sendall(data)

    def pump_answers(self, client, server, room):
        while data := server.recv(65536):
            if room[0] is not None:
                data, room[0] = data[: room[0]], max(0, room[0] - len(data))
            client.sendall(data)

    def close(self):
        self.listener.close()
