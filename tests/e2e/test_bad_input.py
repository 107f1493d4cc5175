"""What users get wrong: one line that names the thing, advice, the right exit code, and nothing left running."""

import re
import socket

import pytest

from processes import wait_until

FREE_PORTS = ("--grpc-port", "0", "--http-port", "0")


def assert_refused(process, code, *parts):
    """One line of error that names each part, and after an empty line one hint."""
    assert process.popen.returncode == code, f"{process.popen.returncode}: {process.err}"
    assert process.err.startswith("error: ") or "\nerror: " in process.err, process.err
    message = re.search(r"^error: (.+)$", process.err, re.MULTILINE)[1]
    for part in parts:
        assert str(part) in message, f"{part} is not in {message!r}"
    if code != 2:
        assert re.search(r"^hint: .+", process.err, re.MULTILINE), f"no hint in {process.err!r}"
    assert "panicked" not in process.err


@pytest.mark.parametrize("program", ["nebulad", "nebula-agent", "nebulactl", "nebula-sim"])
def test_a_bad_flag(group, program):
    process = group.run(program, "--no-such-flag")
    assert_refused(process, 2, "--no-such-flag")


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (("--heartbeat-timeout", "10", "--default-heartbeat-interval", "30"), "--heartbeat-timeout"),
        (("--gateway-domain", "not a domain"), "not a domain"),
        (("--bind", "0.0.0.0"), "0.0.0.0"),
        (("--caddy-admin-url", "http://localhost:2019", "--caddy-listen", ":2019"), "--caddy-listen :2019"),
    ],
)
def test_a_configuration_that_makes_no_sense(group, tmp_path, flags, part):
    for command in ([], ["check-config"]):
        process = group.run("nebulad", *command, *FREE_PORTS, "--data-dir", tmp_path / "data", *flags)
        assert_refused(process, 78, part)
    assert not (tmp_path / "data").exists(), "nothing was made"


def test_a_data_directory_that_cannot_be_used(group, tmp_path):
    file = tmp_path / "file"
    file.write_text("a file, no directory")
    for data_dir in (file, file / "below"):
        process = group.run("nebulad", *FREE_PORTS, "--data-dir", data_dir)
        assert_refused(process, 73, file)
        agent = group.run("nebula-agent", "--data-dir", data_dir, "--grpc-port", 0, "--proxy-port", 0)
        assert_refused(agent, 73, file)


@pytest.mark.parametrize(("flag", "other"), [("--grpc-port", "--http-port"), ("--http-port", "--grpc-port")])
def test_a_port_that_is_taken(group, tmp_path, flag, other):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for command in ([], ["dev", "--once"]):
            flags = ["--data-dir", tmp_path / "data", flag, port, other, 0]
            process = group.run("nebulad", *command, *flags)
            assert_refused(process, 71, port)
            assert flag in process.err, "the hint names the flag"
    group.assert_nothing_runs()


def test_a_data_directory_that_is_in_use(cluster):
    nebulad = cluster.start_nebulad()
    second = cluster.group.run("nebulad", *FREE_PORTS, "--data-dir", cluster.data_dir)
    assert_refused(second, 75, cluster.data_dir, nebulad.pid)
    assert nebulad.is_alive()
    agent = cluster.start_agent()
    cluster.wait_for_node("online")
    directory = cluster.group.directory / "agent-node-1"
    flags = ["--control-plane", cluster.grpc_addr, "--grpc-port", 0, "--proxy-port", 0, "--metrics-port", 0]
    second = cluster.group.run("nebula-agent", *flags, "--data-dir", directory)
    assert_refused(second, 75, directory, agent.pid)
    assert agent.is_alive()


def test_an_unknown_runtime(cluster_with_agent):
    cluster = cluster_with_agent
    dev = cluster.group.run("nebulad", "dev", "--once", *FREE_PORTS, "--runtime", "warp")
    assert_refused(dev, 2, "warp")
    deploy = cluster.nebulactl("deploy", "--model", "demo", "--runtime", "warp")
    assert_refused(deploy, 2, "warp")
    answer = cluster.api("POST", "/deployments", {"model": "demo", "runtime": "warp"})
    assert answer.status == 422 and "warp" in answer.json["error"]["message"], answer
    assert cluster.told("list") == []


def test_a_server_that_is_not_there(group):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    process = group.run("nebulactl", "--server", f"http://127.0.0.1:{port}", "--token", "nbadm_x", "list")
    assert_refused(process, 69, port)


def test_dev_with_a_model_file_that_is_not_there(group):
    dev = group.run("nebulad", "dev", "--once", *FREE_PORTS, "--model", "fs:///no/such.gguf", "--runtime", "llamacpp")
    assert_refused(dev, 1, "/no/such.gguf")
    group.assert_nothing_runs()


@pytest.fixture
def with_a_llama_server(cluster):
    """A node that has a program by the name of llama.cpp's server."""
    programs = cluster.group.directory / "bin"
    programs.mkdir()
    server = programs / "llama-server"
    server.write_text("#!/bin/sh\nexec sleep 60\n")
    server.chmod(0o755)
    cluster.start_nebulad()
    path = f"{programs}:{cluster.group.environment()['PATH']}"
    cluster.start_agent(env={"PATH": path})
    cluster.wait_for_node("online")
    return cluster


def test_a_model_file_that_is_not_there(with_a_llama_server):
    cluster = with_a_llama_server
    process = cluster.nebulactl(
        "deploy", "--model", "fs:///no/such.gguf", "--runtime", "llamacpp", "--name", "lost", "--wait"
    )
    assert_refused(process, 1, "lost", "/no/such.gguf")
    lost = cluster.deployment("lost")
    assert lost["state"] == "failed"
    assert "/no/such.gguf" in lost["message"] and lost["message"].isprintable(), lost["message"]
    assert cluster.models(cluster.admin_token) == []
    assert cluster.chat("lost", cluster.admin_token).status == 503


@pytest.mark.parametrize(
    ("name", "body", "code", "said"),
    [
        ("sim", {"runtime": "sim", "args": ["--fail", "exit-at-start"]}, None, "exit-at-start"),
        (
            "own-command",
            {"runtime": "llamacpp", "command": ["sh", "-c", "echo no weights for {model} >&2; exit 3"]},
            3,
            "no weights for demo",
        ),
    ],
)
def test_a_runtime_that_exits_at_once(with_a_llama_server, name, body, code, said):
    cluster = with_a_llama_server
    cluster.deploy(name=name, model="demo", public=True, **body)
    failed = cluster.wait_for_deployment(name, "failed")

    assert said in failed["message"], f"no last log lines in {failed['message']!r}"
    if code is not None:
        assert f"code {code}" in failed["message"], failed["message"]
    assert failed["replicas"][0]["state"] == "failed"
    assert cluster.chat(name).status == 503
    logs = cluster.nebulactl("logs", name)
    assert logs.popen.returncode == 0 and said in logs.out, logs.err
    wait_until("only nebulad and the agent run", lambda: len(cluster.group.running()) == 2, 10)
    events = cluster.told("events", name)
    assert any("exited" in event["message"] for event in events), events


def test_deploy_wait_tells_why_it_failed(cluster_with_agent):
    cluster = cluster_with_agent
    flags = ["--runtime", "sim", "--arg", "--fail", "--arg", "exit-at-start", "--wait"]
    process = cluster.nebulactl("deploy", "--model", "demo", *flags)
    assert_refused(process, 1, "demo", "failed")
    assert "exit-at-start" in process.err, process.err


def test_a_deployment_without_a_place_says_what_is_missing(cluster_with_agent):
    cluster = cluster_with_agent
    cluster.deploy(name="wants-gpu", model="demo", runtime="sim", gpu={"count": 1})
    look = lambda: cluster.deployment("wants-gpu")["message"]
    message = wait_until("it says why it waits", look, 10)
    assert cluster.deployment("wants-gpu")["state"] == "pending"
    assert "GPU" in message, message
    answer = cluster.api("POST", "/deployments", {"model": "demo", "runtime": "sim", "node": "nowhere"})
    assert answer.status == 404 and "nowhere" in answer.json["error"]["message"], answer


def test_wrong_requests_to_the_api(cluster_with_agent):
    cluster = cluster_with_agent
    cluster.deploy(model="demo", runtime="sim")
    for method, path, body, status in (
        ("POST", "/deployments", {"model": "demo", "runtime": "sim"}, 409),
        ("POST", "/deployments", {"modell": "demo"}, 400),
        ("POST", "/deployments", {"model": "x", "runtime": "sim", "replicas": -1}, 422),
        ("POST", "/deployments", {"model": "x", "runtime": "sim", "name": "a b"}, 422),
        ("GET", "/deployments/nothing", None, 404),
        ("DELETE", "/deployments/nothing", None, 404),
        ("GET", "/nodes/nothing", None, 404),
        ("GET", "/nowhere", None, 404),
        ("GET", "/deployments?limit=0", None, 400),
    ):
        answer = cluster.api(method, path, body)
        assert answer.status == status, f"{method} {path} {body}: {answer}"
        error = answer.json["error"]
        assert error["message"] and error["code"] and error["request_id"], error
