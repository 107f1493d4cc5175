"""What the bench asks of the machine: processes and their processor time and memory, ports, versions."""

import ctypes
import os
import pathlib
import platform
import resource
import signal
import socket
import subprocess
import time

CLOCK_TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
PR_SET_PDEATHSIG = 1
STOP_SECONDS = 10


class Skip(Exception):
    """Something cannot be had or done here; says why."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def allow_files(wanted):
    """Raises the limit of open files, for this process and all that it starts. False: not far enough."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return True
        except (ValueError, OSError):
            pass
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard == resource.RLIM_INFINITY or hard >= wanted


class Process:
    """A program that is started, measured with all its children, and stopped."""

    def __init__(self, name, command, folder, cores=None, env=None):
        self.name = name
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"{name}.log"
        with open(self.log, "wb") as log:
            self.child = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(env or {})},
                preexec_fn=lambda: _before_exec(cores),
            )

    def alive(self):
        return self.child.poll() is None

    def last_words(self):
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else "it said nothing"

    def stop(self):
        if self.alive():
            self.child.terminate()
            try:
                self.child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                pass
        # The group is ours: the child began a session of its own.
        try:
            os.killpg(self.child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.child.wait()


def _before_exec(cores):
    # Nothing that is started here outlives the bench.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if cores:
        os.sched_setaffinity(0, cores)


def tree(pid, without=None):
    """The ids of a process and all below it; not those whose command line has the words `without`, and below."""
    children = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
            except OSError:
                continue
    found, waiting = [], [pid]
    while waiting:
        pid = waiting.pop()
        if without and without in _command_line(pid):
            continue
        found.append(pid)
        waiting.extend(children.get(pid, []))
    return found


def _command_line(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def cpu_seconds(pids):
    """Processor time so far, in the program and in the system on its behalf."""
    total = 0.0
    for pid in pids:
        try:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            # utime, stime, and those of children that have ended.
            total += sum(int(fields[at]) for at in (11, 12, 13, 14)) / CLOCK_TICK
        except OSError:
            continue
    return total


def memory_mb(pids):
    """Resident memory. What processes share is counted once (PSS) where the system tells."""
    total = 0.0
    for pid in pids:
        try:
            rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += int(rollup.partition("\nPss:")[2].split()[0]) / 1024
        except (OSError, IndexError, ValueError):
            try:
                total += int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / 2**20
            except OSError:
                continue
    return total


def output_of(command, seconds=30):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout + done.stderr).strip()


def describe():
    """The machine in one line."""
    model = "unknown processor"
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    gigabytes = os.sysconf("SC_PHYS_PAGES") * PAGE / 2**30
    return f"{os.cpu_count()} cores ({model}), {gigabytes:.0f} GB, Linux {platform.release()}"


def wait_for(what, look, seconds, every=0.1, process=None):
    """Waits until `look` returns something true, and returns it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        if process and not process.alive():
            raise Skip(f"it ended: {process.last_words()}")
        time.sleep(every)
    raise Skip(f"{what} took more than {seconds} s")
