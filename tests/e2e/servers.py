"""The servers of a fleet: Redis in every arrangement, MongoDB, and gateways that share them.

All of them are the real programs on free ports of this machine, and all end with the test that started them.
"""

import contextlib
import glob
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import uuid

import pytest

from conftest import ROOT, Gateway, Process, can_connect, eventually, free_port
from relay import Relay

ISSUER = "https://login.example.com"


# Redis -----------------------------------------------------------------------------------------------------


class Redis:
    """One redis-server. It keeps nothing on disk: after a restart its data is gone."""

    def __init__(self, folder, *options, port=None, mode=(), password=None):
        self.port, self.options, self.mode, self.password = port or free_port(), options, mode, password
        self.folder = folder / f"redis-{self.port}"
        self.folder.mkdir(exist_ok=True)
        self.process = None
        self.start()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    def start(self):
        args = ["redis-server", *self.mode, "--port", self.port, "--bind", "127.0.0.1", "--daemonize", "no"]
        if not self.mode:
            args += ["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"]
        self.process = Process([*args, *self.options], self.folder, "redis")
        try:
            eventually(self.answers, 10, f"Redis at {self.port} answering")
        except BaseException:
            self.process.stop()
            raise
        return self

    def answers(self):
        with contextlib.suppress(OSError, RedisError):
            return self.ask("PING") == "PONG"
        return False

    def stop(self, how=signal.SIGKILL):
        self.resume()
        return self.process.stop(how)

    def pause(self):
        self.process.process.send_signal(signal.SIGSTOP)

    def resume(self):
        if self.process.process.poll() is None:
            self.process.process.send_signal(signal.SIGCONT)

    def ask(self, *command):
        """One command on a connection of its own."""
        with Resp(self.port) as connection:
            if self.password:
                connection.ask("AUTH", self.password)
            return connection.ask(*command)

    def is_replicating(self):
        return self.says("master_link_status:up")

    def is_master(self):
        return self.says("role:master")

    def says(self, line):
        # A change of role closes connections.
        with contextlib.suppress(OSError):
            return line in self.ask("INFO", "replication")
        return False

    def replicate(self, port):
        self.ask("REPLICAOF", "127.0.0.1", port)
        eventually(self.is_replicating, 10, "the replica in step")

    def catch_up(self, master):
        """Returns when this replica has what `master` had when it was called."""
        mark = master.offset()
        eventually(lambda: self.offset() >= mark, 10, "the replica in step")

    def promote(self):
        self.ask("REPLICAOF", "NO", "ONE")

    def offset(self):
        """How much of the replication stream it has written or, as a replica, read."""
        return int(field(self.ask("INFO", "replication"), "master_repl_offset"))

    def fill(self):
        """No memory is left for anything that could need some."""
        self.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        self.ask("CONFIG", "SET", "maxmemory", 1)

    def empty(self):
        self.ask("CONFIG", "SET", "maxmemory", 0)

    @contextlib.contextmanager
    def monitor(self):
        """The lines of MONITOR while the block runs; complete when it ends."""
        lines, mark = [], uuid.uuid4().hex
        with Resp(self.port) as connection:
            assert connection.ask("MONITOR") == "OK"
            yield lines
            self.ask("ECHO", mark)
            while mark not in (line := connection.reply()):
                lines.append(line)


def port_for_a_bus():
    """A free port whose number plus 10,000, where nodes of a cluster talk, is free too."""
    while True:
        port = free_port()
        if port < 55000 and not can_connect(port + 10000):
            return port


def field(text, name):
    return next(line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith(name + ":"))


class RedisError(Exception):
    pass


class Resp:
    """A connection that speaks RESP2, as much of it as tests need."""

    def __init__(self, port, timeout=10):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.socket.close()

    def ask(self, *command):
        parts = [str(part).encode() for part in command]
        self.socket.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts))
        return self.reply()

    def reply(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise OSError("closed")
        kind, rest = line[:1], line[1:-2].decode()
        if kind == b"-":
            raise RedisError(rest)
        if kind == b"+":
            return rest
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == "-1" else self.file.read(int(rest) + 2)[:-2].decode()
        return None if rest == "-1" else [self.reply() for _ in range(int(rest))]


class Sentinel(Redis):
    """One sentinel whose word is enough, and which is quick about it."""

    def __init__(self, folder, master, name="main"):
        port = free_port()
        file = folder / f"sentinel-{port}.conf"
        file.write_text(
            f"sentinel monitor {name} 127.0.0.1 {master.port} 1\nsentinel down-after-milliseconds {name} 300\n"
            f"sentinel failover-timeout {name} 1000\n"
        )
        self.name = name
        super().__init__(folder, port=port, mode=(file, "--sentinel"))

    @property
    def url(self):
        return f"redis-sentinel://127.0.0.1:{self.port}/{self.name}"

    def master_port(self):
        return int(self.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name)[1])


class RedisCluster:
    """Three masters, a third of the slots each."""

    def __init__(self, folder):
        self.nodes = []
        try:
            self.join(folder)
        except BaseException:
            self.stop()
            raise

    def join(self, folder):
        for _ in range(3):
            options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
            self.nodes.append(Redis(folder, *options, port=port_for_a_bus()))
        addresses = [f"127.0.0.1:{node.port}" for node in self.nodes]
        made = ["redis-cli", "--cluster", "create", *addresses, "--cluster-replicas", "0", "--cluster-yes"]
        subprocess.run(made, check=True, capture_output=True, timeout=60)
        for node in self.nodes:
            eventually(lambda: "cluster_state:ok" in node.ask("CLUSTER", "INFO"), 20, "the cluster")

    @property
    def url(self):
        return "redis-cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def stop(self):
        for node in self.nodes:
            node.stop()


# MongoDB ---------------------------------------------------------------------------------------------------


def mongodb_kind():
    """Which MongoDB these tests run against."""
    if os.environ.get("TEST_MONGODB_URI"):
        return "$TEST_MONGODB_URI"
    if shutil.which("mongod"):
        version = subprocess.run(["mongod", "--version"], capture_output=True, text=True, timeout=20).stdout
        return f"mongod ({version.splitlines()[0]})"
    if (ROOT / "tests/servers/bin/mongodb-server").exists():
        return "FerretDB 1.24 (tests/servers/bin/mongodb-server)"
    return None


class MongoServer:
    """A MongoDB of our own, which keeps what it was told through SIGKILL and `start`; or, `anybodys`, the one of $TEST_MONGODB_URI."""

    def __init__(self, folder, anybodys=False):
        self.folder, self.port, self.process = folder / f"mongodb-{uuid.uuid4().hex[:6]}", free_port(), None
        self.uri = f"mongodb://127.0.0.1:{self.port}/?directConnection=true"
        if anybodys and os.environ.get("TEST_MONGODB_URI"):
            self.uri = os.environ["TEST_MONGODB_URI"]
            return
        self.folder.mkdir()
        self.start()

    def users(self, port=None):
        """The [users] of a gateway: a new database, through `port` when there is something in between."""
        uri = f"mongodb://127.0.0.1:{port}/?directConnection=true" if port else self.uri
        return f'[users]\nstore = "mongodb"\nuri = "{uri}"\ndatabase = "portcullis_{uuid.uuid4().hex[:12]}"\n'

    def start(self):
        if shutil.which("mongod"):
            args = ["mongod", "--bind_ip", "127.0.0.1", "--port", self.port, "--dbpath", self.folder, "--quiet"]
        else:
            program = ROOT / "tests/servers/bin/mongodb-server"
            args = [program, "--listen", f"127.0.0.1:{self.port}", "--data", self.folder]
        self.process = Process(args, self.folder, "mongodb")
        eventually(lambda: can_connect(self.port), 30, "MongoDB listening")
        return self

    def stop(self, how=signal.SIGKILL):
        if self.process:
            self.resume()
            self.process.stop(how)

    def pause(self):
        self.process.process.send_signal(signal.SIGSTOP)

    def resume(self):
        if self.process.process.poll() is None:
            self.process.process.send_signal(signal.SIGCONT)


# The fleet -------------------------------------------------------------------------------------------------

ROUTES = """
[throttle]
address_failures = 1000000
[[routes]]
path = "/api/{*rest}"
respond = { status = 200 }
[[routes]]
path = "/public/{*rest}"
auth = "none"
respond = { status = 200 }
"""


class Fleet:
    """Gateways that share keys, issuer and stores, and know nothing else of each other."""

    def __init__(self, folder, redis, users="", sessions="", tokens="", extra="[log]\naccess = false\n"):
        self.folder, self.redis, self.gateways, self.relays = folder, redis, [], []
        self.users, self.sessions, self.tokens, self.extra = users, sessions, tokens, extra

    def add(self, url=None, start=True, routes=ROUTES, **kw) -> Gateway:
        """One gateway more, with Redis at `url` when its way there is its own."""
        folder = self.folder / f"gateway-{len(self.gateways)}"
        folder.mkdir()
        stores = f'[sessions]\nstore = "redis"\nurl = "{url or self.redis.url}"\n{self.sessions}\n{self.users}\n'
        options = {"server": f'data_dir = "{self.folder}/data"', "issuer": ISSUER, "tokens": self.tokens, **kw}
        gateway = Gateway(folder, stores + self.extra + routes, **options)
        self.gateways.append(gateway)
        return gateway.start() if start else gateway

    def add_behind_relay(self, **kw) -> Gateway:
        """`gateway.relay` is its way to Redis."""
        relay = Relay(self.redis.port)
        self.relays.append(relay)
        gateway = self.add(f"redis://127.0.0.1:{relay.port}", **kw)
        gateway.relay = relay
        return gateway

    def balancer(self) -> Relay:
        relay = Relay(*(gateway.port for gateway in self.gateways))
        self.relays.append(relay)
        return relay

    def stop(self):
        for server in (*self.gateways, *self.relays):
            server.stop()


FAKETIME = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
needs_faketime = pytest.mark.skipif(not FAKETIME, reason="needs faketime (apt) to turn one gateway's clock")


def clock(offset):
    """The environment of a program whose clock is off by as much."""
    return {"LD_PRELOAD": FAKETIME[0], "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


class Caller:
    """A client that keeps its connection while it can, and never asks twice by itself."""

    def __init__(self, port, timeout=10):
        self.port, self.timeout, self.connection = port, timeout, None

    def ask(self, method, path, token=None, body=None):
        """Status, headers and JSON (or None) of the answer; OSError or HTTPException without one."""
        self.connection = self.connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            self.connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = self.connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException):
            self.close()
            raise
        is_json = "json" in answer.headers.get("content-type", "")
        return answer.status, answer.headers, json.loads(text) if is_json else None

    def api(self, token):
        return self.ask("GET", "/api/x", token)[0]

    def refresh(self, token):
        return self.ask("POST", "/auth/refresh", body={"refresh_token": token})

    def close(self):
        if self.connection:
            self.connection.close()
        self.connection = None


def in_parallel(work, items):
    """`work(item)` in a thread of its own for every item; the results in order, or the first exception."""
    results = [None] * len(items)

    def run(n, item):
        try:
            results[n] = work(item)
        except BaseException as error:  # Raised again below.
            results[n] = error

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(items)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results
