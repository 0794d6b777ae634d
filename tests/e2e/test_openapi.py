"""The OpenAPI document tells the truth: every operation is called, every answer is one it announces."""

import json
import re
import time
import uuid

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from conftest import PASSWORD, Gateway

TYPES = {"string": str, "integer": int, "boolean": bool, "array": list, "object": dict, "null": type(None)}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    gateway = Gateway(tmp_path_factory.mktemp("openapi"), "[throttle]\nfree_failures = 2\nfirst_delay = \"1h\"\nmax_delay = \"1h\"\n")
    gateway.start()
    gateway.document = gateway.get("/auth/openapi.json").json()
    yield gateway
    gateway.stop()


def resolve(document, schema):
    while "$ref" in schema:
        name = schema["$ref"].removeprefix("#/components/schemas/")
        schema = document["components"]["schemas"][name]
    return schema


def check(document, schema, value, at="body"):
    """Holds `value` against `schema`: types, required members, const, items, allOf; unknown members are not allowed."""
    known = members(document, schema)
    for part in [schema, *resolve(document, schema).get("allOf", [])]:
        part = resolve(document, part)
        if "const" in part:
            assert value == part["const"], at
        kinds = part.get("type", [])
        kinds = [kinds] if isinstance(kinds, str) else kinds
        assert not kinds or any(type(value) is TYPES[kind] for kind in kinds), f"{at}: {value!r} is no {kinds}"
        if isinstance(value, dict):
            missing = set(part.get("required", [])) - set(value)
            assert not missing, f"{at}: {missing} missing"
            for name in set(part.get("properties", {})) & set(value):
                check(document, part["properties"][name], value[name], f"{at}.{name}")
        for n, item in enumerate(value if isinstance(value, list) else []):
            check(document, part.get("items", {}), item, f"{at}[{n}]")
        if part.get("format") == "uuid":
            uuid.UUID(value)
        if part.get("format") == "date-time":
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", value), f"{at}: {value}"
    if isinstance(value, dict) and known:
        assert set(value) <= known, f"{at}: {set(value) - known} are not documented"


def members(document, schema):
    schema = resolve(document, schema)
    parts = [resolve(document, part) for part in [schema, *schema.get("allOf", [])]]
    return {name for part in parts for name in part.get("properties", {})}


def assert_documented(gateway, answer, path, method):
    operation = gateway.document["paths"][path][method.lower()]
    where = f"{method} {path}: {answer.status_code} {answer.text[:200]}"
    assert str(answer.status_code) in operation["responses"], f"undocumented: {where}"
    announced = operation["responses"][str(answer.status_code)]
    content = announced.get("content", {})
    if not content:
        assert answer.content == b"", where
        return
    media_type = answer.headers["content-type"].split(";")[0]
    assert media_type in content, where
    check(gateway.document, content[media_type]["schema"], answer.json())
    if answer.status_code >= 400:
        assert f"`{answer.json()['code']}`" in announced["description"], f"undocumented code: {where}"


def call(gateway, method, path, token=None, body=None, query="", **kw):
    """Calls an operation by its documented path, `{id}` filled in."""
    concrete = path.replace("{id}", kw.pop("id", str(uuid.uuid4())))
    answer = gateway.request(method, concrete + query, token, **({"json": body} if body is not None else {}), **kw)
    assert_documented(gateway, answer, path, method)
    return answer.status_code


def operations(gateway):
    return [(m.upper(), p) for p, item in gateway.document["paths"].items() for m in item if m != "parameters"]


def good_body(account, path):
    return {
        "/auth/register": {"email": f"{uuid.uuid4().hex}@example.com", "password": PASSWORD, "name": None},
        "/auth/login": {"email": account.email, "password": PASSWORD},
        "/auth/refresh": {"refresh_token": account.refresh},
        "/auth/logout": {"refresh_token": account.refresh},
        "/auth/password": {"current": PASSWORD, "new": "a perfectly new password"},
    }.get(path)


def test_every_endpoint_of_the_design_is_described(gateway):
    """Generated clients would miss a call."""
    assert sorted(operations(gateway)) == sorted([
        ("POST", "/auth/register"), ("POST", "/auth/login"), ("POST", "/auth/refresh"), ("POST", "/auth/logout"),
        ("POST", "/auth/logout-all"), ("GET", "/auth/me"), ("GET", "/auth/sessions"), ("DELETE", "/auth/sessions/{id}"),
        ("PUT", "/auth/password"), ("GET", "/.well-known/jwks.json"), ("GET", "/auth/openapi.json"),
    ])
    assert gateway.document["openapi"].startswith("3.1.")
    assert gateway.document["servers"][0]["url"] == gateway.url
    ids = [gateway.document["paths"][p][m.lower()]["operationId"] for m, p in operations(gateway)]
    assert len(set(ids)) == len(ids)


def test_every_reference_resolves(gateway):
    """Tools refuse a document with a dangling reference."""
    def walk(node):
        if isinstance(node, dict):
            if "$ref" in node:
                assert resolve(gateway.document, node)
            list(map(walk, node.values()))
        elif isinstance(node, list):
            list(map(walk, node))
    walk(gateway.document)


def test_every_operation_succeeds_as_documented(gateway):
    """Status, media type, required and unknown members of every success."""
    seen = set()
    for method, path in operations(gateway):
        account = gateway.register()
        own = gateway.get("/auth/me", account.access).json()["session"]
        seen.add(call(gateway, method, path, account.access, good_body(account, path), id=own))
    assert seen == {200, 201, 204}


def test_every_failure_is_documented(gateway):
    """Clients switch on status and code: one that is not announced is not handled."""
    for method, path in operations(gateway):
        account = gateway.register()
        takes_body = "requestBody" in gateway.document["paths"][path][method.lower()]
        call(gateway, method, path)
        call(gateway, method, path, "not.a.token")
        if takes_body:
            json_type = {"Content-Type": "application/json"}
            call(gateway, method, path, account.access, content=b"{", headers=json_type)
            call(gateway, method, path, account.access, body={"surprise": 1})
            call(gateway, method, path, account.access, content=b"x=1", headers={"Content-Type": "text/plain"})
            call(gateway, method, path, account.access, content=b"x" * 20_000, headers=json_type)
        if method == "DELETE":
            call(gateway, method, path, account.access, id="no-uuid")


BEARER = [
    ("POST", "/auth/logout-all"), ("GET", "/auth/me"), ("GET", "/auth/sessions"), ("DELETE", "/auth/sessions/{id}"),
    ("PUT", "/auth/password"), ("POST", "/auth/logout"),
]


@pytest.mark.parametrize("method, path", BEARER)
def test_the_refusal_of_a_token_in_the_query_is_documented(gateway, method, path):
    """B 19's answer is 400 at these operations."""
    assert call(gateway, method, path, query="?access_token=x") == 400


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A gateway that also believes another issuer, and `foreign.token` of that issuer."""
    folder, key = tmp_path_factory.mktemp("foreign"), ec.generate_private_key(ec.SECP256R1())
    jwk = {**json.loads(ECAlgorithm.to_jwk(key.public_key())), "kid": "k1", "alg": "ES256", "use": "sig"}
    (folder / "jwks.json").write_text(json.dumps({"keys": [jwk]}))
    issuer = '[[issuers]]\nissuer = "https://other.example"\njwks = "jwks.json"\naudience = "api"\nalgorithms = ["ES256"]\n'
    gateway = Gateway(folder, issuer).start()
    claims = {"iss": "https://other.example", "aud": "api", "sub": "them", "exp": time.time() + 600, "sid": str(uuid.uuid4())}
    gateway.token = jwt.encode(claims, key, "ES256", {"kid": "k1", "typ": "at+jwt"})
    gateway.document = gateway.get("/auth/openapi.json").json()
    yield gateway
    gateway.stop()


@pytest.mark.parametrize("method, path", BEARER)
def test_the_refusal_of_another_issuers_token_is_documented(foreign, method, path):
    """Such a caller is authenticated, but has no account here: 403."""
    body = {"current": PASSWORD, "new": "a perfectly new password"} if path == "/auth/password" else None
    assert call(foreign, method, path, foreign.token, body) == 403


def test_failures_of_single_operations_are_documented(gateway):
    """Conflict, weak and wrong passwords, throttling, unknown tokens."""
    account = gateway.register()
    taken = {"email": account.email, "password": PASSWORD}
    assert call(gateway, "POST", "/auth/register", body=taken) == 409
    assert call(gateway, "POST", "/auth/register", body={**taken, "password": "password"}) == 400
    assert call(gateway, "POST", "/auth/refresh", body={"refresh_token": "x"}) == 403
    change = {"current": "a wrong password", "new": "a perfectly new password"}
    statuses = [call(gateway, "PUT", "/auth/password", account.access, change) for _ in range(4)]
    assert statuses == [403, 403, 403, 429]
    assert call(gateway, "PUT", "/auth/password", account.access, {**change, "new": "short"}) == 400
    assert [call(gateway, "POST", "/auth/login", body={**taken, "password": "x"}) for _ in range(4)] == [401, 401, 401, 429]


def test_documented_request_schemas_are_enforced(gateway):
    """What the document requires or forbids must be required or forbidden: generated clients rely on it."""
    for method, path in operations(gateway):
        body = gateway.document["paths"][path][method.lower()].get("requestBody")
        if body is None:
            continue
        schema = resolve(gateway.document, body["content"]["application/json"]["schema"])
        assert schema["additionalProperties"] is False
        for name in schema["required"]:
            account = gateway.register()
            without = {k: v for k, v in good_body(account, path).items() if k != name}
            assert call(gateway, method, path, account.access, without) == 400
