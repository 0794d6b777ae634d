"""Files are stored whole and as they were sent, or not at all."""

import base64
import hashlib
import itertools
import zlib

import pytest

from filesites import body_of, refused, site, user  # noqa: F401
from raw_h2 import H2
from wire import Wire

MIB = 1024 * 1024
# Above the size from which the route /parts uploads in parts.
LARGE = bytes(range(256)) * (5 * MIB // 256) + b"the last part"


def crc(data, polynomial, bits):
    """A reflected CRC that begins and ends with all bits inverted."""
    table = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (polynomial if n & 1 else 0)
        table.append(n)
    value = ones = (1 << bits) - 1
    for byte in data:
        value = table[value & 0xFF ^ byte] ^ value >> 8
    return (value ^ ones).to_bytes(bits // 8, "big")


ALGORITHMS = {
    "Content-MD5": lambda data: hashlib.md5(data).digest(),
    "x-amz-checksum-crc32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "x-amz-checksum-crc32c": lambda data: crc(data, 0x82F63B78, 32),
    "x-amz-checksum-crc64nvme": lambda data: crc(data, 0x9A6C9329AC4BC9B5, 64),
    "x-amz-checksum-sha1": lambda data: hashlib.sha1(data).digest(),
    "x-amz-checksum-sha256": lambda data: hashlib.sha256(data).digest(),
}


def checksum(field, data):
    return base64.b64encode(ALGORITHMS[field](data)).decode()


def test_the_checksums_of_these_tests_are_right():
    """The check values of the CRC catalogue."""
    assert ALGORITHMS["x-amz-checksum-crc32c"](b"123456789").hex() == "e3069283"
    assert ALGORITHMS["x-amz-checksum-crc64nvme"](b"123456789").hex() == "ae8b14860a799888"


def h2_fields(path, account, method="PUT", **more):
    fields = [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path), ("authorization", f"Bearer {account.access}")]
    return fields + [(name.replace("_", "-"), value) for name, value in more.items()]


# What is stored ------------------------------------------------------------------------------------------------


def test_a_file_is_stored_as_it_was_sent(site, user):
    answer = site.put("/files/a/b%20c.txt", b"hello", user, Content_Type="text/x-test; charset=utf-8")
    assert (answer.status_code, answer.content, answer.headers["location"]) == (201, b"", "/files/a/b%20c.txt")
    assert site.stored.keys(user.prefix) == [f"{user.prefix}a/b c.txt"]
    assert site.stored.get(f"{user.prefix}a/b c.txt") == b"hello"
    assert site.stored.content_type(f"{user.prefix}a/b c.txt") == "text/x-test; charset=utf-8"
    assert site.get("/files/a/b%20c.txt", user).headers["etag"] == answer.headers["etag"]


def test_what_is_stored_replaces_what_was_there(site, user):
    first = site.put("/files/x", b"a long first version", user, Content_Type="text/html")
    second = site.put("/files/x", b"second", user, Content_Type="text/plain")
    assert second.status_code == 201 and second.headers["etag"] != first.headers["etag"]
    read = site.get("/files/x", user)
    assert (read.content, read.headers["content-type"], read.headers["etag"]) == (b"second", "text/plain", second.headers["etag"])


def test_the_fields_of_an_answer_to_an_upload(site, user):
    answer = site.put("/files/x", b"x", user)
    allowed = {"etag", "location", "x-content-type-options", "x-request-id", "content-length", "date", "connection"}
    assert set(answer.headers) == allowed


@pytest.mark.parametrize("size", [0, 1, 999, 1000])
def test_sizes_up_to_the_largest(site, user, size):
    assert site.put("/small/x", b"x" * size, user).status_code == 201
    assert site.stored.get(f"small/{user.id}/x") == b"x" * size


@pytest.mark.parametrize("size", [1001, 200_000])
def test_a_file_larger_than_the_largest(site, user, size):
    refused(site.put("/small/x", b"x" * size, user), 413, "file_too_large", size=size, limit=1000)
    assert site.stored.keys(f"small/{user.id}/") == []


def test_the_size_of_a_file_is_not_that_of_other_bodies(site, user):
    """server.limits.body is 100 KiB here."""
    assert site.put("/files/x", b"x" * 300_000, user).status_code == 201
    assert site.stored.size(f"{user.prefix}x") == 300_000


@pytest.mark.parametrize("http2", [False, True], ids=["http/1.1", "http/2"])
def test_an_upload_over_tls(site, user, http2):
    with site.client(http2) as client:
        answer = client.put("/parts/large", content=LARGE, headers={"Authorization": f"Bearer {user.access}", "Content-Type": "a/b"})
        assert (answer.status_code, answer.http_version) == (201, "HTTP/2" if http2 else "HTTP/1.1")
    assert site.stored.get(f"parts/{user.id}/large") == LARGE and site.stored.content_type(f"parts/{user.id}/large") == "a/b"
    assert not site.stored.unfinished()


def test_nothing_a_client_says_to_s3_is_passed_on(site, user):
    """Fields and parameters with which S3 would do something else."""
    victim = site.user()
    site.stored.put(f"{victim.prefix}secret", b"another's")
    for field, value in {
        "x-amz-copy-source": f"/{getattr(site.stored, 'name', 'x')}/{victim.prefix}secret", "x-amz-meta-a": "b", "x-amz-acl": "public-read",
        "x-amz-website-redirect-location": "https://evil.example/", "x-amz-tagging": "a=b", "x-amz-storage-class": "GLACIER",
        "x-amz-security-token": "x", "x-amz-content-sha256": "0" * 64, "x-amz-date": "20200101T000000Z", "x-amz-decoded-content-length": "1",
        "x-amz-server-side-encryption-customer-algorithm": "AES256",
    }.items():
        assert site.put("/files/x", field.encode(), user, **{field: value}).status_code == 201, field
        assert site.stored.get(f"{user.prefix}x") == field.encode()
        assert site.get("/files/x", user, **{field: value}).content == field.encode()
    for query in ("acl", "tagging", "uploads", "uploadId=x&partNumber=1", "retention", "versionId=x", "X-Amz-Signature=x", "select&select-type=2"):
        assert site.put(f"/files/x?{query}", query.encode(), user).status_code == 201, query
        assert site.stored.get(f"{user.prefix}x") == site.get(f"/files/x?{query}", user).content == query.encode()
    assert site.delete("/files/x?uploadId=x&tagging", user).status_code == 204
    assert site.stored.keys(user.prefix) == [] and not site.stored.unfinished()
    if site.stored.kind == "s3":
        site.put("/files/y", b"y", user, x_amz_meta_a="b", x_amz_website_redirect_location="/z", Cache_Control="public", Content_Disposition="inline")
        head = site.stored.client.head_object(Bucket=site.stored.name, Key=f"{user.prefix}y")
        assert head["Metadata"] == {} and not {"WebsiteRedirectLocation", "CacheControl", "ContentDisposition"} & set(head)


# What is refused -----------------------------------------------------------------------------------------------

MALFORMED = {"empty": "", "text": "hello", "short": "AAA=", "unpadded": "AAAAAA", "list": "AAAAAA==, AAAAAA==", "url": "-_AAAA=="}
REFUSED = {
    "encoded": ({"Content-Encoding": "gzip"}, 415, "unsupported_media_type"),
    "encoded_twice": ({"Content-Encoding": "identity, gzip"}, 415, "unsupported_media_type"),
    "type_without_slash": ({"Content-Type": "text"}, 415, "unsupported_media_type"),
    "type_empty": ({"Content-Type": ""}, 415, "unsupported_media_type"),
    "type_odd": ({"Content-Type": "text/<b>"}, 415, "unsupported_media_type"),
    "part": ({"Content-Range": "bytes 0-4/10"}, 400, "invalid_request"),
    "if_none_match_tag": ({"If-None-Match": '"x"'}, 400, "unsupported_precondition"),
    "if_none_match_list": ({"If-None-Match": '*, "x"'}, 400, "unsupported_precondition"),
    "if_unmodified_since": ({"If-Unmodified-Since": "Wed, 25 Nov 2026 17:00:00 GMT"}, 400, "unsupported_precondition"),
    "if_modified_since": ({"If-Modified-Since": "Wed, 25 Nov 2026 17:00:00 GMT"}, 400, "unsupported_precondition"),
    "two_checksums": ({"x-amz-checksum-crc32": "AAAAAA==", "x-amz-checksum-crc32c": "AAAAAA=="}, 400, "invalid_checksum"),
    **{f"{field}_{name}": ({field: value}, 400, "invalid_checksum") for field in ALGORITHMS for name, value in MALFORMED.items()},
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_request_that_is_refused_stores_nothing(site, user, name):
    fields, status, code = REFUSED[name]
    refused(site.put("/files/new", b"hello", user, **fields), status, code)
    site.put("/files/old", b"old", user)
    refused(site.put("/files/old", b"hello", user, **fields), status, code)
    assert site.unchanged(user.prefix) == {f"{user.prefix}old": b"old"}


@pytest.mark.parametrize(("first", "second"), [("identity", "gzip"), ("gzip", "identity")])
def test_several_fields_of_an_encoding_are_one_list(site, user, first, second):
    """RFC 9110 section 5.3: the bytes that come are not those of the file."""
    with Wire(site.gateway.port) as wire:
        fields = {"Connection": f"close\r\nContent-Encoding: {first}\r\nContent-Encoding: {second}"}
        assert wire.send(body_of("PUT", "/files/x", 5, user, **fields), b"hello").response().status == 415
    assert site.stored.keys(user.prefix) == []


def test_an_encoding_that_is_none(site, user):
    assert site.put("/files/x", b"hello", user, Content_Encoding="Identity").status_code == 201
    assert "content-encoding" not in site.get("/files/x", user).headers


def test_a_checksum_twice(site, user):
    right = checksum("x-amz-checksum-crc32", b"hello")
    with Wire(site.gateway.port) as wire:
        fields = {"x-amz-checksum-crc32": f"{right}\r\nx-amz-checksum-crc32: {right}"}
        assert wire.send(body_of("PUT", "/files/x", 5, user, **fields), b"hello").response().status == 400
    assert site.stored.keys(user.prefix) == []


NAMES = {
    "none": "", "folder": "a/", "too_long": "a/" * 480 + "a" * 80, "dots": "%2e%2e/x", "empty_segment": "a//b", "nul": "a%00b",
    "backslash": "a%5Cb", "slash": "a%2Fb", "not_utf8": "a%FF", "newline": "a%0Ab", "dot": "a/./b",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_no_file_can_have(site, user, name):
    before = site.stored.keys()
    for method in ("PUT", "DELETE"):
        with Wire(site.gateway.port) as wire:
            answer = wire.send(body_of(method, f"/files/{NAMES[name]}", 5, user), b"hello").response()
            assert answer.status == 400, answer
    assert site.stored.keys() == before


def test_a_segment_of_more_than_255_bytes(site, user):
    """Amazon's keeps it; a file system does not."""
    status, code = {"elsewhere": (201, None), "versitygw": (409, "conflict")}.get(site.stored.server, (400, "invalid_file_name"))
    answer = site.put(f"/files/{'a' * 256}", b"hello", user)
    assert answer.status_code == status and (status == 201 or answer.json()["code"] == code), answer.text
    assert len(site.stored.keys(user.prefix)) == (status == 201)


def test_an_upload_without_its_length(site, user):
    head = body_of("PUT", "/files/x", None, user)
    chunks = body_of("PUT", "/files/x", None, user, Transfer_Encoding="chunked") + b"5\r\nhello\r\n0\r\n\r\n"
    for data in (head, chunks):
        with Wire(site.gateway.port) as wire:
            answer = wire.send(data).response()
            assert answer.status == 411 and b'"length_required"' in answer.body
    with H2(site) as client:
        assert client.answer(client.send(h2_fields("/files/x", user), b"hello"))[0] == 411
    assert site.stored.keys(user.prefix) == []


@pytest.mark.parametrize("sent", ["image/png", "IMAGE/SVG+XML", "text/plain", "text/plain; charset=utf-8", "Text/Plain ;a=b"])
def test_a_type_that_is_taken(site, user, sent):
    assert site.put("/typed/x", b"x", user, Content_Type=sent).status_code == 201
    assert site.get("/typed/x", user).headers["content-type"] == sent


@pytest.mark.parametrize("sent", [None, "text/html", "text/plainx", "text/*", "application/json; x=image/png", "imagex/png", "image/", "image/png, text/html"])
def test_a_type_that_is_not_taken(site, user, sent):
    fields = {"Content-Type": sent} if sent else {}
    refused(site.put("/typed/x", b"x", user, **fields), 415, "unsupported_media_type")
    assert site.stored.keys(f"typed/{user.id}/") == []


def test_writing_needs_a_token(site):
    before = site.unchanged("team/")
    for method, path in itertools.product(("PUT", "DELETE"), ("/files/x", "/team/x")):
        refused(site.send(method, path, content=b"hello"), 401, "authentication_required")
    assert site.unchanged("team/") == before


def test_writing_takes_a_role_where_one_is_asked_for(site, user):
    editor = site.user("editor")
    assert site.put("/team/page", b"one", editor).status_code == 201
    for other in (user, site.user("editors", "admin")):
        refused(site.put("/team/page", b"two", other), 403, "forbidden")
        refused(site.put("/team/new", b"two", other), 403, "forbidden")
        refused(site.delete("/team/page", other), 403, "forbidden")
        assert site.get("/team/page", other).content == b"one"
    assert site.stored.keys("team/") == ["team/page"]
    assert site.delete("/team/page", editor).status_code == 204 and site.stored.keys("team/") == []


ALLOWED = {"/files/x": "DELETE, GET, HEAD, POST, PUT", "/read/x": "GET, HEAD", "/public/x": "GET, HEAD", "/drop/x": "POST, PUT", "/typed/x": "GET, HEAD, PUT"}


@pytest.mark.parametrize("path", ALLOWED)
def test_a_method_the_route_does_not_have(site, user, path):
    site.stored.put("public/x", b"public")
    before = site.unchanged("public/")
    for method in {"GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"} - set(ALLOWED[path].split(", ")):
        answer = site.send(method, path, user, content=b"hello" if method != "HEAD" else None)
        assert answer.status_code == 405 and ", ".join(sorted(answer.headers["allow"].split(", "))) == ALLOWED[path], method
    assert site.unchanged("public/") == before and site.stored.keys(user.prefix) == []


# Checksums -----------------------------------------------------------------------------------------------------

WAYS = {"whole": ("/files/x", "users", b"hello, world"), "parts": ("/parts/x", "parts", LARGE)}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("field", ALGORITHMS)
def test_a_content_that_amounts_to_its_checksum_or_is_not_stored(site, user, field, way):
    path, folder, data = WAYS[way]
    right = checksum(field, data)
    wrong = base64.b64encode(bytes(len(base64.b64decode(right)))).decode()
    refused(site.put(path, data, user, **{field: wrong}), 400, "checksum_mismatch")
    site.settled()
    assert site.stored.keys(f"{folder}/{user.id}/") == []

    assert site.put(path, data, user, **{field: right}).status_code == 201
    read = site.get(path, user)
    assert read.content == data
    if way == "whole" and field != "Content-MD5":
        assert read.headers[field] == right
    refused(site.put(path, data[:-1] + b"?", user, **{field: right}), 400, "checksum_mismatch")
    assert site.unchanged(f"{folder}/{user.id}/") == {f"{folder}/{user.id}/x": data}
    site.settled()


def test_both_kinds_of_checksums_have_to_be_right(site, user):
    md5, crc32 = checksum("Content-MD5", b"hello"), checksum("x-amz-checksum-crc32", b"hello")
    for one, other in (("A" * 22 + "==", crc32), (md5, "AAAAAA==")):
        refused(site.put("/files/x", b"hello", user, Content_MD5=one, x_amz_checksum_crc32=other), 400, "checksum_mismatch")
    assert site.stored.keys(user.prefix) == []
    assert site.put("/files/x", b"hello", user, Content_MD5=md5, x_amz_checksum_crc32=crc32).status_code == 201


# Deleting ------------------------------------------------------------------------------------------------------


def test_deleting_a_file(site, user):
    site.put("/files/x", b"x", user)
    site.put("/files/folder/y", b"y", user)
    answer = site.delete("/files/x", user)
    assert (answer.status_code, answer.content) == (204, b"") and not {"content-length", "content-type"} & set(answer.headers)
    assert site.get("/files/x", user).status_code == 404
    assert [site.delete(path, user).status_code for path in ("/files/x", "/files/never", "/files/no/such/folder")] == [204] * 3
    assert site.stored.keys(user.prefix) == [f"{user.prefix}folder/y"]


def test_deleting_a_folder_deletes_nothing(site, user):
    site.put("/files/folder/y", b"y", user)
    # An object of this name need not be there for S3; versitygw knows that a folder is.
    assert site.delete("/files/folder", user).status_code in (204, 409)
    for path in ("/files/folder/", "/files/"):
        refused(site.delete(path, user), 400, "invalid_file_name")
    assert site.stored.keys(user.prefix) == [f"{user.prefix}folder/y"]


CONDITIONS = [{"If-None-Match": "*"}, {"If-None-Match": '"x"'}, {"If-Unmodified-Since": "Wed, 25 Nov 2026 17:00:00 GMT"}, {"If-Modified-Since": "x"}]


@pytest.mark.parametrize("fields", CONDITIONS)
def test_deleting_on_a_condition_that_is_not_supported(site, user, fields):
    site.put("/files/x", b"x", user)
    refused(site.delete("/files/x", user, **fields), 400, "unsupported_precondition")
    assert site.stored.keys(user.prefix) == [f"{user.prefix}x"]


def deletes_on_conditions(site):
    if site.stored.server == "minio":
        pytest.skip("MinIO ignores If-Match of DELETE")


def test_deleting_only_what_was_seen(site, user):
    deletes_on_conditions(site)
    tag = site.put("/files/x", b"x", user).headers["etag"]
    for other in ('"other"', f"W/{tag}", '"a", "b"', f'"a", W/{tag}'):
        refused(site.delete("/files/x", user, If_Match=other), 412, "precondition_failed")
    assert site.stored.keys(user.prefix) == [f"{user.prefix}x"]
    assert site.delete("/files/x", user, If_Match=tag).status_code == 204 and site.stored.keys(user.prefix) == []


@pytest.mark.parametrize("tags", ["*", "{}", '"other", {}', 'W/"other",{} , "b"'])
def test_deleting_what_is_among_those_that_were_seen(site, user, tags):
    tag = site.put("/files/x", b"x", user).headers["etag"]
    assert site.delete("/files/x", user, If_Match=tags.format(tag)).status_code == 204
    assert site.stored.keys(user.prefix) == []


@pytest.mark.parametrize("tags", ["*", '"x"', '"x", "y"'])
def test_deleting_on_condition_what_is_not_there(site, user, tags):
    """RFC 9110 section 13.1.1: without a file there is none of these tags."""
    deletes_on_conditions(site)
    refused(site.delete("/files/x", user, If_Match=tags), 412, "precondition_failed")


# Conditions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_storing_only_what_is_not_there(site, user, way):
    path, folder, data = WAYS[way]
    assert site.put(path, data, user, If_None_Match="*").status_code == 201
    refused(site.put(path, b"?" + data, user, If_None_Match="*"), 412, "precondition_failed")
    assert site.unchanged(f"{folder}/{user.id}/") == {f"{folder}/{user.id}/x": data}
    site.settled()


@pytest.mark.parametrize("tags", ["*", '"x"', '"x", "y"', 'W/"x"'])
@pytest.mark.parametrize("way", WAYS)
def test_storing_only_over_what_is_not_there(site, user, way, tags):
    """RFC 9110 section 13.1.1: the condition fails; that there is no file yet is no 404 of a PUT."""
    path, folder, data = WAYS[way]
    refused(site.put(path, data, user, If_Match=tags), 412, "precondition_failed")
    site.settled()
    assert site.stored.keys(f"{folder}/{user.id}/") == []


@pytest.mark.parametrize("way", WAYS)
def test_storing_only_over_what_was_seen(site, user, way):
    path, folder, data = WAYS[way]
    seen = site.put(path, data, user).headers["etag"]
    for other in ('"x"', '"x", "y"', f"W/{seen}", f'"x", W/{seen}', "W/" + seen + ', "x"'):
        refused(site.put(path, b"?" + data, user, If_Match=other), 412, "precondition_failed")
    assert site.stored.get(f"{folder}/{user.id}/x") == data
    for new, good in ((b"1", "{}"), (b"2", '"x", {}'), (b"3", 'W/"x",{}, "y"'), (b"4", "*")):
        seen = site.get(path, user).headers["etag"]
        assert site.put(path, new + data, user, If_Match=good.format(seen)).status_code == 201, good
        assert site.stored.get(f"{folder}/{user.id}/x") == new + data
    site.settled()


def test_a_file_where_a_folder_would_be(site, user):
    """S3 keeps both names; stores in a file system cannot."""
    assert site.put("/files/a", b"a", user).status_code == site.put("/files/b/c", b"c", user).status_code == 201
    below, above = site.put("/files/a/b", b"b", user), site.put("/files/b", b"b", user)
    if site.stored.server in ("directory", "versitygw"):
        refused(below, 409, "conflict")
        refused(above, 409, "conflict")
        assert site.unchanged(user.prefix) == {f"{user.prefix}a": b"a", f"{user.prefix}b/c": b"c"}
    else:
        assert (below.status_code, above.status_code) == (201, 201)
    assert site.get("/files/a", user).content == b"a" and site.get("/files/b/c", user).content == b"c"
