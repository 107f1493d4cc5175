"""The official Python client, in both of its forms, against the whole path, with engines of both kinds behind it."""

import asyncio
import json

import openai
import pytest
from pydantic import BaseModel

from processes import wait_until
from serving import OLLAMA, OLLAMA_TAG, SIM, serving

TIMEOUT_SECONDS = 30
HI = [{"role": "user", "content": "hello there"}]
CALL = [{"role": "user", "content": "please call tool now"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]
USAGE = {"include_usage": True}


class Place(BaseModel):
    city: str
    people: int


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("clients")) as cluster:
        cluster.serve_both()
        cluster.serve("open", model="demo", runtime="sim", public=True)
        yield cluster


@pytest.fixture
def served(shared, request):
    request.node.processes = shared.group
    return shared


@pytest.fixture(params=[SIM, OLLAMA])
def model(request):
    return request.param


def settings(served, model, **more):
    return {"base_url": served.gateway, "api_key": served.tokens[model], "timeout": TIMEOUT_SECONDS} | more


@pytest.fixture
def client(served, model):
    return openai.OpenAI(**settings(served, model, max_retries=0))


def text_of(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_the_engine_is_spoken_to_in_its_own_words(served, client, model):
    client.chat.completions.create(model=model, messages=HI)
    received = served.runtime_tells(model, "/sim/last")
    body = json.loads(received["body"])
    spoken = {SIM: ("/v1/chat/completions", SIM), OLLAMA: ("/api/chat", OLLAMA_TAG)}[model]
    assert (received["path"], body["model"]) == spoken
    assert served.tokens[model] not in json.dumps(received), "a client's credential ends at the gateway"


def test_chat(client, model):
    answer = client.chat.completions.create(model=model, messages=HI, max_tokens=9)
    assert (answer.object, answer.model) == ("chat.completion", model)
    choice = answer.choices[0]
    assert (choice.message.role, choice.finish_reason) == ("assistant", "length")
    assert "simulated" in choice.message.content
    usage = answer.usage
    assert usage.completion_tokens == 9 and usage.prompt_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    whole = client.chat.completions.create(model=model, messages=HI)
    assert whole.choices[0].finish_reason == "stop"


def test_a_stream_says_the_same_and_usage_only_if_asked(client, model):
    whole = client.chat.completions.create(model=model, messages=HI)
    chunks = list(client.chat.completions.create(model=model, messages=HI, stream=True))
    assert text_of(chunks) == whole.choices[0].message.content
    assert len(chunks) > 8, "piece by piece"
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert chunks[0].model == model
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
    assert all(chunk.choices and chunk.usage is None for chunk in chunks), "nobody asked for usage"

    chunks = list(client.chat.completions.create(model=model, messages=HI, stream=True, stream_options=USAGE))
    assert text_of(chunks) == whole.choices[0].message.content
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_tools(client, model):
    whole = client.chat.completions.create(model=model, messages=CALL, tools=TOOLS).choices[0]
    call = whole.message.tool_calls[0]
    assert (whole.finish_reason, call.type, call.function.name) == ("tool_calls", "function", "weather")
    arguments = json.loads(call.function.arguments)
    assert call.id and isinstance(arguments["city"], str)

    chunks = list(client.chat.completions.create(model=model, messages=CALL, tools=TOOLS, stream=True))
    calls = [piece for chunk in chunks if chunk.choices for piece in chunk.choices[0].delta.tool_calls or []]
    assert (calls[0].index, calls[0].type, calls[0].function.name) == (0, "function", "weather") and calls[0].id
    assert all(piece.id is None and piece.index == 0 for piece in calls[1:])
    assert json.loads("".join(piece.function.arguments or "" for piece in calls)) == arguments
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["tool_calls"]

    # The next turn: the result goes back, and words come.
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    turn = [*CALL, whole.message.model_dump(exclude_none=True), result]
    answer = client.chat.completions.create(model=model, messages=turn, tools=TOOLS).choices[0]
    assert answer.finish_reason == "stop" and answer.message.content and not answer.message.tool_calls


def test_structured_output(client, model):
    parsed = client.chat.completions.parse(model=model, messages=HI, response_format=Place)
    assert isinstance(parsed.choices[0].message.parsed, Place)
    with client.chat.completions.stream(model=model, messages=HI, response_format=Place) as stream:
        for _ in stream:
            pass
        assert stream.get_final_completion().choices[0].message.parsed == parsed.choices[0].message.parsed
    free = client.chat.completions.create(model=model, messages=HI, response_format={"type": "json_object"})
    assert isinstance(json.loads(free.choices[0].message.content), dict)


def test_completions(client, model):
    whole = client.completions.create(model=model, prompt="once upon a time", max_tokens=6)
    assert (whole.object, whole.choices[0].finish_reason) == ("text_completion", "length")
    assert whole.usage.completion_tokens == 6
    pieces = client.completions.create(
        model=model, prompt="once upon a time", max_tokens=6, stream=True, stream_options=USAGE
    )
    chunks = list(pieces)
    assert "".join(c.choices[0].text for c in chunks if c.choices) == whole.choices[0].text
    assert chunks[-1].usage.completion_tokens == 6


def test_embeddings(client, model):
    inputs = ["one", "two words", "three – naïve"]
    # The client asks for base64 unless told otherwise, and turns it into numbers.
    given = client.embeddings.create(model=model, input=inputs, dimensions=16)
    floats = client.embeddings.create(model=model, input=inputs, dimensions=16, encoding_format="float")
    assert [item.index for item in given.data] == [0, 1, 2]
    assert all(len(item.embedding) == 16 for item in given.data)
    for one, other in zip(given.data, floats.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, rel=1e-6)
    assert given.usage.prompt_tokens == given.usage.total_tokens > 0
    raw = client.embeddings.with_raw_response.create(model=model, input="one", encoding_format="base64")
    assert isinstance(json.loads(raw.text)["data"][0]["embedding"], str)
    assert client.embeddings.create(model=model, input="one").model == model


def test_models(served, client, model):
    listed = client.models.list().data
    assert sorted(item.id for item in listed) == sorted(["open", model])
    found = client.models.retrieve(model)
    assert (found.id, found.object, found.owned_by) == (model, "model", "nebula")
    assert found.created == next(item.created for item in listed if item.id == model)
    other = {SIM: OLLAMA, OLLAMA: SIM}[model]
    for name in (other, "org/none", "none"):
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve(name)
        assert caught.value.code == "model_not_found"


def test_errors_become_the_exceptions_of_the_client(served, client, model):
    chat = client.chat.completions
    fail = lambda how: {"extra_headers": {"x-sim-fail": how}}
    stranger = client.with_options(api_key="nbtok_" + 48 * "0")
    cases = [
        (stranger.chat.completions, {}, openai.AuthenticationError, 401, "invalid_api_key"),
        (chat, {"model": "none"}, openai.NotFoundError, 404, "model_not_found"),
        (chat, {"model": "open", "extra_body": {"model": 5}}, openai.BadRequestError, 400, "missing_required_parameter"),
        (chat, fail("error-429"), openai.RateLimitError, 429, None),
        (chat, fail("error-500"), openai.InternalServerError, 500, None),
    ]
    for stream in (False, True):
        for surface, more, kind, status, code in cases:
            with pytest.raises(kind) as caught:
                surface.create(**({"model": model, "messages": HI, "stream": stream} | more))
            error = caught.value
            assert (type(error), error.status_code) == (kind, status)
            assert code is None or error.code == code
            assert error.message and error.type and error.request_id
    with pytest.raises(openai.NotFoundError) as caught:
        client.files.list()
    assert caught.value.code == "unknown_url"
    limited = pytest.raises(openai.RateLimitError, chat.create, model=model, messages=HI, **fail("error-429"))
    assert limited.value.response.headers["retry-after"] == "1"


@pytest.mark.parametrize("how", ["die-mid-stream:4", "cut-short:4", "no-done", "error-mid-stream:4"])
def test_a_stream_that_breaks_is_an_error_and_no_short_answer(client, model, how):
    stream = client.chat.completions.create(
        model=model, messages=HI, stream=True, extra_headers={"x-sim-fail": how}
    )
    seen = []
    with pytest.raises(openai.APIError) as caught:
        for chunk in stream:
            seen.append(chunk)
    assert text_of(seen), "what came before the break has arrived"
    assert caught.value.message
    if how != "error-mid-stream:4":
        assert caught.value.code == "upstream_error"


@pytest.mark.parametrize("how", ["die-mid-stream:4", "garbage"])
def test_a_whole_answer_that_breaks_is_a_502(client, model, how):
    if (model, how) == (SIM, "garbage"):
        pytest.skip("an engine's 200 that speaks OpenAI's API passes as it is")
    with pytest.raises((openai.InternalServerError, openai.APIConnectionError)):
        client.chat.completions.create(model=model, messages=HI, extra_headers={"x-sim-fail": how})


def test_request_ids(client, model):
    answer = client.chat.completions.create(model=model, messages=HI)
    assert len(answer._request_id) == 36
    mine = {"x-request-id": "mine.1"}
    assert client.chat.completions.create(model=model, messages=HI, extra_headers=mine)._request_id == "mine.1"
    with client.chat.completions.with_streaming_response.create(
        model=model, messages=HI, stream=True, extra_headers=mine
    ) as raw:
        assert raw.headers["x-request-id"] == "mine.1"
        assert raw.headers["content-type"].startswith("text/event-stream")
        assert list(raw.iter_lines())[-2:] == ["data: [DONE]", ""]


def test_a_closed_stream_ends_the_engines_work(served, client, model):
    before = served.runtime_tells(model, "/sim/stats")["cancelled"]
    slow = {"x-sim-tokens": "1000", "x-sim-token-interval": "20ms"}
    with client.chat.completions.create(model=model, messages=HI, stream=True, extra_headers=slow) as stream:
        next(iter(stream))
    cancelled = lambda: served.runtime_tells(model, "/sim/stats")["cancelled"] == before + 1
    wait_until("the engine stops", cancelled, 5)


def test_the_async_client(served, model):
    async def all_of_it():
        async with openai.AsyncOpenAI(**settings(served, model, max_retries=0)) as client:
            chat = client.chat.completions

            async def streamed():
                stream = await chat.create(model=model, messages=HI, stream=True, stream_options=USAGE)
                return [chunk async for chunk in stream]

            whole = await chat.create(model=model, messages=HI)
            streams = await asyncio.gather(*(streamed() for _ in range(20)))
            for chunks in streams:
                assert text_of(chunks) == whole.choices[0].message.content
                assert chunks[-1].usage == whole.usage
            call = (await chat.create(model=model, messages=CALL, tools=TOOLS)).choices[0]
            assert call.message.tool_calls[0].function.name == "weather"
            parsed = await chat.parse(model=model, messages=HI, response_format=Place)
            assert isinstance(parsed.choices[0].message.parsed, Place)
            vectors = await client.embeddings.create(model=model, input=["a", "b"])
            assert len(vectors.data) == 2
            assert model in [item.id async for item in client.models.list()]
            with pytest.raises(openai.NotFoundError):
                await chat.create(model="none", messages=HI)

    asyncio.run(all_of_it())


def test_the_client_tries_again_what_may_succeed(served, model):
    client = openai.OpenAI(**settings(served, model, max_retries=2))
    count = lambda: served.runtime_tells(model, "/sim/stats")["requests"]
    for how, tries in (("error-429", 3), ("none", 1)):
        before = count()
        try:
            client.chat.completions.create(model=model, messages=HI, extra_headers={"x-sim-fail": how})
        except openai.RateLimitError:
            assert how == "error-429"
        assert count() - before == tries, "the gateway adds no attempts of its own"
