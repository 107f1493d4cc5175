"""What the engine receives is what the client sent, byte for byte, and the other way round."""

import gzip
import json

import pytest

from serving import serving
from wire import Recorder, answer, ask, chunked, post, script

NAME = "org/recorder"
MEGABYTE = 1 << 20
DONE = b"data: [DONE]\n\n"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("bytes")) as cluster:
        cluster.recorder = Recorder(cluster, NAME)
        yield cluster


@pytest.fixture
def served(shared, request):
    request.node.processes = shared.group
    shared.recorder.forget()
    return shared


@pytest.fixture
def recorder(served):
    return served.recorder


BODIES = {
    "plain": '{"model":"org/recorder","messages":[{"role":"user","content":"hi"}]}',
    "unknown fields": '{"model":"org/recorder","messages":[],"zzz":{"a":[1,2,{"b":null}]},"min_p":0.05,"x-y":true}',
    "key order": '{"z":1,"messages":[],"a":2,"model":"org/recorder","b":{"z":1,"a":2}}',
    "numbers": '{"model":"org/recorder","temperature":0.30000000000000004,"seed":12345678901234567,"t":1.0,"u":1e2,"v":-0,"w":1E+400}',
    "two models": '{"model":"other","messages":[],"model":"org/recorder"}',
    "two of another key": '{"n":1,"model":"org/recorder","n":2}',
    "an escaped key": '{"model":"other","mod\\u0065l":"org/recorder","messages":[]}',
    "an escaped value": '{"model":"\\u006frg\\/recorder","messages":[]}',
    "unicode escapes": '{"model":"org/recorder","a":"\\u00e4\\ud83d\\ude00","b":"ä😀","c":"\\ud800","d":"\\/"}',
    "white space": ' \r\n\t{ "model" : "org/recorder" ,\n"messages":[ ] }\n ',
    "decoys": '{"messages":[{"content":"\\"model\\":\\"x\\""}],"x":{"model":"no"},"model":"org/recorder","y":["model"]}',
    "deep": '{"model":"org/recorder","x":' + "[" * 500 + "]" * 500 + "}",
    "a large prompt": json.dumps({"messages": [{"content": "größe " * (MEGABYTE // 6)}], "model": NAME}),
    "a false stream": '{"stream":false,"model":"org/recorder"}',
    "stream, then not": '{"stream":true,"model":"org/recorder","stream":false}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_a_body_arrives_as_it_was_sent(served, recorder, body):
    reply = ask(served.http_addr, post(body, recorder.token))
    assert (reply.status, reply.body) == (200, b"{}"), reply
    assert recorder.only()["body"] == body.encode()


@pytest.mark.parametrize(
    ("path", "upstream"),
    [
        ("/v1/completions", "/v1/completions"),
        ("/v1/embeddings", "/v1/embeddings"),
        ("/v1/responses", "/v1/responses"),
        ("/v1/messages", "/v1/messages"),
        ("/v1/rerank", "/v1/rerank"),
        ("/v1/score", "/v1/score"),
        ("/v1/images/generations", "/v1/images/generations"),
        ("/v1/tokenize", "/tokenize"),
        ("/v1/chat/completions?a=%20b&c", "/v1/chat/completions?a=%20b&c"),
    ],
)
def test_every_surface(served, recorder, path, upstream):
    body = '{ "input" : ["a", 0.10000000000000001], "model":"org/recorder" }'
    assert ask(served.http_addr, post(body, recorder.token, path)).status == 200
    noted = recorder.only()
    assert noted["body"] == body.encode()
    assert noted["head"].startswith(f"POST {upstream} HTTP/1.1\r\n".encode())


def test_a_body_in_chunks_arrives_as_it_was_sent(served, recorder):
    body = BODIES["unicode escapes"].encode()
    head = post(b"", recorder.token, headers="transfer-encoding: chunked\r\n", length=False)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    assert ask(served.http_addr, head + chunks).status == 200
    assert recorder.only()["body"] == body


def test_called_by_id_only_the_models_bytes_differ(served, recorder):
    for form in (recorder.id, recorder.id.replace("-", "\\u002d")):
        recorder.forget()
        body = '{"a":1.0, "model" :"%s" ,"t":0.30000000000000004,"b":"\\u00e4", "a":2}'
        assert ask(served.http_addr, post(body % form, recorder.token)).status == 200
        assert recorder.only()["body"].decode() == body % NAME


def test_a_form_arrives_as_it_was_sent(served, recorder):
    sound = bytes(range(256)) * 2_000
    form = lambda model: (
        b'--b\r\ncontent-disposition: form-data; name="temperature"\r\n\r\n0.30000000000000004\r\n'
        b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\n' + model.encode() + b"\r\n"
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\ncontent-type: audio/wav\r\n\r\n'
        + sound + b"\r\n--b--\r\n"
    )  # fmt: skip
    ways = {"path": "/v1/audio/transcriptions", "content_type": "multipart/form-data; boundary=b"}
    for given in (NAME, recorder.id):
        recorder.forget()
        assert ask(served.http_addr, post(form(given), recorder.token, **ways)).status == 200
        noted = recorder.only()
        assert noted["body"] == form(NAME)
        assert b"content-type: multipart/form-data; boundary=b\r\n" in noted["head"]


STREAMS = {
    "nothing asked": '{ "model":"org/recorder", "stream" : true, "t":0.30000000000000004 }',
    "an empty object": '{"stream":true,"stream_options":{},"model":"org/recorder"}',
    "asked not to": '{"stream":true,"stream_options":{"include_usage":false},"model":"org/recorder"}',
    "other options": '{"stream":true,"model":"org/recorder","stream_options":{ "include_obfuscation":true }}',
    "null": '{"stream":true,"stream_options":null,"model":"org/recorder"}',
    "no other key": '{"stream":true,"model":"org/recorder"}',
    "called by id": '{"stream":true,"t":1.0,"model":"ID", "u":1E2}',
}
PIECE = b'data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}}\n\n'


@pytest.mark.parametrize("body", STREAMS.values(), ids=STREAMS.keys())
def test_a_stream_is_asked_for_usage_and_nothing_else_changes(served, recorder, body):
    body = body.replace("ID", recorder.id)
    told = script(("send", chunked([PIECE, USAGE, DONE])))
    reply = ask(served.http_addr, post(body, recorder.token, headers=f"x-script: {told}\r\n"))
    assert (reply.status, reply.body) == (200, PIECE + DONE), "the client has not asked for usage"
    came, sent = recorder.only()["body"].decode(), body.replace(recorder.id, NAME)
    options = (json.loads(sent).get("stream_options") or {}) | {"include_usage": True}
    assert json.loads(came) == json.loads(sent) | {"stream_options": options}
    before = common(came, sent)
    after = min(common(came[::-1], sent[::-1]), len(sent) - before)
    spliced, dropped = came[before : len(came) - after], sent[before : len(sent) - after]
    assert len(spliced) <= 60 and len(dropped) <= 30, f"{dropped!r} became {spliced!r} in {came!r}"


def common(one, other):
    """How much two texts have in common at their beginning."""
    return next((at for at, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))


def test_a_client_that_asks_for_usage_changes_nothing(served, recorder):
    body = '{"stream_options": { "include_usage" : true } ,"stream":true,"model":"org/recorder"}'
    told = script(("send", chunked([PIECE, USAGE, DONE])))
    reply = ask(served.http_addr, post(body, recorder.token, headers=f"x-script: {told}\r\n"))
    assert reply.body == PIECE + USAGE + DONE
    assert recorder.only()["body"].decode() == body


KEPT = {
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate": "a=1,b=2",
    "baggage": "k=v",
    "x-client-request-id": "c-1",
    "openai-organization": "org-1",
    "openai-project": "proj-1",
    "x-stainless-lang": "python",
    "idempotency-key": "i-1",
    "user-agent": "me/1.0",
    "accept": "text/event-stream, */*;q=0.1",
    "x-custom": "ä b".encode().decode("latin-1"),
}
DROPPED = {
    "x-api-key": "TOKEN",
    "cookie": "a=TOKEN",
    "proxy-authorization": "Basic eA==",
    "connection": "keep-alive, x-hop",
    "x-hop": "1",
    "keep-alive": "timeout=5",
    "te": "trailers",
    "trailer": "x-sum",
    "upgrade": "h2c",
    "x-nebula-replica": "forged",
    "x-nebula-deployment": "forged",
    "accept-encoding": "gzip, br",
}


def test_headers_on_the_way_to_the_engine(served, recorder):
    headers = {name: value.replace("TOKEN", recorder.token) for name, value in (KEPT | DROPPED).items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = post(BODIES["plain"], recorder.token, headers="\0").split(b"\0")
    reply = ask(served.http_addr, request[0] + lines.encode("latin-1") + request[1])
    assert reply.status == 200, reply
    head = recorder.only()["head"].decode("latin-1")
    came = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
    for name, value in KEPT.items():
        assert came.get(name) == value, f"{name} in {head}"
    for name in DROPPED:
        assert name in ("connection", "accept-encoding") or name not in came, f"{name} in {head}"
    assert came.get("accept-encoding", "identity") == "identity"
    assert "x-hop" not in came.get("connection", "")
    for secret in (recorder.token, "nbgw_", "forged", "authorization"):
        assert secret not in head.lower(), f"{secret} in {head}"
    assert came["x-request-id"] == reply.headers["x-request-id"]
    assert came["content-length"] == str(len(BODIES["plain"]))


def test_headers_on_the_way_to_the_client(served, recorder):
    upstream = (
        "x-engine: 1\r\nopenai-processing-ms: 7\r\nset-cookie: a=1\r\nconnection: x-hop, keep-alive\r\nx-hop: 1\r\n"
        "keep-alive: timeout=5\r\nx-request-id: engine-1\r\nx-nebula-proxy-error: upstream_connect\r\n"
    )
    told = script(("send", answer(b"[1.0]", headers=upstream)))
    lines = f"x-script: {told}\r\nx-request-id: mine.1\r\n"
    reply = ask(served.http_addr, post(BODIES["plain"], recorder.token, headers=lines))
    assert (reply.status, reply.body) == (200, b"[1.0]")
    assert (reply.headers["x-engine"], reply.headers["openai-processing-ms"]) == ("1", "7")
    assert reply.headers["x-request-id"] == "mine.1"
    for name in ("x-hop", "keep-alive", "x-nebula-proxy-error"):
        assert name not in reply.headers, reply


EVENTS = {
    "line ends of every kind": b"data: a\n\ndata: b\r\n\r\ndata: c\r\rdata: d\n\n" + DONE,
    "no space": b'data:{"choices":[{"delta":{"content":"a"}}]}\n\ndata:[DONE]\n\n',
    "comments, names, ids": b": hello\n\nevent: x\nid: 7\nretry: 3\ndata: 1\ndata: 2\n\n" + DONE,
    "numbers and spaces": b'data: { "choices" :[ {"index":0,"p":0.30000000000000004,"n":12345678901234567} ] }\n\n' + DONE,
    "letters": 'data: {"choices":[{"delta":{"content":"naïve → 😀"}}]}\n\n'.encode() + DONE,
    "usage with a choice": b'data: {"choices":[{"index":0}],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n' + DONE,
    "no JSON": b"data: \xff\xfe\x00 {{{\n\n" + DONE,
    "an error": b'data: {"error":{"message":"no","type":"x","param":null,"code":7}}\n\n' + DONE,
    "a long line": b'data: {"choices":[{"delta":{"content":"' + b"x" * MEGABYTE + b'"}}]}\n\n' + DONE,
}


@pytest.mark.parametrize("events", EVENTS.values(), ids=EVENTS.keys())
@pytest.mark.parametrize("size", [1, 7, 1 << 16])
@pytest.mark.parametrize("asks", [True, False])
def test_events_arrive_as_they_were_sent(served, recorder, events, size, asks):
    if size < 10 and len(events) > 10_000:
        size *= 4_001
    options = ',"stream_options":{"include_usage":true}' if asks else ""
    body = f'{{"model":"{NAME}","stream":true{options}}}'
    pieces = [events[at : at + size] for at in range(0, len(events), size)]
    reply = ask(served.http_addr, post(body, recorder.token, headers=f"x-script: {long_script(recorder, pieces)}\r\n"))
    assert reply.body == events
    assert reply.headers["cache-control"] == "no-cache"
    assert reply.headers["x-accel-buffering"] == "no"
    assert "content-length" not in reply.headers


def long_script(recorder, pieces):
    """A head may not be as long as an answer: what repeats is sent as a repetition."""
    whole = b"".join(pieces)
    run = b"x" * (MEGABYTE // 2)
    if run not in whole:
        return script(("send", chunked(pieces)))
    start = whole.index(b"xxxx")
    end = whole.rindex(b"xxxx") + 4
    head = chunked([whole[:start]], last=False)
    chunk = b"1000\r\n" + b"x" * 4096 + b"\r\n"
    times, left = divmod(end - start, 4096)
    tail = b"x" * left + whole[end:]
    return script(("send", head), ("repeat", chunk, times), ("send", b"%x\r\n%b\r\n0\r\n\r\n" % (len(tail), tail)))


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b'{ "x":0.30000000000000004,"usage":{"prompt_tokens":1,"completion_tokens":2},"x":12345678901234567 }', ""),
        (b"\xff\x00 no JSON", ""),
        (b"", ""),
        (gzip.compress(b"{}", mtime=0), "content-encoding: gzip\r\n"),
        (b" " * 5_000 + b"{}", "x-odd: 1\r\n"),
    ],
)
def test_a_whole_answer_arrives_as_it_was_sent(served, recorder, body, headers):
    told = script(("send", answer(body, headers=headers)))
    reply = ask(served.http_addr, post(BODIES["plain"], recorder.token, headers=f"x-script: {told}\r\n"))
    assert (reply.status, reply.body) == (200, body)
    assert reply.headers["content-length"] == str(len(body))
    if "gzip" in headers:
        assert reply.headers["content-encoding"] == "gzip"


def test_an_error_of_the_engine_arrives_as_it_was_sent(served, recorder):
    body = b'{ "error": {"message":"too long","type":"BadRequestError","param":null,"code":400} }'
    told = script(("send", answer(body, status="400 Bad Request", headers="x-engine: 1\r\n")))
    reply = ask(served.http_addr, post(BODIES["plain"], recorder.token, headers=f"x-script: {told}\r\n"))
    assert (reply.status, reply.body, reply.headers["x-engine"]) == (400, body, "1")
