"""Several nodes on one machine, clients that ask all the time, and streams that stay open while something changes."""

import http.client
import json
import os
import threading
from contextlib import contextmanager

from cluster import Cluster, call
from processes import environment_of, wait_until

# As short as nebulad takes them: a node that is silent for four seconds is offline.
TIMEOUT_SECONDS = 4
QUICK = ("--heartbeat-timeout", str(TIMEOUT_SECONDS), "--default-heartbeat-interval", "1")
# Of the test's ports each of its agents gets some.
NODE_PORTS = 6
SIM = {"model": "demo", "runtime": "sim", "driver": "process", "public": True}
SIM_ARGS = ["--ttft", "5ms", "--token-interval", "2ms"]
STREAM_SECONDS = 60


class Moving:
    """What is looked at and done while deployments move; for any kind of cluster."""

    def replicas(self, name):
        return self.deployment(name)["replicas"]

    def wait_for_replicas(self, name, count, seconds=60, but=(), state="running"):
        """Waits until there are so many replicas in that state and no other ones; `but` are none of them."""
        seen = []

        def look():
            seen[:] = self.replicas(name)
            fine = [one for one in seen if one["state"] == state and one["id"] not in but]
            return len(fine) == len(seen) == count and (fine or True)

        try:
            found = wait_until(f"{count} replicas of {name} are {state}", look, seconds)
        except AssertionError as error:
            shown = [(one["id"][:8], one["state"], one["node_name"], one["message"]) for one in seen]
            raise AssertionError(f"{error}; there are {shown}; told: {self.told_of(name)}") from None
        return [] if found is True else found

    def change(self, name, **fields):
        answer = self.api("PATCH", f"/deployments/{name}", fields)
        assert answer.status == 202, answer
        return answer.json

    def events(self, name):
        answer = self.api("GET", f"/deployments/{name}/events?limit=500")
        assert answer.status == 200, answer
        return answer.json["data"]

    def kinds(self, name):
        return [event["type"] for event in self.events(name)]

    def told_of(self, name):
        return [f"{event['type']}: {event['message']}" for event in self.events(name)][-20:]

    def wait_for_event(self, name, kind, seconds=60):
        look = lambda: [event for event in self.events(name) if event["type"] == kind]
        try:
            return wait_until(f"{name} says {kind}", look, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; told: {self.told_of(name)}") from None

    def runtimes_of(self, replica_id):
        """The living processes of a replica, whoever knows of them."""
        needle = f"NEBULA_REPLICA={replica_id}".encode()
        return [pid for pid in self.group.running() if needle in environment_of(pid)]

    def all_replicas(self):
        return [replica for each in self.api("GET", "/deployments?limit=500").json["data"] for replica in each["replicas"]]

    def drain(self, node, **body):
        """Drains a node, and answers the id of the operation."""
        answer = self.api("POST", f"/nodes/{node}/drain", body or None)
        assert answer.status == 202, answer
        assert answer.json["scheduling"] == "draining", answer
        return answer.json["operation"]

    def operation(self, id):
        answer = self.api("GET", f"/operations/{id}")
        assert answer.status == 200, answer
        return answer.json

    def wait_for_operation(self, id, state, seconds=60):
        seen = {}

        def look():
            seen.update(self.operation(id))
            return seen["state"] == state and seen

        try:
            return wait_until(f"operation {id} is {state}", look, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {seen}") from None

    def stream(self, model, tokens=200, interval="20ms"):
        return Stream(self.http_addr, model, tokens, interval)

    @contextmanager
    def asked(self, model, requests, rate, *flags):
        """Asks a model all the time; afterwards every request was answered."""
        words = ["--url", self.gateway, "--model", model, "--requests", requests, "--rate", rate, "--connections", 16]
        load = self.group.start("nebula-sim", "load", *words, "--max-tokens", 4, "--json", *flags)
        yield load
        load.wait(requests / rate * 3 + 60)
        told = json.loads(load.out)
        assert told["failed"] == 0, f"{told['failures']}; {load.err[-500:]}"
        assert told["requests"] == requests, told


class Several(Moving, Cluster):
    """A cluster of small nodes with short times."""

    def __init__(self, group):
        super().__init__(group)
        self.agents = {}

    def start(self, nodes, *flags):
        self.start_nebulad(*QUICK, *flags)
        for number in range(1, nodes + 1):
            self.join(f"node-{number}")
        for name in self.agents:
            self.wait_for_node("online", name)
        return self

    def join(self, name):
        """Starts the agent of a node, or starts it again."""
        first = int(self.group.port_range.split("-")[0]) + NODE_PORTS * (int(name.rsplit("-", 1)[1]) - 1)
        ports = {"NEBULA_AGENT_PORT_RANGE": f"{first}-{first + NODE_PORTS - 1}"}
        self.agents[name] = self.start_agent(name, env=ports)
        return self.agents[name]

    def serve(self, name, **body):
        body = {**SIM, "args": SIM_ARGS, **body, "name": name}
        made = self.deploy(**body)
        self.wait_for_replicas(name, body.get("replicas", 1))
        wait_until(f"{name} answers", lambda: self.chat(name).status == 200, 10)
        return made

    def crash(self, name):
        """A node ends at once: its agent and everything that it has started."""
        runtimes = [pid for each in self.all_replicas() if each["node_name"] == name for pid in self.runtimes_of(each["id"])]
        self.agents[name].kill()
        for pid in runtimes:
            os.kill(pid, 9)


class Stream:
    """A client that reads one long stream."""

    def __init__(self, address, model, tokens, interval, host=None, path="/v1/chat/completions"):
        self.address, self.path, self.events, self.fault, self.status = address, path, [], None, None
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": True}
        headers = {"content-type": "application/json", "x-sim-tokens": str(tokens), "x-sim-token-interval": interval}
        headers |= {"host": host} if host else {}
        self.thread = threading.Thread(target=self.read, args=(json.dumps(body), headers), daemon=True)
        self.thread.start()

    def read(self, body, headers):
        connection = http.client.HTTPConnection(self.address, timeout=STREAM_SECONDS)
        try:
            connection.request("POST", self.path, body, headers)
            answer = connection.getresponse()
            self.status = answer.status
            for line in answer:
                if line.startswith(b"data: "):
                    self.events.append(line[6:].strip())
        except (OSError, http.client.HTTPException) as fault:
            self.fault = fault
        finally:
            connection.close()

    def wait_until_open(self):
        wait_until("the stream has begun", lambda: len(self.events) > 1 or self.fault or not self.is_open(), 20)
        assert self.is_open(), f"{self.status} {self.fault} {self.events[-1:]}"
        return self

    def is_open(self):
        return self.thread.is_alive()

    def assert_ended_well(self):
        self.thread.join(STREAM_SECONDS)
        assert not self.thread.is_alive(), "the stream does not end"
        assert (self.status, self.fault) == (200, None), f"{self.status} {self.fault} {self.events[-2:]}"
        assert self.events[-1] == b"[DONE]", self.events[-2:]
        assert not [event for event in self.events if b'"error"' in event], self.events[-2:]


def served(replica):
    """How many requests a replica's runtime has had, past everybody; none when it is gone."""
    try:
        answer = call("GET", f"http://127.0.0.1:{replica['port']}/sim/stats", seconds=2)
    except OSError:
        return None
    return answer.json["requests"]
