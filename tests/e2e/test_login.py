"""Throttling of guesses, and what it must not do to the owner of the account. Timing is in test_login_timing.py."""

import collections
import contextlib
import json
import selectors
import uuid

import httpx
import pytest

from accounts import alike, answers_to, at_once, device_cookie, json_request, problem, read_answer, rows
from conftest import PASSWORD, Gateway, eventually

ROUTES = """
[[routes]]
path = "/public"
auth = "none"
respond = { status = 200, body = "open" }
"""


def throttle(**keys):
    keys = {"address_failures": 1_000_000, **keys}
    text = "".join(f"{k} = {json.dumps(v)}\n" for k, v in keys.items())
    return f"[throttle]\n{text}{ROUTES}"


def lock(gateway, email):
    """Guesses without a device until the account is closed to strangers; the refusing answer."""
    for n in range(200):
        answer = gateway.login(email, f"wrong guess {n}")
        if answer.status_code == 429:
            return answer
        problem(answer, 401, "invalid_credentials")
    pytest.fail("200 guesses and still no throttle")


@pytest.fixture(scope="module")
def locking(tmp_path_factory):
    """Closes an account for an hour after four failures."""
    config = throttle(free_failures=3, first_delay="1h", max_delay="1h")
    gateway = Gateway(tmp_path_factory.mktemp("locking"), config)
    yield gateway.start()
    gateway.stop()


def known_device(gateway, account):
    """The cookie header of a device `account` has logged in from."""
    return {"Cookie": "=".join(device_cookie(gateway.login(account.email, account.password)))}


def test_b31_guesses_are_slowed_down_with_retry_after(locking):
    """Somebody could try a dictionary on one account. Even the right password is not looked at then."""
    account = locking.register()
    answer = lock(locking, account.email)
    problem(answer, 429, "too_many_attempts")
    assert 3500 < int(answer.headers["retry-after"]) <= 3600
    problem(locking.login(account.email, account.password), 429, "too_many_attempts")
    problem(locking.login(account.email.upper(), account.password), 429, "too_many_attempts")


def test_b32_an_unknown_address_is_throttled_alike(locking):
    """Being throttled, or not, would tell whether the address has an account."""
    known, unknown = locking.register().email, f"{uuid.uuid4().hex}@example.com"
    pairs = [(locking.login(known, f"guess {n}"), locking.login(unknown, f"guess {n}")) for n in range(8)]
    for one, other in pairs:
        assert alike(one)[:2] == alike(other)[:2]
        assert set(one.headers) == set(other.headers)
    assert pairs[-1][0].status_code == 429


@pytest.mark.parametrize("known", [True, False])
def test_threat_200_parallel_guesses_share_one_counter(locking, known):
    """Parallel guesses would overtake the count (CVE-2024-4629)."""
    email = locking.register().email if known else f"{uuid.uuid4().hex}@example.com"
    requests = [json_request("POST", "/auth/login", {"email": email, "password": f"guess number {n}"}) for n in range(200)]
    answers = answers_to(locking, requests)
    seen = collections.Counter(status for status, _, _ in answers)
    assert set(seen) == {401, 429}, seen
    assert 3 <= seen[401] <= 4, "free_failures, and the one that starts the delay"
    assert all("retry-after:" in head for status, head, _ in answers if status == 429)


def test_delays_double_up_to_the_longest(gateways):
    """A delay that stays short leaves room for a dictionary; one without end locks the owner out."""
    gateway = gateways(throttle(free_failures=1, first_delay="1s", max_delay="3s"))
    email, waits = gateway.register().email, []
    gateway.login(email, "free guess")
    for n in range(3):
        eventually(lambda: gateway.login(email, f"guess {n}").status_code == 401, what="the delay ending")
        waits.append(int(gateway.login(email, "refused at once").headers["retry-after"]))
    assert waits == [1, 2, 3]


def test_b31_no_more_than_max_failures_guesses_are_ever_looked_at(gateways):
    """Patient guessing would go on for ever (NIST SP 800-63B section 5.2.2: at most 100)."""
    gateway = gateways(throttle(free_failures=2, first_delay="100ms", max_delay="100ms", max_failures=6))
    account = gateway.register()
    device = known_device(gateway, account)
    statuses = []

    def guess():
        statuses.append(gateway.login(account.email, f"guess {len(statuses)}").status_code)
        return len(statuses) >= 20 and statuses[-15:] == [429] * 15

    since_the_last = "SELECT (julianday('now') - 2440587.5) * 86400000 - max(last_failure) FROM login_runs"
    eventually(lambda: guess() and rows(gateway, since_the_last)[0][0] > 300, what="refusals long after the last delay")
    assert statuses.count(401) == 6
    problem(gateway.login(account.email, account.password), 429, "too_many_attempts")
    assert gateway.login(account.email, account.password, headers=device).status_code == 200, "the known device unlocks"
    assert gateway.login(account.email, account.password).status_code == 200


def test_b31_more_than_100_failures_cannot_be_configured(gateways):
    """An operator could switch the limit off by mistake."""
    gateway = gateways(throttle(max_failures=100))
    gateway.file.write_text(gateway.file.read_text().replace("max_failures = 100", "max_failures = 101"))
    done = gateway.cli("check", check=False)
    assert done.returncode == 1 and "max_failures" in done.stderr


@pytest.mark.parametrize("command", ["enable", "set-password"])
def test_an_operator_forgives(locking, command):
    """The owner without a known device would have to wait, whoever he rings up."""
    account = locking.register()
    lock(locking, account.email)
    locking.cli("user", command, account.email, stdin=PASSWORD + "\n")
    assert locking.login(account.email, PASSWORD).status_code == 200


def test_threat_lockout_as_a_weapon_the_owner_on_a_known_device_logs_in(locking):
    """Anybody who knows an address could keep its owner out."""
    account = locking.register()
    device = known_device(locking, account)
    lock(locking, account.email)
    wrong = locking.login(account.email, "a typing mistake", headers=device)
    problem(wrong, 401, "invalid_credentials")
    assert locking.login(account.email, account.password, headers=device).status_code == 200


def test_guesses_from_a_known_device_are_counted_too(locking):
    """A stolen or shared device would be a way around the throttle."""
    account = locking.register()
    device = known_device(locking, account)
    statuses = [locking.login(account.email, f"guess {n}", headers=device).status_code for n in range(8)]
    assert statuses == [401] * 4 + [429] * 4
    assert locking.login(account.email, account.password).status_code == 200, "other devices are not locked out by it"


def flipped(value):
    return value[:-1] + ("A" if value[-1] != "A" else "B")


def test_a_forged_device_cookie_does_not_help(locking):
    """Everybody would call himself a known device."""
    victim, attacker = locking.register(), locking.register()
    name, value = device_cookie(locking.login(victim.email))
    _, own = device_cookie(locking.login(attacker.email))
    nonce, _, mac = value.partition(".")
    lock(locking, victim.email)
    forged = [
        own, flipped(value), f"{flipped(nonce)}.{mac}", f"{own.split('.')[0]}.{mac}", nonce, "." + mac, "x", "", value * 2,
        victim.refresh, victim.access, "session:" + victim.id,
    ]
    for cookie in forged:
        answer = locking.login(victim.email, victim.password, headers={"Cookie": f"{name}={cookie}"})
        problem(answer, 429, "too_many_attempts")
    header = {"Cookie": f"a=b; {name}=x; {name}={own}; {name}={value}; c=d"}
    assert locking.login(victim.email, victim.password, headers=header).status_code == 200, "the true one among others does"


def test_success_clears_the_run_of_failures(locking):
    """A year of typing mistakes would add up to a lockout."""
    account = locking.register()
    for _ in range(3):
        for n in range(3):
            problem(locking.login(account.email, f"mistake {n}"), 401, "invalid_credentials")
        assert locking.login(account.email).status_code == 200


def test_threat_one_address_guessing_over_many_accounts(gateways):
    """One password tried on a million accounts never meets the limit of an account."""
    gateway = gateways(throttle(address_failures=5, address_window="1h"))
    owner = gateway.register()
    device = known_device(gateway, owner)
    statuses = [gateway.login(f"{uuid.uuid4().hex}@example.com", "Spring2026!x").status_code for _ in range(8)]
    assert statuses == [401] * 5 + [429] * 3
    answer = gateway.login(owner.email)
    problem(answer, 429, "too_many_attempts")
    assert 3000 < int(answer.headers["retry-after"]) <= 3600
    assert gateway.login(owner.email, headers=device).status_code == 200, "a known device behind the same address"
    with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2")) as elsewhere:
        answer = elsewhere.post(gateway.url + "/auth/login", json={"email": owner.email, "password": owner.password})
    assert answer.status_code == 200, "another address is not concerned"


def test_the_address_limit_counts_an_ipv6_network_and_believes_no_stranger(gateways):
    """A /64 has 2^64 addresses; and a client could invent an address for every guess."""
    gateway = gateways(throttle(address_failures=3), server='trusted_proxies = ["127.0.0.9/32"]')

    def guess(source, forwarded):
        with httpx.Client(transport=httpx.HTTPTransport(local_address=source)) as client:
            body = {"email": f"{uuid.uuid4().hex}@example.com", "password": "a wrong password"}
            return client.post(gateway.url + "/auth/login", json=body, headers={"X-Forwarded-For": forwarded}).status_code

    assert [guess("127.0.0.1", f"198.51.100.{n}") for n in range(5)] == [401] * 3 + [429] * 2
    assert [guess("127.0.0.9", f"2001:db8:0:1::{n}") for n in range(1, 6)] == [401] * 3 + [429] * 2
    assert guess("127.0.0.9", "2001:db8:0:2::1") == 401
    assert guess("127.0.0.9", "::ffff:198.51.100.7") == 401


def test_a_stolen_access_token_is_no_way_to_guess_the_password(locking):
    """The password endpoint would be a login without a throttle; and the thief could lock the owner out."""
    account = locking.register()
    statuses = []
    for n in range(8):
        body = {"current": f"guess number {n}", "new": "a new good password"}
        statuses.append(locking.request("PUT", "/auth/password", account.access, json=body).status_code)
    assert statuses == [403] * 4 + [429] * 4
    right = {"current": account.password, "new": "a new good password"}
    blocked = locking.request("PUT", "/auth/password", account.access, json=right)
    problem(blocked, 429, "too_many_attempts")
    assert int(blocked.headers["retry-after"]) > 3000
    assert locking.login(account.email, account.password).status_code == 200


def test_parallel_guesses_with_a_stolen_access_token_share_one_counter(locking):
    """As above, with all guesses at the same moment, and over a refresh of the token."""
    account = locking.register()
    tokens = [account.access, locking.refresh(account.refresh).json()["access_token"]]
    requests = [
        json_request("PUT", "/auth/password", {"current": f"guess {n}", "new": "a new good password"}, Authorization=f"Bearer {tokens[n % 2]}")
        for n in range(100)
    ]
    seen = collections.Counter(status for status, _, _ in answers_to(locking, requests))
    assert set(seen) == {403, 429} and seen[403] <= 4, seen


def test_threat_login_cpu_exhaustion_500_parallel_logins(gateways):
    """Logins would use up all processors and memory: proxied requests must go on, the rest hear 503 at once."""
    config = "[passwords]\ncost = 10\nconcurrency = 1\nqueue = 16\n" + throttle(free_failures=100)
    gateway = gateways(config)
    # Fifty for each account: what is under way counts as a failure until it is judged.
    emails = [gateway.register().email for _ in range(10)] * 50
    sockets = at_once(gateway, [json_request("POST", "/auth/login", {"email": e, "password": PASSWORD}) for e in emails])
    with contextlib.ExitStack() as opened:
        for s in sockets:
            opened.enter_context(s)
        with httpx.Client() as client:
            proxied = [client.get(gateway.url + "/public").status_code for _ in range(50)]
        answers = [read_answer(s) for s in sockets]
    assert proxied == [200] * 50
    seen = collections.Counter(status for status, _, _ in answers)
    assert set(seen) == {200, 503} and seen[503] > 100, seen
    for status, head, body in answers:
        if status == 503:
            assert "retry-after: " in head and json.loads(body)["code"] == "busy"
    for table in ("login_runs", "login_addresses"):
        assert rows(gateway, f"SELECT coalesce(sum(failures), 0) FROM {table}") == [(0,)], "being busy was nobody's failure"
    assert gateway.login(emails[0]).status_code == 200


def test_a_full_queue_refuses_before_the_queue_is_done(gateways):
    """A 503 that comes only after everybody in front was served is no relief: clients would pile up."""
    gateway = gateways("[passwords]\ncost = 13\nconcurrency = 1\nqueue = 2\n" + throttle(free_failures=100))
    body = {"email": "nobody@example.com", "password": "a wrong password"}
    sockets = at_once(gateway, [json_request("POST", "/auth/login", body)] * 40)
    order = []
    with contextlib.ExitStack() as opened:
        for s in sockets:
            opened.enter_context(s)
        with selectors.DefaultSelector() as selector:
            for s in sockets:
                selector.register(s, selectors.EVENT_READ)
            while len(order) < len(sockets):
                ready = selector.select(60)
                assert ready, order
                for key, _ in ready:
                    order.append(read_answer(key.fileobj)[0])
                    selector.unregister(key.fileobj)
    assert order[-1] == 401, "somebody was let in and took his time"
    assert 503 not in order[order.index(401) + 1:][2:], f"refusals came as late as the served: {order}"
    assert order.count(503) >= 30
