"""What is taken from a client at most: 431, 408, 413, 429, and idle connections."""

import concurrent.futures
import contextlib
import json
import threading

import pytest

from conftest import Backend, eventually, serving
from wire import Wire, chunked, get, memory_of, post

CONFIG = """
[upstreams.node]
servers = ["{node}"]

[[routes]]
path = "/public/{{*rest}}"
upstream = "node"
auth = "none"
[[routes]]
path = "/small/{{*rest}}"
upstream = "node"
auth = "none"
max_body = "100B"
[[routes]]
path = "/none"
upstream = "node"
auth = "none"
max_body = "0B"
[[routes]]
path = "/large/{{*rest}}"
upstream = "node"
auth = "none"
max_body = "1MiB"
[[routes]]
path = "/by-user"
upstream = "node"
rate_limit = "5/1h"
[[routes]]
path = "/by-address"
upstream = "node"
auth = "none"
rate_limit = "5/1h"
[[routes]]
path = "/optional"
upstream = "node"
auth = "optional"
rate_limit = "5/1h"
"""
PROXY = 'trusted_proxies = ["127.0.0.1"]'
SERVER = """
[server.limits]
header_bytes = "4KiB"
header_count = 20
body = "10KiB"
header_timeout = "500ms"
body_timeout = "500ms"
idle_timeout = "1s"
"""


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    folder = tmp_path_factory.mktemp("limits")
    node = Backend(folder)
    with serving(folder, CONFIG.format(node=node.address), server=SERVER) as gateway:
        gateway.backend = node
        yield gateway
    node.stop()


@pytest.fixture
def gateway(everything):
    everything.backend.forget()
    return everything


@pytest.fixture(scope="module")
def limiter(tmp_path_factory):
    """A gateway whose deadlines are the usual ones, behind a trusted proxy."""
    folder = tmp_path_factory.mktemp("rates")
    node = Backend(folder)
    with serving(folder, CONFIG.format(node=node.address), server=PROXY) as gateway:
        gateway.backend = node
        yield gateway
    node.stop()


def problem(answer, status, code=None):
    assert (answer.status, answer.get("content-type")) == (status, "application/problem+json"), answer
    body = json.loads(answer.body)
    assert body["status"] == status and body["request_id"] == answer.get("x-request-id")
    assert code is None or body["code"] == code
    return answer


# Heads ---------------------------------------------------------------------------------------------------------


def head_of(size, path="/public/x") -> bytes:
    bare = get(path, "localhost", "X-Fill: ")
    return get(path, "localhost", "X-Fill: " + "y" * (size - len(bare)))


def test_header_bytes(gateway):
    """4 KiB of head are served, one byte more is 431 and the end of the connection; so is a head that never ends."""
    with Wire(gateway.port) as wire:
        assert wire.send(head_of(4096)).response().status == 200
        problem(wire.send(head_of(4097)).response(), 431)
        wire.closes()
    with Wire(gateway.port) as wire:
        problem(wire.send(b"GET /public/" + b"a" * 100_000).response(), 431)
    with Wire(gateway.port) as wire:
        problem(wire.send(get("/public/x")[:-2], *[b"X-Fill: y\r\n"] * 5000).response(), 431)
    assert len(gateway.backend.requests()) == 1


def test_header_count(gateway):
    """20 fields are served, 21 are 431."""
    fields = [f"X-{i}: y" for i in range(20)]
    with Wire(gateway.port) as wire:
        assert wire.send(get("/public/x", "localhost", *fields[:19])).response().status == 200
        problem(wire.send(get("/public/x", "localhost", *fields)).response(), 431)
        wire.closes()
    assert len(gateway.backend.requests()) == 1


def drip(wire, data, stop):
    """Sends a byte every 50 ms until `stop`."""
    with contextlib.suppress(OSError):
        for byte in data:
            wire.socket.sendall(bytes([byte]))
            if stop.wait(0.05):
                return


@pytest.mark.parametrize("second", [False, True])
def test_threat_slow_headers(gateway, second):
    """A head has one deadline in all: bytes that keep dripping in do not put it off. 408, then closed. On a kept
    connection too."""
    stop = threading.Event()
    with Wire(gateway.port) as wire:
        if second:
            assert wire.send(get("/public/x")).response().status == 200
        dripping = threading.Thread(target=drip, args=(wire, head_of(4000), stop))
        dripping.start()
        try:
            problem(wire.response(), 408)
            wire.closes()
        finally:
            stop.set()
            dripping.join()


def test_a_head_that_stops_is_408(gateway):
    with Wire(gateway.port) as wire:
        problem(wire.send(b"GET /public/x HTTP/1.1\r\nHost: loc").response(), 408)
        wire.closes()


def test_idle_connections_are_closed(gateway):
    """A connection that never says anything, and one that has nothing more to say, are closed without an answer."""
    with Wire(gateway.port) as silent, Wire(gateway.port) as kept:
        assert kept.send(get("/public/x")).response().status == 200
        silent.closes()
        kept.closes()
    eventually(lambda: gateway.metric("portcullis_connections") == 0, what="no connection counted")


def test_threat_slow_clients_leave_room_for_others(gateway):
    """200 clients that send half a head: others are served meanwhile, and all of the slow ones are gone afterwards."""
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(Wire(gateway.port)).send(b"GET /public/x HTTP/1.1\r\nHost: a") for _ in range(200)]
        for _ in range(20):
            assert gateway.get("/public/x").status_code == 200
        assert [problem(wire.response(), 408).status for wire in slow] == [408] * 200
        for wire in slow:
            wire.closes()


# Bodies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path, limit", [("/public/x", 10_240), ("/small/x", 100), ("/none", 0), ("/large/x", 1_048_576)])
def test_body_with_a_length(gateway, path, limit):
    """A body of the limit passes; one byte more is 413 before any of it is read, and nothing goes upstream."""
    with Wire(gateway.port) as wire:
        assert wire.send(post(path, b"x" * limit)).response().status == 200
        problem(wire.send(get(path, "localhost", f"Content-Length: {limit + 1}", method="POST")).response(), 413, "body_too_large")
    assert [r["bodyBytes"] for r in gateway.backend.requests()] == [limit]


@pytest.mark.parametrize("path, limit", [("/public/x", 10_240), ("/small/x", 100), ("/none", 0), ("/large/x", 1_048_576)])
def test_body_in_chunks(gateway, path, limit):
    """The same without a length: the body is cut where the limit is, and the backend never sees it end."""
    pieces = [b"x" * 40_000] * (limit // 40_000) + [b"x" * (limit % 40_000)] * bool(limit % 40_000)
    with Wire(gateway.port) as wire:
        assert wire.send(chunked(path, *pieces)).response().status == 200
    with Wire(gateway.port) as wire:
        problem(wire.send(chunked(path, *pieces, b"y")).response(), 413, "body_too_large")
        wire.closes()
    assert [r["bodyBytes"] for r in gateway.backend.requests()] == [limit]


def test_a_chunked_body_without_end_is_413(gateway):
    """A client that never stops is stopped."""
    with Wire(gateway.port) as wire:
        head = get("/public/x", "localhost", "Transfer-Encoding: chunked", method="POST")
        wire.send(head, *[b"1000\r\n" + b"x" * 4096 + b"\r\n"] * 50)
        problem(wire.response(), 413)
    assert gateway.backend.requests() == []


def test_endpoint_bodies_are_bounded(gateway):
    """Endpoints take small JSON only, however it is sent."""
    body = json.dumps({"email": "a@example.com", "password": "x" * 100_000}).encode()
    for data in (post("/auth/login", body), chunked("/auth/login", body), post("/auth/login", body, "Expect: 100-continue")):
        with Wire(gateway.port) as wire:
            problem(wire.send(data).response(), 413)


@pytest.mark.parametrize("path", ["/public/x", "/auth/login"])
@pytest.mark.parametrize("data", [
    ("Content-Length: 50", b"x" * 49), ("Content-Length: 50", b""), ("Transfer-Encoding: chunked", b"5\r\nhel"), ("Transfer-Encoding: chunked", b"5\r\nhello\r\n"), ("Transfer-Encoding: chunked", b""),
])
def test_threat_slow_body(gateway, path, data):
    """A body that stops coming is 408 after body_timeout, and the connection ends."""
    field, body = data
    with Wire(gateway.port) as wire:
        problem(wire.send(get(path, "localhost", field, method="POST"), body).response(), 408)
        wire.closes()
    assert gateway.backend.requests() == []


def test_threat_slow_body_of_an_endpoint_has_one_deadline(gateway):
    """Dripping does not keep an endpoint waiting: it reads little, and only so long."""
    stop = threading.Event()
    with Wire(gateway.port) as wire:
        wire.send(get("/auth/login", "localhost", "Content-Length: 2000", method="POST"))
        dripping = threading.Thread(target=drip, args=(wire, b"x" * 2000, stop))
        dripping.start()
        try:
            problem(wire.response(), 408)
        finally:
            stop.set()
            dripping.join()


def test_threat_slow_readers(gateway):
    """Clients that ask for much and read nothing are given up: they hold a request and its backend for a bounded time,
    and others are served meanwhile."""
    with contextlib.ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(Wire(gateway.port)).send(get("/public/x?bytes=20000000"))
        for _ in range(10):
            assert gateway.get("/public/y").status_code == 200
        eventually(lambda: gateway.metric("portcullis_http_requests_in_flight") == 0, 20, "no request in flight")


# Rates ---------------------------------------------------------------------------------------------------------


def limited(answer):
    problem_body = answer.json()
    assert answer.status_code == 429 and problem_body["code"] == "rate_limited"
    assert answer.headers["content-type"] == "application/problem+json"
    assert 1 <= int(answer.headers["retry-after"]) <= 3600
    return True


def test_rate_limit_by_user(limiter):
    """Five an hour for each user, whatever address or token he comes with; nobody pays for another, and the backend sees
    what was let through only."""
    first, second = limiter.register(), limiter.register()
    again = limiter.login(first.email).json()["access_token"]
    limiter.backend.forget()
    answers = [limiter.get("/by-user", token, headers={"X-Forwarded-For": f"10.0.0.{i}"}) for i, token in enumerate([first.access, again] * 4)]
    assert [a.status_code for a in answers] == [200] * 5 + [429] * 3
    assert all(limited(a) for a in answers[5:])
    assert limiter.get("/by-user", second.access).status_code == 200
    assert len(limiter.backend.requests()) == 6


def test_rate_limit_is_not_asked_before_the_token(limiter):
    """A stranger cannot use up a user's share: without a good token it is 401, however often."""
    account = limiter.register()
    assert {limiter.get("/by-user", account.access[:-8] + "AAAAAAAA").status_code for _ in range(10)} == {401}
    assert limiter.get("/by-user", account.access).status_code == 200


def test_rate_limit_by_address(limiter):
    """Five an hour for each address, as trusted proxies tell it; an IPv6 client is its /64."""
    def ask(address):
        return limiter.get("/by-address", headers={"X-Forwarded-For": address}).status_code
    assert [ask("10.1.1.1") for _ in range(7)] == [200] * 5 + [429] * 2
    assert ask("10.1.1.2") == 200
    assert [ask("::ffff:10.1.1.1"), ask("evil, 10.1.1.1"), ask("10.9.9.9, 10.1.1.1")] == [429] * 3
    assert [ask(f"2001:db8:1:2::{i}") for i in range(1, 8)] == [200] * 5 + [429] * 2
    assert ask("2001:db8:1:3::1") == 200


def test_rate_limit_on_an_optional_route(limiter):
    """Callers with a token are counted as users, the others by address: apart."""
    account = limiter.register()
    strange = {"X-Forwarded-For": "10.2.2.2"}
    assert [limiter.get("/optional", headers=strange).status_code for _ in range(6)] == [200] * 5 + [429]
    assert [limiter.get("/optional", account.access, headers=strange).status_code for _ in range(6)] == [200] * 5 + [429]


def test_rate_limit_in_parallel(limiter):
    """Sixty requests at once get no more through than one after the other."""
    headers = {"X-Forwarded-For": "10.3.3.3"}
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        statuses = list(pool.map(lambda _: limiter.get("/by-address", headers=headers).status_code, range(60)))
    assert sorted(statuses) == [200] * 5 + [429] * 55


def test_rate_limit_memory_is_bounded(limiter):
    """Thousands of addresses leave the one that is over its limit where it was, and the gateway at its size."""
    pid = limiter.process.process.pid
    field = "X-Forwarded-For: 10.4.4.4"
    with Wire(limiter.port) as wire:
        ask = lambda f: wire.send(get("/by-address", "localhost", f)).response().status
        assert [ask(field) for _ in range(6)] == [200] * 5 + [429]
        for i in range(500):
            ask(f"X-Forwarded-For: 11.0.{i // 250}.{i % 250}")
        before = memory_of(pid)
        for i in range(4000):
            ask(f"X-Forwarded-For: 12.{i % 7}.{i // 250}.{i % 250}")
        assert ask(field) == 429
    assert memory_of(pid) - before < 20_000_000
