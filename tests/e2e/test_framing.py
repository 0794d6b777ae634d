"""Where a request ends: one request of a client is one request to a backend, whatever its bytes (RFC 9112, request smuggling)."""

import concurrent.futures
import json
import random
import re
import threading
import time

import pytest

from conftest import eventually

from framing_site import HIDDEN, SENTINEL, everything, exchange_open, in_turn, request_lines, site  # noqa: F401
from wire import Wire, chunked, exchange, get, post

HEAD = "POST /public/victim HTTP/1.1\r\nHost: localhost\r\n"
CHUNKS = "0\r\n\r\n"

REFUSED_FIELDS = {
    "b40_cl_te": "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "b40_te_cl": "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    "b40_cl_zero_te": "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
    "b40_cl_te_identity": "Content-Length: 5\r\nTransfer-Encoding: identity\r\n",
    "b41_cl_twice": "Content-Length: 5\r\nContent-Length: 6\r\n",
    "b41_cl_twice_alike": "Content-Length: 5\r\nContent-Length: 5\r\n",
    "b41_cl_list": "Content-Length: 5, 6\r\n",
    "b41_cl_list_alike": "Content-Length: 5, 5\r\n",
    "b41_cl_plus": "Content-Length: +5\r\n",
    "b41_cl_minus": "Content-Length: -5\r\n",
    "b41_cl_minus_zero": "Content-Length: -0\r\n",
    "b41_cl_empty": "Content-Length:\r\n",
    "b41_cl_blank": "Content-Length: \t \r\n",
    "b41_cl_hex": "Content-Length: 0x5\r\n",
    "b41_cl_octal": "Content-Length: 010\r\n",
    "b41_cl_fraction": "Content-Length: 5.0\r\n",
    "b41_cl_exponent": "Content-Length: 1e1\r\n",
    "b41_cl_words": "Content-Length: 5 5\r\n",
    "b41_cl_underscored": "Content-Length: 1_0\r\n",
    "b41_cl_huge": "Content-Length: 18446744073709551621\r\n",
    "b41_cl_quoted": 'Content-Length: "5"\r\n',
    "b41_cl_alias": "Content_Length: 5\r\n",
    "b42_te_te": "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n",
    "b42_te_twice": "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "b42_te_not_last": "Transfer-Encoding: chunked, identity\r\n",
    "b42_te_chunked_chunked": "Transfer-Encoding: chunked, chunked\r\n",
    "b42_te_xchunked": "Transfer-Encoding: xchunked\r\n",
    "b42_te_quoted": 'Transfer-Encoding: "chunked"\r\n',
    "b42_te_parameter": "Transfer-Encoding: chunked;x=1\r\n",
    "b42_te_comma": "Transfer-Encoding: ,chunked\r\n",
    "b42_te_empty": "Transfer-Encoding:\r\n",
    "b42_te_vertical_tab": "Transfer-Encoding: \x0bchunked\r\n",
    "b42_te_form_feed": "Transfer-Encoding: chunked\x0c\r\n",
    "b42_te_nbsp": "Transfer-Encoding: \xa0chunked\r\n",
    "b42_te_alias": "Transfer_Encoding: chunked\r\n",
    "b42_te_dot_alias": "Transfer.Encoding: chunked\r\n",
    "b42_te_hop": "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n",
    "b38_cl_hop": "Connection: close, content-length\r\nContent-Length: 5\r\n",
    "b38_host_hop": "Connection: host\r\nContent-Length: 5\r\n",
    "b43_space_before_colon": "Transfer-Encoding : chunked\r\n",
    "b43_tab_before_colon": "Transfer-Encoding\t: chunked\r\n",
    "b43_space_before_name": " Transfer-Encoding: chunked\r\n",
    "b43_obs_fold": "X: y\r\n Transfer-Encoding: chunked\r\n",
    "b43_obs_fold_value": "Transfer-Encoding:\r\n\tchunked\r\n",
    "b43_bare_lf": "X: y\nTransfer-Encoding: chunked\r\n",
    "b43_bare_lf_end": "X: y\n\nGET /api/smuggled HTTP/1.1\r\n",
    "b43_bare_cr": "X: y\rTransfer-Encoding: chunked\r\n",
    "b43_bare_cr_name": "X\rTransfer-Encoding: chunked\r\n",
    "b43_cr_cr_lf": "X: y\r\r\n",
    "b43_nul_value": "X: a\0b\r\n",
    "b43_nul_name": "X\0: b\r\n",
    "b43_nul_te": "Transfer-Encoding: chunked\0\r\n",
    "b43_escape": "X: \x1b[31m\r\n",
    "b43_del": "X: \x7f\r\n",
    "b43_no_colon": "Transfer-Encoding chunked\r\n",
    "b43_no_name": ": chunked\r\n",
    "b43_name_with_bracket": "X(: y\r\n",
    "b43_name_not_ascii": "X\xe9: y\r\n",
    "b39_second_host": "Host: localhost\r\n",
}


@pytest.mark.parametrize("body", [b"", b"hello" + HIDDEN, b"0\r\n\r\n" + HIDDEN], ids=["empty", "length", "chunked"])
@pytest.mark.parametrize("name", REFUSED_FIELDS)
def test_refused_field(site, name, body):
    """A head that two parsers may read differently is answered 400, nothing of it goes upstream, and the connection
    ends there: what follows is never read as a request."""
    head = (HEAD + REFUSED_FIELDS[name] + "\r\n").encode("latin-1")
    answers = exchange(site.port, head + body + SENTINEL)
    assert [a.status for a in answers] == [400]
    assert answers[0].get("connection") == "close" and answers[0].get("content-type") == "application/problem+json"
    assert site.seen() == []


REQUEST_LINES = {
    "b43_lf_line": (b"GET /public/x HTTP/1.1\nHost: localhost\n\n", {400}),
    "b43_lf_after_line": (b"GET /public/x HTTP/1.1\nHost: localhost\r\n\r\n", {400}),
    "b43_cr_line": (b"GET /public/x HTTP/1.1\rHost: localhost\r\n\r\n", {400}),
    "two_spaces": (b"GET  /public/x HTTP/1.1\r\nHost: localhost\r\n\r\n", {400}),
    "space_at_end": (b"GET /public/x HTTP/1.1 \r\nHost: localhost\r\n\r\n", {400}),
    "space_in_target": (b"GET /public/x y HTTP/1.1\r\nHost: localhost\r\n\r\n", {400}),
    "tabs": (b"GET\t/public/x\tHTTP/1.1\r\nHost: localhost\r\n\r\n", {400}),
    "no_version": (b"GET /public/x\r\nHost: localhost\r\n\r\n", {400}),
    "small_http": (b"GET /public/x http/1.1\r\nHost: localhost\r\n\r\n", {400}),
    "version_1_2": (b"GET /public/x HTTP/1.2\r\nHost: localhost\r\n\r\n", {400, 505}),
    "version_2_0": (b"GET /public/x HTTP/2.0\r\nHost: localhost\r\n\r\n", {400, 505}),
    "version_0_9": (b"GET /public/x HTTP/0.9\r\nHost: localhost\r\n\r\n", {400, 505}),
    "http_0_9": (b"GET /public/x\r\n\r\n", {400}),
    "h2_preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 505}),
    "method_space": (b" GET /public/x HTTP/1.1\r\nHost: localhost\r\n\r\n", {400}),
    "method_odd": (b"GE(T /public/x HTTP/1.1\r\nHost: localhost\r\n\r\n", {400}),
    "tls_hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", {400}),
    "b42_te_http_1_0": (b"POST /public/x HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400}),
    "b42_te_gzip": (b"POST /public/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", {400, 501}),
    "b50_connect": (b"CONNECT localhost:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", {405}),
    "b50_connect_path": (b"CONNECT /public/x HTTP/1.1\r\nHost: localhost\r\n\r\n", {400, 405}),
    "b50_trace": (b"TRACE /public/x HTTP/1.1\r\nHost: localhost\r\n\r\n", {405}),
}


@pytest.mark.parametrize("name", REQUEST_LINES)
def test_refused_request_line(site, name):
    """Refused, closed, and nothing upstream; CONNECT and TRACE get 405."""
    data, statuses = REQUEST_LINES[name]
    answers = exchange(site.port, data + HIDDEN + SENTINEL)
    assert len(answers) == 1 and answers[0].status in statuses, answers
    assert site.seen() == []


BAD_CHUNKS = {
    "hex_prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "plus": b"+5\r\nhello\r\n0\r\n\r\n",
    "minus": b"-5\r\nhello\r\n0\r\n\r\n",
    "empty_size": b"\r\nhello\r\n0\r\n\r\n",
    "not_hex": b"g\r\nhello\r\n0\r\n\r\n",
    "space_before": b" 5\r\nhello\r\n0\r\n\r\n",
    "underscore": b"1_0\r\nhello\r\n0\r\n\r\n",
    "too_large": b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "wraps_around": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "size_lf": b"5\nhello\r\n0\r\n\r\n",
    "size_cr": b"5\rhello\r\n0\r\n\r\n",
    "data_too_long": b"5\r\nhelloXX\r\n0\r\n\r\n",
    "data_lf": b"5\r\nhello\n0\r\n\r\n",
    "data_no_end": b"5\r\nhello0\r\n\r\n",
    "extension_lf": b"5;a\nhello\r\n0\r\n\r\n",
    "extension_bare_cr": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "last_lf": b"5\r\nhello\r\n0\n\n",
    "trailer_lf": b"5\r\nhello\r\n0\r\nX: y\n\n",
    "comma": b"5,5\r\nhello\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("prefix", ["/public", "/raw"])
@pytest.mark.parametrize("name", BAD_CHUNKS)
def test_bad_chunk(site, name, prefix):
    """A chunked body that is not as RFC 9112 section 7.1 has it ends the connection: what follows it in the stream is
    neither answered nor seen by a backend as a request, and no backend gets a body that ends well."""
    data = get(f"{prefix}/victim", "localhost", "Transfer-Encoding: chunked", method="POST") + BAD_CHUNKS[name]
    answers = exchange_open(site.port, data + HIDDEN + SENTINEL)
    # The raw backend answers before it has the body; then a connection that is cut is all one can ask for.
    statuses = [a.status for a in answers]
    assert statuses in ([], [400], [408], [502]) if prefix == "/public" else len(statuses) <= 1, statuses
    assert site.seen() == []
    assert [line for line in request_lines(site.raw) if b"victim" not in line] == []
    assert b"smuggled" not in site.raw.bytes()


def test_chunked_bodies_arrive_as_sent(site):
    """Extensions, odd sizes, upper and lower case hex, leading zeros: one body, re-framed; trailers are no headers."""
    for body in [
        b"5\r\nhello\r\n0\r\n\r\n", b"5;a=b\r\nhello\r\n0\r\n\r\n", b'5;a="b;c"\r\nhello\r\n0;z\r\n\r\n', b"0005\r\nhello\r\n00\r\n\r\n",
        b"1\r\nh\r\n4\r\nello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\nX-User-Id: evil\r\n\r\n",
    ]:
        head = get("/public/chunks", "localhost", "Transfer-Encoding: chunked", method="POST")
        answers = in_turn(site.port, head + body, SENTINEL)
        assert [a.status for a in answers] == [200, 200], body
    seen = [r for r in site.node.requests() if r["url"] == "/public/chunks"]
    assert [r["body"] for r in seen] == ["hello"] * 6
    assert not any(name.lower() == "x-user-id" for r in seen for name in r["rawHeaders"] + r["rawTrailers"])


@pytest.mark.parametrize("extension", [b";a=b", b";a\0b", b";" + b"x" * 300, b';a="\\"; GET /api/smuggled HTTP/1.1"'])
def test_chunk_extensions_end_here(site, extension):
    """An extension is about one connection (RFC 9112 section 7.1.1): no backend sees it, whatever is in it."""
    head = get("/raw/victim", "localhost", "Transfer-Encoding: chunked", method="POST")
    with Wire(site.port) as wire:
        wire.send(head + b"5" + extension + b"\r\nhello\r\n0\r\n\r\n").response()
    assert extension not in site.raw.bytes() and b"smuggled" not in site.raw.bytes()
    assert len(request_lines(site.raw)) <= 1


def test_threat_smuggling_hidden_request_is_a_body(site):
    """A whole request inside a well-framed body stays a body; exactly one request a client request."""
    hidden = HIDDEN + get("/public/smuggled")
    data = post("/public/a", hidden), chunked("/public/b", hidden), chunked("/public/c", *[bytes([b]) for b in hidden]), SENTINEL
    assert [a.status for a in in_turn(site.port, *data)] == [200] * 4
    seen = site.node.requests()
    assert [r["url"] for r in seen] == ["/public/a", "/public/b", "/public/c", "/public/sentinel"]
    assert [r["body"] for r in seen[:3]] == [hidden.decode()] * 3


def test_threat_smuggling_raw_backend_gets_one_head_each(site):
    """The same for a backend that shows its raw bytes: one length, in one way, and as many heads as requests."""
    in_turn(site.port, get("/raw/a"), post("/raw/b", b"12345"), chunked("/raw/c", b"12345"))
    lines = request_lines(site.raw)
    assert lines == [b"GET /raw/a HTTP/1.1\r", b"POST /raw/b HTTP/1.1\r", b"POST /raw/c HTTP/1.1\r"]
    for head in re.findall(rb"(?s)[A-Z]+ /raw/.*?\r\n\r\n", site.raw.bytes()):
        framing = re.findall(rb"(?i)\r\n(content-length|transfer-encoding):", head)
        assert len(framing) == (0 if head.startswith(b"GET") else 1), head


TRIO = [post("/public/x", b"hello"), chunked("/public/y", b"hello", b"world"), SENTINEL]
TRIO_SEEN = [("/public/x", "hello"), ("/public/y", "helloworld"), ("/public/sentinel", "")]


@pytest.mark.parametrize("name", ["byte by byte", "in the end of the head", "head and body", "blank line before"])
def test_requests_however_they_are_cut(site, name):
    """Where TCP cuts the stream has no meaning."""
    cut = {
        "byte by byte": lambda r: [bytes([b]) for b in r], "in the end of the head": lambda r: re.split(rb"(?<=\r\n\r)", r),
        "head and body": lambda r: re.split(rb"(?<=\r\n\r\n)", r), "blank line before": lambda r: [b"\r\n" + r],
    }[name]
    with Wire(site.port) as wire:
        assert [wire.send(*cut(request)).response().status for request in TRIO] == [200] * 3
    assert [(r["url"], r["body"]) for r in site.node.requests()] == TRIO_SEEN


def test_two_requests_in_one_packet(site):
    """Pipelined requests are answered in order (RFC 9112 section 9.3.2), as nginx and Envoy do."""
    assert [a.status for a in exchange_open(site.port, b"".join(TRIO))] == [200] * 3
    assert [(r["url"], r["body"]) for r in site.node.requests()] == TRIO_SEEN


def test_a_request_that_comes_while_another_runs(site):
    """The next request on a connection does no harm to the one that runs: a backend that has done its work is not
    answered for with 400."""
    with Wire(site.port) as wire:
        wire.send(get("/public/slow?delay=300"))
        site.gateway_busy()
        answers = wire.send(SENTINEL).responses()
    assert answers and answers[0].status == 200, answers
    assert [a.status for a in answers] == [200, 200]
    assert site.seen() == ["/public/slow?delay=300", "/public/sentinel"]


def test_a_connection_is_not_closed_behind_a_promise_to_keep_it(site):
    """A server that will not answer what follows says `Connection: close` (RFC 9112 section 9.6)."""
    answers = exchange_open(site.port, get("/fixed") + SENTINEL)
    assert answers[0].status == 200
    assert len(answers) == 2 or answers[0].get("connection") == "close"


def test_pipelined_requests_keep_their_own_credentials(site):
    """The second request in a packet is judged by itself: a refused one between two good ones, in order."""
    bearer = f"Authorization: Bearer {site.gateway.register().access}"
    data = get("/api/1", "localhost", bearer) + get("/api/2") + get("/api/3", "localhost", bearer, "Connection: close")
    assert [a.status for a in exchange_open(site.port, data)] == [200, 401, 200]
    assert site.seen() == ["/api/1", "/api/3"]


def mutated(rng):
    """A well-framed request with another one in its body, and a few bytes of its framing replaced, inserted or deleted."""
    coding = rng.choice(["Content-Length: %d" % len(HIDDEN), "Transfer-Encoding: chunked"])
    head = get("/public/victim", "localhost", coding, "X: y", "Connection: close", method="POST")
    body = HIDDEN if coding.startswith("C") else b"%x\r\n%s\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)
    data, reach = bytearray(head + body), len(head) + 6
    for _ in range(rng.randint(1, 3)):
        at, byte = rng.randrange(20, reach), rng.choice(b"\r\n\t :;,\0\x0b0159a-+_.\xff\"")
        kind = rng.randrange(4)
        if kind == 0:
            data[at] = byte
        elif kind == 1:
            data.insert(at, byte)
        elif kind == 2:
            del data[at]
        else:
            data[at:at] = rng.choice([b"\r\n", b"\n", b"\r\nTransfer-Encoding: chunked", b"\r\nContent-Length: 0", b"\r\n\r\n", b"\r\n ", b"0\r\n\r\n"])
    return bytes(data)


def test_pipelined_bodies_stay_apart(site):
    """Bodies of both kinds one behind the other, cut anywhere: each request has its own, and nobody else's."""
    data = post("/public/a", HIDDEN) + chunked("/public/b", b"x", HIDDEN) + post("/public/c", b"") + chunked("/public/d") + SENTINEL
    pieces = {
        "one packet": [data], "behind the first head": re.split(rb"(?<=\r\n\r\n)", data, maxsplit=1), "halves": [data[: len(data) // 2], data[len(data) // 2 :]],
        "sevens": [data[i : i + 7] for i in range(0, len(data), 7)],
    }
    for name, cut in pieces.items():
        site.node.forget()
        with Wire(site.port) as wire:
            assert [a.status for a in wire.send(*cut).responses()] == [200] * 5, name
        hidden = HIDDEN.decode()
        wanted = [("/public/a", hidden), ("/public/b", "x" + hidden), ("/public/c", ""), ("/public/d", ""), ("/public/sentinel", "")]
        assert [(r["url"], r["body"]) for r in site.node.requests()] == wanted, name


def test_many_requests_in_one_packet(site):
    """More than is kept ahead while one request runs (header_bytes): the rest waits in the socket, and nothing is lost."""
    count = 3000
    data = b"".join(get(f"/fixed?{i}") for i in range(count)) + get("/public/slow?delay=50") * 2 + get("/fixed") * count + SENTINEL
    with Wire(site.port) as wire:
        sender = threading.Thread(target=wire.send, args=(data,))
        sender.start()
        answers = wire.responses()
        sender.join()
    assert [a.status for a in answers] == [200] * (2 * count + 3)
    assert site.seen() == ["/public/slow?delay=50"] * 2 + ["/public/sentinel"]


def test_a_half_sent_request_waits_for_its_rest(site):
    """The beginning of a head behind another request is kept, and its end may come after the answer."""
    for cut in (1, 10, len(SENTINEL) - 2, len(SENTINEL) - 1):
        with Wire(site.port) as wire:
            assert wire.send(get("/public/first") + SENTINEL[:cut]).response().status == 200
            assert wire.send(SENTINEL[cut:]).response().status == 200
    assert site.seen() == ["/public/first", "/public/sentinel"] * 4


def test_a_half_sent_request_is_not_waited_for_forever(site):
    """Bytes of a head that came early are under the deadline of heads, not the longer one of idle connections."""
    with Wire(site.port) as wire:
        answers = wire.send(get("/fixed") + b"GET /public/x HT").responses()
    assert [a.status for a in answers] == [200, 408]


@pytest.mark.parametrize("refused", [b"GET /public/x HTTP/1.1\r\n\r\n", b"\0", chunked("/public/x")[:-5] + b"X\r\n"], ids=["head", "byte", "chunk"])
def test_a_malformed_request_behind_a_good_one(site, refused):
    """The good one is answered; the malformed one is, too, with the close of the connection."""
    answers = exchange_open(site.port, get("/public/slow?delay=50") + refused + b"\r\n\r\n" + HIDDEN + SENTINEL)
    assert [a.status for a in answers] == [200, 400]
    assert answers[1].get("connection") == "close"
    assert site.seen() == ["/public/slow?delay=50"]


def test_a_slow_chunked_body(site):
    """A body in which every byte comes by itself, longer on its way than the gateway waits for any one read."""
    request = chunked("/public/slow-body", b"hello", b"world", trailer=b"X-Trailer: y\r\n")
    head = request.index(b"\r\n\r\n") + 4
    with Wire(site.port) as wire:
        wire.send(request[:head])
        for byte in request[head:]:
            time.sleep(0.03)
            wire.send(bytes([byte]))
        assert wire.response().status == 200
        assert wire.send(SENTINEL).response().status == 200
    assert [(r["url"], r["body"]) for r in site.node.requests()] == [("/public/slow-body", "helloworld"), ("/public/sentinel", "")]


@pytest.mark.parametrize("name", ["X-User-Id", "x_user_id", "X-User-Email", "Authorization", "Content-Length", "Transfer-Encoding", "Host"])
def test_trailers_are_no_fields(site, name):
    """Identity, credentials and framing in a trailer are those of nobody and nothing (RFC 9110 section 6.5.1)."""
    for path, body in (("/public/trailers", HIDDEN), ("/raw/trailers", b"x")):
        data = chunked(path, body, trailer=f"{name}: 1\r\n".encode(), fields=["Trailer: " + name, "TE: trailers"])
        with Wire(site.port) as wire:
            assert wire.send(data).response().status == 200
    (seen,) = site.node.requests()
    assert seen["body"] == HIDDEN.decode() and seen["rawTrailers"] == []
    assert "1" not in seen["rawHeaders"]
    eventually(lambda: b"0\r\n\r\n" in site.raw.bytes(), what="the end of the body")
    assert f"{name}: 1".lower().encode() not in site.raw.bytes().lower()


BAD_TRAILERS = {
    "no_colon": b"X\r\n", "space": b"X : y\r\n", "folded": b"X: y\r\n z\r\n", "nul": b"X: \0\r\n", "bare_cr": b"X: a\rb\r\n",
    "no_name": b": y\r\n", "request": b"GET /api/smuggled HTTP/1.1\r\nHost: localhost\r\n", "too_long": b"X: " + b"y" * 9000 + b"\r\n",
}


@pytest.mark.parametrize("later", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("name", [*BAD_CHUNKS, *BAD_TRAILERS])
def test_a_malformed_body_is_answered(site, name, later):
    """400 as problem+json with the close of the connection, whether the bytes come with the head or while the request
    is on its way to the backend."""
    body = BAD_CHUNKS[name] if name in BAD_CHUNKS else b"5\r\nhello\r\n0\r\n" + BAD_TRAILERS[name] + b"\r\n"
    head = get("/public/victim", "localhost", "Transfer-Encoding: chunked", method="POST")
    with Wire(site.port) as wire:
        if later:
            wire.send(head)
            site.gateway_busy()
            wire.send(body + HIDDEN + SENTINEL)
        else:
            wire.send(head + body + HIDDEN + SENTINEL)
        answers = wire.responses()
    assert [a.status for a in answers] == [400]
    assert answers[0].get("connection") == "close" and answers[0].get("content-type") == "application/problem+json"
    assert json.loads(answers[0].body)["code"] == "malformed_body"
    assert site.seen() == []


@pytest.mark.parametrize("path", ["/api/x", "/nowhere", "/fixed", "/auth/login"])
def test_a_malformed_body_nobody_wants(site, path):
    """A request that is answered without its body, or by the gateway itself, ends the connection likewise."""
    head = get(path, "localhost", "Transfer-Encoding: chunked", "Content-Type: application/json", method="POST")
    with Wire(site.port) as wire:
        wire.send(head)
        time.sleep(0.1)
        answers = wire.send(b"5\r\nhello\r\n\r\n" + HIDDEN + SENTINEL).responses()
    assert len(answers) == 1 and answers[0].get("connection") == "close", answers
    assert site.seen() == []


SIZES = {"small": 200, "medium": 60_000, "large": 1_000_000}
# Refused before anybody reads the body: the target, and how it is refused.
REFUSALS = {
    "401": ("/api/x", 401), "404": ("/nowhere", 404), "405": ("/.well-known/jwks.json", 405), "400": ("/public/%2e%2e/x", 400), "413": ("/small/x", 413), "fixed": ("/fixed", 200),
}


def test_threat_smuggling_mutated_requests(site):
    """Six hundred damaged requests: whatever the gateway makes of them, the backend never sees the request in the body,
    which without a token could come from nowhere but a body read as a request."""
    rng = random.Random(2616)

    def attempt(data):
        with Wire(site.port) as wire:
            return wire.send(data).responses()
    attacks = [mutated(rng) for _ in range(600)]
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        statuses = [a.status for answers in pool.map(attempt, attacks) for a in answers]
    assert set(statuses) <= {200, 400, 401, 404, 408, 413, 431, 501, 505}, set(statuses)
    assert statuses.count(200) > 20 and statuses.count(400) > 100
    assert not [r for r in site.node.requests() if "smuggled" in r["url"]]
