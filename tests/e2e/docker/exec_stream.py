"""One command run by ExecStream, as a client with a terminal talks to it."""

import base64
import queue
import re
import threading

import grpc

from processes import wait_until


class Exec:
    """Runs until the command ends or it is hung up."""

    def __init__(self, client, deployment_id, command, tty=False, seconds=60):
        self.requests = queue.Queue()
        self.out, self.err, self.exit_code, self.error = b"", b"", None, None
        self.send(start={"deployment_id": deployment_id, "command": command, "tty": tty})
        self.call, read = client.converse("proto.AgentService/ExecStream", iter(self.requests.get, None), seconds)
        self.reader = threading.Thread(target=self.read, args=(read,), daemon=True)
        self.reader.start()

    def send(self, **request):
        self.requests.put(request)

    def type(self, text):
        self.send(stdin=base64.b64encode(text.encode()).decode())

    def resize(self, columns, rows):
        self.send(resize={"columns": columns, "rows": rows})

    def read(self, read):
        try:
            for message in map(read, self.call):
                self.out += base64.b64decode(message.get("stdout", ""))
                self.err += base64.b64decode(message.get("stderr", ""))
                self.exit_code = message.get("exit_code", self.exit_code)
        except grpc.RpcError as error:
            self.error = error

    def wait_for_text(self, pattern, seconds=10):
        look = lambda: re.search(pattern, self.out.decode(errors="replace"))
        try:
            return wait_until(f"the command says {pattern!r}", look, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; it said {self.out!r}, {self.err!r}; {self.error}") from None

    def wait(self, seconds=10):
        """Waits for the end and returns the exit code."""
        wait_until("the command ends", lambda: not self.reader.is_alive(), seconds)
        self.requests.put(None)
        assert self.error is None, self.error
        return self.exit_code

    def hang_up(self):
        self.call.cancel()
        self.requests.put(None)
