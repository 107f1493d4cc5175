"""Every system call by which nebulad changes its disk fails once, or is the last thing it does. Whatever comes of it,
the next start needs nobody's help, nothing that was acknowledged is lost, and nothing is acknowledged by a failed sync.
"""

import copy
import itertools
import math
import random
import re
import shutil
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

import strace
from cluster import Cluster
from journal import Journal
from load import Api, Owner, all_deployments, by_name
from processes import Group, wait_until
from settings import sized

pytestmark = pytest.mark.skipif(strace.missing() is not None, reason=str(strace.missing()))

# How many faults of each scenario the short form makes.
SHORT = {"start": 36, "start again": 24, "rebuild": 24, "export": 16, "import": 24}
AT_ONCE = 4
# sled can lose a wake-up over a failing write and never come back; nebulad gives the store up after 30 s then.
GIVEN_UP_SECONDS = 50
COMMAND_SECONDS = 30
KILLED = -9
# Stopped in order, directory cannot be used, disk error.
ORDERLY = (0, 73, 74)
# A file outside of the data directory could not be written.
FAILED = 1
SCRIPT = ("create", "create", "scale", "create", "stop", "start", "rotate_token", "restart", "delete", "create")


class Change:
    """One mutation of the script: when it was asked for, when answered, and whether it was acknowledged."""

    def __init__(self, action, sent, answered, acknowledged):
        self.action, self.sent, self.answered, self.acknowledged = action, sent, answered, acknowledged

    def __repr__(self):
        return f"{self.action} was acknowledged"


class Run:
    """One nebulad with a data directory of its own, faults included."""

    def __init__(self, directory):
        directory.mkdir(parents=True)
        self.group = Group(directory)
        self.cluster = Cluster(self.group)
        self.data = self.cluster.data_dir
        self.backup = directory / "backup" / "nebula.export"
        self.backup.parent.mkdir()
        self.log = directory / "strace.log"
        self.journal = Journal()
        self.owner = Owner("client", self.journal, random.Random(1))
        self.changes = []
        self.fault = None

    def inherit(self, other):
        """Begins where another run ended: with its files, and with what was promised in it."""
        self.inherit_files(other)
        self.remember(other)

    def inherit_files(self, other):
        # The file that holds room back for a full disk is made again.
        shutil.copytree(other.data, self.data, ignore=shutil.ignore_patterns("ballast"))

    def remember(self, other):
        self.owner.deployments = copy.deepcopy(other.owner.deployments)
        self.owner.made = other.owner.made

    # --- the scripted run

    def serve(self, place=None, fault=None):
        """Starts, changes things one after the other, stops; as far as the fault lets it."""
        self.fault = fault
        process = self.cluster.launch_nebulad(wrapper=strace.command(self.log, place, fault))
        if self.is_ready(process):
            self.cluster.wait_for_nebulad()
            api = Api(self.cluster.http_addr, self.cluster.admin_token)
            for action in SCRIPT:
                self.change(api, action)
            api.close()
            if process.is_alive():
                process.popen.terminate()
        return self.ended(process, GIVEN_UP_SECONDS)

    def is_ready(self, process):
        ready = lambda: not process.is_alive() or "nebulad is ready" in process.err
        wait_until("nebulad is ready, or has ended", ready, GIVEN_UP_SECONDS)
        return "nebulad is ready" in process.err

    def change(self, api, action):
        if api.is_refused():
            return
        live = self.owner.live()
        before, sent = self.journal.acknowledged.total(), time.time()
        if action == "create" or not live:
            self.owner.create(api)
        else:
            getattr(self.owner, action)(api, live[0])
        self.changes.append(Change(action, sent, time.time(), self.journal.acknowledged.total() > before))

    def store(self, *args, place=None, fault=None, traced=True):
        """One of the commands for a store that is not served, to its end."""
        wrapper = strace.command(self.log, place, fault) if traced else []
        process = self.group.start_under(wrapper, "nebulad", "store", *args, "--data-dir", self.data)
        return self.ended(process, COMMAND_SECONDS)

    def succeeds(self, *args):
        process = self.store(*args, traced=False)
        assert process.popen.returncode == 0, f"nebulad store {args}: {process.popen.returncode}: {process.err}"
        return True

    def ended(self, process, seconds):
        process.wait(seconds)
        return process

    def calls(self, process):
        return strace.read(self.log, process.pid, [self.data, self.backup.parent])

    # --- what must hold

    def assert_orderly(self, process, codes=ORDERLY):
        code = process.popen.returncode
        assert code in (*codes, KILLED), f"exit code {code}: {process.err}"
        if code not in (0, KILLED):
            assert re.search(r"^error: .+", process.err, re.MULTILINE), f"no clear line: {process.err}"

    def assert_acknowledged_when_synced(self, calls):
        """Between a request and its acknowledgement lies a sync that was good, and none comes after one that failed
        for good: what an operating system could not write once it does not write at the next sync either.
        """
        syncs = [call for call in calls if call.name == "fdatasync"]
        # Only calls on the file that the fault is about are in the log.
        if not syncs and self.fault is not None:
            return
        good = [call.time for call in syncs if not call.failed]
        broken = [call.time for call in syncs if call.failed and "EIO" in call.result]
        failed = min((call.time for call in calls if call.injected), default=math.inf)
        for change in self.changes:
            if not change.acknowledged:
                continue
            assert not any(time < change.sent for time in broken), f"{change} after a sync that failed"
            # When there was no room the store is opened again, and its log then goes on in another file, in which a
            # change that was tried again may have its sync.
            if change.answered < failed or not syncs or not syncs[0].path.endswith(".redo"):
                # A part of its own work may fail after the answer has been decided.
                assert any(change.sent < time < change.answered for time in good), f"{change} without a sync"

    def assert_recovers(self):
        """A start as any other: everything acknowledged is there, and it takes changes."""
        owner = self.owner
        # The ports of before may be somebody else's by now.
        self.cluster.grpc_addr = self.cluster.http_addr = None
        self.cluster.start_nebulad()
        api = Api(self.cluster.http_addr, self.cluster.admin_token)
        owner.check(api, by_name(all_deployments(api)))
        changed = owner.journal.acknowledged.total()
        owner.create(api)
        api.close()
        assert not owner.journal.wrong, "\n".join(owner.journal.wrong)
        assert owner.journal.acknowledged.total() > changed, "it takes no changes"
        self.cluster.nebulad.kill()


class Sweep:
    """One scenario at all of its places."""

    def __init__(self, name, directory):
        self.name, self.directory = name, directory
        self.counts = Counter()
        self.numbers = itertools.count(1)

    def run(self, scenario):
        """`scenario(run, place, fault)` makes one run, checks it, and returns the ended process and its calls."""
        whole = Run(self.directory / "whole")
        try:
            _, calls = scenario(whole, None, None)
        finally:
            whole.group.end()
        found = strace.places(calls)
        assert found, "no call that changes the disk was seen"
        # Paths tell in which run they were; each run has a directory of its own.
        relative = [self.moved(place, whole, "{}") for place in found]
        pairs = strace.choose(relative, sized(SHORT[self.name], None))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            faults = list(pool.map(lambda pair: self.at(scenario, *pair), pairs))
        faults = [fault for fault in faults if fault]
        self.counts["places"] = len(relative)
        self.counts["injections"] = len(pairs)
        assert not faults, f"{len(faults)} of {len(pairs)} went wrong:\n" + "\n\n".join(faults)
        return self

    def moved(self, place, run, to):
        return strace.Place(place.name, place.path.replace(str(run.group.directory), to), place.number)

    def at(self, scenario, place, fault):
        """One injection; what went wrong, if anything did."""
        run = Run(self.directory / f"{next(self.numbers)}-{place.name}-{fault.partition('=')[2]}")
        place = strace.Place(place.name, place.path.format(run.group.directory), place.number)
        try:
            process, calls = scenario(run, place, fault)
            killed = process.popen.returncode == KILLED
            self.counts["hit"] += killed or any(call.injected for call in calls)
            self.counts["killed" if killed else "ended with an error" if process.popen.returncode else "went on"] += 1
        except Exception as wrong:  # noqa: BLE001: all injections are told, not the first alone
            logs = "\n".join(f"  {name}: {text}" for name, text in run.group.logs(12))
            return f"{fault} at {place}: {wrong}\n{logs}"
        finally:
            run.group.end()
        shutil.rmtree(run.group.directory)
        return None

    def __str__(self):
        counts = self.counts
        return (
            f"system calls ({self.name}): {counts['places']} places, {counts['injections']} injections, "
            f"{counts['hit']} hit; {counts['killed']} killed, {counts['ended with an error']} ended with an error, "
            f"{counts['went on']} went on; {counts['injections']} recovered, 0 lost"
        )


@pytest.fixture
def sweep(tmp_path, figures):
    """Sweeps a scenario and tells the figures."""

    def run(name, scenario):
        figures(str(Sweep(name, tmp_path / name).run(scenario)))

    return run


@pytest.fixture
def served(tmp_path):
    """A data directory with some history that was left by a crash, and the one who knows what must be in it."""
    run = Run(tmp_path / "served")
    run.cluster.start_nebulad()
    api = Api(run.cluster.http_addr, run.cluster.admin_token)
    for action in SCRIPT:
        run.change(api, action)
    api.close()
    run.cluster.nebulad.kill()
    assert not run.journal.wrong and run.journal.acknowledged.total() == len(SCRIPT)
    return run


def serve(run, place, fault):
    process = run.serve(place, fault)
    calls = run.calls(process)
    run.assert_orderly(process)
    run.assert_acknowledged_when_synced(calls)
    if fault is None:
        assert process.popen.returncode == 0 and all(change.acknowledged for change in run.changes)
    run.assert_recovers()
    return process, calls


def test_a_first_start(sweep):
    sweep("start", serve)


def test_a_start_after_a_crash(sweep, served):
    def again(run, place, fault):
        run.inherit(served)
        return serve(run, place, fault)

    sweep("start again", again)


def test_a_start_with_a_damaged_store(sweep, served):
    """The store is rebuilt from its own log; what fails then is tried again by the next start."""

    def rebuild(run, place, fault):
        run.inherit(served)
        damage(run.data / "db" / "db")
        return serve(run, place, fault)

    sweep("rebuild", rebuild)


def damage(file):
    """Nothing of its second half can be read any more."""
    size = file.stat().st_size
    with file.open("r+b") as log:
        log.seek(size // 2)
        log.write(b"\xa5" * (size - size // 2))


def test_an_export(sweep, served):
    def export(run, place, fault):
        run.inherit(served)
        process = run.store("export", run.backup, place=place, fault=fault)
        calls = run.calls(process)
        run.assert_orderly(process, (*ORDERLY, FAILED))
        if process.popen.returncode == 0:
            assert run.backup.exists(), "it says that it has exported"
        # A part of an export never stands under its name.
        if not run.backup.exists():
            assert run.succeeds("export", run.backup)
        assert run.succeeds("verify", run.backup)
        run.assert_recovers()
        return process, calls

    sweep("export", export)


def test_an_import(sweep, served):
    assert served.succeeds("export", served.backup)

    def bring_in(run, place, fault):
        run.remember(served)
        process = run.store("import", served.backup, place=place, fault=fault)
        calls = run.calls(process)
        run.assert_orderly(process)
        if process.popen.returncode != 0:
            assert_all_or_nothing(run, served)
            # Whoever gives the command again gets all of it, or hears that it is there already: the start below
            # then finds all of it.
            again = run.store("import", served.backup, traced=False)
            assert again.popen.returncode in (0, 73), again.err
        run.assert_recovers()
        assert run.succeeds("verify")
        return process, calls

    sweep("import", bring_in)


def assert_all_or_nothing(run, served):
    """What nebulad serves after an import that did not end well."""
    if not run.data.exists():
        return
    other = Run(run.group.directory / "started")
    try:
        other.inherit_files(run)
        other.cluster.start_nebulad()
        api = Api(other.cluster.http_addr, other.cluster.admin_token)
        there = by_name(all_deployments(api))
        if there:
            other.remember(served)
            other.owner.check(api, there)
        api.close()
        assert not other.journal.wrong, "a part was imported:\n" + "\n".join(other.journal.wrong)
    finally:
        other.group.end()
