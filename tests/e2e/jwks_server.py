"""An issuer of the tests: publishes a JWKS over HTTP, counts who fetches it, and can be down, slow or wrong."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from forge import Key, foreign_claims


class JwksServer:
    """`keys` (or `body`, as it is) is what is published. `stop` and `start` keep the port."""

    def __init__(self, issuer, *keys, port=0):
        self.issuer, self.keys = issuer, list(keys)
        self.body, self.status, self.headers, self.fetches, self.port = None, 200, {}, 0, port
        self.server, self.answering = None, threading.Event()
        self.answering.set()
        if not port:
            self.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/jwks.json"

    def document(self):
        return self.body if self.body is not None else json.dumps({"keys": [k.jwk() for k in self.keys]}).encode()

    def start(self):
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                issuer.fetches += 1
                issuer.answering.wait()
                body = issuer.document()
                self.send_response(issuer.status)
                for name, value in {"Content-Type": "application/json", **issuer.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

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

    def hold(self):
        """From now on requests are taken and not answered, until `release`."""
        self.answering.clear()

    def release(self):
        self.answering.set()

    def stop(self):
        self.release()
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def token(self, key=None, header=None, drop=(), **changes) -> str:
        """A token of this issuer for `ann`."""
        payload = {**foreign_claims(self.issuer), **changes}
        return (key or self.keys[0]).token({k: v for k, v in payload.items() if k not in drop}, header)

    def table(self, algorithms=("ES256",), more="") -> str:
        """Its `[[issuers]]` table. Nothing is refetched in the background while a test runs."""
        return (
            f'[[issuers]]\nissuer = "{self.issuer}"\njwks = "{self.url}"\naudience = "api"\n'
            f'algorithms = {json.dumps(list(algorithms))}\nrefresh_interval = "24h"\n{more}\n'
        )


def fresh_key(alg="ES256", kid=None) -> Key:
    return Key(alg, kid or f"{alg}-{time.monotonic_ns()}")


ISSUER, OTHER = "https://login.example.com", "https://other.example.com"
ECHO = """
[[routes]]
path = "/api/{*rest}"
echo = true

[[routes]]
path = "/admin/{*rest}"
echo = true
require = { roles = ["admin"] }
"""


@pytest.fixture
def issuers():
    """`issuers(name, key, ...)` starts an issuer that publishes these keys."""
    started = []

    def start(name=ISSUER, *keys, port=0):
        started.append(JwksServer(name, *(keys or [fresh_key()]), port=port))
        return started[-1]

    yield start
    for issuer in started:
        issuer.stop()


def status(gateway, token, path="/api/x"):
    return gateway.get(path, token).status_code


def resident(gateway) -> int:
    """Resident memory in KiB."""
    with open(f"/proc/{gateway.process.process.pid}/status") as text:
        return int(next(line for line in text if line.startswith("VmRSS")).split()[1])
