"""Limits that exist at some times only."""

from datetime import UTC, datetime

from ratelimitd.policy.active import active_policy
from ratelimitd.policy.match import match
from ratelimitd.policy.model import Policy
from tests.support.decide import policy_of

US_PER_S = 1_000_000
EASTER = """
domain: api
descriptors:
  - key: path
    rate_limit: {unit: day, requests_per_unit: 5}
  - key: path
    value: /sale
    rate_limit:
      unit: day
      requests_per_unit: 1
      from: 2027-03-28T00:00:00Z
      until: 2027-03-29T00:00:00Z
  - key: path
    value: "/w*"
    rate_limit: {unit: day, requests_per_unit: 2, until: 2027-03-28T00:00:00+01:00}
  - key: tenant
    rate_limit: {unit: day, requests_per_unit: 3, from: 2027-03-28T00:00:00Z}
    descriptors:
      - key: path
        rate_limit: {unit: day, requests_per_unit: 4}
"""


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * US_PER_S


def amount(policy: Policy, *entries: tuple[str, str]) -> int | None:
    limit = match(policy.domains["api"], entries).limit
    return None if limit is None else limit.requests_per_unit


def test_limit_outside_of_its_times_does_not_exist() -> None:
    # given
    policy = policy_of(EASTER)
    times = ("2027-03-27T22:59:59", "2027-03-27T23:00:00", "2027-03-28T00:00:00")
    before, between, during = (active_policy(policy, at(time)) for time in times)
    after = active_policy(policy, at("2027-03-29T00:00:00"))
    # then the rule for any value stands in
    sale, wide = ("path", "/sale"), ("path", "/wide")
    found = [
        (amount(one.policy, sale), amount(one.policy, wide)) for one in (before, between, during)
    ]
    assert found == [(5, 2), (5, 5), (1, 5)]
    assert amount(after.policy, sale) == 5
    # a rule with others below it leads to them all the same
    assert amount(before.policy, ("tenant", "a")) is None
    assert amount(before.policy, ("tenant", "a"), ("path", "/")) == 4
    assert amount(during.policy, ("tenant", "a")) == 3
    # and each names when it will be another one
    assert before.until_us == at("2027-03-27T23:00:00")
    assert between.until_us == at("2027-03-28T00:00:00")
    assert during.until_us == at("2027-03-29T00:00:00")
    assert after.until_us is None


def test_policy_without_times_is_the_same_object() -> None:
    policy = policy_of("domain: api\ndescriptors: [{key: a}]")

    assert active_policy(policy, 0).policy is policy


def test_policy_with_a_calendar_lasts_until_its_next_period() -> None:
    # given
    text = (
        "domain: api\ndescriptors: [{key: a, rate_limit: "
        "{unit: month, calendar: true, timezone: Europe/Berlin, requests_per_unit: 1}}]"
    )
    # when
    active = active_policy(policy_of(text), at("2026-12-31T12:00:00"))
    # then
    assert active.until_us == at("2026-12-31T23:00:00")


def test_rule_that_only_leads_to_limits_that_are_away_does_not_exist() -> None:
    # given a rule without a limit of its own, which must not turn into a whitelist
    away = "{key: path, rate_limit: {unit: day, requests_per_unit: 1, until: 2027-01-01T00:00:00Z}}"
    policy = policy_of(
        "domain: api\non_no_match: deny\ndescriptors:\n"
        f"  - {{key: tenant, value: gold, descriptors: [{away}]}}\n"
        "  - {key: tenant, rate_limit: {unit: day, requests_per_unit: 7}}\n"
        f"  - {{key: user, descriptors: [{away}]}}\n"
        f"  - {{key: 'u*', descriptors: [{away}]}}\n"
        "  - {key: open}\n"
    )
    # when
    before = active_policy(policy, at("2026-12-31T23:59:59")).policy
    after = active_policy(policy, at("2027-01-01T00:00:00")).policy
    # then
    assert amount(before, ("tenant", "gold")) is None
    assert amount(after, ("tenant", "gold")) == 7
    assert match(before.domains["api"], [("user", "a")]).node is not None
    found = match(after.domains["api"], [("user", "a")])
    assert (found.node, found.is_whitelisted) == (None, False)
    assert match(after.domains["api"], [("open", "a")]).is_whitelisted


def test_domain_whose_limits_are_all_away_stays_without_rules() -> None:
    text = (
        "domain: api\non_no_match: deny\ndescriptors: [{key: a, rate_limit: "
        "{unit: day, requests_per_unit: 1, from: 2027-01-01T00:00:00Z}}]"
    )

    active = active_policy(policy_of(text), at("2026-12-31T23:59:59"))

    assert active.policy.domains["api"].root.exact == {}
    assert amount(active.policy, ("a", "1")) is None
    assert active.until_us == at("2027-01-01T00:00:00")
