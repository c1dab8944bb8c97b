"""The real `ratelimitd serve` as a child process on free loopback ports."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from ratelimitd.settings.upstream_table import UPSTREAM_BY_NAME
from tests.support import data_plane
from tests.support.children import Child, free_ports, start_child


@dataclass(slots=True)
class Daemon:
    """A running daemon and its three ports."""

    child: Child
    grpc_port: int
    http_port: int
    admin_port: int

    @property
    def grpc_address(self) -> str:
        """Return the host:port that Envoy calls."""
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def admin_address(self) -> str:
        """Return the host:port of peek, explain and reflection."""
        return f"127.0.0.1:{self.admin_port}"

    @property
    def http_url(self) -> str:
        """Return the base URL of /json, /healthz, /metrics and /policy."""
        return f"http://127.0.0.1:{self.http_port}"

    def metrics(self) -> str:
        """Return the text of /metrics."""
        return httpx.get(f"{self.http_url}/metrics").raise_for_status().text

    def is_healthy(self) -> bool:
        """Tell whether /healthz answers 200 now."""
        try:
            reply = httpx.get(f"{self.http_url}/healthz", timeout=1)
        except httpx.TransportError:
            return False
        return reply.status_code == httpx.codes.OK

    def worker_pids(self) -> list[int]:
        """Return the processes that the daemon, which may have ended, started as its workers."""
        found = []
        for directory in Path("/proc").iterdir():
            if directory.name.isdecimal():
                with suppress(OSError):
                    line = (directory / "cmdline").read_bytes().split(b"\0")
                    if b"ratelimitd.workers.main" in line and b"%d" % self.child.pid in line:
                        found.append(int(directory.name))
        return sorted(found)


def daemon_command(*arguments: str) -> list[str]:
    """Return the command line of the installed `ratelimitd`."""
    return [str(Path(sys.executable).with_name("ratelimitd")), *arguments]


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without any variable that configures a daemon.

    Only the data plane stays, which a test chooses by the fixture of that name.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in UPSTREAM_BY_NAME
        and (name == data_plane.VARIABLE or not name.startswith("RATELIMITD_"))
    }
    return kept | dict(extra or {})


@contextmanager
def running_daemon(
    policy: Path,
    store: str,
    directory: Path,
    *,
    flags: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> Iterator[Daemon]:
    """Serve `policy` on `store` (a URL or "embedded") until the block ends."""
    arguments = ["--policy", str(policy), "--store", store]
    if store == "embedded":
        arguments += ["--data-dir", str(directory / "data")]
    grpc_port, http_port, admin_port = ports = free_ports(3)
    arguments += [
        *("--grpc", f"127.0.0.1:{grpc_port}"),
        *("--http", f"127.0.0.1:{http_port}"),
        *("--admin", f"127.0.0.1:{admin_port}"),
        *flags,
    ]
    with running_command(["serve", *arguments], directory, ports=ports, env=env) as daemon:
        yield daemon


@contextmanager
def running_command(
    arguments: Sequence[str],
    directory: Path,
    *,
    ports: Sequence[int],
    env: Mapping[str, str] | None = None,
) -> Iterator[Daemon]:
    """Run `ratelimitd` with `arguments`, which must make it listen on `ports`.

    Ready is when /healthz says so. The daemon is ended by its pid, whatever happens.
    """
    directory.mkdir(parents=True, exist_ok=True)
    grpc_port, http_port, admin_port = ports
    child = start_child(
        "ratelimitd",
        daemon_command(*arguments),
        log=directory / f"ratelimitd-{grpc_port}.log",
        env=clean_environment(env),
    )
    daemon = Daemon(child, grpc_port, http_port, admin_port)
    try:
        child.wait_until(daemon.is_healthy, "answer from /healthz")
        yield daemon
    except BaseException as error:
        error.add_note(child.tail())
        raise
    finally:
        child.stop()
