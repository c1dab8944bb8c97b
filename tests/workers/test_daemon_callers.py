"""`callers.yaml` beside the policy of a whole daemon: one process or several, each data plane."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ratelimitd._proto.envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest
from tests.support.certificates import Authority, KeyPair, make_authority
from tests.support.children import free_ports, wait_for
from tests.support.daemon import Daemon, clean_environment, daemon_command, running_daemon
from tests.support.servers import Server, make_server, valkey9
from tests.workers.test_daemon_workers import HIT, TIMEOUT_S, metric

__all__ = ["make_server", "valkey9"]

EDGE = "spiffe://prod.example/ns/edge/sa/envoy"
CALLERS = f"""\
callers:
  - san: {EDGE}
    domains: [shop]
    methods: [{HIT[1:]}]
  - san: monitor.internal
    domains: all
    methods: [grpc.health.v1.Health/Check]
"""
FILES = {"shop.yaml": "domain: shop\n", "login.yaml": "domain: login\n"}
KINDS = {
    "grpcio": ("--data-plane", "grpcio"),
    "one process": ("--data-plane", "h2"),
    "two workers": ("--data-plane", "h2", "--workers", "2"),
}


@dataclass
class World:
    daemon: Daemon
    authority: Authority
    policy: Path

    @contextmanager
    def connected(self, *sans: str) -> Iterator[grpc.Channel]:
        """Open a connection with a certificate that has the names `sans`."""
        pair = self.authority.issue("client", sans)
        credentials = grpc.ssl_channel_credentials(
            self.authority.certificate.read_bytes(),
            pair.key.read_bytes(),
            pair.certificate.read_bytes(),
        )
        options = [("grpc.use_local_subchannel_pool", 1)]
        address = f"localhost:{self.daemon.grpc_port}"
        with grpc.secure_channel(address, credentials, options) as channel:
            yield channel

    def write(self, callers: str) -> None:
        (self.policy / "callers.yaml").write_text(callers)
        os.kill(self.daemon.child.pid, signal.SIGHUP)


def tls_flags(authority: Authority, pair: KeyPair) -> tuple[str, ...]:
    return (
        *("--grpc-tls-cert", str(pair.certificate), "--grpc-tls-key", str(pair.key)),
        *("--grpc-client-ca", str(authority.certificate)),
    )


def code(channel: grpc.Channel, domain: str) -> grpc.StatusCode:
    """Return the status of a request for `domain`."""
    method: grpc.UnaryUnaryMultiCallable[RateLimitRequest, bytes] = channel.unary_unary(
        HIT, request_serializer=RateLimitRequest.SerializeToString
    )
    request = RateLimitRequest(domain=domain)
    request.descriptors.add().entries.add(key="k", value="v")
    return status(lambda: method(request, timeout=TIMEOUT_S))


def health(channel: grpc.Channel) -> grpc.StatusCode:
    stub = health_pb2_grpc.HealthStub(channel)
    return status(lambda: stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S))


def status(call: Callable[[], object]) -> grpc.StatusCode:
    try:
        call()
    except grpc.RpcError as error:
        return cast("grpc.Call", error).code()
    return grpc.StatusCode.OK


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    directory = tmp_path / "policy"
    directory.mkdir()
    for name, text in {**FILES, "callers.yaml": CALLERS}.items():
        (directory / name).write_text(text)
    return directory


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "ca")


@pytest.fixture(params=list(KINDS))
def world(
    request: pytest.FixtureRequest,
    authority: Authority,
    policy: Path,
    valkey9: Server,
    tmp_path: Path,
) -> Iterator[World]:
    flags = (*KINDS[request.param], *tls_flags(authority, authority.issue("localhost")))
    with running_daemon(policy, valkey9.url, tmp_path / "daemon", flags=flags) as daemon:
        yield World(daemon, authority, policy)


OK, DENIED = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED


def test_callers_may_do_what_the_file_says_also_after_it_changed(world: World) -> None:
    # given two connections of each caller: with two workers each has one of both
    with (
        world.connected(EDGE) as edge,
        world.connected(EDGE) as other_edge,
        world.connected("monitor.internal") as monitor,
        world.connected("stranger") as stranger,
    ):
        for channel in (edge, other_edge):
            assert [code(channel, "shop"), code(channel, "login")] == [OK, DENIED]
            assert health(channel) is DENIED
        assert [code(monitor, "shop"), health(monitor)] == [DENIED, OK]
        assert [code(stranger, "shop"), health(stranger)] == [DENIED, DENIED]

        # when the file changes, then it holds for connections that are open
        world.write(CALLERS.replace("[shop]", "[login]"))
        edges = (edge, other_edge)
        wait_for(lambda: all(code(channel, "login") is OK for channel in edges), "the changed file")
        assert [code(channel, "shop") for channel in edges] == [DENIED, DENIED]

        # and when it is broken, the last good one stays
        world.write("callers: everybody\n")
        wait_for(
            lambda: "callers.yaml:1:10: callers: must be a list" in world.daemon.child.output(),
            "the error",
        )
        assert [code(edge, "login"), code(edge, "shop")] == [OK, DENIED]

    # and all refusals are counted, by all processes together
    def refused() -> dict[str, float]:
        found = metric(world.daemon, "ratelimitd_callers_refused_total")
        return {series.partition('"')[2].partition('"')[0]: found[series] for series in found}

    wait_for(lambda: refused()["domain"] >= 5, "the counts")
    assert refused()["method"] == 3
    assert refused()["unknown"] == 2
    assert refused()["name"] == 0
    assert "refused: callers.yaml has no entry for `stranger`" in world.daemon.child.output()


@pytest.mark.parametrize("kind", list(KINDS))
def test_file_without_client_certificates_stops_the_start(
    kind: str, policy: Path, authority: Authority, valkey9: Server
) -> None:
    grpc_port, http_port, admin_port = free_ports(3)
    command = daemon_command(
        *("serve", "--policy", str(policy), "--store", valkey9.url, *KINDS[kind]),
        *("--grpc", f"127.0.0.1:{grpc_port}", "--http", f"127.0.0.1:{http_port}"),
        *("--admin", f"127.0.0.1:{admin_port}"),
        # TLS alone tells nobody apart.
        *tls_flags(authority, authority.issue("localhost"))[:4],
    )

    run = subprocess.run(
        command, env=clean_environment(), capture_output=True, text=True, timeout=30, check=False
    )

    assert run.returncode == 1
    assert "callers.yaml: says who may call, and without client certificates" in run.stderr
    assert "Traceback" not in run.stderr
