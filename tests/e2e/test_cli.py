"""`user`, `keys` and `token` commands: exit codes, messages, and their effect with the gateway up and down."""

import contextlib
import json
import re
import signal
import sqlite3
import subprocess
import uuid

import jwt
import pytest
from passlib.hash import bcrypt_sha256

from accounts import database_file, everything, problem, rows
from conftest import BINARY, PASSWORD, Gateway, eventually

ROUTE = '[throttle]\naddress_failures = 1000000\n[[routes]]\npath = "/api/{*rest}"\nrespond = { status = 200 }\n'
HASH = "$2b$04$CCCCCCCCCCCCCCCCCCCCC.FXJHjF.8tyWAsIeGLxC7hC/nyX4QxgC"
EXPENSIVE = "$argon2id$v=19$m=4194304,t=9,p=1$c29tZXNhbHRzb21lc2FsdA$K13EBUiG7JV+9ZxztmHFTdb7J0WQsnj2V8bZaqyPptE"


@pytest.fixture(scope="module", params=["up", "down"])
def gateway(request, tmp_path_factory):
    """Every command is to work beside a running gateway, and without one."""
    gateway = Gateway(tmp_path_factory.mktemp("cli"), ROUTE)
    gateway.start()
    if request.param == "down":
        gateway.stop()
    yield gateway
    gateway.stop()


def email():
    return f"{uuid.uuid4().hex}@example.com"


def add(gateway, *args, password=PASSWORD):
    address = email()
    gateway.cli("user", "add", address, *args, stdin=password + "\n")
    return address


def fails(gateway, *args, stdin="", says):
    done = gateway.cli(*args, stdin=stdin, check=False)
    assert done.returncode == 1, done
    assert says in done.stderr, done.stderr
    assert "panicked" not in done.stderr
    return done


def user_row(gateway, address):
    return rows(gateway, "SELECT id, name, roles, scopes, disabled FROM users WHERE email = ?", address)[0]


def test_user_add_list_and_show(gateway):
    """The first thing an operator does."""
    address = add(gateway, "--name", "Ann Lee", "--roles", "admin, editor", "--scopes", "orders:read")
    user_id, name, roles, scopes, disabled = user_row(gateway, address)
    assert (name, json.loads(roles), json.loads(scopes), disabled) == ("Ann Lee", ["admin", "editor"], ["orders:read"], 0)
    line = next(l for l in gateway.cli("user", "list").stdout.splitlines() if address in l)
    assert user_id in line and "enabled" in line and "admin,editor" in line
    by_address, by_id = (gateway.cli("user", "show", who).stdout for who in (address.upper(), user_id))
    assert by_address == by_id
    for text in (user_id, address, "Ann Lee", "admin,editor", "orders:read", "enabled"):
        assert text in by_id


def test_user_list_shows_everybody(gateway):
    """A page boundary (500) must lose nobody."""
    lines = [json.dumps({"email": f"many{n}@{uuid.uuid4().hex[:8]}.example", "password_hash": HASH}) for n in range(1100)]
    gateway.cli("user", "import", "-", stdin="\n".join(lines))
    listed = gateway.cli("user", "list").stdout.splitlines()
    assert len(listed) == rows(gateway, "SELECT count(*) FROM users")[0][0]


@pytest.mark.parametrize("password, says", [("", "8 characters"), ("short", "8 characters"), ("password", "common"), ("x" * 1025, "1024")])
def test_user_add_refuses_weak_passwords(gateway, password, says):
    """The policy holds for operators too; nothing is made."""
    before = everything(gateway)
    fails(gateway, "user", "add", email(), stdin=password + "\n", says=says)
    assert everything(gateway) == before


@pytest.mark.parametrize("address", ["", "ann", "a b@example.com", "a\n@example.com", "a@b@c"])
def test_user_add_refuses_what_is_no_address(gateway, address):
    """A typing mistake would make an account nobody can log in to."""
    before = everything(gateway)
    fails(gateway, "user", "add", address, stdin=PASSWORD + "\n", says="e-mail")
    assert everything(gateway) == before


def test_user_add_refuses_a_taken_address(gateway):
    """The account of somebody else would be overwritten."""
    address = add(gateway)
    before = everything(gateway)
    fails(gateway, "user", "add", address.upper(), stdin="another password\n", says="already registered")
    assert everything(gateway) == before


@pytest.mark.parametrize("command", [["show"], ["disable"], ["enable"], ["set-password"], ["set-roles"], ["delete"]])
@pytest.mark.parametrize("who", ["nobody@example.com", "no-such-id", "", "' OR 1=1 --"])
def test_commands_on_an_unknown_user_fail(gateway, command, who):
    """A typing mistake must not pass for a disabled account."""
    before = everything(gateway)
    more = ["admin"] if command == ["set-roles"] else []
    fails(gateway, "user", *command, who, *more, stdin=PASSWORD + "\n", says="no user")
    assert everything(gateway) == before


def test_user_disable_enable_set_roles_and_delete(gateway):
    """What the commands say must be what they did."""
    address = add(gateway)
    assert "disabled" in gateway.cli("user", "disable", address).stdout
    assert user_row(gateway, address)[4] == 1 and "disabled" in gateway.cli("user", "show", address).stdout
    gateway.cli("user", "disable", address)
    assert "enabled" in gateway.cli("user", "enable", address).stdout
    assert user_row(gateway, address)[4] == 0
    gateway.cli("user", "set-roles", address, "a,b")
    assert json.loads(user_row(gateway, address)[2]) == ["a", "b"]
    gateway.cli("user", "set-roles", address, "")
    assert json.loads(user_row(gateway, address)[2]) == []
    gateway.cli("user", "delete", address)
    assert rows(gateway, "SELECT * FROM users WHERE email = ?", address) == []
    fails(gateway, "user", "delete", address, says="no user")


def test_user_set_password_takes_the_first_line_as_it_is(gateway):
    """Trimming would change the password; a pipe may end its line in CR LF."""
    address = add(gateway)
    before = rows(gateway, "SELECT password_hash FROM users WHERE email = ?", address)
    fails(gateway, "user", "set-password", address, stdin="short\n", says="8 characters")
    assert rows(gateway, "SELECT password_hash FROM users WHERE email = ?", address) == before
    for stdin, kept in ((" spaces kept \n", " spaces kept "), ("windows line\r\n", "windows line"), ("no line end", "no line end")):
        gateway.cli("user", "set-password", address, stdin=stdin)
        assert bcrypt_sha256.verify(kept, rows(gateway, "SELECT password_hash FROM users WHERE email = ?", address)[0][0])


def test_roles_that_would_forge_others_are_refused(gateway):
    """Roles travel in one header, split by commas: one with a line break or control character must not be stored."""
    address = add(gateway)
    for roles in ("a\nb", "a\x1bb", "a\x01b"):
        done = gateway.cli("user", "set-roles", address, roles, check=False)
        stored = json.loads(user_row(gateway, address)[2])
        assert done.returncode == 1 and stored == [], f"{roles!r} stored as {stored}"


WRONG_LINES = {
    "not JSON": ("{", "line 2"),
    "array": ('["a@example.com"]', "line 2"),
    "no secret": ('{"email":"b@example.com"}', "line 2"),
    "two secrets": (json.dumps({"email": "b@example.com", "password": PASSWORD, "password_hash": HASH}), "line 2"),
    "unknown field": (json.dumps({"email": "b@example.com", "password": PASSWORD, "role": "admin"}), "role"),
    "duplicate field": ('{"email":"b@example.com","email":"c@example.com","password":"%s"}' % PASSWORD, "duplicate"),
    "unknown hash": (json.dumps({"email": "b@example.com", "password_hash": "5f4dcc3b5aa765d61d8327deb882cf99"}), "format"),
    "damaged hash": (json.dumps({"email": "b@example.com", "password_hash": HASH[:-3]}), "line 2"),
    "weak password": (json.dumps({"email": "b@example.com", "password": "password"}), "common"),
    "bad address": (json.dumps({"email": "nobody", "password": PASSWORD}), "e-mail"),
    "the same address": (json.dumps({"email": "FIRST@example.com", "password": PASSWORD}), "line 1"),
    "the same id": (json.dumps({"id": "u1", "email": "b@example.com", "password": PASSWORD}), "line 1"),
    "not a time": (json.dumps({"email": "b@example.com", "password": PASSWORD, "created_at": "yesterday"}), "RFC 3339"),
    "expensive argon2id": (json.dumps({"email": "b@example.com", "password_hash": EXPENSIVE}), "line 2"),
}


@pytest.mark.parametrize("line, says", WRONG_LINES.values(), ids=WRONG_LINES.keys())
def test_user_import_with_a_wrong_line_imports_nothing(gateway, line, says):
    """Half an import cannot be repeated; and it must say which line."""
    before = everything(gateway)
    good = json.dumps({"id": "u1", "email": "first@example.com", "password": PASSWORD})
    done = fails(gateway, "user", "import", "-", stdin=f"{good}\n{line}\n", says=says)
    assert "nothing imported" in done.stderr and PASSWORD not in done.stderr
    assert everything(gateway) == before


def test_user_import_names_every_wrong_line(gateway):
    """Ten thousand lines cannot be mended one run at a time."""
    done = fails(gateway, "user", "import", "-", stdin="{\n\n[]\nx\n", says="3 lines are wrong")
    assert [n for n in range(1, 6) if f"line {n}" in done.stderr] == [1, 3, 4]


def test_user_import_leaves_existing_accounts_alone(gateway, tmp_path):
    """A second import would set everybody's password back; skipping must be said and show in the exit code."""
    existing, fresh = add(gateway), email()
    before = rows(gateway, "SELECT * FROM users WHERE email = ?", existing)
    file = tmp_path / "users.jsonl"
    file.write_text("".join(json.dumps({"email": e, "password_hash": HASH, "roles": ["admin"]}) + "\n" for e in (existing, fresh)))
    done = gateway.cli("user", "import", file, check=False)
    assert done.returncode == 1
    assert f"{file}:1" in done.stderr and "already registered" in done.stderr
    assert "1 imported, 0 already there, 1 skipped" in done.stdout
    assert rows(gateway, "SELECT * FROM users WHERE email = ?", existing) == before
    assert user_row(gateway, fresh)[2] == '["admin"]'
    fails(gateway, "user", "import", tmp_path / "missing.jsonl", says="missing.jsonl")


def test_user_import_keeps_ids_and_disabled_accounts_disabled(gateway):
    """Backends know users by id; a disabled account must not come back enabled."""
    address, user_id = email(), f"legacy-{uuid.uuid4().hex[:8]}"
    record = {"id": user_id, "email": address, "name": "Bob", "roles": ["r"], "scopes": ["s"], "password": PASSWORD, "disabled": True}
    gateway.cli("user", "import", "-", stdin=json.dumps(record))
    assert user_row(gateway, address) == (user_id, "Bob", '["r"]', '["s"]', 1)


def users_but(gateway, *columns):
    """Every account, without these columns."""
    kept = [c for c in ("id", "email", "name", "roles", "scopes", "password_hash", "disabled", "created_at") if c not in columns]
    return rows(gateway, f"SELECT {', '.join(kept)} FROM users ORDER BY email")


@pytest.mark.parametrize("to_file", [True, False], ids=["file", "stdout"])
def test_user_export_and_import_carry_every_account(gateways, tmp_path, to_file):
    """Moving to another store must lose neither accounts, nor ids backends know, nor passwords; 1,100 are three pages."""
    here, there = gateways(ROUTE), gateways(ROUTE)
    lines = [{"email": f"many{n}@example.com", "password_hash": HASH} for n in range(1100)]
    lines[0] |= {"name": "Ann \"O'Neil\" \u00e9", "roles": ["admin", "Domain-Admins"], "scopes": ["a:b"], "disabled": True, "id": "legacy/1"}
    lines[1] |= {"created_at": "2015-10-21T07:28:00.5Z"}
    here.cli("user", "import", "-", stdin="\n".join(map(json.dumps, lines)))
    address = add(here)
    file = tmp_path / "users.jsonl"
    done = here.cli("user", "export", *(["--file", str(file)] if to_file else []))
    assert "1101 exported" in done.stderr and "password hashes" in done.stderr
    text = file.read_text() if to_file else done.stdout
    assert text.endswith("\n") and len(text.splitlines()) == 1101
    assert "1101 imported, 0 already there, 0 skipped" in there.cli("user", "import", "-", stdin=text).stdout
    assert users_but(there) == users_but(here)
    created = rows(there, "SELECT created_at FROM users WHERE email = 'many1@example.com'")[0][0]
    assert created == 1445412480500
    assert there.login(address).status_code == 200
    assert there.cli("user", "export").stdout == text


def test_user_export_of_nobody(gateways, tmp_path):
    """A first import must be able to read what an empty store gave."""
    gateway, file = gateways(ROUTE), tmp_path / "none.jsonl"
    assert "0 exported" in gateway.cli("user", "export", "--file", str(file)).stderr
    assert file.read_text() == ""
    assert "0 imported" in gateway.cli("user", "import", str(file)).stdout


def test_user_export_writes_a_new_file_for_its_owner_only(gateway, tmp_path):
    """It holds every password hash; and a typing mistake must not cost a file that is there."""
    add(gateway)
    file = tmp_path / "users.jsonl"
    gateway.cli("user", "export", "--file", str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    before = file.read_text()
    dangling = tmp_path / "link"
    dangling.symlink_to(tmp_path / "elsewhere")
    for taken in (file, dangling, tmp_path):
        fails(gateway, "user", "export", "--file", str(taken), says=str(taken))
    fails(gateway, "user", "export", "--file", str(tmp_path / "missing" / "x"), says="missing")
    assert file.read_text() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "users.jsonl"], "something is left behind"


def test_user_export_that_cannot_be_written_is_an_error(gateway):
    """Half an export that passes for a whole one would lose accounts."""
    add(gateway)
    with open("/dev/full", "w") as full:
        done = subprocess.run([str(BINARY), "user", "export", "-c", str(gateway.file)], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and "No space left" in done.stderr and "exported" not in done.stderr, done


def test_user_export_that_is_interrupted_leaves_no_file(gateways, tmp_path):
    """Password hashes under a name nobody looks for would stay there for ever."""
    gateway = gateways(ROUTE)
    with contextlib.closing(sqlite3.connect(database_file(gateway), timeout=10)) as db, db:
        db.executemany(
            "INSERT INTO users (id, email, roles, scopes, password_hash, disabled, created_at) VALUES (?, ?, '[]', '[]', ?, 0, 0)",
            ((f"{n:09}", f"{n}@example.com", HASH) for n in range(200_000)),
        )
    folder = tmp_path / "exports"
    folder.mkdir()
    file = folder / "users.jsonl"
    run = subprocess.Popen([str(BINARY), "user", "export", "--file", str(file), "-c", str(gateway.file)], stderr=subprocess.PIPE, text=True)
    eventually(lambda: sum(p.stat().st_size for p in folder.iterdir()) > 100_000, 20, "the export having begun")
    assert not file.exists() and all(p.stat().st_mode & 0o777 == 0o600 for p in folder.iterdir())
    run.send_signal(signal.SIGINT)
    said = run.communicate(timeout=20)[1]
    assert run.returncode == 1 and "interrupted: nothing is written" in said, said
    assert list(folder.iterdir()) == []


def test_user_import_can_be_repeated(gateway):
    """An import that was interrupted is begun again: what it made must not count as a mistake."""
    addresses = [email() for _ in range(3)]
    by_id = json.dumps({"id": uuid.uuid4().hex, "email": addresses[0], "password": PASSWORD, "roles": ["a"]})
    by_hash = json.dumps({"email": addresses[1], "password_hash": HASH})
    fresh = json.dumps({"email": addresses[2], "password_hash": HASH})
    gateway.cli("user", "import", "-", stdin=f"{by_id}\n{by_hash}\n")
    gateway.cli("user", "set-roles", addresses[0], "b")
    before = [rows(gateway, "SELECT * FROM users WHERE email = ?", a) for a in addresses[:2]]
    done = gateway.cli("user", "import", "-", stdin=f"{by_id}\n{by_hash}\n{fresh}\n")
    assert "1 imported, 2 already there, 0 skipped" in done.stdout and "skipped" not in done.stderr
    assert [rows(gateway, "SELECT * FROM users WHERE email = ?", a) for a in addresses[:2]] == before


def test_user_import_of_somebody_else_is_not_a_repetition(gateway):
    """Another account under the same address or id must show in the exit code."""
    address, user_id = email(), uuid.uuid4().hex
    gateway.cli("user", "import", "-", stdin=json.dumps({"id": user_id, "email": address, "password_hash": HASH}))
    before = everything(gateway)
    for record, says in (
        ({"id": user_id, "email": email(), "password_hash": HASH}, "id is already in use"),
        ({"id": user_id + "x", "email": address, "password_hash": HASH}, "already registered"),
        ({"email": address, "password_hash": HASH.replace("$04$C", "$04$D")}, "already registered"),
        ({"email": address, "password": PASSWORD}, "already registered"),
    ):
        done = fails(gateway, "user", "import", "-", stdin=json.dumps(record), says=says)
        assert "0 imported, 0 already there, 1 skipped" in done.stdout
    assert everything(gateway) == before


def test_user_import_that_is_killed_is_taken_up_again(gateways):
    """SIGINT and SIGKILL between any two accounts: whole accounts only, and the second run makes the rest."""
    gateway = gateways(ROUTE)
    text = "".join(json.dumps({"id": f"u{n}", "email": f"u{n}@example.com", "password_hash": HASH}) + "\n" for n in range(3000))
    for end in (signal.SIGINT, signal.SIGKILL):
        count = len(users_but(gateway))
        run = subprocess.Popen([str(BINARY), "user", "import", "-", "-c", str(gateway.file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        run.stdin.write(text)
        run.stdin.close()
        eventually(lambda: len(users_but(gateway)) > count + 20, 20, "the import having begun")
        run.send_signal(end)
        assert run.wait(20) == -end, "it was done before it could be killed"
        run.stdout.close(), run.stderr.close()
    made = len(users_but(gateway))
    assert 20 < made < 3000
    done = gateway.cli("user", "import", "-", stdin=text)
    assert f"{3000 - made} imported, {made} already there, 0 skipped" in done.stdout
    assert len(users_but(gateway)) == 3000


def kids(gateway):
    lines = [line.split() for line in gateway.cli("keys", "list").stdout.splitlines()]
    return {fields[0]: fields[2] for fields in lines}


def test_keys_list_and_rotate(gateway):
    """B 15, 16: one key signs, older ones verify for a token's lifetime."""
    before = kids(gateway)
    assert list(before.values()).count("signs") == 1
    pending = gateway.cli("keys", "rotate").stdout.split()[0]
    after = kids(gateway)
    assert after == {**before, pending: "pending,"}
    text = gateway.cli("keys", "list").stdout
    assert re.search(r"pending, signs from \d{4}-\d\d-\d\dT", text) and re.search(r"signs until \d{4}-\d\d-\d\dT", text)
    said = gateway.cli("keys", "rotate", "--now").stdout.split()[0]
    after = kids(gateway)
    assert set(before) < set(after) and after[said] == "signs" and said not in before
    assert list(after.values()).count("signs") == 1
    text = gateway.cli("keys", "list").stdout
    assert re.search(r"verifies until \d{4}-\d\d-\d\dT", text)
    for file in (gateway.folder / "data" / "keys").iterdir():
        assert file.stat().st_mode & 0o077 == 0, f"{file.name} can be read by others"


def test_rotation_reaches_the_running_gateway(gateways):
    """B 16: no false 401, new tokens under the new key within moments."""
    gateway = gateways(ROUTE)
    account = gateway.register()
    kid = gateway.cli("keys", "rotate", "--now").stdout.split()[0]
    def rotated():
        assert gateway.get("/api/x", account.access).status_code == 200
        return jwt.get_unverified_header(gateway.login(account.email).json()["access_token"])["kid"] == kid
    eventually(rotated, 5, "the new key signing")
    assert kid in [k["kid"] for k in gateway.get("/.well-known/jwks.json").json()["keys"]]
    assert gateway.get("/api/x", account.access).status_code == 200


def test_token_inspect(gateways):
    """An operator asks why a token is refused: the reason must be the true one, the exit code scriptable."""
    gateway = gateways(ROUTE)
    account = gateway.register()
    done = gateway.cli("token", "inspect", account.access)
    assert "valid: yes" in done.stdout and account.id in done.stdout and "at+jwt" in done.stdout
    assert "valid: yes" in gateway.cli("token", "inspect", "-", stdin=account.access + "\n").stdout
    assert account.access.split(".")[2] not in done.stdout, "the signature makes it a usable token"

    def refused(token, reason):
        answer = gateway.cli("token", "inspect", token, check=False)
        assert answer.returncode == 1 and "valid: no" in answer.stdout and reason in answer.stdout, answer

    head, claims, signature = account.access.split(".")
    refused("garbage", "three")
    refused("a.b.c", "base64url")
    refused(f"{head}.{claims}.{'A' * len(signature)}", "signature")
    refused(account.refresh, "three")
    refused("", "three")
    gateway.post("/auth/logout", token=account.access)
    refused(account.access, "ended")


def test_token_inspect_names_an_expired_token(gateways):
    """Expired is not forged."""
    gateway = gateways(ROUTE, tokens='access_ttl = "10s"\nleeway = "0s"')
    account = gateway.register()
    eventually(lambda: gateway.get("/api/x", account.access).status_code == 401, 20, "the token expiring")
    done = gateway.cli("token", "inspect", account.access, check=False)
    assert done.returncode == 1 and "expired" in done.stdout and account.id in done.stdout


@pytest.mark.parametrize("args", [["user"], ["user", "frobnicate"], ["keys", "burn"], ["user", "add"], ["--nonsense"], ["token", "inspect"]])
def test_wrong_usage_is_exit_code_2(gateway, args):
    """Scripts tell a typing mistake from a refusal."""
    done = gateway.cli(*args, check=False)
    assert done.returncode == 2 and "Usage" in done.stderr + done.stdout


def test_commands_with_a_broken_configuration_do_nothing(gateways):
    """A command on the wrong data would be worse than none."""
    gateway = gateways(ROUTE)
    text = gateway.file.read_text()
    gateway.file.write_text(text + "\nnonsense = 1\n")
    done = gateway.cli("user", "add", email(), stdin=PASSWORD + "\n", check=False)
    assert done.returncode == 1 and "nonsense" in done.stderr
    assert rows(gateway, "SELECT * FROM users") == []
    missing = gateway.cli("user", "list", check=False)
    assert missing.returncode == 1


def test_the_running_gateway_sees_what_commands_do(gateways):
    """Accounts made beside the gateway would need a restart."""
    gateway = gateways(ROUTE)
    address = add(gateway, "--roles", "admin")
    answer = gateway.login(address)
    assert answer.status_code == 200 and answer.json()["user"]["roles"] == ["admin"]
    gateway.cli("user", "set-password", address, stdin="a different one\n")
    problem(gateway.login(address), 401, "invalid_credentials")
    assert gateway.login(address, "a different one").status_code == 200
