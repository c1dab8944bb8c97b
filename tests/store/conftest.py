"""Fixtures of the store tests: servers of the session, and clients closed after each test."""

from collections.abc import AsyncIterator, Callable

import pytest

from ratelimitd.store.address import AddressOptions, parse_address
from ratelimitd.store.connection import NodeClient
from ratelimitd.store.scripts import Scripts, load_scripts
from tests.support.servers import (
    cluster,
    make_server,
    redis7,
    redis62,
    session_store,
    store_server,
    valkey9,
)

__all__ = [
    "cluster",
    "make_server",
    "redis7",
    "redis62",
    "session_store",
    "store_server",
    "valkey9",
]

MakeClient = Callable[..., NodeClient]


@pytest.fixture(scope="session")
def scripts() -> Scripts:
    return load_scripts()


@pytest.fixture
async def make_client() -> AsyncIterator[MakeClient]:
    made: list[NodeClient] = []

    def make(
        url: str,
        options: AddressOptions | None = None,
        store_timeout_s: float = 5.0,
        on_breaker: Callable[[bool, str], None] | None = None,
    ) -> NodeClient:
        address = parse_address(url, options)
        client = NodeClient(
            address,
            address.endpoints[0],
            store_timeout_s=store_timeout_s,
            on_breaker=on_breaker,
        )
        made.append(client)
        return client

    yield make
    for client in made:
        await client.close()
