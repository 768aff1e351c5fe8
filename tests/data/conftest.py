"""Small datasets, and a server of one file that fails as it is told to."""

import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from psec_jax import TransitionDataset


@pytest.fixture(scope="session")
def make():
    """``make(lengths)``: trajectories of these lengths, ended by termination and truncation in
    turn, whose every number is drawn; rewards and costs are whole numbers, so sums are exact."""

    def make(lengths, seed=0, **changes) -> TransitionDataset:
        n, generator = sum(lengths), np.random.default_rng(seed)
        ends = np.cumsum(lengths) - 1
        columns = {
            "observations": generator.normal(size=(n, 3)),
            "actions": generator.uniform(-0.9, 0.9, size=(n, 2)),
            "rewards": generator.integers(-2, 3, size=n),
            "terminations": np.isin(np.arange(n), ends[::2]),
            "truncations": np.isin(np.arange(n), ends[1::2]),
            "costs": generator.integers(0, 3, size=n),
            "next_observations": generator.normal(size=(n, 3)),
        }
        return TransitionDataset(**{**columns, **changes})

    return make


@pytest.fixture(scope="session")
def equal():
    """Whether two datasets, or their arrays by name, are the same bit for bit."""

    def equal(one, other) -> bool:
        one, other = (d if isinstance(d, dict) else d.arrays() for d in (one, other))
        return one.keys() == other.keys() and all(
            (one[name].dtype, one[name].shape, one[name].tobytes())
            == (other[name].dtype, other[name].shape, other[name].tobytes())
            for name in one
        )

    return equal


class Server:
    """Serves ``content`` under any path; ``faults`` are met one a request, then all goes well.

    ``faults`` holds functions of the handler and the response's body that answer in its stead;
    ``requests`` is the Range header of each request, and ``sent`` the bytes of all bodies.
    """

    def __init__(self, address: str):
        self.address = address
        self.content = b""
        self.faults = deque()
        self.requests = []
        self.sent = 0

    def url(self, name: str) -> str:
        return f"{self.address}/{name}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        self.requests.append(asked)
        fault = self.faults.popleft() if self.faults else None
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if fault is not None:
            fault(handler, start)
        elif asked and start >= len(self.content):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(self.content)}")
            handler.end_headers()
        else:
            self.send(handler, 206 if asked else 200, self.content[start:])

    def send(self, handler, status: int, body: bytes, length: int | None = None) -> None:
        self.sent += len(body)
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.wfile.write(body)

    def cut(self, count: int):
        """The connection breaks after ``count`` bytes of the body."""

        def fault(handler, start):
            body = self.content[start:]
            self.send(handler, 206 if start else 200, body[:count], len(body))

        return fault

    def other(self, body: bytes):
        """Other bytes come, from their beginning."""
        return lambda handler, start: self.send(handler, 200, body)

    def status(self, code: int):
        return lambda handler, start: self.send(handler, code, b"")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            found.answer(self)

        def log_message(self, *arguments):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Server(f"http://127.0.0.1:{http.server_address[1]}")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def nowhere():
    """The address of a server that is gone."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    http.server_close()
    return f"http://127.0.0.1:{http.server_address[1]}/walker2d_medium-v2.hdf5"
