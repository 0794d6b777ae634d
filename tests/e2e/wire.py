"""HTTP/1.1 by hand: a client that sends exactly the bytes it is given, and backends that answer with exactly the bytes they are given.

Nothing here corrects anything. A response is read strictly, so that one which is framed wrongly fails the test.
"""

import contextlib
import select
import socket
import ssl
import threading
from dataclasses import dataclass


class Closed(Exception):
    """The other side closed before a (whole) response."""


@dataclass
class Response:
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    complete: bool = True

    def get(self, name, default=None):
        return next((v for n, v in self.headers if n == name.lower()), default)

    def all(self, name):
        return [v for n, v in self.headers if n == name.lower()]


class Wire:
    """One connection to `port`."""

    def __init__(self, port, timeout=10, tls: ssl.SSLContext | None = None):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, *pieces: bytes):
        """Sends, in one segment each; a connection the other side has closed shows when reading."""
        with contextlib.suppress(OSError):
            for piece in pieces:
                self.socket.sendall(piece)
        return self

    def half_close(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
        return self

    def _more(self):
        try:
            chunk = self.socket.recv(65536)
        except ConnectionError as e:
            raise Closed(str(e)) from e
        if not chunk:
            raise Closed("end of stream")
        self.buffer += chunk

    def _until(self, end: bytes) -> bytes:
        while end not in self.buffer:
            self._more()
        found, self.buffer = self.buffer.split(end, 1)
        return found

    def take(self, count: int) -> bytes:
        while len(self.buffer) < count:
            self._more()
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def head(self) -> Response:
        line, *lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        version, status, _ = line.split(" ", 2)
        assert version == "HTTP/1.1", line
        pairs = [field.split(":", 1) for field in lines]
        return Response(int(status), [(n.lower(), v.strip()) for n, v in pairs], b"")

    def response(self, method="GET", interim=False) -> Response:
        """The next response, after 1xx ones unless `interim`."""
        answer = self.head()
        while 100 <= answer.status < 200 and answer.status != 101 and not interim:
            answer = self.head()
        if method == "HEAD" or answer.status in (204, 304) or answer.status < 200:
            return answer
        lengths, codings = answer.all("content-length"), answer.all("transfer-encoding")
        assert len(lengths) + len(codings) <= 1, f"ambiguous framing: {answer}"
        try:
            self._body(answer, lengths, codings)
        except Closed:
            answer.complete = not lengths and not codings
        return answer

    def _body(self, answer, lengths, codings):
        if lengths:
            # Byte by byte what there is, so that a cut body is seen as far as it came.
            while len(answer.body) < int(lengths[0]):
                answer.body += self.take(1) if not self.buffer else self.take(
                    min(len(self.buffer), int(lengths[0]) - len(answer.body)))
        elif codings:
            assert codings == ["chunked"], codings
            while size := int(self._until(b"\r\n").split(b";")[0], 16):
                answer.body += self.take(size)
                assert self.take(2) == b"\r\n"
            while self._until(b"\r\n"):
                pass
        else:
            while True:
                answer.body += self.take(max(1, len(self.buffer)))

    def responses(self, methods=()) -> list[Response]:
        """All responses until the connection closes."""
        found = []
        with contextlib.suppress(Closed):
            while True:
                method = methods[len(found)] if len(found) < len(methods) else "GET"
                found.append(self.response(method))
        return found

    def is_closed(self) -> bool:
        """Whether the other side has closed and left nothing to read."""
        ready, _, _ = select.select([self.socket], [], [], 0)
        if not ready or self.buffer:
            return False
        try:
            return self.socket.recv(1, socket.MSG_PEEK) == b""
        except ConnectionError:
            return True

    def closes(self, timeout=10):
        """Waits for the other side to close; fails when it sends something instead."""
        assert not self.buffer, self.buffer
        self.socket.settimeout(timeout)
        try:
            rest = self.socket.recv(65536)
        except ConnectionError:
            return
        assert rest == b"", rest


def exchange(port, data: bytes, **kw) -> list[Response]:
    """All responses to `data`, sent on one connection whose sending side is then closed."""
    with Wire(port, **kw) as wire:
        return wire.send(data).half_close().responses()


def get(path, host="localhost", *fields, method="GET") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def post(path, body: bytes, *fields, host="localhost") -> bytes:
    return get(path, host, *fields, f"Content-Length: {len(body)}", method="POST") + body


def chunked(path, *chunks: bytes, fields=(), host="localhost", trailer=b"") -> bytes:
    head = get(path, host, *fields, "Transfer-Encoding: chunked", method="POST")
    return head + b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in chunks) + b"0\r\n" + trailer + b"\r\n"


class ScriptedBackend:
    """A TCP server that runs `script(connection, head)` for every request head it reads; the script sends what it likes.

    `heads` holds every head received; a script that returns False ends its connection.
    """

    def __init__(self, script):
        self.script, self.heads, self.connections = script, [], 0
        self.open = set()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections += 1
                self.open.add(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        buffer = b""
        with contextlib.suppress(OSError), connection:
            while True:
                while b"\r\n\r\n" not in buffer:
                    chunk = connection.recv(65536)
                    if not chunk:
                        return
                    buffer += chunk
                head, buffer = buffer.split(b"\r\n\r\n", 1)
                self.heads.append(head)
                if self.script(connection, head) is False:
                    return
        self.open.discard(connection)

    def stop(self):
        self.listener.close()
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                connection.close()


def answering(data: bytes, close=False):
    """A script that always sends `data`."""
    def script(connection, _):
        connection.sendall(data)
        return not close
    return script


def reset(connection):
    """Ends the connection with RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    connection.close()


def memory_of(pid) -> int:
    """Resident memory in bytes."""
    with open(f"/proc/{pid}/status") as status:
        line = next(l for l in status if l.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


