"""TLS and HTTP/2 towards clients."""

import copy
import datetime
import json
import socket
import ssl
import warnings

import h2.exceptions
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hyperframe.frame import ContinuationFrame, HeadersFrame

from conftest import API, Backend, eventually, free_port, serving
from raw_h2 import H2
from wire import ScriptedBackend, Wire, answering, get, memory_of

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
EXTRA = """
[upstreams.scripted]
servers = ["{scripted}"]
[[routes]]
path = "/scripted/{{*rest}}"
upstream = "scripted"
auth = "none"
[[routes]]
path = "/big"
upstream = "api"
auth = "none"
max_body = "100MiB"
[[routes]]
path = "/admin-host/{{*rest}}"
host = "admin.example.com"
upstream = "api"
[[routes]]
path = "/admin-host/{{*rest}}"
upstream = "scripted"
auth = "none"
"""
SERVER = '[server.limits]\nheader_bytes = "8KiB"\nheader_count = 40\nbody = "1MiB"\nbody_timeout = "1s"'


def certificate(folder):
    """A self-signed certificate for localhost; returns the paths of certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False).sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return cert_file, key_file


class Site:
    def __init__(self, gateway, backend, scripted, port, ca):
        self.gateway, self.backend, self.scripted, self.port = gateway, backend, scripted, port
        self.url, self.ca, self.account = f"https://localhost:{port}", str(ca), gateway.register()

    def context(self, *protocols):
        context = ssl.create_default_context(cafile=self.ca)
        context.set_alpn_protocols(protocols)
        return context

    def client(self, http2=True):
        return httpx.Client(http2=http2, verify=ssl.create_default_context(cafile=self.ca), base_url=self.url, timeout=30)

    def bearer(self):
        return {"Authorization": f"Bearer {self.account.access}"}


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    cert, key = certificate(folder)
    backend, scripted, port = Backend(folder), ScriptedBackend(answering(OK)), free_port()
    listen = f', {{ address = "127.0.0.1:{port}", tls = {{ cert = "{cert}", key = "{key}" }}, h2 = true }}'
    config = API.format(address=backend.address) + EXTRA.format(scripted=scripted.address)
    with serving(folder, config, server=SERVER, extra_listen=listen) as gateway:
        yield Site(gateway, backend, scripted, port, cert)
    backend.stop()
    scripted.stop()


@pytest.fixture
def site(everything):
    everything.backend.forget()
    everything.scripted.heads.clear()
    return everything


def headers_of(recorded) -> dict:
    raw = recorded["rawHeaders"]
    return {n.lower(): v for n, v in zip(raw[::2], raw[1::2])}


@pytest.mark.parametrize("http2", [False, True])
def test_a_request_over_tls(site, http2):
    """Identity headers, X-Forwarded-Proto, bodies: the same over both versions."""
    with site.client(http2) as client:
        answer = client.post("/api/x?a=b", content=b"hello", headers={**site.bearer(), "X-User-Id": "evil", "X-Forwarded-Proto": "http"})
        assert (answer.status_code, answer.http_version) == (200, "HTTP/2" if http2 else "HTTP/1.1")
        seen = answer.json()
        headers = headers_of(seen)
        assert (seen["url"], seen["body"]) == ("/api/x?a=b", "hello")
        assert headers["x-user-id"] == site.account.id and headers["x-forwarded-proto"] == "https"
        assert headers["host"] == headers["x-forwarded-host"] == f"localhost:{site.port}"
        assert "authorization" not in headers
        refused = client.get("/api/x")
        assert refused.status_code == 401 and refused.headers["www-authenticate"].startswith("Bearer")
        assert client.get("/nowhere").status_code == 404
        assert client.get("/public/%2e%2e/api/x").status_code == 400
        assert client.get("/public/after").status_code == 200


@pytest.mark.parametrize("http2", [False, True])
def test_large_bodies_over_tls(site, http2):
    """20 MB each way; a chunked upload too."""
    with site.client(http2) as client:
        assert client.post("/big", content=b"x" * 20_000_000).json()["bodyBytes"] == 20_000_000
        assert client.post("/big", content=(b"x" * 100_000 for _ in range(200))).json()["bodyBytes"] == 20_000_000
        assert len(client.get("/public/x?bytes=20000000").content) == 20_000_000


@pytest.mark.parametrize("http2", [False, True])
def test_body_limit_over_tls(site, http2):
    """413 with a length and without, and the gateway goes on."""
    with site.client(http2) as client:
        assert client.post("/public/x", content=b"x" * 2_000_000).status_code == 413
    with site.client(http2) as client:
        try:
            assert client.post("/public/x", content=(b"x" * 100_000 for _ in range(20))).status_code == 413
        except (httpx.WriteError, httpx.RemoteProtocolError):
            assert http2 is False, "a stream can be reset without losing its response"
        assert client.get("/public/x").status_code == 200
    assert not any(r["bodyBytes"] > 1_048_576 for r in site.backend.requests())


def test_device_cookie_is_secure_over_tls(site):
    """What login sets over TLS comes back over TLS only."""
    with site.client() as client:
        answer = client.post("/auth/login", json={"email": site.account.email, "password": site.account.password})
        assert answer.status_code == 200
        for cookie in answer.headers.get_list("set-cookie"):
            assert "secure" in cookie.lower() and "httponly" in cookie.lower() and "samesite" in cookie.lower()
        assert answer.headers.get_list("set-cookie")


def test_plain_text_on_the_tls_port(site):
    """No answer in clear, no harm."""
    with Wire(site.port) as wire:
        assert wire.send(get("/public/x")).responses() == []
    with site.client() as client:
        assert client.get("/public/x").status_code == 200


def test_old_tls_is_refused(site):
    """TLS 1.1 and older (RFC 8996)."""
    context = ssl.create_default_context(cafile=site.ca)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)), socket.create_connection(("127.0.0.1", site.port)) as s:
        context.wrap_socket(s, server_hostname="localhost")


# Raw HTTP/2 ----------------------------------------------------------------------------------------------------


def fields(path="/scripted/x", method="GET", authority="localhost", scheme="https", extra=()):
    return [(":method", method), (":scheme", scheme), (":authority", authority), (":path", path), *extra]


REFUSED = {
    "host_unlike_authority": fields(extra=[("host", "other")]),
    "two_hosts": fields(extra=[("host", "localhost"), ("host", "localhost")]),
    "no_authority_no_host": [f for f in fields() if f[0] != ":authority"],
    "empty_authority": fields(authority=""),
    "authority_userinfo": fields(authority="user@localhost"),
    "authority_path": fields(authority="localhost/x"),
    "authority_space": fields(authority="localhost x"),
    "empty_path": fields(path=""),
    "relative_path": fields(path="scripted/x"),
    "absolute_path": fields(path="http://other/scripted/x"),
    "path_space": fields(path="/scripted/x HTTP/1.1"),
    "path_crlf": fields(path="/scripted/x HTTP/1.1\r\nX-User-Id: evil\r\n\r\n"),
    "path_dots": fields(path="/scripted/../api/x"),
    "path_nul": fields(path="/scripted/\0"),
    "method_space": fields(method="GET /api/smuggled HTTP/1.1\r\nX:"),
    "method_empty": fields(method=""),
    "two_paths": fields(extra=[(":path", "/api/x")]),
    "two_authorities": fields(extra=[(":authority", "other")]),
    "two_methods": [(":method", "POST"), *fields()],
    "unknown_pseudo": fields(extra=[(":admin", "1")]),
    "status_pseudo": fields(extra=[(":status", "200")]),
    "pseudo_after_field": [*fields()[:3], ("a", "b"), fields()[3]],
    "protocol": fields(method="CONNECT", extra=[(":protocol", "websocket")]),
    "connect": [(":method", "CONNECT"), (":authority", "localhost:443")],
    "trace": fields(method="TRACE"),
    "upper_case": fields(extra=[("X-Upper", "1")]),
    "name_crlf": fields(extra=[("a: b\r\nx-user-id", "evil")]),
    "name_colon": fields(extra=[("a:b", "c")]),
    "name_space": fields(extra=[("a b", "c")]),
    "name_empty": fields(extra=[("", "c")]),
    "value_crlf": fields(extra=[("a", "b\r\nx-user-id: evil")]),
    "value_lf": fields(extra=[("a", "b\nx-user-id: evil")]),
    "value_cr": fields(extra=[("a", "b\rc")]),
    "value_nul": fields(extra=[("a", "b\0c")]),
    "connection": fields(extra=[("connection", "close")]),
    "keep_alive": fields(extra=[("keep-alive", "1")]),
    "transfer_encoding": fields(method="POST", extra=[("transfer-encoding", "chunked")]),
    "upgrade": fields(extra=[("upgrade", "websocket")]),
    "te": fields(extra=[("te", "chunked")]),
    "too_many_fields": fields(extra=[(f"x-{i}", "y") for i in range(60)]),
    "too_large": fields(extra=[("x", "y" * 20_000)]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_b45_h2_injection_is_refused(site, name):
    """RFC 9113 section 8.1.1: a malformed request is answered with an error or its stream reset; nothing of it reaches a
    backend, and the gateway serves the next client."""
    with H2(site) as client:
        status, _ = client.answer(client.send(REFUSED[name]))
        assert status == 0 or 400 <= status < 500, status
    assert site.scripted.heads == [] and site.backend.requests() == []


def test_h2_fragment_goes_no_further(site):
    """A fragment in `:path` is refused, or dropped before the path is matched: what is forwarded is what was matched."""
    with H2(site) as client:
        for path in ("/scripted/x#f", "/scripted/x#/../../api/x", "/scripted/x?a#b"):
            assert client.answer(client.send(fields(path)))[0] in (0, 200, 400)
        assert client.answer(client.send(fields("/api/x#/scripted/x")))[0] in (0, 400, 401)
    assert not any(b"#" in head or b"/api" in head for head in site.scripted.heads) and site.backend.requests() == []


def test_h2_host_equal_to_authority(site):
    with H2(site) as client:
        assert client.answer(client.send(fields(extra=[("host", "localhost")])))[0] == 200
        no_authority = [f for f in fields(extra=[("host", "localhost")]) if f[0] != ":authority"]
        assert client.answer(client.send(no_authority))[0] in (200, 400, 0)
    assert all(head.lower().count(b"\r\nhost:") == 1 for head in site.scripted.heads)


def test_threat_h2_authority_decides_the_route(site):
    """The host of a guarded route in `:authority` guards, whatever case, dot or port."""
    with H2(site) as client:
        for authority in ("admin.example.com", "ADMIN.example.com", "admin.example.com.", "admin.example.com:443"):
            assert client.answer(client.send(fields("/admin-host/x", authority=authority)))[0] == 401, authority
        assert client.answer(client.send(fields("/admin-host/x")))[0] == 200


def test_b41_h2_content_length_must_be_true(site):
    """RFC 9113 section 8.1.1: a length that is not the sum of the DATA frames is malformed; a backend must not be made to
    wait for, or read on past, such a body."""
    for length, body in [("10", b"hello"), ("3", b"hello" + get("/api/smuggled")), ("0", b"hello"), ("-1", b""), ("+5", b"hello"), ("5, 5", b"hello")]:
        with H2(site) as client:
            status, _ = client.answer(client.send(fields("/public/x", "POST", extra=[("content-length", length)]), body))
            assert status == 0 or 400 <= status < 500, (length, status)
    with H2(site) as client:
        twice = [("content-length", "5"), ("content-length", "6")]
        assert client.answer(client.send(fields("/public/x", "POST", extra=twice), b"hello"))[0] in (0, 400)
    # A body nobody announced may come when the request is on its way already; it must not follow it.
    assert [(r["url"], r["bodyBytes"]) for r in site.backend.requests()] in ([], [("/public/x", 0)])


@pytest.mark.parametrize("pieces", [(b"hello", b""), (b"",), (b"", b"hello", b"", b""), (b"hello",)])
def test_h2_empty_data_frame_ends_a_body_once(site, pieces):
    """The chunked body for an HTTP/1.1 backend gets one end, so that the next request on that connection is in step."""
    with H2(site) as client:
        for i in range(5):
            status, body = client.answer(client.send(fields(f"/public/{i}", "POST"), *pieces))
            assert status == 200 and json.loads(body)["body"] == b"".join(pieces).decode()
            assert client.answer(client.send(fields(f"/public/get-{i}")))[0] == 200
    assert len(site.backend.requests()) == 10


def test_threat_smuggling_h2_body_has_one_end_on_the_wire(gateways, site, raw_backend):
    """The same in raw bytes: what stands behind the last chunk is the head of whatever comes next on that connection."""
    gateway_config = f'[upstreams.raw]\nservers = ["{raw_backend.address}"]\n[[routes]]\npath = "/{{*rest}}"\nupstream = "raw"\nauth = "none"\n'
    port, folder = free_port(), site.gateway.folder
    listen = f', {{ address = "127.0.0.1:{port}", tls = {{ cert = "{folder}/cert.pem", key = "{folder}/key.pem" }}, h2 = true }}'
    gateways(gateway_config, extra_listen=listen)
    other = copy.copy(site)
    other.port = port
    with H2(other) as client:
        client.answer(client.send(fields("/x", "POST"), b"hello", b""))
    eventually(lambda: raw_backend.bytes().endswith(b"0\r\n\r\n"), what="the end of the body")
    assert raw_backend.bytes().count(b"\r\n0\r\n\r\n") == 1 and b"0\r\n\r\n0\r\n\r\n" not in raw_backend.bytes()


def test_b44_h2_trailers_never_become_headers(site):
    """Identity in trailers is dropped, framing in trailers too."""
    trailers = [("x-user-id", "evil"), ("content-length", "100"), ("x-checksum", "1")]
    with H2(site) as client:
        status, _ = client.answer(client.send(fields("/public/x", "POST"), b"hello", trailers=trailers))
        assert status in (0, 200, 400)
    for recorded in site.backend.requests():
        names = [n.lower() for n in recorded["rawHeaders"][::2] + recorded["rawTrailers"][::2]]
        assert "x-user-id" not in names and names.count("content-length") == 0


def test_h2_streams_are_answered_side_by_side(site):
    """A slow stream holds no other up, and each is judged by itself."""
    with H2(site) as client:
        slow = client.send(fields("/public/x?delay=700"))
        refused = client.send(fields("/api/x"))
        good = client.send(fields("/api/x", extra=[("authorization", f"Bearer {site.account.access}")]))
        assert client.answer(refused)[0] == 401 and client.answer(good)[0] == 200
        assert slow not in client.answers
        assert client.answer(slow)[0] == 200


def test_threat_h2_rapid_reset(site):
    """CVE-2023-44487: thousands of streams opened and reset at once cost the attacker his connection or nothing; others
    are served, and memory stays bounded."""
    before = memory_of(site.gateway.process.process.pid)
    with H2(site) as client:
        try:
            for _ in range(30):
                for _ in range(100):
                    stream = client.connection.get_next_available_stream_id()
                    client.connection.send_headers(stream, fields("/public/x?delay=100"), end_stream=True)
                    client.connection.reset_stream(stream)
                client.flush()
        except (OSError, h2.exceptions.ProtocolError):
            pass
    with site.client() as other:
        assert [other.get("/public/y").status_code for _ in range(10)] == [200] * 10
    assert memory_of(site.gateway.process.process.pid) - before < 60_000_000


def test_threat_h2_continuation_flood(site):
    """A header section that never ends is cut at the limit of header bytes: the connection goes, the memory does not."""
    before = memory_of(site.gateway.process.process.pid)
    with H2(site) as client:
        encoder = client.connection.encoder
        frames = [HeadersFrame(1, encoder.encode(fields("/public/x")), flags=["END_STREAM"])]
        frames += [ContinuationFrame(1, encoder.encode([(f"x-{i}", "y" * 4000)], huffman=False)) for i in range(4000)]
        try:
            for frame in frames:
                client.socket.sendall(frame.serialize())
        except OSError:
            pass
        eventually(lambda: client.read() or client.closed, what="the connection closed")
    with site.client() as other:
        assert other.get("/public/y").status_code == 200
    assert memory_of(site.gateway.process.process.pid) - before < 20_000_000
