"""What the bench needs of anything that stands before the upstream."""

import pathlib

from client import Load, call
from machine import Skip, cpu_seconds, memory_mb, tree, wait_for

HERE = pathlib.Path(__file__).resolve().parent
READY_SECONDS = 90
MODEL = "demo"


class Setting:
    """What all gateways of one run share."""

    def __init__(self, folder, programs, upstream_port, cores, workers):
        self.folder, self.programs, self.upstream_port = folder, programs, upstream_port
        # None, or the cores for the gateway, the upstream and the load.
        self.gateway_cores, self.upstream_cores, self.load_cores = cores or (None, None, None)
        self.workers = workers

    def fill(self, template, into, **values):
        text = (HERE / template).read_text()
        for name, value in values.items():
            text = text.replace(f"@{name}@", str(value))
        into.parent.mkdir(parents=True, exist_ok=True)
        into.write_text(text)
        return into


class Gateway:
    """One of the things that are compared. Subclasses start it."""

    name = "?"
    # Handles some dozens of requests a second: short measurements, and no case with thousands of connections.
    slow = False
    # Most connections it can hold, if that is fewer than asked for, and why.
    connections_max = None

    def __init__(self, setting):
        self.setting, self.port = setting, None
        self.processes, self.token, self.headers, self.version = [], None, [], ""
        # Words of the command lines of processes in our trees that are no part of the gateway.
        self.without = None

    def start(self):
        """Starts it and waits until it answers."""
        self.launch()
        self.wait_until_ready()
        return self

    def launch(self):
        raise NotImplementedError

    def measured(self):
        """The processes whose processor time and memory count."""
        return self.processes

    def wait_until_ready(self):
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
        headers = dict(self.headers)
        answers = []

        def look():
            try:
                status, answer = call(self.port, "POST", "/v1/chat/completions", body, self.token, headers)
            except OSError as error:
                answers.append(str(error))
                return False
            answers.append(f"{status} {str(answer)[:150]}")
            return status == 200

        try:
            wait_for("the first answer", look, READY_SECONDS, 0.2, self.processes[0] if self.processes else None)
        except Skip as skip:
            raise Skip(f"{skip} (last: {answers[-1] if answers else 'nothing'})") from None

    def pids(self):
        return [pid for process in self.measured() for pid in tree(process.child.pid, self.without)]

    def cpu(self):
        return cpu_seconds(self.pids())

    def memory(self):
        return memory_mb(self.pids())

    def load(self):
        program = self.setting.programs["nebula-sim"]
        return Load(program, self.port, MODEL, self.token, self.headers, self.setting.load_cores)

    def stop(self):
        for process in reversed(self.processes):
            process.stop()
        self.processes = []


class Direct(Gateway):
    """Nothing in between: what the upstream and the load client can do by themselves."""

    name = "direct"

    def launch(self):
        self.port = self.setting.upstream_port

    def measured(self):
        return []
