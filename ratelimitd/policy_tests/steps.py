"""One step of a case: which request, when, how often, and what is expected.

Rules:
- Times are given, never taken from a clock: an instant, or a span after the step before.
- What could pass only by mistake is an error: a domain that the policy does not have, a tier where
  nobody has one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from ratelimitd.decisions.request import Descriptor
from ratelimitd.policy.fields import read_choice, read_integer, read_map, read_text, value_of
from ratelimitd.policy.model import Domain
from ratelimitd.policy.nodes import MapNode, Scalar
from ratelimitd.policy.report import Report, join_path, quote
from ratelimitd.policy.schema import SUGGESTION_CUTOFF
from ratelimitd.policy.spans import US_PER_S, read_after, read_instant
from ratelimitd.policy_tests.descriptors import MAX_HITS, Hits, read_descriptors, read_hits
from ratelimitd.policy_tests.keys import check_keys
from ratelimitd.policy_tests.model import NEVER, Answer, Expected, Step

MAX_REPEAT = 10_000

# 2000-01-01 and 2100-01-01. Beyond them a long bucket would end where a double loses microseconds.
EARLIEST_US = 946_684_800 * US_PER_S
LATEST_US = 4_102_444_800 * US_PER_S

STEP_KEYS = ("descriptors", "domain", "expect", "hits", "refund", "repeat", "subject", "time")
_EXPECT_KEYS = ("admitted", "remaining", "retry_after", "rule", "verdict")
_SUBJECT_KEYS = ("tier",)
_DOMAIN_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Context:
    """What the steps of a file share; `root` has the domain of those that name none."""

    report: Report
    domains: Mapping[str, Domain]
    root: MapNode


def read_step(node: MapNode, path: str, context: Context, before_us: int) -> Step:
    """Return the step in `node`; `before_us` is the time of the step before."""
    report = context.report
    domain = _read_domain(node, path, context)
    hits = read_hits(node, path, report, Hits(1))
    descriptors = read_descriptors(node, path, report, hits)
    repeat = read_integer(node, "repeat", path, report, smallest=1, largest=MAX_REPEAT)
    return Step(
        line=node.line,
        now_us=_read_time(node, path, report, before_us),
        domain=domain,
        descriptors=descriptors,
        repeat=repeat or 1,
        tier=_read_tier(node, path, report, context.domains.get(domain), descriptors),
        expected=_read_expected(node, path, report),
    )


def _read_domain(node: MapNode, path: str, context: Context) -> str:
    """Return the step's domain, else the file's."""
    report = context.report
    if value_of(node, "domain") is None and value_of(context.root, "domain") is None:
        message = "is missing; name it here, or once at the top of the file"
        report.error(node, join_path(path, "domain"), message)
        return ""
    if value_of(node, "domain") is None:
        node, path = context.root, ""
    domain = read_text(node, "domain", path, report)
    if domain not in context.domains:
        report.error(node.get("domain"), join_path(path, "domain"), _no_domain(domain, context))
    return domain


def _no_domain(name: str, context: Context) -> str:
    shown = name[:_DOMAIN_CHARACTERS]
    near = (
        get_close_matches(shown, context.domains, 1, SUGGESTION_CUTOFF)
        if context.report.may_suggest()
        else []
    )
    hint = f"; did you mean {quote(near[0])}?" if near else ", so nothing would be limited"
    return f"the policy has no domain {quote(name)}{hint}"


def _read_tier(
    node: MapNode,
    path: str,
    report: Report,
    domain: Domain | None,
    descriptors: Sequence[Descriptor],
) -> str:
    """Return what the registry says of the subject that the descriptors name."""
    subject = read_map(node, "subject", path, report)
    if subject is None:
        return ""
    below = join_path(path, "subject")
    check_keys(subject, below, _SUBJECT_KEYS, report)
    tier = read_text(subject, "tier", below, report)
    if domain is None or not descriptors:
        return tier  # that is an error already
    if domain.subjects is None:
        message = f"the domain {quote(domain.name)} has no `subjects`, so nobody has a tier"
        report.error(subject, below, message)
    elif all(key != domain.subjects.key for one in descriptors for key, _ in one.entries):
        message = f"no descriptor has the entry {quote(domain.subjects.key)}, which says whose"
        report.error(subject, below, f"{message} tier it is")
    return tier


def _read_time(node: MapNode, path: str, report: Report, before_us: int) -> int:
    """Return a step's instant: its own, or so long after the step before."""
    value = value_of(node, "time")
    if value is None:
        return before_us
    below = join_path(path, "time")
    if isinstance(value, Scalar) and value.text.startswith("+"):
        now_us = before_us + read_after(value, below, report)
    else:
        found = read_instant(node, "time", path, report)
        now_us = before_us if found is None else found
    if not EARLIEST_US <= now_us <= LATEST_US:
        report.error(value, below, "is not from the year 2000 until 2100 begins")
        return before_us
    return now_us


def _read_expected(node: MapNode, path: str, report: Report) -> Expected:
    below = join_path(path, "expect")
    expect = read_map(node, "expect", path, report)
    if expect is None:
        return Expected()
    check_keys(expect, below, _EXPECT_KEYS, report)
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
        report.error(value, join_path(path, "retry_after"), message)
        return None
    return int(whole) * US_PER_S + int(part.ljust(6, "0") if part else 0)
