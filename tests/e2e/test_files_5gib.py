"""Large files pass through in a stream: whole, and without memory of their size.

The file of 5 GiB, the largest one PUT of S3 takes, is for FILES_5GIB=1 only: it takes minutes and 16 GB of disk.
"""

import hashlib
import os
import shutil

import pytest

from filesites import body_of, file_site
from wire import Wire

MIB = 2**20
GIB = 2**30
ROUTES = """
[[routes]]
path = "/files/{*key}"
files = { store = "media", prefix = "users/{sub}/", methods = ["GET", "PUT", "DELETE"], max_size = "5GiB" }
[[routes]]
path = "/parts/{*key}"
files = { store = "parts", prefix = "users/{sub}/", methods = ["GET", "PUT", "DELETE"], max_size = "40MiB" }
"""
PATTERN = bytes(range(256)) * (MIB // 256 - 1) + bytes(248)


@pytest.fixture(scope="module", params=["s3", "directory"])
def site(request, tmp_path_factory):
    s3 = request.getfixturevalue("s3") if request.param == "s3" else None
    with file_site(tmp_path_factory.mktemp("large"), request.param, s3, ROUTES) as made:
        yield made


def blocks(size):
    """Blocks of 1 MiB, each with its number in it."""
    for number in range(size // MIB):
        yield number.to_bytes(8, "big") + PATTERN


def peak(site):
    """The most memory the gateway ever had, in bytes."""
    with open(f"/proc/{site.gateway.process.process.pid}/status") as status:
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024


def upload(site, path, size, account):
    """Status of the answer, and the hash of what was sent."""
    sent = hashlib.sha256()
    with Wire(site.gateway.port, timeout=600) as wire:
        wire.socket.sendall(body_of("PUT", path, size, account))
        for block in blocks(size):
            sent.update(block)
            wire.socket.sendall(block)
        return wire.response().status, sent.hexdigest()


def download(site, path, account):
    """Length and hash of what came."""
    came, size, buffer = hashlib.sha256(), 0, bytearray(MIB)
    with Wire(site.gateway.port, timeout=120) as wire:
        answer = wire.send(body_of("GET", path, None, account, Connection="close")).head()
        assert answer.status == 200
        came.update(wire.buffer)
        size += len(wire.buffer)
        while count := wire.socket.recv_into(buffer):
            came.update(memoryview(buffer)[:count])
            size += count
    assert size == int(answer.get("content-length"))
    return size, came.hexdigest()


def there_and_back(site, path, size):
    account = site.user()
    assert upload(site, path, 20 * MIB, account)[0] == 201 and download(site, path, account)[0] == 20 * MIB
    before = peak(site)
    try:
        status, sent = upload(site, path, size, account)
        assert status == 201 and site.stored.size(f"{account.prefix}x") == size
        assert download(site, path, account) == (size, sent)
        last = site.get(path, account, Range=f"bytes={size - MIB}-")
        assert last.status_code == 206 and last.content == (size // MIB - 1).to_bytes(8, "big") + PATTERN
    finally:
        site.stored.delete(f"{account.prefix}x")
    grown = peak(site) - before
    print(f"\n{site.stored.server}: {size} bytes there and back, peak of memory {peak(site)} bytes, {grown} more than before")
    assert grown <= 64 * MIB
    assert site.stored.keys() == [] and not site.stored.unfinished()


def test_a_file_of_5_gib(site):
    if not os.environ.get("FILES_5GIB"):
        pytest.skip("FILES_5GIB is not set")
    if shutil.disk_usage(site.gateway.folder).free < 16e9:
        pytest.skip("less than 16 GB of disk are free")
    there_and_back(site, "/files/x", 5 * GIB)


def test_a_file_of_40_mib_in_parts_of_5_mib(site):
    there_and_back(site, "/parts/x", 40 * MIB)


def test_one_byte_more_than_the_largest(site):
    account = site.user()
    for path, limit in (("/files/x", 5 * GIB), ("/parts/x", 40 * MIB)):
        with Wire(site.gateway.port) as wire:
            answer = wire.send(body_of("PUT", path, limit + 1, account, Expect="100-continue")).response(interim=True)
            assert answer.status == 413 and str(limit).encode() in answer.body
    assert site.stored.keys() == []
