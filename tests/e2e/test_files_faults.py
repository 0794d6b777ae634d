"""SECURITY part C for S3: killed, paused, restarted, cut off. Files are whole or absent, nobody hangs, and all works again within 5 s."""

import contextlib
import hashlib
import http.client
import os
import signal
import threading

import httpx
import pytest

from conftest import eventually, serving
from file_routes import Client, S3Files, code_of, files_route
from relay import Relay
from servers import in_parallel
from wire import Closed, Wire, get

RECOVERY = 5
TIMEOUTS = '{ connect = "500ms", read = "500ms", write = "500ms" }'
OUTCOME = 'portcullis_file_operations_total{{operation="{operation}",outcome="{outcome}",store="media"}}'


class Site:
    """A gateway, a relay, and an S3 server of its own behind it."""

    def __init__(self, gateway, server, relay, files):
        self.gateway, self.server, self.relay, self.files = gateway, server, relay, files
        self.account = gateway.register()
        self.prefix, self.bearer = f"users/{self.account.id}/", f"Authorization: Bearer {self.account.access}"
        self.client = Client(gateway.port, timeout=30)

    def ask(self, method, name="x", body=None, **headers):
        status, fields, content = self.client.call(method, f"/files/{name}", self.account.access, body, **headers)
        return status, code_of(content) if status >= 400 else content

    def wire(self, method, name, *fields, rest=b""):
        wire = Wire(self.gateway.port, timeout=30)
        return wire.send(get(f"/files/{name}", "localhost", self.bearer, *fields, method=method), rest)

    def recovers(self):
        """Everything goes well again, soon."""
        for method, name, body, good in [("GET", "x", None, 200), ("PUT", "y", b"y", 201), ("DELETE", "y", None, 204), ("GET", "?list", None, 200)]:
            eventually(lambda: self.ask(method, name, body)[0] == good, RECOVERY, f"{method} {name} going well")
        eventually(lambda: self.ready()[0] == 200, RECOVERY, "being ready")

    def ready(self, query=""):
        answer = httpx.get(f"http://127.0.0.1:{self.gateway.admin_port}/readyz{query}", timeout=10)
        return answer.status_code, answer.json()

    def outcome(self, operation, outcome):
        return self.gateway.metric(OUTCOME.format(operation=operation, outcome=outcome))

    def stored(self, name):
        """An object as the server has it, `None` when there is none."""
        with contextlib.suppress(self.files.client.exceptions.NoSuchKey):
            return self.files.read(self.prefix + name)


def site_with(tmp_path, server, **extra):
    relay, files = Relay(server.port), S3Files(server)
    table = files.table(endpoint=f"http://127.0.0.1:{relay.port}", **extra) + f"timeouts = {TIMEOUTS}\n"
    route = files_route("/files/{*key}", "media", "users/{sub}/", methods=["GET", "PUT", "DELETE"], list=True, share="1h", max_size="1GiB")

    @contextlib.contextmanager
    def running():
        with serving(tmp_path, table + route) as gateway:
            site = Site(gateway, server, relay, files)
            files.put(site.prefix + "x", b"x")
            assert site.ask("GET") == (200, b"x")
            yield site
            assert gateway.metric("portcullis_panics_total") == 0
        relay.stop()

    return running()


@pytest.fixture
def site(tmp_path, s3_own):
    with site_with(tmp_path, s3_own) as site:
        yield site


@pytest.fixture
def in_parts(tmp_path, s3_own):
    """The same, with uploads in parts from 5 MiB on."""
    with site_with(tmp_path, s3_own, multipart_above="5MiB") as site:
        yield site


DOWN = {
    "refused": (lambda s: s.relay.cut(), lambda s: s.relay.mend(), (503, "file_store_unavailable"), "unreachable"),
    "killed": (lambda s: s.server.stop(), lambda s: s.server.start(), (503, "file_store_unavailable"), "unreachable"),
    "paused": (lambda s: s.server.pause(), lambda s: s.server.resume(), (504, "file_store_timeout"), "timeout"),
    "network hangs": (lambda s: s.relay.hold(), lambda s: s.relay.mend(), (504, "file_store_timeout"), "timeout"),
    "slow beyond the limit": (lambda s: s.relay.slow(2), lambda s: s.relay.mend(), (504, "file_store_timeout"), "timeout"),
    "reset in mid-reply": (lambda s: s.relay.truncate(5), lambda s: s.relay.mend(), (503, "file_store_unavailable"), "unreachable"),
    "garbage": (lambda s: s.relay.speak(b"\x15\x03\x01 200 OK\r\n\xff\r\n"), lambda s: s.relay.mend(), (502, "file_store_error"), "broken"),
}


@pytest.mark.parametrize("fault", DOWN)
def test_c_s3(site, fault):
    """Each operation says what is the matter, /readyz and metrics tell the operator, and it is over when S3 is back."""
    begin, end, expected, outcome = DOWN[fault]
    for _ in range(3):  # Kept connections, of which some will turn out to be gone.
        site.ask("GET"), site.ask("PUT", "z", b"z")
    begin(site)
    try:
        for operation, method, name, body in [("read", "GET", "x", None), ("write", "PUT", "new", b"new"), ("delete", "DELETE", "z", None), ("list", "GET", "?list", None)]:
            before = site.outcome(operation, outcome)
            assert site.ask(method, name, body) == expected, method
            assert site.outcome(operation, outcome) > before, operation
        status, fields, _ = site.client.call("GET", "/files/x", site.account.access)
        assert status == expected[0] and ("Retry-After" in fields) == (status == 503)
        status, report = eventually(lambda: (r := site.ready())[0] == 503 and r, 10, "/readyz telling of it")
        assert report["file_stores"]["media"] != "ok" and report["sessions"] == "ok" and not report["ready"], report
        assert site.ready("?exclude=file_stores")[0] == 200
        # What needs no S3 goes on.
        assert site.gateway.get("/auth/me", site.account.access).status_code == 200
        assert site.gateway.login(site.account.email).status_code == 200
        assert site.ask("GET", "../x")[0] == 400 and site.ask("PUT", "x", b"", Content_Range="bytes 0-0/1")[0] == 400
    finally:
        end(site)
    site.recovers()
    assert site.ready()[1]["file_stores"] == {"media": "ok"}
    # A silent S3 may have heard of it after all; then it heard all.
    assert site.stored("new") in (None, b"new")


def test_c_s3_slow_within_the_limit(site):
    site.relay.slow(0.1)
    for method, name, body, good in [("GET", "x", None, 200), ("PUT", "y", b"y", 201), ("GET", "?list", None, 200), ("DELETE", "y", None, 204)]:
        assert site.ask(method, name, body)[0] == good, method
    eventually(lambda: site.ready()[0] == 200, 5)


def test_kept_connections_after_a_restart(site):
    """The first GET, PUT and DELETE after a restart of S3 succeed: connections from before are no obstacle."""
    def warm(_):
        client = Client(site.gateway.port)
        for _ in range(3):
            assert client.call("GET", "/files/x", site.account.access)[0] == 200
        client.close()

    for method, name, body, good in [("GET", "x", None, 200), ("PUT", "y", b"y" * 1000, 201), ("DELETE", "y", None, 204), ("HEAD", "x", None, 200), ("GET", "?list", None, 200)]:
        in_parallel(warm, range(12))
        site.server.stop()
        site.server.start()
        assert site.ask(method, name, body)[0] == good, method


MIB = 1 << 20
LARGE = os.urandom(MIB) * 32


def test_s3_killed_in_the_middle_of_downloads(site):
    """Nobody takes half a file for a whole one, and nobody waits for the rest."""
    site.files.put(site.prefix + "large", LARGE)
    wires = [site.wire("GET", "large") for _ in range(4)]
    heads = [wire.head() for wire in wires]
    assert all((head.status, head.get("content-length")) == (200, str(len(LARGE))) for head in heads)
    for wire in wires:
        assert wire.take(MIB) == LARGE[:MIB]
    site.server.stop()

    def rest(wire):
        with pytest.raises(Closed):
            wire.take(len(LARGE) - MIB)
        return len(wire.buffer)

    assert max(in_parallel(rest, wires)) < len(LARGE) - MIB
    assert eventually(lambda: "broke off" in site.gateway.process.stderr(), what="the log")
    site.server.start()
    site.recovers()
    assert site.ask("GET", "large") == (200, LARGE)


def test_s3_pauses_in_the_middle_of_a_download(site):
    """Within the limit it goes on as if nothing had happened; beyond, the connection ends."""
    site.files.put(site.prefix + "large", LARGE)
    with site.wire("GET", "large") as wire:
        wire.head()
        assert wire.take(MIB) == LARGE[:MIB]
        site.server.pause()
        with pytest.raises(Closed):
            wire.take(len(LARGE) - MIB)
    site.server.resume()
    site.recovers()


@pytest.mark.parametrize("fault", ["killed", "paused"])
@pytest.mark.parametrize("place", ["site", "in_parts"])
def test_s3_ends_in_the_middle_of_an_upload(request, place, fault):
    """What was there stays; what is told to be stored is stored."""
    site = request.getfixturevalue(place)
    assert site.ask("PUT", "large", b"old")[0] == 201
    begin, end, expected, _ = DOWN[fault]
    with site.wire("PUT", "large", f"Content-Length: {len(LARGE)}", rest=LARGE[: 12 * MIB]) as wire:
        eventually(lambda: site.relay.requests > 6 * MIB, what="the upload running")
        begin(site)
        sender = threading.Thread(target=wire.send, args=(LARGE[12 * MIB:],), daemon=True)
        sender.start()
        try:
            answer = wire.response("PUT")
            # In parts, S3 is asked anew in between.
            assert (answer.status, code_of(answer.body)) in (expected, (503, "file_store_unavailable"), (504, "file_store_timeout"))
        except Closed:
            pass
    sender.join(30)
    end(site)
    site.recovers()
    eventually(lambda: site.stored("large") in (b"old", LARGE), 10, "the old file or the new one")
    assert site.ask("PUT", "large", LARGE)[0] == 201
    assert site.ask("GET", "large") == (200, LARGE)


@pytest.mark.parametrize("place, size", [("site", 2 * MIB), ("in_parts", 11 * MIB)])
def test_thirty_uploads_while_s3_is_killed(request, place, size):
    """Each of thirty files is whole or absent, and there if its client was told so."""
    site = request.getfixturevalue(place)
    contents = {f"f{n}": bytes([n]) * size for n in range(30)}
    killer = threading.Thread(target=lambda: (eventually(lambda: site.relay.requests > 10 * MIB, 30), site.server.stop()), daemon=True)
    killer.start()

    def put(name):
        client = Client(site.gateway.port, timeout=60)
        try:
            return client.call("PUT", f"/files/{name}", site.account.access, contents[name])[0]
        except (OSError, http.client.HTTPException):
            return 0  # Closed while the rest of the body was on its way.
        finally:
            client.close()

    told = dict(zip(contents, in_parallel(put, list(contents))))
    killer.join(30)
    assert set(told.values()) <= {0, 201, 503, 504} and set(told.values()) & {0, 503}, told
    site.server.start()
    site.recovers()
    for name, status in told.items():
        found = site.stored(name)
        assert found in (None, contents[name]), (name, status, found and hashlib.md5(found).hexdigest())
        assert found or status != 201, f"{name} was told to be stored, and is not"


@pytest.mark.parametrize("place", ["site", "in_parts"])
@pytest.mark.parametrize("who", ["client", "gateway"])
def test_upload_that_ends_early_leaves_nothing(request, place, who):
    """A client or a gateway that is gone in the middle: the object is absent, and what was there before is there."""
    site = request.getfixturevalue(place)
    assert site.ask("PUT", "old", b"old")[0] == 201
    wires = [site.wire("PUT", name, f"Content-Length: {len(LARGE)}", rest=LARGE[: 12 * MIB]) for name in ("new", "old")]
    eventually(lambda: site.relay.requests > 20 * MIB, what="the uploads running")
    if who == "client":
        for wire in wires:
            wire.socket.close()
    else:
        site.gateway.restart(signal.SIGKILL)
    site.recovers()
    assert site.stored("new") is None and site.stored("old") == b"old"
    if who == "client":
        uploads = site.files.client.list_multipart_uploads
        eventually(lambda: not uploads(Bucket=site.files.bucket).get("Uploads"), 10, "uploads in parts being given up")
    assert site.files.content().keys() == {site.prefix + "x", site.prefix + "old"}


def test_client_gone_in_the_middle_of_a_download(site):
    """The transfer from S3 stops: whoever asks for large files and leaves does not make us fetch them."""
    site.files.put(site.prefix + "huge", LARGE * 4)
    before = site.relay.replies
    for _ in range(5):
        with site.wire("GET", "huge") as wire:
            assert wire.head().status == 200
            wire.take(100_000)
    site.recovers()
    eventually(lambda: site.gateway.metric('portcullis_requests_in_flight') <= 1, 10, "nobody being served")
    fetched = site.relay.replies - before
    assert fetched < len(LARGE) * 4, f"{fetched} bytes were fetched for clients who had gone"


def test_connections_that_s3_resets_now_and_then(site):
    """GET is asked again where its kept connection was gone; nothing is ever answered wrong."""
    done, statuses = threading.Event(), []

    def reset():
        while not done.wait(0.02):
            site.relay.reset()

    thread = threading.Thread(target=reset, daemon=True)
    thread.start()
    try:
        for n in range(300):
            status, content = site.ask("GET")
            statuses.append(status)
            assert status in (200, 503) and (status != 200 or content == b"x")
            if n % 5 == 0:
                assert site.ask("PUT", f"n{n}", b"n" * 1000)[0] in (201, 503)
    finally:
        done.set()
        thread.join(10)
    assert statuses.count(200) > 150
    site.recovers()
    assert {site.stored(f"n{n}") for n in range(0, 300, 5)} <= {None, b"n" * 1000}


def test_start_while_s3_is_away(site):
    """A gateway starts without its S3, and serves files when it comes."""
    site.server.stop()
    site.gateway.restart(signal.SIGTERM)
    assert site.ask("GET") == (503, "file_store_unavailable")
    site.server.start()
    site.recovers()
    assert site.ask("GET") == (200, b"x")
