"""A real Envoy behind mutual TLS: what its certificate may do, and what it gets when it may not."""

import os
import signal
from pathlib import Path

import pytest

from tests.support.certificates import make_authority
from tests.support.children import wait_for
from tests.support.proxied import EXAMPLES, proxied, yearly_example
from tests.support.servers import Server

CALLERS = EXAMPLES.parent / "callers" / "callers.yaml"
EDGE = "spiffe://prod.example/ns/edge/sa/envoy"
PLANES = (("--data-plane", "grpcio"), ("--data-plane", "h2", "--workers", "2"))


@pytest.mark.parametrize("plane", PLANES, ids=["grpcio", "h2"])
def test_envoy_is_limited_where_its_certificate_may_call(
    plane: tuple[str, ...], store: Server, tmp_path: Path
) -> None:
    # given the published files, with certificates of this test
    authority = make_authority(tmp_path / "ca")
    ours = authority.issue("ratelimitd.internal")
    envoy = authority.issue("envoy", (EDGE,))
    policy = yearly_example("api.yaml", tmp_path / "policy")
    callers = CALLERS.read_text("utf-8").replace("[shop, login]", "[api]")
    (policy / "callers.yaml").write_text(callers)
    flags = (
        *("--grpc-tls-cert", str(ours.certificate), "--grpc-tls-key", str(ours.key)),
        *("--grpc-client-ca", str(authority.certificate)),
    )
    edits = {
        "/etc/envoy/tls/envoy.crt": str(envoy.certificate),
        "/etc/envoy/tls/envoy.key": str(envoy.key),
        "/etc/envoy/tls/fleet-ca.crt": str(authority.certificate),
    }
    with proxied(
        "mutual-tls.yaml", policy, store.url, tmp_path, flags=(*plane, *flags), edits=edits
    ) as run:
        # then it is limited, and its health checks pass
        assert run.codes("/items", 11, x_api_key="alice") == [200] * 10 + [429]
        assert run.envoy.stat("cluster.ratelimitd.health_check.success") > 0
        assert run.envoy.stat("cluster.ratelimitd.health_check.failure") == 0

        # when it may not use the domain any more
        (policy / "callers.yaml").write_text(callers.replace("[api]", "[shop]"))
        os.kill(run.daemon.child.pid, signal.SIGHUP)

        # then every request fails as Envoy's failure_mode_deny says
        wait_for(lambda: run.get("/items", x_api_key="bob").status_code == 500, "the refusal")
        assert run.codes("/items", 3, x_api_key="bob") == [500] * 3
        assert f"`{EDGE}` may not use the domain `api`" in run.daemon.child.output()
