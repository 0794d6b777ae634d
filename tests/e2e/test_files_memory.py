"""Files go through the gateway, and do not stay in it: what many large ones at once take does not depend on how large they are.

FILES_MEMORY_MIB and FILES_MEMORY_PARALLEL say how large and how many; 200 of 100 MiB are to pass as 50 of 20 MiB do.
"""

import hashlib
import os
import threading

import pytest

from conftest import serving
from file_routes import S3Files, files_route
from servers import in_parallel
from wire import Wire, get

MIB = 1 << 20
SIZE, PARALLEL = int(os.environ.get("FILES_MEMORY_MIB", 20)), int(os.environ.get("FILES_MEMORY_PARALLEL", 50))
SMALL = max(SIZE // 4, 1)
# Of every transfer there are buffers of sockets on both sides, and no more.
OF_EACH, OF_ALL = 512 * 1024, 32 * MIB
PIECE = os.urandom(MIB)


def peak(gateway) -> int:
    """The largest resident memory there ever was, in bytes."""
    with open(f"/proc/{gateway.process.process.pid}/status") as status:
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024


@pytest.fixture
def growth(tmp_path, s3):
    """`growth(transfer, size, ...)`: by how much PARALLEL transfers at once made a new gateway grow."""
    taken = iter(range(100))

    def measured(transfer, size, files, **extra):
        folder = tmp_path / f"gateway-{next(taken)}"
        folder.mkdir()
        route = files_route("/files/{*key}", "media", "users/{sub}/", methods=["GET", "PUT"], max_size="10GiB")
        with serving(folder, "[log]\naccess = false\n" + files.table(**extra) + route) as gateway:
            account = gateway.register()
            bearer = f"Authorization: Bearer {account.access}"
            # One of each before, so that what everybody needs once is there.
            upload(gateway, bearer, "first", 1, threading.Barrier(1))
            download(gateway, bearer, "first", 1, threading.Barrier(1))
            prepare(transfer, files, account, size)
            before, together = peak(gateway), threading.Barrier(PARALLEL)
            in_parallel(lambda n: transfer(gateway, bearer, f"f{n}", size, together), range(PARALLEL))
            grown = peak(gateway) - before
            print(f"{transfer.__name__}, {PARALLEL} x {size} MiB, {extra}: {before / MIB:.1f} MiB before, {grown / MIB:.1f} MiB more")
            return grown

    return measured


def prepare(transfer, files, account, size):
    if transfer is download:
        files.put(f"users/{account.id}/f", PIECE * size)


def download(gateway, bearer, name, size, together):
    """All heads have come before anybody reads on."""
    digest, left = hashlib.blake2b(), size * MIB
    name = "f" if together.parties > 1 else name
    with Wire(gateway.port, timeout=300) as wire:
        answer = wire.send(get(f"/files/{name}", "localhost", bearer)).head()
        assert (answer.status, answer.get("content-length")) == (200, str(left))
        together.wait(300)
        left -= len(wire.buffer)
        digest.update(wire.buffer)
        while left:
            piece = wire.socket.recv(min(left, 1 << 18))
            assert piece, "the download broke off"
            digest.update(piece)
            left -= len(piece)
    assert digest.digest() == expected(size)


def upload(gateway, bearer, name, size, together):
    """All have begun before anybody goes on."""
    with Wire(gateway.port, timeout=300) as wire:
        wire.socket.sendall(get(f"/files/{name}", "localhost", bearer, f"Content-Length: {size * MIB}", method="PUT") + PIECE[:100_000])
        together.wait(300)
        wire.socket.sendall(PIECE[100_000:])
        for _ in range(size - 1):
            wire.socket.sendall(PIECE)
        assert wire.response("PUT").status == 201


def expected(size, known={}):
    if size not in known:
        digest = hashlib.blake2b()
        for _ in range(size):
            digest.update(PIECE)
        known[size] = digest.digest()
    return known[size]


@pytest.mark.parametrize("transfer, extra", [(download, {}), (upload, {}), (upload, {"multipart_above": "5MiB"})], ids=["downloads", "uploads", "uploads in parts"])
def test_memory_does_not_depend_on_the_size(growth, s3, transfer, extra):
    """Four times as large, as much memory; and little of it."""
    files = S3Files(s3)
    try:
        small, large = growth(transfer, SMALL, files, **extra), growth(transfer, SIZE, files, **extra)
    finally:
        for key in files.content():
            files.client.delete_object(Bucket=files.bucket, Key=key)
    assert large < small + OF_ALL, (small / MIB, large / MIB)
    assert large < PARALLEL * OF_EACH + OF_ALL, large / MIB
