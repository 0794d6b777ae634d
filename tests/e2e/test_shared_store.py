"""Two gateways on one embedded store, and a store that is locked, damaged or foreign (invariants 5, 6, 9)."""

import contextlib
import json
import sqlite3
import time

import pytest

from accounts import at_once, database_file, everything, json_request, problem, read_answer, rows
from conftest import PASSWORD, Gateway, eventually

ROUTE = """
[throttle]
address_failures = 1000000
free_failures = 3
first_delay = "1h"
max_delay = "1h"
[[routes]]
path = "/api/{*rest}"
respond = { status = 200 }
"""


@pytest.fixture
def pair(gateways, tmp_path):
    """Two gateways of one issuer over one data folder, as during a deployment without an interruption."""
    options = {"server": f'data_dir = "{tmp_path}/data"', "issuer": "https://login.example.com", "tokens": 'refresh_grace = "60s"'}
    one, other = gateways(ROUTE, **options), gateways(ROUTE, **options)
    (one.folder / "data").symlink_to(tmp_path / "data")
    return one, other


def test_a_logout_at_one_gateway_is_heard_by_the_other_within_a_second(pair):
    """Invariant 5: every gateway of the fleet, cached tokens included."""
    one, other = pair
    account, everywhere, changed = one.register(), one.register(), one.register()
    second = other.login(changed.email).json()
    tokens = [account.access, everywhere.access, second["access_token"]]
    for token in tokens:
        assert other.get("/api/x", token).status_code == 200
    one.post("/auth/logout", {"refresh_token": account.refresh})
    one.post("/auth/logout-all", token=everywhere.access)
    body = {"current": PASSWORD, "new": "a perfectly new password"}
    assert one.request("PUT", "/auth/password", changed.access, json=body).status_code == 204
    began = time.monotonic()
    eventually(lambda: all(other.get("/api/x", t).status_code == 401 for t in tokens), 5, "the word reaching the other")
    assert time.monotonic() - began < 1.5, "invariant 5 says one second"
    assert other.get("/api/x", changed.access).status_code == 200, "the session that changed the password stays"


def test_threat_refresh_race_over_two_gateways_has_one_successor(pair):
    """Invariant 6 holds wherever the requests arrive."""
    one, other = pair
    account = one.register()
    request = json_request("POST", "/auth/refresh", {"refresh_token": account.refresh})
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(s) for gateway in pair for s in at_once(gateway, [request] * 50)]
        answers = [read_answer(s) for s in sockets]
    assert [status for status, _, _ in answers] == [200] * 100
    assert len({json.loads(body)["refresh_token"] for _, _, body in answers}) == 1
    assert rows(one, "SELECT generation FROM families WHERE user = ?", account.id) == [(2,)]


def test_threat_guesses_over_two_gateways_share_one_counter(pair):
    """A fleet of ten would allow ten times the guesses."""
    account = pair[0].register()
    statuses = [pair[n % 2].login(account.email, f"guess {n}").status_code for n in range(10)]
    assert statuses.count(401) == 4 and statuses[4:] == [429] * 6


def test_of_parallel_registrations_of_one_address_one_wins(pair):
    """One mailbox with two accounts: which one logs in would be chance."""
    request = json_request("POST", "/auth/register", {"email": "ann@example.com", "password": PASSWORD})
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(s) for gateway in pair for s in at_once(gateway, [request] * 10)]
        statuses = [read_answer(s)[0] for s in sockets]
    assert sorted(statuses) == [201] + [409] * 19
    assert rows(pair[0], "SELECT count(*) FROM users") == [(1,)]


@contextlib.contextmanager
def locked(gateway):
    """Another process holds the write lock, as a backup that hangs does."""
    with contextlib.closing(sqlite3.connect(database_file(gateway), timeout=10, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")


def test_c_a_locked_store_is_503_and_verification_goes_on(gateways):
    """Invariant 9: in doubt nobody is let in or logged out, and nothing answered 2xx is lost."""
    gateway = gateways(ROUTE)
    account, leaving = gateway.register(), gateway.register()
    calls = {
        "login": json_request("POST", "/auth/login", {"email": account.email, "password": PASSWORD}),
        "wrong": json_request("POST", "/auth/login", {"email": account.email, "password": "a wrong password"}),
        "refresh": json_request("POST", "/auth/refresh", {"refresh_token": account.refresh}),
        "register": json_request("POST", "/auth/register", {"email": "new@example.com", "password": PASSWORD}),
        "logout": json_request("POST", "/auth/logout", {"refresh_token": leaving.refresh}),
        "logout-all": json_request("POST", "/auth/logout-all", b"", Authorization=f"Bearer {leaving.access}"),
    }
    before = everything(gateway)
    with locked(gateway), contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(s) for s in at_once(gateway, list(calls.values()))]
        for _ in range(20):
            assert gateway.get("/api/x", account.access).status_code == 200
            assert gateway.get("/auth/me", account.access).status_code == 200, "reading needs no lock"
        answers = [read_answer(s) for s in sockets]
    for name, (status, head, body) in zip(calls, answers):
        assert status == 503 and "retry-after: " in head, f"{name}: {status} {body!r}"
        assert json.loads(body)["code"] == "store_unavailable", name
    assert everything(gateway) == before, "what was answered with 503 did not happen behind the client's back"
    # Recovery, at once: the very same calls.
    assert gateway.refresh(account.refresh).status_code == 200
    assert gateway.login(account.email).status_code == 200
    assert gateway.post("/auth/logout", {"refresh_token": leaving.refresh}).status_code == 204
    problem(gateway.get("/api/x", leaving.access), 401, "invalid_token")


@pytest.mark.parametrize("content, says", [(b"no database at all, just text " * 50, "portcullis.db"), (b"\0" * 4096, "portcullis.db")])
def test_c_a_damaged_database_is_an_error_in_words(tmp_path, content, says):
    """Starting empty would let everybody register the administrator's address again."""
    gateway = Gateway(tmp_path, ROUTE)
    (tmp_path / "data").mkdir(mode=0o700)
    database_file(gateway).write_bytes(content)
    done = gateway.cli("run", check=False)
    assert done.returncode == 1 and says in done.stderr and "panicked" not in done.stderr
    assert database_file(gateway).read_bytes() == content, "and the evidence is left alone"


def test_c_a_database_of_a_newer_version_is_refused(gateways):
    """Going back to an old version would write what the new one cannot read."""
    gateway = gateways(ROUTE)
    gateway.stop()
    with contextlib.closing(sqlite3.connect(database_file(gateway))) as db:
        db.execute("PRAGMA user_version = 99")
    done = gateway.cli("run", check=False)
    assert done.returncode == 1 and "version 99" in done.stderr
