"""Issuers whose keys change, are out of reach, slow or wrong, and clients that invent kids.

SECURITY part A (kid flood, missed key rotation, JWKS outage) and part B 14, 16.
"""

import http.client
import threading
import time
import uuid

import pytest

from conftest import eventually, free_port
from forge import segment
from jwks_server import ECHO, ISSUER, OTHER, fresh_key, issuers, resident, status  # noqa: F401 (a fixture)


def test_threat_outage_start_up_is_not_blocked(gateways, issuers):
    """Issuer down at start: 503 for its tokens (they may be good), 200 for ours, and 200 once it is back."""
    issuer = issuers(ISSUER, fresh_key(), port=free_port())
    gateway = gateways(ECHO + issuer.table())
    account = gateway.register()
    answer = gateway.get("/api/x", issuer.token())
    assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
    assert answer.headers["content-type"] == "application/problem+json"
    assert status(gateway, account.access) == 200
    assert status(gateway, "a.b.c") == 401
    issuer.start()
    eventually(lambda: status(gateway, issuer.token()) == 200, 15, "the issuer's tokens accepted")


def test_threat_outage_last_good_keys_stay(gateways, issuers):
    """Envoy #14557: an issuer that goes away after the keys were seen costs nobody his access."""
    issuer = issuers()
    gateway = gateways(ECHO + issuer.table())
    assert status(gateway, issuer.token()) == 200
    issuer.stop()
    assert [status(gateway, issuer.token(jti=str(i))) for i in range(5)] == [200] * 5
    assert status(gateway, issuer.token(fresh_key())) == 401


def test_threat_outage_is_bounded_by_max_stale(gateways, issuers):
    """Keys nobody can confirm any more end in 503, for tokens already cached too; never in 401, never in 200."""
    issuer = issuers()
    gateway = gateways(ECHO + issuer.table(more='max_stale = "2s"'))
    token = issuer.token()
    assert status(gateway, token) == 200
    issuer.stop()
    answer = eventually(lambda: (a := gateway.get("/api/x", token)).status_code != 200 and a, 10, "the keys stale")
    assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
    assert status(gateway, issuer.token(jti="new")) == 503


@pytest.mark.parametrize("broken", [b"", b"<html>", b"{}", b'{"keys": {}}', b'{"keys": []', b'{"keys":[],"keys":[]}', 500, 404, 302],
                         ids=str)
def test_threat_outage_a_broken_document_keeps_the_last_good_keys(gateways, issuers, broken):
    issuer = issuers()
    gateway = gateways(ECHO + issuer.table())
    assert status(gateway, issuer.token()) == 200
    trap = issuers(OTHER)
    if isinstance(broken, int):
        issuer.status, issuer.headers = broken, {"Location": trap.url}
    else:
        issuer.body = broken
    fetched = issuer.fetches
    assert status(gateway, issuer.token(fresh_key())) == 401
    assert issuer.fetches == fetched + 1, "an unknown kid refetches"
    assert status(gateway, issuer.token(jti="after")) == 200
    # A redirect must not lead to keys of somebody else's choosing (RFC 8725 section 3.10).
    assert trap.fetches == 0 and status(gateway, issuer.token(trap.keys[0])) == 401


def test_b16_rotation_of_the_issuer_without_a_false_401(gateways, issuers):
    """The first requests with a new key arrive together: all wait for one fetch and are served."""
    issuer = issuers()
    gateway = gateways(ECHO + issuer.table())
    old = issuer.token()
    assert status(gateway, old) == 200
    fetched, new = issuer.fetches, fresh_key()
    issuer.keys = [new, issuer.keys[0]]
    results = []
    workers = [
        threading.Thread(target=lambda i=i: results.append(status(gateway, issuer.token(new, jti=str(i)))))
        for i in range(20)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results == [200] * 20
    assert issuer.fetches == fetched + 1
    assert status(gateway, old) == 200


def test_b4_invariant_4_a_removed_key_ends_its_cached_tokens(gateways, issuers):
    issuer = issuers()
    gateway = gateways(ECHO + issuer.table())
    old_key, old = issuer.keys[0], issuer.token()
    assert status(gateway, old) == 200
    issuer.keys = [fresh_key()]
    assert status(gateway, issuer.token()) == 200
    assert status(gateway, old) == 401
    assert status(gateway, issuer.token(old_key, jti="x")) == 401


def send_tokens(gateway, tokens):
    """The statuses of requests with these tokens over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    statuses = []
    for token in tokens:
        connection.request("GET", "/api/x", headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        answer.read()
        statuses.append(answer.status)
    connection.close()
    return statuses


def test_threat_kid_flood(gateways, issuers):
    """go-oidc PR 482: 10,000 random kids cause at most one fetch in 30 s, and a valid kid is served all along."""
    issuer = issuers()
    gateway = gateways(ECHO + issuer.table())
    assert status(gateway, issuer.token()) == 200
    head, payload, signature = issuer.token().split(".")

    def flood(count):
        return [f"{segment(issuer.keys[0].header(kid=uuid.uuid4().hex))}.{payload}.{signature}" for _ in range(count)]

    assert set(send_tokens(gateway, flood(500))) == {401}
    before, fetched, began = resident(gateway), issuer.fetches, time.monotonic()
    assert fetched <= 2
    results = []
    workers = [threading.Thread(target=lambda: results.extend(send_tokens(gateway, flood(2375)))) for _ in range(4)]
    for worker in workers:
        worker.start()
    valid = []
    while any(worker.is_alive() for worker in workers):
        valid.append(status(gateway, issuer.token(jti=uuid.uuid4().hex)))
    assert len(results) == 9500 and set(results) == {401}
    assert valid and set(valid) == {200}
    assert issuer.fetches - fetched <= 1 + int((time.monotonic() - began) / 30)
    assert resident(gateway) - before < 40 * 1024, "memory must not grow with the kids"


# An issuer that accepts connections and does not answer --------------------------------------------------------------------

def test_threat_a_hanging_issuer_blocks_nobody_at_start(gateways, issuers):
    """Our own tokens are served at once; the issuer's are 503 until its keys are there, and then 200."""
    issuer = issuers()
    issuer.hold()
    gateway = gateways(ECHO + issuer.table())
    account = gateway.register()
    assert status(gateway, account.access) == 200
    assert status(gateway, issuer.token()) == 503
    issuer.release()
    eventually(lambda: status(gateway, issuer.token()) == 200, 15, "the issuer's tokens accepted")


def test_threat_a_hanging_issuer_blocks_no_known_key(gateways, issuers):
    """While one request waits for a fetch that never ends, tokens of known keys are served, cached or not."""
    issuer = issuers()
    gateway = gateways(ECHO + issuer.table())
    account = gateway.register()
    assert status(gateway, issuer.token()) == 200
    issuer.hold()
    fetched, answers = issuer.fetches, []
    waiting = threading.Thread(target=lambda: answers.append(status(gateway, issuer.token(fresh_key()))))
    waiting.start()
    eventually(lambda: issuer.fetches > fetched, what="the fetch for an unknown kid")
    assert [status(gateway, issuer.token(jti=str(i))) for i in range(5)] == [200] * 5
    assert status(gateway, account.access) == 200
    # And the one who waits is answered although the fetch never ends.
    waiting.join(timeout=20)
    assert answers and answers[0] in (401, 503)
    issuer.release()
