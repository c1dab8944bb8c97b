import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)

from ratelimitd.decisions.verdict import RuleOutcome
from ratelimitd.telemetry.compat import rule_labels
from ratelimitd.telemetry.counters import BreakerState, Telemetry, WorkerSeries
from ratelimitd.telemetry.exposition import BuildInfo, Exposition
from tests.unit.telemetry.samples import (
    Scrape,
    count,
    names,
    parse,
    policy,
    value,
    verdict,
)

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def scrape(telemetry: Telemetry, *, has_upstream_names: bool = False) -> Scrape:
    exposition = Exposition(
        telemetry, BuildInfo("1.2.3", "eu"), has_upstream_names=has_upstream_names
    )
    return parse(exposition.render()[0])


def test_scrape_names_every_family_before_anything_happened() -> None:
    body, content_type = Exposition(Telemetry(), BuildInfo("1.2.3")).render()

    text = body.decode()
    assert content_type.startswith("text/plain; version=0.0.4")
    for name in ("decisions_total", "unmatched_total", "call_seconds", "store_errors_total"):
        assert f"# TYPE ratelimitd_{name} " in text
    assert "process_cpu_seconds_total" in text


def test_scrape_shows_decisions_by_domain_rule_and_outcome() -> None:
    telemetry = Telemetry()
    telemetry.observe_verdict(verdict(count("ip"), count("user", RuleOutcome.FAILED_OPEN)))
    telemetry.observe_verdict(verdict(count("ip", near=1, refunded=4)))

    result = scrape(telemetry)

    name = "ratelimitd_decisions_total"
    assert value(result, name, domain="api", rule="ip", outcome="allowed") == 2
    assert value(result, name, domain="api", rule="ip", outcome="refused") == 0
    assert value(result, name, domain="api", rule="user", outcome="failed_open") == 1
    assert value(result, "ratelimitd_near_limit_total", domain="api", rule="ip") == 1
    assert value(result, "ratelimitd_refunded_hits_total", domain="api", rule="ip") == 4


def test_scrape_shows_requests_store_policy_logs_and_build() -> None:
    telemetry = Telemetry()
    telemetry.policy_loaded(policy("ip", "user", revision="beef"), now_s=1_700_000_000.0)
    telemetry.policy_load_failed()
    telemetry.observe_verdict(verdict(unmatched=2, is_shadowed=True))
    telemetry.observe_verdict(verdict(domain="x", is_domain_known=False))
    telemetry.observe_call("ShouldRateLimit", "OK", 0.02)
    telemetry.observe_store_call(0.0004, 12, 5)
    telemetry.observe_store_call(0.25, 1, 1, "timeout")
    telemetry.store_error("breaker_open", 3)
    telemetry.set_breaker(BreakerState.OPEN)
    telemetry.set_queue_depth(7)
    telemetry.late_answer()
    telemetry.unreadable_state(2)
    telemetry.give_backs(5, 1)
    telemetry.store_info(used_memory_bytes=1_000, max_memory_bytes=2_000, evicted_keys=4, keys=9)
    telemetry.logs.dropped_full += 5

    result = scrape(telemetry)

    assert value(result, "ratelimitd_unmatched_total", domain="api") == 2
    assert value(result, "ratelimitd_domain_not_found_total") == 1
    assert value(result, "ratelimitd_global_shadow_total") == 1
    assert value(result, "ratelimitd_calls_total", method="ShouldRateLimit", code="OK") == 1
    bucket = "ratelimitd_call_seconds_bucket"
    assert value(result, bucket, method="ShouldRateLimit", le="0.02") == 1
    assert value(result, bucket, method="ShouldRateLimit", le="0.015") == 0
    assert value(result, "ratelimitd_store_seconds_count") == 2
    assert value(result, "ratelimitd_store_batch_checks_sum") == 13
    assert value(result, "ratelimitd_store_batch_requests_bucket", le="4.0") == 1
    assert value(result, "ratelimitd_store_errors_total", kind="timeout") == 1
    assert value(result, "ratelimitd_store_errors_total", kind="breaker_open") == 3
    assert value(result, "ratelimitd_store_breaker_state", state="open") == 1
    assert value(result, "ratelimitd_store_breaker_state", state="closed") == 0
    assert value(result, "ratelimitd_store_breaker_opened_total") == 1
    assert value(result, "ratelimitd_store_queued_checks") == 7
    assert value(result, "ratelimitd_store_late_answers_total") == 1
    assert value(result, "ratelimitd_store_unreadable_state_total") == 2
    assert value(result, "ratelimitd_store_give_backs_total", result="done") == 5
    assert value(result, "ratelimitd_store_give_backs_total", result="lost") == 1
    assert value(result, "ratelimitd_store_used_memory_bytes") == 1_000
    assert value(result, "ratelimitd_store_max_memory_bytes") == 2_000
    assert value(result, "ratelimitd_store_evicted_keys_total") == 4
    assert value(result, "ratelimitd_store_keys") == 9
    assert value(result, "ratelimitd_policy_info", revision="beef") == 1
    assert value(result, "ratelimitd_policy_domains") == 1
    assert value(result, "ratelimitd_policy_rules") == 2
    assert value(result, "ratelimitd_policy_loads_total", result="success") == 1
    assert value(result, "ratelimitd_policy_loads_total", result="error") == 1
    assert value(result, "ratelimitd_policy_last_load_ok") == 0
    assert value(result, "ratelimitd_policy_last_success_timestamp_seconds") == 1_700_000_000
    assert value(result, "ratelimitd_log_lines_dropped_total", reason="queue_full") == 5
    assert value(result, "ratelimitd_build_info", version="1.2.3", region="eu") == 1


def test_scrape_leaves_out_what_the_store_does_not_say() -> None:
    telemetry = Telemetry()
    telemetry.store_info(used_memory_bytes=1_000)

    found = names(scrape(telemetry))

    assert "ratelimitd_store_used_memory_bytes" in found
    assert not found & {"ratelimitd_store_max_memory_bytes", "ratelimitd_store_keys"}


def test_scrape_shows_the_certificate_that_ends_first() -> None:
    telemetry = Telemetry()
    name = "ratelimitd_tls_certificate_not_after_seconds"
    for number, not_after_s in enumerate((None, 30, 20), 1):
        telemetry.workers.setdefault(number, WorkerSeries()).certificate_not_after_s = not_after_s

    assert value(scrape(telemetry), name) == 20
    assert (name, frozenset()) not in scrape(Telemetry())


def test_scrape_has_only_the_newest_policy_revision() -> None:
    telemetry = Telemetry()
    telemetry.policy_loaded(policy("ip", revision="aa"), now_s=1.0)
    telemetry.policy_loaded(policy("ip", revision="bb"), now_s=2.0)

    result = scrape(telemetry)

    assert [dict(labels) for name, labels in result if name == "ratelimitd_policy_info"] == [
        {"revision": "bb"}
    ]


@given(st.text(max_size=40), st.text(min_size=1, max_size=40))
@example('a"b\\c\nd', '"}\n# TYPE forged counter\nforged 1\\')
def test_label_values_survive_whatever_they_hold(domain: str, name: str) -> None:
    telemetry = Telemetry()
    telemetry.observe_verdict(verdict(count(name, domain=domain), domain=domain))

    result = scrape(telemetry, has_upstream_names=True)

    assert (
        value(result, "ratelimitd_decisions_total", domain=domain, rule=name, outcome="allowed")
        == 1
    )
    upstream = dict(rule_labels(domain, name))
    assert value(result, "ratelimit_service_rate_limit_total_hits_total", **upstream) == 1


def test_lone_surrogate_in_a_name_cannot_break_the_scrape() -> None:
    telemetry = Telemetry()

    telemetry.observe_verdict(verdict(count("user_\ud800", domain="a\ud800"), unmatched=1))

    assert "ratelimitd_decisions_total" in names(scrape(telemetry, has_upstream_names=True))


def test_openmetrics_is_answered_to_who_asks_for_it() -> None:
    telemetry = Telemetry()
    telemetry.observe_verdict(verdict(count("ip")))

    body, content_type = Exposition(telemetry, BuildInfo("1")).render(OPENMETRICS)

    assert content_type.startswith("application/openmetrics-text")
    families = {family.name for family in parse_openmetrics(body.decode())}  # type: ignore[no-untyped-call] # no hints
    assert "ratelimitd_decisions" in families


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "text/html",
        ";;;,,,",
        "application/openmetrics-text; version=abc",
        "text/plain; version=x.y",
        "text/plain; version=1.0.0; escaping=values",
        "\x00",
    ],
)
def test_odd_accept_headers_get_a_scrape(accept: str) -> None:
    body, content_type = Exposition(Telemetry(), BuildInfo("1")).render(accept)

    assert b"ratelimitd_build_info" in body
    assert content_type


def test_two_expositions_share_nothing() -> None:
    first, second = Telemetry(), Telemetry()
    first.observe_verdict(verdict(count("ip")))

    assert "ratelimitd_near_limit_total" in names(scrape(first))
    assert "ratelimitd_near_limit_total" not in names(scrape(second))
