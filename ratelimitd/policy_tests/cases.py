"""Files of policy tests: who asks what and when, and what the answer shall be.

Rules:
- A case is a story of steps on counters that begin empty; a case without `steps` is one step.
- Times are given, never taken from a clock: an instant, or a span after the step before.
- What is not expected is not looked at.
- All errors of a file are told at once, each with its place.
"""

from dataclasses import dataclass
from enum import StrEnum

from ratelimitd.policy.document import read_document
from ratelimitd.policy.fields import (
    read_choice,
    read_flag,
    read_integer,
    read_list,
    read_map,
    read_text,
    value_of,
)
from ratelimitd.policy.nodes import MapNode, Scalar, YamlNode
from ratelimitd.policy.report import Report, join_path, quote
from ratelimitd.policy.spans import US_PER_S, read_after, read_instant

MAX_STEPS = 10_000
"""Of one file; each asks a server once for every repeat."""

MAX_REPEAT = 10_000
MAX_HITS = 2**53 - 1

START_US = 1_767_225_600 * US_PER_S
"""When a case begins that does not say: 2026-01-01T00:00:00Z, a Thursday."""

_FILE = ("cases", "domain")
_CASE = ("name", "steps")
_STEP = ("descriptors", "domain", "expect", "hits", "refund", "repeat", "subject", "time")
_EXPECT = ("admitted", "remaining", "retry_after", "rule", "verdict")
_SUBJECT = ("tier",)

NEVER = "never"


class Answer(StrEnum):
    """What a request is told."""

    OK = "ok"
    OVER_LIMIT = "over_limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a step wants of the last of its answers; None is not looked at.

    `retry_after_us` is -1 for never. `admitted` counts those of all repeats that were answered OK.
    """

    verdict: Answer | None = None
    rule: str | None = None
    remaining: int | None = None
    retry_after_us: int | None = None
    admitted: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One request, asked `repeat` times at `now_us`; `hits` below 0 are given back."""

    line: int
    now_us: int
    domain: str
    descriptors: tuple[tuple[tuple[str, str], ...], ...]
    hits: int
    repeat: int
    tier: str
    expected: Expected


@dataclass(frozen=True, slots=True)
class Case:
    """A story."""

    name: str
    line: int
    steps: tuple[Step, ...]


def read_cases(content: str | bytes, report: Report) -> tuple[Case, ...]:
    """Return the cases of a file; what is wrong with it is reported."""
    root = read_document(content, report, key="cases")
    if root is None:
        return ()
    _check_keys(root, "", _FILE, report)
    domain = read_text(root, "domain", "", report)
    items = read_list(root, "cases", "", report)
    if not items:
        report.error(root, "cases", "is missing or empty; a file of tests has at least one")
    cases: list[Case] = []
    names: dict[str, int] = {}
    steps = 0
    for index, item in enumerate(items):
        path = f"cases[{index}]"
        if not isinstance(item, MapNode):
            report.error(item, path, "must be a map")
            continue
        case = _read_case(item, path, domain, report)
        if case.name in names:
            message = f"{quote(case.name)} is already the case in line {names[case.name]}"
            report.error(item.get("name") or item, f"{path}.name", message)
        names.setdefault(case.name, case.line)
        steps += len(case.steps)
        if steps > MAX_STEPS:
            report.error(item, path, f"the file has more than {MAX_STEPS:,} steps; split it")
            break
        cases.append(case)
    return tuple(cases)


def _read_case(node: MapNode, path: str, domain: str, report: Report) -> Case:
    has_steps = value_of(node, "steps") is not None
    _check_keys(node, path, _CASE if has_steps else (*_CASE, *_STEP), report)
    name = read_text(node, "name", path, report)
    if not name:
        report.error(node.get("name") or node, f"{path}.name", "is missing or empty")
    if not has_steps:
        return Case(name, node.line, (_read_step(node, path, domain, report, START_US),))
    steps: list[Step] = []
    now_us = START_US
    for index, item in enumerate(read_list(node, "steps", path, report)):
        below = f"{path}.steps[{index}]"
        if not isinstance(item, MapNode):
            report.error(item, below, "must be a map")
            continue
        _check_keys(item, below, _STEP, report)
        step = _read_step(item, below, domain, report, now_us)
        now_us = step.now_us
        steps.append(step)
    return Case(name, node.line, tuple(steps))


def _read_step(node: MapNode, path: str, domain: str, report: Report, before_us: int) -> Step:
    domain = read_text(node, "domain", path, report) or domain
    if not domain:
        message = "is missing; name it here, or once at the top of the file"
        report.error(node, f"{path}.domain", message)
    hits = read_integer(node, "hits", path, report, largest=MAX_HITS)
    hits = 1 if hits is None else hits
    repeat = read_integer(node, "repeat", path, report, smallest=1, largest=MAX_REPEAT)
    subject = read_map(node, "subject", path, report)
    if subject is not None:
        _check_keys(subject, f"{path}.subject", _SUBJECT, report)
    return Step(
        line=node.line,
        now_us=_read_time(node, path, report, before_us),
        domain=domain,
        descriptors=_read_descriptors(node, path, report),
        hits=-hits if read_flag(node, "refund", path, report) else hits,
        repeat=repeat or 1,
        tier="" if subject is None else read_text(subject, "tier", f"{path}.subject", report),
        expected=_read_expected(node, path, report),
    )


def _read_time(node: MapNode, path: str, report: Report, before_us: int) -> int:
    """Return a step's instant: its own, or so long after the step before."""
    value = value_of(node, "time")
    if value is None:
        return before_us
    if isinstance(value, Scalar) and value.text.startswith("+"):
        return before_us + read_after(value, join_path(path, "time"), report)
    found = read_instant(node, "time", path, report)
    return before_us if found is None else found


def _read_descriptors(
    node: MapNode, path: str, report: Report
) -> tuple[tuple[tuple[str, str], ...], ...]:
    items: tuple[YamlNode, ...] = read_list(node, "descriptors", path, report)
    below = f"{path}.descriptors"
    if not items:
        report.error(node, below, "is missing or empty; write `descriptors: [{key: value}]`")
    found = []
    for index, item in enumerate(items):
        at = f"{below}[{index}]"
        if not isinstance(item, MapNode) or not item.entries:
            report.error(item, at, "must be a map of entries, as `{api_key: k1, path: /}`")
            continue
        entries = []
        for key, value in item.entries:
            if isinstance(value, Scalar):
                entries.append((key.text, value.text))
            else:
                report.error(value, f"{at}.{key.text}", "must be text")
        found.append(tuple(entries))
    return tuple(found)


def _read_expected(node: MapNode, path: str, report: Report) -> Expected:
    below = f"{path}.expect"
    expect = read_map(node, "expect", path, report)
    if expect is None:
        return Expected()
    _check_keys(expect, below, _EXPECT, report)
    verdict: Answer | None = None
    if value_of(expect, "verdict") is not None:
        verdict = read_choice(expect, "verdict", below, report, default=Answer.OK)
    return Expected(
        verdict=verdict,
        rule=read_text(expect, "rule", below, report) or None,
        remaining=read_integer(expect, "remaining", below, report, largest=MAX_HITS),
        retry_after_us=_read_retry(expect, below, report),
        admitted=read_integer(expect, "admitted", below, report, largest=MAX_REPEAT),
    )


def _read_retry(node: MapNode, path: str, report: Report) -> int | None:
    """Return microseconds, -1 for never; seconds may have a fraction, as `0.25`."""
    value = value_of(node, "retry_after")
    if value is None:
        return None
    text = value.text if isinstance(value, Scalar) else ""
    if text == NEVER:
        return -1
    whole, point, part = text.partition(".")
    is_number = whole.isdecimal() and (not point or part.isdecimal()) and len(part) <= len("000001")
    if not is_number or len(whole) > len("999999999"):
        message = f"{quote(text)} is no time; write seconds, as `2` or `0.25`, or `{NEVER}`"
        report.error(value, f"{path}.retry_after", message)
        return None
    return int(whole) * US_PER_S + int(part.ljust(6, "0") if part else 0)


def _check_keys(node: MapNode, path: str, known: tuple[str, ...], report: Report) -> None:
    for key, _ in node.entries:
        if key.text not in known:
            message = f"unknown key; known here: {', '.join(sorted(known))}"
            report.error(key, join_path(path, key.text), message)
