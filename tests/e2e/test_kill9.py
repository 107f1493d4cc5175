"""nebulad is killed at random moments while clients change things: what it acknowledged is there afterwards."""

import shutil
import statistics
import threading
import time

import pytest

from journal import Journal
from load import Api, Clients, NodeOwner, Owner, Racers, all_deployments, by_name
from processes import wait_until
from settings import SEED, randomness, sized

KILLS = sized(25, 500)
OWNERS = 4
QUICK = ("--heartbeat-timeout", "4", "--default-heartbeat-interval", "1")
# A start under load and on two busy cores; the test tells how long they really took.
READY_SECONDS = 20
# When it is killed: after it was started, and after the load began.
START_MS_MAX, LOAD_MS_MAX = 300, 500
SETTLED_SECONDS = 60


class Trial:
    """One nebulad that is killed again and again, and everything that is known of it."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.rng = randomness("kill9")
        self.journal = Journal()
        cluster.fix_ports()
        cluster.start_nebulad(*QUICK)
        cluster.agent = cluster.start_agent()
        cluster.wait_for_node("online")
        self.api = Api(cluster.http_addr, cluster.admin_token)
        self.running = Owner("running", self.journal, randomness("running"), 2, {"model": "demo", "runtime": "sim"})
        owners = [Owner(f"client{n}", self.journal, randomness(f"client{n}")) for n in range(OWNERS)]
        self.owners = [self.running, *owners, NodeOwner("node-1", self.journal, randomness("node"))]
        self.racers = Racers(self.journal, randomness("racers"))
        self.clients = Clients(cluster.http_addr, cluster.admin_token)
        for owner in self.owners:
            self.clients.add(lambda api, _, owner=owner: owner.act(api))
        for racer in (1, 2):
            self.clients.add(lambda api, turn, racer=racer: self.racers.act(api, racer, turn))
        self.start_seconds = []
        self.kills = self.kills_at_start = 0
        self.kill()

    def wait_at_random(self, milliseconds):
        threading.Event().wait(self.rng.uniform(0, milliseconds) / 1000)

    def kill(self):
        self.cluster.nebulad.kill()
        self.api.close()
        self.cluster.group.forget(self.cluster.nebulad)
        self.kills += 1

    def start(self):
        began = time.monotonic()
        self.cluster.launch_nebulad(*QUICK)
        try:
            self.cluster.wait_for_nebulad(READY_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"failed open after {self.kills} kills (seed {SEED}): {error}") from None
        self.start_seconds.append(time.monotonic() - began)

    def round(self):
        """Starts it, sometimes kills it before it is ready, checks it, and kills it under load."""
        while self.rng.random() < 0.35:
            if self.rng.random() < 0.5:
                self.clients.go()
            self.cluster.launch_nebulad(*QUICK)
            self.wait_at_random(START_MS_MAX)
            self.kill()
            self.kills_at_start += 1
            self.clients.rest()
        self.start()
        self.check()
        self.clients.go()
        self.wait_at_random(LOAD_MS_MAX)
        self.kill()
        self.clients.rest()

    def check(self):
        """Compares the journal with what is there, while nobody changes anything."""
        listed = all_deployments(self.api)
        for deployment in self.rng.sample(listed, min(4, len(listed))):
            status, told = self.api.call("GET", f"/api/v1/deployments/{deployment['id']}/events")
            # One that was being deleted may be gone by now.
            if status == 200:
                faults = self.journal.check_events(deployment["name"], deployment["id"], told["data"])
                self.journal.complain(*faults)
        named = by_name(listed)
        for owner in [*self.owners, self.racers]:
            owner.check(self.api, named)
        wrong = "\n".join(self.journal.wrong)
        assert not wrong, f"after {self.kills} kills (seed {SEED}):\n{wrong}"

    def figures(self):
        journal = self.journal
        starts = sorted(self.start_seconds)
        acknowledged = ", ".join(f"{count} {what}" for what, count in sorted(journal.acknowledged.items()))
        return (
            f"kill -9: seed {SEED}, {self.kills} kills ({self.kills_at_start} of them during the start), "
            f"0 failed opens, 0 lost; {journal.acknowledged.total()} acknowledged ({acknowledged}), "
            f"{journal.unclear.total()} without a clear answer; ready after {statistics.median(starts):.2f} s, "
            f"at worst {starts[-1]:.2f} s"
        )


@pytest.fixture
def trial(cluster):
    trial = Trial(cluster)
    yield trial
    trial.clients.end()


def test_what_was_acknowledged_survives_kills(trial, figures):
    while trial.kills < KILLS:
        trial.round()
    trial.start()
    trial.check()
    assert trial.journal.acknowledged.total() > KILLS, "the load was no load"
    figures(trial.figures())
    settles(trial)


def test_a_store_that_was_set_back_is_noticed(trial):
    """The check itself: with the files of an earlier moment it must complain."""
    earlier = trial.cluster.group.directory / "earlier"
    trial.round()
    shutil.copytree(trial.cluster.data_dir, earlier)
    acknowledged = trial.journal.acknowledged.total()
    while trial.journal.acknowledged.total() < acknowledged + 2 * OWNERS:
        trial.round()
    shutil.rmtree(trial.cluster.data_dir)
    shutil.copytree(earlier, trial.cluster.data_dir)
    trial.start()
    with pytest.raises(AssertionError, match="client"):
        trial.check()


def settles(trial):
    """At the end exactly what is wanted runs."""
    cluster = trial.cluster
    assert cluster.api("POST", "/nodes/node-1/uncordon").status == 200
    cluster.wait_for_node("online")
    wanted = {each.name: each for each in trial.running.live()}
    for name, deployment in wanted.items():
        running = deployment.desired.possible == {"running"}
        cluster.wait_for_deployment(name, "running" if running else "stopped", SETTLED_SECONDS)
    expected = {
        name: next(iter(each.replicas.possible)) if each.desired.possible == {"running"} else 0
        for name, each in wanted.items()
    }
    expected = {name: count for name, count in expected.items() if count}
    wait_until(
        f"exactly these runtimes run: {expected}", lambda: cluster.group.runtimes() == expected, SETTLED_SECONDS
    )
