"""Two workers behind mutual TLS: the handshake and the names are theirs."""

from pathlib import Path
from typing import cast

import grpc
import pytest

from tests.support.certificates import Authority, KeyPair, make_authority
from tests.support.daemon import Daemon, running_daemon
from tests.support.servers import Server, make_server, valkey9
from tests.workers.test_daemon_workers import FLAGS, POLICY, hit

__all__ = ["make_server", "valkey9"]


def outcome(daemon: Daemon, authority: Authority, client: KeyPair | None) -> grpc.StatusCode:
    """Return the status of one call on a connection of its own."""
    credentials = grpc.ssl_channel_credentials(
        authority.certificate.read_bytes(),
        client.key.read_bytes() if client else None,
        client.certificate.read_bytes() if client else None,
    )
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(f"localhost:{daemon.grpc_port}", credentials, options) as channel:
        try:
            hit(channel, "open", "x")
        except grpc.RpcError as error:
            return cast("grpc.Call", error).code()
    return grpc.StatusCode.OK


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "ca")


def test_workers_speak_mutual_tls_and_know_names(
    authority: Authority, valkey9: Server, tmp_path: Path
) -> None:
    pair = authority.issue("localhost")
    right, wrong = authority.issue("envoy.internal"), authority.issue("other.internal")
    policy = tmp_path / "policy"
    policy.mkdir()
    (policy / "api.yaml").write_text(POLICY)
    flags = (
        *(*FLAGS, "--grpc-tls-cert", str(pair.certificate), "--grpc-tls-key", str(pair.key)),
        *("--grpc-client-ca", str(authority.certificate), "--grpc-client-san", "envoy.internal"),
    )
    with running_daemon(policy, valkey9.url, tmp_path / "daemon", flags=flags) as daemon:
        # Two calls of each: the workers take turns.
        for _ in range(2):
            assert outcome(daemon, authority, right) is grpc.StatusCode.OK
            assert outcome(daemon, authority, wrong) is grpc.StatusCode.PERMISSION_DENIED
            assert outcome(daemon, authority, None) is grpc.StatusCode.UNAVAILABLE
