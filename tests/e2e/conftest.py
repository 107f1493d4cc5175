"""Fixtures: processes that never outlive their test, and a cluster made of them."""

import pytest

from cluster import Cluster
from processes import Group
from settings import FULL, SEED

FIGURES = pytest.StashKey[list]()


@pytest.fixture
def group(request, tmp_path):
    group = Group(tmp_path)
    request.node.processes = group
    yield group
    group.end()


@pytest.fixture
def cluster(group):
    return Cluster(group)


@pytest.fixture
def cluster_with_agent(cluster):
    """nebulad and one agent that has joined."""
    cluster.start_nebulad()
    cluster.agent = cluster.start_agent()
    cluster.wait_for_node("online")
    return cluster


@pytest.fixture
def figures(request):
    """Tells figures that are worth reading when the test passes, too."""
    lines = request.config.stash.setdefault(FIGURES, [])
    return lines.append


def pytest_report_header():
    return f"{'all of' if FULL else 'a short form of'} the slow suites, NEBULA_SEED={SEED}"


def pytest_terminal_summary(terminalreporter, config):
    for line in config.stash.get(FIGURES, []):
        terminalreporter.write_line(f"figures: {line}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    group = getattr(item, "processes", None)
    if report.failed and group:
        report.sections.extend(group.logs())
    return report
