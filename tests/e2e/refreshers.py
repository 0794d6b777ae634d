"""Clients that refresh through a fleet by the rules, and a checker that knows section 4 of DESIGN.md.

A client keeps every answer. It presents a token again, to any gateway, for as long as it has no successor of it; and now and then
the predecessor of a token that it has not presented yet, as a second tab would.
"""

import http.client
import random
import threading
import time

from forge import unb64u
from servers import Caller, Resp


def session_of(refresh_token):
    """Session (32 hexadecimal digits) and generation inside a refresh token: version, 16 bytes, 8 bytes, and what else there is."""
    data = unb64u(refresh_token)
    return data[1:17].hex(), int.from_bytes(data[17:25], "big")


class Client(threading.Thread):
    """One session that refreshes without end through any of `gateways`; `store` is the port of their Redis."""

    def __init__(self, gateways, account, seed, store=None):
        super().__init__(daemon=True)
        self.store, self.half_done = store, 0
        self.callers = [Caller(gateway.port, timeout=5) for gateway in gateways]
        self.account, self.random = account, random.Random(seed)
        self.current, self.previous, self.presented = account.refresh, None, False
        self.session, self.generation = session_of(self.current)
        self.successors = {}  # Generation: the tokens that answers named as its successor.
        self.answers, self.lost, self.unavailable, self.refused = 0, 0, 0, []
        self.done, self.slowest = threading.Event(), 0.0

    def run(self):
        while not self.done.is_set() and not self.refused:
            replay = self.previous is not None and not self.presented and self.random.random() < 0.2
            self.presented |= not replay
            self.present(self.previous if replay else self.current)
            # One connection at a time would be served before the next is asked for: gateways take turns.
            self.done.wait(0.001)

    def present(self, token):
        generation, sent, caller = session_of(token)[1], time.time(), self.random.choice(self.callers)
        try:
            status, _, body = caller.refresh(token)
        except ConnectionRefusedError:
            return
        except (OSError, http.client.HTTPException):
            self.lost += 1
            # A gateway that died between the store's step and its answer: what all of this is about.
            self.half_done += self.store is not None and self.is_ahead(generation)
            return
        self.slowest = max(self.slowest, time.time() - sent)
        if status == 503:
            self.unavailable += 1
            return
        if status != 200:
            self.refused.append((sent, status, generation))
            return
        self.answers += 1
        successor = body["refresh_token"]
        self.successors.setdefault(generation, set()).add(successor)
        if token == self.current:
            self.previous, self.current, self.presented = token, successor, False
            self.generation = generation + 1

    def is_ahead(self, generation):
        """Whether the store has taken a step that this client has not heard of."""
        with Resp(self.store) as redis:
            return generation == self.generation and family(redis, self)[0] == generation + 1

    def stop(self):
        self.done.set()
        self.join(30)

    def broken_rules(self):
        """What in the answers contradicts section 4, whatever happened to the stores."""
        broken = []
        for generation, successors in self.successors.items():
            if len(successors) != 1:
                broken.append(f"generation {generation} of {self.session} has {len(successors)} successors")
            if any(session_of(token) != (self.session, generation + 1) for token in successors):
                broken.append(f"generation {generation} of {self.session} is followed by another than the next")
        return broken


class StoreChecker(threading.Thread):
    """Reads every family from a Redis that loses nothing, again and again, beside the clients."""

    def __init__(self, redis, clients):
        super().__init__(daemon=True)
        self.redis, self.clients, self.done, self.states, self.broken = redis, clients, threading.Event(), 0, []

    def run(self):
        with Resp(self.redis.port) as redis:
            while not self.done.wait(0.01):
                for client in self.clients:
                    before = client.generation
                    generation, state = family(redis, client)
                    self.states += 1
                    # The store steps first, then the client hears of it: it is where the client is, or one ahead.
                    if state != "a" or not before <= generation <= client.generation + 1:
                        self.broken.append((client.session, state, before, generation, client.generation))

    def stop(self):
        self.done.set()
        self.join(30)


def family(redis, client):
    """Generation and state of the client's family; (0, None) when there is none."""
    text = redis.ask("HGET", f"portcullis:user:{{{client.account.id}}}", f"s:{client.session}")
    generation, state = text.split(" ")[:2] if text else (0, None)
    return int(generation), state
