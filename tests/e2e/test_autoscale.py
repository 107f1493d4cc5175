"""The load decides how many replicas there are: more while many ask, none when nobody does, one when somebody asks again."""

import time

import pytest

from processes import wait_until
from several import Several

UP_SECONDS = 40
DOWN_SECONDS = 60
STREAMS = 6


@pytest.fixture
def several(group):
    return Several(group).start(2)


def count(several, name):
    return len([one for one in several.replicas(name) if one["state"] == "running"])


def test_to_zero_and_back_by_the_first_request(several, figures):
    several.serve("demo", autoscale={"min": 0, "max": 1, "target_inflight": 4, "cooldown": 1, "idle_after": 2})
    wait_until("nothing runs when nobody asks", lambda: several.replicas("demo") == [], DOWN_SECONDS)
    assert several.group.runtimes() == {}
    assert several.deployment("demo")["state"] in ("stopped", "pending")
    assert "demo" in several.models(several.admin_token)

    began = time.monotonic()
    answer = several.chat("demo")
    woke = time.monotonic() - began
    assert answer.status == 200, f"{answer}; {several.told_of('demo')}"
    assert "scaled" in several.kinds("demo")

    # While somebody reads, it stays, however long that takes.
    stream = several.stream("demo", 300).wait_until_open()
    stream.assert_ended_well()
    wait_until("nothing runs again", lambda: several.replicas("demo") == [], DOWN_SECONDS)
    stopped = several.api("POST", "/deployments/demo/stop")
    assert stopped.status == 202
    assert several.chat("demo").status == 503, "what was stopped is not woken"
    figures(f"the first request to a model that had been scaled to zero was answered after {woke:.1f} s")


def test_up_under_load_and_down_without_breaking_a_stream(several):
    several.serve("demo", autoscale={"min": 1, "max": 3, "target_inflight": 2, "cooldown": 2})
    first = [several.stream("demo", 1_000) for _ in range(STREAMS)]
    for stream in first:
        stream.wait_until_open()
    wait_until("there are three", lambda: count(several, "demo") == 3, UP_SECONDS)
    assert len(several.replicas("demo")) == 3, "not more than the most"
    late = [several.stream("demo", 100).wait_until_open() for _ in range(STREAMS)]
    for stream in first + late:
        stream.assert_ended_well()
    several.wait_for_replicas("demo", 1, DOWN_SECONDS)
    assert several.chat("demo").status == 200
