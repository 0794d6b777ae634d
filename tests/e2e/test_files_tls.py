"""S3 over TLS: its certificate is verified, by the gateway's own connections and by those that list."""

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from conftest import Process, can_connect, eventually, free_port

FILES = """
[[routes]]
path = "/files/{*key}"
files = { store = "media", prefix = "users/{sub}/", methods = ["GET", "PUT", "DELETE"] }
"""


def issue(name, issuer=None, host=None):
    """Key and certificate of `name`; self-signed when nobody issues it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer[1].subject if issuer else subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=host is None, path_length=None), critical=True)
    )
    if host:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
    return key, builder.sign(issuer[0] if issuer else key, hashes.SHA256())


def pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def tls_front(tmp_path, s3):
    """nginx with a certificate for localhost in front of S3; `tls_front(host)` gives the endpoint, the CA beside it."""
    started = []

    def start(host="localhost"):
        folder = tmp_path / f"tls-{len(started)}"
        folder.mkdir()
        authority = issue("Test CA")
        key, certificate = issue(host, authority, host)
        (folder / "ca.pem").write_bytes(pem(authority[1]))
        (folder / "cert.pem").write_bytes(pem(certificate) + pem(authority[1]))
        (folder / "key.pem").write_bytes(key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        port = free_port()
        (folder / "nginx.conf").write_text(
            f"daemon off; pid {folder}/pid; error_log {folder}/error; events {{}} http {{ access_log off; client_max_body_size 0; client_body_temp_path {folder}/b;"
            f" proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;"
            f" server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;"
            f" location / {{ proxy_set_header Host $http_host; proxy_request_buffering off; proxy_pass {s3.endpoint}; }} }} }}")
        started.append(Process(["nginx", "-p", folder, "-c", folder / "nginx.conf"], folder, "nginx"))
        eventually(lambda: can_connect(port), what="nginx")
        return f"https://localhost:{port}", folder / "ca.pem"

    yield start
    for process in started:
        process.stop()


def test_s3_over_tls_with_an_authority_of_its_own(gateways, s3, tls_front):
    endpoint, ca = tls_front()
    gateway = gateways(s3.store("media", s3.bucket(), endpoint=endpoint, ca=str(ca)) + FILES)
    account = gateway.register()
    eventually(lambda: gateway.get("/files/none", account.access).status_code == 404, what="the name localhost resolved")
    assert gateway.request("PUT", "/files/a", account.access, content=b"over TLS").status_code == 201
    assert gateway.get("/files/a", account.access).content == b"over TLS"
    assert [o["key"] for o in gateway.get("/files/?list", account.access).json()["objects"]] == ["a"]
    assert gateway.request("DELETE", "/files/a", account.access).status_code == 204


@pytest.mark.parametrize("host, trusted", [("localhost", False), ("elsewhere.example", True)], ids=["unknown authority", "another host"])
def test_a_certificate_that_is_not_the_servers_ends_it(gateways, s3, tls_front, host, trusted):
    endpoint, ca = tls_front(host)
    extra = {"ca": str(ca)} if trusted else {}
    bucket = s3.bucket()
    gateway = gateways(s3.store("media", bucket, endpoint=endpoint, **extra) + FILES)
    account = gateway.register()

    def certificate_refused():
        answer = gateway.get("/files/a", account.access)
        assert answer.status_code == 503 and answer.json()["code"] == "file_store_unavailable"
        return "certificate" in gateway.process.stderr().lower()

    eventually(certificate_refused, what="a cause that speaks of the certificate")
    assert gateway.request("PUT", "/files/a", account.access, content=b"secret").status_code == 503
    assert gateway.get("/files/?list", account.access).status_code == 503
    assert s3.keys(bucket) == []
