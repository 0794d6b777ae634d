"""An S3 that says what a test tells it to: a TCP server which reads requests as they are and answers with scripted bytes.

It verifies nothing. Everything it says is marked, so that a word of it that reaches a client can be found there.
"""

import contextlib
import json
import re
import socket
import threading
import uuid

from wire import reset

BUCKET = "bucket-canary"
ACCESS_KEY, SECRET_KEY = "AKIACANARYKEYID00001", f"secret-canary-{uuid.uuid4().hex}"
WORDS = [
    "canary", "amz-id", "amz-request", "AmazonS3", "StringToSign", "CanonicalRequest", "SignatureProvided", "AWS4-HMAC", "aws4_request", "RequestId",
    "HostId", "<?xml", "<Error", "BucketName", "set-cookie",
]


class Request:
    """One request: head and body as bytes, and the connection to answer on."""

    def __init__(self, connection, head: bytes, rest: bytes):
        self.connection, self.head = connection, head
        line, *lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, self.version = line.split(" ")
        self.fields = [(name.lower(), value.strip()) for name, _, value in (field.partition(":") for field in lines)]
        self.headers = dict(self.fields)
        self.path, _, self.query = self.target.partition("?")
        self.buffer, self.received = rest, b""
        self.length = int(self.headers.get("content-length", 0))

    def more(self) -> bytes:
        """Some of the body."""
        if not self.buffer:
            self.buffer = self.connection.recv(65536)
            if not self.buffer:
                raise ConnectionError("closed")
        taken, self.buffer = self.buffer[: self.length - len(self.received)], self.buffer[self.length - len(self.received):]
        self.received += taken
        return taken

    def body(self) -> bytes:
        while len(self.received) < self.length:
            self.more()
        return self.received

    def send(self, *pieces: bytes):
        for piece in pieces:
            self.connection.sendall(piece)
        return self

    def reset(self):
        reset(self.connection)
        raise ConnectionError("reset")

    def close(self):
        raise ConnectionError("closed by the script")


class FakeS3:
    """Runs `script(request)` for each request. `requests` are those received; `good` is what a script may end with."""

    def __init__(self):
        self.script, self.requests, self.connections, self.accepting = good, [], 0, True
        self.ended = threading.Event()  # For scripts that never answer.
        self.open = set()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.listener.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def table(self, name="media", **extra) -> str:
        """The TOML of `[file_stores.NAME]`; keys that are None are left out."""
        values = {
            "kind": "s3", "bucket": BUCKET, "region": "us-east-1", "endpoint": self.endpoint, "path_style": True,
            "access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY, **extra,
        }
        timeouts = values.pop("timeouts", "")
        lines = [f"{key} = {json.dumps(value)}" for key, value in values.items() if value is not None]
        return f"[file_stores.{name}]\n" + "\n".join(lines) + (f"\ntimeouts = {timeouts}\n" if timeouts else "\n")

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections += 1
                if not self.accepting:
                    reset(connection)
                    continue
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.open.add(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        buffer = b""
        with contextlib.suppress(OSError), connection:
            while True:
                while b"\r\n\r\n" not in buffer:
                    chunk = connection.recv(65536)
                    if not chunk:
                        return
                    buffer += chunk
                head, buffer = buffer.split(b"\r\n\r\n", 1)
                request = Request(connection, head, buffer)
                self.requests.append(request)
                self.script(request)
                request.body()
                buffer = request.buffer
        self.open.discard(connection)

    def hang_up(self):
        """Closes every connection there is."""
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def stop(self):
        self.ended.set()
        self.listener.close()
        self.hang_up()


# What it says ----------------------------------------------------------------------------------------------

NOISE = [
    "x-amz-request-id: CANARYREQUEST", "x-amz-id-2: canary-host-id", "Server: AmazonS3-canary", "x-amz-meta-owner: canary", "Set-Cookie: canary=1", "x-amz-version-id: canary",
    "x-amz-storage-class: CANARY", "x-amz-expiration: canary", "x-amz-server-side-encryption: canary", "x-amz-bucket-region: canary", "x-amz-restore: canary",
    "x-amz-website-redirect-location: http://canary/", "Access-Control-Allow-Origin: http://canary", "Strict-Transport-Security: max-age=1; canary", "Cache-Control: public, canary",
    "Expires: Thu, 01 Jan 2099 00:00:00 GMT", "Content-Disposition: inline; filename=canary", "Link: <http://canary/>", "X-Request-Id: canary", "WWW-Authenticate: AWS-canary",
    "Alt-Svc: h2=\"canary:1\"", "Refresh: 0; url=http://canary", "Content-Location: /canary", "Vary: canary", "Via: 1.1 canary", "Age: 77", "Warning: 199 canary",
]
REASONS = {200: "OK", 206: "Partial Content", 301: "Moved Permanently", 304: "Not Modified", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 503: "Slow Down"}
OBJECT = b"the object's content"
ETAG = '"0123456789abcdef0123456789abcdef"'
MODIFIED = "Wed, 01 Oct 2025 10:00:00 GMT"


def head(status, *fields, length=None, noise=True) -> bytes:
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Canary')}", *(NOISE if noise else []), *fields]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def answer(status, body=b"", *fields) -> bytes:
    return head(status, *fields, length=len(body)) + body


def an_object(body=OBJECT, status=200, *fields) -> bytes:
    return answer(status, body, f"ETag: {ETAG}", f"Last-Modified: {MODIFIED}", "Content-Type: text/plain", *fields)


def error(code, status, *fields, message="canary message", size=0) -> bytes:
    """An error document with all that Amazon's tell."""
    document = (
        f"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message><AWSAccessKeyId>{ACCESS_KEY}</AWSAccessKeyId>"
        f"<StringToSign>AWS4-HMAC-SHA256\n20250101T000000Z\n20250101/us-east-1/s3/aws4_request\ncanary</StringToSign><SignatureProvided>canary</SignatureProvided>"
        f"<CanonicalRequest>GET\n/{BUCKET}/x\n\nhost:canary</CanonicalRequest><BucketName>{BUCKET}</BucketName><Endpoint>{BUCKET}.s3.canary</Endpoint>"
        f"<RequestId>CANARYREQUEST</RequestId><HostId>canary-host-id</HostId></Error>"
    ).encode()
    return answer(status, document + b" " * size, "Content-Type: application/xml", *fields)


def listing(*keys, prefix="") -> bytes:
    entries = "".join(f"<Contents><Key>{key}</Key><LastModified>2025-10-01T10:00:00.000Z</LastModified><ETag>{ETAG}</ETag><Size>20</Size></Contents>" for key in keys)
    document = f'<?xml version="1.0"?><ListBucketResult><Name>{BUCKET}</Name><Prefix>{prefix}</Prefix><KeyCount>{len(keys)}</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>'
    return answer(200, document.encode(), "Content-Type: application/xml")


def good(request):
    """Answers as S3 would whose every object is there."""
    if request.method == "PUT":
        request.body()
        return request.send(answer(200, b"", f"ETag: {ETAG}"))
    if request.method == "DELETE":
        return request.send(head(204))
    if "list-type" in request.query:
        prefix = re.search("(?:^|&)prefix=([^&]*)", request.query)
        return request.send(listing(prefix[1].replace("%2F", "/") + "x" if prefix else "x"))
    if request.method == "HEAD":
        return request.send(head(200, f"ETag: {ETAG}", f"Last-Modified: {MODIFIED}", length=len(OBJECT)))
    if "range" in request.headers:
        first, last = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers["range"]).groups()
        part = OBJECT[int(first): int(last) + 1]
        return request.send(an_object(part, 206, f"Content-Range: bytes {first}-{int(first) + len(part) - 1}/{len(OBJECT)}"))
    return request.send(an_object())


def always(data: bytes):
    """Reads the whole request and sends `data`."""
    def script(request):
        request.body()
        request.send(data)
    return script


def then_close(data: bytes):
    def script(request):
        request.body()
        request.send(data).close()
    return script
