"""A small real HTTP backend that records what reaches it, for tests behind an Envoy."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as the backend got it; header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass(slots=True)
class Backend:
    """The running backend: `seen` grows by each request, `headers` go on every answer."""

    port: int
    seen: list[Seen] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    def paths(self) -> list[str]:
        """Return the paths of all requests so far, in order."""
        return [request.path for request in self.seen]


@contextmanager
def running_backend() -> Iterator[Backend]:
    """Serve 200 "hello\\n" on a free loopback port until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            backend.seen.append(Seen(self.command, self.path, headers))
            body = b"hello\n"
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
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield backend
        finally:
            server.shutdown()
            thread.join()
