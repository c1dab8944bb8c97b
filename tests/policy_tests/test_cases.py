# ruff: noqa: E501 - a message is a line
"""Files of tests: what is wrong with one is told at once, each with its place."""

from pathlib import Path

import pytest

from ratelimitd.errors import PolicyError
from ratelimitd.policy.report import Report
from ratelimitd.policy_tests import cases
from ratelimitd.policy_tests.cases import START_US, Answer, read_cases
from ratelimitd.policy_tests.files import MAX_FILE_BYTES, read_files

SECOND_US = 1_000_000

WRONG = """\
domain: [a]
extra: 1
cases:
  - {descriptors: [{a: b}], hits: many}
  - {name: one, time: noon, descriptors: [], expect: {verdict: no, retry_after: soon}}
  - {name: one, descriptors: [{}, x, {a: [b]}], domain: d, repeat: 0}
  - {name: two, steps: [{time: +1, domain: d, descriptors: [{a: b}], subject: {level: pro}}, x]}
  - {name: three, steps: [], time: +1s}
  - x
"""

FOUND = """\
t.yaml:1:9: domain: must be text
t.yaml:2:1: extra: unknown key; known here: cases, domain
t.yaml:4:5: cases[0].domain: is missing; name it here, or once at the top of the file
t.yaml:4:5: cases[0].name: is missing or empty
t.yaml:4:35: cases[0].hits: must be a whole number, without quotes, not `many`
t.yaml:5:5: cases[1].descriptors: is missing or empty; write `descriptors: [{key: value}]`
t.yaml:5:5: cases[1].domain: is missing; name it here, or once at the top of the file
t.yaml:5:23: cases[1].time: `noon` is no instant; write it with its zone, as `2027-01-01T00:00:00Z`
t.yaml:5:64: cases[1].expect.verdict: must be `ok` or `over_limit`, not `no`
t.yaml:5:81: cases[1].expect.retry_after: `soon` is no time; write seconds, as `2` or `0.25`, or `never`
t.yaml:6:12: cases[2].name: `one` is already the case in line 5
t.yaml:6:31: cases[2].descriptors[0]: must be a map of entries, as `{api_key: k1, path: /}`
t.yaml:6:35: cases[2].descriptors[1]: must be a map of entries, as `{api_key: k1, path: /}`
t.yaml:6:42: cases[2].descriptors[2].a: must be text
t.yaml:6:68: cases[2].repeat: 0 is not from 1 to 10000
t.yaml:7:32: cases[3].steps[0].time: `+1` is no span; write `+1.5s`, `+10m`, `+6h` or `+2d`
t.yaml:7:80: cases[3].steps[0].subject.level: unknown key; known here: tier
t.yaml:7:94: cases[3].steps[1]: must be a map
t.yaml:8:30: cases[4].time: unknown key; known here: name, steps
t.yaml:9:5: cases[5]: must be a map
"""


def test_everything_wrong_is_told_with_its_place() -> None:
    # given
    report = Report("t.yaml")
    # when
    read_cases(WRONG, report)
    # then
    assert [str(finding) for finding in report.errors] == FOUND.splitlines()


def test_times_go_on_from_step_to_step() -> None:
    # given
    text = """
domain: api
cases:
  - name: a
    steps:
      - {descriptors: [{k: v}]}
      - {time: +1.5s, descriptors: [{k: v}], hits: 3, refund: true}
      - {time: "2026-01-02T00:00:00Z", descriptors: [{k: v, l: 007}]}
      - {time: +2m, descriptors: [{k: v}], expect: {verdict: over_limit, retry_after: 0.25}}
"""
    report = Report("t.yaml")
    # when
    (case,) = read_cases(text, report)
    # then
    assert report.errors == []
    day_us = 86_400 * SECOND_US
    assert [step.now_us - START_US for step in case.steps] == [
        0,
        1_500_000,
        day_us,
        day_us + 120 * SECOND_US,
    ]
    assert case.steps[1].hits == -3
    assert case.steps[2].descriptors == ((("k", "v"), ("l", "007")),)
    assert case.steps[3].expected.verdict is Answer.OVER_LIMIT
    assert case.steps[3].expected.retry_after_us == 250_000


def test_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given
    monkeypatch.setattr(cases, "MAX_STEPS", 2)
    many = "domain: d\ncases:\n" + "".join(
        f"  - {{name: c{number}, descriptors: [{{a: b}}]}}\n" for number in range(3)
    )
    (tmp_path / "many.yaml").write_text(many)
    (tmp_path / "large.yaml").write_text("#" * (MAX_FILE_BYTES + 1))
    # when
    with pytest.raises(PolicyError) as caught:
        read_files(tmp_path)
    # then
    assert [finding.message for finding in caught.value.findings] == [
        "the file has more than 1,048,576 bytes; split it",
        "the file has more than 2 steps; split it",
    ]
