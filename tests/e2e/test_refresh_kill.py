"""200 SIGKILLs at random instants of refreshes under load (SECURITY part C): DESIGN section 4 holds."""

import contextlib
import http.client
import json
import random
import signal
import threading

from accounts import rows
from conftest import eventually

KILLS = 200
CLIENTS = 6


class Client(threading.Thread):
    """One session that refreshes without end, keeps every answer, and goes on with the old token when a reply is lost."""

    def __init__(self, gateway, seed):
        super().__init__(daemon=True)
        self.port, self.account, self.random = gateway.port, gateway.register(), random.Random(seed)
        self.current, self.successor_of, self.lost, self.wrong = self.account.refresh, {}, 0, []
        self.previous, self.presented, self.done = None, False, threading.Event()

    def run(self):
        while not self.done.is_set() and not self.wrong:
            with contextlib.suppress(OSError, http.client.HTTPException):
                self.talk()
            self.done.wait(0.002)

    def talk(self):
        """Refreshes on one connection until it breaks."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            while not self.done.is_set() and not self.wrong:
                # The predecessor may only be replayed as long as the current token was never sent.
                again = self.previous is not None and not self.presented and self.random.random() < 0.3
                self.presented |= not again
                self.present(connection, self.previous if again else self.current)

    def present(self, connection, token):
        self.lost += 1
        connection.request("POST", "/auth/refresh", json.dumps({"refresh_token": token}), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        body = json.loads(answer.read())
        self.lost -= 1
        if answer.status == 503:
            return
        if answer.status != 200:
            self.wrong.append((answer.status, body, "logged out"))
            return
        successor = body["refresh_token"]
        if self.successor_of.setdefault(token, successor) != successor:
            self.wrong.append((token, "has two successors"))
        if token == self.current:
            self.previous, self.current, self.presented = token, successor, False


def test_200_sigkills_during_refreshes_break_no_rule_of_section_4(gateways):
    """An answered successor would be lost, a generation have two, or a crash log people out."""
    gateway = gateways("[log]\naccess = false\n", tokens='refresh_grace = "60s"')
    clients = [Client(gateway, seed) for seed in range(CLIENTS)]
    instants = random.Random(2)
    for client in clients:
        client.start()

    def answered():
        return sum(len(client.successor_of) for client in clients)

    try:
        for _ in range(KILLS):
            before = answered()
            eventually(lambda: answered() > before or any(c.wrong for c in clients), 20, "a refresh after the restart")
            threading.Event().wait(instants.uniform(0, 0.03))  # The random instant is what this test is about.
            gateway.restart(signal.SIGKILL)
            assert not any(client.wrong for client in clients), [client.wrong for client in clients]
        marks = [len(client.successor_of) for client in clients]
        eventually(lambda: all(len(c.successor_of) > m or c.wrong for c, m in zip(clients, marks)), 20, "everybody going on")
    finally:
        for client in clients:
            client.done.set()
        for client in clients:
            client.join(30)

    assert not any(client.wrong for client in clients), [client.wrong for client in clients]
    assert sum(client.lost for client in clients) > KILLS / 10, "the kills hit no refresh under way"
    for client in clients:
        chain = [client.account.refresh]
        while chain[-1] in client.successor_of:
            chain.append(client.successor_of[chain[-1]])
        assert chain[-1] == client.current and len(set(chain)) == len(chain) == len(client.successor_of) + 1
        stored = rows(gateway, "SELECT generation, revoked FROM families WHERE user = ?", client.account.id)
        # The last request may have been left without its reply when the test ended.
        assert stored in ([(len(chain), 0)], [(len(chain) + 1, 0)]), "a generation nobody was told of"
        assert gateway.refresh(client.current).status_code == 200
    integrity = rows(gateway, "PRAGMA integrity_check")
    assert integrity == [("ok",)]
