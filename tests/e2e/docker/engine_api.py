"""The Docker Engine's API over its socket, as far as the tests need it."""

import http.client
import json
import socket
import urllib.parse

CALL_SECONDS = 60


class Refused(Exception):
    """The Engine's own words, with the status of its answer."""

    def __init__(self, status, message):
        super().__init__(f"{status}: {message}")
        self.status, self.message = status, message


class Connection(http.client.HTTPConnection):
    def __init__(self, path, seconds):
        super().__init__("localhost", timeout=seconds)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class EngineApi:
    def __init__(self, path):
        self.path = path

    def call(self, method, path, body=None, headers=None, seconds=CALL_SECONDS, **query):
        """The answer's body. `body` is a value for JSON, bytes or a file."""
        headers = {"host": "localhost", **(headers or {})}
        if body is not None and not isinstance(body, bytes) and not hasattr(body, "read"):
            body = json.dumps(body).encode()
            headers["content-type"] = "application/json"
        elif body is not None:
            headers["content-type"] = "application/x-tar"
        filters = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in query.items()}
        path = f"{path}?{urllib.parse.urlencode(filters, doseq=True)}" if filters else path
        connection = Connection(self.path, seconds)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status >= 400:
            try:
                message = json.loads(text)["message"]
            except (ValueError, KeyError):
                message = text.decode(errors="replace")
            raise Refused(answer.status, message)
        return text

    def get(self, path, **query):
        return json.loads(self.call("GET", path, **query))

    def is_there(self):
        try:
            return self.call("GET", "/_ping", seconds=2) == b"OK"
        except OSError:
            return False

    # --- images

    def steps(self, method, path, body=None, headers=None, **query):
        """Carries out what is told as a row of JSON values, and raises the error that one of them may be."""
        for line in self.call(method, path, body, headers, seconds=300, **query).splitlines():
            step = json.loads(line)
            if "error" in step:
                raise Refused(200, step["error"])

    def import_image(self, tar, name, changes=()):
        """Makes an image of one layer from a file with a root file system."""
        repo, tag = name.rsplit(":", 1)
        with open(tar, "rb") as body:
            self.steps("POST", "/images/create", body, fromSrc="-", repo=repo, tag=tag, changes=list(changes))
        return name

    def build_image(self, tar, name):
        """Builds an image from a file with a Dockerfile in it."""
        with open(tar, "rb") as body:
            self.steps("POST", "/build", body, t=name, rm=1, forcerm=1)
        return name

    def push_image(self, name):
        repo, tag = name.rsplit(":", 1)
        self.steps("POST", f"/images/{repo}/push", headers={"x-registry-auth": "e30="}, tag=tag)

    def remove_image(self, name):
        self.call("DELETE", f"/images/{name}", force=1)

    def has_image(self, name):
        try:
            self.get(f"/images/{name}/json")
        except Refused as refused:
            if refused.status != 404:
                raise
            return False
        return True

    # --- containers

    def create(self, **container):
        return json.loads(self.call("POST", "/containers/create", container))["Id"]

    def containers(self, **labels):
        """All containers with these labels of Nebula's, running or not, newest first."""
        wanted = [f"nebula.{name}={value}" for name, value in labels.items()] or ["nebula.replica"]
        return self.get("/containers/json", all=1, filters={"label": wanted})

    def running(self, **labels):
        return [each for each in self.containers(**labels) if each["State"] == "running"]

    def inspect(self, container):
        return self.get(f"/containers/{container}/json")

    def kill(self, container, signal="KILL"):
        self.call("POST", f"/containers/{container}/kill", signal=signal)

    def stop(self, container):
        """As `docker stop -t 1` does."""
        self.call("POST", f"/containers/{container}/stop", t=1)

    def remove(self, container):
        """As `docker rm -f` does."""
        self.call("DELETE", f"/containers/{container}", force=1, v=1)

    def processes(self, container):
        """Command lines of what runs in a container."""
        told = self.get(f"/containers/{container}/top")
        column = told["Titles"].index("CMD")
        return [row[column] for row in told["Processes"]]
