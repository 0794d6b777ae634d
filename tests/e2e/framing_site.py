"""A gateway before a Node backend and one that keeps raw bytes, with short deadlines: the site of the framing tests."""

import re

import pytest

from conftest import Backend, RawBackend, eventually, serving
from wire import Wire, get

CONFIG = """
[upstreams.node]
servers = ["{node}"]
[upstreams.raw]
servers = ["{raw}"]

[[routes]]
path = "/public/{{*rest}}"
upstream = "node"
auth = "none"
[[routes]]
path = "/raw/{{*rest}}"
upstream = "raw"
auth = "none"
[[routes]]
path = "/api/{{*rest}}"
upstream = "node"
[[routes]]
path = "/fixed"
auth = "none"
respond = {{ status = 200, body = "fixed" }}
[[routes]]
path = "/small/{{*rest}}"
upstream = "node"
auth = "none"
max_body = "10B"
[[routes]]
path = "/limited"
upstream = "node"
auth = "none"
rate_limit = "1/24h"
"""
# Short, so that a request which never ends is given up soon.
SERVER = '[server.limits]\nheader_timeout = "1s"\nbody_timeout = "1s"\nidle_timeout = "2s"'

# What an attacker hides, and what he sends after it to see where the connection stands.
HIDDEN = get("/api/smuggled")
SENTINEL = get("/public/sentinel", "localhost", "Connection: close")


class Site:
    def __init__(self, gateway, node, raw):
        self.gateway, self.node, self.raw, self.port = gateway, node, raw, gateway.port

    def gateway_busy(self):
        eventually(lambda: self.gateway.metric("portcullis_http_requests_in_flight") == 1, what="a running request")

    def seen(self):
        """Paths the Node backend counted since it last forgot."""
        return [r["url"] for r in self.node.requests()]


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    folder = tmp_path_factory.mktemp("framing")
    node, raw = Backend(folder), RawBackend()
    with serving(folder, CONFIG.format(node=node.address, raw=raw.address), server=SERVER) as gateway:
        yield Site(gateway, node, raw)
    node.stop()
    raw.stop()


@pytest.fixture
def site(everything):
    everything.node.forget()
    everything.raw.received.clear()
    return everything


def request_lines(raw) -> list[bytes]:
    return re.findall(rb"[A-Z]+ /\S* HTTP/1\.[01]\r", raw.bytes())


def exchange_open(port, data):
    """All responses until the gateway closes by itself."""
    with Wire(port) as wire:
        return wire.send(data).responses()


def in_turn(port, *requests: bytes):
    """The responses to requests sent on one connection, each when the one before is answered."""
    with Wire(port) as wire:
        return [wire.send(request).response() for request in requests]
