"""Failing system calls: strace makes the n-th call of a kind on a file fail, or kills the caller at it.

strace counts the calls of each thread apart. A place is therefore a kind of call, a file and a number, and one place
may hit several threads; what was really hit is read from strace's log.
"""

import re
import shutil
import subprocess
import time
from collections import Counter
from dataclasses import dataclass

from processes import wait_until

# All by which a program changes what a disk holds.
CALLS = (
    *("write", "writev", "pwrite64", "pwritev", "pwritev2", "ftruncate", "fallocate"),
    *("fsync", "fdatasync", "sync_file_range", "syncfs"),
    *("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat"),
    *("open", "openat", "creat", "chmod", "fchmod", "fchmodat"),
)
OPENING = ("open", "openat", "creat")
KILL = "signal=KILL"
FAULTS = ("error=EIO", "error=ENOSPC", KILL)
LOG_SECONDS = 10
# How long a run may take to come to a file with a time in its name.
RUN_SECONDS = 20

STAMP = re.compile(r"\d{8}T\d{6}Z")
LINE = re.compile(r"^(\d+) +(\d+\.\d+) (.*)$")
ENTRY = re.compile(r"^(\w+)\((.*)$")
RESUMED = re.compile(r"^<\.\.\. (\w+) resumed>(.*)$")


def missing():
    """Why system calls cannot be made to fail here; none if they can."""
    if not shutil.which("strace"):
        return "there is no strace here"
    probe = ["strace", "-D", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", "trace=write", "true"]
    probe[-1:] = ["-e", "inject=write:error=EIO:when=1", "true"]
    try:
        done = subprocess.run(probe, capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return "strace does not end here"
    return f"strace does not work here: {done.stderr.strip()}" if done.returncode else None


@dataclass(frozen=True)
class Call:
    """One call on a file of the directory."""

    pid: int
    time: float
    name: str
    path: str
    result: str

    @property
    def failed(self):
        return "-1 " in self.result

    @property
    def injected(self):
        return "(INJECTED)" in self.result


@dataclass(frozen=True)
class Place:
    """The n-th call of this kind by a thread on this file."""

    name: str
    path: str
    number: int


def command(log, place=None, fault=None):
    """What stands before a program. The program keeps the pid: the tracer is its grandchild."""
    words = ["strace", "-D", "-f", "-y", "-q", "-ttt", "-s", "0", "-o", str(log)]
    words += ["-e", f"trace={','.join(CALLS)}"]
    # Only calls that are traced stop the program, which is much faster. No signal can be sent at such a stop.
    if fault != KILL:
        words += ["--seccomp-bpf"]
    if place is not None:
        words += [word for path in spellings(place.path) for word in ("-P", path)]
        words += ["-e", f"inject={place.name}:{fault}:when={place.number}"]
    return words


def spellings(path):
    """A path with a time in it is another one in each second of the run that follows."""
    times = (time.gmtime(time.time() + later) for later in range(RUN_SECONDS))
    return list(dict.fromkeys(STAMP.sub(time.strftime("%Y%m%dT%H%M%SZ", at), path) for at in times))


def read(log, pid, paths):
    """The calls on these files and what is below them, in order, once the tracer has written all of them."""
    ended = re.compile(rf"^{pid} .*\+\+\+ (exited|killed) ", re.MULTILINE)
    wait_until("strace has written its log", lambda: log.exists() and ended.search(log.read_text()), LOG_SECONDS)
    below = re.compile(rf"(?:{'|'.join(re.escape(str(path)) for path in paths)})(?:/[^\">]*)?(?=[\">])")
    return list(calls(log.read_text(errors="replace").splitlines(), below))


def calls(lines, below):
    begun = {}
    for line in lines:
        parts = LINE.match(line)
        if not parts:
            continue
        pid, at, rest = int(parts[1]), float(parts[2]), parts[3]
        if resumed := RESUMED.match(rest):
            if pid in begun and begun[pid][1] == resumed[1]:
                at, name, arguments = begun.pop(pid)
                rest = arguments + resumed[2]
            else:
                continue
        elif entry := ENTRY.match(rest):
            name, rest = entry[1], entry[2]
            if "<unfinished ...>" in rest:
                begun[pid] = (at, name, rest.replace("<unfinished ...>", ""))
                continue
        else:
            continue
        yield from call(pid, at, name, rest, below)
    # Whoever was killed in a call does not come back from it.
    for pid, (at, name, rest) in begun.items():
        yield from call(pid, at, name, rest + " = -1 ?", below)


def call(pid, at, name, rest, below):
    if name in OPENING and "O_CREAT" not in rest:
        return
    # The decoded directory of an openat comes first; the file itself is the last path.
    arguments, _, result = rest.rpartition(" = ")
    paths = below.findall(arguments)
    if paths:
        yield Call(pid, at, name, paths[-1] if name in OPENING else paths[0], result)


def places(seen):
    """Every place of a run, in the order in which it came there first."""
    numbers, found = Counter(), {}
    for each in seen:
        numbers[each.pid, each.name, each.path] += 1
        found.setdefault(Place(each.name, each.path, numbers[each.pid, each.name, each.path]))
    return list(found)


def choose(found, count):
    """At most about `count` (place, fault) pairs: each kind of call with each fault, the others spread evenly."""
    pairs = [(place, fault) for place in found for fault in FAULTS]
    if count is None or count >= len(pairs):
        return pairs
    kinds = {}
    for place, fault in pairs:
        kinds.setdefault((place.name, fault), (place, fault))
    chosen = set(kinds.values())
    rest = [pair for pair in pairs if pair not in chosen]
    wanted = max(0, count - len(chosen))
    # The faults take turns, since each place stands there with all of them.
    step = len(rest) / wanted if wanted else 0
    chosen.update(rest[int(turn * step)] for turn in range(wanted))
    return [pair for pair in pairs if pair in chosen]
