"""Bad input to the endpoints: a clear 4xx problem each, never a 5xx, nothing stored, nothing secret repeated."""

import json
import uuid

import pytest

from accounts import PROBLEM_MEMBERS, answers_to, everything, json_request, problem, rows
from conftest import PASSWORD, Gateway

SECRET = "canary-secret-7f3a91"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    gateway = Gateway(tmp_path_factory.mktemp("bad"), "[throttle]\naddress_failures = 1000000\n")
    gateway.start()
    gateway.account = gateway.register("ann@example.com")
    yield gateway
    assert gateway.metric("portcullis_panics_total") == 0
    gateway.stop()


def refused(gateway, request, status=400, codes=("invalid_json", "invalid_request")):
    """Sends raw bytes; asserts the problem, that nothing changed, and that the gateway goes on."""
    before = everything(gateway)
    got, head, body = answers_to(gateway, [request])[0]
    assert got == status, f"{got} {body!r}"
    assert "content-type: application/problem+json" in head and "cache-control: no-store" in head
    members = json.loads(body)
    assert set(members) == PROBLEM_MEMBERS and members["status"] == status
    assert members["code"] in codes, members
    assert SECRET not in body.decode() and SECRET not in head
    assert everything(gateway) == before
    return members


# What is no single JSON object, for any endpoint with a body.
NOT_JSON = {
    "empty": b"",
    "white space": b"  \n ",
    "cut off": b'{"email": "a@example.com", "password": "' + SECRET.encode(),
    "single quotes": b"{'email': 'a'}",
    "trailing comma": b'{"email": "a@example.com", "password": "canary-secret-7f3a91",}',
    "two objects": b'{"email":"a@b.c","password":"canary-secret-7f3a91"}{"email":"a@b.c","password":"x"}',
    "text behind": b'{"email":"a@b.c","password":"canary-secret-7f3a91"} x',
    "comment": b'/* x */ {"email":"a@b.c","password":"canary-secret-7f3a91"}',
    "form": b"email=a%40b.c&password=" + SECRET.encode(),
    "byte order mark": b'\xef\xbb\xbf{"email":"a@b.c","password":"canary-secret-7f3a91"}',
    "utf-16": '{"email":"a@b.c","password":"canary-secret-7f3a91"}'.encode("utf-16"),
    "bad utf-8": b'{"email":"a@b.c","password":"\xff\xfe canary-secret-7f3a91"}',
    "overlong utf-8": b'{"email":"a@b.c","password":"\xc0\x80 canary-secret-7f3a91"}',
    "surrogate in utf-8": b'{"email":"a@b.c","password":"\xed\xa0\x80 canary-secret-7f3a91"}',
    "lone high surrogate": b'{"email":"a@b.c","password":"\\ud800 canary-secret-7f3a91"}',
    "lone low surrogate": b'{"email":"a@b.c","password":"\\udc00 canary-secret-7f3a91"}',
    "surrogates the wrong way round": b'{"email":"a@b.c","password":"\\udc00\\ud800 canary-secret-7f3a91"}',
    "raw control": b'{"email":"a@b.c","password":"a\nb canary-secret-7f3a91"}',
    "raw NUL": b'{"email":"a@b.c","password":"a\0b canary-secret-7f3a91"}',
    "NaN": b'{"email": NaN, "password": "canary-secret-7f3a91"}',
    "infinity": b'{"email": "a@b.c", "password": -Infinity}',
    "1e400": b'{"email": "a@b.c", "password": 1e400}',
    "nested arrays": b"[" * 8000,
    "nested objects": b'{"email":' * 1500,
    "deep but closed": b'{"email":' + b"[" * 3000 + b"]" * 3000 + b"}",
    "null": b"null",
    "true": b"true",
    "number": b"12",
    "string": b'"canary-secret-7f3a91"',
    "empty array": b"[]",
    "array of objects": b'[{"email":"a@b.c","password":"canary-secret-7f3a91"}]',
}
BODIES = {"/auth/register": "POST", "/auth/login": "POST", "/auth/refresh": "POST"}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
@pytest.mark.parametrize("path", BODIES)
def test_bad_input_not_one_json_object(gateway, path, body):
    """Half-read bodies would be acted on, or the parser brought down."""
    refused(gateway, json_request("POST", path, body))


@pytest.mark.parametrize("body", [b for n, b in NOT_JSON.items() if n not in ("empty", "white space")][:8])
@pytest.mark.parametrize("method, path", [("POST", "/auth/logout"), ("PUT", "/auth/password")])
def test_bad_input_not_one_json_object_with_a_token(gateway, method, path, body):
    """As above, where a token is at hand: logout must not fall back to the bearer's session."""
    refused(gateway, json_request(method, path, body, Authorization=f"Bearer {gateway.account.access}"))
    assert gateway.get("/auth/me", gateway.account.access).status_code == 200


@pytest.mark.parametrize("path, values", [
    ("/auth/login", ["EMAIL", PASSWORD]),
    ("/auth/register", ["positional@example.com", "canary-secret-7f3a91", "name"]),
    ("/auth/refresh", ["REFRESH"]),
    ("/auth/logout", ["REFRESH"]),
])
def test_bad_input_an_array_is_not_an_object(gateway, path, values):
    """An array taken field by field is a second form of every call, which no schema and no filter in front knows."""
    account = gateway.register()
    own = {"REFRESH": account.refresh, "EMAIL": account.email}
    refused(gateway, json_request("POST", path, [own.get(v, v) for v in values]))


def test_bad_input_an_array_is_no_password_change(gateway):
    """As above, with a bearer token."""
    bearer = f"Bearer {gateway.register().access}"
    refused(gateway, json_request("PUT", "/auth/password", [PASSWORD, "a perfectly new password"], Authorization=bearer))


WRONG = [None, 1, 0, -1, 1.5, True, False, [], ["a@example.com"], {}, {"$ne": None}, {"$gt": ""}, {"$regex": ".*"}, {"$where": "1"}]


@pytest.mark.parametrize("value", WRONG, ids=json.dumps)
@pytest.mark.parametrize("method, path, good", [
    ("POST", "/auth/login", {"email": "ann@example.com", "password": SECRET}),
    ("POST", "/auth/register", {"email": "new@example.com", "password": SECRET}),
    ("POST", "/auth/refresh", {"refresh_token": SECRET}),
    ("POST", "/auth/logout", {"refresh_token": SECRET}),
    ("PUT", "/auth/password", {"current": SECRET, "new": SECRET + "2"}),
])
def test_threat_nosql_operators_and_wrong_types_are_400(gateway, method, path, good, value):
    """`{"$ne": null}` as a password would match every account (Rocket.Chat CVE-2023-28359)."""
    calls = rows(gateway, "SELECT count(*) FROM login_runs")
    for field in good:
        body = {**good, field: value}
        members = refused(gateway, json_request(method, path, body, Authorization=f"Bearer {gateway.account.access}"))
        assert members["code"] == "invalid_request"
    assert rows(gateway, "SELECT count(*) FROM login_runs") == calls, "no database call"


@pytest.mark.parametrize("value", [1, True, [], {}, {"$ne": None}, "x" * 201, "line\nbreak", "\u001b[31m", "nul\0"], ids=repr)
def test_bad_input_name(gateway, value):
    """Names are shown to operators: no control characters, no other types."""
    refused(gateway, json_request("POST", "/auth/register", {"email": "n@example.com", "password": SECRET, "name": value}))


FIELDS = [
    ("POST", "/auth/login", b'{"email":"ann@example.com","password":"canary-secret-7f3a91","password":"b"}'),
    ("POST", "/auth/login", b'{"email":"ann@example.com","email":"bob@example.com","password":"canary-secret-7f3a91"}'),
    ("POST", "/auth/login", b'{"email":"ann@example.com","password":"x","pass\\u0077ord":"canary-secret-7f3a91"}'),
    ("POST", "/auth/refresh", b'{"refresh_token":"canary-secret-7f3a91","refresh_token":"b"}'),
    ("POST", "/auth/register", b'{"email":"n@example.com","password":"canary-secret-7f3a91","roles":["admin"]}'),
    ("POST", "/auth/register", b'{"email":"n@example.com","password":"canary-secret-7f3a91","id":"u1","scopes":["a"]}'),
    ("POST", "/auth/register", b'{"email":"n@example.com","password":"canary-secret-7f3a91","__proto__":{"roles":["admin"]}}'),
    ("POST", "/auth/login", b'{"email":"ann@example.com","password":"canary-secret-7f3a91","remember":true}'),
    ("POST", "/auth/login", b'{"email":"ann@example.com"}'),
    ("POST", "/auth/login", b'{"password":"canary-secret-7f3a91"}'),
    ("POST", "/auth/login", b'{"Email":"ann@example.com","Password":"canary-secret-7f3a91"}'),
    ("POST", "/auth/login", b"{}"),
    ("POST", "/auth/refresh", b"{}"),
    ("POST", "/auth/logout", b"{}"),
    ("PUT", "/auth/password", b'{"new":"canary-secret-7f3a91"}'),
    ("PUT", "/auth/password", b'{"current":"correct horse battery staple","new":"canary-secret-7f3a91","user":"other"}'),
]


@pytest.mark.parametrize("method, path, body", FIELDS)
def test_bad_input_duplicate_unknown_and_missing_fields(gateway, method, path, body):
    """Two parsers would read different values; a client could give himself roles."""
    bearer = f"Bearer {gateway.account.access}"
    assert refused(gateway, json_request(method, path, body, Authorization=bearer))["code"] == "invalid_request"


@pytest.mark.parametrize("path", ["/auth/login", "/auth/register", "/auth/refresh"])
def test_bad_input_an_unknown_field_is_not_repeated_at_any_length(gateway, path):
    """A name that is no name (a token or a password in the wrong place) must not come back whole in an error."""
    members = refused(gateway, json_request("POST", path, {"x" * 200 + SECRET + "x" * 12_000: 1}))
    assert len(members["detail"]) < 500


@pytest.mark.parametrize("method, path, body", [
    ("POST", "/auth/login", {"email": "ann@example.com", "password": ""}),
    ("POST", "/auth/register", {"email": "n@example.com", "password": ""}),
    ("PUT", "/auth/password", {"current": "", "new": "a new good password"}),
    ("PUT", "/auth/password", {"current": PASSWORD, "new": ""}),
])
def test_bad_input_empty_passwords(gateway, method, path, body):
    """An empty password is how LDAP binds anonymously; it must be nobody's."""
    bearer = f"Bearer {gateway.account.access}"
    refused(gateway, json_request(method, path, body, Authorization=bearer), codes=("invalid_request", "weak_password"))


EMAILS = [
    "", " ", "a", "@", "a@", "@b", "a@b@c", "a b@example.com", "a@exam ple.com", "a\tb@example.com",
    "ann@example.com\r\nBcc: all@example.com", "ann\r\n@example.com", "ann@example.com\nX-User-Id: 1\nx@y", "a\0@example.com",
    "\u001b[2J@example.com", "a\u0085b@example.com", "a\u2028b@example.com", "a\u00a0b@example.com", "a\u007f@example.com",
    "a@.example.com", "a@example.com.", "a" * 65 + "@example.com", "a@" + "b" * 253, "a@" + "b." * 5000 + "com", "x" * 12_000,
]


@pytest.mark.parametrize("email", EMAILS, ids=lambda e: repr(e)[:40])
@pytest.mark.parametrize("path", ["/auth/register", "/auth/login"])
def test_bad_input_emails_and_header_injection(gateway, path, email):
    """An address with a line break writes headers of our mail and of requests to backends."""
    members = refused(gateway, json_request("POST", path, {"email": email, "password": SECRET}))
    assert "e-mail" in members["detail"]


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("content_type", [
    None, "", "text/plain", "text/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
    "application/jsonp", "application/json-patch+json", "json", "text/plain; application/json", "application/json, text/plain",
])
def test_bad_input_content_types_are_415(gateway, path, content_type):
    """A form of another site could log a visitor in as the attacker: text/plain needs no preflight."""
    request = json_request("POST", path, {"email": "ann@example.com", "password": PASSWORD}, **{"Content-Type": content_type or ""})
    if content_type is None:
        request = request.replace(b"Content-Type: \r\n", b"")
    refused(gateway, request, 415, ("unsupported_media_type",))


def test_bad_input_two_content_types_are_415(gateway):
    """Which of the two a filter in front believed cannot be known."""
    request = json_request("POST", "/auth/login", {"email": "ann@example.com", "password": PASSWORD})
    request = request.replace(b"Content-Type:", b"Content-Type: text/plain\r\nContent-Type:")
    refused(gateway, request, 415, ("unsupported_media_type",))


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON", "application/json;charset=UTF-8"])
def test_content_types_that_are_json_are_taken(gateway, content_type):
    """The usual HTTP clients send these."""
    request = json_request("POST", "/auth/login", {"email": "ann@example.com", "password": PASSWORD}, **{"Content-Type": content_type})
    assert answers_to(gateway, [request])[0][0] == 200


@pytest.mark.parametrize("path", [*BODIES, "/auth/logout"])
@pytest.mark.parametrize("size, chunked", [
    (16 * 1024 + 1, False), (10**6, False), (2 * 10**7, False), (16 * 1024 + 1, True), (10**6, True),
])
def test_bad_input_huge_bodies_are_413(gateway, path, size, chunked):
    """Memory would be filled before a password is looked at; 1 MB tokens among them."""
    body = json.dumps({"refresh_token": "A" * size}).encode()
    if chunked:
        request = json_request("POST", path, b"", **{"Transfer-Encoding": "chunked"}).replace(b"Content-Length: 0\r\n", b"")
        request += f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    else:
        # Only the head and a little: the refusal must not wait for the rest.
        request = json_request("POST", path, body[:100], **{"Content-Length": len(body)})
    refused(gateway, request, 413, ("body_too_large",))


def test_a_body_of_16_kib_is_read(gateway):
    """The documented limit is the limit."""
    body = b'{"refresh_token":"x"' + b" " * (16 * 1024 - 21) + b"}"
    assert len(body) == 16 * 1024
    refused(gateway, json_request("POST", "/auth/refresh", body), 403, ("invalid_refresh_token",))


@pytest.mark.parametrize("size, status", [(20_000, 401), (40_000, 431), (1_000_000, 431)])
def test_bad_input_huge_bearer_tokens(gateway, size, status):
    """A token of a megabyte would be hashed, decoded and verified."""
    request = f"GET /auth/me HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {'A' * size}\r\n\r\n".encode()
    refused(gateway, request, status, ("invalid_token", "header_too_large"))


@pytest.mark.parametrize("token", ["A" * 15_000, "ey" + "J" * 15_000 + ".x.y", "\u0000", "' OR 1=1 --", '{"$ne":null}', "../" * 100])
def test_bad_input_refresh_tokens_are_403(gateway, token):
    """Garbage is an unknown token like any other (B 21)."""
    refused(gateway, json_request("POST", "/auth/refresh", {"refresh_token": token}), 403, ("invalid_refresh_token",))


@pytest.mark.parametrize("email", [
    "'OR'1'='1@x", "a';DROP/**/TABLE/**/users;--@example.com", "a%00@example.com", "a\\@example.com", "*@example.com",
])
def test_bad_input_sql_in_an_address_is_only_an_address(gateway, email):
    """Input that becomes a query could read or empty the user table."""
    answer = gateway.login(email, "a wrong password")
    assert answer.status_code in (400, 401)
    assert gateway.login("ann@example.com").status_code == 200


def test_an_address_with_letters_of_all_scripts_is_one_account(gateway):
    """Case folding must not make two accounts of one address, nor one of two."""
    email = f"Zoë.{uuid.uuid4().hex}@Exämple.com"
    account = gateway.register(email)
    assert account.tokens["user"]["email"] == email.lower()
    assert gateway.login(email.upper().lower()).status_code == 200
    problem(gateway.login(email.replace("ë", "e")), 401, "invalid_credentials")
