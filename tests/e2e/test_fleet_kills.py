"""500 SIGKILLs of gateways that share one Redis, in the middle of refreshes (issue 3; SECURITY part C): DESIGN section 4 holds."""

import random
import signal
import threading
import time

from conftest import eventually
from refreshers import Client, StoreChecker, family
from servers import Resp

KILLS = 500
CLIENTS = 8


def test_500_sigkills_of_gateways_in_the_middle_of_refreshes_log_nobody_out(redis, fleets, record_property):
    """A gateway holds nothing that matters: its death loses answers, and the same token presented elsewhere gets them again."""
    fleet = fleets(redis, tokens='refresh_grace = "60s"')
    gateways = [fleet.add(), fleet.add()]
    clients = [Client(gateways, gateways[0].register(), seed, redis.port) for seed in range(CLIENTS)]
    checker, instants, began = StoreChecker(redis, clients), random.Random(3), time.monotonic()
    for thread in (*clients, checker):
        thread.start()

    def answered():
        return sum(client.answers for client in clients)

    try:
        for _ in range(KILLS):
            gateway, before = instants.choice(gateways), answered()
            eventually(lambda: answered() >= before + CLIENTS or any(c.refused for c in clients), 20, "refreshes through both")
            threading.Event().wait(instants.uniform(0, 0.02))  # The random instant is what this test is about.
            gateway.restart(signal.SIGKILL)
            assert not any(client.refused for client in clients), [client.refused for client in clients]
            assert not checker.broken, checker.broken[:3]
        marks = [client.generation for client in clients]
        eventually(lambda: all(c.generation > m + 1 for c, m in zip(clients, marks)), 20, "everybody going on")
    finally:
        for thread in (*clients, checker):
            thread.stop()

    half_done = sum(client.half_done for client in clients)
    figures = (
        f"{KILLS} kills in {time.monotonic() - began:.0f} s: {answered()} refreshes answered, {sum(c.lost for c in clients)} lost, "
        f"{half_done} of these after the store's step; {checker.states} states of the store checked"
    )
    record_property("figures", figures)
    print(figures)
    assert half_done > KILLS / 20, "the kills hit no refresh under way"
    assert not checker.broken and checker.states > KILLS
    with Resp(redis.port) as store:
        for client in clients:
            assert not client.refused and not client.broken_rules(), (client.refused, client.broken_rules())
            # The last request may have been left without its answer when the test ended.
            assert family(store, client) in [(client.generation, "a"), (client.generation + 1, "a")]
            assert gateways[0].refresh(client.current).status_code == 200
            assert gateways[1].get("/auth/me", client.account.access).status_code == 200
