"""The headers of an answer: the IETF's, with what they must escape and what they leave out."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.decisions.body import to_body
from ratelimitd.decisions.headers import to_headers
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.plan import Plan
from ratelimitd.decisions.verdict import Code, Status
from ratelimitd.policy.model import Algorithm, Calendar, HeaderStyle, Unit
from tests.support.decide import NOW_US
from tests.unit.decisions.answers import (
    SECOND_US,
    admitted,
    blocked_plan,
    joined_plan,
    limit,
    plan,
    refused,
)

# The largest integer of structured fields (RFC 9651, section 3.3.1).
LARGEST_INTEGER = 999_999_999_999_999


def headers_of(of: Plan, *statuses: Status, now_us: int = NOW_US) -> dict[str, str]:
    is_refused = any(status.code is Code.OVER_LIMIT for status in statuses)
    told = to_headers(of, statuses, DecisionOptions(), now_us, is_refused=is_refused)
    assert len(dict(told)) == len(told)
    return dict(told)


def retry_after_of(jitter: int, wait_us: int, now_us: int) -> int:
    per_key = limit(retry_jitter=jitter)
    told = headers_of(plan(per_key), refused(per_key, wait_us), now_us=now_us)
    return int(told["Retry-After"])


def test_ietf_headers_tell_policy_and_standing() -> None:
    # given
    per_key = limit(10, name="per-key")
    # when
    told = headers_of(plan(per_key), admitted(per_key, 3, 29_000_001))
    # then
    assert told == {"RateLimit-Policy": '"per-key";q=10;w=60', "RateLimit": '"per-key";r=3;t=30'}


def test_ietf_headers_tell_every_limit_of_a_descriptor_and_the_nearest_of_them() -> None:
    # given
    per_key, everybody = limit(10, name="per-key"), limit(500, name="everybody")
    # when
    told = headers_of(joined_plan(per_key, everybody), admitted(per_key, 3))
    # then
    assert told["RateLimit-Policy"] == '"per-key";q=10;w=60, "everybody";q=500;w=60'
    assert told["RateLimit"] == '"per-key";r=3;t=30'


def test_ietf_headers_tell_each_descriptor() -> None:
    # given
    one, other = limit(10, name="one"), limit(20, name="other")
    # when
    told = headers_of(plan(one, other), admitted(one, 3), refused(other, SECOND_US))
    # then
    assert told["RateLimit"] == '"one";r=3;t=30, "other";r=0;t=30'


def test_ietf_headers_tell_equal_policies_once() -> None:
    # given
    same = limit(10, name="same")
    # when
    told = headers_of(plan(same, same), admitted(same), admitted(same))
    # then
    assert told == {"RateLimit-Policy": '"same";q=10;w=60', "RateLimit": '"same";r=3;t=30'}


def test_limit_without_a_name_is_told_by_its_rule() -> None:
    # given
    nameless = limit()
    # when
    told = headers_of(plan(nameless), admitted(nameless))
    # then
    assert told["RateLimit"].startswith('"test.k";')


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ('a"b', r'"a\"b"'),
        ("a\\b", r'"a\\b"'),
        ('\\"', r'"\\\""'),
        ("a b;c,d", '"a b;c,d"'),
        ("naïve", '"na?ve"'),
        ("a\r\nSet-Cookie: x", '"a??Set-Cookie: x"'),
        ("\x00\x7f~", '"??~"'),
    ],
)
def test_name_is_a_string_of_structured_fields(name: str, told: str) -> None:
    # given
    named = limit(1, name=name)
    # when
    headers = headers_of(plan(named), admitted(named))
    # then
    assert headers["RateLimit-Policy"] == f"{told};q=1;w=60"
    assert headers["RateLimit"] == f"{told};r=3;t=30"


@given(name=st.text(min_size=1, max_size=20))
def test_name_never_ends_its_string_early(name: str) -> None:
    # given
    named = limit(1, name=name)
    # when
    item = headers_of(plan(named), admitted(named))["RateLimit-Policy"]
    # then
    assert item.isascii()
    assert item.isprintable()
    inside = item.removeprefix('"').removesuffix('";q=1;w=60')
    assert '"' not in inside.replace(r"\\", "").replace(r"\"", "")
    assert len(inside.replace(r"\\", "x").replace(r"\"", "x")) == len(name)


def test_concurrency_has_a_unit_of_its_own_and_no_window() -> None:
    # given
    slots = limit(4, name="slots", algorithm=Algorithm.CONCURRENCY, window_us=0)
    # when
    told = headers_of(plan(slots), admitted(slots, 1))
    # then
    assert told["RateLimit-Policy"] == '"slots";q=4;qu="concurrent-requests"'
    assert told["RateLimit"] == '"slots";r=1;t=30'


def test_calendar_has_no_window_because_its_length_varies() -> None:
    # given
    monthly = limit(9, name="monthly", unit=Unit.MONTH, calendar=Calendar(Unit.MONTH))
    # when
    told = headers_of(plan(monthly), admitted(monthly))
    # then
    assert told["RateLimit-Policy"] == '"monthly";q=9'


def test_integers_stay_within_those_of_structured_fields() -> None:
    # given
    huge = limit(2**53 - 1, name="huge")
    # when
    told = headers_of(plan(huge), admitted(huge, 2**53 - 2))
    # then
    assert told["RateLimit-Policy"] == f'"huge";q={LARGEST_INTEGER};w=60'
    assert told["RateLimit"] == f'"huge";r={LARGEST_INTEGER};t=30'


def test_shadow_limit_is_not_told() -> None:
    # given
    shadow, real = limit(name="shadow", is_shadow=True), limit(name="real")
    # when
    told = headers_of(plan(shadow, real), admitted(shadow, 0), admitted(real))
    # then
    assert told == {"RateLimit-Policy": '"real";q=10;w=60', "RateLimit": '"real";r=3;t=30'}


def test_answer_that_only_shadow_limits_made_has_no_headers() -> None:
    # given
    shadow = limit(is_shadow=True)
    # when
    told = headers_of(plan(shadow), admitted(shadow, 0))
    # then
    assert told == {}


def test_style_none_tells_nothing_even_with_a_refusal() -> None:
    # given
    per_key = limit()
    # when
    told = headers_of(plan(per_key, headers=HeaderStyle.NONE), refused(per_key, SECOND_US))
    # then
    assert told == {}


def test_style_upstream_tells_the_last_refusal_and_no_wait() -> None:
    # given
    one, other = limit(10), limit(20)
    whole = plan(one, other, headers=HeaderStyle.UPSTREAM)
    # when
    told = headers_of(whole, refused(one, 60 * SECOND_US), refused(other, SECOND_US))
    # then
    assert told == {"RateLimit-Limit": "20", "RateLimit-Remaining": "0", "RateLimit-Reset": "30"}


def test_retry_after_is_the_wait_in_seconds_rounded_up() -> None:
    assert [retry_after_of(0, wait_us, NOW_US) for wait_us in (1, SECOND_US, SECOND_US + 1)] == [
        1,
        1,
        2,
    ]


def test_admitted_answer_has_no_retry_after() -> None:
    # given
    per_key = limit()
    # when
    told = headers_of(plan(per_key), admitted(per_key, 0))
    # then
    assert "Retry-After" not in told
    assert "Content-Type" not in told


@pytest.mark.parametrize("order", [1, -1])
def test_retry_after_is_the_longest_wait_of_several_refusals(order: int) -> None:
    # given
    one, other = limit(name="one"), limit(name="other")
    both = [(one, refused(one, 5 * SECOND_US)), (other, refused(other, 7 * SECOND_US))][::order]
    # when
    told = headers_of(plan(*[of for of, _ in both]), *[status for _, status in both])
    # then
    assert told["Retry-After"] == "7"


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("wait_us", [-1, 0])
def test_refusal_that_no_wait_ends_has_no_retry_after(wait_us: int, order: int) -> None:
    # given one that refuses for ever, or nobody knows how long, beside one that does not
    one, other = limit(name="one"), limit(name="other")
    both = [(one, refused(one, wait_us)), (other, refused(other, SECOND_US))][::order]
    # when
    told = headers_of(plan(*[of for of, _ in both]), *[status for _, status in both])
    # then
    assert "Retry-After" not in told
    assert told["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("jitter", range(51))
def test_jitter_adds_at_most_its_percentage(jitter: int) -> None:
    # given
    per_key = limit(retry_jitter=jitter)
    whole, status = plan(per_key), refused(per_key, 1_000 * SECOND_US)
    # when
    told = [
        int(headers_of(whole, status, now_us=NOW_US + at)["Retry-After"]) for at in range(1_000)
    ]
    # then
    assert min(told) >= 1_000
    assert max(told) <= 1_000 + 10 * jitter
    # and it uses what it may, in whole percents
    assert len(set(told)) == jitter + 1


@given(
    jitter=st.integers(0, 50),
    wait_us=st.integers(1, 366 * 86_400 * SECOND_US),
    now_us=st.integers(0, 2**53),
)
def test_jittered_wait_is_never_shorter_than_the_wait(
    jitter: int, wait_us: int, now_us: int
) -> None:
    # when
    told = retry_after_of(jitter, wait_us, now_us)
    # then
    assert told * SECOND_US >= wait_us
    assert (told - 1) * SECOND_US < wait_us * (100 + jitter) / 100


def test_jitter_is_that_of_the_limit_that_is_told() -> None:
    # given
    short, long = limit(name="short", retry_jitter=50), limit(name="long")
    statuses = refused(short, 99 * SECOND_US), refused(long, 100 * SECOND_US)
    # when
    told = {
        headers_of(plan(short, long), *statuses, now_us=NOW_US + at)["Retry-After"]
        for at in range(100)
    }
    # then
    assert told == {"100"}


def test_type_of_a_body_of_the_rules_own_is_not_told() -> None:
    # given
    own = limit(refusal_body="wait {retry_after} s")
    # when
    told = headers_of(plan(own), refused(own, SECOND_US))
    # then
    assert "Content-Type" not in told
    assert told["Retry-After"] == "1"


def test_refusal_without_a_body_has_no_type() -> None:
    # given
    bare = limit(has_problem_body=False)
    # when
    told = headers_of(plan(bare), refused(bare, SECOND_US))
    # then
    assert "Content-Type" not in told


def test_block_that_ends_is_told_as_a_wait_alone() -> None:
    # when
    told = headers_of(blocked_plan(), refused(None, 90 * SECOND_US))
    # then
    assert told == {"Retry-After": "90", "Content-Type": "application/problem+json"}


def test_block_without_an_end_tells_no_wait() -> None:
    # when
    told = headers_of(blocked_plan(), refused(None, -1))
    # then
    assert told == {"Content-Type": "application/problem+json"}


def test_global_shadow_mode_tells_where_a_client_stands_and_no_wait() -> None:
    # given
    per_key = limit(name="per-key")
    statuses = (refused(per_key, SECOND_US),)
    # when
    told = to_headers(plan(per_key), statuses, DecisionOptions(), NOW_US, is_refused=False)
    # then
    assert [name for name, _ in told] == ["RateLimit-Policy", "RateLimit"]


@pytest.mark.parametrize("order", [1, -1])
def test_quota_that_is_over_beside_a_refusal_is_not_what_refuses(order: int) -> None:
    # given a quota that waits longer, beside a limit that refuses
    strict, quota = limit(name="strict"), limit(name="quota", is_quota=True)
    both = [(strict, refused(strict, 5 * SECOND_US)), (quota, refused(quota, 700 * SECOND_US))]
    of, statuses = zip(*both[::order], strict=True)
    # then
    assert headers_of(plan(*of), *statuses)["Retry-After"] == "5"
    assert json.loads(to_body(plan(*of), statuses))["rule"] == "strict"
    # when the quota alone is over
    (at,) = [at for at, one in enumerate(of) if one is quota]
    statuses = tuple(one if n == at else admitted(of[n]) for n, one in enumerate(statuses))
    # then
    assert headers_of(plan(*of), *statuses)["Retry-After"] == "700"
