"""A plan with all that its answers share, made once and used while its policy is in force.

Rules:
- `admit` answers the common reply, an admitted request with nothing over, without a verdict: the
  same bytes and the same counts as fold, encode_response and observe_verdict would make of it.
  Whatever is not common goes there.
- What does not depend on the values of a request is in its outline, which requests share; the plan
  itself is made when somebody asks for it.
- The rows of the metrics are looked up at the first answer, as a verdict would.
"""

from copy import copy
from typing import NamedTuple, Protocol

from ratelimitd.decisions.fold import unchecked_status, whole_seconds
from ratelimitd.decisions.near import near_part, near_threshold
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.plan import DescriptorPlan, Plan, Reply
from ratelimitd.decisions.subject import Subject
from ratelimitd.decisions.verdict import Code, RuleOutcome
from ratelimitd.policy.model import HeaderStyle
from ratelimitd.services.encode import OK_RESPONSE, encode_status, join_statuses, status_head
from ratelimitd.store.wire import pack_plan, with_cost
from ratelimitd.telemetry.counters import Telemetry
from ratelimitd.telemetry.series import RuleSeries

_ALLOWED = RuleOutcome.ALLOWED.value


class _Line(NamedTuple):
    """One limit of a descriptor: what its status begins with, and what its check is measured by.

    `check` is None for one that the store is not asked about; `head` is then the whole status.
    `is_last` ends a descriptor: of its limits the one with the least left is told.
    """

    check: int | None
    head: bytes
    amount: int
    cost: int
    near_from: int
    counts_denied: bool
    is_last: bool


class Outline:
    """What plans have in common that differ in their keys alone."""

    __slots__ = ("_is_common", "_lines", "_names", "_rows", "check_count", "domain", "shape")

    def __init__(self, plan: Plan, options: DecisionOptions) -> None:
        """Take the outline of `plan`."""
        self.domain = plan.request.domain
        self.shape = pack_plan(plan).shape
        self.check_count = len(plan.checks)
        self._lines = tuple(
            [line for one in plan.descriptors for line in _to_lines(plan, one, options)]
        )
        self._is_common = (
            plan.headers is HeaderStyle.NONE
            and not options.has_dynamic_metadata
            and not plan.unmatched
            and not plan.unknown_tiers
            and all(line.cost >= 0 for line in self._lines)
        )
        self._names = tuple(
            (check.limit.domain, check.metric_key, check.limit.rule) for check in plan.checks
        )
        self._rows: tuple[RuleSeries, ...] | None = None

    def at_cost(self, cost: int) -> "Outline":
        """Return the same for requests that cost `cost`, all limits of them alike."""
        other = copy(self)
        other.shape = with_cost(self.shape, cost)
        other._lines = tuple(  # noqa: SLF001 - one of our own kind
            [line if line.check is None else line._replace(cost=cost) for line in self._lines]
        )
        return other

    def admit(self, reply: Reply, telemetry: Telemetry) -> bytes | None:
        """Return the encoded answer to an admitted request, and count it; None if not common."""
        if reply.is_refused or not self._is_common:
            return None
        results = reply.results
        for result in results:
            # Over, or beside its own counter.
            if result[0] or result[6]:
                return None
        rows = self._rows or self._find_rows(telemetry)
        statuses: list[bytes] = []
        least, told, told_us = -1, b"", 0
        for check, head, amount, cost, near_from, counts_denied, is_last in self._lines:
            if check is None:
                statuses.append(head)
                continue
            _, before, after, final, reset_us, _, _ = results[check]
            remaining = max(0, amount - (after if counts_denied else final))
            row = rows[check]
            row.outcomes[_ALLOWED] += 1
            row.hits += cost
            row.within_hits += cost
            if after > near_from:
                near = near_part(before, after, cost, near_from)
                if near:
                    row.near += 1
                    row.near_hits += near
            if least < 0 or remaining < least:
                least, told, told_us = remaining, head, reset_us
            if is_last:
                statuses.append(encode_status(told, least, whole_seconds(told_us) or 1))
                least = -1
        return OK_RESPONSE + join_statuses(statuses)

    def _find_rows(self, telemetry: Telemetry) -> tuple[RuleSeries, ...]:
        """Return the row of each check, in order; kept unless the table had no room for one."""
        table = telemetry.rules
        overflowed = table.overflowed
        rows = tuple([table.row(*names) for names in self._names])
        if table.overflowed == overflowed:
            self._rows = rows
        return rows


class ReadyPlan(NamedTuple):
    """A plan as the store gets it, its outline, and the plan itself when it is asked for.

    `whole` is the plan where it was made; else `maker` makes it of `body`. Many are kept, so it
    holds nothing more that the garbage collector has to look at. `subjects` are the fields and
    records that it was made with, `missing` the fields among them that nobody knew.
    """

    outline: Outline
    shape: bytes
    keys: tuple[bytes, ...]
    body: bytes
    whole: Plan | None
    maker: "PlanMaker"
    slots: bytes = b""
    subjects: tuple[tuple[str, Subject | None], ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def check_count(self) -> int:
        """How many checks it has: a check may have several keys."""
        return self.outline.check_count

    @property
    def plan(self) -> Plan:
        """The plan itself."""
        return self.whole if self.whole is not None else self.maker.whole_plan(self)


class PlanMaker(Protocol):
    """Who planned a request, and can do so again."""

    def whole_plan(self, ready: ReadyPlan) -> Plan:
        """Return the plan of a request that was planned before."""
        ...

    def is_current(self, ready: ReadyPlan) -> bool:
        """Tell whether nobody says anything else of a plan's subjects than it was made with."""
        ...


def _to_lines(plan: Plan, one: DescriptorPlan, options: DecisionOptions) -> list[_Line]:
    if one.check is None:
        status = unchecked_status(one)
        encoded = encode_status(
            status_head(status.code, status.limit), status.remaining, status.reset_s
        )
        return [_Line(None, encoded, 0, 0, 0, counts_denied=False, is_last=True)]
    end = one.check + one.check_count
    lines = []
    for at in range(one.check, end):
        limit = plan.checks[at].limit
        lines.append(
            _Line(
                at,
                status_head(Code.OK, limit),
                limit.capacity,
                one.cost,
                near_threshold(limit.capacity, options.near_limit_ratio),
                limit.counts_denied,
                at == end - 1,
            )
        )
    return lines
