"""Nebula as it is meant to be used: a private model, an API key with limits, metering, the access log in a file."""

import concurrent.futures
import http.client
import json
import os
import secrets
import shutil
import time

from client import call
from gateway import MODEL, Gateway
from machine import Process, Skip, free_port, output_of, wait_for

ADMIN = "nbadm_" + secrets.token_hex(24)
RUNNING_SECONDS = 60
MANY_SECONDS = 600
CREATORS = 8


class Nebula(Gateway):
    """nebulad alone. A simulated agent registers it with the upstream's port as the port of the agent's proxy, so that
    the gateway calls the upstream itself."""

    name = "nebula"
    nodes = 1

    def launch(self):
        programs, folder = self.setting.programs, self.setting.folder / self.name
        # An earlier start of this run has left its deployments there.
        shutil.rmtree(folder, ignore_errors=True)
        self.port, grpc = free_port(), free_port()
        nebulad = programs["nebulad"]
        self.version = output_of([nebulad, "--version"]).partition(" ")[2]
        words = [nebulad, "--data-dir", folder / "data", "--http-port", self.port, "--grpc-port", grpc]
        words += ["--admin-token", ADMIN, "--log-level", "info"]
        if "--access-log" in output_of([nebulad, "--help"]):
            words += ["--access-log", "on"]
        self.nebulad = Process("nebulad", words, folder, self.setting.gateway_cores)
        self.processes.append(self.nebulad)
        wait_for("nebulad", self._is_ready, RUNNING_SECONDS, process=self.nebulad)
        self.join(grpc, folder)
        self.deploy()

    def _is_ready(self):
        try:
            return call(self.port, "GET", "/ready")[0] in (200, 503)
        except OSError:
            return False

    def join(self, grpc, folder):
        words = [self.setting.programs["nebula-sim"], "fleet", "--control-plane", f"127.0.0.1:{grpc}"]
        words += ["--nodes", self.nodes, "--ramp", 0, "--start-delay", 0]
        words += ["--proxy-port", self.setting.upstream_port, "--gpus", 0, "--cores", 4096]
        self.processes.append(Process("fleet", words, folder))

    def spec(self):
        return {}

    def deploy(self):
        self.api("POST", "/deployments", {"name": MODEL, "model": MODEL, "runtime": "sim", **self.spec()})
        wait_for("the model", lambda: self._state(MODEL) == "running", RUNNING_SECONDS)
        limits = {"rpm": 1_000_000_000, "tpm": 1_000_000_000_000, "max_concurrent": 1_000_000}
        limits["budget"] = {"tokens": 1_000_000_000_000_000, "period": "month"}
        self.token = self.api("POST", "/keys", {"name": "bench", "models": [MODEL], **limits})["key"]

    def _state(self, name):
        return self.api("GET", f"/deployments/{name}")["state"]

    def api(self, method, path, body=None):
        status, answer = call(self.port, method, f"/api/v1{path}", body, ADMIN)
        if status >= 300:
            raise Skip(f"{method} {path} answered {status} {str(answer)[:200]}")
        return answer

    def measured(self):
        return [self.nebulad]


class NebulaMany(Nebula):
    """The same with many deployments."""

    count = 10_000
    name = "nebula, many deployments"
    # More on one node, all at once, than its session takes would be sent again and again.
    nodes = 500

    def deploy(self):
        self.deadline = time.monotonic() + MANY_SECONDS
        with concurrent.futures.ThreadPoolExecutor(CREATORS) as pool:
            list(pool.map(self._create, range(CREATORS)))
        super().deploy()
        left = max(1, round(self.deadline - time.monotonic()))
        wait_for(f"running {self.count:,} deployments", self._all_there, left, 1)

    def _create(self, part):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        for number in range(part, self.count - 1, CREATORS):
            if time.monotonic() > self.deadline:
                raise Skip(f"only {number:,} of {self.count:,} deployments were created in {MANY_SECONDS} s")
            spec = {"name": f"other-{number}", "model": "other", "runtime": "sim", "public": True}
            headers = {"authorization": f"Bearer {ADMIN}", "content-type": "application/json"}
            connection.request("POST", "/api/v1/deployments", json.dumps(spec), headers)
            response = connection.getresponse()
            body = response.read()
            if response.status != 201:
                raise Skip(f"deployment {number} answered {response.status} {body[:200]!r}")
        connection.close()

    def _all_there(self):
        _, models = call(self.port, "GET", "/v1/models")
        return models and len(models["data"]) >= self.count - 1


class NebulaWhole(Nebula):
    """The whole path: gateway, a real agent's proxy, and a runtime that this agent runs."""

    name = "nebula, with the agent's proxy"

    def join(self, grpc, folder):
        words = [self.setting.programs["nebula-agent"], "--control-plane", f"127.0.0.1:{grpc}"]
        words += ["--data-dir", folder / "agent", "--driver", "process"]
        for flag in ("--grpc-port", "--proxy-port", "--metrics-port"):
            words += [flag, free_port()]
        first = 20_000 + os.getpid() % 10_000
        words += ["--port-range", f"{first}-{first + 50}"]
        self.agent = Process("agent", words, folder, self.setting.gateway_cores)
        self.processes.append(self.agent)
        self.without = "--model demo"

    def spec(self):
        return {"args": ["--ttft", "0", "--token-interval", "0", "--tokens", "64"]}

    def measured(self):
        return [self.nebulad, self.agent]
