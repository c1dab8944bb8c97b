"""A container of the reference server switched by its image name: its variables, nothing else."""

from pathlib import Path

import grpc
import httpx
import pytest

from ratelimitd._proto.envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse
from tests.support.children import free_ports, start_child
from tests.support.daemon import clean_environment, daemon_command, running_command
from tests.support.grpc_client import connected, rate_limit_request
from tests.support.proxied import write_policy
from tests.support.servers import Server

POLICY = """
domain: mongo_cps
descriptors:
  - key: database
    value: users
    rate_limit: {unit: year, requests_per_unit: 2}
  - key: database
    rate_limit: {unit: year, requests_per_unit: 3}
"""


def upstream_environment(store: Server, root: Path, ports: list[int]) -> dict[str, str]:
    """Return what a deployment of the reference server sets, and only that."""
    grpc_port, http_port, debug_port = ports
    return {
        "REDIS_SOCKET_TYPE": "tcp",
        "REDIS_URL": f"127.0.0.1:{store.port}",
        "REDIS_POOL_SIZE": "20",
        "RUNTIME_ROOT": str(root),
        "RUNTIME_SUBDIRECTORY": "ratelimit",
        "RUNTIME_WATCH_ROOT": "false",
        "RUNTIME_IGNOREDOTFILES": "true",
        "USE_STATSD": "false",
        "LOG_LEVEL": "info",
        "LOG_FORMAT": "json",
        "HOST": "127.0.0.1",
        "PORT": str(http_port),
        "GRPC_HOST": "127.0.0.1",
        "GRPC_PORT": str(grpc_port),
        "DEBUG_HOST": "127.0.0.1",
        "DEBUG_PORT": str(debug_port),
        "NEAR_LIMIT_RATIO": "0.9",
        "LIMIT_RESPONSE_HEADERS_ENABLED": "true",
    }


@pytest.mark.usefixtures("data_plane")
async def test_daemon_runs_on_the_variables_of_the_reference_server(
    store: Server, tmp_path: Path
) -> None:
    # given
    write_policy(tmp_path / "data" / "ratelimit" / "config", POLICY)
    ports = free_ports(3)
    env = upstream_environment(store, tmp_path / "data", ports)
    with running_command(["serve"], tmp_path, ports=ports, env=env) as daemon:
        async with connected(daemon.grpc_address) as should_rate_limit:
            # when
            users = rate_limit_request("mongo_cps", "database=users")
            answers = [await should_rate_limit(users) for _ in range(3)]
            other = await should_rate_limit(rate_limit_request("mongo_cps", "database=orders"))

        # then
        ok, over = RateLimitResponse.OK, RateLimitResponse.OVER_LIMIT
        assert [answer.overall_code for answer in answers] == [ok, ok, over]
        assert other.statuses[0].limit_remaining == 2
        headers = {header.key: header.value for header in answers[0].response_headers_to_add}
        assert headers["RateLimit-Limit"] == "2"
        assert headers["RateLimit-Remaining"] == "1"

        # then
        asked = {
            "domain": "mongo_cps",
            "descriptors": [{"entries": [{"key": "database", "value": "users"}]}],
        }
        async with httpx.AsyncClient(base_url=daemon.http_url) as http:
            assert (await http.post("/json", json=asked)).status_code == 429
            assert (await http.get("/healthcheck")).text == "OK"


@pytest.mark.usefixtures("data_plane")
async def test_daemon_on_upstream_variables_says_what_is_wrong_with_a_request(
    store: Server, tmp_path: Path
) -> None:
    # given
    write_policy(tmp_path / "data" / "ratelimit" / "config", POLICY)
    ports = free_ports(3)
    env = upstream_environment(store, tmp_path / "data", ports)
    with running_command(["serve"], tmp_path, ports=ports, env=env) as daemon:
        async with connected(daemon.grpc_address) as should_rate_limit:
            # when
            with pytest.raises(grpc.RpcError) as failed:
                await should_rate_limit(rate_limit_request("", "database=users"))

            # then: the reference server's UNKNOWN would let the request pass
            assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            answer = await should_rate_limit(rate_limit_request("mongo_cps", "database=users"))
            assert answer.overall_code == RateLimitResponse.OK


@pytest.mark.parametrize(
    ("name", "value"),
    [("BACKEND_TYPE", "memcache"), ("CONFIG_TYPE", "GRPC_XDS_SOTW")],
)
def test_daemon_refuses_a_variable_whose_meaning_it_lacks(
    store: Server, tmp_path: Path, name: str, value: str
) -> None:
    # given
    write_policy(tmp_path / "data" / "ratelimit" / "config", POLICY)
    env = upstream_environment(store, tmp_path / "data", free_ports(3)) | {name: value}

    # when
    child = start_child(
        "ratelimitd",
        daemon_command("serve"),
        log=tmp_path / "log",
        env=clean_environment(env),
    )
    code = child.process.wait(20)

    # then
    assert code == 2, child.tail()
    assert name in child.output()
    assert "Traceback" not in child.output()
