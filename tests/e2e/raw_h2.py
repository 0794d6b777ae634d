"""HTTP/2 by hand: a client that sends header fields and frames no other client would."""

import socket
import time

import h2.config
import h2.connection
import h2.events
import pytest


class H2:
    """An HTTP/2 connection that sends whatever it is told to."""

    def __init__(self, site):
        plain = socket.create_connection(("127.0.0.1", site.port), timeout=10)
        self.socket = site.context("h2").wrap_socket(plain, server_hostname="localhost")
        assert self.socket.selected_alpn_protocol() == "h2"
        config = h2.config.H2Configuration(
            client_side=True, validate_outbound_headers=False, normalize_outbound_headers=False, validate_inbound_headers=False, header_encoding="utf-8",
        )
        self.connection = h2.connection.H2Connection(config)
        self.connection.initiate_connection()
        self.answers, self.closed = {}, False
        self.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def flush(self):
        try:
            if data := self.connection.data_to_send():
                self.socket.sendall(data)
        except OSError:
            self.closed = True

    def send(self, headers, *data, end=True, trailers=None):
        """Opens a stream; `end` says whether the last frame carries END_STREAM."""
        stream = self.connection.get_next_available_stream_id()
        self.connection.send_headers(stream, headers, end_stream=end and not data and not trailers)
        for i, piece in enumerate(data):
            self.connection.send_data(stream, piece, end_stream=end and not trailers and i == len(data) - 1)
        if trailers:
            self.connection.send_headers(stream, trailers, end_stream=True)
        self.flush()
        return stream

    def answer(self, stream, timeout=10):
        """Status and body of `stream`; the status is 0 when it was reset or the connection ended."""
        deadline = time.monotonic() + timeout
        status, body = 0, b""
        while time.monotonic() < deadline:
            for event in self.answers.pop(stream, []):
                if isinstance(event, h2.events.ResponseReceived):
                    status = int(dict(event.headers)[":status"])
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data
                elif isinstance(event, h2.events.StreamReset):
                    return status, body
                elif isinstance(event, h2.events.StreamEnded):
                    return status, body
            if self.closed:
                return status, body
            self.read()
        pytest.fail("no answer")

    def read(self):
        try:
            data = self.socket.recv(65536)
        except OSError:
            data = b""
        if not data:
            self.closed = True
            return
        for event in self.connection.receive_data(data):
            if isinstance(event, h2.events.ConnectionTerminated):
                self.closed = True
            if isinstance(event, h2.events.DataReceived):
                self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if stream := getattr(event, "stream_id", None):
                self.answers.setdefault(stream, []).append(event)
        self.flush()
