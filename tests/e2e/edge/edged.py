"""A cluster behind a Caddy: nodes with hosts of their own, each with a deployment that runs nowhere else."""

import threading
from collections import Counter

from caddy import Caddy, wait_for_sync
from processes import free_ports, wait_until
from several import QUICK, SIM, SIM_ARGS, Several
from wire import Line, post

DOMAIN = "edge.example"
CHAT = "/v1/chat/completions"
# Each agent's share of the test's ports for runtimes.
NODE_PORTS = 4
# Caddy's admin API, our server in it and a foreign one.
EDGE_PORTS = 3
CONVERGED_SECONDS = 10
LOOK_SECONDS = 0.05


def foreign_config(port):
    """What others have in the same Caddy: a server, and apps unknown to us, with texts that are easily spoilt."""
    body = "<b>shop & sons</b> \u2028 \"quoted\" \\ \u00fc \U0001f980"
    shop = {
        "listen": [f"127.0.0.1:{port}"],
        "automatic_https": {"disable": True},
        "routes": [
            {
                "@id": "shop-front",
                "match": [{"host": ["shop.example"], "header": {"X-Odd": ["", "\t"]}}, {"host": ["shop.example"]}],
                "handle": [{"handler": "static_response", "body": body, "headers": {"X-Many": ["a", "b"]}}],
                "terminal": True,
            },
            {},
        ],
        "read_timeout": 30000000000,
    }
    return {
        "logging": {"logs": {"default": {"level": "WARN"}}},
        "apps": {
            "http": {"grace_period": 60000000000, "servers": {"shop": shop}},
            "tls": {"session_tickets": {"disabled": True}, "certificates": {"automate": []}},
        },
    }


FOREIGN_PARTS = ("/config/admin", "/config/logging", "/config/apps/tls", "/config/apps/http/servers/shop")


def foreign_texts(caddy):
    """Caddy's own words about what is not ours."""
    return {part: caddy.get(part) for part in (*FOREIGN_PARTS, "/config/apps/http/grace_period")}


class Edged(Several):
    """nebulad, its agents and the Caddy in front of them."""

    def __init__(self, group, foreign=True, ports=None):
        super().__init__(group)
        admin, port, self.shop_port = ports or free_ports(EDGE_PORTS)
        self.caddy = Caddy(group, admin, port, foreign_config(self.shop_port) if foreign else {})

    def start_edge(self, *flags, times=QUICK):
        """Starts nebulad for this Caddy, whether that runs or not."""
        return self.start_nebulad(*times, "--gateway-domain", DOMAIN, *self.caddy.flags, *flags)

    def join(self, name, *flags):
        """Starts the agent of a node, or starts it again, with few ports: there may be many nodes."""
        first = int(self.group.port_range.split("-")[0]) + NODE_PORTS * (int(name.rsplit("-", 1)[1]) - 1)
        ports = {"NEBULA_AGENT_PORT_RANGE": f"{first}-{first + NODE_PORTS - 1}"}
        self.agents[name] = self.start_agent(name, *flags, env=ports)
        return self.agents[name]

    def serve_on(self, node, name):
        """A deployment that runs on that node only; answers the path of its chat at the node's proxy."""
        self.deploy(**SIM, name=name, node=node, args=SIM_ARGS)
        self.wait_for_replicas(name, 1)
        return f"/d/{name}{CHAT}"

    def host(self, node):
        return self.node(node)["gateway_subdomain"]

    def chat_at(self, host, path, model):
        return self.caddy.ask(host, path, chat_body(model))

    def leads(self, host, path, model):
        return self.caddy.leads(host, path, chat_body(model))

    def wait_until_led(self, host, path, model, seconds=CONVERGED_SECONDS):
        return wait_until(f"{host} leads to {model}", lambda: self.leads(host, path, model), seconds)

    def in_sync(self, seconds=CONVERGED_SECONDS):
        return wait_for_sync(self, seconds)

    def line(self, host, path, model, headers=""):
        """A stream's connection to Caddy, as a client that reads by itself."""
        body = f'{{"model":"{model}","stream":true,"messages":[{{"role":"user","content":"hi"}}]}}'
        request = post(body, path=path, headers=headers).replace(b"host: t", f"host: {host}".encode())
        return Line(self.caddy.listen).send(request)


def chat_body(model):
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


class Watched:
    """Looks at something all the time, from beginning to end, and counts what was seen."""

    def __init__(self, look):
        self.look, self.seen, self.over = look, Counter(), threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        while not self.over.wait(LOOK_SECONDS):
            try:
                self.seen[self.look()] += 1
            except Exception as fault:
                self.seen[repr(fault)] += 1

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join(30)
