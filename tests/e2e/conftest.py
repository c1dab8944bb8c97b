"""Fixtures of the end-to-end tests: a private store, emptied before each test."""

import pytest

from tests.support.servers import Cluster, Server, cluster, valkey9

__all__ = ["cluster", "valkey9"]


@pytest.fixture
def store(valkey9: Server) -> Server:
    """Give the session's private Valkey, without a key in it."""
    valkey9.execute("FLUSHALL")
    return valkey9


@pytest.fixture
def cluster_store(cluster: Cluster) -> Cluster:
    """Give the session's three nodes, without a key in them."""
    for node in cluster.nodes:
        node.execute("FLUSHALL")
    return cluster
