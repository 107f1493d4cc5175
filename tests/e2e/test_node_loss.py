"""A node falls silent for longer than its replicas are waited for, and comes back: they live elsewhere, once."""

import signal
import time

import pytest

from processes import is_living, wait_until
from several import TIMEOUT_SECONDS, Several, served

LOST_SECONDS = 2
# From its first heartbeat on.
STOPPED_SECONDS = 35
LOOK_SECONDS = 60


@pytest.fixture
def several(group):
    """Four nodes: one that is lost is no mass failure."""
    return Several(group).start(4)


def moved(several, name, before, state="running"):
    """The replica that took the place of another one, alone and on another node."""

    def look():
        now = several.replicas(name)
        return [one["id"] for one in now] != [before["id"]] and [one["state"] for one in now] == [state] and now[0]

    try:
        return wait_until(f"{name} runs elsewhere", look, LOOK_SECONDS)
    except AssertionError as error:
        raise AssertionError(f"{error}; told: {several.told_of(name)}") from None


def test_a_node_that_comes_back_does_not_serve_what_was_replaced(several, figures):
    """Its agent is killed and its runtime is not: nobody there knows that it was replaced."""
    several.serve("demo", lost_after=LOST_SECONDS)
    several.serve("patient", lost_after="never")
    [before], [patient] = several.replicas("demo"), several.replicas("patient")
    node = before["node_name"]
    [runtime] = several.runtimes_of(before["id"])
    several.agents[node].kill()
    died = time.monotonic()
    wait_until("its route is withdrawn", lambda: several.chat("demo").status == 503, TIMEOUT_SECONDS + 5)
    offline = time.monotonic() - died
    assert several.replicas("demo")[0]["state"] in ("unreachable", "pending", "preparing", "starting")
    after = moved(several, "demo", before)
    took = time.monotonic() - died
    assert took >= TIMEOUT_SECONDS - 1.5 + LOST_SECONDS, "it was waited for"
    assert after["node_name"] != node
    wait_until("it answers", lambda: several.chat("demo").status == 200, 10)
    assert is_living(runtime), "on the silent node it still runs"
    asked = served(before)

    several.join(node)
    back = time.monotonic()
    seen = []

    def gone():
        assert several.chat("demo").status == 200
        seen.append({one["id"] for one in several.replicas("demo") if one["state"] == "running"})
        return not several.runtimes_of(before["id"])

    wait_until("what was replaced is stopped", gone, STOPPED_SECONDS)
    stopped = time.monotonic() - back
    assert asked is not None and all(running <= {after["id"]} for running in seen), seen
    several.wait_for_node("online", node)
    [now] = several.wait_for_replicas("demo", 1)
    assert (now["id"], now["container_id"]) == (after["id"], after["container_id"]), "nothing moves back"
    if patient["node_name"] == node:
        several.wait_for_replicas("patient", 1)
    assert several.replicas("patient")[0]["id"] == patient["id"], "who is to be waited for was waited for"
    figures(f"offline after {offline:.1f} s, served elsewhere after {took:.1f} s, the old one stopped {stopped:.1f} s after its return")


def test_a_crashed_node_that_is_back_in_time_keeps_its_replicas(several):
    several.serve("demo", lost_after=60)
    [before] = several.replicas("demo")
    several.crash(before["node_name"])
    wait_until("it is unreachable", lambda: several.replicas("demo")[0]["state"] == "unreachable", 15)
    several.join(before["node_name"])
    [after] = several.wait_for_replicas("demo", 1)
    assert (after["id"], after["node_name"]) == (before["id"], before["node_name"])
    wait_until("it answers", lambda: several.chat("demo").status == 200, 10)


def test_with_another_replica_nobody_notices_a_lost_node(several):
    several.serve("demo", replicas=2, lost_after=LOST_SECONDS, placement="spread")
    before = several.replicas("demo")
    assert len({replica["node_name"] for replica in before}) == 2
    gone, stays = before
    several.crash(gone["node_name"])
    with several.asked("demo", 600, 60):
        now = several.wait_for_replicas("demo", 2, but={gone["id"]})
    assert stays["id"] in {replica["id"] for replica in now}


def test_a_paused_agent_goes_on_where_it_was(several):
    several.serve("demo", lost_after=LOST_SECONDS)
    [before] = several.replicas("demo")
    agent = several.agents[before["node_name"]]
    agent.signal(signal.SIGSTOP)
    try:
        after = moved(several, "demo", before)
    finally:
        agent.signal(signal.SIGCONT)
    wait_until("what was replaced is stopped", lambda: not several.runtimes_of(before["id"]), STOPPED_SECONDS)
    [now] = several.wait_for_replicas("demo", 1)
    assert now["id"] == after["id"]
