"""Bodies nobody reads, or that never end: where the next request of the connection begins all the same."""

import pytest

from framing_site import HIDDEN, SENTINEL, everything, in_turn, site  # noqa: F401
from wire import Wire, chunked, get, post

SIZES = {"small": 200, "medium": 60_000, "large": 1_000_000}
# Refused before anybody reads the body: the target, and how it is refused.
REFUSALS = {
    "401": ("/api/x", 401), "404": ("/nowhere", 404), "405": ("/.well-known/jwks.json", 405), "400": ("/public/%2e%2e/x", 400), "413": ("/small/x", 413), "fixed": ("/fixed", 200),
}


def hiding(size) -> bytes:
    return HIDDEN * (size // len(HIDDEN) + 1)


@pytest.mark.parametrize("coding", ["length", "chunked", "one_chunk_each", "expect"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("refusal", REFUSALS)
def test_threat_smuggling_unread_body(site, refusal, size, coding):
    """The body of a request that is answered unread is full of requests. None of them is one: after the answer comes
    the next request's, or the end of the connection."""
    (path, status), body = REFUSALS[refusal], hiding(SIZES[size])
    request = {
        "length": lambda: post(path, body),
        "chunked": lambda: chunked(path, body),
        "one_chunk_each": lambda: chunked(path, *[HIDDEN] * (len(body) // len(HIDDEN))),
        # A client that does not wait for 100 (RFC 9110 section 10.1.1 lets it).
        "expect": lambda: post(path, body, "Expect: 100-continue"),
    }[coding]()
    with Wire(site.port) as wire:
        answers = [wire.send(request).response()]
        wire.send(SENTINEL)
        answers += wire.responses()
    assert [a.status for a in answers] in ([status], [status, 200]), [a.status for a in answers]
    assert len(answers) == 2 or answers[0].get("connection") == "close"
    assert set(site.seen()) <= {"/public/sentinel"}


def test_threat_smuggling_small_unread_body_keeps_the_connection(site):
    """A small body is worth reading: the 401 must not cost the client its connection."""
    for body in (b"", b"x" * 100, hiding(1000)):
        answers = in_turn(site.port, post("/api/x", body), chunked("/api/y", body or b"z"), SENTINEL)
        assert [a.status for a in answers] == [401, 401, 200]


@pytest.mark.parametrize("path, status", [("/api/x", 401), ("/nowhere", 404), ("/fixed", 200)])
def test_expect_is_not_answered_with_100_before_a_refusal(site, path, status):
    """RFC 9110 section 10.1.1: a client that waits gets the final status, not 100, and may then keep its body. What it
    sends next is either that body or a new request, so the connection ends."""
    with Wire(site.port) as wire:
        head = get(path, "localhost", "Expect: 100-continue", f"Content-Length: {len(HIDDEN)}", method="POST")
        first = wire.send(head).response(interim=True)
        assert first.status == status
        wire.send(HIDDEN, SENTINEL)
        assert [a.status for a in wire.responses()] in ([], [200])
    assert set(site.seen()) <= {"/public/sentinel"}


def test_b50_expect_is_answered_on_the_way_to_a_backend(site):
    """A client that waits for 100 is told to go on, and its body arrives once."""
    with Wire(site.port) as wire:
        head = get("/public/expect", "localhost", "Expect: 100-continue", "Content-Length: 5", method="POST")
        assert wire.send(head).response(interim=True).status == 100
        answer = wire.send(b"hello").response()
        assert answer.status == 200
        assert answer.get("connection") == "close" or wire.send(SENTINEL).response().status == 200
    assert [(r["url"], r["body"]) for r in site.node.requests()][:1] == [("/public/expect", "hello")]


def test_threat_smuggling_body_that_never_ends(site):
    """A body cut short by the client is no request to the backend, and what was sent of it is not read as one."""
    with Wire(site.port) as wire:
        data = get("/public/x", "localhost", f"Content-Length: {len(HIDDEN) + 1}", method="POST") + HIDDEN
        assert [a.status for a in wire.send(data).responses()] == [408]
    assert site.seen() == []


def test_rate_limited_request_with_a_body(site):
    """429 reads or closes like the other refusals."""
    with Wire(site.port) as wire:
        answers = [wire.send(post("/limited", hiding(300))).response() for _ in range(2)]
        assert [a.status for a in answers] == [200, 429]
        assert wire.send(SENTINEL).response().status == 200
    assert site.seen() == ["/limited", "/public/sentinel"]
