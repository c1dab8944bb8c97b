"""The body that a refused client reads: a rule's own text, or a problem as JSON (RFC 9457).

Rules:
- Of several refusals the one with the longest wait is told, among those whose rule has a body.
- A problem has the members of RFC 9457, section 3.1, and three of ours: `rule`, `limit` and
  `retry_after` in whole seconds, absent where waiting does not help.
"""

import json
import re

from ratelimitd.decisions.plan import Outcome, Plan
from ratelimitd.decisions.verdict import Status, refusing
from ratelimitd.json_value import JsonValue
from ratelimitd.policy.model import HeaderStyle, Limit

# What a client is told to wait where nobody knows how long: the store is away.
UNKNOWN_WAIT_S = 1
US_PER_S = 1_000_000

PROBLEM_TYPE = "application/problem+json"
_TITLE = "Too Many Requests"
_STATUS = 429
_PLACEHOLDER = re.compile(r"\{(?:name|limit|retry_after)\}")


def to_body(plan: Plan, statuses: tuple[Status, ...]) -> bytes:
    """Return the body of a refusal; empty where no rule that refused has one."""
    status = body_status(plan, statuses)
    if status is None:
        return b""
    limit = status.limit
    if limit is None or not limit.refusal_body:
        return _problem(status)
    return _fill(limit, _wait_s(status))


def has_problem(plan: Plan, statuses: tuple[Status, ...]) -> bool:
    """Tell whether the body of a refusal is a problem in JSON."""
    status = body_status(plan, statuses)
    return status is not None and not (status.limit is not None and status.limit.refusal_body)


def body_status(plan: Plan, statuses: tuple[Status, ...]) -> Status | None:
    """Return the refusal that the body tells of."""
    told: Status | None = None
    for at in refusing(statuses):
        status = statuses[at]
        if not _has_body(plan, plan.descriptors[at].outcome, status.limit):
            continue
        if told is None or _longest(status) > _longest(told):
            told = status
    return told


def _has_body(plan: Plan, outcome: Outcome, limit: Limit | None) -> bool:
    if limit is not None:
        return bool(limit.refusal_body) or limit.has_problem_body
    return outcome is Outcome.BLOCKED and plan.headers is HeaderStyle.IETF


def _longest(status: Status) -> tuple[bool, int]:
    return status.wait_us < 0, _wait_s(status)


def _wait_s(status: Status) -> int:
    """Return whole seconds, rounded up, until another try is worth it."""
    if status.wait_us > 0:
        return -(-status.wait_us // US_PER_S)
    return status.reset_s or UNKNOWN_WAIT_S


def _problem(status: Status) -> bytes:
    limit = status.limit
    told: dict[str, JsonValue] = {"type": "about:blank", "title": _TITLE, "status": _STATUS}
    if limit is not None:
        told["rule"] = limit.name or limit.rule
        told["limit"] = limit.requests_per_unit
    if status.wait_us >= 0:
        told["retry_after"] = _wait_s(status)
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "surrogatepass"
    )


def _fill(limit: Limit, wait_s: int) -> bytes:
    values = {
        "{name}": limit.name,
        "{limit}": str(limit.requests_per_unit),
        "{retry_after}": str(wait_s),
    }
    text = _PLACEHOLDER.sub(lambda found: values[found[0]], limit.refusal_body)
    return text.encode("utf-8", "surrogatepass")
