"""Invariants 8 and 10: secrets and tokens appear in no log, metric, error, command output or database; no input
breaks a log line."""

import base64
import contextlib
import json
import re
import uuid

import httpx
import pytest

from accounts import answers_to, database_file, device_cookie, json_request, rows
from conftest import Gateway, RawBackend, eventually

ROUTES = """
[log]
level = "trace"
[throttle]
free_failures = 3
address_failures = 1000000
[upstreams.down]
servers = ["127.0.0.1:1"]
[upstreams.raw]
servers = ["{raw}"]
[[routes]]
path = "/api/{{*rest}}"
echo = true
[[routes]]
path = "/down/{{*rest}}"
upstream = "down"
[[routes]]
path = "/raw/{{*rest}}"
upstream = "raw"
[[routes]]
path = "/admin"
require = {{ roles = ["admin"] }}
respond = {{ status = 200 }}
"""


class Canaries:
    """Everything that must not be found again, each with a name."""

    def __init__(self):
        self.values = {}

    def password(self, name):
        self.values[name] = f"pw-{name.replace(' ', '-')}-{uuid.uuid4().hex}"
        return self.values[name]

    def tokens(self, name, tokens):
        # Header and claims of an access token are no secret; its signature makes it usable.
        self.values[f"{name}: access token"] = tokens["access_token"].rsplit(".", 1)[1]
        # The first bytes name user and session; the MAC makes it usable.
        self.values[f"{name}: refresh token"] = tokens["refresh_token"][-40:]
        return tokens

    def found_in(self, text):
        return [name for name, value in self.values.items() if value in text]


def key_material(gateway):
    """The private parts of every key file, as they would show up in text."""
    for file in (gateway.folder / "data" / "keys").rglob("*"):
        if not file.is_file() or not file.stat().st_size:
            continue
        raw = file.read_bytes()
        text = raw.decode("latin-1")
        if "PRIVATE KEY" in text:
            yield file.name, max(re.findall(r"[A-Za-z0-9+/=]{24,}", text), key=len)
        elif text.lstrip().startswith("{"):
            yield from ((f"{file.name} {m}", v) for m, v in re.findall(r'"(d|k|secret|seed|private)": *"([^"]{16,})"', text))
        else:
            for form in (raw.hex(), base64.b64encode(raw).decode().rstrip("="), base64.urlsafe_b64encode(raw).decode().rstrip("=")):
                yield file.name + " " + form[:2], form[:32]


class Session:
    """A busy time at the gateway, errors of every kind included; keeps each error body."""

    def __init__(self, gateway, canaries):
        self.gateway, self.canaries, self.errors = gateway, canaries, []

    def keep(self, answer):
        if answer.status_code >= 400:
            self.errors.append(answer.text + str(answer.headers))
        return answer

    def run(self):
        gateway, canaries = self.gateway, self.canaries
        password = canaries.password("right password")
        account = gateway.register(password=password, name="Ann")
        canaries.tokens("registered", account.tokens)
        login = self.keep(gateway.login(account.email, password))
        tokens = canaries.tokens("logged in", login.json())
        canaries.values["device cookie"] = device_cookie(login)[1].split(".")[1]
        cookie = {"Cookie": "=".join(device_cookie(login))}
        access = tokens["access_token"]
        self.wrong_passwords(account, cookie)
        self.requests(access, tokens["refresh_token"])
        refreshed = canaries.tokens("refreshed", gateway.refresh(tokens["refresh_token"]).json())
        again = canaries.tokens("refreshed twice", gateway.refresh(refreshed["refresh_token"]).json())
        self.keep(gateway.refresh(tokens["refresh_token"]))
        self.keep(gateway.get("/api/x", again["access_token"]))
        self.commands(account, self.change_password(account, password))
        return account

    def wrong_passwords(self, account, cookie):
        for n in range(6):
            self.keep(self.gateway.login(account.email, self.canaries.password(f"guess {n}"), headers=cookie))
        # People type their password into the field of the address.
        in_address = self.canaries.password("in the field of the address")
        for address in (in_address, f"{in_address}@example.com"):
            self.keep(self.gateway.login(address, self.canaries.password("beside " + address[-4:])))
        self.keep(self.gateway.post("/auth/register", {"email": account.email, "password": self.canaries.password("taken")}))
        self.keep(self.gateway.post("/auth/register", {"email": "x", "password": self.canaries.password("bad address")}))
        for n, field in enumerate(('"password":"%s"', '"password":["%s"]}', '"password":"%s","password":1}')):
            body = ('{"email":"a@b.c",' + field % self.canaries.password(f"broken body {n}")).encode()
            self.errors += [str(answer) for answer in answers_to(self.gateway, [json_request("POST", "/auth/login", body)])]

    def requests(self, access, refresh):
        gateway, forged = self.gateway, access[:-5] + "AAAAA"
        for path in ("/api/x", "/down/x", "/raw/x", "/admin", "/nothing", "/auth/me"):
            for token in (access, forged, refresh):
                self.keep(gateway.get(path, token))
            for name in ("access_token", "token", "password"):
                self.keep(gateway.get(f"{path}?{name}={access}", access))
                self.keep(gateway.get(f"{path}?{name}={self.canaries.values['right password']}"))
        self.keep(gateway.get("/api/x", headers={"Authorization": f"Basic {access}"}))
        self.keep(gateway.get("/api/x", headers={"Authorization": f"Bearer {access} {access}"}))
        self.keep(gateway.get("/api/x", headers={"Authorization": f"Bearer\t{access}"}))
        self.keep(gateway.post("/auth/refresh", {"refresh_token": access}))
        self.keep(gateway.post("/auth/refresh", {"refresh_token": refresh[:-3] + "AAA"}))
        self.keep(gateway.post("/auth/logout", {"refresh": refresh}))
        for broken in (b"GET /api/x HTTP/1.1\r\nHost: x\r\nHost: y\r\nAuthorization: Bearer %s\r\n\r\n",
                       b"GET /api/x HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer %s\r\n\r\n",
                       b"GET /api/../x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n"):
            self.errors += [str(a) for a in answers_to(gateway, [broken % access.encode()])]

    def change_password(self, account, old):
        gateway = self.gateway
        gateway.cli("user", "enable", account.email)
        login = self.canaries.tokens("for the change", gateway.login(account.email, old).json())
        new, wrong = self.canaries.password("changed"), self.canaries.password("wrong current")
        for current in (wrong, old):
            body = {"current": current, "new": new}
            self.keep(gateway.request("PUT", "/auth/password", login["access_token"], json=body))
        return login["access_token"]

    def commands(self, account, access):
        gateway, said = self.gateway, []
        secret = self.canaries.password("set by command")
        forged = access[:-5] + "AAAAA"
        for args, stdin in [
            (("check",), None), (("user", "show", account.email), None), (("user", "list"), None), (("keys", "list"), None),
            (("user", "add", "x"), secret + "\n"),
            (("user", "import", "-"), json.dumps({"email": "x", "password": secret})),
            (("user", "import", "-"), '{"email":"a@b.c","password":["%s"]}' % secret),
            (("explain", "GET", f"{gateway.url}/api/x", "--token", access), None),
            (("explain", "GET", f"{gateway.url}/api/x", "--token", forged), None),
            (("token", "inspect", access), None), (("token", "inspect", forged), None), (("token", "inspect", account.refresh), None),
            (("user", "set-password", account.email), secret + "\n"),
        ]:
            done = gateway.cli(*args, stdin=stdin, check=False)
            said.append(done.stdout + done.stderr)
        self.said = "\n".join(said)


@pytest.fixture(scope="module")
def busy(tmp_path_factory):
    """The gateway after the busy time, with everything it said; log level trace, the worst case."""
    raw = RawBackend()
    gateway = Gateway(tmp_path_factory.mktemp("secrets"), ROUTES.format(raw=raw.address)).start()
    canaries = Canaries()
    session = Session(gateway, canaries)
    try:
        session.account = session.run()
        canaries.values.update(key_material(gateway))
        last = gateway.get("/api/the-last-one").headers["x-request-id"]
        eventually(lambda: last in gateway.process.stdout(), what="the log being written")
        session.raw = raw
        yield session
    finally:
        gateway.stop()
        raw.stop()


def test_the_canaries_are_many_and_were_used(busy):
    """A search for nothing finds nothing."""
    assert len(busy.canaries.values) > 25
    assert any("key" in name for name in busy.canaries.values), "key material is among them"
    assert {"401", "403", "404", "429", "503", "400", "409"} <= {e for e in re.findall(r'"status":(\d+)', "".join(busy.errors))}
    assert "Ann" in busy.said and "valid: yes" in busy.said and "allowed" in busy.said


@pytest.mark.parametrize("where", ["stdout", "stderr", "errors", "commands", "metrics", "readyz", "livez"])
def test_secrets_are_nowhere_in(busy, where):
    """A log, a dashboard or a bug report would log somebody in (Traefik CVE-2022-23469)."""
    gateway = busy.gateway
    admin = f"http://127.0.0.1:{gateway.admin_port}/"
    text = {
        "stdout": lambda: gateway.process.stdout(),
        "stderr": lambda: gateway.process.stderr(),
        "errors": lambda: "\n".join(busy.errors),
        "commands": lambda: busy.said,
        "metrics": lambda: gateway.metrics(),
        "readyz": lambda: httpx.get(admin + "readyz").text,
        "livez": lambda: httpx.get(admin + "livez").text,
    }[where]()
    assert text
    assert busy.canaries.found_in(text) == []


def test_secrets_are_nowhere_in_the_database(busy):
    """Whoever reads a backup could log in as anybody (B 33)."""
    stored = b"".join(p.read_bytes() for p in database_file(busy.gateway).parent.glob("portcullis.db*")).decode("latin-1")
    assert busy.account.email in stored
    assert busy.canaries.found_in(stored) == []


def test_the_token_reaches_no_backend_that_is_not_to_have_it(busy):
    """`forward_token` is off: a backend could act as its callers everywhere."""
    seen = busy.raw.bytes().decode("latin-1")
    assert "GET /raw/x" in seen
    without_query = re.sub(r"GET \S+", "GET", seen)
    assert busy.canaries.found_in(without_query) == [] and "authorization" not in without_query.lower()


def test_files_are_for_their_owner_only(busy):
    """Every user of the machine could sign tokens or read hashes."""
    for file in (busy.gateway.folder / "data").rglob("*"):
        assert file.stat().st_mode & 0o077 == 0, file.name


def test_every_log_line_is_one_json_object(busy):
    """Broken lines are lost to every log collector."""
    for line in busy.gateway.process.stdout().splitlines():
        assert isinstance(json.loads(line), dict)
    lines = busy.gateway.process.stderr().splitlines()
    logged = [line for line in lines if line.startswith("{")]
    assert logged and all(isinstance(json.loads(line), dict) for line in logged)


EVIL = "\r\n{\"status\":200,\"forged\":true}\n\x1b[2J\x1b]0;title\x07\u2028\u202e"


def log_text(gateway):
    return gateway.process.stdout() + gateway.process.stderr()


def test_threat_log_injection(gateways):
    """CR, LF and ANSI in whatever a client sends: a forged line, or an operator's terminal taken over."""
    gateway = gateways(ROUTES.format(raw="127.0.0.1:1"))
    account = gateway.register()
    header, claims, signature = account.access.split(".")
    evil_header = base64.urlsafe_b64encode(json.dumps({"alg": "ES256", "typ": "at+jwt", "kid": EVIL}).encode()).rstrip(b"=").decode()
    gateway.get("/api/x", f"{evil_header}.{claims}.{signature}")
    gateway.login("forged\r\n@example.com" + EVIL)
    gateway.post("/auth/register", {"email": "b@example.com", "password": "good password", "name": EVIL})
    gateway.refresh(EVIL)
    for raw in (b"GET /api/%0d%0a{%22forged%22:true} HTTP/1.1\r\nHost: x\r\n\r\n",
                b"GET /api/\x1b[2J HTTP/1.1\r\nHost: x\r\n\r\n",
                b"GET /api/x\xe2\x80\xa8 HTTP/1.1\r\nHost: x\r\n\r\n",
                b"GET /nothing HTTP/1.1\r\nHost: x\x1b[2J\r\n\r\n",
                b"GET /nothing HTTP/1.1\r\nHost: x\r\nUser-Agent: a\x1b[2Jb\r\nX-Request-Id: {\"forged\":true}\r\n\r\n",
                b"\x1b[2J\x1b]0;t\x07 / HTTP/1.1\r\nHost: x\r\n\r\n"):
        with contextlib.suppress(AssertionError):  # Closing without an answer is a refusal too.
            answers_to(gateway, [raw])
    last = gateway.get("/api/last").headers["x-request-id"]
    eventually(lambda: last in gateway.process.stdout(), what="the log being written")
    assert "\x1b" not in log_text(gateway) and "\x07" not in log_text(gateway) and "\r" not in log_text(gateway)
    for line in log_text(gateway).splitlines():
        assert not line.startswith("{") or "forged" not in json.loads(line)
        assert not line.lstrip().startswith('{"status":200,"forged"')
    for line in gateway.process.stdout().split("\n")[:-1]:
        assert json.loads(line)["request_id"]


@pytest.mark.parametrize("agent", [b"evil\x1b[2Jagent", b"tab\tagent", "Zo\u00eb \u202e".encode(), b"\xff\xfe", b"x" * 5000])
def test_threat_log_injection_through_the_device_name(gateways, agent):
    """`user show` prints the User-Agent of every session to the operator's terminal."""
    gateway = gateways()
    account = gateway.register()
    request = json_request("POST", "/auth/login", {"email": account.email, "password": account.password})
    status, _, _ = answers_to(gateway, [request.replace(b"Host:", b"User-Agent: " + agent + b"\r\nHost:")])[0]
    assert status in (200, 400)
    shown = gateway.cli("user", "show", account.email).stdout
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]", shown)
    assert len(shown.splitlines()) == 7 + len(rows(gateway, "SELECT 1 FROM families"))
    assert all(len(device) <= 200 for (device,) in rows(gateway, "SELECT device FROM families"))


@pytest.mark.parametrize("command", ["add", "import"])
def test_threat_log_injection_through_a_name(gateways, command):
    """Names of imported or added accounts are printed to the operator's terminal: no ANSI, no forged lines."""
    gateway = gateways()
    evil = "Ann\x1b[2J\nstate     enabled\x07"
    if command == "add":
        done = gateway.cli("user", "add", "ann@example.com", "--name", evil, stdin="a good password\n", check=False)
    else:
        line = json.dumps({"email": "ann@example.com", "name": evil, "password": "a good password"})
        done = gateway.cli("user", "import", "-", stdin=line, check=False)
    if done.returncode == 0:
        shown = gateway.cli("user", "show", "ann@example.com").stdout
        assert "\x1b" not in shown and "\x07" not in shown and len(shown.splitlines()) == 7
