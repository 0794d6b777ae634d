"""20 promotions of a replica under refreshes, with and without lost writes (issue 3; SECURITY part C): DESIGN section 4 holds.

Redis replicates after it has answered, so a promotion may lose what was answered last. Then a client holds a newer generation
than the store: its session ends (403), and that is the only reason for which one may end.
"""

import random
import signal
import time

import httpx
import pytest

from conftest import eventually
from refreshers import Client, family
from relay import Relay
from servers import Redis, Resp, Sentinel

CLIENTS = 6
# Each four times over:
ROUNDS = 4 * ["killed", "lost writes", "two masters", "read only"]


class Pair:
    """A master, and a replica whose link goes through a relay that can lose writes; gateways reach the master through relays."""

    def __init__(self, folder, gateways=2):
        self.folder, self.master, self.links = folder, Redis(folder), []
        self.ways = [Relay(self.master.port) for _ in range(gateways)]
        self.started = [self.master]
        self.new_replica()

    def new_replica(self):
        self.link = Relay(self.master.port)
        self.links.append(self.link)
        self.replica = Redis(self.folder)
        self.started.append(self.replica)
        self.replica.replicate(self.link.port)

    def redirect(self, way):
        way.targets = [self.replica.port]
        way.reset()

    def stop(self):
        for server in (*self.ways, *self.links, *self.started):
            server.stop()


@pytest.fixture
def pair(tmp_path):
    pair = Pair(tmp_path)
    yield pair
    pair.stop()


def clients_of(gateways, count=CLIENTS, seed=0):
    clients = [Client(gateways, gateways[0].register(), seed + n) for n in range(count)]
    for client in clients:
        client.start()
    return clients


def go_on(clients, steps=3):
    """Waits until every client that was not refused has heard of `steps` generations more."""
    marks = [client.generation for client in clients]
    eventually(lambda: all(c.refused or c.generation >= m + steps for c, m in zip(clients, marks)), 20, "clients going on")


def families(store, clients):
    with Resp(store.port) as redis:
        return [family(redis, client) for client in clients]


def stop(clients):
    for client in clients:
        client.stop()


def judge(clients, resting, before, after):
    """`before`: families in the old master as far as they could be read; `after`: in the new one. Both are of when nobody refreshed any more."""
    for client, old, new in zip(clients, before, after):
        assert not client.broken_rules(), client.broken_rules()
        for _, status, presented in client.refused:
            assert status == 403
            stores = [g for g, state in (old, new) if state == "r"]
            assert any(presented > g for g in stores), f"refused at {presented}, though no store was behind: {old}, {new}"
        assert not (client.refused and client in resting), "a session that lost no write was ended"
        if not client.refused:
            assert new in [(client.generation, "a"), (client.generation + 1, "a")], (client.generation, new)


def promote(pair, how, clients, resting, instants):
    """One promotion; gives the families in the old master, as far as they could be read at its end."""
    unread = [(0, None)] * len(clients)
    if how == "lost writes":
        stop(resting)
        pair.replica.catch_up(pair.master)
        pair.link.hold()
        go_on([c for c in clients if c not in resting])
    elif how == "killed":
        go_on(clients)
    if how in ("killed", "lost writes"):
        before = families(pair.master, clients) if how == "lost writes" else unread
        pair.master.stop(signal.SIGKILL)
        pair.replica.promote()
        for way in pair.ways:
            pair.redirect(way)
        return before
    if how == "two masters":
        # Nobody told the old one, and the gateways hear of it one after the other.
        pair.replica.promote()
        ways = instants.sample(pair.ways, 2)
        pair.redirect(ways[0])
        marks = sum(client.answers for client in clients)
        eventually(lambda: sum(c.answers for c in clients) > marks + 3 or all(c.refused for c in clients), 10, "two masters at work")
        pair.redirect(ways[1])
        before = families(pair.master, clients)
        pair.master.stop(signal.SIGKILL)
        return before
    # A switch in good order, as an operator makes it: but the gateways are told last, and meet a master that became a replica.
    pair.master.ask("CLIENT", "PAUSE", 10000, "WRITE")
    pair.replica.catch_up(pair.master)
    pair.replica.promote()
    pair.master.ask("REPLICAOF", "127.0.0.1", pair.replica.port)
    pair.master.ask("CLIENT", "UNPAUSE")
    unavailable = sum(client.unavailable for client in clients)
    eventually(lambda: sum(c.unavailable for c in clients) > unavailable or any(c.refused for c in clients), 10, "writes refused")
    for way in pair.ways:
        pair.redirect(way)
    return unread


def test_16_promotions_end_the_sessions_whose_writes_were_lost_and_no_others(pair, fleets, record_property):
    """Two clients that both go on with one session, or somebody logged out for nothing, would show here."""
    fleet = fleets(pair, tokens='refresh_grace = "60s"')
    gateways = [fleet.add(f"redis://127.0.0.1:{way.port}") for way in pair.ways]
    instants, figures, answers = random.Random(7), dict.fromkeys(ROUNDS, 0), 0
    for n, how in enumerate(ROUNDS):
        clients = clients_of(gateways, seed=100 * n)
        resting = clients[: CLIENTS // 2] if how == "lost writes" else []
        try:
            go_on(clients)
            pair.replica.catch_up(pair.master)
            before = promote(pair, how, clients, resting, instants)
            go_on([client for client in clients if client not in resting])
        finally:
            stop(clients)
        after = families(pair.replica, clients)
        judge(clients, resting, before, after)
        refused = [client for client in clients if client.refused]
        recovered(gateways)
        figures[how] += len(refused)
        answers += sum(client.answers for client in clients)
        if how == "read only":
            assert not refused, "nothing was lost"
        if how == "lost writes":
            assert len(refused) == CLIENTS - len(resting), "a session whose newer half is gone goes on"
        for client in resting:
            answer = gateways[n % 2].refresh(client.current)
            assert answer.status_code == 200, answer.text
        for client, (_, state) in zip(clients, after):
            # One that the old master ended, unheard of by the new: its client was told, and has logged in anew.
            if client.refused and state == "r":
                access_is_dead(gateways, client)
        pair.master = pair.replica
        pair.new_replica()
    record_property("ended", str(figures))
    print(f"{answers} refreshes answered; sessions ended for lost history: {figures}, of {4 * CLIENTS} each")


def recovered(gateways):
    for gateway in gateways:
        eventually(lambda: httpx.get(f"http://127.0.0.1:{gateway.admin_port}/readyz").status_code == 200, 5, "the new master in use")


def access_is_dead(gateways, client):
    """The session was revoked where it was found to be ahead: its access token is refused everywhere, and no retry revives it."""
    for gateway in gateways:
        eventually(lambda: gateway.get("/api/x", client.account.access).status_code == 401, 2, "the access token refused")
        assert gateway.refresh(client.current).status_code == 403


def test_4_failovers_by_a_sentinel_under_load_log_nobody_out_for_nothing(tmp_path, redis, fleets):
    """The gateways ask the sentinel again, and go where it says, without a restart."""
    other = Redis(tmp_path)
    other.replicate(redis.port)
    sentinel = Sentinel(tmp_path, redis)
    servers = {redis.port: redis, other.port: other}
    try:
        eventually(lambda: knows_a_replica(sentinel), 20, "the sentinel knowing both")
        fleet = fleets(sentinel, tokens='refresh_grace = "60s"')
        gateways = [fleet.add(), fleet.add()]
        for n in range(4):
            clients = clients_of(gateways, seed=1000 + n)
            try:
                go_on(clients)
                master = servers.pop(sentinel.master_port())
                [replica] = servers.values()
                replica.catch_up(master)
                master.stop(signal.SIGKILL)
                killed = time.monotonic()
                eventually(lambda: sentinel.master_port() == replica.port, 20, "the promotion")
                eventually(replica.is_master, 20, "the promotion done")
                promoted = time.monotonic()
                go_on(clients, steps=1)
                recovered(gateways)
                assert time.monotonic() - promoted < 5, "recovery within 5 s"
                print(f"promoted after {promoted - killed:.1f} s, everybody goes on {time.monotonic() - promoted:.1f} s later")
            finally:
                stop(clients)
            judge(clients, [], [(0, None)] * len(clients), families(replica, clients))
            master.start()
            master.replicate(replica.port)  # As the sentinel would, after some ten seconds.
            servers[master.port] = master
            eventually(lambda: knows_a_replica(sentinel), 30, "the sentinel knowing the new order")
    finally:
        sentinel.stop()
        other.stop()


def knows_a_replica(sentinel):
    """Whether there is one that it would promote."""
    known = [dict(zip(flat[::2], flat[1::2])) for flat in sentinel.ask("SENTINEL", "REPLICAS", sentinel.name)]
    return any(replica["flags"] == "slave" and replica["master-link-status"] == "ok" for replica in known)


def test_a_logout_all_that_a_failover_lost_revives_no_session(pair, fleets):
    """DESIGN section 4: the end of all sessions is in the user's record too, so lost writes of Redis cannot take it back."""
    fleet = fleets(pair)
    a, b = [fleet.add(f"redis://127.0.0.1:{way.port}") for way in pair.ways]
    account = a.register()
    other = b.login(account.email).json()
    pair.replica.catch_up(pair.master)
    pair.link.hold()
    assert a.post("/auth/logout-all", token=account.access).status_code == 204
    for token in (account.access, other["access_token"]):
        eventually(lambda: b.get("/api/x", token).status_code == 401, 1, "the end heard")
    pair.master.stop(signal.SIGKILL)
    pair.replica.promote()
    for way in pair.ways:
        pair.redirect(way)
    for gateway in (a, b):
        eventually(lambda: gateway.login(account.email).status_code == 200, 5, "the new master in use")
        for token, refresh in ((account.access, account.refresh), (other["access_token"], other["refresh_token"])):
            assert gateway.refresh(refresh).status_code == 403
            assert gateway.get("/api/x", token).status_code == 401, "what was heard stays known"
