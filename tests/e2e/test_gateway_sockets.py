"""The gateway and the agent's proxy by raw sockets: who leaves, who is slow, who lies about where a request ends."""

import os
import threading
import time
from pathlib import Path

import pytest

from cluster import call
from processes import wait_until
from serving import serving
from settings import sized
from wire import CHAT, DEADLINE_SECONDS, Line, Recorder, answer, ask, chunked, post, script

NAME = "rec"
MAX_BODY = 1 << 20
BODY = '{"model":"rec"}'
STREAM = '{"model":"rec","stream":true,"stream_options":{"include_usage":true}}'
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
# A head that takes long is cut after 5 s, a body after 30 s; the rest is for a busy machine.
HEAD_SECONDS, BODY_SECONDS = 12, 45
CANCEL_SECONDS = 0.25
# A busy machine may be late now and then, but not each time.
TRIES = 4
READERS = sized(50, 200)
READER_MEMORY = 400 * 1024
MARK = b"smuggled"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("sockets"), "--max-body-bytes", str(MAX_BODY)) as cluster:
        cluster.recorder = Recorder(cluster, NAME)
        cluster.serve("open", model="demo", runtime="sim", public=True, args=["--ttft", "1ms", "--token-interval", "0"])
        # These take half a minute, so they begin now and are looked at last.
        cluster.slow = [Slow(cluster.http_addr, *case) for case in slow_senders(cluster.recorder.token)]
        yield cluster


@pytest.fixture
def served(shared, request):
    request.node.processes = shared.group
    shared.recorder.forget()
    return shared


def request(served, body=BODY, headers="", **more):
    return post(body, served.recorder.token, headers=headers, **more)


def scripted(served, *steps, body=BODY):
    return request(served, body, f"x-script: {script(*steps)}\r\n")


# --- who leaves

LEAVING = {
    "before the first byte": ([("gone",)], STREAM, b""),
    "in a gap between tokens": ([("send", chunked([EVENT], last=False)), ("gone",)], STREAM, EVENT),
    "in mid-stream": (
        [("send", chunked([EVENT], last=False)), ("repeat", chunked([EVENT], last=False).split(b"\r\n\r\n", 1)[1], 10**7)],
        STREAM,
        EVENT * 1,
    ),
    "within a whole answer": (
        [("send", answer(b"{" + b" " * 5000)[:-100]), ("gone",)],
        BODY,
        b"{ ",
    ),
}


@pytest.mark.parametrize("how", ["in order", "by reset"])
@pytest.mark.parametrize("moment", LEAVING)
def test_whoever_leaves_ends_the_engines_work(served, moment, how):
    steps, body, seen = LEAVING[moment]
    late = []
    for _ in range(TRIES):
        served.recorder.forget()
        line = Line(served.http_addr).send(scripted(served, *steps, body=body))
        wait_until("the request came", served.recorder.requests, 10)
        if seen:
            line.until(seen)
        left = time.monotonic()
        line.reset() if how == "by reset" else line.stream.close()
        look = lambda: [one["gone"] for one in served.recorder.requests() if one["gone"]]
        late.append(wait_until("the engine notices", look, 10)[0] - left)
        if late[-1] <= CANCEL_SECONDS:
            return
    raise AssertionError(f"cancelled after {late} s")


def test_a_body_that_is_half_written_reaches_nobody(served):
    whole = request(served)
    for cut in (len(whole) - 1, len(whole) - 10, whole.index(b"\r\n\r\n") + 4, 30):
        with Line(served.http_addr) as line:
            line.send(whole[:cut])
    chunks = request(served, b"", "transfer-encoding: chunked\r\n", length=False)
    with Line(served.http_addr) as line:
        line.send(chunks + b"5\r\n" + BODY.encode()[:5] + b"\r\n")
    assert ask(served.http_addr, request(served)).status == 200
    assert len(served.recorder.requests()) == 1


# --- who is slow


def slow_senders(token):
    """What is sent at once, what then comes bit by bit, how often, and when it must be over."""
    head = post(b"x" * 10, token).split(b"\r\n\r\n")[0]
    head = head.replace(b"content-length: 10", b"content-length: 100000") + b"\r\n\r\n"
    chunks = post(b"", token, headers="transfer-encoding: chunked\r\n", length=False)
    return [
        ("nothing at all", b"", b"", 1, HEAD_SECONDS),
        ("a head byte by byte", b"", b"POST /v1/chat/completions HTTP/1.1\r\nx-a: " + b"b" * 300, 0.5, HEAD_SECONDS),
        ("header by header", b"POST / HTTP/1.1\r\n", b"a:b\r\n" * 100, 0.5, HEAD_SECONDS),
        ("a body that stands still", head + b"{", b"", 1, BODY_SECONDS),
        ("a body byte by byte", head, b" " * 1000, 1, BODY_SECONDS),
        ("chunk by chunk", chunks, b"1\r\n \r\n" * 1000, 0.3, BODY_SECONDS),
    ]


class Slow(threading.Thread):
    """Sends as slowly as it may, and notes when it was cut."""

    def __init__(self, address, name, first, rest, pause, within):
        super().__init__(daemon=True, name=name)
        self.line = Line(address).send(first)
        self.rest, self.pause, self.within = rest, pause, within
        self.cut_after = None
        self.start()

    def run(self):
        started = time.monotonic()
        self.line.stream.settimeout(self.pause)
        rest = iter(self.rest)
        while time.monotonic() < started + self.within:
            try:
                if (byte := next(rest, None)) is not None:
                    self.line.send(bytes([byte]))
                if not self.line.fill():
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        else:
            return
        self.cut_after = time.monotonic() - started


def test_slow_readers_hold_no_memory(served, figures):
    """Each engine has 2 MB to say at once, and nobody listens."""
    piece = chunked([EVENT * 20], last=False).split(b"\r\n\r\n", 1)[1]
    steps = [("send", chunked([EVENT], last=False)), ("repeat", piece, 2 * 2**20 // len(piece)), ("gone",)]
    asked = scripted(served, *steps, body=STREAM)
    with Line(served.http_addr) as line:
        line.send(scripted(served, *steps[:1], body=STREAM)).until(EVENT)
    programs = {"nebulad": served.nebulad, "the agent": served.agent}
    before = {name: process.memory_bytes() for name, process in programs.items()}
    served.recorder.forget()
    lines = [Line(served.http_addr, receive_buffer=4096).send(asked) for _ in range(READERS)]
    try:
        for line in lines:
            line.until(EVENT)
        settled(lambda: [round(cpu_seconds(process), 1) for process in programs.values()])
        grown = {name: process.memory_bytes() - before[name] for name, process in programs.items()}
        figures(f"memory of {READERS} streams that nobody reads: {({n: f'{g >> 10} KiB' for n, g in grown.items()})}")
        for name, bytes_more in grown.items():
            assert bytes_more < READERS * READER_MEMORY, f"{name} holds {bytes_more} bytes more"
        started = time.monotonic()
        assert served.chat("open").status == 200
        assert time.monotonic() - started < 5, "others are served as before"
        # Whoever does read gets all of it, in order.
        last = lines.pop()
        assert len(last.exactly(100_000)) == 100_000
        last.stream.close()
    finally:
        for line in lines:
            line.stream.close()
    ended = lambda: all(one["gone"] for one in served.recorder.requests())
    wait_until("all of the engine's work has ended", ended, 15)


def cpu_seconds(process):
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(int(field) for field in fields[11:13]) / os.sysconf("SC_CLK_TCK")


def settled(figure, times=5):
    """Waits until a figure stays the same for several looks."""
    seen = []

    def look():
        seen.append(figure())
        time.sleep(0.1)
        return len(seen) > times and all(one == seen[-1] for one in seen[-times:])

    wait_until("it stands still", look, 60)


@pytest.mark.parametrize("kind", ["a line without an end", "a whole answer"])
def test_a_huge_answer_takes_no_memory(served, kind):
    """96 MB pass, or are refused, piece by piece."""
    piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    whole = kind == "a whole answer"
    head = chunked([b"data: "], "text/plain" if whole else "text/event-stream", last=False)
    asked = scripted(served, ("send", head), ("repeat", piece, 1500), ("send", b"0\r\n\r\n"), body=STREAM)
    before = served.nebulad.memory_bytes()
    most = length = 0
    tail = b""
    with Line(served.http_addr) as line:
        line.send(asked).until(b"\r\n\r\n")
        while line.fill():
            length += len(line.read)
            tail = (tail + line.read)[-2000:]
            line.read = b""
            if length >> 22 != (length - len(tail)) >> 22:
                most = max(most, served.nebulad.memory_bytes())
            if tail.endswith(b"0\r\n\r\n"):
                break
    assert most - before < 48 << 20, f"{(most - before) >> 20} MiB more"
    if whole:
        assert length > 1500 * 65536
    else:
        assert b'"error"' in tail and b"upstream_error" in tail and b"[DONE]" not in tail
        assert length < 64 << 20, "a line has a limit"


def test_a_request_that_comes_byte_by_byte_is_one_request(served):
    with Line(served.http_addr) as line:
        for byte in request(served):
            line.send(bytes([byte]))
        assert line.reply().status == 200
    assert served.recorder.only()["body"] == BODY.encode()


# --- who lies about where a request ends


def inner(served):
    """A request that would be answered if it were taken for one."""
    return request(served, '{"model":"rec","mark":"%s"}' % MARK.decode())


def smuggling():
    """Heads whose ends can be read in two ways, and what follows before the hidden request."""
    start = f"POST {CHAT} HTTP/1.1\r\nhost: t\r\n"
    empty = "0\r\n\r\n"
    chunks = "transfer-encoding: chunked\r\n"
    return {
        "length and chunks": (start + f"content-length: {len(BODY) + 5}\r\n" + chunks, empty),
        "chunks and length": (start + chunks + "content-length: 5\r\n", empty),
        "two lengths": (start + f"content-length: {len(BODY)}\r\ncontent-length: 0\r\n", BODY),
        "two lengths in one": (start + f"content-length: {len(BODY)}, 0\r\n", BODY),
        "a signed length": (start + f"content-length: +{len(BODY)}\r\n", BODY),
        "a negative length": (start + "content-length: -1\r\n", BODY),
        "a length in hex": (start + "content-length: 0x0f\r\n", BODY),
        "an endless length": (start + "content-length: 99999999999999999999999\r\n", BODY),
        "a length with a space inside": (start + "content-length: 1 5\r\n", BODY),
        "an empty length": (start + "content-length: \r\n", BODY),
        "a folded header": (start + f"x-a: b\r\n content-length: 0\r\ncontent-length: {len(BODY)}\r\n", BODY),
        "a folded length": (start + f"content-length:\r\n {len(BODY)}\r\n", BODY),
        "a space before the colon": (start + f"content-length : 0\r\ncontent-length: {len(BODY)}\r\n", BODY),
        "chunks with a space before the colon": (start + "transfer-encoding : chunked\r\n", empty),
        "unknown coding": (start + "transfer-encoding: xchunked\r\n", empty),
        "chunked is not last": (start + "transfer-encoding: chunked, identity\r\n", empty),
        "chunked twice": (start + "transfer-encoding: chunked, chunked\r\n", empty),
        "two codings": (start + chunks + "transfer-encoding: identity\r\n", empty),
        "a vertical tab": (start + "transfer-encoding:\x0bchunked\r\n", empty),
        "no number": (start + chunks, f"zz\r\n{BODY}\r\n0\r\n\r\n"),
        "a negative chunk": (start + chunks, f"-1\r\n{BODY}\r\n0\r\n\r\n"),
        "a huge chunk": (start + chunks, f"ffffffffffffffff1\r\n{BODY}\r\n0\r\n\r\n"),
        "a prefixed chunk": (start + chunks, f"0x{len(BODY):x}\r\n{BODY}\r\n0\r\n\r\n"),
        "a chunk that is too long": (start + chunks, f"{len(BODY) - 3:x}\r\n{BODY}\r\n0\r\n\r\n"),
        "no size": (start + chunks, f"\r\n{BODY}\r\n0\r\n\r\n"),
        "a nul in a value": (start + f"x-a: a\0b\r\ncontent-length: {len(BODY)}\r\n", BODY),
        "a nul in a name": (start + f"x\0a: b\r\ncontent-length: {len(BODY)}\r\n", BODY),
        "a lone return in a value": (start + f"x-a: a\rcontent-length: 0\r\ncontent-length: {len(BODY)}\r\n", BODY),
        "no name": (start + f": b\r\ncontent-length: {len(BODY)}\r\n", BODY),
        "chunks in HTTP/1.0": (start.replace("1.1", "1.0") + chunks, empty),
        "a space in the target": (start.replace(CHAT, f"{CHAT} x") + f"content-length: {len(BODY)}\r\n", BODY),
        "HTTP/9.9": (start.replace("1.1", "9.9") + f"content-length: {len(BODY)}\r\n", BODY),
    }


@pytest.mark.parametrize("case", smuggling())
def test_no_second_request_is_smuggled(served, case):
    head, body = smuggling()[case]
    token = f"authorization: Bearer {served.recorder.token}\r\n\r\n"
    hidden = inner(served)
    with Line(served.http_addr) as line:
        line.stream.settimeout(3)
        line.send((head + token + body).encode("latin-1") + hidden)
        closed = line.is_closed()
        said = line.read
    noted = served.recorder.requests()
    assert not [one for one in noted if MARK in one["body"] or MARK in one["head"]], f"it came through: {noted}"
    assert len(noted) <= 1
    assert said.count(b"HTTP/1.1 ") <= 1 or b"HTTP/1.1 200" not in said, said
    assert closed or not said, f"a connection that cannot be trusted stays open after {said[:200]!r}"


def test_forms_that_are_lawful(served):
    """What looks odd and means one thing only."""
    address, token = served.http_addr, served.recorder.token
    plain = request(served)
    absolute = plain.replace(b"POST /v1", b"POST http://elsewhere.example/v1")
    twice = plain.replace(b"host: t", f"content-length: {len(BODY)}\r\nhost: t".encode())
    extension = post(b"", token, headers="transfer-encoding: chunked\r\n", length=False)
    extension += f"{len(BODY):X};a=b\r\n{BODY}\r\n0\r\nx-sum: 1\r\n\r\n".encode()
    cased = plain.replace(b"content-length", b"CONTENT-LENGTH").replace(b"authorization", b"AUTHORIZATION")
    for sent in (plain, absolute, extension, cased):
        served.recorder.forget()
        assert ask(address, sent).status == 200, sent
        noted = served.recorder.only()
        assert noted["body"] == BODY.encode()
        assert noted["head"].startswith(b"POST /v1/chat/completions HTTP/1.1\r\n"), noted["head"]
        assert b"elsewhere" not in noted["head"] and b"x-sum" not in noted["head"]
    served.recorder.forget()
    assert ask(address, twice).status in (200, 400)
    served.recorder.forget()
    lines = plain.replace(b"\r\n", b"\n")
    with Line(address) as line:
        line.stream.settimeout(3)
        line.send(lines)
        assert line.fill() and line.read.split(b" ")[1] in (b"200", b"400")
    assert all(one["body"] == BODY.encode() for one in served.recorder.requests())


def test_requests_in_a_row_are_answered_in_a_row(served):
    ways = [scripted(served, ("send", answer(b"[%d]" % n))) for n in range(5)]
    with Line(served.http_addr) as line:
        line.send(b"".join(ways))
        assert [line.reply().body for _ in ways] == [b"[%d]" % n for n in range(5)]
    assert len(served.recorder.requests()) == 5


# --- sizes and odd forms


def test_a_body_that_is_too_large(served):
    address = served.http_addr
    large = b'{"model":"rec","x":"' + b"x" * MAX_BODY + b'"}'
    declared = request(served, large)
    chunks = request(served, b"", "transfer-encoding: chunked\r\n", length=False)
    undeclared = chunks + b"%x\r\n%b\r\n0\r\n\r\n" % (len(large), large)
    for sent in (declared, undeclared):
        with Line(address) as line:
            line.send(sent)
            reply = line.reply()
            assert (reply.status, reply.code) == (413, "request_too_large"), reply
            # Whoever goes on is served, unless told that the connection ends.
            if reply.headers.get("connection") == "close":
                assert line.is_closed()
            else:
                assert line.send(request(served)).reply().status == 200
    just = b'{"model":"rec","x":"%b"}' % (b"x" * (MAX_BODY - 22))
    assert len(just) == MAX_BODY
    assert ask(address, request(served, just)).status == 200


@pytest.mark.parametrize("at", ["the gateway", "the agent's proxy"])
def test_a_body_that_never_ends_is_not_read_for_ever(served, at):
    """Too large at the gateway, and from a stranger at the proxy."""
    piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
    chunks = {"headers": "transfer-encoding: chunked\r\n", "length": False}
    way = (served.http_addr, request(served, b"", **chunks))
    if at != "the gateway":
        way = (served.proxy_address(NAME), post(b"", "nbtok_wrong", **chunks))
    with Line(way[0]) as line:
        line.send(way[1])
        deadline = time.monotonic() + DEADLINE_SECONDS
        with pytest.raises(OSError):
            while time.monotonic() < deadline:
                line.send(piece)
    assert served.recorder.requests() == []


def test_an_answer_to_a_body_that_is_too_large_comes_before_the_body(served):
    with Line(served.http_addr) as line:
        head = request(served, b"x").replace(b"content-length: 1", b"content-length: 999999999999")
        reply = line.send(head).reply()
        assert (reply.status, reply.code) == (413, "request_too_large")


def test_a_head_that_is_too_large(served):
    for headers in (f"x-a: {'b' * 300_000}\r\n", "".join(f"x-{n}: b\r\n" for n in range(20_000))):
        with Line(served.http_addr) as line:
            try:
                line.send(request(served, headers=headers))
            except OSError:
                pass
            assert line.is_closed()
            assert line.read.split(b" ")[1:2] in ([b"431"], [b"400"], []), line.read[:200]
    assert served.recorder.requests() == []


def test_errors_leave_the_connection_usable(served):
    token = served.recorder.token
    with Line(served.http_addr) as line:
        for sent, status in (
            (request(served, "{"), 400),
            (request(served, "{} {}"), 400),
            (request(served, '{"model":7}'), 400),
            (request(served, b'{"model":"\xff"}'), 400),
            (post(BODY), 401),
            (post('{"model":"none"}', token), 404),
            (f"GET {CHAT} HTTP/1.1\r\nhost: t\r\n\r\n".encode(), 405),
            (request(served), 200),
        ):
            reply = line.send(sent).reply()
            assert reply.status == status, (sent, reply)
            assert status == 200 or set(reply.json["error"]) == {"message", "type", "param", "code"}
    assert len(served.recorder.requests()) == 1
    # Nobody reads the body of what has no answer anyway.
    with Line(served.http_addr) as line:
        reply = line.send(post(BODY, token, "/v1/nothing")).reply()
        assert (reply.status, reply.code) == (404, "unknown_url")
        assert line.is_closed() if reply.headers.get("connection") == "close" else line.send(request(served)).reply()


def test_paths_that_leave_the_prefix_reach_no_engine(served):
    for path in (
        "/v1/../admin/actors",
        "/v1/%2e%2e/api/v1/nodes",
        "/v1//chat/completions/../../invocations",
        "/v1/invocations",
        "/v1/metrics",
        "/v1/chat/completions%00",
        "/v1/chat%2fcompletions",
        "/v1/load_lora_adapter",
        "/v1/server_info",
    ):
        assert ask(served.http_addr, post(BODY, served.recorder.token, path)).status in (400, 401, 404, 405), path
    assert served.recorder.requests() == []


def test_expect_continue(served):
    with Line(served.http_addr) as line:
        head, body = request(served, headers="expect: 100-continue\r\n").split(b"\r\n\r\n")
        line.send(head + b"\r\n\r\n")
        assert line.until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        assert line.send(body).reply().status == 200
    assert b"expect" not in served.recorder.only()["head"].lower()


def test_http_1_0(served):
    old = lambda sent: sent.replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1)
    with Line(served.http_addr) as line:
        reply = line.send(old(request(served))).reply()
        assert (reply.status, reply.body) == (200, b"{}")
        assert line.is_closed()
    told = chunked([EVENT, EVENT, DONE])
    with Line(served.http_addr) as line:
        reply = line.send(old(scripted(served, ("send", told), body=STREAM))).reply()
        assert "transfer-encoding" not in reply.headers, "HTTP/1.0 knows no chunks"
        assert reply.body == EVENT + EVENT + DONE


def test_head_and_preflight(served):
    token = f"authorization: Bearer {served.recorder.token}\r\n"
    with Line(served.http_addr) as line:
        line.send(f"HEAD /v1/models HTTP/1.1\r\nhost: t\r\n{token}\r\n".encode())
        assert line.reply(to_head=True).status == 200
        line.send(f"HEAD /v1/models/{NAME} HTTP/1.1\r\nhost: t\r\n{token}\r\n".encode())
        assert line.reply(to_head=True).status == 200
        preflight = "origin: https://a.example\r\naccess-control-request-method: POST\r\n"
        preflight += "access-control-request-headers: authorization,content-type,x-stainless-os\r\n"
        reply = line.send(f"OPTIONS {CHAT} HTTP/1.1\r\nhost: t\r\n{preflight}\r\n".encode()).reply()
        assert reply.status == 204
        assert reply.headers["access-control-allow-origin"] == "*"
        assert "x-stainless-os" in reply.headers["access-control-allow-headers"]
        assert line.send(request(served)).reply().status == 200, "the connection is still of use"


def test_the_agents_proxy_reads_requests_as_strictly(served):
    """The same lies, told to the proxy itself."""
    address = served.proxy_address(NAME)
    endpoint = served.deployment(served.recorder.id)["replicas"][0]["endpoint"]
    assert call("POST", f"{endpoint}/v1/chat/completions", {"model": "rec"}, served.recorder.token).status == 200
    path = "/" + endpoint.split("//")[1].split("/", 1)[1].strip("/") if endpoint.count("/") > 2 else ""
    hidden = inner(served).replace(b"POST /v1", f"POST {path}/v1".encode())
    for case, (head, body) in smuggling().items():
        served.recorder.forget()
        head = head.replace("POST /v1", f"POST {path}/v1")
        with Line(address) as line:
            line.stream.settimeout(2)
            try:
                line.send((head + f"authorization: Bearer {served.recorder.token}\r\n\r\n{body}").encode("latin-1") + hidden)
                line.is_closed()
            except OSError:
                pass
        noted = served.recorder.requests()
        assert not [one for one in noted if MARK in one["body"]], f"{case}: it came through"


def test_slow_senders_are_cut(served):
    for slow in served.slow:
        slow.join(BODY_SECONDS + 5)
    late = {slow.name: slow.within for slow in served.slow if slow.cut_after is None}
    assert not late, f"still open after so many seconds: {late}"
