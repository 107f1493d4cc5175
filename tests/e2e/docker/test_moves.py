"""Containers are replaced and moved while clients ask and streams are open, on two nodes that share an Engine."""

import pytest

from nebula import QUICK, Nebula
from processes import wait_until
from several import Moving
from settings import sized

REQUESTS, RATE = sized((500, 25), (10_000, 150))
NODES = ("node-1", "node-2")
PORTS_EACH = 30
STREAMS = 4


class Two(Moving, Nebula):
    def start_nodes(self):
        self.start_nebulad(*QUICK)
        for number, name in enumerate(NODES):
            first = self.first_port + number * PORTS_EACH
            self.start_agent(name, env={"NEBULA_AGENT_PORT_RANGE": f"{first}-{first + PORTS_EACH - 1}"})
        for name in NODES:
            self.wait_for_node("online", name)
            healthy = lambda name=name: ((self.node(name) or {}).get("health") or {}).get("status") == "healthy"
            wait_until(f"{name} is healthy", healthy, 20)

    def containers(self, name):
        return {found["Id"] for found in self.engine.running(deployment=self.deployment(name)["id"])}


@pytest.fixture(scope="module")
def two(module_group, engine):
    two = Two(module_group, engine)
    two.start_nodes()
    two.deploy_simulated("docker", "demo", replicas=2, public=True, drain_timeout=30)
    two.wait_for_replicas("demo", 2)
    wait_until("it answers", lambda: two.chat("demo").status == 200, 10)
    return two


def test_containers_are_changed_under_load(two, figures):
    before, old = two.containers("demo"), {one["id"] for one in two.replicas("demo")}
    streams = [two.stream("demo", 100).wait_until_open() for _ in range(STREAMS)]
    with two.asked("demo", REQUESTS, RATE) as load:
        two.change("demo", env={"CHANGED": "yes"})
        two.wait_for_replicas("demo", 2, but=old)
        during = load.is_alive()
    assert during, "the change was done while they asked"
    for stream in streams:
        stream.assert_ended_well()
    wait_until("the old containers are gone", lambda: not before & two.containers("demo"), 20)
    assert len(two.containers("demo")) == 2
    inside = two.nebulactl("exec", "demo", "--", "sh", "-c", "echo $CHANGED")
    assert inside.out == "yes\n", inside.err
    figures(f"containers of 2 replicas changed under {REQUESTS} requests and {STREAMS} streams: 0 failed")


def test_an_image_that_cannot_be_had_changes_nothing(two):
    before = two.containers("demo")
    two.change("demo", image="nebula-test/no-such-image:1")
    two.wait_for_event("demo", "rolled_back", 120)
    two.wait_for_replicas("demo", 2)
    assert two.containers("demo") == before
    assert two.deployment("demo")["spec"]["image"] != "nebula-test/no-such-image:1"
    assert two.chat("demo").status == 200


def test_a_node_with_containers_is_drained(two):
    node = two.replicas("demo")[0]["node_name"]
    streams = [two.stream("demo", 100).wait_until_open() for _ in range(STREAMS)]
    with two.asked("demo", REQUESTS, RATE):
        operation = two.drain(node)
        two.wait_for_operation(operation, "done", 90)
    for stream in streams:
        stream.assert_ended_well()
    assert {one["node_name"] for one in two.wait_for_replicas("demo", 2)} == set(NODES) - {node}
    wait_until("two containers are left", lambda: len(two.containers("demo")) == 2, 20)
    assert two.node(node)["scheduling"] == "drained"
