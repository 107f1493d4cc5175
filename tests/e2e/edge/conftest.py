"""Fixtures: whether a Caddy is here, and whether it can serve HTTPS."""

import socket

import pytest

import caddy


@pytest.fixture(scope="session")
def caddy_program():
    """Caddy's program; without one the tests that need it are skipped."""
    found = caddy.program()
    if not found:
        pytest.skip("no Caddy here: it is looked for at NEBULA_CADDY, in .venv/caddy and on the PATH")
    assert found.is_file(), f"NEBULA_CADDY names {found}, which is not there"
    return found


@pytest.fixture(scope="session")
def https_port(caddy_program):
    """Caddy speaks TLS by itself on this port only; where it cannot be had the tests that need it are skipped."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((caddy.HOST, caddy.HTTPS_PORT))
        except OSError as fault:
            pytest.skip(f"{caddy.HOST}:{caddy.HTTPS_PORT} cannot be had here, and Caddy speaks TLS there only: {fault}")
