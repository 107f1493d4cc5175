"""A data directory on a disk that fills up: refused clearly, still readable, still able to stop and delete."""

import shutil
import subprocess

import pytest

from cluster import call
from processes import wait_until

VOLUME_BYTES = 48 * 1024 * 1024
CHUNK_BYTES = 64 * 1024
# The disk is looked at once a second.
SEEN_SECONDS = 10


@pytest.fixture
def volume(cluster):
    """nebulad's data directory as a small file system of its own."""
    directory = cluster.data_dir
    directory.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={VOLUME_BYTES},mode=0700", "tmpfs", directory]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield directory
    cluster.group.end()
    subprocess.run(["umount", "--lazy", directory], check=True)


def fill(directory, rest):
    """Takes all space but `rest` bytes."""
    filler = directory / "filler"
    with filler.open("wb") as file:
        while shutil.disk_usage(directory).free > rest:
            file.write(b"x" * CHUNK_BYTES)
            file.flush()
    return filler


def operators(cluster, path):
    return call("GET", f"http://{cluster.http_addr}{path}", token=cluster.admin_token)


def wait_for_level(cluster, *levels):
    level = lambda: operators(cluster, "/admin/store").json["store"]["disk"]["level"]
    wait_until(f"the disk is seen as one of {levels}", lambda: level() in levels, SEEN_SECONDS)


def test_a_full_disk_takes_stops_and_deletions_only_and_goes_on_when_there_is_space(cluster, volume):
    cluster.start_nebulad()
    cluster.start_agent()
    cluster.wait_for_node("online")
    for name in ("stays", "goes"):
        cluster.deploy(model=name, runtime="sim", public=True)
        cluster.wait_for_deployment(name, "running")

    filler = fill(volume, rest=256 * 1024)
    wait_for_level(cluster, "full")
    ready = operators(cluster, "/ready").json
    assert any("full" in concern for concern in ready["concerns"]), ready
    for method, path, body in [
        ("POST", "/deployments", {"model": "new", "runtime": "sim"}),
        ("POST", "/deployments/stays/scale", {"replicas": 2}),
        ("POST", "/deployments/stays/restart", None),
    ]:
        refused = cluster.api(method, path, body)
        assert refused.status == 503 and "full" in refused.json["error"]["message"], refused
        assert refused.headers["retry-after"], refused
    assert cluster.chat("stays").status == 200
    assert cluster.api("GET", "/deployments").status == 200
    assert cluster.api("POST", "/deployments/stays/stop").status == 202
    assert cluster.api("DELETE", "/deployments/goes").status == 202

    filler.unlink()
    wait_for_level(cluster, "ample", "low")
    cluster.wait_for_deployment("stays", "stopped")
    wait_until("the deleted one is gone", lambda: cluster.api("GET", "/deployments/goes").status == 404, 30)
    cluster.deploy(model="new", runtime="sim", public=True)
    cluster.wait_for_deployment("new", "running")
    names = {deployment["name"] for deployment in cluster.api("GET", "/deployments").json["data"]}
    assert names == {"stays", "new"}
