"""Gateways of one fleet that start together, that do not belong together, and secrets on the way to the stores."""

import signal
import socket

import httpx
import pytest

from accounts import answers_to, json_request, read_answer
from conftest import BINARY, PASSWORD, Process, eventually
from relay import Relay
from servers import Caller, Fleet, Redis, clock, in_parallel, needs_faketime

SECRET = "c4nary-passw0rd-of-a-store"


def test_gateways_that_start_at_once_on_an_empty_mongodb_agree_on_one_account_an_address(redis, fleets, mongo):
    """The unique index is made by whoever comes first, and is there before anybody is let in."""
    for n in range(3):
        # A fleet has keys of its own, so it wants a place of its own in Redis.
        fleet = fleets(redis, users=mongo.users(), sessions=f'prefix = "fleet{n}"')
        gateways = [fleet.add(start=False) for _ in range(5)]
        in_parallel(lambda gateway: gateway.start(), gateways)
        request = json_request("POST", "/auth/register", {"email": "ann@example.com", "password": PASSWORD})
        answers = sum(in_parallel(lambda gateway: answers_to(gateway, [request] * 4), gateways), [])
        assert sorted(status for status, _, _ in answers) == [201] + [409] * 19
        assert gateways[0].cli("user", "list").stdout.count("ann@example.com") == 1
        for gateway in gateways:
            gateway.stop()


def test_a_gateway_with_other_keys_logs_nobody_out(tmp_path, redis, fleets):
    """One with a new `data_dir` takes every refresh token for a forgery: it may refuse to start, or to serve, but not say 403."""
    fleet = fleets(redis, users="")
    right = fleet.add()
    account = right.register()
    stranger = Fleet(tmp_path / "stranger", redis, extra=fleet.extra)
    stranger.folder.mkdir()
    relay = Relay(redis.port)
    try:
        # At its start it cannot ask Redis who its fleet is.
        relay.cut()
        gateway = stranger.add(f"redis://127.0.0.1:{relay.port}")
        relay.mend()
        eventually(lambda: gateway.process.process.poll() is not None or has_heard(gateway), 10, "Redis reached")
        if gateway.process.process.poll() is None:
            statuses = [gateway.refresh(account.refresh).status_code for _ in range(3)]
            assert 403 not in statuses, statuses
            # Nor may it hand out tokens that no other gateway knows.
            assert gateway.login(account.email).status_code != 200
            assert gateway.post("/auth/register", {"email": "ann@example.com", "password": PASSWORD}).status_code == 503
    finally:
        stranger.stop()
        relay.stop()
    assert right.refresh(account.refresh).status_code == 200


def has_heard(gateway):
    return "sessions" in (report := httpx.get(f"http://127.0.0.1:{gateway.admin_port}/readyz").json()) and report["sessions"] == "ok"


def test_a_gateway_with_other_keys_does_not_start_where_redis_knows_the_fleet(tmp_path, redis, fleets):
    """The same, told at once and in words."""
    fleets(redis).add()
    stranger = Fleet(tmp_path / "stranger", redis)
    stranger.folder.mkdir()
    gateway = stranger.add(start=False)
    process = Process([BINARY, "run", "-c", gateway.file], gateway.folder, "stranger")
    try:
        assert process.process.wait(20) == 1
        assert "refresh.key" in process.stderr() or "key" in process.stderr()
        assert "panicked" not in process.stderr()
    finally:
        process.stop()


@pytest.mark.parametrize("password", [SECRET, "a-wrong-" + SECRET], ids=["right", "wrong"])
def test_the_password_of_redis_is_told_to_redis_only(tmp_path, fleets, password):
    """Invariant 10: an address with a password is in no log, metric, answer or report, whatever fails."""
    redis = Redis(tmp_path, "--requirepass", SECRET, password=SECRET)
    try:
        fleet = fleets(redis)
        gateway = fleet.add(f"redis://:{password}@127.0.0.1:{redis.port}")
        answers = [gateway.post("/auth/register", {"email": "ann@example.com", "password": PASSWORD})]
        assert answers[0].status_code == (201 if password == SECRET else 503)
        redis.stop()
        eventually(lambda: gateway.login("ann@example.com").status_code == 503, 5, "Redis being gone")
        answers += [gateway.login("ann@example.com"), httpx.get(f"http://127.0.0.1:{gateway.admin_port}/readyz")]
        texts = [answer.text + str(answer.headers) for answer in answers]
        texts += [gateway.metrics(), gateway.process.stderr(), gateway.process.stdout(), gateway.cli("check").stdout]
        for text in texts:
            assert SECRET not in text
    finally:
        redis.stop()


def test_a_logout_that_a_failover_lost_revives_no_session_where_it_was_heard(tmp_path, redis, fleets):
    """Replication lost the write, the gateways have not: what answered 204 stays ended at each that heard of it."""
    replica = Redis(tmp_path)
    link, ways = Relay(redis.port), [Relay(redis.port) for _ in range(2)]
    try:
        replica.replicate(link.port)
        fleet = fleets(redis)
        a, b = [fleet.add(f"redis://127.0.0.1:{way.port}") for way in ways]
        account = a.register()
        replica.catch_up(redis)
        link.hold()
        assert a.post("/auth/logout", {"refresh_token": account.refresh}).status_code == 204
        eventually(lambda: b.get("/api/x", account.access).status_code == 401, 1, "the logout heard")
        redis.stop()
        replica.promote()
        for way in ways:
            way.targets = [replica.port]
            way.reset()
        for gateway in (a, b):
            eventually(lambda: gateway.login(account.email).status_code == 200, 5, "the new master in use")
        for gateway in (b, a):
            assert gateway.get("/api/x", account.access).status_code == 401
            answer = gateway.refresh(account.refresh)
            assert answer.status_code == 403, "a session that was logged out goes on"
    finally:
        for server in (link, *ways, replica):
            server.stop()


def test_a_terminated_gateway_ends_its_refreshes_before_itself(redis, fleets):
    """SIGTERM in a rolling restart: whoever was being answered is, and the next gateway goes on."""
    fleet = fleets(redis, tokens='refresh_grace = "60s"')
    a, b = fleet.add(), fleet.add()
    accounts = [a.register() for _ in range(20)]
    requests = [json_request("POST", "/auth/refresh", {"refresh_token": account.refresh}) for account in accounts]
    sockets = [socket.create_connection(("127.0.0.1", a.port), timeout=60) for _ in requests]
    for s, data in zip(sockets, requests):
        s.sendall(data[:10])
    # Connections the system has accepted and the gateway has not are not the gateway's to answer.
    eventually(lambda: a.metric("portcullis_http_requests_in_flight") == 20, 10, "all requests begun")
    for s, data in zip(sockets, requests):
        s.sendall(data[10:])
    a.process.process.send_signal(signal.SIGTERM)
    answers = [read_answer(s)[0] for s in sockets]
    for s in sockets:
        s.close()
    assert answers == [200] * 20
    assert a.process.process.wait(20) == 0
    assert in_parallel(lambda account: Caller(b.port).refresh(account.refresh)[0], accounts) == [200] * 20


@needs_faketime
@pytest.mark.parametrize("offset", ["+20s", "-20s"])
def test_who_logs_in_after_a_logout_everywhere_is_logged_in_though_clocks_differ_within_the_leeway(redis, fleets, offset):
    """A cut is an instant: a login that came after it must not be taken for one before, nor one before it for one after."""
    fleet = fleets(redis)
    right, wrong = fleet.add(), fleet.add(env=clock(offset))
    account = right.register()
    before = wrong.login(account.email).json()
    assert right.post("/auth/logout-all", token=account.access).status_code == 204
    for gateway in (right, wrong):
        eventually(lambda: gateway.get("/api/x", before["access_token"]).status_code == 401, 1, "the end of a session of the wrong clock")
        assert gateway.refresh(before["refresh_token"]).status_code == 403
    for at in (wrong, right):
        after = at.login(account.email)
        assert after.status_code == 200
        session = after.json()
        for gateway in (right, wrong):
            assert gateway.get("/api/x", session["access_token"]).status_code == 200, "logged in, and refused"
            answer = gateway.refresh(session["refresh_token"])
            assert answer.status_code == 200, "logged in, and logged out with the first refresh"
            session = answer.json()
