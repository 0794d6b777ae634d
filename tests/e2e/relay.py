"""A TCP relay between two programs of a test: a plain balancer when it has several targets, and the network's bad days.

It hands bytes on and understands none of them. Every fault can be set and taken back while connections are open.
"""

import contextlib
import itertools
import queue
import socket
import struct
import threading
import time

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends RST.


def reset(s):
    with contextlib.suppress(OSError):
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        s.shutdown(socket.SHUT_RDWR)
    s.close()


class Relay:
    """Listens on a free port and connects each client to the next of `targets` (ports on this machine)."""

    def __init__(self, *targets):
        self.targets = list(targets)
        self.turn = itertools.count()
        self.delay = 0.0  # Seconds that every piece of a reply is held back.
        self.held = threading.Event()  # Cleared while nothing goes through in either direction.
        self.held.set()
        self.garbage = None  # Sent instead of each piece of a reply.
        self.reset_after = None  # Bytes of replies a connection may still bring before it is reset.
        self.requests, self.replies, self.recorded = 0, 0, None
        self.open, self.lock = set(), threading.Lock()
        self.listener, self.port = None, 0
        self.mend()

    # Faults ------------------------------------------------------------------------------------------------

    def cut(self):
        """Connections are reset, and new ones are refused."""
        listener, self.listener = self.listener, None
        if listener:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # Wakes accept().
            listener.close()
        self.reset()

    def reset(self):
        """Connections are reset; new ones are welcome."""
        with self.lock:
            connections, self.open = list(self.open), set()
        for s in connections:
            reset(s)

    def mend(self):
        """Everything as at the beginning, at the same port."""
        self.delay, self.garbage, self.reset_after = 0.0, None, None
        self.held.set()
        if self.listener is None:
            self.listener = socket.create_server(("127.0.0.1", self.port), backlog=512)
            self.port = self.listener.getsockname()[1]
            threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def hold(self):
        """Nothing goes through in either direction; nobody is told."""
        self.held.clear()

    def slow(self, seconds):
        self.delay = seconds

    def truncate(self, limit):
        """Each connection brings `limit` bytes of replies more, and is reset then."""
        self.reset_after = limit

    def speak(self, garbage):
        """Each piece of a reply is replaced."""
        self.garbage = garbage

    @contextlib.contextmanager
    def record(self):
        """The bytes that clients send meanwhile."""
        self.recorded = bytearray()
        try:
            yield self.recorded
        finally:
            self.recorded = None

    def stop(self):
        self.held.set()
        self.cut()

    # The work ----------------------------------------------------------------------------------------------

    def _accept(self, listener):
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._join, args=(client,), daemon=True).start()

    def _join(self, client):
        try:
            server = socket.create_connection(("127.0.0.1", self.targets[next(self.turn) % len(self.targets)]), timeout=5)
        except OSError:
            return reset(client)
        server.settimeout(None)
        for s in (client, server):
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.lock:
            if self.listener is None:
                reset(client)
                return reset(server)
            self.open |= {client, server}
        threading.Thread(target=self._requests, args=(client, server), daemon=True).start()
        self._replies(server, client)

    def _requests(self, client, server):
        with contextlib.suppress(OSError):
            while piece := client.recv(65536):
                self.held.wait()
                self.requests += len(piece)
                if self.recorded is not None:
                    self.recorded += piece
                server.sendall(piece)
            server.shutdown(socket.SHUT_WR)
            return
        self._close(client, server)

    def _replies(self, server, client):
        """Reads without waiting for what is held back, so that a delay delays and does not slow down."""
        pieces = queue.SimpleQueue()
        threading.Thread(target=self._deliver, args=(pieces, client, server), daemon=True).start()
        with contextlib.suppress(OSError):
            while piece := server.recv(65536):
                pieces.put((time.monotonic() + self.delay, piece))
        pieces.put(None)

    def _deliver(self, pieces, client, server):
        brought = 0
        with contextlib.suppress(OSError):
            while (entry := pieces.get()) is not None:
                due, piece = entry
                threading.Event().wait(max(due - time.monotonic(), 0))
                self.held.wait()
                limit = self.reset_after
                if limit is not None and brought + len(piece) > limit:
                    client.sendall(piece[: max(limit - brought, 0)])
                    break
                brought = brought + len(piece) if limit is not None else 0
                self.replies += len(piece)
                client.sendall(piece if self.garbage is None else self.garbage)
        self._close(client, server)

    def _close(self, *pair):
        with self.lock:
            self.open -= set(pair)
        for s in pair:
            reset(s)
