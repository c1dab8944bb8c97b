"""A real Envoy on clients/envoy/basic.yaml: who passes, who is refused, and what both are told."""

from pathlib import Path

import httpx
import pytest

from tests.support.proxied import YEAR_S, proxied, write_policy, yearly_example
from tests.support.servers import Server

pytestmark = pytest.mark.usefixtures("data_plane")


def store_second(store: Server) -> int:
    """Return the store's clock in whole seconds."""
    answer = store.execute("TIME")
    assert isinstance(answer, (list, tuple))
    return int(answer[0])


def test_envoy_passes_exactly_the_limit_then_answers_429(store: Server, tmp_path: Path) -> None:
    # given
    policy = yearly_example("api.yaml", tmp_path / "policy")
    with proxied("basic.yaml", policy, store.url, tmp_path) as run:
        # when
        codes = run.codes("/items", 13, x_api_key="alice")

        # then
        assert codes == [200] * 10 + [429] * 3
        assert run.backend.paths() == ["/items"] * 10
        assert run.outcomes() == {"ok": 10, "over_limit": 3}


def test_envoy_keeps_callers_apart(store: Server, tmp_path: Path) -> None:
    policy = yearly_example("api.yaml", tmp_path / "policy")
    with proxied("basic.yaml", policy, store.url, tmp_path) as run:
        # given
        assert run.codes("/items", 11, x_api_key="alice")[-1] == 429

        # when / then
        assert run.codes("/items", 10, x_api_key="bob") == [200] * 10
        assert run.get("/items").status_code == 200


def test_envoy_tells_limit_remaining_and_reset(store: Server, tmp_path: Path) -> None:
    policy = yearly_example("api.yaml", tmp_path / "policy")
    with proxied("basic.yaml", policy, store.url, tmp_path) as run:
        # given
        earliest = store_second(store)

        # when
        answers = [run.get("/items", x_api_key="alice") for _ in range(11)]

        # then
        latest = store_second(store)
        for answer, remaining in zip(answers, [*range(9, -1, -1), 0], strict=True):
            assert answer.headers["x-ratelimit-limit"] == f'10, 10;w={YEAR_S};name="per-key"'
            assert answer.headers["x-ratelimit-remaining"] == str(remaining)
            reset_s = int(answer.headers["x-ratelimit-reset"])
            assert YEAR_S - latest % YEAR_S <= reset_s <= YEAR_S - earliest % YEAR_S
        assert "x-envoy-ratelimited" not in answers[9].headers
        assert answers[10].headers["x-envoy-ratelimited"] == "true"


def test_envoy_second_reset_is_within_the_second(store: Server, tmp_path: Path) -> None:
    # given
    policy = write_policy(
        tmp_path / "policy",
        """
domain: api
descriptors:
  - key: api_key
    rate_limit: {unit: second, requests_per_unit: 1000}
""",
    )
    with proxied("basic.yaml", policy, store.url, tmp_path) as run:
        # when
        answer = run.get("/items", x_api_key="alice")

        # then
        assert answer.headers["x-ratelimit-limit"] == "1000, 1000;w=1"
        assert answer.headers["x-ratelimit-reset"] == "1"


def test_envoy_shares_one_counter_over_matching_paths(store: Server, tmp_path: Path) -> None:
    policy = yearly_example("api.yaml", tmp_path / "policy")
    with proxied("basic.yaml", policy, store.url, tmp_path) as run:
        # when
        codes = [run.get(path).status_code for path in ("/export", "/export?a=1", "/exports/x")]

        # then
        assert codes == [200] * 3
        assert run.get("/export/another").status_code == 429


def test_envoy_nested_rule_counts_each_address(store: Server, tmp_path: Path) -> None:
    policy = yearly_example("api.yaml", tmp_path / "policy")
    with proxied("basic.yaml", policy, store.url, tmp_path) as run:
        # when: three pass for this address, although five would for everybody
        codes = run.codes("/login", 4)

        # then
        assert codes == [200] * 3 + [429]


def test_envoy_shadow_rule_counts_and_refuses_nobody(store: Server, tmp_path: Path) -> None:
    policy = yearly_example("api.yaml", tmp_path / "policy")
    with proxied("basic.yaml", policy, store.url, tmp_path) as run:
        # when
        codes = run.codes("/search?q=x", 5)

        # then
        assert codes == [200] * 5
        assert run.get("/search?q=y").headers["x-ratelimit-remaining"] == "0"
        assert run.outcomes() == {"ok": 6}


def test_envoy_global_shadow_mode_refuses_nobody(store: Server, tmp_path: Path) -> None:
    # given
    policy = yearly_example("api.yaml", tmp_path / "policy")
    env = {"SHADOW_MODE": "true"}
    with proxied("basic.yaml", policy, store.url, tmp_path, env=env) as run:
        # when / then
        assert run.codes("/items", 15, x_api_key="alice") == [200] * 15


def test_envoy_unlimited_path_writes_no_counter(store: Server, tmp_path: Path) -> None:
    policy = yearly_example("api.yaml", tmp_path / "policy")
    with proxied("basic.yaml", policy, store.url, tmp_path) as run:
        # given
        before = store.execute("KEYS", "*")

        # when
        codes = run.codes("/healthz", 30)

        # then
        assert codes == [200] * 30
        assert store.execute("KEYS", "*") == before


def test_envoy_adds_the_headers_of_the_daemon(store: Server, tmp_path: Path) -> None:
    # given
    policy = yearly_example("api.yaml", tmp_path / "policy")
    env = {"LIMIT_RESPONSE_HEADERS_ENABLED": "true"}
    with proxied("basic.yaml", policy, store.url, tmp_path, env=env) as run:
        # when
        answers = [run.get("/items", x_api_key="alice") for _ in range(11)]

        # then
        assert answers[0].headers["ratelimit-limit"] == "10"
        assert answers[0].headers["ratelimit-remaining"] == "9"
        assert int(answers[10].headers["ratelimit-reset"]) > 0
        assert answers[10].headers["ratelimit-remaining"] == "0"


def test_envoy_sees_dynamic_metadata_of_the_rule(store: Server, tmp_path: Path) -> None:
    # given
    policy = write_policy(
        tmp_path / "policy",
        """
domain: api
descriptors:
  - key: path
    value: /gold
    metadata: {tier: {name: gold}}
    rate_limit: {unit: year, requests_per_unit: 100}
""",
    )
    value = "%DYNAMIC_METADATA(envoy.filters.http.ratelimit:metadata:tier:name)%"
    header = f"{{header: {{key: x-tier, value: '{value}'}}}}"
    edits = {"- name: all\n": f"- name: all\n{' ' * 22}response_headers_to_add: [{header}]\n"}
    env = {"RESPONSE_DYNAMIC_METADATA": "true"}
    with proxied("basic.yaml", policy, store.url, tmp_path, env=env, edits=edits) as run:
        # when / then
        assert run.get("/gold").headers["x-tier"] == "gold"


def test_envoy_closes_connections_over_the_limit(store: Server, tmp_path: Path) -> None:
    # given: thirty connections a year
    policy = yearly_example("connections.yaml", tmp_path / "policy")
    with proxied("tcp.yaml", policy, store.url, tmp_path) as run:
        for _ in range(30):
            assert httpx.get(run.envoy.url).status_code == 200

        # when / then
        with pytest.raises(httpx.TransportError):
            httpx.get(run.envoy.url)
        assert run.envoy.stat("ratelimit.connections.over_limit") == 1
