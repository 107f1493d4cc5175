"""The official Node client against the whole path: `clients/openai.cjs` does the work, this tells what it said."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from processes import ROOT
from serving import OLLAMA, SIM, serving

CLIENTS = Path(__file__).parent / "clients"
MODULES = ROOT / ".venv" / "node" / "node_modules"
NODE_MIN = 20
RUN_SECONDS = 120


def why_not():
    """Why this cannot be run here, if so."""
    if not shutil.which("node"):
        return "there is no node here"
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, timeout=20).stdout.strip()
    if int(re.match(r"v(\d+)", version)[1]) < NODE_MIN:
        return f"the client needs node {NODE_MIN}, and here is {version}"
    if not (MODULES / "openai").is_dir():
        return f"the client is not in {MODULES.relative_to(ROOT)}; scripts/test installs it"
    return None


reason = why_not()
pytestmark = pytest.mark.skipif(reason is not None, reason=str(reason))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("node")) as cluster:
        cluster.serve_both()
        yield cluster


@pytest.mark.parametrize("model", [SIM, OLLAMA])
def test_the_node_client(shared, request, model):
    request.node.processes = shared.group
    told = {"base": shared.gateway, "key": shared.tokens[model], "model": model}
    environment = shared.group.environment({"NODE_PATH": MODULES, "PATH": os.environ["PATH"]})
    done = subprocess.run(
        ["node", CLIENTS / "openai.cjs", json.dumps(told)],
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        env=environment,
    )
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and len(said) >= 10, done.stderr
    failed = [f"{check['name']}: {check['error']}" for check in said if check["error"]]
    assert not failed, "\n".join(failed)
