"""What ends a session ends its access tokens too: within a second, cached ones as well (invariant 5)."""

import itertools
import json
import threading
import time

import pytest

from accounts import answers_to, everything, json_request, problem, session_of
from conftest import PASSWORD, Gateway, eventually

CONFIG = """
[throttle]
address_failures = 1000000
[[routes]]
path = "/api/{*rest}"
respond = { status = 200, body = "in" }
[[routes]]
path = "/optional"
auth = "optional"
respond = { status = 200, body = "in" }
"""
NEW = "an entirely new password"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    gateway = Gateway(tmp_path_factory.mktemp("revocation"), CONFIG)
    yield gateway.start()
    gateway.stop()


def warm(gateway, *tokens):
    """Uses the tokens, so that the cache of verified tokens holds them."""
    for token in tokens:
        for _ in range(2):
            assert gateway.get("/api/x", token).status_code == 200


def assert_dead(gateway, *tokens):
    """Refused now, everywhere; a revoked token is not taken for no token where none is needed."""
    for token in tokens:
        answer = gateway.get("/api/x", token)
        problem(answer, 401, "invalid_token")
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
        problem(gateway.get("/optional", token), 401, "invalid_token")
        problem(gateway.get("/auth/me", token), 401, "invalid_token")


def assert_ended(gateway, tokens):
    assert_dead(gateway, tokens["access_token"])
    problem(gateway.refresh(tokens["refresh_token"]), 403, "invalid_refresh_token")


def alive(gateway, tokens):
    return gateway.get("/api/x", tokens["access_token"]).status_code == 200


def dies_within_a_second(gateway, *tokens):
    began = time.monotonic()
    eventually(lambda: all(gateway.get("/api/x", t).status_code == 401 for t in tokens), 5, "the tokens dying")
    assert time.monotonic() - began < 1.5, "invariant 5 says one second"


def test_b35_logout_kills_cached_tokens_of_every_generation(gateway):
    """A cache that outlives the logout lets the thief go on (CVE-2024-21492). Every access token of the session goes."""
    account = gateway.register()
    accesses = [account.access]
    for _ in range(3):
        account.take(gateway.refresh(account.refresh).json())
        accesses.append(account.access)
    other = gateway.login(account.email).json()
    warm(gateway, *accesses, other["access_token"])
    assert gateway.post("/auth/logout", {"refresh_token": account.refresh}).status_code == 204
    assert_dead(gateway, *accesses)
    assert alive(gateway, other), "the other device stays logged in"


def test_logout_with_an_expired_access_token_and_a_good_refresh_token(gateways):
    """Who comes back after an hour could not log out any more."""
    gateway = gateways(CONFIG, tokens='access_ttl = "10s"\nleeway = "0s"')
    account = gateway.register()
    eventually(lambda: gateway.get("/api/x", account.access).status_code == 401, 20, "the access token expiring")
    answer = gateway.post("/auth/logout", {"refresh_token": account.refresh}, token=account.access)
    assert answer.status_code == 204
    problem(gateway.refresh(account.refresh), 403, "invalid_refresh_token")


def test_logout_all_ends_every_session_and_a_later_one_works(gateway):
    """"Log out everywhere" would miss a device, or lock the account for an hour."""
    account, bystander = gateway.register(), gateway.register()
    sessions = [account.tokens, *(gateway.login(account.email).json() for _ in range(3))]
    refreshed = gateway.refresh(sessions[3]["refresh_token"]).json()
    warm(gateway, *(s["access_token"] for s in sessions), refreshed["access_token"])
    answer = gateway.post("/auth/logout-all", token=sessions[1]["access_token"])
    assert (answer.status_code, answer.content) == (204, b"")
    for tokens in [*sessions, refreshed]:
        assert_ended(gateway, tokens)
    later = gateway.login(account.email).json()
    assert alive(gateway, later) and gateway.refresh(later["refresh_token"]).status_code == 200
    listed = gateway.get("/auth/sessions", later["access_token"]).json()["sessions"]
    assert [s["id"] for s in listed] == [session_of(gateway, later["access_token"])]
    assert alive(gateway, bystander.tokens)


def test_logins_right_after_logout_all_always_work(gateway):
    """A cut that counts in whole seconds would kill a session opened in the same second."""
    account = gateway.register()
    tokens = account.tokens
    for _ in range(10):
        assert gateway.post("/auth/logout-all", token=tokens["access_token"]).status_code == 204
        following = gateway.login(account.email).json()
        assert_dead(gateway, tokens["access_token"])
        assert alive(gateway, following)
        tokens = following


@pytest.mark.parametrize("command, stdin", [(["disable"], None), (["set-password"], NEW + "\n"), (["delete"], None)])
def test_b36_commands_end_sessions_of_the_running_gateway(gateway, command, stdin):
    """A dismissed employee would keep his access for an hour, his session for a year."""
    account, bystander = gateway.register(), gateway.register()
    second = gateway.login(account.email).json()
    warm(gateway, account.access, second["access_token"], bystander.access)
    gateway.cli("user", *command, account.email, stdin=stdin)
    dies_within_a_second(gateway, account.access, second["access_token"])
    assert_ended(gateway, account.tokens)
    assert_ended(gateway, second)
    problem(gateway.login(account.email), 401, "invalid_credentials")
    assert alive(gateway, bystander.tokens) and gateway.refresh(bystander.refresh).status_code == 200


def test_b36_an_enabled_account_logs_in_again_and_its_old_sessions_stay_dead(gateway):
    """Enabling must not bring back what the thief holds."""
    account = gateway.register()
    gateway.cli("user", "disable", account.email)
    dies_within_a_second(gateway, account.access)
    gateway.cli("user", "enable", account.email)
    assert_ended(gateway, account.tokens)
    later = gateway.login(account.email).json()
    assert alive(gateway, later) and gateway.refresh(later["refresh_token"]).status_code == 200


def test_b36_the_address_of_a_deleted_account_starts_afresh(gateway):
    """The new owner of an address must not get the old one's sessions, and the other way round."""
    account = gateway.register()
    gateway.cli("user", "delete", account.email)
    successor = gateway.register(account.email, NEW)
    assert successor.id != account.id
    assert_ended(gateway, account.tokens)
    assert alive(gateway, successor.tokens)


def test_b37_a_password_change_ends_the_other_sessions_and_keeps_this_one(gateway):
    """The thief would stay logged in, or the owner be thrown out for his care."""
    account = gateway.register()
    others = [gateway.login(account.email).json() for _ in range(2)]
    warm(gateway, account.access, *(o["access_token"] for o in others))
    body = {"current": account.password, "new": NEW}
    answer = gateway.request("PUT", "/auth/password", account.access, json=body)
    assert (answer.status_code, answer.content) == (204, b"")
    for tokens in others:
        assert_ended(gateway, tokens)
    assert alive(gateway, account.tokens)
    account.take(gateway.refresh(account.refresh).json())
    assert alive(gateway, account.tokens)
    problem(gateway.login(account.email, PASSWORD), 401, "invalid_credentials")
    assert alive(gateway, gateway.login(account.email, NEW).json())


def test_a_failed_password_change_ends_nothing(gateway):
    """Anybody with a token could log the owner's devices out."""
    account = gateway.register()
    other = gateway.login(account.email).json()
    before = everything(gateway)
    wrong = gateway.request("PUT", "/auth/password", account.access, json={"current": "a wrong one", "new": NEW})
    problem(wrong, 403, "invalid_credentials")
    weak = gateway.request("PUT", "/auth/password", account.access, json={"current": PASSWORD, "new": "password"})
    problem(weak, 400, "weak_password")
    assert everything(gateway) == before
    assert alive(gateway, account.tokens) and alive(gateway, other)


def test_of_two_parallel_password_changes_one_wins(gateway):
    """Both would be told 204, and one of the two would be locked out by a password he was told is set."""
    account = gateway.register()
    news = [f"new password number {n}" for n in range(6)]
    bearer = f"Bearer {account.access}"
    requests = [json_request("PUT", "/auth/password", {"current": PASSWORD, "new": new}, Authorization=bearer) for new in news]
    statuses = [status for status, _, _ in answers_to(gateway, requests)]
    assert statuses.count(204) == 1 and set(statuses) <= {204, 403, 409}, statuses
    works = [new for new in news if gateway.login(account.email, new).status_code == 200]
    assert works == [news[statuses.index(204)]]


@pytest.mark.parametrize("ending", ["logout", "logout-all", "disable", "end-session"])
def test_a_restart_keeps_revocations(gateways, ending):
    """Restarting, or crashing, the gateway would bring every revoked token back for an hour."""
    gateway = gateways(CONFIG)
    account = gateway.register()
    warm(gateway, account.access)
    if ending == "disable":
        gateway.cli("user", "disable", account.email)
    elif ending == "end-session":
        gateway.request("DELETE", f"/auth/sessions/{session_of(gateway, account.access)}", account.access)
    else:
        gateway.post(f"/auth/{ending}", token=account.access)
    # At once: what was answered is on the disk.
    gateway.restart()
    assert_ended(gateway, account.tokens)
    assert gateway.register().access


def test_commands_while_the_gateway_is_down_count_when_it_is_back(gateways):
    """Somebody disabled at night would be let in after the restart."""
    gateway = gateways(CONFIG)
    disabled, changed, kept = gateway.register(), gateway.register(), gateway.register()
    gateway.stop()
    gateway.cli("user", "disable", disabled.email)
    gateway.cli("user", "set-password", changed.email, stdin=NEW + "\n")
    gateway.start()
    assert_ended(gateway, disabled.tokens)
    assert_ended(gateway, changed.tokens)
    assert alive(gateway, kept.tokens)


def test_revocation_is_not_delayed_by_a_busy_store(gateway):
    """The poll for other processes' revocations must not wait until the writer is idle."""
    account, busy, stop = gateway.register(), gateway.register(), threading.Event()

    def keep_busy():
        for _ in itertools.takewhile(lambda _: not stop.is_set(), range(100_000)):
            busy.take(gateway.refresh(busy.refresh).json())

    worker = threading.Thread(target=keep_busy, daemon=True)
    worker.start()
    try:
        warm(gateway, account.access)
        gateway.cli("user", "disable", account.email)
        dies_within_a_second(gateway, account.access)
    finally:
        stop.set()
        worker.join(30)


def test_logins_racing_with_logout_all_or_disable_leave_nothing_alive_that_was_cut(gateway):
    """A login that is being hashed while the account is disabled would open a session that survives it."""
    for _ in range(8):
        account = gateway.register()
        login = json_request("POST", "/auth/login", {"email": account.email, "password": account.password})
        results = []
        thread = threading.Thread(target=lambda: results.extend(answers_to(gateway, [login] * 6)))
        thread.start()
        gateway.cli("user", "disable", account.email)
        thread.join(60)
        assert {status for status, _, _ in results} <= {200, 401}
        given = [json.loads(body) for status, _, body in results if status == 200]
        dies_within_a_second(gateway, account.access, *(g["access_token"] for g in given))
        for tokens in given:
            assert_ended(gateway, tokens)
