"""Models come from a Hugging Face hub or from S3: with progress, resumed after a crash, and never unnoticed wrong."""

import hashlib
import importlib.util
import os
import re
import subprocess
import sys

import pytest

from hub import Hub
from processes import binary, free_ports, wait_until
from settings import randomness
from slow_line import SlowLine

QUICK = ("--heartbeat-timeout", "10", "--default-heartbeat-interval", "1")
REPO = "tests/tiny-model"
MEGABYTE = 1 << 20
SIZE = 4 * MEGABYTE
# `deploy --wait` tells each ten seconds how far it is when nobody sits at a terminal.
BYTES_PER_SECOND = SIZE // 12
FETCHED_SECONDS = 30
REFUSED_SECONDS = 15
# More than any disk has.
ENORMOUS = 1 << 52
S3 = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "eu-central-1"}

no_llamacpp = importlib.util.find_spec("llama_cpp") is None
no_moto = importlib.util.find_spec("moto") is None


@pytest.fixture
def hub():
    hub = Hub(REPO, {"model-q8_0.gguf": randomness("model").randbytes(SIZE), "README.md": b"# A model\n"})
    yield hub
    hub.end()


@pytest.fixture(params=[BYTES_PER_SECOND])
def line(request, hub):
    line = SlowLine(hub.port, request.param)
    yield line
    line.end()


def start(cluster, endpoint, **env):
    cluster.start_nebulad(*QUICK)
    cluster.env |= {"HF_ENDPOINT": endpoint, **env}
    cluster.agent = cluster.start_agent(env=cluster.env)
    cluster.wait_for_node("online")


@pytest.fixture
def cluster(cluster):
    """With a llama-server that says what its model's bytes are, and then serves as the simulated runtime."""
    programs = cluster.group.directory / "programs"
    programs.mkdir()
    server = programs / "llama-server"
    server.write_text(f"""#!/bin/sh
while [ $# -gt 0 ]; do
  case "$1" in --model) model=$2 ;; --alias) name=$2 ;; --port) port=$2 ;; esac
  shift 2
done
sha256sum < "$model"
exec {binary('nebula-sim')} runtime --port "$port" --model "$name"
""")
    server.chmod(0o755)
    cluster.env = {"PATH": f"{programs}:{os.environ['PATH']}"}
    return cluster


def deploy(cluster, name="hub", model=f"hf://{REPO}"):
    return cluster.deploy(name=name, model=model, runtime="llamacpp", driver="process", public=True)


def says(cluster, name):
    deployment = cluster.deployment(name)
    return " ".join([deployment["message"] or "", *(each["message"] or "" for each in deployment["replicas"])])


def test_a_model_is_fetched_with_progress(cluster, hub, line, figures):
    start(cluster, f"http://{line.name}")
    flags = ["--name", "hub", "--model", f"hf://{REPO}", "--runtime", "llamacpp", "--driver", "process"]
    waiting = cluster.group.start("nebulactl", "deploy", *flags, "--wait", env=cluster.operator())
    percents = []

    def runs():
        shown = cluster.api("GET", "/deployments/hub").json
        found = re.search(r"(\d+) %", shown.get("message") or "")
        if found and int(found[1]) not in percents:
            percents.append(int(found[1]))
        return shown.get("state") == "running"

    wait_until("it runs", runs, FETCHED_SECONDS)
    assert len(percents) >= 3 and percents == sorted(percents), percents
    assert waiting.wait(10) == 0, waiting.err
    assert re.search(r"[\d.]+ KiB of 4\.0 MiB, .*\d %", waiting.err), waiting.err
    digest = hashlib.sha256(hub.files["model-q8_0.gguf"]).hexdigest()
    assert digest in cluster.nebulactl("logs", "hub").out
    figures(f"a model of {SIZE >> 20} MiB was fetched with {len(percents)} steps of progress")

    deploy(cluster, "again")
    cluster.wait_for_deployment("again", "running")
    assert [name for name, _ in hub.asked].count("model-q8_0.gguf") == 1, "it is fetched once"


@pytest.mark.parametrize("line", [2 * MEGABYTE], indirect=True)
def test_what_was_fetched_before_a_crash_is_kept(cluster, hub, line):
    start(cluster, f"http://{line.name}")
    deploy(cluster)
    wait_until("half of it is there", lambda: line.passed > SIZE / 2, FETCHED_SECONDS)
    cluster.agent.kill()
    cluster.start_agent(env=cluster.env)
    cluster.wait_for_deployment("hub", "running", FETCHED_SECONDS)
    begun = [first for name, first in hub.asked if name == "model-q8_0.gguf"]
    assert len(begun) == 2 and begun[0] == 0 and begun[1] > 0, begun
    digest = hashlib.sha256(hub.files["model-q8_0.gguf"]).hexdigest()
    assert digest in cluster.nebulactl("logs", "hub").out


def test_what_cannot_be_fetched_is_told(cluster, hub):
    start(cluster, f"http://127.0.0.1:{hub.port}")
    hub.lies["model-q8_0.gguf"] = {"size": ENORMOUS}
    deploy(cluster, "enormous")
    fails(cluster, "enormous", r"(?i)space|room|disk")
    hub.lies["model-q8_0.gguf"] = {"sha256": "0" * 64}
    deploy(cluster, "wrong")
    fails(cluster, "wrong", r"(?i)checksum|sha-?256", 60)
    hub.lies.clear()
    deploy(cluster, "nobody", "hf://tests/nothing")
    fails(cluster, "nobody", r"tests/nothing")
    hub.token = "hf_secret"
    deploy(cluster, "private", f"hf://{REPO}@other")
    fails(cluster, "private", r"(?i)token")


def fails(cluster, name, pattern, seconds=REFUSED_SECONDS):
    cluster.wait_for_deployment(name, "failed", seconds)
    told = says(cluster, name)
    assert "model: " in told and re.search(pattern, told), told


# --- S3


@pytest.fixture
def s3(tmp_path):
    """A bucket with a real model, which only its credentials open."""
    if no_moto:
        pytest.skip("the Python module moto cannot be had here")
    import boto3

    port = free_ports(1)[0]
    endpoint = f"http://127.0.0.1:{port}"
    with open(tmp_path / "s3.log", "wb") as log:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    options = {"endpoint_url": endpoint, "region_name": S3["AWS_REGION"]}
    keys = {"aws_access_key_id": S3["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": S3["AWS_SECRET_ACCESS_KEY"]}
    client = boto3.client("s3", **options, **keys)

    def is_there():
        try:
            client.create_bucket(
                Bucket="models", CreateBucketConfiguration={"LocationConstraint": S3["AWS_REGION"]}
            )
        except Exception:  # noqa: BLE001: it is not up yet
            assert server.poll() is None, (tmp_path / "s3.log").read_text()
            return False
        return True

    try:
        wait_until("the bucket is there", is_there, 60)
        client.endpoint = endpoint
        yield client
    finally:
        server.kill()
        server.wait()


@pytest.mark.skipif(no_llamacpp, reason="the Python module llama_cpp cannot be had here")
def test_a_real_model_from_s3(cluster, s3, tmp_path):
    import tiny_gguf

    tiny_gguf.write(tmp_path / "tiny.gguf")
    s3.upload_file(str(tmp_path / "tiny.gguf"), "models", "some/tiny.gguf")
    # The real one is the Python's.
    (cluster.group.directory / "programs" / "llama-server").unlink()
    start(cluster, "http://127.0.0.1:1", AWS_ENDPOINT_URL=s3.endpoint, NEBULA_AGENT_PYTHON=sys.executable, **S3)
    cluster.deploy(name="stored", model="s3://models/some/tiny.gguf", runtime="llamacpp", driver="process", public=True)
    cluster.wait_for_deployment("stored", "running", 90)
    wait_until("the gateway has its route", lambda: cluster.models() == ["stored"], 10)
    answer = cluster.chat("stored", text="the light of the star")
    assert answer.status == 200 and answer.json["usage"]["completion_tokens"] > 0, answer

    cluster.deploy(name="nothing", model="s3://models/none.gguf", runtime="llamacpp", driver="process")
    fails(cluster, "nothing", r"none\.gguf")
