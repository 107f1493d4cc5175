"""A control plane, an agent and its Engine, and deployments of the simulated runtime by both drivers."""

import os
import re
import signal
import zlib

import images
from cluster import Cluster
from grpc_reflection_client import Client
from processes import binary, is_living, wait_until

# Short enough to see changes soon, long enough for a busy machine.
QUICK = ("--heartbeat-timeout", "10", "--default-heartbeat-interval", "1")
DRIVERS = ("docker", "process")
# Beside the other tests' ports, and more of them: a file's tests share one agent.
PORTS_EACH = 60
PORTS_SHARES = range(31000, 31960, PORTS_EACH)
# What the agent's containers may have, each.
CONTAINER_MEMORY = "64m"
CONTAINER_MEMORY_BYTES = 64 << 20
# The first restart comes 10 s after a failure, the second 20 s after the next.
BACK_OFF_SECONDS = 10
RESTART_SECONDS = BACK_OFF_SECONDS + 15


class Nebula(Cluster):
    def __init__(self, group, engine=None, container_memory=CONTAINER_MEMORY):
        super().__init__(group)
        self.engine, self.container_memory = engine, container_memory
        self.first_port = PORTS_SHARES[zlib.crc32(group.mark.encode()) % len(PORTS_SHARES)]
        group.port_range = f"{self.first_port}-{self.first_port + PORTS_EACH - 1}"
        self.agent, self.flags = None, ()

    def start(self, *flags, env=None):
        """Starts both; whenever the agent is started again, it gets the same flags."""
        self.flags = flags
        self.start_nebulad(*QUICK)
        self.start_agent(env=env)
        self.wait_for_node("online")
        if self.engine:
            wait_until("the node is healthy", lambda: self.health() == "healthy", 10)

    def start_agent(self, name="node-1", *flags, env=None, host=None):
        docker = ["--docker-host", host or self.engine.host] if host or self.engine else ["--driver", "process"]
        flags = [*docker, "--container-memory", self.container_memory, *self.flags, *flags]
        self.agent = super().start_agent(name, *flags, env=env)
        return self.agent

    def health(self):
        told = (self.node() or {}).get("health") or {}
        return told.get("status")

    @property
    def agent_dir(self):
        return self.group.directory / "agent-node-1"

    def agent_address(self):
        ready = self.agent.wait_for_text(r".*nebula-agent is ready.*\n", 20, "err")[0]
        return re.search(r"grpc_addr=\"?([\d.]+:\d+)", ready)[1]

    def agent_client(self):
        return Client(self.agent_address())

    # --- deployments

    def simulated(self, driver, name, first="", then="", args=(), **more):
        """What makes a deployment of the simulated runtime. Shell commands may come first, or serve with it."""
        program = images.PROGRAM if driver == "docker" else str(binary("nebula-sim"))
        address = "0.0.0.0" if driver == "docker" else "127.0.0.1"
        body = {"name": name, "model": "demo", "runtime": "sim", "driver": driver, "args": list(args), **more}
        if driver == "docker":
            body.setdefault("image", images.SIM)
        if first or then:
            script = f"{first}\n" if first else ""
            # What follows the script are its arguments.
            script += then or 'exec "$@"'
            words = [program, "runtime", "--bind", address, "--port", "{port}", "--model", "{name}"]
            body["command"] = ["sh", "-c", script, "sh", *words]
        return body

    def deploy_simulated(self, driver, name, **what):
        return self.deploy(**self.simulated(driver, name, **what))

    def replica(self, name, index=0):
        return self.deployment(name)["replicas"][index]

    def container(self, name):
        """The whole id of the one container that runs for a deployment."""
        running = self.engine.running(deployment=self.deployment(name)["id"])
        assert len(running) == 1, f"{name} has {len(running)} running containers"
        return running[0]["Id"]

    def kill_runtime(self, name):
        """Kills what runs for a deployment, as a crash would."""
        if self.deployment(name)["driver"] == "docker":
            self.engine.kill(self.container(name))
        else:
            os.kill(self.runtime_pid(name), signal.SIGKILL)

    def restarted(self, name, times=1):
        """The replica, once it runs again."""
        replica = self.replica(name)
        return replica["restarts"] >= times and replica["state"] == "running" and replica

    def wait_for_restart(self, name, times=1, seconds=RESTART_SECONDS):
        return wait_until(f"{name} runs again", lambda: self.restarted(name, times), seconds)

    def events(self, name):
        return self.told("events", name)

    def is_gone(self, name):
        return self.api("GET", f"/deployments/{name}").status == 404

    def runs(self, name):
        """How many containers or processes run for a deployment."""
        deployment = self.deployment(name)
        if deployment["driver"] == "docker":
            return len(self.engine.running(deployment=deployment["id"]))
        pids = [replica["container_id"] for replica in deployment["replicas"]]
        return len([pid for pid in pids if pid and is_living(int(pid))])

    def chats(self, name):
        return self.chat(name, self.admin_token).status == 200
