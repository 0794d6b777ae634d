"""Upstreams: servers in turn, servers that fail in every way, connection reuse, streaming, and what is passed back."""

import contextlib
import json
import re
import socket
import threading

import httpx
import pytest

from conftest import eventually, free_port
from wire import ScriptedBackend, Wire, answering, get, memory_of, post, reset

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def config(*servers, timeouts='{ connect = "500ms", read = "1s", write = "1s" }', more="", route=""):
    listed = ", ".join(f'"{s}"' for s in servers)
    return f'[upstreams.api]\nservers = [{listed}]\ntimeouts = {timeouts}\n{more}\n[[routes]]\npath = "/{{*rest}}"\nupstream = "api"\nauth = "none"\n{route}\n'


@pytest.fixture
def scripted():
    """`scripted(script)` starts a backend that runs `script`."""
    started = []

    def start(script=answering(OK)):
        started.append(ScriptedBackend(script))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def ask(gateway, request=get("/x"), method="GET"):
    with Wire(gateway.port, timeout=20) as wire:
        return wire.send(request).response(method)


def problem(answer, status, code):
    assert (answer.status, answer.get("content-type")) == (status, "application/problem+json"), answer
    body = json.loads(answer.body)
    assert (body["status"], body["code"]) == (status, code)
    assert not re.search(rb"127\.0\.0\.1|pingora|refused|errno", answer.body.lower()), "the inside shows"
    return answer


def dead_address():
    return f"127.0.0.1:{free_port()}"


# Servers in turn -----------------------------------------------------------------------------------------------


def test_servers_take_turns(gateways, scripted):
    servers = [scripted(), scripted(), scripted()]
    gateway = gateways(config(*[s.address for s in servers]))
    with Wire(gateway.port) as wire:
        assert [wire.send(get("/x")).response().status for _ in range(30)] == [200] * 30
    assert [len(s.heads) for s in servers] == [10, 10, 10]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_one_of_two_servers_down(gateways, scripted, method):
    """Nothing was sent to the server that refused the connection, so any request may go to the other one."""
    alive = scripted()
    gateway = gateways(config(dead_address(), alive.address))
    with Wire(gateway.port) as wire:
        request = get("/x") if method == "GET" else post("/x", b"")
        assert [wire.send(request).response().status for _ in range(20)] == [200] * 20
    assert len(alive.heads) == 20
    assert gateway.metric('portcullis_upstream_errors_total{kind="connect",upstream="api"}') >= 10


def test_post_with_a_body_survives_a_dead_server(gateways, backend):
    """The body is not lost on the way to the second server."""
    gateway = gateways(config(dead_address(), backend.address))
    for i in range(6):
        assert gateway.request("POST", "/x", content=b"y" * 100_000).status_code == 200
    assert [r["bodyBytes"] for r in backend.requests()] == [100_000] * 6


def test_all_servers_down(gateways):
    """503 problem+json with Retry-After, and again 200 as soon as a server is back."""
    port = free_port()
    gateway = gateways(config(f"127.0.0.1:{port}", dead_address()))
    for request in (get("/x"), post("/x", b"hello")):
        answer = problem(ask(gateway, request), 503, "upstream_unavailable")
        assert int(answer.get("retry-after")) >= 1
    with socket.create_server(("127.0.0.1", port)) as listener:
        def serve():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    connection.recv(4096)
                    connection.sendall(OK)
                    connection.close()
        threading.Thread(target=serve, daemon=True).start()
        assert ask(gateway).status == 200


def test_connect_timeout_is_503(gateways):
    """A server whose accept queue is full does not answer SYN: given up after `connect`."""
    with socket.socket() as full, contextlib.ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(full.getsockname())
        gateway = gateways(config(f"127.0.0.1:{full.getsockname()[1]}"))
        problem(ask(gateway), 503, "upstream_unavailable")


def test_a_host_name_is_resolved(gateways, backend):
    gateway = gateways(config(f"localhost:{backend.port}"))
    eventually(lambda: ask(gateway).status == 200, what="localhost resolved")
    assert {ask(gateway).status for _ in range(10)} == {200}


def test_a_name_that_does_not_resolve_is_503(gateways):
    gateway = gateways(config("no-such-host.invalid:80"))
    problem(ask(gateway), 503, "upstream_unavailable")
    ready = httpx.get(f"http://127.0.0.1:{gateway.admin_port}/readyz")
    assert ready.json()["unresolved_upstreams"] == ["api"]


# Servers that fail ---------------------------------------------------------------------------------------------


def hang(connection, _):
    threading.Event().wait(20)


def test_a_server_that_hangs_is_504(gateways, scripted):
    gateway = gateways(config(scripted(hang).address))
    problem(ask(gateway), 504, "upstream_timeout")
    problem(ask(gateway, post("/x", b"hello")), 504, "upstream_timeout")


HEADS = {
    "garbage": b"\x00\x01\x02garbage\r\n\r\n",
    "not_http": b"220 smtp.example.com ESMTP\r\n\r\n",
    "half_a_head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "nothing": b"",
    "bad_status": b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    "no_status": b"HTTP/1.1 OK\r\n\r\n",
    "obs_fold": b"HTTP/1.1 200 OK\r\nX: y\r\n z\r\nContent-Length: 0\r\n\r\n",
    "space_before_colon": b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
    "nul": b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
    "two_lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk",
    "length_and_coding": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "signed_length": b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
    "huge_head": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 4_000_000 + b"\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("ending", ["close", "reset"])
@pytest.mark.parametrize("name", HEADS)
def test_garbage_instead_of_a_head_is_502(gateways, scripted, name, ending):
    """What is no response is 502, never passed on, and the gateway goes on serving. Where RFC 9112 lets a recipient
    repair (both lengths), the client gets one that is framed in one way."""
    def script(connection, head):
        if b"/ok" in head:
            return connection.sendall(OK)
        with contextlib.suppress(OSError):
            connection.sendall(HEADS[name])
        if ending == "reset":
            reset(connection)
        return False
    gateway = gateways(config(scripted(script).address))
    answer = ask(gateway)
    if answer.status != 502 and name in ("length_and_coding", "obs_fold", "space_before_colon"):
        assert (answer.status, len(answer.all("content-length") + answer.all("transfer-encoding"))) == (200, 1)
        assert b" z" not in answer.get("x", "").encode()[:2]
    else:
        problem(answer, 502, "bad_gateway")
    assert ask(gateway, get("/ok")).status == 200


BODIES = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 500,
    "chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n" + b"x" * 500,
    "between_chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1f4\r\n" + b"x" * 500 + b"\r\n",
    "bad_chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1f4\r\n" + b"x" * 500 + b"\r\nzz\r\n",
    "bad_chunk_end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1f4\r\n" + b"x" * 500 + b"YY0\r\n\r\n",
}


@pytest.mark.parametrize("ending", ["close", "reset", "hang"])
@pytest.mark.parametrize("name", BODIES)
def test_a_body_cut_short_is_seen_as_cut(gateways, scripted, name, ending):
    """A client must be able to tell a cut body from a whole one: no last chunk, no full length, connection closed."""
    def script(connection, _):
        connection.sendall(BODIES[name])
        if ending == "reset":
            reset(connection)
        return hang(connection, _) if ending == "hang" else False
    gateway = gateways(config(scripted(script).address))
    with Wire(gateway.port) as wire:
        answer = wire.send(get("/x")).response()
        assert answer.status == 502 or not answer.complete, answer
        assert wire.buffer == b"" and (answer.status == 502 or len(answer.body) <= 500)


def good_for_one():
    """A script whose second request on a connection finds it closed."""
    used = set()

    def script(connection, _):
        if connection in used:
            return False
        used.add(connection)
        connection.sendall(OK)
    return script


def test_a_reused_connection_that_has_died_costs_nobody_a_request(gateways, scripted):
    """A server that closes its idle connections is normal life: the next GET is sent again on a new one."""
    server = scripted(good_for_one())
    gateway = gateways(config(server.address), server="threads = 1")
    assert [ask(gateway).status for _ in range(20)] == [200] * 20


def test_a_body_that_is_sent_again_counts_once(gateways, scripted):
    """A PUT that meets a dead pooled connection is sent again; its body must not count twice against the limit (413)."""
    server = scripted(good_for_one())
    gateway = gateways(config(server.address), server='threads = 1\nlimits = { body = "100B" }')
    put = get("/x", "localhost", "Content-Length: 60", method="PUT") + b"x" * 60
    assert [(ask(gateway).status, ask(gateway, put).status) for _ in range(5)] == [(200, 200)] * 5
    assert sum(h.startswith(b"PUT") for h in server.heads) > 5, "no PUT met a dead connection"


def test_a_post_is_not_sent_twice(gateways, scripted):
    """A server that dies over a POST may have acted on it: 502, and no second try (RFC 9110 section 9.2.2), whether the
    connection was new or used before."""
    def script(connection, head):
        if head.startswith(b"GET"):
            return connection.sendall(OK)
        reset(connection)
        return False
    server, other = scripted(script), scripted(script)
    gateway = gateways(config(server.address, other.address), server="threads = 1")
    for _ in range(5):
        assert [ask(gateway).status for _ in range(4)] == [200] * 4
        problem(ask(gateway, post("/x", b"hello")), 502, "bad_gateway")
    assert sum(h.startswith(b"POST") for h in server.heads + other.heads) == 5


# Connections ---------------------------------------------------------------------------------------------------


def test_connections_are_reused(gateways, scripted):
    server = scripted()
    gateway = gateways(config(server.address), server="threads = 1")
    for _ in range(30):
        assert ask(gateway).status == 200
    assert server.connections == 1 and len(server.heads) == 30


def test_connections_are_not_shared_between_upstreams(gateways, scripted):
    """Two upstreams with the same server keep their connections apart: what one is trusted with stays there."""
    server = scripted()
    gateway = gateways(
        config(server.address) + f'[upstreams.other]\nservers = ["{server.address}"]\n[[routes]]\npath = "/other"\nupstream = "other"\nauth = "none"\n',
        server="threads = 1",
    )
    assert [ask(gateway, get(p)).status for p in ("/x", "/other", "/x", "/other")] == [200] * 4
    assert server.connections == 2


def test_surplus_bytes_do_not_answer_the_next_request(gateways, scripted):
    """Response bytes behind the end of a body belong to nobody: the connection is not used again."""
    server = scripted(answering(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"))
    gateway = gateways(config(server.address), server="threads = 1")
    assert [ask(gateway).body for _ in range(10)] == [b"ok"] * 10


@pytest.mark.parametrize("head", [
    b"HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\npoison", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\npoison",
    b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n6\r\npoison\r\n0\r\n\r\n",
])
def test_b49_responses_without_a_body_have_none(gateways, scripted, head):
    """204 and 304 end with their head whatever they claim (RFC 9112 section 6.3); the next answer is in step."""
    server = scripted(lambda c, h: c.sendall(OK if b"/ok" in h else head))
    gateway = gateways(config(server.address), server="threads = 1")
    with Wire(gateway.port) as wire:
        answer = wire.send(get("/x")).response()
        assert answer.status in (204, 304, 502)
        assert answer.status != 204 or answer.get("transfer-encoding") is None
        if answer.get("connection") == "close":
            wire = Wire(gateway.port)
        assert wire.send(get("/ok")).response().body == b"ok"


def test_b49_head_has_no_body(gateways, scripted):
    """HEAD: the length of GET, no body, and the connections stay in step on both sides."""
    server = scripted(lambda c, h: c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" if h.startswith(b"HEAD") else OK))
    gateway = gateways(config(server.address))
    with Wire(gateway.port) as wire:
        for _ in range(5):
            answer = wire.send(get("/x", method="HEAD")).response("HEAD")
            assert (answer.status, answer.get("content-length")) == (200, "1000")
            assert wire.send(get("/x")).response().body == b"ok"


def test_b50_interim_responses_are_passed(gateways, scripted):
    """103 Early Hints arrives before the final response (RFC 9110 section 15.2)."""
    server = scripted(answering(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" + OK))
    gateway = gateways(config(server.address))
    with Wire(gateway.port) as wire:
        first = wire.send(get("/x")).response(interim=True)
        assert (first.status, first.get("link")) == (103, "</a.css>")
        assert wire.response().body == b"ok"


def test_a_body_that_ends_with_the_connection(gateways, scripted):
    """HTTP/1.0 style: passed on whole and ended properly."""
    server = scripted(answering(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000, close=True))
    answer = ask(gateways(config(server.address)))
    assert answer.complete and answer.body == b"x" * 100_000


# Streaming -----------------------------------------------------------------------------------------------------

SIZE, PIECE = 100_000_000, b"x" * 100_000


def test_100_mb_down_with_flat_memory(gateways, scripted):
    """A large response streams: the gateway never holds more than a little of it, though the client reads slowly."""
    def script(connection, _):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
        for _ in range(SIZE // len(PIECE)):
            connection.sendall(PIECE)
    gateway = gateways(config(scripted(script).address, timeouts='{ read = "30s" }'))
    before, most, total = memory_of(gateway.process.process.pid), 0, 0
    with httpx.stream("GET", gateway.url + "/x", timeout=60) as response:
        for i, piece in enumerate(response.iter_raw()):
            total += len(piece)
            if i % 50 == 0:
                most = max(most, memory_of(gateway.process.process.pid))
    assert total == SIZE
    assert most - before < 30_000_000


@pytest.mark.parametrize("coding", ["length", "chunked"])
def test_100_mb_up_with_flat_memory(gateways, backend, coding):
    """The same for a request body; all of it arrives."""
    gateway = gateways(config(backend.address, timeouts='{ read = "60s", write = "60s" }', route='max_body = "200MiB"'))
    pid = gateway.process.process.pid
    before, memory = memory_of(pid), []

    def pieces():
        for i in range(SIZE // len(PIECE)):
            if i % 50 == 0:
                memory.append(memory_of(pid))
            yield PIECE
    headers = {"Content-Length": str(SIZE)} if coding == "length" else {}
    answer = httpx.post(gateway.url + "/x", content=pieces(), headers=headers, timeout=120)
    assert (answer.status_code, answer.json()["bodyBytes"]) == (200, SIZE)
    assert max(memory) - before < 30_000_000


def test_a_response_begins_before_it_is_complete(gateways, scripted):
    """Events are not held back until the end."""
    go_on = threading.Event()

    def script(connection, _):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n7\r\ndata: 1\r\n")
        go_on.wait(10)
        connection.sendall(b"7\r\ndata: 2\r\n0\r\n\r\n")
    gateway = gateways(config(scripted(script).address, timeouts='{ read = "20s" }'))
    with httpx.stream("GET", gateway.url + "/x", timeout=15) as response:
        pieces = response.iter_raw()
        assert next(pieces) == b"data: 1"
        go_on.set()
        assert b"".join(pieces) == b"data: 2"
