"""Header fields on their way to a backend and back; nginx as a backend."""

import os
import re

import pytest

from conftest import Backend, Process, can_connect, eventually, free_port, serving
from wire import ScriptedBackend, Wire, answering, chunked, get, post

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CONFIG = """
[upstreams.node]
servers = ["{node}"]
[upstreams.scripted]
servers = ["{scripted}"]

[[routes]]
path = "/{{*rest}}"
upstream = "node"
auth = "none"
[[routes]]
path = "/scripted/{{*rest}}"
upstream = "scripted"
auth = "none"
[[routes]]
path = "/stripped/{{*rest}}"
upstream = "node"
auth = "none"
strip_prefix = "/stripped"
[[routes]]
path = "/edited/{{*rest}}"
upstream = "node"
auth = "none"
request_headers = {{ set = {{ X-Tenant = "acme" }}, remove = ["X-Debug"] }}
response_headers = {{ set = {{ X-Frame-Options = "DENY" }}, remove = ["Server", "X-Backend"] }}
[[routes]]
path = "/posts"
methods = ["POST"]
upstream = "node"
auth = "none"
"""


class Site:
    def __init__(self, gateway, node, scripted):
        self.gateway, self.node, self.scripted, self.port = gateway, node, scripted, gateway.port

    def seen(self, path, *fields, host="localhost", method="GET") -> list[tuple[str, str]]:
        """The fields the backend received for a request, names in lower case."""
        self.node.forget()
        with Wire(self.port) as wire:
            assert wire.send(get(path, host, *fields, method=method)).response(method).status == 200
        raw = self.node.requests()[-1]["rawHeaders"]
        return [(n.lower(), v) for n, v in zip(raw[::2], raw[1::2])]

    def answer(self, data: bytes):
        self.scripted.script = answering(data)
        with Wire(self.port) as wire:
            return wire.send(get("/scripted/x")).response()


def start(tmp_path_factory, name, server=""):
    folder = tmp_path_factory.mktemp(name)
    node, scripted = Backend(folder), ScriptedBackend(answering(OK))
    try:
        with serving(folder, CONFIG.format(node=node.address, scripted=scripted.address), server=server) as gateway:
            yield Site(gateway, node, scripted)
    finally:
        node.stop()
        scripted.stop()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    yield from start(tmp_path_factory, "headers")


@pytest.fixture(scope="module")
def trusting(tmp_path_factory):
    """A gateway behind a trusted proxy on this machine."""
    yield from start(tmp_path_factory, "trusting", 'trusted_proxies = ["127.0.0.1"]')


SPOOFED = [
    "X-Forwarded-For: 1.2.3.4", "X-Forwarded-Host: evil", "X-Forwarded-Proto: https", "X-Forwarded-Port: 1", "X-Forwarded-Prefix: /evil", "X-Forwarded-Uri: /admin",
    "X-Forwarded-Method: DELETE", "X-Forwarded-User: evil", "X_Forwarded_For: 1.2.3.4", "X.Forwarded.Host: evil", "Forwarded: for=1.2.3.4;host=evil", "X-Real-IP: 1.2.3.4",
    "X_Real_IP: 1.2.3.4", "X-Original-URL: /admin", "X-Rewrite-URL: /admin", "X-Original-URI: /admin", "X-Client-IP: 1.2.3.4",
]


def about_origin(fields):
    names = re.compile(r"x[-_.]forwarded|forwarded$|x[-_.](real|client)[-_.]ip|x[-_.](original|rewrite)")
    return sorted((n, v) for n, v in fields if names.match(n))


def test_b47_forwarded_fields_of_a_stranger_are_replaced(site):
    """Whatever a client says about where it comes from is dropped, under any alias; what we saw is written instead."""
    want = [("x-forwarded-for", "127.0.0.1"), ("x-forwarded-host", "app.example.com:8080"), ("x-forwarded-proto", "http")]
    assert about_origin(site.seen("/x", *SPOOFED, host="app.example.com:8080")) == want
    assert about_origin(site.seen("/x", host="app.example.com:8080")) == want
    for field in SPOOFED:
        assert about_origin(site.seen("/x", field, host="app.example.com:8080")) == want, field


def test_b47_hop_by_hop_cannot_remove_our_forwarded_fields(site):
    """Fields named by Connection are removed before ours are set; or the request is refused."""
    for named in ("X-Forwarded-For", "x-forwarded-proto", "X-Forwarded-Host", "X-Request-Id"):
        with Wire(site.port) as wire:
            site.node.forget()
            answer = wire.send(get("/x", "localhost", f"Connection: keep-alive, {named}", f"{named}: 1.2.3.4")).response()
        assert answer.status in (200, 400)
        for recorded in site.node.requests():
            fields = {n.lower(): v for n, v in zip(recorded["rawHeaders"][::2], recorded["rawHeaders"][1::2])}
            assert (fields["x-forwarded-for"], fields["x-forwarded-proto"], fields["x-forwarded-host"]) == ("127.0.0.1", "http", "localhost")
            assert fields["x-request-id"] == answer.get("x-request-id")


def test_b47_forwarded_fields_of_a_trusted_proxy_are_kept(trusting):
    """A trusted proxy's chain is appended to, its scheme and host are kept; aliases can only be a client's."""
    fields = trusting.seen("/x", "X-Forwarded-For: 6.6.6.6, 1.2.3.4", "X-Forwarded-Proto: https", "X-Forwarded-Host: app.example.com", "X_Forwarded_For: 7.7.7.7")
    origin = dict(about_origin(fields))
    assert origin["x-forwarded-for"] == "6.6.6.6, 1.2.3.4, 127.0.0.1"
    assert (origin["x-forwarded-proto"], origin["x-forwarded-host"]) == ("https", "app.example.com")
    assert "x_forwarded_for" not in origin
    line = eventually(lambda: [l for l in trusting.gateway.access_log() if l["client"] == "1.2.3.4"], what="the client in the log")
    assert line


def test_forwarded_prefix_is_what_was_stripped(site):
    origin = dict(about_origin(site.seen("/stripped/a", "X-Forwarded-Prefix: /evil")))
    assert origin["x-forwarded-prefix"] == "/stripped"


def test_b38_hop_by_hop_request_fields_end_here(site):
    """Connection and what it names, and the fields that are about one connection (RFC 9110 section 7.6.1)."""
    fields = site.seen(
        "/x", "Connection: keep-alive, X-Mine, x-other", "X-Mine: 1", "X-Other: 2", "Keep-Alive: timeout=5", "Proxy-Connection: keep-alive", "Proxy-Authorization: Basic YTpi",
        "TE: trailers", "Trailer: X-Sum", "Upgrade: foo", "X-End-To-End: 3",
    )
    names = [n for n, _ in fields]
    for gone in ("x-mine", "x-other", "keep-alive", "proxy-connection", "proxy-authorization", "te", "trailer", "upgrade"):
        assert gone not in names, gone
    assert ("x-end-to-end", "3") in fields


def test_threat_method_override(site):
    """On a route for POST only, no header makes the backend act on another method."""
    overrides = ["X-HTTP-Method-Override: DELETE", "X-HTTP-Method: DELETE", "X-Method-Override: DELETE", "X_HTTP_Method_Override: DELETE"]
    fields = site.seen("/posts", *overrides, "Content-Length: 0", method="POST")
    assert not any("override" in n or n == "x-http-method" for n, _ in fields)


def test_header_edits(site):
    """`set` replaces what a client sent, `remove` removes, both ways."""
    with Wire(site.port) as wire:
        answer = wire.send(get("/edited/x", "localhost", "X-Tenant: evil", "X-Debug: 1")).response()
    assert answer.all("x-frame-options") == ["DENY"] and answer.get("server") is None and answer.get("x-backend") is None
    fields = site.seen("/edited/x", "X-Tenant: evil", "X-Debug: 1", "x-debug: 2")
    assert [v for n, v in fields if n == "x-tenant"] == ["acme"] and "x-debug" not in [n for n, _ in fields]


def test_fields_pass_as_they_are(site):
    """Repeated fields stay repeated and in order, odd but legal values stay as they are, both ways."""
    fields = site.seen("/x", "Cookie: a=b; c=d", "X-Many: 1", "X-Many: 2", "X-Empty:", "X-Text: caf\xe9 \"quoted\"; a,b", "Accept: */*")
    assert [v for n, v in fields if n == "x-many"] in (["1", "2"], ["1, 2"])
    assert ("cookie", "a=b; c=d") in fields and ("x-empty", "") in fields and ("host", "localhost") in fields
    answer = site.answer(b"HTTP/1.1 200 Fine\r\nSet-Cookie: a=1; Path=/\r\nSet-Cookie: b=2\r\nX-Text: caf\xe9\r\nETag: \"x\"\r\nContent-Length: 2\r\n\r\nok")
    assert answer.all("set-cookie") == ["a=1; Path=/", "b=2"] and answer.get("etag") == '"x"' and answer.get("x-text") == "caf\xe9"


@pytest.mark.parametrize("status", [200, 201, 206, 301, 304, 400, 404, 418, 429, 500, 503, 599])
def test_statuses_of_a_backend_pass(site, status):
    """Also errors: they are the backend's answer, not ours."""
    body = b"" if status == 304 else b"Content-Length: 4\r\n\r\nmine"
    answer = site.answer(b"HTTP/1.1 %d X\r\nContent-Type: text/x\r\n" % status + (body or b"\r\n"))
    assert (answer.status, answer.get("content-type")) == (status, "text/x")
    assert answer.body == (b"" if status == 304 else b"mine")


def test_b38_hop_by_hop_response_fields_end_here(site):
    """The same on the way back."""
    answer = site.answer(
        b"HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=3\r\nProxy-Authenticate: Basic\r\nProxy-Connection: close\r\n"
        b"Upgrade: h2c\r\nTE: x\r\nTrailer: X-Sum\r\nX-Kept: 1\r\nContent-Length: 2\r\n\r\nok"
    )
    names = {n for n, _ in answer.headers}
    assert not names & {"x-secret", "keep-alive", "proxy-authenticate", "proxy-connection", "upgrade", "te", "trailer"}
    assert "x-kept" in names and answer.get("connection") in (None, "keep-alive") and answer.body == b"ok"


def test_b38_response_connection_cannot_remove_framing(site):
    """A backend that names Content-Length in Connection cannot unframe its response."""
    answer = site.answer(b"HTTP/1.1 200 OK\r\nConnection: Content-Length, Transfer-Encoding, Date\r\nContent-Length: 2\r\n\r\nok")
    assert answer.body == b"ok" and answer.complete


def test_request_id_of_a_response_is_ours(site):
    answer = site.answer(b"HTTP/1.1 200 OK\r\nX-Request-Id: theirs\r\nContent-Length: 2\r\n\r\nok")
    assert len(answer.all("x-request-id")) == 1 and answer.get("x-request-id") != "theirs"


# nginx ---------------------------------------------------------------------------------------------------------

NGINX = """
{user}daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi; client_max_body_size 20m; default_type text/plain;
  server {{
    listen 127.0.0.1:{port};
    location /who {{ return 200 "$request_method $request_uri|$http_x_user_id|$http_authorization|$http_x_forwarded_for|$connection_requests"; }}
    location /files/ {{ alias {folder}/files/; dav_methods PUT; }}
    location /moved {{ return 301 /elsewhere; }}
  }}
}}
"""


@pytest.fixture
def nginx_port(tmp_path):
    port = free_port()
    (tmp_path / "files").mkdir()
    (tmp_path / "nginx.conf").write_text(NGINX.format(folder=tmp_path, port=port, user="user root; " if os.getuid() == 0 else ""))
    process = Process(["nginx", "-p", tmp_path, "-c", tmp_path / "nginx.conf"], tmp_path, "nginx")
    eventually(lambda: can_connect(port), what="nginx listening")
    yield port
    process.stop()


def test_nginx_behind_the_gateway(gateways, nginx_port, tmp_path):
    """A stock nginx: identity, files, ranges, conditional requests, uploads and redirects, over kept connections."""
    (tmp_path / "files/a.txt").write_bytes(bytes(range(256)) * 4000)
    gateway = gateways(f'[upstreams.nginx]\nservers = ["127.0.0.1:{nginx_port}"]\n[[routes]]\npath = "/{{*rest}}"\nupstream = "nginx"\n', server="threads = 1")
    account = gateway.register()
    assert gateway.get("/who").status_code == 401
    answers = [gateway.get("/who?a=%2e", account.access, headers={"X-User-Id": "evil"}).text.split("|") for _ in range(5)]
    assert all(a[:4] == ["GET /who?a=%2e", account.id, "", "127.0.0.1"] for a in answers)
    assert int(answers[-1][4]) >= 4, "connections are not reused"
    whole = gateway.get("/files/a.txt", account.access)
    assert whole.content == bytes(range(256)) * 4000
    assert gateway.get("/files/a.txt", account.access, headers={"Range": "bytes=10-19"}).content == bytes(range(10, 20))
    assert gateway.get("/files/a.txt", account.access, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    head = gateway.request("HEAD", "/files/a.txt", account.access)
    assert (head.headers["content-length"], head.content) == ("1024000", b"")
    assert gateway.get("/moved", account.access).status_code == 301
    assert gateway.get("/files/none", account.access).status_code == 404


def test_nginx_and_bodies_in_both_framings(gateways, nginx_port):
    """Requests with bodies nginx answers without reading them keep the connections in step."""
    gateway = gateways(f'[upstreams.nginx]\nservers = ["127.0.0.1:{nginx_port}"]\n[[routes]]\npath = "/{{*rest}}"\nupstream = "nginx"\nauth = "none"\n', server="threads = 1")
    for i in range(10):
        for request in (post(f"/who/{i}", b"x" * 50_000), chunked(f"/who/{i}", b"y" * 1000, b"z"), get(f"/who/{i}")):
            with Wire(gateway.port) as wire:
                answer = wire.send(request).response()
                assert answer.status == 200 and answer.body.startswith(request.split(b" HTTP")[0] + b"|"), answer
