"""HTTPS by name where Caddy makes the certificates itself, and where it is a server of the operator's that does.

Each way that the documentation shows is walked here, with Caddy's own authority in the place of a public one.
"""

import json
import subprocess

import pytest

from caddy import GATEWAY, HTTPS_PORT, UNKNOWN, Caddy, is_unknown, route_of
from certificates import Authority, Client, CountingAcme, leads
from edged import CHAT, DOMAIN, chat_body
from processes import free_ports, wait_until
from secured import ENDLESS, MANAGED, WILDCARD, assert_all_led, caddy_with, edged, obtained, root_of

# Caddy's own authority has to make keys first.
ISSUED_SECONDS = 20
INTERNAL = {"automation": {"policies": [{"subjects": [DOMAIN, WILDCARD], "issuers": [{"module": "internal"}]}]}}
# Of the machine's own list of authorities a test keeps away.
KEPT_TO_ITSELF = {"certificate_authorities": {"local": {"install_trust": False}}}

pytestmark = pytest.mark.usefixtures("https_port")


def test_a_name_without_a_certificate_is_left_to_caddy(group, tmp_path):
    """Caddy asks its authority for each name that it has no certificate for; nobody waits for that."""
    authority = Authority(tmp_path)
    with CountingAcme() as acme:
        tls = {
            "certificates": {"load_files": [authority.certificate(DOMAIN)]},
            "automation": {"policies": [{"issuers": [acme.issuer]}]},
        }
        edge = edged(group, caddy_with(group, tls))
        wait_until("Caddy asks for the nodes' certificates", lambda: "/directory" in acme.asked, ISSUED_SECONDS)
        for host in edge.hosts.values():
            edge.caddy.process.wait_for_text(f'"{MANAGED}","identifier":"{host}"', ISSUED_SECONDS, "err")
        with Client(authority.root, http2=True) as client:
            assert client.ask(DOMAIN, CHAT, chat_body("alpha")).status_code == 200
        assert not leads(authority.root, edge.hosts["node-1"], "/health"), "there is no certificate for it"
        assert edge.in_sync()["last_error"] is None


def test_caddys_own_authority_can_make_the_certificates(group):
    caddy = caddy_with(group, INTERNAL, pki=KEPT_TO_ITSELF)
    edge = edged(group, caddy)
    names = sorted([DOMAIN, *edge.hosts.values()])
    wait_until("each name has a certificate", lambda: obtained(caddy) == names, ISSUED_SECONDS)
    for http2 in (False, True):
        assert_all_led(edge, root_of(caddy), http2)
    assert caddy.get("/config/apps/tls") == edge.tls


def test_a_server_that_was_given_to_nebulad_keeps_its_wildcard_certificate(group):
    """The way to a wildcard certificate that Caddy manages: no certificate per name, how many there are of them."""
    mine = {"@id": "nebula-server", "listen": [f"127.0.0.1:{HTTPS_PORT}"], "automatic_https": {"disable_certificates": True}}
    tls = INTERNAL | {"certificates": {"automate": [DOMAIN, WILDCARD]}}
    caddy = caddy_with(group, tls, servers={"mine": mine}, pki=KEPT_TO_ITSELF)
    edge = edged(group, caddy)
    wait_until("both certificates are there", lambda: obtained(caddy) == [WILDCARD, DOMAIN], ISSUED_SECONDS)
    for http2 in (False, True):
        assert_all_led(edge, root_of(caddy), http2)
    assert obtained(caddy) == [WILDCARD, DOMAIN]
    server = caddy.server("mine")
    assert {key: value for key, value in server.items() if key != "routes"} == mine
    assert caddy.routes("mine") == [GATEWAY, *sorted(route_of(host) for host in edge.hosts.values())]
    assert caddy.server() is None and UNKNOWN not in caddy.routes("mine")
    assert caddy.get("/config/apps/tls") == edge.tls


# --- behind a server of one's own

CADDYFILE = """
{{
	skip_install_trust
	default_bind 127.0.0.1
	http_port {redirects}
}}
{domain}, *.{domain} {{
	tls internal
	reverse_proxy 127.0.0.1:{port}
}}
"""


def test_a_site_of_a_caddyfile_passes_everything_on(group, caddy_program, tmp_path):
    admin, redirects, port = free_ports(3)
    file = tmp_path / "Caddyfile"
    file.write_text(CADDYFILE.format(domain=DOMAIN, redirects=redirects, port=port))
    told = subprocess.run(
        [caddy_program, "adapt", "--config", file], capture_output=True, check=True, timeout=30, env=group.environment()
    )
    caddy = Caddy(group, admin, port, json.loads(told.stdout)).start()
    mine = caddy.get("/config/apps/http/servers/srv0")
    edge = edged(group, caddy)
    wait_until("both certificates are there", lambda: obtained(caddy) == [WILDCARD, DOMAIN], ISSUED_SECONDS)
    for http2 in (False, True):
        assert_all_led(edge, root_of(caddy), http2)
    with Client(root_of(caddy), http2=True) as client:
        answer = client.stream(edge.hosts["node-1"], edge.paths["node-1"], chat_body("alpha") | {"stream": True}, ENDLESS)
        assert any(line.startswith("data: {") for line in answer.iter_lines())
        answer.close()
    assert caddy.get("/config/apps/http/servers/srv0") == mine
    assert caddy.get("/config/apps/tls") == edge.tls
    assert is_unknown(caddy.ask(f"nobody.{DOMAIN}", "/"))
