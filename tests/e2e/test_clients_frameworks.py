"""What people build on: langchain-openai, and litellm as a client."""

import importlib.util
import json
import os

import openai
import pytest
from pydantic import BaseModel

from serving import OLLAMA, SIM, serving

missing = [name for name in ("langchain_openai", "litellm") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(missing), reason=f"the Python module {' and '.join(missing)} cannot be had here"
)
CALL = "please call tool now"
# Neither asks anyone but the gateway.
os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGCHAIN_TRACING_V2": "false"}


class Place(BaseModel):
    """A place on a map."""

    city: str
    people: int


def weather(city: str) -> str:
    """Tells the weather of a city."""
    return f"sunny in {city}"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("frameworks")) as cluster:
        cluster.serve_both()
        yield cluster


@pytest.fixture
def served(shared, request):
    request.node.processes = shared.group
    return shared


@pytest.fixture(params=[SIM, OLLAMA])
def model(request):
    return request.param


# --- langchain-openai


@pytest.fixture
def chat(served, model):
    from langchain_openai import ChatOpenAI

    def make(**more):
        settings = {"model": model, "base_url": served.gateway, "api_key": served.tokens[model]}
        return ChatOpenAI(**settings | {"max_retries": 0, "timeout": 30} | more)

    return make


def test_langchain_chat_and_stream(chat, model):
    whole = chat().invoke("hello there")
    assert "simulated" in whole.content
    assert whole.response_metadata["finish_reason"] == "stop"
    assert whole.response_metadata["model_name"] == model
    assert whole.usage_metadata["output_tokens"] == 12
    for usage in (True, False):
        pieces = list(chat(stream_usage=usage).stream("hello there"))
        assert len(pieces) > 8
        joined = pieces[0]
        for piece in pieces[1:]:
            joined += piece
        assert joined.content == whole.content
        counted = joined.usage_metadata["output_tokens"] if joined.usage_metadata else None
        assert counted == (12 if usage else None)


def test_langchain_tools(chat):
    bound = chat().bind_tools([weather])
    whole = bound.invoke(CALL)
    assert [call["name"] for call in whole.tool_calls] == ["weather"]
    assert isinstance(whole.tool_calls[0]["args"]["city"], str)
    joined = None
    for piece in bound.stream(CALL):
        joined = piece if joined is None else joined + piece
    assert [(call["name"], call["args"]) for call in joined.tool_calls] == [
        (call["name"], call["args"]) for call in whole.tool_calls
    ]
    result = {"role": "tool", "tool_call_id": whole.tool_calls[0]["id"], "content": "sunny"}
    answer = bound.invoke([("user", CALL), whole, result])
    assert answer.content and not answer.tool_calls


def test_langchain_structured_output(chat, model):
    methods = ["json_schema"] + (["function_calling"] if model == SIM else [])
    for method in methods:
        place = chat().with_structured_output(Place, method=method).invoke("where is it?")
        assert isinstance(place, Place), method


def test_langchain_embeddings(served, model):
    from langchain_openai import OpenAIEmbeddings

    # Without this it sends numbers of OpenAI's own tokens, which no other model knows.
    embeddings = OpenAIEmbeddings(
        model=model, base_url=served.gateway, api_key=served.tokens[model], check_embedding_ctx_length=False
    )
    vectors = embeddings.embed_documents(["one", "two"])
    assert len(vectors) == 2 and vectors[0] == pytest.approx(embeddings.embed_query("one"))


def test_langchain_errors(chat):
    for more, kind in (
        ({"api_key": "nbtok_wrong"}, openai.AuthenticationError),
        ({"model": "none"}, openai.NotFoundError),
        ({"default_headers": {"x-sim-fail": "error-429"}}, openai.RateLimitError),
        ({"default_headers": {"x-sim-fail": "error-500"}}, openai.InternalServerError),
    ):
        with pytest.raises(kind):
            chat(**more).invoke("hi")
        with pytest.raises(kind):
            list(chat(**more).stream("hi"))
    with pytest.raises(openai.APIError):
        list(chat(default_headers={"x-sim-fail": "die-mid-stream:4"}).stream("hi"))


# --- litellm


@pytest.fixture
def litellm(monkeypatch):
    import litellm

    monkeypatch.setattr(litellm, "suppress_debug_info", True)
    return litellm


@pytest.fixture
def ask(served, model, litellm):
    def ask(text="hello there", **more):
        settings = {"model": f"openai/{model}", "api_base": served.gateway, "api_key": served.tokens[model]}
        messages = [{"role": "user", "content": text}]
        return litellm.completion(messages=messages, **settings | {"num_retries": 0, "max_retries": 0} | more)

    return ask


def test_litellm_chat_and_stream(ask, litellm):
    whole = ask()
    assert "simulated" in whole.choices[0].message.content
    assert (whole.choices[0].finish_reason, whole.usage.completion_tokens) == ("stop", 12)
    chunks = list(ask(stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    rebuilt = litellm.stream_chunk_builder(chunks)
    assert rebuilt.choices[0].message.content == whole.choices[0].message.content
    assert rebuilt.usage.completion_tokens == 12


def test_litellm_tools_and_structured_output(ask):
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    choice = ask(CALL, tools=tools).choices[0]
    assert (choice.finish_reason, choice.message.tool_calls[0].function.name) == ("tool_calls", "weather")
    pieces = [c.choices[0].delta.tool_calls for c in ask(CALL, tools=tools, stream=True) if c.choices]
    arguments = "".join(piece[0].function.arguments or "" for piece in pieces if piece)
    assert json.loads(arguments) == json.loads(choice.message.tool_calls[0].function.arguments)
    Place.model_validate_json(ask(response_format=Place).choices[0].message.content)


def test_litellm_embeddings(served, model, litellm):
    settings = {"model": f"openai/{model}", "api_base": served.gateway, "api_key": served.tokens[model]}
    for more in ({}, {"encoding_format": "float"}):
        made = litellm.embedding(input=["one", "two"], **settings, **more)
        assert len(made.data) == 2 and len(made.data[0]["embedding"]) > 8


def test_litellm_errors(ask, litellm):
    for more, kind in (
        ({"api_key": "nbtok_wrong"}, litellm.AuthenticationError),
        ({"model": "openai/none"}, litellm.NotFoundError),
        ({"extra_headers": {"x-sim-fail": "error-429"}}, litellm.RateLimitError),
        ({"extra_headers": {"x-sim-fail": "error-500"}}, litellm.InternalServerError),
    ):
        with pytest.raises(kind):
            ask(**more)
    with pytest.raises(litellm.exceptions.MidStreamFallbackError):
        list(ask(stream=True, extra_headers={"x-sim-fail": "die-mid-stream:4"}))
