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
from ratelimitd.decisions.verdict import Code, RuleOutcome
from ratelimitd.services.encode import OK_RESPONSE, encode_status, join_statuses, status_head
from ratelimitd.store.wire import pack_plan, with_cost
from ratelimitd.telemetry.counters import Telemetry
from ratelimitd.telemetry.series import RuleSeries

_ALLOWED = RuleOutcome.ALLOWED.value


class _Line(NamedTuple):
    """One descriptor: what its status begins with, and what its check is measured by.

    `check` is None for one that the store is not asked about; `head` is then the whole status.
    """

    check: int | None
    head: bytes
    amount: int
    cost: int
    near_from: int
    counts_denied: bool


class Outline:
    """What plans have in common that differ in their keys alone."""

    __slots__ = ("_is_common", "_lines", "_names", "_rows", "domain", "shape")

    def __init__(self, plan: Plan, options: DecisionOptions) -> None:
        """Take the outline of `plan`."""
        self.domain = plan.request.domain
        self.shape = pack_plan(plan).shape
        self._lines = tuple([_to_line(one, options) for one in plan.descriptors])
        self._is_common = (
            not options.has_limit_headers
            and not options.has_dynamic_metadata
            and not plan.unmatched
            and all(line.cost >= 0 for line in self._lines)
        )
        self._names = tuple(
            (one.limit.domain, one.metric_key, one.limit.rule)
            for one in plan.descriptors
            if one.check is not None and one.limit is not None
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
            if result[0]:
                return None
        rows = self._rows or self._find_rows(telemetry)
        statuses: list[bytes] = []
        for check, head, amount, cost, near_from, counts_denied in self._lines:
            if check is None:
                statuses.append(head)
                continue
            _, before, after, final, reset_us, _, _ = results[check]
            used = after if counts_denied else final
            statuses.append(encode_status(head, max(0, amount - used), whole_seconds(reset_us)))
            row = rows[check]
            row.outcomes[_ALLOWED] += 1
            row.hits += cost
            row.within_hits += cost
            if after > near_from:
                near = near_part(before, after, cost, near_from)
                if near:
                    row.near += 1
                    row.near_hits += near
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
    holds nothing more that the garbage collector has to look at.
    """

    outline: Outline
    shape: bytes
    keys: tuple[bytes, ...]
    body: bytes
    whole: Plan | None
    maker: "PlanMaker"

    @property
    def slots(self) -> bytes:
        """No check has a slot."""
        return b""

    @property
    def count(self) -> int:  # type: ignore[override]
        """How many checks there are."""
        return len(self.keys)

    @property
    def plan(self) -> Plan:
        """The plan itself."""
        return self.whole if self.whole is not None else self.maker.whole_plan(self.body)


class PlanMaker(Protocol):
    """Who planned a request, and can do so again."""

    def whole_plan(self, body: bytes) -> Plan:
        """Return the plan of an encoded request that was planned before."""
        ...


def _to_line(one: DescriptorPlan, options: DecisionOptions) -> _Line:
    if one.check is None or one.limit is None:
        status = unchecked_status(one)
        encoded = encode_status(
            status_head(status.code, status.limit), status.remaining, status.reset_s
        )
        return _Line(None, encoded, 0, 0, 0, counts_denied=False)
    limit = one.limit
    return _Line(
        one.check,
        status_head(Code.OK, limit),
        limit.requests_per_unit,
        one.cost,
        near_threshold(limit.requests_per_unit, options.near_limit_ratio),
        limit.counts_denied,
    )
