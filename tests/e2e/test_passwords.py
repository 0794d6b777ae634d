"""Passwords are verified exactly as received; imported hashes work and are upgraded at login."""

import base64
import json
import unicodedata
import uuid

import bcrypt
import jwt
import pytest
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from passlib.hash import bcrypt_sha256

from accounts import answers_to, json_request, problem, rows
from conftest import PASSWORD, Gateway


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    config = "[throttle]\nfree_failures = 100\naddress_failures = 1000000\n"
    gateway = Gateway(tmp_path_factory.mktemp("passwords"), config)
    yield gateway.start()
    gateway.stop()


def stored_hash(gateway, email):
    return rows(gateway, "SELECT password_hash FROM users WHERE email = ?", email)[0][0]


def register(gateway, password, email=None):
    email = email or f"{uuid.uuid4().hex}@example.com"
    return gateway.post("/auth/register", {"email": email, "password": password})


def import_hash(gateway, password_hash):
    email = f"{uuid.uuid4().hex}@example.com"
    gateway.cli("user", "import", "-", stdin=json.dumps({"email": email, "password_hash": password_hash}))
    return email


BASE = "x" * 70
PAIRS = {
    "71 and 72 bytes": (BASE + "1", BASE + "12"),
    "72 and 73 bytes": (BASE + "12", BASE + "123"),
    "same first 72 bytes": (BASE + "12" + "a", BASE + "12" + "b"),
    "72nd byte": (BASE + "1a", BASE + "1b"),
    "long, last byte": ("y" * 900 + "a", "y" * 900 + "b"),
    "NUL at the end": ("a password", "a password\0"),
    "after a NUL": ("a password\0one", "a password\0two"),
    "NUL first": ("\0aaaaaaaaa", "\0bbbbbbbbb"),
    "NFC and NFD": (unicodedata.normalize("NFC", "pässwörter"), unicodedata.normalize("NFD", "pässwörter")),
    "compatibility form": ("ﬁnancial plan", "financial plan"),
    "case": ("A Good Password", "a good password"),
    "space at the end": ("a good password", "a good password "),
    "space at the start": ("a good password", " a good password"),
    "multi-byte split at 72": ("z" * 71 + "é", "z" * 71 + "è"),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_b29_verified_exactly_as_received(gateway, pair):
    """Somebody would log in with another password than the right one (CVE-2025-22228)."""
    for right, wrong in (pair, pair[::-1]):
        answer = register(gateway, right)
        assert answer.status_code == 201, answer.text
        email = answer.json()["user"]["email"]
        assert gateway.login(email, right).status_code == 200
        problem(gateway.login(email, wrong), 401, "invalid_credentials")


def test_b29_a_changed_password_is_taken_as_received(gateway):
    """The same at the other way in: PUT /auth/password."""
    account = gateway.register()
    new = BASE + "12\0a"
    body = {"current": account.password, "new": new}
    assert gateway.request("PUT", "/auth/password", account.access, json=body).status_code == 204
    assert gateway.login(account.email, new).status_code == 200
    for wrong in (new[:-1] + "b", new[:72], account.password):
        problem(gateway.login(account.email, wrong), 401, "invalid_credentials")


@pytest.mark.parametrize("password", [
    "p" * 64, "\U0001f511" * 64, "密码" * 32, "كلمة السر الطويلة", "\U0001f468\u200d\U0001f469\u200d\U0001f467 family",
    "\u202eright to left", "\ufeffbyte order mark", "tab\tand\nnewline", "\x01\x02\x03 controls", "\uffff\ufffe nonchars",
    "aaaa bbbb", "        x", '{"$ne": null}', "x" * 1024,
])
def test_b28_any_unicode_and_at_least_64_characters(gateway, password):
    """Pass phrases of other languages, emoji and password managers would be refused (NIST SP 800-63B 5.1.1.2)."""
    answer = register(gateway, password)
    assert answer.status_code == 201, answer.text
    assert gateway.login(answer.json()["user"]["email"], password).status_code == 200


def test_b28_at_most_1024_bytes_and_the_limit_is_no_truncation(gateway):
    """A longer one must be refused aloud, at every way in; hashing megabytes is a way to exhaust the processor."""
    account = gateway.register()
    for password in ("x" * 1025, "é" * 513, "x" * 10_000):
        assert register(gateway, password).status_code == 400
        problem(gateway.login(account.email, password), 400, "invalid_request")
        body = {"current": account.password, "new": password}
        assert gateway.request("PUT", "/auth/password", account.access, json=body).status_code == 400
    assert register(gateway, "é" * 512).status_code == 201


@pytest.mark.parametrize("password", ["short", "1234567", "\U0001f511" * 7, "a" * 7])
def test_b27_shorter_than_eight_characters_is_weak(gateway, password):
    """Characters count, not bytes: seven emoji are seven."""
    problem(register(gateway, password), 400, "weak_password")


def test_b27_minimum_length_is_configurable(gateways):
    """Operators under stricter rules (15 without a second factor) could not follow them."""
    gateway = gateways("[passwords]\ncost = 4\nmin_length = 15\n")
    problem(register(gateway, "fourteen chars"), 400, "weak_password")
    assert register(gateway, "fifteen chars !").status_code == 201


COMMON = [
    "password", "PassWord", "12345678", "123456789", "qwertyuiop", "iloveyou", "sunshine", "football", "princess", "password1",
    "baseball", "superman",
]


@pytest.mark.parametrize("password", COMMON)
def test_b30_common_passwords_are_refused_in_any_case(gateway, password):
    """The first thing that is tried."""
    problem(register(gateway, password), 400, "weak_password")
    account = gateway.register()
    body = {"current": account.password, "new": password}
    problem(gateway.request("PUT", "/auth/password", account.access, json=body), 400, "weak_password")
    done = gateway.cli("user", "add", f"{uuid.uuid4().hex}@example.com", stdin=password + "\n", check=False)
    assert done.returncode == 1 and "common" in done.stderr


def test_the_address_is_no_password(gateway):
    """The second thing that is tried."""
    name = uuid.uuid4().hex
    for password in (f"{name}@example.com", f"{name}@EXAMPLE.com", name):
        problem(register(gateway, password, f"{name}@example.com"), 400, "weak_password")


def test_a_new_hash_has_the_documented_form_and_others_can_verify_it(gateway):
    """Users could never leave: passlib's bcrypt_sha256 (version 2) reads our hashes, every byte counted."""
    for password in (PASSWORD, "p" * 100, "nul\0inside it", "pässwörter"):
        email = register(gateway, password).json()["user"]["email"]
        kept = stored_hash(gateway, email)
        assert kept.startswith("$bcrypt-sha256$v=2,t=2b,r=4$")
        assert bcrypt_sha256.verify(password, kept)
        assert not bcrypt_sha256.verify(password + "x", kept)


def test_a_hash_of_passlib_is_accepted(gateway):
    """The other direction of the same."""
    for password in (PASSWORD, "p" * 100):
        email = import_hash(gateway, bcrypt_sha256.using(rounds=4).hash(password))
        problem(gateway.login(email, password + "x"), 401, "invalid_credentials")
        assert gateway.login(email, password).status_code == 200


def bcrypt_hash(prefix, password=PASSWORD):
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode().replace("$2b$", prefix)


def argon2id_hash():
    """In the PHC string format (RFC 9106)."""
    salt = bytes(range(16))
    digest = Argon2id(salt=salt, length=32, iterations=2, lanes=1, memory_cost=1024).derive(PASSWORD.encode())
    salt, digest = (base64.b64encode(b).rstrip(b"=").decode() for b in (salt, digest))
    return f"$argon2id$v=19$m=1024,t=2,p=1${salt}${digest}"


IMPORTED = {
    "2a": bcrypt_hash("$2a$"), "2b": bcrypt_hash("$2b$"), "2y": bcrypt_hash("$2y$"), "argon2id": argon2id_hash(),
    "other cost": bcrypt_sha256.using(rounds=5).hash(PASSWORD),
}


@pytest.mark.parametrize("imported", IMPORTED.values(), ids=IMPORTED.keys())
def test_imported_hashes_are_verified_and_upgraded_at_login(gateway, imported):
    """Everybody would need a new password after a migration, or keep a hash that truncates."""
    email = import_hash(gateway, imported)
    assert stored_hash(gateway, email) == imported
    problem(gateway.login(email, "not " + PASSWORD), 401, "invalid_credentials")
    assert stored_hash(gateway, email) == imported, "a wrong password changes nothing"
    assert gateway.login(email, PASSWORD).status_code == 200
    upgraded = stored_hash(gateway, email)
    assert upgraded.startswith("$bcrypt-sha256$v=2,t=2b,r=4$") and bcrypt_sha256.verify(PASSWORD, upgraded)
    assert gateway.login(email, PASSWORD).status_code == 200
    assert stored_hash(gateway, email) == upgraded, "once is enough"
    problem(gateway.login(email, "not " + PASSWORD), 401, "invalid_credentials")


def test_parallel_first_logins_of_an_imported_user_all_succeed(gateway):
    """The upgrade of the first login must not make the others' right password wrong (two devices after a migration)."""
    statuses = []
    for _ in range(5):
        email = import_hash(gateway, bcrypt_hash("$2b$"))
        request = json_request("POST", "/auth/login", {"email": email, "password": PASSWORD})
        statuses += [status for status, _, _ in answers_to(gateway, [request] * 8)]
    assert set(statuses) == {200}, statuses


def test_an_imported_bcrypt_hash_is_no_way_around_exactness(gateway):
    """Plain bcrypt sees 72 bytes and stops at NUL: what it could not have seen whole must not match."""
    email = import_hash(gateway, bcrypt_hash("$2b$", BASE + "12"))
    for wrong in (BASE + "12x", BASE + "12\0", BASE + "1"):
        problem(gateway.login(email, wrong), 401, "invalid_credentials")
    assert gateway.login(email, BASE + "12").status_code == 200
    email = import_hash(gateway, bcrypt_hash("$2a$", "before"))
    problem(gateway.login(email, "before\0and after"), 401, "invalid_credentials")


def test_upgrade_leaves_other_sessions_alone(gateway):
    """An upgrade is no password change: nobody may be logged out by it."""
    email = import_hash(gateway, bcrypt_hash("$2b$"))
    first = gateway.login(email, PASSWORD).json()
    gateway.login(email, PASSWORD)
    assert gateway.get("/auth/me", first["access_token"]).status_code == 200
    assert gateway.refresh(first["refresh_token"]).status_code == 200
    assert jwt.decode(first["access_token"], options={"verify_signature": False})["email"] == email
