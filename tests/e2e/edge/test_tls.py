"""HTTPS by name through a real Caddy that was given a wildcard certificate."""

import time
from contextlib import contextmanager

import pytest

from caddy import Caddy
from cluster import call
from certificates import Authority, Client, CountingAcme, Http2Stream, leads
from edged import CHAT, CONVERGED_SECONDS, DOMAIN, chat_body
from processes import Group, wait_until
from secured import ENDLESS, MANAGED, WILDCARD, assert_all_led, caddy_with, edged

CANCEL_SECONDS = 1
BOTH = pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])


@pytest.fixture(scope="module")
def shared(https_port, tmp_path_factory):
    directory = tmp_path_factory.mktemp("tls")
    authority = Authority(directory)
    group = Group(directory)
    with CountingAcme() as acme:
        try:
            files = [authority.certificate(WILDCARD, DOMAIN)]
            automation = {"policies": [{"issuers": [acme.issuer]}]}
            caddy = caddy_with(group, {"certificates": {"load_files": files}, "automation": automation})
            edge = edged(group, caddy)
            edge.root, edge.acme = authority.root, acme
            yield edge
        except BaseException:
            for name, text in group.logs():
                print(f"--- {name}\n{text}")
            raise
        finally:
            group.end()


@pytest.fixture
def edge(shared, request):
    request.node.processes = shared.group
    shared.in_sync()
    return shared


@BOTH
def test_each_name_is_served_with_the_wildcard_certificate(edge, http2):
    assert_all_led(edge, edge.root, http2)
    with Client(edge.root, http2) as client:
        answer = client.ask(f"nobody.{DOMAIN}", "/")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_host"), answer.text


@pytest.mark.parametrize("way", ["to a node", "to nebulad"])
@BOTH
def test_a_stream_comes_piece_by_piece_and_ends_with_its_client(edge, http2, way, figures):
    """By HTTP/2 the client ends the stream and keeps its connection."""
    [replica] = edge.replicas("alpha")
    cancelled = lambda: call("GET", f"http://127.0.0.1:{replica['port']}/sim/stats").json["cancelled"]
    before = cancelled()
    host, path = (edge.hosts["node-1"], edge.paths["node-1"]) if way == "to a node" else (DOMAIN, CHAT)
    with begun(edge, http2, host, path) as hang_up:
        assert cancelled() == before
        hang_up()
        left = time.monotonic()
        wait_until("the engine's work ends", lambda: cancelled() > before, 10)
    took = time.monotonic() - left
    figures(f"hang-up by HTTP/{2 if http2 else 1} over TLS {way}: the engine is rid of it after {took * 1000:.0f} ms")
    assert took < CANCEL_SECONDS


@contextmanager
def begun(edge, http2, host, path):
    """A stream of which the first words have come; gives what ends it."""
    body = chat_body("alpha") | {"stream": True}
    if http2:
        with Http2Stream(edge.root, host, path, body, ENDLESS) as stream:
            stream.until(b"data: {")
            yield stream.reset
    else:
        with Client(edge.root, http2) as client:
            answer = client.stream(host, path, body, ENDLESS)
            # Who drops an iterator of httpx hangs up.
            lines = answer.iter_lines()
            assert any(line.startswith("data: {") for line in lines)
            yield answer.close


def test_no_certificate_is_asked_for_where_one_is_there(edge):
    """A node that joins later is covered, too."""
    edge.join("node-3")
    host = edge.wait_for_node("online", "node-3")["gateway_subdomain"]
    wait_until("it is reached", lambda: leads(edge.root, host, "/health"), CONVERGED_SECONDS)
    said = edge.caddy.process.err
    for name in (DOMAIN, host, *edge.hosts.values()):
        assert any('"skipping automatic certificate management' in line and f'"{name}"' in line for line in said.splitlines())
    assert MANAGED not in said
    assert edge.acme.asked == []


def test_plain_http_is_sent_to_https(edge):
    """Automatic HTTPS is Caddy's, on the server that we made."""
    assert "automatic_https" not in edge.caddy.server()
    plain = Caddy(edge.group, edge.caddy.admin_port, edge.caddy.redirects)
    for host in (DOMAIN, edge.hosts["node-1"]):
        answer = plain.ask(host, "/v1/models")
        assert (answer.status, answer.headers["location"]) == (308, f"https://{host}/v1/models")


def test_what_was_said_about_tls_stays_as_it_was(edge):
    assert edge.caddy.get("/config/apps/tls") == edge.tls
