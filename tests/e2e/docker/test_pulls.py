"""Images come from registries: slowly with progress, or not at all with the reason."""

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import images
import registry
from nebula import Nebula
from processes import free_ports, wait_until
from settings import randomness
from slow_line import SlowLine

MEGABYTE = 1 << 20
LAYERS = (2 * MEGABYTE, 2 * MEGABYTE, 1 * MEGABYTE)
BYTES_PER_SECOND = 5 * MEGABYTE // 4
PULL_SECONDS = 60
# An error that will be the same next time is told at once.
AT_ONCE_SECONDS = 8
# Three tries with 10 and 20 s between.
THREE_TRIES_SECONDS = 60
NO_DIGEST = "sha256:" + "0" * 64

pytestmark = pytest.mark.skipif(bool(registry.cannot()), reason=str(registry.cannot()))


@pytest.fixture(scope="module")
def nebula(module_group, engine, tmp_path_factory):
    """The image in a registry, and none of it at the Engine; what needs three tries has begun."""
    directory = tmp_path_factory.mktemp("registry")
    closed = tmp_path_factory.mktemp("closed")
    servers = [registry.Registry(directory), registry.Registry(closed, password=True)]
    servers += [SlowLine(servers[0].port, BYTES_PER_SECOND), registry.LyingRegistry()]
    nebula = Nebula(module_group, engine)
    nebula.open, nebula.closed, nebula.slow, nebula.lying = servers
    nebula.start()
    nobody = f"127.0.0.1:{free_ports(1)[0]}"
    nebula.deploy(**with_image(nebula, "nobody-there", f"{nobody}/sim:1"))
    # One way to the image for each test.
    with ThreadPoolExecutor() as pushing:
        names = ("progress", "killed", "deleted")
        list(pushing.map(lambda name: publish(engine, nebula.open, name, tmp_path_factory.mktemp(name)), names))
    yield nebula
    for server in servers:
        server.end()


def publish(engine, server, name, directory):
    """Puts an image of its own into the registry, and nowhere else."""
    image = f"{server.name}/{name}:1"
    layers = registry.write_layers(directory / "layers.tar", images.SIM, directory, LAYERS, randomness(name))
    engine.build_image(layers, image)
    engine.push_image(image)
    engine.remove_image(image)


def with_image(nebula, name, image):
    return nebula.simulated("docker", name, image=image)


def told(nebula, name):
    deployment = nebula.deployment(name)
    return " ".join([deployment["message"] or "", *(replica["message"] or "" for replica in deployment["replicas"])])


def fails(nebula, name, image, pattern, seconds=AT_ONCE_SECONDS):
    if name not in {each["name"] for each in nebula.told("list")}:
        nebula.deploy(**with_image(nebula, name, image))
    nebula.wait_for_deployment(name, "failed", seconds)
    message = told(nebula, name)
    assert message.count("image_pull") >= 1 and re.search(pattern, message), message
    assert "\n" not in nebula.deployment(name)["message"].strip()
    return message


def test_a_slow_pull_tells_how_far_it_is(nebula, figures):
    image = f"{nebula.slow.name}/progress:1"
    flags = ["--name", "slow", "--model", "demo", "--runtime", "sim", "--driver", "docker", "--image", image]
    began = time.monotonic()
    deploying = nebula.group.start("nebulactl", "deploy", *flags, "--wait", "-o", "json", env=nebula.operator())
    seen = []

    def look():
        deployment = nebula.api("GET", "/deployments/slow")
        if deployment.status == 200:
            message = deployment.json["message"] or ""
            if not seen or seen[-1] != message:
                seen.append(message)
            return deployment.json["state"] == "running"
        return False

    wait_until("it runs", look, PULL_SECONDS)
    took = time.monotonic() - began
    assert deploying.wait(10) == 0, deploying.err
    percents = [float(found[1]) for message in seen if (found := re.search(r"(\d+(?:\.\d+)?) ?%", message))]
    assert len(set(percents)) >= 3, f"no progress in {seen}"
    assert percents[0] < percents[-1] <= 100, f"it went back: {percents}"
    assert any(re.search(r"(?i)[\d.]+ ?[KMG]i?B", message) for message in seen), f"no bytes in {seen}"
    # It tells again each ten seconds, which is more than this pull takes.
    assert f"pulling image {image}" in deploying.err, deploying.err
    size, sample = sum(LAYERS) >> 20, seen[len(seen) // 2]
    figures(f"a pull of {size} MiB in {took:.1f} s was told in {len(seen)} steps, such as {sample!r}")
    with nebula.agent_client() as agent:
        request = {"deployment_id": nebula.deployment("slow")["id"]}
        told = agent.call("proto.AgentService/GetDeployment", request)["deployment"]
    assert told["status"] == "running" and not told["progress_message"]


def test_an_image_that_is_not_there(nebula):
    message = fails(nebula, "unknown", f"{nebula.open.name}/nothing:1", r"(?i)not found|unknown|no such")
    assert "nothing:1" in message


def test_a_registry_that_wants_a_password(nebula):
    fails(nebula, "closed", f"{nebula.closed.name}/sim:1", r"(?i)auth|credential|denied|login|password")


def test_a_digest_that_is_not_there(nebula):
    fails(nebula, "no-digest", f"{nebula.open.name}/progress@{NO_DIGEST}", r"(?i)not found|unknown")


def test_a_digest_that_does_not_match(nebula):
    fails(nebula, "lie", f"{nebula.lying.name}/sim@{NO_DIGEST}", r"(?i)digest|verif")


def test_a_name_that_is_none(nebula):
    answer = nebula.api("POST", "/deployments", with_image(nebula, "no-name", "No Image:::"))
    if answer.status == 201:
        fails(nebula, "no-name", None, r"(?i)invalid|reference")
    else:
        assert answer.status in (400, 422) and "image" in answer.json["error"]["message"], answer


def test_a_deployment_deleted_while_its_image_comes(nebula):
    image = f"{nebula.slow.name}/deleted:1"
    nebula.deploy(**with_image(nebula, "deleted", image))
    wait_until("it pulls", lambda: re.search(r"\d ?%", told(nebula, "deleted")), PULL_SECONDS)
    nebula.nebulactl("delete", "deleted", "--yes")
    wait_until("it is gone", lambda: nebula.is_gone("deleted"), 10)
    quiet = threading.Event()
    passed = nebula.slow.passed
    quiet.wait(1)
    slowed = nebula.slow.passed
    quiet.wait(1)
    assert nebula.slow.passed - slowed < BYTES_PER_SECOND / 2 or passed == slowed, "the pull goes on"
    assert not nebula.engine.has_image(image)


def test_a_registry_that_is_not_there(nebula, figures):
    """Deployed before all others: by now it was tried more than once. A new agent would begin anew."""
    deployment = nebula.deployment("nobody-there")
    fails(nebula, "nobody-there", None, r"(?i)refused|connect|reach", THREE_TRIES_SECONDS)
    assert deployment["replicas"][0]["node_name"] == "node-1"


def test_an_agent_killed_while_it_pulls(nebula):
    image = f"{nebula.slow.name}/killed:1"
    nebula.deploy(**with_image(nebula, "killed", image))
    wait_until("it pulls", lambda: re.search(r"\d ?%", told(nebula, "killed")), PULL_SECONDS)
    nebula.agent.kill()
    nebula.group.forget(nebula.agent)
    nebula.start_agent()
    nebula.wait_for_deployment("killed", "running", PULL_SECONDS)
    assert len(nebula.engine.containers(deployment=nebula.deployment("killed")["id"])) == 1
