import pytest

from ratelimitd.policy.compile import compile_policy
from ratelimitd.policy.match import Match, match, matches_pattern
from ratelimitd.policy.model import Domain

RULES = """
domain: d
descriptors:
  - key: a
    rate_limit: {unit: second, requests_per_unit: 1}
    descriptors:
      - {key: b, rate_limit: {unit: second, requests_per_unit: 2}}
  - key: a
    value: x
    descriptors:
      - {key: c, rate_limit: {unit: second, requests_per_unit: 3}}
  - {key: w, value: "p*", rate_limit: {unit: second, requests_per_unit: 4}}
  - {key: w, value: "pq*", rate_limit: {unit: second, requests_per_unit: 5}}
  - {key: free, value: "10"}
  - {key: joined_name, rate_limit: {unit: second, requests_per_unit: 6}}
  - {key: "path*", rate_limit: {unit: second, requests_per_unit: 7}}
  - key: shared
    value: "*.example.com"
    share_threshold: true
    value_to_metric: true
    descriptors:
      - {key: user, detailed_metric: true, rate_limit: {unit: second, requests_per_unit: 8}}
  - key: seen
    value_to_metric: true
    rate_limit: {unit: second, requests_per_unit: 9}
  - {key: seen, value: fixed, value_to_metric: true, rate_limit: {unit: day}}
  - key: token
    value_to_metric: true
    detailed_metric: true
    rate_limit: {unit: second, requests_per_unit: 10}
  - {key: token, value: hunter2, rate_limit: {unit: second, requests_per_unit: 11}}
  - {key: api, value: key_hunter2, rate_limit: {unit: second, requests_per_unit: 12}}
  - {key: "k_", rate_limit: {unit: second, requests_per_unit: 13}}
"""


@pytest.fixture(scope="module")
def domain() -> Domain:
    return compile_policy({"d.yaml": RULES}).policy.domains["d"]


def find(domain: Domain, text: str) -> Match:
    """Match entries written as `k=v,k2=v2`."""
    pairs = [entry.split("=", 1) for entry in text.split(",")] if text else []
    return match(domain, [(key, value) for key, value in pairs])


@pytest.mark.parametrize(
    ("entries", "number"),
    [
        ("", None),
        ("a=1", 1),
        ("a=", 1),
        ("a=1,b=1", 2),
        ("a=x", None),
        ("a=x,b=1", None),
        ("a=x,c=1", 3),
        ("a=1,b=1,c=1", None),
        ("w=pqr", 4),
        ("w=p*", 4),
        ("w=pq*", 5),
        ("w=q", None),
        ("free=10", None),
        ("free=11", None),
        ("joined=name", 6),
        ("joined_name=any", 6),
        ("path=1", 7),
        ("pathology=", 7),
        ("shared=a.example.com,user=u", 8),
        ("api_key=hunter2", 12),
        ("k=", 13),
        ("unknown=1", None),
    ],
)
def test_match_finds_the_limit_of_the_last_entry(
    domain: Domain, entries: str, number: int | None
) -> None:
    limit = find(domain, entries).limit

    assert (limit.requests_per_unit if limit else None) == number


@pytest.mark.parametrize(
    ("entries", "metric_key"),
    [
        ("a=1", "a"),
        ("a=1,b=2", "a.b"),
        ("w=pqr", "w_p*"),
        ("path1=x", "path*"),
        ("shared=a.example.com", "shared_*.example.com"),
        ("shared=a.example.com,user=u", "shared_*.example.com.user_u"),
        ("shared=a.example.com,user=", "shared_*.example.com.user"),
        ("seen=v", "seen_v"),
        ("seen=", "seen"),
        ("seen=fixed", "seen_fixed"),
        ("token=s3cret", "token"),
        ("token=hunter2", "token_#f52fbd32"),
        ("api_key=hunter2", "api_key"),
        ("unknown=1", ""),
        ("", ""),
    ],
)
def test_match_metric_key_shows_values_only_where_rules_ask(
    domain: Domain, entries: str, metric_key: str
) -> None:
    assert find(domain, entries).metric_key == metric_key


@pytest.mark.parametrize(
    ("entries", "is_whitelisted"),
    [("free=10", True), ("a=x", False), ("a=1", False), ("unknown=1", False), ("", False)],
)
def test_match_whitelist_is_a_leaf_without_limit(
    domain: Domain, entries: str, is_whitelisted: bool
) -> None:
    assert find(domain, entries).is_whitelisted is is_whitelisted


def test_match_shared_level_counts_under_its_pattern(domain: Domain) -> None:
    found = find(domain, "shared=a.example.com,user=u")

    assert [part.counter_value for part in found.parts] == ["*.example.com", "u"]


def test_match_other_levels_count_under_their_value(domain: Domain) -> None:
    assert [part.counter_value for part in find(domain, "w=pqr").parts] == ["pqr"]


def test_match_marks_entries_of_secret_keys(domain: Domain) -> None:
    assert [find(domain, text).parts[0].is_secret for text in ("token=1", "a=1")] == [True, False]


def test_match_keeps_the_parts_before_it_stopped(domain: Domain) -> None:
    found = find(domain, "a=x,b=1")

    assert found.node is None
    assert [(part.key, part.value, part.matched_by) for part in found.parts] == [
        ("a", "x", "exact")
    ]


@pytest.mark.parametrize(
    ("pattern", "text", "answer"),
    [
        ("*", "", True),
        ("a*", "a", True),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("*b*", "abc", True),
        ("*b*", "ac", False),
        ("a*b*c", "a-b-c", True),
        ("a*b*c", "acb", False),
        ("a*bb*b", "abb", False),
        ("a**b", "ab", True),
        ("a*b*b*c", "abc", False),
        ("a*\n*", "a\n", True),
    ],
)
def test_matches_pattern_is_greedy_without_overlap(pattern: str, text: str, answer: bool) -> None:
    assert matches_pattern(tuple(pattern.split("*")), text) is answer
