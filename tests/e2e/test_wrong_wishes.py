"""Deployments that cannot be: refused where they can never be right, explained where they only do not fit now."""

import pytest

from processes import Group, wait_until
from several import Several

DEMO = {"model": "demo", "runtime": "sim"}


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    group = Group(tmp_path_factory.mktemp("wishes"))
    try:
        several = Several(group).start(2)
        several.serve("fine")
        yield several
    finally:
        group.end()


NEVER_RIGHT = [
    ({"replicas": -1}, "replicas"),
    ({"replicas": 1_000_000}, "replicas"),
    ({"gpu": {"count": -1}}, "gpu.count"),
    ({"lost_after": -5}, "lost_after"),
    ({"lost_after": "soon"}, "lost_after"),
    ({"drain_timeout": "soon"}, "drain_timeout"),
    ({"drain_timeout": -1}, "drain_timeout"),
    ({"strategy": "blue"}, "strategy"),
    ({"placement": "anywhere"}, "placement"),
    ({"autoscale": {"min": 3, "max": 2}}, "autoscale"),
    ({"autoscale": {"min": 0, "max": 0}}, "autoscale"),
    ({"autoscale": {"min": -1, "max": 2}}, "autoscale"),
    ({"autoscale": {"min": 1, "max": 2, "target_inflight": 0}}, "autoscale"),
    ({"runtime": "warp"}, "warp"),
    ({"typo": 1}, "typo"),
]


@pytest.mark.parametrize(("fields", "word"), NEVER_RIGHT, ids=lambda value: str(value)[:40])
def test_never_right(several, fields, word):
    made = several.api("POST", "/deployments", {**DEMO, "name": "never", **fields})
    changed = several.api("PATCH", "/deployments/fine", fields)
    for answer in (made, changed):
        assert answer.status in (400, 422), f"{fields}: {answer}"
        told = answer.json["error"]["message"]
        assert word in told and "\n" not in told and len(told) < 400, told
    assert several.api("GET", "/deployments/never").status == 404
    assert several.deployment("fine")["generation"] == 1


def test_what_cannot_be_changed(several):
    for fields in ({"name": "other"}, {"id": "x"}, [], "text"):
        answer = several.api("PATCH", "/deployments/fine", fields)
        assert answer.status in (400, 422), f"{fields}: {answer}"
    assert several.api("PATCH", "/deployments/nobody", {"replicas": 1}).status == 404
    assert several.api("PATCH", "/deployments/fine", {}).status == 202
    assert several.deployment("fine")["generation"] == 1, "nothing is changed by nothing"
    assert several.api("POST", "/deployments/fine/scale", {"replicas": -1}).status == 422
    assert several.api("POST", "/deployments/fine/rotate-token", {"overlap": "long"}).status in (400, 422)


def test_who_is_not_there_is_named(several):
    answer = several.api("POST", "/deployments", {**DEMO, "name": "lost", "node": "node-9"})
    assert answer.status == 404 and "node-9" in answer.json["error"]["message"], answer
    for method, path in (("GET", "/deployments/nobody/why"), ("POST", "/deployments/nobody/scale"), ("GET", "/aliases/nobody")):
        answer = several.api(method, path, {"replicas": 1} if method == "POST" else None)
        assert answer.status == 404 and "nobody" in answer.json["error"]["message"], f"{method} {path}: {answer}"


def test_no_replicas_is_right(several):
    several.deploy(**DEMO, name="none", replicas=0)
    assert several.wait_for_deployment("none", "stopped")["replicas"] == []
    assert several.api("POST", "/deployments/none/scale", {"replicas": 1}).status == 202
    several.wait_for_deployment("none", "running")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"gpu": {"count": 64}}, ["GPU"]),
        ({"gpu": {"count": 1, "type": "H100"}}, ["GPU"]),
        ({"cpu": {"cores": 4096}}, ["cores"]),
        ({"labels": {"zone": "moon"}}, ["zone"]),
    ],
    ids=str,
)
def test_impossible_now_is_pending_and_says_why(several, fields, words):
    name = f"waits-{abs(hash(str(fields))) % 10_000}"
    made = several.deploy(**DEMO, name=name, **fields)
    assert made["state"] == "pending"
    message = lambda: several.deployment(name)["message"]
    wait_until(f"{words} is in the reason", lambda: all(word in message() for word in words), 10)
    why = several.api("GET", f"/deployments/{name}/why")
    assert why.status == 200, why
    text = why.body.decode()
    for node in ("node-1", "node-2"):
        assert node in text, f"nothing about {node}: {text}"
    for word in words:
        assert word in text, text
    shown = several.nebulactl("why", name)
    assert shown.popen.returncode == 0 and all(word in shown.out for word in words), shown.out + shown.err
    assert several.api("DELETE", f"/deployments/{name}").status == 202


def test_why_of_what_fails(several):
    several.deploy(**DEMO, name="broken", driver="process", command=["sh", "-c", "echo I cannot load it >&2; exit 7"])
    several.deploy(**DEMO, name="missing", driver="process", command=["/no/such/program"])

    def told(name, *words):
        def look():
            answer = several.api("GET", f"/deployments/{name}/why")
            text = answer.body.decode()
            return answer.status == 200 and all(word in text for word in words)

        try:
            wait_until(f"why {name} says {words}", look, 30)
        except AssertionError as error:
            raise AssertionError(f"{error}; it says {several.api('GET', f'/deployments/{name}/why')}") from None

    told("broken", "7", "I cannot load it")
    told("missing", "/no/such/program")
    shown = several.nebulactl("why", "broken")
    assert shown.popen.returncode == 0, shown.err
    assert "I cannot load it" in shown.out and "7" in shown.out, shown.out
    assert "nbtok_" not in shown.out and "nbgw_" not in shown.out
    nobody = several.nebulactl("why", "nobody")
    assert nobody.popen.returncode == 1 and "nobody" in nobody.err, nobody.err
    fine = several.api("GET", "/deployments/fine/why")
    assert fine.status == 200, fine
