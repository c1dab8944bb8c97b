"""Response headers that tell a client where it stands: none, the reference server's, or the IETF's.

The IETF's are RateLimit-Policy and RateLimit of draft-ietf-httpapi-ratelimit-headers-10, and, with
a refusal, Retry-After (RFC 9110, section 10.2.3) and the type of a body in JSON.
"""

import re
from collections.abc import Iterator, Sequence
from typing import assert_never
from zlib import crc32

from ratelimitd.decisions.body import PROBLEM_TYPE, has_problem
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.plan import Plan
from ratelimitd.decisions.verdict import Code, Status, refusing
from ratelimitd.policy.model import Algorithm, HeaderStyle, Limit

US_PER_S = 1_000_000
PERCENT = 100

# Structured fields have integers of 15 digits, and strings of printable ASCII alone (RFC 9651,
# sections 3.3.1 and 3.3.3); a strict client drops a header with anything else in it.
MAX_INTEGER = 10**15 - 1
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")

Headers = tuple[tuple[str, str], ...]


def to_headers(
    plan: Plan,
    statuses: tuple[Status, ...],
    options: DecisionOptions,
    now_us: int,
    *,
    is_refused: bool,
) -> Headers:
    """Return the headers of an answer; `now_us` spreads the waits of a rule with retry_jitter."""
    match plan.headers:
        case HeaderStyle.NONE:
            return ()
        case HeaderStyle.UPSTREAM:
            return _upstream(plan, statuses, options)
        case HeaderStyle.IETF:
            headers = _ietf(plan, statuses)
            if is_refused:
                headers += _refusal(plan, statuses, now_us)
            return headers
        case _:
            assert_never(plan.headers)


def _upstream(plan: Plan, statuses: tuple[Status, ...], options: DecisionOptions) -> Headers:
    """Speak of the status with the least left, or of the last refusal that is not a quota's."""
    chosen: Status | None = None
    refusal: Status | None = None
    for descriptor, status in zip(plan.descriptors, statuses, strict=True):
        if status.limit is None:
            continue
        if chosen is None or status.remaining < chosen.remaining:
            chosen = status
        is_quota = descriptor.limit is not None and descriptor.limit.is_quota
        if status.code is Code.OVER_LIMIT and not is_quota:
            refusal = status
    told = refusal or chosen
    if told is None or told.limit is None:
        return ()
    return (
        (options.limit_header, str(told.limit.requests_per_unit)),
        (options.remaining_header, str(told.remaining)),
        (options.reset_header, str(told.reset_s or 0)),
    )


def _ietf(plan: Plan, statuses: Sequence[Status]) -> Headers:
    """Tell every limit that was asked, and for each descriptor the one that is nearest."""
    policies = dict.fromkeys(_policies(plan))
    if not policies:
        return ()
    standing = dict.fromkeys(
        f"{_name(status.limit)};r={min(status.remaining, MAX_INTEGER)};t={status.reset_s or 0}"
        for status in statuses
        if status.limit is not None and not status.limit.is_shadow
    )
    headers: Headers = (("RateLimit-Policy", ", ".join(policies)),)
    if standing:
        headers += (("RateLimit", ", ".join(standing)),)
    return headers


def _policies(plan: Plan) -> Iterator[str]:
    for check in plan.checks:
        limit = check.limit
        if limit.is_shadow:
            continue
        item = f"{_name(limit)};q={min(limit.requests_per_unit, MAX_INTEGER)}"
        if limit.algorithm is Algorithm.CONCURRENCY:
            item += ';qu="concurrent-requests"'
        elif limit.calendar is None:
            item += f";w={limit.window_us // US_PER_S}"
        yield item


def _refusal(plan: Plan, statuses: tuple[Status, ...], now_us: int) -> Headers:
    headers: Headers = ()
    told: Status | None = None
    for at in refusing(statuses):
        status = statuses[at]
        if status.wait_us <= 0:
            # For ever, or for as long as nobody knows: no time would be right.
            told = None
            break
        if told is None or status.wait_us > told.wait_us:
            told = status
    if told is not None:
        headers += (("Retry-After", str(_retry_after_s(told, now_us))),)
    if has_problem(plan, statuses):
        headers += (("Content-Type", PROBLEM_TYPE),)
    return headers


def _retry_after_s(told: Status, now_us: int) -> int:
    """Return whole seconds, rounded up, and up to `retry_jitter` percent more."""
    wait_us = told.wait_us
    jitter = told.limit.retry_jitter if told.limit is not None else 0
    if jitter:
        # Spread by the microsecond of the decision: no two callers share it for long.
        share = crc32(now_us.to_bytes(8, "big")) % (jitter + 1)
        wait_us += wait_us * share // PERCENT
    return -(-wait_us // US_PER_S)


def _name(limit: Limit) -> str:
    name = _UNPRINTABLE.sub("?", limit.name or limit.rule)
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
