"""The registry of subjects on real stores: a client for tests, and what is stored."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis

from ratelimitd.decisions.subject_entry import entry_field
from ratelimitd.store.address import parse_address
from ratelimitd.store.connection import NodeClient
from ratelimitd.store.scripts import load_subject_scripts
from ratelimitd.store.subjects import SubjectStore
from ratelimitd.store.topology import ClusterClient
from tests.support.servers import Cluster, Server

KINDS = ("valkey9", "redis7", "redis62", "cluster")
T = 5.0


def name_of(value: str, *, domain: str = "api", key: str = "user") -> str:
    """Return the name of an entry that is no secret."""
    return entry_field(domain, key, value, is_secret=False, hash_secret=b"")


@asynccontextmanager
async def opened_registry(
    store: Server | Cluster,
    *,
    prefix: str = "",
    timeout_s: float = T,
    kind: type[SubjectStore] = SubjectStore,
) -> AsyncIterator[SubjectStore]:
    """Open the registry of a store until the block ends."""
    address = parse_address(store.url)
    client: NodeClient | ClusterClient
    if isinstance(store, Cluster):
        now = asyncio.get_running_loop().time
        client = ClusterClient(address, store_timeout_s=timeout_s, now=now)
    else:
        client = NodeClient(address, address.endpoints[0], store_timeout_s=timeout_s)
    try:
        yield kind(client, load_subject_scripts(), prefix=prefix, timeout_s=timeout_s)
    finally:
        await client.close()


def nodes_of(store: Server | Cluster) -> list[Server]:
    """Return the servers of a store."""
    return store.nodes if isinstance(store, Cluster) else [store]


def flush(store: Server | Cluster) -> None:
    """Forget everything that is stored."""
    for node in nodes_of(store):
        node.execute("FLUSHALL")


def run_at_home(store: Server | Cluster, registry: SubjectStore, *command: str | bytes) -> object:
    """Run a command on the server that has the registry."""
    for node in nodes_of(store):
        if not isinstance(store, Cluster) or _has_slot(node, registry):
            return node.execute(*command)
    raise AssertionError("no node has the registry")


def _has_slot(node: Server, registry: SubjectStore) -> bool:
    client = node.client()
    try:
        client.hlen(registry.keys.records.decode())
    except redis.ResponseError:  # MOVED, to where it is
        return False
    finally:
        client.close()
        node.clients.remove(client)
    return True
