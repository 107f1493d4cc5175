"""Stands between a program and a Unix socket, and holds back the requests that are looked for."""

import re
import socket
import threading


class UnixProxy:
    """Passes everything on, but a request whose first line matches `hold`: it never arrives."""

    def __init__(self, path, target, hold):
        self.path, self.target, self.hold = str(path), str(target), re.compile(hold.encode())
        self.held = threading.Event()
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
            for source, sink, watched in ((client, server, True), (server, client, False)):
                threading.Thread(target=self.pump, args=(source, sink, watched), daemon=True).start()

    def pump(self, source, sink, watched):
        try:
            while data := source.recv(65536):
                if watched and self.hold.match(data):
                    self.held.set()
                    # Whoever asked is left without an answer, until it goes.
                    while source.recv(65536):
                        pass
                    break
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.listener.close()
