"""The daemon of a case: what it can do, and one running as a case wants it."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench.cases import GRPCIO, ServerSpec
from bench.decisions import POLICY
from bench.pins import Pins, pinned_to
from bench.stores import Store
from tests.support.certificates import make_authority
from tests.support.daemon import Daemon, clean_environment, daemon_command, running_daemon

# Wide enough for the help to break no line.
_COLUMNS = "250"
DENY_CACHE_BYTES = 1024 * 1024


@dataclass(slots=True)
class Served:
    """A running daemon, its store and its cores; `ca` is set if it speaks TLS.

    `plain_rss_bytes` is what it used after its first warm-up, over a few connections.
    """

    daemon: Daemon
    store: Store
    pins: Pins
    ca: str = ""
    plain_rss_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Abilities:
    """What the daemon's help says it can do."""

    has_data_plane: bool
    has_workers: bool

    def missing_for(self, server: ServerSpec) -> str:
        """Return why a server cannot be started as asked; "" if it can."""
        if server.data_plane == GRPCIO and not self.has_data_plane:
            return "skipped: no --data-plane here, every row is grpcio"
        if server.workers > 1 and not self.has_workers:
            return f"skipped: no --workers {server.workers} here yet"
        return ""


@cache
def abilities() -> Abilities:
    """Ask `ratelimitd serve --help`."""
    done = subprocess.run(
        daemon_command("serve", "--help"),
        env={**clean_environment(), "COLUMNS": _COLUMNS, "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return read_help(done.stdout)


def read_help(text: str) -> Abilities:
    """Return what a help text promises."""
    workers = [line for line in text.splitlines() if "--workers" in line]
    return Abilities(
        has_data_plane="--data-plane" in text,
        has_workers=any("1 for now" not in line for line in workers),
    )


@contextmanager
def serving(server: ServerSpec, store: Store, directory: Path, pins: Pins) -> Iterator[Served]:
    """Run a daemon as `server` says until the block ends."""
    flags = ["--log-level", "warning"]
    if abilities().has_data_plane:
        flags += ["--data-plane", server.data_plane]
    if server.has_deny_cache:
        flags += ["--deny-cache-bytes", str(DENY_CACHE_BYTES)]
    if server.workers > 1:
        flags += ["--workers", str(server.workers)]
    ca = ""
    if server.has_tls:
        authority = make_authority(directory / "tls")
        leaf = authority.issue("ratelimitd", ("127.0.0.1",))
        flags += ["--grpc-tls-cert", str(leaf.certificate), "--grpc-tls-key", str(leaf.key)]
        ca = str(authority.certificate)
    with ExitStack() as stack:
        with pinned_to(pins.server):
            daemon = stack.enter_context(running_daemon(POLICY, store.url, directory, flags=flags))
        yield Served(daemon, store, pins, ca)
