"""S3 prefix escape: however a path is written, nobody reaches a file that lies below another's prefix."""

import dataclasses
import json
import random
import uuid

import pytest

from conftest import Account, Gateway
from file_routes import FolderFiles, S3Files, files_route
from forge import b64u, unb64u
from traversals import targets
from wire import Closed, Wire, get

CONFIG = """
[throttle]
address_failures = 1000000
[log]
access = false
"""
METHODS = ["GET", "PUT", "DELETE"]


@dataclasses.dataclass
class Canary:
    """What the other has: `known` is a name the attacker guesses; `hidden` names and the contents nobody else has seen."""

    prefix: str
    known: str = "known.txt"

    def __post_init__(self):
        mark = uuid.uuid4().hex
        self.hidden, self.content = f"hidden-{mark}", f"content-{mark}".encode()
        self.keys = [f"{self.prefix}{name}" for name in (self.known, f"{self.hidden}.txt", f"{self.hidden}/x", "folder/known.txt")]

    def is_in(self, answer) -> bool:
        text = answer.body + repr(answer.headers).encode()
        return self.content in text or self.hidden.encode() in text


class Site:
    """A gateway over one store; A attacks, B has files."""

    def __init__(self, gateway, files):
        self.gateway, self.files, self.wire = gateway, files, None
        self.a, self.b = gateway.register(), gateway.register()
        self.own, self.canary = f"users/{self.a.id}/", Canary(f"users/{self.b.id}/")
        for key in self.canary.keys:
            files.put(key, self.canary.content)
        # Neighbours, whose prefixes begin as the caller's does.
        self.neighbours = [Canary(f"users/{self.a.id}x/"), Canary("users/"), Canary(""), Canary(f"users/{self.a.id}%2F"), Canary("x/")]
        for other in self.neighbours:
            for key in other.keys:
                files.put(key, other.content)
        files.put(self.own + "own.txt", b"own")

    def ask(self, request: bytes, method="GET"):
        """As test_paths.Site.ask; `None` where the gateway closed without a word."""
        for _ in range(3):
            if self.wire is None or self.wire.is_closed():
                self.wire = Wire(self.gateway.port)
            try:
                answer = self.wire.send(request).response(method)
            except Closed:
                self.wire.socket.close()
                self.wire = None
                continue
            if "close" in answer.all("connection"):
                self.wire.socket.close()
                self.wire = None
            return answer
        raise AssertionError(f"no answer to {request!r}")

    def attack(self, target, method="GET", account: Account | None = None, body=b"", host="localhost"):
        token = (account or self.a).access
        fields = [f"Authorization: Bearer {token}"]
        if method in ("PUT", "POST"):
            fields.append(f"Content-Length: {len(body)}")
        return self.ask(get(target, host, *fields, method=method) + body, method)

    def sees(self, answer) -> bool:
        return any(canary.is_in(answer) for canary in (self.canary, *self.neighbours))


def config(files):
    return CONFIG + files.table() + "".join([
        files_route("/files/{*key}", "media", "users/{sub}/", methods=METHODS, list=True, share="1h", admin_roles=["support"]),
        files_route("/again/{*key}", "media", "users/{sub}/", methods=METHODS, list=True, share="1h"),
        files_route("/short/{*key}", "media", "a/", methods=METHODS, list=True),
        files_route("/long/{*key}", "media", "ab/", methods=METHODS, list=True),
        files_route("/public/{*key}", "media", "public/", 'auth = "none"', public=True),
    ])


@pytest.fixture(scope="module", params=["s3", "directory"])
def site(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    files = S3Files(request.getfixturevalue("s3")) if request.param == "s3" else FolderFiles(folder)
    gateway = Gateway(folder, config(files))
    try:
        yield Site(gateway.start(), files)
    finally:
        gateway.stop()


def forms(site, file, suffix="", route="/files"):
    found = targets(route, site.a.id, site.b.id, file, getattr(site.files, "bucket", "files"))
    return [target + (suffix if "?" not in target else suffix.replace("?", "&")) for target in found]


ALLOWED = {200, 201, 204, 206, 400, 401, 403, 404, 405, 409, 411, 414}
OPERATIONS = [("GET", ""), ("HEAD", ""), ("GET", "?list"), ("GET", "?list&delimiter=/"), ("POST", "?share"), ("PUT", ""), ("DELETE", "")]


@pytest.mark.parametrize("method, query", OPERATIONS, ids=lambda value: value or "-")
def test_threat_prefix_escape(site, method, query):
    """Six thousand ways to write `../B/known.txt`: nothing of B's is answered, and no object outside A's prefix is made, changed or deleted."""
    before = site.files.content()
    file = "" if "list" in query else site.canary.known
    statuses, links = {}, []
    sent = forms(site, file, query)
    for target in sent:
        answer = site.attack(target, method, body=b"evil" if method == "PUT" else b"")
        statuses.setdefault(answer.status, []).append(target)
        assert not site.sees(answer), (target, answer)
        if method in ("HEAD", "GET") and not query and answer.status == 200:
            assert answer.get("content-length") in ("3", "4"), (target, answer)
        if method == "POST" and answer.status == 201:
            links.append(target)
            link = answer.get("location")
            for through, put in [(get(link, method="GET"), "GET"), (get(link, "localhost", "Content-Length: 4", method="PUT") + b"evil", "PUT")]:
                assert not site.sees(site.ask(through, put)), (target, link)
    # minio refuses names it calls bad (`.. `) with a 400 that says why in a document, which an answer to HEAD has none of.
    allowed = ALLOWED | ({502} if method == "HEAD" and site.files.server == "minio" else set())
    assert len(sent) > 6000 and set(statuses) <= allowed, {status: some[:3] for status, some in statuses.items()}
    assert len(statuses[400]) > 3000
    if method in ("POST", "PUT"):
        assert statuses[201], "names that are merely odd are names"
    after = site.files.content()
    outside = {key: value for key, value in after.items() if not key.startswith(site.own)}
    assert outside == {key: value for key, value in before.items() if not key.startswith(site.own)}
    for key in set(after) - set(before):
        parts = key.removeprefix(site.own).split("/")
        assert not {"", ".", ".."} & set(parts) and "\\" not in key, key


def test_threat_prefix_escape_by_host_and_version(site):
    """The name of a host is no part of a key."""
    bucket = getattr(site.files, "bucket", "files")
    for host in (f"{bucket}.localhost", bucket, f"users.{site.b.id}", site.b.id, f"localhost/{site.b.id}", "..", f"..%2f{site.b.id}", "localhost:80/..", ""):
        for target in ("/files/known.txt", f"/files/{site.b.id}/known.txt", f"http://{host}/files/known.txt", f"http://{host}/../{site.b.id}/known.txt"):
            answer = site.attack(target, host=host)
            assert answer.status in (400, 404) and not site.sees(answer), (host, target, answer)
    fields = ["X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Uri", "X-Forwarded-Prefix", "X-User-Id", "X-Amz-Copy-Source", "X-Forwarded-Host", "Destination"]
    head = [f"{name}: /files/users/{site.b.id}/known.txt" for name in fields] + ["X-HTTP-Method-Override: DELETE", f"X-User-Id: {site.b.id}"]
    answer = site.ask(get("/files/known.txt", "localhost", f"Authorization: Bearer {site.a.access}", *head))
    assert not site.sees(answer) and answer.status in (400, 404), answer


def test_threat_prefix_escape_between_siblings(site):
    """`a/` and `ab/`: a prefix ends in a slash, and a path begins behind it."""
    short, long = Canary("a/"), Canary("ab/")
    for canary in (short, long):
        for key in canary.keys:
            site.files.put(key, canary.content)
    before = site.files.content()
    for route, own, other, names in [("/short", short, long, ["b/known.txt", "../ab/known.txt", "%62/known.txt", "/b/known.txt", "b"]),
                                     ("/long", long, short, ["../a/known.txt", "/../a/known.txt", ".%2e/a/known.txt"])]:
        assert site.attack(f"{route}/known.txt").body == own.content
        assert own.is_in(site.attack(f"{route}/?list")) and not other.is_in(site.attack(f"{route}/?list"))
        for name in names:
            for method in ("GET", "DELETE"):
                answer = site.attack(f"{route}/{name}", method)
                assert not other.is_in(answer) and answer.status in (400, 404, 204), (route, name, answer)
            assert not other.is_in(site.attack(f"{route}/{name.removesuffix('known.txt')}?list"))
    # The route itself without its slash, and with letters behind.
    for target in ("/short?list", "/shortb/?list", "/short.?list", "/shortb/known.txt", "/shor/known.txt"):
        answer = site.attack(target)
        assert not long.is_in(answer) and (answer.status == 404 or target == "/short?list"), (target, answer)
    assert site.files.content() == before


def test_threat_prefix_escape_through_a_public_route(site):
    """A route that is open to all is open to its own prefix."""
    site.files.put("public/known.txt", b"public")
    assert site.ask(get("/public/known.txt")).body == b"public"
    for target in targets("/public", site.a.id, site.b.id, "known.txt", random_ones=500)[::3]:
        answer = site.ask(get(target))
        assert not site.sees(answer) and answer.status in (200, 400, 401, 403, 404), (target, answer)
    for method in ("PUT", "DELETE", "POST"):
        for target in ("/public/known.txt", "/public/?list", "/public/known.txt?share", f"/public/known.txt?prefix=users/{site.b.id}/"):
            length = [] if method == "DELETE" else ["Content-Length: 0"]
            assert site.ask(get(target, "localhost", *length, method=method), method).status in (401, 403, 404, 405), (method, target)
    assert site.ask(get("/public/?list")).status == 403
    answer = site.ask(get(f"/public/known.txt?prefix=users/{site.b.id}/"))
    assert answer.status == 403 and b"logged in" not in answer.body, "nobody is logged in on such a route"


# Prefixes by name ------------------------------------------------------------------------------------------


def test_threat_prefix_of_another_without_the_role(site):
    before = site.files.content()
    for named in (f"users/{site.b.id}/", site.canary.prefix[:-1], "", "users/", site.own, "..", f"users/{site.b.id}/folder/"):
        for method, query in OPERATIONS:
            for name in (site.canary.known, "" if "list" in query else "x"):
                target = f"/files/{name}{query or '?'}&prefix={named}".replace("?&", "?")
                answer = site.attack(target, method, body=b"evil" if method == "PUT" else b"")
                assert answer.status in (400, 403, 404) and not site.sees(answer), (method, target, answer)
    assert site.files.content() == before


def test_threat_prefix_of_another_with_the_role_is_of_the_templates_form(site):
    """Whoever may name a prefix may name a caller's, and nothing above it, beside it or below it."""
    email = f"{uuid.uuid4().hex}@example.com"
    site.gateway.cli("user", "add", email, "--roles", "support", stdin="a good password\n")
    support = Account(email, "a good password", site.gateway.login(email, "a good password").json())
    assert site.attack(f"/files/known.txt?prefix={site.canary.prefix}", account=support).body == site.canary.content
    assert site.canary.is_in(site.attack(f"/files/?list&prefix={site.canary.prefix}", account=support))
    before = site.files.content()
    bad = ["", "/", "users", "users/", "users//", "users/./", "users/../", "users/../x/", f"users/{site.b.id}", f"/users/{site.b.id}/", f"users/{site.b.id}//",
           f"users/{site.b.id}/folder/", f"users/x/../{site.b.id}/", "x/", "users/%25/", "users/%2F/", f"USERS/{site.b.id}/", "users/a%5cb/",
           "users/a%00/", "users/%c0%ae/", "users/a b/", "users/.%2e/", "users/..;/", "public/", "*", "users/*/", "users/%252e%252e/", "users/%25zz/", "users/%252e/"]
    for named in bad:
        for method, query in OPERATIONS:
            target = f"/files/{'' if 'list' in query else 'known.txt'}{query or '?'}&prefix={named}".replace("?&", "?")
            answer = site.attack(target, method, account=support, body=b"evil" if method == "PUT" else b"")
            assert answer.status == 400, (method, target, answer)
            assert not site.sees(answer), (method, target, answer)
    assert site.files.content() == before
    # What a caller named "/" or ".." would have is a prefix like any other, and empty.
    for named in ("users/%252F/", "users/%252E./", "users/%252E/", f"users/%252E.%252F{site.b.id}/"):
        answer = site.attack(f"/files/?list&prefix={named}", account=support)
        assert (answer.status, answer.body) == (200, b'{"objects":[],"folders":[],"next_cursor":null}'), (named, answer)
    # The other route of the same store has no such role.
    assert site.attack(f"/again/known.txt?prefix={site.canary.prefix}", account=support).status == 403
    for twice in (f"prefix={site.own}&prefix={site.canary.prefix}", f"prefix={site.canary.prefix}&prefi%78={site.own}"):
        assert site.attack(f"/files/known.txt?{twice}", account=support).status == 400


# Cursors ---------------------------------------------------------------------------------------------------


def cursor_of(name) -> str:
    return b64u(name if isinstance(name, bytes) else name.encode())


def test_threat_cursor_of_another(site):
    """A cursor is good for the listing it was made for, and tells nothing."""
    theirs = site.attack("/files/?list&limit=1", account=site.b)
    cursor = json.loads(theirs.body)["next_cursor"]
    assert site.canary.is_in(site.attack(f"/files/?list&cursor={cursor}", account=site.b))
    assert site.b.id.encode() not in unb64u(cursor)
    for target in (f"/files/?list&cursor={cursor}", f"/files/?list&delimiter=/&cursor={cursor}", f"/files/other/?list&cursor={cursor}", f"/again/?list&cursor={cursor}"):
        answer = site.attack(target)
        assert refusal(answer) == (400, "invalid_query") and not site.sees(answer), answer


def test_threat_cursor_made_by_hand(site):
    """No bytes in a cursor lead to where the caller's prefix does not."""
    b = site.b.id
    names = [f"../{b}/", f"/../{b}/", f"../{b}/known.txt", f"users/{b}/", "/", "//", ".", "..", "!", " ", "\x01", "\x7f", "\ufeff", "\U0010ffff", "\U0010ffff" * 300, "a" * 1024,
             "a" * 1536, "a" * 5000, "\r\nX: y", "<Key>", "&prefix=users/", "%2e%2e/", f"%2e%2e%2f{b}", "", "\0", "a\0b", "own.txt", "own.txt/", "\u202e", "\uffff"]
    cursors = [cursor_of(name) for name in names]
    cursors += [cursor_of(b) for b in (b"\xff\xfe", b"\xc0\xae\xc0\xae/", b"\xed\xa0\x80", bytes(range(1, 256)))]
    cursors += ["", "=", "A", "AA==", "A" * 4097, "A" * 20000, "!!!", "..", "../", "%00", "%2e%2e", "a+b/", "null", "%ff", cursor_of(f"../{b}/") + "=", cursor_of("own.txt")[:-1] + "%2f"]
    chosen = random.Random(1)
    cursors += [b64u(chosen.randbytes(chosen.randint(1, 40))) for _ in range(500)]
    cursors += [cursor_of("".join(chosen.choice(["..", "/", b, "users", "known.txt", "\U0010ffff", "~", "!"]) for _ in range(6))) for _ in range(500)]
    statuses = set()
    for cursor in cursors:
        for query in ("", "&delimiter=/", "&limit=1"):
            answer = site.attack(f"/files/?list&cursor={cursor}{query}")
            statuses.add(answer.status)
            assert not site.sees(answer), (cursor, answer)
    # Node's and others' limits for a head are smaller than what stands in some of these.
    assert 400 in statuses and statuses <= {400, 414, 431}


# Share links -----------------------------------------------------------------------------------------------


def link(site, name, account=None, **wish) -> str:
    answer = site.attack(f"/files/{name}?share", "POST", account=account or site.b, body=json.dumps(wish).encode() if wish else b"")
    assert answer.status == 201, answer
    return answer.get("location")


def refusal(answer):
    return answer.status, json.loads(answer.body)["code"]


def test_threat_link_for_another_key(site):
    """A link is for one file, one method and one route, whoever holds it."""
    reading, writing = link(site, "known.txt"), link(site, "new.txt", method="PUT")
    path, query = reading.split("?")
    assert site.ask(get(reading)).body == site.canary.content
    before = site.files.content()
    names = ["folder/known.txt", f"{site.canary.hidden}.txt", f"{site.canary.hidden}/x", "known.tx", "known.txt2", "known.txt.", "KNOWN.TXT", "known.txt%20", "known.txt;", "x/known.txt"]
    for target in [*(f"/files/{name}?{query}" for name in names), f"/again/known.txt?{query}", f"/again/{writing.removeprefix('/files/')}"]:
        for account in (None, site.a, site.b):
            token = [f"Authorization: Bearer {account.access}"] if account else []
            for method in ("GET", "PUT", "DELETE"):
                answer = site.ask(get(target, "localhost", *token, "Content-Length: 0", method=method), method)
                assert refusal(answer) == (403, "invalid_share_link"), (target, method, answer)
    # A route without links looks at the token alone.
    assert not site.canary.is_in(site.attack(f"/short/known.txt?{query}")) and site.ask(get(f"/short/known.txt?{query}")).status in (401, 403)
    for target in (f"/files/?{query}&list", f"/files/?{query}", f"/files/folder/?{query}&list", f"{path}?list&{query}"):
        answer = site.attack(target)
        assert answer.status in (400, 403, 404) and not site.sees(answer), (target, answer)
    for token in (None, f"Authorization: Bearer {site.a.access}", f"Authorization: Bearer {site.b.access}"):
        fields = [token] if token else []
        for target, method in [(reading, "PUT"), (reading, "DELETE"), (writing, "GET"), (writing, "HEAD"), (writing, "DELETE")]:
            answer = site.ask(get(target, "localhost", *fields, "Content-Length: 0", method=method), method)
            assert answer.status == 403 and not site.sees(answer), (target, method, answer)
    # POST with a link as its parameter makes no further link without a token.
    assert site.ask(get(reading, "localhost", "Content-Length: 0", method="POST"), "POST").status == 401
    assert site.files.content() == before


def test_threat_link_with_the_token_of_another(site):
    """A link and a token do not add up: the link alone counts, and the holder's own files are not taken for the maker's."""
    reading = link(site, "known.txt")
    site.files.put(site.own + "known.txt", b"mine")
    try:
        assert site.attack(reading).body == site.canary.content
        for target in (f"{reading}&prefix={site.own}", f"{reading}&prefix={site.canary.prefix}", f"{reading}&download=x"):
            answer = site.attack(target)
            assert answer.status in (200, 400, 403) and answer.body != b"mine", (target, answer)
        mine = link(site, "known.txt", site.a)
        assert site.attack(mine, account=site.b).body == b"mine"
        # The token of one link on the path of the other, which is the same path.
        assert mine.split("?")[0] == reading.split("?")[0] and site.ask(get(mine)).body == b"mine"
        for twice in (f"{reading}&{mine.split('?')[1]}", f"{reading}&share", f"{reading}&%73hare=x"):
            answer = site.attack(twice)
            assert answer.status in (400, 403), (twice, answer)
    finally:
        site.attack("/files/known.txt", "DELETE")


def test_threat_link_that_somebody_edited(site):
    """Every bit of a link counts."""
    path, token = link(site, "known.txt").split("?share=")
    raw = unb64u(token)
    changed = [b64u(raw[:at] + bytes([raw[at] ^ bit]) + raw[at + 1:]) for at in range(len(raw)) for bit in (1, 128)]
    changed += [token[:-1], token + "A", token + "=", token + ".", token.swapcase(), " " + token, b64u(raw[:-1]), b64u(raw + b"x"), "A", "=", "%00", "x" * 10000, token * 2]
    for other in changed:
        answer = site.attack(f"{path}?share={other}")
        assert not site.sees(answer) and refusal(answer) in [(403, "invalid_share_link"), (400, "malformed_request")], (other, answer)
    assert site.ask(get(f"{path}?share={token}")).body == site.canary.content
