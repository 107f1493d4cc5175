"""Registries for images: Debian's own, with or without a password, and one that lies."""

import hashlib
import http.server
import json
import os
import shutil
import socket
import subprocess
import tarfile
import threading
from pathlib import Path

from processes import free_ports, wait_until

PROGRAM = "docker-registry"
START_SECONDS = 20
# What `htpasswd -bnB somebody secret` prints.
PASSWORD_FILE = "somebody:$2b$05$pr5.ApPGicIrYJnPe7SanOAppO4ONBKZ9x6uAJz0nXZLigIe3s6Ne\n"
MEDIA_TYPE = "application/vnd.docker.distribution.manifest.v2+json"


def cannot():
    """Why there can be none here, or nothing."""
    return None if shutil.which(PROGRAM) else f"there is no {PROGRAM} here"


class Registry:
    """Debian's docker-registry on a loopback port."""

    def __init__(self, directory, password=False):
        self.port = free_ports(1)[0]
        self.name = f"127.0.0.1:{self.port}"
        config = {
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(directory / "images")}},
            "http": {"addr": self.name},
        }
        if password:
            (directory / "passwords").write_text(PASSWORD_FILE)
            config["auth"] = {"htpasswd": {"realm": "tests", "path": str(directory / "passwords")}}
        path = directory / "config.yml"
        # JSON is YAML.
        path.write_text(json.dumps(config))
        self.log = directory / "log"
        with open(self.log, "wb") as log:
            # It needs no settings of whoever runs the tests.
            environment = {"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"}
            command = [PROGRAM, "serve", str(path)]
            self.popen = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        wait_until("the registry listens", self.listens, START_SECONDS)

    def listens(self):
        assert self.popen.poll() is None, self.log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def end(self):
        self.popen.kill()
        self.popen.wait()


class LyingRegistry:
    """Answers with a manifest that is not the one which was asked for by its digest."""

    def __init__(self):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Liar)
        self.name = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def end(self):
        self.server.shutdown()
        self.server.server_close()


class Liar(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        config = {"mediaType": "application/vnd.docker.container.image.v1+json", "size": 2, "digest": digest(b"{}")}
        manifest = {"schemaVersion": 2, "mediaType": MEDIA_TYPE, "config": config, "layers": []}
        body = json.dumps(manifest).encode() if "/manifests/" in self.path else b"{}"
        self.send_response(200)
        self.send_header("docker-distribution-api-version", "registry/2.0")
        self.send_header("content-type", MEDIA_TYPE if "/manifests/" in self.path else "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


def digest(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def write_layers(tar, base, directory, sizes, rng):
    """What builds an image on another one with layers of random bytes, which nothing makes smaller."""
    lines = [f"FROM {base}"]
    with tarfile.open(tar, "w") as out:
        for number, size in enumerate(sizes):
            path = Path(directory) / f"layer-{number}"
            path.write_bytes(rng.randbytes(size))
            out.add(path, path.name)
            lines.append(f"COPY {path.name} /{path.name}")
        path = Path(directory) / "Dockerfile"
        path.write_text("\n".join(lines))
        out.add(path, path.name)
    return tar
