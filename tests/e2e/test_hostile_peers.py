"""Peers that want to wear the daemon out, on its real port: told off, counted, nobody's harm."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ratelimitd._proto.envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse
from ratelimitd.transport.h2 import frames
from ratelimitd.transport.h2.frames import ErrorCode
from tests.support.children import wait_for
from tests.support.daemon import Daemon, running_daemon
from tests.support.grpc_client import connected, rate_limit_request
from tests.support.proxied import write_policy
from tests.support.servers import Server
from tests.transport.h2 import peer
from tests.transport.h2.peer import CALL, changed, data, headers

_HELLO = frames.PREFACE + frames.settings({})
_TIMEOUT_S = 10

_TAKEN_BACK = (
    headers(stream_id) + frames.rst_stream(stream_id, ErrorCode.CANCEL)
    for stream_id in range(1, 9000, 2)
)
_MALFORMED = (headers(stream_id, changed(te=b"gzip"), 5) for stream_id in range(1, 4200, 2))
# What runs over each bound of the daemon, whether a second passes meanwhile or not.
ATTACKS = {
    "resets_per_interval": b"".join(_TAKEN_BACK),
    "stream_errors_per_interval": b"".join(_MALFORMED),
    "settings_per_interval": frames.settings({}) * 65,
    "pings_per_interval": frames.frame(frames.PING, 0, 0, bytes(8)) * 2049,
    "empty_data_per_interval": headers(1) + data(1, b"", 0) * 257,
    "window_updates_per_interval": frames.window_update(0, 1) * 8193,
    "other_frames_per_interval": frames.frame(0x42, 0, 0, b"") * 2049,
    "continuation_frames": headers(1, CALL, 0) + frames.frame(9, 0, 1, b"") * 9,
    "header_block_bytes": (
        headers(1, CALL, 0)
        + frames.frame(9, 0, 1, bytes(16_384))
        + frames.frame(9, 0, 1, bytes(16_384))
    ),
}
POLICY = """
domain: hostile
descriptors:
  - key: user
    rate_limit: {unit: year, requests_per_unit: 1000}
"""


@pytest.fixture(params=[1, 2])
def daemon(store: Server, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    policy = write_policy(tmp_path / "policy", POLICY)
    flags = ("--data-plane", "h2", "--workers", str(request.param))
    with running_daemon(policy, store.url, tmp_path / "daemon", flags=flags) as daemon:
        yield daemon


async def test_attacks_end_at_their_bounds_and_others_are_served(daemon: Daemon) -> None:
    async with connected(daemon.grpc_address) as should_rate_limit:
        for bound, attack in ATTACKS.items():
            # when
            goaways = await attacked(daemon, attack)

            # then
            assert goaways in ([ErrorCode.ENHANCE_YOUR_CALM], []), bound
            answer = await should_rate_limit(rate_limit_request("hostile", "user=honest"))
            assert answer.overall_code == RateLimitResponse.OK

    wait_for(lambda: sum(counted(daemon, "over_bound", "bound").values()) >= len(ATTACKS), "counts")
    assert counted(daemon, "over_bound", "bound") == dict.fromkeys(ATTACKS, 1)
    assert counted(daemon, "connection_errors", "code") == {}


async def attacked(daemon: Daemon, attack: bytes) -> list[ErrorCode]:
    """Send `attack` on a connection of its own until the daemon ends it; return what it said.

    What we send behind the bound may meet a closed socket, which takes its words from us.
    """
    said = b""
    async with asyncio.timeout(_TIMEOUT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", daemon.grpc_port)
        try:
            writer.write(_HELLO + attack)
            while part := await reader.read(65_536):
                said += part
        except ConnectionError:
            return []
        finally:
            writer.close()
    return [code for _, code in peer.goaways(said)]


def counted(daemon: Daemon, name: str, label: str) -> dict[str, float]:
    """Return one family of the HTTP/2 server's metrics, without what is zero."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(daemon.metrics()):
        if family.name == f"ratelimitd_h2_{name}":
            found |= {each.labels[label]: each.value for each in family.samples if each.value}
    return found
