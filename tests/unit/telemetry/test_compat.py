import re

import pytest

from ratelimitd.decisions.verdict import RuleOutcome
from ratelimitd.telemetry.compat import rule_labels
from ratelimitd.telemetry.counters import Telemetry
from ratelimitd.telemetry.exposition import BuildInfo, Exposition
from tests.unit.telemetry.samples import Scrape, count, names, parse, policy, value, verdict

RULE = "ratelimit_service_rate_limit_"


def scrape(telemetry: Telemetry) -> Scrape:
    return parse(Exposition(telemetry, BuildInfo("1"), has_upstream_names=True).render()[0])


@pytest.mark.parametrize(
    ("domain", "name", "labels"),
    [
        ("api", "ip", {"domain": "api", "key1": "ip"}),
        ("api", "path_a.ip", {"domain": "api", "key1": "path_a", "key2": "ip"}),
        ("api", "path_a.ip.user", {"domain": "api", "key1": "path_a", "key2": "ip"}),
        ("my.api", "ip", {"domain": "my", "key1": "api", "key2": "ip"}),
        ("api", "path_/v1.0", {"domain": "api", "key1": "path_/v1", "key2": "0"}),
        ("api", "ip_10.1.2.3.path", {"domain": "api", "key1": "ip_10_1_2_3", "key2": "path"}),
        ("a:b", "ip_::1|x", {"domain": "a_b", "key1": "ip___1_x"}),
        ("10.0.0.1", "ip", {"domain": "10_0_0_1", "key1": "ip"}),
    ],
)
def test_upstream_labels_split_at_every_dot(domain: str, name: str, labels: dict[str, str]) -> None:
    assert dict(rule_labels(domain, name)) == labels


def test_upstream_names_sum_the_levels_that_have_no_label() -> None:
    telemetry = Telemetry()
    telemetry.observe_verdict(
        verdict(
            count("path_a.ip.user_1", hits=3, within=3),
            count("path_a.ip.user_2", RuleOutcome.REFUSED, hits=4, over=2, near=1, within=1),
            count("path_a", RuleOutcome.SHADOWED, hits=5, over=5, shadow=5),
        )
    )

    result = scrape(telemetry)

    deep = {"domain": "api", "key1": "path_a", "key2": "ip"}
    assert value(result, f"{RULE}total_hits_total", **deep) == 7
    assert value(result, f"{RULE}within_limit_total", **deep) == 4
    assert value(result, f"{RULE}over_limit_total", **deep) == 2
    assert value(result, f"{RULE}near_limit_total", **deep) == 1
    assert value(result, f"{RULE}shadow_mode_total", domain="api", key1="path_a") == 5
    assert value(result, f"{RULE}total_hits_total", domain="api", key1="path_a") == 5


def test_upstream_names_show_calls_errors_times_and_loads() -> None:
    telemetry = Telemetry()
    for code in ("OK", "OK", "UNAVAILABLE", "INVALID_ARGUMENT"):
        telemetry.observe_call("ShouldRateLimit", code, 0.004)
    telemetry.observe_call("json", "OK", 0.004)
    telemetry.policy_loaded(policy("ip"), now_s=1.0)
    telemetry.policy_load_failed()

    result = scrape(telemetry)

    assert (
        value(result, "ratelimit_service_total_requests_total", grpc_method="ShouldRateLimit") == 4
    )
    error = "ratelimit_service_should_rate_limit_error_total"
    assert value(result, error, err_type="redis_error") == 1
    assert value(result, error, err_type="service_error") == 1
    seconds = "ratelimit_service_response_time_seconds"
    assert value(result, f"{seconds}_count", grpc_method="ShouldRateLimit") == 4
    assert value(result, f"{seconds}_bucket", grpc_method="ShouldRateLimit", le="0.005") == 4
    assert value(result, f"{seconds}_bucket", grpc_method="ShouldRateLimit", le="0.003") == 0
    assert value(result, f"{seconds}_sum", grpc_method="ShouldRateLimit") == pytest.approx(0.016)
    assert value(result, "ratelimit_service_config_load_success_total") == 1
    assert value(result, "ratelimit_service_config_load_error_total") == 1


def test_upstream_counters_are_typed_without_the_total_suffix() -> None:
    telemetry = Telemetry()
    telemetry.observe_verdict(verdict(count("ip")))

    body, content_type = Exposition(telemetry, BuildInfo("1"), has_upstream_names=True).render(
        "application/openmetrics-text; version=1.0.0"
    )

    assert content_type.startswith("text/plain; version=0.0.4")
    name = b"ratelimit_service_rate_limit_over_limit"
    assert b"# TYPE " + name + b" counter\n" + name + b'{domain="api",key1="ip"} 0\n' in body
    assert not re.search(rb"ratelimit_service_\w+_total\b", body)


def test_upstream_names_are_absent_unless_asked_for() -> None:
    telemetry = Telemetry()
    telemetry.observe_verdict(verdict(count("ip")))

    result = parse(Exposition(telemetry, BuildInfo("1")).render()[0])

    assert not [name for name in names(result) if name.startswith("ratelimit_service")]
