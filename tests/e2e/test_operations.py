"""What operators live with: metrics, probes, logs, signals, start-up errors, and the commands."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time

import httpx
import pytest

from conftest import API, BINARY, PASSWORD, eventually, free_port
from wire import Wire, exchange, get, post

ROUTE = '[[routes]]\npath = "/echo"\nauth = "none"\necho = true\n'


def admin(gateway, path, method="GET"):
    return httpx.request(method, f"http://127.0.0.1:{gateway.admin_port}{path}")


def run(*args, cwd, env=None, timeout=30):
    return subprocess.run([str(BINARY), *map(str, args)], capture_output=True, text=True, cwd=cwd, env={**os.environ, **(env or {})}, timeout=timeout)


# Metrics and probes --------------------------------------------------------------------------------------------


def test_metrics_count_requests(api):
    """Counters by route pattern and status, in the format Prometheus reads; nothing a client chooses becomes a label."""
    account = api.register()
    for _ in range(3):
        api.get("/api/one", account.access)
    api.get("/api/two")
    api.get("/nowhere/secret-path?token=x")
    api.raw(b"GET / HTTP/1.1\r\n\r\n")
    sample = "portcullis_http_requests_total"
    assert api.metric(sample + '{route="/api/{*rest}",status="200"}') == 3
    assert api.metric(sample + '{route="/api/{*rest}",status="401"}') == 1
    assert api.metric(sample + '{route="-",status="404"}') == 1
    assert api.metric('portcullis_http_rejected_heads_total{status="400"}') == 1
    assert api.metric('portcullis_http_request_duration_seconds_count{route="/api/{*rest}"}') == 4
    assert api.metric("portcullis_panics_total") == 0
    answer = admin(api, "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    for line in answer.text.splitlines():
        assert re.fullmatch(r'(# (HELP|TYPE) .*)|[a-z_]+(\{([a-z]+="[^"]*",?)*\})? [-+0-9.e]+|[a-z_]+\{.*le="\+Inf".*\} \d+', line), line
    assert not any(secret in answer.text for secret in ("secret-path", account.id, account.email, account.access))


def test_admin_is_not_on_the_public_listener(api):
    """/metrics and the probes are for the admin address alone, which serves nothing else."""
    for path in ("/metrics", "/livez", "/readyz"):
        assert api.get(path).status_code == 404
        assert admin(api, path).status_code == 200
        assert admin(api, path, "POST").status_code == 405
    assert admin(api, "/auth/me").status_code == 404
    assert admin(api, "/").status_code == 404


def test_readyz_tells_the_truth_while_stopping(api):
    """Draining: not ready any more, still alive."""
    assert admin(api, "/readyz").json() == {
        "ready": True, "users": "ok", "sessions": "ok", "revocations": "ok", "draining": False, "file_stores": {}, "unresolved_upstreams": [],
    }
    with Wire(api.port) as wire:
        wire.send(get("/public/x?delay=1500"))
        eventually(lambda: api.metric("portcullis_http_requests_in_flight") == 1)
        api.process.process.send_signal(signal.SIGTERM)
        with httpx.Client() as client:
            def draining():
                try:
                    return client.get(f"http://127.0.0.1:{api.admin_port}/readyz").status_code == 503
                except httpx.TransportError:
                    return True
            eventually(draining, what="not ready")
        assert wire.response().status == 200


# Logs ----------------------------------------------------------------------------------------------------------


def log_lines(gateway, count):
    return eventually(lambda: (lines := gateway.access_log()) and len(lines) >= count and lines, what=f"{count} log lines")


def test_access_log_has_one_json_line_a_request(api):
    """With the id the client and the backend were given, and who, where, what; without query, headers or bodies."""
    account = api.register()
    seen = {}
    for method, path, token, status in [
        ("GET", "/api/x?secret=canary-query", account.access, 200), ("GET", "/api/x", None, 401), ("GET", "/nowhere", None, 404),
        ("POST", "/.well-known/jwks.json", None, 405), ("GET", "/public/%2e%2e/x", None, 400), ("GET", "/echo/x", account.access, 200),
    ]:
        answer = api.request(method, path, token, headers={"X-Canary": "canary-header"})
        assert answer.status_code == status
        seen[answer.headers["x-request-id"]] = (method, status)
    malformed = exchange(api.port, b"GET / HTTP/1.1\r\nBad Header\r\n\r\n")[0]
    seen[malformed.get("x-request-id")] = ("-", 400)
    lines = log_lines(api, 8)
    assert len(lines) == 8 and len(seen) == 7
    by_id = {line["request_id"]: line for line in lines}
    for request_id, (method, status) in seen.items():
        assert (by_id[request_id]["method"], by_id[request_id]["status"]) == (method, status)
    first = by_id[next(iter(seen))]
    assert first["user"] == account.id and first["path"] == "/api/x" and first["route"] == "/api/{*rest}" and first["client"] == "127.0.0.1"
    assert first["upstream"] == api.backend.address and first["bytes_out"] > 0
    forwarded = dict(zip(*[iter(api.backend.requests()[0]["rawHeaders"])] * 2))
    assert {n.lower(): v for n, v in forwarded.items()}["x-request-id"] == first["request_id"]
    output = api.process.stdout() + api.process.stderr()
    for secret in ("canary", account.access, account.refresh, PASSWORD):
        assert secret not in output


def test_request_id_of_a_client_is_not_believed(api):
    """Our own id, and one only, whatever the client sends under that name."""
    answer = api.get("/public/x", headers={"X-Request-Id": "evil", "X_Request_Id": "evil"})
    ids = [v for n, v in zip(*[iter(answer.json()["rawHeaders"])] * 2) if n.lower().replace("_", "-") == "x-request-id"]
    assert ids == [answer.headers["x-request-id"]] and ids != ["evil"]


INJECTIONS = ['%0d%0a{"status":200}', "%1b[31mred", "%0aGET", '"}{"a":"', "\\n", "%e2%80%a8", "\u001b[2J"]


def test_threat_log_injection(api):
    """CR, LF and escape sequences in path, user agent, host, key id and e-mail stay within one JSON line each."""
    import base64
    requests = []
    for text in INJECTIONS:
        requests.append(get(f"/public/{text}"))
        requests.append(get("/public/x", "localhost", f"User-Agent: {text}"))
        requests.append(get("/public/x", f"{text}.example.com"))
        for kid in (text, "a\r\nb\x1b[31m\u2028"):
            header = base64.urlsafe_b64encode(json.dumps({"alg": "ES256", "typ": "at+jwt", "kid": kid}).encode()).rstrip(b"=").decode()
            requests.append(get("/api/x", "localhost", f"Authorization: Bearer {header}.e30.AAAA"))
        requests.append(post("/auth/login", json.dumps({"email": f"a\r\nb{text}\x1b[31m@example.com", "password": "x"}).encode(), "Content-Type: application/json"))
    for request in requests:
        with Wire(api.port) as wire:
            assert wire.send(request.decode("latin-1").encode("latin-1")).response().status in (200, 400, 401, 422, 429)
    lines = log_lines(api, len(requests))
    assert len(lines) == len(requests)
    for raw in (api.process.stdout_path.read_bytes(), b"\n".join(l for l in api.process.stderr_path.read_bytes().splitlines() if l.startswith(b"{"))):
        assert b"\x1b" not in raw and b"\r" not in raw
        for line in raw.decode().split("\n"):
            assert not line or json.loads(line)


# Signals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_stopping_when_idle(api, how):
    """Exit code 0, within a moment though the grace period is half a minute, kept connections or not; the log is whole."""
    with Wire(api.port) as kept:
        assert kept.send(get("/public/x")).response().status == 200
        started = time.monotonic()
        assert api.stop(how) == 0
        assert time.monotonic() - started < 10, "it waited for its grace period"
    assert len(api.access_log()) == 1


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_stopping_lets_running_requests_finish(api, how):
    """What runs is answered, what is new is not accepted, and then the process ends with 0."""
    with Wire(api.port) as running:
        running.send(get("/public/x?delay=1000"))
        eventually(lambda: api.metric("portcullis_http_requests_in_flight") == 1)
        api.process.process.send_signal(how)
        assert running.response().status == 200
    assert api.process.process.wait(timeout=20) == 0
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", api.port), timeout=2)
    assert [line["status"] for line in api.access_log()] == [200]


def test_stopping_ends_after_the_grace_period(gateways, backend):
    """A request that does not end holds the process no longer than shutdown_grace; a second signal ends it at once."""
    for second in (False, True):
        grace = '"1s"' if not second else '"1h"'
        gateway = gateways(API.format(address=backend.address), server=f"shutdown_grace = {grace}")
        with Wire(gateway.port) as wire:
            wire.send(get("/public/x?delay=60000"))
            eventually(lambda: gateway.metric("portcullis_http_requests_in_flight") == 1)
            gateway.process.process.send_signal(signal.SIGTERM)
            if second:
                eventually(lambda: '"stopping"' in gateway.process.stderr(), what="stopping")
                gateway.process.process.send_signal(signal.SIGTERM)
            assert gateway.process.process.wait(timeout=20) == 0


def test_sighup_does_not_end_the_process(api):
    """It is what a closed terminal sends, and what operators reload with: never the end."""
    for _ in range(3):
        api.process.process.send_signal(signal.SIGHUP)
        assert api.get("/public/x").status_code == 200
    assert api.process.process.poll() is None


# Starting ------------------------------------------------------------------------------------------------------


def write(folder, text="", listen=None, admin_port=None):
    file = folder / "gateway.toml"
    file.write_text(f'[server]\nlisten = ["127.0.0.1:{listen or free_port()}"]\nadmin = "127.0.0.1:{admin_port or free_port()}"\n{text}')
    return file


@pytest.mark.parametrize("which", ["listen", "admin_port"])
def test_port_in_use(tmp_path, which):
    """Exit code 1 and one line that names the address; no panic, no backtrace."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("run", "-c", write(tmp_path, ROUTE, **{which: port}), cwd=tmp_path)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr and "panic" not in done.stderr and "backtrace" not in done.stderr


def test_missing_configuration(tmp_path):
    """Says which file it looked for; the default, the flag and the variable."""
    for args, env, name in [((), {}, "gateway.toml"), (("run", "-c", "other.toml"), {}, "other.toml"), (("check",), {"PORTCULLIS_CONFIG": "third.toml"}, "third.toml")]:
        done = run(*args, cwd=tmp_path, env=env)
        assert done.returncode == 1 and name in done.stderr and "panic" not in done.stderr, done
        assert done.stdout == ""


def test_wrong_configuration(tmp_path):
    """Every problem at once, with line and remedy; exit code 1; nothing listens and no data is made."""
    file = write(tmp_path, '[[routes]]\npath = "no-slash"\necho = true\n[[routes]]\npath = "/x"\nupstream = "nobody"\nfoo = 1\n')
    for args in (("run", "-c", file), ("check", "-c", file)):
        done = run(*args, cwd=tmp_path)
        assert done.returncode == 1
        assert all(word in done.stderr for word in ("gateway.toml:5", "no-slash", "nobody", "foo", "help:")), done.stderr
        assert "panic" not in done.stderr
    assert not (tmp_path / "data").exists()


def test_unreadable_certificate_is_a_problem_of_the_file(tmp_path):
    file = tmp_path / "gateway.toml"
    file.write_text('[server]\nlisten = [{ address = "127.0.0.1:0", tls = { cert = "none.pem", key = "none.key" } }]\nadmin = "off"\n' + ROUTE)
    done = run("check", "-c", file, cwd=tmp_path)
    assert done.returncode == 1 and "none.pem" in done.stderr and "panic" not in done.stderr


def test_data_dir_that_cannot_be_written(tmp_path):
    """Not a directory, or one that cannot be made: exit code 1 and its name."""
    (tmp_path / "file").write_text("")
    for folder in ("file", "file/below", "/proc/portcullis"):
        done = run("run", "-c", write(tmp_path, f'data_dir = "{folder}"\n{ROUTE}'), cwd=tmp_path)
        assert done.returncode == 1 and folder.split("/")[-1] in done.stderr and "panic" not in done.stderr, done


def test_secrets_have_mode_0600(api):
    """Keys, secrets and the database are readable by nobody else."""
    api.register()
    found = [p for p in (api.folder / "data").rglob("*")]
    assert found
    for path in found:
        assert path.stat().st_mode & 0o077 == 0, path


# Commands ------------------------------------------------------------------------------------------------------


def test_check_and_schema(gateways, tmp_path):
    """`check` of a good file says so on standard output; `schema` is the JSON Schema of the file."""
    file = write(tmp_path, ROUTE)
    done = run("check", "-c", file, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and "no problems (1 routes, 0 upstreams)" in done.stdout
    schema = json.loads(run("schema", cwd=tmp_path).stdout)
    assert schema["title"] == "gateway.toml" and set(schema["properties"]) >= {"server", "tokens", "routes", "upstreams", "identity"}
    assert schema["additionalProperties"] is False


def test_the_configuration_in_the_repository_is_right():
    root = pathlib.Path(__file__).parent.parent.parent
    done = run("check", "-c", root / "gateway.toml", cwd=root)
    assert done.returncode == 0, done.stderr


EXPLAINED = [
    (("GET", "/public/x"), 0, ["allowed", "/public/{*rest}"]),
    (("GET", "/api/x"), 1, ["refused with 401"]),
    (("GET", "/api/x", "--roles", "user"), 0, ["allowed", 'upstream "api"']),
    (("GET", "/admin/x", "--roles", "user"), 1, ["refused with 403", "admin"]),
    (("GET", "/admin/x", "--roles", "user,admin"), 0, ["allowed", "X-User-Roles"]),
    (("GET", "http://any.example.com/optional/x"), 0, ["allowed", "anonymous"]),
    (("GET", "/nowhere"), 1, ["refused with 404"]),
    (("GET", "/auth/login"), 1, ["refused with 405", "POST"]),
    (("POST", "/auth/login"), 0, ["allowed", "endpoint"]),
    (("GET", "/public/../admin/x"), 1, ["refused with 400"]),
    (("GET", "/public/%2e%2e/admin/x"), 1, ["refused with 400"]),
    (("GET", "/api/x", "--token", "nonsense"), 1, ["refused with 401"]),
    (("GET", "http://a b/public/x"), 1, ["400"]),
]


def test_explain(api):
    """The same verdicts as the gateway gives, with the reason, and 0 or 1 for scripts."""
    for args, code, words in EXPLAINED:
        done = api.cli("explain", *args, check=False)
        assert done.returncode == code, (args, done.stdout, done.stderr)
        said = (done.stdout + done.stderr).lower()
        assert all(word.lower() in said for word in words), (args, said)


def test_explain_with_a_token_of_ours(api):
    """A live token explains as the gateway would judge it, a revoked one too; the token is not printed."""
    account = api.register()
    done = api.cli("explain", "GET", "/api/x", "--token", "-", stdin=account.access)
    assert "allowed" in done.stdout and account.id in done.stdout and account.access not in done.stdout
    assert api.post("/auth/logout", {"refresh_token": account.refresh}).status_code == 204
    done = api.cli("explain", "GET", "/api/x", "--token", account.access, check=False)
    assert done.returncode == 1 and "401" in done.stdout
