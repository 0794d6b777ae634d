"""Other people's libraries verify our tokens through our JWKS, across a key rotation: jose (Node) and PyJWT.

A backend that checks tokens itself caches the key set; it must follow a rotation without help.
"""

import json
import subprocess
import time

import jwt
import pytest

from conftest import HERE, Gateway, eventually
from forge import Key, claims_of, header_of, own_key

ECHO = '[[routes]]\npath = "/api/{*rest}"\necho = true\n'


class Jose:
    """A Node process that verifies tokens with `jose`, with one cached key set for its whole life."""

    def __init__(self, gateway, cooldown=True):
        self.process = subprocess.Popen(
            ["node", str(HERE / "servers/verify.mjs"), f"{gateway.url}/.well-known/jwks.json", gateway.issuer, "portcullis",
             gateway.algorithm, *([] if cooldown else ["0"])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )

    def verify(self, token) -> dict:
        self.process.stdin.write(token + "\n")
        return json.loads(self.process.stdout.readline())

    def stop(self):
        self.process.stdin.close()
        self.process.kill()
        self.process.wait(timeout=10)
        self.process.stdout.close()


class PyJwt:
    """PyJWT with its own JWKS client and cache."""

    def __init__(self, gateway, cooldown=True):
        self.gateway = gateway
        more = {} if cooldown else {"cooldown_duration": 0}
        self.client = jwt.PyJWKClient(f"{gateway.url}/.well-known/jwks.json", cache_keys=True, **more)

    def verify(self, token) -> dict:
        try:
            key = self.client.get_signing_key_from_jwt(token)
            payload = jwt.decode(
                token, key.key, algorithms=[self.gateway.algorithm], audience="portcullis", issuer=self.gateway.issuer,
                options={"require": ["exp", "iat", "sub", "iss", "aud", "jti"]},
            )
            return {"payload": payload, "header": jwt.get_unverified_header(token)}
        except jwt.PyJWTError as error:
            return {"error": str(error)}

    def stop(self):
        pass


@pytest.fixture(scope="module", params=["ES256", "EdDSA", "RS256"])
def gateway(request, tmp_path_factory):
    gateway = Gateway(tmp_path_factory.mktemp("interop"), ECHO, tokens=f'algorithm = "{request.param}"')
    gateway.algorithm = request.param
    yield gateway.start()
    gateway.stop()


@pytest.fixture(params=[Jose, PyJwt])
def verifier(request, gateway):
    verifier = request.param(gateway, cooldown=False)
    yield verifier
    verifier.stop()


def rotate(gateway):
    gateway.cli("keys", "rotate", "--now")
    kid = own_key(gateway).kid
    document = lambda: gateway.get("/.well-known/jwks.json").json()["keys"]
    eventually(lambda: kid in [key["kid"] for key in document()], what="the new key published")
    return kid


def test_b16_libraries_verify_across_a_rotation(gateway, verifier):
    """Old and new tokens verify in any order with the set cached before the rotation."""
    account = gateway.register()
    before = account.access
    verified = verifier.verify(before)
    assert verified.get("payload") == claims_of(before), verified
    assert verified["header"] == header_of(before)
    for _ in range(2):
        kid = rotate(gateway)
        after = eventually(
            lambda: (t := gateway.login(account.email).json()["access_token"]) and header_of(t)["kid"] == kid and t,
            what="a token signed by the new key")
        for token in (after, before, after):
            assert verifier.verify(token).get("payload") == claims_of(token)


@pytest.mark.parametrize("library", [Jose, PyJwt])
def test_b16_a_rotation_within_the_default_cooldown_of_libraries(gateways, library):
    """jose and PyJWT do not fetch again within 30 s of their last fetch, whatever the kid. A new key that signs
    before it was published for that long means false 401s at every backend that fetched a moment ago."""
    gateway = gateways(ECHO)
    gateway.algorithm = "ES256"
    account, verifier = gateway.register(), library(gateway)
    try:
        assert "payload" in verifier.verify(account.access)
        gateway.cli("keys", "rotate")
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            token = gateway.login(account.email).json()["access_token"]
            assert verifier.verify(token).get("payload") == claims_of(token), "minted with a key no cache can have"
        assert len(gateway.get("/.well-known/jwks.json").json()["keys"]) > 1, "the new key is published"
    finally:
        verifier.stop()
        # The gateway is shared: no key is left pending.
        gateway.cli("keys", "rotate", "--now")


def test_libraries_refuse_what_we_refuse(gateway, verifier):
    """The check above can fail: forgeries and other algorithms are refused by these set-ups too."""
    token = gateway.register().access
    head, payload, signature = token.split(".")
    forged = Key(gateway.algorithm, header_of(token)["kid"]).token(claims_of(token))
    for bad in (f"{head}.{payload}.{signature[:-8]}AAAAAAAA", forged):
        assert "error" in verifier.verify(bad)
        assert gateway.get("/api/x", bad).status_code == 401
    assert "payload" in verifier.verify(token)


def test_jwks_is_cacheable_and_typed(gateway):
    """Without caching every backend fetches for every token; a cache longer than the old key's life would break B 16."""
    answer = gateway.get("/.well-known/jwks.json")
    assert answer.headers["content-type"].split(";")[0] in ("application/jwk-set+json", "application/json")
    directives = dict(d.strip().partition("=")[::2] for d in answer.headers["cache-control"].split(","))
    assert "public" in directives and 0 < int(directives["max-age"]) <= 3600
    assert gateway.request("HEAD", "/.well-known/jwks.json").status_code == 200
    assert gateway.request("POST", "/.well-known/jwks.json").status_code == 405
    assert gateway.get("/.well-known/jwks.json", "not-a-token").status_code == 200


def test_openapi_names_the_endpoints(gateway):
    document = gateway.get("/auth/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    paths = {"/auth/register", "/auth/login", "/auth/refresh", "/auth/logout", "/auth/logout-all", "/auth/me",
             "/auth/sessions", "/auth/sessions/{id}", "/auth/password", "/.well-known/jwks.json"}
    assert paths <= set(document["paths"])
