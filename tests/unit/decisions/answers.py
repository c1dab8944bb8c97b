"""Plans and statuses as a decision leaves them, for tests of what is told of it."""

from dataclasses import replace
from typing import Any

from ratelimitd.decisions.plan import DescriptorPlan, Outcome, Plan
from ratelimitd.decisions.verdict import Code, Status
from ratelimitd.policy.model import HeaderStyle, Limit
from tests.support.plans import check_of, limit_of, plan_of

SECOND_US = 1_000_000


def limit(number: int = 10, **fields: Any) -> Limit:
    """Return a limit per minute that uses keys of ours."""
    ours: dict[str, Any] = {"has_upstream_override": False, "has_problem_body": True}
    return replace(limit_of(number, counts_denied=False), **(ours | fields))


def plan(*limits: Limit, headers: HeaderStyle = HeaderStyle.IETF) -> Plan:
    """Return a plan with a descriptor for each limit."""
    return plan_of(*[check_of(one) for one in limits])._replace(headers=headers)


def joined_plan(*limits: Limit) -> Plan:
    """Return a plan with one descriptor for all limits."""
    whole = plan(*limits)
    first = whole.descriptors[0]._replace(check_count=len(limits))
    checks = [check._replace(is_joined=at > 0) for at, check in enumerate(whole.checks)]
    request = whole.request._replace(descriptors=whole.request.descriptors[:1])
    return whole._replace(request=request, descriptors=(first,), checks=tuple(checks))


def blocked_plan(headers: HeaderStyle = HeaderStyle.IETF) -> Plan:
    """Return the plan of a request whose only entry is blocked."""
    descriptor = DescriptorPlan(Outcome.BLOCKED, (("k", "v"),))
    return plan(limit(), headers=headers)._replace(
        descriptors=(descriptor,), checks=(), is_denied=True, is_blocked=True
    )


def admitted(of: Limit | None, remaining: int = 3, reset_us: int = 30 * SECOND_US) -> Status:
    """Return the status of a limit with so much left."""
    return Status(Code.OK, of, remaining, -(-reset_us // SECOND_US), 0, reset_us)


def refused(of: Limit | None, wait_us: int, reset_us: int = 30 * SECOND_US) -> Status:
    """Return the status of a limit that refuses for so long."""
    return Status(Code.OVER_LIMIT, of, 0, -(-reset_us // SECOND_US), wait_us, reset_us)
