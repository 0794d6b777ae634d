"""What was matched is what is forwarded: paths, hosts, methods, and the order of routes."""

import itertools
import random
import re
import urllib.parse

import pytest

from conftest import RawBackend, serving
from wire import Closed, Wire, get

CONFIG = """
[upstreams.open]
servers = ["{open}"]
[upstreams.guarded]
servers = ["{guarded}"]

[[routes]]
path = "/public/{{*rest}}"
upstream = "open"
auth = "none"

[[routes]]
path = "/stripped/{{*rest}}"
upstream = "open"
auth = "none"
strip_prefix = "/stripped"

[[routes]]
path = "/admin/{{*rest}}"
upstream = "guarded"

[[routes]]
path = "/api/{{*rest}}"
upstream = "guarded"
strip_prefix = "/api"

[[routes]]
path = "/read"
methods = ["GET"]
upstream = "open"
auth = "none"

[[routes]]
path = "/write"
methods = ["POST", "PUT"]
upstream = "open"
auth = "none"
"""


class Site:
    """A gateway with an open and a guarded backend, and one connection kept for many requests."""

    def __init__(self, gateway, open_backend, guarded):
        self.gateway, self.open, self.guarded = gateway, open_backend, guarded
        self.wire = None

    def status(self, request: bytes, method="GET"):
        return self.ask(request, method).status

    def ask(self, request: bytes, method="GET"):
        """The response to `request`; on the connection of the last one if that is still open."""
        if self.wire is None or self.wire.is_closed():
            self.wire = Wire(self.gateway.port)
        try:
            answer = self.wire.send(request).response(method)
        except Closed:
            # It closed between our look and our request; a fresh connection has to answer.
            self.wire = Wire(self.gateway.port)
            answer = self.wire.send(request).response(method)
        if "close" in answer.all("connection"):
            self.wire.socket.close()
            self.wire = None
        return answer

    def forwarded(self, request: bytes):
        """What the open backend got as its target because of `request`, and the status."""
        before = len(targets(self.open))
        status = self.status(request)
        return status, targets(self.open)[before:]


def targets(raw_backend) -> list[str]:
    return [t.decode() for t in re.findall(rb"(?m)^[A-Z]+ (.*) HTTP/1\.[01]\r$", raw_backend.bytes())]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    open_backend, guarded = RawBackend(), RawBackend()
    config = CONFIG.format(open=open_backend.address, guarded=guarded.address)
    with serving(tmp_path_factory.mktemp("paths"), config) as gateway:
        yield Site(gateway, open_backend, guarded)
    open_backend.stop()
    guarded.stop()


DOTS = [
    "..", "%2e%2e", ".%2e", "%2E.", "%252e%252e", "%25252e%25252e", "..;", "..;x=1", "%2e%2e%3b", "..%3bx", "%c0%ae%c0%ae",
    "%ef%bc%8e%ef%bc%8e", "..%00", "%00..", "..%09", "..%20", "..%2500", "..%3f", "..%23", "..%5c", "...", ".", "%2e", "%u002e%u002e", "..%",
]
SLASHES = ["/", "//", "%2f", "%2F", "\\", "%5c", "%252f", "%25252F", "%c0%af", "%ef%bc%8f", "/./", "/;/", "/%2e/", ";/", "%3b/", "%0a/"]
SHAPES = [
    "/public/{d}{s}admin/secret", "/public{s}{d}{s}admin/secret", "/public/a{s}{d}{s}{d}{s}admin/secret", "/public/{d}{s}{d}{s}admin/secret",
    "/{d}{s}admin/secret", "/{d}/public/{d}{s}admin/secret", "/stripped{s}{d}{s}admin/secret", "/stripped/{d}{s}api{s}secret",
    "/public/{d}{s}admin/secret?a=b", "/public/{d}{s}admin/{d}{s}public/x",
]


def readings(path: str):
    """Every path some server would read in `path`: decoded again and again, `\\` for `/`, parameters cut off, cut at NUL, `?`, `#`."""
    layers = [path]
    for _ in range(5):
        layers.append(urllib.parse.unquote(layers[-1], errors="surrogateescape"))
    for layer in dict.fromkeys(layers):
        for cut in (layer, re.split(r"[\x00?#]", layer)[0]):
            for slashed in (cut, cut.replace("\\", "/")):
                yield resolve(slashed)
                yield resolve("/".join(segment.split(";")[0] for segment in slashed.split("/")))


def resolve(path: str) -> str:
    kept = []
    for segment in path.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(segment)
    return "/" + "/".join(kept)


def test_threat_dot_segments_never_reach_the_guarded_backend(site):
    """Four thousand ways to write `/public/../admin`: none reaches the guarded backend, and what reaches the open one
    stays below /public however often it is decoded."""
    sent = [shape.format(d=d, s=s) for shape, d, s in itertools.product(SHAPES, DOTS, SLASHES)]
    statuses = {}
    for path in sent:
        statuses.setdefault(site.status(get(path)), []).append(path)
    assert len(sent) == 4000 and set(statuses) <= {200, 400, 401, 404}, {k: v[:3] for k, v in statuses.items()}
    assert len(statuses[400]) > 2000
    assert site.guarded.connections == 0, site.guarded.bytes()
    for target in targets(site.open):
        assert re.fullmatch(r"(/([\w.~!$&'()*+,=:@-]|%[0-9A-F]{2})*)+(\?.*)?", target), target
        assert "//" not in target and not re.search(r"(?i)%(2f|5c|00|2e|0a)", target), target
        for read in readings(target):
            assert not read.startswith("/admin"), (target, read)


REFUSED = [
    "/public/..", "/public/.", "/public/../admin", "/public/./x", "/.", "/..", "/public//x", "//public/x", "//", "/public/x//", "/public\\x",
    "/public/%5cx", "/public/%2fx", "/public/%2Fx", "/public/%00", "/public/a%00b", "/public/%01", "/public/%7f", "/public/%0d%0aX", "/public/%",
    "/public/%2", "/public/%zz", "/public/%u0041", "/public/%ff", "/public/%c0%80", "/public/%ed%a0%80", "/public/%252e%252e/x", "/public/%252fx",
    "/public/%255cx", "/public/%2500", "/public/a#b", "/public/#", "/public/x?a#b", "/public/;/x", "/public/..;/x", "/public/.;a=b/x", "/public/%2e%2e%3b/x",
    "/public/..%3f/x", "/public/..%23/x", "/public/%c2%85", "/public/caf\xe9", "public/x", "?x", "*", "%2fpublic/x", "/public/%25252525252e/x",
]


@pytest.mark.parametrize("path", REFUSED)
def test_threat_ambiguous_path_is_refused(site, path):
    """One byte string, two readings: 400 before any route is looked at, and nothing goes upstream."""
    status, seen = site.forwarded(get(path))
    assert (status, seen) == (400, [])


CANONICAL = [
    ("/public/x", "/public/x"), ("/public/", "/public/"), ("/public", "/public"), ("/%70ublic/x", "/public/x"), ("/public/%7Ea%2Db", "/public/~a-b"),
    ("/public/a;b=c", "/public/a%3Bb=c"), ("/public/a%3bb", "/public/a%3Bb"), ("/public/%c3%a9", "/public/%C3%A9"), ("/public/a%20b", "/public/a%20b"),
    ("/public/a+b", "/public/a+b"), ("/public/%3f", "/public/%3F"), ("/public/%23", "/public/%23"), ("/public/x?a=%2e%2e/..//%00;b", "/public/x?a=%2e%2e/..//%00;b"),
    ("/public/x?", "/public/x?"), ("/public/x??y", "/public/x??y"), ("/public/...", "/public/..."), ("/public/.well-known", "/public/.well-known"),
    ("/public/100%25", "/public/100%25"), ('/public/"[]', "/public/%22%5B%5D"), ("/public/a|b^c{d}", "/public/a%7Cb%5Ec%7Bd%7D"), ("/public/%41%5A%61", "/public/AZa"),
]


@pytest.mark.parametrize("sent, expected", CANONICAL)
def test_threat_one_canonical_form_is_forwarded(site, sent, expected):
    """Backends that decode, or do not, see the same path that was matched; the query is left alone."""
    assert site.forwarded(get(sent)) == (200, [expected])


@pytest.mark.parametrize("path, canonical", [("/public/<b>", "/public/%3Cb%3E"), ("/public/`id`", "/public/%60id%60"), ("/public/x?q=<b>`", "/public/x?q=<b>`")])
def test_threat_odd_bytes_are_refused_by_us_or_forwarded_canonically(site, path, canonical):
    """A byte the parser below does not like must not lead to a bare answer of its own, without our id and our log."""
    before = len(targets(site.open))
    answer = site.ask(get(path))
    if answer.status == 200:
        assert targets(site.open)[before:] == [canonical]
    else:
        assert (answer.status, answer.get("content-type"), answer.get("server")) == (400, "application/problem+json", None)
        assert answer.get("x-request-id")


STRIPPED = [
    ("/stripped", "/"), ("/stripped/", "/"), ("/stripped/a", "/a"), ("/stripped/a/b/?q=1", "/a/b/?q=1"), ("/stripped?q", "/?q"), ("/%73tripped/a", "/a"),
    ("/stripped/stripped/a", "/stripped/a"), ("/stripped/a;x/b", "/a%3Bx/b"), ("/stripped/@evil.example/", "/@evil.example/"), ("/stripped/http://x/", None),
    ("/stripped//evil.example/", None), ("/stripped/%2fevil", None), ("/stripped/./x", None), ("/stripped%2e/x", 404), ("/stripped%2fx", None),
    ("/stripped/%2e%2e/x", None), ("/strippedx", 404), ("/stripped;/x", 404),
]


@pytest.mark.parametrize("sent, expected", STRIPPED)
def test_threat_rewrite_after_match(site, sent, expected):
    """What `strip_prefix` leaves is a clean path again: it starts with one slash and has no dot segment."""
    want = (200, [expected]) if isinstance(expected, str) else (expected or 400, [])
    assert site.forwarded(get(sent)) == want


@pytest.mark.parametrize("path", [
    "/api%2e/admin", "/api/%2e%2e/x", "/api/..", "/api/%2e%2e/public/x", "/api", "/api/", "/api/public/x", "/%61pi/x", "/admin", "/admin/", "/%61dmin/x", "/adm%69n/x?a",
    "/api;/x", "/api/;/x", "/Api/x", "/API/x",
])
def test_threat_rewrite_after_match_on_guarded_routes(site, path):
    """Nothing that looks like a guarded route, stripped or not, is let through without a token."""
    assert site.status(get(path)) in (400, 401, 404)
    assert site.guarded.connections == 0


@pytest.mark.parametrize("target, host, want", [
    ("http://localhost/public/x", "localhost", (200, ["/public/x"])),
    ("HTTP://localhost/public/x?q=http://a/", "localhost", (200, ["/public/x?q=http://a/"])),
    ("https://localhost/public/%70", "localhost", (200, ["/public/p"])),
    ("http://localhost:80/public/x", "localhost:80", (200, ["/public/x"])),
    ("http://localhost/admin/x", "localhost", (401, [])),
    ("http://localhost/public/../admin/x", "localhost", (400, [])),
    ("http://localhost/public/%2e%2e/admin/x", "localhost", (400, [])),
    ("http://localhost//public/x", "localhost", (400, [])),
    ("http://localhost", "localhost", (404, [])),
    ("http://localhost?x", "localhost", (400, [])),
    ("http://localhost/public/x#f", "localhost", (400, [])),
    ("http://other/public/x", "localhost", (400, [])),
    ("http://localhost/public/x", "other", (400, [])),
    ("http://user@localhost/public/x", "localhost", (400, [])),
    ("http://localhost\\@other/public/x", "localhost", (400, [])),
    ("http:///public/x", "localhost", (400, [])),
    ("http:/public/x", "localhost", (400, [])),
    ("ftp://localhost/public/x", "localhost", (400, [])),
    ("//localhost/public/x", "localhost", (400, [])),
    ("localhost:443", "localhost", (400, [])),
])
def test_b39_absolute_form_targets(site, target, host, want):
    """An absolute-form target is matched and forwarded like its path; its authority must be the Host (RFC 9112 section 3.2.2)."""
    assert site.forwarded(get(target, host)) == want


@pytest.mark.parametrize("host", [
    "", " ", "a b", "a,b", "a/b", "a@b", "a:b", "a:99999", "a:80:80", "a..b", ".a", "-..-", "[::1", "::1", "[::1]x", "a%2eb", "a\\b", "caf\xe9", "*", "a;b", "a#", "a?",
])
def test_b39_malformed_host(site, host):
    """A Host that is no host name decides nothing: 400."""
    assert site.forwarded(get("/public/x", host)) == (400, [])


@pytest.mark.parametrize("fields", ["", "Host: a\r\nHost: a\r\n", "Host: a\r\nHost: b\r\n", "Host: a\r\nhost: b\r\n"])
def test_b39_missing_or_several_hosts(site, fields):
    """RFC 9112 section 3.2: no Host, or more than one, is 400."""
    assert site.forwarded(f"GET /public/x HTTP/1.1\r\n{fields}\r\n".encode()) == (400, [])


def test_method_not_allowed_names_the_allowed_ones(site):
    """405 with Allow, as problem+json (RFC 9110 section 15.5.6)."""
    for path, method, allow in [("/read", "POST", {"GET", "HEAD"}), ("/read", "OPTIONS", {"GET", "HEAD"}), ("/write", "GET", {"POST", "PUT"}), ("/auth/login", "GET", {"POST"})]:
        answer = site.ask(get(path, method=method))
        assert (answer.status, answer.get("content-type")) == (405, "application/problem+json")
        assert {m.strip() for m in answer.get("allow").split(",")} == allow, path
    for method in ("get", "Get", "post", "FOO"):
        assert site.status(get("/read", method=method)) == 405


def test_not_found_is_problem_json(site):
    answer = site.ask(get("/nowhere"))
    assert (answer.status, answer.get("content-type")) == (404, "application/problem+json")
    assert b'"not_found"' in answer.body


def test_head_on_a_get_route(site):
    """A route for GET answers HEAD too, without a body, and the connection goes on in step."""
    before = len(site.open.bytes())
    for _ in range(3):
        answer = site.ask(get("/read", method="HEAD"), "HEAD")
        assert (answer.status, answer.get("content-length")) == (200, "2")
    assert site.open.bytes()[before:].count(b"HEAD /read HTTP/1.1\r\n") == 3
    assert site.ask(get("/public/x")).body == b"ok"


def test_most_specific_route_wins_in_any_order(gateways):
    """The order of the file decides nothing: the same answers from six permutations of it."""
    routes = [
        ("/{*rest}", "", "", "all"), ("/a/{*rest}", "", "", "rest"), ("/a/{x}", "", "", "param"), ("/a/b", "", "", "exact"), ("/a/{x}/c", "", "", "param-c"), ("/a/b/{*rest}", "", "", "b-rest"),
        ("/a/b", "h.example.com", "", "host-exact"), ("/a/{*rest}", "*.example.com", "", "wild-rest"), ("/a/b", "*.example.com", "", "wild-exact"),
        ("/a/b", "", "POST", "exact-post"), ("/{*rest}", "h.example.com", "", "host-all"),
    ]
    asked = [
        ("GET", "any", "/", "all"), ("GET", "any", "/a", "rest"), ("GET", "any", "/a/", "rest"), ("GET", "any", "/a/x", "param"), ("GET", "any", "/a/b", "exact"), ("POST", "any", "/a/b", "exact-post"),
        ("GET", "any", "/a/b/", "b-rest"), ("GET", "any", "/a/b/c", "b-rest"), ("GET", "any", "/a/x/c", "param-c"), ("GET", "any", "/a/x/y", "rest"), ("GET", "any", "/a/b%2d", "param"),
        ("GET", "h.example.com", "/a/b", "host-exact"), ("GET", "H.Example.COM.:8080", "/a/b", "host-exact"), ("GET", "x.example.com", "/a/b", "wild-exact"),
        ("GET", "x.y.example.com", "/a/z", "wild-rest"), ("GET", "example.com", "/a/b", "exact"), ("GET", "h.example.com", "/zzz", "host-all"), ("GET", "h.example.com.evil.test", "/a/b", "exact"),
    ]
    seen = []
    for seed in range(6):
        shuffled = routes[:]
        random.Random(seed).shuffle(shuffled)
        config = ""
        for path, host, method, name in shuffled:
            config += f'[[routes]]\npath = "{path}"\nauth = "none"\nrespond = {{ body = "{name}" }}\n'
            config += f'host = "{host}"\n' if host else ""
            config += f'methods = ["{method}"]\n' if method else ""
        gateway = gateways(config)
        with Wire(gateway.port) as wire:
            seen.append([wire.send(get(path, host, method=method)).response().body.decode() for method, host, path, _ in asked])
        gateway.stop()
    assert seen == [[want for *_, want in asked]] * 6


def test_threat_case_of_host_with_150_hosts(gateways):
    """Host names are compared without case, port and final dot, however many there are: a guarded host stays guarded."""
    open_backend, guarded = RawBackend(), RawBackend()
    config = f'[upstreams.open]\nservers = ["{open_backend.address}"]\n[upstreams.guarded]\nservers = ["{guarded.address}"]\n'
    config += '[[routes]]\npath = "/{*rest}"\nupstream = "open"\nauth = "none"\n'
    for i in range(150):
        config += f'[[routes]]\nhost = "tenant-{i}.example.com"\npath = "/admin/{{*rest}}"\nupstream = "guarded"\n'
    gateway = gateways(config)
    rng = random.Random(7)
    with Wire(gateway.port) as wire:
        for i in range(150):
            for _ in range(4):
                host = "".join(rng.choice([c.upper(), c]) for c in f"tenant-{i}.example.com") + rng.choice(["", ".", ":80", ".:8080"])
                path = rng.choice(["/admin/x", "/%61dmin/x", "/adm%69n/", "/admin", "/%41dmin/x"])
                want = 200 if "%41" in path else 401
                assert wire.send(get(path, host)).response().status == want, (host, path)
        assert wire.send(get("/admin/x", "tenant-150.example.com")).response().status == 200
    assert guarded.connections == 0
    assert set(targets(open_backend)) <= {"/Admin/x", "/admin/x"}
    open_backend.stop()
    guarded.stop()


def test_threat_case_of_path(gateways):
    """Paths are compared with case. A request that misses a guarded route by case alone goes where its own spelling
    leads, and never to the guarded backend."""
    open_backend, guarded = RawBackend(), RawBackend()
    gateway = gateways(
        f'[upstreams.open]\nservers = ["{open_backend.address}"]\n[upstreams.guarded]\nservers = ["{guarded.address}"]\n'
        '[[routes]]\npath = "/{*rest}"\nupstream = "open"\nauth = "none"\n'
        '[[routes]]\npath = "/Admin/Panel/{*rest}"\nupstream = "guarded"\n'
    )
    with Wire(gateway.port) as wire:
        for letters in itertools.product(*[(c, c.swapcase()) for c in "Admin"]):
            word = "".join(letters)
            for written in (word, "".join(f"%{ord(c):02x}" for c in word)):
                want = 401 if word == "Admin" else 200
                assert wire.send(get(f"/{written}/Panel/x")).response().status == want, written
    assert guarded.connections == 0 and "/admin/Panel/x" in targets(open_backend)
    open_backend.stop()
    guarded.stop()
