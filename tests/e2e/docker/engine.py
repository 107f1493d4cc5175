"""A Docker Engine of the tests' own: it may be stopped, killed and hung, and it never sees another one's containers.

It needs root, `dockerd` with what belongs to it, and a kernel that makes bridges. Ports reach containers by Docker's
own proxy, so that no firewall rule of this machine is touched.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from bridge import Bridge
from engine_api import EngineApi
from processes import all_pids, command_of, is_living, wait_until

PROGRAMS = ("dockerd", "containerd", "runc", "docker-proxy")
# Where distributions put what only root runs.
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
STORAGE = ("overlay2", "vfs")
START_SECONDS = 30
STOP_SECONDS = 40
UMOUNT_DETACH = 2


class NoEngine(Exception):
    """Why there can be none here."""


def cannot():
    """Why no Engine can be had here, or nothing."""
    if os.geteuid() != 0:
        return "only root can run a Docker Engine"
    missing = [program for program in PROGRAMS if not shutil.which(program, path=PATH)]
    return f"there is no {' and no '.join(missing)} here" if missing else None


class Engine(EngineApi):
    started = 0

    def __init__(self, *flags):
        reason = cannot()
        if reason:
            raise NoEngine(reason)
        # A socket's path may have 107 letters.
        self.directory = Path(tempfile.mkdtemp(prefix="nebula-engine-"))
        super().__init__(self.directory / "sock")
        self.log = self.directory / "log"
        self.flags = flags
        self.popen = self.containerd = self.bridge = None
        Engine.started += 1
        name = f"nbt{os.getpid() % 10**7}n{Engine.started % 1000}"
        try:
            self.bridge = Bridge(name)
            self.containerd = self.launch_containerd()
            self.start_with_any_storage()
        except OSError as error:
            self.end()
            raise NoEngine(f"no bridge can be made here: {error}") from None
        except NoEngine:
            self.end()
            raise

    @property
    def host(self):
        return f"unix://{self.path}"

    def start_with_any_storage(self):
        for self.storage in STORAGE:
            self.launch()
            wait_until("the Engine answers or ends", lambda: self.is_there() or not self.is_alive(), START_SECONDS)
            if self.is_alive():
                return
        raise NoEngine(f"dockerd does not start here: {self.last_words()}")

    def launch_containerd(self):
        """A process of its own, as on real machines: it and its containers outlive a crash of the Engine."""
        config = self.directory / "containerd.toml"
        places = {"root": "containerd", "state": "containerd-state"}
        lines = ["version = 2", 'disabled_plugins = ["io.containerd.grpc.v1.cri"]']
        lines += [f'{name} = "{self.directory / place}"' for name, place in places.items()]
        for protocol, ending in (("grpc", ""), ("ttrpc", ".ttrpc")):
            lines += [f"[{protocol}]", f'address = "{self.containerd_socket}{ending}"']
        config.write_text("\n".join(lines))
        containerd = self.spawn(["containerd", "--config", str(config)])
        wait_until("containerd listens", self.containerd_socket.exists, START_SECONDS)
        return containerd

    @property
    def containerd_socket(self):
        return self.directory / "containerd.sock"

    def spawn(self, command):
        with open(self.log, "ab") as log:
            environment = {"PATH": PATH, "TMPDIR": str(self.directory)}
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
                preexec_fn=unblock,
            )

    def launch(self):
        places = {"data-root": "data", "exec-root": "exec", "pidfile": "pid", "config-file": "none.json"}
        command = ["dockerd", "--host", self.host, "--bridge", self.bridge.name, "--storage-driver", self.storage]
        command += [f"--{flag}={self.directory / name}" for flag, name in places.items()]
        command += ["--iptables=false", "--ip6tables=false", "--ip-masq=false"]
        command += ["--containerd", str(self.containerd_socket)]
        command += ["--exec-opt", "native.cgroupdriver=cgroupfs", "--shutdown-timeout=2", *self.flags]
        (self.directory / "none.json").write_text("{}")
        self.popen = self.spawn(command)

    def start(self):
        """Starts it again, with everything it had."""
        self.launch()
        wait_until("the Engine answers", self.is_there, START_SECONDS)

    def is_alive(self):
        return self.popen is not None and self.popen.poll() is None

    def shut_down(self):
        """As its service manager does."""
        self.popen.terminate()
        wait_until("the Engine ends", lambda: not self.is_alive(), STOP_SECONDS)

    def crash(self):
        self.popen.kill()
        self.popen.wait()

    def hang(self):
        self.popen.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.popen.send_signal(signal.SIGCONT)

    def last_words(self):
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return lines[-1] if lines else "it said nothing"

    def remove_containers(self):
        for container in self.get("/containers/json", all=1):
            self.remove(container["Id"])

    def end(self):
        """Ends it and whatever it started, and leaves nothing behind."""
        if self.is_alive():
            self.go_on()
            try:
                self.remove_containers()
                self.shut_down()
            except Exception:  # noqa: BLE001: whatever it is, the rest must go too
                self.crash()
        for pid in self.helpers():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        wait_until("what the Engine started has ended", lambda: not self.helpers(), STOP_SECONDS)
        for child in filter(None, (self.popen, self.containerd)):
            child.wait()
        for place in reversed(mounts_below(self.directory)):
            ctypes.CDLL(None).umount2(place.encode(), UMOUNT_DETACH)
        if self.bridge:
            self.bridge.remove()
        self.popen = self.containerd = self.bridge = None
        shutil.rmtree(self.directory, ignore_errors=True)

    def helpers(self):
        """containerd and its shims, by the number: what they run ends with them."""
        needle = str(self.directory)
        ours = lambda pid: any(needle in word for word in command_of(pid))
        return [pid for pid in all_pids() if ours(pid) and is_living(pid) and pid != os.getpid()]


def unblock():
    """Whoever blocks signals to wait for them does not do so for what it starts."""
    signal.pthread_sigmask(signal.SIG_SETMASK, set())


def mounts_below(directory):
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [place for place in (line.split()[4] for line in lines) if place.startswith(f"{directory}/")]
