"""What an agent costs that has nothing to do but to look after five containers."""

import os
import threading
from pathlib import Path

import pytest

from nebula import Nebula
from processes import BIN_DIR
from settings import sized

CONTAINERS = 5
# What was just started is still settling.
SETTLES_SECONDS = 5
MEASURED_SECONDS = sized(20, 120)
MEMORY_BYTES_MAX = 25 << 20
CPU_PERCENT_MAX = 1.0

pytestmark = pytest.mark.skipif(BIN_DIR.name == "debug", reason="a debug build does not say what the agent costs")


def cpu_seconds(pid):
    words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def test_an_agent_costs_next_to_nothing(module_group, engine, figures):
    nebula = Nebula(module_group, engine)
    # The usual times: a heartbeat each 30 s.
    nebula.start_nebulad()
    nebula.start_agent()
    nebula.wait_for_node("online")
    names = [f"idle-{number}" for number in range(CONTAINERS)]
    for name in names:
        nebula.deploy_simulated("docker", name)
    for name in names:
        nebula.wait_for_deployment(name, "running")
    pause = threading.Event()
    pause.wait(SETTLES_SECONDS)
    before = cpu_seconds(nebula.agent.pid)
    pause.wait(MEASURED_SECONDS)
    percent = (cpu_seconds(nebula.agent.pid) - before) / MEASURED_SECONDS * 100
    memory = nebula.agent.memory_bytes()
    figures(f"an idle agent with {CONTAINERS} containers: {memory / (1 << 20):.1f} MiB, {percent:.2f} % of a core")
    assert memory < MEMORY_BYTES_MAX
    assert percent < CPU_PERCENT_MAX
