# ruff: noqa: E501 - a step is a line
"""Tests of policies on a real server: what passes, and what differs."""

from itertools import chain
from pathlib import Path
from xml.etree import ElementTree as ET

from ratelimitd.policy_tests.files import Played, Results, play, read_files
from ratelimitd.policy_tests.junit import to_junit
from ratelimitd.policy_tests.told import MAX_TOLD_STEPS, to_lines
from tests.support.decide import policy_of

POLICY = """
domain: api
subjects: {key: tenant}
descriptors:
  - key: tenant
    limits:
      - {name: per-tenant, unit: second, algorithm: gcra, burst: 2, requests_per_unit: {pro: 4, default: 2}}
      - {name: everybody, scope: global, unit: month, calendar: true, requests_per_unit: 6}
  - {key: job, rate_limit: {algorithm: concurrency, requests_per_unit: 1, slot: id, slot_ttl: 10s}}
  - {key: none, rate_limit: {unit: day, requests_per_unit: 0}}
  - {key: free, rate_limit: {unlimited: true}}
  - {key: path, rate_limit: {name: per-path, unit: minute, requests_per_unit: 1000}}
  - {key: own, rate_limit: {name: own, unit: day, requests_per_unit: 3, count_denied: false}}
  - {key: odd, rate_limit: {name: "\\x03", unit: day, requests_per_unit: 1}}
  - {key: quota, quota_mode: true, rate_limit: {name: quota, unit: year, requests_per_unit: 0}}
"""

PASSING = """
domain: api
cases:
  - name: a bucket fills up again, to the microsecond
    steps:
      - {descriptors: [{tenant: a}], repeat: 2, expect: {admitted: 2, remaining: 0}}
      - {descriptors: [{tenant: a}], expect: {verdict: over_limit, rule: per-tenant, retry_after: 0.5}}
      - {time: +0.499999s, descriptors: [{tenant: a}], expect: {verdict: over_limit}}
      - {time: +0.000001s, descriptors: [{tenant: a}], expect: {verdict: ok}}
  - name: a tier fills faster
    steps:
      - {descriptors: [{tenant: a}], subject: {tier: pro}, repeat: 3, expect: {retry_after: 0.25}}
  - name: all tenants share a month
    steps:
      - {time: "2026-02-28T23:59:59Z", descriptors: [{tenant: a}], hits: 2}
      - {descriptors: [{tenant: b}], hits: 2}
      - {descriptors: [{tenant: c}], hits: 2}
      - {descriptors: [{tenant: d}], expect: {rule: everybody, retry_after: 1, verdict: over_limit}}
      - {time: +1s, descriptors: [{tenant: d}], expect: {verdict: ok}}
  - name: a place comes free when it is given back, or forgotten
    steps:
      - {descriptors: [{job: x, id: "1"}], expect: {verdict: ok}}
      - {descriptors: [{job: x, id: "2"}], expect: {verdict: over_limit, retry_after: 10}}
      - {descriptors: [{job: x, id: "1"}], refund: true}
      - {descriptors: [{job: x, id: "2"}], expect: {verdict: ok}}
      - {time: +10s, descriptors: [{job: x, id: "3"}], expect: {verdict: ok}}
  - {name: nothing is let in, descriptors: [{none: x}], expect: {retry_after: never}}
  - {name: no rule matches, descriptors: [{other: x}], expect: {verdict: ok, remaining: 0}}
  - {name: nothing is counted, descriptors: [{free: x}], repeat: 3, expect: {admitted: 3, remaining: 4294967295}}
  - name: a status without a limit has no say beside one
    steps:
      - {descriptors: [{other: x}, {path: x}, {free: x}], expect: {remaining: 999, rule: per-path}}
  - name: a tier is that of the descriptor with a subject
    steps:
      - {descriptors: [{path: x}, {tenant: a}], subject: {tier: pro}, repeat: 3, expect: {retry_after: 0.25}}
  - name: many repeats are as many requests
    steps:
      - {descriptors: [{path: x}, {path: y}], repeat: 1203, expect: {admitted: 1000, remaining: 0}}
      - {time: +59.999999s, descriptors: [{path: x}], expect: {verdict: over_limit, retry_after: 0.000001}}
  - name: descriptors have hits and numbers of their own
    steps:
      - {descriptors: [{entries: {own: x}, hits: 2}], expect: {remaining: 1}}
      - {descriptors: [{entries: {own: x}, hits: 0}], expect: {verdict: ok, remaining: 1}}
      - {descriptors: [{own: x}], hits: 2, refund: true, expect: {remaining: 3}}
      - {descriptors: [{entries: {own: x}, override: {requests_per_unit: 1, unit: hour}}], repeat: 2, expect: {admitted: 1, retry_after: 3600}}
      - {descriptors: [{entries: [{own: x}, {own: y}]}], expect: {verdict: ok, remaining: 0}}
  - name: a quota passes beside another, and refuses nobody
    steps:
      - {descriptors: [{quota: x}, {none: x}], expect: {verdict: over_limit, rule: api.none}}
      - {descriptors: [{quota: x}], expect: {verdict: over_limit, rule: quota}}
"""

FAILING = """
domain: api
cases:
  - name: "wrong <everywhere> & \\x01 on purpose"
    steps:
      - {descriptors: [{tenant: a}], expect: {verdict: over_limit, rule: everybody, remaining: 9}}
      - {descriptors: [{none: a}], time: +1.5s, repeat: 3, expect: {admitted: 2, retry_after: 7}}
      - {descriptors: [{other: a}], expect: {rule: "\\x02", retry_after: 0}}
      - {descriptors: [{odd: a}], expect: {rule: odd}}
  - {name: right, descriptors: [{tenant: a}], expect: {verdict: ok}}
"""

TOLD = """\
step 1, {file}:6, at 2026-01-01T00:00:00Z
  verdict    expected over_limit  got ok
  rule       expected everybody   got per-tenant
  remaining  expected 9           got 1
step 2, {file}:7, at 2026-01-01T00:00:01.500000Z
  retry_after  expected 7 s  got never
  admitted     expected 2    got 0
step 3, {file}:8, at 2026-01-01T00:00:01.500000Z
  rule         expected \\x02  got no rule
  retry_after  expected 0 s   got no refusal
step 4, {file}:9, at 2026-01-01T00:00:01.500000Z
  rule  expected odd  got \\x03
"""

MESSAGE = "step 1: verdict: expected over_limit, got ok"


def played(path: Path, text: str) -> tuple[Results, list[Played], int]:
    """Play a file: its results, which cases were told of, and how many requests."""
    path.write_text(text)
    policy = policy_of(POLICY)
    told: list[Played] = []
    asked: list[int] = []
    files = read_files(path, policy)
    results = play(files, policy, told.append, asked.append)
    assert sum(asked) == files.request_count
    return results, told, len(asked)


def test_cases_see_what_the_scripts_decide(tmp_path: Path) -> None:
    # when
    results, told, _ = played(tmp_path / "t.yaml", PASSING)
    # then
    assert list(chain.from_iterable(map(to_lines, results.played))) == []
    assert len(results.played) == 12
    assert told == results.played


def test_what_no_rule_matches_may_be_refused(tmp_path: Path) -> None:
    # given
    policy = policy_of("domain: api\non_no_match: deny\ndescriptors: [{key: k}]")
    path = tmp_path / "t.yaml"
    path.write_text(
        "domain: api\ncases:\n"
        "  - {name: a, descriptors: [{x: y}], repeat: 3, expect: {admitted: 3, verdict: over_limit}}"
    )
    # when
    results = play(read_files(path, policy), policy, lambda _: None, lambda _: None)
    # then
    (failed,) = results.played[0].failed
    assert failed.differences == (("admitted", "3", "0"),)


def test_counters_live_by_the_time_of_the_test(tmp_path: Path) -> None:
    # given a window that ends in a microsecond, and far more time that passes here
    step = "      - {descriptors: [{path: y}], repeat: 100}\n"
    text = f"""
domain: api
cases:
  - name: a
    steps:
      - {{time: +59.999999s, descriptors: [{{path: x}}], repeat: 1000}}
{step * 50}
      - {{descriptors: [{{path: x}}], expect: {{verdict: over_limit}}}}
      - {{time: +0.000001s, descriptors: [{{path: x}}], expect: {{remaining: 999}}}}
"""
    # when
    results, _, _ = played(tmp_path / "t.yaml", text)
    # then
    assert results.failed == 0


def test_repeats_are_asked_many_at_once(tmp_path: Path) -> None:
    # given 1,000 requests of two counters
    text = "domain: api\ncases: [{name: a, repeat: 1000, descriptors: [{path: x}, {path: y}]}]"
    # when
    _, _, calls = played(tmp_path / "t.yaml", text)
    # then
    assert calls == 4


def test_failure_names_step_place_field_and_both_values(tmp_path: Path) -> None:
    # when
    path = tmp_path / "t.yaml"
    results, _, _ = played(path, FAILING)
    # then
    wrong, right = results.played
    assert list(to_lines(wrong)) == TOLD.format(file=path).splitlines()
    assert right.is_passed
    assert results.failed == 1


def test_failures_that_follow_are_counted(tmp_path: Path) -> None:
    # given
    step = "      - {descriptors: [{none: x}], expect: {verdict: ok}}\n"
    text = f"domain: api\ncases:\n  - name: a\n    steps:\n{step * (MAX_TOLD_STEPS + 2)}"
    # when
    results, _, _ = played(tmp_path / "t.yaml", text)
    # then
    lines = list(to_lines(results.played[0]))
    assert len(lines) == 2 * MAX_TOLD_STEPS + 1
    assert lines[-1] == "and 2 more steps"


def test_junit_takes_any_text(tmp_path: Path) -> None:
    # given
    path = tmp_path / "t.yaml"
    results, _, _ = played(path, FAILING)
    # when
    suites = ET.fromstring(to_junit(results))
    # then
    assert suites.attrib == {"tests": "2", "failures": "1", "errors": "0"}
    (suite,) = suites.iter("testsuite")
    assert suite.attrib == {"name": str(path), **suites.attrib}
    (failure,) = suites.iter("failure")
    assert failure.text == TOLD.format(file=path).rstrip("\n")
    assert failure.get("message") == MESSAGE
    assert [case.get("name") for case in suites.iter("testcase")] == [
        "wrong <everywhere> & \\x01 on purpose",
        "right",
    ]
    assert {case.get("classname") for case in suites.iter("testcase")} == {str(path)}
