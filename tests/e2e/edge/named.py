"""A cluster whose nodes have names in a zone of Route 53; the nodes are simulated, one or more in a process."""

import hashlib
import signal

from caddy import edge_status
from cluster import Cluster
from fault_proxy import Answer, FaultProxy
from moto_zone import KEY_ID, SECRET
from processes import wait_until

ZONE = "edge.example"
DOMAIN = f"gw.{ZONE}"
ADDRESS, TTL = "192.0.2.10", 120
# As short as nebulad takes them: a node that is silent for four seconds is offline.
QUICK = ("--heartbeat-timeout", "4", "--default-heartbeat-interval", "1")
# A node is suspect after half of the timeout: nobody is, because this machine is busy.
CALM = ("--heartbeat-timeout", "12", "--default-heartbeat-interval", "1")
GIVEN = ("--route53-access-key-id", KEY_ID, "--route53-secret-access-key", SECRET)
# Change sets come five seconds apart.
CHANGED_SECONDS = 15
REFUSALS = "https://route53.amazonaws.com/doc/2013-04-01/"


def refusal(status, code, message):
    """What Amazon says when it does not do as it is asked."""
    error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
    body = f'<ErrorResponse xmlns="{REFUSALS}">{error}<RequestId>1</RequestId></ErrorResponse>'
    return Answer(status, f'<?xml version="1.0"?>\n{body}'.encode(), "text/xml")


def host_of(prefix, number=0):
    """The name of a simulated node, known before there is one."""
    label = hashlib.sha256(f"{prefix}-{number:05}".encode()).hexdigest()[:8]
    return f"{label}.{DOMAIN}"


def marks_of(names):
    """What says that names are ours; the wildcard's own name cannot."""
    of = lambda name: f"_nebula-wildcard.{DOMAIN}" if name.startswith("*") else f"_nebula.{name}"
    return {of(name): [f'"heritage=nebula,domain={DOMAIN}"'] for name in names}


class Named(Cluster):
    """nebulad, its nodes, its zone, and the line to it."""

    def __init__(self, group, moto, seed=0):
        super().__init__(group)
        self.moto, self.zone = moto, moto.zone(ZONE)
        self.line = FaultProxy(moto.port, seed)
        self.fix_ports()
        self.sims = {}

    def start(self, *flags, credentials=GIVEN, zone=None, address=ADDRESS, ttl=TTL, times=QUICK, env=None):
        """Starts nebulad for the zone, through the line."""
        where = ("--route53-hosted-zone-id", zone or self.zone.id, "--route53-endpoint-url", self.line.url)
        what = ("--gateway-domain", DOMAIN, "--gateway-ip", address, "--route53-ttl", ttl)
        return self.start_nebulad(*times, *where, *what, *credentials, *flags, env=env)

    def stop(self):
        self.nebulad.signal(signal.SIGTERM)
        assert self.nebulad.wait(30) == 0, self.nebulad.err

    def start_again(self, *flags, **settings):
        """As after a crash: what nebulad knew of the zone is forgotten."""
        if self.nebulad:
            self.nebulad.kill()
        return self.start(*flags, **settings)

    def join(self, prefix, nodes=1):
        """Starts simulated nodes; with the same name they are the same again."""
        who = ["--control-plane", self.grpc_addr, "--nodes", nodes, "--prefix", prefix, "--gpus", "1"]
        how = ["--ramp", "0s", "--interval", "1s", "--deregister"]
        self.sims[prefix] = self.group.start("nebula-sim", "fleet", *who, *how)

    def withdraw(self, prefix):
        """Ends simulated nodes in order: they say so."""
        self.sims[prefix].signal(signal.SIGINT)

    def status(self):
        return edge_status(self, "route53")

    def wait_for_status(self, what, holds, seconds=CHANGED_SECONDS):
        """Waits until the status is so, and answers it."""
        seen = {}

        def look():
            seen.update(self.status())
            return holds(seen) and dict(seen)

        try:
            return wait_until(what, look, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; status: {seen}") from None

    def in_sync(self, seconds=CHANGED_SECONDS):
        return self.wait_for_status("Route 53 is in sync", lambda status: status["state"] == "in_sync", seconds)

    def wait_for_names(self, names, seconds=CHANGED_SECONDS, address=ADDRESS, ttl=TTL):
        """Waits until these names are ours in the zone with all that belongs to them, and no other ones."""
        wanted = {name: (ttl, [address]) for name in names}
        seen = {}

        def look():
            marks = {name: texts for name, texts in self.zone.marks().items() if name.endswith(f".{DOMAIN}")}
            records = self.zone.addresses().items()
            ours = {name: record for name, record in records if marks_of([name]).keys() <= marks.keys()}
            seen.update(ours=ours, marks=marks)
            return ours == wanted and marks == marks_of(names)

        try:
            wait_until(f"{len(wanted)} names are in the zone", look, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; wanted: {wanted}; there: {seen}; status: {self.status()}") from None

    def said(self):
        """All that nebulad and the others have written."""
        return "".join(text for _, text in self.group.logs(lines=1_000_000))
