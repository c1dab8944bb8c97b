"""A real Envoy while the store is away: both failure modes, and recovery without a restart."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.children import wait_for
from tests.support.proxied import Proxied, proxied, write_policy, yearly_example
from tests.support.servers import Server, start_server

pytestmark = pytest.mark.usefixtures("data_plane")

# Far beyond what recovery takes; the store's own tests hold the second.
RECOVERY_S = 10


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Server]:
    """Give a store of this test's own, to be killed."""
    server = start_server("valkey9", tmp_path / "store")
    yield server
    server.stop()


def test_envoy_without_failure_mode_deny_passes_while_the_store_is_away(
    mortal: Server, tmp_path: Path
) -> None:
    # given
    policy = yearly_example("api.yaml", tmp_path / "policy")
    with proxied("basic.yaml", policy, mortal.url, tmp_path) as run:
        assert run.codes("/items", 11, x_api_key="alice")[-1] == 429

        # when
        mortal.kill()
        codes = run.codes("/items", 8, x_api_key="alice")

        # then
        assert codes == [200] * 8
        assert run.outcomes()["failure_mode_allowed"] == 8

        # when
        mortal.start()
        wait_until_limited(run)

        # then: the store came back empty, and the limit is whole and exact
        assert run.codes("/items", 11, x_api_key="bob") == [200] * 10 + [429]


def test_envoy_with_failure_mode_deny_refuses_while_the_store_is_away(
    mortal: Server, tmp_path: Path
) -> None:
    # given
    policy = yearly_example("api.yaml", tmp_path / "policy")
    with proxied("failure-mode-deny.yaml", policy, mortal.url, tmp_path) as run:
        assert run.get("/items", x_api_key="alice").status_code == 200
        served = len(run.backend.seen)

        # when
        mortal.kill()
        codes = run.codes("/items", 8, x_api_key="alice")

        # then
        assert codes == [503] * 8
        assert len(run.backend.seen) == served

        # when
        mortal.start()
        wait_until_limited(run)

        # then
        assert run.codes("/items", 11, x_api_key="bob") == [200] * 10 + [429]


@pytest.mark.parametrize(("choice", "code"), [("allow", 200), ("deny", 429)])
def test_envoy_obeys_a_rule_that_decides_without_the_store(
    mortal: Server, tmp_path: Path, choice: str, code: int
) -> None:
    # given
    policy = write_policy(
        tmp_path / "policy",
        f"""
domain: api
descriptors:
  - key: api_key
    rate_limit: {{unit: year, requests_per_unit: 5, on_store_failure: {choice}}}
""",
    )
    with proxied("basic.yaml", policy, mortal.url, tmp_path) as run:
        assert run.get("/items", x_api_key="alice").status_code == 200

        # when
        mortal.kill()
        codes = run.codes("/items", 8, x_api_key="alice")

        # then: the daemon answered, Envoy's own failure mode was not asked
        assert codes == [code] * 8
        assert "error" not in run.outcomes()


def test_daemon_stays_healthy_while_the_store_is_away(mortal: Server, tmp_path: Path) -> None:
    # given
    policy = yearly_example("api.yaml", tmp_path / "policy")
    with proxied("basic.yaml", policy, mortal.url, tmp_path) as run:
        # when
        mortal.kill()
        run.codes("/items", 3, x_api_key="alice")

        # then: Envoy must not eject a daemon whose failure policy can still answer
        assert run.daemon.is_healthy()


def wait_until_limited(run: Proxied) -> None:
    """Wait until answers come from the store again: they name what remains."""

    def is_back() -> bool:
        answer: httpx.Response = run.get("/items", x_api_key="carol")
        return "x-ratelimit-remaining" in answer.headers

    wait_for(is_back, "an answer from the store", RECOVERY_S)
