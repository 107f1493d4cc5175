"""Runs `nebula-sim load` and reads what it says; small HTTP calls besides."""

import http.client
import json
import subprocess
import time

from machine import Skip

CALL_SECONDS = 30


def call(port, method, path, body=None, token=None, headers=None):
    """One request; the status and the JSON of its answer (None when it is none)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=CALL_SECONDS)
    sent = {"content-type": "application/json", **(headers or {})}
    if token:
        sent["authorization"] = f"Bearer {token}"
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None, sent)
        response = connection.getresponse()
        data = response.read()
        try:
            return response.status, json.loads(data)
        except ValueError:
            return response.status, None
    finally:
        connection.close()


class Load:
    """The load client, set up for one gateway."""

    def __init__(self, program, port, model, token=None, headers=(), cores=None, prefix="/v1"):
        self.words = [program, "load", "--json", "--url", f"http://127.0.0.1:{port}{prefix}", "--model", model]
        for name, value in headers:
            self.words += ["--header", f"{name}: {value}"]
        self.token, self.cores = token, cores

    def _start(self, words):
        import os

        env = {**os.environ, **({"NEBULA_SIM_TOKEN": self.token} if self.token else {})}
        cores = self.cores
        return subprocess.Popen(
            [str(word) for word in self.words + words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
            preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
        )

    def run(self, words, seconds=120):
        """The report. Failures are in it and are no error here."""
        child = self._start(words)
        try:
            out, said = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            raise Skip(f"the load took more than {seconds} s") from None
        try:
            return json.loads(out)
        except ValueError:
            raise Skip(f"the load client failed: {said.strip()[:200]}") from None

    def hold(self, words, open_seconds, look):
        """Runs `look` when all connections are held; then ends the load. Returns what it returned, and the report."""
        child = self._start(words + ["--connections", "0", "--duration", "1h"])
        try:
            # The load says on stderr when all that could be opened are open.
            deadline = time.monotonic() + open_seconds
            line = _line(child.stderr, deadline)
            if not line.startswith("holding"):
                raise Skip(f"the connections were not open after {open_seconds} s {line.strip()[:100]}")
            seen = look()
            child.terminate()
            out, _ = child.communicate(timeout=30)
            return seen, json.loads(out)
        finally:
            if child.poll() is None:
                child.kill()
                child.communicate()


def _line(pipe, deadline):
    import select

    ready, _, _ = select.select([pipe], [], [], max(0, deadline - time.monotonic()))
    return pipe.readline() if ready else ""
