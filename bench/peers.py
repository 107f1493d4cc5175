"""The gateways that Nebula is compared with: how each is had, started and asked.

Retries, breakers and logs are off everywhere, so that all do the same work or less than Nebula.
"""

import secrets
import shutil
import subprocess
import sys

from gateway import Gateway
from machine import Process, Skip, free_port, output_of

INSTALL_SECONDS = 900


def apt(package):
    """The path of a Debian package's program, which is installed where that is allowed."""
    path = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
    program = shutil.which(package) or shutil.which(package, path=path)
    if program:
        return program
    if not shutil.which("apt-get"):
        raise Skip(f"{package} is not installed, and there is no apt-get")
    for words in (["update", "-q"], ["install", "-qy", "--no-install-recommends", package]):
        done = subprocess.run(
            ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", *words],
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
        )
        if done.returncode != 0:
            raise Skip(f"{package} cannot be installed: {done.stderr.strip()[-150:]}")
    # The package's own service is not what is measured.
    subprocess.run(["service", package, "stop"], capture_output=True)
    return shutil.which(package, path=path)


class Nginx(Gateway):
    name = "nginx"

    def launch(self):
        program = apt("nginx")
        self.version = output_of([program, "-v"]).partition("/")[2]
        folder, self.port = self.setting.folder / "nginx", free_port()
        folder.mkdir(parents=True, exist_ok=True)
        values = {"FOLDER": folder, "PORT": self.port, "UPSTREAM": self.setting.upstream_port}
        config = self.setting.fill("nginx.conf", folder / "nginx.conf", WORKERS=self.setting.workers, **values)
        words = [program, "-p", folder, "-c", config, "-e", folder / "error.log"]
        self.processes.append(Process("nginx", words, folder, self.setting.gateway_cores))


class Haproxy(Gateway):
    name = "haproxy"
    connections_max = (8_000, "it takes half of the open files that it is allowed")

    def launch(self):
        program = apt("haproxy")
        self.version = output_of([program, "-v"]).split(" ")[2]
        folder, self.port = self.setting.folder / "haproxy", free_port()
        values = {"PORT": self.port, "UPSTREAM": self.setting.upstream_port, "WORKERS": self.setting.workers}
        config = self.setting.fill("haproxy.cfg", folder / "haproxy.cfg", **values)
        self.processes.append(Process("haproxy", [program, "-db", "-f", config], folder, self.setting.gateway_cores))


class FromPyPI(Gateway):
    """A gateway in a virtual environment of its own."""

    package, pin = "?", "?"

    def bin(self):
        """The environment's programs, installed once under target/bench/peers."""
        folder = self.setting.folder.parent / "peers" / self.package.partition("[")[0]
        mark = folder / f".installed-{self.pin}"
        if not mark.exists():
            wanted = f"{self.package}=={self.pin}"
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True, capture_output=True)
            try:
                done = subprocess.run(
                    [folder / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check", wanted],
                    capture_output=True,
                    text=True,
                    timeout=INSTALL_SECONDS,
                )
            except subprocess.TimeoutExpired:
                raise Skip(f"installing {wanted} took more than {INSTALL_SECONDS} s") from None
            if done.returncode != 0:
                raise Skip(f"pip cannot install {wanted}: {done.stderr.strip()[-150:]}")
            mark.touch()
        self.version = self.pin
        return folder / "bin"

    def begin(self, words, env=None):
        folder = self.setting.folder / self.name
        self.processes.append(Process(self.name, words, folder, self.setting.gateway_cores, env))

    def router_words(self):
        upstream = f"http://127.0.0.1:{self.setting.upstream_port}"
        words = ["--host", "127.0.0.1", "--port", self.port, "--worker-urls", upstream, "--policy", "round_robin"]
        words += ["--prometheus-port", free_port(), "--disable-retries", "--disable-circuit-breaker"]
        return words + ["--log-level", "error"]


class VllmRouter(FromPyPI):
    name, package, pin = "vllm-router", "vllm-router", "0.1.17"

    def launch(self):
        bin, self.port = self.bin(), free_port()
        self.begin([bin / "vllm-router", *self.router_words()])


class SglangRouter(FromPyPI):
    name, package, pin = "sglang-router", "sglang-router", "0.3.2"

    def launch(self):
        bin, self.port = self.bin(), free_port()
        self.begin([bin / "python", "-m", "sglang_router.launch_router", *self.router_words()])


class Smg(FromPyPI):
    name, package, pin = "smg", "smg", "1.13.0"

    def launch(self):
        bin, self.port = self.bin(), free_port()
        self.begin([bin / "smg", "launch", *self.router_words()])


class Litellm(FromPyPI):
    name, package, pin, slow = "litellm", "litellm[proxy]", "1.106.2", True

    def launch(self):
        bin, self.port = self.bin(), free_port()
        self.token = "sk-" + secrets.token_hex(24)
        folder = self.setting.folder / self.name
        values = {"UPSTREAM": self.setting.upstream_port, "KEY": self.token}
        config = self.setting.fill("litellm.yaml", folder / "litellm.yaml", **values)
        words = [bin / "litellm", "--config", config, "--host", "127.0.0.1", "--port", self.port]
        # Its workers take longer to start than its supervisor would wait.
        words += ["--num_workers", self.setting.workers, "--timeout_worker_healthcheck", 120]
        self.begin(words, {"LITELLM_LOCAL_MODEL_COST_MAP": "True"})


class Portkey(Gateway):
    name, slow = "portkey", True
    pin = "1.15.2"

    def launch(self):
        if not shutil.which("npm"):
            raise Skip("there is no npm")
        home = self.setting.folder.parent / "peers/portkey"
        program = home / "node_modules/@portkey-ai/gateway/build/start-server.js"
        if not program.exists():
            home.mkdir(parents=True, exist_ok=True)
            # With later versions of node-server each stream is a 500.
            pins = '{"@portkey-ai/gateway":"%s"},"overrides":{"@hono/node-server":"1.13.7"}' % self.pin
            (home / "package.json").write_text('{"dependencies":%s}' % pins)
            done = subprocess.run(
                ["npm", "install", "--no-fund", "--no-audit"],
                cwd=home,
                capture_output=True,
                text=True,
                timeout=INSTALL_SECONDS,
            )
            if not program.exists():
                raise Skip(f"npm cannot install it: {done.stderr.strip()[-150:]}")
        self.version, self.port, self.token = self.pin, free_port(), "x"
        upstream = f"http://127.0.0.1:{self.setting.upstream_port}/v1"
        self.headers = [("x-portkey-provider", "openai"), ("x-portkey-custom-host", upstream)]
        words = ["node", program, f"--port={self.port}", "--headless"]
        self.processes.append(Process("portkey", words, self.setting.folder / "portkey", self.setting.gateway_cores))


ALL = [Haproxy, VllmRouter, SglangRouter, Smg, Portkey, Litellm]
