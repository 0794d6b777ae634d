"""What can happen to Redis and MongoDB, and callers who watch a gateway while it does."""

import contextlib
import dataclasses
import http.client
import itertools
import shutil
import threading
import time
import uuid
from typing import Callable

import httpx

from conftest import PASSWORD, eventually
from forge import claims_of, own_key
from servers import Caller

SLOW = 0.05  # Seconds a reply takes. The limits are 0.5 (Redis) and 0.8 (MongoDB), and a second for connecting.


class World:
    """A gateway whose ways to its stores are relays, with an account, and a session that has ended."""

    def __init__(self, gateway, redis, mongo=None, sentinel=None):
        self.gateway, self.redis, self.mongo, self.sentinel = gateway, redis, mongo, sentinel
        self.replica = None
        self.account, self.ended = gateway.register(), gateway.register()
        gateway.post("/auth/logout", {"refresh_token": self.ended.refresh})
        # Of a session that nobody refreshes.
        self.token = gateway.login(self.account.email).json()["access_token"]
        key, claims = own_key(gateway), claims_of(self.token)
        self.new_token = lambda: key.token({**claims, "jti": uuid.uuid4().hex})

    def ready(self, query=""):
        answer = httpx.get(f"http://127.0.0.1:{self.gateway.admin_port}/readyz{query}", timeout=10)
        return answer.status_code, answer.json()


@dataclasses.dataclass
class Fault:
    dependency: str
    name: str
    begin: Callable
    end: Callable
    down: tuple = ("login", "refresh", "logout")  # What cannot be served.
    deaf: bool = True  # Revocations are not heard of.
    loses: bool = False  # What the store knew is gone afterwards.
    lasts: bool = True  # Until we end it; otherwise it may be over at any time.

    @property
    def parts(self):
        return ("users",) if self.dependency == "MongoDB" else ("sessions", "throttle")

    def __str__(self):
        return f"{self.dependency}-{self.name}".replace(" ", "_")


def nothing(_):
    pass


# Redis -----------------------------------------------------------------------------------------------------


def pause_clients(world):
    """Redis stays up and answers nobody; it ends by itself, since a command that ended it would wait too."""
    world.redis.ask("CLIENT", "PAUSE", 3000, "ALL")


def clients_go_on(world):
    world.redis.ask("PING")


def fail_over(world):
    world.replica.catch_up(world.redis)
    world.redis.stop()


def promoted(world):
    eventually(lambda: world.sentinel.master_port() == world.replica.port, 20, "the promotion")
    eventually(world.replica.is_master, 20, "the promotion done")


def redis_empty(world):
    world.redis.stop()


def redis_back(world):
    world.redis.start()


REDIS = [
    Fault("Redis", "refused", lambda w: w.redis.relay.cut(), lambda w: w.redis.relay.mend()),
    Fault("Redis", "hangs (SIGSTOP)", lambda w: w.redis.pause(), lambda w: w.redis.resume()),
    Fault("Redis", "hangs (CLIENT PAUSE)", pause_clients, clients_go_on, lasts=False),
    Fault("Redis", "hangs (network)", lambda w: w.redis.relay.hold(), lambda w: w.redis.relay.mend()),
    Fault("Redis", "slow, within the limit", lambda w: w.redis.relay.slow(SLOW), lambda w: w.redis.relay.mend(), down=(), deaf=False),
    Fault("Redis", "slow, just beyond the limit", lambda w: w.redis.relay.slow(0.6), lambda w: w.redis.relay.mend()),
    Fault("Redis", "slow, far beyond the limit", lambda w: w.redis.relay.slow(1.5), lambda w: w.redis.relay.mend()),
    Fault("Redis", "reset in mid-reply", lambda w: w.redis.relay.truncate(5), lambda w: w.redis.relay.mend()),
    Fault("Redis", "garbage", lambda w: w.redis.relay.speak(b"\x15\x03\x01 200 OK\r\n\xff$-7\r\n"), lambda w: w.redis.relay.mend()),
    Fault("Redis", "full memory", lambda w: w.redis.fill(), lambda w: w.redis.empty(), down=("login", "refresh"), deaf=False),
    Fault("Redis", "failover", fail_over, promoted, lasts=False),
    Fault("Redis", "restart, data lost", redis_empty, redis_back, loses=True),
]


# MongoDB ---------------------------------------------------------------------------------------------------


def mongo_empty(world):
    world.mongo.stop()
    shutil.rmtree(world.mongo.folder)
    world.mongo.folder.mkdir()


def mongo_back(world):
    world.mongo.start()


def mongodb(name, begin, end, down=("login", "refresh"), **kw):
    return Fault("MongoDB", name, begin, end, down, deaf=False, **kw)


MONGODB = [
    mongodb("refused", lambda w: w.mongo.relay.cut(), lambda w: w.mongo.relay.mend()),
    mongodb("hangs (SIGSTOP)", lambda w: w.mongo.pause(), lambda w: w.mongo.resume()),
    mongodb("hangs (network)", lambda w: w.mongo.relay.hold(), lambda w: w.mongo.relay.mend()),
    mongodb("slow, within the limit", lambda w: w.mongo.relay.slow(SLOW), lambda w: w.mongo.relay.mend(), down=()),
    mongodb("slow, beyond the limit", lambda w: w.mongo.relay.slow(0.9), lambda w: w.mongo.relay.mend()),
    mongodb("reset in mid-reply", lambda w: w.mongo.relay.truncate(5), lambda w: w.mongo.relay.mend()),
    mongodb("garbage", lambda w: w.mongo.relay.speak(b"HTTP/1.1 200 OK\r\n\r\n" * 3), lambda w: w.mongo.relay.mend()),
    mongodb("restart, data kept", lambda w: w.mongo.stop(), mongo_back),
    mongodb("restart, data lost", mongo_empty, mongo_back, loses=True),
]


# Callers ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Seen:
    began: float
    seconds: float
    status: int  # 0: no answer.
    retry_after: str | None
    code: str | None


class Watch:
    """Callers of every kind, each asking again as soon as it has been answered (and 20 ms later)."""

    def __init__(self, world):
        self.world, self.seen, self.done, self.threads = world, {}, threading.Event(), []
        account = world.account
        self.refresh_token = account.refresh
        credentials = {"email": account.email, "password": PASSWORD}
        self._every("cached token", lambda c: c.ask("GET", "/api/x", world.token))
        self._every("new token", lambda c: c.ask("GET", "/api/x", world.new_token()))
        self._every("ended token", lambda c: c.ask("GET", "/api/x", world.ended.access))
        self._every("public", lambda c: c.ask("GET", "/public/x"))
        self._every("login", lambda c: c.ask("POST", "/auth/login", body=credentials))
        self._every("refresh", self._refresh)
        self._every("logout", self._log_out)

    def _refresh(self, caller):
        """As a client should: what was not answered with a successor is presented again."""
        answer = caller.refresh(self.refresh_token)
        if answer[0] == 200:
            self.refresh_token = answer[2]["refresh_token"]
        return answer

    def _log_out(self, caller):
        """The same session again and again: whatever the store says of it, it is asked."""
        return caller.ask("POST", "/auth/logout", body={"refresh_token": self.world.ended.refresh})

    def _every(self, kind, ask):
        seen = self.seen[kind] = []

        def run():
            caller = Caller(self.world.gateway.port)
            while not self.done.wait(0.02):
                began = time.monotonic()
                status, headers, body = 0, {}, None
                with contextlib.suppress(OSError, http.client.HTTPException):
                    status, headers, body = ask(caller)
                code = (body or {}).get("code")
                seen.append(Seen(began, time.monotonic() - began, status, headers.get("Retry-After"), code))
            caller.close()

        self.threads.append(threading.Thread(target=run, daemon=True))

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.done.set()
        for thread in self.threads:
            thread.join(30)

    def of(self, kind, since=0.0):
        return [s for s in list(self.seen[kind]) if s.began >= since]

    def wait_for(self, count, since, kinds=None):
        """`count` answers of every kind to requests made at or after `since`."""
        for kind in kinds or self.seen:
            eventually(lambda: len(self.of(kind, since)) >= count, 30, f"{count} answers to {kind}")

    def first_good(self, kind, since):
        """When the first of the requests that went well from then on was answered; None when the last did not."""
        rest = self.of(kind, since)
        good = list(itertools.takewhile(lambda s: s.status in (200, 204), reversed(rest)))
        return good[-1].began + good[-1].seconds if good else None
