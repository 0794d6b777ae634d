"""Account commands whose session store goes away half-way: they must say what has been done and what has not."""

import pytest

from accounts import rows
from conftest import PASSWORD, Gateway, Process, can_connect, eventually, free_port

REDIS_PASSWORD = "canary-p@ss"
ROUTE = '[[routes]]\npath = "/api/{*rest}"\nrespond = { status = 200 }\n'


class Redis:
    def __init__(self, folder):
        self.port, self.folder = free_port(), folder
        self.start()

    def start(self):
        args = ["redis-server", "--port", self.port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--requirepass", REDIS_PASSWORD]
        self.process = Process(args, self.folder, "redis")
        eventually(lambda: can_connect(self.port), 10, "Redis listening")

    def stop(self):
        self.process.stop()


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    redis = Redis(tmp_path_factory.mktemp("redis"))
    yield redis
    redis.stop()


@pytest.fixture
def gateway(redis, tmp_path):
    """Users in the embedded store, so that they can be changed while the sessions cannot."""
    url = f"redis://:{REDIS_PASSWORD.replace('@', '%40')}@127.0.0.1:{redis.port}"
    gateway = Gateway(tmp_path, f'[sessions]\nstore = "redis"\nurl = "{url}"\n{ROUTE}').start()
    yield gateway
    gateway.stop()
    if redis.process.process.poll() is not None:
        redis.start()


def fails(gateway, *args, stdin=""):
    done = gateway.cli(*args, stdin=stdin, check=False)
    assert done.returncode == 1 and "panicked" not in done.stderr, done
    assert "canary" not in done.stdout + done.stderr
    return done.stderr.splitlines()[-1]


def state(gateway, account):
    """Whether the account is disabled, whether its sessions were cut, its password's hash."""
    return rows(gateway, "SELECT disabled, cut_at IS NOT NULL, password_hash FROM users WHERE id = ?", account.id)[0]


@pytest.mark.parametrize("command, says", [
    (["disable"], "is disabled and its sessions cannot be refreshed"),
    (["set-password"], "has a new password and its sessions cannot be refreshed"),
    (["delete"], "is disabled but not deleted and its sessions cannot be refreshed"),
])
def test_a_command_without_the_session_store_says_what_it_did(gateway, redis, command, says):
    """An operator who believes a stolen account is shut must not be wrong about its access tokens."""
    account = gateway.register()
    before = state(gateway, account)
    redis.stop()
    said = fails(gateway, "user", *command, account.email, stdin="a new password\n")
    assert account.email in said and says in said and "access tokens may be accepted" in said and said.endswith("repeat the command")
    disabled, cut, password_hash = state(gateway, account)
    assert (disabled, cut) == (command != ["set-password"], 1)
    assert (password_hash != before[2]) == (command == ["set-password"])

    redis.start()
    gateway.cli("user", *command, account.email, stdin="a new password\n")
    eventually(lambda: gateway.get("/api/x", account.access).status_code == 401, 5, "the access token refused")
    eventually(lambda: gateway.refresh(account.refresh).status_code == 403, 5, "the refresh token refused, once Redis is connected")


def test_enable_without_the_session_store_says_what_it_did(gateway, redis):
    """Enabled, but perhaps still locked out by failed logins."""
    account = gateway.register()
    gateway.cli("user", "disable", account.email)
    redis.stop()
    said = fails(gateway, "user", "enable", account.email)
    assert "is enabled, but its failed logins are not forgotten" in said and said.endswith("repeat the command")
    assert state(gateway, account)[0] == 0
    redis.start()
    gateway.cli("user", "enable", account.email)
    eventually(lambda: gateway.login(account.email).status_code == 200, 5, "login, once Redis is connected")


def test_commands_that_need_no_sessions_work_without_the_session_store(gateway, redis):
    """Redis away must not keep an operator from the accounts."""
    account = gateway.register()
    redis.stop()
    gateway.cli("user", "set-roles", account.email, "admin")
    assert account.email in gateway.cli("user", "list").stdout
    assert "1 exported" in gateway.cli("user", "export").stderr
    gateway.cli("user", "add", "new@example.com", stdin=PASSWORD + "\n")
