"""A control plane and its agents as the tests see them: addresses, the management API and the gateway."""

import json
import re
import urllib.error
import urllib.request

from processes import free_ports, wait_until

START_SECONDS = 20
RUN_SECONDS = 30
READY = r".*nebulad is ready.*\n"


class Answer:
    """An HTTP answer, whatever its status."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"<{self.status} {self.body[:300]!r}>"


def call(method, url, body=None, token=None, seconds=30):
    headers = {"content-type": "application/json"}
    if token:
        headers["authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers=headers, method=method)
    # No proxy of the surroundings stands between a test and its own loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=seconds) as response:
            return Answer(response.status, response.headers, response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.headers, error.read())


class Cluster:
    """One nebulad, the agents that join it, and nebulactl against it."""

    def __init__(self, group):
        self.group = group
        self.data_dir = group.directory / "nebulad"
        self.nebulad = None
        self.grpc_addr = self.http_addr = None

    # --- programs

    def fix_ports(self):
        """Chooses nebulad's ports before its first start, for tests in which it is often down."""
        self.grpc_addr, self.http_addr = (f"127.0.0.1:{port}" for port in free_ports(2))

    def start_nebulad(self, *flags, env=None):
        """Starts nebulad on free ports, or on the same ones again."""
        self.launch_nebulad(*flags, env=env)
        return self.wait_for_nebulad()

    def launch_nebulad(self, *flags, wrapper=(), env=None):
        """Starts nebulad and does not wait for it."""
        ports = [addr.rsplit(":", 1)[1] if addr else "0" for addr in (self.grpc_addr, self.http_addr)]
        flags = ["--data-dir", self.data_dir, "--grpc-port", ports[0], "--http-port", ports[1], *flags]
        self.nebulad = self.group.start_under(wrapper, "nebulad", *flags, env=env)
        return self.nebulad

    def wait_for_nebulad(self, seconds=START_SECONDS):
        """Waits until the nebulad that was started last is ready."""
        ready = self.nebulad.wait_for_text(READY, seconds, "err")[0]
        self.grpc_addr = re.search(r"grpc_addr=\"?([\d.]+:\d+)", ready)[1]
        self.http_addr = re.search(r"http_addr=\"?([\d.]+:\d+)", ready)[1]
        return self.nebulad

    def start_agent(self, name="node-1", *flags, env=None):
        """Starts an agent on free ports; with the same name it has the same data directory."""
        directory = self.group.directory / f"agent-{name}"
        places = ["--control-plane", self.grpc_addr, "--data-dir", directory, "--node-name", name]
        ports = ["--grpc-port", "0", "--proxy-port", "0", "--metrics-port", "0"]
        return self.group.start("nebula-agent", *places, *ports, *flags, env=env)

    def nebulactl(self, *args, seconds=60):
        """Runs nebulactl with the admin token to its end."""
        return self.group.run("nebulactl", *args, env=self.operator(), seconds=seconds)

    def operator(self):
        return {"NEBULA_SERVER": f"http://{self.http_addr}", "NEBULA_TOKEN": self.admin_token}

    def told(self, *args, seconds=60):
        """What nebulactl prints as JSON."""
        process = self.nebulactl(*args, "-o", "json", seconds=seconds)
        assert process.popen.returncode == 0, f"nebulactl {args}: {process.err}"
        return json.loads(process.out)

    # --- HTTP

    @property
    def admin_token(self):
        return (self.data_dir / "admin.token").read_text().strip()

    @property
    def gateway(self):
        return f"http://{self.http_addr}/v1"

    def api(self, method, path, body=None):
        return call(method, f"http://{self.http_addr}/api/v1{path}", body, self.admin_token)

    def chat(self, model, token=None, text="hello"):
        body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 8}
        return call("POST", f"{self.gateway}/chat/completions", body, token)

    def models(self, token=None):
        return [model["id"] for model in call("GET", f"{self.gateway}/models", token=token).json["data"]]

    # --- states

    def deploy(self, **body):
        answer = self.api("POST", "/deployments", body)
        assert answer.status == 201, answer
        return answer.json

    def deployment(self, name):
        answer = self.api("GET", f"/deployments/{name}")
        assert answer.status == 200, answer
        return answer.json

    def node(self, name="node-1"):
        answer = self.api("GET", f"/nodes/{name}")
        return answer.json if answer.status == 200 else None

    def wait_for_node(self, state, name="node-1", seconds=START_SECONDS):
        look = lambda: (node := self.node(name)) and node["state"] == state and node
        return wait_until(f"node {name} is {state}", look, seconds)

    def wait_for_deployment(self, name, state, seconds=RUN_SECONDS):
        seen = {}

        def look():
            seen.update(self.deployment(name))
            early_end = seen["state"] == "failed" and state != "failed"
            assert not early_end, f"{name} failed: {seen['message']}"
            return seen["state"] == state and dict(seen)

        try:
            return wait_until(f"deployment {name} is {state}", look, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {seen.get('state')}: {seen.get('message')}") from None

    def runtime_pid(self, name):
        """The runtime's process, as the agent tells it."""
        return int(self.deployment(name)["replicas"][0]["container_id"])
