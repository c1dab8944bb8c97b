"""A small real ext_authz service over HTTP: it knows some API keys, and the tier of each."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@contextmanager
def running_authz(tiers: Mapping[str, str]) -> Iterator[int]:
    """Serve on a free loopback port until the block ends; gives the port.

    A key of `tiers` passes, with its tier in the header x-tier unless that is empty. Others are
    answered 401. What `tiers` holds later counts from then on.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            tier = tiers.get(self.headers.get("x-api-key", ""))
            self.send_response(401 if tier is None else 200)
            if tier:
                self.send_header("x-tier", tier)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
