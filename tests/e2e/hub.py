"""A stand-in for the Hugging Face hub: one repository, files by their checksums, parts of them on request."""

import hashlib
import http.server
import json
import re
import threading

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves until `end`. `asked` lists what files were asked for, each with its first byte."""

    def __init__(self, repo, files):
        self.repo, self.files = repo, files
        # What it says of a file, where that is not true.
        self.lies = {}
        self.token = None
        self.asked = []
        handler = type("Bound", (Handler,), {"hub": self})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def listing(self):
        told = lambda body: {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body)}
        files = {name: told(body) | self.lies.get(name, {}) for name, body in self.files.items()}
        siblings = [
            {"rfilename": name, "size": lfs["size"], "blobId": COMMIT, "lfs": lfs | {"pointerSize": 128}}
            for name, lfs in files.items()
        ]
        return {"id": self.repo, "sha": COMMIT, "siblings": siblings}

    def end(self):
        self.server.shutdown()
        self.server.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = self.path.partition("?")[0]
        hub = self.hub
        if hub.token and self.headers.get("authorization") != f"Bearer {hub.token}":
            self.answer(401, b"{}")
        elif path.startswith(f"/api/models/{hub.repo}"):
            self.answer(200, json.dumps(hub.listing()).encode())
        elif path.startswith(f"/{hub.repo}/resolve/{COMMIT}/") and path.rsplit("/", 1)[1] in hub.files:
            self.send_file(path.rsplit("/", 1)[1])
        else:
            self.answer(404, b"{}", {"x-error-code": "RepoNotFound"})

    def send_file(self, name):
        body = self.hub.files[name]
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        first = int(wanted[1]) if wanted else 0
        headers = {"etag": f'"{hashlib.sha256(body).hexdigest()}"', "x-repo-commit": COMMIT}
        if wanted:
            headers["content-range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
        if self.command == "GET":
            self.hub.asked.append((name, first))
        self.answer(206 if wanted else 200, body[first:], headers)

    do_HEAD = do_GET

    def answer(self, status, body, headers=None):
        try:
            self.send_response(status)
            for key, value in {"content-length": str(len(body)), "accept-ranges": "bytes", **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)
        except OSError:
            # Whoever asked has gone: that is part of the tests.
            self.close_connection = True

    def log_message(self, *_):
        pass
