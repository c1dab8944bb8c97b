"""One daemon for each data plane, with the same policy and a store of its own."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, running_daemon
from tests.support.data_plane import PLANES
from tests.support.proxied import write_policy
from tests.support.servers import start_server

POLICY = """
domain: api
descriptors:
  - {key: open, rate_limit: {unit: year, requests_per_unit: 1000000}}
  - {key: two, rate_limit: {unit: year, requests_per_unit: 2}}
  - {key: shut, rate_limit: {unit: year, requests_per_unit: 0}}
  - key: held
    detailed_metric: true
    rate_limit: {name: held, unit: year, requests_per_unit: 3}
    descriptors:
      - {key: user, rate_limit: {unit: hour, requests_per_unit: 2}}
"""

Planes = Mapping[str, Daemon]


@contextmanager
def running_planes(directory: Path) -> Iterator[Planes]:
    """Run a daemon for each data plane until the block ends."""
    with ExitStack() as stack:
        policy = write_policy(directory / "policy", POLICY)
        daemons = {}
        for plane in PLANES:
            store = start_server("valkey9", directory / plane / "store")
            stack.callback(store.stop)
            flags = ("--data-plane", plane, "--limit-headers")
            daemons[plane] = stack.enter_context(
                running_daemon(policy, store.url, directory / plane, flags=flags)
            )
        yield daemons


@pytest.fixture(scope="session")
def planes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planes]:
    """Give the session's two daemons; a test must not depend on what they have counted."""
    with running_planes(tmp_path_factory.mktemp("planes")) as daemons:
        yield daemons
