"""One replica from its deployment to its end, in a container and as a process."""

import base64
import re
import socket
from pathlib import Path

import grpc
import pytest

from cluster import call
from exec_stream import Exec
from nebula import CONTAINER_MEMORY_BYTES, DRIVERS, Nebula
from processes import command_of, wait_until

SECRET = "a-secret-of-the-agent"
MARKER = r"marker [0-9a-f-]{36}"
SAYS_MARKER = "echo marker $(cat /proc/sys/kernel/random/uuid); echo to standard error >&2"
EFFECTIVE_CAPABILITIES = r"CapEff:\s+0+\n"

both = pytest.mark.parametrize("driver", DRIVERS)


@pytest.fixture(scope="module")
def nebula(module_group, engine):
    """For each driver a deployment that stays, one that is restarted, and one that is deleted."""
    nebula = Nebula(module_group, engine)
    nebula.start(env={"AWS_SECRET_ACCESS_KEY": SECRET, "HF_TOKEN": SECRET})
    nebula.tokens = {}
    for driver in DRIVERS:
        nebula.tokens[driver] = nebula.deploy_simulated(driver, f"stays-{driver}", first=SAYS_MARKER)["access_token"]
        nebula.deploy_simulated(driver, f"restarts-{driver}", first=SAYS_MARKER)
        nebula.deploy_simulated(driver, f"goes-{driver}", public=True)
    for driver in DRIVERS:
        for name in ("stays", "restarts", "goes"):
            nebula.wait_for_deployment(f"{name}-{driver}", "running")
    # They are started again after ten seconds, while the first tests run.
    nebula.followed = follow_and_kill(nebula)
    return nebula


def follow_and_kill(nebula):
    """For each driver what the log said at first and who follows it; then both runtimes are killed, at once."""
    followed = {}
    for driver in DRIVERS:
        name = f"restarts-{driver}"
        log = nebula.nebulactl("logs", name)
        assert "to standard error" in log.out, log.err
        assert not re.findall(MARKER, nebula.nebulactl("logs", name, "--previous").out), "there is no previous one"
        following = nebula.group.start("nebulactl", "logs", "-f", name, env=nebula.operator())
        following.wait_for_text(MARKER, 10)
        followed[driver] = re.findall(MARKER, log.out), following
    for driver in DRIVERS:
        nebula.kill_runtime(f"restarts-{driver}")
    return followed


@both
def test_it_is_listed_and_answers(nebula, driver):
    name = f"stays-{driver}"
    listed = {each["name"]: each for each in nebula.told("list")}
    assert (listed[name]["state"], listed[name]["driver"]) == ("running", driver)
    replica = nebula.replica(name)
    assert replica["restarts"] == 0 and replica["node_name"] == "node-1"
    if driver == "docker":
        assert nebula.container(name).startswith(replica["container_id"]) and replica["container_id"]
    wait_until("the gateway has its route", lambda: nebula.chats(name), 10)
    assert nebula.chat(name, nebula.tokens[driver]).status == 200
    assert nebula.chat(name).status == 401

    with nebula.agent_client() as agent:
        listed = agent.call("proto.AgentService/ListDeployments", {})["deployments"]
        told = {each["deployment_id"]: each for each in listed}[nebula.deployment(name)["id"]]
        assert (told["status"], told["port"], told["runtime"]) == ("running", replica["port"], "sim")


def test_the_node_tells_of_its_engine(nebula):
    with nebula.agent_client() as agent:
        told = agent.call("proto.AgentService/GetSystemInfo", {})
        assert told["docker_version"] == nebula.engine.get("/version")["Version"]
        assert told["cpu_cores"] > 0 and int(told["memory_bytes"]) > 0 and told["hostname"]
        assert agent.call("proto.AgentService/GetHealth", {})["health"]["status"] == "healthy"


def test_a_container_has_no_more_rights_than_it_needs(nebula):
    name = "stays-docker"
    deployment, replica = nebula.deployment(name), nebula.replica(name)
    found = nebula.engine.inspect(nebula.container(name))
    host, labels = found["HostConfig"], found["Config"]["Labels"]

    assert {"no-new-privileges", "no-new-privileges:true"} & set(host["SecurityOpt"])
    assert [name.upper() for name in host["CapDrop"]] == ["ALL"]
    assert not host["CapAdd"] and not host["Privileged"]
    assert 0 < host["PidsLimit"] <= 65536
    assert host["Memory"] == CONTAINER_MEMORY_BYTES
    assert host["RestartPolicy"]["Name"] in ("", "no"), "the agent decides when it is started again"
    assert host["NetworkMode"] not in ("host",) and not host["NetworkMode"].startswith("container:")
    for kind in ("PidMode", "UTSMode", "UsernsMode"):
        assert host[kind] == "", kind
    assert host["IpcMode"] in ("private", "shareable", "none", "")
    assert host["LogConfig"]["Type"] == "json-file" and "max-size" in host["LogConfig"]["Config"] or (
        host["LogConfig"]["Type"] in ("local", "none")
    ), f"the Engine's copy of the log has no bound: {host['LogConfig']}"
    mounted = [mount.get("Source", "") for mount in found["Mounts"]]
    assert not [source for source in mounted if source.endswith(".sock")], mounted

    assert labels["nebula.deployment"] == deployment["id"]
    assert labels["nebula.replica"] == replica["id"]
    assert labels["nebula.generation"] == str(replica["generation"])
    assert labels["nebula.node"] == replica["node_id"]
    assert re.fullmatch(r"[0-9a-f]{6,64}", labels["nebula.config_hash"])
    assert SECRET not in str(found), "the agent's own credentials are not for its runtimes"

    inside = nebula.nebulactl("exec", name, "--", "cat", "/proc/self/status")
    assert re.search(EFFECTIVE_CAPABILITIES, inside.out), inside.out + inside.err
    assert re.search(r"NoNewPrivs:\s+1", inside.out), inside.out


@both
def test_only_this_machine_reaches_a_runtime(nebula, driver):
    port = nebula.replica(f"stays-{driver}")["port"]
    assert nebula.first_port <= port
    lines = [line.split() for path in ("tcp", "tcp6") for line in Path(f"/proc/net/{path}").read_text().splitlines()]
    lines = [line for line in lines if line[0] != "sl"]
    listening = [line[1] for line in lines if line[3] == "0A" and int(line[1].rsplit(":", 1)[1], 16) == port]
    assert listening == [f"0100007F:{port:04X}"]


@both
def test_exec_tells_what_the_command_said_and_how_it_ended(nebula, driver):
    name = f"stays-{driver}"
    script = "echo to out; echo to err >&2; echo port $PORT; exit 7"
    ran = nebula.nebulactl("exec", name, "--", "sh", "-c", script)
    assert ran.popen.returncode == 7, ran.err
    port = "8000" if driver == "docker" else str(nebula.replica(name)["port"])
    assert ran.out == f"to out\nport {port}\n"
    assert "to err" in ran.err
    assert nebula.nebulactl("exec", name, "--", "true").popen.returncode == 0

    missing = nebula.nebulactl("exec", name, "--", "no-such-program")
    assert missing.popen.returncode not in (0, 7)
    assert "no-such-program" in missing.err
    deployment_id = nebula.deployment(name)["id"]
    with nebula.agent_client() as agent:
        request = {"deployment_id": deployment_id, "command": ["sleep", "600"], "timeout_seconds": 1}
        with pytest.raises(grpc.RpcError) as caught:
            agent.call("proto.AgentService/ExecCommand", request)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED, caught.value
    wait_until("what took too long has ended", lambda: not sleepers(nebula, driver, "600"), 10)


def sleepers(nebula, driver, seconds):
    """Whether a `sleep` of this length runs beside the replica."""
    if driver == "docker":
        running = nebula.engine.processes(nebula.container("stays-docker"))
        return [line for line in running if f"sleep {seconds}" in line]
    commands = [command_of(pid) for pid in nebula.group.running()]
    # A process that has just ended has no command any more.
    return [command for command in commands if command[1:2] == [seconds] and Path(command[0]).name == "sleep"]


@both
def test_a_terminal_in_a_replica(nebula, driver):
    deployment_id = nebula.deployment(f"stays-{driver}")["id"]
    with nebula.agent_client() as agent:
        shell = Exec(agent, deployment_id, ["sh"], tty=True)
        shell.resize(123, 45)
        shell.type("echo is $(test -t 0 && echo a) terminal\n")
        shell.wait_for_text(r"is a terminal")
        shell.type("stty size\n")
        shell.wait_for_text(r"45 123")
        shell.resize(100, 30)
        # The window's new size comes on another way than what is typed.
        shell.type("while [ \"$(stty size)\" != '30 100' ]; do sleep 0.1; done; echo now $(stty size)\n")
        shell.wait_for_text(r"now 30 100")
        shell.type("sleep 601\n")
        wait_until("the command in the terminal runs", lambda: sleepers(nebula, driver, "601"), 10)
        shell.type("\x03")
        wait_until("Ctrl-C ended it", lambda: not sleepers(nebula, driver, "601"), 10)
        shell.type("exit 5\n")
        assert shell.wait() == 5


@both
def test_a_command_without_a_terminal_is_fed_and_hung_up(nebula, driver):
    deployment_id = nebula.deployment(f"stays-{driver}")["id"]
    with nebula.agent_client() as agent:
        feed = Exec(agent, deployment_id, ["sh", "-c", "cat; echo end of input >&2; exit 3"])
        feed.type("one line\n")
        feed.wait_for_text("one line\n")
        feed.send(close_stdin=True)
        assert feed.wait() == 3
        assert (feed.out, feed.err) == (b"one line\n", b"end of input\n")

        left = Exec(agent, deployment_id, ["sleep", "602"])
        wait_until("it runs", lambda: sleepers(nebula, driver, "602"), 10)
        left.hang_up()
        wait_until("it ended with its caller", lambda: not sleepers(nebula, driver, "602"), 10)


@both
def test_a_log_as_a_stream_from_the_agent(nebula, driver):
    request = {"deployment_id": nebula.deployment(f"stays-{driver}")["id"], "tail": 100}
    with nebula.agent_client() as agent:
        pieces = agent.stream("proto.AgentService/StreamDeploymentLogs", request)
        text = b"".join(base64.b64decode(piece["data"]) for piece in pieces).decode()
    assert re.search(MARKER, text) and "simulated model" in text


@both
def test_the_log_is_followed_over_a_restart_and_the_previous_one_is_kept(nebula, driver):
    name = f"restarts-{driver}"
    first, following = nebula.followed[driver]
    assert len(first) == 1
    nebula.wait_for_restart(name)
    following.wait_for_text(rf"(?s){first[0]}.*{MARKER}.*simulated model", 10)
    assert following.is_alive()
    following.kill()
    log = lambda *flags: nebula.nebulactl("logs", name, *flags).out
    second = re.findall(MARKER, log())
    assert len(second) == 1 and second != first
    assert re.findall(MARKER, log("--previous")) == first
    assert log("--tail", "1").count("\n") == 1


@both
def test_what_happened_is_told(nebula, driver):
    name = f"restarts-{driver}"
    nebula.wait_for_restart(name)
    told = " ".join(f"{event['type']} {event['message']}" for event in nebula.events(name)).lower()
    for word in ("running", "137" if driver == "docker" else "signal 9"):
        assert word in told, told
    with nebula.agent_client() as agent:
        request = {"deployment_id": nebula.deployment(name)["id"], "limit": 100}
        events = agent.call("proto.AgentService/GetDeploymentEvents", request)["events"]
    assert len(events) >= 3
    times = [int(event["timestamp"]) for event in events]
    assert times == sorted(times) and times[0] > 0
    assert all(event["type"] for event in events)


@both
def test_a_stop_and_a_start(nebula, driver):
    name = f"goes-{driver}"
    nebula.told("stop", name)
    nebula.wait_for_deployment(name, "stopped")
    assert nebula.runs(name) == 0
    assert nebula.chat(name).status == 503
    nebula.told("start", name)
    nebula.wait_for_deployment(name, "running")
    wait_until("it answers", lambda: nebula.chat(name).status == 200, 10)
    assert nebula.runs(name) == 1


@both
def test_what_is_deleted_leaves_nothing_behind(nebula, driver):
    name = f"goes-{driver}"
    nebula.wait_for_deployment(name, "running")
    deployment, replica = nebula.deployment(name), nebula.replica(name)
    proxy = replica["endpoint"]
    assert call("GET", f"{proxy}/v1/models").status == 200
    assert [path for path in nebula.agent_dir.rglob(f"*{replica['id']}*")], "it has files of its own"

    nebula.nebulactl("delete", name, "--yes")
    wait_until("it is gone", lambda: nebula.is_gone(name), 20)
    ours = lambda: nebula.engine.containers(deployment=deployment["id"])
    wait_until("it has no container", lambda: not ours(), 10)
    assert not nebula.engine.get("/volumes")["Volumes"]
    assert call("GET", f"{proxy}/v1/models").status == 404
    wait_until("its files are gone", lambda: not [*nebula.agent_dir.rglob(f"*{replica['id']}*")], 10)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", replica["port"]))
    with nebula.agent_client() as agent:
        with pytest.raises(grpc.RpcError) as caught:
            agent.call("proto.AgentService/GetDeployment", {"deployment_id": deployment["id"]})
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
