"""nebulad, nebula-agent and nebulactl as separate processes, as an operator would use them."""

import re

from cluster import call
from processes import is_living, wait_until


def test_from_deploy_to_delete(cluster_with_agent):
    cluster = cluster_with_agent
    nodes = cluster.told("nodes", "list")
    assert [(node["name"], node["state"], node["scheduling"]) for node in nodes] == [
        ("node-1", "online", "schedulable")
    ]
    assert nodes[0]["capabilities"]["cpu_cores"] > 0
    assert "sim" in nodes[0]["capabilities"]["supported_runtimes"]
    assert nodes[0]["gateway_subdomain"].endswith(".gateway.nebulactl.com")

    made = cluster.told("deploy", "--model", "llama3.2:1b", "--runtime", "sim", "--wait")
    token = made["access_token"]
    assert (made["name"], made["state"], made["public"]) == ("llama3.2-1b", "running", False)
    assert re.fullmatch(r"nbtok_[0-9a-f]{48}", token)

    assert [deployment["name"] for deployment in cluster.told("list")] == ["llama3.2-1b"]
    one = cluster.told("get", "llama3.2-1b")
    assert "access_token" not in one, "a token is shown once"
    replica = one["replicas"][0]
    assert (replica["state"], replica["node_name"], replica["index"]) == ("running", "node-1", 0)
    assert 30000 <= replica["port"] <= 31000

    logs = cluster.nebulactl("logs", "llama3.2-1b")
    assert logs.popen.returncode == 0, logs.err
    assert logs.out.strip(), "the runtime's log is empty"

    for how in ([], ["--no-stream"], ["--api-key", token]):
        chat = cluster.nebulactl("chat", "llama3.2-1b", "hello", *how)
        assert chat.popen.returncode == 0, chat.err
        assert len(chat.out.split()) > 3, chat.out

    runtime = cluster.runtime_pid("llama3.2-1b")
    assert is_living(runtime)
    deleted = cluster.nebulactl("delete", "llama3.2-1b", "--yes")
    assert deleted.popen.returncode == 0, deleted.err
    wait_until("the deployment is gone", lambda: cluster.told("list") == [], 20)
    wait_until("the runtime has ended", lambda: not is_living(runtime), 20)
    assert cluster.chat("llama3.2-1b", cluster.admin_token).status == 404


def test_the_tables_are_readable(cluster_with_agent):
    cluster = cluster_with_agent
    cluster.deploy(model="demo", runtime="sim", public=True)
    cluster.wait_for_deployment("demo", "running")
    for command, words in (
        (["nodes", "list"], ["node-1", "online"]),
        (["list"], ["demo", "running", "sim"]),
        (["get", "demo"], ["demo", "running", "node-1"]),
        (["models"], ["demo"]),
        (["status"], ["online"]),
        (["actors"], ["registry", "router"]),
        (["events", "demo"], ["running"]),
    ):
        shown = cluster.nebulactl(*command)
        assert shown.popen.returncode == 0, f"{command}: {shown.err}"
        for word in words:
            assert word in shown.out, f"{word} is not in what {command} shows:\n{shown.out}"
        assert "\x1b" not in shown.out, "colour without a terminal"


def test_credentials_are_asked_for(cluster_with_agent):
    cluster = cluster_with_agent
    private = cluster.deploy(model="closed", runtime="sim")["access_token"]
    other = cluster.deploy(model="other", runtime="sim")["access_token"]
    cluster.deploy(model="open", runtime="sim", public=True)
    for name in ("closed", "other", "open"):
        cluster.wait_for_deployment(name, "running")

    for model, token, status in (
        ("open", None, 200),
        ("open", "nbtok_wrong", 200),
        ("closed", private, 200),
        ("closed", cluster.admin_token, 200),
        ("closed", None, 401),
        ("closed", "nbtok_wrong", 401),
        ("closed", other, 404),
        ("nothing", None, 401),
        ("nothing", private, 404),
    ):
        answer = cluster.chat(model, token)
        assert answer.status == status, f"{model} with {token}: {answer}"
    assert cluster.models() == ["open"]
    assert sorted(cluster.models(private)) == ["closed", "open"]
    assert sorted(cluster.models(cluster.admin_token)) == ["closed", "open", "other"]

    wrong = cluster.group.run("nebulactl", "list", env=cluster.operator() | {"NEBULA_TOKEN": "nbadm_wrong"})
    assert wrong.popen.returncode == 77, wrong.err
    assert call("GET", f"http://{cluster.http_addr}/api/v1/deployments").status == 401
    agents_proxy = cluster.deployment("closed")["replicas"][0]["endpoint"]
    body = {"model": "closed", "messages": [{"role": "user", "content": "hi"}]}
    assert call("POST", f"{agents_proxy}/v1/chat/completions", body).status == 401
    assert call("POST", f"{agents_proxy}/v1/chat/completions", body, other).status == 401
    assert call("POST", f"{agents_proxy}/v1/chat/completions", body, private).status == 200


def test_stop_start_scale_and_restart(cluster_with_agent):
    cluster = cluster_with_agent
    cluster.deploy(model="demo", runtime="sim", public=True)
    cluster.wait_for_deployment("demo", "running")

    cluster.told("stop", "demo")
    cluster.wait_for_deployment("demo", "stopped")
    assert cluster.chat("demo").status == 503
    assert cluster.models() == []

    cluster.told("start", "demo")
    cluster.wait_for_deployment("demo", "running")
    wait_until("it answers", lambda: cluster.chat("demo").status == 200, 10)

    cluster.told("scale", "demo", "2")
    states = lambda: [replica["state"] for replica in cluster.deployment("demo")["replicas"]]
    wait_until("two replicas run", lambda: states() == ["running", "running"], 20)
    cluster.told("scale", "demo", "1")
    wait_until("one replica runs", lambda: states() == ["running"], 20)

    before = cluster.runtime_pid("demo")
    cluster.told("restart", "demo")
    running = lambda: states() == ["running"] and cluster.runtime_pid("demo") != before
    wait_until("another process runs", running, 20)
    wait_until("the old one has ended", lambda: not is_living(before), 20)
    wait_until("it answers", lambda: cluster.chat("demo").status == 200, 10)


def test_stopping_the_agent_ends_its_runtimes(cluster_with_agent):
    cluster = cluster_with_agent
    cluster.deploy(model="demo", runtime="sim", public=True)
    cluster.wait_for_deployment("demo", "running")
    runtime = cluster.runtime_pid("demo")

    cluster.agent.popen.terminate()
    assert cluster.agent.wait(20) == 0, cluster.agent.err
    assert not is_living(runtime)
    cluster.nebulad.popen.terminate()
    assert cluster.nebulad.wait(20) == 0, cluster.nebulad.err
    cluster.group.assert_nothing_runs()
