"""Policies replaced under load: no error, the old counters, and the new limit in force after."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import httpx
import pytest

from tests.support.children import wait_for
from tests.support.daemon import Daemon
from tests.support.proxied import Proxied, proxied, write_policy
from tests.support.servers import Server

pytestmark = pytest.mark.usefixtures("data_plane")

LOADERS = 4
# The load ends by itself long before this, when the reload was seen.
MOST_REQUESTS = 5_000
RELOAD_S = 15


def policy_text(limit: int) -> str:
    """Return a policy that gives each caller `limit` requests, and the load enough for ever."""
    return f"""
domain: api
descriptors:
  - key: api_key
    rate_limit: {{name: per-key, unit: year, requests_per_unit: {limit}}}
  - key: path
    value: /load
    rate_limit: {{unit: year, requests_per_unit: 100000000}}
"""


def test_policy_rewritten_under_load_takes_effect_without_an_error(
    store: Server, tmp_path: Path
) -> None:
    # given
    policy = write_policy(tmp_path / "policy", policy_text(3))

    def replace() -> None:
        fresh = policy / ".fresh"
        fresh.write_text(policy_text(5), "utf-8")
        fresh.rename(policy / "policy.yaml")

    # when / then
    assert_reload_under_load(store, policy, replace, tmp_path)


def test_policy_swapped_by_a_config_map_takes_effect_without_an_error(
    store: Server, tmp_path: Path
) -> None:
    # given: a directory as Kubernetes mounts a ConfigMap
    policy = tmp_path / "policy"
    write_policy(policy / "..first", policy_text(3))
    (policy / "..data").symlink_to("..first")
    (policy / "policy.yaml").symlink_to("..data/policy.yaml")

    def swap() -> None:
        write_policy(policy / "..second", policy_text(5))
        (policy / "..data_tmp").symlink_to("..second")
        (policy / "..data_tmp").rename(policy / "..data")

    # when / then
    assert_reload_under_load(store, policy, swap, tmp_path)


def test_policy_with_errors_keeps_the_last_good_one(store: Server, tmp_path: Path) -> None:
    # given
    policy = write_policy(tmp_path / "policy", policy_text(3))
    with proxied("basic.yaml", policy, store.url, tmp_path) as run:
        assert run.codes("/items", 4, x_api_key="alice") == [200] * 3 + [429]

        # when
        write_policy(policy, "domain: api\ndescriptors:\n  - key: ''\n")
        wait_for(lambda: "policy.yaml:3" in run.daemon.child.output(), "a log line", RELOAD_S)

        # then
        assert run.codes("/items", 4, x_api_key="bob") == [200] * 3 + [429]

        # when: the file is repaired
        before = revision(run.daemon)
        write_policy(policy, policy_text(5))
        wait_for(lambda: revision(run.daemon) != before, "a new policy", RELOAD_S)

        # then
        assert run.codes("/items", 3, x_api_key="bob")[-1] == 429
        assert run.codes("/items", 6, x_api_key="carol") == [200] * 5 + [429]


def assert_reload_under_load(
    store: Server, policy: Path, replace: Callable[[], None], directory: Path
) -> None:
    """Raise a limit from 3 to 5 while clients ask; every answer of theirs must be a 200."""
    with proxied("basic.yaml", policy, store.url, directory) as run:
        # given
        assert run.codes("/items", 4, x_api_key="alice") == [200] * 3 + [429]
        before = revision(run.daemon)
        is_over = Event()
        with ThreadPoolExecutor(LOADERS) as pool:
            loads = [pool.submit(load, run, is_over) for _ in range(LOADERS)]
            try:
                wait_for(lambda: len(run.backend.seen) > 3 + LOADERS, "load")

                # when
                replace()
                wait_for(lambda: revision(run.daemon) != before, "a new policy", RELOAD_S)
                seen = len(run.backend.seen)
                wait_for(lambda: len(run.backend.seen) > seen + LOADERS, "load after the reload")
            finally:
                is_over.set()

            # then
            for codes in (load.result() for load in loads):
                assert set(codes) == {200}
        assert "error" not in run.outcomes()

        # then: four of alice's hits were counted, so one of five is left
        assert run.codes("/items", 2, x_api_key="alice") == [200, 429]
        assert run.codes("/items", 6, x_api_key="bob") == [200] * 5 + [429]


def load(run: Proxied, is_over: Event) -> list[int]:
    """Ask for /load until told to stop; return the codes."""
    codes: list[int] = []
    with httpx.Client(base_url=run.envoy.url, timeout=20) as client:
        while not is_over.is_set() and len(codes) < MOST_REQUESTS:
            codes.append(client.get("/load").status_code)
    return codes


def revision(daemon: Daemon) -> str:
    """Return what /policy shows now: it changes exactly when the policy in force does."""
    return httpx.get(f"{daemon.http_url}/policy").raise_for_status().text
