# ruff: noqa: E501 - a message is a line
"""Files of tests: what is wrong with one is told at once, each with its place."""

from pathlib import Path

import pytest

from ratelimitd.decisions.request import Descriptor, Override
from ratelimitd.errors import ConfigError, PolicyError
from ratelimitd.policy.model import Domain, Unit
from ratelimitd.policy.report import Report
from ratelimitd.policy_tests import cases
from ratelimitd.policy_tests.cases import START_US, read_cases
from ratelimitd.policy_tests.files import MAX_FILE_BYTES, read_files
from ratelimitd.policy_tests.model import Answer, Case
from tests.support.decide import policy_of

SECOND_US = 1_000_000
POLICY = policy_of("""
domain: api
subjects: {key: tenant}
descriptors:
  - {key: tenant, rate_limit: {unit: day, requests_per_unit: {pro: 4, default: 2}}}
""")
PLAIN = policy_of("domain: plain\ndescriptors: [{key: k}]").domains["plain"]

WRONG = """\
domain: [a]
extra: 1
cases:
  - {descriptors: [{a: b}], hits: many}
  - {name: one, time: noon, descriptors: [], domain: api, expect: {verdict: no, retry_after: soon}}
  - {name: one, descriptors: [{}, x, {a: [b]}], domain: api, repeat: 0}
  - {name: two, steps: [{time: +1, domain: api, descriptors: [{tenant: b}], subject: {level: pro}}, x]}
  - {name: three, steps: [], time: +1s}
  - x
  - name: four
    domain: apy
    descriptors: [{a: b}]
    expect: {retry_after: 0.0000001}
"""

FOUND = """\
t.yaml:1:9: domain: must be text
t.yaml:2:1: extra: unknown key; known here: cases, domain
t.yaml:4:5: cases[0].name: is missing or empty
t.yaml:4:35: cases[0].hits: must be a whole number, without quotes, not `many`
t.yaml:5:5: cases[1].descriptors: is missing or empty; write `descriptors: [{key: value}]`
t.yaml:5:23: cases[1].time: `noon` is no instant; write it with its zone, as `2027-01-01T00:00:00Z`
t.yaml:5:77: cases[1].expect.verdict: must be `ok` or `over_limit`, not `no`
t.yaml:5:94: cases[1].expect.retry_after: `soon` is no time; write seconds, as `2` or `0.25`, or `never`
t.yaml:6:12: cases[2].name: `one` is already the case in line 5
t.yaml:6:31: cases[2].descriptors[0]: must be a map of entries, as `{api_key: k1, path: /}`
t.yaml:6:35: cases[2].descriptors[1]: must be a map of entries, as `{api_key: k1, path: /}`
t.yaml:6:42: cases[2].descriptors[2].a: must be text
t.yaml:6:70: cases[2].repeat: 0 is not from 1 to 10000
t.yaml:7:32: cases[3].steps[0].time: `+1` is no span; write `+1.5s`, `+10m`, `+6h` or `+2d`
t.yaml:7:87: cases[3].steps[0].subject.level: unknown key; known here: tier
t.yaml:7:101: cases[3].steps[1]: must be a map
t.yaml:8:26: cases[4].steps: is empty; a case has at least one step
t.yaml:8:30: cases[4].time: unknown key; known here: name, steps
t.yaml:9:5: cases[5]: must be a map
t.yaml:11:13: cases[6].domain: the policy has no domain `apy`; did you mean `api`?
t.yaml:13:27: cases[6].expect.retry_after: `0.0000001` is no time; write seconds, as `2` or `0.25`, or `never`
"""


def read(text: str, *others: Domain) -> tuple[tuple[Case, ...], list[str]]:
    """Return the cases of a file, and the findings as they are told."""
    report = Report("t.yaml")
    domains = {**POLICY.domains, **{domain.name: domain for domain in others}}
    found = read_cases(text, report, domains)
    return found, [str(finding) for finding in report.errors]


def one_step(step: str) -> str:
    return f"domain: api\ncases:\n  - {{name: a, steps: [{{{step}}}]}}\n"


def test_everything_wrong_is_told_with_its_place() -> None:
    _, errors = read(WRONG)

    assert errors == FOUND.splitlines()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("descriptors: [{a: b, hits: 3}]", "descriptors[0].hits: stands among entries; write"),
        ("descriptors: [{override: x}]", "descriptors[0].override: stands among entries; write"),
        ("descriptors: [{entries: {a: b}, hit: 3}]", "descriptors[0].hit: unknown key; known here"),
        ("descriptors: [{entries: {}}]", "descriptors[0].entries: must be a map of entries, or a"),
        ("descriptors: [{entries: [x, {a: b}]}]", "descriptors[0].entries[0]: must be a map of"),
        ("descriptors: [{entries: [{a: {}}]}]", "descriptors[0].entries[0].a: must be text"),
        (
            "descriptors: [{entries: {a: b}, hits: -1}]",
            "descriptors[0].hits: -1 is not from 0 to 9007199254740991",
        ),
        (
            "descriptors: [{entries: {a: b}, override: {unit: day}}]",
            "descriptors[0].override.requests_per_unit: is missing; an override has both",
        ),
        (
            "descriptors: [{entries: {a: b}, override: {unit: eon, requests_per_unit: 1}}]",
            "descriptors[0].override.unit: `eon` is not a unit; accepted: `second`, `minute`,",
        ),
        (
            "descriptors: [{entries: {a: b}, override: {unit: day, requests_per_unit: 1, x: 1}}]",
            "descriptors[0].override.x: unknown key; known here: requests_per_unit, unit",
        ),
        ('descriptors: [{"": b}]', "descriptors[0]: a key has 1 to 4,096 characters, a value at"),
        ("descriptors: [{a: %s}]" % ("v" * 4097), "descriptors[0].a: a key has 1 to 4,096"),
        ("descriptors: [%s{a: b}]" % ("{a: b}, " * 100), "descriptors: has 101 items; at most 100"),
        ('descriptors: [{a: b}], time: "1999-12-31T23:59:59Z"', "time: is not from the year 2000"),
        ("descriptors: [{a: b}], time: +999999d", "time: is not from the year 2000 until 2100"),
        (
            "descriptors: [{a: b}], subject: {tier: pro}",
            "subject: no descriptor has the entry `tenant`, which says whose tier it is",
        ),
        (
            "domain: plain, descriptors: [{tenant: b}], subject: {tier: pro}",
            "subject: the domain `plain` has no `subjects`, so nobody has a tier",
        ),
    ],
)
def test_step_that_means_nothing_is_refused(step: str, message: str) -> None:
    _, errors = read(one_step(step), PLAIN)

    assert len(errors) == 1
    assert errors[0].partition(": cases[0].steps[0].")[2].startswith(message)


def test_unknown_domain_of_a_file_is_told_once() -> None:
    _, errors = read(one_step("descriptors: [{a: b}]}, {descriptors: [{a: b}]").replace("api", "x"))

    assert errors == [
        "t.yaml:1:9: domain: the policy has no domain `x`, so nothing would be limited"
    ]


def test_step_without_any_domain_is_refused() -> None:
    _, errors = read("cases: [{name: a, descriptors: [{a: b}]}]")

    assert errors == [
        "t.yaml:1:9: cases[0].domain: is missing; name it here, or once at the top of the file"
    ]


def test_times_go_on_from_step_to_step() -> None:
    # given
    text = """
domain: api
cases:
  - name: a
    steps:
      - {descriptors: [{k: v}]}
      - {time: +1.5s, descriptors: [{k: v}]}
      - {time: "2026-01-02T00:00:00Z", descriptors: [{k: v}]}
      - {time: +2m, descriptors: [{k: v}], expect: {verdict: over_limit, retry_after: 0.25}}
"""
    # when
    (case,), errors = read(text)
    # then
    assert errors == []
    day_us = 86_400 * SECOND_US
    assert [step.now_us - START_US for step in case.steps] == [
        0,
        1_500_000,
        day_us,
        day_us + 120 * SECOND_US,
    ]
    assert case.steps[3].expected.verdict is Answer.OVER_LIMIT
    assert case.steps[3].expected.retry_after_us == 250_000


def test_descriptors_keep_their_order_their_text_and_what_is_theirs() -> None:
    # given
    text = """
domain: api
cases:
  - name: a
    hits: 3
    refund: true
    descriptors:
      - {k: v, l: 007, "yes": yes}
      - {entries: {k: v}, hits: 2}
      - {entries: [{k: v}, {k: w}], refund: false}
      - {entries: {hits: "1"}, override: {requests_per_unit: 5, unit: Hour}, hits: 0}
"""
    # when
    (case,), errors = read(text)
    # then
    assert errors == []
    assert case.steps[0].descriptors == (
        Descriptor((("k", "v"), ("l", "007"), ("yes", "yes")), None, 3, is_negative_hits=True),
        Descriptor((("k", "v"),), None, 2, is_negative_hits=True),
        Descriptor((("k", "v"), ("k", "w")), None, 3, is_negative_hits=False),
        Descriptor((("hits", "1"),), Override(5, Unit.HOUR), 0, is_negative_hits=True),
    )


def test_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given
    monkeypatch.setattr(cases, "MAX_STEPS", 2)
    many = "domain: api\ncases:\n" + "".join(
        f"  - {{name: c{number}, descriptors: [{{a: b}}]}}\n" for number in range(3)
    )
    (tmp_path / "many.yaml").write_text(many)
    (tmp_path / "large.yaml").write_text("#" * (MAX_FILE_BYTES + 1))
    (tmp_path / "gone.yml").symlink_to("nowhere")
    # when
    with pytest.raises(PolicyError) as caught:
        read_files(tmp_path, POLICY)
    # then
    assert [finding.message for finding in caught.value.findings] == [
        "cannot be read: No such file or directory",
        "the file has more than 1,048,576 bytes; split it",
        "the file has more than 2 steps; split it",
    ]


def test_directory_is_read_without_what_is_no_test(tmp_path: Path) -> None:
    # given
    text = "domain: api\ncases: [{name: a, repeat: 010, descriptors: [{a: b}]}]"
    for name in ("b.yaml", "a.yml", ".hidden.yaml", "c.yaml~", "README.md"):
        (tmp_path / name).write_text(text)
    # when
    files = read_files(tmp_path, POLICY)
    # then
    assert [Path(name).name for name in files.cases] == ["a.yml", "b.yaml"]
    assert files.request_count == 16
    assert [str(finding).partition("a.yml:")[2] for finding in files.warnings[:1]] == [
        "2:27: cases[0].repeat: `010` is octal in YAML, so it means 8; drop the 0"
    ]


def test_directory_without_tests_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no test is there; it looks for \*.yaml and \*.yml"):
        read_files(tmp_path, POLICY)
