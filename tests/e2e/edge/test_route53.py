"""Names of nodes in a hosted zone of Route 53, and what becomes of them when nodes, nebulad and Amazon come and go."""

import re
import threading
import time

import pytest

from fault_proxy import ERROR, HTML, PASS, Away, BlackHole, Pass, Reset, Sometimes
from moto_zone import KEY_ID, SECRET, moto  # noqa: F401: a fixture
from named import CALM, DOMAIN, ZONE, Named, host_of, refusal
from processes import wait_until
from settings import FULL, SEED, randomness

BACK_SECONDS = 60
QUICKLY_SECONDS = 2
# The circuit opens after the third failure; a request that hangs is given up after five seconds.
OPEN_SECONDS = 45
FOREIGN = (
    ("www." + ZONE, "A", "198.51.100.7"),
    ("shop." + DOMAIN, "CNAME", "shops.example.net."),
    (ZONE, "MX", "10 mail.example.net.", "20 mail2.example.net."),
    (ZONE, "TXT", '"v=spf1 -all"', '"heritage=external-dns,external-dns/owner=them"'),
    ("zzz." + DOMAIN, "A", "198.51.100.8", "198.51.100.9"),
    ("*." + ZONE, "A", "198.51.100.10"),
    ("_nebula.elsewhere." + ZONE, "TXT", '"heritage=nebula,domain=elsewhere.example"'),
    ("elsewhere." + ZONE, "A", "198.51.100.11"),
)


@pytest.fixture
def named(group, moto):  # noqa: F811
    named = Named(group, moto, SEED)
    yield named
    named.line.end()


def show(named):
    process = named.nebulactl("edge", "status")
    assert process.popen.returncode == 0, process.err
    return process.out


def test_names_come_and_go_with_their_nodes(named, figures):
    for record in FOREIGN:
        named.zone.put(*record)
    taken = host_of("taken")
    named.zone.put(taken, "CNAME", "old.example.net.")
    before = named.zone.everything()

    def untouched(but=()):
        now = named.zone.everything()
        changed = {key for key, record in before.items() if now.get(key) != record}
        assert changed == set(but), changed

    named.start()
    begun = time.monotonic()
    ours = lambda *prefixes: {DOMAIN, *(host_of(prefix) for prefix in prefixes)}
    wait_until("the gateway has its name", lambda: DOMAIN in named.zone.addresses(), 5)
    first = time.monotonic() - begun
    # nebulad has seen the zone, and does not see this.
    seized = host_of("seized")
    named.zone.put(seized, "A", "198.51.100.12")
    before[seized, "A"] = named.zone.everything()[seized, "A"]
    for prefix in ("stays", "more", "dies", "leaves", "taken", "seized"):
        named.join(prefix)
    begun = time.monotonic()
    named.wait_for_names(ours("stays", "more", "dies", "leaves"))
    joined = time.monotonic() - begun
    assert named.node("dies-00000")["gateway_subdomain"] == host_of("dies")
    untouched()

    blocked = named.wait_for_status("names are blocked", lambda status: status["state"] == "blocked")
    told = {each["name"]: each["why"] for each in blocked["blocked"]}
    assert told.keys() == {taken, seized} and "CNAME" in told[taken] and "198.51.100.12" in told[seized], told
    assert all(text in show(named) for pair in told.items() for text in pair), show(named)
    told = named.told("edge", "status")
    assert [each["name"] for each in told] == ["caddy", "route53"] and told[0]["state"] == "off", told

    named.sims["dies"].kill()
    named.withdraw("leaves")
    named.join("comes")
    begun = time.monotonic()
    named.wait_for_names(ours("stays", "more", "comes"), 25)
    gone = time.monotonic() - begun
    untouched()

    by_hand(named, taken, seized)
    named.join("dies")
    begun = time.monotonic()
    named.wait_for_names(ours("stays", "more", "comes", "dies", "taken", "seized"))
    mended = time.monotonic() - begun
    status = named.in_sync()
    assert status["blocked"] == [] and status["last_error"] is None and status["lag_seconds"] == 0, status
    assert (status["wanted"], status["observed"]) == (6, 7), "nodes; A records, the domain's too"
    untouched(but=[(taken, "CNAME"), (seized, "A")])
    assert SECRET not in named.said()
    calls = named.line.lines()
    busiest = max(sum(1 for each in calls if start.at <= each.at < start.at + 10) for start in calls)
    assert busiest <= 2 * 10 + 5, f"{busiest} requests within 10 s"
    figures(
        f"Route 53: the domain's record {first:.1f} s after the start, nodes' {joined:.1f} s after they joined,"
        f" silent ones gone after {gone:.1f} s, spoilt by hand and mended in {mended:.1f} s; {len(calls)} requests"
    )


def by_hand(named, taken, seized):
    """Somebody spoils our records and makes room for blocked ones. A plan tells, and changes nothing by itself; but the
    next round sees it, too."""
    named.zone.drop(taken, "CNAME")
    named.zone.drop(seized, "A")
    named.zone.drop(host_of("stays"), "A")
    named.zone.drop("_nebula." + host_of("stays"), "TXT")
    named.zone.put(host_of("comes"), "A", "198.51.100.66")
    spoilt = named.zone.everything()
    [plan] = named.told("edge", "plan", "route53")
    steps = {(step["verb"], step["kind"], step["name"]) for step in plan["changes"]}
    expected = {("add", "A", name) for name in (taken, seized, host_of("stays"))}
    expected.add(("change", "A", host_of("comes")))
    assert {step for step in steps if step[1] == "A"} == expected, plan
    printed = named.nebulactl("edge", "plan").out
    assert all(name in printed for _, _, name in expected), printed
    assert named.zone.everything() == spoilt


def test_kills_and_other_flags(named, figures):
    """nebulad dies while Amazon has changed everything and it does not know; then it is told something else."""
    prefixes = ("one", "two", "three")
    everyone = {DOMAIN, *map(host_of, prefixes)}
    named.start()
    named.in_sync()
    named.line.set(Sometimes(Pass(answer_seconds=60), only="^POST"))
    for prefix in prefixes:
        named.join(prefix)
    wait_until("the zone has changed", lambda: host_of("one") in named.zone.addresses(), 15)
    named.nebulad.kill()
    named.line.set(PASS)
    named.start()
    begun = time.monotonic()
    named.wait_for_names(everyone)
    named.in_sync()
    figures(f"Route 53: killed within a change set, in sync {time.monotonic() - begun:.1f} s after the next start")

    named.stop()
    assert set(named.zone.addresses()) == everyone, "who stops nebulad changes no names"
    named.start(address="192.0.2.77", ttl=61)
    named.wait_for_names(everyone, address="192.0.2.77", ttl=61)
    named.stop()
    named.start("--route53-wildcard")
    named.wait_for_names({DOMAIN, f"*.{DOMAIN}"})
    named.in_sync()
    named.stop()
    keys = {"AWS_ACCESS_KEY_ID": "AKIAOFTHEENVIRONMENT", "AWS_SECRET_ACCESS_KEY": SECRET}
    # Until the grace is over the wildcard might be all that a forgotten node has.
    named.start("--restart-grace", "2", credentials=(), env=keys)
    named.wait_for_names(everyone)
    assert "Credential=AKIAOFTHEENVIRONMENT/" in named.line.asked[-1].head
    assert any(f"Credential={KEY_ID}/" in asked.head for asked in named.line.asked)
    assert SECRET not in named.said()


NOT_ALLOWED = "User: arn:aws:iam::111122223333:user/nebula is not authorized to perform: route53:ListResourceRecordSets"
REFUSED = {
    "AccessDenied": (refusal(403, "AccessDenied", NOT_ALLOWED), r"(?i)denied|not authorized|permission|policy"),
    "InvalidClientTokenId": (
        refusal(403, "InvalidClientTokenId", "The security token included in the request is invalid."),
        r"(?i)key|credential|token",
    ),
    "SignatureDoesNotMatch": (
        refusal(403, "SignatureDoesNotMatch", "Signature expired: 20200101T000000Z is now earlier than"),
        r"(?i)clock",
    ),
    "ExpiredToken": (
        refusal(403, "ExpiredToken", "The security token included in the request is expired"),
        r"(?i)renew",
    ),
}
LATER = {
    "Throttling": refusal(400, "Throttling", "Rate exceeded"),
    "PriorRequestNotComplete": refusal(
        400,
        "PriorRequestNotComplete",
        "The request was rejected because Route 53 was still processing a prior request.",
    ),
    "ServiceUnavailable": refusal(503, "ServiceUnavailable", "Service is unavailable"),
}


def words(status):
    error = status["last_error"]
    return f"{error['message']}; {error['hint']}"


def failing(named, trouble, pattern):
    """Waits until the status tells of such a trouble with such words."""

    def tells(status):
        error = status["last_error"]
        return error and error["trouble"] == trouble and re.search(pattern, words(status))

    status = named.wait_for_status(f"{trouble}: {pattern}", tells)
    assert status["state"] == ("blocked" if trouble == "refused" else "failing"), status
    assert SECRET not in words(status) and "\n" not in words(status), status
    return status


def test_what_amazon_refuses_is_told_and_hurts_nobody(named):
    for code, (answer, pattern) in REFUSED.items():
        named.line.set(answer)
        named.start_again()
        failing(named, "refused", code)
        status = failing(named, "refused", pattern)
        assert status["last_error"]["hint"], status
    error = status["last_error"]
    assert error["message"] in show(named) and error["hint"] in show(named), show(named)
    plan = named.nebulactl("edge", "plan", "route53")
    assert plan.popen.returncode != 0 and error["message"] in plan.err and error["hint"] in plan.err, plan.err
    for code, answer in LATER.items():
        named.line.set(Sometimes(answer, only="^POST"))
        named.start_again()
        failing(named, "busy", code)
    assert named.zone.addresses() == {}
    # It goes on by itself.
    named.line.set(PASS)
    begun = time.monotonic()
    named.wait_for_names({DOMAIN}, BACK_SECONDS)
    assert named.in_sync()["last_error"] is None
    assert time.monotonic() - begun < BACK_SECONDS

    # A change set that was ambiguous, and somebody who was quicker.
    named.line.set(Sometimes(Reset(done=True), only="^POST"))
    named.join("late")
    wait_until("it is in the zone", lambda: host_of("late") in named.zone.addresses(), 15)
    named.line.set(PASS)
    named.wait_for_names({DOMAIN, host_of("late")})
    named.in_sync()

    named.stop()
    named.start(zone="Z00000000000000000NONE")
    failing(named, "refused", r"NoSuchHostedZone.*--route53-hosted-zone-id")
    named.stop()
    named.start(credentials=(), env={"AWS_EC2_METADATA_DISABLED": "true"})
    failing(named, "refused", r"(?i)credentials")
    wait_until("nodes join", lambda: (node := named.node("late-00000")) and node["state"] == "online", 15)
    assert named.chat("nothing").status in (401, 404)


OUTAGES = {
    "away": (Away(), r"(?i)connect|reach"),
    "hanging": (BlackHole(), r"(?i)within|time|answer"),
    "errors": (ERROR, r"500"),
    "HTML": (HTML, r"(?i)answer"),
    "resets": (Reset(), r"(?i)connection|reset|reach|closed"),
}


@pytest.mark.parametrize("outage", OUTAGES if FULL else [randomness("outage").choice([*OUTAGES])])
def test_an_outage_hurts_nobody(named, figures, outage):
    """A node serves; its zone cannot be had while another one comes and one goes."""
    mode, pattern = OUTAGES[outage]
    named.start(times=CALM)
    named.join("other", 3)
    named.join("leaves")
    named.agent = named.start_agent()
    served = named.wait_for_node("online")["gateway_subdomain"]
    named.deploy(name="demo", model="demo", runtime="sim", driver="process", public=True, node="node-1")
    others = {host_of("other", number) for number in range(3)}
    named.wait_for_names({DOMAIN, served, host_of("leaves"), *others})
    named.wait_for_deployment("demo", "running")
    wait_until("the gateway has its route", lambda: named.chat("demo").status == 200, 10)

    named.line.set(mode)
    named.withdraw("leaves")
    named.join("comes")
    with Watch(named) as watch:
        failing(named, "unreachable", pattern)
        named.wait_for_status("the circuit is open", lambda status: status["circuit"] == "open", OPEN_SECONDS)
        comes = lambda: (node := named.node("comes-00000")) and node["state"] == "online"
        wait_until("the new one is online", comes, 10)
        assert host_of("leaves") in named.zone.addresses()
        named.line.set(PASS)
        begun = time.monotonic()
        named.wait_for_names({DOMAIN, served, host_of("comes"), *others}, BACK_SECONDS)
        named.in_sync(BACK_SECONDS - (time.monotonic() - begun))
        took = time.monotonic() - begun
    assert watch.wrong == [], watch.wrong
    assert not re.search(r"node availability.*Suspect", named.nebulad.err), named.nebulad.err
    figures(
        f"Route 53 {outage}: {watch.count} chats in the meantime, the slowest {watch.slowest:.2f} s;"
        f" in sync {took:.1f} s after its return"
    )


class Watch:
    """Somebody who chats all the time."""

    def __init__(self, cluster):
        self.cluster, self.over, self.wrong = cluster, threading.Event(), []
        self.count, self.slowest = 0, 0
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        while not self.over.wait(0.1):
            begun = time.monotonic()
            answer = self.cluster.chat("demo")
            took = time.monotonic() - begun
            self.count, self.slowest = self.count + 1, max(self.slowest, took)
            if answer.status != 200 or took > QUICKLY_SECONDS:
                self.wrong.append((took, answer))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join(30)
