"""What survives when a process dies: agents, the control plane, runtimes."""

import os
import signal
import threading
import time

import pytest

from cluster import call
from processes import is_living, wait_until

# As short as nebulad takes them: an agent that is silent for two seconds is suspect, after four it is offline.
TIMEOUT_SECONDS = 4
QUICK = ("--heartbeat-timeout", str(TIMEOUT_SECONDS), "--default-heartbeat-interval", "1")
# How much later than its deadline a change may be seen on a busy machine.
SLACK_SECONDS = 2


@pytest.fixture
def quick(cluster):
    """A cluster with short times and a public deployment that runs."""
    cluster.start_nebulad(*QUICK)
    cluster.agent = cluster.start_agent()
    cluster.wait_for_node("online")
    cluster.deploy(model="demo", runtime="sim", public=True)
    cluster.wait_for_deployment("demo", "running")
    wait_until("the model is listed", lambda: cluster.models() == ["demo"], 5)
    return cluster


def wait_for_answers(cluster, seconds=15):
    wait_until("the model answers", lambda: cluster.chat("demo").status == 200, seconds)


def test_a_dead_agent_is_suspect_then_offline_then_back(quick):
    runtime = quick.runtime_pid("demo")
    quick.agent.kill()
    died = time.monotonic()

    quick.wait_for_node("suspect", seconds=TIMEOUT_SECONDS)
    suspect_after = time.monotonic() - died
    quick.wait_for_node("offline", seconds=TIMEOUT_SECONDS + SLACK_SECONDS)
    offline_after = time.monotonic() - died
    print(f"suspect after {suspect_after:.1f} s, offline after {offline_after:.1f} s")
    # The last heartbeat came at most one interval, with its jitter, before the end.
    assert TIMEOUT_SECONDS / 2 - 1.5 < suspect_after < TIMEOUT_SECONDS / 2 + SLACK_SECONDS
    assert TIMEOUT_SECONDS - 1.5 < offline_after < TIMEOUT_SECONDS + SLACK_SECONDS

    wait_until("the model is not listed", lambda: quick.models() == [], 2)
    answer = quick.chat("demo")
    assert answer.status == 503, answer
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json["error"]["code"] == "model_not_ready"
    quick.wait_for_deployment("demo", "unreachable", 2)

    quick.start_agent()
    quick.wait_for_node("online")
    quick.wait_for_deployment("demo", "running")
    wait_until("the model is listed", lambda: quick.models() == ["demo"], 10)
    wait_for_answers(quick)
    assert quick.runtime_pid("demo") == runtime, "the runtime was taken up, not started again"
    assert len(quick.told("nodes", "list")) == 1, "it is the same node"


def test_nebulad_comes_back_with_everything(quick):
    token = quick.deploy(model="closed", runtime="sim")["access_token"]
    quick.wait_for_deployment("closed", "running")
    names = ("demo", "closed")
    before = {name: quick.deployment(name) for name in names}
    runtimes = {name: quick.runtime_pid(name) for name in names}
    admin = quick.admin_token
    quick.nebulad.kill()

    quick.start_nebulad(*QUICK)
    # Stored routes serve at once, before any agent has called.
    first = quick.chat("demo")
    assert first.status == 200, first
    assert quick.chat("closed", token).status == 200
    assert quick.chat("closed", "nbtok_wrong").status == 401
    assert quick.admin_token == admin
    assert sorted(quick.models(admin)) == ["closed", "demo"]
    assert quick.node()["state"] in ("suspect", "online")

    quick.wait_for_node("online")
    for name in names:
        after = quick.wait_for_deployment(name, "running")
        for field in ("id", "name", "model", "runtime", "public", "generation", "spec", "created_at"):
            assert after[field] == before[name][field], field
        assert [replica["id"] for replica in after["replicas"]] == [
            replica["id"] for replica in before[name]["replicas"]
        ]
        assert quick.runtime_pid(name) == runtimes[name]
        assert is_living(runtimes[name])
        assert after["replicas"][0]["restarts"] == 0
    assert quick.agent.is_alive()


def test_nothing_acknowledged_is_lost_by_a_kill(quick):
    """A deployment is there after a crash at the very moment it was acknowledged."""
    for round in range(3):
        made = quick.deploy(model=f"made-{round}", runtime="sim")
        quick.nebulad.kill()
        quick.start_nebulad(*QUICK)
        assert quick.deployment(f"made-{round}")["id"] == made["id"]
    for round in range(3):
        quick.wait_for_deployment(f"made-{round}", "running")
    quick.nebulactl("delete", "made-0", "--yes")
    quick.nebulad.kill()
    quick.start_nebulad(*QUICK)
    gone = lambda: quick.api("GET", "/deployments/made-0").status == 404
    wait_until("what was deleted is gone", gone, 20)


def test_a_stream_goes_on_while_the_control_plane_stops(quick):
    """In flight when SIGTERM comes: it is finished; then the process ends with 0."""
    slow = ["--tokens", "30", "--token-interval", "50ms"]
    quick.deploy(name="slow", model="slow", runtime="sim", public=True, args=slow)
    quick.wait_for_deployment("slow", "running")
    wait_until("it answers", lambda: quick.chat("slow").status == 200, 10)
    answers = []
    body = {"model": "slow", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    caller = threading.Thread(
        target=lambda: answers.append(call("POST", f"{quick.gateway}/chat/completions", body)), daemon=True
    )
    caller.start()
    stats = f"http://127.0.0.1:{quick.deployment('slow')['replicas'][0]['port']}/sim/stats"
    wait_until("the request is in flight", lambda: in_flight(stats) == 1, 5)

    quick.nebulad.popen.terminate()
    assert quick.nebulad.wait(20) == 0, quick.nebulad.err
    caller.join(10)
    assert answers and answers[0].status == 200, answers
    assert answers[0].body.rstrip().endswith(b"data: [DONE]")


def in_flight(stats_url):
    answer = call("GET", stats_url)
    assert answer.status == 200, answer
    return answer.json["inflight"]


def test_a_runtime_that_is_killed_is_started_again(quick):
    runtime = quick.runtime_pid("demo")
    os.kill(runtime, signal.SIGKILL)

    def restarted():
        replica = quick.deployment("demo")["replicas"][0]
        return replica["restarts"] >= 1 and replica["state"] == "running" and replica

    replica = wait_until("it runs again", restarted, 40)
    assert int(replica["container_id"]) != runtime
    wait_for_answers(quick)


def test_an_agent_that_is_there_first_waits_for_the_control_plane(cluster):
    """Started in any order, the parts find each other."""
    cluster.start_nebulad(*QUICK)
    cluster.nebulad.popen.terminate()
    assert cluster.nebulad.wait(20) == 0
    cluster.start_agent()
    cluster.start_nebulad(*QUICK)
    cluster.wait_for_node("online", seconds=30)


def test_deregistered_on_stop_is_offline_at_once(cluster):
    cluster.start_nebulad(*QUICK)
    agent = cluster.start_agent("node-1", "--deregister-on-stop")
    cluster.wait_for_node("online")
    wait_until("the agent knows that it is registered", lambda: cluster.node()["stats"], 10)
    agent.popen.terminate()
    assert agent.wait(20) == 0, agent.err
    assert cluster.node()["state"] == "offline"
