"""The Engine stops, crashes or hangs: the node says so and stays, and what is wanted runs again, once."""

import time

import pytest

from nebula import Nebula
from processes import Group, wait_until
from settings import FULL
from unix_proxy import UnixProxy

CONTAINERS = 3
# An answer is waited for this long before the Engine counts as hung.
DEGRADED_SECONDS = 15
HEALTHY_SECONDS = 20
# With short intervals a node that is heard every second is never this old.
SILENCE_SECONDS_MAX = 4
RUNS_AGAIN_SECONDS = 60
# Of a log that is followed this much comes at first.
LOG_BYTES = 100_000
# The agent asks five seconds after the last output whether there is more, and thirty seconds later again.
LOG_SECONDS = 50
# What an Engine does with its containers when it ends: without and with live restore.
LOSES, KEEPS = "loses its containers", "keeps its containers"


class Watch:
    """Looks at the node all the time, and remembers the longest silence."""

    def __init__(self, nebula):
        self.nebula, self.silence = nebula, 0

    def wait(self, what, look, seconds):
        def both():
            node = self.nebula.node()
            assert node["state"] == "online", "the node is lost because its Engine is"
            self.silence = max(self.silence, node["last_heartbeat_age_seconds"])
            return look(node)

        return wait_until(what, both, seconds)

    def is_quiet(self):
        assert self.silence < SILENCE_SECONDS_MAX, f"no heartbeat for {self.silence} s"


def is_degraded(node):
    health = node["health"]
    return health["status"] == "degraded" and any("docker" in issue.lower() for issue in health["issues"])


def is_healthy(node):
    return node["health"]["status"] == "healthy"


@pytest.fixture
def outage(request, new_engine, tmp_path):
    """An Engine, with or without live restore, and some containers and a process on its node."""
    engine = new_engine(*(["--live-restore"] if request.param == KEEPS else []))
    group = Group(tmp_path)
    request.node.processes = group
    nebula = Nebula(group, engine)
    nebula.start()
    nebula.names = [f"on-{number}" for number in range(CONTAINERS)]
    for name in nebula.names:
        nebula.deploy_simulated("docker", name, public=True)
    nebula.deploy_simulated("process", "beside", public=True)
    for name in (*nebula.names, "beside"):
        nebula.wait_for_deployment(name, "running")
    nebula.lives = request.param == KEEPS
    yield nebula
    group.end()
    engine.end()


def check_all_again(nebula, before, process):
    """Everything that is wanted runs, each once; what lived on is the same."""
    running = lambda node: all(nebula.deployment(name)["state"] == "running" for name in nebula.names)
    Watch(nebula).wait("all run again", running, RUNS_AGAIN_SECONDS)
    answer = lambda: all(nebula.chat(name).status == 200 for name in nebula.names)
    wait_until("all answer", answer, RUNS_AGAIN_SECONDS)
    for name in nebula.names:
        found = nebula.engine.containers(deployment=nebula.deployment(name)["id"])
        assert [each["State"] for each in found] == ["running"], name
        if nebula.lives:
            assert found[0]["Id"] == before[name]
            assert nebula.replica(name)["restarts"] == 0
    assert len(nebula.engine.containers()) == CONTAINERS
    assert nebula.runtime_pid("beside") == process and nebula.chat("beside").status == 200


@pytest.mark.parametrize(
    ("outage", "end"),
    [(LOSES, "shut_down"), (KEEPS, "crash"), *([(LOSES, "crash"), (KEEPS, "shut_down")] if FULL else [])],
    indirect=["outage"],
)
def test_the_engine_is_restarted(outage, end, figures):
    nebula, engine = outage, outage.engine
    before = {name: nebula.container(name) for name in nebula.names}
    process = nebula.runtime_pid("beside")
    watch = Watch(nebula)
    getattr(engine, end)()
    watch.wait("the node is degraded", is_degraded, DEGRADED_SECONDS)
    assert nebula.chat("beside").status == 200, "what is no container is not concerned"
    engine.start()
    back = time.monotonic()
    watch.wait("the node is healthy", is_healthy, HEALTHY_SECONDS)
    watch.is_quiet()
    check_all_again(nebula, before, process)
    kept = "kept its containers" if nebula.lives else "lost its containers"
    took = time.monotonic() - back
    figures(f"an Engine that {kept} ({end.replace('_', ' ')}): all ran {took:.1f} s after its start")


@pytest.mark.parametrize("outage", [LOSES], indirect=True)
def test_the_engine_hangs(outage, figures):
    nebula, engine = outage, outage.engine
    before = {name: nebula.container(name) for name in nebula.names}
    process = nebula.runtime_pid("beside")
    watch = Watch(nebula)
    engine.hang()
    began = time.monotonic()
    try:
        watch.wait("the node is degraded", is_degraded, DEGRADED_SECONDS)
        took = time.monotonic() - began
        # What serves goes on serving, and what is asked meanwhile is answered or refused, never left waiting.
        assert nebula.chat("beside").status == 200
        nebula.deploy_simulated("docker", "asked-meanwhile", public=True)
        watch.wait("it is waited for", lambda node: nebula.deployment("asked-meanwhile")["state"] != "pending", 10)
    finally:
        engine.go_on()
    watch.wait("the node is healthy", is_healthy, HEALTHY_SECONDS)
    watch.is_quiet()
    nebula.wait_for_deployment("asked-meanwhile", "running", RUNS_AGAIN_SECONDS)
    for name in nebula.names:
        assert nebula.container(name) == before[name]
        assert nebula.replica(name)["restarts"] == 0
    assert nebula.runtime_pid("beside") == process
    silence = f"at most {watch.silence:.1f} s without a heartbeat"
    figures(f"an Engine that hung: the node was degraded {took:.1f} s later, {silence}")


@pytest.mark.parametrize("outage", [LOSES], indirect=True)
def test_a_log_that_stands_still_is_asked_for_again(outage):
    """As with Engines that lose their place in a log when they begin its next file."""
    nebula, engine = outage, outage.engine
    nebula.agent.kill()
    follow = r"GET \S*/logs\?\S*follow=true"
    proxy = UnixProxy(engine.directory / "proxy", engine.path, stall=follow, stall_bytes=LOG_BYTES)
    # Nothing else is followed by then.
    for name in nebula.names:
        nebula.nebulactl("delete", name, "--yes")
    nebula.start_agent(host=proxy.host)
    nebula.wait_for_node("online")
    wait_until("nothing else runs", lambda: not engine.containers(), 20)
    proxy.stalled.clear()
    said = f"i=0; while [ $i -lt {LOG_BYTES // 10} ]; do echo line $i; i=$((i + 1)); done; echo all of it"
    nebula.deploy_simulated("docker", "talks", first=said)
    nebula.wait_for_deployment("talks", "running")
    assert proxy.stalled.is_set(), "the log was not followed"
    log = lambda *flags: nebula.nebulactl("logs", "talks", *flags).out
    assert "all of it" not in log(), "the log did not stand still, so this shows nothing"
    wait_until("the rest of the log comes", lambda: "all of it" in log("--tail", "5"), LOG_SECONDS)
    lines = [line for line in log().splitlines() if line.startswith("line ")]
    assert lines == [f"line {number}" for number in range(LOG_BYTES // 10)], "each line is there once"
    proxy.close()
