"""What a gateway does at the edges of a fault: how it starts without its stores, what its policy says, and what a fault may not leave behind."""

import time

import httpx
import pytest

from accounts import json_request, at_once, problem, read_answer
from conftest import PASSWORD, eventually
from relay import Relay
from servers import Caller, MongoServer, RedisCluster, Sentinel, in_parallel

REFUSE = 'on_unreachable = "refuse"\nunreachable_after = "1s"'
SERVE = 'on_unreachable = "serve"\nunreachable_after = "3s"'


def readiness(gateway, query=""):
    answer = httpx.get(f"http://127.0.0.1:{gateway.admin_port}/readyz{query}")
    return answer.status_code, answer.json()


# The policy ------------------------------------------------------------------------------------------------


def test_refuse_means_503_for_who_comes_with_a_token_and_nothing_for_the_public(redis, fleets):
    """Whoever would rather serve nobody than somebody who has logged out, gets that; and gets everybody back."""
    gateway = fleets(redis, sessions=REFUSE).add_behind_relay()
    account, caller = gateway.register(), Caller(gateway.port)
    gateway.relay.cut()
    cut = time.monotonic()
    eventually(lambda: caller.api(account.access) == 503, 5, "refusing")
    assert time.monotonic() - cut > 0.8, "not before unreachable_after"
    answer = gateway.get("/api/x", account.access)
    problem(answer, 503, "store_unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    assert gateway.get("/public/x").status_code == 200
    assert gateway.get("/api/x").status_code == 401, "without a token nothing has changed"
    assert gateway.get("/api/x", account.access + "x").status_code in (401, 503)
    status, report = readiness(gateway, "?exclude=sessions&exclude=users")
    assert status == 503 and report["revocations"] != "ok", "no request with a token is served here: send them elsewhere"
    gateway.relay.mend()
    back = time.monotonic()
    eventually(lambda: caller.api(account.access) == 200, 5, "serving again")
    assert time.monotonic() - back < 5
    eventually(lambda: readiness(gateway)[0] == 200, 5, "being ready")


# Starting --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy, in_the_end", [(SERVE, 200), (REFUSE, 503)], ids=["serve", "refuse"])
def test_a_gateway_that_starts_without_redis_refuses_tokens_first_and_then_by_policy(redis, fleets, policy, in_the_end):
    """It has never heard what was revoked: believing tokens at once would revive every ended session with a restart."""
    fleet = fleets(redis, sessions=policy)
    first = fleet.add()
    account, ended = first.register(), first.register()
    first.post("/auth/logout", {"refresh_token": ended.refresh})
    relay = Relay(redis.port)
    fleet.relays.append(relay)
    relay.cut()
    gateway = fleet.add(f"redis://127.0.0.1:{relay.port}")
    caller = Caller(gateway.port)
    if policy == SERVE:
        problem(gateway.get("/api/x", account.access), 503, "store_unavailable")
    assert gateway.get("/public/x").status_code == 200
    problem(gateway.login(account.email), 503, "store_unavailable")
    problem(gateway.refresh(account.refresh), 503, "store_unavailable")
    assert readiness(gateway)[0] == 503
    eventually(lambda: caller.api(account.access) == in_the_end, 10, "the policy")
    relay.mend()
    eventually(lambda: caller.api(ended.access) == 401, 5, "hearing what was revoked")
    eventually(lambda: caller.api(account.access) == 200, 5, "serving")
    assert gateway.refresh(account.refresh).status_code == 200
    eventually(lambda: readiness(gateway)[0] == 200, 5, "being ready")
    assert "revocations not heard of yet" in gateway.process.stderr()


def test_a_gateway_that_starts_without_mongodb_serves_tokens_and_recovers(tmp_path, redis, fleets):
    """A restart while MongoDB is away costs logins, and nothing else."""
    mongo = MongoServer(tmp_path)
    try:
        fleet = fleets(redis, users=mongo.users())
        first = fleet.add()
        account, ended = first.register(), first.register()
        first.post("/auth/logout", {"refresh_token": ended.refresh})
        mongo.stop()
        gateway = fleet.add()
        assert gateway.get("/api/x", account.access).status_code == 200
        assert gateway.get("/api/x", ended.access).status_code == 401
        for answer in (gateway.login(account.email), gateway.refresh(account.refresh)):
            problem(answer, 503, "store_unavailable")
            assert answer.headers["retry-after"] and answer.elapsed.total_seconds() < 1
        status, report = readiness(gateway)
        assert status == 503 and report["users"] != "ok" and report["sessions"] == report["revocations"] == "ok"
        assert readiness(gateway, "?exclude=users")[0] == 200
        mongo.start()
        eventually(lambda: gateway.login(account.email).status_code == 200, 5, "logging in")
        assert gateway.refresh(account.refresh).status_code == 200
        problem(gateway.post("/auth/register", {"email": account.email, "password": PASSWORD}), 409, "address_taken")
        assert readiness(gateway)[0] == 200
    finally:
        mongo.stop()


# What a fault may not leave behind ---------------------------------------------------------------------------


def logins(emails, password=PASSWORD):
    return [json_request("POST", "/auth/login", {"email": email, "password": password}) for email in emails]


def answers(gateway, requests):
    sockets = at_once(gateway, requests)
    try:
        return [read_answer(s)[0] for s in sockets]
    finally:
        for s in sockets:
            s.close()


# Fewer than 50, which is how many one address may have under way: once counted in the hang, and once more, they are too many.
@pytest.mark.parametrize("accounts", [1, 40], ids=["one_account", "one_address"])
def test_logins_that_a_hanging_redis_left_undecided_lock_nobody_out(redis, fleets, accounts):
    """Attempts are counted before they are judged; one that never was judged must not count against its account or address."""
    gateway = fleets(redis).add(routes='[throttle]\nfirst_delay = "1h"\nmax_delay = "1h"\n')
    emails = [gateway.register().email for _ in range(accounts)]
    redis.pause()
    statuses = answers(gateway, logins(emails * (60 // accounts)))
    assert set(statuses) == {503}, statuses
    redis.resume()
    eventually(lambda: readiness(gateway)[0] == 200, 5, "Redis being back")
    assert in_parallel(lambda email: gateway.login(email).status_code, emails) == [200] * accounts


def test_a_logout_in_full_memory_leaves_no_half(redis, fleets):
    """Refresh token dead and access token alive is what no caller can make sense of: all has happened, or nothing and 503."""
    gateway = fleets(redis, tokens='refresh_grace = "60s"').add()
    account, all_of_them = gateway.register(), gateway.register()
    redis.fill()
    done = gateway.post("/auth/logout", {"refresh_token": account.refresh}), gateway.post("/auth/logout-all", token=all_of_them.access)
    redis.empty()
    for answer, tokens in zip(done, (account, all_of_them)):
        assert answer.status_code in (204, 503)
        alive = gateway.get("/api/x", tokens.access).status_code == 200
        # What an answer of 503 leaves undone of a logout-all, refresh makes up for: the account's record knows.
        refreshed = gateway.refresh(tokens.refresh).status_code == 200
        assert (refreshed, alive) in ([(False, False)] if answer.status_code == 204 else [(True, True), (False, False)])
    assert gateway.post("/auth/logout", {"refresh_token": account.refresh}).status_code == 204
    assert gateway.get("/api/x", account.access).status_code == 401


def test_full_memory_is_told_by_readyz(redis, fleets):
    """A probe that only reads says ready while nobody can log in."""
    gateway = fleets(redis).add()
    account = gateway.register()
    redis.fill()
    problem(gateway.refresh(account.refresh), 503, "store_unavailable")
    assert readiness(gateway)[0] == 503
    redis.empty()
    eventually(lambda: readiness(gateway)[0] == 200, 5, "being ready again")


def test_an_empty_redis_revives_no_session(redis, fleets):
    """What ended stays ended at the gateways that heard of it, and its refresh token is unknown."""
    fleet = fleets(redis)
    a, b = fleet.add(), fleet.add()
    account, everywhere = a.register(), a.register()
    a.post("/auth/logout", {"refresh_token": account.refresh})
    a.post("/auth/logout-all", token=everywhere.access)
    for ended in (account, everywhere):
        eventually(lambda: b.get("/api/x", ended.access).status_code == 401, 1, "the logout heard")
    redis.stop()
    redis.start()
    eventually(lambda: all(readiness(g)[0] == 200 for g in (a, b)), 5, "both being ready")
    for gateway in (a, b):
        for ended in (account, everywhere):
            assert gateway.get("/api/x", ended.access).status_code == 401
            assert gateway.refresh(ended.refresh).status_code == 403
        assert gateway.login(account.email).status_code == 200


# Sentinels, cluster, rate limits ----------------------------------------------------------------------------


def test_a_sentinel_that_hangs_is_passed_by(tmp_path, redis, fleets):
    """The machine that failed is often one of those that should have told: another sentinel knows."""
    sentinels = [Sentinel(tmp_path, redis) for _ in range(2)]
    try:
        fleet = fleets(redis)
        url = f"redis-sentinel://{','.join(f'127.0.0.1:{s.port}' for s in sentinels)}/main"
        gateway = fleet.add(url)
        account = gateway.register()
        for hanging in sentinels:
            hanging.pause()
            redis.ask("CLIENT", "KILL", "TYPE", "normal")
            eventually(lambda: gateway.login(account.email).status_code == 200, 5, "a connection found by the other")
            hanging.resume()
        # With none of them left, the connection there is goes on.
        for sentinel in sentinels:
            sentinel.stop()
        assert gateway.login(account.email).status_code == 200
        assert gateway.get("/api/x", account.access).status_code == 200
    finally:
        for sentinel in sentinels:
            sentinel.stop()


def test_a_node_of_a_cluster_that_hangs_ends_nobody_and_is_back_with_it(tmp_path, fleets):
    """Each user lives on one node, the stream on one: whichever hangs, tokens are served, and 503 is all that anybody else gets."""
    cluster = RedisCluster(tmp_path)
    try:
        gateway = fleets(cluster, tokens='refresh_grace = "60s"').add()
        accounts = [gateway.register() for _ in range(12)]
        for node in cluster.nodes:
            node.pause()
            began = time.monotonic()
            answers = in_parallel(lambda account: refreshed(gateway, account), accounts)
            assert {status for status, _ in answers} <= {200, 503}, answers
            assert max(seconds for _, seconds in answers) < 1, answers
            caller = Caller(gateway.port)
            assert {caller.api(account.access) for account in accounts} == {200}
            assert time.monotonic() - began < 3
            node.resume()
            eventually(lambda: {s for s, _ in in_parallel(lambda a: refreshed(gateway, a), accounts)} == {200}, 5, "everybody back")
            eventually(lambda: readiness(gateway)[0] == 200, 5, "being ready")
    finally:
        cluster.stop()


def refreshed(gateway, account):
    """Status and seconds of a refresh, by the rules: without an answer of 200 the account keeps its token."""
    began = time.monotonic()
    status, _, body = Caller(gateway.port).refresh(account.refresh)
    seconds = time.monotonic() - began
    if status == 200:
        account.take(body)
    return status, seconds


LIMITED = '[[routes]]\npath = "/api/{*rest}"\nrate_limit = "30/1h"\nrespond = { status = 200 }\n'


def test_a_rate_limit_holds_over_the_fleet_and_without_redis_at_each_gateway(redis, fleets):
    """Whoever spreads his requests gets no more; a Redis that is away refuses nobody and slows nobody down by much."""
    fleet = fleets(redis)
    a, b = fleet.add_behind_relay(routes=LIMITED), fleet.add_behind_relay(routes=LIMITED)
    account, later = a.register(), a.register()
    callers = [Caller(a.port), Caller(b.port)]
    statuses = [callers[n % 2].api(account.access) for n in range(80)]
    assert statuses.count(200) == 30 and set(statuses) == {200, 429}
    for gateway in (a, b):
        gateway.relay.hold()
    for caller in callers:
        began = time.monotonic()
        statuses = [caller.api(later.access) for _ in range(60)]
        assert statuses.count(200) == 30 and set(statuses) == {200, 429}
        assert time.monotonic() - began < 5, "a request in a second waits, not each"
