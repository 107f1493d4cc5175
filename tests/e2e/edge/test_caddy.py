"""Nodes are reached by their own names through a real Caddy, whatever happens to nodes, to Caddy and to nebulad.

One cluster for all of them: two nodes that stay, each with a deployment of its own, and others that come and go.
"""

import signal
import time

import pytest

from caddy import GATEWAY, UNKNOWN, is_unknown, route_of
from cluster import call
from edged import CHAT, CONVERGED_SECONDS, DOMAIN, Edged, Watched, chat_body, foreign_texts
from processes import Group, wait_until
from several import TIMEOUT_SECONDS, Stream

STAY = {"node-1": "alpha", "node-2": "beta"}
REPAIRED_SECONDS = 20
CANCEL_SECONDS = 1
# Longer than any test: what arrives of such a stream was not held back until its end.
ENDLESS = "x-sim-token-interval: 60s\r\n"


@pytest.fixture(scope="module")
def shared(caddy_program, tmp_path_factory):
    group = Group(tmp_path_factory.mktemp("caddy"))
    try:
        edge = Edged(group)
        edge.fix_ports()
        edge.caddy.start()
        edge.foreign = foreign_texts(edge.caddy)
        edge.start_edge()
        for node in STAY:
            edge.join(node)
        edge.hosts = {node: edge.wait_for_node("online", node)["gateway_subdomain"] for node in STAY}
        joined = time.monotonic()
        edge.paths = {node: edge.serve_on(node, model) for node, model in STAY.items()}
        for node, model in STAY.items():
            edge.wait_until_led(edge.hosts[node], edge.paths[node], model)
        assert time.monotonic() - joined < CONVERGED_SECONDS
        yield edge
    except BaseException:
        for name, text in group.logs():
            print(f"--- {name}\n{text}")
        raise
    finally:
        group.end()


@pytest.fixture
def edge(shared, request):
    """The cluster in sync, before the test and after it; what is not ours is as it was."""
    request.node.processes = shared.group
    shared.in_sync(REPAIRED_SECONDS)
    yield shared
    shared.in_sync(REPAIRED_SECONDS)
    assert foreign_texts(shared.caddy) == shared.foreign


def answers_everywhere(edge):
    """Both nodes that stay, through Caddy."""
    chat = lambda node, model: edge.chat_at(edge.hosts[node], edge.paths[node], model).status
    return [chat(node, model) for node, model in STAY.items()] == [200, 200]


# --- who is reached


def test_each_name_leads_to_its_own_node(edge):
    for node, model in STAY.items():
        assert edge.hosts[node] == f"{edge.node(node)['id'].replace('-', '')[:8]}.{DOMAIN}"
        answer = edge.chat_at(edge.hosts[node], edge.paths[node], model)
        assert answer.json["choices"][0]["message"]["content"], answer
    other = edge.chat_at(edge.hosts["node-2"], edge.paths["node-1"], "alpha")
    assert other.status == 404 and not is_unknown(other), "another node's proxy knows no such deployment"
    for host in (f"nobody.{DOMAIN}", "elsewhere.example", "127.0.0.1"):
        assert is_unknown(edge.caddy.ask(host, CHAT, chat_body("alpha"))), host
    assert edge.caddy.routes() == [GATEWAY, *sorted(route_of(host) for host in edge.hosts.values()), UNKNOWN]
    assert call("GET", f"http://127.0.0.1:{edge.shop_port}/").status == 200


def test_the_domain_itself_leads_to_nebulad(edge):
    assert sorted(model["id"] for model in edge.caddy.ask(DOMAIN, "/v1/models").json["data"]) == sorted(STAY.values())
    for model in STAY.values():
        assert edge.chat_at(DOMAIN, CHAT, model).status == 200
    answer = edge.chat_at(DOMAIN, CHAT, "nothing")
    assert answer.json["error"]["type"] == "invalid_request_error", "errors are nebulad's own"


@pytest.mark.parametrize("way", ["to a node", "to nebulad"])
def test_a_stream_comes_piece_by_piece_and_ends_with_its_client(edge, way, figures):
    """The engine has said one word and is not going to say another: that word arrives."""
    [replica] = edge.replicas("alpha")
    stats = f"http://127.0.0.1:{replica['port']}/sim/stats"
    cancelled = lambda: call("GET", stats).json["cancelled"]
    before = cancelled()
    host, path = (edge.hosts["node-1"], edge.paths["node-1"]) if way == "to a node" else (DOMAIN, CHAT)
    with edge.line(host, path, "alpha", ENDLESS) as line:
        assert b" 200 " in line.until(b"\r\n")
        line.until(b"data: {")
        assert cancelled() == before
    left = time.monotonic()
    wait_until("the engine's work ends", lambda: cancelled() > before, 10)
    took = time.monotonic() - left
    figures(f"hang-up through Caddy {way}: the engine is rid of it after {took * 1000:.0f} ms")
    assert took < CANCEL_SECONDS


# --- nodes come and go


def test_a_stream_outlives_nodes_that_come_and_go(edge, figures):
    """Each of them makes Caddy load its configuration anew."""
    host, path = edge.hosts["node-1"], edge.paths["node-1"]
    streams = [
        Stream(edge.caddy.listen, "alpha", 300, "20ms", host=host, path=path),
        Stream(edge.caddy.listen, "alpha", 300, "20ms", host=DOMAIN),
    ]
    for stream in streams:
        stream.wait_until_open()
    hosts, added, gone, open_after = set(), [], [], []
    for _ in range(2):
        agent = edge.join("node-3", "--deregister-on-stop")
        hosts.add(edge.wait_for_node("online", "node-3")["gateway_subdomain"])
        route = route_of(min(hosts))
        began = time.monotonic()
        wait_until("its route is there", lambda: route in edge.caddy.routes(), CONVERGED_SECONDS)
        added.append(time.monotonic() - began)
        leave(agent)
        began = time.monotonic()
        wait_until("its route is gone", lambda: route not in edge.caddy.routes(), CONVERGED_SECONDS)
        gone.append(time.monotonic() - began)
        open_after.append(all(stream.is_open() for stream in streams))
    assert len(hosts) == 1, f"a node that comes back has the name it had: {hosts}"
    figures(f"route there {max(added):.1f} s after the node, gone {max(gone):.1f} s after its farewell")
    assert open_after[0], "at least one came and went while they were open"
    for stream in streams:
        stream.assert_ended_well()


def test_a_silent_node_is_gone_from_the_edge_until_it_is_back_by_the_same_name(edge, figures):
    edge.join("node-4")
    host = edge.wait_for_node("online", "node-4")["gateway_subdomain"]
    known = lambda: not is_unknown(edge.caddy.ask(host, "/"))
    wait_until("it is reached", known, CONVERGED_SECONDS)

    edge.agents["node-4"].wait_for_text("registered with nebulad", 10, "err")
    edge.agents["node-4"].kill()
    died = time.monotonic()
    states = Watched(lambda: (edge.node("node-4")["state"], route_of(host) in edge.caddy.routes()))
    with states, Watched(lambda: answers_everywhere(edge)) as others:
        edge.wait_for_node("offline", "node-4")
        offline = time.monotonic()
        wait_until("its route is gone", lambda: not known(), CONVERGED_SECONDS)
    figures(f"silent: offline after {offline - died:.1f} s, gone {time.monotonic() - offline:.1f} s later")
    assert offline - died >= TIMEOUT_SECONDS - 1.5
    assert states.seen["suspect", True] and not states.seen["suspect", False], f"suspects stay: {states.seen}"
    assert set(others.seen) == {True}, others.seen

    deleted = edge.nebulactl("nodes", "delete", "node-4", "--yes")
    assert deleted.popen.returncode == 0, deleted.err
    agent = edge.join("node-4", "--deregister-on-stop")
    assert edge.wait_for_node("online", "node-4")["gateway_subdomain"] == host, "who registers anew keeps its name"
    wait_until("it is reached again", known, CONVERGED_SECONDS)
    leave(agent)
    wait_until("it is gone for good", lambda: not known(), CONVERGED_SECONDS)


def leave(agent):
    agent.signal(signal.SIGTERM)
    agent.wait(20)


# --- Caddy and nebulad come and go


def test_caddy_that_was_away_for_a_while_is_made_right_soon_after(edge, figures):
    """Nodes come and go meanwhile."""
    edge.caddy.kill()
    agent = edge.join("node-3", "--deregister-on-stop")
    edge.wait_for_node("online", "node-3")
    shown = lambda: (status := edge.api("GET", "/edge").json["data"][0])["circuit"] == "open" and status
    status = wait_until("nebulad gives it up for the moment", shown, 15)
    assert (status["state"], status["last_error"]["trouble"]) == ("failing", "unreachable"), status
    leave(agent)
    edge.caddy.start()
    back = time.monotonic()
    wait_until("both nodes are reached", lambda: all_led(edge), CONVERGED_SECONDS)
    took = time.monotonic() - back
    assert len(edge.caddy.routes()) == len(STAY) + 2, "whoever left meanwhile has none"
    figures(f"Caddy away for long: {took:.1f} s after its return all is well")


def all_led(edge):
    return all(edge.leads(edge.hosts[node], edge.paths[node], model) for node, model in STAY.items())


def test_a_killed_nebulad_takes_nothing_from_the_edge(edge, figures):
    """Nodes serve through Caddy while it is away; that it has another port afterwards is put right."""
    routes = edge.caddy.routes()
    with Watched(lambda: answers_everywhere(edge)) as nodes, Watched(lambda: " ".join(edge.caddy.routes())) as kept:
        edge.nebulad.kill()
        wait_until("they serve without nebulad", lambda: nodes.seen[True] >= 5, 10)
        was, edge.http_addr = edge.http_addr, None
        edge.start_edge()
        assert edge.http_addr != was
        ready = time.monotonic()
        wait_until("the domain leads to it", lambda: edge.leads(DOMAIN, CHAT, "alpha"), CONVERGED_SECONDS)
        took = time.monotonic() - ready
        for node in STAY:
            edge.wait_for_node("online", node)
        edge.in_sync()
    assert set(nodes.seen) == {True}, nodes.seen
    assert set(kept.seen) == {" ".join(routes)}, kept.seen
    looks = nodes.seen.total()
    figures(f"nebulad killed: {looks} looks at both nodes, all answered; its own route right {took:.1f} s after it")


# --- what operators see and do


def test_the_actor_is_shown_among_the_others(edge):
    admin = f"http://{edge.http_addr}/admin/actors"
    page = call("GET", f"{admin}/edge/caddy", token=edge.admin_token).json
    assert (page["path"], page["state"], page["restarts"]) == ("/edge/caddy", "running", 0), page
    assert page["status"]["state"] == "in_sync" and page["status"]["target"] == edge.caddy.admin_url, page
    assert page["status"]["wanted"] == len(STAY), "the nodes"
    tree = call("GET", admin, token=edge.admin_token).body.decode().replace(": ", ":")
    for path in ("/edge", "/edge/caddy", "/edge/route53"):
        assert f'"path":"{path}"' in tree, path
    config = edge.caddy.get()
    answer = call("POST", f"{admin}/edge/caddy/restart", token=edge.admin_token)
    assert answer.status == 409 and "/edge/caddy is running" in answer.json["error"]["message"], answer
    assert edge.caddy.get() == config and answers_everywhere(edge)


def test_status_and_metrics_tell_that_all_is_well(edge):
    caddy, route53 = edge.told("edge", "status")
    assert (caddy["name"], caddy["configured"], caddy["state"]) == ("caddy", True, "in_sync")
    assert (route53["name"], route53["configured"], route53["state"]) == ("route53", False, "off")
    assert caddy["lag_seconds"] == 0 and caddy["circuit"] == "closed", caddy
    words = edge.nebulactl("edge", "status").out
    assert edge.caddy.admin_url in words and "in_sync" in words.replace(" ", "_"), words
    metrics = call("GET", f"http://{edge.http_addr}/metrics").body.decode()
    for line in ('nebula_edge_up{edge="caddy"} 1', 'nebula_edge_differences{edge="caddy"} 0'):
        assert line in metrics, line
    assert 'edge="route53"' not in metrics, "what is not configured has no figures"
    [plan] = edge.told("edge", "plan")
    assert (plan["name"], plan["changes"], plan["blocked"], plan["error"]) == ("caddy", [], [], None), plan
