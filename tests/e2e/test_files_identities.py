"""S3 prefix escape by claims: whatever an issuer calls its users, nobody's files lie where another's do."""

import itertools
import json
import urllib.parse
import uuid

import pytest

from conftest import serving
from file_routes import Client, FolderFiles, S3Files, code_of, files_route
from jwks_server import ISSUER, OTHER, JwksServer, fresh_key

METHODS = ["GET", "PUT", "DELETE"]
LONG = "x" * 2000
# Where a placeholder is a whole segment, one below others, or has text around it.
ROUTES = {"/by-sub/": "{iss}/{sub}/", "/by-tenant/": "{tenant}/{iss}/{sub}/", "/around/": "around/u-{sub}.d/{iss}/", "/nested/": "nested/{org.id}/{iss}/{sub}/"}
SUBJECTS = [
    "a", "b", "ab", "a/", "b/", "a/b", "../b", "..", ".", "...", "./b", "/", "//", "/b", "a/../b", "%2e%2e", "%2E%2E", "%252e", "%2F", "%", "%%", "%2e%2e%2fb", "..%2fb",
    "\\", "..\\b", " ", "a ", " a", "\t", "\n", "\r\n", "\0", "a\0", "a\0b", "\x7f", "\u202e", "\uff0e\uff0e", "\u2024\u2024", "\ufeff", "é", "e\u0301", "A", "a.", "a..", "a;", "a?", "a#",
    "a*", "{sub}", "{iss}", "{tenant}", "a{", "users/{sub}/", "~", "~root", "-", "--", "a,b", "a|b", '"', "'", "<b>", "a&b", "a=b", "a+b", "a:b", "a@b", "CON", "NUL", ".git", ".b",
    "_", "\U0001f600", "\uffff", ISSUER, f"{OTHER}/b", "0", "00", "-0", "1e3", "null", "true", "x" * 100,
]
TENANTS = ["t", "../t", "t/", "..", ".", "/", "%2e%2e", "t/https:", "%", "\0", " ", 5, 0, -1, 2**63 - 1, 18446744073709551615]
REFUSED = ["", None, [], ["t"], {}, {"a": "b"}, True, False, 1.5, 1e30, 10**40, -(10**30), LONG]


class Site:
    def __init__(self, gateway, files, *issuers):
        self.gateway, self.files, self.issuers = gateway, files, issuers
        self.client = Client(gateway.port)

    def call(self, method, path, token, body=None):
        status, _, content = self.client.call(method, path, token, body)
        return status, content


@pytest.fixture(scope="module", params=["s3", "directory"])
def site(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    files = S3Files(request.getfixturevalue("s3")) if request.param == "s3" else FolderFiles(folder)
    issuers = [JwksServer(ISSUER, fresh_key()), JwksServer(OTHER, fresh_key())]
    routes = "".join(files_route(f"{path}{{*key}}", "media", prefix, methods=METHODS, list=True) for path, prefix in ROUTES.items())
    table = files.table()
    with serving(folder, "[log]\naccess = false\n" + table + routes + "".join(issuer.table() for issuer in issuers)) as gateway:
        yield Site(gateway, files, *issuers)
    for issuer in issuers:
        issuer.stop()


def identities(site):
    """Every caller there is, as (issuer, claims)."""
    for issuer, sub in itertools.product(site.issuers, SUBJECTS):
        yield issuer, {"sub": sub, "tenant": "t", "org": {"id": "o"}}
    for tenant, sub in itertools.product(TENANTS, ["a", "..", "a/b"]):
        yield site.issuers[0], {"sub": sub, "tenant": tenant, "org": {"id": tenant}}


def stored_by(site, path) -> dict[str, str]:
    """Everybody stores an `f`; their keys, by who it is. One caller is one (issuer, sub, claims of the prefix)."""
    contents, before = {}, set(site.files.content())
    for issuer, claims in identities(site):
        used = ("iss", "sub") + (("tenant",) if "tenant" in path else ("org",) if "nested" in path else ())
        who = json.dumps({name: {"iss": issuer.issuer, **claims}[name] for name in used})
        if who in contents:
            continue
        token, content = issuer.token(**claims), uuid.uuid4().hex.encode()
        status, answer = site.call("PUT", f"{path}f", token, content)
        # A name that the store cannot keep is refused, and not changed into another.
        assert status in (201, 400, 401, 403), (who, status, answer)
        if status == 201:
            contents[who] = content
            assert site.call("GET", f"{path}f", token) == (200, content), who
        status, listing = site.call("GET", f"{path}?list", token)
        seen = [entry["key"] for entry in json.loads(listing)["objects"]] if status == 200 else []
        assert seen == (["f"] if who in contents else []), (who, status, listing)
    stored = {mark: key for key, mark in site.files.content().items() if key not in before}
    assert len(stored) == len(contents), "somebody stored over the file of another"
    return {who: stored[site.files.mark(content)] for who, content in contents.items()}


@pytest.mark.parametrize("path", ROUTES)
def test_threat_nobodys_prefix_is_within_anothers(site, path):
    """`../b`, `b/`, `%2e%2e` and 70 more names of users, and of tenants: each has a prefix of its own, none the beginning of another."""
    keys = stored_by(site, path)
    assert len(keys) > 2 * 60
    prefixes = {who: key.removesuffix("f") for who, key in keys.items()}
    assert len(set(prefixes.values())) == len(prefixes)
    depth = ROUTES[path].count("/")
    for (who, prefix), (other, another) in itertools.permutations(prefixes.items(), 2):
        assert not another.startswith(prefix), (who, other, prefix, another)
    for who, prefix in prefixes.items():
        segments = prefix.split("/")
        assert len(segments) == depth + 1 and not {".", "..", ""} & set(segments[:-1]), (who, prefix)
        assert "\\" not in prefix and prefix.isprintable() and prefix.isascii(), (who, prefix)


def test_threat_a_claim_that_is_no_name_has_no_prefix(site):
    """null, arrays, objects, fractions, the empty text: 401 or 403, and nothing is stored, read or listed."""
    before = site.files.content()
    for value in REFUSED:
        for path, claims in [("/by-tenant/", {"tenant": value}), ("/nested/", {"org": {"id": value}}), ("/nested/", {"org": value}), ("/by-sub/", {"sub": value}), ("/around/", {"sub": value})]:
            for method, name in [("GET", "f"), ("HEAD", "f"), ("PUT", "f"), ("DELETE", "f"), ("GET", "?list")]:
                token = site.issuers[0].token(**claims)
                status, answer = site.call(method, path + name, token, b"x" if method == "PUT" else None)
                # A text of 2000 characters is a name, but no key has room for it.
                allowed = (400, 401, 403, 404) if value == LONG else (401, 403)
                assert status in allowed or (status == 200 and name == "?list" and value == LONG and not json.loads(answer)["objects"]), (value, path, method, status, answer)
    for path in ("/by-tenant/", "/nested/"):
        assert site.call("PUT", path + "f", site.issuers[0].token(drop=["tenant", "org"]), b"x")[0] == 403
    assert site.files.content() == before


def test_threat_a_claim_of_dots_in_its_name(site):
    """`{org.id}` is a path through objects; a claim whose name is "org.id" is another."""
    token = site.issuers[0].token(**{"org.id": "o", "sub": "dotted"})
    assert site.call("PUT", "/nested/f", token, b"x")[0] == 403


def test_threat_longest_key(site):
    """A prefix and a name of more than 1024 bytes together are refused, and never cut off."""
    token = site.issuers[0].token(sub="/" * 100)
    room = 1024 - len(urllib.parse.quote(ISSUER, safe=":")) - 1 - 300 - 1
    name = "/".join(["y" * 200] * 10)
    before = site.files.content()
    status, answer = site.call("PUT", "/by-sub/" + name[: room + 1].rstrip("/") + "y" * 2, token, b"x")
    assert (status, code_of(answer)) == (400, "invalid_file_name"), answer
    assert site.files.content() == before


def test_own_users_have_the_prefix_of_their_id(site, tmp_path):
    """The issuer's name cannot be taken by another's token (B 8), so that `{sub}` alone is safe where there is one issuer."""
    account = site.gateway.register()
    assert site.call("PUT", "/by-sub/f", account.access, b"x")[0] == 201
    [key] = [key for key in site.files.content() if account.id in key]
    assert key.endswith(f"/{account.id}/f") and key.startswith(urllib.parse.quote(site.gateway.issuer, safe=":"))
    forged = site.issuers[0].token(iss=site.gateway.issuer, sub=account.id)
    assert site.call("GET", "/by-sub/f", forged)[0] == 401
    same_name = site.issuers[0].token(sub=account.id)
    assert site.call("GET", "/by-sub/f", same_name)[0] == 404


def test_foreign_callers_make_no_links(site, gateways):
    """A link ends with its maker's session, and a foreign token has none that we would know of."""
    files = files_route("/shared/{*key}", "media", "{iss}/{sub}/", methods=METHODS, share="1h")
    gateway = gateways(site.files.table() + files + site.issuers[0].table())
    status, _, answer = Client(gateway.port).call("POST", "/shared/f?share", site.issuers[0].token(), b"")
    assert (status, code_of(answer)) == (403, "forbidden")
