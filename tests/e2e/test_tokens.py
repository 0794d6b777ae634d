"""SECURITY part A (tokens) and part B 1 to 19: tokens no gateway may believe, sent to the running binary.

Every forged token is signed with the gateway's own key, and differs from one that is accepted (see
`test_control_*`) in the one thing its test is about.
"""

import json
import time

import pytest

from forge import Key, b64u, claims_of, header_of, own_key, segment, without

NOW = time.time()


class Forge:
    """A gateway, an account, the gateway's key, and what a good token of that account says."""

    def __init__(self, gateway):
        self.gateway = gateway
        self.account = gateway.register()
        self.key = own_key(gateway)

    @property
    def claims(self):
        return claims_of(self.account.access)

    def payload(self, **changes):
        return {**self.claims, **changes}

    def raw_payload(self, claim, raw):
        """The payload as JSON text with `claim` set to `raw`, which need not be JSON Python would write."""
        rest = json.dumps(without(self.claims, claim))
        return rest[:-1] + f', "{claim}": {raw}}}'

    def status(self, token, path="/api/x"):
        return self.gateway.get(path, token).status_code

    def refused(self, token, path="/api/x"):
        """401 with the challenge of RFC 6750 section 3.1, and nothing reached the backend."""
        self.gateway.backend.forget()
        answer = self.gateway.get(path, token)
        assert answer.status_code == 401, f"{answer.status_code} for {token[:300]}"
        assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
        assert answer.json()["code"] == "invalid_token"
        assert token[:40] not in answer.text
        assert self.gateway.backend.requests() == []


@pytest.fixture(scope="module")
def forge(shared_api):
    return Forge(shared_api)


# The control: what all the others differ from. -------------------------------------------------------------------

def test_control_a_token_signed_by_the_test_is_accepted(forge):
    assert forge.status(forge.key.token(forge.payload())) == 200


ACCEPTED = {
    "typ in the long form": lambda f: f.key.token(f.payload(), f.key.header(typ="application/at+jwt")),
    "typ in capitals": lambda f: f.key.token(f.payload(), f.key.header(typ="AT+JWT")),
    "aud as an array that holds ours": lambda f: f.key.token(f.payload(aud=["other", "portcullis"])),
    "exp with a fraction": lambda f: f.key.token(f.payload(exp=time.time() + 60.5)),
    "nbf within the leeway": lambda f: f.key.token(f.payload(nbf=int(time.time()) + 10)),
    "iat within the leeway": lambda f: f.key.token(f.payload(iat=int(time.time()) + 10)),
    "exp within the leeway": lambda f: f.key.token(f.payload(exp=int(time.time()) - 5)),
    "unknown header members": lambda f: f.key.token(f.payload(), f.key.header(x="y")),
    "jku that nobody fetches": lambda f: f.key.token(f.payload(), f.key.header(jku="http://127.0.0.1:9/")),
    "no kid and one key of the algorithm": lambda f: f.key.token(f.payload(), without(f.key.header(), "kid")),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_control_the_form_is_allowed(forge, name):
    """Refusing these would break clients that follow RFC 7519 and RFC 9068."""
    assert forge.status(ACCEPTED[name](forge)) == 200


# Header ------------------------------------------------------------------------------------------------------------

def unsecured(alg, signature=False):
    def make(f):
        head = segment(f.key.header(alg=alg))
        kept = f.key.token(f.payload(), f.key.header(alg=alg)).split(".")[2] if signature else ""
        return f"{head}.{segment(f.payload())}.{kept}"
    return make


def attacker_header(**members):
    """Signed by the attacker's key, which the header offers."""
    def make(f):
        attacker = Key("ES256")
        jwk = {"kty": "EC", **without(attacker.jwk(), "kid", "alg", "use")}
        offered = {k: (jwk if v == "JWK" else v) for k, v in members.items()}
        return attacker.token(f.payload(), {"typ": "at+jwt", "alg": "ES256", "kid": f.key.kid, **offered})
    return make


def hmac_with(secret):
    """HS256 under the kid of the gateway's ES256 key, with public or guessable bytes as the secret."""
    return lambda f: Key("HS256", f.key.kid, secret(f)).token(f.payload())


def headed(**changes):
    return lambda f: f.key.token(f.payload(), f.key.header(**changes))


def header_text(text):
    return lambda f: f.key.token(f.payload(), text(f))


HEADERS = {
    **{f"b2 alg {alg}": unsecured(alg) for alg in ("none", "None", "NONE", "nOnE", "", " none", "none\0")},
    "b2 alg none with a signature": unsecured("none", signature=True),
    "b1 alg missing": lambda f: f.key.token(f.payload(), without(f.key.header(), "alg")),
    **{f"b1 alg {alg!r}": headed(alg=alg) for alg in (None, 5, ["ES256"], "es256", "ES256 ", "HS256", "ES384", "EdDSA")},
    "b1 public PEM as HMAC secret": hmac_with(lambda f: f.key.public_pem()),
    "b1 public PEM without its last newline": hmac_with(lambda f: f.key.public_pem().strip()),
    "b1 x coordinate as HMAC secret": hmac_with(lambda f: f.key.jwk()["x"].encode()),
    "b1 public JWK as HMAC secret": hmac_with(lambda f: json.dumps(f.key.jwk()).encode()),
    "threat blank key": hmac_with(lambda f: b""),
    "threat zero key": hmac_with(lambda f: bytes(32)),
    "b3 jwk": attacker_header(jwk="JWK"),
    "b3 jwk without kid": lambda f: attacker_header(jwk="JWK", kid="attacker")(f),
    "b3 jku": attacker_header(jku="http://127.0.0.1:9/jwks.json"),
    "b3 x5u": attacker_header(x5u="http://127.0.0.1:9/cert.pem"),
    "b3 x5c": attacker_header(x5c=["MIIB"]),
    "b4 crit unknown": headed(crit=["http://example.com/x"], **{"http://example.com/x": 1}),
    "b4 crit of a known name": headed(crit=["exp"], exp=1),
    "b4 crit empty": headed(crit=[]),
    "b4 crit null": headed(crit=None),
    "b4 b64 false": headed(b64=False, crit=["b64"]),
    "b4 b64 false without crit": headed(b64=False),
    **{f"b7 typ {typ!r}": headed(typ=typ) for typ in ("JWT", "jwt", "rt+jwt", "refresh", "id+jwt", "logout+jwt", "", None, 5, ["at+jwt"])},
    "b7 typ missing": lambda f: f.key.token(f.payload(), without(f.key.header(), "typ")),
    "b6 alg twice": header_text(lambda f: f'{{"alg":"none","alg":"ES256","typ":"at+jwt","kid":"{f.key.kid}"}}'),
    "b6 kid twice": header_text(lambda f: f'{{"alg":"ES256","typ":"at+jwt","kid":"x","kid":"{f.key.kid}"}}'),
    "b6 typ twice, one escaped": header_text(
        lambda f: f'{{"alg":"ES256","typ":"JWT","t\\u0079p":"at+jwt","kid":"{f.key.kid}"}}'),
    "b6 header not UTF-8": header_text(lambda f: json.dumps(f.key.header()).encode()[:-1] + b',"x":"\xff"}'),
    "b6 header with a byte order mark": header_text(lambda f: b"\xef\xbb\xbf" + json.dumps(f.key.header()).encode()),
    "b6 header followed by more": header_text(lambda f: json.dumps(f.key.header()) + "{}"),
    "header an array": header_text(lambda f: "[]"),
    "header not JSON": header_text(lambda f: "alg"),
    **{f"b14 kid {kid[:20]!r}": headed(kid=kid) for kid in (
        "../../../../dev/null", "' OR '1'='1", "$ne", "*", "", "\0", "a\r\nb", "\x1b[31m", "k" * 8000)},
    **{f"b14 kid {kid!r}": headed(kid=kid) for kid in (5, ["x"], {"$ne": None}, True)},
    "b14 kid null": headed(kid=None),
}


@pytest.mark.parametrize("name", HEADERS)
def test_threat_header(forge, name):
    """B 1, 2, 3, 4, 6, 7, 14: the token must not choose how it is judged."""
    forge.refused(HEADERS[name](forge))


# Form --------------------------------------------------------------------------------------------------------------

def standard_base64(text):
    return text.replace("-", "+").replace("_", "/")


def malleable(token):
    """The same signature bytes spelt differently: unused bits of the last character set."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) ^ 1]


def parts(f):
    return f.key.token(f.payload()).split(".")


FORMS = {
    "b5 JSON serialisation": lambda f: json.dumps(dict(zip(("protected", "payload", "signature"), parts(f)))),
    "b5 JSON serialisation encoded": lambda f: b64u(json.dumps(dict(zip(("protected", "payload", "signature"), parts(f)))).encode()),
    "b5 five parts as JWE": lambda f: ".".join([segment({"alg": "dir", "enc": "A256GCM"}), "", "AAAA", "AAAA", "AAAA"]),
    "b5 a fourth part": lambda f: ".".join(parts(f)) + ".AAAA",
    "b5 a final dot": lambda f: ".".join(parts(f)) + ".",
    "b5 a dot in front": lambda f: "." + ".".join(parts(f)),
    "b5 two parts": lambda f: ".".join(parts(f)[:2]),
    "b5 empty signature": lambda f: ".".join(parts(f)[:2]) + ".",
    "b5 empty payload": lambda f: f"{parts(f)[0]}..{parts(f)[2]}",
    "b5 padded signature": lambda f: ".".join(parts(f)) + "==",
    "b5 padded header": lambda f: (lambda p: f"{p[0]}=.{p[1]}.{p[2]}")(parts(f)),
    "b5 standard alphabet": lambda f: next(
        t for t in (standard_base64(f.key.token(f.payload(jti=str(i)))) for i in range(100)) if set(t) & set("+/")),
    "b5 unused bits set": lambda f: malleable(f.key.token(f.payload())),
    "b5 space inside": lambda f: (lambda p: f"{p[0]}. {p[1]}.{p[2]}")(parts(f)),
    "b5 tab inside": lambda f: (lambda p: f"{p[0]}.\t{p[1]}.{p[2]}")(parts(f)),
    "b5 quoted": lambda f: f'"{".".join(parts(f))}"',
    "b5 comma and a second token": lambda f: f"{'.'.join(parts(f))},{'.'.join(parts(f))}",
    "signature of another token": lambda f: ".".join([*parts(f)[:2], f.account.access.split(".")[2]]),
    "signature cut short": lambda f: ".".join([*parts(f)[:2], parts(f)[2][:-4]]),
    "signature of zeros": lambda f: ".".join([*parts(f)[:2], b64u(bytes(64))]),
    "signature in DER": lambda f: der_signed(f),
    "b6 oversize, 20 KB": lambda f: f.key.token(f.payload(x="x" * 15_000)),
    "payload not JSON": lambda f: f.key.token("hello"),
    "payload an array": lambda f: f.key.token([f.payload()]),
    "payload a string": lambda f: f.key.token(json.dumps("x").encode()),
    "b6 payload not UTF-8": lambda f: f.key.token(json.dumps(f.payload()).encode()[:-1] + b',"x":"\xff\xfe"}'),
    "b6 payload followed by more": lambda f: f.key.token(json.dumps(f.payload()) + "{}"),
    "b6 sub twice": lambda f: f.key.token(f.raw_payload("jti", '"x", "sub": "admin"')),
    "b6 roles twice, one escaped": lambda f: f.key.token(f.raw_payload("jti", '"x", "r\\u006fles": ["admin"]')),
    "b6 a member twice, deep inside": lambda f: f.key.token(f.raw_payload("jti", '{"a": {"b": 1, "b": 2}}')),
    "nested 2,000 deep": lambda f: f.key.token(f.raw_payload("jti", "[" * 2000 + "]" * 2000)),
}


def der_signed(f):
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    signed = f"{segment(f.key.header())}.{segment(f.payload())}"
    return f"{signed}.{b64u(f.key.private.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))}"


@pytest.mark.parametrize("name", FORMS)
def test_threat_form(forge, name):
    """B 5, 6: two parsers that read a token differently see two tokens, so only one spelling is read."""
    forge.refused(FORMS[name](forge))


def test_b6_bytes_above_ascii_in_the_header_field(forge):
    """A token that is not UTF-8 must be a 4xx, not a panic, and never anonymous on an optional route."""
    for path in (b"/api/x", b"/optional/x"):
        head = b"GET " + path + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer a\xff.b.c\r\n\r\n"
        assert forge.gateway.raw_status(head) in (400, 401)


def test_b6_a_token_of_1_mb_is_431_and_the_gateway_lives(forge):
    token = "a" * 1_000_000
    head = f"GET /api/x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    assert forge.gateway.raw_status(head) in (431, 0)
    assert forge.status(forge.account.access) == 200


# Claims ------------------------------------------------------------------------------------------------------------

def claim(**changes):
    return lambda f: f.key.token(f.payload(**changes))


def raw_claim(name, raw):
    return lambda f: f.key.token(f.raw_payload(name, raw))


def missing(name):
    return lambda f: f.key.token(without(f.claims, name))


NUMBERS = ['"x"', '"9999999999"', "null", "true", "1e400", "-1", "-1e300", "1e300", "9223372036854775808",
           "18446744073709551616", "[9999999999]", '{"a": 1}', "NaN", "Infinity", '""', "0x7fffffff"]
CLAIMS = {
    **{f"threat exp {raw}": raw_claim("exp", raw) for raw in NUMBERS},
    **{f"threat nbf {raw}": raw_claim("nbf", raw) for raw in ['"9"', '"x"', "null", "true", "1e400", "-1", "[1]", "{}"]},
    **{f"threat iat {raw}": raw_claim("iat", raw) for raw in ['"9"', "null", "1e400", "-1", "[1]"]},
    "b10 exp missing": missing("exp"),
    "b10 exp zero": claim(exp=0),
    "b10 exp 90 s ago": claim(exp=int(NOW) - 90),
    "b10 exp in milliseconds, long ago": claim(exp=-1000),
    "b10 nbf in two minutes": lambda f: f.key.token(f.payload(nbf=int(time.time()) + 120)),
    "b10 iat in two minutes": lambda f: f.key.token(f.payload(iat=int(time.time()) + 120)),
    "b8 iss missing": missing("iss"),
    **{f"b8 iss {iss!r}": claim(iss=iss) for iss in (None, 5, "", "https://evil.example", "x")},
    "b8 iss with a slash": lambda f: f.key.token(f.payload(iss=f.claims["iss"] + "/")),
    "b8 iss in capitals": lambda f: f.key.token(f.payload(iss=f.claims["iss"].upper())),
    "b8 iss in an array": lambda f: f.key.token(f.payload(iss=[f.claims["iss"]])),
    "b8 iss a prefix": lambda f: f.key.token(f.payload(iss=f.claims["iss"][:-1])),
    "b9 aud missing": missing("aud"),
    **{f"b9 aud {aud!r}": claim(aud=aud) for aud in (
        None, "", [], "port", "portcullis2", "Portcullis", " portcullis", "other portcullis", "portcullis,other",
        ["port"], [["portcullis"]], {"portcullis": True}, [None], 5, True, ["portcullis", 5])},
    "b11 sub missing": missing("sub"),
    **{f"b11 sub {v!r}": claim(sub=v) for v in (None, "", 5, ["a"], {"$ne": None}, True, "a\r\nX-User-Roles: admin", "\0")},
    "b11 roles missing": missing("roles"),
    **{f"b11 roles {v!r}": claim(roles=v) for v in (None, "admin", 5, {"admin": True}, ["admin", 1], [["admin"]], True)},
    "b11 sid missing": missing("sid"),
    **{f"b11 sid {v!r}": claim(sid=v) for v in (None, "", "x", 5, ["x"], "../x")},
    **{f"b11 email {v!r}": claim(email=v) for v in (5, ["a@b.c"], {"a": 1}, True)},
    **{f"b11 scope {v!r}": claim(scope=v) for v in (5, {"a": 1}, ["a", 1], True)},
    "b7 an ID token": lambda f: f.key.token(f.payload(nonce="n", at_hash="h"), f.key.header(typ="JWT")),
    "b7 a logout token": lambda f: f.key.token(f.payload(events={}), f.key.header(typ="logout+jwt")),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_threat_claims(forge, name):
    """B 7 to 11: a claim of the wrong type must refuse the token, not count as absent."""
    forge.refused(CLAIMS[name](forge))


@pytest.mark.parametrize("name", ["b2 alg none", "b5 empty signature", "b10 exp missing", "b11 sub missing"])
def test_a_bad_token_is_refused_on_an_optional_route_too(forge, name):
    """Taken for anonymous, the bearer of an expired token would silently see the public page."""
    forge.refused({**HEADERS, **FORMS, **CLAIMS}[name](forge), path="/optional/x")


def test_b7_a_refresh_token_is_never_an_access_token(forge):
    forge.refused(forge.account.refresh)
    assert forge.gateway.refresh(forge.account.access).status_code in (400, 403)
    signed = forge.key.token(forge.payload(), forge.key.header(typ="rt+jwt"))
    assert forge.gateway.refresh(signed).status_code in (400, 403)


def test_threat_log_injection_through_kid_and_claims(forge):
    """CR/LF and escape sequences in a token must stay inside one JSON line of the log."""
    for kid in ("a\r\n{\"status\":200}", "\x1b[2J", "\u2028"):
        forge.refused(forge.key.token(forge.payload(), forge.key.header(kid=kid)))
    assert forge.gateway.access_log()
    # Warnings about the configuration come first, as plain text.
    log = forge.gateway.process.stderr()
    for line in log[log.index("\n{") + 1 :].splitlines():
        assert "\x1b" not in line and json.loads(line)


def test_control_header_of_our_tokens(forge):
    """RFC 9068 section 2: typ, alg and kid, and the claims DESIGN section 1 names."""
    assert set(header_of(forge.account.access)) == {"typ", "alg", "kid"}
    assert {"iss", "sub", "aud", "exp", "iat", "jti", "sid", "email", "roles", "scope"} <= set(forge.claims)
