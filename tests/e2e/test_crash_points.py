"""nebulad, an agent or both are killed while replicas are being started, stopped, replaced and removed. When they are
back, exactly what is wanted runs: one runtime for each wanted replica, and none for anything else.
"""

import statistics
import threading
import time
from collections import Counter

from journal import Journal
from load import Api, Owner, all_deployments, by_name
from processes import wait_until
from settings import SEED, randomness, sized

ROUNDS = sized(8, 100)
QUICK = ("--heartbeat-timeout", "4", "--default-heartbeat-interval", "1")
CHANGES_MAX = 3
# A deployment of the simulated runtime takes about this long from the request to the first answer.
MOMENT_MS_MAX = 800
KILLED_AGAIN = 0.25
SETTLED_SECONDS = 40
# Two heartbeats: what is reported late would have been carried out by then.
STAYS_SECONDS = 2


class Trial:
    def __init__(self, cluster):
        self.cluster, self.group = cluster, cluster.group
        self.rng = randomness("crash points")
        self.journal = Journal()
        body = {"model": "demo", "runtime": "sim"}
        self.owner = Owner("model", self.journal, randomness("crash changes"), 2, body, 3)
        self.programs = {"nebulad": self.start_nebulad, "agent": self.start_agent}
        self.kills = Counter()
        self.settled_seconds = []
        cluster.fix_ports()
        cluster.start_nebulad(*QUICK)
        self.start_agent()
        cluster.wait_for_node("online")

    def start_nebulad(self):
        self.cluster.start_nebulad(*QUICK)

    def start_agent(self):
        self.agent = self.cluster.start_agent()

    def kill(self, name):
        process = self.cluster.nebulad if name == "nebulad" else self.agent
        process.kill()
        self.group.forget(process)
        self.kills[name] += 1

    def pause(self, milliseconds):
        threading.Event().wait(self.rng.uniform(0, milliseconds) / 1000)

    def round(self):
        victims = self.rng.choice([["nebulad"], ["agent"], ["nebulad", "agent"], ["agent", "nebulad"]])
        changes = threading.Thread(target=self.change, daemon=True)
        changes.start()
        self.pause(MOMENT_MS_MAX)
        for victim in victims:
            self.kill(victim)
            self.pause(50)
        changes.join(SETTLED_SECONDS)
        assert not changes.is_alive(), "a change got no answer"
        self.rng.shuffle(victims)
        for victim in victims:
            self.programs[victim]()
            if self.rng.random() < KILLED_AGAIN:
                self.pause(MOMENT_MS_MAX)
                self.kill(victim)
                self.programs[victim]()
        self.settle(victims)

    def change(self):
        api = Api(self.cluster.http_addr, self.cluster.admin_token)
        for _ in range(self.rng.randint(1, CHANGES_MAX)):
            if api.is_refused():
                break
            self.owner.act(api)
        api.close()

    def settle(self, victims):
        """Waits until what runs is what is wanted, and sees that it stays so."""
        began = time.monotonic()
        api = Api(self.cluster.http_addr, self.cluster.admin_token)
        self.owner.check(api, by_name(all_deployments(api)))
        api.close()
        wrong = "\n".join(self.journal.wrong)
        assert not wrong, wrong
        wanted = self.wanted()
        when = f"after {victims} were killed (seed {SEED}, {self.kills})"
        try:
            wait_until(f"what is wanted runs {when}", lambda: self.group.runtimes() == wanted, SETTLED_SECONDS)
            wait_until(f"what is wanted answers {when}", lambda: self.answers(wanted), SETTLED_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}; wanted: {wanted}; running: {self.group.runtimes()}") from None
        self.settled_seconds.append(time.monotonic() - began)
        until = time.monotonic() + STAYS_SECONDS
        changed = lambda: self.group.runtimes() != wanted or time.monotonic() > until
        wait_until("two more heartbeats, or a change", changed, STAYS_SECONDS + 1)
        assert self.group.runtimes() == wanted, f"it did not stay so {when}: {self.group.runtimes()}, not {wanted}"

    def wanted(self):
        running = [each for each in self.owner.live() if each.desired.possible == {"running"}]
        return {each.name: next(iter(each.replicas.possible)) for each in running}

    def answers(self, wanted):
        """Every model that is wanted answers, and the API shows it as it is."""
        for name, replicas in wanted.items():
            states = [replica["state"] for replica in self.cluster.deployment(name)["replicas"]]
            if states != ["running"] * replicas or self.cluster.chat(name, self.cluster.admin_token).status != 200:
                return False
        return True

    def figures(self):
        settled = sorted(self.settled_seconds)
        changes = ", ".join(f"{count} {what}" for what, count in sorted(self.journal.acknowledged.items()))
        return (
            f"crash points: seed {SEED}, {ROUNDS} rounds, {self.kills['nebulad']} kills of nebulad, "
            f"{self.kills['agent']} of the agent; {changes} acknowledged; each time exactly what was wanted ran, "
            f"after {statistics.median(settled):.1f} s, at worst {settled[-1]:.1f} s"
        )


def test_exactly_what_is_wanted_runs_after_crashes(cluster, figures):
    trial = Trial(cluster)
    for _ in range(ROUNDS):
        trial.round()
    figures(trial.figures())
