"""Real inference: llama.cpp behind the whole path, with a model made on the spot."""

import importlib.util
import re
import sys

import openai
import pytest

START_SECONDS = 90
FREE_PORTS = ("--grpc-port", "0", "--http-port", "0")

missing = [name for name in ("llama_cpp", "gguf") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(missing), reason=f"the Python module {' and '.join(missing)} cannot be had here"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    import tiny_gguf

    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    tiny_gguf.write(path)
    return f"fs://{path}"


def environment():
    return {"NEBULA_AGENT_PYTHON": sys.executable}


def test_once(group, model):
    flags = ("--model", model, "--runtime", "llamacpp")
    dev = group.run("nebulad", "dev", "--once", *FREE_PORTS, *flags, env=environment(), seconds=START_SECONDS)
    assert dev.popen.returncode == 0, dev.err
    answer = re.search(r"\n> .+\n\n(.+)\n\nfirst token after", dev.out, re.DOTALL)
    assert answer and answer[1].strip(), dev.out
    group.assert_nothing_runs()


def test_the_openai_client_against_a_real_engine(group, model):
    flags = ("--model", model, "--runtime", "llamacpp")
    dev = group.start("nebulad", "dev", *FREE_PORTS, *flags, env=environment())
    dev.wait_for_text("Serving until Ctrl-C", START_SECONDS)
    address = re.search(r"control plane .*?http://([\d.]+:\d+)", dev.out)[1]
    client = openai.OpenAI(base_url=f"http://{address}/v1", api_key="none", max_retries=0, timeout=60)

    messages = [{"role": "user", "content": "the light of the star"}]
    options = {"model": "demo", "messages": messages, "max_tokens": 12, "temperature": 0, "seed": 1}
    whole = client.chat.completions.create(**options)
    assert whole.usage.completion_tokens > 0 and whole.usage.prompt_tokens > 0
    pieces = [
        chunk.choices[0].delta.content or ""
        for chunk in client.chat.completions.create(**options, stream=True)
        if chunk.choices
    ]
    assert len(pieces) > 2
    assert "".join(pieces) == whole.choices[0].message.content, "streamed and not are the same words"
    named = client.chat.completions.with_raw_response.create(**options, extra_headers={"x-request-id": "mine.1"})
    assert named.headers["x-request-id"] == "mine.1", "a client's own request id comes back"
    logs = group.run("nebulactl", "--server", f"http://{address}", "--token", admin_token(dev), "logs", "demo")
    assert "llama" in logs.out.lower(), logs.out + logs.err


def admin_token(dev):
    return open(re.search(r'--token "\$\(cat (\S+)\)"', dev.out)[1]).read().strip()
