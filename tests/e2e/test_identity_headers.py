"""Invariant 2: an identity header that reaches a backend was set by us. SECURITY part A: header aliases, identity headers
on public and failed routes, hop-by-hop abuse.

What arrived is judged by a Node server, a CGI-like server, and one that keeps the raw bytes.
"""

import http.client
import json
import socket
from urllib.parse import unquote

import pytest

from conftest import API, PASSWORD, fields
from forge import Key, claims_of, own_key
from jwks_server import JwksServer
from wsgi_backend import WsgiBackend

IDENTITY = ["X-User-Id", "X-User-Email", "X-User-Roles", "X-Session-Id"]
EVIL = "evil-value"


def fold(name) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def aliases(name) -> list[str]:
    """Spellings that some backend reads as `name`."""
    return [name, name.lower(), name.upper(), name.replace("-", "_"), name.replace("-", "."), name.replace("-", "_", 1),
            name.replace("-", ".", 1).upper(), name.lower().replace("-", "_"), name.swapcase()]


EVERY_ALIAS = [alias for name in IDENTITY for alias in aliases(name)]


def request(gateway, path, token=None, lines=(), method="GET", body=b"", host="gateway.test"):
    """The raw response to a request with these header lines, as they are."""
    head = [f"{method} {path} HTTP/1.1", f"Host: {host}", *lines]
    if not any(line.lower().startswith("connection:") for line in lines):
        head.append("Connection: close")
    if token:
        head.append(f"Authorization: Bearer {token}")
    return gateway.raw("\r\n".join(head).encode() + b"\r\n\r\n" + body)


def status_of(answer) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def identity_seen(backend) -> list[list[tuple[str, str]]]:
    """For every recorded request, the fields that read as identity headers."""
    names = {fold(n) for n in IDENTITY}
    return [[(fold(n), v) for n, v in fields(seen) if fold(n) in names] for seen in backend.requests()]


def expected(account) -> list[tuple[str, str]]:
    claims = claims_of(account.access)
    return [("x-session-id", claims["sid"]), ("x-user-email", claims["email"]),
            ("x-user-id", claims["sub"]), ("x-user-roles", ",".join(claims["roles"]))]


@pytest.fixture
def api(shared_api):
    shared_api.backend.forget()
    return shared_api


@pytest.fixture(scope="module")
def account(shared_api):
    shared_api.cli("user", "add", "ann@example.com", "--roles", "admin,user", stdin=PASSWORD + "\n")
    account = shared_api.register()
    return account.take(shared_api.login("ann@example.com").json())


@pytest.fixture
def wsgi():
    backend = WsgiBackend()
    yield backend
    backend.stop()


def lines_of(names, value=EVIL):
    return [f"{name}: {value}" for name in names for _ in range(2)]


# Aliases and duplicates --------------------------------------------------------------------------------------------------

ROUTES = ["/api/x", "/public/x", "/optional/x", "/admin/x", "/stripped/x"]


@pytest.mark.parametrize("path", ROUTES)
def test_threat_header_aliases_with_a_token(api, account, path):
    """oauth2-proxy CVE-2025-64484: every spelling, twice each; the backend sees ours once and nothing else."""
    assert status_of(request(api, path, account.access, lines_of(EVERY_ALIAS))) == 200
    [seen] = identity_seen(api.backend)
    assert sorted(seen) == ([] if path.startswith("/public") else expected(account))
    assert EVIL not in json.dumps(api.backend.requests())


@pytest.mark.parametrize("alias", sorted({fold(a) == "x-user-id" and a for a in EVERY_ALIAS} - {False}))
def test_threat_one_alias_alone(api, alias):
    """Each spelling on a public route by itself, so that no other one covers for it."""
    assert status_of(request(api, "/public/x", lines=[f"{alias}: {EVIL}"])) == 200
    assert identity_seen(api.backend) == [[]]


@pytest.mark.parametrize("path", ["/public/x", "/optional/x"])
def test_threat_public_routes_without_a_token(api, path):
    """Caddy CVE-2026-30851: routes that need no token are the ones that forget to strip."""
    assert status_of(request(api, path, lines=lines_of(EVERY_ALIAS))) == 200
    assert identity_seen(api.backend) == [[]]
    assert EVIL not in json.dumps(api.backend.requests())


@pytest.mark.parametrize("path, token, status", [
    ("/api/x", None, 401), ("/api/x", "a.b.c", 401), ("/admin/x", "user", 403), ("/nowhere", None, 404), ("/optional/x", "a.b.c", 401),
    ("/public/../admin/x", None, 400),
])
def test_threat_failed_routes_reach_no_backend(api, path, token, status):
    token = api.register().access if token == "user" else token
    answer = request(api, path, token, lines_of(EVERY_ALIAS))
    assert status_of(answer) == status and api.backend.requests() == []
    assert EVIL.encode() not in answer


def test_threat_aliases_at_a_wsgi_backend(gateways, wsgi):
    """A CGI-like server folds `-`, `_` and `.` into one variable: only ours may be in it."""
    gateway = gateways(API.format(address=wsgi.address))
    account = gateway.register()
    ours = {name.upper().replace("-", "_"): value for name, value in expected(account)}
    for path in ("/api/x", "/public/x", "/optional/x"):
        assert status_of(request(gateway, path, account.access, lines_of(EVERY_ALIAS))) == 200
        environ = wsgi.last()
        got = {k[5:]: v for k, v in environ.items() if fold(k[5:]) in {fold(n) for n in IDENTITY}}
        assert got == ({} if path == "/public/x" else ours)
        assert EVIL not in json.dumps(environ)


def test_raw_bytes_hold_no_client_identity_header(gateways, raw_backend):
    """Nobody's parser between us and the bytes: not in the head, not in the trailers, in no spelling."""
    gateway = gateways(API.format(address=raw_backend.address))
    account = gateway.register()
    chunked = ["Transfer-Encoding: chunked", "Trailer: X-User-Id"]
    trailers = "".join(f"{name}: {EVIL}\r\n" for name in EVERY_ALIAS).encode()
    for path, token in (("/api/x", account.access), ("/public/x", None), ("/optional/x", None)):
        request(gateway, path, token, lines_of(EVERY_ALIAS))
        request(gateway, path, token, [*lines_of(EVERY_ALIAS), *chunked], "POST", b"2\r\nhi\r\n0\r\n" + trailers + b"\r\n")
    received = raw_backend.bytes().lower()
    assert received.count(b" http/1.1\r\n") == 6
    assert EVIL.encode() not in received
    names = [line.split(b":")[0].decode() for line in received.split(b"\r\n") if b":" in line]
    assert [fold(n) for n in names].count("x-user-id") == 2


def test_b44_trailers_never_become_headers(api, account):
    lines = ["Transfer-Encoding: chunked", "Trailer: X-User-Id"]
    trailers = "".join(f"{name}: {EVIL}\r\n" for name in EVERY_ALIAS).encode()
    answer = request(api, "/api/x", account.access, lines, "POST", b"2\r\nhi\r\n0\r\n" + trailers + b"\r\n")
    seen = api.backend.requests()
    assert status_of(answer) in (200, 400)
    assert EVIL not in json.dumps(seen)
    assert [sorted(s) for s in identity_seen(api.backend)] == [expected(account)] * len(seen)


# Connection --------------------------------------------------------------------------------------------------------------

NOMINATED = ["x-user-id", "X-User-Id", "X-USER-ID", "close, X-User-Id", "X-User-Id, X-User-Email , x-session-id,X-User-Roles",
             "keep-alive,x-user-id", "x_user_id", "X-User-Id;q=1", ",,X-User-Id,,", '"X-User-Id"', "x-user-id\tclose",
             "close\r\nConnection: X-User-Id", "X-User-Id\r\nconnection: close\r\nCONNECTION: x-session-id"]


@pytest.mark.parametrize("value", NOMINATED)
@pytest.mark.parametrize("upgrade", [False, True], ids=["plain", "upgrade"])
def test_threat_connection_names_our_headers(api, account, value, upgrade):
    """Traefik CVE-2024-45410: fields named in Connection are dropped; ours must arrive all the same, or 400."""
    lines = [f"Connection: {value}"]
    if upgrade:
        lines = [f"Connection: Upgrade, {value}", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
                 "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    lines.append(f"X-User-Id: {EVIL}")
    head = "\r\n".join(["GET /api/x HTTP/1.1", "Host: a", f"Authorization: Bearer {account.access}", *lines, "", ""])
    with socket.create_connection(("127.0.0.1", api.port), timeout=10) as s:
        s.sendall(head.encode())
        status = status_of(s.recv(65536))
    assert status in ((101, 400) if upgrade else (200, 400))
    assert [sorted(seen) for seen in identity_seen(api.backend)] == ([] if status == 400 else [expected(account)])


@pytest.mark.parametrize("name", ["Host", "Authorization", "X-Forwarded-For", "X-Request-Id", "Content-Length", "Transfer-Encoding"])
def test_threat_connection_names_what_others_rely_on(api, account, name):
    """Dropping any of these on a client's word would unframe a body, or hide who called."""
    lines = [f"Connection: close, {name}", "Content-Length: 2"]
    status = status_of(request(api, "/api/x", account.access, lines, "POST", b"hi"))
    assert status in (200, 400, 401)
    for seen in api.backend.requests():
        present = {n.lower() for n, _ in fields(seen)}
        assert {"host", "x-forwarded-for", "x-request-id"} <= present
        assert seen["body"] == "hi"


# Claims in headers ---------------------------------------------------------------------------------------------------------

AWKWARD = ["a,b", "x\r\nX-User-Id: root", "Zoë", "100%", "%2C", "日本", "a;b=c", "\"q\"", "tab\there", "\u2028", "a\x7fb", "a\x00b"]


@pytest.fixture(scope="module")
def minted(shared_api):
    """Headers a backend gets for our token with these claims."""
    account = shared_api.register()

    def headers(**claims):
        token = own_key(shared_api).token({**claims_of(account.access), **claims})
        answer = shared_api.get("/echo/x", token)
        assert answer.status_code == 200, answer.text
        return answer.json()["headers"]

    return headers


def test_threat_roles_cannot_forge_a_list_item_or_a_header(minted):
    headers = minted(roles=AWKWARD)
    value = headers["x-user-roles"]
    assert all(" " <= c <= "~" for c in value)
    assert [unquote(item) for item in value.split(",")] == AWKWARD
    assert headers["x-user-id"] != "root"


@pytest.mark.parametrize("text", AWKWARD)
def test_threat_text_claims_arrive_whole_in_one_header(minted, text):
    value = minted(email=text)["x-user-email"]
    assert isinstance(value, str) and all(" " <= c <= "~" for c in value)
    assert unquote(value) == text


@pytest.mark.parametrize("text", [" ann", "ann ", " ann "])
def test_threat_edge_spaces_do_not_make_two_users_one(minted, text):
    """RFC 9110 section 5.5: spaces around a value are not part of it. Sent raw, `ann ` would reach the backend as `ann`."""
    assert unquote(minted(sub=text)["x-user-id"]) == text


def test_threat_edge_spaces_do_not_make_a_role_another(minted):
    """The policy compares ` admin` with `admin` and refuses; the backend must see the same difference."""
    assert [unquote(r) for r in minted(roles=[" admin"])["x-user-roles"].split(",")] == [" admin"]
    assert [unquote(r) for r in minted(roles=["x", "admin "])["x-user-roles"].split(",")] == ["x", "admin "]


def test_roles_of_an_imported_user(api):
    """From a line of `user import` to the header a backend reads."""
    record = {"email": "imp@example.com", "password": PASSWORD, "id": "legacy:42%2C", "roles": ["größe", "50%", "a-b_c.d"]}
    api.cli("user", "import", "-", stdin=json.dumps(record) + "\n")
    token = api.login("imp@example.com").json()["access_token"]
    headers = api.get("/echo/x", token).json()["headers"]
    assert unquote(headers["x-user-id"]) == "legacy:42%2C"
    assert [unquote(r) for r in headers["x-user-roles"].split(",")] == record["roles"]


def test_an_absent_claim_removes_the_clients_header(gateways, backend):
    """Insert or remove, every time: a token without e-mail must not let the client's own X-User-Email through."""
    issuer = JwksServer("https://login.example.com", Key("ES256"))
    try:
        gateway = gateways(API.format(address=backend.address) + issuer.table())
        assert status_of(request(gateway, "/api/x", issuer.token(), lines_of(EVERY_ALIAS))) == 200
        [seen] = identity_seen(backend)
        assert dict(seen)["x-user-id"] == "ann" and EVIL not in json.dumps(seen)
        assert "x-user-email" not in dict(seen)
    finally:
        issuer.stop()


def test_own_mapping_strips_and_sets_its_own_names(gateways, backend):
    """[identity] replaces the default: its names are guarded, in every spelling."""
    mapping = '[identity]\nheaders = { X-Auth-Subject = "sub", Remote-User = "email", X-Issuer = "iss" }\n'
    gateway = gateways(API.format(address=backend.address) + mapping)
    account = gateway.register()
    names = [alias for name in ("X-Auth-Subject", "Remote-User", "X-Issuer") for alias in aliases(name)]
    for path, present in (("/api/x", 1), ("/public/x", 0)):
        backend.forget()
        assert status_of(request(gateway, path, account.access, lines_of(names))) == 200
        [seen] = backend.requests()
        got = [(fold(n), v) for n, v in fields(seen) if fold(n) in {"x-auth-subject", "remote-user", "x-issuer"}]
        ours = [("remote-user", account.email), ("x-auth-subject", account.id), ("x-issuer", gateway.issuer)]
        assert sorted(got) == ours * present


def test_one_connection_two_users(api, account):
    """Identity belongs to a request: on one kept-alive connection it must not linger for the next one."""
    other = api.register()
    wanted = [expected(account), [], expected(other), [], expected(account)]
    paths = [("/api/1", account.access), ("/public/2", None), ("/api/3", other.access), ("/optional/4", None), ("/api/5", account.access)]
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=10)
    sockets = set()
    for path, token in paths:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        sockets.add(connection.sock)
        assert connection.getresponse().read()
    connection.close()
    assert len(sockets) == 1, "the connection was kept"
    assert [sorted(seen) for seen in identity_seen(api.backend)] == wanted


def test_a_request_full_of_headers_still_gets_ours(api, account):
    """No room left in a header map must not mean a request without identity."""
    for count in (90, 95, 96, 97, 98, 99, 100, 200, 254, 256):
        api.backend.forget()
        status = status_of(request(api, "/api/x", account.access, [f"X-Junk-{i}: {i}" for i in range(count)]))
        assert status in (200, 431)
        assert [sorted(s) for s in identity_seen(api.backend)] == [expected(account)] * (status == 200)
