"""A thousand simulated agents against one nebulad: what its restart and its standing still do to them.

The short form runs with fewer nodes and shorter times; NEBULA_FULL=1 runs a thousand nodes with the times that are
the defaults.
"""

import json
import os
import signal
import time

import pytest

from cluster import Cluster, call
from processes import wait_until

FULL = bool(os.environ.get("NEBULA_FULL"))
NODES = 1000 if FULL else 300
INTERVAL, TIMEOUT, GRACE = (30, 90, 120) if FULL else (5, 30, 60)
TIMES = (
    *("--default-heartbeat-interval", str(INTERVAL)),
    *("--heartbeat-timeout", str(TIMEOUT)),
    *("--restart-grace", str(GRACE)),
)
DEPLOYMENTS = 20 if FULL else 5
REPLICAS_EACH = 5
# Time for the phases of the agents' heartbeats to be what they always are.
SETTLE_SECONDS = 2 * INTERVAL
# A minute, or what an agent waits at most after a failure: two thirds of the interval and a half more, and a call.
BACK_SECONDS = 60 if FULL else 20
RATIO_MAX = 1.5
# Rates are compared within the longest. Shorter ones show mostly chance: within 1 s come 33 heartbeats, ± 17.
WINDOWS_SECONDS = (1, 5, 10)


class Fleet:
    """A running `nebula-sim fleet` and what it has said."""

    def __init__(self, cluster, nodes):
        self.nodes = nodes
        flags = ["--control-plane", cluster.grpc_addr, "--nodes", nodes, "--gpus", "1", "--every-second"]
        self.process = cluster.group.start("nebula-sim", "fleet", *flags, "--ramp", f"{INTERVAL}s")

    def lines(self):
        whole = self.process.out.rpartition("\n")[0].splitlines()
        return [line for line in map(json.loads, whole) if line["kind"] != "start"]

    @property
    def newest(self):
        lines = self.lines()
        return lines[-1] if lines else None

    def wait_until_online(self, seconds):
        look = lambda: (seen := self.newest) and seen["online"] == self.nodes and seen
        return wait_until(f"{self.nodes} agents are answered", look, seconds)

    def let_pass(self, seconds):
        """Waits until the fleet has lived so much longer."""
        until = self.newest["at_seconds"] + seconds
        return wait_until("time passes", lambda: self.newest["at_seconds"] >= until and self.newest, seconds + 30)

    def restart_peaks(self):
        self.process.signal(signal.SIGUSR1)

    @property
    def peaks(self):
        """Peak rate by steady rate, by window: of heartbeats that arrived, when they were sent."""
        seen = self.newest["peak_heartbeats"]
        each = {window: seen[f"within_{window}s"] / window for window in WINDOWS_SECONDS}
        return {window: round(rate / (self.nodes / INTERVAL), 2) for window, rate in each.items()}

    def stop(self):
        self.process.signal(signal.SIGINT)
        assert self.process.wait(30) == 0, self.process.err
        return self.lines()[-1]


def registry(cluster):
    answer = call("GET", f"http://{cluster.http_addr}/admin/actors/registry", token=cluster.admin_token)
    assert answer.status == 200, answer
    return answer.json["status"]


def went_offline(nebulad):
    return [line for line in nebulad.err.splitlines() if "node availability" in line and "Offline" in line]


def deploy_some(cluster):
    names = [f"model-{number}" for number in range(DEPLOYMENTS)]
    for name in names:
        cluster.deploy(name=name, model=name, runtime="vllm", replicas=REPLICAS_EACH, gpu={"count": 1})
    for name in names:
        cluster.wait_for_deployment(name, "running", 60)
    return names


def places(cluster, names):
    """Where each replica is, and how often it was started there."""
    replicas = [replica for name in names for replica in cluster.deployment(name)["replicas"]]
    return {replica["id"]: (replica["node_id"], replica["restarts"]) for replica in replicas}


@pytest.fixture
def fleet(cluster: Cluster):
    cluster.start_nebulad(*TIMES)
    fleet = Fleet(cluster, NODES)
    fleet.wait_until_online(INTERVAL + 60)
    return fleet


def test_a_restart_of_the_control_plane_goes_by_unnoticed(cluster, fleet):
    names = deploy_some(cluster)
    before = places(cluster, names)
    fleet.let_pass(SETTLE_SECONDS)
    fleet.restart_peaks()
    fleet.let_pass(max(2 * INTERVAL, 20))
    steady = fleet.peaks

    fleet.restart_peaks()
    cluster.nebulad.kill()
    started = time.monotonic()
    cluster.start_nebulad(*TIMES)
    down_seconds = time.monotonic() - started
    back = wait_until(
        "every node is heard again", lambda: registry(cluster)["online"] == NODES and time.monotonic(), BACK_SECONDS
    )
    online_after = back - started - down_seconds
    fleet.wait_until_online(BACK_SECONDS)
    fleet.let_pass(2 * INTERVAL)

    assert not went_offline(cluster.nebulad)
    assert registry(cluster)["offline"] == 0
    assert places(cluster, names) == before, "nothing was moved or started again"
    after = fleet.peaks
    final = fleet.stop()
    print(
        f"{NODES} nodes, {len(before)} replicas, down {down_seconds:.1f} s, all heard {online_after:.1f} s after ready;"
        f" peak by steady rate within so many seconds: {steady} before, {after} over the restart;"
        f" latency {final['latency_ms']}; failed {final['heartbeats']['failed']}"
    )
    assert after[max(WINDOWS_SECONDS)] <= RATIO_MAX, after


def test_a_stopped_control_plane_does_not_blame_its_nodes(cluster, fleet):
    names = deploy_some(cluster)
    before = places(cluster, names)
    cluster.nebulad.signal(signal.SIGSTOP)
    fleet.let_pass(TIMEOUT + 10)
    cluster.nebulad.signal(signal.SIGCONT)

    wait_until("the pause was noticed", lambda: registry(cluster)["pauses"] >= 1, 10)
    wait_until("every node is heard again", lambda: registry(cluster)["online"] == NODES, BACK_SECONDS)
    fleet.let_pass(INTERVAL)
    assert not went_offline(cluster.nebulad)
    assert registry(cluster)["brake"]["state"] == "open"
    assert places(cluster, names) == before, "nothing was moved or started again"
    final = fleet.stop()
    print(f"stopped for {TIMEOUT + 10} s; {final['heartbeats']}")


def test_when_most_nodes_vanish_nobody_is_declared_offline(cluster, fleet):
    """The fleet dies as a whole; the operator says that it is really gone."""
    fleet.process.kill()
    wait_until("the brake is closed", lambda: registry(cluster)["brake"]["state"] == "closed", TIMEOUT + 10)
    wait_until("all are missing", lambda: registry(cluster)["brake"]["missing"] == NODES, TIMEOUT + 10)
    ready = call("GET", f"http://{cluster.http_addr}/ready")
    assert ready.status == 200
    assert "nobody is declared offline" in ready.json["concerns"][0], ready
    assert registry(cluster)["offline"] == 0

    release = lambda: call(
        "POST", f"http://{cluster.http_addr}/admin/brake/release", token=cluster.admin_token
    )
    answer = release()
    assert answer.status == 200, answer
    wait_until("all are offline", lambda: registry(cluster)["offline"] == NODES, TIMEOUT)
    assert release().status == 409, "it is open"
