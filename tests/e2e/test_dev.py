"""`nebulad dev`: one command from nothing to a streamed answer."""

import re
import signal
import time
from pathlib import Path

import openai
import pytest

from processes import BIN_DIR, wait_until

START_SECONDS = 30
FREE_PORTS = ("--grpc-port", "0", "--http-port", "0")
# Debug builds do everything several times slower.
FIRST_ANSWER_SECONDS = 6.0 if BIN_DIR.name == "debug" else 2.0


def start_dev(group, *flags, **env):
    """Dev mode that serves, and the address of its gateway."""
    dev = group.start("nebulad", "dev", *FREE_PORTS, *flags, env=env)
    dev.wait_for_text("Serving until Ctrl-C", START_SECONDS)
    return dev, re.search(r"control plane .*?http://([\d.]+:\d+)", dev.out)[1]


def client_of(address):
    return openai.OpenAI(base_url=f"http://{address}/v1", api_key="none", max_retries=0, timeout=30)


def test_once_prints_a_streamed_answer_and_leaves_nothing(group):
    dev = group.run("nebulad", "dev", "--once", *FREE_PORTS, seconds=START_SECONDS)

    assert dev.popen.returncode == 0, dev.err
    answer = re.search(r"\n> .+\n\n(.+)\n\nfirst token after", dev.out, re.DOTALL)
    assert answer and len(answer[1].split()) >= 5, dev.out
    for part in ("control plane", "agent", "model demo"):
        assert re.search(rf"{part} .*ready in", dev.out), f"no progress of {part} in {dev.out}"
    data = re.search(r"data in (\S+)", dev.out)[1]
    assert not Path(data).exists(), f"{data} is left"
    group.assert_nothing_runs()


def test_the_first_answer_comes_soon(group):
    dev = group.start("nebulad", "dev", "--once", *FREE_PORTS)
    dev.wait_for_text(r"\n> .+\n\n\S+", START_SECONDS)
    took = time.monotonic() - dev.started
    print(f"first answer after {took:.2f} s")
    assert took < FIRST_ANSWER_SECONDS


def test_the_openai_client_lists_and_chats(group):
    _, address = start_dev(group)
    client = client_of(address)

    assert [model.id for model in client.models.list()] == ["demo"]
    answer = client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "Hello"}], max_tokens=8
    )
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content.strip()
    assert answer.usage.completion_tokens == 8
    assert answer.system_fingerprint.startswith("nebula-sim")
    with pytest.raises(openai.AuthenticationError):
        client.chat.completions.create(model="another", messages=[{"role": "user", "content": "Hello"}])


def test_chunks_arrive_as_they_are_made(group):
    tokens, interval = 20, 0.05
    made = {"NEBULA_SIM_TTFT": "200ms", "NEBULA_SIM_TOKEN_INTERVAL": "50ms", "NEBULA_SIM_TOKENS": tokens}
    _, address = start_dev(group, **made)
    client = client_of(address)
    client.models.list()  # What the client does at its first call takes time of its own.

    began = time.monotonic()
    arrived, text = [], ""
    stream = client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "Hello"}], stream=True
    )
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            arrived.append(time.monotonic() - began)
            text += chunk.choices[0].delta.content

    assert len(arrived) == tokens, text
    assert arrived[0] < 0.2 + 0.4, f"the first chunk waited for others: {arrived}"
    assert arrived[-1] - arrived[0] > interval * (tokens - 1) * 0.8, f"chunks came together: {arrived}"
    together = max(later - sooner for sooner, later in zip(arrived, arrived[1:]))
    assert together < interval * 6, f"chunks were held back: {arrived}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything(group, number):
    dev, _ = start_dev(group)
    assert len(group.running()) == 2, "itself and the runtime"

    dev.signal(number)
    assert dev.wait(15) == 0, dev.err
    group.assert_nothing_runs()


def test_what_is_kept_is_there_again(group, tmp_path):
    data = tmp_path / "kept"
    for _ in range(2):
        dev = group.run("nebulad", "dev", "--once", *FREE_PORTS, "--data-dir", data, seconds=START_SECONDS)
        assert dev.popen.returncode == 0, dev.err
    assert (data / "admin.token").stat().st_mode & 0o777 == 0o600
    group.assert_nothing_runs()


def test_the_three_commands_to_try_next_work(group):
    dev, address = start_dev(group)
    token = re.search(r'--token "\$\(cat (\S+)\)"', dev.out)[1]
    wait_until("the token is there", lambda: Path(token).is_file(), 1)
    listed = group.run("nebulactl", "--server", f"http://{address}", "--token", Path(token).read_text().strip(), "list")
    assert listed.popen.returncode == 0, listed.err
    assert re.search(r"\bdemo\b.*\brunning\b", listed.out), listed.out
    assert f"curl http://{address}/v1/models" in dev.out
    assert f"curl http://{address}/v1/chat/completions" in dev.out
