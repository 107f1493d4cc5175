"""A cluster behind a Caddy that speaks TLS on its port for HTTPS, and what every kind of certificate has to do for it."""

import json

from caddy import HTTPS_PORT, Caddy
from certificates import Client
from edged import CHAT, DOMAIN, Edged, chat_body
from processes import free_ports

WILDCARD = f"*.{DOMAIN}"
STAY = {"node-1": "alpha", "node-2": "beta"}
# A stream whose second word never comes: what arrives of it was not held back.
ENDLESS = {"x-sim-token-interval": "60s"}
# What Caddy logs when it wants a certificate of its own.
MANAGED = "obtaining certificate"


def caddy_with(group, tls, servers=None, listen_port=HTTPS_PORT, **apps):
    """A Caddy with a configuration for TLS of whoever runs it. Its redirects to HTTPS are on loopback as its servers
    are, on a port that anybody may take."""
    admin, redirects = free_ports(2)
    http = {"http_port": redirects, **({"servers": servers} if servers else {})}
    caddy = Caddy(group, admin, listen_port, {"apps": {"http": http, "tls": tls, **apps}})
    caddy.redirects = redirects
    return caddy.start()


def edged(group, caddy):
    """nebulad behind that Caddy, and two nodes with a deployment each."""
    edge = Edged(group, foreign=False)
    edge.caddy = caddy
    edge.tls = caddy.get("/config/apps/tls")
    edge.start_edge()
    for node in STAY:
        edge.join(node)
    edge.hosts = {node: edge.wait_for_node("online", node)["gateway_subdomain"] for node in STAY}
    edge.paths = {node: edge.serve_on(node, model) for node, model in STAY.items()}
    edge.in_sync()
    return edge


def assert_all_led(edge, root, http2):
    """Every name leads where it should, with a certificate that is right for it."""
    with Client(root, http2) as client:
        for node, model in STAY.items():
            answer = client.ask(edge.hosts[node], edge.paths[node], chat_body(model))
            assert answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"], answer.text
            answer = client.ask(DOMAIN, CHAT, chat_body(model))
            assert answer.status_code == 200, answer.text
        told = client.ask(DOMAIN, "/v1/models").json()
        assert sorted(model["id"] for model in told["data"]) == sorted(STAY.values())
        other = client.ask(edge.hosts["node-2"], edge.paths["node-1"], chat_body("alpha"))
        assert other.status_code == 404 and "unknown_host" not in other.text, "it is another node's"


def obtained(caddy):
    """The names of Caddy's own certificates."""
    lines = [json.loads(line) for line in caddy.process.err.splitlines() if line.startswith("{")]
    return sorted(line["identifier"] for line in lines if line["msg"] == "certificate obtained successfully")


def root_of(caddy):
    """The root of the authority that Caddy itself is, for the subjects of a policy with that issuer."""
    home = caddy.group.directory / caddy.process.name
    return home / "data" / "caddy" / "pki" / "authorities" / "local" / "root.crt"
