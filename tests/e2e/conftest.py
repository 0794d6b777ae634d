"""Starts the real binary and real backends for the end-to-end tests.

Every server listens on a free port of its own and is stopped at the end of the test (or session) that started it. Tests wait for
conditions through `eventually`, never for time.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid

import httpx
import pytest

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
BINARY = pathlib.Path(os.environ.get("PORTCULLIS_BIN", ROOT / "target/debug/portcullis"))
PASSWORD = "correct horse battery staple"


GIVEN = set()


def free_port() -> int:
    """A port that nobody listens on, and that was not given to anybody before: the system may offer the same one twice."""
    while True:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        if port not in GIVEN:
            GIVEN.add(port)
            return port


def eventually(condition, timeout=10.0, what="condition"):
    """The first truthy value of `condition()`; fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout} s"
        threading.Event().wait(0.01)


def can_connect(port) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class Process:
    """A child process whose output goes to files; killed when the guard goes."""

    def __init__(self, args, folder, name, env=None, cwd=None):
        self.stdout_path, self.stderr_path = folder / f"{name}.out", folder / f"{name}.err"
        # Appended to: a restarted gateway continues its log.
        with open(self.stdout_path, "ab") as out, open(self.stderr_path, "ab") as err:
            self.process = subprocess.Popen(
                [str(a) for a in args], stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                env={**os.environ, **(env or {})}, cwd=cwd or folder,
            )

    def stdout(self) -> str:
        return self.stdout_path.read_text(errors="replace")

    def stderr(self) -> str:
        return self.stderr_path.read_text(errors="replace")

    def stop(self, how=signal.SIGKILL):
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(timeout=20)


class Gateway:
    """A running portcullis. `config` is TOML without [server] listen/admin, which are set here."""

    def __init__(self, folder, config, server="", env=None, cost=4, issuer=None, tokens="", extra_listen=""):
        self.folder, self.port, self.admin_port = folder, free_port(), free_port()
        self.env = env or {}
        self.url = f"http://127.0.0.1:{self.port}"
        self.issuer = issuer or self.url
        self.file = folder / "gateway.toml"
        passwords = "" if "[passwords]" in config else f"[passwords]\ncost = {cost}\n"
        self.file.write_text(
            f'[server]\nlisten = ["127.0.0.1:{self.port}"{extra_listen}]\nadmin = "127.0.0.1:{self.admin_port}"\n{server}\n'
            f'[tokens]\nissuer = "{self.issuer}"\n{tokens}\n{passwords}{config}\n'
        )
        self.process = None

    def start(self):
        self.process = Process([BINARY, "run", "-c", self.file], self.folder, "gateway", env=self.env)
        def up():
            if self.process.process.poll() is not None:
                pytest.fail(f"the gateway ended:\n{self.process.stderr()}\n{self.file.read_text()}")
            return can_connect(self.port) and can_connect(self.admin_port)
        eventually(up, 20, "the gateway listening")
        return self

    def stop(self, how=signal.SIGKILL):
        return self.process.stop(how) if self.process else None

    def restart(self, how=signal.SIGKILL):
        self.stop(how)
        return self.start()

    def cli(self, *args, stdin=None, check=True):
        """Runs `portcullis ARGS -c FILE`."""
        done = subprocess.run(
            [str(BINARY), *args, "-c", str(self.file)], input=stdin, capture_output=True, text=True,
            cwd=self.folder, env={**os.environ, **self.env}, timeout=60,
        )
        if check:
            assert done.returncode == 0, f"{args}: {done.stdout}{done.stderr}"
        return done

    # Calls -------------------------------------------------------------------------------------------------

    def request(self, method, path, token=None, **kw):
        headers = dict(kw.pop("headers", {}))
        if token:
            headers["Authorization"] = f"Bearer {token}"
        with httpx.Client(timeout=30, follow_redirects=False) as client:
            return client.request(method, self.url + path, headers=headers, **kw)

    def get(self, path, token=None, **kw):
        return self.request("GET", path, token, **kw)

    def post(self, path, body=None, token=None, **kw):
        return self.request("POST", path, token, json=body, **kw) if body is not None else self.request("POST", path, token, **kw)

    def register(self, email=None, password=PASSWORD, **more):
        email = email or f"{uuid.uuid4().hex}@example.com"
        answer = self.post("/auth/register", {"email": email, "password": password, **more})
        assert answer.status_code == 201, answer.text
        return Account(email, password, answer.json())

    def login(self, email, password=PASSWORD, **kw):
        return self.post("/auth/login", {"email": email, "password": password}, **kw)

    def refresh(self, refresh_token):
        return self.post("/auth/refresh", {"refresh_token": refresh_token})

    def metrics(self) -> str:
        return httpx.get(f"http://127.0.0.1:{self.admin_port}/metrics").text

    def metric(self, sample) -> float:
        """The value of a sample such as `name{label="x"}`, 0 when absent."""
        for line in self.metrics().splitlines():
            if line.startswith(sample + " "):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def access_log(self):
        return [json.loads(line) for line in self.process.stdout().splitlines()]

    # Raw sockets -------------------------------------------------------------------------------------------

    def raw(self, data: bytes, timeout=10, half_close=False) -> bytes:
        """Sends `data` as it is and reads until the gateway closes (or `timeout` without a byte)."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as s:
            with contextlib.suppress(OSError):
                s.sendall(data)
                if half_close:
                    s.shutdown(socket.SHUT_WR)
            answer = b""
            with contextlib.suppress(OSError):
                while chunk := s.recv(65536):
                    answer += chunk
            return answer

    def raw_status(self, data: bytes, **kw) -> int:
        """The status of the first response to `data`; 0 when the connection closed without one."""
        answer = self.raw(data, **kw)
        return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


class Account:
    def __init__(self, email, password, tokens):
        self.email, self.password = email, password
        self.take(tokens)

    def take(self, tokens):
        self.tokens = tokens
        self.access, self.refresh, self.id = tokens["access_token"], tokens["refresh_token"], tokens["user"]["id"]
        return self


class Backend:
    """The Node backend: a real HTTP server that counts and records what it receives."""

    def __init__(self, folder):
        self.process = Process(["node", HERE / "servers/backend.mjs"], folder, f"backend-{uuid.uuid4().hex[:6]}")
        line = eventually(lambda: self.process.stdout().strip(), 20, "the backend listening")
        self.port = int(line.split()[1])
        self.address = f"127.0.0.1:{self.port}"

    def requests(self):
        """Every request received since the last `forget`, parsed by Node."""
        return httpx.get(f"http://{self.address}/__requests").json()

    def forget(self):
        httpx.delete(f"http://{self.address}/__requests")

    def stop(self):
        self.process.stop()


def fields(recorded) -> list[tuple[str, str]]:
    """Name and value of every field of a recorded request, in order, names as received."""
    raw = recorded["rawHeaders"]
    return list(zip(raw[::2], raw[1::2]))


class RawBackend:
    """A TCP server that keeps every byte it receives, parses nothing but the end of the head, and answers 200."""

    def __init__(self, answer=b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"):
        self.received, self.answer, self.connections = [], answer, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                conn, _ = self.listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, conn):
        buffer = bytearray()
        self.received.append(buffer)
        with contextlib.suppress(OSError), conn:
            answered = 0
            while chunk := conn.recv(65536):
                buffer += chunk
                while buffer.count(b"\r\n\r\n") > answered:
                    answered += 1
                    conn.sendall(self.answer)

    def bytes(self) -> bytes:
        return b"".join(bytes(b) for b in self.received)

    def stop(self):
        self.listener.close()


@pytest.fixture
def gateways(tmp_path):
    """`gateways(config, ...)` starts a gateway in a folder of its own."""
    started = []

    def start(config="", **kw):
        folder = tmp_path / f"gateway-{len(started)}"
        folder.mkdir()
        gateway = Gateway(folder, config, **kw)
        started.append(gateway)
        return gateway.start()

    yield start
    for gateway in started:
        gateway.stop()


@pytest.fixture
def backends(tmp_path):
    started = []

    def start():
        started.append(Backend(tmp_path))
        return started[-1]

    yield start
    for backend in started:
        backend.stop()


@pytest.fixture
def backend(backends):
    return backends()


@pytest.fixture
def raw_backend():
    server = RawBackend()
    yield server
    server.stop()


API = """
[upstreams.api]
servers = ["{address}"]

[[routes]]
path = "/api/{{*rest}}"
upstream = "api"

[[routes]]
path = "/public/{{*rest}}"
upstream = "api"
auth = "none"

[[routes]]
path = "/optional/{{*rest}}"
upstream = "api"
auth = "optional"

[[routes]]
path = "/admin/{{*rest}}"
upstream = "api"
require = {{ roles = ["admin"] }}

[[routes]]
path = "/stripped/{{*rest}}"
upstream = "api"
strip_prefix = "/stripped"

[[routes]]
path = "/echo/{{*rest}}"
echo = true
"""


@pytest.fixture
def api(gateways, backend):
    """A gateway with the usual routes in front of the Node backend; `api.backend` is the backend."""
    gateway = gateways(API.format(address=backend.address))
    gateway.backend = backend
    return gateway


@pytest.fixture(scope="module")
def shared_api(tmp_path_factory):
    """The same for a whole module, for tests that leave no traces others would mind."""
    folder = tmp_path_factory.mktemp("shared")
    backend = Backend(folder)
    gateway = Gateway(folder, API.format(address=backend.address))
    gateway.backend = backend
    try:
        yield gateway.start()
    finally:
        gateway.stop()
        backend.stop()


def pytest_configure(config):
    if not BINARY.exists():
        sys.exit(f"{BINARY} is missing: cargo build first, or use tests/run")
    if shutil.which("node") is None:
        sys.exit("node is missing: run .ci/setup")


@contextlib.contextmanager
def serving(folder, config, **kw):
    """A gateway for longer than a test: `with serving(folder, config) as gateway` in a fixture of any scope."""
    gateway = Gateway(folder, config, **kw)
    try:
        yield gateway.start()
    finally:
        gateway.stop()


def pytest_report_header():
    from s3 import s3_kind
    from servers import mongodb_kind

    none = "none (tests/servers/build makes one)"
    return [f"MongoDB: {mongodb_kind() or none}", f"S3: {s3_kind() or none}"]


@pytest.fixture
def redis(tmp_path):
    """A Redis of its own for one test."""
    from servers import Redis

    server = Redis(tmp_path)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def mongo(tmp_path_factory):
    """One MongoDB for all tests that leave it as it is; `mongo.users()` is a configuration with a database of its own."""
    from servers import MongoServer

    server = MongoServer(tmp_path_factory.mktemp("mongodb"), anybodys=True)
    yield server
    server.stop()


@pytest.fixture
def fleets(tmp_path):
    """`fleets(redis, ...)` gives a fleet without gateways yet."""
    from servers import Fleet

    started = []

    def make(redis, **kw):
        folder = tmp_path / f"fleet-{len(started)}"
        folder.mkdir()
        started.append(Fleet(folder, redis, **kw))
        return started[-1]

    yield make
    for fleet in started:
        fleet.stop()


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    """One S3 server for all tests that leave it as it is; `s3.bucket()` is a bucket for one of them."""
    from s3 import S3Server

    server = S3Server(tmp_path_factory.mktemp("s3"), anybodys=True)
    yield server
    server.stop()


@pytest.fixture
def s3_own(tmp_path):
    """An S3 server of its own for one test, which may stop or pause it."""
    from s3 import S3Server

    server = S3Server(tmp_path)
    yield server
    server.stop()
