"""What a client sends does not reach S3, and what S3 is told does not reach the client, the log or a dashboard."""

import base64
import itertools
import json
import re
import signal
import uuid

import httpx
import pytest

from conftest import Gateway, eventually, serving
from fake_s3 import BUCKET, FakeS3, answer, good
from file_routes import Client, code_of, files_route
from relay import Relay
from wire import Wire, get

METHODS = ["GET", "PUT", "DELETE"]
ROUTE = files_route("/files/{*key}", "media", "users/{sub}/", methods=METHODS, list=True, share="1h", max_size="64MiB")
CANARY = "c4n4ry"


# What reaches S3 -------------------------------------------------------------------------------------------


class Site:
    def __init__(self, gateway, fake):
        self.gateway, self.fake, self.account = gateway, fake, gateway.register()
        self.bearer = f"Authorization: Bearer {self.account.access}"

    def reached(self, method, name, *fields, body=b"", bearer=True):
        """The answer, and the requests S3 got because of it."""
        before = len(self.fake.requests)
        own = [self.bearer] if bearer else []
        length = [f"Content-Length: {len(body)}"] if body or method in ("PUT", "POST") else []
        with Wire(self.gateway.port) as wire:
            got = wire.send(get(f"/files/{name}", "localhost", *own, *length, *fields, method=method), body).response(method)
        return got, self.fake.requests[before:]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    fake = FakeS3()

    def script(request):
        if request.query.startswith("uploads"):
            return request.send(answer(200, f"<InitiateMultipartUploadResult><Bucket>{BUCKET}</Bucket><Key>x</Key><UploadId>id/1+2</UploadId></InitiateMultipartUploadResult>".encode()))
        if request.method == "POST":
            request.body()
            return request.send(answer(200, f"<CompleteMultipartUploadResult><ETag>\"whole-2\"</ETag></CompleteMultipartUploadResult>".encode()))
        good(request)

    fake.script = script
    with serving(tmp_path_factory.mktemp("reached"), fake.table(multipart_above="5MiB") + ROUTE) as gateway:
        yield Site(gateway, fake)
    fake.stop()


OURS = {"host", "authorization", "x-amz-date", "x-amz-content-sha256"}
READING = OURS | {"x-amz-checksum-mode", "range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since"}
WRITING = OURS | {"content-length", "content-type", "if-match", "if-none-match", "content-md5", "x-amz-checksum-crc32"}
SDK = OURS | {"user-agent", "x-amz-user-agent", "amz-sdk-invocation-id", "amz-sdk-request", "content-length", "content-type", "accept", "accept-encoding", "x-amz-mp-object-size", "x-amz-checksum-algorithm",
              "x-amz-checksum-type", "if-match", "if-none-match"}
ALLOWED = {"GET": READING, "HEAD": READING, "PUT": WRITING, "DELETE": OURS | {"if-match"}, "POST": SDK}
ATTACKS = [
    "x-amz-acl: public-read", "x-amz-copy-source: /other/key", "x-amz-copy-source-range: bytes=0-1", "x-amz-meta-evil: c4n4ry", "x-amz-security-token: c4n4ry", "x-amz-date: 20000101T000000Z",
    "x-amz-content-sha256: c4n4ry", "x-amz-server-side-encryption: aws:kms", "x-amz-server-side-encryption-customer-algorithm: AES256", "x-amz-server-side-encryption-customer-key: c4n4ry",
    "x-amz-server-side-encryption-customer-key-md5: c4n4ry", "x-amz-server-side-encryption-context: c4n4ry", "x-amz-storage-class: GLACIER", "x-amz-tagging: c4n4ry", "x-amz-grant-full-control: c4n4ry",
    "x-amz-website-redirect-location: http://c4n4ry/", "x-amz-request-payer: requester", "x-amz-bypass-governance-retention: true", "x-amz-object-lock-mode: GOVERNANCE", "x-amz-expected-bucket-owner: c4n4ry",
    "x-amz-mfa: c4n4ry", "x-amz-trailer: x-amz-checksum-crc32", "x-amz-decoded-content-length: 5", "x-amz-sdk-checksum-algorithm: SHA256", "x-amz-checksum-type: COMPOSITE", "x-amz-if-match-size: 5",
    "x-amz-rename-source: c4n4ry", "x-amz-write-offset-bytes: 5", "x-amz-object-attributes: ETag", "x-amz-optional-object-attributes: RestoreStatus",
    "Cookie: session=c4n4ry", "X-User-Id: c4n4ry", "X-User-Email: c4n4ry", "X-User-Roles: c4n4ry", "X-Forwarded-For: c4n4ry", "Forwarded: for=c4n4ry", "X-Real-IP: c4n4ry", "Via: 1.1 c4n4ry",
    "Proxy-Authorization: Basic c4n4ry", "Proxy-Connection: keep-alive", "Referer: http://c4n4ry/", "Origin: http://c4n4ry", "User-Agent: c4n4ry", "X-Request-Id: c4n4ry", "Traceparent: 00-c4n4ry", "Baggage: c4n4ry",
    "Accept: c4n4ry/x", "Accept-Language: c4n4ry", "TE: trailers", "Keep-Alive: c4n4ry", "X-HTTP-Method-Override: DELETE", "Cache-Control: c4n4ry", "Pragma: c4n4ry", "Content-Disposition: c4n4ry",
    "Content-Language: c4n4ry", "Expires: c4n4ry", "From: c4n4ry", "Date: c4n4ry", "Max-Forwards: 0", "Prefer: c4n4ry", "Trailer: x-c4n4ry", "X_Amz_Acl: public-read", "X.Amz.Acl: public-read", "amz-sdk-invocation-id: c4n4ry",
]
REQUESTS = [("GET", "x", b""), ("HEAD", "x", b""), ("PUT", "x", b"body"), ("DELETE", "x", b""), ("GET", "?list", b""), ("PUT", "large", b"y" * (6 << 20))]


def look(request, method):
    """An allow-list: a field that is not known here fails the test, and so does a value of the client's."""
    allowed = SDK if "list-type" in request.query or request.method == "POST" or request.query.startswith("uploads") else ALLOWED[request.method]
    names = [name for name, _ in request.fields]
    assert set(names) <= allowed, (request.method, request.target, set(names) - allowed)
    assert len(set(names)) == len(names), names
    text = request.head.decode("latin-1")
    assert CANARY not in text and "Bearer" not in text and "public-read" not in text and "20000101" not in text, text


@pytest.mark.parametrize("method, name, body", REQUESTS, ids=lambda value: str(value)[:8])
def test_threat_client_headers_never_reach_s3(site, method, name, body):
    """`x-amz-acl`, `x-amz-copy-source`, cookies, identity: S3 gets what the gateway says, from a list, and nothing else."""
    for fields in (ATTACKS, *([field] for field in ATTACKS)):
        if method == "PUT" and len(body) > 10 and fields is not ATTACKS:
            break
        got, requests = site.reached(method, name, *fields, body=body)
        assert got.status in (200, 201, 204, 400), (fields, got)
        assert requests or got.status == 400, fields
        for request in requests:
            look(request, method)


@pytest.mark.parametrize("method, name, body", REQUESTS[:5], ids=lambda value: str(value)[:8])
def test_threat_hop_by_hop_fields_never_reach_s3(site, method, name, body):
    """Neither those nor what they name; and ours are not taken away by being named."""
    for named in ("authorization", "x-amz-date, x-amz-content-sha256", "host", "if-none-match, range", "content-length", "x-evil", "close, x-amz-date", "upgrade", "x-amz-security-token"):
        fields = [f"Connection: {named}", "X-Evil: c4n4ry", "If-None-Match: \"other\"", "Upgrade: h2c, websocket", "HTTP2-Settings: c4n4ry"]
        got, requests = site.reached(method, name, *(fields if method in ("GET", "HEAD") else fields[:2]), body=body)
        assert got.status in (200, 201, 204, 400, 401), (named, got)
        for request in requests:
            look(request, method)
            assert OURS <= set(request.headers), request.fields


def test_expect_and_transfer_encoding_never_reach_s3(site):
    got, requests = site.reached("PUT", "x", "Expect: 100-continue", body=b"body")
    assert got.status == 201 and requests[0].received == b"body"
    look(requests[0], "PUT")
    with Wire(site.gateway.port) as wire:
        wire.send(get("/files/x", "localhost", site.bearer, "Transfer-Encoding: chunked", method="PUT"), b"4\r\nbody\r\n0\r\n\r\n")
        got = wire.response("PUT")
    assert (got.status, code_of(got.body)) == (411, "length_required") and site.fake.requests[-1] is requests[0]


QUERIES = [
    "versionId=c4n4ry", "acl", "tagging", "uploads", "uploadId=c4n4ry", "uploadId=c4n4ry&partNumber=1", "partNumber=1", "response-content-type=text/html", "response-content-disposition=c4n4ry",
    "response-cache-control=c4n4ry", "X-Amz-Signature=c4n4ry", "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=c4n4ry&X-Amz-Date=20000101T000000Z&X-Amz-Expires=99&X-Amz-SignedHeaders=host&X-Amz-Signature=c4n4ry",
    "torrent", "retention", "legal-hold", "restore", "select&select-type=2", "attributes", "delete", "lifecycle", "policy", "cors", "website", "x-id=c4n4ry", "AWSAccessKeyId=c4n4ry&Signature=c4n4ry&Expires=1",
    "append&position=0", "renameObject", "key=c4n4ry", "download=c4n4ry", "%61cl", "list-type=2", "prefix=c4n4ry", "%00", "&&&", "x=%0d%0aX-Amz-Acl:public-read",
]


def test_threat_query_parameters_never_reach_s3(site):
    """`versionId`, `acl`, `uploads`: in S3's query they would be another operation."""
    for query, (method, name, body) in itertools.product(QUERIES, REQUESTS[:4]):
        got, requests = site.reached(method, f"{name}?{query}", body=body)
        assert got.status in (200, 201, 204, 400, 403), (method, query, got)
        assert requests or got.status in (400, 403)
        for request in requests:
            assert request.target == f"/{BUCKET}/users/{site.account.id}/x" and request.method == method, request.target
            look(request, method)
    for query in QUERIES:
        got, requests = site.reached("GET", f"?list&limit=7&{query}")
        for request in requests:
            assert set(re.findall(r"[?&]([^=&]*)", "?" + request.query)) <= {"list-type", "prefix", "max-keys", "encoding-type", "start-after", "delimiter", "x-id"}, request.target
            assert f"prefix=users%2F{site.account.id}%2F&" in request.query + "&", request.target
            look(request, "GET")


def test_a_link_tells_s3_nothing_of_itself(site):
    link = site.reached("POST", "x?share")[0].get("location")
    got, requests = site.reached("GET", link.removeprefix("/files/"), bearer=False)
    assert got.status == 200 and requests[0].target == f"/{BUCKET}/users/{site.account.id}/x"
    look(requests[0], "GET")
    assert link.split("share=")[1] not in requests[0].head.decode()


# What is told of S3 ----------------------------------------------------------------------------------------


class Busy:
    """A busy time at a gateway with temporary credentials, refusals and faults of every kind included; log level trace, the worst case."""

    def __init__(self, folder, server):
        self.server, self.relay, self.bucket = server, Relay(server.port), server.bucket()
        self.keys = server.temporary_credentials(900)
        self.values = {"access key": self.keys.access_key, "secret": self.keys.secret_key, "session token": self.keys.session_token, "bucket": self.bucket, "server": f":{server.port}", "relay": f":{self.relay.port}"}
        endpoint = f"http://127.0.0.1:{self.relay.port}"
        stores = [("media", self.bucket, {"multipart_above": "5MiB"}), ("missing", f"missing-{self.bucket}", {})]
        table = "".join(server.store(name, bucket, endpoint=endpoint, access_key_id=None, secret_access_key=None, **extra) for name, bucket, extra in stores)
        wrong = server.store("wrong", self.bucket, endpoint=endpoint, secret_access_key=f"wrong-{uuid.uuid4().hex}")
        self.values["wrong secret"] = re.search("wrong-[0-9a-f]+", wrong)[0]
        routes = ROUTE + "".join(files_route(f"/{name}/{{*key}}", name, "users/{sub}/", methods=METHODS, list=True) for name in ("missing", "wrong"))
        env = {"AWS_ACCESS_KEY_ID": self.keys.access_key, "AWS_SECRET_ACCESS_KEY": self.keys.secret_key, "AWS_SESSION_TOKEN": self.keys.session_token, "AWS_EC2_METADATA_DISABLED": "true", "HOME": str(folder)}
        self.gateway = Gateway(folder, '[log]\nlevel = "trace"\n' + table + wrong + routes, env=env)
        self.answers, self.statuses = [], set()

    def ask(self, method, path, token=None, body=None, **headers):
        status, fields, content = Client(self.gateway.port, timeout=30).call(method, path, token, body, **headers)
        self.answers.append(f"{status} {fields}\n{content.decode('latin-1')}")
        self.statuses.add(status)
        return fields, content

    def run(self):
        self.gateway.start()
        account = self.gateway.register()
        token = account.access
        self.values["bearer"] = token.rsplit(".", 1)[1]
        with self.relay.record() as sent:
            self.usual(token)
            for store in ("missing", "wrong"):
                for method, name, body in [("GET", "x", None), ("HEAD", "x", None), ("PUT", "x", b"x"), ("DELETE", "x", None), ("GET", "?list", None)]:
                    self.ask(method, f"/{store}/{name}", token, body)
            self.relay.truncate(20)
            self.ask("GET", "/files/x", token), self.ask("PUT", "/files/x", token, b"x"), self.ask("GET", "/files/?list", token)
            self.relay.mend()
            self.relay.speak(b"garbage\r\n\r\n")
            self.ask("GET", "/files/x", token), self.ask("PUT", "/files/x", token, b"x"), self.ask("GET", "/files/?list", token)
            self.relay.mend()
        self.signatures = re.findall(rb"Signature=([0-9a-f]{64})", bytes(sent))
        self.values.update({f"signature {n}": signature.decode() for n, signature in enumerate(self.signatures)})
        assert self.keys.session_token.encode() in sent
        self.relay.cut()
        self.ask("GET", "/files/x", token), self.ask("PUT", "/files/x", token, b"x"), self.ask("GET", "/files/?list", token)
        eventually(lambda: httpx.get(f"http://127.0.0.1:{self.gateway.admin_port}/readyz").status_code == 503, 20, "/readyz telling of it")
        self.ready = httpx.get(f"http://127.0.0.1:{self.gateway.admin_port}/readyz").text
        last = self.gateway.get("/the-last-one").headers["x-request-id"]
        eventually(lambda: last in self.gateway.process.stdout(), what="the log being written")
        return self

    def usual(self, token):
        self.ask("PUT", "/files/x", token, b"content"), self.ask("PUT", "/files/large", token, b"y" * (6 << 20))
        for path in ("x", "absent", "x?download", "?list", "?list&limit=0", "?list&cursor=!", "x/", "../x"):
            self.ask("GET", f"/files/{path}", token), self.ask("HEAD", f"/files/{path}", token)
        self.ask("GET", "/files/x", token, Range="bytes=2-3"), self.ask("GET", "/files/x", token, Range="bytes=900-")
        self.ask("PUT", "/files/x", token, b"x", x_amz_checksum_sha256=base64.b64encode(b"0" * 32).decode())
        self.ask("PUT", "/files/x", token, b"x", If_None_Match="*"), self.ask("PUT", "/files/x", token, b"x", If_Match='"other"')
        links = [json.loads(self.ask("POST", "/files/x?share", token, json.dumps({"method": method}).encode())[1])["url"] for method in ("GET", "PUT")]
        self.made = len(self.answers)
        for n, link in enumerate(links):
            # The URL itself is what its maker was answered; nowhere else may it stand.
            self.values[f"link {n}"] = link.split("share=")[1]
            path, query = link.split("?")
            for method, target, body in [("GET", link, None), ("PUT", link, b"by link"), ("DELETE", link, None), ("GET", f"/files/other?{query}", None), ("GET", f"{path}/%00?{query}", None), ("GET", link + "A", None)]:
                self.ask(method, target, None, body, Referer=f"http://localhost{link}")
            self.ask("GET", f"/nowhere?{query}"), self.ask("GET", f"{path}?{query}&{query}", token)
        self.ask("DELETE", "/files/x", token)

    def stop(self):
        self.gateway.stop()
        self.relay.stop()


@pytest.fixture(scope="module")
def busy(tmp_path_factory):
    from s3 import S3Server

    folder = tmp_path_factory.mktemp("busy")
    server, busy = S3Server(folder), None
    try:
        busy = Busy(folder, server)
        yield busy.run()
    finally:
        if busy:
            busy.stop()
        server.stop(signal.SIGKILL)


def test_the_canaries_are_many_and_were_used(busy):
    """A search for nothing finds nothing."""
    assert len(busy.values) > 25 and all(len(value) > 4 for value in busy.values.values())
    assert {200, 201, 204, 206, 400, 403, 404, 412, 416, 502, 503} <= busy.statuses, busy.statuses


@pytest.mark.parametrize("where", ["stdout", "stderr", "answers", "metrics", "readyz"])
def test_secrets_of_s3_are_nowhere_in(busy, where):
    """Credentials, signatures and links open the store; names of servers and buckets are nobody's business (Traefik CVE-2022-23469)."""
    answers = [text for text in busy.answers if '"url":"/files/x?share=' not in text]
    assert len(answers) == len(busy.answers) - 2
    text = {"stdout": busy.gateway.process.stdout, "stderr": busy.gateway.process.stderr, "answers": lambda: "\n".join(answers), "metrics": busy.gateway.metrics, "readyz": lambda: busy.ready}[where]()
    assert text
    # Which address did not answer is what an operator asks first, so a cause may name it, as with the other stores.
    if where in ("stdout", "stderr", "readyz"):
        causes = re.findall(r'"(?:cause|media|missing|wrong)":"((?:[^"\\\\]|\\\\.)*)"', text)
        for cause in causes:
            text = text.replace(cause, cause.replace(busy.values["relay"], ""))
    assert [name for name, value in busy.values.items() if value in text] == []


def test_every_line_of_the_log_is_one_json_object(busy):
    for line in busy.gateway.process.stdout().splitlines():
        assert isinstance(json.loads(line), dict)
    assert all(json.loads(line) for line in busy.gateway.process.stderr().splitlines() if line.startswith("{"))
