"""Real inference by both drivers: llama.cpp in a container that is made from this machine's files, and as a process."""

import importlib.util
import sys
import sysconfig
from pathlib import Path

import pytest

from nebula import DRIVERS, Nebula
from processes import wait_until
from root_fs import with_tools

IMAGE = "nebula-test/llamacpp:1"
# Packages of the tests that llama.cpp does not need, and what nobody does.
SKIPPED = set("grpc openai pip setuptools pkg_resources pygments _pytest moto boto3 botocore lib include".split())
SKIPPED |= set("idlelib lib2to3 ensurepip tkinter turtledemo site-packages cryptography".split())
START_SECONDS = 90
MEMORY = "1g"

missing = [name for name in ("llama_cpp", "gguf") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(missing), reason=f"the Python module {' and '.join(missing)} cannot be had here"
)


def write_image(directory):
    """A root file system with this Python, its library and what the tests' environment has of llama.cpp."""
    root = with_tools()
    library = Path(sysconfig.get_path("stdlib"))
    root.add_program(Path(sys.executable).resolve(), python())
    root.add_tree(library, skip=SKIPPED | {name.name for name in library.glob("config-*")})
    packages = Path(importlib.util.find_spec("llama_cpp").origin).parents[1]
    root.add_tree(packages, library / site_directory(), skip=SKIPPED)
    return root.write(directory / "llamacpp.tar")


def site_directory():
    """Where this Python looks for packages below its library."""
    return "dist-packages" if Path(sys.base_prefix) == Path("/usr") else "site-packages"


def python():
    return str(Path(sys.executable).resolve())


@pytest.fixture(scope="module")
def nebula(module_group, engine, tmp_path_factory):
    import tiny_gguf

    directory = tmp_path_factory.mktemp("llamacpp")
    engine.import_image(write_image(directory), IMAGE)
    tiny_gguf.write(directory / "tiny.gguf")
    nebula = Nebula(module_group, engine, MEMORY)
    nebula.start(env={"NEBULA_AGENT_PYTHON": sys.executable})
    nebula.source = f"fs://{directory / 'tiny.gguf'}"
    # Both load at the same time.
    nebula.deploy(name="by-process", model=nebula.source, runtime="llamacpp", driver="process", public=True)
    words = [python(), "-m", "llama_cpp.server", "--model", "{model}", "--model_alias", "{name}"]
    words += ["--host", "0.0.0.0", "--port", "{port}"]
    more = {"runtime": "llamacpp", "driver": "docker", "image": IMAGE, "command": words, "public": True}
    nebula.deploy(name="by-docker", model=nebula.source, **more)
    return nebula


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_real_answer(nebula, driver):
    name = f"by-{driver}"
    nebula.wait_for_deployment(name, "running", START_SECONDS)
    wait_until("the gateway has its route", lambda: name in nebula.models(), 10)
    answer = nebula.chat(name, text="the light of the star")
    assert answer.status == 200, answer
    assert answer.json["usage"]["completion_tokens"] > 0
    assert answer.json["choices"][0]["message"]["content"]
    assert answer.json["model"] == name
    assert "llama" in nebula.nebulactl("logs", name).out.lower()


def test_the_model_is_there_to_be_read_only(nebula):
    mounts = nebula.engine.inspect(nebula.container("by-docker"))["Mounts"]
    of_model = [mount for mount in mounts if nebula.source.removeprefix("fs://").startswith(mount["Source"])]
    assert of_model and not any(mount["RW"] for mount in of_model), mounts
