"""One nebulad and one agent for all tests of a file, with deployments that run: most of such a test's time is their start."""

from contextlib import contextmanager

from cluster import Cluster, call
from processes import BIN_DIR, Group

# The same made-up model behind both of the APIs that engines speak.
SIM, OLLAMA = "org/demo", "org/llama"
OLLAMA_TAG = "llama3.2:1b"
QUICK = ("--ttft", "2ms", "--token-interval", "1ms", "--tokens", "12")


class Serving(Cluster):
    """A cluster whose deployments' tokens are known."""

    def __init__(self, group):
        super().__init__(group)
        self.tokens = {}

    def serve(self, name, public=False, **body):
        """Deploys and waits until it runs."""
        made = self.deploy(name=name, public=public, **body)
        self.tokens[name] = made["access_token"]
        self.wait_for_deployment(made["id"], "running")
        return made["id"]

    def serve_both(self):
        """The simulated engine by OpenAI's API, and by Ollama's as a process of its own."""
        self.serve(SIM, model="demo", runtime="sim", args=list(QUICK))
        words = ["runtime", "--port", "{port}", "--model", OLLAMA_TAG, *QUICK]
        command = [str(BIN_DIR / "nebula-sim"), *words]
        self.serve(OLLAMA, model=OLLAMA_TAG, runtime="ollama", driver="process", command=command)

    def replica(self, name):
        """The only replica of a deployment, whose name may hold a slash."""
        return next(item for item in self.api("GET", "/deployments").json["data"] if item["name"] == name)["replicas"][0]

    def proxy_address(self, name):
        """Where the agent's proxy listens."""
        return self.replica(name)["endpoint"].split("//")[1].split("/")[0]

    def runtime_tells(self, name, path):
        """What the simulated engine tells about itself, past the gateway."""
        return call("GET", f"http://127.0.0.1:{self.replica(name)['port']}{path}").json


@contextmanager
def serving(directory, *nebulad_flags):
    group = Group(directory)
    cluster = Serving(group)
    try:
        cluster.start_nebulad(*nebulad_flags)
        cluster.agent = cluster.start_agent()
        cluster.wait_for_node("online")
        yield cluster
    except BaseException:
        for name, text in group.logs():
            print(f"--- {name}\n{text}")
        raise
    finally:
        group.end()
