"""A small real HTTP backend that records what reaches it, for tests behind an Envoy."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as the backend got it; header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]


# A test that forgets to open the gate must not hang.
GATE_PATIENCE_S = 30


@dataclass(slots=True)
class Backend:
    """The running backend: `seen` grows by each request, `headers` and `body` go on every answer.

    Requests are held while `gate` is shut. `in_flight` are those that have no answer yet, and
    `peak` is the most there ever were.
    """

    port: int
    seen: list[Seen] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"hello\n"
    gate: Event = field(default_factory=Event)
    in_flight: int = 0
    peak: int = 0
    lock: Lock = field(default_factory=Lock)

    def paths(self) -> list[str]:
        """Return the paths of all requests so far, in order."""
        return [request.path for request in self.seen]

    def hold(self) -> None:
        """Pass one request through the gate; it counts as in flight until then."""
        with self.lock:
            self.in_flight += 1
            self.peak = max(self.peak, self.in_flight)
        self.gate.wait(GATE_PATIENCE_S)
        # Before the answer: once Envoy has it, the next request may come.
        with self.lock:
            self.in_flight -= 1


@contextmanager
def running_backend() -> Iterator[Backend]:
    """Serve 200 "hello\\n" on a free loopback port until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            backend.seen.append(Seen(self.command, self.path, headers))
            backend.hold()
            body = backend.body
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            for name, value in backend.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        backend = Backend(server.server_address[1])
        backend.gate.set()
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield backend
        finally:
            backend.gate.set()
            server.shutdown()
            thread.join()
