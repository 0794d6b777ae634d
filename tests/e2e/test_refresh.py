"""Refresh tokens: DESIGN section 4 row by row, over HTTP. Crashes are in test_refresh_kill.py."""

import base64
import contextlib
import json
import sqlite3

import pytest

from accounts import alike, answers_to, at_once, database_file, json_request, problem, rows, session_of
from conftest import PASSWORD, Gateway, eventually

ROUTE = '[[routes]]\npath = "/api/{*rest}"\nrespond = { status = 200 }\n'


def family(gateway, account):
    """Generation, and whether revoked, of the only family of `account`; None when it is gone."""
    found = rows(gateway, "SELECT generation, revoked FROM families WHERE user = ?", account.id)
    return found[0] if found else None


def audit(gateway):
    lines = [json.loads(line) for line in gateway.process.stderr().splitlines() if line.startswith("{")]
    return [line for line in lines if "audit" in line.get("target", "")]


def after_the_grace(gateway, account):
    """Waits until `refresh_grace` (1 s) has passed since the last rotation of the family."""
    sql = "SELECT (julianday('now') - 2440587.5) * 86400000 - rotated_at FROM families WHERE user = ?"
    eventually(lambda: rows(gateway, sql, account.id)[0][0] > 1100, what="the grace passing")


@pytest.fixture(scope="module")
def graced(tmp_path_factory):
    """A gateway with a grace of a second."""
    gateway = Gateway(tmp_path_factory.mktemp("graced"), ROUTE, tokens='refresh_grace = "1s"')
    yield gateway.start()
    gateway.stop()


def test_b25_rotated_the_current_token_gives_a_new_pair(graced):
    """Without rotation a stolen refresh token is good for a year."""
    account = graced.register()
    assert family(graced, account) == (1, 0)
    seen = {account.refresh}
    for generation in (2, 3, 4):
        account.take(graced.refresh(account.refresh).json())
        assert family(graced, account) == (generation, 0)
        seen.add(account.refresh)
    assert len(seen) == 4
    assert graced.get("/api/x", account.access).status_code == 200


def test_refresh_keeps_the_session_and_takes_up_new_roles(graced):
    """A refresh that opened a session would outlive its logout; one with old roles would keep lost rights."""
    account = graced.register()
    sid = session_of(graced, account.access)
    graced.cli("user", "set-roles", account.email, "editor,admin")
    tokens = graced.refresh(account.refresh).json()
    assert session_of(graced, tokens["access_token"]) == sid
    assert sorted(tokens["user"]["roles"]) == ["admin", "editor"]


def test_replay_within_the_grace_gives_the_same_successor(graced):
    """Two tabs, or one whose reply was lost, would log each other out. Neither counter nor clock may move."""
    account = graced.register()
    first = graced.refresh(account.refresh).json()
    before = rows(graced, "SELECT * FROM families WHERE user = ?", account.id)
    again = graced.refresh(account.refresh)
    assert again.status_code == 200
    assert again.json()["refresh_token"] == first["refresh_token"]
    assert graced.get("/api/x", again.json()["access_token"]).status_code == 200
    assert rows(graced, "SELECT * FROM families WHERE user = ?", account.id) == before


def test_b25_reuse_after_the_grace_ends_the_family_and_its_access_tokens(graced):
    """A thief and the owner would both go on with their half of the family."""
    account, bystander = graced.register(), graced.register()
    second_device = graced.login(account.email).json()
    stolen, first_access = account.refresh, account.access
    account.take(graced.refresh(stolen).json())
    assert graced.get("/api/x", account.access).status_code == 200, "cached now"
    sid = session_of(graced, account.access)
    after_the_grace(graced, account)
    problem(graced.refresh(stolen), 403, "invalid_refresh_token")
    for access in (first_access, account.access):
        problem(graced.get("/api/x", access), 401, "invalid_token")
    problem(graced.refresh(account.refresh), 403, "invalid_refresh_token")
    event = eventually(lambda: [e for e in audit(graced) if e.get("session") == sid], what="the audit event")[0]
    assert event["user"] == account.id and event["level"] in ("WARN", "ERROR") and "reuse" in json.dumps(event)
    assert graced.get("/api/x", second_device["access_token"]).status_code == 200, "another family is untouched"
    assert graced.refresh(bystander.refresh).status_code == 200


def test_b25_an_older_generation_is_reuse_even_within_the_grace(graced):
    """The grace is for the direct predecessor only: older tokens were answered and acknowledged."""
    account = graced.register()
    oldest = account.refresh
    for _ in range(2):
        account.take(graced.refresh(account.refresh).json())
    problem(graced.refresh(oldest), 403, "invalid_refresh_token")
    problem(graced.refresh(account.refresh), 403, "invalid_refresh_token")
    problem(graced.get("/api/x", account.access), 401, "invalid_token")


def test_a_generation_the_store_never_handed_out_revokes_the_family(graced):
    """A store set back to an old state would hand out generations twice: two clients in one family."""

    account = graced.register()
    account.take(graced.refresh(account.refresh).json())
    account.take(graced.refresh(account.refresh).json())
    with sqlite3.connect(database_file(graced), timeout=10) as db:
        db.execute("UPDATE families SET generation = 1 WHERE user = ?", (account.id,))
    db.close()
    problem(graced.refresh(account.refresh), 403, "invalid_refresh_token")
    assert family(graced, account)[1] == 1
    problem(graced.get("/api/x", account.access), 401, "invalid_token")


def tampered(token):
    raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    for at in (0, 1, 17, 24, 25, len(raw) - 33, len(raw) - 1):
        changed = bytearray(raw)
        changed[at] ^= 1
        yield base64.urlsafe_b64encode(changed).rstrip(b"=").decode()
    yield base64.urlsafe_b64encode(raw[:-1]).rstrip(b"=").decode()


def test_b21_every_failure_looks_the_same(gateways, graced):
    """The answer would tell a thief whether a token was ever good, or whose."""
    account, other = graced.register(), graced.register()
    foreign = gateways(ROUTE).register()
    reused, logged_out, disabled = graced.register(), graced.register(), graced.register()
    old = reused.refresh
    for _ in range(2):
        reused.take(graced.refresh(reused.refresh).json())
    graced.post("/auth/logout", {"refresh_token": logged_out.refresh})
    graced.cli("user", "disable", disabled.email)
    spliced = account.refresh[:60] + other.refresh[60:]
    bad = [
        "garbage", "", "a" * 200, "a" * 9000, account.access, account.refresh + "A", account.refresh + "=", " " + account.refresh,
        account.refresh.upper(), spliced, foreign.refresh, old, reused.refresh, logged_out.refresh, disabled.refresh,
        "\u0000", "Ünïcode", *tampered(account.refresh),
    ]
    answers = [graced.refresh(token) for token in bad]
    for token, answer in zip(bad, answers):
        problem(answer, 403, "invalid_refresh_token")
        assert alike(answer) == alike(answers[0]), token
    assert family(graced, account) == (1, 0), "no state change"
    assert graced.refresh(account.refresh).status_code == 200


def test_b7_an_access_token_is_no_refresh_token_and_the_other_way_round(graced):
    """A stolen access token of an hour would become a year."""
    account = graced.register()
    problem(graced.refresh(account.access), 403, "invalid_refresh_token")
    problem(graced.get("/api/x", account.refresh), 401, "invalid_token")


def age(gateway, account, seconds):
    """Makes the families of `account` older: the shortest lifetimes that can be configured are a minute."""
    with contextlib.closing(sqlite3.connect(database_file(gateway), timeout=10)) as db, db:
        columns = ("began", "rotated_at", "idle_expiry", "absolute_expiry")
        shift = ", ".join(f"{column} = {column} - {seconds * 1000}" for column in columns)
        db.execute(f"UPDATE families SET {shift} WHERE user = ?", (account.id,))


@pytest.fixture(scope="module")
def short_lived(tmp_path_factory):
    tokens = 'refresh_ttl = "3m"\nrefresh_idle_ttl = "1m"\nrefresh_grace = "1s"\naccess_ttl = "10s"'
    gateway = Gateway(tmp_path_factory.mktemp("short"), ROUTE, tokens=tokens)
    yield gateway.start()
    gateway.stop()


def test_b26_idle_expiry(short_lived):
    """A token found on an old disk would be good for ever; a used one must go on."""
    account, idle = short_lived.register(), short_lived.register()
    assert account.tokens["refresh_expires_in"] == 60
    for _ in range(2):
        age(short_lived, account, 50)
        account.take(short_lived.refresh(account.refresh).json())
    age(short_lived, idle, 60)
    problem(short_lived.refresh(idle.refresh), 403, "invalid_refresh_token")


def test_b26_absolute_expiry(short_lived):
    """Refreshing again and again would keep a stolen session alive for ever."""
    account = short_lived.register()
    for _ in range(3):
        age(short_lived, account, 50)
        account.take(short_lived.refresh(account.refresh).json())
    left = rows(short_lived, "SELECT absolute_expiry - rotated_at FROM families WHERE user = ?", account.id)[0][0]
    idle = rows(short_lived, "SELECT idle_expiry - rotated_at FROM families WHERE user = ?", account.id)[0][0]
    assert left == idle <= 30_000, "an idle expiry never lies behind the absolute one"
    age(short_lived, account, 30)
    problem(short_lived.refresh(account.refresh), 403, "invalid_refresh_token")


def test_b26_an_expired_session_is_not_listed(short_lived):
    """Users would believe that devices are logged in which are not."""
    account = short_lived.register()
    second = short_lived.login(account.email).json()
    age(short_lived, account, 60)
    third = short_lived.login(account.email).json()
    listed = short_lived.get("/auth/sessions", third["access_token"]).json()["sessions"]
    assert [s["current"] for s in listed] == [True]
    problem(short_lived.refresh(second["refresh_token"]), 403, "invalid_refresh_token")


def test_threat_refresh_race_100_parallel_refreshes_have_one_successor(gateways):
    """Parallel tabs would fork the family: two live tokens of one generation, or a logout by mistake."""
    gateway = gateways(ROUTE, tokens='refresh_grace = "60s"')
    account = gateway.register()
    before = account.refresh
    request = json_request("POST", "/auth/refresh", {"refresh_token": before})
    answers = answers_to(gateway, [request] * 100)
    assert [status for status, _, _ in answers] == [200] * 100
    successors = {json.loads(body)["refresh_token"] for _, _, body in answers}
    assert len(successors) == 1
    assert family(gateway, account) == (2, 0), "the generation advanced once"
    assert gateway.metric('portcullis_refreshes_total{outcome="rotated"}') == 1
    assert gateway.metric('portcullis_refreshes_total{outcome="replay"}') == 99
    assert gateway.refresh(successors.pop()).status_code == 200


def test_threat_refresh_race_with_a_logout_leaves_nothing_alive(gateways):
    """A refresh that is under way during the logout would hand out a pair that survives it."""
    gateway = gateways(ROUTE, tokens='refresh_grace = "60s"')
    for _ in range(10):
        account = gateway.register()
        refresh = json_request("POST", "/auth/refresh", {"refresh_token": account.refresh})
        logout = json_request("POST", "/auth/logout", {"refresh_token": account.refresh})
        answers = answers_to(gateway, [refresh] * 4 + [logout] + [refresh] * 4)
        assert answers[4][0] == 204
        given = [json.loads(body) for status, _, body in answers if status == 200]
        for tokens in given:
            problem(gateway.get("/api/x", tokens["access_token"]), 401, "invalid_token")
            problem(gateway.refresh(tokens["refresh_token"]), 403, "invalid_refresh_token")
        problem(gateway.refresh(account.refresh), 403, "invalid_refresh_token")


def test_a_client_that_leaves_before_the_reply_loses_nothing(gateways):
    """Half of all mobile refreshes end in a lost connection: the old token must go on within the grace."""
    gateway = gateways(ROUTE, tokens='refresh_grace = "60s"')
    account = gateway.register()
    for s in at_once(gateway, [json_request("POST", "/auth/refresh", {"refresh_token": account.refresh})] * 5):
        s.close()
    tokens = gateway.refresh(account.refresh).json()
    assert family(gateway, account) == (2, 0)
    assert gateway.refresh(tokens["refresh_token"]).status_code == 200


def test_b33_nothing_secret_about_a_refresh_token_is_stored(graced):
    """Whoever reads a backup of the database could refresh."""
    account = graced.register()
    token = base64.urlsafe_b64decode(account.refresh + "=" * (-len(account.refresh) % 4))
    mac = token[-32:]
    stored = b"".join(p.read_bytes() for p in database_file(graced).parent.glob("portcullis.db*"))
    assert mac not in stored and mac.hex().encode() not in stored and account.refresh.encode() not in stored
    assert rows(graced, "SELECT count(*) FROM families WHERE user = ?", account.id) == [(1,)]


def test_refresh_tokens_survive_a_restart(gateways):
    """Every deployment would log everybody out."""
    gateway = gateways(ROUTE)
    account = gateway.register()
    successor = gateway.refresh(account.refresh).json()["refresh_token"]
    gateway.restart()
    assert gateway.refresh(account.refresh).json()["refresh_token"] == successor, "replay across the restart"
    assert gateway.refresh(successor).status_code == 200
    assert gateway.login(account.email, PASSWORD).status_code == 200
