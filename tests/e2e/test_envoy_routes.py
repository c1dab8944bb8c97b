"""A real Envoy on overrides.yaml and check-then-debit.yaml: limits per route, costs known late."""

from pathlib import Path

import pytest

from tests.support.children import wait_for
from tests.support.proxied import YEAR_S, Proxied, proxied, write_policy, yearly_example
from tests.support.servers import Server

pytestmark = pytest.mark.usefixtures("data_plane")

LLM_POLICY = """
domain: llm
descriptors:
  - key: api_key
    rate_limit: {unit: year, requests_per_unit: 2}
"""


def test_envoy_route_with_its_own_descriptors(store: Server, tmp_path: Path) -> None:
    policy = yearly_example("routes.yaml", tmp_path / "policy")
    with proxied("overrides.yaml", policy, store.url, tmp_path) as run:
        # when
        bulk = run.codes("/bulk/1", 5)
        rest = run.codes("/other", 21)

        # then
        assert bulk == [200] * 4 + [429]
        assert rest == [200] * 20 + [429]


def test_envoy_override_replaces_number_and_unit(store: Server, tmp_path: Path) -> None:
    policy = yearly_example("routes.yaml", tmp_path / "policy")
    with proxied("overrides.yaml", policy, store.url, tmp_path) as run:
        # when
        answers = [run.get("/beta") for _ in range(3)]

        # then
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[0].headers["x-ratelimit-limit"] == f"2, 2;w={YEAR_S}"


def test_envoy_check_then_debit_admits_one_beyond_the_budget(store: Server, tmp_path: Path) -> None:
    # given: a budget of 2, spent one by one after each response
    policy = write_policy(tmp_path / "policy", LLM_POLICY)
    with proxied("check-then-debit.yaml", policy, store.url, tmp_path) as run:
        run.backend.headers["x-tokens-used"] = "1"

        # when
        codes = [ask_and_await_debit(run, "alice") for _ in range(5)]

        # then: at the limit a check still passes, as on the reference server
        assert codes == [200] * 3 + [429] * 2
        assert len(run.backend.seen) == 3


def test_envoy_debit_takes_the_cost_of_the_response(store: Server, tmp_path: Path) -> None:
    # given
    policy = write_policy(tmp_path / "policy", LLM_POLICY)
    with proxied("check-then-debit.yaml", policy, store.url, tmp_path) as run:
        run.backend.headers["x-tokens-used"] = "400"

        # when: one response costs far more than the budget
        codes = [ask_and_await_debit(run, "alice") for _ in range(2)]

        # then: it is recorded all the same, and only this caller is out of budget
        assert codes == [200, 429]
        assert ask_and_await_debit(run, "bob") == 200


def test_envoy_debits_nothing_for_a_response_without_a_cost(store: Server, tmp_path: Path) -> None:
    # given
    policy = write_policy(tmp_path / "policy", LLM_POLICY)
    with proxied("check-then-debit.yaml", policy, store.url, tmp_path) as run:
        # when: the backend names no cost
        codes = run.codes("/chat", 5, x_api_key="alice")

        # then: Envoy made five checks and no debit
        assert codes == [200] * 5
        assert calls(run) == 5


def ask_and_await_debit(run: Proxied, api_key: str) -> int:
    """Send one request; return its code once the daemon has answered the debit too.

    Envoy debits at the end of the stream and waits for nobody: its count of calls to the daemon
    is the evidence. After a 429 there is no cost to read, so there is no debit.
    """
    before = calls(run)
    code = run.get("/chat", x_api_key=api_key).status_code
    expected = before + (2 if code == 200 else 1)
    wait_for(lambda: calls(run) >= expected, "a check and a debit")
    assert calls(run) == expected
    return code


def calls(run: Proxied) -> int:
    """Return how many calls to the daemon Envoy has finished."""
    return run.envoy.stat("cluster.ratelimitd.upstream_rq_completed")
