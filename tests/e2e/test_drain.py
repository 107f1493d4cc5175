"""Nodes are emptied while clients ask and streams are open: what can move does, what cannot is named."""

import pytest

from processes import wait_until
from settings import sized
from several import Several

REQUESTS, RATE = sized((600, 60), (10_000, 150))
STREAMS = 8


@pytest.fixture
def several(group):
    return Several(group).start(2)


def on(several, node):
    return [replica for replica in several.all_replicas() if replica["node_name"] == node]


def test_a_drained_node_is_left_by_all_and_no_request_and_no_stream_fails(several, figures):
    several.serve("demo", replicas=2, drain_timeout=60)
    several.serve("other", node="node-1", public=True)
    streams = [several.stream("demo").wait_until_open() for _ in range(STREAMS)]
    moved = [replica["id"] for replica in on(several, "node-1") if several.deployment("demo")["id"]]
    assert moved
    with several.asked("demo", REQUESTS, RATE):
        operation = several.drain("node-1")
        assert operation, "a drain is an operation that can be looked at"
        shown = several.operation(operation)
        assert (shown["kind"], shown["state"], shown["node_name"]) == ("drain", "running", "node-1"), shown
        look = lambda: (told := several.operation(operation)) and told["left"] == 1 and told
        told = wait_until("only what is pinned there is left", look, 90)
        assert told["total"] >= 2, told
        assert [blocked["deployment"] for blocked in told["blocked"]] in (["other"], [several.deployment("other")["id"]])
        assert told["blocked"][0]["why"], told
        assert several.node("node-1")["operation"] == operation
        assert several.api("DELETE", "/deployments/other").status == 202
        done = several.wait_for_operation(operation, "done")
        assert done["left"] == 0 and done["ended_at"], done
    for stream in streams:
        stream.assert_ended_well()
    node = several.node("node-1")
    assert node["scheduling"] == "drained", node
    assert on(several, "node-1") == []
    assert {replica["node_name"] for replica in several.wait_for_replicas("demo", 2)} == {"node-2"}
    assert operation in [each["id"] for each in several.told("operations", "list")]

    several.serve("later")
    assert [replica["node_name"] for replica in several.replicas("later")] == ["node-2"]
    assert several.api("POST", "/nodes/node-1/uncordon").json["scheduling"] == "schedulable"
    figures(f"a node drained under {REQUESTS} requests and {STREAMS} open streams: 0 failed")


def test_a_drain_can_be_cancelled_and_survives_a_restart(several):
    several.serve("pinned", node="node-1")
    [before] = several.replicas("pinned")
    operation = several.drain("node-1")
    wait_until("what holds it is named", lambda: several.operation(operation)["blocked"], 15)
    several.nebulad.kill()
    several.start_nebulad("--heartbeat-timeout", "4", "--default-heartbeat-interval", "1")
    assert several.operation(operation)["state"] == "running", "it is durable"
    again = several.api("POST", "/nodes/node-1/drain")
    assert again.status == 202 and again.json["operation"] == operation, again

    assert several.api("DELETE", f"/operations/{operation}").status == 204
    assert several.operation(operation)["state"] == "cancelled"
    node = several.wait_for_node("online", "node-1")
    assert (node["scheduling"], node["operation"]) == ("cordoned", None), node
    [after] = several.wait_for_replicas("pinned", 1)
    assert (after["id"], after["container_id"]) == (before["id"], before["container_id"]), "it was left alone"
    wait_until("it answers", lambda: several.chat("pinned").status == 200, 10)

    second = several.drain("node-1")
    assert second != operation
    assert several.api("POST", "/nodes/node-1/uncordon").json["scheduling"] == "schedulable"
    assert several.operation(second)["state"] == "cancelled"


def test_a_drain_that_may_not_take_longer_fails_and_says_what_is_left(several):
    several.serve("pinned", node="node-1")
    operation = several.drain("node-1", timeout=2)
    told = several.wait_for_operation(operation, "failed", 20)
    assert told["left"] == 1 and told["message"], told
    assert several.node("node-1")["scheduling"] in ("cordoned", "draining")
    assert several.chat("pinned").status == 200


def test_operations_that_are_not_there(several):
    for method, path in (("POST", "/nodes/node-9/drain"), ("GET", "/operations/nothing"), ("DELETE", "/operations/op_0")):
        answer = several.api(method, path)
        assert answer.status == 404, f"{method} {path}: {answer}"
    missing = several.nebulactl("nodes", "drain", "node-9")
    assert missing.popen.returncode == 1 and "node-9" in missing.err, missing.err
