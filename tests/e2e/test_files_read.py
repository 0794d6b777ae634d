"""Files come as they are stored, byte for byte, to every client; and nothing else comes with them."""

import hashlib
import json
import random
import subprocess
import unicodedata

import pytest

from conftest import HERE
from filesites import body_of, encoded, refused, site, user  # noqa: F401
from wire import Wire

SIZES = {"empty": 0, "one_byte": 1, "64_kib": 65536, "64_kib_and_one": 65537, "100_mib": 100 * 2**20}
# Fields of an answer with a file. Nothing else is let through: that is what shows that nothing of S3 leaks.
ALWAYS = {"content-type", "content-length", "etag", "last-modified", "cache-control", "accept-ranges", "x-content-type-options", "content-security-policy", "x-request-id", "date"}
SOMETIMES = {"connection", "vary"}
CHECKSUMS = {f"x-amz-checksum-{kind}" for kind in ("crc32", "crc32c", "crc64nvme", "sha1", "sha256", "type")}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def contents():
    return {name: random.Random(size).randbytes(size) for name, size in SIZES.items()}


# Clients -------------------------------------------------------------------------------------------------------


def by_httpx(site, path, account, http2):
    with site.client(http2) as client, client.stream("GET", path, headers={"Authorization": f"Bearer {account.access}"}) as answer:
        assert (answer.status_code, answer.http_version) == (200, "HTTP/2" if http2 else "HTTP/1.1")
        hash, size = hashlib.sha256(), 0
        for chunk in answer.iter_raw():
            hash.update(chunk)
            size += len(chunk)
    assert size == int(answer.headers["content-length"])
    return hash.hexdigest()


def by_curl(site, path, account, http2):
    version = "--http2" if http2 else "--http1.1"
    args = ["curl", "-sS", "--fail", "--cacert", site.ca, version, "-H", f"Authorization: Bearer {account.access}", "-w", "%{stderr}%{http_version}", site.url + path]
    done = subprocess.run(args, capture_output=True, timeout=120)
    assert done.returncode == 0 and done.stderr == (b"2" if http2 else b"1.1"), done.stderr
    return sha256(done.stdout)


def by_node(site, path, account, http2):
    if http2:
        pytest.skip("Node's fetch speaks HTTP/1.1")
    done = subprocess.run(["node", HERE / "servers/fetch.mjs", "GET", site.gateway.url + path, account.access], capture_output=True, text=True, timeout=120, check=True)
    answer = json.loads(done.stdout)
    assert answer["status"] == 200 and answer["size"] == int(answer["headers"]["content-length"])
    return answer["sha256"]


@pytest.mark.parametrize("http2", [False, True], ids=["http/1.1", "http/2"])
@pytest.mark.parametrize("client", [by_httpx, by_curl, by_node])
@pytest.mark.parametrize("size", SIZES)
def test_a_file_comes_byte_for_byte(site, user, contents, size, client, http2):
    """What was stored behind the gateway's back, read through it."""
    site.stored.put(f"{user.prefix}x", contents[size])
    assert client(site, "/files/x", user, http2) == sha256(contents[size])


@pytest.mark.parametrize("client", ["httpx", "curl", "node"])
@pytest.mark.parametrize("size", SIZES)
def test_a_file_is_stored_byte_for_byte(site, user, contents, size, client, tmp_path):
    """What was stored through the gateway, read behind its back."""
    file = tmp_path / "file"
    file.write_bytes(contents[size])
    if client == "httpx":
        assert site.put("/files/x", contents[size], user).status_code == 201
    elif client == "curl":
        args = ["curl", "-sS", "--fail", "-T", file, "--cacert", site.ca, "--http2", "-H", f"Authorization: Bearer {user.access}", "-H", "Content-Type: a/b", f"{site.url}/files/x"]
        subprocess.run(args, check=True, capture_output=True, timeout=120)
        assert site.stored.content_type(f"{user.prefix}x") == "a/b"
    else:
        args = ["node", HERE / "servers/fetch.mjs", "PUT", f"{site.gateway.url}/files/x", user.access, file]
        assert json.loads(subprocess.run(args, capture_output=True, text=True, timeout=120, check=True).stdout)["status"] == 201
    assert sha256(site.stored.get(f"{user.prefix}x")) == sha256(contents[size])


# Names ---------------------------------------------------------------------------------------------------------

NAMES = [
    "a b", " a", "a ", "a+b", "100%", "50% off", "%41", "a;b", "a;b=c", "a#b", "#", "a?b", "?", "a&b", "a=b", "a'b", 'a"b', "a`b", "<a>", "a|b", "a:b", "a@b", "$a", "a,b", "(a)", "[a]", "{a}", "a^b", "~a", "*",
    "caf\u00e9", "cafe\u0301", "日本語/ファイル", "😀", "\ufeffx", "\u202ea", "a\u00a0b", "ÄÖÜß", "İı", "\U0010ffff", "..a", "a..", "...", ".hidden", "x/.hidden/y", "list", "share=x", "a.tar.gz", "-rf", "CON", "a" * 255,
    "/".join(["d" * 255] * 3 + ["e" * 132]), "/".join(["é" * 127] * 3 + ["e" * 130]), "a/" * 400 + "b",
]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: f"{name[:12]!r}-{len(name.encode())}")
def test_a_name_stays_as_it_is(site, user, name):
    """Both ways. Nothing is normalised, so that what others stored is found."""
    path = "/files/" + encoded(name)
    site.stored.put(user.prefix + name, name.encode())
    assert site.get(path, user).content == name.encode()
    if site.stored.server == "versitygw" and len(name.split("/")[-1].encode()) > 200:
        # It makes its temporary file's name longer, and so cannot replace this one: 409.
        site.stored.delete(user.prefix + name)
    answer = site.put(path, b"new", user)
    assert answer.status_code == 201 and site.get(answer.headers["location"], user).content == b"new"
    assert site.unchanged(user.prefix) == {user.prefix + name: b"new"}
    assert site.delete(path, user).status_code == 204 and site.stored.keys(user.prefix) == []


def test_composed_and_decomposed_names_are_two(site, user):
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    site.put(f"/files/{encoded(composed)}", b"NFC", user)
    assert site.get(f"/files/{encoded(decomposed)}", user).status_code == 404
    site.put(f"/files/{encoded(decomposed)}", b"NFD", user)
    assert site.unchanged(user.prefix) == {user.prefix + composed: b"NFC", user.prefix + decomposed: b"NFD"}


def test_case_and_spelling_of_a_name(site, user):
    site.stored.put(f"{user.prefix}a b", b"x")
    assert [site.get(path, user).status_code for path in ("/files/A%20b", "/files/a+b", "/files/a%2520b", "/files/a%20b/")] == [404] * 4
    assert [site.get(path, user).status_code for path in ("/files/%61%20b", "/files/a%20%62")] == [200] * 2


# What comes with a file ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("http2", [False, True], ids=["http/1.1", "http/2"])
def test_the_fields_of_an_answer(site, user, http2):
    site.put("/files/x", b"hello", user, Content_Type="text/html; charset=utf-8")
    with site.client(http2) as client:
        answer = client.get("/files/x", headers={"Authorization": f"Bearer {user.access}"})
    fields = dict(answer.headers)
    assert ALWAYS <= set(fields) <= ALWAYS | SOMETIMES | CHECKSUMS
    assert len(fields) == len(answer.headers.raw)
    assert fields["content-type"] == "text/html; charset=utf-8" and fields["content-length"] == "5"
    assert (fields["cache-control"], fields["vary"]) == ("private, no-cache", "Authorization")
    assert (fields["accept-ranges"], fields["x-content-type-options"], fields["content-security-policy"]) == ("bytes", "nosniff", "sandbox")


def test_the_fields_of_a_part_and_of_no_news(site, user):
    site.put("/files/x", b"hello", user)
    tag = site.get("/files/x", user).headers["etag"]
    part = site.get("/files/x", user, Range="bytes=1-2")
    assert part.status_code == 206 and ALWAYS <= set(part.headers) <= ALWAYS | SOMETIMES | {"content-range"}
    unchanged = site.get("/files/x", user, If_None_Match=tag)
    assert unchanged.status_code == 304 and set(unchanged.headers) - {"connection"} == {"etag", "last-modified", "cache-control", "vary", "x-request-id", "date"}


def test_nothing_of_s3_is_seen(site, user):
    """Whatever others said about an object when they stored it."""
    if site.stored.kind != "s3":
        pytest.skip("of S3 only")
    more = {"Metadata": {"owner": "secret-owner"}, "CacheControl": "public, max-age=999", "ContentDisposition": "inline; filename=secret", "Expires": "Wed, 25 Nov 2099 17:00:00 GMT"}
    if site.stored.server != "minio":
        more["WebsiteRedirectLocation"] = "https://secret.example/"
    site.stored.put(f"{user.prefix}x", b"hello", "text/plain", ContentEncoding="x-odd", ContentLanguage="de", **more)
    answers = [site.get("/files/x", user), site.head("/files/x", user), site.get("/files/x", user, Range="bytes=0-1"), site.get("/files/x", user, If_None_Match="*"),
               site.get("/files/x", user, If_Match='"x"'), site.get("/files/x", user, Range="bytes=9-"), site.get("/files/none", user), site.head("/files/none", user), site.get("/files/?list", user)]
    assert [answer.status_code for answer in answers] == [200, 200, 206, 304, 412, 416, 404, 404, 200]
    for answer in answers:
        assert set(answer.headers) <= ALWAYS | SOMETIMES | CHECKSUMS | {"content-range", "content-encoding", "content-language"}, answer.headers
        raw = b"".join(name + value for name, value in answer.headers.raw) + (b"" if answer.status_code == 200 else answer.content)
        for secret in ("secret", "2099", "999", site.stored.name, str(site.stored.s3.port), site.stored.s3.access_key, "amz-id", "amz-request", "VERSITY", "MinIO", "<Code", "Signature"):
            assert secret.encode().lower() not in raw.lower(), (secret, raw)
    assert answers[0].headers["cache-control"] == "private, no-cache"
    assert (answers[0].headers["content-encoding"], answers[0].headers["content-language"]) == ("x-odd", "de")


def test_b51_files_of_a_caller_are_in_no_shared_cache(site, user):
    site.put("/files/x", b"x", user)
    for answer in (site.get("/files/x", user), site.head("/files/x", user), site.get("/read/x", user), site.get("/files/x", user, Range="bytes=0-0"), site.get("/files/x", user, If_None_Match="*")):
        assert answer.status_code in (200, 206, 304) and answer.headers["cache-control"].startswith("private") and answer.headers["vary"] == "Authorization"
    assert site.get("/read/x", user).headers["cache-control"] == "private, max-age=60"
    for answer in (site.get("/files/none", user), site.get("/files/x"), site.get("/files/?list", user)):
        assert answer.headers["cache-control"] == "no-store"


def test_b51_public_files_are_anybodys(site, user):
    site.stored.put("public/a/x.txt", b"hello", "text/plain")
    for account in (None, user):
        plain, lasting = site.get("/public/a/x.txt", account), site.get("/assets/a/x.txt", account)
        assert plain.content == lasting.content == b"hello"
        assert (plain.headers["cache-control"], lasting.headers["cache-control"]) == ("public, max-age=300", "public, max-age=31536000, immutable")
        assert "vary" not in plain.headers and "vary" not in lasting.headers and "set-cookie" not in plain.headers
    assert site.get("/public/a/x.txt", Authorization="Bearer nonsense").content == b"hello"
    assert site.get("/public/none").headers["cache-control"] == "no-store"


@pytest.mark.parametrize(("sent", "read"), [(None, "application/octet-stream"), ("binary/octet-stream", "application/octet-stream"), ("image/svg+xml", "image/svg+xml"), ("TEXT/html", "TEXT/html")])
def test_the_type_of_a_file(site, user, sent, read):
    site.put("/files/x", b"x", user, **({"Content-Type": sent} if sent else {}))
    assert site.get("/files/x", user).headers["content-type"] == read


DOWNLOADS = {
    "": 'attachment; filename="a b.txt"',
    "=": 'attachment; filename="a b.txt"',
    "=report.pdf": 'attachment; filename="report.pdf"',
    "=na%C3%AFve%20%E2%82%AC.txt": "attachment; filename=\"na_ve _.txt\"; filename*=UTF-8''na%C3%AFve%20%E2%82%AC.txt",
    "=100%25.txt": "attachment; filename=\"100_.txt\"; filename*=UTF-8''100%25.txt",
    "=a%22%3B%20filename%3Dx.exe": "attachment; filename=\"a_; filename=x.exe\"; filename*=UTF-8''a%22%3B%20filename%3Dx.exe",
    "=a%0D%0ASet-Cookie%3A%20x%3Dy": 'attachment; filename="aSet-Cookie: x=y"',
    "=a%00b%7F%1B%E2%80%AEc": 'attachment; filename="abc"',
    "=..%2F..%2Fetc%2Fpasswd": 'attachment; filename="passwd"',
    "=C%3A%5CWindows%5Cx.exe": 'attachment; filename="x.exe"',
    "=..": "attachment", "=%2F": "attachment", "=%20": "attachment",
    "=%FF.txt": "attachment; filename=\"_.txt\"; filename*=UTF-8''%EF%BF%BD.txt",
    "=a+b": 'attachment; filename="a b"',
}


@pytest.mark.parametrize("query", DOWNLOADS, ids=lambda query: query or "own_name")
def test_a_file_to_be_saved(site, user, query):
    """RFC 6266 and RFC 8187; a name does not leave its field, nor name a folder."""
    site.stored.put(f"{user.prefix}f/a b.txt", b"x", "text/plain")
    for answer in (site.get(f"/files/f/a%20b.txt?download{query}", user), site.head(f"/files/f/a%20b.txt?download{query}", user)):
        assert answer.status_code == 200 and answer.headers["content-disposition"] == DOWNLOADS[query]
        assert set(answer.headers) <= ALWAYS | SOMETIMES | CHECKSUMS | {"content-disposition"}
    assert site.get(f"/files/f/a%20b.txt?download{query}&download=x", user).status_code == 400


# Connections ---------------------------------------------------------------------------------------------------


def test_many_requests_on_one_connection(site, user):
    """Files, parts, nothing new, nothing there, refusals: the next request begins where the last one ended."""
    site.stored.put(f"{user.prefix}x", b"hello" * 1000)
    site.stored.put(f"{user.prefix}empty", b"")
    tag = site.get("/files/x", user).headers["etag"]
    turns = [("GET", "/files/x", {}, 200), ("HEAD", "/files/x", {}, 200), ("GET", "/files/x", {"If-None-Match": tag}, 304), ("GET", "/files/none", {}, 404), ("HEAD", "/files/none", {}, 404),
             ("GET", "/files/x", {"Range": "bytes=5-9"}, 206), ("GET", "/files/x", {"Range": "bytes=5000-"}, 416), ("GET", "/files/empty", {}, 200), ("GET", "/files/x", {"If-Match": '"y"'}, 412), ("DELETE", "/files/none", {}, 204)]
    bodies = {"/files/x": b"hello" * 1000, "/files/empty": b""}
    with Wire(site.gateway.port) as wire:
        for method, path, fields, status in turns * 5:
            answer = wire.send(body_of(method, path, None, user, **fields)).response(method)
            assert (answer.status, answer.get("connection")) == (status, "keep-alive"), (method, path, answer)
            if (method, status) == ("GET", 200):
                assert answer.body == bodies[path]
            elif status == 206:
                assert answer.body == b"hello"


def test_a_get_with_a_body(site, user):
    """It means nothing, and the connection stays in step."""
    site.stored.put(f"{user.prefix}x", b"hello")
    with Wire(site.gateway.port) as wire:
        for method, path, status in (("GET", "/files/x", 200), ("HEAD", "/files/x", 200), ("GET", "/files/none", 404), ("DELETE", "/files/none", 204)):
            answer = wire.send(body_of(method, path, 20, user) + b"GET / HTTP/1.1\r\n\r\nxx").response(method)
            assert answer.status == status
        assert wire.send(body_of("GET", "/files/x", None, user, Transfer_Encoding="chunked") + b"5\r\nhello\r\n0\r\n\r\n").response().body == b"hello"
        assert wire.send(body_of("GET", "/files/x", None, user)).response().body == b"hello"


def test_requests_in_one_packet(site, user):
    site.stored.put(f"{user.prefix}x", b"hello")
    with Wire(site.gateway.port) as wire:
        wire.send(body_of("GET", "/files/x", None, user) * 3 + body_of("GET", "/files/none", None, user))
        assert [wire.response().status for _ in range(4)] == [200, 200, 200, 404]


def test_what_is_not_there(site, user):
    refused(site.get("/files/none", user), 404, "file_not_found")
    refused(site.get("/files/no/such/folder/none", user), 404, "file_not_found")
    refused(site.get("/files/none", user, Range="bytes=0-1", If_None_Match="*"), 404, "file_not_found")
    head = site.head("/files/none", user)
    assert (head.status_code, head.content) == (404, b"")
