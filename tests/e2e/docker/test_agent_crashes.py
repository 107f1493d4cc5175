"""The agent is killed: containers go on, the next agent takes them up, and what was half made is removed."""

import json
import shutil
import time
import urllib.request

import pytest

from cluster import call
from nebula import DRIVERS, QUICK, Nebula
from processes import wait_until
from unix_proxy import UnixProxy

CONTAINERS = 5
ADOPTED_SECONDS = 3
STREAM_TOKENS, TOKEN_SECONDS = 20, 0.1


@pytest.fixture(scope="module")
def nebula(module_group, engine):
    """Five containers and one process that run."""
    nebula = Nebula(module_group, engine)
    # Its own id, so that an agent that has lost its store is the same node.
    nebula.start("--node-id", "node-with-containers")
    nebula.names = [f"kept-{number}" for number in range(CONTAINERS)]
    for name in nebula.names:
        nebula.deploy_simulated("docker", name, public=True)
    nebula.deploy_simulated("process", "kept-process", public=True)
    for name in (*nebula.names, "kept-process"):
        nebula.wait_for_deployment(name, "running")
    return nebula


def kill_agent(nebula):
    agent = nebula.agent
    agent.kill()
    nebula.group.forget(agent)


def test_running_containers_are_adopted(nebula, figures):
    before = {name: nebula.container(name) for name in nebula.names}
    process = nebula.runtime_pid("kept-process")
    kill_agent(nebula)
    assert {name: nebula.container(name) for name in nebula.names} == before, "they outlive their agent"

    began = time.monotonic()
    nebula.start_agent()
    everybody = [*nebula.names, "kept-process"]
    wait_until("all of them answer", lambda: all(nebula.chat(name).status == 200 for name in everybody), 20)
    took = time.monotonic() - began
    figures(f"{CONTAINERS} containers and a process answered {took:.2f} s after the start of an agent that was killed")
    assert took < ADOPTED_SECONDS
    nebula.wait_for_node("online")
    for name in everybody:
        nebula.wait_for_deployment(name, "running")
        assert nebula.replica(name)["restarts"] == 0
    assert {name: nebula.container(name) for name in nebula.names} == before, "the same containers run"
    assert nebula.runtime_pid("kept-process") == process
    assert len(nebula.engine.containers()) == CONTAINERS
    # Their logs go on, too.
    for name in nebula.names:
        wait_until("its log is there", lambda: "simulated model" in nebula.nebulactl("logs", name).out, 10)


def test_what_ends_while_no_agent_watches_or_after_it_was_adopted(nebula):
    unseen, adopted = nebula.names[:2]
    before = {name: nebula.container(name) for name in nebula.names}
    kill_agent(nebula)
    nebula.engine.remove(before[unseen])
    nebula.start_agent()
    wait_until("the other one was adopted", lambda: nebula.chat(adopted).status == 200, 10)
    nebula.engine.kill(before[adopted])
    for name in (unseen, adopted):
        nebula.wait_for_restart(name)
        assert nebula.container(name) != before[name]
        assert len(nebula.engine.containers(deployment=nebula.deployment(name)["id"])) == 1
    for name in nebula.names[2:]:
        assert nebula.container(name) == before[name]


@pytest.mark.parametrize("step", ["containers/create", "start"])
def test_what_was_half_made_is_removed(nebula, engine, step):
    """The agent dies between two requests to the Engine: exactly one container runs in the end."""
    kill_agent(nebula)
    proxy = UnixProxy(engine.directory / f"proxy-{time.monotonic_ns()}", engine.path, rf"POST \S*/{step}\b")
    nebula.start_agent(host=proxy.host)
    nebula.wait_for_node("online")
    name = f"half-{time.monotonic_ns()}"
    nebula.deploy_simulated("docker", name)
    assert proxy.held.wait(30), "the agent never asked for it"
    deployment_id = nebula.deployment(name)["id"]
    made = nebula.engine.containers(deployment=deployment_id)
    assert [each["State"] for each in made] == (["created"] if step == "start" else [])
    kill_agent(nebula)
    proxy.close()

    nebula.start_agent()
    nebula.wait_for_deployment(name, "running")
    after = nebula.engine.containers(deployment=deployment_id)
    assert [each["State"] for each in after] == ["running"], "the half-made one is gone"
    assert not {each["Id"] for each in made} & {each["Id"] for each in after}
    nebula.nebulactl("delete", name, "--yes")
    wait_until("it is gone", lambda: not nebula.engine.containers(deployment=deployment_id), 20)


def test_a_deployment_deleted_while_the_agent_was_dead(nebula):
    nebula.deploy_simulated("docker", "deleted-meanwhile")
    nebula.wait_for_deployment("deleted-meanwhile", "running")
    deployment_id = nebula.deployment("deleted-meanwhile")["id"]
    kill_agent(nebula)
    nebula.nebulactl("delete", "deleted-meanwhile", "--yes")
    assert nebula.engine.running(deployment=deployment_id)
    nebula.start_agent()
    wait_until("its container is gone", lambda: not nebula.engine.containers(deployment=deployment_id), 20)


def test_an_agent_without_its_store_doubles_nothing(nebula):
    """The disk of the agent is lost: its containers are known by their labels, or replaced; none is left over."""
    kill_agent(nebula)
    for path in nebula.agent_dir.iterdir():
        if path.name != "agent.id":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    nebula.start_agent()
    everybody = nebula.names
    wait_until("all of them answer", lambda: all(nebula.chat(name).status == 200 for name in everybody), 60)
    containers = lambda name: nebula.engine.containers(deployment=nebula.deployment(name)["id"])
    exactly_one = lambda: all(len(containers(name)) == 1 for name in everybody)
    wait_until("each has one container", exactly_one, 30)


def test_the_proxy_serves_while_nebulad_is_down(nebula):
    slow = ["--tokens", str(STREAM_TOKENS), "--token-interval", f"{int(TOKEN_SECONDS * 1000)}ms"]
    tokens = {}
    for driver in DRIVERS:
        tokens[driver] = nebula.deploy_simulated(driver, f"closed-{driver}", args=slow)["access_token"]
    nebula.deploy_simulated("docker", "late", args=["--start-delay", "5s"], public=True)
    for driver in tokens:
        nebula.wait_for_deployment(f"closed-{driver}", "running")
    places = {driver: nebula.replica(f"closed-{driver}")["endpoint"] for driver in tokens}
    starting = lambda: nebula.replica("late")["state"] == "starting" and nebula.replica("late")["endpoint"]
    place = wait_until("one is starting", starting, 20)
    answer = call("GET", f"{place}/v1/models")
    assert answer.status == 503 and int(answer.headers["retry-after"]) >= 1, answer

    nebula.nebulad.kill()
    try:
        for driver, place in places.items():
            assert call("POST", f"{place}/v1/chat/completions", body(driver)).status == 401
            assert call("POST", f"{place}/v1/chat/completions", body(driver), "nbtok_wrong").status == 401
            arrivals = stream(place, body(driver) | {"stream": True}, tokens[driver])
            spread = arrivals[-1] - arrivals[0]
            assert len(arrivals) >= STREAM_TOKENS, "each token came by itself"
            assert spread > STREAM_TOKENS * TOKEN_SECONDS * 0.7, f"all came within {spread:.2f} s"
    finally:
        nebula.start_nebulad(*QUICK)
    nebula.wait_for_node("online")


def body(driver):
    return {"model": f"closed-{driver}", "messages": [{"role": "user", "content": "hello"}]}


def stream(place, request, token):
    """When each event of an answer came."""
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    url = f"{place}/v1/chat/completions"
    asked = urllib.request.Request(url, json.dumps(request).encode(), headers, method="POST")
    arrivals = []
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=30) as answer:
        for line in answer:
            if line.startswith(b"data:"):
                arrivals.append(time.monotonic())
    assert line.strip() == b"" or line.startswith(b"data:")
    return arrivals
