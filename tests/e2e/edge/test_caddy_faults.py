"""What is wrong with Caddy is told and harms nobody; what is damaged or lost is mended, and what is not ours is left.

Each case has a cluster of its own, and all of them run at the same time: most of each is waiting.
"""

import json
import random
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bad_edges import BAD, assert_told
from caddy import GATEWAY, OURS, UNKNOWN, edge_status, is_unknown, route_of
from cluster import call
from edged import CHAT, CONVERGED_SECONDS, DOMAIN, EDGE_PORTS, Edged, Watched, foreign_texts
from processes import PORTS_EACH, PORTS_SHARES, Group, free_ports, wait_until

# A node is suspect when nebulad has heard nothing of it for half of the timeout: for less than one call to Caddy takes.
TIMES = ("--heartbeat-timeout", "8", "--default-heartbeat-interval", "1")
FAILED_SECONDS = 20
REPAIRED_SECONDS = 20
# So much of the time between two rounds is left that none comes in between.
QUIET_SECONDS = 11
TEAM = {
    "@id": "team-route",
    "match": [{"host": ["team.example"]}],
    "handle": [
        # What one loses by reading such numbers and texts and writing them again.
        {"handler": "vars", "large": 1e21, "small": 1e-7, "whole": 2.0, "text": "<&> \u2028 \\u00fc", "nothing": None},
        {"handler": "static_response", "body": "the team's <own> & only"},
    ],
}
# Without an id, and for everybody.
NAMELESS = {"handle": [{"handler": "headers", "response": {"set": {"X-Team": ["was here"]}}}]}


def waits_for_nobody(edge, bad):
    """Nodes join, deployments start and chats are answered while something is wrong with Caddy; then it is cured."""
    bad.begin(edge)
    edge.start_edge(times=TIMES)
    edge.join("node-1")
    host = edge.wait_for_node("online", "node-1")["gateway_subdomain"]
    with Watched(lambda: edge.node("node-1")["state"]) as states:
        path = edge.serve_on("node-1", "alpha")
        # The lag is told in whole seconds.
        failing = lambda: (status := edge_status(edge))["last_error"] and status["lag_seconds"] > 0 and status
        status = wait_until("it is told what is wrong", failing, FAILED_SECONDS)
        assert_told(bad, edge, status)
        page = call("GET", f"http://{edge.http_addr}/admin/actors/edge/caddy", token=edge.admin_token).json
        assert page["status"]["last_error"]["message"] == status["last_error"]["message"], page
        assert 'nebula_edge_up{edge="caddy"} 0' in call("GET", f"http://{edge.http_addr}/metrics").body.decode()
        assert_planned(edge)
        edge.join("node-2")
        second = edge.wait_for_node("online", "node-2")["gateway_subdomain"]
        assert edge.chat("alpha").status == 200
        assert not edge.leads(host, path, "alpha"), "Caddy has no route yet"

        bad.cure(edge)
        cured = time.monotonic()
        edge.wait_until_led(host, path, "alpha", bad.within)
        took = time.monotonic() - cured
        wait_until("the other node is reached", lambda: not is_unknown(edge.caddy.ask(second)), CONVERGED_SECONDS)
        status = edge.in_sync()
    assert status["last_error"] is None and status["lag_seconds"] == 0, status
    assert set(states.seen) == {"online"}, states.seen
    assert edge.chat_at(DOMAIN, CHAT, "alpha").status == 200
    if edge.caddy.config_at_start:
        assert call("GET", f"http://127.0.0.1:{edge.shop_port}/").status == 200
    return f"{took:.1f} s after the cure all was well; it said: {bad.said}"


def assert_planned(edge):
    """A plan tells what would be changed; where Caddy cannot be asked it tells why, and fails."""
    [plan] = edge.api("GET", "/edge/plan").json["data"]
    assert plan["error"] or plan["changes"], plan
    process = edge.nebulactl("edge", "plan")
    if plan["error"]:
        assert process.popen.returncode == 1 and plan["error"]["message"] in process.err, process.err
    else:
        assert process.popen.returncode == 0 and plan["changes"][0]["name"] in process.out, process.err


def damaged_by_hand(edge):
    """All kinds of damage at once: first only shown, then mended, and the whole configuration is as it was."""
    edge.caddy.start()
    # Until the grace is over the route of a node that nobody knows would stay.
    edge.start_edge("--restart-grace", "1")
    edge.in_sync()
    server = f"/config/apps/http/servers/{OURS}"
    edge.caddy.change("PUT", f"{server}/routes/0", TEAM)
    for route in (NAMELESS, TEAM | {"@id": "team-again"}):
        edge.caddy.change("POST", f"{server}/routes", route)
    for node in ("node-1", "node-2"):
        edge.join(node)
    hosts = [edge.wait_for_node("online", node)["gateway_subdomain"] for node in ("node-1", "node-2")]
    path = edge.serve_on("node-1", "alpha")
    edge.wait_until_led(hosts[0], path, "alpha")
    ordered = [GATEWAY, *sorted(map(route_of, hosts)), "team-route", None, "team-again", UNKNOWN]
    wait_until("foreign routes have their place", lambda: edge.caddy.routes() == ordered, CONVERGED_SECONDS)
    foreign = foreign_texts(edge.caddy) | {id: edge.caddy.get(f"/id/{id}") for id in ("team-route", "team-again")}
    edge.in_sync()
    quiet = lambda: (edge_status(edge)["next_round_in_seconds"] or 0) > QUIET_SECONDS
    wait_until("a round has just ended", quiet, REPAIRED_SECONDS)
    good = edge.caddy.get()

    edge.caddy.change("PATCH", server, damaged(edge.caddy.server(), hosts))
    began = time.monotonic()
    broken = edge.caddy.get()
    [plan] = edge.told("edge", "plan", "caddy")
    words = edge.nebulactl("edge", "plan").out
    assert edge.caddy.get() == broken, "a plan changes nothing"
    planned = {(change["verb"], change["name"]) for change in plan["changes"]}
    leftover = f"deadbeef.{DOMAIN}"
    wanted = {("change", hosts[0]), ("add", hosts[1]), ("change", DOMAIN), ("remove", leftover), ("change", OURS)}
    assert wanted <= planned, planned
    assert plan["changes_total"] == len(plan["changes"]) and plan["error"] is None, plan
    for sign, name in (("~", hosts[0]), ("+", hosts[1]), ("~", DOMAIN), ("-", leftover), ("~", OURS)):
        assert re.search(rf"^{re.escape(sign)} .*{re.escape(name)}", words, re.MULTILINE), words

    wait_until("it is as it was", lambda: edge.caddy.get() == good, REPAIRED_SECONDS)
    took = time.monotonic() - began
    assert edge.leads(hosts[0], path, "alpha")
    edge.in_sync()
    after = foreign_texts(edge.caddy) | {id: edge.caddy.get(f"/id/{id}") for id in ("team-route", "team-again")}
    assert after == foreign
    assert edge.caddy.ask("team.example").body.decode() == TEAM["handle"][-1]["body"]
    return f"{took:.1f} s until all was mended"


def damaged(server, hosts):
    """Our server with something wrong at each of its parts."""
    routes = {route.get("@id"): route for route in server["routes"]}
    first, second = map(route_of, hosts)
    del routes[second], routes[UNKNOWN]
    routes[first]["handle"][0]["upstreams"][0]["dial"] = f"127.0.0.1:{free_ports(1)[0]}"
    routes[GATEWAY]["match"] = [{"host": [f"wrong.{DOMAIN}"]}]
    leftover = json.loads(json.dumps(routes[first])) | {"@id": "nebula-node-deadbeef"}
    leftover["match"] = [{"host": [f"deadbeef.{DOMAIN}"]}]
    ours = [id for id in routes if id and id.startswith("nebula-")]
    shuffled = [leftover, *(routes.pop(id) for id in reversed(ours)), *routes.values()]
    return server | {"routes": shuffled, "max_header_bytes": 12345}


def back_without_its_state(edge):
    """Caddy's routes were only in its memory. Through nebulad's own gateway nobody notices that it was gone."""
    edge.caddy.start()
    edge.start_edge()
    edge.join("node-1")
    host = edge.wait_for_node("online", "node-1")["gateway_subdomain"]
    path = edge.serve_on("node-1", "alpha")
    edge.wait_until_led(host, path, "alpha")
    status = edge.in_sync()
    foreign = foreign_texts(edge.caddy)
    with edge.asked("alpha", 300, 50):
        edge.caddy.kill()
        edge.caddy.start()
        back = time.monotonic()
        assert edge.caddy.server() is None and foreign_texts(edge.caddy) == foreign
        edge.wait_until_led(host, path, "alpha", REPAIRED_SECONDS)
        took = time.monotonic() - back
    after = edge.in_sync()
    assert after["changes_total"] > status["changes_total"] and edge.leads(DOMAIN, CHAT, "alpha"), after
    assert foreign_texts(edge.caddy) == foreign
    return f"repaired after {took:.1f} s, 0 requests failed at the gateway"


def adopted_later(edge):
    """Caddy comes after the nodes, with a server of its owner's that is marked as ours to put routes into."""
    edge.start_edge()
    edge.join("node-1")
    host = edge.wait_for_node("online", "node-1")["gateway_subdomain"]
    path = edge.serve_on("node-1", "alpha")
    open = lambda: edge_status(edge)["circuit"] == "open"
    wait_until("nebulad has given Caddy up for the moment", open, FAILED_SECONDS)
    assert edge.chat("alpha").status == 200
    front = {
        "@id": "nebula-server",
        "listen": [edge.caddy.listen, f"127.0.0.1:{edge.shop_port}"],
        "automatic_https": {"disable": True},
        "read_timeout": 61000000000,
        "routes": [TEAM],
        "errors": {"routes": [{"handle": [{"handler": "static_response", "body": "sorry"}]}]},
    }
    edge.caddy.config_at_start = {"apps": {"http": {"servers": {"front": front}}}, "logging": {"sink": {}}}
    edge.caddy.start()
    back = time.monotonic()
    parts = [f"/config/apps/http/servers/front/{part}" for part in front if part not in ("@id", "routes")]
    parts += ["/config/admin", "/config/logging", "/id/team-route"]
    foreign = {part: edge.caddy.get(part) for part in parts}
    edge.wait_until_led(host, path, "alpha")
    took = time.monotonic() - back
    edge.in_sync()
    assert edge.caddy.server() is None, "there is no second server"
    assert edge.caddy.routes("front") == [GATEWAY, route_of(host), "team-route"]
    edge.agents["node-1"].kill()
    edge.wait_for_node("offline", "node-1")
    wait_until("its route is gone", lambda: edge.caddy.routes("front") == [GATEWAY, "team-route"], CONVERGED_SECONDS)
    assert {part: edge.caddy.get(part) for part in parts} == foreign
    assert sorted(edge.caddy.server("front")) == sorted(front), "no field was added or taken"
    assert edge.caddy.ask("team.example").body.decode() == TEAM["handle"][-1]["body"]
    return f"{took:.1f} s after Caddy came its nodes were reached"


CASES = {name: lambda edge, bad=bad: waits_for_nobody(edge, bad()) for name, bad in BAD.items()}
# There Caddy has no configuration of its own at all.
EMPTY = "nothing listens"
CASES |= {
    "damaged by hand": damaged_by_hand,
    "back without its state": back_without_its_state,
    "away at the start, with a server to adopt": adopted_later,
}


@pytest.fixture(scope="module")
def cases(caddy_program, tmp_path_factory):
    """All of them, running, each with the processes it has."""
    groups = {name: Group(tmp_path_factory.mktemp("edge")) for name in CASES}
    # Chosen together, so that no two have the same: those of the runtimes, and those of Caddy.
    for group, first in zip(groups.values(), random.sample(PORTS_SHARES, len(CASES))):
        group.port_range = f"{first}-{first + PORTS_EACH - 1}"
    ports = iter(free_ports(EDGE_PORTS * len(CASES)))
    edges = {name: Edged(groups[name], name != EMPTY, [next(ports) for _ in range(EDGE_PORTS)]) for name in CASES}
    try:
        with ThreadPoolExecutor(len(CASES)) as pool:
            yield {name: (pool.submit(CASES[name], edges[name]), groups[name]) for name in CASES}
    finally:
        for group in groups.values():
            group.end()


@pytest.mark.parametrize("name", CASES)
def test_whatever_is_wrong(cases, name, request, figures):
    future, request.node.processes = cases[name]
    figures(f"{name}: {future.result()}")
