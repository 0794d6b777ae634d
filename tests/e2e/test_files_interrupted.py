"""S3 that falls silent, closes or makes up its mind too early, at every stage of a request; and clients who leave meanwhile."""

import contextlib
import json
import socket
import struct
import threading
import time

import pytest

from conftest import eventually, serving
from fake_s3 import ETAG, OBJECT, FakeS3, an_object, answer, error, good, head
from file_routes import Client, code_of, files_route
from wire import Wire, get

UNAVAILABLE, TIMEOUT, BROKEN = (503, "file_store_unavailable"), (504, "file_store_timeout"), (502, "file_store_error")
ROUTE = files_route("/files/{*key}", "media", "users/{sub}/", methods=["GET", "PUT", "DELETE"], list=True, share="1h", max_size="64MiB")
BIG = b"0123456789abcdef" * 65536 * 8  # 8 MiB: more than all buffers on the way hold.


class Site:
    def __init__(self, gateway, fake):
        self.gateway, self.fake, self.account = gateway, fake, gateway.register()
        self.bearer = f"Authorization: Bearer {self.account.access}"
        self.client = Client(gateway.port, timeout=30)

    def ask(self, method, name="x", body=None, **headers):
        status, fields, content = self.client.call(method, f"/files/{name}", self.account.access, body, **headers)
        return status, code_of(content) if status >= 400 else content

    def each(self, operation):
        method, name, body = {"LIST": ("GET", "?list", None), "PUT": ("PUT", "x", b"small")}.get(operation, (operation, "x", None))
        status, rest = self.ask(method, name, body)
        return status if operation == "HEAD" else (status, rest)

    def download(self, name="x", *fields):
        with Wire(self.gateway.port, timeout=30) as wire:
            return wire.send(get(f"/files/{name}", "localhost", self.bearer, *fields)).response()

    def works(self):
        self.fake.script, self.fake.accepting = good, True
        # On a busy machine a second may pass without an answer.
        eventually(lambda: self.ask("GET")[0] != 504, what="S3 answering in time")
        for _ in range(3):
            assert self.ask("GET") == (200, OBJECT)
            assert self.ask("PUT", body=b"content")[0] == 201
            assert self.ask("DELETE")[0] == 204
            assert [entry["key"] for entry in json.loads(self.ask("GET", "?list")[1])["objects"]] == ["x"]

    def cause(self, before):
        return eventually(lambda: [line["cause"] for line in self.log() if "cause" in line][before:], what="the cause in the log")

    def log(self):
        return [json.loads(line) for line in self.gateway.process.stderr().splitlines() if line.startswith("{")]

    def causes(self):
        return len([line for line in self.log() if "cause" in line])


def started(folder, read):
    fake = FakeS3()
    timeouts = f'{{ connect = "500ms", read = "{read}", write = "{read}" }}'
    with serving(folder, fake.table(timeouts=timeouts) + ROUTE) as gateway:
        yield Site(gateway, fake)
    fake.stop()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    yield from started(tmp_path_factory.mktemp("interrupted"), "1s")


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    """The same with so much patience that nothing of what is tested can be the end of it."""
    yield from started(tmp_path_factory.mktemp("patient"), "120s")


@pytest.fixture(autouse=True)
def afterwards(request):
    yield
    for name in {"site", "patient"} & set(request.fixturenames):
        here = request.getfixturevalue(name)
        here.works()
        assert here.gateway.metric("portcullis_panics_total") == 0
        assert here.fake.ended.clear() is None


def hang(request):
    request.connection.settimeout(60)
    while request.connection.recv(65536):
        pass
    request.close()


STAGES = {
    "before the answer": b"", "in the status line": b"HTTP/1.1 20", "behind the status line": b"HTTP/1.1 200 OK\r\n", "in a field": b"HTTP/1.1 200 OK\r\nETa",
    "behind an interim answer": b"HTTP/1.1 100 Continue\r\n\r\n", "before the end of the head": b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n",
}
OPERATIONS = ["GET", "HEAD", "PUT", "DELETE", "LIST"]


# Silence costs a second each time.
SILENT = ["before the answer", "in a field", "behind an interim answer"]
ENDS = [(stage, how) for stage in STAGES for how in ("closes", "resets", "falls silent") if how != "falls silent" or stage in SILENT]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("stage, how", ENDS)
def test_s3_ends_before_its_answer(site, stage, operation, how):
    """Nothing was answered: 503 when the connection is gone, 504 when it is silent; never a success, and nobody waits for ever."""
    def script(request):
        request.body()
        if STAGES[stage]:
            request.send(STAGES[stage])
        {"closes": lambda r: r.close(), "resets": lambda r: r.reset(), "falls silent": hang}[how](request)

    site.fake.script, before = script, site.causes()
    expected = TIMEOUT if how == "falls silent" else UNAVAILABLE
    assert site.each(operation) == (expected[0] if operation == "HEAD" else expected)
    assert site.cause(before)


def test_s3_refuses_connections(site):
    """As when it is restarted: 503 with Retry-After, for every operation."""
    site.fake.hang_up()
    site.fake.accepting = False
    for operation in OPERATIONS:
        got = site.each(operation)
        assert got == (503 if operation == "HEAD" else UNAVAILABLE), operation
    # A link is made without S3.
    assert site.ask("POST", "x?share", b"")[0] == 201


@pytest.mark.parametrize("how", ["closes", "resets", "falls silent"])
@pytest.mark.parametrize("size", [0, 1, 10, 19])
def test_s3_ends_in_the_middle_of_an_object(site, how, size):
    """The client can tell: the connection ends before the length that was promised."""
    def script(request):
        request.send(head(200, f"ETag: {ETAG}", length=20) + OBJECT[:size])
        {"closes": lambda r: r.close(), "resets": lambda r: r.reset(), "falls silent": hang}[how](request)

    site.fake.script, before = script, site.causes()
    got = site.download()
    # A reset overtakes what was sent before it.
    assert (got.status, got.complete) == (200, False) and OBJECT.startswith(got.body) and (how == "resets" or len(got.body) == size)
    assert site.cause(before)


@pytest.mark.parametrize("size", [0, 1, 10])
def test_what_has_come_is_sent_while_the_rest_is_waited_for(site, size):
    """Small pieces wait for others only as long as S3 has them at hand: here it sends no more before the client has these."""
    received = threading.Event()

    def script(request):
        request.send(head(200, f"ETag: {ETAG}", length=20) + OBJECT[:size])
        received.wait(10)
        request.send(OBJECT[size:])

    site.fake.script = script
    with Wire(site.gateway.port, timeout=30) as wire:
        wire.send(get("/files/x", "localhost", site.bearer))
        assert wire.head().status == 200 and wire.take(size) == OBJECT[:size]
        received.set()
        assert wire.take(20 - size) == OBJECT[size:]


def test_the_access_log_says_that_an_object_broke_off(site):
    """The status went out before: only the code tells a whole answer from half of one."""
    def script(request):
        request.send(head(200, f"ETag: {ETAG}", length=20) + OBJECT[:10])
        request.close()

    site.fake.script = script
    assert not site.download("broken-off").complete
    # Found by its path: the line of a test before may come late.
    line = eventually(lambda: next((line for line in site.gateway.access_log() if line["path"] == "/files/broken-off"), None), what="a line")
    assert (line["status"], line["code"], line["bytes_out"]) == (200, "file_store_unavailable", 10)


@pytest.mark.parametrize("what", ["head", "body", "interim answers"])
def test_s3_answers_slowly(site, what):
    """A byte now and then is an answer, as long as it comes in time."""
    whole = b"HTTP/1.1 102 Processing\r\n\r\n" * 5 + an_object() if what == "interim answers" else an_object()
    split = whole.index(b"\r\n\r\n") + 4
    slow, rest = (whole[:split][-20:], whole[split:]) if what == "head" else (whole[split:], b"")

    def script(request):
        request.send(whole[: len(whole) - len(slow) - len(rest)])
        for byte in slow[:20]:
            time.sleep(0.03)
            request.send(bytes([byte]))
        request.send(slow[20:] + rest)

    site.fake.script = script
    assert site.download().body == OBJECT


@pytest.mark.parametrize("piece", [b"X-Canary: y\r\n", b"y"], ids=["fields", "bytes of one field"])
@pytest.mark.parametrize("operation", ["GET", "PUT"])
def test_s3_never_ends_its_head(site, piece, operation):
    """Each byte comes in time, and the last one never: there has to be another end to it than the client's patience."""
    stop = threading.Event()

    def script(request):
        request.body()
        request.send(b"HTTP/1.1 200 OK\r\nX: ")
        while not stop.wait(0.05):
            request.send(piece)

    site.fake.script, site.client = script, Client(site.gateway.port, timeout=15)
    try:
        assert site.each(operation) in (TIMEOUT, BROKEN, UNAVAILABLE)
    finally:
        stop.set()
        site.client = Client(site.gateway.port, timeout=30)


@pytest.mark.parametrize("operation", ["GET", "PUT"])
def test_s3_never_ends_its_interim_answers(site, operation):
    stop = threading.Event()

    def script(request):
        request.body()
        while not stop.wait(0.05):
            request.send(b"HTTP/1.1 102 Processing\r\n\r\n")

    site.fake.script, site.client = script, Client(site.gateway.port, timeout=15)
    try:
        assert site.each(operation) in (TIMEOUT, BROKEN, UNAVAILABLE)
    finally:
        stop.set()
        site.client = Client(site.gateway.port, timeout=30)


# Uploads ---------------------------------------------------------------------------------------------------


def upload(site, body=BIG, *fields):
    """The answer to a PUT whose body is sent as far as the gateway takes it."""
    with Wire(site.gateway.port, timeout=30) as wire:
        wire.send(get("/files/x", "localhost", site.bearer, f"Content-Length: {len(body)}", *fields, method="PUT"), body)
        return wire.response("PUT")


AFTERWARDS = {"closes": lambda r: r.close(), "stops reading": lambda r: hang_without_reading(r), "reads on": lambda r: r.body()}


def hang_without_reading(request):
    eventually(lambda: gone(request.connection), 60, "the gateway having closed")
    request.close()


def gone(connection):
    """Whether the other side has closed, whatever was sent before."""
    state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    return struct.unpack("B", state)[0] not in (1,)  # ESTABLISHED


@pytest.mark.parametrize("then", AFTERWARDS)
def test_s3_refuses_an_upload_early(site, then):
    """What S3 refuses in the middle of an upload is told to the client, who need not send the rest."""
    def script(request):
        request.more()
        request.send(error("AccessDenied", 403))
        AFTERWARDS[then](request)

    site.fake.script, before = script, site.causes()
    got = upload(site)
    assert (got.status, code_of(got.body)) == BROKEN and b"canary" not in got.body.lower()
    assert "AccessDenied" in str(site.cause(before))


@pytest.mark.parametrize("then", AFTERWARDS)
def test_s3_accepts_an_upload_before_it_is_there(site, then):
    """A 200 to half a file is no success: nobody knows what was stored."""
    def script(request):
        request.more()
        request.send(answer(200, b"", f"ETag: {ETAG}"))
        AFTERWARDS[then](request)

    site.fake.script = script
    # Where S3 reads on, the file may be sent to its end.
    got = upload(site)
    if (got.status, code_of(got.body)) != BROKEN:
        assert then == "reads on" and got.status == 201, got
        eventually(lambda: site.fake.requests[-1].received == BIG, what="S3 having the whole")


@pytest.mark.parametrize("how", ["closes", "resets", "falls silent"])
@pytest.mark.parametrize("read", [0, 100_000])
def test_s3_ends_in_the_middle_of_an_upload(site, how, read):
    def script(request):
        while len(request.received) < read:
            request.more()
        {"closes": lambda r: r.close(), "resets": lambda r: r.reset(), "falls silent": hang_without_reading}[how](request)

    site.fake.script, before = script, site.causes()
    got = upload(site)
    assert (got.status, code_of(got.body)) == (TIMEOUT if how == "falls silent" else UNAVAILABLE)
    assert site.cause(before)


# Connections kept ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["while nobody uses it", "when it is used again"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_kept_connection_that_s3_has_closed(site, operation, when):
    """A connection kept from before is no promise: the first request after it was closed goes over another."""
    used = set()

    def once(request):
        """Answers the first request of every connection."""
        if id(request.connection) in used:
            request.body()
            request.close()
        used.add(id(request.connection))
        good(request)

    site.works()
    if when == "while nobody uses it":
        site.fake.hang_up()
    else:
        site.fake.script = once
    for _ in range(4):
        got = site.each(operation)
        assert got in (200, 204) or got[0] in (200, 201, 204), got


def test_kept_connection_and_a_large_upload(site):
    """What can no longer be sent again because it was not kept fails, and is not stored in part."""
    used = set()

    def once(request):
        if id(request.connection) in used:
            while len(request.received) < 1_000_000:
                request.more()
            request.close()
        used.add(id(request.connection))
        good(request)

    site.fake.script = once
    assert site.ask("GET") == (200, OBJECT)
    got = upload(site)
    assert (got.status, code_of(got.body)) == UNAVAILABLE or (got.status == 201 and site.fake.requests[-1].received == BIG)


def test_fresh_connections_that_close_are_not_tried_for_ever(site):
    site.fake.script = lambda request: request.close()
    before = site.fake.connections
    for operation in OPERATIONS:
        assert site.each(operation) in (503, UNAVAILABLE)
    assert site.fake.connections - before <= 2 * len(OPERATIONS) + 10


# Clients who leave -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["waiting for the answer", "in the middle of the object", "waiting for a listing"])
def test_client_leaves_while_s3_hangs(patient, where):
    """Nobody waits for an answer that nobody wants: S3 sees the connection close."""
    reached, left = threading.Event(), threading.Event()

    def script(request):
        if where == "in the middle of the object":
            request.send(head(200, f"ETag: {ETAG}", length=len(BIG)) + BIG[:100_000])
        reached.set()
        request.connection.settimeout(60)
        with contextlib.suppress(ConnectionError):
            if request.connection.recv(1) != b"":
                return
        left.set()
        request.close()

    patient.fake.script = script
    with Wire(patient.gateway.port) as wire:
        wire.send(get("/files/?list" if "listing" in where else "/files/x", "localhost", patient.bearer))
        assert reached.wait(20)
        if where == "in the middle of the object":
            wire.head()
    assert left.wait(20), "the connection to S3 stays open for a client who is gone"


def test_client_leaves_in_the_middle_of_an_upload(patient):
    """What is incomplete is not stored: S3 sees the connection close before the end."""
    ended = []

    def script(request):
        try:
            request.body()
        except ConnectionError:
            ended.append(len(request.received))
            raise
        good(request)

    patient.fake.script = script
    with Wire(patient.gateway.port) as wire:
        wire.send(get("/files/x", "localhost", patient.bearer, f"Content-Length: {len(BIG)}", method="PUT"), BIG[:3_000_000])
        eventually(lambda: patient.fake.requests and patient.fake.requests[-1].method == "PUT" and len(patient.fake.requests[-1].received) > 1_000_000, what="the upload running")
    eventually(lambda: ended, what="S3 seeing the end")
    assert ended[0] <= 3_000_000


def test_client_that_pipelines_during_a_download(patient):
    """A second request behind the first is no reason to end the first (RFC 9112 section 9.3.2)."""
    proceed = threading.Event()

    def script(request):
        if request.path.endswith("/slow"):
            request.send(head(200, f"ETag: {ETAG}", length=len(BIG)) + BIG[:100_000])
            assert proceed.wait(20)
            return request.send(BIG[100_000:])
        good(request)

    patient.fake.script = script
    with Wire(patient.gateway.port, timeout=30) as wire:
        wire.send(get("/files/slow", "localhost", patient.bearer))
        first = wire.head()
        assert first.status == 200
        wire.send(get("/files/x", "localhost", patient.bearer), get("/files/x", "localhost", patient.bearer))
        # Both are at the gateway before S3 goes on.
        other = patient.download()
        assert other.body == OBJECT
        proceed.set()
        assert wire.take(len(BIG)) == BIG
        assert [wire.response().body for _ in range(2)] == [OBJECT, OBJECT]


def test_client_that_reads_slowly(patient):
    """S3's connection waits for the client, not the other way round, and nothing is kept in memory meanwhile."""
    sent = []

    def script(request):
        request.send(head(200, f"ETag: {ETAG}", length=len(BIG) * 4))
        for _ in range(0, len(BIG) * 4, 65536):
            request.send(BIG[:65536])
            sent.append(time.monotonic())

    patient.fake.script = script
    with Wire(patient.gateway.port, timeout=30) as wire:
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        wire.send(get("/files/x", "localhost", patient.bearer)).head()
        eventually(lambda: sent and time.monotonic() - sent[-1] > 0.5, 20, "S3 having to wait")
        assert len(sent) * 65536 < len(BIG) * 4, "all of it was taken from S3, and is in memory"
        for _ in range(len(BIG) * 4 // 65536):
            assert wire.take(65536) == BIG[:65536]
