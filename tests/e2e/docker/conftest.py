"""Fixtures: an Engine for each file of tests, and a control plane with an agent on it."""

import shutil

import pytest

import images
from cluster import call
from engine import Engine, NoEngine
from engine_api import Refused
from nebula import Nebula
from processes import Group, free_ports, wait_until

PROBE_PORT_INSIDE = 8000
PROBE_SECONDS = 20
# Why there is no Engine, once that is known; a try takes seconds.
WITHOUT = pytest.StashKey[str]()
PROBED = pytest.StashKey[bool]()


@pytest.fixture(scope="session")
def sim_tar(tmp_path_factory):
    return images.write_sim(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def new_engine(request, sim_tar):
    """Starts an Engine that has the image of the simulated runtime; ends all of them afterwards."""
    engines = []

    def start(*flags):
        reason = request.config.stash.get(WITHOUT, None)
        if not reason:
            try:
                engines.append(Engine(*flags))
                engines[-1].import_image(sim_tar, images.SIM, images.SIM_CHANGES)
                if not request.config.stash.get(PROBED, False):
                    probe(engines[-1])
                    request.config.stash[PROBED] = True
                return engines[-1]
            except NoEngine as error:
                reason = request.config.stash[WITHOUT] = str(error)
        pytest.skip(f"no Docker Engine of the tests' own: {reason}")

    yield start
    for engine in engines:
        engine.end()


@pytest.fixture(scope="module")
def engine(new_engine):
    return new_engine()


def probe(engine):
    """Whether containers run here and their ports can be reached: some machines and sandboxes refuse."""
    port = free_ports(1)[0]
    inside = f"{PROBE_PORT_INSIDE}/tcp"
    try:
        container = engine.create(
            Image=images.SIM,
            Cmd=["--bind", "0.0.0.0", "--port", str(PROBE_PORT_INSIDE)],
            ExposedPorts={inside: {}},
            HostConfig={"PortBindings": {inside: [{"HostIp": "127.0.0.1", "HostPort": str(port)}]}},
        )
        engine.call("POST", f"/containers/{container}/start")
        wait_until("a container's port answers", lambda: answers(port), PROBE_SECONDS)
        engine.remove(container)
    except (Refused, AssertionError) as error:
        raise NoEngine(f"containers do not run here: {error}") from None


def answers(port):
    try:
        return call("GET", f"http://127.0.0.1:{port}/health", seconds=2).status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def module_group(request, tmp_path_factory):
    """Processes that live as long as the tests of one file do."""
    directory = tmp_path_factory.mktemp(request.module.__name__.removeprefix("test_"))
    group = Group(directory)
    yield group
    group.end()
    # What was logged and downloaded is large.
    for place in directory.glob("agent-*"):
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def nebula(module_group, engine):
    """nebulad and an agent that uses the Engine, for all tests of one file."""
    nebula = Nebula(module_group, engine)
    nebula.start()
    return nebula


@pytest.fixture(autouse=True)
def told_on_failure(request):
    """What the programs said belongs to the report of a test that failed."""
    if "module_group" in request.fixturenames:
        request.node.processes = request.getfixturevalue("module_group")
