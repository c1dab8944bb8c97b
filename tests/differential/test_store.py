"""Callers that leave and stores that are away, on both data planes."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.differential.case import GOOD, OK, says
from tests.differential.conftest import POLICY
from tests.differential.test_grpcio import channel_to
from tests.differential.wire import Wire, call, changed
from tests.support.children import wait_for
from tests.support.daemon import Daemon, running_daemon
from tests.support.grpc_client import METHOD, rate_limit_request
from tests.support.proxied import write_policy
from tests.support.servers import Server, start_server

TIMEOUT_S = 20
CANCELLED = 50
# Answered without the store.
FREE = rate_limit_request("api", "none=x").SerializeToString()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Server]:
    server = start_server("valkey9", tmp_path / "store")
    yield server
    server.stop()


@pytest.fixture
def daemon(data_plane: str, store: Server, tmp_path: Path) -> Iterator[Daemon]:
    # The store may be silent for as long as the test needs.
    policy = write_policy(tmp_path / "policy", POLICY)
    flags = ("--store-timeout", "10s")
    with running_daemon(policy, store.url, tmp_path / "daemon", flags=flags) as daemon:
        yield daemon


def calls_total(daemon: Daemon) -> dict[str, int]:
    """Return the number of ShouldRateLimit calls by their code, as metrics have it."""
    found = {}
    for line in daemon.metrics().splitlines():
        if line.startswith("ratelimitd_calls_total{") and 'method="ShouldRateLimit"' in line:
            found[line.split('code="')[1].split('"')[0]] = int(float(line.rpartition(" ")[2]))
    return found


def test_cancelled_calls_free_their_streams_and_the_connection_goes_on(
    daemon: Daemon, store: Server
) -> None:
    with channel_to(daemon) as channel:
        # given calls that wait for the store
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        assert method(GOOD, timeout=TIMEOUT_S)
        with store.paused():
            calls = [method.future(GOOD, timeout=TIMEOUT_S) for _ in range(CANCELLED)]
            assert method(FREE, timeout=TIMEOUT_S)
            # when
            for each in calls:
                each.cancel()
            # then
            assert all(each.cancelled() for each in calls)
            assert method(FREE, timeout=TIMEOUT_S)
        assert method(GOOD, timeout=TIMEOUT_S)
        counted = {"OK": 4, "CANCELLED": CANCELLED}
        wait_for(lambda: calls_total(daemon) == counted, "all to be counted")


def test_call_is_answered_within_its_deadline_by_a_store_that_is_silent(
    daemon: Daemon, store: Server
) -> None:
    with store.paused():
        for timeout in (b"30m", b"300m"):
            with Wire(daemon.grpc_port) as wire:
                wire.send(call(1, GOOD, changed(grpc_timeout=timeout)))
                wire.send(call(3, FREE))

                assert wire.outcome(3, FREE) == OK
                # Who notices first depends on the moment: the service, or grpcio's own clock.
                assert says(wire.outcome(1, FREE), "UNAVAILABLE: store* | DEADLINE_EXCEEDED: *")


def test_store_that_is_away_is_told_in_the_same_words(daemon: Daemon, store: Server) -> None:
    store.kill()
    with Wire(daemon.grpc_port) as wire:
        told = Counter[str]()
        for stream_id in range(1, 40, 2):
            wire.send(call(stream_id, GOOD))
            told[wire.outcome(stream_id, FREE).removesuffix(".")] += 1

    words = f"UNAVAILABLE: store unix:{store.unix_path}: cannot connect: No such file or directory"
    assert set(told) <= {words, f"{words}; not asked again until it answers a probe"}
