"""Where a gateway's credentials for S3 come from: a container's endpoint, an STS and the metadata of an instance, which hand out what a test tells them to."""

import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Source:
    """An HTTP server on a port of its own, which `stop` and `start` keep."""

    fields = {}

    def __init__(self, credentials=None):
        # `credentials()` gives those to hand out; `body` and `status` override the answer.
        self.credentials, self.body, self.status, self.port = credentials, None, 200, 0
        self.requests, self.server, self.answering = [], None, threading.Event()
        self.answering.set()
        self.start()

    def start(self):
        source = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                length = int(self.headers.get("Content-Length") or 0)
                source.requests.append((self.path, dict(self.headers), self.rfile.read(length).decode()))
                source.answering.wait(60)
                body = source.body if source.body is not None else source.document(source.requests[-1])
                self.send_response(source.status)
                self.send_header("Content-Type", source.content_type)
                self.send_header("Content-Length", str(len(body)))
                for name, value in source.fields.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_PUT = do_GET

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass  # a client that closes early

        self.server = Server(("127.0.0.1", self.port), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def stop(self):
        self.answering.set()
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"


class Container(Source):
    """The endpoint of AWS_CONTAINER_CREDENTIALS_FULL_URI."""

    content_type = "application/json"

    def environment(self):
        return {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{self.url}/credentials", "AWS_CONTAINER_AUTHORIZATION_TOKEN": "container-token-canary"}

    def document(self, _):
        made = self.credentials()
        found = {"AccessKeyId": made.access_key, "SecretAccessKey": made.secret_key, "RoleArn": "arn:aws:iam::000000000000:role/x"}
        if made.session_token:
            found.update({"Token": made.session_token, "Expiration": made.expires.strftime("%Y-%m-%dT%H:%M:%SZ")})
        return json.dumps(found).encode()


class Sts(Source):
    """AssumeRoleWithWebIdentity for whoever brings a token of `tokens`."""

    content_type, tokens = "text/xml", ()

    def environment(self, token_file):
        role = {"AWS_ROLE_ARN": "arn:aws:iam::000000000000:role/x", "AWS_ROLE_SESSION_NAME": "tests"}
        return {"AWS_WEB_IDENTITY_TOKEN_FILE": str(token_file), "AWS_ENDPOINT_URL_STS": self.url, "AWS_REGION": "us-east-1", **role}

    def document(self, request):
        form = dict(urllib.parse.parse_qsl(request[2]))
        assert form["Action"] == "AssumeRoleWithWebIdentity"
        if form["WebIdentityToken"] not in self.tokens:
            self.status = 400
            return b"<ErrorResponse><Error><Type>Sender</Type><Code>InvalidIdentityToken</Code><Message>no</Message></Error></ErrorResponse>"
        self.status, made = 200, self.credentials()
        return (
            f'<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials>'
            f"<AccessKeyId>{made.access_key}</AccessKeyId><SecretAccessKey>{made.secret_key}</SecretAccessKey><SessionToken>{made.session_token}</SessionToken>"
            f"<Expiration>{made.expires.strftime('%Y-%m-%dT%H:%M:%SZ')}</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
        ).encode()


class Instance(Source):
    """The metadata service of an EC2 instance with a role, version 2: everything needs the token that PUT gives."""

    content_type, token, fields = "text/plain", "metadata-token-canary", {"x-aws-ec2-metadata-token-ttl-seconds": "21600"}
    role = "/latest/meta-data/iam/security-credentials/"

    def environment(self):
        return {"AWS_EC2_METADATA_DISABLED": "", "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.url}

    def document(self, request):
        path, headers, _ = request
        headers = {name.lower(): value for name, value in headers.items()}
        self.status = 200
        if path == "/latest/api/token" and "x-aws-ec2-metadata-token-ttl-seconds" in headers:
            return self.token.encode()
        if headers.get("x-aws-ec2-metadata-token") != self.token:
            self.status = 401
        elif path == self.role:
            return b"the-role"
        elif path == f"{self.role}the-role":
            made = self.credentials()
            found = {"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": made.access_key, "SecretAccessKey": made.secret_key, "Token": made.session_token}
            return json.dumps({**found, "LastUpdated": "2026-01-01T00:00:00Z", "Expiration": made.expires.strftime("%Y-%m-%dT%H:%M:%SZ")}).encode()
        else:
            self.status = 404
        return b""
