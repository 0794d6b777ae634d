"""Parts of files, and files only under conditions (RFC 9110 sections 13 and 14), compared with what Python makes of the same bytes."""

import datetime
import email.utils
import random
import time

import pytest

from conftest import eventually
from filesites import body_of, refused, site, user  # noqa: F401
from raw_h2 import H2
from test_files_write import h2_fields
from wire import Wire

SIZE = 1000
CONTENT = random.Random(1).randbytes(SIZE)


@pytest.fixture(scope="module")
def owner(site):
    """A user with a file, whose tag and date are known, and which is older than a few seconds."""
    account = site.user()
    site.stored.put(f"{account.prefix}x", CONTENT, "text/plain")
    site.stored.put(f"{account.prefix}empty", b"", "text/plain")
    answer = site.get("/files/x", account)
    account.tag, account.date = answer.headers["etag"], answer.headers["last-modified"]
    account.time = email.utils.parsedate_to_datetime(account.date)
    # So that two seconds later is not in the future, where servers do as they like.
    eventually(lambda: time.time() > account.time.timestamp() + 3, 10, "the file being older")
    return account


# Ranges --------------------------------------------------------------------------------------------------------


def part(first, last=None):
    """What a range gives: status, bytes, Content-Range."""
    last = SIZE - 1 if last is None else min(last, SIZE - 1)
    return 206, CONTENT[first : last + 1], f"bytes {first}-{last}/{SIZE}"


WHOLE = (200, CONTENT, None)
NOTHING = (416, None, f"bytes */{SIZE}")
RANGES = {
    "bytes=0-0": part(0, 0), "bytes=0-": part(0), "bytes=1-": part(1), "bytes=0-999": part(0), "bytes=0-1000": part(0), "bytes=500-99999": part(500), "bytes=999-": part(999),
    "bytes=999-999": part(999), "bytes=-1": part(999), "bytes=-1000": part(0), "bytes=-1001": part(0), "bytes=00000-00001": part(0, 1), "BYTES=3-4": part(3, 4),
    # Numbers too large to be counted.
    "bytes=0-9223372036854775807": part(0), "bytes=0-9223372036854775808": part(0), "bytes=5-18446744073709551615": part(5), "bytes=5-18446744073709551616": part(5),
    "bytes=-18446744073709551616": part(0), "bytes=-9223372036854775808": part(0), "bytes=0-" + "9" * 60: part(0),
    "bytes=1000-": NOTHING, "bytes=1000-1000": NOTHING, "bytes=5000-6000": NOTHING, "bytes=18446744073709551615-": NOTHING, "bytes=18446744073709551616-18446744073709551617": NOTHING,
    # Malformed, of another kind, or several.
    "bytes=": WHOLE, "bytes": WHOLE, "bytes=-": WHOLE, "bytes=5-4": WHOLE, "bytes=a-b": WHOLE, "bytes=1": WHOLE, "bytes=--1": WHOLE, "bytes=1--2": WHOLE, "bytes=+1-2": WHOLE,
    "bytes=0x1-0x2": WHOLE, "bytes=1.0-2": WHOLE, "bytes 0-1": WHOLE, "items=0-1": WHOLE, "byte=0-1": WHOLE, "=0-1": WHOLE, "0-1": WHOLE, "bytes=0-1;x": WHOLE, "bytes=\u0661-2": WHOLE,
    "bytes=0-1,3-4": WHOLE, "bytes=0-,0-,0-": WHOLE, "bytes=0-0,-1": WHOLE, "bytes=" + ",".join(f"{n}-{n}" for n in range(300)): WHOLE, "bytes=" + "0-," * 1300: WHOLE, "bytes=0-1,2000-": WHOLE,
}


def comes(answer, expected):
    status, content, content_range = expected
    assert (answer.status_code, answer.headers.get("content-range")) == (status, content_range)
    if content is None:
        refused(answer, 416, "range_not_satisfiable")
    else:
        assert answer.content == content and answer.headers["content-length"] == str(len(content))
    return True


@pytest.mark.parametrize("value", RANGES, ids=lambda value: value[:30])
def test_b48_a_range_gives_that_part(site, owner, value):
    comes(site.send("GET", "/files/x", owner, Range=value.encode()), RANGES[value])


@pytest.mark.parametrize("seed", range(5))
def test_b48_any_range_gives_what_slicing_gives(site, owner, seed):
    rng = random.Random(seed)
    for _ in range(20):
        first, last = sorted(rng.randint(0, rng.choice([10, SIZE, 2 * SIZE])) for _ in range(2))
        expected = part(first, last) if first < SIZE else NOTHING
        comes(site.get("/files/x", owner, Range=f"bytes={first}-{last}"), expected)
        suffix = rng.randint(1, 2 * SIZE)
        comes(site.get("/files/x", owner, Range=f"bytes=-{suffix}"), part(max(0, SIZE - suffix)))


def test_b48_several_fields_are_several_ranges(site, owner):
    with Wire(site.gateway.port) as wire:
        for second in ("bytes=2-3", "items=1-2", "x"):
            fields = {"Range": f"bytes=0-1\r\nRange: {second}"}
            answer = wire.send(body_of("GET", "/files/x", None, owner, **fields)).response()
            assert (answer.status, answer.body) == (200, CONTENT)


@pytest.mark.parametrize("value", ["bytes=0-", "bytes=0-0", "bytes=5-9", "bytes=-1"])
def test_b48_no_part_of_an_empty_file(site, owner, value):
    answer = site.get("/files/empty", owner, Range=value)
    if value == "bytes=-1" and site.stored.server == "versitygw":
        # It ignores a range of the last bytes where there are none, which is as good.
        comes(answer, (200, b"", None))
        return
    refused(answer, 416, "range_not_satisfiable")
    assert answer.headers["content-range"] == "bytes */0"
    assert site.get("/files/empty", owner, Range="bytes=5-4").status_code == 200


def test_b48_parts_of_a_large_file(site, user):
    content = random.Random(2).randbytes(20_000_000)
    site.stored.put(f"{user.prefix}x", content)
    for first, last in ((0, 19_999_999), (1, 19_999_998), (65_535, 65_536), (10_000_000, 15_000_000), (19_999_999, 19_999_999)):
        answer = site.get("/files/x", user, Range=f"bytes={first}-{last}")
        assert answer.status_code == 206 and answer.content == content[first : last + 1]


def test_b48_a_part_over_http2(site, owner):
    with H2(site) as client:
        assert client.answer(client.send(h2_fields("/files/x", owner, "GET", range="bytes=10-19"))) == (206, CONTENT[10:20])
        assert client.answer(client.send(h2_fields("/files/x", owner, "GET", range="bytes=2000-")))[0] == 416


def test_b48_range_is_for_get(site, owner):
    """RFC 9110 section 14.2."""
    for value in ("bytes=0-1", "bytes=2000-", "bytes=0-1,3-4"):
        head = site.head("/files/x", owner, Range=value)
        assert (head.status_code, head.headers["content-length"]) == (200, "1000") and "content-range" not in head.headers


# If-Range ------------------------------------------------------------------------------------------------------


def http_date(when):
    return when.strftime("%a, %d %b %Y %H:%M:%S GMT")


def shifted(owner, seconds):
    return owner.time + datetime.timedelta(seconds=seconds)


IF_RANGE = {
    "the_tag": (lambda o: o.tag, True), "the_date": (lambda o: o.date, True), "another_tag": (lambda o: '"x"', False), "the_tag_weak": (lambda o: "W/" + o.tag, False), "no_quotes": (lambda o: o.tag.strip('"'), False),
    "earlier": (lambda o: http_date(shifted(o, -1)), False), "later": (lambda o: http_date(shifted(o, 1)), False), "long_ago": (lambda o: "Thu, 01 Jan 1970 00:00:00 GMT", False),
    "garbage": (lambda o: "yesterday", False), "any": (lambda o: "*", False), "list": (lambda o: f'"x", {o.tag}', False), "list_of_it": (lambda o: f"{o.tag}, {o.tag}", False), "half": (lambda o: '"', False), "empty_tag": (lambda o: '""', False),
}


@pytest.mark.parametrize("name", IF_RANGE)
def test_b48_a_part_of_the_same_file_or_the_whole(site, owner, name):
    make, same = IF_RANGE[name]
    comes(site.get("/files/x", owner, Range="bytes=10-19", If_Range=make(owner)), part(10, 19) if same else WHOLE)
    comes(site.get("/files/x", owner, Range="bytes=2000-", If_Range=make(owner)), NOTHING if same else WHOLE)
    comes(site.get("/files/x", owner, If_Range=make(owner)), WHOLE)


def test_b48_the_rest_of_another_version_is_the_whole(site, user):
    first = site.put("/files/x", b"version 1", user).headers["etag"]
    assert site.get("/files/x", user, Range="bytes=8-", If_Range=first).content == b"1"
    site.put("/files/x", b"version 2", user)
    answer = site.get("/files/x", user, Range="bytes=8-", If_Range=first)
    assert (answer.status_code, answer.content) == (200, b"version 2")


# Preconditions -------------------------------------------------------------------------------------------------


def all_formats(when):
    """The three forms of a date (RFC 9110 section 5.6.7)."""
    asctime = when.strftime("%a %b ") + f"{when.day:2}" + when.strftime(" %H:%M:%S %Y")
    return {"imf": http_date(when), "rfc850": when.strftime("%A, %d-%b-%y %H:%M:%S GMT"), "asctime": asctime}


def conditions():
    """Name: (fields, status)."""
    table = {
        "none_match_same": ({"If-None-Match": "{tag}"}, 304), "none_match_weak": ({"If-None-Match": "W/{tag}"}, 304), "none_match_any": ({"If-None-Match": "*"}, 304),
        "none_match_other": ({"If-None-Match": '"x"'}, 200), "none_match_list": ({"If-None-Match": '"x", {tag}'}, 304), "none_match_list_weak": ({"If-None-Match": 'W/"x" ,W/{tag},"y"'}, 304),
        "none_match_list_other": ({"If-None-Match": '"x", W/"y"'}, 200), "none_match_fields": ({"If-None-Match": '"x"\r\nIf-None-Match: {tag}'}, 304), "none_match_no_quotes": ({"If-None-Match": "{bare}"}, 200),
        "none_match_commas": ({"If-None-Match": '"a,b", ,{tag}'}, 304), "none_match_within": ({"If-None-Match": '"x{bare}"'}, 200), "none_match_in_a_tag": ({"If-None-Match": '"x, {bare}"'}, 200),
        "match_same": ({"If-Match": "{tag}"}, 200), "match_any": ({"If-Match": "*"}, 200), "match_other": ({"If-Match": '"x"'}, 412), "match_weak": ({"If-Match": "W/{tag}"}, 412),
        "match_list": ({"If-Match": '"x",{tag}'}, 200), "match_list_weak": ({"If-Match": '"x", W/{tag}'}, 412), "match_list_other": ({"If-Match": '"x", "y"'}, 412), "match_fields": ({"If-Match": '"x"\r\nIf-Match: {tag}'}, 200),
        "match_no_quotes": ({"If-Match": "{bare}"}, 412), "match_in_a_tag": ({"If-Match": '"x, {bare}"'}, 412),
        # Dates nobody can read are no conditions.
        "since_garbage": ({"If-Modified-Since": "yesterday"}, 200), "since_number": ({"If-Modified-Since": "0"}, 200), "unmodified_garbage": ({"If-Unmodified-Since": "yesterday"}, 200),
        "unmodified_number": ({"If-Unmodified-Since": "-1"}, 200), "since_zone": ({"If-Modified-Since": "Wed, 25 Nov 2099 17:00:00 +0100"}, 200), "since_day": ({"If-Modified-Since": "Wed, 32 Nov 2020 17:00:00 GMT"}, 200),
        # What stands beside what (sections 13.1.3, 13.1.4 and 13.2.2).
        "other_tag_same_date": ({"If-None-Match": '"x"', "If-Modified-Since": "{date}"}, 200), "same_tag_older_date": ({"If-None-Match": "{tag}", "If-Modified-Since": "{older}"}, 304),
        "match_older_date": ({"If-Match": "{tag}", "If-Unmodified-Since": "{older}"}, 200), "other_match_newer_date": ({"If-Match": '"x"', "If-Unmodified-Since": "{newer}"}, 412),
        "failed_before_no_news": ({"If-Match": '"x"', "If-None-Match": "{tag}"}, 412), "failed_date_before_no_news": ({"If-Unmodified-Since": "{older}", "If-None-Match": "{tag}"}, 412),
        "both_same": ({"If-Match": "{tag}", "If-None-Match": "{tag}"}, 304), "match_and_same_date": ({"If-Match": "{tag}", "If-Modified-Since": "{date}"}, 304), "unmodified_and_news": ({"If-Unmodified-Since": "{date}", "If-Modified-Since": "{older}"}, 200),
    }
    for form in ("imf", "rfc850", "asctime"):
        for shift, since, unmodified in (("same", 304, 200), ("older", 200, 412), ("newer", 304, 200)):
            table[f"since_{shift}_{form}"] = ({"If-Modified-Since": f"{{{shift}_{form}}}"}, since)
            table[f"unmodified_since_{shift}_{form}"] = ({"If-Unmodified-Since": f"{{{shift}_{form}}}"}, unmodified)
    return table


CONDITIONS = conditions()


def filled(owner, fields):
    values = {"tag": owner.tag, "bare": owner.tag.strip('"'), "date": owner.date, "older": http_date(shifted(owner, -2)), "newer": http_date(shifted(owner, 2))}
    for shift, seconds in (("same", 0), ("older", -2), ("newer", 2)):
        values |= {f"{shift}_{form}": text for form, text in all_formats(shifted(owner, seconds)).items()}
    return {name: value.format(**values) for name, value in fields.items()}


@pytest.mark.parametrize("name", CONDITIONS)
def test_b49_a_file_under_a_condition(site, owner, name):
    """GET, HEAD and a part of it: the condition comes first (section 13.2.1)."""
    fields, status = CONDITIONS[name]
    if "no_quotes" in name and site.stored.kind == "s3":
        # S3 takes tags without quotes.
        status = {200: 304, 412: 200}[status]
    if name in ("failed_before_no_news", "failed_date_before_no_news") and site.stored.server == "minio":
        # It looks at If-None-Match first, and nothing of the file is in its answer either.
        status = 304
    fields = filled(owner, fields)
    with Wire(site.gateway.port) as wire:
        answers = [wire.send(body_of(method, "/files/x", None, owner, **fields)).response(method) for method in ("GET", "HEAD")]
        assert [answer.status for answer in answers] == [status, status]
        assert status == 412 or all(answer.get("etag") == owner.tag and answer.get("last-modified") == owner.date for answer in answers)
        assert {200: answers[0].body == CONTENT, 304: answers[0].body == b"", 412: b"precondition_failed" in answers[0].body}[status]
        ranged = wire.send(body_of("GET", "/files/x", None, owner, Range="bytes=1-2", **fields)).response()
        assert (ranged.status, ranged.body) == (206, CONTENT[1:3]) if status == 200 else ranged.status == status
        beyond = wire.send(body_of("GET", "/files/x", None, owner, Range="bytes=2000-", **fields)).response()
        assert beyond.status == (416 if status == 200 else status)


@pytest.mark.parametrize("fields", [{"If-None-Match": "*"}, {"If-Match": "*"}, {"If-Match": '"x"'}, {"If-Match": '"x", "y"'}, {"If-None-Match": 'W/"x", "y"'}, {"If-Unmodified-Since": "Thu, 01 Jan 1970 00:00:00 GMT"}], ids=str)
def test_b49_there_are_no_conditions_on_nothing(site, owner, fields):
    """RFC 9110 section 13.2.1: without them it would be a 404."""
    refused(site.get("/files/none", owner, **fields), 404, "file_not_found")
    assert site.head("/files/none", owner, **fields).status_code == 404


# HEAD, and what stays the same ---------------------------------------------------------------------------------


HEADS = {"whole": ("x", {}), "empty": ("empty", {}), "nothing": ("none", {}), "no_news": ("x", {"If-None-Match": "*"}), "failed": ("x", {"If-Match": '"x"'}), "download": ("x?download=y", {}), "folder": ("", {}), "no_token": ("x", {"Authorization": ""})}


@pytest.mark.parametrize("http2", [False, True], ids=["http/1.1", "http/2"])
@pytest.mark.parametrize("name", HEADS)
def test_b49_head_is_like_get(site, owner, name, http2):
    path, fields = HEADS[name]
    with site.client(http2) as client:
        get, head = (client.request(method, f"/files/{path}", headers={"Authorization": f"Bearer {owner.access}", **fields}) for method in ("GET", "HEAD"))
    different = ("x-request-id", "date")
    assert head.content == b"" and head.status_code == get.status_code
    assert {n: v for n, v in head.headers.items() if n not in different} == {n: v for n, v in get.headers.items() if n not in different}


def test_b49_tag_and_date_stay_as_long_as_the_file(site, user):
    stored = site.put("/files/x", b"hello", user).headers["etag"]
    answers = [site.get("/files/x", user), site.head("/files/x", user), site.get("/files/x", user, Range="bytes=0-1"), site.get("/files/x", user, If_None_Match="*"), site.get("/twin/x", user), site.get("/read/x", user)]
    [listed] = site.get("/files/?list", user).json()["objects"]
    site.gateway.restart()
    answers.append(site.get("/files/x", user))
    assert {answer.headers["etag"] for answer in answers} | {listed["etag"]} == {stored}
    assert len({answer.headers["last-modified"] for answer in answers}) == 1
    assert stored.startswith('"') and stored.endswith('"')
    assert site.put("/files/x", b"hallo", user).headers["etag"] != stored
