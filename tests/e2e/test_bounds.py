"""As many changes as an hour brings at two in a second, at full speed: nothing that nebulad or the agent holds grows
with the number of changes that were made.
"""

import os
from pathlib import Path

from journal import Journal
from load import Api, Clients, Owner, all_deployments, by_name
from processes import wait_until
from settings import SEED, randomness, sized

MUTATIONS = sized(1_500, 7_200)
QUARTERS = 4
OWNERS = 4
# Every so many changes one is of a deployment that really runs.
RUNNING_EVERY = 25
QUICK = ("--heartbeat-timeout", "30", "--default-heartbeat-interval", "1")
QUARTER_SECONDS = 600
REST_SECONDS = 60
# The last quarter may have so much more than the second one, by which time everything has been used.
MARGINS = {"memory": 10e6, "descriptors": 24, "threads": 8, "actors": 24}
# Of the data directory, without the room that is held back for a full disk.
DISK_MAX = 96e6
HELD_BACK = "ballast"
# Lines of the journal that are kept: of each deployment, of each node and the fleet, and of who did what.
EVENTS_MAX, AUDIT_MAX = 200, 10_000


def sample(process, data_dir):
    place = Path(f"/proc/{process.pid}")
    files = [Path(at, name) for at, _, names in os.walk(data_dir) for name in names if name != HELD_BACK]
    threads = [line for line in (place / "status").read_text().splitlines() if line.startswith("Threads:")]
    return {
        "memory": process.memory_bytes(),
        "descriptors": len(os.listdir(place / "fd")),
        "threads": int(threads[0].split()[1]),
        "disk": sum(size_of(file) for file in files),
    }


def size_of(file):
    try:
        return file.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def walk(actor):
    yield actor
    for child in actor["children"]:
        yield from walk(child)


class Trial:
    def __init__(self, cluster):
        self.cluster = cluster
        self.journal = Journal()
        cluster.fix_ports()
        cluster.start_nebulad(*QUICK)
        self.agent = cluster.start_agent()
        cluster.wait_for_node("online")
        self.agent_data = cluster.group.directory / "agent-node-1"
        self.api = Api(cluster.http_addr, cluster.admin_token)
        running = {"model": "demo", "runtime": "sim"}
        self.running = Owner("running", self.journal, randomness("running"), 2, running, 2)
        self.owners = [Owner(f"client{n}", self.journal, randomness(f"client{n}")) for n in range(OWNERS)]
        self.clients = Clients(cluster.http_addr, cluster.admin_token)
        for owner in self.owners:
            self.clients.add(lambda api, _, owner=owner: owner.act(api))
        self.clients.add(self.act_on_what_runs)
        self.run_next = 0

    def act_on_what_runs(self, api, _):
        done = self.journal.acknowledged.total()
        if done < self.run_next:
            self.clients.ended.wait(0.01)
            return
        self.run_next = done + RUNNING_EVERY
        self.running.act(api)

    def quarter(self, number):
        wanted = MUTATIONS * number // QUARTERS
        self.clients.go()
        enough = lambda: self.journal.acknowledged.total() >= wanted or self.clients.faults
        wait_until(f"{wanted} changes are acknowledged", enough, QUARTER_SECONDS)
        self.clients.rest()
        return self.look()

    def look(self):
        """What there is when everything has come to rest."""
        wait_until("all mailboxes are empty", lambda: self.waiting() == 0, REST_SECONDS)
        wait_until("all commands are carried out", lambda: self.records().get("commands", 0) == 0, REST_SECONDS)
        assert not self.journal.wrong, "\n".join(self.journal.wrong)
        return {
            "nebulad": sample(self.cluster.nebulad, self.cluster.data_dir) | {"actors": len(self.actors())},
            "agent": sample(self.agent, self.agent_data),
            "records": self.records(),
        }

    def actors(self):
        status, tree = self.api.call("GET", "/admin/actors")
        assert status == 200, tree
        return list(walk(tree))

    def waiting(self):
        return sum(actor["mailbox_depth"] for actor in self.actors())

    def records(self):
        status, told = self.api.call("GET", "/admin/store")
        assert status == 200, told
        return told["records"]


def test_a_busy_hour_leaves_everything_bounded(cluster, figures):
    trial = Trial(cluster)
    try:
        quarters = [trial.quarter(number) for number in range(1, QUARTERS + 1)]
    finally:
        trial.clients.end()
    tell(trial, quarters, figures)

    second, last = quarters[1], quarters[3]
    for program in ("nebulad", "agent"):
        for what, margin in MARGINS.items():
            before, after = second[program].get(what, 0), last[program].get(what, 0)
            assert after <= before + margin, f"{what} of the {program} went from {before} to {after}"
        assert last[program]["disk"] <= DISK_MAX, f"the {program} takes {last[program]['disk'] / 1e6:.1f} MB of disk"
    listed = all_deployments(trial.api)
    records = last["records"]
    assert records["deployment_events"] <= EVENTS_MAX * len(listed), records
    assert records["node_events"] <= EVENTS_MAX * 2 and records["audit"] <= AUDIT_MAX, records
    for owner in [trial.running, *trial.owners]:
        owner.check(trial.api, by_name(listed))
    assert not trial.journal.wrong, "\n".join(trial.journal.wrong)


def tell(trial, quarters, figures):
    figures(f"bounds: seed {SEED}, {trial.journal.acknowledged.total()} changes, {trial.journal.unclear.total()} unclear")
    for program in ("nebulad", "agent"):
        for what in quarters[0][program]:
            values = [quarter[program][what] for quarter in quarters]
            shown = [f"{value / 1e6:.1f} MB" if what in ("memory", "disk") else str(value) for value in values]
            figures(f"bounds: {program} {what} after each quarter: {', '.join(shown)}")
    figures(f"bounds: records at the end: {quarters[-1]['records']}")
