"""Many at once: a race for GPUs has as many winners as there are GPUs, and ten thousand deployments are all there."""

import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from load import Api
from processes import wait_until
from settings import sized

NODES, GPUS_EACH, RACERS = 10, 4, 100
MANY = sized(1_000, 10_000)
CREATORS = 16
PAGE = 500


def start_fleet(cluster, nodes, gpus):
    cluster.start_nebulad("--heartbeat-timeout", "10", "--default-heartbeat-interval", "2")
    flags = ["--control-plane", cluster.grpc_addr, "--nodes", nodes, "--gpus", gpus, "--ramp", "1s", "--every-second"]
    fleet = cluster.group.start("nebula-sim", "fleet", *flags, "--start-delay", "200ms")

    def online():
        lines = fleet.out.rpartition("\n")[0].splitlines()
        return lines and json.loads(lines[-1]).get("online") == nodes

    wait_until(f"{nodes} simulated nodes are online", online, 30)
    return fleet


def create(cluster, names, body):
    """Creates all of them at once; the statuses."""
    here = threading.local()

    def one(name):
        if not hasattr(here, "api"):
            here.api = Api(cluster.http_addr, cluster.admin_token)
        return here.api.call("POST", "/api/v1/deployments", {**body, "name": name})[0]

    with ThreadPoolExecutor(CREATORS if len(names) > RACERS else len(names)) as pool:
        return Counter(pool.map(one, names))


def listed(cluster):
    """All deployments, page by page, and how long the slowest page took."""
    found, cursor, slowest = [], "", 0
    api = Api(cluster.http_addr, cluster.admin_token)
    while cursor is not None:
        began = time.monotonic()
        status, page = api.call("GET", f"/api/v1/deployments?limit={PAGE}" + (f"&cursor={cursor}" if cursor else ""))
        slowest = max(slowest, time.monotonic() - began)
        assert status == 200, f"{status}: {page}"
        found += page["data"]
        cursor = page["next_cursor"]
    return found, slowest


def test_a_race_for_gpus(cluster, figures):
    start_fleet(cluster, NODES, GPUS_EACH)
    body = {"model": "m", "runtime": "vllm", "gpu": {"count": 1}}
    began = time.monotonic()
    assert create(cluster, [f"racer-{n}" for n in range(RACERS)], body) == {201: RACERS}
    gpus = NODES * GPUS_EACH

    def settled():
        now, _ = listed(cluster)
        states = Counter(each["state"] for each in now)
        return states == {"running": gpus, "pending": RACERS - gpus} and now

    now = wait_until(f"{gpus} run and the rest waits", settled, 60)
    took = time.monotonic() - began
    held = [(one["node_id"], gpu) for each in now for one in each["replicas"] for gpu in one["gpu_devices"]]
    assert len(held) == len(set(held)) == gpus, "each GPU belongs to one"
    for waiting in (each for each in now if each["state"] == "pending"):
        assert "GPU" in waiting["message"], waiting["message"]

    winners = [each["name"] for each in now if each["state"] == "running"][:10]
    for name in winners:
        assert cluster.api("DELETE", f"/deployments/{name}").status == 202
    began = time.monotonic()

    def filled():
        now, _ = listed(cluster)
        held = [(one["node_id"], gpu) for each in now for one in each["replicas"] for gpu in one["gpu_devices"]]
        assert len(held) == len(set(held)), "never two"
        return Counter(each["state"] for each in now) == {"running": gpus, "pending": RACERS - gpus - len(winners)}

    wait_until("who waited has got what became free", filled, 30)
    figures(
        f"{RACERS} deployments raced for {gpus} GPUs: {gpus} ran after {took:.1f} s;"
        f" {len(winners)} freed GPUs were in use again after {time.monotonic() - began:.1f} s"
    )


def test_many_deployments_at_once_are_all_there(cluster, figures):
    """More than there is room for, so that most of them wait; nothing is dropped, not even by a crash."""
    start_fleet(cluster, 2, 4)
    names = [f"many-{n}" for n in range(MANY)]
    began = time.monotonic()
    told = create(cluster, names, {"model": "m", "runtime": "vllm", "gpu": {"count": 1}})
    took = time.monotonic() - began
    assert told == {201: MANY}, told
    found, _ = listed(cluster)
    assert Counter(each["name"] for each in found) == Counter(names)
    count = lambda: Counter(each["state"] for each in listed(cluster)[0])
    wait_until("eight run, all others wait", lambda: count() == {"running": 8, "pending": MANY - 8}, 90)
    _, slowest = listed(cluster)

    cluster.nebulad.kill()
    cluster.start_nebulad("--heartbeat-timeout", "10", "--default-heartbeat-interval", "2")
    wait_until("all are there again", lambda: sum(count().values()) == MANY, 60)
    wait_until("eight run, all others wait", lambda: count() == {"running": 8, "pending": MANY - 8}, 90)
    figures(f"{MANY} deployments created in {took:.1f} s, a page of {PAGE} in {slowest * 1e3:.0f} ms at most")
