"""The keys S3 is asked with: where they are found, that they are replaced in time, and what happens when there are none."""

import datetime
import json
import os
import threading
import time
import uuid

import httpx
import pytest

from conftest import Gateway, eventually
from credential_sources import Container, Instance, Sts
from file_routes import Client, S3Files, code_of, files_route
from s3 import Credentials, S3Server, s3_server
from servers import in_parallel

METHODS = ["GET", "PUT", "DELETE"]
ROUTE = files_route("/files/{*key}", "media", "users/{sub}/", methods=METHODS, list=True)
NO_KEYS = {"access_key_id": None, "secret_access_key": None}
# Looked for again at most once in 5 s, and a request waits 5 s for the first ones.
SOON = 15
LOST = (502, "file_store_error")
# minio's temporary credentials last 900 s at least, and its own tools alone revoke them.
of_short_life = pytest.mark.skipif(s3_server() != "versitygw", reason="temporary credentials last too long there")


class Site:
    def __init__(self, gateway, files):
        self.gateway, self.files, self.account = gateway, files, gateway.register()
        self.client = Client(gateway.port, timeout=30)
        files.put(f"users/{self.account.id}/x", b"x")

    def ask(self, method="GET", name="x", body=None):
        status, _, content = self.client.call(method, f"/files/{name}", self.account.access, body)
        return status, code_of(content) if status >= 400 else content

    def works(self):
        return self.ask() == (200, b"x") and self.ask("PUT", "y", b"y")[0] == 201 and self.ask("GET", "?list")[0] == 200 and self.ask("DELETE", "y")[0] == 204

    def log(self):
        return self.gateway.process.stderr() + self.gateway.process.stdout()

    def ready(self):
        return httpx.get(f"http://127.0.0.1:{self.gateway.admin_port}/readyz", timeout=30)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = S3Server(tmp_path_factory.mktemp("s3"))
    yield server
    server.stop()


@pytest.fixture
def sites(tmp_path, server, monkeypatch):
    """`sites(environment, ...)` starts a gateway that has credentials from there alone."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    started = []

    def start(env, **extra):
        folder = tmp_path / f"gateway-{len(started)}"
        folder.mkdir()
        files = S3Files(server)
        alone = {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(folder), "AWS_CONFIG_FILE": str(folder / "config"), "AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials")}
        env = {name: value for name, value in {**alone, **env}.items() if value}
        gateway = Gateway(folder, files.table(**NO_KEYS, **extra) + ROUTE, env=env)
        started.append(gateway)
        return Site(gateway.start(), files)

    yield start
    for gateway in started:
        assert gateway.metric("portcullis_panics_total") == 0
        gateway.stop()


@pytest.fixture
def sources():
    started = []

    def start(kind, credentials):
        started.append(kind(credentials))
        return started[-1]

    yield start
    for source in started:
        source.stop()


def environment(keys):
    found = {"AWS_ACCESS_KEY_ID": keys.access_key, "AWS_SECRET_ACCESS_KEY": keys.secret_key}
    return {**found, "AWS_SESSION_TOKEN": keys.session_token} if keys.session_token else found


def ini(name, keys):
    lines = [f"[{name}]", f"aws_access_key_id = {keys.access_key}", f"aws_secret_access_key = {keys.secret_key}"]
    return "\n".join([*lines, f"aws_session_token = {keys.session_token}" if keys.session_token else ""]) + "\n"


def wrong():
    return Credentials(f"AKIA{uuid.uuid4().hex[:16].upper()}", uuid.uuid4().hex)


def revoke(server, keys):
    """S3 no longer knows them."""
    if keys.session_token:
        return forget(server, keys)
    iam = server.client(service="iam", endpoint=f"http://127.0.0.1:{server.iam_port}")
    for user in iam.list_users()["Users"]:
        if any(key["AccessKeyId"] == keys.access_key for key in iam.list_access_keys(UserName=user["UserName"])["AccessKeyMetadata"]):
            iam.delete_access_key(UserName=user["UserName"], AccessKeyId=keys.access_key)
            return
    raise AssertionError("nobody's key")


def forget(server, keys):
    """The other way round of S3Server.temporary_credentials."""
    file, new = server.folder / "iam/iam.json", server.folder / "iam/iam.json.new"

    def forgotten():
        accounts = json.loads(file.read_text())
        if keys.access_key not in accounts["sessions"]:
            return True
        del accounts["sessions"][keys.access_key]
        new.write_text(json.dumps(accounts))
        new.rename(file)

    eventually(forgotten, 10, "credentials being forgotten")


# Where they are found --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lasting", "temporary"])
def test_environment(sites, server, kind):
    keys = server.user() if kind == "lasting" else server.temporary_credentials(900)
    assert sites(environment(keys)).works()


@pytest.mark.parametrize("name", ["default", "x"])
def test_profile(sites, server, tmp_path, name):
    """`profile` in the configuration, or the default one."""
    file, keys = tmp_path / "credentials", server.user()
    other = "x" if name == "default" else "default"
    file.write_text(ini(other, wrong()) + ini(name, keys))
    extra = {"profile": name} if name != "default" else {}
    assert sites({"AWS_SHARED_CREDENTIALS_FILE": str(file)}, **extra).works()


def test_profile_of_the_environment(sites, server, tmp_path):
    file = tmp_path / "credentials"
    file.write_text(ini("default", wrong()) + ini("other", server.user()))
    assert sites({"AWS_SHARED_CREDENTIALS_FILE": str(file), "AWS_PROFILE": "other"}).works()


def test_profile_in_the_home_folder(sites, server, tmp_path):
    (tmp_path / "home/.aws").mkdir(parents=True)
    (tmp_path / "home/.aws/credentials").write_text(ini("default", server.user()))
    site = sites({"HOME": str(tmp_path / "home"), "AWS_CONFIG_FILE": "", "AWS_SHARED_CREDENTIALS_FILE": ""})
    assert site.works()


def test_container(sites, server, sources):
    source = sources(Container, lambda: server.temporary_credentials(900))
    site = sites(source.environment())
    assert site.works()
    assert {headers["authorization"] for _, headers, _ in source.requests} == {"container-token-canary"}
    assert "container-token-canary" not in site.log()


def test_web_identity(sites, server, sources, tmp_path):
    source, file = sources(Sts, lambda: server.temporary_credentials(900)), tmp_path / "token"
    file.write_text("web-identity-canary")
    source.tokens = ("web-identity-canary",)
    site = sites(source.environment(file))
    assert site.works()
    assert source.requests and "web-identity-canary" not in site.log()


def test_instance_role(sites, server, sources):
    source = sources(Instance, lambda: server.temporary_credentials(900))
    site = sites(source.environment())
    assert site.works()
    assert [path for path, _, _ in source.requests].count(f"{source.role}the-role") == 1 and "metadata-token-canary" not in site.log()


def test_many_requests_fetch_them_once(sites, server, sources):
    """A hundred callers at the first moment are no hundred calls of the source."""
    source = sources(Container, lambda: server.temporary_credentials(900))
    source.answering.clear()
    site = sites(source.environment())
    release = threading.Timer(0.5, source.answering.set)
    release.start()

    def ask(_):
        return Client(site.gateway.port, timeout=30).call("GET", "/files/x", site.account.access)[0]

    assert set(in_parallel(ask, range(100))) == {200}
    assert len(source.requests) <= 2


# None at all -----------------------------------------------------------------------------------------------


def refusals_of(site):
    """What everybody is told while there are no credentials; nothing of it is about how they are looked for."""
    for method, name, body in [("GET", "x", None), ("PUT", "y", b"y"), ("DELETE", "y", None), ("GET", "?list", None)]:
        assert site.ask(method, name, body) == LOST, method
    status, fields, content = site.client.call("GET", "/files/x", site.account.access)
    text = content.decode().lower() + str(fields).lower()
    assert not any(word in text for word in ("credential", "aws", "imds", "profile", "provider")), text


def test_no_credentials(sites, tmp_path):
    """The gateway starts, says what is missing, and serves what needs no S3."""
    site = sites({})
    refusals_of(site)
    assert site.gateway.get("/auth/me", site.account.access).status_code == 200
    eventually(lambda: site.ready().status_code == 503, 20, "/readyz telling of it")
    assert "credentials" in site.ready().json()["file_stores"]["media"]
    causes = [json.loads(line).get("cause", "") for line in site.gateway.process.stderr().splitlines() if line.startswith("{")]
    assert any("credentials" in cause for cause in causes), causes


def test_credentials_that_come_later(sites, server, tmp_path):
    """A file that is written when the gateway runs already is found, without a restart."""
    file = tmp_path / "credentials"
    site = sites({"AWS_SHARED_CREDENTIALS_FILE": str(file)})
    assert site.ask() == LOST
    file.write_text(ini("default", server.user()))
    eventually(site.works, SOON, "the credentials being found")
    eventually(lambda: site.ready().status_code == 200, SOON)


@pytest.mark.parametrize("status, body", [
    (500, b""), (200, b""), (200, b"\xff\xfe{}"), (200, b'{"AccessKeyId":"AKIACANARY"}'), (200, b'{"Code":"Failed","Message":"no role"}'),
    (200, b'{"AccessKeyId":"AKIACANARY","SecretAccessKey":"secret-canary","Token":"t","Expiration":"yesterday"}'),
                                          (200, b'{"AccessKeyId":"AKIACANARY","SecretAccessKey":"secret-canary","Token":"t","Expiration":"2001-01-01T00:00:00Z"}'),
])
def test_source_that_answers_wrong(sites, server, sources, status, body):
    """What comes instead of credentials is neither used nor repeated; what comes afterwards is."""
    source = sources(Container, lambda: server.temporary_credentials(900))
    source.status, source.body = status, body
    site = sites(source.environment())
    assert site.ask() == LOST and site.ask("PUT", "y", b"y") == LOST
    assert "secret-canary" not in site.log() + site.ready().text + site.gateway.metrics()
    source.status, source.body = 200, None
    eventually(site.works, SOON, "the credentials being found")


def test_source_that_never_answers(sites, server, sources):
    """A request waits for a while, and not for ever; neither does start-up."""
    source = sources(Container, lambda: server.temporary_credentials(900))
    source.answering.clear()
    site = sites(source.environment())
    assert site.ask() == LOST
    source.answering.set()
    eventually(site.works, 40, "the credentials being found")


def test_container_elsewhere_is_not_asked(sites):
    """Over plain HTTP only this machine's own addresses hand out credentials (AWS's rule)."""
    assert sites({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://192.0.2.1/credentials"}).ask() == LOST


# In the course of time -------------------------------------------------------------------------------------


def running(site, until):
    """Requests of every kind until `until()`; what did not go well."""
    wrong, n = [], 0
    while not until():
        for method, name, body, good in [("GET", "x", None, 200), ("PUT", f"n{n % 5}", b"n", 201), ("GET", "?list", None, 200), ("DELETE", f"n{n % 5}", None, 204), ("HEAD", "x", None, 200)]:
            status = site.ask(method, name, body)[0]
            if status != good:
                wrong.append((method, status, time.time()))
        n += 1
    return wrong


@of_short_life
@pytest.mark.parametrize("kind", [Container, Sts, Instance])
def test_short_lived_ones_are_replaced_before_they_end(sites, server, sources, tmp_path, kind):
    """Of credentials that last 8 s three generations pass, and no request notices."""
    made = []
    source, file = sources(kind, lambda: made.append(server.temporary_credentials(8)) or made[-1]), tmp_path / "token"
    file.write_text("token")
    source.tokens = ("token",)
    site = sites(source.environment(file) if kind is Sts else source.environment())
    assert running(site, lambda: len(made) >= 4) == []


@of_short_life
def test_source_is_away_for_a_while(sites, server, sources):
    """Old ones serve until they end; then 502 with a cause; and when the source is back, so is everything."""
    made = []
    source = sources(Container, lambda: made.append(server.temporary_credentials(8)) or made[-1])
    site = sites(source.environment())
    assert site.works()
    source.stop()
    end = made[-1].expires - datetime.timedelta(seconds=1.5)
    assert running(site, lambda: datetime.datetime.now(datetime.timezone.utc) >= end) == []
    eventually(lambda: site.ask() == LOST, SOON, "the end of the credentials")
    refusals_of(site)
    eventually(lambda: site.ready().status_code == 503, SOON, "/readyz telling of it")
    log = site.log()
    assert "credentials for S3 not fetched" in log
    for keys in made:
        assert not any(value in log + site.ready().text for value in (keys.secret_key, keys.session_token, keys.access_key))
    source.start()
    eventually(site.works, SOON, "the credentials being found again")
    eventually(lambda: site.ready().status_code == 200, SOON)


@of_short_life
def test_revoked_ones_are_looked_for_again(sites, server, sources):
    """S3 does not know them any more, long before their time: others are asked for, and found."""
    keys = [server.temporary_credentials(3600)]
    source = sources(Container, lambda: keys[-1])
    site = sites(source.environment())
    assert site.works()
    keys.append(server.temporary_credentials(3600))
    revoke(server, keys[0])
    eventually(site.works, SOON, "the others being taken")
    assert running(site, iter([False] * 20 + [True]).__next__) == []


@of_short_life
def test_revoked_ones_in_a_file(sites, server, tmp_path):
    """Somebody replaces the keys in the file and has the old ones deleted: no restart."""
    file, old, new = tmp_path / "credentials", server.user(), server.user()
    file.write_text(ini("default", old))
    site = sites({"AWS_SHARED_CREDENTIALS_FILE": str(file)})
    assert site.works()
    file.write_text(ini("default", new))
    revoke(server, old)
    eventually(site.works, SOON, "the others being taken")


@of_short_life
def test_revoked_ones_and_no_others(sites, server, sources):
    """The source is asked now and then, and not for every request that S3 refuses."""
    keys = server.temporary_credentials(3600)
    source = sources(Container, lambda: keys)
    site = sites(source.environment())
    assert site.works()
    revoke(server, keys)
    before, begun = len(source.requests), time.monotonic()
    for _ in range(100):
        assert site.ask() == LOST
    assert len(source.requests) - before <= 2 + (time.monotonic() - begun) / 5
    assert keys.secret_key not in site.log() and keys.access_key not in site.log()


def test_they_may_not_do_it(sites, server):
    """Credentials that S3 knows and that are allowed too little: 502, and what they may still works."""
    reader = server.user("s3:GetObject", "s3:ListBucket")
    site = sites(environment(reader))
    assert site.ask() == (200, b"x") and site.ask("GET", "?list")[0] == 200
    assert site.ask("PUT", "y", b"y") == LOST and site.ask("DELETE", "x") == LOST
    assert site.ask() == (200, b"x")
