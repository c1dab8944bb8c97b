"""The body of a refusal: a rule's own text, or a problem in JSON."""

import json
from typing import Any

import pytest

from ratelimitd.decisions.body import has_problem, to_body
from ratelimitd.policy.model import HeaderStyle
from tests.unit.decisions.answers import (
    SECOND_US,
    admitted,
    blocked_plan,
    limit,
    plan,
    refused,
)


def problem_of(body: bytes) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(body)
    return told


def test_problem_has_the_members_of_rfc_9457_and_ours() -> None:
    # given
    per_key = limit(10, name="per-key")
    # when
    body = to_body(plan(per_key), (refused(per_key, 4_000_001),))
    # then
    assert problem_of(body) == {
        "type": "about:blank",
        "title": "Too Many Requests",
        "status": 429,
        "rule": "per-key",
        "limit": 10,
        "retry_after": 5,
    }


def test_problem_of_a_limit_without_a_name_tells_its_rule() -> None:
    # given
    nameless = limit()
    # when
    body = to_body(plan(nameless), (refused(nameless, SECOND_US),))
    # then
    assert problem_of(body)["rule"] == "test.k"


@pytest.mark.parametrize("name", ['"quoted"\\', "naïve\n", "\udc80"])
def test_problem_takes_any_name(name: str) -> None:
    # given
    odd = limit(name=name)
    # when
    body = to_body(plan(odd), (refused(odd, SECOND_US),))
    # then
    assert json.loads(body.decode("utf-8", "surrogatepass"))["rule"] == name


def test_refusal_for_ever_tells_no_wait() -> None:
    # given
    per_key = limit()
    # when
    body = to_body(plan(per_key), (refused(per_key, -1),))
    # then
    assert "retry_after" not in problem_of(body)


def test_wait_that_nobody_knows_is_a_second() -> None:
    # given a refusal that the store did not make
    per_key = limit()
    status = refused(per_key, 0)._replace(reset_s=None, reset_us=0)
    # when
    body = to_body(plan(per_key), (status,))
    # then
    assert problem_of(body)["retry_after"] == 1


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("longer_us", [9 * SECOND_US, -1])
def test_longest_wait_is_told(longer_us: int, order: int) -> None:
    # given
    short, long = limit(name="short"), limit(name="long")
    both = [(short, refused(short, 8 * SECOND_US)), (long, refused(long, longer_us))][::order]
    # when
    body = to_body(plan(*[of for of, _ in both]), tuple(status for _, status in both))
    # then
    assert problem_of(body)["rule"] == "long"


def test_longest_wait_is_told_among_rules_that_have_a_body() -> None:
    # given
    bare, own = limit(has_problem_body=False), limit(refusal_body="wait {retry_after} s")
    statuses = refused(bare, 90 * SECOND_US), refused(own, SECOND_US)
    # when
    body = to_body(plan(bare, own), statuses)
    # then
    assert body == b"wait 1 s"


def test_text_of_a_rule_is_filled_in() -> None:
    # given
    own = limit(7, name="per-key", refusal_body="{name}: {limit}, {retry_after} s, {other} {name}")
    whole, statuses = plan(own), (refused(own, 1_500_000),)
    # when
    body = to_body(whole, statuses)
    # then
    assert body == b"per-key: 7, 2 s, {other} per-key"
    assert not has_problem(whole, statuses)


def test_rule_that_admits_has_no_part_in_the_body() -> None:
    # given
    passing, bare = limit(name="passing"), limit(has_problem_body=False)
    # when
    body = to_body(plan(passing, bare), (admitted(passing), refused(bare, SECOND_US)))
    # then
    assert body == b""


@pytest.mark.parametrize("style", [HeaderStyle.NONE, HeaderStyle.UPSTREAM])
def test_problem_does_not_depend_on_the_style_of_headers(style: HeaderStyle) -> None:
    # given
    per_key = limit(name="per-key")
    # when
    body = to_body(plan(per_key, headers=style), (refused(per_key, SECOND_US),))
    # then
    assert problem_of(body)["rule"] == "per-key"


def test_block_is_told_as_a_problem_without_a_rule() -> None:
    # when
    body = to_body(blocked_plan(), (refused(None, 90 * SECOND_US),))
    # then
    assert problem_of(body) == {
        "type": "about:blank",
        "title": "Too Many Requests",
        "status": 429,
        "retry_after": 90,
    }


def test_block_has_no_body_where_clients_expect_the_reference_servers_answers() -> None:
    # when
    body = to_body(blocked_plan(HeaderStyle.UPSTREAM), (refused(None, 90 * SECOND_US),))
    # then
    assert body == b""


def test_placeholder_in_the_name_of_a_rule_is_a_name() -> None:
    # given
    odd = limit(11, name="a{limit}{retry_after}", refusal_body="{name}|{limit}|{retry_after}")
    # when
    body = to_body(plan(odd), (refused(odd, SECOND_US),))
    # then
    assert body == b"a{limit}{retry_after}|11|1"
