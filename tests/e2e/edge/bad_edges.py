"""What may be at Caddy's admin port instead of a Caddy that does as it is told, and how each of it is cured."""

import http.server
import re
import socket
import threading

from caddy import HOST

BACK_OFF_SECONDS = 60
PROBED_SECONDS = 10


class Stub:
    """Something else that listens on a port: it answers the same to everything, or nothing at all."""

    def __init__(self, port, status=None, content_type=None, body=b""):
        self.over = threading.Event()
        handler = type("Bound", (Handler,), {"stub": self})
        self.status, self.content_type, self.body = status, content_type, body
        self.server = http.server.ThreadingHTTPServer((HOST, port), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def end(self):
        self.over.set()
        self.server.shutdown()
        self.server.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    def handle_one_request(self):
        try:
            super().handle_one_request()
        except OSError:
            # Whoever asked has gone: that is part of the tests.
            self.close_connection = True

    def do_GET(self):
        if not self.stub.status:
            self.stub.over.wait()
            return
        self.send_response(self.stub.status)
        self.send_header("content-type", self.stub.content_type)
        self.send_header("content-length", str(len(self.stub.body)))
        self.end_headers()
        self.wfile.write(self.stub.body)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def log_message(self, *_):
        pass


class Bad:
    """One thing that is wrong. `says` and `advises` are what an operator must be able to read in the status."""

    state, trouble = "failing", "unreachable"
    said = ""
    says, advises = "", ""
    within = PROBED_SECONDS

    def begin(self, edge):
        pass

    def cure(self, edge):
        edge.caddy.start()


class NothingListens(Bad):
    says, advises = r"cannot be reached.*refused", r"check that caddy runs.*--caddy-admin-url"


class Stubbed(Bad):
    """Another program answers at the admin port; the cure is a Caddy there."""

    answer = ()

    def begin(self, edge):
        self.stub = Stub(edge.caddy.admin_port, *self.answer)

    def cure(self, edge):
        self.stub.end()
        edge.caddy.start()


class Hangs(Stubbed):
    says, advises = r"did not answer within 5 s", r"check that caddy runs"


class AnswersHtml(Stubbed):
    answer = (200, "text/html", b"<!doctype html><title>Welcome</title>It works!")
    says, advises = r"not as caddy's admin api", r"--caddy-admin-url"


class AnswersErrors(Stubbed):
    answer = (500, "application/json", b'{"error":"out of file descriptors"}')
    says, advises = r"500 out of file descriptors", r"log of caddy"


class Refuses(Bad):
    """Caddy's admin API takes other hosts' requests only."""

    state, trouble = "blocked", "refused"
    says, advises = r"403 host not allowed", r"origins"
    within = BACK_OFF_SECONDS

    def begin(self, edge):
        edge.caddy.config_at_start["admin"] = {"enforce_origin": True, "origins": ["ops.example"]}
        edge.caddy.start()

    def cure(self, edge):
        edge.caddy.kill()
        del edge.caddy.config_at_start["admin"]
        edge.caddy.start()


class ForeignServer(Bad):
    """Somebody's server has our port in this very Caddy."""

    state, trouble = "blocked", "refused"
    says, advises = r"server \"shop\" already listens on 127", r"--caddy-listen .*\"@id\": \"nebula-server\""
    within = BACK_OFF_SECONDS

    def begin(self, edge):
        listen = edge.caddy.config_at_start["apps"]["http"]["servers"]["shop"]["listen"]
        listen.append(f"tcp/{edge.caddy.listen}")
        edge.caddy.start()
        self.before = edge.caddy.get()

    def cure(self, edge):
        assert edge.caddy.get() == self.before, "nothing was tried"
        edge.caddy.change("DELETE", "/config/apps/http/servers/shop/listen/1")


class PortTaken(Bad):
    """Another program has our port: Caddy takes no configuration in which it is to listen there."""

    state, trouble = "blocked", "refused"
    says, advises = r"cannot listen.*in use", r"free the port"
    within = BACK_OFF_SECONDS

    def begin(self, edge):
        self.taken = socket.create_server((HOST, edge.caddy.port))
        edge.caddy.start()
        self.before = edge.caddy.get()

    def cure(self, edge):
        assert edge.caddy.get() == self.before, "Caddy has kept what it had"
        self.taken.close()


BAD = {
    "nothing listens": NothingListens,
    "it hangs": Hangs,
    "it answers HTML": AnswersHtml,
    "it answers errors": AnswersErrors,
    "it refuses": Refuses,
    "a foreign server has our port": ForeignServer,
    "another program has our port": PortTaken,
}


def assert_told(bad, edge, status):
    """The trouble is told in the same words wherever an operator looks."""
    error = status["last_error"]
    bad.said = error["message"]
    assert (status["state"], error["trouble"]) == (bad.state, bad.trouble), status
    assert re.search(bad.says, error["message"], re.IGNORECASE), error
    assert re.search(bad.advises, error["hint"], re.IGNORECASE), error
    assert status["target"] == edge.caddy.admin_url, status
    words = " ".join(edge.nebulactl("edge", "status").out.split())
    assert error["message"] in words and error["hint"] in words, words
    assert status["wanted"] >= 1 and status["failures"] >= 1, status
