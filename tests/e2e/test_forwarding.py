"""What else of a request and a response reaches the other side: credentials, X-Forwarded-*, overrides, hop-by-hop fields,
edits, request ids. SECURITY part A (X-Forwarded-* trust, open redirect, tokens in logs) and B 38, 47.
"""

import base64
import json

import pytest

from conftest import API, Backend, Gateway, eventually, fields, free_port
from forge import own_key
from test_identity_headers import EVIL, aliases, expected, fold, identity_seen, request, status_of, wsgi  # noqa: F401 (a fixture)

BASIC = "Basic " + base64.b64encode(b"ann:secret").decode()


@pytest.fixture
def api(shared_api):
    shared_api.backend.forget()
    return shared_api


@pytest.fixture(scope="module")
def account(shared_api):
    return shared_api.register()


def only(backend) -> dict:
    """Name and values, as one backend saw them, of the one request it got."""
    [seen] = backend.requests()
    found = {}
    for name, value in fields(seen):
        found.setdefault(name.lower(), []).append(value)
    return found


# Credentials ---------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("path", ["/api/x", "/public/x", "/optional/x"])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_bearer_tokens_stay_here(api, account, path, scheme):
    assert status_of(request(api, path, lines=[f"Authorization: {scheme} {account.access}"])) == 200
    assert "authorization" not in only(api.backend)
    assert account.access not in json.dumps(api.backend.requests())


@pytest.mark.parametrize("value", ["Bearer garbage", "Bearer", "Bearer  a b", "bearer\tx", "Bearer a.b.c"])
def test_bearer_is_stripped_on_public_routes_whatever_it_holds(api, value):
    assert status_of(request(api, "/public/x", lines=[f"Authorization: {value}"])) in (200, 400)
    assert all("authorization" not in [n.lower() for n, _ in fields(seen)] for seen in api.backend.requests())


def test_a_second_authorization_header_hides_no_bearer(api, account):
    lines = [f"Authorization: {BASIC}", f"Authorization: Bearer {account.access}"]
    for path in ("/public/x", "/api/x", "/optional/x"):
        request(api, path, lines=lines)
        request(api, path, lines=lines[::-1])
    assert account.access not in json.dumps(api.backend.requests())


@pytest.mark.parametrize("path, status", [("/public/x", 200), ("/optional/x", 200), ("/api/x", 401)])
def test_basic_credentials_are_the_backends(api, path, status):
    """Another scheme is not ours: the backend gets it where anybody may call, and it is no token where one is required."""
    assert status_of(request(api, path, lines=[f"Authorization: {BASIC}"])) == status
    if status == 200:
        assert only(api.backend)["authorization"] == [BASIC]
    else:
        assert api.backend.requests() == []


def test_forward_token_gives_the_verified_token_and_only_that(gateways, backend):
    """docs/configuration.md: `forward_token` passes the caller's verified token on; what nobody verified stays here."""
    config = API.format(address=backend.address).replace("[upstreams.api]\n", "[upstreams.api]\nforward_token = true\n")
    gateway = gateways(config)
    token = gateway.register().access
    for path in ("/api/x", "/optional/x"):
        backend.forget()
        assert status_of(request(gateway, path, token)) == 200
        assert only(backend)["authorization"] == [f"Bearer {token}"]
    # The echo target shows the request, never the token.
    assert token not in gateway.get("/echo/x", token).text


def test_forward_token_gives_no_unverified_token(gateways, backend):
    """On a public route nobody looks at the token, so a backend that trusts forwarded ones must not get it."""
    config = API.format(address=backend.address).replace("[upstreams.api]\n", "[upstreams.api]\nforward_token = true\n")
    gateway = gateways(config)
    assert status_of(request(gateway, "/public/x", lines=["Authorization: Bearer e30.e30.forged"])) == 200
    assert "authorization" not in only(backend)


def test_b18_b19_two_tokens_or_one_in_the_query(api, account):
    twice = [f"Authorization: Bearer {account.access}"] * 2
    assert status_of(request(api, "/api/x", lines=twice)) == 400
    for query in ("access_token=x", f"access_token={account.access}", "a=1&access%5Ftoken=x"):
        for token in (None, account.access):
            assert status_of(request(api, f"/api/x?{query}", token)) in (400, 401)
            assert status_of(request(api, f"/optional/x?{query}", token)) in (400, 401)
    assert api.backend.requests() == []


@pytest.mark.parametrize("lines, error", [([], None), ([f"Authorization: {BASIC}"], None), (["Authorization: Bearer a.b.c"], "invalid_token"),
                                          (["Authorization: Bearer"], "invalid_token")])
def test_b17_401_carries_www_authenticate(api, lines, error):
    """RFC 6750 section 3.1: no error code when no token was sent."""
    answer = request(api, "/api/x", lines=lines).decode()
    assert answer.startswith("HTTP/1.1 401 ")
    challenge = next(l.partition(":")[2].strip() for l in answer.split("\r\n") if l.lower().startswith("www-authenticate:"))
    assert challenge.split()[0] == "Bearer"
    assert ("error=" in challenge) == bool(error) and (error or "") in challenge


# X-Forwarded-* ---------------------------------------------------------------------------------------------------------------

SPOOFED = {
    "X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example", "X-Forwarded-Port": "666",
    "X-Forwarded-Prefix": "/evil", "X-Forwarded-Uri": "/evil", "X-Forwarded-Method": "DELETE", "X-Forwarded-User": "evil",
    "X-Real-IP": "6.6.6.6", "X-Client-IP": "6.6.6.6", "X-Original-URL": "/evil", "X-Rewrite-URL": "/evil",
    "Forwarded": "for=6.6.6.6;host=evil.example",
}


def spoofs(name):
    return [f"{alias}: {SPOOFED[name]}" for alias in aliases(name)]


@pytest.mark.parametrize("name", SPOOFED)
def test_b47_a_stranger_is_not_believed(api, account, name):
    """oauth2-proxy CVE-2026-40575: every field about the origin, in every spelling, is replaced by what we saw."""
    assert status_of(request(api, "/api/x", account.access, spoofs(name))) == 200
    about = {n: v for n, v in only(api.backend).items() if fold(n) in {fold(s) for s in SPOOFED}}
    assert about == {"x-forwarded-for": ["127.0.0.1"], "x-forwarded-proto": ["http"], "x-forwarded-host": ["gateway.test"]}


def test_b47_a_stranger_is_not_believed_at_a_wsgi_backend(gateways, wsgi):
    gateway = gateways(API.format(address=wsgi.address))
    for name in SPOOFED:
        assert status_of(request(gateway, "/public/x", lines=spoofs(name))) == 200
        environ = {k: v for k, v in wsgi.last().items() if k.startswith("HTTP_")}
        assert set(environ) <= {"HTTP_HOST", "HTTP_CONNECTION", "HTTP_X_REQUEST_ID", "HTTP_X_FORWARDED_FOR",
                                "HTTP_X_FORWARDED_PROTO", "HTTP_X_FORWARDED_HOST"}
        assert environ["HTTP_X_FORWARDED_FOR"] == "127.0.0.1" and environ["HTTP_X_FORWARDED_HOST"] == "gateway.test"


TRUSTING = 'trusted_proxies = ["127.0.0.1", "10.0.0.0/8"]'


def test_b47_a_trusted_proxy_is_appended_to(gateways, backend):
    gateway = gateways(API.format(address=backend.address), server=TRUSTING)
    lines = ["X-Forwarded-For: 6.6.6.6, 1.2.3.4, 10.0.0.7", "X-Forwarded-Proto: https", "X-Forwarded-Host: app.example",
             "X_Forwarded_For: 6.6.6.6", "X_Forwarded_Proto: evil"]
    assert status_of(request(gateway, "/public/x", lines=lines)) == 200
    seen = only(backend)
    assert seen["x-forwarded-for"] == ["6.6.6.6, 1.2.3.4, 10.0.0.7, 127.0.0.1"]
    assert (seen["x-forwarded-proto"], seen["x-forwarded-host"]) == (["https"], ["app.example"])
    assert not [name for name in seen if "_" in name]


def test_b47_the_client_is_the_last_address_no_trusted_proxy_vouches_for(gateways, backend):
    """Counting by the leftmost entry would let everybody choose his own rate limit."""
    config = API.format(address=backend.address) + '[[routes]]\npath = "/limited"\nauth = "none"\necho = true\nrate_limit = "2/1h"\n'
    gateway = gateways(config, server=TRUSTING)
    by = lambda chain: status_of(request(gateway, "/limited", lines=[f"X-Forwarded-For: {chain}"] if chain else []))
    assert [by(f"{i}.6.6.6, 1.2.3.4, 10.0.0.7") for i in range(1, 4)] == [200, 200, 429]
    assert by("1.2.3.4") == 429
    assert by("5.5.5.5") == 200
    assert by("garbage") == 200
    clients = lambda: [line["client"] for line in gateway.access_log()]
    eventually(lambda: len(clients()) == 6, what="six lines in the log")
    assert clients()[:5] == ["1.2.3.4"] * 4 + ["5.5.5.5"]


def test_b47_spoofed_addresses_do_not_move_a_rate_limit(gateways):
    gateway = gateways('[[routes]]\npath = "/limited"\nauth = "none"\necho = true\nrate_limit = "2/1h"\n')
    spoof = lambda i: [f"{name}: {i}.6.6.6" for name in ("X-Forwarded-For", "X-Real-IP", "X_Forwarded_For", "Forwarded")]
    assert [status_of(request(gateway, "/limited", lines=spoof(i))) for i in range(1, 4)] == [200, 200, 429]


DECISIONS = """
[[routes]]
path = "/only"
host = "internal.example"
auth = "none"
respond = { body = "inside" }

[[routes]]
path = "/read"
methods = ["GET"]
upstream = "api"
auth = "none"

[[routes]]
path = "/old"
auth = "none"
redirect = { to = "/new" }

[[routes]]
path = "/edited"
upstream = "api"
auth = "none"
request_headers = { set = { X-Tenant = "acme" }, remove = ["X-Debug"] }
response_headers = { set = { X-Frame-Options = "DENY" }, remove = ["Server", "X-Backend"] }

[[routes]]
path = "/private"
upstream = "api"
response_headers = { set = { X-Frame-Options = "DENY" } }
"""


@pytest.fixture(scope="module")
def decisions(tmp_path_factory):
    from conftest import Backend, Gateway
    folder = tmp_path_factory.mktemp("decisions")
    backend = Backend(folder)
    gateway = Gateway(folder, API.format(address=backend.address) + DECISIONS)
    gateway.backend = backend
    yield gateway.start()
    gateway.stop()
    backend.stop()


OVERRIDES = ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"]


@pytest.mark.parametrize("path, host, method, lines, status", [
    ("/api/x", "a", "GET", ["X-Forwarded-Uri: /public/x", "X-Original-URL: /public/x", "X-Rewrite-URL: /public/x"], 401),
    ("/admin/x", "a", "GET", ["X-Forwarded-Prefix: /public", "X-Forwarded-Path: /public/x"], 401),
    ("/api/x", "a", "POST", ["X-Forwarded-Method: OPTIONS", "X-HTTP-Method-Override: OPTIONS"], 401),
    ("/only", "a", "GET", ["X-Forwarded-Host: internal.example", "Forwarded: host=internal.example"], 404),
    ("/read", "a", "POST", ["X-HTTP-Method-Override: GET", "X-Forwarded-Method: GET"], 405),
    ("/api/x", "a", "GET", ["X-Forwarded-User: admin", "Remote-User: admin", "X-Remote-User: admin"], 401),
    ("/only", "internal.example", "GET", [], 200),
])
def test_threat_spoofed_fields_change_no_decision(decisions, path, host, method, lines, status):
    """Oathkeeper CVE-2026-33495: route, method and permission follow from the request itself."""
    assert status_of(request(decisions, path, lines=lines, method=method, host=host)) == status


@pytest.mark.parametrize("name", OVERRIDES)
def test_threat_method_override_on_a_route_with_methods(decisions, name):
    """A route for GET must not carry `X-HTTP-Method-Override: DELETE` to a backend that obeys it."""
    decisions.backend.forget()
    lines = [f"{alias}: DELETE" for alias in aliases(name)]
    assert status_of(request(decisions, "/read", lines=lines)) == 200
    assert "DELETE" not in json.dumps(decisions.backend.requests())


@pytest.mark.parametrize("target, host, lines", [
    ("/old", "evil.example", []), ("/old", "a", ["X-Forwarded-Host: evil.example"]), ("/old?next=//evil.example", "a", []),
    ("http://evil.example/old", "evil.example", []), ("/old", "a", ["Forwarded: host=evil.example;proto=https"]),
])
def test_threat_open_redirect(decisions, target, host, lines):
    """Pomerium CVE-2021-29651: where a redirect leads is written in the configuration."""
    answer = request(decisions, target, lines=lines, host=host).decode()
    assert answer.startswith("HTTP/1.1 308 ")
    [location] = [l.partition(":")[2].strip() for l in answer.split("\r\n") if l.lower().startswith("location:")]
    assert location == "/new" and "evil" not in answer


# Edits, request ids, hop-by-hop -------------------------------------------------------------------------------------------------

def test_request_and_response_edits(decisions):
    decisions.backend.forget()
    answer = decisions.get("/edited", headers={"X-Tenant": "evil", "X-Debug": "1", "X-Kept": "1"})
    seen = only(decisions.backend)
    assert (seen["x-tenant"], seen["x-kept"]) == (["acme"], ["1"]) and "x-debug" not in seen
    assert answer.headers["x-frame-options"] == "DENY"
    assert "server" not in answer.headers and "x-backend" not in answer.headers
    # Responses of our own carry the edits too: a 401 page may be framed like any other.
    assert decisions.get("/private").status_code == 401
    assert decisions.get("/private").headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize("name", ["X-Tenant", "x-tenant", "X-Forwarded-For", "x-forwarded-proto"])
def test_threat_connection_names_a_header_the_operator_set(decisions, name):
    """What the configuration sets is not the client's to drop."""
    decisions.backend.forget()
    status = status_of(request(decisions, "/edited", lines=[f"Connection: close, {name}", f"{name}: {EVIL}"]))
    assert status in (200, 400)
    if status == 200:
        seen = only(decisions.backend)
        assert seen["x-tenant"] == ["acme"] and seen["x-forwarded-for"] == ["127.0.0.1"] and seen["x-forwarded-proto"] == ["http"]


def test_threat_aliases_of_edited_headers(gateways, wsgi):
    """What the operator sets or removes must hold for a backend that folds names: `X_Tenant` is `X-Tenant` there."""
    gateway = gateways(API.format(address=wsgi.address) + DECISIONS)
    lines = [f"{alias}: {EVIL}" for name in ("X-Tenant", "X-Debug") for alias in aliases(name)]
    assert status_of(request(gateway, "/edited", lines=lines)) == 200
    environ = {k.replace(".", "_"): v for k, v in wsgi.last().items()}
    assert environ["HTTP_X_TENANT"] == "acme"
    assert "HTTP_X_DEBUG" not in environ


def test_request_id_is_ours_and_one(api):
    """A client that chooses the id can hide its requests among another's in the logs."""
    lines = [f"{alias}: {EVIL}" for alias in aliases("X-Request-Id")]
    answer = request(api, "/public/x", lines=lines).decode()
    ids = only(api.backend)["x-request-id"]
    assert len(ids) == 1 and ids[0] not in ("", EVIL) and EVIL not in json.dumps(api.backend.requests())
    assert f"x-request-id: {ids[0]}" in answer.lower()
    eventually(lambda: any(line["request_id"] == ids[0] for line in api.access_log()), what="the line of this request")


HOP = {"Keep-Alive": "timeout=5", "Proxy-Connection": "keep-alive", "Proxy-Authorization": BASIC, "Proxy-Authenticate": "Basic",
       "TE": "trailers", "Trailer": "X-T", "X-Named": "1", "X-Also-Named": "1"}


def test_b38_hop_by_hop_fields_of_a_request_end_here(api):
    """RFC 9110 section 7.6.1. A proxy's credentials (RFC 9110 section 11.7.2) are not for the backend."""
    lines = [f"{name}: {value}" for name, value in HOP.items()] + ["Connection: close, X-Named, x-also-named, TE"]
    assert status_of(request(api, "/public/x", lines=lines)) == 200
    seen = only(api.backend)
    assert not {name.lower() for name in HOP} & set(seen)
    assert "x-named" not in ",".join(seen.get("connection", [])).lower()


def test_b38_hop_by_hop_fields_of_a_response_end_here(api):
    for query in ("?hop", "?hop&chunked"):
        answer = api.get("/public/x" + query)
        assert answer.status_code == 200 and answer.json()["url"].startswith("/public/x")
        for name in ("x-secret-hop", "keep-alive", "proxy-authenticate"):
            assert name not in answer.headers, name
        assert "x-secret-hop" not in answer.headers.get("connection", "").lower()


def test_threat_tokens_in_logs_or_errors(api, account):
    """Traefik CVE-2022-23469: no token, good or bad, whole or in part, in a log line, a metric or an error."""
    bad = own_key(api).token({"sub": "x"})
    bodies = [request(api, path, token).decode() for path in ("/api/x", "/admin/x", "/optional/x", "/nowhere") for token in (account.access, bad)]
    request(api, f"/api/x?access_token={account.access}")
    request(api, "/public/x", lines=[f"Authorization: {BASIC}"])
    everything = "".join([*bodies, api.process.stdout(), api.process.stderr(), api.metrics()])
    for secret in (account.access, bad, account.refresh, account.access.split(".")[2], bad.split(".")[2], BASIC.split()[1]):
        echoed = [b for b in bodies if secret in b]
        assert secret not in everything, f"{secret[:20]} {echoed[:1]}"


def test_a_second_server_gets_the_same_request(gateways, backend):
    """After a failed connection the request is prepared again: nothing doubled, nothing lost, nothing of the client's."""
    config = API.format(address=backend.address).replace("servers = [", f'servers = ["127.0.0.1:{free_port()}", ')
    gateway = gateways(config)
    account = gateway.register()
    lines = [f"{alias}: {EVIL}" for alias in aliases("X-User-Id")] + ["Content-Length: 5"]
    for _ in range(4):
        assert status_of(request(gateway, "/api/x", account.access, lines, "POST", b"hello")) == 200
    assert [sorted(seen) for seen in identity_seen(backend)] == [expected(account)] * 4
    assert [seen["body"] for seen in backend.requests()] == ["hello"] * 4
    assert all([n.lower() for n, _ in fields(seen)].count("x-forwarded-for") == 1 for seen in backend.requests())
