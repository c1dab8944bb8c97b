"""The body that a refused client reads: the text of the rule that refused, with its numbers."""

from ratelimitd.decisions.plan import Plan
from ratelimitd.decisions.verdict import Code, Status
from ratelimitd.policy.model import Limit

# What a client is told to wait where nobody knows how long: the store is away.
UNKNOWN_WAIT_S = 1


def to_body(plan: Plan, statuses: tuple[Status, ...]) -> bytes:
    """Return the body of the refusal with the longest wait among those whose rule has one."""
    told: tuple[int, Limit] | None = None
    for descriptor, status in zip(plan.descriptors, statuses, strict=True):
        limit = descriptor.limit
        if status.code is Code.OK or limit is None or not limit.refusal_body:
            continue
        wait_s = status.reset_s or UNKNOWN_WAIT_S
        if told is None or wait_s > told[0]:
            told = wait_s, limit
    return b"" if told is None else _fill(told[1], told[0])


def _fill(limit: Limit, wait_s: int) -> bytes:
    values = {
        "{name}": limit.name,
        "{limit}": str(limit.requests_per_unit),
        "{retry_after}": str(wait_s),
    }
    text = limit.refusal_body
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text.encode("utf-8", "surrogatepass")
