"""TLS of a whole daemon: who shakes hands, and when the certificate ends."""

from datetime import datetime
from pathlib import Path
from typing import cast

import grpc
import pytest

from tests.support.certificates import Authority, KeyPair, make_authority
from tests.support.children import wait_for
from tests.support.daemon import Daemon, running_daemon
from tests.support.servers import Server, make_server, valkey9
from tests.workers.test_daemon_callers import KINDS
from tests.workers.test_daemon_workers import FLAGS, POLICY, hit, metric

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


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    directory = tmp_path / "policy"
    directory.mkdir()
    (directory / "api.yaml").write_text(POLICY)
    return directory


def test_workers_speak_mutual_tls_and_know_names(
    authority: Authority, policy: Path, valkey9: Server, tmp_path: Path
) -> None:
    pair = authority.issue("localhost")
    right, wrong = authority.issue("envoy.internal"), authority.issue("other.internal")
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
        # And handshakes that failed are counted, whichever worker they were with.
        failed = 'ratelimitd_h2_tls_handshake_failures_total{reason="no_certificate"}'
        wait_for(lambda: metric(daemon, failed)[failed] >= 2, "the failed handshakes")


@pytest.mark.parametrize("kind", list(KINDS))
def test_end_of_the_certificate_is_told_and_follows_the_file(
    kind: str, authority: Authority, policy: Path, valkey9: Server, tmp_path: Path
) -> None:
    # given a certificate
    name = "ratelimitd_tls_certificate_not_after_seconds"
    first, second = datetime(2031, 1, 1), datetime(2032, 1, 1)  # noqa: DTZ001 - UTC, see there
    pair = authority.issue("localhost", not_after=first)
    flags = ("--grpc-tls-cert", str(pair.certificate), "--grpc-tls-key", str(pair.key))
    with running_daemon(
        policy, valkey9.url, tmp_path / "daemon", flags=(*KINDS[kind], *flags)
    ) as daemon:
        wait_for(lambda: metric(daemon, name) == {name: 1_924_992_000}, "its end")

        # when another takes its place, and nobody calls
        other = make_authority(tmp_path / "other", "Other CA")
        new = other.issue("localhost", not_after=second)
        new.key.replace(pair.key)
        new.certificate.replace(pair.certificate)

        # then it is told, and shown
        wait_for(lambda: metric(daemon, name) == {name: 1_956_528_000}, "the other's end")
        assert outcome(daemon, other, None) is grpc.StatusCode.OK
        assert outcome(daemon, authority, None) is grpc.StatusCode.UNAVAILABLE
