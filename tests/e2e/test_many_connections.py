"""As many connections as a process takes: they hold, are small, and none keeps another waiting."""

import os
import resource
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import hpack
import pytest

from ratelimitd.transport.h2 import frames
from ratelimitd.transport.h2.server import MAX_CONNECTIONS
from tests.support.children import wait_for
from tests.support.daemon import Daemon, running_daemon
from tests.support.grpc_client import METHOD, rate_limit_request
from tests.support.proxied import write_policy
from tests.support.servers import Server
from tests.transport.h2 import peer

MAX_BYTES_EACH = 12 * 1024
# What this process and the daemon have open besides.
SPARE_FILES = 600
# Fewer than the connections; the daemon must raise it by itself.
FEW_FILES = 1_024
WARM_UP = 64
# Far below what may wait for the store.
AT_ONCE = 256
TIMEOUT_S = 20
# Each insertion takes 98 bytes of the peer's table of 4,096.
TRACES = 40
POLICY = """
domain: fleet
descriptors:
  - key: user
    rate_limit: {unit: year, requests_per_unit: 100000000}
"""


@pytest.mark.timeout(300)
def test_connections_hold_and_each_is_small(store: Server, tmp_path: Path) -> None:
    # given
    policy = write_policy(tmp_path / "policy", POLICY)
    flags = ("--data-plane", "h2")
    with (
        files_allowed(MAX_CONNECTIONS + SPARE_FILES),
        running_with_few_files(policy, store, tmp_path / "daemon", flags) as daemon,
    ):
        with opened(daemon, WARM_UP) as some:
            ask_all(some, first_call())
        before = resident_bytes(daemon)

        # when: all come, and each has a table of header fields that is full
        with opened(daemon, MAX_CONNECTIONS) as fleet:
            ask_all(fleet, first_call())
            each_bytes = (resident_bytes(daemon) - before) / len(fleet)

            # then
            assert each_bytes <= MAX_BYTES_EACH
            wait_for(lambda: connections(daemon) == MAX_CONNECTIONS, "all of them to be counted")
            assert_refused(daemon)
            ask_all(fleet[:: MAX_CONNECTIONS // 256], second_call())
        wait_for(lambda: connections(daemon) == 0, "all of them to leave")

        # and afterwards there is room again
        with opened(daemon, WARM_UP) as some:
            ask_all(some, first_call())


@contextmanager
def running_with_few_files(
    policy: Path, store: Server, directory: Path, flags: Sequence[str]
) -> Iterator[Daemon]:
    """Start the daemon as a shell with the usual limit does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW_FILES, hard))
    with running_daemon(policy, store.url, directory, flags=flags) as daemon:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        yield daemon


@contextmanager
def files_allowed(count: int) -> Iterator[None]:
    """Allow this process and its children `count` files; skip, or fail in CI, where it may not."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, max(count, before[1])))
    except (OSError, ValueError):
        reason = f"{count} open files are not allowed here (ulimit -Hn)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def opened(daemon: Daemon, count: int) -> Iterator[list[socket.socket]]:
    """Connect and greet `count` times; the connections are reset at the end."""
    found: list[socket.socket] = []
    try:
        for _ in range(count):
            sock = socket.create_connection(("127.0.0.1", daemon.grpc_port), TIMEOUT_S)
            found.append(sock)
            sock.sendall(frames.PREFACE + frames.settings({}))
        yield found
    finally:
        for sock in found:
            # No port is left waiting, of which there are not many more than connections.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()


def ask_all(fleet: Sequence[socket.socket], call: bytes) -> None:
    """Make a call on each connection and read its answer, on some at once."""
    for start in range(0, len(fleet), AT_ONCE):
        ask_some(fleet[start : start + AT_ONCE], call)


def ask_some(fleet: Sequence[socket.socket], call: bytes) -> None:
    for sock in fleet:
        sock.sendall(call)
    for sock in fleet:
        received = b""
        while frames.END_STREAM | frames.END_HEADERS not in header_flags(received):
            part = sock.recv(65_536)
            assert part, peer.goaways(received)
            received += part
        assert b"\x08\x01" in received, "the answer is not OK"


def header_flags(received: bytes) -> list[int]:
    """Return the flags of each HEADERS frame that has come."""
    found = []
    position = 0
    while position + 9 <= len(received):
        if received[position + 3] == frames.HEADERS:
            found.append(received[position + 4])
        position += 9 + int.from_bytes(received[position : position + 3], "big")
    return found


def first_call() -> bytes:
    """Return a call that fills the table with what a tracing gateway sends."""
    return _call(hpack.Encoder(), 1, TRACES)


def second_call() -> bytes:
    """Return the call after `first_call`."""
    encoder = hpack.Encoder()
    _call(encoder, 1, TRACES)
    return _call(encoder, 3, 1)


def _call(encoder: hpack.Encoder, stream_id: int, traces: int) -> bytes:
    fields = [
        *peer.changed(path=METHOD.encode()),
        *((b"traceparent", b"00-%032x-%016x-01" % (number, number)) for number in range(traces)),
    ]
    body = peer.message(rate_limit_request("fleet", "user=alice").SerializeToString())
    block = frames.frame(
        frames.HEADERS, frames.END_HEADERS, stream_id, encoder.encode(fields, huffman=False)
    )
    return block + peer.data(stream_id, body)


def assert_refused(daemon: Daemon) -> None:
    """Connect once more, which is one too many."""
    with socket.create_connection(("127.0.0.1", daemon.grpc_port), TIMEOUT_S) as sock:
        try:
            assert sock.recv(100) == b""
        except ConnectionResetError:
            return


def connections(daemon: Daemon) -> int:
    """Return how many the daemon says that it has."""
    (line,) = (
        line
        for line in daemon.metrics().splitlines()
        if line.startswith("ratelimitd_worker_connections{") and 'listener="grpc"' in line
    )
    return int(float(line.rpartition(" ")[2]))


def resident_bytes(daemon: Daemon) -> int:
    """Return the memory of the daemon."""
    pages = int(Path(f"/proc/{daemon.child.pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()
