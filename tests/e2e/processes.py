"""Real processes of the programs under test: started in groups of their own, watched by their output, always ended."""

import os
import random
import re
import signal
import socket
import subprocess
import time
import zlib
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN_DIR = Path(os.environ.get("NEBULA_BIN_DIR") or ROOT / "target" / "release")
if not BIN_DIR.is_absolute():
    BIN_DIR = ROOT / BIN_DIR

# Every process of one test carries this variable, runtimes too, because they inherit it.
MARK = "NEBULA_TEST_RUN"
# Settings of whoever runs the tests must not reach the programs under test.
FOREIGN = re.compile(
    r"^(NEBULA|NEBULAD|NEBULA_AGENT|NEBULA_SIM|DOCKER|HF|AWS)_|^(CARGO|RUST)_?|^PORT$|_proxy$", re.IGNORECASE
)
LOOK_SECONDS = 0.02
# Runtimes' ports: each test has some of its own, so that what else runs on this machine does not disturb it.
PORTS_EACH = 20
PORTS_SHARES = range(30000, 31000, PORTS_EACH)
# Servers' ports that stay the same over restarts: below those that the kernel gives to outgoing connections, for one
# of these could take the port while its server is down.
FIXED_PORTS = range(28000, 30000)


def wait_until(what, look, seconds):
    """Looks until `look` returns something true, and returns that."""
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}; last seen: {seen!r}")
        time.sleep(LOOK_SECONDS)


class Process:
    """One started program, with its output in files."""

    def __init__(self, name, args, env, cwd):
        self.name = name
        self.out_path = cwd / f"{name}.out"
        self.err_path = cwd / f"{name}.err"
        self.started = time.monotonic()
        with open(self.out_path, "wb") as out, open(self.err_path, "wb") as err:
            self.popen = subprocess.Popen(
                [str(arg) for arg in args],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )
        self.pid = self.popen.pid

    @property
    def out(self):
        return self.out_path.read_text(errors="replace")

    @property
    def err(self):
        return self.err_path.read_text(errors="replace")

    def is_alive(self):
        return self.popen.poll() is None

    def wait_for_text(self, pattern, seconds, stream="out"):
        """Waits until the output matches, and returns the match."""

        def look():
            found = re.search(pattern, getattr(self, stream))
            if not found and not self.is_alive():
                # What it wrote last may have come after the first look.
                found = re.search(pattern, getattr(self, stream))
                assert found, f"{self.name} ended with {self.popen.returncode} before it said {pattern!r}: {self.err}"
            return found

        return wait_until(f"{self.name} says {pattern!r}", look, seconds)

    def wait(self, seconds):
        """Waits for the end and returns the exit code."""
        wait_until(f"{self.name} ends", lambda: not self.is_alive(), seconds)
        return self.popen.returncode

    def signal(self, number):
        self.popen.send_signal(number)

    def kill(self):
        """As a crash would: nothing is said and nothing cleaned up."""
        self.popen.kill()
        self.popen.wait()

    def memory_bytes(self):
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024


class Group:
    """All processes of one test."""

    def __init__(self, directory):
        self.directory = directory
        self.mark = f"{os.getpid()}-{directory.name}-{time.monotonic_ns()}"
        self.processes = []
        self.started = 0
        first = PORTS_SHARES[zlib.crc32(self.mark.encode()) % len(PORTS_SHARES)]
        self.port_range = f"{first}-{first + PORTS_EACH - 1}"

    def environment(self, extra=None):
        env = {name: value for name, value in os.environ.items() if not FOREIGN.search(name)}
        temporary = self.directory / "tmp"
        temporary.mkdir(exist_ok=True)
        env |= {MARK: self.mark, "HOME": str(self.directory), "TMPDIR": str(temporary), "NO_COLOR": "1"}
        env |= {"NEBULA_AGENT_PORT_RANGE": self.port_range}
        return env | {name: str(value) for name, value in (extra or {}).items()}

    def start(self, program, *args, env=None):
        """Starts one of our programs; it runs until it ends or the test does."""
        return self.start_under([], program, *args, env=env)

    def start_under(self, wrapper, program, *args, env=None):
        """Starts one of our programs by way of another one."""
        name = f"{program}-{self.started}"
        self.started += 1
        command = [*wrapper, binary(program), *args]
        process = Process(name, command, self.environment(env), self.directory)
        self.processes.append(process)
        return process

    def forget(self, process):
        """Drops one that has ended as it should, with its output: a test that starts hundreds keeps no hundreds."""
        assert not process.is_alive()
        self.processes.remove(process)
        process.out_path.unlink()
        process.err_path.unlink()

    def run(self, program, *args, env=None, seconds=30):
        """Runs one of our programs to its end."""
        process = self.start(program, *args, env=env)
        process.wait(seconds)
        return process

    def running(self):
        """The numbers of all living processes of this test, runtimes included."""
        needle = f"{MARK}={self.mark}".encode()
        return [pid for pid in all_pids() if needle in environment_of(pid) and is_living(pid)]

    def runtimes(self):
        """How many processes of the simulated runtime run for each model, whoever started them."""
        commands = [command_of(pid) for pid in self.running()]
        models = [command[command.index("--model") + 1] for command in commands if is_sim_runtime(command)]
        return dict(Counter(models))

    def assert_nothing_runs(self, seconds=10):
        wait_until("nothing is left running", lambda: not self.running(), seconds)

    def end(self):
        """Kills whatever is left, by number."""
        for process in self.processes:
            if process.is_alive():
                process.kill()
        for pid in self.running():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def logs(self, lines=60):
        """What each process said last, for a failed test's report."""
        for process in self.processes:
            for path in (process.out_path, process.err_path):
                text = path.read_text(errors="replace").strip()
                if text:
                    yield path.name, "\n".join(text.splitlines()[-lines:])


def free_ports(count):
    """Ports that nobody listens on, for servers that come back on the same ones."""
    found = []
    for port in random.sample(FIXED_PORTS, len(FIXED_PORTS)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise AssertionError(f"there are no {count} free ports in {FIXED_PORTS}")


def binary(program):
    path = BIN_DIR / program
    assert path.is_file(), f"there is no {path}; build it with: cargo build --release --workspace --bins"
    return path


def all_pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def environment_of(pid):
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def is_sim_runtime(command):
    """The agent's own program serves as the simulated runtime."""
    return "--port" in command and "--model" in command


def is_living(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False
