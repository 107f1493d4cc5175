"""API keys from their making to their end: what they open, how much, for how long, and what is written down of it."""

import asyncio
import statistics
import threading
import time

import openai
import pytest

from cluster import call
from processes import wait_until
from serving import QUICK, serving
from settings import sized

HI = [{"role": "user", "content": "hello there"}]
TOKENS = 12
SLOW = {"x-sim-ttft": "1ms", "x-sim-tokens": "400", "x-sim-token-interval": "20ms"}
BAD_KEYS = sized(1_500, 5_000)
GOOD_CALLS = 60


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("keys")) as cluster:
        for name in ("org/demo", "other"):
            cluster.serve(name, model="demo", runtime="sim", args=list(QUICK))
        yield cluster


@pytest.fixture
def served(shared, request):
    request.node.processes = shared.group
    return shared


@pytest.fixture
def make(served, request):
    """Makes a key that is named after the test."""
    made = []

    def make(**body):
        answer = served.api("POST", "/keys", {"name": f"{request.node.name}-{len(made)}"} | body)
        assert answer.status == 201, answer
        made.append(answer.json)
        assert answer.json["key"].startswith("nbkey_")
        return answer.json

    return make


def client(served, key, **more):
    settings = {"base_url": served.gateway, "api_key": key["key"] if isinstance(key, dict) else key}
    return openai.OpenAI(**settings | {"max_retries": 0, "timeout": 30} | more)


def chat(served, key, model="org/demo", **more):
    return client(served, key).chat.completions.with_raw_response.create(model=model, messages=HI, **more)


def refused(served, key, model="org/demo", **more):
    """The error that a call ends with."""
    with pytest.raises(openai.APIStatusError) as caught:
        chat(served, key, model, **more)
    return caught.value


def rows(served, key=None, **query):
    """What is written down of a key's use."""
    words = "&".join(f"{name}={value}" for name, value in query.items())
    told = served.api("GET", f"/usage?{words}").json["data"]
    return [row for row in told if key is None or row["key_id"] == key["id"]]


def sums(served, key):
    names = ("requests", "prompt_tokens", "completion_tokens", "aborted")
    found = rows(served, key)
    return {name: sum(row[name] for row in found) for name in names}


def test_a_key_opens_what_it_lists(served, make):
    everything, one = make(), make(models=["org/demo"])
    for key, models in ((everything, ["org/demo", "other"]), (one, ["org/demo"])):
        assert sorted(item.id for item in client(served, key).models.list()) == models
        for model in ("org/demo", "other", "none"):
            if model in models:
                assert chat(served, key, model).parse().choices[0].message.content
                assert client(served, key).models.retrieve(model).id == model
            else:
                error = refused(served, key, model)
                assert (error.status_code, error.code) == (404, "model_not_found")
    hidden, unknown = refused(served, one, "other"), refused(served, one, "none")
    assert hidden.message.replace("other", "none") == unknown.message, "forbidden and unknown look the same"


def test_a_key_opens_nothing_else(served, make):
    key = make()["key"]
    for path in ("/api/v1/deployments", "/api/v1/keys", "/admin/actors"):
        assert call("GET", f"http://{served.http_addr}{path}", token=key).status == 401, path
    proxy = served.api("GET", "/deployments").json["data"][0]["replicas"][0]["endpoint"]
    assert call("POST", f"{proxy}/v1/chat/completions", {"model": "org/demo", "messages": HI}, key).status == 401


def test_secrets_are_shown_once_and_never_written(served, make):
    key = make()
    shown = served.api("GET", "/keys")
    assert key["id"].encode() in shown.body and b"nbkey_" not in shown.body
    assert chat(served, key).http_response.status_code == 200
    secret = key["key"].removeprefix("nbkey_").encode()
    files = [path for path in served.data_dir.rglob("*") if path.is_file()]
    logs = [served.nebulad.out_path, served.nebulad.err_path, served.agent.err_path]
    for path in files + logs:
        assert secret not in path.read_bytes(), path


def test_a_key_expires(served, make):
    key = make(expires_in=2)
    assert chat(served, key).http_response.status_code == 200
    wait_until("it has expired", lambda: client_status(served, key) == 401, 10)
    assert refused(served, key).code == "invalid_api_key"
    states = {item["id"]: item["state"] for item in served.api("GET", "/keys").json["data"]}
    assert states[key["id"]] == "expired"


def client_status(served, key):
    return call("GET", f"{served.gateway}/models/org/demo", token=key["key"]).status


def test_requests_per_minute(served, make):
    key = make(rpm=3)
    left = []
    for _ in range(3):
        headers = chat(served, key).headers
        assert headers["x-ratelimit-limit-requests"] == "3"
        left.append(int(headers["x-ratelimit-remaining-requests"]))
    assert left == [2, 1, 0]
    for stream in (False, True):
        error = refused(served, key, stream=stream)
        assert (type(error), error.code, error.type) == (
            openai.RateLimitError, "rate_limit_exceeded", "rate_limit_error",
        )  # fmt: skip
        headers = error.response.headers
        assert 1 <= int(headers["retry-after"]) <= 60
        assert headers["x-ratelimit-remaining-requests"] == "0" and headers["x-ratelimit-reset-requests"]
        assert "x-should-retry" not in headers
    assert chat(served, make()).headers.get("x-ratelimit-limit-requests") is None


def test_a_client_that_waits_as_it_is_told_is_served(served, make):
    key = make(rpm=20)
    while (status := chat_status(served, key)) == 200:
        pass
    assert status == 429
    patient = client(served, key, max_retries=3)
    assert patient.chat.completions.create(model="org/demo", messages=HI).choices


def test_tokens_per_minute(served, make):
    key = make(tpm=20)
    headers = chat(served, key).headers
    assert headers["x-ratelimit-limit-tokens"] == "20"
    # What an answer costs is known after it.
    for _ in range(3):
        try:
            chat(served, key)
        except openai.RateLimitError as error:
            assert error.code == "rate_limit_exceeded" and int(error.response.headers["retry-after"]) >= 1
            break
    else:
        raise AssertionError("the limit of tokens is never met")


def test_concurrent_requests(served, make):
    key = make(max_concurrent=2)
    chats = client(served, key).chat.completions
    streams = [chats.create(model="org/demo", messages=HI, stream=True, extra_headers=SLOW) for _ in range(2)]
    for stream in streams:
        next(iter(stream))
    error = refused(served, key)
    assert (error.status_code, error.code) == (429, "rate_limit_exceeded")
    assert "retry-after" in error.response.headers
    streams[0].close()
    status = lambda: chat_status(served, key) == 200
    wait_until("there is room again", status, 5)
    streams[1].close()


def chat_status(served, key):
    body = {"model": "org/demo", "messages": HI}
    return call("POST", f"{served.gateway}/chat/completions", body, key["key"]).status


def test_a_budget_that_is_spent_is_not_asked_again(served, make):
    key = make(budget={"tokens": 20, "period": "total"})
    counted = client(served, key, max_retries=5)
    spent = 0
    with pytest.raises(openai.RateLimitError) as caught:
        for _ in range(10):
            spent += counted.chat.completions.create(model="org/demo", messages=HI).usage.total_tokens
            wait_until("it is written down", lambda: sums_total(served, key) >= spent, 5)
    error = caught.value
    assert (error.code, error.type) == ("insufficient_quota", "insufficient_quota")
    assert error.response.headers["x-should-retry"] == "false"
    assert 20 <= spent <= 20 + 2 * 24
    tries = []
    counting = openai.DefaultHttpxClient(event_hooks={"request": [lambda _: tries.append(1)]})
    patient = client(served, key, max_retries=5, http_client=counting)
    pytest.raises(openai.RateLimitError, patient.chat.completions.create, model="org/demo", messages=HI)
    assert len(tries) == 1, "the client does not try again"


def sums_total(served, key):
    found = sums(served, key)
    return found["prompt_tokens"] + found["completion_tokens"]


def test_a_revoked_key_ends_at_once(served, make):
    key, other = make(), make()
    running = client(served, key).chat.completions.create(
        model="org/demo", messages=HI, stream=True, extra_headers=SLOW | {"x-sim-tokens": "40"}
    )
    next(iter(running))
    assert served.api("DELETE", f"/keys/{key['id']}").status == 204
    error = refused(served, key)
    assert (error.status_code, error.code) == (401, "invalid_api_key")
    assert chat(served, other).http_response.status_code == 200
    assert [chunk for chunk in running][-1].choices[0].finish_reason == "stop", "what has begun ends in order"
    assert served.api("DELETE", f"/keys/{key['id']}").status == 404
    assert key["id"] not in [item["id"] for item in served.api("GET", "/keys").json["data"]]


def test_rotation_with_an_overlap(served, make):
    key = make(models=["org/demo"], rpm=1_000)
    rotated = served.api("POST", f"/keys/{key['id']}/rotate", {"overlap": 3})
    assert rotated.status == 200 and rotated.json["id"] == key["id"]
    assert rotated.json["key"] != key["key"]
    assert client_status(served, key) == client_status(served, rotated.json) == 200, "both, for a while"
    wait_until("the old secret has ended", lambda: client_status(served, key) == 401, 15)
    assert client_status(served, rotated.json) == 200
    assert refused(served, rotated.json, "other").status_code == 404, "it is the same key"
    last = served.api("POST", f"/keys/{key['id']}/rotate", {"overlap": 0}).json
    assert client_status(served, rotated.json) == 401
    assert client_status(served, last) == 200


def test_usage_is_what_the_clients_saw(served, make):
    key = make()
    one = client(served, key)
    seen = {"requests": 0, "prompt_tokens": 0, "completion_tokens": 0, "aborted": 0}

    def add(usage):
        seen["requests"] += 1
        seen["prompt_tokens"] += usage.prompt_tokens
        seen["completion_tokens"] += getattr(usage, "completion_tokens", 0) or 0

    options = {"model": "org/demo", "messages": HI}
    for _ in range(3):
        add(one.chat.completions.create(**options).usage)
    chunks = list(one.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    add(chunks[-1].usage)
    # Nobody asked for usage, and the same is counted.
    plain = list(one.chat.completions.create(**options, stream=True))
    assert all(chunk.choices for chunk in plain)
    add(chunks[-1].usage)
    add(one.completions.create(model="other", prompt="a b c").usage)
    add(one.embeddings.create(model="org/demo", input=["a b", "c"]).usage)
    wait_until(f"all is written: {seen}", lambda: sums(served, key) == seen, 10)
    assert {row["model"] for row in rows(served, key)} == {"org/demo", "other"}
    by_key = rows(served, key, by="key")
    assert sum(row["requests"] for row in by_key) == seen["requests"]
    assert {row["model"] for row in by_key} == {None}

    # A stream that its reader leaves: counted by what was sent, and marked.
    stream = one.chat.completions.create(**options, stream=True, extra_headers=SLOW)
    for _, _ in zip(range(11), stream):
        pass
    stream.close()
    aborted = wait_until("it is written", lambda: (now := sums(served, key))["aborted"] and now, 10)
    assert aborted["aborted"] == 1 and aborted["requests"] == seen["requests"] + 1
    counted = aborted["completion_tokens"] - seen["completion_tokens"]
    assert 8 <= counted <= 60, f"{counted} tokens of about ten were sent"
    assert aborted["prompt_tokens"] > seen["prompt_tokens"]


def test_what_was_refused_costs_nothing(served, make):
    key = make(rpm=1)
    chat(served, key)
    refused(served, key)
    refused(served, key, "none")
    wait_until("one request is written", lambda: sums(served, key)["requests"] >= 1, 10)
    assert sums(served, key)["completion_tokens"] == TOKENS


def test_a_flood_of_bad_keys_slows_nobody(served, make, figures):
    """Beside some who try keys as fast as they can, good calls take about as long as beside as many who call rightly."""
    key = make()["key"]
    url = f"{served.gateway}/models/org/demo"

    def timed():
        times = []
        for _ in range(GOOD_CALLS):
            started = time.monotonic()
            assert call("GET", url, token=key).status == 200
            times.append(time.monotonic() - started)
        return statistics.median(times)

    def beside(flood_url, token_of, status):
        """The median while eight threads ask; what they are told."""
        stop, wrong = threading.Event(), []
        counts = [0] * 8

        def ask(at):
            while not stop.is_set() and counts[at] < BAD_KEYS:
                answer = call("GET", flood_url, token=token_of(at, counts[at]))
                counts[at] += 1
                if answer.status != status:
                    wrong.append(answer)

        threads = [threading.Thread(target=ask, args=(at,), daemon=True) for at in range(8)]
        for thread in threads:
            thread.start()
        median = timed()
        while sum(counts) < BAD_KEYS and any(thread.is_alive() for thread in threads):
            time.sleep(0.05)
        stop.set()
        for thread in threads:
            thread.join(10)
        assert not wrong, wrong[:3]
        return median, sum(counts)

    bad = lambda at, n: f"nbkey_{at:08}{n:040}"
    good_beside_good, _ = beside(url, lambda at, n: key, 200)
    good_beside_bad, count = beside(url, bad, 401)
    figures(
        f"good calls beside {count} with bad keys: median {good_beside_bad * 1e3:.1f} ms, "
        f"beside as many good ones {good_beside_good * 1e3:.1f} ms"
    )
    assert count >= BAD_KEYS
    assert good_beside_bad < 2 * good_beside_good + 0.005


def test_keys_and_usage_survive_a_crash(tmp_path_factory, request):
    with serving(tmp_path_factory.mktemp("crash"), "--restart-grace", "2") as served:
        request.node.processes = served.group
        served.serve("org/demo", model="demo", runtime="sim", args=list(QUICK))
        kept = served.api("POST", "/keys", {"name": "kept", "rpm": 1_000, "models": ["org/demo"]}).json
        spent = served.api("POST", "/keys", {"name": "spent", "budget": {"tokens": 10, "period": "month"}}).json
        gone = served.api("POST", "/keys", {"name": "gone"}).json
        used = [chat(served, kept).parse().usage for _ in range(4)]
        chat(served, spent)
        assert served.api("DELETE", f"/keys/{gone['id']}").status == 204
        total = sum(usage.total_tokens for usage in used)
        wait_until("it is written", lambda: sums_total(served, kept) == total, 10)
        wait_until("the other too", lambda: sums_total(served, spent) >= 10, 10)
        before = {key["id"]: sums(served, key) for key in (kept, spent)}

        served.nebulad.kill()
        served.start_nebulad("--restart-grace", "2")
        wait_until("it answers again", lambda: chat_status(served, kept) == 200, 30)
        assert client_status(served, gone) == 401, "a revoked key stays revoked"
        error = refused(served, spent)
        assert (error.status_code, error.code) == (429, "insufficient_quota"), "a spent budget stays spent"
        assert {key["id"] for key in served.api("GET", "/keys").json["data"]} == {kept["id"], spent["id"]}
        after = sums(served, kept)
        assert after["requests"] >= before[kept["id"]]["requests"]
        assert after["completion_tokens"] >= before[kept["id"]]["completion_tokens"]
        # What was seen is told once and not twice.
        wait_until("the call after the crash is written", lambda: sums(served, kept)["requests"] == 5, 10)
        assert sums(served, spent) == before[spent["id"]]


def test_many_clients_share_a_limit(served, make):
    """However many connections and threads: never more than the limit allows."""
    key = make(rpm=20)

    async def all_at_once():
        settings = {"base_url": served.gateway, "api_key": key["key"], "max_retries": 0, "timeout": 30}
        async with openai.AsyncOpenAI(**settings) as one:

            async def ask():
                try:
                    await one.chat.completions.create(model="org/demo", messages=HI)
                    return 200
                except openai.RateLimitError:
                    return 429

            return await asyncio.gather(*(ask() for _ in range(80)))

    started = time.monotonic()
    answers = asyncio.run(all_at_once())
    refilled = int((time.monotonic() - started) * 20 / 60) + 1
    assert 20 <= answers.count(200) <= 20 + refilled, answers.count(200)
    assert answers.count(429) == 80 - answers.count(200)
