"""Uploads that break off, race, wait or lie about their length: a file is there whole or as it was before."""

import contextlib
import hashlib
import threading

import pytest

from filesites import body_of, refused, site, user  # noqa: F401
from raw_h2 import H2
from servers import in_parallel
from test_files_write import LARGE, WAYS, h2_fields
from wire import Closed, Wire, reset

EXPECT = {"Expect": "100-continue", "Connection": "close"}
BREAKS = {"head": 0.0, "half": 0.5, "last_byte": 1.0}


# Expect --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_b50_a_client_that_waits_is_told_to_go_on(site, user, way):
    path, folder, data = WAYS[way]
    with Wire(site.gateway.port) as wire:
        assert wire.send(body_of("PUT", path, len(data), user, **EXPECT)).response(interim=True).status == 100
        assert site.stored.keys(f"{folder}/{user.id}/") == []
        assert wire.send(data).response(interim=True).status == 201
    assert site.stored.get(f"{folder}/{user.id}/x") == data


def test_b50_a_client_that_does_not_wait_after_all(site, user):
    with Wire(site.gateway.port) as wire:
        answer = wire.send(body_of("PUT", "/files/x", 5, user, Expect="100-continue") + b"hello").response()
        assert answer.status == 201
        assert answer.get("connection") == "close" or wire.send(body_of("GET", "/files/x", 0, user)).response().body == b"hello"
    assert site.stored.get(f"{user.prefix}x") == b"hello"


def test_b50_a_client_that_waits_to_send_nothing(site, user):
    with Wire(site.gateway.port) as wire:
        assert wire.send(body_of("PUT", "/files/x", 0, user, **EXPECT)).response().status == 201
    assert site.stored.get(f"{user.prefix}x") == b""


UNACCEPTABLE = {
    "too_large": ("/small/x", {"Content-Length": 1001}, 413),
    "no_length": ("/files/x", {"Content-Length": None, "Transfer-Encoding": "chunked"}, 411),
    "no_type": ("/typed/x", {}, 415),
    "encoded": ("/files/x", {"Content-Encoding": "gzip"}, 415),
    "part": ("/files/x", {"Content-Range": "bytes 0-4/5"}, 400),
    "checksum": ("/files/x", {"x-amz-checksum-crc32": "x"}, 400),
    "condition": ("/files/x", {"If-None-Match": '"x"'}, 400),
    "name": ("/files/x/", {}, 400),
    "role": ("/team/x", {}, 403),
    "prefix": ("/files/x?prefix=users/y/", {}, 403),
    "token": ("/files/x", {"Authorization": "Bearer x"}, 401),
    "method": ("/read/x", {}, 405),
    "query": ("/files/x?prefix=a&prefix=b", {}, 400),
}


@pytest.mark.parametrize("name", UNACCEPTABLE)
def test_b50_what_is_refused_is_not_asked_for(site, user, name):
    """The first answer is the last: no 100 before it."""
    path, fields, status = UNACCEPTABLE[name]
    before = site.stored.keys()
    with Wire(site.gateway.port) as wire:
        answer = wire.send(body_of("PUT", path, 5, user, Expect="100-continue", **fields)).response(interim=True)
        assert answer.status == status, answer
    assert site.stored.keys() == before


# Uploads that break off ----------------------------------------------------------------------------------------


def part_of(data, at):
    return data[: min(int(len(data) * BREAKS[at]), len(data) - 1)]


@pytest.mark.parametrize("old", [None, b"what was there"], ids=["new", "replacing"])
@pytest.mark.parametrize("end", ["close", "half_close", "reset"])
@pytest.mark.parametrize("at", BREAKS)
@pytest.mark.parametrize("way", WAYS)
def test_an_upload_that_breaks_off_leaves_no_trace(site, user, way, at, end, old):
    path, folder, data = WAYS[way]
    path = f"{path}-{user.id}-{end}-{at}"
    key = f"{folder}/{user.id}/x-{user.id}-{end}-{at}"
    if old:
        site.stored.put(key, old)
    with Wire(site.gateway.port) as wire:
        wire.send(body_of("PUT", path, len(data), user), part_of(data, at))
        if end == "reset":
            reset(wire.socket)
        elif end == "half_close":
            assert [answer.status for answer in wire.half_close().responses()] in ([400], [])
    assert site.logged(path)[0]["status"] >= 400
    site.settled()
    assert site.unchanged(f"{folder}/{user.id}/") == ({key: old} if old else {})


@pytest.mark.parametrize("how", ["reset_stream", "close", "goaway"])
@pytest.mark.parametrize("at", BREAKS)
def test_an_upload_over_http2_that_breaks_off_leaves_no_trace(site, user, at, how):
    data = b"x" * 50_000
    path = f"/files/{user.id}-{at}-{how}"
    site.stored.put(f"{user.prefix}{user.id}-{at}-{how}", b"old")
    with H2(site) as client:
        pieces = [part_of(data, at)[i : i + 10_000] for i in range(0, len(part_of(data, at)), 10_000)]
        stream = client.send(h2_fields(path, user, content_length=str(len(data))), *pieces, end=False)
        # All of this has been read when a request behind it is answered.
        assert client.answer(client.send(h2_fields("/files/none", user, "GET")))[0] == 404
        if how == "reset_stream":
            client.connection.reset_stream(stream)
        elif how == "goaway":
            client.connection.close_connection()
        client.flush()
        if how == "reset_stream":
            assert client.answer(client.send(h2_fields("/files/none", user, "GET")))[0] == 404
    assert site.logged(path)[0]["status"] >= 400
    site.settled()
    assert site.unchanged(user.prefix) == {f"{user.prefix}{user.id}-{at}-{how}": b"old"}


def test_an_upload_over_http2_of_another_length(site, user):
    """RFC 9113 section 8.1.1: malformed."""
    site.stored.put(f"{user.prefix}x", b"old")
    for length, pieces in (("10", [b"hello"]), ("3", [b"hello"]), ("4", [b"hel", b"lo"]), ("0", [b"x"])):
        with H2(site) as client:
            status, _ = client.answer(client.send(h2_fields("/files/x", user, content_length=length), *pieces))
            assert status == 0 or 400 <= status < 500, (length, status)
    site.settled()
    assert site.unchanged(user.prefix) == {f"{user.prefix}x": b"old"}


@pytest.mark.parametrize("way", WAYS)
def test_an_upload_that_is_longer_than_it_says(site, user, way):
    """What comes after the announced bytes is the next request's beginning, and never stored."""
    path, folder, data = WAYS[way]
    with Wire(site.gateway.port) as wire:
        answers = wire.send(body_of("PUT", path, len(data), user) + data + b"and more\r\n\r\n").responses()
    assert [answer.status for answer in answers] == [201, 400]
    assert site.unchanged(f"{folder}/{user.id}/") == {f"{folder}/{user.id}/x": data}


def test_an_upload_that_stops_in_the_middle(site, user):
    """server.limits.body_timeout is 3 s here; the client keeps the connection and sends nothing."""
    site.stored.put(f"{user.prefix}x", b"old")
    with Wire(site.gateway.port) as wire:
        answer = wire.send(body_of("PUT", "/files/x", 100, user), b"hello").response()
        assert answer.status == 408 and answer.get("connection") == "close"
    site.settled()
    assert site.unchanged(user.prefix) == {f"{user.prefix}x": b"old"}


@pytest.mark.parametrize("way", WAYS)
def test_a_slow_upload(site, user, way):
    """Byte by byte at its ends; between two bytes others are served."""
    path, folder, data = WAYS[way]
    site.stored.put(f"{folder}/{user.id}/other", b"other")
    with Wire(site.gateway.port) as wire:
        wire.send(body_of("PUT", path, len(data), user))
        for byte in data[:5]:
            wire.send(bytes([byte]))
            assert site.get(path.replace("x", "other"), user).content == b"other"
        wire.send(data[5:-5])
        for byte in data[-5:]:
            assert site.get(path, user).status_code == 404
            wire.send(bytes([byte]))
        assert wire.response().status == 201
    assert site.stored.get(f"{folder}/{user.id}/x") == data


# Several at once -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way, clients", [("whole", 20), ("parts", 6)])
def test_one_of_many_stores_what_was_not_there(site, user, way, clients):
    path, folder, data = WAYS[way]
    contents = [b"%02d" % n + data for n in range(clients)]
    answers = in_parallel(lambda data: site.put(path, data, user, If_None_Match="*"), contents)
    assert sorted(answer.status_code for answer in answers) == [201] + [412] * (clients - 1)
    winner = next(data for data, answer in zip(contents, answers) if answer.status_code == 201)
    assert site.unchanged(f"{folder}/{user.id}/") == {f"{folder}/{user.id}/x": winner}
    site.settled()


def test_one_of_many_replaces_what_it_saw(site, user):
    """A lost update would be two 201 for one tag."""
    seen = site.put("/files/x", b"first", user).headers["etag"]
    contents = [b"%02d" % n for n in range(20)]
    answers = in_parallel(lambda data: site.put("/files/x", data, user, If_Match=seen), contents)
    winners = [data for data, answer in zip(contents, answers) if answer.status_code == 201]
    assert {answer.status_code for answer in answers} == {201, 412}
    assert len(winners) == 1 and site.stored.get(f"{user.prefix}x") == winners[0]


def test_many_upload_side_by_side(site, user):
    names = [f"n{n}" for n in range(30)]
    content = {name: hashlib.sha256(name.encode()).digest() * 3000 for name in names}
    answers = in_parallel(lambda name: site.put(f"/files/{name}", content[name], user), names)
    assert {answer.status_code for answer in answers} == {201}
    assert site.unchanged(user.prefix) == {f"{user.prefix}{name}": data for name, data in content.items()}


def test_reading_while_it_is_replaced(site, user):
    """Every read gives one of the versions, whole, with that version's tag."""
    versions = [bytes([65 + n]) * (150_000 + 1000 * n) for n in range(4)]
    tags = {}

    def write(data):
        for _ in range(10):
            tags[site.put("/files/x", data, user).headers["etag"]] = data

    write(versions[0])
    done, reads = threading.Event(), []

    def read(_):
        with site.client() as client:
            while not done.is_set():
                answer = client.get("/files/x", headers={"Authorization": f"Bearer {user.access}"})
                assert answer.status_code == 200 and answer.content in versions
                reads.append((answer.headers["etag"], answer.content[:1]))

    def writers(_):
        try:
            in_parallel(write, versions)
        finally:
            done.set()

    in_parallel(lambda work: work(None), [writers, read, read])
    # versitygw reads the tag beside the file, now and then another version's.
    assert len(reads) > 5 and (site.stored.server == "versitygw" or all(tags[tag][:1] == first for tag, first in reads))
    assert site.stored.get(f"{user.prefix}x") in versions


@pytest.mark.parametrize("replaced", [True, False], ids=["replaced", "deleted"])
def test_a_download_goes_on_with_what_it_began(site, user, replaced):
    """The first bytes come, the file is replaced, and the rest is the same version's; or the connection breaks off: never a mixture."""
    old = b"o" * 20_000_000
    site.stored.put(f"{user.prefix}x", old)
    with Wire(site.gateway.port) as wire:
        wire.send(body_of("GET", "/files/x", 0, user))
        assert wire.head().status == 200
        first = wire.take(100)
        assert (site.put("/files/x", b"n" * 20_000_000, user) if replaced else site.delete("/files/x", user)).status_code in (201, 204)
        with contextlib.suppress(Closed):
            first += wire.take(len(old) - 100)
    assert set(first) == {ord("o")} and len(first) in (100, len(old))


def test_uploads_and_deletions_in_any_order(site, user):
    """What is left at the end is whole."""
    if site.stored.server == "versitygw":
        # Which answers 409 if the folder that a file goes to is removed, for being empty, in that moment.
        site.stored.put(f"{user.prefix}deep/er/other", b"")
    contents = [b"%d" % n * 40_000 for n in range(5)]

    def work(n):
        for turn in range(4):
            if (n + turn) % 2:
                assert site.put("/files/deep/er/x", contents[n], user).status_code == 201
            else:
                assert site.delete("/files/deep/er/x", user).status_code == 204

    in_parallel(work, list(range(5)))
    assert site.stored.get(f"{user.prefix}deep/er/x") in [None, *contents]
    assert site.put("/files/deep/er/x", b"last", user).status_code == 201 and site.stored.get(f"{user.prefix}deep/er/x") == b"last"
