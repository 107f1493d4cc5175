"""The checkers of the slow suites find what they look for."""

from types import SimpleNamespace

import pytest

import strace
from journal import Deployment, Journal
from test_syscall_faults import Change, Run

SHOWN = {"id": "one", "desired_state": "running", "spec": {"replicas": 2}, "generation": 3}


def promised():
    deployment = Deployment("demo", {"replicas": 2})
    deployment.created(SHOWN)
    return deployment


def faults(deployment, shown):
    return list(deployment.compare(shown))


def test_what_was_promised_is_right():
    assert faults(promised(), SHOWN) == []


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        (None, "gone"),
        (SHOWN | {"desired_state": "deleted"}, "gone"),
        (SHOWN | {"id": "two"}, "another id"),
        (SHOWN | {"desired_state": "stopped"}, "desired_state"),
        (SHOWN | {"spec": {"replicas": 1}}, "replicas"),
        (SHOWN | {"generation": 2}, "generation"),
    ],
)
def test_what_was_lost_is_found(shown, said):
    found = faults(promised(), shown)
    assert len(found) == 1 and said in found[0], found


def test_an_undone_delete_is_found():
    deployment = promised()
    deployment.here.is_now(False)
    assert "back" in faults(deployment, SHOWN)[0]


def test_what_had_no_answer_may_be_either():
    for shown in (SHOWN, None):
        deployment = promised()
        deployment.here.may_become(False)
        assert faults(deployment, shown) == []
    # What was seen then counts.
    assert "back" in faults(deployment, SHOWN)[0]


def test_events_that_go_back_are_found():
    def event(seq, kind="scaled"):
        return {"seq": seq, "time": "now", "type": kind}

    journal = Journal()

    def told(id, *events):
        return " ".join(journal.check_events("demo", id, list(events)))

    assert told("one", event(1), event(4)) == ""
    assert "end at 1" in told("one", event(1))
    assert "event 4 is" in told("one", event(4, "stopped"), event(5))
    assert "not in order" in told("one", event(6), event(5))
    assert "event 6 is" in told("two", event(6))


LOG = """\
7 100.000100 openat(AT_FDCWD</work>, "/data/db", O_RDONLY|O_CLOEXEC) = 3</data/db>
7 100.000200 openat(AT_FDCWD</work>, "/data/lock", O_RDWR|O_CREAT|O_CLOEXEC, 0600) = 3</data/lock>
7 100.000300 write(2</elsewhere/err>, ""..., 5) = 5
8 100.000400 pwrite64(3</data/db>, ""..., 5, 0 <unfinished ...>
7 100.000500 fdatasync(3</data/db>)  = -1 EIO (Input/output error) (INJECTED)
8 100.000600 <... pwrite64 resumed>) = 5
7 100.000700 rename("/data/a.tmp", "/data/a") = 0
7 100.000800 pwrite64(3</data/db>, ""..., 5, 0) = 5
7 100.000900 fsync(4</data-of-another/db>) = 0
8 100.001000 unlink("/data/a" <unfinished ...>
7 100.001100 +++ killed by SIGKILL +++
"""


def test_a_log_of_strace_is_read(tmp_path):
    log = tmp_path / "log"
    log.write_text(LOG)
    seen = strace.read(log, 7, ["/data"])
    told = [(call.pid, call.name, call.path, call.failed, call.injected) for call in seen]
    assert told == [
        (7, "openat", "/data/lock", False, False),
        (7, "fdatasync", "/data/db", True, True),
        (8, "pwrite64", "/data/db", False, False),
        (7, "rename", "/data/a.tmp", False, False),
        (7, "pwrite64", "/data/db", False, False),
        (8, "unlink", "/data/a", True, False),
    ]
    assert strace.Place("pwrite64", "/data/db", 1) in strace.places(seen)


def test_each_kind_of_call_is_chosen_with_each_fault():
    found = [strace.Place(name, "/data/db", number) for name in ("write", "fsync") for number in range(1, 50)]
    chosen = strace.choose(found, 20)
    assert len(chosen) == len(set(chosen)) == 20
    assert {(place.name, fault) for place, fault in chosen} == {
        (name, fault) for name in ("write", "fsync") for fault in strace.FAULTS
    }
    assert len(strace.choose(found, None)) == 3 * len(found)


def sync(time, result="0"):
    return strace.Call(1, time, "fdatasync", "/data/db", result)


EIO, ENOSPC = "-1 EIO (Input/output error) (INJECTED)", "-1 ENOSPC (No space left on device) (INJECTED)"


@pytest.mark.parametrize(
    ("calls", "change", "fault"),
    [
        ([], Change("stop", 0.5, 1.5, True), "without a sync"),
        ([sync(1)], Change("stop", 0.5, 1.5, True), None),
        ([sync(1)], Change("stop", 2, 3, True), "without a sync"),
        ([sync(1, EIO)], Change("stop", 0.5, 1.5, True), "without a sync"),
        ([sync(1, EIO)], Change("stop", 0.5, 1.5, False), None),
        ([sync(1, EIO), sync(2.5)], Change("stop", 2, 3, True), "after a sync that failed"),
        ([sync(1, ENOSPC), sync(1.2)], Change("stop", 2, 3, True), "without a sync"),
        ([sync(1, ENOSPC), sync(2.5)], Change("stop", 2, 3, True), None),
    ],
)
def test_an_acknowledgement_of_a_failed_sync_is_found(calls, change, fault):
    checked = SimpleNamespace(changes=[change], fault=None)
    if fault is None:
        Run.assert_acknowledged_when_synced(checked, calls)
    else:
        with pytest.raises(AssertionError, match=f"stop was acknowledged {fault}"):
            Run.assert_acknowledged_when_synced(checked, calls)
