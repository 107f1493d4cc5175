"""A slow line to a server on this machine."""

import socket
import threading
import time


class SlowLine:
    """Passes connections on to a port, what comes back at a limited rate for all of them together."""

    def __init__(self, port, bytes_per_second):
        self.target, self.rate = port, bytes_per_second
        self.passed = 0
        self.lock = threading.Lock()
        self.due = time.monotonic()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.name = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.target))
            for source, sink, slow in ((client, server, False), (server, client, True)):
                threading.Thread(target=self.pump, args=(source, sink, slow), daemon=True).start()

    def pump(self, source, sink, slow):
        try:
            while data := source.recv(16384):
                if slow:
                    self.wait_for(len(data))
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def wait_for(self, size):
        """Sleeps until the line has room again: that is what it is for."""
        with self.lock:
            self.passed += size
            self.due = max(self.due, time.monotonic()) + size / self.rate
            due = self.due
        threading.Event().wait(max(0, due - time.monotonic()))

    def end(self):
        self.listener.close()
