"""What the tests of accounts, sessions and passwords share."""

import contextlib
import json
import re
import socket
import sqlite3

PROBLEM_MEMBERS = {"title", "status", "code", "detail", "request_id"}


def problem(answer, status, code):
    """Asserts that `answer` is this problem (RFC 9457), complete and not cacheable; gives its members."""
    assert answer.status_code == status, f"{answer.status_code} {answer.text}"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    members = answer.json()
    assert set(members) == PROBLEM_MEMBERS
    assert (members["status"], members["code"]) == (status, code), members
    assert members["request_id"] == answer.headers["x-request-id"]
    assert members["title"] and members["detail"]
    return members


def alike(answer):
    """A problem without what differs from one request to the next."""
    headers = {k: v for k, v in answer.headers.items() if k not in ("date", "x-request-id", "content-length")}
    return answer.status_code, {k: v for k, v in answer.json().items() if k != "request_id"}, headers


def database_file(gateway):
    return gateway.folder / "data" / "portcullis.db"


def rows(gateway, sql, *parameters):
    """What the gateway's database holds, read beside it."""
    with contextlib.closing(sqlite3.connect(f"file:{database_file(gateway)}?mode=ro", uri=True, timeout=10)) as db:
        return db.execute(sql, parameters).fetchall()


def everything(gateway):
    """Users, families and revocations: equal before and after a call that must change nothing."""
    return [rows(gateway, f"SELECT * FROM {table} ORDER BY 1") for table in ("users", "families", "revocations")]


def session_of(gateway, token):
    return gateway.get("/auth/me", token).json()["session"]


def device_cookie(answer):
    """Name and value of the cookie by which a device is known."""
    return re.match(r"(portcullis_device)=([^;]+)", answer.headers["set-cookie"]).groups()


def json_request(method, path, body, **headers):
    """The bytes of one HTTP/1.1 request with a JSON body."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": len(body), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def at_once(gateway, requests):
    """Sends every request on a connection of its own, all of them complete at the same moment; the open sockets."""
    sockets = [socket.create_connection(("127.0.0.1", gateway.port), timeout=60) for _ in requests]
    for s, data in zip(sockets, requests):
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        s.sendall(data[:-1])
    for s, data in zip(sockets, requests):
        s.sendall(data[-1:])
    return sockets


def read_answer(s):
    """Status, header text (lower-cased) and body of the one response on socket `s`."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = s.recv(65536)
        assert chunk, f"closed after {data!r}"
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    head = head.decode("latin-1").lower()
    length = re.search(r"^content-length: *(\d+)", head, re.M)
    while length and len(body) < int(length[1]):
        chunk = s.recv(65536)
        assert chunk, "closed within a body"
        body += chunk
    return int(head.split(" ", 2)[1]), head, body


def answers_to(gateway, requests):
    sockets = at_once(gateway, requests)
    try:
        return [read_answer(s) for s in sockets]
    finally:
        for s in sockets:
            s.close()
