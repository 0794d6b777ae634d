"""What REDbot and httplint, who know RFC 9110, 9111 and their like by heart, have to say about file routes."""

import json
import subprocess
import sys

import pytest

from conftest import HERE, serving
from file_routes import Client, FolderFiles, S3Files, files_route

METHODS = ["GET", "PUT", "DELETE"]
# Notes of level WARN, and why they stay.
KNOWN = {
    # "public, max-age=300": needed only where a client sends Authorization to a route that asks for none, and then wanted.
    "STORE_PUBLIC_UNNECESSARY",
}


@pytest.fixture(scope="module", params=["s3", "directory"])
def notes(request, tmp_path_factory):
    """Everything that is noted of requests of every kind, by request."""
    folder = tmp_path_factory.mktemp(request.param)
    files = S3Files(request.getfixturevalue("s3")) if request.param == "s3" else FolderFiles(folder)
    config = files.table() + files_route("/files/{*key}", "media", "users/{sub}/", methods=METHODS, list=True, share="1h", max_size="1MiB", types=["text/*", "application/json", "image/png"])
    config += files_route("/public/{*key}", "media", "public/", 'auth = "none"', public=True)
    with serving(folder, config) as gateway:
        account, client = gateway.register(), Client(gateway.port)
        text = b"The quick brown fox jumps over the lazy dog.\n" * 400
        for name, kind in [("a.txt", "text/plain; charset=utf-8"), ("a.json", "application/json"), ("a b%25.txt", "text/plain")]:
            status, fields, _ = client.call("PUT", f"/files/{name.replace(' ', '%20')}", account.access, text, Content_Type=kind)
            assert status == 201, name
        client.call("PUT", "/files/empty.txt", account.access, b"", Content_Type="text/plain")
        etag, modified = (client.call("HEAD", "/files/a.txt", account.access)[1][name] for name in ("ETag", "Last-Modified"))
        files.put("public/a.txt", text)
        links = {method: json.loads(client.call("POST", f"/files/{method}.txt?share", account.access, json.dumps({"method": method}).encode())[2])["url"] for method in ("GET", "PUT")}
        client.call("PUT", "/files/GET.txt", account.access, text, Content_Type="text/plain")
        bearer = ["Authorization", f"Bearer {account.access}"]

        def wanted(path, *headers, method="GET", token=True, **more):
            return {"url": gateway.url + path, "method": method, "headers": [*([bearer] if token else []), *headers], **more}

        requests = {
            "private": wanted("/files/a.txt", active=True), "json": wanted("/files/a.json", active=True), "odd name": wanted("/files/a%20b%25.txt"), "empty": wanted("/files/empty.txt", active=True),
            "public": wanted("/public/a.txt", token=False, active=True), "link": wanted(links["GET"], token=False, active=True), "download": wanted("/files/a.txt?download=na%C3%AFve.txt"),
            "head": wanted("/files/a.txt", method="HEAD"), "part": wanted("/files/a.txt", ["Range", "bytes=5-99"]), "part by tag": wanted("/files/a.txt", ["Range", "bytes=5-99"], ["If-Range", etag]),
            "last part": wanted("/files/a.txt", ["Range", "bytes=-7"]), "several parts": wanted("/files/a.txt", ["Range", "bytes=1-2,4-5"]), "beyond": wanted("/files/a.txt", ["Range", "bytes=99999-"]),
            "not modified": wanted("/files/a.txt", ["If-None-Match", etag]), "not modified since": wanted("/files/a.txt", ["If-Modified-Since", modified]),
            "head not modified": wanted("/files/a.txt", ["If-None-Match", etag], method="HEAD"), "failed condition": wanted("/files/a.txt", ["If-Match", '"other"']),
            "absent": wanted("/files/absent.txt"), "head absent": wanted("/files/absent.txt", method="HEAD"), "public absent": wanted("/public/absent.txt", token=False), "folder": wanted("/files/a/"),
            "list": wanted("/files/?list", active=False), "list page": wanted("/files/?list&limit=1"), "no token": wanted("/files/a.txt", token=False), "bad link": wanted("/files/a.txt?share=x", token=False),
            "put": wanted("/files/new.txt", ["Content-Type", "text/plain"], ["Content-Length", "3"], method="PUT", content="new"),
            "put by link": wanted(links["PUT"], ["Content-Type", "text/plain"], ["Content-Length", "3"], method="PUT", content="new", token=False),
            "put of a wrong type": wanted("/files/new.bin", ["Content-Type", "application/x-sh"], ["Content-Length", "3"], method="PUT", content="new"),
            "delete": wanted("/files/new.txt", method="DELETE"), "method not allowed": wanted("/public/a.txt", method="DELETE", token=False),
        }
        done = subprocess.run([sys.executable, HERE / "redbot_notes.py"], input=json.dumps(requests), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert set(requests) <= set(found)
        yield found


STATUSES = {
    "private": 200, "public": 200, "link": 200, "head": 200, "part": 206, "part by tag": 206, "last part": 206, "several parts": 200, "beyond": 416, "not modified": 304, "not modified since": 304,
    "head not modified": 304, "failed condition": 412, "absent": 404, "head absent": 404, "folder": 404, "list": 200, "no token": 401, "bad link": 403, "put": 201, "put by link": 201,
    "put of a wrong type": 415, "delete": 204, "method not allowed": 405, "private range": 206, "public range": 206, "public etag_validate": 304, "private lm_validate": 304,
}


def test_the_requests_are_what_they_are_called(notes):
    seen = {name: notes[name]["status"] for name in STATUSES if name in notes}
    assert seen == STATUSES
    assert not [name for name, entry in notes.items() if entry["error"]], notes


def test_nothing_is_bad(notes):
    """No answer breaks a rule: of caching, of ranges, of validators, or any other."""
    bad = [(name, note, summary) for name, entry in notes.items() for level, note, summary in entry["notes"] if level == "BAD"]
    assert bad == []


def test_nothing_is_doubtful_that_we_do_not_know_of(notes):
    doubtful = {(name, note, summary) for name, entry in notes.items() for level, note, summary in entry["notes"] if level == "WARN" and note not in KNOWN}
    assert doubtful == set()


def test_private_files_stay_out_of_shared_caches(notes):
    """SECURITY 51, in REDbot's words."""
    for name in ("private", "json", "empty", "part", "list", "link", "download", "not modified"):
        found = {note for _, note, _ in notes[name]["notes"]}
        assert {"STORE_PRIVATE_CC", "STORE_NO_STORE"} & found and not {"STORE_STORABLE", "FRESHNESS_FRESH", "STALE_SERVABLE"} & found, (name, found)
    assert {"STORE_STORABLE", "FRESHNESS_FRESH"} <= {note for _, note, _ in notes["public"]["notes"]}
