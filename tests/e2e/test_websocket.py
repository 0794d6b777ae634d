"""Upgrades and tunnels: only WebSocket, only after authentication, only after the backend's 101."""

import asyncio
import json
import re
import time

import pytest
import websockets

from conftest import Backend, eventually, serving
from wire import ScriptedBackend, Wire, answering, get

CONFIG = """
[upstreams.node]
servers = ["{node}"]
[upstreams.scripted]
servers = ["{scripted}"]
timeouts = {{ read = "1s" }}

[[routes]]
path = "/public/{{*rest}}"
upstream = "node"
auth = "none"
[[routes]]
path = "/api/{{*rest}}"
upstream = "node"
[[routes]]
path = "/admin/{{*rest}}"
upstream = "node"
require = {{ roles = ["admin"] }}
[[routes]]
path = "/scripted/{{*rest}}"
upstream = "scripted"
auth = "none"
[[routes]]
path = "/posts/{{*rest}}"
methods = ["POST"]
upstream = "node"
auth = "none"
"""
SERVER = '[server.limits]\nheader_timeout = "1s"\nbody_timeout = "1s"\nidle_timeout = "2s"'
UPGRADE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
ORDINARY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


class Site:
    def __init__(self, gateway, node, scripted):
        self.gateway, self.node, self.scripted, self.port = gateway, node, scripted, gateway.port
        self.account = gateway.register()

    def bearer(self):
        return {"Authorization": f"Bearer {self.account.access}"}

    def address(self, path):
        return f"ws://127.0.0.1:{self.port}{path}"


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    folder = tmp_path_factory.mktemp("upgrades")
    node, scripted = Backend(folder), ScriptedBackend(answering(ORDINARY))
    with serving(folder, CONFIG.format(node=node.address, scripted=scripted.address), server=SERVER) as gateway:
        yield Site(gateway, node, scripted)
    node.stop()
    scripted.stop()


@pytest.fixture
def site(everything):
    everything.node.forget()
    everything.scripted.heads.clear()
    everything.scripted.script = answering(ORDINARY)
    return everything


async def talk(address, *messages, headers=None, **kw):
    """What the backend says first (what it received), and its echo of each message."""
    async with websockets.connect(address, additional_headers=headers or {}, proxy=None, max_size=None, **kw) as socket:
        hello = json.loads(await socket.recv())
        echoes = []
        for message in messages:
            await socket.send(message)
            echoes.append(await socket.recv())
        await socket.close(1000, "done")
        return hello, echoes, socket.close_code


def test_websocket_echoes_through_the_gateway(site):
    """Text, binary, empty and large messages go both ways, and the close handshake completes."""
    messages = ["hello", "ünïcode ✓", b"\x00\xff" * 10, "", b"", "x" * 200_000, b"\x07" * 3_000_000]
    hello, echoes, code = asyncio.run(talk(site.address("/api/ws?q=1"), *messages, headers=site.bearer()))
    assert echoes == messages and code == 1000
    assert hello["url"] == "/api/ws?q=1"


def test_websocket_backend_gets_the_identity(site):
    """The handshake is a request like any other: our identity headers, not the client's, and no token."""
    spoof = {**site.bearer(), "X-User-Id": "evil", "X_User_Id": "evil", "X-Forwarded-For": "1.2.3.4"}
    hello, _, _ = asyncio.run(talk(site.address("/api/ws"), headers=spoof))
    headers = hello["headers"]
    assert headers["x-user-id"] == site.account.id and headers["x-user-email"] == site.account.email
    assert "authorization" not in headers and "x_user_id" not in headers
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["upgrade"].lower() == "websocket" and "upgrade" in headers["connection"].lower()


def test_websocket_on_a_public_route_has_no_identity(site):
    hello, echoes, _ = asyncio.run(talk(site.address("/public/ws"), "a", headers={"X-User-Id": "evil"}))
    assert echoes == ["a"] and "x-user-id" not in hello["headers"]


def test_websocket_many_at_once(site):
    """Forty tunnels at the same time keep their own messages."""
    async def all_of_them():
        return await asyncio.gather(*[talk(site.address("/api/ws"), f"{i}", str(i) * 2000, headers=site.bearer()) for i in range(40)])
    assert [echoes for _, echoes, _ in asyncio.run(all_of_them())] == [[f"{i}", str(i) * 2000] for i in range(40)]


def test_websocket_backend_closes(site):
    """The end of the backend's connection reaches the client, and the tunnel is no longer counted."""
    async def run():
        async with websockets.connect(site.address("/public/ws"), proxy=None) as socket:
            await socket.recv()
            await socket.close(4000, "bye")
            return socket.close_code
    assert asyncio.run(run()) == 4000
    eventually(lambda: site.gateway.metric("portcullis_http_requests_in_flight") == 0, what="no request in flight")


@pytest.mark.parametrize("fields, status", [
    ((), 401), (("Authorization: Bearer nonsense",), 401), (("Authorization: Basic YTpi",), 401), (("Connection: Upgrade, Authorization",), 401),
])
@pytest.mark.parametrize("protocol", ["websocket", "WebSocket", "h2c", "foo", "websocket, h2c", "TLS/1.0", ""])
def test_threat_upgrade_without_a_token(site, protocol, fields, status):
    """Whatever the upgrade, a guarded route answers 401 and the backend sees nothing, not even afterwards."""
    upgrade = [f for f in UPGRADE if not f.startswith("Upgrade:")] + [f"Upgrade: {protocol}", "HTTP2-Settings: AAMAAABkAAQAAP__"]
    with Wire(site.port) as wire:
        answer = wire.send(get("/api/ws", "localhost", *upgrade, *fields)).response()
        assert answer.status == status and answer.get("www-authenticate", "").startswith("Bearer")
        wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + get("/api/smuggled"))
        assert all(a.status in (400, 401, 505) for a in wire.responses())
    assert site.node.requests() == []


def test_threat_upgrade_without_the_role(site):
    with Wire(site.port) as wire:
        request = get("/admin/ws", "localhost", *UPGRADE, f"Authorization: Bearer {site.account.access}")
        assert wire.send(request).response().status == 403
    assert site.node.requests() == []


@pytest.mark.parametrize("fields", [
    ("Connection: Upgrade", "Upgrade: foo"),
    ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
    ("Connection: Upgrade", "Upgrade: TLS/1.0"),
    ("Connection: Upgrade", "Upgrade: h2c, websocket"),
    ("Upgrade: websocket",),
    ("Connection: close, foo", "Upgrade: websocket", "Foo: bar"),
], ids=["foo", "h2c", "tls", "list", "no_connection_option", "other_option"])
def test_threat_other_upgrades_give_no_tunnel(site, fields):
    """Even for a backend that would switch to anything: it is asked an ordinary request, so nothing after it is a
    tunnel. Otherwise requests inside the tunnel pass by every check."""
    site.scripted.script = switching_to_everything
    with Wire(site.port) as wire:
        wire.send(get("/scripted/x", "localhost", *fields))
        try:
            answer = wire.head()
        except Exception:
            answer = None
        assert answer is None or answer.status != 101
        wire.send(get("/api/smuggled"))
    assert [h for h in site.scripted.heads if b"smuggled" in h] == []
    assert not any(re.search(rb"(?im)^(upgrade|http2-settings|foo):", h) for h in site.scripted.heads)


def switching_to_everything(connection, head):
    asked = re.search(rb"(?im)^upgrade: *(.*?)\r?$", head)
    if not asked:
        connection.sendall(ORDINARY)
        return
    connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + asked[1] + b"\r\n\r\n")


def test_b46_no_tunnel_when_the_backend_does_not_switch(site):
    """What follows an upgrade request that was answered 200 is a request of its own, checked like any other
    (pingora CVE-2026-2833 passed it to the backend)."""
    with Wire(site.port) as wire:
        wire.send(get("/scripted/ws", "localhost", *UPGRADE) + get("/api/smuggled"))
        answers = wire.responses()
    assert answers[0].status == 200 and all(a.status == 401 for a in answers[1:]), answers
    assert len(site.scripted.heads) == 1
    assert not any(b"smuggled" in head for head in site.scripted.heads)
    assert site.node.requests() == []


def test_b46_no_bytes_before_the_backend_switches(site):
    """Bytes sent behind the handshake wait for the 101; a refused handshake never lets them through."""
    refused = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
    site.scripted.script = answering(refused)
    with Wire(site.port) as wire:
        assert wire.send(get("/scripted/ws", "localhost", *UPGRADE)).response().status == 403
        answer = wire.send(get("/api/smuggled")).responses()
        assert all(a.status == 401 for a in answer)
    assert [h.split(b" ")[1] for h in site.scripted.heads] == [b"/scripted/ws"]


@pytest.mark.parametrize("early, later", [(b"early", b"later"), (b"x" * 20_000, b"y" * 200_000), (b"", b"later")], ids=["few", "many", "none"])
def test_bytes_behind_the_handshake_go_through_the_tunnel(site, early, later):
    """What a client sends before it has the 101 reaches the backend after it, in order, and so does all that follows."""
    def script(connection, _):
        time.sleep(0.1)
        connection.sendall(SWITCHING)
        received = b""
        while len(received) < len(early + later):
            received += connection.recv(65536)
        connection.sendall(received)
        return False
    site.scripted.script = script
    with Wire(site.port) as wire:
        wire.send(get("/scripted/ws", "localhost", *UPGRADE) + early[:3], early[3:])
        assert wire.head().status == 101
        wire.send(later)
        assert wire.take(len(early + later)) == early + later
    assert [h.split(b" ")[1] for h in site.scripted.heads] == [b"/scripted/ws"]


def test_b46_unasked_101_gives_no_tunnel(site):
    """A backend that answers an ordinary request with 101 is broken: 502, or 504 when it says no more; no tunnel to it."""
    site.scripted.script = answering(SWITCHING)
    with Wire(site.port) as wire:
        assert wire.send(get("/scripted/x")).response().status in (502, 504)
        assert all(a.status == 401 for a in wire.send(get("/api/smuggled")).responses())
    assert [h.split(b" ")[1] for h in site.scripted.heads] == [b"/scripted/x"]


def test_upgrade_on_a_post_with_a_body(site):
    """A body in front of the tunnel is the backend's business only as a body: it is framed, and requests in it are none."""
    with Wire(site.port) as wire:
        hidden = get("/api/smuggled")
        data = get("/scripted/x", "localhost", *UPGRADE, f"Content-Length: {len(hidden)}", method="POST") + hidden
        answers = wire.send(data).responses()
    assert len(answers) <= 1 and all(a.status in (200, 400, 405) for a in answers)
    assert site.node.requests() == []


def test_a_tunnel_outlives_the_body_timeout(site):
    """A WebSocket that is quiet for longer than a request body may be is not a slow body: it stays."""
    async def run():
        async with websockets.connect(site.address("/public/ws"), proxy=None, ping_interval=None) as socket:
            await socket.recv()
            await asyncio.sleep(1.5)  # longer than SERVER's body_timeout
            await socket.send("still here")
            return await socket.recv()
    assert asyncio.run(run()) == "still here"


def test_a_tunnel_is_not_limited_like_a_body(gateways, backend):
    """max_body is about bodies; messages through a tunnel may add up to more."""
    gateway = gateways(f'[upstreams.node]\nservers = ["{backend.address}"]\n[[routes]]\npath = "/ws"\nupstream = "node"\nauth = "none"\nmax_body = "1KiB"\n')
    _, echoes, _ = asyncio.run(talk(f"ws://127.0.0.1:{gateway.port}/ws", *["x" * 500] * 10))
    assert len(echoes) == 10
