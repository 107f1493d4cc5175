"""One name for several deployments: shares by weight, another choice at once, and a fallback."""

from collections import Counter

import pytest

from processes import wait_until
from several import Several

ASKED = 200


@pytest.fixture
def several(group):
    several = Several(group).start(1)
    for name in ("one", "two"):
        several.serve(name)
    return several


def who(several, count=1):
    """Which deployments answered; each one names itself in its answers."""
    answers = [several.chat("chat") for _ in range(count)]
    assert all(answer.status == 200 for answer in answers), answers
    return Counter(answer.json["model"] for answer in answers)


def targets(**weights):
    return [{"deployment": name, "weight": weight} for name, weight in weights.items()]


def test_weights_another_choice_and_a_fallback(several, figures):
    created = several.api("POST", "/aliases", {"name": "chat", "targets": targets(one=3, two=1)})
    assert created.status == 201, created
    wait_until("the gateway knows it", lambda: several.chat("chat").status == 200, 10)
    shares = who(several, ASKED)
    # Five standard deviations around three quarters.
    assert 119 <= shares["one"] <= 181 and sum(shares.values()) == ASKED, shares
    assert "chat" in several.models(several.admin_token)
    assert several.api("POST", "/deployments", {"name": "chat", "model": "demo", "runtime": "sim"}).status == 409

    changed = several.api("PATCH", "/aliases/chat", {"targets": targets(two=1), "fallback": "one"})
    assert changed.status == 200, changed
    wait_until("only the second is asked", lambda: who(several) == {"two": 1} and who(several, 20) == {"two": 20}, 10)

    assert several.api("POST", "/deployments/two/stop").status == 202
    several.wait_for_replicas("two", 1, state="stopped")
    assert who(several, 20) == {"one": 20}, "the fallback answers"
    assert several.api("DELETE", "/aliases/chat").status == 204
    wait_until("the name is gone", lambda: several.chat("chat").status in (401, 404), 10)
    figures(f"of {ASKED} requests to an alias of 3 to 1 the first deployment answered {shares['one']}")
