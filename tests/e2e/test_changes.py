"""A deployment is changed, scaled and restarted while clients ask: no request fails, and what does not run goes back."""

import pytest

from cluster import call
from processes import wait_until
from settings import sized
from several import SIM_ARGS, Several

REQUESTS, RATE = sized((1_000, 80), (10_000, 150))


@pytest.fixture
def several(group):
    return Several(group).start(2)


def ids(replicas):
    return {replica["id"] for replica in replicas}


def test_changes_and_restarts_under_load_fail_no_request(several, figures):
    several.serve("demo", replicas=3, drain_timeout=10)
    done = 0
    with several.asked("demo", REQUESTS, RATE) as load:
        while load.is_alive():
            before = several.replicas("demo")
            several.change("demo", args=[*SIM_ARGS, "--tokens", str(40 + done)])
            after = several.wait_for_replicas("demo", 3, but=ids(before))
            assert not ids(before) & ids(after)
            done += load.is_alive()
    assert done >= 1, "no change was done while they asked"
    assert "change_done" in several.kinds("demo")
    with several.asked("demo", REQUESTS // 2, RATE, "--stream"):
        before = {replica["id"]: replica["generation"] for replica in several.replicas("demo")}
        assert several.api("POST", "/deployments/demo/restart").status == 202

        def restarted():
            now = several.replicas("demo")
            return ids(now) == set(before) and all(
                one["state"] == "running" and one["generation"] > before[one["id"]] for one in now
            )

        wait_until("all are restarted in place", restarted, 60)
    figures(f"{done} rolling changes of 3 replicas under {REQUESTS} requests, one restart under {REQUESTS // 2}: 0 failed")


def test_a_change_that_does_not_run_goes_back_and_nobody_notices(several):
    several.serve("demo", replicas=2)
    before = several.replicas("demo")
    spec = several.deployment("demo")["spec"]
    with several.asked("demo", REQUESTS // 2, RATE):
        several.change("demo", command=["/no/such/program"])
        told = several.wait_for_event("demo", "rolled_back", 120)
        after = several.wait_for_replicas("demo", 2)
    assert ids(after) == ids(before), "the old ones went on"
    assert several.deployment("demo")["spec"] == spec
    assert told[-1]["message"], "the reason is told"
    assert "change_failed" in several.kinds("demo"), several.told_of("demo")
    assert "change_done" not in several.kinds("demo")


def test_what_changes_nothing_that_runs_replaces_nothing(several):
    token = several.deploy(model="demo", runtime="sim", name="closed")["access_token"]
    [before] = several.wait_for_replicas("closed", 1)
    assert several.chat("closed").status == 401
    several.change("closed", public=True, drain_timeout=5, lost_after="never")
    wait_until("it is public", lambda: several.chat("closed").status == 200, 10)
    several.change("closed", public=False)
    wait_until("it is private", lambda: several.chat("closed").status == 401, 10)
    wait_until("its token still counts", lambda: several.chat("closed", token).status == 200, 10)
    [after] = several.wait_for_replicas("closed", 1)
    assert (after["id"], after["container_id"]) == (before["id"], before["container_id"])


def test_recreate_stops_the_old_one_first(several):
    several.serve("demo", strategy="recreate", node="node-1")
    [before] = several.replicas("demo")
    several.change("demo", args=[*SIM_ARGS, "--tokens", "9"])
    at_once = []

    def look():
        now = several.replicas("demo")
        at_once.append(len([one for one in now if one["state"] == "running"]))
        return [one["state"] for one in now if one["id"] != before["id"]] == ["running"] == [one["state"] for one in now]

    wait_until("the new one runs alone", look, 60)
    assert max(at_once) == 1
    wait_until("it answers", lambda: several.chat("demo").status == 200, 10)


def test_scaling_down_and_deleting_waits_for_open_streams(several):
    several.serve("demo", replicas=2, drain_timeout=30)
    streams = [several.stream("demo", 150).wait_until_open() for _ in range(6)]
    assert several.api("POST", "/deployments/demo/scale", {"replicas": 1}).status == 202
    with several.asked("demo", 100, 50):
        several.wait_for_replicas("demo", 1)
    for stream in streams:
        stream.assert_ended_well()


def test_the_last_wish_wins(several):
    several.serve("demo", replicas=2)
    for path, body in (("stop", None), ("start", None), ("scale", {"replicas": 3}), ("stop", None), ("restart", None)):
        assert several.api("POST", f"/deployments/demo/{path}", body).status == 202
    several.change("demo", args=[*SIM_ARGS, "--tokens", "7"])
    several.change("demo", args=[*SIM_ARGS, "--tokens", "6"])
    assert several.api("POST", "/deployments/demo/scale", {"replicas": 2}).status == 202

    def look():
        now = several.deployment("demo")
        states = [replica["state"] for replica in now["replicas"]]
        return now["state"] == "running" and states == ["running"] * 2 and several.chat("demo").status == 200

    wait_until("two of the last spec run", look, 90)
    wait_until("its answers are of the last spec", lambda: tokens_of(several) == {6}, 30)
    assert several.api("POST", "/deployments/demo/stop").status == 202
    several.wait_for_deployment("demo", "stopped")
    wait_until("no runtime is left", lambda: several.group.runtimes() == {}, 10)
    assert several.api("DELETE", "/deployments/demo").status == 202
    wait_until("it is gone", lambda: several.api("GET", "/deployments/demo").status == 404, 20)


def tokens_of(several):
    """How long the answers of its replicas are, when nobody says how long."""
    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}
    answers = [call("POST", f"{several.gateway}/chat/completions", body) for _ in range(6)]
    return {answer.json["usage"]["completion_tokens"] if answer.status == 200 else answer.status for answer in answers}
