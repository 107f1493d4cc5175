"""A hundred random steps of users, of a stranger with `docker`, and of crashes: then exactly what is wanted runs."""

import threading
from collections import Counter

import pytest

from nebula import DRIVERS
from processes import wait_until
from settings import SEED, randomness, sized

STEPS = sized(100, 500)
DEPLOYMENTS = 5
REPLICAS_MAX = 3
# More failures of one replica would make it wait longer than this test does.
HARMS_MAX = sized(2, 3)
PAUSE_MS_MAX = 200
AGENT_KILLS_MAX = sized(2, 10)
SETTLED_SECONDS = sized(90, 180)
STAYS_SECONDS = 3


class Steps:
    def __init__(self, nebula):
        self.nebula, self.rng = nebula, randomness("docker steps")
        self.wanted, self.harms = {}, Counter()
        self.done, self.trace = Counter(), []
        self.agent_kills = 0

    def step(self):
        actions = {"create": 1, "delete": 1, "start": 3, "stop": 3, "restart": 3, "scale": 4}
        actions |= {"kill": 8, "remove": 8, "halt": 8, "kill_agent": 0.5}
        while True:
            action = self.rng.choices(list(actions), actions.values())[0]
            name = self.rng.choice(sorted(self.wanted)) if self.wanted else None
            if getattr(self, action)(name):
                self.done[action] += 1
                self.trace.append(f"{action} {name}")
                return

    def create(self, _):
        if len(self.wanted) >= DEPLOYMENTS:
            return False
        number = self.done["create"]
        name, replicas = f"step-{number}", self.rng.randint(1, REPLICAS_MAX)
        # Every third is a process.
        self.nebula.deploy_simulated(DRIVERS[number % 3 == 2], name, replicas=replicas, public=True)
        self.wanted[name] = replicas
        return True

    def delete(self, name):
        if len(self.wanted) < 3:
            return False
        self.nebula.told("delete", name, "--yes")
        del self.wanted[name]
        return True

    def told(self, verb, name, *more):
        if name is None:
            return False
        self.nebula.told(verb, name, *more)
        return True

    def start(self, name):
        return self.told("start", name) and self.set_running(name)

    def restart(self, name):
        return self.told("restart", name) and self.set_running(name)

    def set_running(self, name):
        self.wanted[name] = abs(self.wanted[name])
        return True

    def stop(self, name):
        if not self.told("stop", name):
            return False
        # Stopped, it remembers how many it is to have.
        self.wanted[name] = -abs(self.wanted[name])
        return True

    def scale(self, name):
        replicas = self.rng.randint(1, REPLICAS_MAX)
        if not self.told("scale", name, str(replicas)):
            return False
        self.wanted[name] = replicas if self.wanted[name] > 0 else -replicas
        return True

    def harm(self, name, how):
        """Does something to a container behind the agent's back."""
        if name is None or self.harms[name] >= HARMS_MAX:
            return False
        running = self.nebula.engine.running(deployment=self.nebula.deployment(name)["id"])
        if not running:
            return False
        self.harms[name] += 1
        victim = self.rng.choice(sorted(each["Id"] for each in running))
        try:
            how(victim)
        except Exception as error:  # noqa: BLE001: it may have gone meanwhile
            assert getattr(error, "status", None) in (404, 409), error
        return True

    def kill(self, name):
        return self.harm(name, self.nebula.engine.kill)

    def remove(self, name):
        return self.harm(name, self.nebula.engine.remove)

    def halt(self, name):
        return self.harm(name, self.nebula.engine.stop)

    def kill_agent(self, _):
        if self.agent_kills >= AGENT_KILLS_MAX:
            return False
        self.agent_kills += 1
        self.nebula.agent.kill()
        self.nebula.group.forget(self.nebula.agent)
        self.pause()
        self.nebula.start_agent()
        return True

    def pause(self):
        threading.Event().wait(self.rng.uniform(0, PAUSE_MS_MAX) / 1000)

    # --- the end

    def expected(self):
        return {name: count for name, count in self.wanted.items() if count > 0}

    def found(self):
        """What runs for which deployment, by the Engine and the operating system; leftovers under their own id."""
        nebula = self.nebula
        listed = {each["id"]: each for each in nebula.told("list")}
        found = Counter()
        for container in nebula.engine.containers():
            owner = listed.get(container["Labels"]["nebula.deployment"])
            found[owner["name"] if owner else container["Id"]] += 1
        found.update(nebula.group.runtimes())
        return dict(found)

    def is_shown(self):
        """The API shows what is wanted, and each model answers."""
        listed = {each["name"]: each for each in self.nebula.told("list")}
        if set(listed) != set(self.wanted):
            return False
        for name, count in self.wanted.items():
            states = [replica["state"] for replica in listed[name]["replicas"]]
            if count > 0 and (states != ["running"] * count or self.nebula.chat(name).status != 200):
                return False
            if count < 0 and listed[name]["state"] != "stopped":
                return False
        return True


def test_exactly_what_is_wanted_runs(nebula, figures):
    steps = Steps(nebula)
    try:
        for _ in range(STEPS):
            steps.step()
            steps.pause()
        wanted = steps.expected()
        wait_until("what is wanted runs", lambda: steps.found() == wanted, SETTLED_SECONDS)
        wait_until("it is shown so", steps.is_shown, SETTLED_SECONDS)
        threading.Event().wait(STAYS_SECONDS)
        assert steps.found() == wanted, "it did not stay so"
    except AssertionError as error:
        trace = ", ".join(steps.trace[-40:])
        raise AssertionError(f"{error}; seed {SEED}; wanted {steps.wanted}; found {steps.found()}; {trace}") from None
    done = ", ".join(f"{count} {what}" for what, count in sorted(steps.done.items()))
    figures(f"random steps: seed {SEED}, {done}; exactly what was wanted ran: {wanted}")
