# ruff: noqa: E501 - a step is a line
"""Tests of policies on a real server: what passes, what differs, and how it is told."""

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from ratelimitd import terminal
from ratelimitd.cli import NAME, app
from ratelimitd.policy_tests.files import play, read_files, to_junit
from tests.support.decide import policy_of

ROOT = Path(__file__).parents[2]

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
"""

FAILING = """
domain: api
cases:
  - name: wrong <everywhere> & on purpose
    steps:
      - {descriptors: [{tenant: a}], expect: {verdict: over_limit, rule: everybody, remaining: 9}}
      - {descriptors: [{none: a}], repeat: 3, expect: {admitted: 2, retry_after: 7}}
  - {name: right, descriptors: [{tenant: a}], expect: {verdict: ok}}
"""

DIFFERENCES = """\
step 1 (line 6): verdict: expected over_limit, got ok
step 1 (line 6): rule: expected everybody, got per-tenant
step 1 (line 6): remaining: expected 9, got 1
step 2 (line 7): retry_after: expected 7 s, got never
step 2 (line 7): admitted: expected 2, got 0
"""


def test_cases_see_what_the_scripts_decide(tmp_path: Path) -> None:
    # given
    path = tmp_path / "t.yaml"
    path.write_text(PASSING)
    # when
    results = play(path, policy_of(POLICY), lambda _: None)
    # then
    told = [str(difference) for one in results.played for difference in one.differences]
    assert told == []
    assert len(results.played) == 6


def test_difference_names_step_field_and_both_values(tmp_path: Path) -> None:
    # given
    path = tmp_path / "t.yaml"
    path.write_text(FAILING)
    # when
    results = play(path, policy_of(POLICY), lambda _: None)
    # then
    wrong, right = results.played
    assert [str(difference) for difference in wrong.differences] == DIFFERENCES.splitlines()
    assert right.is_passed
    # and as JUnit, which takes any text
    suites = ET.fromstring(to_junit(results))
    assert suites.attrib == {"tests": "2", "failures": "1"}
    (failure,) = suites.iter("failure")
    assert failure.text == DIFFERENCES.strip()
    assert [case.get("name") for case in suites.iter("testcase")] == [
        "wrong <everywhere> & on purpose",
        "right",
    ]


def test_examples_pass_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # given
    policy, tests = ROOT / "examples" / "policy", ROOT / "examples" / "policy-tests"
    junit = tmp_path / "junit.xml"
    # when
    arguments = ["validate", str(policy), "--test", str(tests), "--junit", str(junit)]
    code = terminal.run_app(app, NAME, arguments)
    # then
    assert code == 0
    count = sum(map(len, read_files(tests).values()))
    assert f"{count} cases, all passed." in capsys.readouterr().out
    assert ET.parse(junit).getroot().get("failures") == "0"


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (FAILING, 1, "FAIL  wrong <everywhere> & on purpose"),
        ("cases: []", 2, "is missing or empty; a file of tests has at least one"),
    ],
)
def test_what_fails_ends_with_its_own_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, code: int, words: str
) -> None:
    # given
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "api.yaml").write_text(POLICY)
    tests = tmp_path / "t.yaml"
    tests.write_text(text)
    # when
    ended = terminal.run_app(
        app, NAME, ["validate", str(tmp_path / "policy"), "--test", str(tests)]
    )
    # then
    told = capsys.readouterr()
    assert ended == code
    assert words in told.out + told.err


def test_junit_without_tests_is_a_wrong_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = terminal.run_app(app, NAME, ["validate", str(tmp_path), "--junit", "x.xml"])

    assert code == 2
    assert "--junit needs --test" in capsys.readouterr().err


def test_missing_tests_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "api.yaml").write_text(POLICY)
    arguments = ["validate", str(tmp_path / "policy"), "--test", str(tmp_path / "no.yaml")]

    code = terminal.run_app(app, NAME, arguments)

    assert code == 2
    assert "No such file or directory" in capsys.readouterr().err
