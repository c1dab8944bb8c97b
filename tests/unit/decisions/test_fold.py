import re
from copy import deepcopy

import pytest

from ratelimitd.decisions.fold import fold
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.request import Override
from ratelimitd.decisions.verdict import Code, RuleOutcome, Status
from ratelimitd.policy.model import Unit
from tests.support.decide import NOW_US, Decider, descriptor_of, request_of

A = descriptor_of(("a", "1"))
B = descriptor_of(("b", "1"))
SHADOW = descriptor_of(("s", "1"))
QUOTA = descriptor_of(("q", "1"))
OTHER_QUOTA = descriptor_of(("q2", "1"))
POLICY = """
domain: api
descriptors:
  - {key: a, rate_limit: {unit: minute, requests_per_unit: 2, name: per-a}}
  - {key: b, rate_limit: {unit: hour, requests_per_unit: 1}}
  - {key: s, shadow_mode: true, rate_limit: {unit: day, requests_per_unit: 1}}
  - {key: q, quota_mode: true, rate_limit: {unit: day, requests_per_unit: 1}}
  - {key: q2, quota_mode: true, rate_limit: {unit: day, requests_per_unit: 2}}
  - {key: free, rate_limit: {unlimited: true}}
  - key: ours
    rate_limit: {unit: day, requests_per_unit: 4, count_denied: false}
"""


def amount(status: Status) -> tuple[int, Unit, str] | None:
    limit = status.limit
    return None if limit is None else (limit.requests_per_unit, limit.unit, limit.name)


def test_limit_admits_exactly_its_number() -> None:
    # given
    decider = Decider(POLICY)
    # when
    codes = decider.codes(*[request_of(A)] * 4)
    # then
    assert codes == ["OK", "OK", "OVER_LIMIT", "OVER_LIMIT"]


def test_status_tells_limit_remaining_and_reset() -> None:
    # given 100 us before the end of a minute
    decider = Decider(POLICY)
    now_us = NOW_US - NOW_US % 60_000_000 + 59_999_900
    # when
    (status,) = decider.decide(request_of(A), now_us).statuses
    # then
    assert status.code is Code.OK
    assert amount(status) == (2, Unit.MINUTE, "per-a")
    assert status.remaining == 1
    assert status.reset_s == 1


def test_statuses_are_one_per_descriptor_in_order() -> None:
    # when
    verdict = Decider(POLICY).decide(
        request_of(descriptor_of(("none", "")), A, descriptor_of(("free", "x")), B)
    )
    # then
    assert [amount(status) for status in verdict.statuses] == [
        None,
        (2, Unit.MINUTE, "per-a"),
        None,
        (1, Unit.HOUR, ""),
    ]
    assert [status.remaining for status in verdict.statuses] == [0, 1, 4_294_967_295, 0]
    assert verdict.unmatched == 1


def test_plan_without_checks_is_ok_without_a_store() -> None:
    # when
    verdict = Decider(POLICY).decide(request_of(descriptor_of(("none", ""))))
    # then
    assert verdict.code is Code.OK
    assert verdict.counts == ()


def test_descriptor_that_no_rule_matches_is_refused_where_the_domain_says_so() -> None:
    # given
    decider = Decider("on_no_match: deny\n" + POLICY.strip())
    # when
    verdict = decider.decide(request_of(A, descriptor_of(("none", ""))))
    # then
    assert verdict.code is Code.OVER_LIMIT
    assert [status.code for status in verdict.statuses] == [Code.OK, Code.OVER_LIMIT]


def test_shadow_limit_counts_and_answers_ok() -> None:
    # given
    decider = Decider(POLICY)
    decider.decide(request_of(SHADOW))
    # when
    verdict = decider.decide(request_of(SHADOW))
    # then
    assert verdict.code is Code.OK
    assert verdict.statuses[0].code is Code.OK
    assert verdict.statuses[0].remaining == 0
    assert verdict.counts[0].outcome is RuleOutcome.SHADOWED
    assert verdict.counts[0].shadow_hits == verdict.counts[0].over_hits == 1


def test_global_shadow_mode_changes_the_overall_code_alone() -> None:
    # given
    decider = Decider(POLICY, DecisionOptions(is_shadow_mode=True))
    decider.decide(request_of(B))
    # when
    verdict = decider.decide(request_of(B))
    # then
    assert verdict.code is Code.OK
    assert verdict.is_shadowed
    assert verdict.statuses[0].code is Code.OVER_LIMIT


def test_quota_limits_refuse_only_together() -> None:
    # given
    decider = Decider(POLICY)
    # when
    codes = decider.codes(*[request_of(QUOTA, OTHER_QUOTA)] * 3)
    # then
    assert codes == ["OK", "OK", "OVER_LIMIT"]


def test_denied_hits_that_do_not_count_leave_the_rest_usable() -> None:
    # given
    decider = Decider(POLICY)
    ours = descriptor_of(("ours", "x"))
    decider.decide(request_of(ours, hits=3))
    # when
    refused = decider.decide(request_of(ours, hits=3))
    admitted = decider.decide(request_of(ours))
    # then
    assert refused.code is Code.OVER_LIMIT
    assert refused.statuses[0].remaining == 1
    assert admitted.code is Code.OK


def test_check_at_the_limit_says_ok_with_nothing_left() -> None:
    # given
    decider = Decider(POLICY)
    question = descriptor_of(("a", "1"), hits=0)
    decider.decide(request_of(A, hits=2))
    # when
    at_it = decider.decide(request_of(question))
    decider.decide(request_of(A))
    beyond = decider.decide(request_of(question))
    # then
    assert (at_it.code, at_it.statuses[0].remaining) == (Code.OK, 0)
    assert beyond.code is Code.OVER_LIMIT


def test_refusal_out_of_the_deny_cache_is_counted_as_such() -> None:
    # given
    decider = Decider(POLICY)
    plan = decider.plan(request_of(B, hits=2))
    (reply,) = decider.model.check([plan], NOW_US)
    # when
    (count,) = fold(plan, reply, decider.options, is_cached=True).counts
    # then
    assert count.outcome is RuleOutcome.REFUSED
    assert (count.hits, count.over_hits, count.cached_hits) == (2, 2, 2)


def test_refund_makes_room() -> None:
    # given
    decider = Decider(POLICY)
    decider.decide(request_of(A, hits=2))
    # when
    refund = decider.decide(request_of(descriptor_of(("a", "1"), hits=1, is_refund=True)))
    # then
    assert refund.code is Code.OK
    assert refund.counts[0].refunded_hits == 1
    assert refund.counts[0].hits == 0
    assert decider.codes(request_of(A), request_of(A)) == ["OK", "OVER_LIMIT"]


BODIES = """
domain: api
descriptors:
  - key: a
    rate_limit:
      unit: minute
      requests_per_unit: 0
      name: per-a
      refusal_body: 'wait {retry_after} s, {name}'
  - key: b
    rate_limit: {unit: year, requests_per_unit: 0, refusal_body: 'at most {limit} a year'}
  - {key: c, rate_limit: {unit: year, requests_per_unit: 0}}
"""


def test_refused_client_reads_the_body_of_the_longest_wait() -> None:
    # given a rule that refuses for at most a minute, and one for longer
    decider = Decider(BODIES)
    c = descriptor_of(("c", "1"))
    # then
    assert re.fullmatch(rb"wait \d+ s, per-a", decider.decide(request_of(A, c)).raw_body)
    assert decider.decide(request_of(A, B)).raw_body == b"at most 0 a year"
    assert decider.decide(request_of(B, A)).raw_body == b"at most 0 a year"
    assert decider.decide(request_of(c)).raw_body == b""


def test_client_that_passes_reads_no_body() -> None:
    decider = Decider(BODIES, DecisionOptions(is_shadow_mode=True))
    assert decider.decide(request_of(A)).raw_body == b""


HEADERS = DecisionOptions(has_limit_headers=True)


def headers(decider: Decider, *keys: str) -> dict[str, str]:
    verdict = decider.decide(request_of(*(descriptor_of((key, "1")) for key in keys)))
    return dict(verdict.headers)


def test_headers_speak_of_the_first_status_with_the_least_left() -> None:
    # when
    told = headers(Decider(POLICY, HEADERS), "none", "a", "b", "s", "free")
    # then
    assert told["RateLimit-Limit"] == "1"
    assert told["RateLimit-Remaining"] == "0"
    assert 1 <= int(told["RateLimit-Reset"]) <= 3600


def test_headers_speak_of_the_last_refusal_that_is_no_quotas() -> None:
    # given both are used up
    decider = Decider(POLICY, HEADERS)
    decider.decide(request_of(A, B, QUOTA, hits=2))
    # when / then
    assert headers(decider, "b", "a", "q")["RateLimit-Limit"] == "2"
    assert headers(decider, "q", "a")["RateLimit-Limit"] == "2"


def test_headers_are_absent_where_nothing_matched_or_nobody_asked() -> None:
    assert headers(Decider(POLICY, HEADERS), "none") == {}
    assert headers(Decider(POLICY), "a") == {}


METADATA = """
domain: api
descriptors:
  - key: a
    metadata: {team: {name: blue, tags: [1, two, null]}, only: a}
    rate_limit: {unit: day, requests_per_unit: 1}
  - key: b
    metadata: {team: {name: green, size: 3}, only: b, more: true}
    rate_limit: {unit: day, requests_per_unit: 9}
  - key: api_key
    rate_limit: {unit: day, requests_per_unit: 9}
"""
TELLING = DecisionOptions(has_dynamic_metadata=True)


def test_metadata_repeats_the_request_and_merges_what_passed() -> None:
    # given
    decider = Decider(METADATA, TELLING)
    own = descriptor_of(("b", "1"), hits=2, override=None)
    # when
    told = decider.decide(request_of(A, own, hits=1)).metadata
    # then the first value of a name wins, and objects merge
    assert told == {
        "domain": "api",
        "hitsAddend": 1,
        "descriptors": [{"entries": ["a=1"]}, {"entries": ["b=1"], "hitsAddend": 2}],
        "metadata": {
            "team": {"name": "blue", "tags": [1, "two", None], "size": 3},
            "only": "a",
            "more": True,
        },
    }


def test_metadata_of_one_answer_does_not_leak_into_the_next() -> None:
    # given
    decider = Decider(METADATA, TELLING)
    alone = deepcopy(decider.decide(request_of(B)).metadata)
    decider.decide(request_of(B, A))
    # when
    again = decider.decide(request_of(B)).metadata
    # then
    assert again == alone


def test_metadata_of_a_rule_that_refuses_is_left_out() -> None:
    # given
    decider = Decider(METADATA, TELLING)
    decider.decide(request_of(A))
    # when
    told = decider.decide(request_of(A)).metadata
    # then
    assert told is not None
    assert "metadata" not in told


def test_metadata_hides_secret_values_and_tells_overrides() -> None:
    # when
    told = (
        Decider(METADATA, TELLING)
        .decide(
            request_of(
                descriptor_of(("api_key", "topsecret")),
                descriptor_of(("a", "1"), override=Override(3, Unit.HOUR)),
            )
        )
        .metadata
    )
    # then
    assert told is not None
    assert "topsecret" not in repr(told)
    assert "requests_per_unit:3 unit:HOUR" in repr(told)


@pytest.mark.parametrize(
    ("before", "cost", "within", "near", "over"),
    [
        (0, 1, 1, 0, 0),
        (7, 1, 1, 0, 0),
        (7, 2, 2, 1, 0),
        (8, 2, 2, 2, 0),
        (9, 3, 0, 1, 2),
        (0, 15, 0, 2, 5),
        (10, 4, 0, 0, 4),
    ],
)
def test_hits_split_at_the_near_threshold_and_the_limit(
    before: int, cost: int, within: int, near: int, over: int
) -> None:
    # given a limit of 10, which is near from 8 on
    decider = Decider(
        "domain: api\ndescriptors: [{key: a, rate_limit: {unit: day, requests_per_unit: 10}}]"
    )
    if before:
        decider.decide(request_of(A, hits=before))
    # when
    (count,) = decider.decide(request_of(A, hits=cost)).counts
    # then
    assert (count.within_hits, count.near_hits, count.over_hits) == (within, near, over)
    assert count.is_near == (near > 0)
