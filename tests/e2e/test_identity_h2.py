"""Identity headers and tokens over HTTP/2, whose requests do not pass the checks of an HTTP/1 head (invariant 2, B 18, 44)."""

import datetime
import socket
import ssl

import h2.config
import h2.connection
import h2.events
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from conftest import API, Backend, Gateway, RawBackend, free_port
from test_identity_headers import EVERY_ALIAS, EVIL, expected, fold, identity_seen


def certificate(folder):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    cert = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False).sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    (folder / "key.pem").chmod(0o600)
    return folder / "cert.pem", folder / "key.pem"


def tls_gateway(folder, address):
    cert, key = certificate(folder)
    port = free_port()
    listen = f', {{ address = "127.0.0.1:{port}", tls = {{ cert = "{cert}", key = "{key}" }} }}'
    gateway = Gateway(folder, API.format(address=address), extra_listen=listen)
    gateway.tls_port = port
    return gateway.start()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    folder = tmp_path_factory.mktemp("h2")
    backend = Backend(folder)
    gateway = tls_gateway(folder, backend.address)
    gateway.backend = backend
    yield gateway
    gateway.stop()
    backend.stop()


@pytest.fixture(scope="module")
def account(gateway):
    return gateway.register()


def exchange(gateway, path, headers=(), token=None, body=None, trailers=None, method=None) -> str:
    """The status of one request on an HTTP/2 connection of its own, or `reset` when stream or connection was refused."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    config = h2.config.H2Configuration(
        validate_outbound_headers=False, normalize_outbound_headers=False, header_encoding="utf-8")
    connection = h2.connection.H2Connection(config)
    head = [(":method", method or ("POST" if body else "GET")), (":scheme", "https"), (":authority", "localhost"), (":path", path), *headers]
    if token:
        head.append(("authorization", f"Bearer {token}"))
    with socket.create_connection(("127.0.0.1", gateway.tls_port), timeout=10) as raw, context.wrap_socket(raw) as s:
        assert s.selected_alpn_protocol() == "h2"
        connection.initiate_connection()
        connection.send_headers(1, head, end_stream=body is None)
        if body is not None:
            connection.send_data(1, body, end_stream=not trailers)
            if trailers:
                connection.send_headers(1, trailers, end_stream=True)
        s.sendall(connection.data_to_send())
        status = "reset"
        while data := s.recv(65536):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    status = dict(event.headers)[":status"]
                if isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset, h2.events.ConnectionTerminated)):
                    return status
            s.sendall(connection.data_to_send())
        return status


ALIASES = sorted({alias.lower() for alias in EVERY_ALIAS})


@pytest.mark.parametrize("path", ["/api/x", "/public/x", "/optional/x"])
def test_threat_header_aliases_over_h2(gateway, account, path):
    for token in (account.access, None):
        gateway.backend.forget()
        status = exchange(gateway, path, [(name, EVIL) for name in ALIASES for _ in range(2)], token)
        wanted = "401" if path == "/api/x" and not token else "200"
        assert status == wanted
        ours = expected(account) if token and path != "/public/x" else []
        assert [sorted(seen) for seen in identity_seen(gateway.backend)] == ([ours] if status == "200" else [])


def test_b44_trailers_over_h2_never_become_headers(tmp_path):
    raw = RawBackend()
    gateway = tls_gateway(tmp_path, raw.address)
    try:
        trailers = [(name, EVIL) for name in ALIASES]
        for path, token in (("/api/x", gateway.register().access), ("/public/x", None)):
            assert exchange(gateway, path, token=token, body=b"hi", trailers=trailers) in ("200", "400", "reset")
        assert EVIL.encode() not in raw.bytes()
        names = [fold(line.split(b":")[0].decode()) for line in raw.bytes().split(b"\r\n") if b":" in line]
        assert names.count("x-user-id") == raw.bytes().count(b"/api/x HTTP/1.1")
    finally:
        gateway.stop()
        raw.stop()


@pytest.mark.parametrize("headers, statuses", [
    ([("connection", "x-user-id")], {"400", "reset"}), ([("x-user-id", "a\r\nx-user-roles: admin")], {"400", "reset"}),
    ([("X-User-Id", EVIL)], {"400", "reset"}), ([("te", "trailers, x")], {"400", "reset"}),
    ([("host", "evil.example")], {"400", "reset"}), ([("transfer-encoding", "chunked")], {"400", "reset"}),
    ([("authorization", "Bearer a.b.c")], {"400", "401"}),
])
def test_b45_malformed_h2_requests_are_refused(gateway, account, headers, statuses):
    """RFC 9113 section 8.2: connection-specific fields, capital letters and CR or LF make a request malformed."""
    gateway.backend.forget()
    assert exchange(gateway, "/api/x", headers, account.access) in statuses
    assert gateway.backend.requests() == []


def test_control_a_plain_h2_request_is_served(gateway, account):
    gateway.backend.forget()
    assert exchange(gateway, "/api/x", token=account.access) == "200"
    assert [sorted(seen) for seen in identity_seen(gateway.backend)] == [expected(account)]
    assert exchange(gateway, "/api/x") == "401"
    assert exchange(gateway, f"/api/x?access_token={account.access}") in ("400", "401")
