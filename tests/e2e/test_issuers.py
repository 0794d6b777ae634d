"""Tokens minted elsewhere: whose key counts, what a JWKS may hold, and that a user is (iss, sub).

SECURITY part B 1 to 15. Rotation, outage and floods are in test_issuer_outage.py.
"""

import json

import pytest

from conftest import Gateway, eventually, free_port
from forge import Key, b64u, claims_of, own_key, rsa_key
from jwks_server import ECHO, ISSUER, OTHER, JwksServer, fresh_key, issuers, resident, status  # noqa: F401 (a fixture)

def seen(gateway, token) -> dict:
    """The headers a backend would get, lower-cased."""
    answer = gateway.get("/api/x", token)
    assert answer.status_code == 200, answer.text
    headers = answer.json()["headers"]
    pairs = headers.items() if isinstance(headers, dict) else headers
    return {name.lower(): value for name, value in pairs}


@pytest.mark.parametrize("alg", ["RS256", "PS256", "ES256", "ES384", "EdDSA"])
def test_tokens_of_every_algorithm(gateways, issuers, alg):
    issuer = issuers(ISSUER, fresh_key(alg))
    gateway = gateways(ECHO + issuer.table([alg]))
    assert status(gateway, issuer.token()) == 200
    assert status(gateway, issuer.token(header={"alg": alg, "kid": issuer.keys[0].kid, "typ": "JWT"})) == 200
    # A broken signature is refused, so the 200 above means something.
    head, payload, signature = issuer.token().split(".")
    assert status(gateway, f"{head}.{payload}.{'A' * len(signature)}") == 401
    assert status(gateway, issuer.token(Key(alg, issuer.keys[0].kid))) == 401


def test_nested_claim_path_for_roles_and_identity(gateways, issuers):
    """Keycloak keeps roles in realm_access.roles; what stands in `roles` itself is then no role."""
    issuer = issuers()
    gateway = gateways(ECHO + issuer.table(more='claims = { roles = "realm_access.roles", email = "mail" }'))
    nested = issuer.token(realm_access={"roles": ["admin", "user"]}, mail="ann@example.com")
    assert status(gateway, nested, "/admin/x") == 200
    headers = seen(gateway, nested)
    assert (headers["x-user-id"], headers["x-user-roles"]) == ("ann", "admin,user")
    assert headers["x-user-email"] == "ann@example.com"
    for token in (issuer.token(roles=["admin"]), issuer.token(roles=["admin"], realm_access={"roles": ["user"]}),
                  issuer.token(**{"realm_access.roles": ["admin"]})):
        assert status(gateway, token, "/admin/x") == 403
    for wrong in (5, {"admin": True}, ["admin", 5], [["admin"]]):
        assert status(gateway, issuer.token(realm_access={"roles": wrong}), "/admin/x") in (401, 403), wrong


@pytest.mark.parametrize("roles", [["admin", "user"], "admin user", "user admin"], ids=str)
def test_roles_as_an_array_or_as_text(foreign, roles):
    """docs/configuration.md: "an array, or text with spaces between". The policy and the backend must see the same roles."""
    gateway, issuer = foreign
    token = issuer.token(roles=roles)
    assert status(gateway, token, "/admin/x") == 200
    assert sorted(seen(gateway, token)["x-user-roles"].split(",")) == ["admin", "user"]


@pytest.mark.parametrize("roles", [[], "", ["Admin"], "administrator", ["admin,user"], "admin,user", [""], "xadmin"], ids=str)
def test_what_only_looks_like_a_role_is_none(foreign, roles):
    gateway, issuer = foreign
    token = issuer.token(roles=roles)
    assert status(gateway, token, "/admin/x") == 403
    assert "admin" not in seen(gateway, token).get("x-user-roles", "").split(",")


def test_b8_a_key_belongs_to_its_issuer_only(gateways, issuers):
    """A key of one issuer, or ours, must not vouch for another one's users, same kid or not."""
    kid = "shared-name"
    a, b = issuers(ISSUER, fresh_key(kid=kid)), issuers(OTHER, fresh_key(kid=kid))
    gateway = gateways(ECHO + a.table() + b.table())
    ours = claims_of(gateway.register().access)
    key = own_key(gateway)
    assert (status(gateway, a.token()), status(gateway, b.token())) == (200, 200)
    assert status(gateway, a.token(b.keys[0])) == 401
    assert status(gateway, b.token(a.keys[0])) == 401
    assert status(gateway, a.token(key)) == 401
    # Our own issuer's name signed by a foreign key, under either kid.
    assert status(gateway, a.keys[0].token(ours)) == 401
    assert status(gateway, Key("ES256", key.kid, a.keys[0].private).token(ours)) == 401


@pytest.mark.parametrize("changes", [
    {"iss": "https://unknown.example.com"}, {"iss": ISSUER + "/"}, {"iss": ISSUER.upper()}, {"aud": "portcullis"},
    {"aud": ["web"]}, {"aud": "api2"}, {"drop": ["aud"]}, {"drop": ["exp"]}, {"drop": ["sub"]}, {"drop": ["iss"]},
    {"exp": 1}, {"exp": "x"}, {"nbf": "9"}, {"sub": ""}, {"sub": 5}, {"roles": {"admin": True}},
], ids=str)
def test_b8_to_b11_claims_of_foreign_tokens(foreign, changes):
    gateway, issuer = foreign
    assert status(gateway, issuer.token()) == 200
    assert status(gateway, issuer.token(**changes)) == 401


@pytest.mark.parametrize("changes", [
    {"typ": "ID"}, {"typ": "Refresh"}, {"token_use": "id"}, {"at_hash": "x"}, {"c_hash": "x"}, {"events": {}},
], ids=str)
def test_b7_id_refresh_and_logout_tokens_of_issuers_that_say_typ_jwt(foreign, changes):
    """Keycloak, Cognito and others sign these with the same key, and only the claims tell them apart."""
    gateway, issuer = foreign
    header = issuer.keys[0].header(typ="JWT")
    assert status(gateway, issuer.token(header=header)) == 200
    assert status(gateway, issuer.token(header=header, **changes)) == 401


@pytest.mark.parametrize("header", [
    {"typ": "rt+jwt"}, {"typ": "logout+jwt"}, {"typ": 5}, {"crit": ["x"], "x": 1}, {"alg": "none"}, {"alg": "RS256"},
    {"alg": "HS256"}, {"b64": False}, {"kid": 5}, {"kid": "../../etc/passwd"},
], ids=str)
def test_b1_to_b7_headers_of_foreign_tokens(foreign, header):
    gateway, issuer = foreign
    assert status(gateway, issuer.token(header=issuer.keys[0].header(**header))) == 401


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    issuer = JwksServer(ISSUER, fresh_key())
    gateway = Gateway(tmp_path_factory.mktemp("foreign"), ECHO + issuer.table())
    yield gateway.start(), issuer
    gateway.stop()
    issuer.stop()


# Documents that must not be believed ------------------------------------------------------------------------------------

def published(issuer, *jwks):
    issuer.body = json.dumps({"keys": [issuer.keys[0].jwk(), *jwks]}).encode()


def private_jwk(key):
    return key.jwk(d=b64u(key.private.private_numbers().private_value.to_bytes(32, "big")))


ODD_KEYS = {
    "private members": lambda: (k := fresh_key(), private_jwk(k)),
    "an HMAC secret": lambda: (k := fresh_key("HS256"), k.jwk()),
    "an HMAC secret without alg": lambda: (k := fresh_key("HS256"), {n: v for n, v in k.jwk().items() if n != "alg"}),
    "RSA of 1024 bits": lambda: (k := Key("RS256", "small", rsa_key(1024)), k.jwk()),
    "use enc": lambda: (k := fresh_key(), k.jwk(use="enc")),
    "key_ops sign": lambda: (k := fresh_key(), k.jwk(key_ops=["sign"])),
    "alg outside the allow-list": lambda: (k := fresh_key("EdDSA"), k.jwk()),
    "alg none": lambda: (k := fresh_key(), k.jwk(alg="none")),
    "alg unlike its type": lambda: (k := fresh_key(), k.jwk(alg="RS256")),
    "not on the curve": lambda: (k := fresh_key(), k.jwk(y=k.jwk()["x"])),
    "kid a number": lambda: (k := fresh_key(), k.jwk(kid=5)),
}


@pytest.mark.parametrize("name", ODD_KEYS)
def test_b15_odd_keys_are_left_out_and_the_good_one_works(gateways, issuers, name):
    odd, jwk = ODD_KEYS[name]()
    issuer = issuers()
    published(issuer, jwk)
    gateway = gateways(ECHO + issuer.table(["ES256", "RS256"]))
    assert status(gateway, issuer.token()) == 200
    assert status(gateway, issuer.token(odd)) == 401


def test_b1_two_keys_of_one_kid_are_no_choice(gateways, issuers):
    """Which of the two a token means cannot be said: refused (401 or 503), never whichever fits."""
    issuer = issuers()
    twin = fresh_key(kid=issuer.keys[0].kid)
    published(issuer, twin.jwk())
    gateway = gateways(ECHO + issuer.table())
    assert {status(gateway, issuer.token()), status(gateway, issuer.token(twin))} <= {401, 503}


def test_a_huge_document_is_not_read(gateways, issuers):
    issuer = issuers()
    issuer.body = json.dumps({"keys": [issuer.keys[0].jwk()], "x": "x" * 20_000_000}).encode()
    gateway = gateways(ECHO + issuer.table())
    assert status(gateway, issuer.token()) == 503
    assert resident(gateway) < 200 * 1024


def test_jwks_from_a_file_and_its_change(gateways, tmp_path):
    key, later = fresh_key("RS256"), fresh_key("RS256")
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [key.jwk()]}))
    table = f'[[issuers]]\nissuer = "{ISSUER}"\njwks = "{file}"\naudience = "api"\n'
    gateway = gateways(ECHO + table)
    issuer = JwksServer(ISSUER, key, later, port=free_port())
    assert status(gateway, issuer.token()) == 200
    assert status(gateway, issuer.token(later)) == 401
    changed = tmp_path / "keys.new"
    changed.write_text(json.dumps({"keys": [key.jwk(), later.jwk()]}))
    changed.rename(file)
    eventually(lambda: status(gateway, issuer.token(later)) == 200, 10, "the new key")
    assert status(gateway, issuer.token()) == 200


@pytest.mark.parametrize("jwk", ["private", "secret"])
def test_b15_a_jwks_file_with_private_keys_is_a_configuration_error(gateways, tmp_path, jwk):
    key = fresh_key("HS256") if jwk == "secret" else fresh_key()
    member = key.jwk() if jwk == "secret" else private_jwk(key)
    gateway = gateways(ECHO)
    (gateway.folder / "keys.json").write_text(json.dumps({"keys": [member]}))
    table = f'\n[[issuers]]\nissuer = "{ISSUER}"\njwks = "keys.json"\naudience = "api"\nalgorithms = ["ES256"]\n'
    gateway.file.write_text(gateway.file.read_text() + table)
    done = gateway.cli("check", check=False)
    assert done.returncode == 1 and "keys.json" in done.stderr
    assert str(member.get("k", member.get("d"))) not in done.stdout + done.stderr


# The user is (iss, sub) ---------------------------------------------------------------------------------------------------

LIMITED = '[[routes]]\npath = "/limited"\necho = true\nrate_limit = "2/1h"\n'


def test_b12_the_same_sub_of_two_issuers_is_two_users(gateways, issuers):
    a, b = issuers(ISSUER), issuers(OTHER)
    gateway = gateways(LIMITED + a.table() + b.table())
    ours = gateway.register()
    tokens = [a.token(sub=ours.id), b.token(sub=ours.id), ours.access]
    for token in tokens:
        assert [status(gateway, token, "/limited") for _ in range(3)] == [200, 200, 429]
    # Another token of the same user is the same user.
    assert status(gateway, a.token(sub=ours.id, jti="other"), "/limited") == 429


@pytest.mark.parametrize("method, path, body", [
    ("GET", "/auth/me", None), ("GET", "/auth/sessions", None), ("POST", "/auth/logout-all", None), ("POST", "/auth/logout", None),
    ("DELETE", "/auth/sessions/{sid}", None), ("PUT", "/auth/password", {"current": "correct horse battery staple", "new": "another good passphrase"}),
])
def test_b12_a_foreign_token_is_never_our_user(gateways, issuers, method, path, body):
    """A foreign issuer that puts one of our ids in `sub` and `sid` must not act for our user."""
    issuer = issuers()
    gateway = gateways(ECHO + issuer.table())
    ours = gateway.register()
    claims = claims_of(ours.access)
    token = issuer.token(sub=ours.id, sid=claims["sid"], email=ours.email, roles=[])
    assert status(gateway, token) == 200
    answer = gateway.request(method, path.format(**claims), token, json=body)
    assert answer.status_code in (401, 403) and ours.email not in answer.text
    assert status(gateway, ours.access) == 200 and gateway.get("/auth/me", ours.access).status_code == 200


def test_b12_our_logout_does_not_reach_a_foreign_user(gateways, issuers):
    issuer = issuers()
    gateway = gateways(ECHO + issuer.table())
    ours = gateway.register()
    token = issuer.token(sub=ours.id, sid=claims_of(ours.access)["sid"])
    assert gateway.post("/auth/logout-all", token=ours.access).status_code == 204
    assert status(gateway, ours.access) == 401
    assert status(gateway, token) == 200
