"""Sixteen clients at once against one limit: exactly the limit is admitted, wherever they ask."""

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest

from ratelimitd._proto.envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse
from tests.support.daemon import running_daemon
from tests.support.grpc_client import connected, rate_limit_request
from tests.support.proxied import YEAR_S, write_policy
from tests.support.servers import Cluster, Server

pytestmark = pytest.mark.usefixtures("data_plane")

CLIENTS = 16
CALLS_EACH = 30
LIMIT = 300

POLICY = f"""
domain: exact
descriptors:
  - key: user
    rate_limit: {{unit: year, requests_per_unit: {LIMIT}}}
  - key: tenant
    rate_limit: {{unit: year, requests_per_unit: {2 * LIMIT}}}
"""


@pytest.mark.parametrize("daemons", [1, 3])
async def test_concurrent_clients_are_admitted_exactly_the_limit(
    store: Server, tmp_path: Path, daemons: int
) -> None:
    assert await admitted_within_one_window(store.url, [store], daemons, tmp_path) == LIMIT


@pytest.mark.parametrize("daemons", [1, 3])
async def test_concurrent_clients_on_a_cluster_are_admitted_exactly_the_limit(
    cluster_store: Cluster, tmp_path: Path, daemons: int
) -> None:
    nodes = cluster_store.nodes
    assert await admitted_within_one_window(cluster_store.url, nodes, daemons, tmp_path) == LIMIT


async def admitted_within_one_window(
    url: str, nodes: list[Server], daemons: int, directory: Path
) -> int:
    """Count the admitted of all clients; once more if a window's border lay between."""
    policy = write_policy(directory / "policy", POLICY)
    with ExitStack() as stack:
        addresses = [
            stack.enter_context(
                running_daemon(policy, url, directory / f"daemon{index}")
            ).grpc_address
            for index in range(daemons)
        ]
        for attempt in range(2):
            first_window = window(nodes[0])
            admitted = await admitted_to_all_clients(addresses, f"alice{attempt}")
            if window(nodes[0]) == first_window:
                return admitted
    raise AssertionError("two borders of a year within one test")


async def admitted_to_all_clients(addresses: list[str], user: str) -> int:
    """Run all clients at once, spread over `addresses`; return how many calls passed."""
    clients = [
        admitted_to_one_client(addresses[index % len(addresses)], user) for index in range(CLIENTS)
    ]
    return sum(await asyncio.gather(*clients))


async def admitted_to_one_client(address: str, user: str) -> int:
    """Ask CALLS_EACH times on a connection of its own; return how many calls passed.

    The second descriptor lives on another counter, in Cluster mostly on another node; its limit
    is never reached.
    """
    request = rate_limit_request("exact", f"user={user}", f"tenant={user}")
    admitted = 0
    async with connected(address) as should_rate_limit:
        for _ in range(CALLS_EACH):
            answer = await should_rate_limit(request)
            assert answer.overall_code in {RateLimitResponse.OK, RateLimitResponse.OVER_LIMIT}
            admitted += answer.overall_code == RateLimitResponse.OK
    return admitted


def window(store: Server) -> int:
    """Return the number of the year window that the store's clock is in."""
    answer = store.execute("TIME")
    assert isinstance(answer, (list, tuple))
    return int(answer[0]) // YEAR_S
