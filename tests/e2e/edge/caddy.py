"""A real Caddy of a test's own: its configuration is what its file says, and nothing of it outlives it."""

import http.client
import json
import os
import shutil
from pathlib import Path

from cluster import Answer, call
from processes import ROOT, Process, wait_until

HOST = "127.0.0.1"
# Where Caddy speaks TLS by itself.
HTTPS_PORT = 443
START_SECONDS = 20
ASK_SECONDS = 20
OURS = "nebula"
GATEWAY, UNKNOWN = "nebula-gateway", "nebula-unknown"


def program():
    """Where Caddy lies; none: it is not here."""
    named = os.environ.get("NEBULA_CADDY")
    beside = ROOT / ".venv" / "caddy" / "usr" / "bin" / "caddy"
    found = named or (beside if beside.is_file() else shutil.which("caddy"))
    return found and Path(found).resolve()


class Caddy:
    """Caddy on its ports of loopback: started, killed and started again as often as a test likes."""

    def __init__(self, group, admin_port, port, config=None):
        self.group, self.admin_port, self.port = group, admin_port, port
        self.config_at_start = config or {}
        self.admin_url = f"http://{HOST}:{admin_port}"
        self.listen = f"{HOST}:{port}"
        self.starts = 0
        self.process = None

    @property
    def flags(self):
        """What nebulad is told of it."""
        return ("--caddy-admin-url", self.admin_url, "--caddy-listen", self.listen)

    # --- its life

    def start(self):
        """Starts with the configuration of its file and no other: there is no `--resume`."""
        self.starts += 1
        name = f"caddy-{self.admin_port}-{self.starts}"
        home = self.group.directory / name
        home.mkdir()
        file = home / "caddy.json"
        admin = {"listen": f"{HOST}:{self.admin_port}"} | self.config_at_start.get("admin", {})
        file.write_text(json.dumps({**self.config_at_start, "admin": admin}))
        env = {"HOME": home, "XDG_DATA_HOME": home / "data", "XDG_CONFIG_HOME": home / "config"}
        command = [program(), "run", "--config", file]
        self.process = Process(name, command, self.group.environment(env), self.group.directory)
        self.group.processes.append(self.process)
        wait_until("Caddy's admin API answers", self.answers, START_SECONDS)
        return self

    def answers(self):
        """Whether its admin API does, whatever it says: only after the configuration is loaded."""
        assert self.process.is_alive(), f"Caddy ended with {self.process.popen.returncode}: {self.process.err}"
        try:
            return call("GET", f"{self.admin_url}/config/", seconds=5).status
        except OSError:
            return None

    def kill(self):
        self.process.kill()

    # --- its admin API

    def get(self, path="/config/"):
        """A part of the configuration as the text that Caddy says, byte for byte."""
        answer = call("GET", self.admin_url + path)
        assert answer.status == 200, f"{path}: {answer}"
        return answer.body.decode()

    def change(self, method, path, body=None, check=True):
        answer = call(method, self.admin_url + path, body)
        assert not check or answer.status == 200, f"{method} {path}: {answer}"
        return answer

    def server(self, key=OURS):
        """One of its HTTP servers; none, when it is not there."""
        config = json.loads(self.get()) or {}
        return config.get("apps", {}).get("http", {}).get("servers", {}).get(key)

    def routes(self, key=OURS):
        """The ids of a server's routes, in their order."""
        return [route.get("@id") for route in (self.server(key) or {}).get("routes") or []]

    def index(self, id):
        return self.routes().index(id)

    # --- through it

    def ask(self, host, path="/", body=None, token=None, method=None):
        """A request for a host, as a client sends it: once more, when its connection breaks before anything was said.

        Caddy 2.6 does that to a few connections of the very moment in which it takes a new configuration.
        """
        try:
            return self.ask_once(host, path, body, token, method)
        except (ConnectionResetError, http.client.RemoteDisconnected):
            return self.ask_once(host, path, body, token, method)

    def ask_once(self, host, path, body, token, method):
        connection = http.client.HTTPConnection(self.listen, timeout=ASK_SECONDS)
        headers = {"host": host, "content-type": "application/json"}
        headers |= {"authorization": f"Bearer {token}"} if token else {}
        data = None if body is None else json.dumps(body)
        try:
            connection.request(method or ("GET" if data is None else "POST"), path, data, headers)
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def leads(self, host, path, body=None):
        """Whether a request for a host is answered well by now. Nothing with 200 is what Caddy says to any stranger."""
        try:
            answer = self.ask(host, path, body)
            return answer.status == 200 and bool(answer.body)
        except (OSError, http.client.HTTPException):
            return False


def route_of(host):
    """The id of a node's route."""
    return f"nebula-node-{host.split('.')[0]}"


def is_unknown(answer):
    """Whether that is what our server says of a host that it does not know: in the form of the gateway's errors."""
    if answer.status != 404 or "json" not in answer.headers.get("content-type", ""):
        return False
    return answer.json["error"]["code"] == "unknown_host"


def wait_for_sync(cluster, seconds):
    """Waits until nebulad says that Caddy is as it should be, and answers its status."""
    seen = {}

    def look():
        seen.update(edge_status(cluster))
        return seen["state"] == "in_sync" and dict(seen)

    try:
        return wait_until("Caddy is in sync", look, seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}; status: {seen}") from None


def edge_status(cluster, name="caddy"):
    answer = cluster.api("GET", "/edge")
    assert answer.status == 200, answer
    return next(status for status in answer.json["data"] if status["name"] == name)
