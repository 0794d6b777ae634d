"""What S3 says, and what the client is told: status and code exactly, no word of S3's, the cause in the log, and the next request served."""

import json

import pytest

from conftest import eventually, serving
from fake_s3 import ACCESS_KEY, BUCKET, ETAG, OBJECT, WORDS, FakeS3, always, an_object, answer, error, good, head, listing, then_close
from file_routes import Client, code_of, files_route
from forge import unb64u
from wire import Wire, get

CONFIG = """
[limits]
max_body = "64MiB"
"""


class Site:
    """A gateway in front of a fake S3, and a caller who notes every word."""

    def __init__(self, gateway, fake):
        self.gateway, self.fake, self.account, self.seen = gateway, fake, gateway.register(), []
        self.client = Client(gateway.port, timeout=20)

    def ask(self, method, name="x", body=None, **headers):
        target = f"/files/{name}"
        status, fields, content = self.client.call(method, target, self.account.access, body, **headers)
        said = "\n".join(f"{name}: {value}" for name, value in fields.items()).encode() + content
        for word in [*WORDS, BUCKET, ACCESS_KEY, str(self.fake.port)]:
            assert word.lower().encode() not in said.lower(), (word, said)
        return status, fields, content

    def operation(self, operation):
        """Status, code and Retry-After of GET, HEAD, PUT, DELETE or LIST."""
        method, name, body = {"LIST": ("GET", "?list", None), "PUT": ("PUT", "x", b"some content"), "PART": ("GET", "x", None)}.get(operation, (operation, "x", None))
        status, fields, content = self.ask(method, name, body, **({"Range": "bytes=2-5"} if operation == "PART" else {}))
        return status, code_of(content), fields.get("Retry-After")

    def causes(self):
        lines = [json.loads(line) for line in self.gateway.process.stderr().splitlines() if line.startswith("{")]
        return [line["cause"] for line in lines if "cause" in line]

    def works(self):
        """Every operation goes as it should, on connections kept from before."""
        self.fake.script = good
        for _ in range(3):
            status, fields, content = self.ask("GET")
            assert (status, content, fields["ETag"]) == (200, OBJECT, ETAG)
            assert self.ask("GET", Range="bytes=2-5")[2] == OBJECT[2:6]
            assert self.ask("HEAD")[:1] == (200,)
            assert self.ask("PUT", body=b"content")[0] == 201
            assert self.ask("DELETE")[0] == 204
            assert [entry["key"] for entry in json.loads(self.ask("GET", "?list")[2])["objects"]] == ["x"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    fake = FakeS3()
    store = fake.table(timeouts='{ connect = "500ms", read = "500ms", write = "500ms" }')
    route = files_route("/files/{*key}", "media", "users/{sub}/", methods=["GET", "PUT", "DELETE"], list=True, share="1h", max_size="64MiB")
    with serving(tmp_path_factory.mktemp("refusals"), store + route) as gateway:
        yield Site(gateway, fake)
    fake.stop()


@pytest.fixture(autouse=True)
def afterwards(site):
    """Whatever was said, the next requests are served right."""
    yield
    site.works()
    assert site.gateway.metric("portcullis_panics_total") == 0


BROKEN, BUSY, TIMEOUT = (502, "file_store_error"), (503, "file_store_unavailable"), (504, "file_store_timeout")
ALL = ["GET", "PART", "HEAD", "PUT", "DELETE", "LIST"]
# S3's status and code; what the client gets; for which operations, where not for all.
REFUSALS = [
    (400, "ExpiredToken", BROKEN), (400, "InvalidToken", BROKEN), (400, "AuthorizationHeaderMalformed", BROKEN), (400, "InvalidRequest", BROKEN),
    (400, "EntityTooLarge", BROKEN), (400, "RequestTimeout", BROKEN), (400, "IncompleteBody", BROKEN), (400, "Canary", BROKEN),
    (400, "BadDigest", (400, "checksum_mismatch"), ["PUT"]), (400, "InvalidDigest", (400, "checksum_mismatch"), ["PUT"]),
    (401, "Unauthorized", BROKEN), (403, "AccessDenied", BROKEN), (403, "InvalidAccessKeyId", BROKEN), (403, "SignatureDoesNotMatch", BROKEN),
    (403, "RequestTimeTooSkewed", BROKEN), (403, "InvalidObjectState", BROKEN), (404, "NoSuchBucket", BROKEN), (405, "MethodNotAllowed", BROKEN),
    (404, "NoSuchKey", (404, "file_not_found"), ["GET", "PART"]), (404, "NoSuchKey", (204, None), ["DELETE"]),
    (409, "OperationAborted", BUSY), (409, "ConditionalRequestConflict", BUSY), (411, "MissingContentLength", BROKEN), (412, "PreconditionFailed", (412, "precondition_failed"), ["GET", "PUT", "DELETE"]),
    (416, "InvalidRange", (416, "range_not_satisfiable"), ["PART"]), (429, "TooManyRequests", BUSY), (500, "InternalError", BROKEN), (501, "NotImplemented", BROKEN),
    (502, "BadGateway", BROKEN), (503, "SlowDown", BUSY), (503, "ServiceUnavailable", BUSY), (507, "XMinioStorageFull", (507, "file_store_full"), ["PUT"]),
    (301, "PermanentRedirect", BROKEN), (302, "Found", BROKEN), (307, "TemporaryRedirect", BROKEN), (308, "Moved", BROKEN),
]
CASES = [(operation, *row[:3]) for row in REFUSALS for operation in (row[3] if len(row) > 3 else ALL)]


@pytest.mark.parametrize("operation, status, code, expected", CASES, ids=lambda value: str(value).replace(" ", ""))
def test_s3_refuses(site, operation, status, code, expected):
    """A refusal of S3's is the gateway's own business."""
    redirect = ["Location: http://bucket-canary.s3.canary.example/"] if status < 400 else []

    def script(request):
        request.body()
        whole = error(code, status, *redirect)
        # An answer to HEAD has no document, so that nothing tells a missing key from a missing bucket but a GET.
        request.send(whole[: whole.index(b"\r\n\r\n") + 4] if request.method == "HEAD" else whole)

    site.fake.script, before = script, len(site.causes())
    got = site.operation(operation)
    if operation == "HEAD":
        assert got[:2] == (expected[0], None)
    else:
        assert got[:2] == expected
    assert (got[2] is not None) == (expected is BUSY), got
    if expected in (BROKEN, BUSY, TIMEOUT) or expected[0] == 507:
        [cause] = eventually(lambda: site.causes()[before:], what="the cause in the log")
        assert str(status) in cause or code in cause, cause
        assert "StringToSign" not in cause and ACCESS_KEY not in cause and "<" not in cause, cause


@pytest.mark.parametrize("operation", ["GET", "PUT", "DELETE", "HEAD", "LIST"])
def test_slow_down_says_for_how_long(site, operation):
    """S3's Retry-After is passed on where it is a number of seconds within reason, and there is always one."""
    for value, expected in [("7", "7"), ("", "1"), ("soon", "1"), ("-1", "1"), ("Wed, 01 Oct 2099 10:00:00 GMT", "1")]:
        def script(request):
            request.body()
            whole = error("SlowDown", 503, *([f"Retry-After: {value}"] if value else []))
            request.send(whole[: whole.index(b"\r\n\r\n") + 4] if request.method == "HEAD" else whole)
        site.fake.script = script
        got = site.operation(operation)
        assert (got[0], got[2]) == (503, expected), (value, got)


def test_a_retry_after_beyond_reason(site):
    """Clients believe what they are told: a day is not for S3 to ask for."""
    for value in ("99999999999", "99999999999999999999"):
        site.fake.script = always(error("SlowDown", 503, f"Retry-After: {value}"))
        status, code, after = site.operation("GET")
        assert (status, code) == BUSY and 1 <= int(after) <= 86400, after


# Answers that are none -------------------------------------------------------------------------------------

OBJECT_HEAD = head(200, f"ETag: {ETAG}", length=20)
ODD = {
    "not HTTP": b"\x15\x03\x01\x00\x02\x02\x28",
    "SMTP": b"220 canary ESMTP\r\n",
    "an old version of HTTP, without a head": b"<html>canary</html>",
    "status 99": b"HTTP/1.1 99 Canary\r\nContent-Length: 0\r\n\r\n",
    "status of letters": b"HTTP/1.1 abc Canary\r\nContent-Length: 0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    "length of letters": b"HTTP/1.1 200 OK\r\nContent-Length: canary\r\n\r\nabc",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nabc",
    "length beyond 64 bits": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nabc",
    "length and chunked": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
    "no length": b"HTTP/1.1 200 OK\r\nETag: \"x\"\r\n\r\ncanary",
    "chunked": b"HTTP/1.1 200 OK\r\nETag: \"x\"\r\nTransfer-Encoding: chunked\r\n\r\n6\r\ncanary\r\n0\r\n\r\n",
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "202 without an object": answer(202),
    "part that nobody asked for": an_object(OBJECT[:4], 206, "Content-Range: bytes 0-3/20"),
    "part without saying which": an_object(OBJECT[:4], 206),
    "not modified, though nobody asked": b"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n",
    "line feed in a field": b"HTTP/1.1 200 OK\r\nETag: \"a\n\r\nContent-Length: 3\r\n\r\nabc",
    "NUL in a field": b"HTTP/1.1 200 OK\r\nContent-Type: text/\0plain\r\nContent-Length: 3\r\n\r\nabc",
    "field without a colon": b"HTTP/1.1 200 OK\r\ncanary\r\nContent-Length: 3\r\n\r\nabc",
    "many fields": b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-Canary-%d: canary\r\n" % n for n in range(2000)) + b"Content-Length: 3\r\n\r\nabc",
}


@pytest.mark.parametrize("kind", ODD)
def test_s3_answers_oddly(site, kind):
    """An answer that is none, or is one to another question, becomes 502, and none of it is passed on."""
    site.fake.script, before = then_close(ODD[kind]), len(site.causes())
    status, code, _ = site.operation("GET")
    assert (status, code) == BROKEN
    causes = eventually(lambda: site.causes()[before:], what="the cause in the log")
    assert all(len(cause) < 1000 and cause.isprintable() for cause in causes), causes


@pytest.mark.parametrize("first, last, content_range", [
    (2, 5, "bytes 0-3/20"), (2, 5, "bytes 3-6/20"), (2, 5, "bytes */20"), (2, 5, "lines 2-5/20"), (2, 5, "canary"), (2, 5, "bytes 2-9/20"), (2, 5, "bytes 5-2/20"), (2, 5, "bytes 2-5/3"),
])
def test_s3_answers_with_another_part(site, first, last, content_range):
    """Somebody who joins parts would have a broken file."""
    site.fake.script, before = always(an_object(OBJECT[first: last + 1], 206, f"Content-Range: {content_range}")), len(site.causes())
    assert site.operation("PART")[:2] == BROKEN
    eventually(lambda: site.causes()[before:], what="the cause in the log")


def test_s3_answers_with_the_whole_where_a_part_was_asked_for(site):
    """RFC 9110 section 14.2: a server may ignore Range."""
    site.fake.script = always(an_object())
    status, fields, content = site.ask("GET", Range="bytes=2-5")
    assert (status, content, fields.get("Content-Range")) == (200, OBJECT, None)


def test_fields_of_objects_are_taken_from_a_list(site):
    """Of all that S3 says of an object, the client sees what a client of files needs; `works` has looked for the words."""
    site.fake.script = good
    for method, headers in [("GET", {}), ("HEAD", {}), ("GET", {"Range": "bytes=2-5"})]:
        _, fields, _ = site.ask(method, **headers)
        allowed = {
            "content-type", "content-length", "etag", "last-modified", "accept-ranges", "cache-control", "vary", "x-content-type-options", "content-security-policy", "content-range",
            "x-request-id", "date", "connection", "keep-alive",
        }
        assert {name.lower() for name in fields} <= allowed, fields


def test_s3_stores_without_saying_what(site):
    """A PUT that is answered with 200 and no entity tag, or with another success."""
    for data in (answer(200), answer(204), answer(200, b"", "ETag: "), b"HTTP/1.1 200 OK\r\n\r\n"):
        site.fake.script = then_close(data)
        assert site.operation("PUT")[:2] in (BROKEN, (201, None)), data


@pytest.mark.parametrize("body", [b"", b"canary", b"<", b"<a/>", b"{}", b"<ListBucketResult>", b"\xff\xfe", b"<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><ListBucketResult><Contents><Key>&e;</Key></Contents></ListBucketResult>"])
def test_s3_lists_garbage(site, body):
    site.fake.script = always(answer(200, body, "Content-Type: application/xml"))
    status, _, content = site.ask("GET", "?list")
    assert status in (200, 502) and b"root:" not in content, content
    assert status == 502 or json.loads(content)["objects"] == []


@pytest.mark.parametrize("token, expected", [("", BROKEN), ("<NextContinuationToken>canary</NextContinuationToken>", 200), (f"<NextContinuationToken>{'x' * 5000}</NextContinuationToken>", BROKEN)])
def test_s3_says_that_more_follows(site, token, expected):
    """Without saying where, a part would pass for the whole. What it says of the place is not shown."""
    more = listing(f"users/{site.account.id}/x").split(b"\r\n\r\n", 1)[1].replace(b"<IsTruncated>false</IsTruncated>", f"<IsTruncated>true</IsTruncated>{token}".encode())
    site.fake.script = always(answer(200, more, "Content-Type: application/xml"))
    status, _, content = site.ask("GET", "?list")
    if expected != 200:
        assert (status, code_of(content)) == expected
        return
    cursor = json.loads(content)["next_cursor"]
    assert status == 200 and b"canary" not in unb64u(cursor) and "canary" not in cursor
    site.ask("GET", f"?list&cursor={cursor}")
    assert "continuation-token=canary" in site.fake.requests[-1].query


def test_s3_lists_what_it_was_not_asked_for(site):
    """A server that does not know prefixes would list everybody's."""
    own = f"users/{site.account.id}"
    site.fake.script = always(listing("users/canary/x", f"{own}x/canary", f"{own}", f"{own}/mine", "../canary", "", f"x/{own}/canary"))
    assert [entry["key"] for entry in json.loads(site.ask("GET", "?list")[2])["objects"]] == ["mine"]


# Bodies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent, status, complete", [(OBJECT[:5], 200, False), (OBJECT + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ncanary", 200, True), (b"", 200, False)],
                         ids=["shorter than said", "longer than said", "none"])
def test_s3_sends_another_length(site, sent, status, complete):
    """Too little shows to the client; what is too much is not taken for the next answer."""
    site.fake.script = then_close(OBJECT_HEAD + sent)
    for _ in range(3):
        with Wire(site.gateway.port) as wire:
            got = wire.send(get("/files/x", "localhost", f"Authorization: Bearer {site.account.access}")).response()
            assert (got.status, got.complete, got.body) == (status, complete, (sent + OBJECT)[:20] if complete else sent)
            assert complete or wire.is_closed()
        site.fake.script = always(OBJECT_HEAD + sent) if complete else site.fake.script


def test_a_large_error_document_is_not_read(site):
    """Ten megabytes of refusal."""
    for operation in ("GET", "PUT", "DELETE"):
        site.fake.script = always(error("InternalError", 500, size=10_000_000))
        assert site.operation(operation)[:2] == BROKEN


@pytest.mark.parametrize("size", [10_000, 100_000, 2_000_000])
def test_large_head(site, size):
    site.fake.script = always(an_object(OBJECT, 200, f"X-Canary: {'y' * size}"))
    status, code, _ = site.operation("GET")
    assert status == 200 or (status, code) in (BROKEN, BUSY)


@pytest.mark.parametrize("interim", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: <http://canary/>\r\n\r\n", b"HTTP/1.1 102 Processing\r\n\r\n" * 20, b"HTTP/1.1 199 Canary\r\nContent-Length: 5\r\n\r\n"])
def test_interim_answers_are_passed_over(site, interim):
    def script(request):
        request.send(interim)
        good(request)
    site.fake.script = script
    assert site.ask("GET")[2] == OBJECT
    assert site.operation("PUT")[0] == 201
    assert site.operation("HEAD")[0] == 200
    assert site.operation("DELETE")[0] == 204
