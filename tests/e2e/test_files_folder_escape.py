"""A store that is a folder: links, pipes and sockets that lie in it lead nobody out of it, and hold nobody up."""

import contextlib
import json
import os
import shutil
import socket
import threading
import uuid

import pytest

from conftest import eventually, serving
from file_routes import Client, FolderFiles, files_route

METHODS = ["GET", "PUT", "DELETE"]


class Site:
    def __init__(self, gateway, files, outside):
        self.gateway, self.files, self.outside = gateway, files, outside
        self.a, self.b = gateway.register(), gateway.register()
        self.folder, self.other = files.folder / "users" / self.a.id, files.folder / "users" / self.b.id
        for folder in (self.folder, self.other):
            folder.mkdir(parents=True)
        self.secret = uuid.uuid4().hex.encode()
        for folder in (self.outside, self.other):
            (folder / "secret.txt").write_bytes(self.secret)
        self.client = Client(gateway.port, timeout=10)

    def call(self, method, name, body=None):
        status, headers, content = self.client.call(method, f"/files/{name}", self.a.access, body)
        assert self.secret not in content + str(headers).encode(), (method, name, status)
        assert str(self.outside).encode() not in content and b"symlink" not in content.lower(), content
        return status, content

    def untouched(self):
        return all({file.name: file.read_bytes() for file in folder.iterdir()} == {"secret.txt": self.secret} for folder in (self.outside, self.other))


@pytest.fixture
def site(tmp_path):
    files, outside = FolderFiles(tmp_path), tmp_path / "outside"
    outside.mkdir()
    route = files_route("/files/{*key}", "media", "users/{sub}/", methods=METHODS, list=True)
    with serving(tmp_path, files.table() + route) as gateway:
        yield Site(gateway, files, outside)


LINKS = {
    "to a file outside": lambda site: site.outside / "secret.txt",
    "to a file outside, by a relative path": lambda site: os.path.relpath(site.outside / "secret.txt", site.folder),
    "to another's file": lambda site: f"../{site.b.id}/secret.txt",
    "to another's file, by its whole path": lambda site: site.other / "secret.txt",
    "to nothing outside": lambda site: site.outside / "new.txt",
    "to itself": lambda site: "link",
    "to a device": lambda site: "/dev/zero",
    "to what the process has open": lambda site: "/proc/self/environ",
}


@pytest.mark.parametrize("to", LINKS)
def test_threat_link_to_a_file(site, to):
    """A link in the store is no file of the store."""
    link = site.folder / "link"
    link.symlink_to(LINKS[to](site))
    for method in ("GET", "HEAD"):
        assert site.call(method, "link")[0] in (404, 409, 502), method
    status, content = site.call("GET", "?list")
    assert status == 200 and "link" not in [entry["key"] for entry in json.loads(content)["objects"]], content
    put = site.call("PUT", "link", b"evil")[0]
    # The link may be replaced by a file of the caller's, or stay; nothing is written through it.
    assert put in (201, 409, 502) and site.untouched()
    assert put != 201 or (not link.is_symlink() and link.read_bytes() == b"evil")
    assert site.call("DELETE", "link")[0] in (204, 409, 502) and site.untouched()


@pytest.mark.parametrize("to", ["outside", "another's", "root"])
def test_threat_link_to_a_folder(site, to):
    target = {"outside": site.outside, "another's": f"../{site.b.id}", "root": "/"}[to]
    (site.folder / "link").symlink_to(target)
    for name in ("link/secret.txt", "link", "link/etc/passwd"):
        for method in ("GET", "HEAD"):
            assert site.call(method, name)[0] in (404, 409, 502), (method, name)
        assert site.call("DELETE", name)[0] in (204, 404, 409, 502) and site.untouched()
    (site.folder / "link").unlink(missing_ok=True)
    (site.folder / "link").symlink_to(target)
    assert site.call("PUT", "link/new.txt", b"evil")[0] in (404, 409, 502) and site.untouched()
    assert not os.path.exists("/new.txt")
    for query in ("?list", "?list&delimiter=/"):
        for name in ("", "link/", "link/etc/"):
            status, content = site.call("GET", name + query)
            assert status in (200, 404, 409, 502) and b"secret" not in content and b"passwd" not in content, content


def test_threat_a_callers_folder_is_a_link(site):
    """Also when the whole prefix of a caller was moved elsewhere, or to another's."""
    site.folder.rmdir()
    for target in (site.outside, site.other):
        site.folder.symlink_to(target)
        assert site.call("GET", "secret.txt")[0] in (404, 409, 502)
        assert site.call("PUT", "new.txt", b"evil")[0] in (404, 409, 502)
        assert b"secret.txt" not in site.call("GET", "?list")[1]
        assert site.untouched()
        site.folder.unlink()


def test_the_store_itself_may_be_a_link(tmp_path):
    """An operator's `path` is followed wherever it leads."""
    files = FolderFiles(tmp_path)
    real = tmp_path / "real"
    files.folder.rename(real)
    files.folder.symlink_to(real)
    with serving(tmp_path, files.table() + files_route("/files/{*key}", "media", "users/{sub}/", methods=METHODS)) as gateway:
        account, client = gateway.register(), Client(gateway.port)
        assert client.call("PUT", "/files/x", account.access, b"x")[0] == 201
        assert (real / "users" / account.id / "x").read_bytes() == b"x"


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder"])
def test_what_is_no_file_holds_nobody_up(site, kind):
    """Opening a pipe waits for its other end: for ever."""
    place = site.folder / "odd"
    with contextlib.ExitStack() as stack:
        if kind == "pipe":
            os.mkfifo(place)
        elif kind == "socket":
            here = os.getcwd()
            os.chdir(site.folder)  # The name of a socket has 108 bytes at most.
            stack.enter_context(socket.socket(socket.AF_UNIX)).bind("odd")
            os.chdir(here)
        else:
            place.mkdir()
        for method in ("GET", "HEAD"):
            for _ in range(20):
                assert site.call(method, "odd")[0] in (404, 409, 502), method
        status, content = site.call("GET", "?list")
        assert status == 200 and json.loads(content)["objects"] == [], content
        assert site.call("PUT", "odd", b"x")[0] in (201, 409, 502)
        assert site.call("PUT", "fine", b"x")[0] == 201


def test_threat_link_that_comes_and_goes(site):
    """Between a look at a folder and the use of it somebody makes it a link: what was looked at is what is used."""
    name, done, turns = site.folder / "x", threading.Event(), 0
    real, link = site.folder / "real", site.folder / "link"
    real.mkdir()
    (real / "secret.txt").write_bytes(b"mine")
    link.symlink_to(site.outside)

    def swap():
        nonlocal turns
        while not done.is_set():
            for one in (real, link):
                try:
                    os.rename(one, name)
                    os.rename(name, one)
                except OSError:
                    # The gateway has made a folder of this name meanwhile.
                    shutil.rmtree(name, ignore_errors=True)
            if not real.exists():
                real.mkdir()
                (real / "secret.txt").write_bytes(b"mine")
            turns += 1

    thread = threading.Thread(target=swap, daemon=True)
    thread.start()
    try:
        seen = set()
        for n in range(3000):
            seen.add(site.call("GET", "x/secret.txt")[0])
            if n % 10 == 0:
                site.call("PUT", "x/new.txt", b"evil")
                site.call("DELETE", "x/new.txt")
                site.call("DELETE", "x/secret.txt")
        eventually(lambda: turns > 100, what="the link having come and gone")
    finally:
        done.set()
        thread.join(10)
    assert 404 in seen and site.untouched(), seen
