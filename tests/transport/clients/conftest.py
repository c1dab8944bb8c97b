"""Clients of the gRPC port, each by its own library.

The ones in Go and JavaScript are built where their languages are installed, out of the tree;
elsewhere, on a laptop, their tests skip. CI has both.
"""

from collections.abc import Iterator

import pytest

from tests.support.daemon import Daemon, running_daemon
from tests.support.proxied import write_policy
from tests.support.servers import Server, start_server
from tests.transport.clients.by_grpcio import ask_by_asyncio, ask_by_threads
from tests.transport.clients.plan import Client
from tests.transport.clients.programs import build_go, install_js

POLICY = """
domain: api
descriptors:
  - {key: open, rate_limit: {unit: year, requests_per_unit: 1000000}}
  - {key: shut, rate_limit: {unit: year, requests_per_unit: 0}}
"""


@pytest.fixture(scope="session")
def client_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give the store of the daemon that all clients call."""
    server = start_server("valkey9", tmp_path_factory.mktemp("clients") / "store")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def daemon(client_store: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give the daemon, whose limits are far away or none at all."""
    directory = tmp_path_factory.mktemp("clients")
    policy = write_policy(directory / "policy", POLICY)
    # A store that is silent is waited for until the caller's deadline.
    flags = ("--data-plane", "h2", "--store-timeout", "10s")
    with running_daemon(policy, client_store.url, directory, flags=flags) as daemon:
        yield daemon


@pytest.fixture(scope="session")
def grpc_go(tmp_path_factory: pytest.TempPathFactory) -> Client:
    """Build the client by grpc-go."""
    return build_go(tmp_path_factory.mktemp("grpc-go"))


@pytest.fixture(scope="session")
def grpc_js(tmp_path_factory: pytest.TempPathFactory) -> Client:
    """Install the client by grpc-js."""
    return install_js(tmp_path_factory.mktemp("grpc-js"))


@pytest.fixture(params=["grpcio-threads", "grpcio-asyncio", "grpc-go", "grpc-js"])
def client(request: pytest.FixtureRequest) -> Client:
    """Give each client in turn."""
    match request.param:
        case "grpcio-threads":
            return ask_by_threads
        case "grpcio-asyncio":
            return ask_by_asyncio
        case name:
            built: Client = request.getfixturevalue(name.replace("-", "_"))
            return built
